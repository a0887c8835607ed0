"""Reads segment files as they lie there, without an index: which block records are in them.

Invariants:
  * A record is told of only if its header's checksum fits store, segment and offset; so what lies inside a file's
    bytes is never taken for a record.
  * Of what is behind damage every record is found again: headers begin at multiples of 8, with a magic.
  * Nothing is changed.  Memory: one window.  A hole (space given back) is skipped, not read.
  * A record that was given back may still have its header: whoever needs the bytes looks at their hash.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from snapfs.errors import Corrupt
from snapfs.format import segments as fmt
from snapfs.format.records import Block
from snapfs.store.blocks import unpack
from snapfs.store.disk import Disk
from snapfs.types import BLOCK_BYTES_MAX, BlockId, SegmentId

WINDOW_BYTES: Final = 4 * 1024 * 1024
"""Read at a time while looking for the next record; far more than one takes."""
_HEADERS_BYTES: Final = 64 * 1024
"""Read at a time where records follow each other: they are small, or their bytes are skipped."""


class Found(msgspec.Struct, frozen=True, gc=False):
    """A record whose header is sound."""

    segment: SegmentId
    offset: int
    """Of its header."""
    head: fmt.Head

    @property
    def end(self) -> int:
        return self.offset + fmt.record_bytes(self.head.stored_bytes)

    def entry(self, refs: int = 0) -> Block:
        head = self.head
        return Block(
            self.segment, self.offset, head.stored_bytes, head.raw_bytes, head.codec, head.kind, head.hash, refs
        )  # fmt: skip


def segment_files(path: Path) -> list[SegmentId]:
    """Numbers of the segment files in a directory, ascending."""
    return sorted(SegmentId(int(file.stem)) for file in path.glob("*.seg") if file.stem.isdigit() and int(file.stem))


def segment_file(path: Path, segment: SegmentId) -> Path:
    return path / f"{segment:016d}.seg"


class SegmentScan:
    """One segment file, open for reading."""

    def __init__(self, path: Path, segment: SegmentId, store_uuid: bytes, disk: Disk) -> None:
        """Raises:
        IOFailure: it cannot be opened.
        """
        self.segment = segment
        self._uuid = store_uuid
        self._disk = disk
        self._fd = disk.open("segment.scan", segment_file(path, segment), os.O_RDONLY | os.O_NOFOLLOW)
        self.size = os.fstat(self._fd).st_size
        self.skipped_bytes = 0
        """Bytes that are neither records nor zero: damage, or what a crash left."""
        self._window = b""
        self._start = 0

    def close(self) -> None:
        os.close(self._fd)

    def __enter__(self) -> SegmentScan:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _read(self, offset: int, size: int, ahead: int) -> bytes:
        """Bytes from the window, which is moved on where needed; short at the end of the file."""
        place = offset - self._start
        if place < 0 or place + size > len(self._window):
            self._window = self._disk.pread("segment.scan", self._fd, max(size, ahead), offset)
            self._start, place = offset, 0
        return self._window[place : place + size]

    def header_sound(self) -> bool:
        """Whether the segment's own header is."""
        try:
            fmt.check_segment_header(self._read(0, fmt.SEGMENT_HEADER_BYTES, 4096), self._uuid, self.segment)
        except Corrupt:
            return False
        return True

    def records(self) -> Iterator[Found | None]:
        """Every record with a sound header, in order; None now and then between them.

        Raises:
            IOFailure: the disk refused to read.
        """
        offset = fmt.SEGMENT_HEADER_BYTES
        while offset + fmt.BLOCK_HEADER_BYTES <= self.size:
            found = self._at(offset)
            if found is not None:
                yield found
                offset = found.end
                continue
            yield None
            following = self._next(offset)
            offset = self.size if following is None else following

    def _at(self, offset: int) -> Found | None:
        data = self._read(offset, fmt.BLOCK_HEADER_BYTES, _HEADERS_BYTES)
        try:
            head = fmt.decode_block_header(data, self._uuid, self.segment, offset)
        except Corrupt:
            return None
        if max(head.stored_bytes, head.raw_bytes) > BLOCK_BYTES_MAX:
            return None
        if offset + fmt.BLOCK_HEADER_BYTES + head.stored_bytes > self.size:  # the file was truncated
            return None
        return Found(self.segment, offset, head)

    def _next(self, offset: int) -> int | None:
        """Where the next thing that looks like a header begins, at or behind the place after this one."""
        offset += fmt.ALIGN_BYTES
        while offset + fmt.BLOCK_HEADER_BYTES <= self.size:
            behind = self._data_from(offset)
            if behind is None:
                return None
            offset = max(offset, behind // fmt.ALIGN_BYTES * fmt.ALIGN_BYTES)
            data = self._read(offset, fmt.BLOCK_HEADER_BYTES, WINDOW_BYTES)
            if len(data) < fmt.BLOCK_HEADER_BYTES:
                return None
            place, limit = offset - self._start, len(self._window)
            found = self._window.find(fmt.BLOCK_MAGIC, place)
            while found >= 0 and (self._start + found) % fmt.ALIGN_BYTES:
                found = self._window.find(fmt.BLOCK_MAGIC, found + 1)
            end = found if found >= 0 else limit - limit % fmt.ALIGN_BYTES
            if end > place:
                part = self._window[place:end]
                self.skipped_bytes += len(part) - part.count(0)
            if found >= 0:
                return self._start + found
            offset = self._start + end
        return None

    def _data_from(self, offset: int) -> int | None:
        """Where data that is no hole begins, from the offset on; None: there is none."""
        try:
            return os.lseek(self._fd, offset, os.SEEK_DATA)
        except OSError as error:
            return None if error.errno == errno.ENXIO else offset

    def body(self, found: Found) -> bytes | None:
        """The record's raw bytes; None if they do not match its hash.

        Raises:
            IOFailure: the disk refused to read.
        """
        head = found.head
        offset = found.offset + fmt.BLOCK_HEADER_BYTES
        stored = self._disk.pread("segment.scan", self._fd, head.stored_bytes, offset)
        try:
            return unpack(BlockId(0), found.entry(), stored)
        except Corrupt:
            return None
