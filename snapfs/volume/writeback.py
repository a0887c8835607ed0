"""From written bytes to blocks: dirty data in memory, flushed as chunks (see ``reduction``).

Invariants:
  * A byte that was written and is not yet in an extent is in its file's ``runs`` (newer) or ``taken`` (being
    flushed); a read lays taken over the extents and runs over both.
  * One flush at a time (``_lock``).  Its thread work (cut, hash, compare, compress, append) touches no index; each
    file's new extents are applied in one piece between two awaits.
  * What is truncated away during a flush is cut off by ``limit`` when the flush is applied.
  * What a file's dirty bytes may add to what the volume holds is counted twice over: in the file (``reserved_bytes``,
    ``taken_reserved_bytes``) and in the volume's ``usage.pending_bytes``, their sum (see ``quota``).
  * While a volume is held still (``hold``) its writes wait, so that a snapshot has all of each write or none.

A stream that is flushed while it is still being written keeps its last, unfinished chunk in memory.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import groupby
from typing import Final

import msgspec
import trio

from snapfs.api import QuotaKind
from snapfs.errors import NotFound, SnapfsError
from snapfs.extents import plan_write
from snapfs.format.records import Inode
from snapfs.store.blocks import Placed, digest
from snapfs.types import Ino, VolumeId
from snapfs.versions.epochs import View
from snapfs.volume.core import Core
from snapfs.volume.quota import exceeded, uncovered_bytes
from snapfs.volume.reduction.compression import Trials
from snapfs.volume.reduction.cutting import CHUNK_BYTES_MIN, Chunk, has_zeros
from snapfs.volume.reduction.reducer import Fresh, Reducer, Written
from snapfs.volume.reduction.replaced import Replaced
from snapfs.volume.runs import Runs
from snapfs.volume.storing import Cut, Cutting, packing, work

FLUSH_BYTES: Final = 32 * 1024 * 1024
"""Flushing begins in the background when this much is dirty (or half of what may be)."""

CHANGES_MAX: Final = 1024
"""Or when this many runs are dirty in files that had data before: each is work of its own, some 60 us, and the next
snapshot would wait for all of it.  New files often go soon, so they count by their bytes only."""

SETTLED_BYTES_MAX: Final = 4 * 1024 * 1024
"""Or when this much is dirty in files that took the place of others: they are there to stay."""

IDLE_SECONDS: Final = 0.5
"""Or when something is dirty and nothing was written for so long."""


class DirtyFile:
    __slots__ = (
        "changes", "counted", "ino", "limit", "reserved_bytes", "runs", "settled", "taken", "taken_reserved_bytes",
        "view",
    )  # fmt: skip

    def __init__(self, view: View, ino: Ino, *, changes: bool) -> None:
        self.view = view
        self.ino = ino
        self.changes = changes
        """It had data before."""
        self.settled = False
        """It took the place of another, and was not flushed since."""
        self.runs = Runs()
        self.taken: Runs | None = None
        self.limit = 0
        """Truncations since ``taken`` was taken: nothing of it from here on counts any more."""
        self.reserved_bytes = 0
        """At least what storing ``runs`` will add to the file's allocated bytes."""
        self.taken_reserved_bytes = 0
        """The same of ``taken``."""
        self.counted = True
        """That is just what they will add: not so where nobody counted, or some of it is zeros."""

    @property
    def end(self) -> int:
        taken = min(self.taken.end, self.limit) if self.taken else 0
        return max(self.runs.end, taken)

    @property
    def total_bytes(self) -> int:
        return self.runs.total_bytes + (self.taken.total_bytes if self.taken else 0)

    def pieces(self, start: int, end: int) -> list[tuple[int, bytes]]:
        """(offset, bytes) of the dirty data in [start, end): a later piece lies over an earlier one."""
        taken = self.taken.pieces(start, min(end, self.limit)) if self.taken else []
        return taken + self.runs.pieces(start, end)

    def spans(self, start: int, end: int) -> list[tuple[int, int]]:
        """(start, end) of what of the dirty data overlaps [start, end)."""
        taken = self.taken.spans(start, min(end, self.limit)) if self.taken else []
        return taken + self.runs.spans(start, end)


class Writeback:
    def __init__(self, core: Core, dirty_bytes_max: int) -> None:
        self._core = core
        self._dirty_bytes_max = dirty_bytes_max
        self._flush_bytes = min(FLUSH_BYTES, dirty_bytes_max // 2)
        self._files: dict[tuple[VolumeId, Ino], DirtyFile] = {}
        self._lock = trio.Lock()
        self._held: dict[VolumeId, trio.Event] = {}
        self._turns: weakref.WeakValueDictionary[VolumeId, trio.Lock] = weakref.WeakValueDictionary()
        """Who may hold a volume next; gone when nobody waits."""
        self.reducer = Reducer(core)
        self.replaced = Replaced(core, self.reducer, self.appending)
        self.wanted = trio.Event()
        """Set when the background should flush."""
        self._changed_runs = 0
        """Dirty, in files that had data before; about."""
        self._settled_bytes = 0
        """Dirty in files when they took the place of others; about."""
        self._written_at = 0.0
        """Time of the last write, by trio's clock; infinite: what it left was looked at."""

    # -- what files see

    def end(self, view: View, ino: Ino) -> int:
        """Where the file's dirty data ends; 0 if it has none (snapshots have none)."""
        if not self._files or not view.writable:
            return 0
        file = self._files.get((view.volume_id, ino))
        return file.end if file else 0

    def dirty(self, view: View, ino: Ino) -> DirtyFile | None:
        return self._files.get((view.volume_id, ino)) if view.writable else None

    async def room(self, view: View, ino: Ino, offset: int, size: int) -> int | None:
        """Wait until the volume may be written to, there is memory for it, and its quota allows it.

        Returns:
            By how many bytes [offset, offset + size) will grow the file's allocated bytes; None: not counted, as so
            much is left that it does not matter.

        Raises:
            QuotaExceeded: the volume would hold too much.
            NoSpace: the disk could not take what is dirty.
            NotFound: the view has no such inode (any more).
        """
        usage = self._core.usages.of(view)
        logical, exact = usage.quota_kind is QuotaKind.LOGICAL, False
        while True:
            held = self._held.get(view.volume_id)
            if held is not None:
                await held.wait()
            elif self._is_full(size):
                async with self._lock:  # the flush under way may have made room
                    if self._is_full(size):
                        await self._flush(list(self._files.values()), final=False)
            elif usage.uncounted:
                await self._core.usages.exact()
            elif usage.fits(size):
                return None
            elif logical and usage.fits(growth := self._growth(view, ino, offset, offset + size)):
                return growth
            elif not all(file.counted for file in self._files.values() if file.view is view):
                await self.flush(view=view)  # what is dirty may take less than it was taken to
            elif not (logical or exact):
                await self._core.usages.exact()
                exact = True
            else:
                self._core.events.warn(f"the quota of volume {usage.volume!r} is full")
                raise exceeded(usage)

    def _is_full(self, size: int) -> bool:
        """Whether there is no memory for so many bytes; where nothing is dirty there always is."""
        return 0 < self._core.dirty_bytes > self._dirty_bytes_max - size

    def _growth(self, view: View, ino: Ino, start: int, end: int) -> int:
        """Bytes of [start, end) that neither an extent of the file has nor its dirty data."""
        covers = [(e.offset, e.end) for e, _ in self._core.extents(view, self._core.inode(view, ino), start, end)]
        file = self._files.get((view.volume_id, ino))
        if file is not None:
            covers += file.spans(start, end)
        return uncovered_bytes(start, end, covers)

    def write(self, view: View, ino: Ino, offset: int, data: bytes, growth: int | None = None) -> None:
        """Take bytes; ``room`` was awaited, told the growth, and nothing else was awaited since."""
        file = self._files.get((view.volume_id, ino))
        if file is None:
            changes = self._core.inode(view, ino).allocated_bytes > 0
            file = self._files[view.volume_id, ino] = DirtyFile(view, ino, changes=changes)
        before, runs = file.runs.total_bytes, len(file.runs.offsets)
        file.runs.write(offset, data)
        more = len(file.runs.offsets) - runs
        self._core.dirty_bytes += file.runs.total_bytes - before
        self._core.dirty_runs += more
        self._written_at = trio.current_time()
        if growth is None:
            growth = file.runs.total_bytes - before
            file.counted = False
        elif has_zeros(offset, data):
            file.counted = False
        self._reserve(file, growth)
        if file.changes:
            self._changed_runs += more
        if self._core.dirty_bytes > self._flush_bytes or self._changed_runs > CHANGES_MAX:
            self.wanted.set()

    def took_place(self, view: View, inode: Inode, other: Inode) -> None:
        """The file took the name of another one."""
        file = self._files.get((view.volume_id, inode.ino))
        if file is not None and not file.settled:
            file.settled = True
            self._settled_bytes += file.runs.total_bytes
            if self._settled_bytes > SETTLED_BYTES_MAX:
                self.wanted.set()
        if inode.allocated_bytes or (file is not None and file.taken):  # else its flush compares it
            self.replaced.add(view, inode.ino, other)

    def _reserve(self, file: DirtyFile, delta_bytes: int) -> None:
        file.reserved_bytes += delta_bytes
        self._core.usages.of(file.view).pending_bytes += delta_bytes

    def truncate(self, view: View, ino: Ino, size: int) -> None:
        file = self._files.get((view.volume_id, ino))
        if file is not None:
            before = file.runs.total_bytes
            file.runs.truncate(size)
            file.limit = min(file.limit, size)
            self._core.dirty_bytes += file.runs.total_bytes - before
            if file.runs.total_bytes != before:
                file.counted = not file.runs
                self._reserve(file, min(0, file.runs.total_bytes - file.reserved_bytes))
            self._forget_if_clean(file)

    def discard(self, view: View, ino: Ino) -> None:
        """The file is gone, or its changes are unwanted."""
        self.truncate(view, ino, 0)

    def discard_volume(self, view: View) -> None:
        for volume, ino in list(self._files):
            if volume == view.volume_id:
                self.discard(view, ino)

    def discard_all(self) -> None:
        """Nothing of it can be stored any more."""
        self._files.clear()
        self._core.dirty_bytes = self._core.dirty_runs = self._changed_runs = self._settled_bytes = 0

    def _forget_if_clean(self, file: DirtyFile) -> None:
        key = (file.view.volume_id, file.ino)
        if not file.runs and not file.taken and self._files.get(key) is file:
            del self._files[key]

    @asynccontextmanager
    async def hold(self, view: View) -> AsyncIterator[None]:
        """Hold the volume still, with nothing dirty: inside, no write to it is acknowledged."""
        turn = self._turns.setdefault(view.volume_id, trio.Lock())
        async with turn:  # first come, first served: of many who wait for an event one can wait for ever
            await self.flush(view=view)  # most of it, while writers go on
            await self.replaced.settle(view)
            held = self._held[view.volume_id] = trio.Event()
            try:
                await self.flush(view=view)
                yield
            finally:
                del self._held[view.volume_id]
                held.set()

    # -- flushing

    async def flush(self, *, view: View | None = None, ino: Ino | None = None, final: bool = True) -> None:
        """Turn dirty data into blocks and extents: of one file, one volume, or all.

        Args:
            final: false keeps the unfinished last chunk of streams.

        Raises:
            NoSpace, IOFailure: the data stays dirty; a later flush tries again.
        """
        async with self._lock:
            if ino is not None and view is not None:
                file = self._files.get((view.volume_id, ino))
                chosen = [file] if file else []
            else:
                chosen = [f for f in self._files.values() if view is None or f.view is view]
            await self._flush(chosen, final)

    async def flush_some(self) -> None:
        """In the background: all, where much is dirty; else files that are likely to stay.  Streams keep their
        unfinished last chunk; what took the place of another file is no stream that goes on.

        Raises as ``flush``.
        """
        async with self._lock:
            self._count_changed()  # some may have been discarded
            if self._core.dirty_bytes > self._flush_bytes:
                await self._flush(list(self._files.values()), final=False)
            elif self._changed_runs > CHANGES_MAX:
                await self._flush([file for file in self._files.values() if file.changes], final=False)
            elif self._settled_bytes > SETTLED_BYTES_MAX:
                await self._flush([file for file in self._files.values() if file.settled], final=True)

    async def flush_idle(self) -> None:
        """What is dirty, once, if nothing was written for a while.  Raises as ``flush``."""
        if self._core.dirty_bytes and trio.current_time() - self._written_at >= IDLE_SECONDS:
            self._written_at = math.inf  # what a stream keeps is not cut again and again
            await self.flush(final=False)

    async def _flush(self, chosen: list[DirtyFile], final: bool) -> None:
        """As ``flush``; the caller has the lock."""
        chosen = [file for file in chosen if file.runs]
        if not chosen:
            return
        for file in chosen:
            file.taken, file.runs, file.limit, file.settled = file.runs, Runs(), file.runs.end, False
            file.taken_reserved_bytes, file.reserved_bytes = file.reserved_bytes, 0
        self._count_changed()
        try:
            await self._store(chosen, final)
        except SnapfsError as error:
            self._core.events.warn(f"written data could not be stored: {error.message}")
            raise
        finally:
            for file in chosen:  # empty unless something failed
                self._give_back(file)
            self._core.dirty_bytes = sum(file.total_bytes for file in self._files.values())
            self._core.dirty_runs = sum(len(file.runs.offsets) for file in self._files.values())
            self._count_changed()
            self._core.forget_free_space()  # what was dirty has taken it

    def _count_changed(self) -> None:
        self._changed_runs = sum(len(file.runs.offsets) for file in self._files.values() if file.changes)
        self._settled_bytes = sum(file.runs.total_bytes for file in self._files.values() if file.settled)

    @asynccontextmanager
    async def appending(self) -> AsyncIterator[None]:
        """Inside, whoever is no file may append blocks: between two flushes, which wait meanwhile."""
        async with self._lock:
            yield

    async def append(self, pieces: list[bytes], kind: int) -> list[Placed]:
        """Append blocks that are no file's, between two flushes, which wait meanwhile.

        Raises:
            NoSpace, IOFailure: the disk refused.
        """
        async with self._lock:
            return await trio.to_thread.run_sync(self._pack, pieces, kind)

    def _pack(self, pieces: list[bytes], kind: int) -> list[Placed]:
        return self._core.blocks.pack([(digest(piece), piece) for piece in pieces], kind)

    def _give_back(self, file: DirtyFile) -> None:
        taken, file.taken = file.taken, None
        reserved, file.taken_reserved_bytes = file.taken_reserved_bytes, 0
        self._core.usages.of(file.view).pending_bytes -= reserved
        if taken:
            taken.truncate(file.limit)
            for offset, run in zip(taken.offsets, taken.data, strict=True):
                file.runs.write_under(offset, run)
            self._reserve(file, max(0, min(reserved, file.runs.total_bytes - file.reserved_bytes)))
            file.counted = False
        self._forget_if_clean(file)

    async def _store(self, files: list[DirtyFile], final: bool) -> None:
        core, reducer = self._core, self.reducer
        size = sum(file.taken.total_bytes for file in files if file.taken)
        cutting = Cutting([file.taken.joined() for file in files if file.taken], final)
        placed: dict[bytes, Placed] = {}
        asked: set[bytes] = set()
        with core.blocks.pinned(), core.blocks.placing():
            with core.blocks.segments.together():
                async with packing(reducer, size, placed) as pack:
                    while parts := await work(size, cutting.next):
                        long = [part for part in parts if part.run.end - part.run.start > CHUNK_BYTES_MIN]
                        await reducer.reduce(
                            Written(files[number].view, files[number].ino, [part.chunks for part in of_file])
                            for number, of_file in groupby(long, key=lambda part: part.file)
                        )
                        wanted: list[Fresh] = []
                        of, manner = -1, (0, Trials())
                        for number, run, chunks in parts:
                            if number != of:
                                of, manner = number, reducer.manner(files[number].view, files[number].ino)
                            run.chunks += chunks
                            for chunk in chunks:
                                if not chunk.block and chunk.hash not in asked and not core.blocks.known(chunk.hash):
                                    asked.add(chunk.hash)
                                    wanted.append(Fresh(chunk.hash, chunk.data, *manner))
                        await pack(wanted)
            for count, (file, (cuts, rest)) in enumerate(zip(files, cutting.done, strict=True), 1):
                self._apply(file, cuts, rest, placed)
                if count % _FILES_A_TURN == 0:
                    await trio.lowlevel.checkpoint()

    def _apply(self, file: DirtyFile, cuts: list[Cut], rest: list[Chunk], placed: dict[bytes, Placed]) -> None:
        """Give the file its new extents, in one piece."""
        core, view, limit = self._core, file.view, file.limit
        try:
            inode = core.inode(view, file.ino)
        except NotFound:
            file.runs = Runs()
            self._reserve(file, -file.reserved_bytes)
            self._applied(file, [])
            return
        size, allocated, changed = inode.size, inode.allocated_bytes, False
        try:
            for run in cuts:
                start, end = run.start, min(run.end, limit)
                if start >= end:
                    break
                extents = self.reducer.extents(view, file.ino, run.chunks, limit, placed)
                old = core.extents(view, inode, start, end) if allocated else []
                plan = plan_write([extent for extent, _ in old], extents, start, end)
                core.apply(view, inode, old, plan)
                size, allocated, changed = max(size, end), allocated + plan.covered_bytes, True
        finally:  # also when a block could not be stored: the runs before it are in place
            if changed:  # also where neither did: who has the same attributes has the same data
                core.put_inode(view, msgspec.structs.replace(inode, size=size, allocated_bytes=allocated))
        self._applied(file, rest)

    def _applied(self, file: DirtyFile, rest: list[Chunk]) -> None:
        """What was taken is in extents, but for the rest, which is dirty again."""
        reserved, file.taken_reserved_bytes = file.taken_reserved_bytes, 0
        self._core.usages.of(file.view).pending_bytes -= reserved
        file.taken = None  # only now: until here a failure gives all of it back
        file.counted = not file.runs and not rest
        before = file.runs.total_bytes
        for chunk in rest:
            if chunk.offset < file.limit:
                file.runs.write_under(chunk.offset, bytes(chunk.data[: file.limit - chunk.offset]))
        self._reserve(file, min(reserved, file.runs.total_bytes - before))
        self._forget_if_clean(file)


_FILES_A_TURN: Final = 64
"""Files whose extents are applied before other tasks may run (about 2 ms)."""
