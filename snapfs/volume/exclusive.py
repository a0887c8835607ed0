"""Quotas on exclusive bytes: what would be freed if a volume went, kept up with every change of the accounts.

All accounts are counted once, in the background; from then on each change of an account's bytes is added to the
volume whose views alone show it.

Invariants:
  * Nothing is counted, and nobody is told of changes, while no volume has such a quota.
  * Which volume an account belongs to changes only when a view goes or the tree of epochs branches (``Epochs.splits``).
    Then all is counted again, as soon as somebody needs the figure to be exact; until then it is as it was.
  * A figure is exact when ``exact`` returns, until the caller awaits something.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from snapfs.api import QuotaKind
from snapfs.errors import IOFailure, NoSpace
from snapfs.format.accounts import Changes, collected
from snapfs.types import Epoch, VolumeId
from snapfs.volume.accounts.statement import state
from snapfs.volume.accounts.views import Owners, ViewOrder
from snapfs.volume.background import in_background
from snapfs.volume.core import Core
from snapfs.volume.quota import Usage
from snapfs.volume.volumes import Volumes

_OWNERS_MAX: Final = 20_000
_NOBODY: Final = VolumeId(0)
_TRIES: Final = 3


class Exclusive:
    def __init__(self, core: Core, volumes: Volumes, settle_accounts: Callable[[], Awaitable[None]]) -> None:
        self._core = core
        self._volumes = volumes
        self._settle_accounts = settle_accounts
        self._counting = trio.Lock()
        self._splits = -1
        """``Epochs.splits`` when the order was made."""
        self._order = ViewOrder({}, ())
        self._owners = Owners([])
        self._known: dict[Changes, VolumeId] = {}
        self._since: Counter[VolumeId] = Counter()
        """Changes since the state that is being counted."""
        core.usages.exact = self.exact

    def _limited(self) -> list[tuple[VolumeId, Usage]]:
        """Volumes with such a quota."""
        everything = ((volume.id, volume.usage) for volume in self._volumes.everything())
        return [(number, usage) for number, usage in everything if usage.quota_kind is QuotaKind.EXCLUSIVE]

    async def exact(self) -> None:
        """All figures are exact now.

        Raises:
            IOFailure, NoSpace: the state to count could not be committed.
        """
        async with self._counting:
            limited = self._limited()
            if not limited:
                self._listen(wanted=False)
                return
            await self._settle_accounts()
            for _ in range(_TRIES):  # views may go on and on
                if self._splits == self._core.epochs.splits and all(u.exclusive_bytes is not None for _, u in limited):
                    return
                await self._count()
                limited = self._limited()

    async def counted(self) -> None:
        """There is a figure for every volume that has such a quota, unless the store takes no changes."""
        if any(usage.exclusive_bytes is None for _, usage in self._limited()):
            with contextlib.suppress(NoSpace, IOFailure):
                await self.exact()

    async def _count(self) -> None:
        """Count all accounts; what changes meanwhile is added."""
        core = self._core
        core.index.commit()
        with core.index.reader() as reader:  # no await from the commit on to here: it shows what the order does
            parents = core.epochs.parents()
            self._splits = core.epochs.splits
            self._order = ViewOrder(parents, parents.keys() - core.epochs.dying, core.accounts.aliases())
            self._owners = Owners([core.epochs.volume(epoch) for epoch in self._order.views])
            self._known.clear()
            self._since.clear()
            self._listen(wanted=True)
            statement = await in_background(lambda rest: state(reader, rest))
            figures = await in_background(lambda _: statement.ledger.volumes())
        for number, usage in self._limited():
            counted = figures.get(number)
            usage.exclusive_bytes = (counted.exclusive_bytes if counted else 0) + self._since[number]

    def _listen(self, *, wanted: bool) -> None:
        moved = self._core.accounts.moved
        if wanted and self._moved not in moved:
            moved.append(self._moved)
        elif not wanted and self._moved in moved:
            moved.remove(self._moved)

    def _moved(self, changes: Changes, stored_delta: int) -> None:
        owner = self._known.get(changes)
        if owner is None:
            if len(self._known) >= _OWNERS_MAX:
                self._known.clear()
            owner = self._known[changes] = self._owner(changes)
        if owner == _NOBODY:
            return
        self._since[owner] += stored_delta
        volume = self._volumes.any_by_id(owner)
        if volume is not None and volume.usage.exclusive_bytes is not None:
            volume.usage.exclusive_bytes = max(0, volume.usage.exclusive_bytes + stored_delta)

    def _owner(self, changes: Changes) -> VolumeId:
        """The volume whose views alone show what has the changes; nobody if there is no view or several volumes have
        some."""
        counted = []
        for epoch, change in changes:
            known = self._counted_epoch(epoch)
            if known is None:
                return _NOBODY
            if change > 0 or known == epoch:  # what a later epoch hides, the snapshots before it still show
                counted.append((known, change))
        owners = self._owners.of(self._order.shown(collected(counted)))
        return next(iter(owners)) if len(owners) == 1 else _NOBODY

    def _counted_epoch(self, epoch: Epoch) -> Epoch | None:
        """The epoch, or of one that came later the nearest ancestor that was there when the order was made: between
        them are snapshots of one volume only, or there would have been a split."""
        epochs = self._core.epochs
        while not self._order.knows(epoch):
            if epoch not in epochs:
                return None
            epoch = epochs.parent(epoch)
        return epoch
