"""What takes space and what would be freed, from the rows of accounts.  Pure: no index, no clock, no await.

A ``Ledger`` takes rows (bytes, and the changes that say which views show them) and keeps their sums by the views that
show them: rows are many, but few sets of views differ.  All questions are answered from these groups, exactly.

Invariants:
  * Bytes are freed when all views that show them go, and not before.  Bytes that no view shows are being given back.
  * Whoever works for long calls ``rest`` now and then, which may sleep or raise.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

import msgspec

from snapfs.format.accounts import Changes, Sums
from snapfs.types import Epoch, VolumeId
from snapfs.volume.accounts.views import Intervals, Members, Owners, ViewOrder

Rest = Callable[[], None]
_TURN: Final = 64
"""Rows or groups between two calls of ``rest``."""


class Shown(msgspec.Struct, frozen=True):
    """A view, as the ledger needs to know it."""

    epoch: Epoch
    volume: VolumeId
    head: bool
    trashed: bool
    """It, or its whole volume."""


class ViewFigures(msgspec.Struct):
    referenced_bytes: int = 0
    exclusive_bytes: int = 0


class VolumeFigures(msgspec.Struct):
    referenced_bytes: int = 0
    exclusive_bytes: int = 0
    snapshots_bytes: int = 0
    """Freed if all its snapshots go and its head stays."""


class SpaceFigures(msgspec.Struct):
    """Stored bytes of blocks, by the best of the views that show them."""

    live_bytes: int = 0
    snapshots_bytes: int = 0
    trash_bytes: int = 0
    deleting_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        return self.live_bytes + self.snapshots_bytes + self.trash_bytes + self.deleting_bytes


def no_rest() -> None:
    """For those who are alone."""


class Ledger:
    """Sums of stored bytes by the views that show them.

    Attributes:
        order: the views' numbering; ``shown``: of each number, the view.
        groups: stored bytes of what just these views show.
    """

    def __init__(
        self,
        parents: Mapping[Epoch, Epoch],
        views: Iterable[Shown],
        aliases: Mapping[Epoch, Epoch] | None = None,
        rest: Rest = no_rest,
    ) -> None:
        by_epoch = {view.epoch: view for view in views}
        self._rest = rest
        self.order = ViewOrder(parents, by_epoch.keys(), aliases)
        self.shown = [by_epoch[epoch] for epoch in self.order.views]
        self.groups: dict[Intervals, int] = {}
        self._owners = Owners(view.volume for view in self.shown)

    # -- filling

    def add(self, rows: Iterable[tuple[Sums, Changes]]) -> Ledger:
        """Raises:
        Corrupt: a row names an epoch that is not known.
        """
        groups, shown = self.groups, self.order.shown
        for count, (sums, changes) in enumerate(rows):
            if count % _TURN == 0:
                self._rest()
            views = shown(changes)
            groups[views] = groups.get(views, 0) + sums.stored_bytes
        return self

    # -- answers

    @property
    def stored_bytes(self) -> int:
        """Of all rows."""
        return sum(self.groups.values())

    def views(self) -> list[ViewFigures]:
        """Of each view, by number."""
        rises = [0] * (len(self.order) + 1)
        found = [ViewFigures() for _ in self.order.views]
        for count, (views, stored_bytes) in enumerate(self.groups.items()):
            if count % _TURN == 0:
                self._rest()
            for at in range(0, len(views), 2):
                rises[views[at]] += stored_bytes
                rises[views[at + 1]] -= stored_bytes
            if len(views) == 2 and views[1] - views[0] == 1:
                found[views[0]].exclusive_bytes += stored_bytes
        held = 0
        for figures, rise in zip(found, rises, strict=False):
            held += rise
            figures.referenced_bytes = held
        return found

    def volumes(self) -> dict[VolumeId, VolumeFigures]:
        """Of each volume that has a view."""
        found = {view.volume: VolumeFigures() for view in self.shown}
        heads = self.members(view.head for view in self.shown)
        for count, (views, stored_bytes) in enumerate(self.groups.items()):
            if count % _TURN == 0:
                self._rest()
            owners = self._owners.of(views)
            for volume in owners:
                found[volume].referenced_bytes += stored_bytes
            if len(owners) == 1:
                (owner,) = owners
                found[owner].exclusive_bytes += stored_bytes
                if not heads.hold_any(views):
                    found[owner].snapshots_bytes += stored_bytes
        return found

    def members(self, flags: Iterable[bool]) -> Members:
        """The views whose flags are set."""
        return Members(len(self.order), (number for number, flag in enumerate(flags) if flag))

    def of_epochs(self, epochs: Collection[Epoch]) -> Members:
        """Those views; others are passed over."""
        wanted = set(epochs)
        return self.members(epoch in wanted for epoch in self.order.views)

    def freed(self, gone: Members) -> int:
        """Stored bytes that would be freed if just these views went, together."""
        freed_bytes = 0
        for count, (views, stored_bytes) in enumerate(self.groups.items()):
            if count % _TURN == 0:
                self._rest()
            if gone.hold_all(views):
                freed_bytes += stored_bytes
        return freed_bytes

    def space(self) -> SpaceFigures:
        heads = self.members(view.head and not view.trashed for view in self.shown)
        kept = self.members(not view.trashed for view in self.shown)
        found = SpaceFigures()
        for count, (views, stored_bytes) in enumerate(self.groups.items()):
            if count % _TURN == 0:
                self._rest()
            if heads.hold_any(views):
                found.live_bytes += stored_bytes
            elif kept.hold_any(views):
                found.snapshots_bytes += stored_bytes
            elif views:
                found.trash_bytes += stored_bytes
            else:
                found.deleting_bytes += stored_bytes
        return found

    def needs(self, candidates: Collection[Epoch]) -> dict[Intervals, int]:
        """Stored bytes of what some of the candidates show and nothing else, by which of them, as intervals of their
        numbers in the views' order: all must go for it."""
        members = self.of_epochs(candidates)
        found: dict[Intervals, int] = {}
        for count, (views, stored_bytes) in enumerate(self.groups.items()):
            if count % _TURN == 0:
                self._rest()
            if members.hold_all(views):
                found[tuple(members.rank(number) for number in views)] = stored_bytes
        return found
