"""Attributes, xattrs and symlink targets of inodes."""

from __future__ import annotations

import stat
from typing import Final

import msgspec

from snapfs.errors import AlreadyExists, Invalid, IsADirectory, NoAttribute, TooLarge
from snapfs.extents import plan_truncate
from snapfs.format import keys, records
from snapfs.format.records import Inode
from snapfs.types import FILE_BYTES_MAX, NAME_BYTES_MAX, PAGE_BYTES, XATTR_BYTES_MAX, Ino
from snapfs.versions.epochs import View
from snapfs.volume.core import Core, now_ns
from snapfs.volume.writeback import Writeback

_PERMISSIONS = 0o7777
_CUT_FREELY_MAX: Final = 512
"""Extents that a truncation may remove without asking for space: the reserve is for that, as users truncate to
make room."""


class Attributes:
    def __init__(self, core: Core, writeback: Writeback) -> None:
        self._core = core
        self._tree = core.tree
        self._writeback = writeback

    def getattr(self, view: View, ino: Ino) -> Inode:
        """Raises:
        NotFound: the view has no such inode.
        """
        inode = self._core.inode(view, ino)
        end = self._writeback.end(view, ino)
        return msgspec.structs.replace(inode, size=end) if end > inode.size else inode

    def set_times(self, view: View, ino: Ino, *, mtime_ns: int, ctime_ns: int) -> Inode:
        """``setattr`` of what the kernel sends by itself, also after each rename and unlink: mostly what it had from
        us."""
        self._tree.check_writable(view)
        inode = self._core.inode(view, ino)
        if ctime_ns != inode.ctime_ns or mtime_ns != inode.mtime_ns:
            inode = msgspec.structs.replace(inode, mtime_ns=mtime_ns, ctime_ns=ctime_ns)
            self._core.put_inode(view, inode)
        return self.getattr(view, ino)

    def setattr(
        self,
        view: View,
        ino: Ino,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        size: int | None = None,
        atime_ns: int | None = None,
        mtime_ns: int | None = None,
        ctime_ns: int | None = None,
    ) -> Inode:
        """Change what is given; ``mode`` is permission bits; ctime is now unless given.

        Raises:
            ReadOnly, NotFound, TooLarge, IsADirectory, Invalid.
        """
        self._tree.check_writable(view)
        before = inode = self._core.inode(view, ino)
        now = now_ns()
        changes: dict[str, int] = {"ctime_ns": now if ctime_ns is None else ctime_ns}
        if size is not None:
            inode = self._resize(view, inode, size)
            changes["mtime_ns"] = now
        if mode is not None:
            changes["mode"] = stat.S_IFMT(inode.mode) | (mode & _PERMISSIONS)
        for name, value in (("uid", uid), ("gid", gid), ("atime_ns", atime_ns), ("mtime_ns", mtime_ns)):
            if value is not None:
                changes[name] = value
        after = msgspec.structs.replace(inode, **changes)
        if after != before:
            self._core.put_inode(view, after)
        return self.getattr(view, ino)

    def _resize(self, view: View, inode: Inode, size: int) -> Inode:
        if stat.S_ISDIR(inode.mode):
            raise IsADirectory(f"inode {inode.ino} is a directory")
        if not stat.S_ISREG(inode.mode) or size < 0:
            raise Invalid("only regular files have a size to set, of 0 or more")
        if size > FILE_BYTES_MAX:
            raise TooLarge(f"{size} bytes is more than a file can have ({FILE_BYTES_MAX})")
        self._writeback.truncate(view, inode.ino, size)
        if size == 0 and (inode.size or inode.allocated_bytes):
            return self._core.next_fork(view, inode)
        if size < inode.size:
            old = self._core.extents(view, inode, size, FILE_BYTES_MAX)
            if len(old) > _CUT_FREELY_MAX:
                self._core.admit(2 * len(old) * PAGE_BYTES)
            plan = plan_truncate([extent for extent, _ in old], size)
            self._core.apply(view, inode, old, plan)
            inode = msgspec.structs.replace(inode, allocated_bytes=inode.allocated_bytes + plan.covered_bytes)
        return msgspec.structs.replace(inode, size=size)

    def readlink(self, view: View, ino: Ino) -> bytes:
        target = self._tree.get(view, keys.symlink(ino))
        if target is None:
            raise Invalid(f"inode {ino} is not a symbolic link")
        return target

    # -- xattrs

    def getxattr(self, view: View, ino: Ino, name: bytes) -> bytes:
        """Raises:
        NoAttribute: there is none of that name.
        """
        self._core.inode(view, ino)
        payload = self._tree.get(view, keys.xattr(ino, _xattr_name(name)))
        if payload is None:
            raise NoAttribute("no such extended attribute")
        return payload[len(records.PRESENT) :]

    def setxattr(
        self, view: View, ino: Ino, name: bytes, value: bytes, *, create: bool = False, replace: bool = False
    ) -> None:
        self._tree.check_writable(view)
        inode = self._core.inode(view, ino)
        if len(value) > XATTR_BYTES_MAX:
            raise TooLarge(f"an extended attribute holds at most {XATTR_BYTES_MAX} bytes")
        subject = keys.xattr(ino, _xattr_name(name))
        exists = self._tree.get(view, subject) is not None
        if create and exists:
            raise AlreadyExists("the extended attribute exists")
        if replace and not exists:
            raise NoAttribute("no such extended attribute")
        self._core.admit(len(value))
        self._tree.put(view, subject, records.PRESENT + value)
        self._core.put_inode(view, msgspec.structs.replace(inode, ctime_ns=now_ns()))

    def listxattr(self, view: View, ino: Ino) -> list[bytes]:
        self._core.inode(view, ino)
        return [keys.split_xattr(s) for s, _, _ in self._tree.scan(view, keys.head(ino, keys.XATTR))]

    def removexattr(self, view: View, ino: Ino, name: bytes) -> None:
        self._tree.check_writable(view)
        inode = self._core.inode(view, ino)
        subject = keys.xattr(ino, _xattr_name(name))
        if self._tree.get(view, subject) is None:
            raise NoAttribute("no such extended attribute")
        self._tree.delete(view, subject)
        self._core.put_inode(view, msgspec.structs.replace(inode, ctime_ns=now_ns()))


def _xattr_name(name: bytes) -> bytes:
    if not 0 < len(name) <= NAME_BYTES_MAX or b"\0" in name:
        raise Invalid(f"an extended attribute's name has 1 to {NAME_BYTES_MAX} bytes")
    return name
