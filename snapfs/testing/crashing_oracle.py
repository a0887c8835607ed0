"""The oracle that also knows what is stored and what only waits in memory, and what a store shows against that.

Invariants:
  * What changes names and attributes counts at once; written bytes count as stored once they were flushed: by a sync,
    by an fsync of their file, by whatever holds their volume still.
  * A commit publishes what is stored at that moment, whole.  After a flush that failed, of each file that had bytes
    waiting some may be stored and others not: any mixture of the two contents is right.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

from snapfs.errors import Conflict, NotFound
from snapfs.testing.oracle import Frozen, Oracle, Volume
from snapfs.testing.trees import FILE, Node, Path, Shown, Tree, differences, shown


@dataclass
class State:
    """All that a store shows."""

    heads: dict[str, Tree]
    snapshots: dict[tuple[str, str], Tree]
    tags: dict[str, dict[str, list[str]]]
    trash: list[str] = field(default_factory=list)
    """``volume`` or ``volume@snapshot``, sorted."""
    newer: dict[tuple[str, Path], bytes] = field(default_factory=dict)
    """Of files some of whose waiting bytes may be stored: their content with all of them."""


class CrashOracle(Oracle):
    def __init__(self) -> None:
        super().__init__()
        self._waiting: dict[Node, list[tuple[int, bytes]]] = {}
        self._doubtful: set[Node] = set()
        self._frozen: dict[Frozen, Tree] = {}
        self._trashed: dict[tuple[str, str], tuple[Frozen, list[str]]] = {}
        """Deleted snapshots, with their tags."""
        self._trashed_volumes: dict[str, Volume] = {}

    # -- written bytes

    def write(self, volume: str, path: Path, offset: int, data: bytes) -> None:
        node = self._regular(volume, path)
        self._waiting.setdefault(node, []).append((offset, data))
        node.stamp = self.tick()

    def truncate(self, volume: str, path: Path, size: int) -> None:
        super().truncate(volume, path, size)
        node = self._regular(volume, path)
        waiting = [(offset, data[: size - offset]) for offset, data in self._waiting.pop(node, []) if offset < size]
        if waiting:
            self._waiting[node] = waiting

    def fsync(self, volume: str, path: Path) -> None:
        self._store(self._regular(volume, path))

    def _store(self, node: Node) -> None:
        for offset, data in self._waiting.pop(node, []):
            _lay(node.data, offset, data)
        self._doubtful.discard(node)

    def flush(self) -> None:
        for node in list(self._waiting):
            self._store(node)

    reclaim = compact = shrink = fsck = flush

    def _flush_volume(self, volume: str) -> None:
        for _, node in self._volume(volume).root.walk():
            self._store(node)

    def failed(self) -> None:
        """A flush may have stored some of what waits."""
        self._doubtful.update(self._waiting)

    # -- what holds a volume still flushes it

    def snapshot(self, volume: str, name: str) -> None:
        self._flush_volume(volume)
        super().snapshot(volume, name)

    def checkout(self, volume: str, name: str, *, discard: bool) -> None:
        self._flush_volume(volume)
        super().checkout(volume, name, discard=discard)

    def restore(self, volume: str, name: str, path: Path) -> None:
        self._flush_volume(volume)
        super().restore(volume, name, path)

    # -- the trash, where there is at most one of a name

    def trash_snapshot(self, volume: str, name: str) -> None:
        frozen = self.find(volume, name)
        tags = self.listed(volume)[frozen.name]
        self.remove_snapshot(volume, name)
        self._trashed[volume, frozen.name] = frozen, tags

    def undelete_snapshot(self, volume: str, name: str) -> None:
        owner = self._volume(volume)
        if (volume, name) not in self._trashed:
            raise NotFound(name)
        if owner.taken(name):
            raise Conflict(name)
        frozen, tags = self._trashed.pop((volume, name))
        frozen.alive = True
        owner.snapshots[name] = frozen
        owner.tags |= {tag: frozen for tag in tags if not owner.taken(tag)}

    def trash_volume(self, name: str) -> None:
        self._flush_volume(name)
        volume = self._volume(name)
        self.remove_volume(name, snapshots=True)
        self._trashed_volumes[name] = volume

    def undelete_volume(self, name: str) -> None:
        if name not in self._trashed_volumes:
            raise NotFound(name)
        if name in self.volumes:
            raise Conflict(name)
        volume = self.volumes[name] = self._trashed_volumes.pop(name)
        for frozen in volume.snapshots.values():
            frozen.alive = True

    def expire(self) -> None:
        self._trashed.clear()
        self._trashed_volumes.clear()

    # -- what is to be seen

    def state(self) -> State:
        """As it is stored."""
        state = State({}, {}, {}, sorted([*map("@".join, self._trashed), *self._trashed_volumes]))
        for name, volume in self.volumes.items():
            state.heads[name] = shown(volume.root)
            state.tags[name] = self.listed(name)
            for snapshot, frozen in volume.snapshots.items():
                tree = self._frozen.get(frozen)
                if tree is None:
                    tree = self._frozen[frozen] = shown(frozen.root)
                state.snapshots[name, snapshot] = tree
            for path, node in volume.root.walk():
                if node in self._doubtful:
                    state.newer[name, path] = self._whole(node)
        return state

    def visible(self) -> State:
        """As programs see it, with what waits."""
        trial = copy.deepcopy(self)
        trial.flush()
        return trial.state()

    def __deepcopy__(self, memo: dict[int, object]) -> CrashOracle:
        made = CrashOracle()
        memo[id(self)] = made
        for name in ("volumes", "_count", "_waiting", "_doubtful", "_trashed", "_trashed_volumes"):
            setattr(made, name, copy.deepcopy(getattr(self, name), memo))
        return made

    def _whole(self, node: Node) -> bytes:
        data = bytearray(node.data)
        for offset, piece in self._waiting.get(node, []):
            _lay(data, offset, piece)
        return bytes(data)


def _lay(target: bytearray, offset: int, data: bytes) -> None:
    target.extend(bytes(max(0, offset - len(target))))
    target[offset : offset + len(data)] = data


def compare(expected: State, found: State) -> list[str]:
    """What is wrong, a readable line each."""
    lines = []
    if expected.heads.keys() != found.heads.keys():
        lines.append(f"volumes are {sorted(found.heads)}, should be {sorted(expected.heads)}")
    if expected.tags != found.tags:
        lines.append(f"snapshots are {found.tags}, should be {expected.tags}")
    if expected.trash != found.trash:
        lines.append(f"the trash has {found.trash}, should have {expected.trash}")
    if lines:
        return lines
    for name, tree in expected.heads.items():
        have = found.heads[name]
        if have != tree:
            allowed = {path: newer for (volume, path), newer in expected.newer.items() if volume == name}
            lines += [f"{name}{line}" for line in differences(_with_mixtures(tree, have, allowed), have)]
    for key, tree in expected.snapshots.items():
        if found.snapshots[key] != tree:
            lines += [f"{'@'.join(key)}{line}" for line in differences(tree, found.snapshots[key])]
    return lines


def _with_mixtures(expected: Tree, found: Tree, newer: dict[Path, bytes]) -> Tree:
    """The expected tree with the found content wherever that is a mixture of the two that it may be of."""
    tree = dict(expected)
    for path, whole in newer.items():
        want, have = expected.get(path), found.get(path)
        if want and have and want.kind == FILE and _mixture(have.content, want.content, whole):
            tree[path] = Shown(want.kind, want.mode, want.mtime_ns, have.content, want.xattrs, want.links)
    return tree


def _mixture(content: bytes, old: bytes, new: bytes) -> bool:
    if not len(old) <= len(content) <= len(new):
        return False
    old = old.ljust(len(content), b"\0")
    return all(have in pair for have, *pair in zip(content, old, new, strict=False))
