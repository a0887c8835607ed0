"""Requests of the kernel, handed to the engine.

Invariants:
  * A handler without ``await`` is atomic: what it reads and answers is one state of the tree.
  * Every answer that makes the kernel know a node counts a lookup of the node, in the same step.
  * The kernel caches writes, so the size and times of a regular file that it knows are its own: it sends
    them, and writes do not touch times here.
  * Permissions are the kernel's to check (``default_permissions``), and it has applied the umask.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from typing import Final

from pyfuse3 import (
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    EntryAttributes,
    FileInfo,
    FUSEError,
    InodeT,
    ReaddirToken,
    RequestContext,
    SetattrFields,
    StatvfsData,
    readdir_reply,
)

from snapfs.errors import (
    CrossVolume,
    Invalid,
    IsADirectory,
    NameTooLong,
    NotFound,
    QuotaExceeded,
    ReadOnly,
    SnapfsError,
    Stale,
)
from snapfs.format.records import Inode
from snapfs.fuse import attributes
from snapfs.fuse.errnos import log, request, waiting_request
from snapfs.fuse.handles import Directory
from snapfs.fuse.nodes import ROOT, SNAP_NAME, Node
from snapfs.fuse.objects import TYPE_MASK, XattrRequests
from snapfs.types import NAME_BYTES_MAX
from snapfs.volume.core import now_ns

_DOT: Final = 1
_DOT_DOT: Final = 2
"""Cookies of the entries that every directory has."""
_DOTS: Final = (b".", b"..")


def _more_than_times(fields: SetattrFields) -> bool:
    return bool(
        fields.update_size or fields.update_mode or fields.update_uid or fields.update_gid or fields.update_atime
    )


class Requests(XattrRequests):
    """The handlers."""

    # Names

    @request
    def lookup(self, parent_inode: InodeT, name: bytes, ctx: RequestContext) -> EntryAttributes:
        place = self._nodes.place(parent_inode)
        if place is None or name in _DOTS:
            return self._lookup_beside(parent_inode, name)
        tree, ino = place
        if name == SNAP_NAME and tree.has_snap(ino):
            return self._virtual.snap_entry(tree)
        inode = self._files.find(tree.view, ino, name)
        if inode is not None:
            return self._entry(tree, inode)
        if len(name) > NAME_BYTES_MAX:
            raise NameTooLong(f"a name has at most {NAME_BYTES_MAX} bytes")
        return attributes.ABSENT

    def _lookup_beside(self, parent: Node, name: bytes) -> EntryAttributes:
        """What is no entry of a directory in a tree."""
        if name == b".":
            return self._lookup_node(parent)
        if name == b"..":
            return self._lookup_node(self._parent(parent))
        if not self._is_virtual(parent):
            raise Stale(f"node {parent} is of no volume or snapshot that is left")
        return self._virtual.lookup(parent, name)

    def _parent(self, node: Node) -> Node:
        if self._is_virtual(node):
            return self._virtual.parent(node)
        tree, ino = self._object(node)
        return tree.above if ino == tree.root else self._nodes.node(tree, self._files.parent_of(tree.view, ino))

    def _lookup_node(self, node: Node) -> EntryAttributes:
        if self._is_virtual(node):
            entry = self._virtual.attributes(node)
            self._nodes.looked_up(node)
            return entry
        return self._entry(*self._current(node))

    @request
    def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        for inode, lookups in inode_list:
            self._nodes.forget(inode, lookups)
        self._kernel.forgot()

    @request
    def mknod(self, parent_inode: InodeT, name: bytes, mode: int, rdev: int, ctx: RequestContext) -> EntryAttributes:
        tree, parent = self._place(parent_inode, name, new=True)
        inode = self._files.mknod(tree.view, parent, name, mode=mode, uid=ctx.uid, gid=ctx.gid, rdev=rdev)
        return self._entry(tree, inode)

    @request
    def mkdir(self, parent_inode: InodeT, name: bytes, mode: int, ctx: RequestContext) -> EntryAttributes:
        if parent_inode == ROOT:
            return self._virtual.create_volume(name, mode=stat.S_IMODE(mode), uid=ctx.uid, gid=ctx.gid)
        tree, parent = self._place(parent_inode, name, new=True)
        inode = self._files.mkdir(tree.view, parent, name, mode=mode, uid=ctx.uid, gid=ctx.gid)
        return self._entry(tree, inode)

    @request
    def symlink(self, parent_inode: InodeT, name: bytes, target: bytes, ctx: RequestContext) -> EntryAttributes:
        tree, parent = self._place(parent_inode, name, new=True)
        return self._entry(tree, self._files.symlink(tree.view, parent, name, target, uid=ctx.uid, gid=ctx.gid))

    @request
    def link(self, inode: InodeT, new_parent_inode: InodeT, new_name: bytes, ctx: RequestContext) -> EntryAttributes:
        tree, parent = self._place(new_parent_inode, new_name, new=True)
        source, old = self._current(inode)
        if source is not tree:
            raise CrossVolume("a hard link cannot leave its volume")
        return self._entry(tree, self._files.link(tree.view, old.ino, parent, new_name))

    @request
    def unlink(self, parent_inode: InodeT, name: bytes, ctx: RequestContext) -> None:
        tree, parent = self._place(parent_inode, name, new=False)
        left = self._files.unlink(tree.view, parent, name, is_open=self._keeps(tree))
        if left.nlink == 0:
            self._gone(tree, left)

    @request
    def rmdir(self, parent_inode: InodeT, name: bytes, ctx: RequestContext) -> None:
        if parent_inode == ROOT:
            self._virtual.remove_volume(name)
            return
        tree, parent = self._place(parent_inode, name, new=False)
        self._gone(tree, self._files.rmdir(tree.view, parent, name))

    @request
    def rename(
        self,
        parent_inode_old: InodeT,
        name_old: bytes,
        parent_inode_new: InodeT,
        name_new: bytes,
        flags: int,
        ctx: RequestContext,
    ) -> None:
        if flags & ~(RENAME_EXCHANGE | RENAME_NOREPLACE):
            raise Invalid(f"rename flags {flags:#x} are not known")
        tree, parent = self._place(parent_inode_old, name_old, new=False)
        new_tree, new_parent = self._place(parent_inode_new, name_new, new=False)
        if tree is not new_tree:
            raise CrossVolume("a rename cannot leave its volume")
        replaced = self._files.rename(
            tree.view,
            parent,
            name_old,
            new_parent,
            name_new,
            noreplace=bool(flags & RENAME_NOREPLACE),
            exchange=bool(flags & RENAME_EXCHANGE),
            is_open=self._keeps(tree),
        )
        if replaced is not None and (replaced.nlink == 1 or stat.S_ISDIR(replaced.mode)):
            self._gone(tree, replaced)

    @request
    def readlink(self, inode: InodeT, ctx: RequestContext) -> bytes:
        if self._is_virtual(inode):
            return self._virtual.link(inode).target
        tree, ino = self._object(inode)
        return self._files.readlink(tree.view, ino)

    # Attributes

    @request
    def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        gone = self._nodes.unlinked(inode)
        if gone is not None:
            return attributes.of_inode(inode, gone)
        place = self._nodes.place(inode)
        if place is None and self._is_virtual(inode):
            return self._virtual.attributes(inode)
        return attributes.of_inode(inode, self._current(inode, place)[1])

    @request
    def setattr(
        self, inode: InodeT, attr: EntryAttributes, fields: SetattrFields, fh: int | None, ctx: RequestContext
    ) -> EntryAttributes:
        tree, ino = self._object(inode)
        self._check_current(inode)
        gone = self._nodes.unlinked(inode)
        if gone is not None:
            return self._set_unlinked(inode, gone, attr, fields)
        if fields.update_ctime and fields.update_mtime and not _more_than_times(fields):
            times = self._files.set_times(tree.view, ino, mtime_ns=attr.st_mtime_ns, ctime_ns=attr.st_ctime_ns)
            return attributes.of_inode(inode, times)
        changed = self._files.setattr(
            tree.view,
            ino,
            mode=stat.S_IMODE(attr.st_mode) if fields.update_mode else None,
            uid=attr.st_uid if fields.update_uid else None,
            gid=attr.st_gid if fields.update_gid else None,
            size=attr.st_size if fields.update_size else None,
            atime_ns=attr.st_atime_ns if fields.update_atime else None,
            mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
            ctime_ns=attr.st_ctime_ns if fields.update_ctime else None,
        )
        return attributes.of_inode(inode, changed)

    def _set_unlinked(self, node: Node, gone: Inode, attr: EntryAttributes, fields: SetattrFields) -> EntryAttributes:
        """Only the kernel remembers the object.  Every unlink comes here: the kernel hands over its time, and would
        tell syncfs(2) of an error."""
        if fields.update_size:
            raise Stale(f"inode {gone.ino} is gone")
        changed = attributes.changed(gone, attr, fields)
        self._nodes.keep_attributes(node, changed)
        return attributes.of_inode(node, changed)

    @request
    def statfs(self, ctx: RequestContext) -> StatvfsData:
        return attributes.of_space(self._files.space())

    # Files

    @request
    def open(self, inode: InodeT, flags: int, ctx: RequestContext) -> FileInfo:
        place = self._nodes.place(inode)
        if place is None and self._is_virtual(inode):
            raise IsADirectory("not a file")
        tree, ino = place or self._object(inode)
        if not self._nodes.is_there(inode):
            raise Stale(f"inode {ino} was replaced or is gone")
        if flags & (os.O_ACCMODE | os.O_TRUNC) != os.O_RDONLY and not tree.view.writable:
            raise ReadOnly("snapshots are read-only")
        if flags & os.O_TRUNC:
            # Of this truncation alone the kernel leaves it to us to take privileges away.
            mode = attributes.unprivileged(self._current(inode)[1].mode) if ctx.uid else None
            self._files.setattr(tree.view, ino, size=0, mode=mode, mtime_ns=now_ns())
        return self._open(inode, tree, ino, flags, thread=ctx.pid)

    @request
    def create(
        self, parent_inode: InodeT, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        tree, parent = self._place(parent_inode, name, new=True)
        mode = stat.S_IFREG | stat.S_IMODE(mode)
        inode = self._files.mknod(tree.view, parent, name, mode=mode, uid=ctx.uid, gid=ctx.gid)
        entry = self._entry(tree, inode)
        return self._open(entry.st_ino, tree, inode.ino, flags, thread=ctx.pid), entry

    @waiting_request
    async def read(self, fh: int, off: int, size: int) -> bytes:
        file = self._handles.file(fh)
        file.check()
        data = await self._files.read(file.view, file.ino, off, size)
        file.check()  # a checkout while it was read: half of it may be of the one content, half of the other
        return data  # type: ignore[return-value]  # pyfuse3 takes any buffer

    @waiting_request
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        file = self._handles.file(fh)
        file.check()
        try:
            return await self._files.write(file.view, file.ino, off, buf, touch=False, check=file.check)
        except QuotaExceeded:
            if file.direct:
                raise
            # The kernel's cache brings it: write(2) is over, and close(2) tells of EDQUOT as EIO, of ENOSPC as such.
            raise FUSEError(errno.ENOSPC) from None

    @waiting_request
    async def fsync(self, fh: int, datasync: bool) -> None:
        file = self._handles.file(fh)
        if file.internal:  # for the kernel's pages only: whoever asked for them commits
            return
        file.check()
        if file.view.writable:
            await self._files.fsync(file.view, file.ino)

    @request
    def release(self, fh: int) -> None:
        file, unlinked = self._handles.close_file(fh)
        if unlinked and not file.view.gone:
            try:
                left = self._files.getattr(file.view, file.ino)
                if left.nlink == 0:  # else it was to lose its last name, but that failed
                    self._nodes.keep_attributes(file.node, left)
                    self._files.drop(file.view, file.ino)
            except SnapfsError as error:  # nobody is left to hear of it; the next start drops it
                log.warning("inode %d without links stays: %s", file.ino, error.message)

    # Directories

    @request
    def opendir(self, inode: InodeT, ctx: RequestContext) -> int:
        if not self._is_virtual(inode) and self._nodes.unlinked(inode) is None:
            self._current(inode)
        return self._handles.open_directory(Directory(inode))

    @request
    def readdir(self, fh: int, start_id: int, token: ReaddirToken) -> None:
        directory = self._handles.directory(fh)
        node = directory.node
        for cookie, dot, target in ((_DOT, b".", node), (_DOT_DOT, b"..", self._parent(node))):
            if start_id < cookie and not readdir_reply(token, dot, attributes.of_dot(target), cookie):
                return
        if self._is_virtual(node):
            self._readdir_virtual(directory, start_id, token)
        else:
            self._readdir_tree(node, start_id, token)

    def _readdir_tree(self, node: Node, start_id: int, token: ReaddirToken) -> None:
        tree, directory = self._object(node)
        for cookie, name, ino, _ in self._files.readdir(tree.view, directory, max(start_id, _DOT_DOT)):
            inode = self._files.getattr(tree.view, ino)
            child = self._nodes.node(tree, ino)
            entry = attributes.of_inode(child, inode)
            if not readdir_reply(token, name, entry, cookie):
                return
            self._nodes.looked_up(child, regular=inode.mode & TYPE_MASK == stat.S_IFREG)

    def _readdir_virtual(self, directory: Directory, start_id: int, token: ReaddirToken) -> None:
        if start_id <= _DOT_DOT:
            directory.listing = self._virtual.listing(directory.node)
        for cookie, name in directory.listing:
            if cookie <= start_id:
                continue
            try:
                entry = self._virtual.lookup(directory.node, name)
            except NotFound:  # removed since the listing
                continue
            if not readdir_reply(token, name, entry, cookie):
                self._nodes.forget(entry.st_ino, 1)
                return

    @request
    def releasedir(self, fh: int) -> None:
        self._handles.close_directory(fh)

    @waiting_request
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        await self._lake.persist()
