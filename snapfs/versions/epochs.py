"""The tree of epochs and the paths through it.

Invariants:
  * A child's number is greater than its parent's; numbers are never reused.
  * A view's path is the set of epochs from the root of the tree to the view's own, in ascending order.
  * Views on one line of descent share one ``Chain``: a path is a chain and the last epoch of it that counts.
  * An epoch leaves the tree only when it holds no version any more; it then leaves every chain.
  * An epoch in use is live.  One that is not is dying, and gets no further child; it is *shared* while it has several
    children and has been looked through: all that is left in it is needed below.
"""

from __future__ import annotations

import heapq
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

    __slots__ = ("__weakref__", "_lent", "members", "order")

    def __init__(self, order: list[Epoch]) -> None:
        self.order = order
        self.members = set(order)
        self._lent = False

    def append(self, epoch: Epoch) -> None:
        self.order.append(epoch)
        self.members.add(epoch)

    def discard(self, epoch: Epoch) -> None:
        if epoch in self.members:
            if self._lent:
                self.order, self.members, self._lent = self.order.copy(), self.members.copy(), False
            self.members.remove(epoch)
            del self.order[bisect_left(self.order, epoch)]

    def until(self, last: Epoch) -> Chain:
        """A chain of its own of the epochs up to this one.  Mostly few are left out, and a set is copied in a third of
        the time that it takes to make one."""
        place = bisect_right(self.order, last)
        if 2 * place < len(self.order):
            return Chain(self.order[:place])
        chain = Chain([])
        chain.order, chain.members = self.order[:place], self.members.copy()
        chain.members.difference_update(self.order[place:])
        return chain

    def lend(self) -> Chain:
        """The chain as it is, in O(1): an epoch that leaves this one stays in it.  What is appended to this one may be
        seen in it: a path ends before."""
        self._lent = True
        lent = Chain([])
        lent.order, lent.members, lent._lent = self.order, self.members, True
        return lent


class Path:
    """The epochs a view sees."""

    __slots__ = ("chain", "inverted", "last", "number")

    def __init__(self, chain: Chain, last: Epoch) -> None:
        self.chain = chain
        self.last = last
        self.number = keys.u64(last)
        """As entries of ``changes`` begin."""
        self.inverted = keys.u64(keys.INVERT - last)
        """As keys of ``tree`` end."""

    def __contains__(self, epoch: Epoch) -> bool:
        return epoch <= self.last and epoch in self.chain.members

    def below(self, epoch: Epoch) -> Epoch:
        """Greatest epoch of the path that is less; ROOT if there is none."""
        order = self.chain.order
        place = bisect_left(order, epoch) - 1
        return order[place] if place >= 0 else ROOT

    def apart(self, other: Path) -> list[Epoch]:
        """Epochs on one of the two but not on the other, ascending: found from their ends, down to where they part."""
        found: list[Epoch] = []
        a, b = self.last, other.last
        while a != b:
            found.append(max(a, b))
            if a > b:
                a = self.below(a)
            else:
                b = other.below(b)
        return found[::-1]

    def lend(self) -> Path:
        """The same path, for reading a state of the past: an epoch that leaves the tree stays in it."""
        return Path(self.chain.lend(), self.last)

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
        """Whether the view of the epoch shows what it always did: none of its versions has gone or moved to a child."""
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
        """Not in use any more, the shared ones included."""
        self._shared: set[Epoch] = set()
        self._leaves: list[int] = []
        """Heaps of negative numbers: dying epochs to be reclaimed, at least, those without children and the others."""
        self._others: list[int] = []
        self.generation = 0
        """Grows with each change of the tree."""
        self.splits = 0
        """Grows when an epoch is no view any more, or gets a child that does not just carry on its line."""
        self.woken = 0
        """How often something below a dying epoch changed that it may have been kept for."""
        self._chains: weakref.WeakSet[Chain] = weakref.WeakSet()
        self.load()

    def load(self) -> None:
        """Take what the index has in place of what is in memory.  Paths that were given out stay as they are."""
        self._next = int.from_bytes(self._index.get("meta", b"next_epoch") or b"\1", "little")
        for known in (self._parent, self._volume, self._children, self.dying, self._shared, self._leaves, self._others):
            known.clear()
        self.generation += 1
        self.splits += 1
        for key, payload in items(self._index, "epochs"):
            epoch = Epoch(keys.from_u64(key))
            parent, volume, state = records.decode_epoch(payload)
            if parent >= epoch:  # a circle would never end
                raise Corrupt(f"epoch {epoch} descends from {parent}, which is not older", hint="run: snap fsck")
            if epoch >= self._next:  # a number given twice would make a circle, too
                raise Corrupt(f"epoch {epoch} has a number not yet given", hint="run: snap fsck")
            self._attach(epoch, parent, volume)
            if state != records.LIVE:
                self.dying.add(epoch)
            if state == records.SHARED:
                self._shared.add(epoch)
        for epoch in self.dying:
            self._queue(epoch)

    def _attach(self, epoch: Epoch, parent: Epoch, volume: VolumeId) -> None:
        self._parent[epoch] = parent
        self._volume[epoch] = volume
        self._children.setdefault(parent, set()).add(epoch)
        self.generation += 1

    def _put(self, epoch: Epoch) -> None:
        state = records.LIVE
        if epoch in self.dying:
            state = records.SHARED if epoch in self._shared else records.DYING
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
        if self._children.get(parent) or self._volume.get(parent) != volume:
            self.splits += 1
        self._attach(epoch, parent, volume)
        self._put(epoch)
        return epoch

    def all(self) -> list[Epoch]:
        return sorted(self._parent)

    def __contains__(self, epoch: Epoch) -> bool:
        return epoch in self._parent

    def moment(self) -> Moment:
        """As it is now."""
        return Moment(dict(self._parent), set(self.dying))

    def parents(self) -> dict[Epoch, Epoch]:
        """Of all epochs; not to be changed."""
        return self._parent

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
        """Path of an epoch, sharing the chain of ``near`` when it lies on it; else it is climbed only to where the two
        part.

        Raises:
            NotFound: no such epoch.
        """
        if epoch not in self._parent:
            raise NotFound(f"epoch {epoch} does not exist")
        climbed: list[Epoch] = []
        for ancestor in self.ancestors(epoch):
            if near is not None and ancestor in near:
                if ancestor == epoch:
                    return Path(near.chain, epoch)
                chain = near.chain.until(ancestor)
                for descendant in reversed(climbed):
                    chain.append(descendant)
                break
            climbed.append(ancestor)
        else:
            chain = Chain(climbed[::-1])
        self._chains.add(chain)
        return Path(chain, epoch)

    def extend(self, path: Path, epoch: Epoch) -> Path:
        """Path of a new child of the path's last epoch."""
        chain = path.chain
        if chain.order[-1] != path.last:
            chain = chain.until(path.last)
            self._chains.add(chain)
        chain.append(epoch)
        return Path(chain, epoch)

    def doom(self, epoch: Epoch) -> None:
        """No head or snapshot needs the epoch any more: reclaim it when its place in the tree allows."""
        self.dying.add(epoch)
        self.generation += 1
        self.splits += 1
        self._put(epoch)
        self._queue(epoch)
        self.wake(self._parent[epoch])

    def wake(self, epoch: Epoch) -> None:
        """What is left of the epoch may be needed no more, if it is a shared one; and so of the dying ones above it."""
        self.woken += 1
        while epoch in self._shared:
            self._shared.discard(epoch)
            self._put(epoch)
            self._queue(epoch)
            epoch = self._parent[epoch]

    def is_shared(self, epoch: Epoch) -> bool:
        """Whether the epoch is dying and has several children."""
        return epoch in self.dying and len(self.children(epoch)) > 1

    def share(self, epoch: Epoch) -> None:
        """A dying epoch with several children was looked through: they need what is left."""
        self._shared.add(epoch)
        self._put(epoch)

    def _queue(self, epoch: Epoch) -> None:
        if epoch in self.dying:
            heapq.heappush(self._others if self.children(epoch) else self._leaves, -epoch)

    def reclaimable(self) -> Epoch:
        """A dying epoch that is to be removed or, with several children, to be looked through; leaves first, as they
        cost least, then the one furthest down.  ROOT if there is none."""
        while self._leaves:
            epoch = Epoch(-self._leaves[0])
            if epoch in self.dying and not self.children(epoch):
                return epoch
            heapq.heappop(self._leaves)
        while self._others:
            epoch = Epoch(-self._others[0])
            if epoch in self.dying and (epoch not in self._shared or len(self.children(epoch)) == 1):
                return epoch
            heapq.heappop(self._others)
        return ROOT

    def remove(self, epoch: Epoch) -> None:
        """Take an emptied dying epoch with at most one child out of the tree."""
        parent = self._parent.pop(epoch)
        self._volume.pop(epoch)
        self._children[parent].discard(epoch)
        self.dying.discard(epoch)
        self._shared.discard(epoch)
        self.generation += 1
        for child in self._children.pop(epoch, set()):
            self._parent[child] = parent
            self._children[parent].add(child)
            self._put(child)
        self._index.delete("epochs", keys.u64(epoch))
        for chain in list(self._chains):
            chain.discard(epoch)
        self._queue(parent)

    def common_ancestor(self, a: Epoch, b: Epoch) -> Epoch:
        """Nearest epoch that is on both paths; ROOT if the trees are strangers."""
        while a != b:
            if a > b:  # a child's number is the greater one, so the greater one climbs
                a = self._parent[a]
            else:
                b = self._parent[b]
        return a
