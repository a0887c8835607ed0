"""The trash: what was deleted and can still be taken back; what has been in it long enough goes for good.

Invariants:
  * Table ``trash`` has one entry for each record of a snapshot or a volume that says when it was deleted, under that
    time, and no other.
  * A snapshot's entry goes with its record.  A volume's goes last: what is doomed first gives up its snapshots, some
    at a time, and can be neither taken back nor seen meanwhile; after a crash it is doomed still.
  * What is held, or locked still, stays, whoever empties the trash.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Awaitable, Callable, Iterator
from typing import Final, NamedTuple

import trio

from snapfs.errors import AlreadyExists, Conflict, Invalid, NotFound, SnapfsError
from snapfs.format import keys, records
from snapfs.format.records import SnapshotRecord
from snapfs.store.index import items
from snapfs.types import Epoch, VolumeId
from snapfs.volume.core import Core, now_ns
from snapfs.volume.limits import DEFAULT_PACE, Pace
from snapfs.volume.references import COMMIT_PREFIX, trash_key
from snapfs.volume.snapshots import Snapshots
from snapfs.volume.suggest import nearest
from snapfs.volume.volumes import DOOMED_NS, Volume, Volumes

BATCH: Final = 20
"""Snapshots dissolved between two awaits (about 2 ms)."""

_PAUSE_SECONDS: Final = 0.002
_OTHER_NAME: Final = "take it back under another name: --as NAME"
_LOOK_SECONDS: Final = 600.0
"""The clock may be set: so often it is looked at."""
_HOUR_NS: Final = 3600 * 10**9
_FOREVER_NS: Final = (1 << 63) - 1


class Entry(NamedTuple):
    """A volume, or a snapshot of one that may be in the trash itself."""

    volume: Volume
    snapshot: SnapshotRecord | None
    deleted_ns: int

    @property
    def number(self) -> int:
        return self.snapshot.epoch if self.snapshot else self.volume.id

    @property
    def key(self) -> bytes:
        return trash_key(self.deleted_ns, self.number)


class Trash:
    def __init__(
        self, core: Core, volumes: Volumes, snapshots: Snapshots, commit: Callable[[], Awaitable[None]]
    ) -> None:  # fmt: skip
        self._core = core
        self._index = core.index
        self._volumes = volumes
        self._snapshots = snapshots
        self._commit = commit
        self._hours = DEFAULT_PACE.trash_hours
        self._woken = trio.Event()

    def follow(self, pace: Pace) -> None:
        """From now on what is deleted is kept as long as the pace says."""
        self._hours = pace.trash_hours
        self._woken.set()

    @property
    def keeps(self) -> bool:
        """Whether what is deleted is kept for a while."""
        return self._hours > 0

    def expires_ns(self, deleted_ns: int) -> int:
        """When what was deleted then goes for good."""
        return _FOREVER_NS if math.isinf(self._hours) else deleted_ns + int(self._hours * _HOUR_NS)

    # -- into it

    def delete_snapshot(self, volume: Volume, record: SnapshotRecord, *, purge: bool = False) -> None:
        """Into the trash; ``purge``, or without a trash: for good.

        Raises:
            Conflict: it is held or locked.
        """
        if purge or not self.keeps:
            self._snapshots.remove(volume, record)
            return
        now = now_ns()
        self._snapshots.move_to_trash(volume, record, now)
        self._index.put("trash", trash_key(now, record.epoch), records.PRESENT)
        self._woken.set()

    def check_volume(self, volume: Volume, *, force: bool = False) -> None:
        """Raises:
        Conflict, NotEmpty: as ``Volumes.check_removable``; Conflict, too: a snapshot of it is held or locked.
        """
        self._volumes.check_removable(volume, force=force)
        for record in self._snapshots.all(volume):
            self._snapshots.check_deletable(record, volume.name)

    def delete_volume(self, volume: Volume, *, force: bool = False, purge: bool = False) -> None:
        """With all its snapshots into the trash; ``purge``, or without a trash: for good.

        Raises:
            Conflict, NotEmpty: as ``check_volume``; for good, Conflict also for what the trash has of it.
        """
        self.check_volume(volume, force=force)
        purge = purge or not self.keeps
        if purge:  # what the trash has of it would go with it
            for record in filter(None, map(self._snapshots.get, list(self._deleted(volume)))):
                self._snapshots.check_deletable(record, volume.name)
        self._move(volume, now_ns())
        if purge:
            self._doom(Entry(volume, None, volume.deleted_ns))
            self._dissolve_some(volume)

    def remove_volume(self, name: str) -> None:
        """As rmdir(2): a volume without snapshots and files goes at once, unless snapshots of it are in the trash: then
        it goes there, too.

        Raises:
            NotFound, Conflict, NotEmpty.
        """
        volume = self._volumes.get(name)
        if next(self._deleted(volume), None) is None:
            self._volumes.remove(name)
        else:
            self.delete_volume(volume)

    def _move(self, volume: Volume, now: int) -> None:
        self._volumes.move_to_trash(volume, now)
        self._snapshots.look_again()
        self._index.put("trash", trash_key(now, volume.id), records.PRESENT)
        self._woken.set()

    # -- looking

    def numbers(self) -> Iterator[tuple[int, int]]:
        """(deleted_ns, number), what was deleted first comes first.  Not across a mutation."""
        for key, _ in items(self._index, "trash"):
            yield keys.from_u64(key), keys.from_u64(key, 8)

    def entry(self, deleted_ns: int, number: int) -> Entry | None:
        """None if nothing that was deleted then has the number (any more)."""
        volume = self._volumes.any_by_id(VolumeId(number))
        if volume is not None:
            return Entry(volume, None, deleted_ns) if volume.deleted_ns == deleted_ns else None
        record = self._snapshots.get(Epoch(number))
        owner = self._volumes.any_by_id(record.volume) if record and record.deleted_ns == deleted_ns else None
        return Entry(owner, record, deleted_ns) if owner else None

    def entries(self) -> Iterator[Entry]:
        """All that can be taken back, oldest first.  Not across a mutation."""
        for deleted_ns, number in self.numbers():
            entry = self.entry(deleted_ns, number) if deleted_ns != DOOMED_NS else None
            if entry is not None and entry.volume.deleted_ns != DOOMED_NS:
                yield entry

    def has(self, entry: Entry) -> bool:
        """Whether it can still be taken back."""
        return entry.volume.deleted_ns != DOOMED_NS and self._index.get("trash", entry.key) is not None

    def _deleted(self, volume: Volume) -> Iterator[Epoch]:
        """Snapshots of the volume that were deleted one by one, oldest first."""
        epochs = self._core.epochs
        for _, number in self.numbers():
            if Epoch(number) in epochs and epochs.volume(Epoch(number)) == volume.id:
                yield Epoch(number)

    def find_snapshot(self, volume: Volume, ref: str) -> Entry:
        """By its name, one of its tags, or its commit's ID or the start of that; of several, what was deleted last.

        Raises:
            NotFound: there is none; the hint names near ones.
            Invalid: it is the start of several commits' IDs.
        """
        deleted = [record for record in map(self._snapshots.get, list(self._deleted(volume))) if record is not None]
        found = [record for record in deleted if ref in (record.name, *record.tags)]
        if not found and COMMIT_PREFIX.fullmatch(ref):
            found = [record for record in deleted if record.git is not None and record.git.commit.startswith(ref)]
            if len({record.git.commit for record in found if record.git}) > 1:
                raise Invalid(f"commit prefix {ref!r} is ambiguous", hint="give more digits of it")
        if not found:
            hint = nearest(ref, [record.name for record in deleted], "snapshots of it in the trash")
            raise NotFound(f"the trash has no snapshot {ref!r} of volume {volume.name!r}", hint=hint)
        return Entry(volume, found[-1], found[-1].deleted_ns)

    def find_volume(self, name: str) -> Entry:
        """Of several, what was deleted last.

        Raises:
            NotFound: there is none; the hint names near ones.
        """
        there = [volume for volume in self._volumes.trashed() if volume.deleted_ns != DOOMED_NS]
        found = [volume for volume in there if volume.name == name]
        if not found:
            hint = nearest(name, [volume.name for volume in there], "volumes in the trash")
            raise NotFound(f"the trash has no volume {name!r}", hint=hint)
        last = max(found, key=lambda volume: (volume.deleted_ns, volume.id))
        return Entry(last, None, last.deleted_ns)

    # -- back

    def take_back_snapshot(self, volume: Volume, ref: str, name: str = "") -> SnapshotRecord:
        """Raises:
        NotFound: as ``find_snapshot``.
        Conflict: its name is taken, and no other is given.
        AlreadyExists, Invalid, NameTooLong: the other name.
        """
        self._index.check()
        entry = self.find_snapshot(volume, ref)
        assert entry.snapshot is not None
        try:
            back = self._snapshots.take_back(volume, entry.snapshot, name or entry.snapshot.name)
        except AlreadyExists as error:
            raise error if name else Conflict(error.message, hint=_OTHER_NAME) from None
        self._index.delete("trash", entry.key)
        return back

    def take_back_volume(self, ref: str, name: str = "") -> Volume:
        """Raises as ``take_back_snapshot``."""
        self._index.check()
        entry = self.find_volume(ref)
        try:
            self._volumes.take_back(entry.volume, name or entry.volume.name)
        except AlreadyExists as error:
            raise error if name else Conflict(error.message, hint=_OTHER_NAME) from None
        self._snapshots.look_again()
        self._index.delete("trash", entry.key)
        return entry.volume

    # -- for good

    def empty(self, chosen: list[Entry]) -> tuple[int, int]:
        """What was chosen goes for good, volumes in the background: (how many go, how many stay as they are held or
        locked)."""
        self._index.check()
        gone = sum(self._discard(entry) for entry in chosen)
        self._woken.set()
        return gone, len(chosen) - gone

    def _discard(self, entry: Entry) -> bool:
        """Whether it goes."""
        if self._is_kept(entry):
            return False
        if entry.snapshot is None:
            self._doom(entry)
        else:
            self._index.delete("trash", entry.key)
            self._snapshots.dissolve(entry.snapshot)
        return True

    def _is_kept(self, entry: Entry) -> bool:
        """Whether a hold or a lock keeps it.  None did when it was deleted, but the clock may have been wrong then."""
        own = [entry.snapshot] if entry.snapshot else self._snapshots.all(entry.volume)
        try:
            for record in own:
                self._snapshots.check_deletable(record, entry.volume.name)
        except Conflict:
            return True
        if entry.snapshot:
            return False
        deleted = filter(None, map(self._snapshots.get, list(self._deleted(entry.volume))))
        return any(self._is_kept(Entry(entry.volume, record, record.deleted_ns)) for record in deleted)

    def _doom(self, entry: Entry) -> None:
        self._index.delete("trash", entry.key)
        self._volumes.doom(entry.volume)
        self._index.put("trash", trash_key(DOOMED_NS, entry.volume.id), records.PRESENT)

    def _dissolve_some(self, volume: Volume) -> None:
        """Some of what a doomed volume has; and at last itself."""
        left = BATCH - self._snapshots.dissolve_some(volume, BATCH)
        for epoch in list(itertools.islice(self._deleted(volume), left)) if left else ():
            record = self._snapshots.get(epoch)
            if record is not None:
                self._index.delete("trash", trash_key(record.deleted_ns, epoch))
                self._snapshots.dissolve(record)
                left -= 1
        if left > 0:
            self._index.delete("trash", trash_key(DOOMED_NS, volume.id))
            self._volumes.dissolve(volume)

    # -- in the background

    def step(self, *, doomed_only: bool = False) -> bool:
        """Some of what has to go for good does; whether there was any."""
        now = now_ns()
        for deleted_ns, number in self.numbers():
            if deleted_ns != DOOMED_NS and (doomed_only or self.expires_ns(deleted_ns) > now):
                return False
            entry = self.entry(deleted_ns, number)
            if entry is None:
                continue  # fsck's
            if deleted_ns == DOOMED_NS:
                self._dissolve_some(entry.volume)
                return True
            if self._discard(entry):
                return True
        return False

    async def expire(self, *, doomed_only: bool = False) -> None:
        """What has to go for good does, durably.  ``doomed_only``: not what the trash has kept long enough."""
        self._index.check()
        some = False
        while self.step(doomed_only=doomed_only):
            some = True
            await trio.sleep(_PAUSE_SECONDS)
        if some:
            await self._commit()

    def _wait_seconds(self) -> float:
        """Until the next is due, as far as the clock goes as it should; what is due already is kept by a lock."""
        now = now_ns()
        due = (self.expires_ns(deleted_ns) for deleted_ns, _ in self.numbers())
        first = next((expires_ns for expires_ns in due if expires_ns > now), _FOREVER_NS)
        return min((first - now) / 10**9, _LOOK_SECONDS)

    async def run(self) -> None:
        """Whatever has to go for good does when its time comes, for ever."""
        while True:
            self._woken = trio.Event()
            wait_seconds = _LOOK_SECONDS
            try:
                await self.expire()
                wait_seconds = self._wait_seconds()
            except SnapfsError as error:  # the disk is full, or refuses: later, then
                self._core.events.warn(f"the trash could not be emptied: {error.message}")
            with trio.move_on_after(wait_seconds):
                await self._woken.wait()
