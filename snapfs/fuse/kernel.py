"""What the mount does to the kernel: fetch its dirty pages, make it forget what a checkout replaced.

The kernel caches writes, and trusts its own size and times of every regular file it knows.  So a replaced
file goes by another number from then on (``nodes``): new lookups start afresh, and what is open of the old
content only fails.

Invariants:
  * Nothing here touches the mount on trio's thread: the kernel answers such calls only after we have
    answered it.
  * In the step of the checkout itself the handles of replaced files go stale and their nodes are retired,
    so no request can mix the two contents.  The kernel then drops the old nodes' pages where something is open (which
    programs may have mapped), and then the names that lead to them: a file that nobody has open goes with its names,
    pages and all.
  * Nothing is done to what a checkout did not touch: its pages stay warm.
  * Of many replaced files the names are dropped by their nodes, in a few calls (``prune``).  A file that the kernel has
    forgotten since has no name there any more; of each that it still knows the names are dropped one by one.  So what
    the kernel did with the call, and whether it came in time, decides about the cost only.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import pyfuse3
import trio
from pyfuse3 import InodeT

from snapfs.errors import NotFound
from snapfs.fuse.handles import File, Handles
from snapfs.fuse.nodes import Node, Nodes, Tree
from snapfs.fuse.prune import Pruner, portions
from snapfs.fuse.push import Pusher
from snapfs.types import Ino
from snapfs.volume.files import Files
from snapfs.volume.touched import Touched

log = logging.getLogger(__name__)

_BATCH: Final = 1024
"""Notices a worker thread sends before it comes back: a few milliseconds."""
_THREADS_MAX: Final = 4
"""Not trio's own threads: those may all wait for requests that wait for us."""
_GONE: Final = frozenset({errno.ENOTCONN, errno.ENODEV, errno.EBADF, errno.EINVAL})
"""Answers to a notice after the mount has ended."""
_PRUNED_MIN: Final = 8
"""Replaced files: fewer are named one by one, which waits for nothing."""
_PRUNERS: Final = 2
"""Threads that prune: most of it is the kernel freeing pages, 0.3 us each, which two cores do at once."""
_FORGET_SECONDS_MAX: Final = 0.01
"""How long the kernel's next word is waited for that it forgot what was pruned: it has all of them to say by then."""
_FORGET_SECONDS_A_NODE: Final = 20e-6
"""And altogether, beyond that: one by one takes as long a node."""
_DEPTH_MAX: Final = 1024
"""Of a path, in directories: more cannot be opened by one path anyway."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Outdated:
    """What the kernel has to forget after a checkout or restore."""

    tree: Tree
    entries: list[tuple[Ino, bytes]]
    nodes: list[Node]
    """Touched nodes that the kernel knows, of regular files those that are open."""
    replaced: dict[Node, Ino]
    """Regular files that the kernel knows, by the nodes that it knows them by."""


class MountKernel:
    """The mount, as the service sees it (``snapfs.volume.mounted``)."""

    def __init__(self, files: Files, nodes: Nodes, handles: Handles, mountpoint: Path) -> None:
        self._files = files
        self._nodes = nodes
        self._handles = handles
        self._limiter = trio.CapacityLimiter(_THREADS_MAX)
        self.pusher = Pusher(mountpoint)
        self.pruner = Pruner()
        self._pushing = trio.Lock()
        self._pushes_begun = 0
        self._pushed = 0
        """Number of the last push that was done."""
        self._forgot: trio.Event | None = None
        """Somebody waits for the kernel to forget nodes."""
        self.device = 0
        """st_dev of the mount; 0 while it is not served."""

    def is_pusher(self, pid: int) -> bool:
        """Whether a request comes from the process that fetches dirty pages for us."""
        return pid == self.pusher.pid

    # snapfs.volume.mounted.Mounted

    async def push(self) -> None:
        """All that was written through the mount before the call has reached the engine when it returns.

        Raises:
            Unavailable: the mount is not at its mount point any more.
        """
        asked = self._pushes_begun
        async with self._pushing:
            if self.device == 0 or self._pushed > asked:
                return  # one that began after we asked, for others who waited, has fetched ours too
            self._pushes_begun = number = self._pushes_begun + 1
            written = [(file.node, self._path(file)) for file in self._handles.written()]
            await self.pusher.push(self.device, written)
            self._pushed = number

    async def fetch(self) -> None:
        """As ``push``, if anything may be there to be fetched."""
        if self._handles.written():
            await self.push()

    def is_known(self, volume_id: int, ino: Ino) -> bool:
        """Whether the kernel may have cached anything of an inode of the head, or of the names in it."""
        tree = self._nodes.find_tree(volume_id)
        return tree is not None and self._nodes.is_known(self._nodes.node(tree, ino))

    def keep_unlinked(self, volume_id: int, ino: Ino) -> bool:
        """Whether a file that a restore or an import takes the last name from is open.  If not, it goes, and is not to
        be opened again by who holds its path: the kernel would show its old pages."""
        tree = self._nodes.find_tree(volume_id)
        if tree is None:
            return False
        node = self._nodes.node(tree, ino)
        if self._handles.keep_unlinked(node):
            return True
        self._nodes.keep_attributes(node, self._files.getattr(tree.view, ino))
        return False

    def outdate(self, volume_id: int, touched: object) -> Outdated | None:
        """What a checkout or restore touched is not what the kernel has any more.

        Called in the step that changed the tree, before anything else runs; ``refresh`` gets the result.
        """
        assert isinstance(touched, Touched)
        tree = self._nodes.find_tree(volume_id)
        if tree is None or self.device == 0:
            return None
        replaced, nodes = self._nodes.retire(tree, touched.inodes)
        nodes += [node for node in replaced if self._handles.outdate(node)]
        return Outdated(tree, touched.entries, nodes, replaced)

    async def refresh(self, outdated: object) -> None:
        """Make the kernel forget it.

        Never called while writes to the volume are held up: the kernel waits for writes before it drops
        pages, and for directories in which somebody waits for writes before it drops names.
        """
        if outdated is None:
            return
        assert isinstance(outdated, Outdated)
        with trio.CancelScope(shield=True):  # half done, the kernel would keep old data for a day
            await self._each(_invalidate_inode, outdated.nodes)
            if len(outdated.replaced) >= _PRUNED_MIN:
                await self._prune(list(outdated.replaced))
            tree = outdated.tree
            entries = {(self._nodes.node(tree, parent), name) for parent, name in outdated.entries}
            entries |= self._names(tree, [i for node, i in outdated.replaced.items() if self._nodes.is_known(node)])
            found = [(parent, name) for parent, name in entries if self._nodes.is_known(parent)]
            await self._each(_invalidate_entry, found)

    async def volume_removed(self, name: str) -> None:
        """The name is not a volume's any more."""
        if self.device:
            entry = (Node(pyfuse3.ROOT_INODE), os.fsencode(name))
            with trio.CancelScope(shield=True):
                await self._each(_invalidate_entry, [entry])

    def forgot(self) -> None:
        """The kernel has told of nodes that it forgot."""
        if self._forgot is not None:
            self._forgot.set()
            self._forgot = None

    # How

    async def _prune(self, nodes: list[Node]) -> None:
        """Make the kernel drop all names of retired nodes that nobody uses, and wait a moment for its word."""
        async with trio.open_nursery() as nursery:
            shared = portions(nodes)
            for _ in range(_PRUNERS):
                nursery.start_soon(partial(trio.to_thread.run_sync, self.pruner.prune, shared, limiter=self._limiter))
        if not self.pruner.works:
            return
        unused = [node for node in nodes if not self._handles.has_open(node)]
        until = trio.current_time() + _FORGET_SECONDS_MAX + len(unused) * _FORGET_SECONDS_A_NODE
        with trio.move_on_after(_FORGET_SECONDS_MAX) as scope:
            while unused:
                if not self._nodes.is_known(unused[-1]):
                    unused.pop()
                    continue
                if self._forgot is None:
                    self._forgot = trio.Event()
                await self._forgot.wait()
                scope.deadline = min(until, trio.current_time() + _FORGET_SECONDS_MAX)

    async def _each(self, notice: Callable[[T], None], targets: Iterable[T]) -> None:
        waiting = list(targets)
        for start in range(0, len(waiting), _BATCH):
            batch = waiting[start : start + _BATCH]
            if not await trio.to_thread.run_sync(_send, notice, batch, limiter=self._limiter):
                return

    def _names(self, tree: Tree, inos: Iterable[Ino]) -> set[tuple[Node, bytes]]:
        """Names by which the kernel may have reached these files."""
        found = set()
        for ino in inos:
            for parent, name in self._files.links(tree.view, ino):
                found.add((self._nodes.node(tree, parent), name))
        return found

    def _path(self, file: File) -> bytes:
        """A path of the file below the mount point, for who may not open by handle; empty if it has none."""
        tree = self._nodes.tree(file.node)
        parts: list[bytes] = []
        ino = file.ino
        try:
            while ino != tree.root and len(parts) < _DEPTH_MAX:
                ino, name = self._files.links(tree.view, ino)[0]
                parts.append(name)
        except (NotFound, IndexError):  # no link left
            return b""
        parts.append(tree.name)
        return b"/".join(reversed(parts))


def _invalidate_inode(node: Node) -> None:
    pyfuse3.invalidate_inode(InodeT(node))


def _invalidate_entry(entry: tuple[Node, bytes]) -> None:
    pyfuse3.invalidate_entry(InodeT(entry[0]), entry[1])


def _send(notice: Callable[[T], None], targets: list[T]) -> bool:
    """In a worker thread; False if the mount has ended."""
    for target in targets:
        try:
            notice(target)
        except OSError as error:
            if error.errno in _GONE:
                return False
            if error.errno != errno.ENOENT:  # ENOENT: the kernel does not have it
                log.warning("cannot invalidate %r: %s", target, error)
    return True
