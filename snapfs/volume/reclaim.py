"""Reclaim: what deleted snapshots, discarded heads and dead files held, in small batches.

Of a dying epoch with no child all versions go.  With one child, versions that the child hides go and the
others move into the child.  With several children it waits until one is left.  No clone blocks a deletion.

Invariants:
  * Each batch is atomic between two awaits, and every view shows the same before and after it.
  * After a crash the same batch is found again: progress is what is left in ``changes``.
  * Table ``reap`` is emptied before an epoch is folded, so that no dead record moves to another epoch.
  * A block's space is given back only after the commit that took its last reference.
"""

from __future__ import annotations

import itertools
from typing import Final

from snapfs.format import keys, records
from snapfs.types import Epoch, Ino
from snapfs.versions.epochs import ROOT, View
from snapfs.volume.core import Core

BATCH: Final = 200
"""Versions or blocks handled between two awaits (2 to 4 ms)."""


_DEAD: Final = -1


class Reclaim:
    def __init__(self, core: Core) -> None:
        self._core = core

    def pending(self) -> bool:
        """Whether there is anything to do now (blocks that wait for a reader or a commit do not count)."""
        core = self._core
        return bool(
            core.to_reap()
            or core.epochs.reclaimable() != ROOT
            or core.blocks.reclaimable(1)
            or core.blocks.empty_segments()
        )

    def step(self) -> bool:
        """Do one batch; whether there was anything to do."""
        core = self._core
        entry = core.to_reap()
        if entry:
            key, epoch, ino, fork = entry
            if core.reap_some(epoch, ino, fork, BATCH):
                core.index.delete("reap", key)
            return True
        epoch = core.epochs.reclaimable()
        if epoch != ROOT:
            self._fold(epoch)
            return True
        freed = core.blocks.reclaimable(BATCH)
        if freed:
            core.blocks.reclaim(freed)
            core.forget_free_space()
            return True
        return False

    def _fold(self, epoch: Epoch) -> None:
        """One batch of an epoch that dies."""
        core = self._core
        child = next(iter(core.epochs.children(epoch)), None)
        subjects = list(itertools.islice(core.tree.changes(epoch), BATCH))
        if child is None:
            for subject in subjects:
                core.drop_version(epoch, subject)
        else:
            below = View(core.epochs.volume(child), core.epochs.path(child), writable=False)
            seen: tuple[Ino, int | None] = (Ino(0), None)
            for subject in subjects:
                ino, kind = keys.split(subject)
                if seen[0] != ino:
                    seen = ino, self._fork(child, ino)
                hidden = seen[1] == _DEAD and kind != keys.INODE
                if kind == keys.EXTENT:
                    hidden = seen[1] not in (None, keys.split_extent(subject)[0])
                self._fold_version(epoch, child, subject, below, hidden)
        if len(subjects) < BATCH:
            core.epochs.remove(epoch)
            if core.index.get("seals", keys.u64(epoch)) is not None:
                core.index.put("unsealed", keys.u64(epoch), records.PRESENT)  # seals that build on it need another base

    def _fork(self, child: Epoch, ino: Ino) -> int | None:
        """Which fork of the inode's data the child's own version of it shows: None if the child has no version,
        _DEAD if the inode is dead there."""
        payload = self._core.tree.at(child, keys.inode(ino))
        if payload is None:
            return None
        return records.decode_inode(ino, payload).fork if payload else _DEAD

    def _fold_version(self, epoch: Epoch, child: Epoch, subject: bytes, below: View, hidden: bool) -> None:
        core = self._core
        own = core.tree.at(child, subject)
        if own is None and not hidden:
            payload = core.tree.at(epoch, subject)
            older = core.tree.find_below(below, subject, epoch) if payload == records.TOMBSTONE else b"-"
            core.tree.drop_at(epoch, subject)
            if payload is not None and older is not None:
                core.tree.put_at(child, subject, payload)  # the reference moves with it
            return
        core.drop_version(epoch, subject)
        if own == records.TOMBSTONE and core.tree.find_below(below, subject, child) is None:
            core.tree.drop_at(child, subject)
