"""Segment files: append, read, sync, give space back.

Invariants:
  * One appender at a time (the caller's lock); appends run in a worker thread, so do syncs and reads.
  * Bytes after a segment's committed end mean nothing; a reopened store appends over them.
  * ``unsynced`` names every segment with bytes that no fdatasync has covered since they were written.
"""

from __future__ import annotations

import contextlib
import os
from collections import OrderedDict
from pathlib import Path
from typing import Final

from snapfs.errors import IOFailure, NoSpace, SnapfsError
from snapfs.format import segments as fmt
from snapfs.store.disk import Disk
from snapfs.types import PAGE_BYTES, SegmentId

SEGMENT_BYTES_MAX: Final = 256 * 1024 * 1024
"""A segment is closed when it passes this: small enough to drop or compact, few enough to open."""

OPEN_FILES_MAX: Final = 128
"""Segments open at a time, far below the usual limit of 1,024 descriptors."""


class _File:
    """A descriptor that closes when the last user (perhaps a worker thread) lets go of it."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)


class Segments:
    def __init__(
        self, path: Path, store_uuid: bytes, disk: Disk, *, newest: SegmentId, end: int,
        bytes_max: int = SEGMENT_BYTES_MAX,
    ) -> None:  # fmt: skip
        """``newest`` is the segment to append to at ``end`` (0: begin a new one), as the index knows them; one that
        has ``bytes_max`` is closed."""
        self._path = path
        self._uuid = store_uuid
        self._disk = disk
        self._files: OrderedDict[SegmentId, _File] = OrderedDict()
        on_disk = [int(entry.stem) for entry in path.glob("*.seg") if entry.stem.isdigit()]
        self._next = max([newest, *on_disk]) + 1
        self._bytes_max = bytes_max
        self._current = newest if end and end < bytes_max else SegmentId(0)
        self._end = end
        self.unsynced: set[SegmentId] = set()

    def file_path(self, segment: SegmentId) -> Path:
        return self._path / f"{segment:016d}.seg"

    def open(self, segment: SegmentId) -> _File:
        """Main thread only: the cache of open files has no lock."""
        file = self._files.get(segment)
        if file is None:
            file = _File(self._disk.open("segment.open", self.file_path(segment), os.O_RDWR))
            self._files[segment] = file
            while len(self._files) > OPEN_FILES_MAX:
                self._files.popitem(last=False)
        else:
            self._files.move_to_end(segment)
        return file

    def append(self, records: list[tuple[fmt.Head, bytes]]) -> list[tuple[SegmentId, int]]:
        """Append block records (head, stored bytes); returns (segment, offset) of each.

        Raises:
            NoSpace, IOFailure: nothing is lost; what was written is cut off, and overwritten by the next append.
        """
        ends = {self._current: self._end}
        try:
            return self._append(records, ends)
        except SnapfsError:
            self._give_up(ends)
            raise

    def _append(self, records: list[tuple[fmt.Head, bytes]], ends: dict[SegmentId, int]) -> list[tuple[SegmentId, int]]:
        """As ``append``.  ``ends`` gets where each segment that is begun ended before."""
        places: list[tuple[SegmentId, int]] = []
        index = 0
        while index < len(records):
            if not self._current or self._end >= self._bytes_max:
                self._begin()
                ends[self._current] = self._end
            parts: list[bytes] = []
            offset = self._end
            while index < len(records) and offset < self._bytes_max and len(parts) < _PARTS_MAX:
                head, stored = records[index]
                places.append((self._current, offset))
                size = fmt.record_bytes(head.stored_bytes)
                pad = b"\0" * (size - fmt.BLOCK_HEADER_BYTES - head.stored_bytes)
                parts += [fmt.encode_block_header(head, self._uuid, self._current, offset), stored, pad]
                offset += size
                index += 1
            fd = self._disk.open("segment.open", self.file_path(self._current), os.O_WRONLY)
            try:
                self._disk.pwrite("segment.append", fd, parts, self._end)
                self.unsynced.add(self._current)  # after: a sync under way may have missed the bytes
            finally:
                os.close(fd)
            self._end = offset
        return places

    def _give_up(self, ends: dict[SegmentId, int]) -> None:
        """What was written of an append that failed must neither take the space that a commit needs nor stay for ever
        between blocks."""
        for segment, end in ends.items():
            if segment:
                with contextlib.suppress(SnapfsError):
                    fd = self._disk.open("segment.open", self.file_path(segment), os.O_WRONLY)
                    try:
                        self._disk.truncate("segment.cut", fd, end)
                    finally:
                        os.close(fd)
        self._end = ends[self._current]

    def _begin(self) -> None:
        segment = SegmentId(self._next)
        path = self.file_path(segment)
        fd = self._disk.open("segment.create", path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            self._disk.pwrite("segment.header", fd, [fmt.encode_segment_header(self._uuid, segment)], 0)
            self.unsynced.add(segment)
        finally:
            os.close(fd)
        self._next += 1
        try:
            self._disk.sync_directory("segment.directory", self._path)
        except SnapfsError:
            # The kernel takes the name for written now, whatever became of it: it is never tried again.
            self.unsynced.discard(segment)
            with contextlib.suppress(SnapfsError):
                self._disk.unlink("segment.drop", path)
            raise
        self._current = segment
        self._end = fmt.SEGMENT_HEADER_BYTES

    def sync(self) -> None:
        """Make all appended bytes durable.  What is appended meanwhile stays ``unsynced``.

        Raises:
            IOFailure: bytes may be lost, whatever the disk said: the kernel drops what it could not write.
            NoSpace, Unavailable: a segment could not even be opened; nothing is lost.
        """
        for segment in sorted(self.unsynced):
            self.unsynced.discard(segment)
            try:
                fd = self._disk.open("segment.open", self.file_path(segment), os.O_WRONLY)
                try:
                    self._disk.sync("segment.sync", fd)
                except NoSpace as error:
                    raise IOFailure(error.message, hint=error.hint) from error
                finally:
                    os.close(fd)
            except BaseException:
                self.unsynced.add(segment)
                raise

    def erase(self, segment: SegmentId, offset: int) -> None:
        """Zero a record's header, so that whoever reads the segment finds no record there."""
        self._disk.pwrite("segment.erase", self.open(segment).fd, [bytes(fmt.BLOCK_HEADER_BYTES)], offset)
        self.unsynced.add(segment)

    def punch(self, segment: SegmentId, offset: int, length: int) -> None:
        """Free the whole pages inside the range."""
        first = -(-offset // PAGE_BYTES) * PAGE_BYTES
        last = (offset + length) // PAGE_BYTES * PAGE_BYTES
        if first < last:
            self._disk.punch("segment.punch", self.open(segment).fd, first, last - first)

    def cut(self, segment: SegmentId, end: int) -> None:
        """Give back what lies after the end of a segment that is not appended to any more."""
        self._disk.truncate("segment.cut", self.open(segment).fd, end)

    def drop(self, segment: SegmentId) -> None:
        """Remove a segment that holds no live block; never the one being appended to."""
        self._files.pop(segment, None)
        self.unsynced.discard(segment)
        self._disk.unlink("segment.drop", self.file_path(segment))

    @property
    def current(self) -> SegmentId:
        return self._current

    def disk_bytes(self) -> int:
        """What the segment files occupy on the host file system."""
        return sum(entry.stat().st_blocks * 512 for entry in self._path.glob("*.seg"))

    def close(self) -> None:
        self._files.clear()


_PARTS_MAX: Final = 900
"""Buffers in one pwritev: below Linux's IOV_MAX of 1,024."""
