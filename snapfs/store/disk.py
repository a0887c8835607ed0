"""Every operation that snapfs asks of the disk, each call under a name.

A name (``segment.append``, ``segment.sync``...) says what the call is for, so that a test can replace ``Disk``
and fail, tear or count exactly that one.  Errors of the operating system become ours here.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from snapfs.errors import Corrupt, IOFailure, NoSpace, NotPermitted, SnapfsError, Unavailable
from snapfs.store.flights import Flight, Read, submit
from snapfs.types import PAGE_BYTES

DIRECT_BYTES_MIN: Final = 1024 * 1024
"""A write so large goes past the page cache.  What is read again soon the kernel has above us, as the file's pages; a
second copy of a stream costs more time than all else that is done with it, and puts other files out of memory."""

_STAGING_BYTES: Final = 4 * 1024 * 1024

_KEEP_SIZE: Final = 1
_PUNCH_HOLE: Final = 2
_AT_FDCWD: Final = -100
_CACHESTAT: Final = 451
"""System call of Linux 6.5, the same on all machines."""
_RENAME_EXCHANGE: Final = 2

_libc = ctypes.CDLL(None, use_errno=True)
_libc.renameat2.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
_libc.syscall.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint]
_libc.syscall.restype = ctypes.c_long
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def from_os(error: OSError, what: str) -> SnapfsError:
    """Our error for one of the operating system's."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(f"{what}: the disk is full", hint="free space on the store's file system")
    if error.errno in (errno.EACCES, errno.EPERM):
        return NotPermitted(f"{what}: permission denied", hint="do all files of the store belong to who uses it?")
    if error.errno in (errno.EMFILE, errno.ENFILE):  # nothing was tried, so nothing is lost
        return Unavailable(f"{what}: too many open files", hint="try again, or raise the limit: LimitNOFILE, ulimit -n")
    if error.errno == errno.ELOOP:
        return Corrupt(
            f"{what}: a symbolic link, or no file, is in the place of a file of the store", hint="who put it there?"
        )
    return IOFailure(f"{what}: {error.strerror or error}", hint="see the kernel's log for the disk's errors")


@contextmanager
def _named(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise from_os(error, what) from error


def open_file(path: Path, flags: int, mode: int = 0o600) -> int:
    """Open a file of a store: never through a symbolic link (whoever could plant one would have the store's owner write
    elsewhere), and nothing but a file (a pipe would be waited for, for ever).

    Raises:
        OSError: of these two, ELOOP.
    """
    fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, mode)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise OSError(errno.ELOOP, "not a file", os.fspath(path))


def open_to_read(path: Path) -> BinaryIO:
    """Raises as ``open_file``."""
    return os.fdopen(open_file(path, os.O_RDONLY), "rb")


def read_start(path: Path, size_max: int) -> bytes:
    """At most so many bytes from the beginning of a file.  Raises as ``open_file``."""
    with open_to_read(path) as file:
        return file.read(size_max)


Bytes = bytes | bytearray | memoryview


class Disk:
    """The real disk.  Thread-safe: it has no state."""

    def open(self, what: str, path: Path, flags: int, mode: int = 0o600) -> int:
        """As ``open_file``."""
        with _named(what):
            return open_file(path, flags, mode)

    def pwrite(self, what: str, fd: int, parts: Sequence[Bytes], offset: int) -> None:
        """Write all parts, one after the other, from offset on; past the page cache where they are large, and the host
        can do that."""
        with _named(what):
            total = sum(map(len, parts))
            if total >= DIRECT_BYTES_MIN and _write_direct(fd, parts, offset, total):
                return
            written = os.pwritev(fd, parts, offset)
            if written < total:
                _write_all(fd, memoryview(b"".join(parts))[written:], offset + written)

    def pread(self, what: str, fd: int, size: int, offset: int) -> bytes:
        """May be short at the end of the file."""
        with _named(what):
            return os.pread(fd, size, offset)

    def preadv(self, what: str, fd: int, buffers: Sequence[bytearray | memoryview], offset: int) -> int:
        """Fill the buffers, one after the other, from offset on; bytes read.  May be short at the end of the file."""
        with _named(what):
            return os.preadv(fd, buffers, offset)

    def preadv_cached(self, fd: int, buffers: Sequence[bytearray | memoryview], offset: int) -> int:
        """As ``preadv``, but short also where the page cache lacks some: never waits for the disk."""
        try:
            return os.preadv(fd, buffers, offset, os.RWF_NOWAIT)
        except OSError:
            return 0

    def is_cached(self, fd: int, offset: int, size: int) -> bool:
        """Whether the page cache has all of a range; false if the kernel does not tell."""
        pages = (offset + size - 1) // PAGE_BYTES - offset // PAGE_BYTES + 1
        return _cached_pages(fd, offset, size)[0] >= pages

    def is_clean(self, fd: int, offset: int, size: int) -> bool:
        """Whether a read past the page cache need not wait for pages of the range to be written; true if the kernel
        does not tell."""
        return not _cached_pages(fd, offset, size)[1]

    def pread_direct(self, what: str, fd: int, buffer: memoryview, offset: int) -> int:
        """Fill a buffer past the page cache; bytes read.  It begins at a page's beginning, and so does its place in the
        file.  Fewer at the end of the file, where the disk cannot read, and where the host cannot do it at all."""
        try:
            direct = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
        except OSError:
            return 0
        try:
            return os.preadv(direct, [buffer], offset)
        except OSError:
            return 0
        finally:
            os.close(direct)

    def submit_direct(self, what: str, reads: Sequence[Read]) -> Flight | None:
        """Send reads on their way past the page cache, of which each tells what came of it as ``pread_direct`` does.
        None: that cannot be done here."""
        return submit(reads)

    def read_direct(self, what: str, path: Path, size: int, offset: int) -> bytes:
        """Bytes of a file as the disk has them: past the page cache, where its file system can do that.  May be short
        at the end of the file."""
        first = offset // PAGE_BYTES * PAGE_BYTES
        span_bytes = -(-(offset + size) // PAGE_BYTES) * PAGE_BYTES - first
        with _named(what), mmap.mmap(-1, span_bytes) as buffer:  # at a page's beginning, as O_DIRECT wants it
            try:
                count = _fill(path, os.O_DIRECT, buffer, first)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                count = _fill(path, 0, buffer, first)
            return buffer[offset - first : min(count, offset - first + size)]

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

    def punch(self, what: str, fd: int, offset: int, length: int) -> bool:
        """Give the range back to the host file system.  False: it cannot punch, and keeps it (compaction's work)."""
        if _libc.fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, offset, length) == 0:
            return True
        code = ctypes.get_errno()
        if code in (errno.EOPNOTSUPP, errno.ENOSYS):
            return False
        raise from_os(OSError(code, os.strerror(code)), what)

    def unlink(self, what: str, path: Path) -> None:
        with _named(what):
            path.unlink(missing_ok=True)

    def rename(self, what: str, path: Path, new: Path) -> None:
        with _named(what):
            path.rename(new)

    def grow(self, what: str, path: Path, size: int) -> None:
        """Let a file that another library writes end at ``size``; sparse."""
        with _named(what):
            os.truncate(path, size)

    def allocate(self, what: str, path: Path, offset: int, length: int) -> None:
        """Have the host file system set blocks aside for a range of a file, whose bytes stay as they are.  One that
        cannot does nothing."""
        with _named(what):
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                failed = _libc.fallocate(fd, _KEEP_SIZE, offset, length) != 0
                code = ctypes.get_errno()
            finally:
                os.close(fd)
            if failed and code not in (errno.EOPNOTSUPP, errno.ENOSYS):
                raise OSError(code, os.strerror(code))

    def perform(self, what: str, action: Callable[[], None]) -> None:
        """What another library asks of the disk, as one operation: LMDB's commit.  Its own errors pass through."""
        action()

    def write_file(self, what: str, path: Path, data: bytes) -> None:
        """Durable all or nothing: written beside, synced, renamed.  Each step goes by a name of its own: ``what``
        with ``.create``, ``.write``, ``.sync``, ``.rename`` or ``.directory`` after it."""
        beside = path.with_name(path.name + ".new")
        fd = self.open(f"{what}.create", beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            self.pwrite(f"{what}.write", fd, [data], 0)
            self.sync(f"{what}.sync", fd)
        finally:
            os.close(fd)
        self.rename(f"{what}.rename", beside, path)
        self.sync_directory(f"{what}.directory", path.parent)

    def exchange(self, what: str, one: Path, other: Path) -> bool:
        """Two names change places in one step.  False: the host refused, and nothing has changed."""
        names = os.fsencode(one), os.fsencode(other)
        return bool(_libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0)

    def free_bytes(self, path: Path) -> tuple[int, int]:
        """(available to us, size) of the file system that holds path."""
        with _named("statvfs"):
            found = os.statvfs(path)
        return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize


def _cached_pages(fd: int, offset: int, size: int) -> tuple[int, int]:
    """(all, to be written or being written) that the page cache has of a range; none if the kernel does not tell."""
    span, found = (ctypes.c_uint64 * 2)(offset, size), (ctypes.c_uint64 * 5)()
    if _libc.syscall(_CACHESTAT, fd, span, found, 0) != 0:
        return 0, 0
    return found[0], found[1] + found[2]


def _write_direct(fd: int, parts: Sequence[Bytes], offset: int, total: int) -> bool:
    """Write whole pages of the file past the page cache, and what is before and after them through it.

    Returns:
        False if the host cannot do that; some of it may be written then.

    Raises:
        OSError.
    """
    head = -offset % PAGE_BYTES
    whole = (total - head) // PAGE_BYTES * PAGE_BYTES
    source = _Gather(parts)
    _write_all(fd, memoryview(source.take(head)), offset)
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    staging = _staging.pop() if _staging else memoryview(mmap.mmap(-1, _STAGING_BYTES))
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_DIRECT)
        for at in range(head, head + whole, _STAGING_BYTES):
            target = staging[: min(_STAGING_BYTES, head + whole - at)]
            source.fill(target)
            _write_all(fd, target, offset + at)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    finally:
        _staging.append(staging)
        fcntl.fcntl(fd, fcntl.F_SETFL, flags)
    _write_all(fd, memoryview(source.take(total - head - whole)), offset + head + whole)
    return True


_staging: Final[list[memoryview]] = []
"""Buffers that nobody uses now, at a page's beginning, as O_DIRECT wants it."""


class _Gather:
    """Parts as one sequence of bytes."""

    def __init__(self, parts: Sequence[Bytes]) -> None:
        self._parts = iter(parts)
        self._rest = memoryview(b"")

    def take(self, size: int) -> bytearray:
        taken = bytearray(size)
        self.fill(memoryview(taken))
        return taken

    def fill(self, target: memoryview) -> None:
        """The next bytes: as many as the target has."""
        at, rest = 0, self._rest
        while at < len(target):
            if not rest:
                rest = memoryview(next(self._parts))
            size = min(len(rest), len(target) - at)
            target[at : at + size] = rest[:size]
            at += size
            rest = rest[size:]
        self._rest = rest


def _write_all(fd: int, data: memoryview, offset: int) -> None:
    written = 0
    while written < len(data):
        written += os.pwrite(fd, data[written:], offset + written)


def _fill(path: Path, flags: int, buffer: mmap.mmap, offset: int) -> int:
    """Read from offset on until the buffer is full or the file ends; bytes read."""
    fd = open_file(path, os.O_RDONLY | flags)
    try:
        done = 0
        with memoryview(buffer) as view:
            while done < len(buffer):
                with view[done:] as rest:
                    count = os.preadv(fd, [rest], offset + done)
                done += count
                if count == 0 or count % PAGE_BYTES:  # the end of the file
                    break
        return done
    finally:
        os.close(fd)
