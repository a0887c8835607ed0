"""The tree of epochs and the paths through it.

Invariants:
  * A child's number is greater than its parent's; numbers are never reused.
  * A view's path is the set of epochs from the root of the tree to the view's own, in ascending order.
  * Views on one line of descent share one ``Chain``: a path is a chain and the last epoch of it that counts.
  * An epoch leaves the tree only when it holds no version any more; it then leaves every chain.
"""

from __future__ import annotations

import weakref
from bisect import bisect_left, bisect_right
from collections.abc import Iterator

from snapfs.errors import Corrupt, NoSpace, NotFound
from snapfs.format import keys, records
from snapfs.store.index import Index, items
from snapfs.types import VIEW_BITS, Epoch, VolumeId

ROOT = Epoch(0)
"""Parent of epochs that have none."""


class Chain:
    """Ascending epochs of one line of descent."""

    __slots__ = ("__weakref__", "members", "order")

    def __init__(self, order: list[Epoch]) -> None:
        self.order = order
        self.members = set(order)

    def append(self, epoch: Epoch) -> None:
        self.order.append(epoch)
        self.members.add(epoch)

    def discard(self, epoch: Epoch) -> None:
        if epoch in self.members:
            self.members.remove(epoch)
            del self.order[bisect_left(self.order, epoch)]


class Path:
    """The epochs a view sees."""

    __slots__ = ("chain", "last")

    def __init__(self, chain: Chain, last: Epoch) -> None:
        self.chain = chain
        self.last = last

    def __contains__(self, epoch: Epoch) -> bool:
        return epoch <= self.last and epoch in self.chain.members

    def below(self, epoch: Epoch) -> Epoch:
        """Greatest epoch of the path that is less; ROOT if there is none."""
        order = self.chain.order
        place = bisect_left(order, epoch) - 1
        return order[place] if place >= 0 else ROOT

    def __iter__(self) -> Iterator[Epoch]:
        order = self.chain.order
        return iter(order[: bisect_right(order, self.last)])


class View:
    """The tree as seen from one epoch.  A head's view is one object for the volume's life: a snapshot or
    checkout changes ``path`` inside it."""

    __slots__ = ("__weakref__", "gone", "path", "volume_id", "writable")

    def __init__(self, volume_id: VolumeId, path: Path, *, writable: bool) -> None:
        self.volume_id = volume_id
        self.path = path
        self.writable = writable
        self.gone = False
        """Its volume or snapshot was deleted."""

    @property
    def epoch(self) -> Epoch:
        return self.path.last


class Moment:
    """The tree as it was at a moment: for reading that state, whatever is folded meanwhile."""

    def __init__(self, parents: dict[Epoch, Epoch], folding: set[Epoch]) -> None:
        self._parents = parents
        self._folding = folding
        self._near: Path | None = None

    def __contains__(self, epoch: Epoch) -> bool:
        return epoch in self._parents

    def whole(self, epoch: Epoch) -> bool:
        """Whether the view of the epoch shows what it always did: none of its versions has moved to a child."""
        return epoch in self._parents and epoch not in self._folding

    def ancestors(self, epoch: Epoch) -> Iterator[Epoch]:
        """Its parent, the parent's parent, and so on.

        Raises:
            Corrupt: one of them is missing.
        """
        while (parent := self._parents.get(epoch)) != ROOT:
            if parent is None:
                raise Corrupt(f"epoch {epoch} is missing", hint="run: snap fsck")
            epoch = parent
            yield epoch

    def view(self, epoch: Epoch, volume: VolumeId) -> View:
        return View(volume, self._path(epoch), writable=False)

    def _path(self, epoch: Epoch) -> Path:
        near = self._near
        if near is not None and epoch in near:
            return Path(near.chain, epoch)
        path = [epoch]
        for ancestor in self.ancestors(epoch):
            if near is not None and ancestor == near.last:  # it goes on where the last one ended
                chain = near.chain
                break
            path.append(ancestor)
        else:
            chain = Chain([])
        for member in reversed(path):
            chain.append(member)
        self._near = Path(chain, epoch)
        return self._near


class Epochs:
    """Table ``epochs``, kept in memory: one small tuple an epoch."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._parent: dict[Epoch, Epoch] = {}
        self._volume: dict[Epoch, VolumeId] = {}
        self._children: dict[Epoch, set[Epoch]] = {}
        self.dying: set[Epoch] = set()
        self._chains: weakref.WeakSet[Chain] = weakref.WeakSet()
        self.load()

    def load(self) -> None:
        """Take what the index has in place of what is in memory.  Paths that were given out stay as they are."""
        self._next = int.from_bytes(self._index.get("meta", b"next_epoch") or b"\1", "little")
        for known in (self._parent, self._volume, self._children, self.dying):
            known.clear()
        for key, payload in items(self._index, "epochs"):
            epoch = Epoch(keys.from_u64(key))
            parent, volume, state = records.decode_epoch(payload)
            if parent >= epoch:  # a circle would never end
                raise Corrupt(f"epoch {epoch} descends from {parent}, which is not older", hint="run: snap fsck")
            if epoch >= self._next:  # a number given twice would make a circle, too
                raise Corrupt(f"epoch {epoch} has a number not yet given", hint="run: snap fsck")
            self._attach(epoch, parent, volume)
            if state == records.DYING:
                self.dying.add(epoch)

    def _attach(self, epoch: Epoch, parent: Epoch, volume: VolumeId) -> None:
        self._parent[epoch] = parent
        self._volume[epoch] = volume
        self._children.setdefault(parent, set()).add(epoch)

    def _put(self, epoch: Epoch) -> None:
        state = records.DYING if epoch in self.dying else records.LIVE
        payload = records.encode_epoch(self._parent[epoch], self._volume[epoch], state)
        self._index.put("epochs", keys.u64(epoch), payload)

    def number(self) -> int:
        """A new number, for an epoch or a volume.

        Raises:
            NoSpace: the store has used up its numbers.
        """
        if self._next >= 1 << VIEW_BITS:
            raise NoSpace("the store has no snapshot numbers left", hint="start a new store")
        number = self._next
        self._next += 1
        self._index.put("meta", b"next_epoch", self._next.to_bytes(8, "little"))
        return number

    def create(self, parent: Epoch, volume: VolumeId) -> Epoch:
        epoch = Epoch(self.number())
        self._attach(epoch, parent, volume)
        self._put(epoch)
        return epoch

    def all(self) -> list[Epoch]:
        return sorted(self._parent)

    def __contains__(self, epoch: Epoch) -> bool:
        return epoch in self._parent

    def moment(self) -> Moment:
        """As it is now.  A dying epoch is folded once it has one child or none; it never gets a further one."""
        return Moment(dict(self._parent), {epoch for epoch in self.dying if len(self.children(epoch)) < 2})

    def parent(self, epoch: Epoch) -> Epoch:
        """Raises:
        Corrupt: no such epoch, which somebody names.
        """
        parent = self._parent.get(epoch)
        if parent is None:
            raise Corrupt(f"epoch {epoch} is missing", hint="run: snap fsck")
        return parent

    def volume(self, epoch: Epoch) -> VolumeId:
        """Raises as ``parent``."""
        self.parent(epoch)
        return self._volume[epoch]

    def children(self, epoch: Epoch) -> set[Epoch]:
        return self._children.get(epoch, set())

    def ancestors(self, epoch: Epoch) -> Iterator[Epoch]:
        """The epoch itself, its parent, and so on.

        Raises:
            Corrupt: one of them is missing.
        """
        while epoch != ROOT:
            yield epoch
            epoch = self.parent(epoch)

    def path(self, epoch: Epoch, near: Path | None = None) -> Path:
        """Path of an epoch, sharing the chain of ``near`` when it lies on it.

        Raises:
            NotFound: no such epoch.
        """
        if epoch not in self._parent:
            raise NotFound(f"epoch {epoch} does not exist")
        if near is not None and epoch in near:
            return Path(near.chain, epoch)
        chain = Chain(sorted(self.ancestors(epoch)))
        self._chains.add(chain)
        return Path(chain, epoch)

    def extend(self, path: Path, epoch: Epoch) -> Path:
        """Path of a new child of the path's last epoch."""
        chain = path.chain
        if chain.order[-1] != path.last:
            chain = Chain(list(path))
            self._chains.add(chain)
        chain.append(epoch)
        return Path(chain, epoch)

    def doom(self, epoch: Epoch) -> None:
        """No head or snapshot needs the epoch any more: reclaim it when its place in the tree allows."""
        self.dying.add(epoch)
        self._put(epoch)

    def reclaimable(self) -> Epoch:
        """A dying epoch with at most one child; leaves first, as they cost least.  ROOT if there is none."""
        found = ROOT
        for epoch in sorted(self.dying, reverse=True):
            count = len(self.children(epoch))
            if count == 0:
                return epoch
            if count == 1 and found == ROOT:
                found = epoch
        return found

    def remove(self, epoch: Epoch) -> None:
        """Take an emptied dying epoch with at most one child out of the tree."""
        parent = self._parent.pop(epoch)
        self._volume.pop(epoch)
        self._children[parent].discard(epoch)
        self.dying.discard(epoch)
        for child in self._children.pop(epoch, set()):
            self._parent[child] = parent
            self._children[parent].add(child)
            self._put(child)
        self._index.delete("epochs", keys.u64(epoch))
        for chain in list(self._chains):
            chain.discard(epoch)

    def common_ancestor(self, a: Epoch, b: Epoch) -> Epoch:
        """Nearest epoch that is on both paths; ROOT if the trees are strangers."""
        while a != b:
            if a > b:  # a child's number is the greater one, so the greater one climbs
                a = self._parent[a]
            else:
                b = self._parent[b]
        return a
