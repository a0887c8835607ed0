"""A disk that fails exactly the operations that a test names."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from snapfs.store.disk import Bytes, Disk, from_os
from snapfs.store.flights import Flight, Read


class FaultyDisk(Disk):
    """``failing`` maps the name of an operation to the errno that it fails with; ``calls`` counts them all."""

    def __init__(self) -> None:
        self.failing: dict[str, int] = {}
        self.torn: set[str] = set()
        """Operations that write half of the bytes before they fail."""
        self.calls: Counter[str] = Counter()
        self.free = 0
        """If not 0: the free bytes that the file system claims to have."""

    def _called(self, what: str) -> None:
        self.calls[what] += 1
        code = self.failing.get(what)
        if code is not None:
            raise from_os(OSError(code, os.strerror(code)), what)

    def open(self, what: str, path: Path, flags: int, mode: int = 0o600) -> int:
        self._called(what)
        return super().open(what, path, flags, mode)

    def pwrite(self, what: str, fd: int, parts: Sequence[Bytes], offset: int) -> None:
        if what in self.torn:
            whole = b"".join(parts)
            super().pwrite(what, fd, [whole[: len(whole) // 2]], offset)
        self._called(what)
        super().pwrite(what, fd, parts, offset)

    def pread(self, what: str, fd: int, size: int, offset: int) -> bytes:
        self._called(what)
        return super().pread(what, fd, size, offset)

    def preadv(self, what: str, fd: int, buffers: Sequence[bytearray | memoryview], offset: int) -> int:
        self._called(what)
        return super().preadv(what, fd, buffers, offset)

    def preadv_cached(self, fd: int, buffers: Sequence[bytearray | memoryview], offset: int) -> int:
        return 0 if self.failing else super().preadv_cached(fd, buffers, offset)

    def pread_direct(self, what: str, fd: int, buffer: memoryview, offset: int) -> int:
        if self.failing:
            return 0
        self.calls[what] += 1
        return super().pread_direct(what, fd, buffer, offset)

    def submit_direct(self, what: str, reads: Sequence[Read]) -> Flight | None:
        if self.failing:
            return None
        flight = super().submit_direct(what, reads)
        self.calls[what] += len(reads) if flight is not None else 0
        return flight

    def read_direct(self, what: str, path: Path, size: int, offset: int) -> bytes:
        self._called(what)
        return super().read_direct(what, path, size, offset)

    def sync(self, what: str, fd: int) -> None:
        self._called(what)
        super().sync(what, fd)

    def sync_directory(self, what: str, path: Path) -> None:
        self._called(what)
        super().sync_directory(what, path)

    def rename(self, what: str, path: Path, new: Path) -> None:
        self._called(what)
        super().rename(what, path, new)

    def exchange(self, what: str, one: Path, other: Path) -> bool:
        self._called(what)
        return super().exchange(what, one, other)

    def grow(self, what: str, path: Path, size: int) -> None:
        self._called(what)
        super().grow(what, path, size)

    def allocate(self, what: str, path: Path, offset: int, length: int) -> None:
        self._called(what)
        super().allocate(what, path, offset, length)

    def perform(self, what: str, action: Callable[[], None]) -> None:
        self._called(what)
        super().perform(what, action)

    def punch(self, what: str, fd: int, offset: int, length: int) -> bool:
        self._called(what)
        return super().punch(what, fd, offset, length)

    def unlink(self, what: str, path: Path) -> None:
        self._called(what)
        super().unlink(what, path)

    def free_bytes(self, path: Path) -> tuple[int, int]:
        free, total = super().free_bytes(path)
        return (min(self.free, free), total) if self.free else (free, total)


FULL = errno.ENOSPC
BROKEN = errno.EIO
