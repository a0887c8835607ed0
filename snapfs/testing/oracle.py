"""What a store must do, as a model of plain objects in memory: slow, simple, and easy to believe.

Operations refuse with the same classes of ``snapfs.errors`` as the engine, and change nothing when they do.
Times are not the clock's: whoever changes content sets mtime from ``tick``, in the model and in what is tested.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

from snapfs.errors import (
    AlreadyExists,
    Conflict,
    Invalid,
    IsADirectory,
    NoAttribute,
    NotADirectory,
    NotEmpty,
    NotFound,
    SnapfsError,
)
from snapfs.testing.trees import DIRECTORY, FILE, Node, Path, differ


@dataclass(eq=False)
class Frozen:
    """A snapshot."""

    name: str
    root: Node
    parent: Frozen | None
    alive: bool = True


def nearest(frozen: Frozen | None) -> Frozen | None:
    """The nearest ancestor that still is a snapshot, itself included."""
    while frozen is not None and not frozen.alive:
        frozen = frozen.parent
    return frozen


class Volume:
    def __init__(self, name: str, root: Node, parent: Frozen | None) -> None:
        self.name = name
        self.root = root
        self.parent = parent
        self.snapshots: dict[str, Frozen] = {}
        self.tags: dict[str, Frozen] = {}

    def taken(self, name: str) -> bool:
        return name in self.snapshots or name in self.tags


class Oracle:
    """A model of one store."""

    def __init__(self) -> None:
        self.volumes: dict[str, Volume] = {}
        self._count = 0

    def tick(self) -> int:
        """A new number: an ident, a stamp, or an mtime in ns."""
        self._count += 1
        return self._count

    # -- files of a head

    def resolve(self, volume: str, path: Path) -> Node:
        return _resolve(self.volumes[volume].root, path)

    def _parent(self, volume: str, path: Path) -> tuple[Node, bytes]:
        parent = self.resolve(volume, path[:-1])
        if parent.kind != DIRECTORY:
            raise NotADirectory(repr(path))
        return parent, path[-1]

    def _free(self, volume: str, path: Path) -> tuple[Node, bytes]:
        parent, name = self._parent(volume, path)
        if name in parent.entries:
            raise AlreadyExists(repr(path))
        return parent, name

    def make(self, volume: str, path: Path, kind: str, mode: int, target: bytes = b"") -> None:
        parent, name = self._free(volume, path)
        parent.entries[name] = Node(self.tick(), self.tick(), kind, mode, target=target)

    def link(self, volume: str, path: Path, new: Path) -> None:
        node = self.resolve(volume, path)
        if node.kind == DIRECTORY:
            raise IsADirectory(repr(path))
        parent, name = self._free(volume, new)
        parent.entries[name] = node
        node.stamp = self.tick()

    def unlink(self, volume: str, path: Path) -> None:
        parent, name = self._parent(volume, path)
        node = _entry(parent, name)
        if node.kind == DIRECTORY:
            raise IsADirectory(repr(path))
        del parent.entries[name]
        node.stamp = self.tick()

    def rmdir(self, volume: str, path: Path) -> None:
        parent, name = self._parent(volume, path)
        node = _entry(parent, name)
        if node.kind != DIRECTORY:
            raise NotADirectory(repr(path))
        if node.entries:
            raise NotEmpty(repr(path))
        del parent.entries[name]

    def rename(self, volume: str, path: Path, new: Path, *, noreplace: bool, exchange: bool) -> None:
        parent, name = self._parent(volume, path)
        node = _entry(parent, name)
        goal, new_name = self._parent(volume, new)
        target = goal.entries.get(new_name)
        if target is None and exchange:
            raise NotFound(repr(new))
        if target is not None and noreplace:
            raise AlreadyExists(repr(new))
        if _holds(node, goal) or (exchange and target is not None and _holds(target, parent)):
            raise Invalid("a directory into itself")
        if target is node:
            return
        if target is not None and not exchange:
            _check_replaceable(node, target)
        del parent.entries[name]
        goal.entries[new_name] = node
        node.stamp = self.tick()
        if target is not None:
            target.stamp = self.tick()
            if exchange:
                parent.entries[name] = target

    def write(self, volume: str, path: Path, offset: int, data: bytes) -> None:
        node = self._regular(volume, path)
        if len(node.data) < offset:
            node.data.extend(bytes(offset - len(node.data)))
        node.data[offset : offset + len(data)] = data
        node.stamp = self.tick()

    def truncate(self, volume: str, path: Path, size: int) -> None:
        node = self._regular(volume, path)
        del node.data[size:]
        node.data.extend(bytes(size - len(node.data)))
        node.stamp = self.tick()

    def _regular(self, volume: str, path: Path) -> Node:
        node = self.resolve(volume, path)
        if node.kind == DIRECTORY:
            raise IsADirectory(repr(path))
        if node.kind != FILE:
            raise Invalid(repr(path))
        return node

    def set_mtime(self, volume: str, path: Path, mtime_ns: int) -> None:
        node = self.resolve(volume, path)
        node.mtime_ns, node.stamp = mtime_ns, self.tick()

    def chmod(self, volume: str, path: Path, mode: int) -> None:
        node = self.resolve(volume, path)
        node.mode, node.stamp = mode, self.tick()

    def setxattr(self, volume: str, path: Path, name: bytes, value: bytes, *, create: bool, replace: bool) -> None:
        node = self.resolve(volume, path)
        if create and name in node.xattrs:
            raise AlreadyExists(repr(name))
        if replace and name not in node.xattrs:
            raise NoAttribute(repr(name))
        node.xattrs[name], node.stamp = value, self.tick()

    def removexattr(self, volume: str, path: Path, name: bytes) -> None:
        node = self.resolve(volume, path)
        if name not in node.xattrs:
            raise NoAttribute(repr(name))
        del node.xattrs[name]
        node.stamp = self.tick()

    # -- volumes and snapshots

    def _volume(self, name: str) -> Volume:
        if name not in self.volumes:
            raise NotFound(name)
        return self.volumes[name]

    def find(self, volume: str, snapshot: str) -> Frozen:
        """By name or tag."""
        owner = self._volume(volume)
        found = owner.snapshots.get(snapshot) or owner.tags.get(snapshot)
        if found is None:
            raise NotFound(snapshot)
        return found

    def create_volume(self, name: str) -> None:
        if name in self.volumes:
            raise AlreadyExists(name)
        self.volumes[name] = Volume(name, Node(self.tick(), self.tick(), DIRECTORY, 0o755), None)

    def remove_volume(self, name: str, *, snapshots: bool) -> None:
        volume = self._volume(name)
        if not snapshots and volume.snapshots:
            raise Conflict(name)
        if not snapshots and volume.root.entries:
            raise NotEmpty(name)
        for frozen in volume.snapshots.values():
            frozen.alive = False
        del self.volumes[name]

    def snapshot(self, volume: str, name: str) -> None:
        owner = self._volume(volume)
        if owner.taken(name):
            raise AlreadyExists(name)
        owner.parent = owner.snapshots[name] = Frozen(name, copy.deepcopy(owner.root), owner.parent)

    def remove_snapshot(self, volume: str, name: str) -> None:
        frozen = self.find(volume, name)
        frozen.alive = False
        owner = self.volumes[volume]
        del owner.snapshots[frozen.name]
        owner.tags = {tag: other for tag, other in owner.tags.items() if other is not frozen}

    def rename_snapshot(self, volume: str, name: str, new: str) -> None:
        frozen, owner = self.find(volume, name), self.volumes[volume]
        if owner.taken(new):
            raise AlreadyExists(new)
        owner.snapshots[new] = owner.snapshots.pop(frozen.name)
        frozen.name = new

    def tag(self, volume: str, name: str, tag: str, *, move: bool) -> None:
        frozen, owner = self.find(volume, name), self.volumes[volume]
        if tag in owner.snapshots or (not move and owner.tags.get(tag, frozen) is not frozen):
            raise AlreadyExists(tag)
        owner.tags[tag] = frozen

    def remove_tag(self, volume: str, tag: str) -> None:
        if tag not in self._volume(volume).tags:
            raise NotFound(tag)
        del self.volumes[volume].tags[tag]

    def listed(self, volume: str) -> dict[str, list[str]]:
        """Tags of each snapshot, by its name."""
        owner = self._volume(volume)
        return {
            name: sorted(tag for tag, tagged in owner.tags.items() if tagged is frozen)
            for name, frozen in owner.snapshots.items()
        }

    def clone(self, volume: str, name: str, new: str) -> None:
        frozen = self.find(volume, name)
        if new in self.volumes:
            raise AlreadyExists(new)
        self.volumes[new] = Volume(new, copy.deepcopy(frozen.root), frozen)

    def unsaved(self, volume: str) -> bool:
        """Whether the head differs from the snapshot that it stands on."""
        owner = self.volumes[volume]
        base = nearest(owner.parent)
        return differ(base.root if base else None, owner.root)

    def checkout(self, volume: str, name: str, *, discard: bool) -> None:
        """Refuses unsaved changes, unless they come to what is checked out, or are to be discarded."""
        frozen, owner = self.find(volume, name), self.volumes[volume]
        dirty = self.unsaved(volume)
        if dirty and not discard:
            if differ(frozen.root, owner.root):
                raise Conflict(volume)
            dirty = True
        if dirty or nearest(owner.parent) is not frozen:
            owner.root, owner.parent = copy.deepcopy(frozen.root), frozen

    # -- restore

    def restore(self, volume: str, name: str, path: Path) -> None:
        """Refuses, perhaps half done, when something of another type is in the way: then ``resync`` is needed."""
        source = self.find(volume, name).root
        try:
            _resolve(source, path)
        except NotADirectory:
            raise NotFound(repr(path)) from None
        head = self.volumes[volume].root
        copies: dict[int, Node] = {}
        if not path:
            self._merge(source, head, copies)
            return
        for part in path[:-1]:
            source = source.entries[part]
            head = self._directory(head, part, source)
        self._put_back(source.entries[path[-1]], head, path[-1], copies)

    def _directory(self, parent: Node, name: bytes, like: Node) -> Node:
        found = parent.entries.get(name)
        if found is None:
            found = Node(self.tick(), self.tick(), DIRECTORY, like.mode, xattrs=dict(like.xattrs))
            parent.entries[name] = found
        if found.kind != DIRECTORY:
            raise NotADirectory(repr(name))
        return found

    def _put_back(self, source: Node, parent: Node, name: bytes, copies: dict[int, Node]) -> None:
        found = parent.entries.get(name)
        if source.kind == DIRECTORY:
            if found is not None and found.kind != DIRECTORY:
                found.stamp = self.tick()
                del parent.entries[name]
            self._merge(source, self._directory(parent, name, source), copies)
            return
        if found is not None and found.kind == DIRECTORY:
            raise Invalid(repr(name))
        if found is not None and (found.ident, found.stamp) == (source.ident, source.stamp):
            return
        if found is not None:
            found.stamp = self.tick()
        made = copies.get(source.ident)
        if made is None:
            made = copies[source.ident] = Node(
                self.tick(), 0, source.kind, source.mode, bytearray(source.data), source.target,
                dict(source.xattrs), source.mtime_ns,
            )  # fmt: skip
        made.stamp = self.tick()
        parent.entries[name] = made

    def _merge(self, source: Node, head: Node, copies: dict[int, Node]) -> None:
        for name in sorted(source.entries):
            self._put_back(source.entries[name], head, name, copies)


def _resolve(root: Node, path: Path) -> Node:
    node = root
    for name in path:
        if node.kind != DIRECTORY:
            raise NotADirectory(repr(path))
        node = _entry(node, name)
    return node


def _entry(parent: Node, name: bytes) -> Node:
    node = parent.entries.get(name)
    if node is None:
        raise NotFound(repr(name))
    return node


def _holds(node: Node, other: Node) -> bool:
    """Whether the other is this directory or below it."""
    return node.kind == DIRECTORY and any(found is other for _, found in node.walk())


def _check_replaceable(node: Node, target: Node) -> None:
    error: type[SnapfsError] | None = None
    if target.kind == DIRECTORY:
        if node.kind != DIRECTORY:
            error = IsADirectory
        elif target.entries:
            error = NotEmpty
    elif node.kind == DIRECTORY:
        error = NotADirectory
    if error:
        raise error("cannot be replaced")
