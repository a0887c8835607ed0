"""An open store: wires the layers, commits, runs the background work.

Commit order (nothing acknowledged is lost, nothing half there is seen):
  1. block bytes are in segments and synced (in a worker thread);
  2. the index commits: the only publish point;
  3. space that it freed is given back.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final

import trio

from snapfs.errors import Corrupt, IOFailure, NoSpace, NotFound, SnapfsError
from snapfs.format import keys, records
from snapfs.store import layout, shrinking
from snapfs.store.blocks import Blocks
from snapfs.store.disk import Disk
from snapfs.store.index import Index, items
from snapfs.store.leftovers import Leftovers
from snapfs.store.medium import Medium
from snapfs.store.segments import Segments
from snapfs.timings import Timing
from snapfs.types import Ino, SegmentId
from snapfs.volume import doubt
from snapfs.volume.accounts.book import Book
from snapfs.volume.core import Core, now_ns
from snapfs.volume.exclusive import Exclusive
from snapfs.volume.files import Files
from snapfs.volume.limits import DEFAULT, Limits, Pace
from snapfs.volume.once import Requests
from snapfs.volume.reclaim import Reclaim
from snapfs.volume.scrub.run import Scrub
from snapfs.volume.seals.sealer import Sealer
from snapfs.volume.snapshots import Snapshots
from snapfs.volume.stirring import Stirring
from snapfs.volume.threads import in_thread
from snapfs.volume.trash import Trash
from snapfs.volume.turns import Turns
from snapfs.volume.upkeep import Upkeep
from snapfs.volume.volumes import Volumes
from snapfs.volume.writeback import Writeback

COMMIT_PUTS_MAX: Final = 20_000
"""A commit comes early when the open transaction has grown this much."""

GENTLE_SECONDS: Final = 2.0
"""So long a commit that no program waits for is put off while requests come, unless another one comes."""

SEALING_SECONDS_MAX: Final = 0.5
"""How long the end waits for the last snapshots to be sealed."""

_FETCH_PART: Final = 0.8
"""Of the time after which work must be durable: the rest is for fetching and committing it."""
_POLL_SECONDS: Final = 0.25
_QUICK_SECONDS: Final = 0.05
_QUICK_LOOKS: Final = 20
"""At the index's map, after it grew: who reads here and there maps 0.5 GB a second."""


class Lake:
    """One open store.  Make it with ``open``."""

    def __init__(self, path: Path, marker: layout.Marker, lock: layout.Lock, disk: Disk, limits: Limits) -> None:
        self.path = path
        self.limits = limits
        self.uuid = marker.uuid
        self._lock = lock
        shrinking.remove_copy(path, disk)
        self.index = Index(path / layout.INDEX, disk=disk, redo_bytes_max=limits.redo_bytes_max)
        try:
            self._wire(marker, disk)
        except BaseException:
            self.index.close()
            raise

    def _wire(self, marker: layout.Marker, disk: Disk) -> None:
        doubt.check_records(self.index)
        stored = (self.index.get("meta", b"uuid") or b"").decode(errors="replace")
        if stored != marker.uuid:
            raise Corrupt(f"{self.path}: the index belongs to another store ({stored or 'none'})")
        ends = {
            SegmentId(keys.from_u64(key)): records.decode_segment(payload)[0]
            for key, payload in items(self.index, "segments")
        }
        self._leftovers = Leftovers(self.path / layout.SEGMENTS, ends)
        store_uuid = bytes.fromhex(marker.uuid.replace("-", ""))
        segments = Segments(
            self.path / layout.SEGMENTS, store_uuid, disk, newest=self._leftovers.newest,
            end=self._leftovers.append_at, bytes_max=self.limits.segment_bytes_max,
        )  # fmt: skip
        seed = int.from_bytes(store_uuid[:8], "little")
        blocks = Blocks(self.index, segments, disk, self.limits.cache_bytes_max)
        self.core = Core(self.path, self.index, blocks, disk, seed)
        self.writeback = Writeback(self.core, self.limits.dirty_bytes_max)
        self.files = Files(self.core, self.writeback, self.persist)
        self.volumes = Volumes(self.core, self.files)
        self.snapshots = Snapshots(self.core, self.volumes, self.files)
        self.exclusive = Exclusive(self.core, self.volumes, self.settle_accounts)
        self.requests = Requests(self.index, self.volumes, self.snapshots)
        self.trash = Trash(self.core, self.volumes, self.snapshots, self.commit)
        self.reclaim = Reclaim(self.core)
        self.sealer = Sealer(
            self.core, self.writeback, self.volumes, self.snapshots, store_uuid, self.commit,
            Turns(lambda: self.scrub.requests()[0] + self.files.reads),
        )  # fmt: skip
        medium = Medium(segments, disk, store_uuid)
        self.scrub = Scrub(self.core, medium, created_ns=marker.created_ns, commit=self.commit)
        self.upkeep = Upkeep(
            self.core, self.writeback, self.reclaim, self._leftovers, self.commit_gently,
            lambda: self.scrub.requests()[0], self.limits.segment_bytes_max,
        )  # fmt: skip
        self._committing = trio.Lock()
        self._commits_done = 0
        self._states_begun = 0
        """Commits, and records of the log: each makes durable what there was when it was numbered."""
        self._durable = 0
        """The last of them that is done."""
        self._committed = trio.Event()
        """Set, and replaced, by every commit."""
        self.commit_timing = Timing()
        self.fetch: Callable[[], Awaitable[None]] | None = None
        """Set by who mounts the store: brings in what the kernel holds back of written files."""
        self._wake_reclaim = trio.Event()
        self._wake_sync = trio.Event()
        self._synced_at = 0.0
        """When the last sync began that is done, by trio's clock."""
        self.index.after_failure.append(self._fall_back)
        self._reap_orphans()

    def _fall_back(self) -> None:
        """The index takes no more changes and shows its last commit: so must all that is in memory, as after a
        remount.  What waits to be stored never will be; programs were told, or will be when they sync."""
        self.core.epochs.load()
        self.volumes.fall_back()
        self.snapshots.look_again()
        self.writeback.discard_all()

    @classmethod
    def create(cls, path: Path, disk: Disk | None = None) -> None:
        """Make an empty store in a missing or empty directory.

        Raises:
            AlreadyExists, Invalid.
        """
        disk = disk or Disk()
        marker = layout.create(path, disk, now_ns())
        index = Index(path / layout.INDEX, create=True, disk=disk)
        try:
            index.put("meta", b"uuid", marker.uuid.encode())
            index.commit()
        finally:
            index.close()
        for directory in (path / layout.INDEX, path / layout.SEGMENTS, path):
            disk.sync_directory("store.directory", directory)
        layout.mark(path, marker, disk)
        disk.sync_directory("store.directory", path.parent)

    @classmethod
    def open(cls, path: Path, *, mountpoint: str = "", disk: Disk | None = None, limits: Limits = DEFAULT) -> Lake:
        """Take the writer's lock and open the store as of its last commit.

        Raises:
            NotFound, Invalid, Unsupported, Corrupt, Busy.
        """
        marker = layout.read_marker(path)
        lock = layout.Lock(path, mountpoint)
        try:
            return cls(path, marker, lock, disk or Disk(), limits)
        except BaseException:
            lock.release()
            raise

    def _reap_orphans(self) -> None:
        """Files that were unlinked and still open when the store was last left."""
        for volume in self.volumes.all():
            for ino in list(self.core.orphans(volume.head)):
                with contextlib.suppress(NotFound):
                    self.files.drop(volume.head, Ino(ino))

    # -- durability

    async def commit(self) -> None:
        """All metadata, and all file data that was flushed, is durable.  Callers that wait share a commit.

        Raises:
            NoSpace, IOFailure: it is not; after IOFailure the store takes no more changes.
        """
        ticket = self._commits_done
        async with self._committing:
            if self._commits_done == ticket:  # else one published, after we asked, all that was there by then
                await self._publish()

    async def _publish(self) -> None:
        """As ``commit``; the caller has the lock."""
        self.index.check()
        began = time.perf_counter()
        if self.core.blocks.segments.unsynced:
            try:
                await in_thread(self.core.blocks.segments.sync)
            except IOFailure as error:
                # The kernel drops what it could not write: never try again as if nothing had happened.
                raise self.index.fail(error) from error
        self.index.commit()
        self._commits_done += 1  # after: who waits must not take a failed one for theirs
        self._states_begun += 1
        self._durable = self._states_begun
        self.commit_timing.add(time.perf_counter() - began)
        self._committed.set()
        self._committed = trio.Event()
        self._wake_reclaim.set()

    async def persist(self) -> None:
        """As ``commit``, for what only this process shows: as a record of the redo log, if that can be.  Requests are
        answered meanwhile."""
        ticket = self._states_begun
        async with self._committing:
            if self._durable > ticket:
                return  # one that began after we asked
            if not await self._record():
                await self._publish()

    async def _record(self) -> bool:
        """Whether all that is not durable is in the log now; the caller has the lock."""
        began = time.perf_counter()
        segments, events = self.core.blocks.segments, self.core.events
        pieces, told = segments.take_noted(), events.last
        if pieces is None:
            return False
        done = False
        try:
            write = self.index.record(pieces)
            if write is not None:
                self._states_begun += 1
                number = self._states_begun
                done = await in_thread(write)
                if done:
                    self._durable = number
                    events.published(told)
                    self.commit_timing.add(time.perf_counter() - began)
            return done
        finally:
            if not done:
                segments.forget_noted()

    async def commit_gently(self) -> None:
        """As ``commit``, for work that no program waits for.  Everybody waits while the index commits, so while
        requests come this is left to the next one that somebody needs, for a moment."""
        ticket = self._commits_done
        if self.upkeep.turns.gives_way:
            with trio.move_on_after(GENTLE_SECONDS):
                await self._committed.wait()
        if self._commits_done == ticket:
            await self.commit()

    async def commit_soon(self) -> None:
        """For deletions, of which a crash may make nothing: while requests come they become durable with the next
        commit, at most ``commit_seconds`` later; else now."""
        if not self.upkeep.turns.gives_way:
            await self.commit()

    async def sync(self) -> None:
        """Everything acknowledged so far is durable: file data is flushed, then committed.

        Raises:
            NoSpace, IOFailure: some of it is not.  What could be flushed, and all metadata, is committed all the same.
        """
        began = trio.current_time()
        try:
            await self.writeback.flush()
        finally:
            await self.commit()
        self._synced_at = began

    # -- background

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Background work while it lasts: commits on a timer, flushes, reclaims.  At the end everything is synced."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._look_after)
            nursery.start_soon(self._sync_on_demand)
            nursery.start_soon(doubt.look_over_when_quiet, self.index, self.core.events, self.commit, self.upkeep.turns)
            nursery.start_soon(self._fetch_on_timer)
            nursery.start_soon(self._flush_on_demand)
            nursery.start_soon(self.writeback.replaced.run)
            nursery.start_soon(self._reclaim_in_background)
            nursery.start_soon(self.upkeep.run_compaction)
            nursery.start_soon(self.scrub.run)
            nursery.start_soon(self.sealer.run)
            nursery.start_soon(self.trash.run)
            try:
                yield
            finally:
                nursery.cancel_scope.cancel()
                with trio.CancelScope(shield=True):
                    await self.sync()
                    if self.sealer.pending:  # the next one who opens the store goes on
                        with trio.move_on_after(SEALING_SECONDS_MAX), contextlib.suppress(SnapfsError):
                            await self.seal_all()

    async def _look_after(self) -> None:
        """See what is due, and have it done: the one task that looks now and then, and only while something goes on or
        waits.  It does nothing that takes long: a commit may take longer than the map takes to grow."""
        stirring, quick, asked_at = Stirring(), 0, trio.current_time()
        while True:
            if not (quick or self.index.dirty or self.core.dirty_bytes or self.core.short_of_space):
                with trio.move_on_at(max(asked_at, self._synced_at) + self.limits.commit_seconds):
                    await stirring.wait()
            await trio.sleep(_QUICK_SECONDS if quick else _POLL_SECONDS)
            quick = _QUICK_LOOKS if self.index.map.bound() else max(0, quick - 1)
            if self.core.dirty_bytes:
                self.writeback.wanted.set()  # perhaps nothing was written for a while
            if not self._wake_sync.is_set() and self._is_sync_due(max(asked_at, self._synced_at)):
                asked_at = trio.current_time()
                self._wake_sync.set()

    def _is_sync_due(self, last: float) -> bool:
        """Args:
        last: when all was made durable, or that was asked for.
        """
        short_of_space, self.core.short_of_space = self.core.short_of_space, False
        late = trio.current_time() - last >= self.limits.commit_seconds
        if late or short_of_space or self.index.puts > COMMIT_PUTS_MAX:
            return True
        try:
            return self.index.dirty and not self.index.reserve()
        except SnapfsError:  # whoever commits is told; this is tried again
            return False

    async def _sync_on_demand(self) -> None:
        while True:
            await self._wake_sync.wait()
            with contextlib.suppress(SnapfsError):  # whoever waits for a sync is told; this is tried again
                await self.sync()
            self._wake_sync = trio.Event()  # only now: none is asked for while one is under way

    async def _fetch_on_timer(self) -> None:
        """What the kernel holds back of written files is as old as what we hold, and counts just so.  A task of its
        own: fetching gigabytes takes a while."""
        while True:
            began = trio.current_time()
            if self.fetch is not None:
                with contextlib.suppress(SnapfsError):
                    await self.fetch()
                    await self.sync()
            await trio.sleep_until(began + self.limits.commit_seconds * _FETCH_PART)

    async def _flush_on_demand(self) -> None:
        """Where much is dirty; and where nothing was written for a while, so that a snapshot, or a commit, finds little
        left to do."""
        while True:
            await self.writeback.wanted.wait()
            self.writeback.wanted = trio.Event()
            try:
                await self.writeback.flush_some()
                await self.writeback.flush_idle()
            except NoSpace:
                await trio.sleep(_POLL_SECONDS)
            except SnapfsError:
                await trio.sleep(self.limits.commit_seconds)

    async def _reclaim_in_background(self) -> None:
        while True:
            self._wake_reclaim = trio.Event()
            with contextlib.suppress(SnapfsError):
                await self.trash.expire(doomed_only=True)
                await self.upkeep.reclaim(commit_first=False)
            await self._wake_reclaim.wait()

    async def seal_all(self) -> None:
        """Every snapshot is sealed, durably, and the seals of those that were deleted are gone.

        Raises:
            NoSpace, IOFailure: some are not.
        """
        await self.sealer.run_now()

    async def settle(self) -> None:
        """Seal and reclaim until neither leaves work for the other: a fold takes bases away, a seal that goes leaves
        blocks."""
        while True:
            await self.seal_all()
            await self.reclaim_all()
            if not self.sealer.pending:
                return

    @property
    def accounts(self) -> Book:
        """Which views show which blocks."""
        return self.core.accounts

    async def settle_accounts(self) -> None:
        """What was hidden by the thousand is accounted now.  When this returns the accounts are exact, in the open
        transaction, until the caller awaits something."""
        self.index.check()
        while self.reclaim.account_step():
            await trio.lowlevel.checkpoint()
        self.accounts.flush()

    async def make_room(self) -> None:
        """The disk is full: give back at once what was deleted."""
        with contextlib.suppress(SnapfsError):
            await self.commit()
            await self.upkeep.reclaim(hurry=True)

    async def reclaim_all(self) -> None:
        """Reclaim what can be reclaimed now."""
        self.index.check()
        await self.trash.expire(doomed_only=True)
        await self.upkeep.reclaim()

    async def compact(self) -> None:
        """Copy what is left of segments that hold dead bytes, and drop them: all that can be done now.

        Raises:
            NoSpace, IOFailure: the rest is left to the next time.
        """
        await self.upkeep.compact()

    def follow(self, pace: Pace) -> None:
        """Work in the background goes on so."""
        self.scrub.follow(pace)
        self.trash.follow(pace)
        self.upkeep.compaction.follow(pace)

    def close(self) -> None:
        """Let go of the store; what was not synced is dropped."""
        self.core.blocks.segments.close()
        self.index.close()
        self._lock.release()
