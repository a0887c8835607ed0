"""Every operation that snapfs asks of the disk, each call under a name.

A name (``segment.append``, ``segment.sync``...) says what the call is for, so that a test can replace ``Disk``
and fail, tear or count exactly that one.  Errors of the operating system become ours here.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from snapfs.errors import IOFailure, NoSpace, SnapfsError

_KEEP_SIZE: Final = 1
_PUNCH_HOLE: Final = 2

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def from_os(error: OSError, what: str) -> SnapfsError:
    """Our error for one of the operating system's."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(f"{what}: the disk is full", hint="free space on the store's file system")
    return IOFailure(f"{what}: {error.strerror or error}", hint="see the kernel's log for the disk's errors")


@contextmanager
def _named(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise from_os(error, what) from error


class Disk:
    """The real disk.  Thread-safe: it has no state."""

    def open(self, what: str, path: Path, flags: int, mode: int = 0o600) -> int:
        with _named(what):
            return os.open(path, flags | os.O_CLOEXEC, mode)

    def pwrite(self, what: str, fd: int, parts: list[bytes], offset: int) -> None:
        """Write all parts, one after the other, from offset on."""
        with _named(what):
            total = sum(map(len, parts))
            written = os.pwritev(fd, parts, offset)
            if written < total:
                rest = memoryview(b"".join(parts))
                while written < total:
                    written += os.pwrite(fd, rest[written:], offset + written)

    def pread(self, what: str, fd: int, size: int, offset: int) -> bytes:
        """May be short at the end of the file."""
        with _named(what):
            return os.pread(fd, size, offset)

    def pread_cached(self, fd: int, size: int, offset: int) -> bytes | None:
        """The bytes if the page cache has all of them, else None; never waits for the disk."""
        buffer = bytearray(size)
        try:
            count = os.preadv(fd, [buffer], offset, os.RWF_NOWAIT)
        except OSError:
            return None
        return bytes(buffer) if count == size else None

    def sync(self, what: str, fd: int) -> None:
        with _named(what):
            os.fdatasync(fd)

    def sync_directory(self, what: str, path: Path) -> None:
        with _named(what):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def truncate(self, what: str, fd: int, size: int) -> None:
        with _named(what):
            os.ftruncate(fd, size)

    def punch(self, what: str, fd: int, offset: int, length: int) -> None:
        """Give the range back to the host file system; one that cannot punch keeps it (compaction's work)."""
        if _libc.fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, offset, length) != 0:
            code = ctypes.get_errno()
            if code not in (errno.EOPNOTSUPP, errno.ENOSYS):
                raise from_os(OSError(code, os.strerror(code)), what)

    def unlink(self, what: str, path: Path) -> None:
        with _named(what):
            path.unlink(missing_ok=True)

    def write_file(self, what: str, path: Path, data: bytes) -> None:
        """Durable all or nothing: written beside, synced, renamed."""
        beside = path.with_name(path.name + ".new")
        with _named(what):
            fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                rest = memoryview(data)
                while rest:  # a disk that fills takes a part first, and refuses the next
                    rest = rest[os.write(fd, rest) :]
                os.fsync(fd)
            finally:
                os.close(fd)
            beside.rename(path)
        self.sync_directory(what, path.parent)

    def free_bytes(self, path: Path) -> tuple[int, int]:
        """(available to us, size) of the file system that holds path."""
        with _named("statvfs"):
            stat = os.statvfs(path)
        return stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize
