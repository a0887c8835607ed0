"""What a user can ask about space: what holds how much, what would be freed, and why.  The base of
``snapfs.service``, whose rules hold here too.

All figures are those of one commit, which comes first: dirty data is stored, and what was hidden in bulk is accounted.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Final

import trio

from snapfs import api
from snapfs.errors import Conflict, Invalid, NotFound, SnapfsError, Stale
from snapfs.format.records import SnapshotRecord, VolumeRecord
from snapfs.maintenance import Maintenance
from snapfs.types import Epoch
from snapfs.volume import past
from snapfs.volume.accounts.cheapest import cheapest
from snapfs.volume.accounts.report import Rest, ViewFigures, VolumeFigures
from snapfs.volume.accounts.statement import Statement
from snapfs.volume.background import in_background
from snapfs.volume.lake import Lake
from snapfs.volume.mounted import Mounted
from snapfs.volume.optimize import optimize
from snapfs.volume.protection import anchors, protection
from snapfs.volume.snapshots import is_locked, moment

_COMMITS_NOTED: Final = 10_000
_NOTE_SECONDS: Final = 1.0


class Accounting(Maintenance):
    """Verbs on space."""

    def __init__(self, lake: Lake, mounted: Mounted | None) -> None:
        super().__init__(lake, mounted)
        self._evaluating = trio.Lock()
        self._begun = 0
        self._last: tuple[int, Statement] | None = None
        """Number and outcome of the evaluation that ended last, while somebody waits for one."""
        self._commits: deque[tuple[int, float]] = deque([(0, time.monotonic())], _COMMITS_NOTED)
        """(transaction, when it was published), one a second at most: how long a reader has been there."""
        lake.index.after_publish.append(self._note_commit)

    async def get_usage(self, *, volume: str = "", snapshots: bool = True) -> list[api.VolumeUsage]:
        """What volumes hold, by name, also those in the trash.

        Args:
            volume: only those of this name: one, and what the trash has of that name.
            snapshots: tell each snapshot's, too.

        Raises:
            NotFound: no volume has the name, nor had one that is in the trash.
        """
        statement = await self._statement()
        chosen = [record for record in statement.volumes.values() if volume in ("", record.name)]
        if volume and not chosen:
            raise self._missing(volume, "")
        ledger = statement.ledger
        views, volumes = await in_background(lambda _: (ledger.views(), ledger.volumes()))
        by_epoch = {epoch: views[number] for number, epoch in enumerate(ledger.order.views)}
        chosen.sort(key=lambda record: (record.name, bool(record.deleted_ns), record.id))
        return [_volume_usage(statement, record, volumes[record.id], by_epoch, snapshots) for record in chosen]

    async def what_if(self, *, targets: Sequence[str]) -> api.WhatIf:
        """What would be freed if just these went, together: exact.

        Args:
            targets: each ``volume@snapshot``, or ``volume`` for the volume with all its snapshots; also in the trash.

        Raises:
            NotFound, Invalid; Stale: one was made or removed meanwhile.
        """
        if not targets:
            raise Invalid("name at least one snapshot or volume")
        statement = await self._statement()
        chosen: dict[str, list[Epoch]] = {}
        for target in targets:
            address, epochs = self._addressed(statement, target)
            chosen[address] = epochs
        return await _what_if(statement, list(chosen), {epoch for epochs in chosen.values() for epoch in epochs})

    async def cheapest(self, *, volume: str = "", free_bytes: int) -> api.WhatIf:
        """The fewest snapshots whose deletion frees at least so much; of ``volume``, or of all.  Exact for up to 12
        candidates.  Never one that is held, locked, tagged, cloned from, or that a head stands on.

        Raises:
            NotFound, Invalid.
            Conflict: all that may go would free too little.
        """
        if free_bytes < 1:
            raise Invalid(f"{free_bytes} bytes are nothing to free")
        only = self._lake.volumes.get(volume).id if volume else None
        statement = await self._statement()
        standing = anchors(self._lake.volumes, self._lake.snapshots)
        ledger = statement.ledger
        candidates = [
            epoch
            for epoch, view in zip(ledger.order.views, ledger.shown, strict=True)
            if not (view.head or view.trashed) and (only is None or view.volume == only)
        ]
        candidates = [epoch for epoch in candidates if not protection(statement.snapshots[epoch], standing)]

        def choose(rest: Rest) -> list[Epoch]:
            possible_bytes = ledger.freed(ledger.of_epochs(candidates))
            if possible_bytes < free_bytes:
                raise Conflict(
                    f"the {len(candidates)} snapshots that may be deleted would free only {possible_bytes} bytes",
                    hint="what is held, locked, tagged, cloned from or current stays; see also: snap trash list",
                )
            found = cheapest(len(candidates), ledger.needs(candidates), free_bytes, rest)
            return [candidates[number] for number in found or ()]

        chosen = await in_background(choose)
        addresses = [statement.exact_address(statement.snapshots[epoch]) for epoch in chosen]
        return await _what_if(statement, addresses, set(chosen))

    async def get_space(self) -> api.Space:
        """Why the store holds what it holds."""
        lake = self._lake
        reader_seconds = self._oldest_reader_seconds()
        statement = await self._statement()
        found, space = await in_background(lambda _: statement.ledger.space()), statement.space
        segments_bytes, index_bytes = statement.segments_bytes, statement.index_bytes
        return api.Space(
            live_bytes=found.live_bytes,
            snapshots_bytes=found.snapshots_bytes,
            trash_bytes=found.trash_bytes,
            deleting_bytes=found.deleting_bytes,
            waiting_bytes=max(0, space.stored_bytes - found.total_bytes),
            seal_bytes=space.seal_bytes,
            index_bytes=index_bytes,
            overhead_bytes=max(0, segments_bytes - space.stored_bytes - space.seal_bytes),
            disk_bytes=segments_bytes + index_bytes,
            free_bytes=lake.core.disk.free_bytes(lake.path)[0],
            logical_bytes=sum(record.used_bytes for record in statement.volumes.values() if not record.deleted_ns),
            raw_bytes=space.raw_bytes,
            stored_bytes=space.stored_bytes,
            oldest_reader_seconds=reader_seconds,
        )

    async def optimize(
        self,
        *,
        volume: str,
        paths: Sequence[str] = (),
        bytes_per_second: int = 0,
        progress: past.Progress | None = None,
    ) -> api.OptimizeReport:
        """Cut anew, by content, what of the head's files (at the paths; none: all) is in many small extents or was
        stored before something equal was known.  It never costs space.

        Args:
            bytes_per_second: that are read at most; 0: no limit.

        Raises:
            NotFound, Invalid, Stale, NoSpace, IOFailure.
        """
        if bytes_per_second < 0:
            raise Invalid(f"{bytes_per_second} bytes a second are less than none")
        target = self._lake.volumes.get(volume)
        await self._push(target)
        await self._lake.writeback.flush(view=target.head)
        report = await optimize(self._lake, target, paths, bytes_per_second, progress)
        await self._lake.commit()
        return report

    # -- shared

    async def _statement(self) -> Statement:
        """What the store holds as of now.  Those who wait share one that began after they asked."""
        asked = self._begun
        async with self._evaluating:
            if self._last is None or self._last[0] <= asked:
                self._begun += 1
                self._last = (self._begun, await self._evaluate())
            statement = self._last[1]
            if not self._evaluating.statistics().tasks_waiting:
                self._last = None
            return statement

    async def _evaluate(self) -> Statement:
        await self._push()
        await self._lake.sync()
        await self._lake.settle_accounts()
        return await past.statement(self._lake)

    def _addressed(self, statement: Statement, target: str) -> tuple[str, list[Epoch]]:
        """(address, views) of a volume or snapshot; of several in the trash with one name, the one deleted last."""
        name, at, snapshot = target.partition("@")
        named = sorted((r for r in statement.volumes.values() if r.name == name), key=_deleted_last)
        if not at:
            if not named:
                raise self._missing(name, "")
            epochs = [record.epoch for record in statement.snapshots.values() if record.volume == named[0].id]
            return name, [named[0].head, *epochs]
        for owner in named:
            record = self._find_snapshot(statement, owner, snapshot)
            if record is not None:
                return statement.address(record), [record.epoch]
        raise self._missing(name, snapshot)

    def _find_snapshot(self, statement: Statement, owner: VolumeRecord, snapshot: str) -> SnapshotRecord | None:
        volume = self._lake.volumes.by_id(owner.id)
        if volume is not None:
            try:
                found = self._lake.snapshots.resolve(volume, snapshot)
            except NotFound:
                pass
            else:
                if found.epoch not in statement.snapshots:
                    raise Stale(f"{owner.name}@{snapshot} has just been made", hint="ask again")
                return found
        same = [record for record in statement.snapshots.values() if record.volume == owner.id]
        same = [record for record in same if (record.deleted_ns or owner.deleted_ns) and _answers(record, snapshot)]
        return min(same, key=_deleted_last, default=None)

    def _missing(self, name: str, snapshot: str) -> SnapfsError:
        try:
            volume = self._lake.volumes.get(name)
            if snapshot:
                self._lake.snapshots.resolve(volume, snapshot)
        except NotFound as error:
            return error
        return Stale(f"{name}{'@' if snapshot else ''}{snapshot} has just been made", hint="ask again")

    def _note_commit(self) -> None:
        now, number = time.monotonic(), self._lake.index.txn_number - 1
        if number < self._commits[-1][0]:  # the index was copied: its numbers begin again
            self._commits.clear()
        if not self._commits or now - self._commits[-1][1] >= _NOTE_SECONDS:
            self._commits.append((number, now))

    def _oldest_reader_seconds(self) -> float:
        """Since when something was committed that the oldest reader does not see."""
        oldest = self._lake.index.oldest_reader()
        if oldest is None:
            return 0.0
        since = next((when for number, when in self._commits if number > oldest), None)
        return 0.0 if since is None else time.monotonic() - since


def _volume_usage(
    statement: Statement, volume: VolumeRecord, figures: VolumeFigures, views: dict[Epoch, ViewFigures], each: bool
) -> api.VolumeUsage:
    own = sorted(
        (record for record in statement.snapshots.values() if record.volume == volume.id),
        key=lambda record: (record.created_ns, record.epoch),
    )
    return api.VolumeUsage(
        volume=volume.name,
        trashed=bool(volume.deleted_ns),
        logical_bytes=volume.used_bytes,
        referenced_bytes=figures.referenced_bytes,
        exclusive_bytes=figures.exclusive_bytes,
        snapshots_bytes=figures.snapshots_bytes,
        snapshots=sum(not record.deleted_ns for record in own),
        head=_usage(volume.name, "", volume, views[volume.head], trashed=bool(volume.deleted_ns)),
        usages=[
            _usage(volume.name, record.name, record, views[record.epoch], trashed=statement.trashed(record))
            for record in own
        ]
        if each
        else [],
    )


def _usage(
    volume: str, snapshot: str, record: VolumeRecord | SnapshotRecord, figures: ViewFigures, *, trashed: bool
) -> api.Usage:
    return api.Usage(
        volume=volume,
        snapshot=snapshot,
        created_ns=record.created_ns if snapshot else 0,
        trashed=trashed,
        logical_bytes=record.used_bytes,
        referenced_bytes=figures.referenced_bytes,
        exclusive_bytes=figures.exclusive_bytes,
    )


async def _what_if(statement: Statement, addresses: list[str], gone: set[Epoch]) -> api.WhatIf:
    protected = []
    for epoch in sorted(gone & statement.snapshots.keys()):
        record = statement.snapshots[epoch]
        protected += [f"{statement.address(record)}: {why}" for why in _undeletable(record)]
    ledger = statement.ledger
    freed_bytes = await in_background(lambda _: ledger.freed(ledger.of_epochs(gone)))
    return api.WhatIf(targets=addresses, freed_bytes=freed_bytes, protected=protected)


def _undeletable(record: SnapshotRecord) -> list[str]:
    """Why it cannot be deleted now."""
    reasons = [f"held by {', '.join(record.holds)}"] if record.holds else []
    return reasons + ([f"locked until {moment(record.locked_until_ns)}"] if is_locked(record) else [])


def _deleted_last(record: VolumeRecord | SnapshotRecord) -> tuple[bool, int]:
    """Order: what is not deleted first, then what was deleted last."""
    return bool(record.deleted_ns), -record.deleted_ns


def _answers(record: SnapshotRecord, reference: str) -> bool:
    """Whether one in the trash is meant."""
    return reference in (record.name, *record.tags) or bool(record.git and record.git.commit == reference)
