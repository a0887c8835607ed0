"""Which views show a block, as intervals of a numbering of the views.  Pure.

Views (heads and snapshots) are numbered in the order of a walk through the tree of epochs, a parent before its
children.  So those in the subtree of an epoch are an interval, and a change of an account counts from the interval's
start to its end.

Invariants:
  * ``Intervals`` are flat: start, end, start, end...; each start is less than its end, and greater than the end before
    it.  So two that are equal hold the same views.
  * An epoch that left the tree is resolved by ``aliases``: to where its versions went, or to 0: no view is below it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Mapping

from snapfs.errors import Corrupt
from snapfs.format.accounts import Changes
from snapfs.types import Epoch, VolumeId
from snapfs.versions.epochs import ROOT

Intervals = tuple[int, ...]
"""Numbers of views; empty: none."""

NOTHING: Intervals = ()


def resolve(aliases: Mapping[Epoch, Epoch], epoch: Epoch) -> Epoch:
    """Where the versions of an epoch are; ROOT: nowhere.

    Raises:
        Corrupt: the aliases make a circle.
    """
    steps = 0
    while epoch in aliases:
        epoch = aliases[epoch]
        steps += 1
        if steps > len(aliases):
            raise Corrupt(f"epoch {epoch} went where it came from", hint="run: snap fsck --repair")
    return epoch


class ViewOrder:
    """The views in their order.

    Attributes:
        views: their epochs, by number.
        number: of each view's epoch.
    """

    def __init__(
        self, parents: Mapping[Epoch, Epoch], views: Collection[Epoch], aliases: Mapping[Epoch, Epoch] | None = None
    ) -> None:
        """
        Args:
            parents: of all epochs; one that is missing or no less than its child counts as the root.
            views: epochs of heads and snapshots, all of them in ``parents``.
        """
        size: dict[Epoch, int] = dict.fromkeys(parents, 0)
        size[ROOT] = 0
        ascending = sorted(parents)
        above = {epoch: parent if parent < epoch and parent in size else ROOT for epoch, parent in parents.items()}
        for epoch in views:
            size[epoch] = 1
        for epoch in reversed(ascending):
            size[above[epoch]] += size[epoch]
        self._below: dict[Epoch, tuple[int, int]] = {ROOT: (0, 0)}
        """Of each epoch the first view in its subtree, and the end of them."""
        self.views: list[Epoch] = [ROOT] * len(views)
        wanted = set(views)
        free = {ROOT: 0}
        for epoch in ascending:
            start = free[above[epoch]]
            free[above[epoch]] = start + size[epoch]
            self._below[epoch] = (start, start + size[epoch])
            if epoch in wanted:
                self.views[start] = epoch
                start += 1
            free[epoch] = start
        self.number = {epoch: number for number, epoch in enumerate(self.views)}
        for epoch in aliases or ():
            into = resolve(aliases or {}, epoch)
            self._below[epoch] = self._below.get(into, (0, 0))

    def __len__(self) -> int:
        return len(self.views)

    def knows(self, epoch: Epoch) -> bool:
        """Whether the epoch is in the tree, or went somewhere from it."""
        return epoch in self._below

    def shown(self, changes: Changes) -> Intervals:
        """Views that show what an account with these changes is of: those on whose paths they add up to more than 0.

        Raises:
            Corrupt: an epoch that is not known.
        """
        edges: dict[int, int] = {}
        for epoch, change in changes:
            if epoch not in self._below:
                raise Corrupt(f"an account names epoch {epoch}, which is not there", hint="run: snap fsck")
            start, end = self._below[epoch]
            edges[start] = edges.get(start, 0) + change
            edges[end] = edges.get(end, 0) - change
        found: list[int] = []
        count = 0
        for place in sorted(edges):
            before, count = count, count + edges[place]
            if (before > 0) != (count > 0):
                found.append(place)
        return tuple(found)


def numbers(intervals: Intervals) -> Iterable[int]:
    """Each view's number."""
    for at in range(0, len(intervals), 2):
        yield from range(intervals[at], intervals[at + 1])


class Owners:
    """Which volumes have the views of an interval."""

    def __init__(self, volumes: Iterable[VolumeId]) -> None:
        """``volumes``: of each view, by number."""
        self._ends: list[int] = []
        self._of: list[VolumeId] = []
        """Of each run of views of one volume: where it ends, and the volume."""
        for number, volume in enumerate(volumes):
            if self._of and self._of[-1] == volume:
                self._ends[-1] = number + 1
            else:
                self._ends.append(number + 1)
                self._of.append(volume)
        self._known: dict[Intervals, frozenset[VolumeId]] = {}

    def of(self, views: Intervals) -> frozenset[VolumeId]:
        """Volumes that have any of the views."""
        if len(views) == 2:
            return self._of_one(views)
        return frozenset().union(*(self._of_one(views[at : at + 2]) for at in range(0, len(views), 2)))

    def _of_one(self, interval: Intervals) -> frozenset[VolumeId]:
        known = self._known.get(interval)
        if known is None:
            start, end = interval
            first, last = bisect_right(self._ends, start), bisect_left(self._ends, end)
            known = self._known[interval] = frozenset(self._of[first : last + 1])
        return known


class Members:
    """Some of the views: how many of an interval are among them, in O(1)."""

    def __init__(self, total: int, members: Iterable[int]) -> None:
        flags = [0] * total
        for number in members:
            flags[number] = 1
        self._before = [0]
        for flag in flags:
            self._before.append(self._before[-1] + flag)

    def rank(self, number: int) -> int:
        """How many of them have a lesser number."""
        return self._before[number]

    def hold_all(self, intervals: Intervals) -> bool:
        """Whether all views of the intervals are among them; of none: no."""
        before = self._before
        for at in range(0, len(intervals), 2):
            start, end = intervals[at], intervals[at + 1]
            if before[end] - before[start] != end - start:
                return False
        return bool(intervals)

    def hold_any(self, intervals: Intervals) -> bool:
        before = self._before
        if len(intervals) == 2:
            return before[intervals[0]] != before[intervals[1]]
        return any(before[intervals[at + 1]] != before[intervals[at]] for at in range(0, len(intervals), 2))
