"""A directory and the system calls of a program in it, with what each answers: so that two file systems can be asked
the same and compared.

Invariants:
  * An answer says nothing that may differ between two correct file systems: no descriptor, inode number, time of day,
    order of a directory; what is compared is told by ``look``.
  * A call acts with the user and group it is given (fsuid, as an NFS server does) and as root again afterwards.
  * No call can block for ever: opens of fifos and locks do not wait.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import itertools
import mmap
import os
import stat
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from snapfs.testing.mount_subject import rename_with_flags

SLOTS: Final = 4
"""Descriptors and maps that a directory's program has at most, each."""
_FLOCK: Final = struct.Struct("hhqqixxxx")
_F_OFD_GETLK: Final = 36
_F_OFD_SETLK: Final = 37
_KEPT_STEPS_MAX: Final = 64

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class User:
    uid: int
    gid: int


ROOT: Final = User(0, 0)


@contextlib.contextmanager
def acting(user: User) -> Iterator[None]:
    """This thread's file accesses are the user's; only root can do so."""
    if user != ROOT:
        _libc.setfsgid(user.gid)
        _libc.setfsuid(user.uid)
    try:
        yield
    finally:
        if user != ROOT:
            _libc.setfsuid(0)
            _libc.setfsgid(0)


@dataclass(frozen=True, slots=True)
class Look:
    """What can be seen of one object.

    Attributes:
        nlink: 0 of a directory where the file system does not count them.
        size: of a file or link; 0 of others.
        content: a file's bytes or a link's target.
        mtime_ns: 0 if it is of the time of the test.
        links: paths of the same object.
    """

    mode: int
    nlink: int
    uid: int
    gid: int
    size: int
    content: bytes
    mtime_ns: int
    xattrs: tuple[tuple[str, bytes], ...]
    links: tuple[bytes, ...]


class Calls:
    """A program's view of one directory: paths in it, open files, maps.

    Args:
        root: the directory.
        xattrs: whether its file system has extended attributes.
        since_ns: times from here on are "now".
    """

    def __init__(self, root: bytes, *, xattrs: bool, since_ns: int) -> None:
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        self._xattrs = xattrs
        self._since_ns = since_ns
        self._files: dict[int, int] = {}
        self._maps: dict[int, tuple[mmap.mmap, int]] = {}
        """With a descriptor of the file of its own."""
        os.mkdir(self.path(b"counted"))
        self._counts_directories = os.fstat(self._root).st_nlink == 3
        os.rmdir(self.path(b"counted"))

    def close(self) -> None:
        for number in list(self._maps):
            self.unmap(number)
        for number in list(self._files):
            self.close_file(number)
        os.close(self._root)

    def path(self, name: bytes) -> bytes:
        """Reaches the object for every user, whoever may pass the directories above."""
        return b"/proc/self/fd/%d/%s" % (self._root, name)

    def ask(self, user: User, call: str, *arguments: Any) -> object:
        """The answer, or the errno's name."""
        function: Callable[..., object] = getattr(self, call)
        try:
            with acting(user):
                return function(*arguments)
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        except _NotOpen:
            return "not open"

    # -- names

    def mkdir(self, name: bytes, mode: int) -> None:
        os.mkdir(self.path(name), mode)

    def mkfifo(self, name: bytes, mode: int) -> None:
        os.mkfifo(self.path(name), mode)

    def rmdir(self, name: bytes) -> None:
        os.rmdir(self.path(name))

    def unlink(self, name: bytes) -> None:
        os.unlink(self.path(name))

    def symlink(self, target: bytes, name: bytes) -> None:
        os.symlink(target, self.path(name))

    def readlink(self, name: bytes) -> bytes:
        return os.readlink(self.path(name))

    def link(self, name: bytes, new: bytes, follow: bool) -> None:
        os.link(self.path(name), self.path(new), follow_symlinks=follow)

    def rename(self, name: bytes, new: bytes, flags: int) -> None:
        rename_with_flags(self.path(name), self.path(new), flags)

    def entries(self, name: bytes) -> list[bytes]:
        return sorted(os.listdir(self.path(name)))

    def list_while(self, name: bytes, calls: list[tuple[User, str, tuple[Any, ...]]]) -> object:
        """List a directory with calls in between: names that none of them is about are seen once."""
        touched = {part.split(b"/")[-1] for call in calls for part in call[2] if isinstance(part, bytes)}
        before = set(os.listdir(self.path(name))) - touched
        seen: list[bytes] = []
        answers: list[object] = []
        with os.scandir(self.path(name)) as entries:
            for user, call, arguments in calls:
                seen += [entry.name for entry in itertools.islice(entries, 1)]
                answers.append(self.ask(user, call, *arguments))
            seen += [entry.name for entry in entries]
        assert sorted(set(seen) - touched) == sorted(before)
        assert all(seen.count(found) == 1 for found in before)
        return answers

    # -- attributes

    def access(self, name: bytes, mode: int) -> bool:
        return os.access(self.path(name), mode, effective_ids=False)

    def stat(self, name: bytes) -> object:
        return self._seen(os.stat(self.path(name)))

    def chmod(self, name: bytes, mode: int) -> None:
        os.chmod(self.path(name), mode)

    def chown(self, name: bytes, uid: int, gid: int, follow: bool) -> None:
        os.chown(self.path(name), uid, gid, follow_symlinks=follow)

    def utime(self, name: bytes, times_ns: tuple[int, int] | None, follow: bool) -> object:
        """The times as they are then; of "now" only that they are."""
        os.utime(self.path(name), ns=times_ns, follow_symlinks=follow) if times_ns else os.utime(self.path(name))
        status = os.stat(self.path(name), follow_symlinks=follow and times_ns is not None)
        return times_ns and (status.st_atime_ns, status.st_mtime_ns)

    def setxattr(self, name: bytes, attribute: bytes, value: bytes, flags: int, follow: bool) -> None:
        os.setxattr(self.path(name), attribute, value, flags, follow_symlinks=follow)

    def getxattr(self, name: bytes, attribute: bytes, follow: bool) -> bytes:
        return os.getxattr(self.path(name), attribute, follow_symlinks=follow)

    def removexattr(self, name: bytes, attribute: bytes, follow: bool) -> None:
        os.removexattr(self.path(name), attribute, follow_symlinks=follow)

    def truncate(self, name: bytes, size: int) -> None:
        file = os.lstat(self.path(name))
        if stat.S_ISFIFO(file.st_mode):  # truncate(2) of a fifo: EINVAL everywhere, but after a permission check
            return
        os.truncate(self.path(name), size)

    # -- open files

    def open(self, number: int, name: bytes, flags: int, mode: int) -> object:
        file = os.open(self.path(name), flags | os.O_NONBLOCK | os.O_CLOEXEC, mode)
        self.close_file(number)
        self._files[number] = file
        return self._seen(os.fstat(file))

    def duplicate(self, number: int, to: int) -> None:
        file = os.dup(self._file(number))
        self.close_file(to)
        self._files[to] = file

    def close_file(self, number: int) -> None:
        file = self._files.pop(number, None)
        if file is not None:
            os.close(file)

    def _file(self, number: int) -> int:
        if number not in self._files:
            raise _NotOpen
        return self._files[number]

    def fstat(self, number: int) -> object:
        return self._seen(os.fstat(self._file(number)))

    def seek(self, number: int, offset: int, whence: int) -> int:
        return os.lseek(self._file(number), offset, whence)

    def read(self, number: int, size: int) -> bytes:
        return os.read(self._file(number), size)

    def pread(self, number: int, size: int, offset: int) -> bytes:
        return os.pread(self._file(number), size, offset)

    def write(self, number: int, data: bytes) -> int:
        return os.write(self._file(number), data)

    def pwrite(self, number: int, data: bytes, offset: int) -> int:
        return os.pwrite(self._file(number), data, offset)

    def ftruncate(self, number: int, size: int) -> None:
        os.ftruncate(self._file(number), size)

    def fsync(self, number: int, data_only: bool) -> None:
        (os.fdatasync if data_only else os.fsync)(self._file(number))

    def fchmod(self, number: int, mode: int) -> None:
        os.fchmod(self._file(number), mode)

    def fchown(self, number: int, uid: int, gid: int) -> None:
        os.fchown(self._file(number), uid, gid)

    def allocate(self, number: int, beyond: int, length: int) -> object:
        """posix_fallocate(3) from the end of the file: where the file system cannot, the C library does it with writes,
        for which the file must be open to read as well and not to append, and which leave what is there alone."""
        file = self._file(number)
        flags = fcntl.fcntl(file, fcntl.F_GETFL)
        if flags & os.O_ACCMODE == os.O_RDWR and not flags & os.O_APPEND:
            os.posix_fallocate(file, os.fstat(file).st_size + beyond if beyond >= 0 else beyond, length)
        return None

    def copy_range(self, number: int, to: int, size: int, offset: int, to_offset: int) -> int:
        done, source, goal = 0, self._file(number), self._file(to)
        for _ in range(_KEPT_STEPS_MAX):
            copied = os.copy_file_range(source, goal, size - done, offset + done, to_offset + done)
            done += copied
            if not copied or done == size:
                break
        return done

    def sendfile(self, number: int, to: int, size: int, offset: int) -> int:
        return os.sendfile(self._file(to), self._file(number), offset, size)

    def flock(self, number: int, operation: int) -> None:
        fcntl.flock(self._file(number), operation | fcntl.LOCK_NB)

    def lock(self, number: int, kind: int, start: int, length: int) -> None:
        """A lock of the open file: two opens of one file conflict also in one process."""
        fcntl.fcntl(self._file(number), _F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, start, length, 0))

    def locked(self, number: int, kind: int, start: int, length: int) -> object:
        asked = _FLOCK.pack(kind, os.SEEK_SET, start, length, 0)
        return _FLOCK.unpack(fcntl.fcntl(self._file(number), _F_OFD_GETLK, asked))

    # -- maps

    def map(self, number: int, at: int, size: int, flags: int, access: int) -> None:
        file = self._file(number)
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode) or not status.st_size:  # Python maps nothing beyond the end
            return
        memory = mmap.mmap(file, min(size, status.st_size), flags, access)
        self.unmap(at)
        self._maps[at] = memory, os.dup(file)

    def unmap(self, at: int) -> None:
        memory, file = self._maps.pop(at, (None, -1))
        if memory is not None:
            memory.close()
            os.close(file)

    def _inside(self, at: int, offset: int, size: int) -> mmap.mmap | None:
        """The map, if the range is inside both it and the file: beyond there is only a signal."""
        if at not in self._maps:
            raise _NotOpen
        memory, file = self._maps[at]
        return memory if offset + size <= min(len(memory), os.fstat(file).st_size) else None

    def map_write(self, at: int, offset: int, data: bytes) -> bool:
        memory = self._inside(at, offset, len(data))
        if memory is not None:
            with contextlib.suppress(TypeError):  # mapped to read
                memory[offset : offset + len(data)] = data
        return memory is not None

    def map_read(self, at: int, offset: int, size: int) -> bytes | None:
        memory = self._inside(at, offset, size)
        return memory if memory is None else memory[offset : offset + size]

    def map_flush(self, at: int) -> None:
        if at not in self._maps:
            raise _NotOpen
        self._maps[at][0].flush()

    # -- looking

    def _seen(self, status: os.stat_result) -> tuple[int, ...]:
        directory = stat.S_ISDIR(status.st_mode)
        return (
            status.st_mode,
            0 if directory and not self._counts_directories else status.st_nlink,
            status.st_uid,
            status.st_gid,
            0 if directory else status.st_size,
            0 if status.st_mtime_ns >= self._since_ns else status.st_mtime_ns,
        )

    def look(self, inside: bytes = b"") -> dict[bytes, Look]:
        """All that can be seen below ``inside``, by path."""
        root = self.path(inside)
        found: dict[bytes, os.stat_result] = {b".": os.stat(root)}
        stack = [b""]
        while stack:
            directory = stack.pop()
            for name in os.listdir(root + b"/" + directory):
                status = found[directory + name] = os.lstat(root + b"/" + directory + name)
                if stat.S_ISDIR(status.st_mode):
                    stack.append(directory + name + b"/")
        links: dict[tuple[int, int], list[bytes]] = {}
        for name, status in found.items():
            links.setdefault((status.st_dev, status.st_ino), []).append(name)
        return {
            name: self._look(root + b"/" + name, status, links[status.st_dev, status.st_ino])
            for name, status in found.items()
        }

    def _look(self, path: bytes, status: os.stat_result, links: list[bytes]) -> Look:
        content = b""
        if stat.S_ISREG(status.st_mode):
            with open(path, "rb") as file:
                content = file.read()
        elif stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)
        names = sorted(os.listxattr(path, follow_symlinks=False)) if self._xattrs else []
        values = tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in names)
        mode, nlink, uid, gid, size, mtime_ns = self._seen(status)
        return Look(mode, nlink, uid, gid, size, content, mtime_ns, values, tuple(sorted(links)))

    def ctimes(self) -> dict[bytes, int]:
        """ctime of each object, by path."""
        found = {}
        stack = [b""]
        while stack:
            directory = stack.pop()
            found[directory] = os.lstat(self.path(directory)).st_ctime_ns
            for name in os.listdir(self.path(directory)):
                status = os.lstat(self.path(directory + name))
                found[directory + name] = status.st_ctime_ns
                if stat.S_ISDIR(status.st_mode):
                    stack.append(directory + name + b"/")
        return found


class _NotOpen(Exception):
    """The number is of no open file or map."""
