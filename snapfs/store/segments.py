"""Segment files: append, read, sync, give space back.

Invariants:
  * One appender at a time (the caller's lock); appends run in a worker thread, so do syncs and reads.
  * Bytes after a segment's committed end mean nothing; a reopened store appends over them.
  * ``unsynced`` names every segment with bytes that no fdatasync has covered since they were written.
  * What ``take_noted`` gives and what is synced are together all that was written; so the two do not run at the same
    time (the caller's lock).
  * ``position`` is where the next append begins, or before: it moves on when an append is done.
"""

from __future__ import annotations

import contextlib
import os
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from snapfs.errors import IOFailure, NoSpace, SnapfsError
from snapfs.format import segments as fmt
from snapfs.store.disk import Bytes, Disk
from snapfs.types import PAGE_BYTES, SegmentId

SEGMENT_BYTES_MAX: Final = 256 * 1024 * 1024
"""A segment is closed when it passes this: small enough to drop or compact, few enough to open."""

NOTED_BYTES_MAX: Final = 64 * 1024
NOTED_MAX: Final = 64
"""Appends, and bytes of each, that are kept in memory until they are synced or in the redo log."""

Noted = tuple[int, int, bytes]
"""(segment, offset, bytes)."""

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
        self._position = self._where()
        self._group: dict[SegmentId, int] | None = None
        """Of appends that are one: where each of their segments ended before."""
        self.unsynced: set[SegmentId] = set()
        self._syncing: list[SegmentId] = []
        """By whichever thread: what was in them before is not durable yet."""
        self._noted: deque[Noted] = deque()
        """What was written since the last sync or ``take_noted``, by whichever thread; what was synced may be there."""
        self._all_noted = False
        """All of it that is not synced: it was little, and appended."""
        self._taken = False
        """Bytes were taken to be in the log, and not synced since."""
        self.can_punch = True
        """False once the host file system has said that it cannot."""

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

    def append(self, records: Sequence[tuple[fmt.Head, Bytes]]) -> list[tuple[SegmentId, int]]:
        """Append block records (head, stored bytes); returns (segment, offset) of each.

        Raises:
            NoSpace, IOFailure: nothing is lost; what was written is cut off, and overwritten by the next append.
        """
        ends = {} if self._group is None else self._group
        ends.setdefault(self._current, self._end)
        try:
            return self._append(records, ends)
        except SnapfsError:
            self._give_up(ends)
            ends.clear()
            raise
        finally:
            self._position = self._where()

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Appends inside are as one: if what goes on here fails, all of them are cut off.  None is under way at the
        end."""
        self._group = {}
        try:
            yield
        except BaseException:
            if self._group:
                self._give_up(self._group)
                self._position = self._where()
            raise
        finally:
            self._group = None

    def _where(self) -> tuple[SegmentId, int]:
        return (self._current, self._end) if self._current else (SegmentId(self._next), 0)

    @property
    def position(self) -> tuple[SegmentId, int]:
        """(segment, offset) that no byte lies behind but those of appends under way."""
        return self._position

    def begin_next(self) -> None:
        """The next append begins a new segment.  As an append: one at a time."""
        self._current = SegmentId(0)
        self._position = self._where()

    def _append(
        self, records: Sequence[tuple[fmt.Head, Bytes]], ends: dict[SegmentId, int]
    ) -> list[tuple[SegmentId, int]]:
        """As ``append``.  ``ends`` gets where each segment that is begun ended before."""
        places: list[tuple[SegmentId, int]] = []
        index = 0
        while index < len(records):
            if not self._current or self._end >= self._bytes_max:
                self._begin()
                ends[self._current] = self._end
            parts: list[Bytes] = []
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
                self._note(self._current, self._end, parts)
            finally:
                os.close(fd)
            self._end = offset
        return places

    def _note(self, segment: SegmentId, offset: int, parts: Sequence[Bytes]) -> None:
        """Bytes were written."""
        if sum(map(len, parts)) <= NOTED_BYTES_MAX and len(self._noted) < NOTED_MAX:
            self._noted.append((segment, offset, b"".join(parts)))
        else:
            self._all_noted = False

    def take_noted(self) -> list[Noted] | None:
        """What was written since the last sync or call; None: that is not all noted, so it has to be synced.  It is the
        caller's to make durable, or to ``forget_noted``."""
        if not self._all_noted:
            return None
        taken = [self._noted.popleft() for _ in range(len(self._noted))]
        self._taken = self._taken or bool(taken)
        return taken

    def forget_noted(self) -> None:
        """What was taken is not durable."""
        self._all_noted = False

    def end_records(self) -> None:
        """No record counts any more that was made before: what was taken for one, and is not synced, is forgotten."""
        if self._taken:
            self.forget_noted()

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
            self._all_noted = False
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
        self._noted.clear()  # first: what is written from here on may be missed
        self._all_noted, self._taken = True, False
        for segment in sorted(self.unsynced.union(self._syncing)):
            self._syncing.append(segment)  # first: who looks meanwhile finds it here or there
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
                self._all_noted = False
                raise
            finally:
                self._syncing.remove(segment)

    @property
    def is_behind(self) -> bool:
        """Whether bytes that were written are not durable, also if a sync is under way."""
        return bool(self._syncing or self.unsynced)

    def give_back(self, segment: SegmentId, erased: Sequence[int], ranges: Sequence[tuple[int, int]]) -> None:
        """Zero the headers of records at these offsets, so that whoever reads the segment finds none there; then punch
        the ranges (first byte, end), whole pages.  Worker thread.

        Raises:
            IOFailure, NoSpace: the disk refused; it can be done again.
        """
        fd = self._disk.open("segment.open", self.file_path(segment), os.O_WRONLY)
        try:
            for offset in erased:
                self._disk.pwrite("segment.erase", fd, [bytes(fmt.BLOCK_HEADER_BYTES)], offset)
                self.unsynced.add(segment)
                self._all_noted = False
            for start, end in ranges:
                if not self.can_punch:
                    return
                self.can_punch = self._disk.punch("segment.punch", fd, start, end - start)
        finally:
            os.close(fd)

    def wipe(self, segment: SegmentId, gaps: Sequence[tuple[int, int]]) -> None:
        """Make zeros of ranges (first byte, end) that hold nothing, also where they are less than a page.  As
        ``give_back``."""
        fd = self._disk.open("segment.open", self.file_path(segment), os.O_WRONLY)
        try:
            for start, end in gaps:
                self._disk.pwrite("segment.erase", fd, [bytes(end - start)], start)
                self.unsynced.add(segment)
                self._all_noted = False
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def reading(self, segment: SegmentId) -> Iterator[int]:
        """A descriptor, for a worker thread."""
        fd = self._disk.open("segment.open", self.file_path(segment), os.O_RDONLY)
        try:
            yield fd
        finally:
            os.close(fd)

    def occupied_bytes(self, segment: SegmentId, end: int) -> int:
        """What a segment that ends there occupies on the host; what the host sets aside beyond its end does not
        count.  0 if it cannot be looked at."""
        try:
            found = self.file_path(segment).stat().st_blocks * 512
        except OSError:
            return 0
        return min(found, -(-end // PAGE_BYTES) * PAGE_BYTES)

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
        found = 0
        for entry in self._path.glob("*.seg"):
            with contextlib.suppress(FileNotFoundError):  # it was just dropped
                found += entry.stat().st_blocks * 512
        return found

    def close(self) -> None:
        self._files.clear()


_PARTS_MAX: Final = 900
"""Buffers in one pwritev: below Linux's IOV_MAX of 1,024."""
