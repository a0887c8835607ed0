"""Directories: look up, list, make, link, unlink and rename entries.

Invariants:
  * An entry (parent, name) -> inode and the inode's parent link (parent, name) are there together or not at all.
  * ``nlink`` of a file is the number of its entries; of a directory 2 and one for each directory in it; it is
    what a parent link's count and POSIX say.
  * A directory has exactly one parent link; a volume's root has none and is its own parent.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator

import msgspec

from snapfs.errors import (
    AlreadyExists,
    Invalid,
    IsADirectory,
    NameTooLong,
    NotADirectory,
    NotEmpty,
    NotFound,
    TooManyLinks,
)
from snapfs.format import keys, records
from snapfs.format.records import Inode
from snapfs.types import LINKS_MAX, NAME_BYTES_MAX, PATH_BYTES_MAX, Epoch, Ino
from snapfs.versions.epochs import View
from snapfs.volume.attributes import Attributes
from snapfs.volume.core import now_ns

IsOpen = Callable[[Ino], bool]

Entry = tuple[Ino, bytes, bytes]
"""Where an entry is, or would be: (directory, name, key)."""


class Names(Attributes):
    # -- reading

    def lookup(self, view: View, parent: Ino, name: bytes) -> Inode:
        """Raises:
        NotFound, NotADirectory, NameTooLong.
        """
        return self.getattr(view, self._entry(view, parent, name, keys.dirent(parent, name, self._core.seed))[0])

    def find(self, view: View, parent: Ino, name: bytes) -> Inode | None:
        """As ``lookup``; None if there is no such name."""
        if len(name) > NAME_BYTES_MAX:
            return None
        found = self._tree.find(view, keys.dirent(parent, name, self._core.seed))
        return self.getattr(view, records.decode_dirent(found[1])[0]) if found and found[1] else None

    def _entry(self, view: View, parent: Ino, name: bytes, subject: bytes) -> tuple[Ino, int, Epoch]:
        """(inode, S_IFMT bits, epoch of the version) of an entry; ``subject`` is its key."""
        if len(name) > NAME_BYTES_MAX:
            raise NameTooLong(f"a name has at most {NAME_BYTES_MAX} bytes")
        found = self._tree.find(view, subject)
        if found is None or not found[1]:
            self._directory(view, parent)
            raise NotFound(f"{os.fsdecode(name)!a} does not exist")
        ino, kind = records.decode_dirent(found[1])
        return ino, kind, found[0]

    def _directory(self, view: View, ino: Ino) -> Inode:
        inode = self._core.inode(view, ino)
        if not stat.S_ISDIR(inode.mode):
            raise NotADirectory(f"inode {ino} is not a directory")
        return inode

    def readdir(self, view: View, ino: Ino, after: int) -> Iterator[tuple[int, bytes, Ino, int]]:
        """(cookie, name, inode, S_IFMT bits) of the entries with a greater cookie; "." and ".." not among them.

        Names whose 63-bit hashes collide share a cookie; a listing that is interrupted between them skips one.
        """
        prefix = keys.head(ino, keys.DIRENT)
        for subject, _, payload in self._tree.scan(view, prefix, keys.u64(after + 1)):
            cookie, name = keys.split_hashed(subject)
            yield cookie, name, *records.decode_dirent(payload)

    def links(self, view: View, ino: Ino) -> list[tuple[Ino, bytes]]:
        """(parent, name) of every entry that leads to the inode."""
        found = []
        for subject, _, _ in self._tree.scan(view, keys.head(ino, keys.PARENT)):
            parent, name = keys.split_hashed(subject)
            found.append((Ino(parent), name))
        return found

    def parent_of(self, view: View, ino: Ino) -> Ino:
        """Parent of a directory; a root's is itself."""
        links = self.links(view, ino)
        return links[0][0] if links else ino

    # -- making

    def mknod(self, view: View, parent: Ino, name: bytes, *, mode: int, uid: int, gid: int, rdev: int = 0) -> Inode:
        """Make a regular file, fifo, socket or device, by the S_IFMT bits of the mode."""
        if stat.S_IFMT(mode) not in _NODES:
            raise Invalid(f"mode {mode:o} is not that of a file, fifo, socket or device")
        return self._make(view, parent, name, mode=mode, uid=uid, gid=gid, rdev=rdev)

    def mkdir(self, view: View, parent: Ino, name: bytes, *, mode: int, uid: int, gid: int) -> Inode:
        mode = stat.S_IFDIR | stat.S_IMODE(mode)
        return self._make(view, parent, name, mode=mode, uid=uid, gid=gid)

    def symlink(self, view: View, parent: Ino, name: bytes, target: bytes, *, uid: int, gid: int) -> Inode:
        if not target or b"\0" in target:
            raise Invalid("a symbolic link's target is not empty and has no NUL")
        if len(target) >= PATH_BYTES_MAX:
            raise NameTooLong(f"a symbolic link's target has less than {PATH_BYTES_MAX} bytes")
        mode = stat.S_IFLNK | 0o777
        inode = self._make(view, parent, name, mode=mode, uid=uid, gid=gid, size=len(target))
        self._tree.put(view, keys.symlink(inode.ino), target)
        return inode

    def _make(
        self,
        view: View,
        parent: Ino,
        name: bytes,
        *,
        mode: int,
        uid: int,
        gid: int,
        rdev: int = 0,
        size: int = 0,
    ) -> Inode:
        self._tree.check_writable(view)
        entry = keys.dirent(parent, name, self._core.seed)
        directory = self._new_entry(view, parent, name, entry)
        is_directory = stat.S_ISDIR(mode)
        if is_directory and directory.nlink >= LINKS_MAX:
            raise TooManyLinks(f"a directory holds at most {LINKS_MAX - 2} directories")
        if directory.mode & stat.S_ISGID:
            gid = directory.gid
            mode |= stat.S_ISGID if is_directory else 0
        self._core.admit()
        now = now_ns()
        nlink = 2 if is_directory else 1
        inode = Inode(self._core.new_ino(), mode, nlink, uid, gid, rdev, size, 0, now, now, now, now)
        self._core.put_inode(view, inode)
        self._add(view, (parent, name, entry), inode)
        self._touch(view, directory, now, links=is_directory)
        return inode

    def _new_entry(self, view: View, parent: Ino, name: bytes, subject: bytes) -> Inode:
        """The directory, after checks that the name is good and free."""
        check_name(name)
        directory = self._directory(view, parent)
        if self._tree.get(view, subject) is not None:
            raise AlreadyExists(f"{name!r} exists")
        return directory

    def _add(self, view: View, entry: Entry, inode: Inode) -> None:
        parent, name, subject = entry
        self._tree.put(view, subject, records.encode_dirent(inode.ino, inode.mode))
        self._tree.put(view, keys.parent(inode.ino, parent, name), records.PRESENT)

    def _take(self, view: View, entry: Entry, inode: Inode, epoch: Epoch | None = None, *, gone: bool = False) -> None:
        """
        Args:
            epoch: of the entry's version, if known.
            gone: the inode is to be buried, which hides its older records.
        """
        parent, name, subject = entry
        self._tree.delete(view, subject, epoch)
        link = keys.parent(inode.ino, parent, name)
        if gone:
            self._tree.drop_at(view.epoch, link)
        else:
            self._tree.delete(view, link)

    def _touch(self, view: View, directory: Inode, now: int, *, links: int = 0) -> None:
        """A directory's entries changed."""
        changed = msgspec.structs.replace(directory, mtime_ns=now, ctime_ns=now, nlink=directory.nlink + links)
        self._core.put_inode(view, changed)

    def link(self, view: View, ino: Ino, parent: Ino, name: bytes) -> Inode:
        self._tree.check_writable(view)
        inode = self._core.inode(view, ino)
        if stat.S_ISDIR(inode.mode):
            raise IsADirectory("a directory has no hard links")
        entry = keys.dirent(parent, name, self._core.seed)
        directory = self._new_entry(view, parent, name, entry)
        if inode.nlink >= LINKS_MAX:
            raise TooManyLinks(f"a file has at most {LINKS_MAX} links")
        if inode.nlink == 0:
            raise NotFound(f"inode {ino} was unlinked")
        self._core.admit()
        now = now_ns()
        self._core.put_inode(view, msgspec.structs.replace(inode, nlink=inode.nlink + 1, ctime_ns=now))
        self._add(view, (parent, name, entry), inode)
        self._touch(view, directory, now)
        return self.getattr(view, ino)

    # -- removing

    def unlink(self, view: View, parent: Ino, name: bytes, *, is_open: IsOpen) -> Inode:
        """Remove an entry of a file; the file goes with its last one, or, open, with ``drop``.

        Returns:
            The file's attributes afterwards, also if it is gone.
        """
        self._tree.check_writable(view)
        entry = keys.dirent(parent, name, self._core.seed)
        ino, kind, epoch = self._entry(view, parent, name, entry)
        if kind == stat.S_IFDIR:
            raise IsADirectory(f"{name!r} is a directory")
        directory = self._directory(view, parent)
        inode = self._core.inode(view, ino)
        size = max(inode.size, self._writeback.end(view, ino))
        now = now_ns()
        gone = inode.nlink <= 1 and not is_open(ino)
        self._take(view, (parent, name, entry), inode, epoch, gone=gone)
        self._touch(view, directory, now)
        left = self._unlinked(view, inode, now, gone=gone)
        return left if left.size == size else msgspec.structs.replace(left, size=size)

    def _unlinked(self, view: View, inode: Inode, now: int, *, gone: bool) -> Inode:
        """A file lost an entry.  Returns its record as it is now, or would be."""
        left = msgspec.structs.replace(inode, nlink=inode.nlink - 1, ctime_ns=now)
        if gone:
            self._bury(view, inode)
            return left
        self._core.put_inode(view, left)
        if inode.nlink == 1:
            key = keys.u64(view.volume_id) + keys.u64(inode.ino)
            self._core.index.put("orphans", key, records.PRESENT)
        return left

    def _bury(self, view: View, inode: Inode) -> None:
        self._writeback.discard(view, inode.ino)
        self._core.bury(view, inode)

    def drop(self, view: View, ino: Ino) -> None:
        """The last user of an unlinked inode let go of it."""
        key = keys.u64(view.volume_id) + keys.u64(ino)
        if self._core.index.get("orphans", key) is None:
            return
        self._core.index.delete("orphans", key)
        try:
            inode = self._core.inode(view, ino)
        except NotFound:
            return
        if inode.nlink == 0:
            self._bury(view, inode)

    def rmdir(self, view: View, parent: Ino, name: bytes) -> Inode:
        """Remove an empty directory; what its attributes were."""
        self._tree.check_writable(view)
        entry = keys.dirent(parent, name, self._core.seed)
        ino, kind, epoch = self._entry(view, parent, name, entry)
        if kind != stat.S_IFDIR:
            raise NotADirectory(f"{name!r} is not a directory")
        self._check_empty(view, ino)
        directory = self._directory(view, parent)
        inode = self._core.inode(view, ino)
        self._take(view, (parent, name, entry), inode, epoch, gone=True)
        self._core.bury(view, inode)
        self._touch(view, directory, now_ns(), links=-1)
        return inode

    def _check_empty(self, view: View, ino: Ino) -> None:
        for _ in self.readdir(view, ino, 0):
            raise NotEmpty("the directory is not empty")

    # -- renaming

    def rename(
        self,
        view: View,
        parent: Ino,
        name: bytes,
        new_parent: Ino,
        new_name: bytes,
        *,
        noreplace: bool = False,
        exchange: bool = False,
        is_open: IsOpen,
    ) -> Inode | None:
        """rename(2) and renameat2(2) with RENAME_NOREPLACE or RENAME_EXCHANGE.

        Returns:
            What was replaced, as it was before; None if nothing was.
        """
        self._tree.check_writable(view)
        check_name(name)
        check_name(new_name)
        entry = keys.dirent(parent, name, self._core.seed)
        ino, kind, epoch = self._entry(view, parent, name, entry)
        above = self._directory(view, parent)
        directories = above, above if parent == new_parent else self._directory(view, new_parent)
        new_entry = keys.dirent(new_parent, new_name, self._core.seed)
        payload = self._tree.get(view, new_entry)
        target = records.decode_dirent(payload) if payload else None
        if target is None and exchange:
            raise NotFound(f"{os.fsdecode(new_name)!a} does not exist")
        if target is not None and noreplace:
            raise AlreadyExists(f"{os.fsdecode(new_name)!a} exists")
        if kind == stat.S_IFDIR:
            self._check_not_inside(view, ino, new_parent)
        if target is not None and exchange and target[1] == stat.S_IFDIR:
            self._check_not_inside(view, target[0], parent)
        if target is not None and target[0] == ino:
            return None  # two links of one file: POSIX says nothing happens
        if target is not None and not exchange:
            self._check_replaceable(view, kind, target)
        self._core.admit()
        inode, other = self._core.inode(view, ino), self._core.inode(view, target[0]) if target else None
        replaced = self.getattr(view, other.ino) if other and not exchange else None
        source, goal = (parent, name, entry), (new_parent, new_name, new_entry)
        self._move(view, source, inode, epoch, goal, other, directories, exchange=exchange, is_open=is_open)
        return replaced

    def _check_not_inside(self, view: View, ino: Ino, directory: Ino) -> None:
        """A directory must not move below itself."""
        while True:
            if directory == ino:
                raise Invalid("a directory cannot move into itself")
            above = self.parent_of(view, directory)
            if above == directory:
                return
            directory = above

    def _check_replaceable(self, view: View, kind: int, target: tuple[Ino, int]) -> None:
        if target[1] == stat.S_IFDIR:
            if kind != stat.S_IFDIR:
                raise IsADirectory("a file cannot replace a directory")
            self._check_empty(view, target[0])
        elif kind == stat.S_IFDIR:
            raise NotADirectory("a directory cannot replace a file")

    def _move(
        self, view: View, source: Entry, inode: Inode, epoch: Epoch, goal: Entry, other: Inode | None,
        above: tuple[Inode, Inode], *, exchange: bool, is_open: IsOpen,
    ) -> None:  # fmt: skip
        """``inode`` goes from the source, an entry of that epoch, to the goal, where ``other`` is; ``above``: the
        directories."""
        core, now = self._core, now_ns()
        self._take(view, source, inode, epoch)
        gone = False
        if other:
            gone = not exchange and (bool(_is_directory(other)) or (other.nlink <= 1 and not is_open(other.ino)))
            self._take(view, goal, other, gone=gone)
        self._add(view, goal, inode)
        core.put_inode(view, msgspec.structs.replace(inode, ctime_ns=now))
        left, came = -_is_directory(inode), _is_directory(inode)
        if other and exchange:
            self._add(view, source, other)
            core.put_inode(view, msgspec.structs.replace(other, ctime_ns=now))
            left, came = left + _is_directory(other), came - _is_directory(other)
        elif other:
            came -= _is_directory(other)
            if _is_directory(other):
                core.bury(view, other)
            else:
                self._unlinked(view, other, now, gone=gone)
                self._writeback.took_place(view, inode, other)
        if above[0].ino == above[1].ino:
            self._touch(view, above[0], now, links=left + came)
        else:
            self._touch(view, above[0], now, links=left)
            self._touch(view, above[1], now, links=came)


_SLASH = ord("/")
_NO_NAMES = frozenset((b"", b".", b".."))
_NODES = frozenset((stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK))


def _is_directory(inode: Inode) -> int:
    return int(stat.S_ISDIR(inode.mode))


def check_name(name: bytes) -> None:
    """Raises:
    Invalid, NameTooLong: no directory entry can have this name.
    """
    if len(name) > NAME_BYTES_MAX:
        raise NameTooLong(f"a name has at most {NAME_BYTES_MAX} bytes")
    if _SLASH in name or 0 in name or name in _NO_NAMES:
        raise Invalid(f"{name!r} cannot be a file's name")
