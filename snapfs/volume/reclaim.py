"""Reclaim: what deleted snapshots, discarded heads and dead files held, in small batches.

Of a dying epoch with no child all versions go.  With one child, versions that are hidden from there on go and the
others move into the child.  With several children those go that all of them hide; what is left stays until one of them
stops to need it (``Epochs.wake``).  No clone blocks a deletion.

Invariants:
  * Each batch is atomic between two awaits, and every view shows the same before and after it.
  * After a crash the same batch is found again: progress is what is left in ``changes``.  Only the place in an epoch
    with several children is lost: it is looked through again.
  * Tables ``unaccounted`` and then ``reap`` are emptied before an epoch is folded: no dead record moves to another
    epoch, and what is dropped as hidden is accounted as hidden.
  * A block that loses its last reference here is given back by ``volume.giveback``, after the commit that took it.
"""

from __future__ import annotations

import itertools
import time
from typing import Final

from snapfs.format import keys, records
from snapfs.types import Epoch
from snapfs.versions.epochs import ROOT, Path, View
from snapfs.volume.accounts import unaccounted
from snapfs.volume.accounts.unaccounted import Unaccounted
from snapfs.volume.core import Core

BATCH: Final = 200
"""Versions handled at once by who has no clock (2 to 4 ms)."""

SLICE: Final = 16
"""... between two looks at the clock."""


class _Scan:
    """A dying epoch with several children is being looked through."""

    def __init__(self, epoch: Epoch, woken: int) -> None:
        self.epoch = epoch
        self.woken = woken
        """Count of wakings when it began: if there were more since, it is looked through once more."""
        self.after = b""
        """The subject that comes next."""
        self.kept = b""
        """The inode, as the subject has it, of the last version that was left: its attributes stay too."""


class Reclaim:
    def __init__(self, core: Core) -> None:
        self._core = core
        self._scan: _Scan | None = None
        self._near: Path | None = None

    def step(self, until: float | None = None) -> bool:
        """Do one batch, or as much as can be done until then (by ``time.perf_counter``); whether there was anything."""
        if until is None:
            return self._some(BATCH)
        found = False
        while self._some(SLICE):
            found = True
            if time.perf_counter() > until:
                break
        return found

    def account_step(self) -> bool:
        """One batch of what keeps the accounts from being exact; whether there was anything to do."""
        return self._account(BATCH) or self._reap(BATCH)

    def _some(self, limit: int) -> bool:
        core = self._core
        if self._account(limit) or self._reap(limit):
            return True
        epoch = core.epochs.reclaimable()
        if epoch == ROOT:
            return core.accounts.sweep(limit)
        children = list(core.epochs.children(epoch))
        if not children:
            self._empty(epoch, limit)
        elif len(children) == 1:
            self._fold(epoch, children[0], limit)
        else:
            self._thin_out(epoch, limit)
        return True

    def _account(self, limit: int) -> bool:
        """Account some of the extents that an epoch hid at once."""
        core = self._core
        row = unaccounted.first(core.index)
        if row is None:
            return False
        rest: bytes | None = None
        if row.epoch in core.epochs and (row.epoch not in core.epochs.dying or core.epochs.children(row.epoch)):
            path = self._path(row.epoch)
            parent = path.below(row.epoch)
            view = View(core.epochs.volume(row.epoch), Path(path.chain, parent), writable=False)
            found, rest = core.tree.scan_some(view, keys.extents(row.ino, row.fork), keys.u64(row.offset), limit)
            hidden = [version for version in found if core.tree.at(row.epoch, version[0]) is None]
            core.account_hidden(row.epoch, hidden)
            for epoch in {epoch for _, epoch, _ in hidden}:
                core.epochs.wake(epoch)
        core.index.delete("unaccounted", row.key)
        if rest is not None:
            unaccounted.put(core.index, Unaccounted(row.epoch, row.ino, row.fork, keys.from_u64(rest)))
        return True

    def _path(self, epoch: Epoch) -> Path:
        """Of the epoch.  The last one is kept: long ones take a millisecond."""
        if self._near is None or self._near.last != epoch:
            self._near = self._core.epochs.path(epoch, self._near)
        return self._near

    def _reap(self, limit: int) -> bool:
        core = self._core
        entry = core.to_reap()
        if entry is None:
            return False
        key, epoch, ino, fork = entry
        if core.reap_some(epoch, ino, fork, limit):
            core.index.delete("reap", key)
        return True

    def _empty(self, epoch: Epoch, limit: int) -> None:
        """One batch of an epoch without children."""
        core = self._core
        subjects = list(itertools.islice(core.tree.changes(epoch), limit))
        for subject in subjects:
            core.drop_hidden(epoch, subject)
        if len(subjects) < limit:
            self._remove(epoch)

    def _fold(self, epoch: Epoch, child: Epoch, limit: int) -> None:
        """One batch of an epoch with one child."""
        core = self._core
        core.accounts.fold_begins(epoch, child)
        subjects = list(itertools.islice(core.tree.changes(epoch), limit))
        below = View(core.epochs.volume(child), self._path(child), writable=False)
        core.hiding.forget()
        for subject in subjects:
            if self._is_hidden(epoch, child, subject):
                core.drop_hidden(epoch, subject)
                continue
            payload = core.tree.at(epoch, subject)
            older = core.tree.find_below(below, subject, epoch) if payload == records.TOMBSTONE else b"-"
            core.tree.drop_at(epoch, subject)
            if payload is not None and older is not None:
                core.tree.put_at(child, subject, payload)  # the reference moves with it
        if len(subjects) < limit:
            self._remove(epoch)

    def _is_hidden(self, epoch: Epoch, child: Epoch, subject: bytes) -> bool:
        """Whether all below the epoch hides its version.  An inode's attributes stay for what else there is of it."""
        if keys.split(subject)[1] == keys.INODE:
            return self._core.tree.at(child, subject) is not None
        return self._core.hiding.below(epoch, subject)

    def _thin_out(self, epoch: Epoch, limit: int) -> None:
        """One batch of an epoch with several children."""
        core = self._core
        scan = self._scan
        if scan is None or scan.epoch != epoch:
            scan = self._scan = _Scan(epoch, core.epochs.woken)
        subjects = list(itertools.islice(core.tree.changes(epoch, start=scan.after), limit))
        core.hiding.forget()
        for subject in subjects:
            ino = subject[: keys.EPOCH_BYTES]
            if (keys.split(subject)[1] != keys.INODE or scan.kept != ino) and core.hiding.below(epoch, subject):
                core.drop_hidden(epoch, subject)
            else:
                scan.kept = ino
        if len(subjects) == limit:
            scan.after = subjects[-1] + b"\0"
            return
        self._scan = None
        if scan.woken == core.epochs.woken:
            core.epochs.share(epoch)

    def _remove(self, epoch: Epoch) -> None:
        """The epoch holds nothing any more."""
        core = self._core
        core.accounts.removed(epoch)
        core.epochs.remove(epoch)
        self._near = None
        if core.index.get("seals", keys.u64(epoch)) is not None:
            core.index.put("unsealed", keys.u64(epoch), records.PRESENT)  # seals that build on it need another base
