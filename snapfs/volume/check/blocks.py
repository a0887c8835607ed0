"""fsck of blocks: references, what finds and counts them, and every byte of every live record in the segments."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from snapfs.errors import Corrupt, Kind, SnapfsError
from snapfs.format import keys, records
from snapfs.format import segments as fmt
from snapfs.format.records import Block
from snapfs.format.seals import SealRecord
from snapfs.store.blocks import unpack
from snapfs.store.index import Reading
from snapfs.store.space import Space
from snapfs.types import BLOCK_BYTES_MAX, BlockId, SegmentId
from snapfs.volume.check.accounts import AccountChecks
from snapfs.volume.check.base import DECODERS, Findings, Place, decoded, sound
from snapfs.volume.check.tables import agrees, counter
from snapfs.volume.check.tree import Counts

TURN_BYTES: Final = 1024 * 1024
"""Read between two yields (a few ms from the page cache)."""

DAMAGED_MAX: Final = 100_000
"""Damaged blocks remembered, to find the files that show them."""


class SegmentFile:
    """One segment, open for reading at a time."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._number = -1
        self._fd = -1

    def fd(self, segment: SegmentId) -> int:
        """Raises:
        IOFailure: it cannot be opened.
        """
        if segment != self._number:
            self.close()
            path = self._place.path / f"{segment:016d}.seg"
            self._fd = self._place.disk.open("segment.open", path, os.O_RDONLY | os.O_NOFOLLOW)
            self._number = segment
        return self._fd

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = self._number = -1

    def read(self, segment: SegmentId, size: int, offset: int, what: str = "segment.read") -> bytes:
        return self._place.disk.pread(what, self.fd(segment), size, offset)


@contextmanager
def segment_file(place: Place) -> Iterator[SegmentFile]:
    file = SegmentFile(place)
    try:
        yield file
    finally:
        file.close()


class BlockChecks:
    """Checks of the block tables and of the segments.  Progress: ``done`` of ``total`` blocks."""

    def __init__(
        self, source: Reading, place: Place, findings: Findings, counts: Counts, accounts: AccountChecks
    ) -> None:
        self._source = source
        self._place = place
        self._findings = findings
        self._found = findings.add
        self._counts = counts
        self._accounts = accounts
        self.done = 0
        self.data_read_bytes = 0
        self.damaged: dict[BlockId, str] = {}
        """Blocks whose bytes cannot be had, and why."""

    def run(self, roots: dict[BlockId, SealRecord]) -> Iterator[None]:
        """``roots``: the seals by the block of their root."""
        source, bad = self._source, self._findings.record
        freed = {keys.from_u64(key, 8) for key, _ in decoded(source, "freed", bad, DECODERS["freed"])}
        live: Counter[SegmentId] = Counter()
        ends: Counter[SegmentId] = Counter()
        space = Space()
        block_max, turn = 0, 0
        for number in sorted(freed):
            if sound(source, "blocks", keys.u64(number), bool) is None:
                self._found("freed", f"block {number} waits to be reclaimed and is not there")
        with segment_file(self._place) as file:
            for key, entry in decoded(source, "blocks", bad, DECODERS["blocks"]):
                block = BlockId(keys.from_u64(key))
                self.done += 1
                self._references(block, entry, block in freed)
                self._accounts.block(block, entry)
                if not entry.lost:
                    self._place_of(block, entry)
                    size = fmt.record_bytes(entry.stored_bytes)
                    live[entry.segment] += size
                    ends[entry.segment] = max(ends[entry.segment], entry.offset + size)
                    space.count(entry)
                block_max = max(block_max, block)
                if entry.refs or self._counts[block]:
                    self._bytes(file, block, entry, roots.get(block))
                    turn += entry.stored_bytes + _ENTRY_COST_BYTES
                if turn > TURN_BYTES:
                    turn = 0
                    yield
            for block, count in self._counts.items():
                if sound(source, "blocks", keys.u64(block), records.decode_block) is None:
                    self._found("block-lost", f"block {block} is not in the index, but {count} records name it")
                    self._damage(block, "is not in the index")
            yield from self._segments(file, live, ends)
        self._space(space, block_max)
        yield from self._accounts.finish()
        yield from self._places()
        yield from self._dedup()

    def _damage(self, block: BlockId, why: str) -> None:
        if len(self.damaged) < DAMAGED_MAX:
            self.damaged[block] = why

    def _references(self, block: BlockId, entry: Block, freed: bool) -> None:
        counted = self._counts[block]
        if entry.refs != counted:
            self._found("refs", f"block {block} counts {entry.refs} references, has {counted}")
        if entry.refs == 0 and not freed:
            self._found("leak", f"block {block} has no references and does not wait to be reclaimed")
        if entry.refs and freed:
            self._found("freed", f"block {block} is referenced but waits to be reclaimed")

    def _place_of(self, block: BlockId, entry: Block) -> None:
        if sound(self._source, "places", place_key(entry), keys.from_u64) != block:
            self._found("place", f"block {block} is not found by its place")

    def _places(self) -> Iterator[None]:
        """No place leads elsewhere; segments that were emptied are there."""
        for number, (key, block) in enumerate(
            decoded(self._source, "places", self._findings.record, DECODERS["places"])
        ):
            found = sound(self._source, "blocks", keys.u64(block), records.decode_block)
            if found is None or found.lost or place_key(found) != key:
                self._found("place", f"the place of block {block} leads to no block that is there")
            if number % _DEDUP_TURN == 0:
                yield
        seen: set[int] = set()
        for key, _ in decoded(self._source, "emptied", self._findings.record, DECODERS["emptied"]):
            segment = keys.from_u64(key, 8)
            if sound(self._source, "segments", keys.u64(segment), bool) is None or segment in seen:
                self._found("emptied", f"segment {segment} counts as emptied, and is not there, or twice")
            seen.add(segment)

    def _bytes(self, file: SegmentFile, block: BlockId, entry: Block, seal: SealRecord | None) -> None:
        """Header, body and padding of a record."""
        if entry.lost:
            self._found("block-lost", f"block {block} is lost")
            self._damage(block, "is lost")
            return
        try:
            why = header_wrong(file, self._place, entry)
            if why:
                self._found("block-header", f"block {block}: {why}")
            raw = body(file, block, entry)
            if entry.kind == fmt.DATA and sound(self._source, "dedup", entry.hash, keys.from_u64) is None:
                self._found("dedup", f"block {block} is not found by its hash")
            if seal is not None and not agrees(seal, raw):
                self._found("seal", f"the seal of epoch {seal.epoch} and its root, block {block}, do not agree")
        except SnapfsError as error:
            message = error.message if error.kind is Kind.CORRUPT else f"block {block}: {error.message}"
            self._found("block-hash", message)
            self._damage(block, message)
        self.data_read_bytes += entry.stored_bytes

    def _segments(self, file: SegmentFile, live: Counter[SegmentId], ends: Counter[SegmentId]) -> Iterator[None]:
        """Headers and lengths of the files; what the index counts of each."""
        known: set[SegmentId] = set()
        for key, (end, counted) in decoded(self._source, "segments", self._findings.record, DECODERS["segments"]):
            segment = SegmentId(keys.from_u64(key))
            known.add(segment)
            if counted != live[segment]:
                self._found("space", f"segment {segment} counts {counted} live bytes, has {live[segment]}")
            if end < ends[segment]:
                self._found("space", f"segment {segment} ends at {end}, has blocks to {ends[segment]}")
            try:
                header = file.read(segment, fmt.SEGMENT_HEADER_BYTES, 0, "segment.check")
                fmt.check_segment_header(header, self._place.uuid, segment)
                size = os.fstat(file.fd(segment)).st_size
                if size < end:
                    self._found("segment", f"segment {segment} is truncated: {size} bytes of {end}")
            except SnapfsError as error:
                self._found("segment", f"segment {segment}: {error.message}")
            yield
        for segment in live.keys() - known:
            self._found("space", f"segment {segment} has blocks and is not counted")

    def _space(self, space: Space, block_max: int) -> None:
        for name, held in space.counters().items():
            counted = counter(self._source, name, 0)
            if counted != held:
                self._found("space", f"the store counts {counted} {name}, has {held}")
        if counter(self._source, "next_block", 1) <= block_max:
            self._found("counter", f"the next block would be one that is there ({block_max})")

    def _dedup(self) -> Iterator[None]:
        for number, (key, block) in enumerate(decoded(self._source, "dedup", self._findings.record, DECODERS["dedup"])):
            found = sound(self._source, "blocks", keys.u64(block), records.decode_block)
            if found is None or found.hash != key or found.kind != fmt.DATA:
                self._found("dedup", f"dedup names block {block}, which is not that block")
            elif not found.refs and not self._counts[block]:
                self._found("dedup", f"dedup names block {block}, which has no references")
            if number % _DEDUP_TURN == 0:
                yield


_ENTRY_COST_BYTES: Final = 32 * 1024
"""What looking at one block costs besides reading it, as bytes read."""
_DEDUP_TURN: Final = 200


def place_key(entry: Block) -> bytes:
    """In table ``places``."""
    return keys.u64(entry.segment) + keys.u64(entry.offset)


def header_wrong(file: SegmentFile, place: Place, entry: Block) -> str:
    """What is wrong with a record's header or padding; empty if nothing is.

    Raises:
        IOFailure: it cannot be read.
    """
    wanted = header_of(place, entry)
    if file.read(entry.segment, len(wanted), entry.offset) != wanted:
        return f"its header (segment {entry.segment}, offset {entry.offset}) is damaged"
    start, size = padding_of(entry)
    if size and file.read(entry.segment, size, start).strip(b"\0"):
        return f"bytes behind it (segment {entry.segment}, offset {start}) are not zero"
    return ""


def header_of(place: Place, entry: Block) -> bytes:
    """The header that a block's record must have."""
    head = fmt.Head(entry.stored_bytes, entry.raw_bytes, entry.codec, entry.kind, entry.hash)
    return fmt.encode_block_header(head, place.uuid, entry.segment, entry.offset)


def padding_of(entry: Block) -> tuple[int, int]:
    """(offset, bytes) of what fills a record up."""
    used = fmt.BLOCK_HEADER_BYTES + entry.stored_bytes
    return entry.offset + used, fmt.record_bytes(entry.stored_bytes) - used


def body(file: SegmentFile, block: BlockId, entry: Block) -> bytes:
    """A block's raw bytes.

    Raises:
        Corrupt: they do not match its hash.
        IOFailure: they cannot be read.
    """
    if entry.stored_bytes > BLOCK_BYTES_MAX or entry.raw_bytes > BLOCK_BYTES_MAX:
        raise Corrupt(f"block {block} is larger than any can be")
    stored = file.read(entry.segment, entry.stored_bytes, entry.offset + fmt.BLOCK_HEADER_BYTES)
    return unpack(block, entry, stored)
