"""Reading what is imported: bytes cut into chunks as a write through the mount would cut them, targets of links,
extended attributes.

Invariants:
  * A file counts as read when its inode, size, mtime and ctime were the same before and after; else it is read again,
    TRIES_MAX times in all.  What was read last is kept then, and told as changing.
  * Memory: SMALL_BYTES_MAX for a file that is read at once, WINDOW_BYTES and a chunk for a part of a larger one.

What is here runs in worker threads, several at once.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

import msgspec

from snapfs.types import NAME_BYTES_MAX, PATH_BYTES_MAX, XATTR_BYTES_MAX
from snapfs.volume.reduction.cutting import Chunk, cut
from snapfs.volume.transfer import acl
from snapfs.volume.transfer.walk import Changed, Handle, Item, Source

SMALL_BYTES_MAX: Final = 1024 * 1024
"""A file of at most so much is read at once."""

WINDOW_BYTES: Final = 4 * 1024 * 1024
TRIES_MAX: Final = 3

CHANGING: Final = "it changed while it was read"

_KEPT: Final = ("user.", "trusted.", "security.", "system.posix_acl_")
_STAT_BLOCK_BYTES: Final = 512

Xattrs = list[tuple[bytes, bytes]]


class Content(msgspec.Struct, gc=False):
    """Of a file that was read at once, a symbolic link, a fifo, a socket or a device."""

    item: Item
    stat: os.stat_result
    mode: int
    size: int = 0
    chunks: list[Chunk] = []
    xattrs: Xattrs = []
    target: bytes = b""
    """Of a symbolic link."""
    problem: str = ""
    """Why there is none, or what is wrong with it."""
    missing: bool = False
    """There is none."""
    growth: int = 0
    """Bytes that the chunks cover."""


def read_all(source: Source, items: list[Item]) -> list[Content]:
    return [_read(source, item) for item in items]


def _read(source: Source, item: Item) -> Content:
    for left in reversed(range(TRIES_MAX)):
        try:
            if stat.S_ISREG(item.stat.st_mode):
                return _read_file(source, item)
            return _read_other(source, item)
        except Changed:
            if not left:
                break
            try:
                item.stat = os.stat(item.name, dir_fd=source.open(item.directory).fd, follow_symlinks=False)
            except (OSError, Changed):
                break
            if stat.S_ISDIR(item.stat.st_mode) or item.stat.st_size > SMALL_BYTES_MAX:
                break
        except OSError as error:
            return _missing(item, error.strerror or str(error))
    return _missing(item, CHANGING)


def _missing(item: Item, problem: str) -> Content:
    return Content(item, item.stat, 0, problem=problem, missing=True)


def _read_file(source: Source, item: Item) -> Content:
    fd = source.open_file(item)
    try:
        before = item.stat
        for _ in range(TRIES_MAX):
            pieces = _pieces(fd, before)
            after = os.fstat(fd)
            problem = "" if same(before, after) else CHANGING
            if not problem:
                break
            if after.st_ino != before.st_ino or after.st_dev != before.st_dev or after.st_size > SMALL_BYTES_MAX:
                raise Changed
            before = after
        xattrs = _xattrs(fd)
    finally:
        os.close(fd)
    chunks = [chunk for offset, data in pieces for chunk in cut(offset, data, final=True)[0]]
    size = before.st_size
    if problem:
        size = max((offset + len(data) for offset, data in pieces), default=0)
    growth = sum([len(chunk.data) for chunk in chunks])
    return Content(item, before, mode_of(before, xattrs), size, chunks, xattrs, problem=problem, growth=growth)


def same(before: os.stat_result, after: os.stat_result) -> bool:
    return (
        before.st_mtime_ns == after.st_mtime_ns
        and before.st_ctime_ns == after.st_ctime_ns
        and before.st_size == after.st_size
        and before.st_ino == after.st_ino
        and before.st_dev == after.st_dev
    )


def _pieces(fd: int, found: os.stat_result) -> list[tuple[int, bytes]]:
    """(offset, bytes) of a small file's data."""
    if not found.st_size:
        return []
    if not is_sparse(found):
        data = _bytes_at(fd, found.st_size, 0)
        return [(0, data)] if data else []
    pieces = []
    at = 0
    while (run := data_after(fd, at, found.st_size)) is not None:
        start, at = run
        pieces.append((start, _bytes_at(fd, at - start, start)))
    return [piece for piece in pieces if piece[1]]


def _bytes_at(fd: int, size: int, at: int) -> bytes:
    """Less only at the end of the file."""
    data = os.pread(fd, size, at)
    while 0 < len(data) < size and (more := os.pread(fd, size - len(data), at + len(data))):
        data += more  # a file system may give less at a time
    return data


def is_sparse(found: os.stat_result) -> bool:
    return found.st_blocks * _STAT_BLOCK_BYTES < found.st_size


def data_after(fd: int, at: int, size: int) -> tuple[int, int] | None:
    """(start, end) of the next run of data from ``at`` on; None: there is none below ``size``."""
    try:
        start = os.lseek(fd, at, os.SEEK_DATA)
        if start >= size:
            return None
        return start, min(os.lseek(fd, start, os.SEEK_HOLE), size)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        if error.errno == errno.EINVAL:  # a file system without holes
            return (at, size) if at < size else None
        raise


def _read_other(source: Source, item: Item) -> Content:
    handle = source.open(item.directory)
    target = b""
    if stat.S_ISLNK(item.stat.st_mode):
        try:
            target = os.readlink(item.name, dir_fd=handle.fd)
        except OSError as error:
            if error.errno == errno.EINVAL:  # no symbolic link any more
                raise Changed from error
            raise
        if not 0 < len(target) < PATH_BYTES_MAX:
            return _missing(item, "its target is too long")
    xattrs = _xattrs(b"/proc/self/fd/%d/%s" % (handle.fd, item.name))
    after = os.stat(item.name, dir_fd=handle.fd, follow_symlinks=False)
    if (after.st_ino, after.st_dev, after.st_mode) != (item.stat.st_ino, item.stat.st_dev, item.stat.st_mode):
        raise Changed
    return Content(item, after, mode_of(after, xattrs), len(target), xattrs=xattrs, target=target)


def _xattrs(place: int | bytes) -> Xattrs:
    """Of a descriptor, or of a path whose last name is not followed."""
    follow = isinstance(place, int)
    try:
        names = os.listxattr(place, follow_symlinks=follow)
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.ENOENT, errno.ENOSYS, errno.EPERM):
            return []
        raise
    found: Xattrs = []
    for name in names:
        raw = os.fsencode(name)
        if name.startswith(_KEPT) and len(raw) <= NAME_BYTES_MAX:
            try:
                value = os.getxattr(place, name, follow_symlinks=follow)
            except OSError as error:
                if error.errno in (errno.ENODATA, errno.ENOTSUP):
                    continue
                raise
            if len(value) <= XATTR_BYTES_MAX:
                found.append((raw, value))
    return found


def directory_xattrs(handle: Handle) -> Xattrs:
    """Raises OSError."""
    return _xattrs(handle.fd)


def mode_of(found: os.stat_result, xattrs: Xattrs) -> int:
    """What the head's file gets."""
    for name, value in xattrs:
        if name == acl.ACCESS:
            return acl.narrowed(found.st_mode, value)
    return found.st_mode


class Stream:
    """A large file, read window by window."""

    def __init__(self, source: Source, item: Item) -> None:
        """Raises:
        OSError; Changed: it is another file.
        """
        self._fd = Handle(source.open_file(item))
        self.stat = os.fstat(self._fd.fd)
        if not stat.S_ISREG(self.stat.st_mode) or self.stat.st_ino != item.stat.st_ino:
            raise Changed
        self.xattrs = _xattrs(self._fd.fd)
        self.end = 0
        """Where what was read ends: of a file that has become shorter, less than its size."""
        self._sparse = is_sparse(self.stat)
        self._run: tuple[int, int] | None = (0, self.stat.st_size) if not self._sparse else self._next(0)
        self._at = self._run[0] if self._run else 0
        self._rest = b""
        """The unfinished last chunk before ``_at``."""

    def _next(self, at: int) -> tuple[int, int] | None:
        return data_after(self._fd.fd, at, self.stat.st_size)

    def window(self) -> list[Chunk] | None:
        """Chunks of the next part; None after the last.

        Raises:
            OSError.
        """
        if self._run is None:
            return None
        _, end = self._run
        start, lead = self._at - len(self._rest), len(self._rest)
        data = bytearray(lead + min(WINDOW_BYTES, end - self._at))
        data[:lead] = self._rest
        with memoryview(data) as view:
            count = os.preadv(self._fd.fd, [view[lead:]], self._at)
        del data[lead + count :]
        self._at += count
        ended = self._at >= end or not count  # it may have become shorter
        chunks, rest = cut(start, data, final=ended)
        self._rest = bytes(rest.data) if rest is not None else b""
        self.end = self._at
        if ended:
            self._run = self._next(end) if self._sparse and count else None
            self._at = self._run[0] if self._run else end
        return chunks

    def changed(self) -> bool:
        """Whether it is not any more what it was at the beginning."""
        return not same(self.stat, os.fstat(self._fd.fd))
