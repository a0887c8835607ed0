"""Walking a directory of the host that is to be imported.

Invariants:
  * Below the source no symbolic link is ever followed and no ``..`` used: everything is opened by a name in a directory
    that is open, with O_NOFOLLOW.
  * A directory is what was listed: if another one has come into its place, it is not entered.
  * At most OPEN_MAX directories are open, and one more for each that is being listed: others are opened again from the
    source down.

What is here runs in worker threads.
"""

from __future__ import annotations

import errno
import os
import threading
from collections import OrderedDict
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from snapfs.errors import NotADirectory, NotFound, NotPermitted, SnapfsError, Unavailable
from snapfs.types import Epoch, Ino

OPEN_MAX: Final = 64

SLICE_MAX: Final = 2048
"""Entries of a directory that are looked at together: memory does not grow with the directory."""

_DIRECTORY_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
"""Should a fifo or a terminal have come into a file's place, opening it must not wait or take it."""


class Directory:
    """A directory of the source, and the one in the head that it becomes."""

    __slots__ = ("__weakref__", "device", "fresh", "ino", "name", "number", "parent")

    def __init__(self, parent: Directory | None, name: bytes, found: os.stat_result, ino: Ino, fresh: Epoch) -> None:
        self.parent = parent
        self.name = name
        self.device = found.st_dev
        self.number = found.st_ino
        self.ino = ino
        """In the head."""
        self.fresh = fresh
        """Epoch of the head in which the import has made it: in that epoch nothing older shows through in it."""

    def path(self, name: bytes = b"") -> str:
        """Of itself or an entry, from the source on."""
        names = [name] if name else []
        directory: Directory | None = self
        while directory is not None and directory.parent is not None:
            names.append(directory.name)
            directory = directory.parent
        return os.fsdecode(b"/".join(reversed(names)))


class Entry(NamedTuple):
    name: bytes
    stat: os.stat_result


class Item(msgspec.Struct, gc=False):
    """Something to read: anything but a directory."""

    directory: Directory
    name: bytes
    stat: os.stat_result
    key: tuple[int, int] | None = None
    """(device, inode number) of a file that had several names when it was met."""

    @property
    def path(self) -> str:
        return self.directory.path(self.name)


class Changed(Exception):
    """Something is not what it was a moment ago."""


class Handle:
    """A descriptor that closes when its last user lets go of it."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def close(self) -> None:
        """Whoever uses it still gets EBADF."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    __del__ = close


class Listing:
    """A directory that is being listed, slice by slice."""

    def __init__(self, directory: Directory, handle: Handle) -> None:
        self.directory = directory
        self.handle = handle
        self.stat = os.fstat(handle.fd)
        self._entries = os.scandir(handle.fd)

    def __del__(self) -> None:
        self._entries.close()

    def some(self) -> tuple[list[Entry], list[tuple[bytes, OSError]], bool]:
        """(entries, by inode number: about as they lie on the disk; what could not be looked at; whether that was all).

        Raises:
            OSError.
        """
        found: list[Entry] = []
        failed: list[tuple[bytes, OSError]] = []
        count = 0
        for entry in islice(self._entries, SLICE_MAX):
            count += 1
            name = os.fsencode(entry.name)
            try:
                found.append(Entry(name, entry.stat(follow_symlinks=False)))
            except FileNotFoundError:  # removed since
                continue
            except OSError as error:
                failed.append((name, error))
        found.sort(key=_number)
        return found, failed, count < SLICE_MAX


def _number(entry: Entry) -> int:
    return entry.stat.st_ino


class Source:
    """The directory that is imported."""

    def __init__(self, path: Path) -> None:
        """Raises:
        NotFound, NotADirectory, NotPermitted, Unavailable: it cannot be opened.
        """
        try:
            handle = Handle(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            self.stat = os.fstat(handle.fd)
        except OSError as error:
            raise _told(path, error) from error
        self._root = handle
        self._lock = threading.Lock()
        self._open: OrderedDict[Directory, Handle] = OrderedDict()

    def close(self) -> None:
        """Hold nothing of it open any more, so that it can be unmounted; when no thread reads it."""
        with self._lock:
            for handle in (*self._open.values(), self._root):
                handle.close()
            self._open.clear()

    def directory(self, ino: Ino) -> Directory:
        """Its root, which becomes that inode of the head."""
        return Directory(None, b"", self.stat, ino, Epoch(0))

    def open(self, directory: Directory) -> Handle:
        """Open a directory, from the nearest one above that is open.

        Raises:
            OSError; Changed: something else is in its place.
        """
        below: list[Directory] = []
        with self._lock:
            at = directory
            while (handle := self._known(at)) is None:
                below.append(at)
                assert at.parent is not None
                at = at.parent
        while below:
            at = below.pop()
            handle = Handle(os.open(at.name, _DIRECTORY_FLAGS, dir_fd=handle.fd))
            found = os.fstat(handle.fd)
            if (found.st_dev, found.st_ino) != (at.device, at.number):
                raise Changed
            with self._lock:
                self._open[at] = handle
                while len(self._open) > OPEN_MAX:
                    self._open.popitem(last=False)
        return handle

    def _known(self, directory: Directory) -> Handle | None:
        if directory.parent is None:
            return self._root
        handle = self._open.get(directory)
        if handle is not None:
            self._open.move_to_end(directory)
        return handle

    def list(self, directory: Directory) -> Listing:
        """Raises OSError, Changed."""
        return Listing(directory, self.open(directory))

    def open_file(self, item: Item) -> int:
        """Descriptor of a regular file, which the caller closes.

        Raises:
            OSError; Changed: it is no regular file any more.
        """
        try:
            return os.open(item.name, _FILE_FLAGS, dir_fd=self.open(item.directory).fd)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):  # a symbolic link, a socket
                raise Changed from error
            raise


def _told(path: Path, error: OSError) -> SnapfsError:
    kinds: dict[int, type[SnapfsError]] = {
        errno.ENOENT: NotFound, errno.ENOTDIR: NotADirectory, errno.EACCES: NotPermitted, errno.EPERM: NotPermitted,
    }  # fmt: skip
    kind = kinds.get(error.errno or 0, Unavailable)
    hint = "what is imported is a directory" if kind is NotADirectory else ""
    return kind(f"{os.fspath(path)!a}: {error.strerror}", hint=hint)
