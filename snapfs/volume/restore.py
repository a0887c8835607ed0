"""Put files and directories of a snapshot back into a head, sharing every block.

Rules: what the snapshot had at a path comes back, as new inodes, over whatever the head has there; what the
head has besides, below a restored directory, stays.  Missing directories above come back with their attributes.
"""

from __future__ import annotations

import os
import stat
from typing import Final

import msgspec

from snapfs.api import QuotaKind
from snapfs.errors import Corrupt, Invalid, NotADirectory, NotFound
from snapfs.format import keys
from snapfs.format.records import Inode
from snapfs.types import PAGE_BYTES, PATH_BYTES_MAX, Ino
from snapfs.versions.epochs import View
from snapfs.volume.core import Core, now_ns
from snapfs.volume.files import Files
from snapfs.volume.names import IsOpen
from snapfs.volume.quota import exceeded
from snapfs.volume.touched import Touched

_PUTS_PER_EXTENT: Final = 3
"""The extent, its entry in ``changes``, the block's entry (references, account)."""


def split_path(path: str) -> list[bytes]:
    """Names of a path relative to a volume's root; empty for the root itself.

    Raises:
        Invalid: it leaves the volume, or is too long.
    """
    raw = path.encode(errors="surrogateescape")
    if len(raw) > PATH_BYTES_MAX or b"\0" in raw:
        raise Invalid(f"path {path[:40]!r}... is too long or has a NUL")
    names = [name for name in raw.split(b"/") if name not in (b"", b".")]
    if b".." in names:
        raise Invalid(f"path {path!r} has '..'", hint="give the path from the volume's root")
    return names


def _not_a_directory(name: bytes) -> NotADirectory:
    return NotADirectory(f"{os.fsdecode(name)!a} is a file in the head: it would have to go first")


def _is_a_directory(name: bytes) -> Invalid:
    return Invalid(f"{os.fsdecode(name)!a} is a directory in the head", hint="move it away first")


def _once(seen: set[Ino], directory: Ino) -> None:
    """A walk meets each directory once.

    Raises:
        Corrupt: one is in two places, perhaps in itself: the walk would never end.
    """
    if directory in seen:
        raise Corrupt(f"directory {directory} of the snapshot is in two places", hint="run: snap fsck")
    seen.add(directory)


class Restore:
    """One restore: from a snapshot's view into a head."""

    def __init__(self, core: Core, files: Files, source: View, head: View, root: Ino, is_open: IsOpen) -> None:
        self._core = core
        self._files = files
        self._source = source
        self._head = head
        self._root = root
        self._is_open = is_open
        self._copies: dict[Ino, Ino] = {}
        """Inode in the snapshot -> its copy in the head, so that hard links stay links."""
        self.touched = Touched()
        self.files = 0
        self.total_bytes = 0

    def paths(self, paths: list[list[bytes]]) -> None:
        """Restore what the snapshot has at the paths.

        Raises:
            NotFound: it has nothing at one.
            NotADirectory, Invalid: something of another type stands in the way in the head.
            QuotaExceeded: the head would hold more than it may.
            NoSpace: only of this something may be restored already.
        """
        checked: list[list[bytes]] = []
        for names in paths:
            if not any(names[: len(above)] == above for above in checked):  # else that one clears the way
                self._check(names)
                checked.append(names)
        usage = self._core.usages.of(self._head)
        if usage.quota_bytes and usage.quota_kind is QuotaKind.LOGICAL:  # what is stored already is shared
            growth = self._growth(checked)
            if not usage.fits(growth):
                raise exceeded(usage, growth)
        for names in paths:
            self._path(names)

    def _growth(self, paths: list[list[bytes]]) -> int:
        """By how much the head's files will grow: what comes back, without what it replaces."""
        coming: dict[Ino, int] = {}
        going: dict[Ino, int] = {}
        for names in paths:
            source, target = self._core.inode(self._source, self._root), self._core.inode(self._head, self._root)
            found: Inode | None = target
            for name in names:
                source = self._files.lookup(self._source, source.ino, name)
                found = self._find(found.ino, name) if found and stat.S_ISDIR(found.mode) else None
            pairs: list[tuple[Inode, Inode | None]] = [(source, found)]
            seen: set[Ino] = set()
            while pairs:
                source, found = pairs.pop()
                if stat.S_ISDIR(source.mode):
                    _once(seen, source.ino)
                    inside = found is not None and stat.S_ISDIR(found.mode)
                    for _, name, ino, _ in self._files.readdir(self._source, source.ino, 0):
                        there = self._find(found.ino, name) if found is not None and inside else None
                        pairs.append((self._core.inode(self._source, ino), there))
                elif found is None or not self._same(source, found):
                    coming[source.ino] = source.allocated_bytes
                if found is not None and found.nlink == 1 and not self._same(source, found):
                    going[found.ino] = found.allocated_bytes
        return sum(coming.values()) - sum(going.values())

    def _check(self, names: list[bytes]) -> None:
        """Whether the path can be restored: changes nothing, raises as ``paths``."""
        source = self._core.inode(self._source, self._root)
        for name in names:
            try:
                source = self._files.lookup(self._source, source.ino, name)
            except (NotFound, NotADirectory):
                raise NotFound(f"the snapshot has no {os.fsdecode(b'/'.join(names))!a}") from None
        target: Inode | None = self._core.inode(self._head, self._root)
        for place, name in enumerate(names):
            target = self._find(target.ino, name) if target else None
            if place < len(names) - 1 and target and not stat.S_ISDIR(target.mode):
                raise _not_a_directory(name)
        if target is None:
            return
        pairs: list[tuple[bytes, Inode, Inode]] = [(names[-1] if names else b"", source, target)]
        seen: set[Ino] = set()
        while pairs:
            name, source, there = pairs.pop()
            if not stat.S_ISDIR(there.mode):
                continue
            if not stat.S_ISDIR(source.mode):
                raise _is_a_directory(name)
            _once(seen, source.ino)
            for _, below, ino, _ in list(self._files.readdir(self._source, source.ino, 0)):
                found = self._find(there.ino, below)
                if found is not None:
                    pairs.append((below, self._core.inode(self._source, ino), found))

    def _path(self, names: list[bytes]) -> None:
        source, parents = self._root, []
        for name in names:
            parents.append((source, name))
            source = self._files.lookup(self._source, source, name).ino
        if not names:
            self._merge(source, self._root)
            return
        target = self._root
        for parent, name in parents[:-1]:
            above = self._files.lookup(self._source, parent, name)
            target = self._directory(target, name, above)
        self._entry(source, target, names[-1])

    def _directory(self, parent: Ino, name: bytes, like: Inode) -> Ino:
        """The head's directory of that name, made like the snapshot's if it is missing."""
        try:
            found = self._files.lookup(self._head, parent, name)
        except NotFound:
            return self._new_directory(like, parent, name)
        if not stat.S_ISDIR(found.mode):
            raise _not_a_directory(name)
        return found.ino

    def _new_directory(self, like: Inode, parent: Ino, name: bytes) -> Ino:
        made = self._files.mkdir(self._head, parent, name, mode=like.mode, uid=like.uid, gid=like.gid)
        self._note(parent, name)
        self._copy_extras(like.ino, made.ino)
        self._like(made.ino, like)
        return made.ino

    def _like(self, ino: Ino, like: Inode) -> None:
        """Mode, owner and times of the snapshot's inode (a setgid parent changes what mkdir gives)."""
        self._files.setattr(
            self._head, ino, mode=like.mode, uid=like.uid, gid=like.gid,
            atime_ns=like.atime_ns, mtime_ns=like.mtime_ns,
        )  # fmt: skip

    def _note(self, parent: Ino, name: bytes) -> None:
        self.touched.entries.append((parent, name))
        self.touched.inodes.add(parent)

    def _merge(self, source: Ino, target: Ino) -> None:
        """Restore all entries of a directory into one that exists; an explicit stack, as trees may be deep."""
        stack = [(source, target)]
        seen: set[Ino] = set()
        while stack:
            source, target = stack.pop()
            _once(seen, source)
            for _, name, ino, kind in list(self._files.readdir(self._source, source, 0)):
                if kind == stat.S_IFDIR:
                    like = self._core.inode(self._source, ino)
                    self._clear_file(target, name)
                    stack.append((ino, self._directory(target, name, like)))
                else:
                    self._file(ino, target, name)

    def _entry(self, source: Ino, parent: Ino, name: bytes) -> None:
        like = self._core.inode(self._source, source)
        if stat.S_ISDIR(like.mode):
            self._clear_file(parent, name)
            self._merge(source, self._directory(parent, name, like))
        else:
            self._file(source, parent, name)

    def _clear_file(self, parent: Ino, name: bytes) -> None:
        """A directory comes back where the head has a file: the file goes."""
        found = self._find(parent, name)
        if found is not None and not stat.S_ISDIR(found.mode):
            self._files.unlink(self._head, parent, name, is_open=self._is_open)
            self._note(parent, name)

    def _find(self, parent: Ino, name: bytes) -> Inode | None:
        try:
            return self._files.lookup(self._head, parent, name)
        except NotFound:
            return None

    def _file(self, source: Ino, parent: Ino, name: bytes) -> None:
        old = self._core.inode(self._source, source)
        found = self._find(parent, name)
        if found is not None and stat.S_ISDIR(found.mode):
            raise _is_a_directory(name)
        if found is not None and self._same(old, found):
            return
        copy = self._copies.get(source)
        if copy is not None and found is not None and found.ino == copy:
            return
        if found is not None:
            self._files.unlink(self._head, parent, name, is_open=self._is_open)
        if copy is not None:
            self._files.link(self._head, copy, parent, name)
        else:
            self._copies[source] = self._copy(old, parent, name)
        self._note(parent, name)
        self.files += 1
        self.total_bytes += old.size if stat.S_ISREG(old.mode) else 0

    def _same(self, old: Inode, found: Inode) -> bool:
        """Whether the head still has just this file."""
        if old.ino != found.ino or (old.fork, old.size, old.mode) != (found.fork, found.size, found.mode):
            return False
        if old != found or not self._files.is_clean(self._head, found.ino):
            return False
        # The clock ticks every few milliseconds: what was changed since may have the same times, and other names.
        tree, prefixes = self._core.tree, (keys.head(old.ino, keys.XATTR), keys.extents(old.ino, old.fork))
        before, after = (tree.find(view, keys.inode(old.ino)) for view in (self._source, self._head))
        if before == after or old.nlink > 1:
            return before == after
        return all(
            [(subject, payload) for subject, _, payload in tree.scan(self._source, prefix)]
            == [(subject, payload) for subject, _, payload in tree.scan(self._head, prefix)]
            for prefix in prefixes
        )

    def _copy(self, old: Inode, parent: Ino, name: bytes) -> Ino:
        """A new inode with the snapshot's attributes, xattrs, target and blocks."""
        core, head = self._core, self._head
        extents = list(core.tree.scan(self._source, keys.extents(old.ino, old.fork)))
        core.admit(len(extents) * _PUTS_PER_EXTENT * PAGE_BYTES)
        if stat.S_ISLNK(old.mode):
            target = self._files.readlink(self._source, old.ino)
            made = self._files.symlink(head, parent, name, target, uid=old.uid, gid=old.gid)
        else:
            made = self._files.mknod(head, parent, name, mode=old.mode, uid=old.uid, gid=old.gid, rdev=old.rdev)
        for subject, _, payload in extents:
            core.put_extent(head, made.ino, made.fork, keys.split_extent(subject)[1], payload)
        self._copy_extras(old.ino, made.ino)
        copy = msgspec.structs.replace(old, ino=made.ino, nlink=1, fork=made.fork, ctime_ns=now_ns())
        core.put_inode(head, copy)
        core.usages.grow(head, copy.allocated_bytes)
        return made.ino

    def _copy_extras(self, old: Ino, new: Ino) -> None:
        for name in self._files.listxattr(self._source, old):
            value = self._files.getxattr(self._source, old, name)
            self._files.setxattr(self._head, new, name, value)
