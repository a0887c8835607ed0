"""FUSE nodes: which objects the kernel knows, and by what numbers.

A node's number carries its tree beside its inode: ``tree << INO_BITS | inode``.  The tree's number is the
volume's id for a head and the epoch for a snapshot, so head and snapshots never share the kernel's caches.

    1                        the root of the mount: the directory of volumes
    id << INO_BITS           the directory ``.snap`` of a volume
    2, 3, ...                spare numbers: links in ``.snap`` (other spellings of a snapshot's name), regular
                             files whose content was replaced while the kernel knew them, and what a checkout
                             brought back while the kernel still knew it as unlinked
    tree << INO_BITS | ino   everything else

Why a replaced file gets another number: the kernel caches writes, and so trusts its own size and times of
every regular file that it knows.  A new generation under the old number would do too, but then a request
that was sent for the old content could not be told from one for the new.

Invariants:
  * The kernel knows a node exactly while its count of lookups, less what it forgot, is not zero.
  * A tree is remembered while the kernel knows a node of it.
  * A *retired* node is the kernel's name for content that was replaced; no answer ever names it again.
  * A regular file that the kernel knows is in its tree unless its node is retired or unlinked, or the tree is gone:
    whoever takes it away says so in the same step.
  * Memory: two small integers and one slot of a dictionary a node.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, TypeAlias

import msgspec
from pyfuse3 import InodeT

from snapfs.errors import Stale
from snapfs.format.records import Inode
from snapfs.types import INO_BITS, Ino
from snapfs.versions.epochs import View

Node: TypeAlias = InodeT
"""Number of an object in requests; also its st_ino."""

ROOT: Final = Node(1)
SNAP_INO: Final = Ino(0)
"""Inode number of ``.snap`` in its volume's tree: no real inode is 0."""
SNAP_NAME: Final = b".snap"

_INO_MASK: Final = (1 << INO_BITS) - 1
_FIRST_SPARE: Final = 2


@dataclass(frozen=True, slots=True)
class Tree:
    """A head or snapshot that the kernel knows something of."""

    number: int
    view: View
    root: Ino
    above: Node
    """What ``..`` of its root is: the mount's root, or ``.snap``."""
    name: bytes
    """Of its root in the directory above."""

    def has_snap(self, directory: Ino) -> bool:
        """Whether there is a ``.snap`` in the directory."""
        return directory == self.root and self.view.writable

    def node(self, ino: Ino) -> Node:
        return Node(self.number << INO_BITS | ino)


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link in ``.snap``, from another spelling to the snapshot's name."""

    above: Node
    target: bytes


def tree_number(node: Node) -> int:
    return node >> INO_BITS


def ino_of(node: Node) -> Ino:
    return Ino(node & _INO_MASK)


class Nodes:
    """All nodes that the kernel knows."""

    def __init__(self) -> None:
        self._known: dict[Node, int] = {}
        """Lookups << 1 | (1 for a regular file)."""
        self._retired: set[Node] = set()
        self._trees: dict[int, Tree] = {}
        self._per_tree: dict[int, int] = {}
        """Known nodes of each tree."""
        self._next_spare = _FIRST_SPARE
        self._spare: dict[Node, Node] = {}
        """Of files with a spare number: ordinary number -> spare number."""
        self._ordinary: dict[Node, Node] = {}
        """The reverse, and of retired spare numbers too."""
        self._unlinked: dict[Node, Inode] = {}
        """Known nodes whose object is gone, unlinked and not open."""
        self._links: dict[Node, Link] = {}
        self._link_nodes: dict[Link, Node] = {}

    def __len__(self) -> int:
        return len(self._known)

    # Numbers

    def _take_spare(self) -> Node:
        node = Node(self._next_spare)
        self._next_spare += 1
        return node

    def node(self, tree: Tree, ino: Ino) -> Node:
        """The number to name an inode by."""
        node = tree.node(ino)
        if self._spare:
            node = self._spare.get(node, node)
        # Brought back by a checkout: the kernel holds what it knows by that number for dead.
        return self._renumber(node) if node in self._unlinked else node

    def ordinary(self, node: Node) -> Node:
        """The number made of tree and inode, of a node in a tree; other nodes' numbers as they are."""
        return self._ordinary.get(node, node)

    def place(self, node: Node) -> tuple[Tree, Ino] | None:
        """Tree and inode of a node; None if it is not in a tree that is left."""
        if self._ordinary:
            node = self._ordinary.get(node, node)
        tree = self._trees.get(node >> INO_BITS)
        ino = node & _INO_MASK
        return (tree, Ino(ino)) if tree is not None and ino != SNAP_INO and not tree.view.gone else None

    def tree(self, node: Node) -> Tree:
        """Raises Stale if the kernel should not know the node, or its volume or snapshot was deleted."""
        tree = self._trees.get(tree_number(self.ordinary(node)))
        if tree is None or tree.view.gone:
            raise Stale(f"node {node} is of no volume or snapshot that is left")
        return tree

    def find_tree(self, number: int) -> Tree | None:
        """By the id of a volume or the epoch of a snapshot."""
        return self._trees.get(number)

    def remember(self, tree: Tree) -> None:
        """Before ``looked_up`` of its root."""
        self._trees[tree.number] = tree

    def link(self, node: Node) -> Link | None:
        return self._links.get(node)

    def link_node(self, link: Link) -> Node:
        """The node of a link, the same for as long as the kernel knows it."""
        node = self._link_nodes.get(link)
        if node is None:
            node = self._take_spare()
            self._links[node] = link
            self._link_nodes[link] = node
        return node

    # What the kernel knows

    def is_known(self, node: Node) -> bool:
        return node in self._known

    def keep_attributes(self, node: Node, inode: Inode) -> None:
        """The object has lost its last name and is gone from the tree: who refers to it without having it open
        (O_PATH, a working directory) still sees attributes, and the kernel sets its times."""
        if node in self._known:
            self._unlinked[node] = msgspec.structs.replace(inode, nlink=0) if inode.nlink else inode

    def unlinked(self, node: Node) -> Inode | None:
        """Attributes of an object that is gone, for as long as the kernel knows it."""
        return self._unlinked.get(node)

    def looked_up(self, node: Node, *, regular: bool = False) -> None:
        """The kernel is told of the node once more."""
        known = self._known.get(node)
        if known is None:
            self._known[node] = 2 | regular
            number = self._ordinary.get(node, node) >> INO_BITS
            self._per_tree[number] = self._per_tree.get(number, 0) + 1
        else:
            self._known[node] = known + 2

    def forget(self, node: Node, lookups: int) -> None:
        """The kernel takes back that many lookups."""
        known = self._known.get(node, 0) - 2 * lookups
        if known > 1:
            self._known[node] = known
            return
        if self._known.pop(node, None) is None:
            return
        number = self._ordinary.get(node, node) >> INO_BITS
        self._unlinked.pop(node, None)
        if self._links or self._ordinary or self._retired:
            self._give_up(node)
        left = self._per_tree[number] - 1
        if left:
            self._per_tree[number] = left
        else:
            del self._per_tree[number]
            self._trees.pop(number, None)

    def _give_up(self, node: Node) -> None:
        """The kernel does not know the number any more: nor need we know what is special about it."""
        link = self._links.pop(node, None)
        if link is not None:
            del self._link_nodes[link]
        self._free(node)

    def retire(self, tree: Tree, inos: Iterable[Ino]) -> tuple[dict[Node, Ino], list[Node]]:
        """The content of these inodes was replaced: regular files that the kernel knows go by other numbers now.

        Returns:
            (such files, by the numbers that are retired; nodes of what else of these the kernel knows).
        """
        retired: dict[Node, Ino] = {}
        others: list[Node] = []
        first, known = tree.number << INO_BITS, self._known
        special = bool(self._spare or self._unlinked)
        for ino in inos:
            node = self.node(tree, ino) if special else Node(first | ino)
            count = known.get(node)
            if count is None:
                continue
            if count & 1:
                retired[node] = ino
            else:
                others.append(node)
        for node in retired:
            self._renumber(node)
        return retired, others

    def _renumber(self, node: Node) -> Node:
        """Retire the number; the one that the object goes by from now on."""
        ordinary = self.ordinary(node)
        self._retired.add(node)
        spare = self._spare[ordinary] = self._take_spare()
        self._ordinary[spare] = ordinary
        return spare

    def is_retired(self, node: Node) -> bool:
        return node in self._retired

    def is_there(self, node: Node) -> bool:
        """Whether the object of a node that the kernel knows is in its tree, if it is a regular file."""
        return node not in self._unlinked and node not in self._retired

    def _free(self, node: Node) -> None:
        """The kernel does not know the number any more: give up what spare numbers are not needed now."""
        self._retired.discard(node)
        ordinary = self.ordinary(node)
        spare = self._spare.get(ordinary)
        if spare is not None and spare not in self._known and ordinary not in self._known:
            del self._spare[ordinary]
            del self._ordinary[spare]
        if node != spare:
            self._ordinary.pop(node, None)
