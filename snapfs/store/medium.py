"""Blocks as they lie on the disk: read past the page cache, each record checked to its last byte.

Invariants:
  * Nothing here touches the index or changes anything: it runs in worker threads.
  * What programs read stays in the page cache, and what a scrub reads does not come into it.
  * At most SPAN_BYTES_MAX and a record are in memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from snapfs.api import Finding
from snapfs.errors import Corrupt, SnapfsError
from snapfs.format import segments as fmt
from snapfs.format.records import Block
from snapfs.store.blocks import unpack
from snapfs.store.disk import Disk
from snapfs.store.segments import Segments
from snapfs.types import BlockId, SegmentId

SPAN_BYTES_MAX: Final = 1024 * 1024
"""Records that lie beside each other are read at once, up to this much."""

GAP_BYTES_MAX: Final = 64 * 1024
"""Bytes between two records that are read and dropped rather than skipped: about what a further request costs."""

Wanted = tuple[BlockId, Block]


class Medium:
    def __init__(self, segments: Segments, disk: Disk, store_uuid: bytes) -> None:
        self._segments = segments
        self._disk = disk
        self._uuid = store_uuid

    def check(self, wanted: Sequence[Wanted]) -> dict[BlockId, Finding]:
        """What is wrong with the records of these blocks."""
        found = {
            block: Finding(code="block-lost", message=f"block {block}: its bytes were lost before")
            for block, entry in wanted
            if entry.lost
        }
        for span in _spans([one for one in wanted if not one[1].lost]):
            first, last = span[0][1], span[-1][1]
            end = last.offset + fmt.record_bytes(last.stored_bytes)
            try:
                data = self._read(first.segment, end - first.offset, first.offset)
            except SnapfsError:  # of all of them only those that cannot be read themselves are damaged
                for block, entry in span:
                    self._check_alone(block, entry, found)
                continue
            for block, entry in span:
                start = entry.offset - first.offset
                record = data[start : start + fmt.record_bytes(entry.stored_bytes)]
                finding = self._check_record(block, entry, record)
                if finding is not None:
                    found[block] = finding
        return found

    def _check_alone(self, block: BlockId, entry: Block, found: dict[BlockId, Finding]) -> None:
        try:
            record = self._read(entry.segment, fmt.record_bytes(entry.stored_bytes), entry.offset)
        except SnapfsError as error:
            found[block] = Finding(code="block-read", message=f"{_place(block, entry)} cannot be read: {error.message}")
            return
        finding = self._check_record(block, entry, record)
        if finding is not None:
            found[block] = finding

    def _read(self, segment: SegmentId, size: int, offset: int) -> bytes:
        return self._disk.read_direct("segment.scrub", self._segments.file_path(segment), size, offset)

    def _check_record(self, block: BlockId, entry: Block, record: bytes) -> Finding | None:
        end = fmt.BLOCK_HEADER_BYTES + entry.stored_bytes
        try:
            head = fmt.decode_block_header(record[: fmt.BLOCK_HEADER_BYTES], self._uuid, entry.segment, entry.offset)
        except Corrupt:
            return Finding(code="block-header", message=f"{_place(block, entry)}: its header is damaged")
        known = fmt.Head(entry.stored_bytes, entry.raw_bytes, entry.codec, entry.kind, entry.hash)
        if head != known:
            return Finding(code="block-header", message=f"{_place(block, entry)}: its header is another block's")
        try:
            unpack(block, entry, record[fmt.BLOCK_HEADER_BYTES : end])
        except Corrupt as error:
            return Finding(code="block-hash", message=error.message)
        if any(record[end:]) or len(record) != fmt.record_bytes(entry.stored_bytes):
            return Finding(code="block-header", message=f"{_place(block, entry)}: its padding is damaged")
        return None

    def check_segment(self, segment: SegmentId) -> Finding | None:
        """The segment's own header."""
        try:
            header = self._read(segment, fmt.SEGMENT_HEADER_BYTES, 0)
            fmt.check_segment_header(header, self._uuid, segment)
        except SnapfsError as error:
            return Finding(code="segment", message=error.message)
        return None


def _place(block: BlockId, entry: Block) -> str:
    return f"block {block} (segment {entry.segment}, offset {entry.offset})"


def _spans(wanted: Sequence[Wanted]) -> Iterator[list[Wanted]]:
    """Blocks whose records are read at once, each list in the order of their place."""
    span: list[Wanted] = []
    end = 0
    for block, entry in sorted(wanted, key=lambda one: (one[1].segment, one[1].offset)):
        record_end = entry.offset + fmt.record_bytes(entry.stored_bytes)
        if span and (
            entry.segment != span[0][1].segment
            or entry.offset > end + GAP_BYTES_MAX
            or record_end - span[0][1].offset > SPAN_BYTES_MAX
        ):
            yield span
            span = []
        span.append((block, entry))
        end = record_end
    if span:
        yield span
