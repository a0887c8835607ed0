"""A tar archive that comes as a stream becomes files.

Invariants:
  * Nothing is made, changed or removed outside the directory: every name is reached from its descriptor, step by step,
    never through a symbolic link and never by ``..``; besides, ``tarfile``'s filters look at each member (PEP 706).
  * Attributes are set on what was just made, through descriptors; a directory's when all in it is there.
  * What one member lacks (a device without the right to make it, an attribute that the file system refuses) is told and
    stops no other.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from snapfs.errors import Invalid

_XATTR: Final = "SCHILY.xattr."
_BUFFER_BYTES: Final = 1024 * 1024
_NS: Final = 1_000_000_000
_SECONDS_MAX: Final = 1 << 33
"""More than file systems have: the year 2242."""
_DIRECTORY_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PATH_FLAGS: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class Received(io.RawIOBase):
    """The parts of an archive as a file that can be read once."""

    def __init__(self, parts: Iterator[bytes], progress: Callable[[int], None] | None = None) -> None:
        super().__init__()
        self._parts = parts
        self._progress = progress
        self._left = memoryview(b"")
        self._total = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._left:
            part = next(self._parts, None)
            if part is None:
                return 0
            self._left = memoryview(part)
            self._total += len(part)
            if self._progress is not None:
                self._progress(self._total)
        size = min(len(buffer), len(self._left))
        buffer[:size] = self._left[:size]
        self._left = self._left[size:]
        return size


class _Inside(NamedTuple):
    """A directory that things are being put into."""

    name: str
    fd: int
    member: tarfile.TarInfo | None
    """None: it was there."""


class Unpacking:
    """One archive on its way into one directory.

    Args:
        filter: of ``tarfile``: ``data``, ``tar`` or ``fully_trusted``.
    """

    def __init__(self, directory: Path, filter: str) -> None:
        self._directory = directory
        self._filter = filter
        self._trusted = filter == "fully_trusted"
        self._inside: list[_Inside] = []
        self._may_own = os.geteuid() == 0
        self._mask = os.umask(0o077)
        os.umask(self._mask)
        self.files = 0
        self.directories = 0
        self.problems: list[str] = []

    def run(self, archive: Received) -> None:
        """Raises:
        Invalid: it is no archive, or leads out of the directory.
        OSError: the file system refuses, e.g. as it is full.
        """
        root = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._inside = [_Inside("", root, None)]
        buffered = io.BufferedReader(archive, _BUFFER_BYTES)
        try:
            with tarfile.open(
                fileobj=buffered, mode="r|", bufsize=_BUFFER_BYTES, encoding="utf-8", errors="surrogateescape"
            ) as tar:
                for member in tar:
                    tar.members = []  # type: ignore[attr-defined] # else it keeps them all
                    self._member(tar, member)
            while len(self._inside) > 1:
                self._leave()
            self._finish_root()
        except (tarfile.TarError, ValueError, ArithmeticError) as error:  # the latter: of numbers that cannot be
            raise Invalid(f"the archive is damaged: {error}") from error
        finally:
            for level in self._inside:
                os.close(level.fd)

    def _problem(self, name: str, why: object) -> None:
        self.problems.append(f"{name}: {why}")

    # -- one member

    def _member(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        parts = [part for part in member.name.split("/") if part not in ("", ".")]
        if ".." in parts or "\0" in member.name:
            raise Invalid(f"the archive leads out of the directory: {member.name!a}")
        if not parts:
            if member.isdir():
                self._inside[0] = self._inside[0]._replace(member=member)
            if "comment" in member.pax_headers:  # what the archive could not hold
                self.problems.append(member.pax_headers["comment"])
            return
        fd = self._enter(parts[:-1])
        _remove_link(fd, parts[-1])
        kept = self._filtered(member)
        if kept is None:
            return
        try:
            if member.isdir():
                self._make_directory(fd, parts[-1], kept)
            else:
                self._make(tar, fd, parts[-1], kept, member)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO):
                raise
            self._problem(member.name, error.strerror or error)

    def _filtered(self, member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        """The member as the filter leaves it; None: it does not pass."""
        check = tarfile.data_filter if self._filter == "data" else tarfile.tar_filter
        try:
            kept = check(member, os.fspath(self._directory))
        except tarfile.OutsideDestinationError as error:
            raise Invalid(f"the archive leads out of the directory: {member.name!a}") from error
        except tarfile.FilterError as error:
            self._problem(member.name, error)
            return None
        return member if self._trusted else kept

    def _enter(self, parts: list[str]) -> int:
        """Descriptor of a directory below; those that are left get their attributes."""
        names = [level.name for level in self._inside[1:]]
        common = 0
        while common < min(len(names), len(parts)) and names[common] == parts[common]:
            common += 1
        while len(self._inside) > common + 1:
            self._leave()
        for name in parts[common:]:
            above = self._inside[-1].fd
            try:
                fd = os.open(name, _DIRECTORY_FLAGS, dir_fd=above)
            except FileNotFoundError:
                os.mkdir(name, 0o700, dir_fd=above)
                fd = os.open(name, _DIRECTORY_FLAGS, dir_fd=above)
            except OSError as error:
                if error.errno in (errno.ELOOP, errno.ENOTDIR):
                    raise Invalid(f"{'/'.join(parts)!a} is not a directory", hint="unpack into an empty one") from error
                raise
            self._inside.append(_Inside(name, fd, None))
        return self._inside[-1].fd

    def _make_directory(self, above: int, name: str, member: tarfile.TarInfo) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=above)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(name, dir_fd=above, follow_symlinks=False).st_mode):
                os.unlink(name, dir_fd=above)
                os.mkdir(name, 0o700, dir_fd=above)
        fd = os.open(name, _DIRECTORY_FLAGS, dir_fd=above)
        self._inside.append(_Inside(name, fd, member))
        self.directories += 1

    def _make(
        self, tar: tarfile.TarFile, above: int, name: str, member: tarfile.TarInfo, original: tarfile.TarInfo
    ) -> None:
        """Anything but a directory, with its attributes."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=above)
        if member.islnk():
            self._link(above, name, member.linkname)
            self.files += 1
            return
        if member.issym():
            os.symlink(member.linkname, name, dir_fd=above)
        elif member.isfifo():
            os.mkfifo(name, 0o600, dir_fd=above)
        elif member.ischr() or member.isblk():
            kind = stat.S_IFCHR if member.ischr() else stat.S_IFBLK
            os.mknod(name, kind | 0o600, os.makedev(member.devmajor, member.devminor), dir_fd=above)
        elif member.isreg():
            self._write(tar, above, name, original)
        else:
            self._problem(member.name, f"a member of type {member.type!r} is not known")
            return
        self.files += 1
        self._dress(above, name, member)

    def _write(self, tar: tarfile.TarFile, above: int, name: str, member: tarfile.TarInfo) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        source: Any = tar.fileobj  # as tarfile itself does: what it gives to read by cannot skip holes of a stream
        source.seek(member.offset_data)
        runs: Any = member.sparse if member.sparse is not None else [(0, member.size)]
        with os.fdopen(os.open(name, flags, 0o600, dir_fd=above), "wb", buffering=0) as file:
            for offset, size in runs:
                file.seek(offset)
                while size:
                    data = source.read(min(size, _BUFFER_BYTES))
                    if not data:
                        raise tarfile.ReadError("it ends too early")
                    file.write(data)
                    size -= len(data)
            file.truncate(member.size)

    def _link(self, above: int, name: str, target: str) -> None:
        """A hard link to what was unpacked before."""
        parts = [part for part in target.split("/") if part not in ("", ".")]
        if not parts or ".." in parts:
            raise Invalid(f"the archive leads out of the directory: {target!a}")
        fd = os.dup(self._inside[0].fd)
        try:
            for part in parts[:-1]:
                inner = os.open(part, _DIRECTORY_FLAGS, dir_fd=fd)
                os.close(fd)
                fd = inner
            os.link(parts[-1], name, src_dir_fd=fd, dst_dir_fd=above, follow_symlinks=False)
        finally:
            os.close(fd)

    # -- attributes

    def _leave(self) -> None:
        level = self._inside.pop()
        try:
            if level.member is not None:
                self._dress(self._inside[-1].fd, level.name, level.member)
        finally:
            os.close(level.fd)

    def _finish_root(self) -> None:
        member = self._inside[0].member
        if member is not None:
            kept = self._filtered(member)
            if kept is not None:
                fd = self._inside[0].fd
                self._set(f"/proc/self/fd/{fd}", kept, lambda: os.utime(fd, ns=_times(member)))

    def _dress(self, above: int, name: str, member: tarfile.TarInfo) -> None:
        """Owner, extended attributes, mode, times: in this order, as one takes away what comes later."""
        fd = os.open(name, _PATH_FLAGS, dir_fd=above)
        try:
            place = f"/proc/self/fd/{above}/{name}" if member.issym() else f"/proc/self/fd/{fd}"
            times = _times(member)
            self._set(place, member, lambda: os.utime(name, ns=times, dir_fd=above, follow_symlinks=False))
        finally:
            os.close(fd)

    def _set(self, place: str, member: tarfile.TarInfo, set_times: Callable[[], None]) -> None:
        is_link = member.issym()
        uid: int | None = member.uid
        gid: int | None = member.gid
        if self._may_own and uid is not None and gid is not None:
            self._try(member, partial(os.chown, place, uid, gid, follow_symlinks=not is_link))
        attributes = [
            (key[len(_XATTR) :], value) for key, value in member.pax_headers.items() if key.startswith(_XATTR)
        ]
        mode: int | None = member.mode
        if mode is None:  # the filter `data` leaves it to us
            mode = (0o777 if member.isdir() else 0o666) & ~self._mask
        if not is_link:
            self._try(member, lambda: Path(place).chmod(stat.S_IMODE(mode)))
        for name, value in attributes:
            if self._trusted or name.startswith("user."):
                raw = os.fsencode(value)
                self._try(member, partial(os.setxattr, place, name, raw, follow_symlinks=not is_link))
        self._try(member, set_times)

    def _try(self, member: tarfile.TarInfo, act: Callable[[], None]) -> None:
        try:
            act()
        except OSError as error:
            self._problem(member.name, error.strerror or error)
        except (OverflowError, ValueError) as error:  # a number or name that cannot be
            self._problem(member.name, error)


def _remove_link(above: int, name: str) -> None:
    """A symbolic link that is in a member's place goes: the filters would follow it."""
    with contextlib.suppress(OSError, ValueError):
        if stat.S_ISLNK(os.stat(name, dir_fd=above, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=above)


def _times(member: tarfile.TarInfo) -> tuple[int, int]:
    """(atime, mtime) in ns."""
    mtime = _ns(member.pax_headers.get("mtime"), member.mtime)
    return _ns(member.pax_headers.get("atime"), member.mtime), mtime


def _ns(text: str | None, otherwise: float) -> int:
    """Of what an archive says, whatever that is."""
    try:
        seconds = Decimal(text) if text else Decimal(otherwise)
        if abs(seconds) < _SECONDS_MAX:
            return int(seconds * _NS)
    except (ArithmeticError, ValueError):
        pass
    return 0
