"""What an import changes in the head.

Invariants:
  * Every step here is synchronous and leaves a sound tree: a directory's links are counted in the step that makes
    directories in it, a file has its bytes, attributes and name in one step.
  * A large file is an orphan (table ``orphans``, no links) until all its bytes are in place: a crash, a snapshot or a
    reader meets it whole or not at all.
  * What the head has at a name gives way only to something that was read; a directory never to anything else.
  * A directory that the import has made, in the same epoch, holds what the import put there and what programs put there
    since: a name is looked up only if another has it already.
  * Directories get their times when they are made, and adding names does not change them.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

import msgspec

from snapfs.api import QuotaKind
from snapfs.errors import AlreadyExists, NotFound, Stale, TooManyLinks
from snapfs.extents import Extent, Plan
from snapfs.format import keys, records
from snapfs.format.records import Inode
from snapfs.store.blocks import Placed
from snapfs.types import LINKS_MAX, Epoch, Ino
from snapfs.versions.epochs import View
from snapfs.volume.core import Core, now_ns
from snapfs.volume.files import Files
from snapfs.volume.names import IsOpen
from snapfs.volume.quota import exceeded
from snapfs.volume.reduction.cutting import Chunk
from snapfs.volume.touched import Touched
from snapfs.volume.transfer import acl
from snapfs.volume.transfer.reading import Content, Xattrs
from snapfs.volume.transfer.walk import Directory

_GROUP_BITS = 0o070


class Target:
    """The head that an import goes into.

    Args:
        root: of the volume.
        is_open: whether a file that loses its last name is open.
        is_known: whether the kernel may know anything of a directory.
    """

    def __init__(
        self, core: Core, files: Files, head: View, root: Ino, is_open: IsOpen, is_known: Callable[[Ino], bool]
    ) -> None:
        self._core = core
        self._tree = core.tree
        self._files = files
        self._head = head
        self.root = root
        self._is_open = is_open
        self._is_known = is_known
        self.touched = Touched()
        """What the kernel must forget; taken, and replaced, by whoever tells it."""

    # -- directories

    def enter(self, names: list[bytes], *, uid: int, gid: int) -> Ino:
        """The directory at a path, made with what is missing above it.

        Raises:
            NotADirectory, NameTooLong, NoSpace.
        """
        at = self.root
        for name in names:
            try:
                found = self._files.lookup(self._head, at, name)
            except NotFound:
                found = self._files.mkdir(self._head, at, name, mode=0o755, uid=uid, gid=gid)
                self._note(at, name)
            at = found.ino
        self._directory(at)
        return at

    def _directory(self, ino: Ino) -> Inode:
        """Raises:
        Stale: it is gone, by a checkout or because somebody removed it, or the whole volume is.
        """
        self._tree.check_writable(self._head)
        try:
            inode = self._core.inode(self._head, ino)
            if stat.S_ISDIR(inode.mode):
                return inode
        except NotFound:
            pass
        raise Stale(
            "a directory that is imported into was removed meanwhile", hint="run the import again to complete it"
        )

    def like(self, ino: Ino, found: os.stat_result, mode: int) -> None:
        """Give a directory the attributes of the source's."""
        inode = self._directory(ino)
        wanted = msgspec.structs.replace(
            inode, mode=mode, uid=found.st_uid, gid=found.st_gid, atime_ns=found.st_atime_ns, mtime_ns=found.st_mtime_ns
        )
        if wanted != inode:
            self._core.put_inode(self._head, msgspec.structs.replace(wanted, ctime_ns=now_ns()))
            self.touched.inodes.add(ino)

    def set_xattrs(self, ino: Ino, xattrs: Xattrs) -> None:
        """Also removes others that it has."""
        gone = set(self._files.listxattr(self._head, ino)) - {name for name, _ in xattrs}
        for name in gone:
            self._tree.delete(self._head, keys.xattr(ino, name))
        self._put_xattrs(ino, xattrs)

    def make_directories(
        self, parent: Directory, found: list[tuple[bytes, os.stat_result]]
    ) -> tuple[list[Directory], list[tuple[bytes, Exception]]]:
        """The head's directories of these names, made if they are missing; and which could not be, and why.

        Raises:
            Stale, NoSpace.
        """
        made: list[Directory] = []
        failed: list[tuple[bytes, Exception]] = []
        above = self._directory(parent.ino)
        known = self._is_known(parent.ino)
        links = 0
        try:
            for name, like in found:
                there = None if self._is_fresh(parent) else self._find(parent.ino, name)
                if there is not None and stat.S_ISDIR(there.mode):
                    made.append(Directory(parent, name, like, there.ino, Epoch(0)))
                    continue
                if above.nlink + links >= LINKS_MAX:
                    failed.append((name, TooManyLinks(f"a directory holds at most {LINKS_MAX - 2} directories")))
                    continue
                self._core.admit()
                ino = self._core.new_ino()
                if there is not None:
                    self._clear(parent, name, known)
                if not self._enter(parent, name, ino, like.st_mode, known):
                    failed.append((name, AlreadyExists("another program made something there")))
                    continue
                self._core.put_inode(self._head, _inode(ino, like, like.st_mode, nlink=2))
                links += 1
                made.append(Directory(parent, name, like, ino, self._head.epoch))
        finally:
            if links:
                above = self._directory(parent.ino)
                counted = msgspec.structs.replace(above, nlink=above.nlink + links, ctime_ns=now_ns())
                self._core.put_inode(self._head, counted)
                if known:
                    self.touched.inodes.add(parent.ino)
        return made, failed

    def _is_fresh(self, directory: Directory) -> bool:
        return directory.fresh == self._head.epoch

    def check(self, directory: Directory) -> bool:
        """Whether the kernel may know anything of the directory.

        Raises:
            Stale: it is gone.
        """
        self._directory(directory.ino)
        return self._is_known(directory.ino)

    # -- names

    def _find(self, parent: Ino, name: bytes) -> Inode | None:
        return self._files.find(self._head, parent, name)

    def _enter(self, parent: Directory, name: bytes, ino: Ino, mode: int, known: bool) -> bool:
        """Give an inode a name that was free; false, and nothing happened, if it is taken after all."""
        entry = keys.dirent(parent.ino, name, self._core.seed)
        payload = records.encode_dirent(ino, mode)
        if self._is_fresh(parent):
            if not self._tree.add(self._head, entry, payload):
                return False
        else:
            self._tree.put(self._head, entry, payload)
        self._tree.put(self._head, keys.parent(ino, parent.ino, name), records.PRESENT)
        if known:
            self._note(parent.ino, name)
        return True

    def _note(self, parent: Ino, name: bytes) -> None:
        """The kernel may believe that there is no such name, or another."""
        self.touched.entries.append((parent, name))
        self.touched.inodes.add(parent)

    def _clear(self, parent: Directory, name: bytes, known: bool) -> None:
        """Take a file's name away; the directory keeps its time."""
        before = self._directory(parent.ino)
        self._files.unlink(self._head, parent.ino, name, is_open=self._is_open)
        after = msgspec.structs.replace(self._directory(parent.ino), mtime_ns=before.mtime_ns)
        self._core.put_inode(self._head, after)
        if known:
            self._note(parent.ino, name)

    # -- what is there already

    def unchanged(self, directory: Directory, name: bytes, found: os.stat_result) -> Inode | None:
        """The head's file, if it is as the source's: type, size, mtime, mode, owner, device."""
        if self._is_fresh(directory):
            return None
        there = self._find(directory.ino, name)
        if there is None or (there.nlink > 1 and found.st_nlink == 1):
            return None
        is_device = stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode)
        same = (
            stat.S_IFMT(there.mode) == stat.S_IFMT(found.st_mode)
            and there.mtime_ns == found.st_mtime_ns
            and there.uid == found.st_uid
            and there.gid == found.st_gid
            and (there.size == found.st_size or is_device)
            and (there.rdev == found.st_rdev or not is_device)
        )
        return there if same and self._same_mode(there, found.st_mode) else None

    def _same_mode(self, there: Inode, mode: int) -> bool:
        if there.mode == mode:
            return True
        if (there.mode ^ mode) & ~_GROUP_BITS:
            return False
        return acl_of(self._files, self._head, there.ino)[0] == mode

    # -- files

    def ready(self, chunks: list[Chunk], placed: dict[bytes, Placed]) -> bool:
        """Whether every chunk is stored already or is placed."""
        known = self._core.blocks.known
        return all(chunk.hash in placed or known(chunk.hash) for chunk in chunks)

    def _extents(self, chunks: list[Chunk], placed: dict[bytes, Placed]) -> list[Extent]:
        """Of chunks that are ready; their blocks then have entries, and are to get references in this very step."""
        blocks = self._core.blocks
        found: list[Extent] = []
        for chunk in chunks:
            block = blocks.known(chunk.hash) or blocks.add(placed.pop(chunk.hash))
            found.append(Extent(chunk.offset, len(chunk.data), block, 0))
        return found

    def put(
        self, directory: Directory, name: bytes, content: Content, placed: dict[bytes, Placed], *, known: bool
    ) -> Ino | None:
        """Make a file, link, fifo, socket or device of what was read, whose chunks are ready; None if a directory is in
        its way.

        Raises:
            QuotaExceeded, NoSpace: nothing happened.
        """
        growth = content.growth
        if self._is_fresh(directory):
            self._check_room(growth)
            ino = self._core.new_ino()
            if self._enter(directory, name, ino, content.mode, known):
                self._fill(ino, content, placed)
                return ino
            directory.fresh = Epoch(0)  # somebody else is at work there
        there = self._find(directory.ino, name)
        if there is not None and stat.S_ISDIR(there.mode):
            return None
        self._check_room(growth, there)
        ino = self._core.new_ino()
        self._fill(ino, content, placed)
        if there is not None:  # only now: it may have been the last that has these blocks
            self._clear(directory, name, known)
        self._enter(directory, name, ino, content.mode, known)
        return ino

    def _fill(self, ino: Ino, content: Content, placed: dict[bytes, Placed]) -> None:
        core, head, growth = self._core, self._head, content.growth
        inode = _inode(ino, content.stat, content.mode, size=content.size, allocated_bytes=growth)
        if growth:
            core.apply(head, inode, [], Plan(self._extents(content.chunks, placed), [], growth))
        core.put_inode(head, inode)
        if content.xattrs:
            self._put_xattrs(ino, content.xattrs)
        if content.target:
            self._tree.put(head, keys.symlink(ino), content.target)

    def _check_room(self, growth: int, there: Inode | None = None) -> None:
        usage = self._core.usages.of(self._head)
        freed = there.allocated_bytes if there is not None and there.nlink == 1 else 0
        if usage.quota_kind is QuotaKind.EXCLUSIVE:  # a snapshot may go on to show it
            freed = 0
        if not usage.fits(growth - freed):
            raise exceeded(usage, growth - freed)
        self._core.admit()

    def _put_xattrs(self, ino: Ino, xattrs: Xattrs) -> None:
        for name, value in xattrs:
            self._tree.put(self._head, keys.xattr(ino, name), records.PRESENT + value)

    def link(self, directory: Directory, name: bytes, ino: Ino, *, known: bool) -> bool:
        """A further name of a file; false if there cannot be one: a directory is in its way, the file is gone, or has
        too many."""
        core, head = self._core, self._head
        there = None if self._is_fresh(directory) else self._find(directory.ino, name)
        if there is not None and there.ino == ino:
            return True
        if there is not None and stat.S_ISDIR(there.mode):
            return False
        core.admit()
        try:
            inode = core.inode(head, ino)
        except NotFound:
            return False
        if not 0 < inode.nlink < LINKS_MAX:
            return False
        if there is not None:
            self._clear(directory, name, known)
        if not self._enter(directory, name, ino, inode.mode, known):
            directory.fresh = Epoch(0)
            return self.link(directory, name, ino, known=known)
        core.put_inode(head, msgspec.structs.replace(inode, nlink=inode.nlink + 1, ctime_ns=now_ns()))
        return True

    # -- large files

    def begin(self, found: os.stat_result) -> Ino:
        """A file that has no name and no bytes yet.

        Raises:
            QuotaExceeded, NoSpace.
        """
        self._tree.check_writable(self._head)
        self._check_room(0)
        ino = self._core.new_ino()
        self._core.put_inode(self._head, _inode(ino, found, found.st_mode, nlink=0))
        self._core.index.put("orphans", keys.u64(self._head.volume_id) + keys.u64(ino), records.PRESENT)
        return ino

    def extend(self, ino: Ino, chunks: list[Chunk], placed: dict[bytes, Placed]) -> None:
        """More bytes of it, anywhere where it has none, of chunks that are ready.

        Raises:
            Stale: a checkout took it away.
            QuotaExceeded, NoSpace.
        """
        growth = sum([len(chunk.data) for chunk in chunks])
        self._check_room(growth)
        inode = self._begun(ino)
        extents = self._extents(chunks, placed)
        self._core.apply(self._head, inode, [], Plan(extents, [], growth))
        size = max(inode.size, extents[-1].end)
        grown = msgspec.structs.replace(inode, size=size, allocated_bytes=inode.allocated_bytes + growth)
        self._core.put_inode(self._head, grown)

    def _begun(self, ino: Ino) -> Inode:
        self._tree.check_writable(self._head)
        try:
            return self._core.inode(self._head, ino)
        except NotFound:
            raise Stale(
                "the volume was set to another snapshot meanwhile", hint="run the import again to complete it"
            ) from None

    def finish(self, directory: Directory, name: bytes, ino: Ino, content: Content, *, known: bool) -> bool:
        """Give it its name and attributes; false if a directory is in its way: then it is gone.

        Raises:
            Stale.
        """
        begun = self._begun(ino)
        there = None if self._is_fresh(directory) else self._find(directory.ino, name)
        if there is not None and stat.S_ISDIR(there.mode):
            self.abandon(ino)
            return False
        if there is not None:
            self._clear(directory, name, known)
        if not self._enter(directory, name, ino, content.mode, known):
            directory.fresh = Epoch(0)
            return self.finish(directory, name, ino, content, known=known)
        allocated = begun.allocated_bytes
        inode = _inode(ino, content.stat, content.mode, size=content.size, allocated_bytes=allocated)
        self._core.put_inode(self._head, inode)
        self._core.index.delete("orphans", keys.u64(self._head.volume_id) + keys.u64(ino))
        self._put_xattrs(ino, content.xattrs)
        return True

    def abandon(self, ino: Ino) -> None:
        """It is not wanted any more."""
        self._files.drop(self._head, ino)


def _inode(
    ino: Ino, found: os.stat_result, mode: int, *, nlink: int = 1, size: int = 0, allocated_bytes: int = 0
) -> Inode:
    now = now_ns()
    is_device = stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
    return Inode(
        ino, mode, nlink, found.st_uid, found.st_gid, found.st_rdev if is_device else 0, size, allocated_bytes,
        found.st_atime_ns, found.st_mtime_ns, now, now,
    )  # fmt: skip


def acl_of(files: Files, view: View, ino: Ino) -> tuple[int | None, bytes]:
    """(the mode that an imported file had, its ACL); None without an ACL that goes with its mode."""
    if acl.ACCESS not in files.listxattr(view, ino):
        return None, b""
    found = files.getxattr(view, ino, acl.ACCESS)
    return acl.original(files.getattr(view, ino).mode, found), found
