"""What all handlers stand on: from a number to the object and back to an answer; and extended
attributes.

Invariants:
  * Every answer that makes the kernel know a node counts a lookup of the node, in the same step.
  * An object that is not in a tree (the mount's root, ``.snap``, links in it) is never changed.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence
from typing import Final

import trio
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, InodeT, Operations, RequestContext

from snapfs.errors import AlreadyExists, Invalid, NoAttribute, NotFound, NotPermitted, ReadOnly, Stale
from snapfs.format.records import Inode
from snapfs.fuse import attributes
from snapfs.fuse.errnos import request
from snapfs.fuse.handles import File, Handles
from snapfs.fuse.kernel import MountKernel
from snapfs.fuse.nodes import ROOT, SNAP_NAME, Node, Nodes, Tree
from snapfs.fuse.virtual import Virtual, is_virtual
from snapfs.timings import Timings
from snapfs.types import Ino
from snapfs.volume.lake import Lake

TYPE_MASK: Final = 0o170000
"""S_IFMT of sys/stat.h: what ``stat.S_ISREG`` asks, without a call."""
_XATTR_SPACES: Final = (b"user.", b"trusted.", b"security.")
"""Not "system.", POSIX ACLs and the like: the kernel would not act on them, so keeping them would lie."""


class Objects(Operations):
    """Objects of the mount.  ``ready`` is set when the kernel has shaken hands."""

    supports_dot_lookup = True
    enable_writeback_cache = True

    def __init__(self, lake: Lake, nodes: Nodes, handles: Handles, kernel: MountKernel, *, xattrs: bool) -> None:
        super().__init__()
        self.ready = trio.Event()
        self._lake = lake
        self._files = lake.files
        self._nodes = nodes
        self._handles = handles
        self._kernel = kernel
        self._virtual = Virtual(lake, nodes)
        self._xattrs = xattrs
        self.timings = Timings()
        """Of requests."""

    def init(self) -> None:
        self.ready.set()

    async def make_room(self) -> None:
        await self._lake.make_room()

    def _object(self, node: Node) -> tuple[Tree, Ino]:
        """Tree and inode of a node that is in a tree.

        Raises:
            NotPermitted, ReadOnly: it is the root of the mount, or ``.snap`` or a link in it.
            Stale: its volume or snapshot is gone.
        """
        place = self._nodes.place(node)
        if place is not None:
            return place
        if self._is_virtual(node):
            if node == ROOT:
                raise NotPermitted("the root of the mount holds volumes only")
            raise ReadOnly(".snap is read-only")
        raise Stale(f"node {node} is of no volume or snapshot that is left")

    def _is_virtual(self, node: Node) -> bool:
        return is_virtual(self._nodes.ordinary(node))

    def _check_current(self, node: Node) -> None:
        """Raises Stale if the node is what the kernel calls content that was replaced."""
        if self._nodes.is_retired(node):
            raise Stale(f"the content of node {node} was replaced")

    def _current(self, node: Node, place: tuple[Tree, Ino] | None = None) -> tuple[Tree, Inode]:
        """Like ``_object``, with the attributes; Stale also if the inode is gone or was replaced.  ``place``: that of
        the node, if it is known."""
        self._check_current(node)
        tree, ino = place or self._object(node)
        try:
            return tree, self._files.getattr(tree.view, ino)
        except NotFound:
            raise Stale(f"inode {ino} is gone") from None

    def _place(self, parent: Node, name: bytes, *, new: bool) -> tuple[Tree, Ino]:
        """Tree and inode of a directory in which ``name`` is to be made (``new``) or removed."""
        tree, ino = self._object(parent)
        if name == SNAP_NAME and tree.has_snap(ino):
            if new:
                raise AlreadyExists(".snap is there")
            raise NotPermitted(".snap is always there")
        return tree, ino

    def _entry(self, tree: Tree, inode: Inode) -> EntryAttributes:
        """Answer that makes the kernel know the inode once more."""
        node = self._nodes.node(tree, inode.ino)
        self._nodes.looked_up(node, regular=inode.mode & TYPE_MASK == stat.S_IFREG)
        return attributes.of_inode(node, inode)

    def _keeps(self, tree: Tree) -> Callable[[Ino], bool]:
        """The engine asks this of a file that loses its last name: whether it is open, and so stays."""
        return lambda ino: self._handles.keep_unlinked(self._nodes.node(tree, ino))

    def _gone(self, tree: Tree, inode: Inode) -> None:
        """An object that the step removed, or that has handles only.  The kernel may still ask for its attributes."""
        node = self._nodes.node(tree, inode.ino)
        if not self._handles.is_kept(node):
            self._nodes.keep_attributes(node, inode)

    def _open(self, node: Node, tree: Tree, ino: Ino, flags: int, *, thread: int) -> FileInfo:
        writable = flags & os.O_ACCMODE != os.O_RDONLY
        direct = flags & os.O_DIRECT != 0
        file = File(node, tree.view, ino, writable, direct, self._kernel.is_pusher(thread))
        return FileInfo(self._handles.open_file(file))  # the kernel's cache is kept


class XattrRequests(Objects):
    """Extended attributes: an opt-in of the mount, as with them every small write asks for one."""

    def _attributed(self, inode: Node, name: bytes = b"") -> tuple[Tree, Ino]:
        if not self._xattrs:
            raise FUSEError(errno.ENOSYS)  # the kernel never asks again
        if name and not name.startswith(_XATTR_SPACES):
            raise FUSEError(errno.EOPNOTSUPP)
        if name in _XATTR_SPACES:
            raise Invalid("an extended attribute's name goes on after its first dot")
        return self._object(inode)

    @request
    def getxattr(self, inode: InodeT, name: bytes, ctx: RequestContext) -> bytes:
        if self._xattrs and self._is_virtual(inode):
            raise NoAttribute("no attributes here")
        tree, ino = self._attributed(inode, name)
        return self._files.getxattr(tree.view, ino, name)

    @request
    def listxattr(self, inode: InodeT, ctx: RequestContext) -> Sequence[bytes]:
        if self._xattrs and self._is_virtual(inode):
            return []
        tree, ino = self._attributed(inode)  # an import may have brought in others, for exports
        return [name for name in self._files.listxattr(tree.view, ino) if name.startswith(_XATTR_SPACES)]

    @request
    def setxattr(self, inode: InodeT, name: bytes, value: bytes, ctx: RequestContext) -> None:
        tree, ino = self._attributed(inode, name)
        self._files.setxattr(tree.view, ino, name, value)

    @request
    def removexattr(self, inode: InodeT, name: bytes, ctx: RequestContext) -> None:
        tree, ino = self._attributed(inode, name)
        self._files.removexattr(tree.view, ino, name)
