"""What the mount shows beside the trees: the directory of volumes, and ``.snap`` in each volume's root.

Invariants:
  * ``.snap`` is never listed in its volume's root and nothing in it can be changed.
  * A snapshot is one directory, under its own name; every other spelling that resolves to it (a tag, a commit's
    bare ID, a prefix of it) is a symbolic link to that name, so a directory never has two paths.  Names and tags
    are listed.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from typing import Final

from pyfuse3 import EntryAttributes

from snapfs.errors import Invalid, NotFound, Stale
from snapfs.format.records import SnapshotRecord
from snapfs.fuse import attributes
from snapfs.fuse.nodes import ROOT, SNAP_INO, Link, Node, Nodes, Tree, ino_of, tree_number
from snapfs.volume.lake import Lake
from snapfs.volume.volumes import Volume

_ROOT_MODE: Final = stat.S_IFDIR | 0o755
_SNAP_MODE: Final = stat.S_IFDIR | 0o555
_LINK_MODE: Final = stat.S_IFLNK | 0o777
_COOKIE_FIRST: Final = 3
"""Below are the start, ``.`` and ``..``."""
_COOKIE_BITS: Final = 62
_FIRST_OF_COMMIT: Final = ".1"
"""The name's ending that a commit's first snapshot goes by once there is a second."""


def is_virtual(node: Node) -> bool:
    return tree_number(node) == 0 or ino_of(node) == SNAP_INO


def _cookie(name: bytes) -> int:
    """Place of a name in a listing: does not depend on what else is listed."""
    digest = hashlib.blake2b(name, digest_size=8).digest()
    return _COOKIE_FIRST + (int.from_bytes(digest) >> (64 - _COOKIE_BITS))


class Virtual:
    """Volumes and snapshots as directories."""

    def __init__(self, lake: Lake, nodes: Nodes) -> None:
        self._lake = lake
        self._nodes = nodes
        self._changed_ns = time.time_ns()
        """When a volume was last made or removed through the mount."""

    # Attributes

    def attributes(self, node: Node) -> EntryAttributes:
        """Raises Stale."""
        if node == ROOT:
            nlink = 2 + len(self._lake.volumes.names())
            return attributes.of_virtual(
                node, _ROOT_MODE, nlink=nlink, time_ns=self._changed_ns, seconds=attributes.VOLUME_SECONDS
            )
        if ino_of(node) == SNAP_INO:
            created_ns = self._volume(self._nodes.tree(node)).created_ns
            return attributes.of_virtual(
                node, _SNAP_MODE, nlink=2, time_ns=created_ns, seconds=attributes.UNCACHED_SECONDS
            )
        link = self.link(node)
        return attributes.of_virtual(
            node, _LINK_MODE, size=len(link.target), time_ns=0, seconds=attributes.UNCACHED_SECONDS
        )

    def link(self, node: Node) -> Link:
        """Raises Stale."""
        link = self._nodes.link(node)
        if link is None:
            raise Stale(f"node {node} is not known")
        return link

    def parent(self, node: Node) -> Node:
        if node == ROOT:
            return ROOT
        if ino_of(node) == SNAP_INO:
            tree = self._nodes.tree(node)
            return tree.node(tree.root)
        return self.link(node).above

    # Names

    def lookup(self, parent: Node, name: bytes) -> EntryAttributes:
        """Attributes of a volume (in the root) or snapshot (in ``.snap``), counted as looked up.

        Raises:
            NotFound: there is none, or a commit prefix is not unique.
        """
        try:
            return self._lookup_volume(name) if parent == ROOT else self._lookup_snapshot(parent, name)
        except Invalid as error:
            raise NotFound(error.message) from None

    def _lookup_volume(self, name: bytes) -> EntryAttributes:
        return self.volume_entry(self._lake.volumes.get(os.fsdecode(name)))

    def volume_entry(self, volume: Volume) -> EntryAttributes:
        """Attributes of a volume's root, counted as looked up."""
        name = os.fsencode(volume.name)
        tree = Tree(number=volume.id, view=volume.head, root=volume.root, above=ROOT, name=name)
        return self._root_entry(tree, attributes.VOLUME_SECONDS)

    def _root_entry(self, tree: Tree, entry_seconds: int) -> EntryAttributes:
        node = tree.node(tree.root)
        inode = self._lake.files.getattr(tree.view, tree.root)
        self._nodes.remember(tree)
        self._nodes.looked_up(node)
        return attributes.of_inode(node, inode, entry_seconds)

    def _lookup_snapshot(self, snap: Node, name: bytes) -> EntryAttributes:
        head = self._nodes.tree(snap)
        volume = self._volume(head)
        record = self._lake.snapshots.resolve(volume, os.fsdecode(name))
        true_name = self._true_name(volume, record)
        if true_name != name:
            node = self._nodes.link_node(Link(above=snap, target=true_name))
            self._nodes.looked_up(node)
            return self.attributes(node)
        tree = self._nodes.find_tree(record.epoch) or Tree(
            number=record.epoch,
            view=self._lake.snapshots.view(record),
            root=record.root,
            above=snap,
            name=name,
        )
        return self._root_entry(tree, attributes.UNCACHED_SECONDS)

    def _true_name(self, volume: Volume, record: SnapshotRecord) -> bytes:
        """The name under which ``.snap`` has the snapshot as a directory: its own, unless that is the bare ID
        of a commit with a newer snapshot, as then the bare ID means that one."""
        newest = self._lake.snapshots.resolve(volume, record.name).epoch == record.epoch
        return os.fsencode(record.name if newest else record.name + _FIRST_OF_COMMIT)

    def snap_entry(self, tree: Tree) -> EntryAttributes:
        """Attributes of a head's ``.snap``, counted as looked up."""
        node = tree.node(SNAP_INO)
        entry = self.attributes(node)
        self._nodes.looked_up(node)
        return entry

    def _volume(self, tree: Tree) -> Volume:
        volume = self._lake.volumes.by_id(tree.view.volume_id)
        if volume is None:
            raise Stale("the volume was removed")
        return volume

    # Listings

    def listing(self, node: Node) -> list[tuple[int, bytes]]:
        """(cookie, name) of all volumes or snapshots, by cookie."""
        if node == ROOT:
            names = self._lake.volumes.names()
        else:
            volume = self._volume(self._nodes.tree(node))
            names = self._lake.snapshots.names(volume)
            several = {name.rpartition(".")[0] for name in names}
            names += [name + _FIRST_OF_COMMIT for name in names if name in several]
            names += self._lake.snapshots.tags(volume)
        return sorted((_cookie(raw), raw) for raw in map(os.fsencode, names))

    # Volumes

    def create_volume(self, name: bytes, *, mode: int, uid: int, gid: int) -> EntryAttributes:
        """mkdir in the root of the mount.  Raises AlreadyExists, Invalid, NameTooLong."""
        volume = self._lake.volumes.create(os.fsdecode(name), mode=mode, uid=uid, gid=gid)
        self._changed_ns = time.time_ns()
        return self.volume_entry(volume)

    def remove_volume(self, name: bytes) -> None:
        """rmdir in the root of the mount.  Raises NotFound, Conflict (has snapshots), NotEmpty."""
        self._lake.trash.remove_volume(os.fsdecode(name))
        self._changed_ns = time.time_ns()
