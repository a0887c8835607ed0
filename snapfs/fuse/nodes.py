"""FUSE nodes: which objects the kernel knows, and by what numbers.

A node's number carries its tree beside its inode: ``tree << INO_BITS | inode``.  The tree's number is the
volume's id for a head and the epoch for a snapshot, so head and snapshots never share the kernel's caches.

    1                        the root of the mount: the directory of volumes
    id << INO_BITS           the directory ``.snap`` of a volume
    2, 3, ...                links in ``.snap``: other spellings of a snapshot's name
    tree << INO_BITS | ino   everything else

Invariants:
  * The kernel knows a node exactly while its count of lookups, less what it forgot, is not zero.
  * A tree is remembered while the kernel knows a node of it.
  * A node is *outdated* from the moment its generation is raised until it is looked up again: what the
    kernel has of it (size, times, pages) belongs to an older generation.
  * Memory: two small integers and one slot of a dictionary a node.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NewType

from snapfs.errors import Stale
from snapfs.types import INO_BITS, Ino
from snapfs.versions.epochs import View

Node = NewType("Node", int)
"""Number of an object in requests; also its st_ino."""

ROOT: Final = Node(1)
SNAP_INO: Final = Ino(0)
"""Inode number of ``.snap`` in its volume's tree: no real inode is 0."""
SNAP_NAME: Final = b".snap"

_INO_MASK: Final = (1 << INO_BITS) - 1
_FIRST_LINK: Final = 2


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

    @property
    def is_head(self) -> bool:
        return self.view.writable

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
        self._generations: dict[Node, int] = {}
        """Only of the nodes whose generation is not 0."""
        self._outdated: set[Node] = set()
        self._trees: dict[int, Tree] = {}
        self._per_tree: dict[int, int] = {}
        """Known nodes of each tree."""
        self._links: dict[Node, Link] = {}
        self._link_nodes: dict[Link, Node] = {}
        self._next_link = _FIRST_LINK

    def __len__(self) -> int:
        return len(self._known)

    def tree(self, node: Node) -> Tree:
        """Raises Stale if the kernel should not know the node, or its volume or snapshot was deleted."""
        tree = self._trees.get(node >> INO_BITS)
        if tree is None or tree.view.gone:
            raise Stale(f"node {node} is of no volume or snapshot that is left")
        return tree

    def find_tree(self, number: int) -> Tree | None:
        """By the id of a volume or the epoch of a snapshot."""
        return self._trees.get(number)

    def link(self, node: Node) -> Link | None:
        return self._links.get(node)

    def link_node(self, link: Link) -> Node:
        """The node of a link, the same for as long as the kernel knows it."""
        node = self._link_nodes.get(link)
        if node is None:
            node = Node(self._next_link)
            self._next_link += 1
            self._links[node] = link
            self._link_nodes[link] = node
        return node

    def remember(self, tree: Tree) -> None:
        """Before ``looked_up`` of its root."""
        self._trees[tree.number] = tree

    def looked_up(self, node: Node, *, regular: bool = False) -> None:
        """The kernel is told of the node once more."""
        known = self._known.get(node)
        if known is None:
            self._known[node] = 2 | regular
            number = node >> INO_BITS
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
        self._generations.pop(node, None)
        self._outdated.discard(node)
        link = self._links.pop(node, None)
        if link is not None:
            del self._link_nodes[link]
        number = node >> INO_BITS
        left = self._per_tree[number] - 1
        if left:
            self._per_tree[number] = left
        else:
            del self._per_tree[number]
            self._trees.pop(number, None)

    def is_known(self, node: Node) -> bool:
        return node in self._known

    def generation(self, node: Node) -> int:
        return self._generations.get(node, 0)

    def outdate(self, node: Node) -> bool:
        """Raise the generation of a regular file that the kernel knows; whether it is one."""
        if not self._known.get(node, 0) & 1:
            return False
        self._generations[node] = self._generations.get(node, 0) + 1
        self._outdated.add(node)
        return True

    def is_outdated(self, node: Node) -> bool:
        return node in self._outdated

    def renewed(self, node: Node) -> None:
        """The kernel gets the node's generation in the answer to a lookup."""
        self._outdated.discard(node)
