"""The work that gives space back: dying epochs dissolve, blocks are punched, segments are copied and dropped.

Order, each step after the commit of the one before: records go, then the bytes that nothing names, then files.

Invariants:
  * One at a time (``_lock``); who waits for space (``hurry``) makes it go at full speed, and a copy give way.
  * Whatever a crash interrupts is found again: in ``changes``, ``freed``, ``emptied``, ``segments``.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from snapfs.errors import SnapfsError
from snapfs.format import keys
from snapfs.store import shrinking
from snapfs.store.index import items
from snapfs.store.leftovers import Leftovers
from snapfs.types import SegmentId
from snapfs.volume.compact import ROOM_BYTES, Compaction
from snapfs.volume.core import Core
from snapfs.volume.giveback import GiveBack
from snapfs.volume.reclaim import Reclaim
from snapfs.volume.turns import Turns
from snapfs.volume.writeback import Writeback

BUSY_SECONDS_MAX: Final = 10.0
"""How long a copy waits for a moment without requests; then it is made all the same, slowly."""

SPARE_BYTES_MIN: Final = 1024 * 1024
SPARE_PERCENT: Final = 25.0
"""The index is copied if it has so many free pages, of those in use; some it needs for its next changes."""

SHRINK_SECONDS: Final = 1.0
SHRINK_SECONDS_MAX: Final = 600.0
"""So long nobody must have changed anything; longer after each time that somebody did so while it was copied."""

_LOOK_SECONDS: Final = 0.25

log = logging.getLogger(__name__)


class Upkeep:
    """
    Args:
        requests: how many requests there were so far, of those that come first.
    """

    def __init__(
        self, core: Core, writeback: Writeback, reclaim: Reclaim, leftovers: Leftovers,
        commit: Callable[[], Awaitable[None]], requests: Callable[[], int], segment_bytes_max: int,
    ) -> None:  # fmt: skip
        self._core = core
        self._index = core.index
        self._reclaim = reclaim
        self._leftovers = leftovers
        self._commit = commit
        self._lock = trio.Lock()
        self.turns = Turns(requests)
        self.giveback = GiveBack(core, self.turns)
        self.compaction = Compaction(
            core, writeback, commit, self.turns, self._asked, lambda: self.giveback.given_bytes, segment_bytes_max
        )  # fmt: skip
        self._can_shrink = True
        """Until the host has refused to exchange directories."""
        self._published = False
        self._forgotten: dict[SegmentId, int] = {}
        """Segments that are to be dropped, with the transaction that forgot them; a crash leaves them to
        ``Leftovers``."""
        self._less = trio.Event()
        """Something was given back: a segment may be worth copying."""
        self._less.set()
        core.index.after_publish.append(self._note_published)

    def _note_published(self) -> None:
        self._published = True

    def _asked(self) -> bool:
        return self._lock.statistics().tasks_waiting > 0

    async def reclaim(self, *, commit_first: bool = True, hurry: bool = False) -> None:
        """Give back all that nothing needs.

        Args:
            commit_first: also what the open transaction frees.
            hurry: somebody waits for it: at full speed.

        Raises:
            NoSpace, IOFailure: the rest is left to the next time.
        """
        with self.turns.hurrying() if hurry else contextlib.nullcontext():
            async with self._lock:
                again = True
                while again:
                    again = await self._reclaim_some(commit_first)
                    commit_first = False

    async def _reclaim_some(self, commit_first: bool) -> bool:
        """Whether there may be more."""
        blocks = self._core.blocks
        worked = await self._dissolve()
        gave = await self.giveback.run()
        empty = blocks.empty_segments()
        blocks.forget_segments(empty)
        self._forgotten |= dict.fromkeys(empty, self._index.txn_number)
        worked = worked or gave or bool(empty) or (commit_first and self._index.dirty)
        if worked:
            await self._commit()
        await self._drop()
        if self._leftovers:  # what the last commit has, not what is in the log at best
            with self._index.reader() as reader:
                known = [SegmentId(keys.from_u64(key)) for key, _ in items(reader, "segments")]
            self._leftovers.remove(blocks.segments, known)
        if gave or shrinking.worth(self._index, SPARE_BYTES_MIN, SPARE_PERCENT):
            self._less.set()
        return worked

    async def _drop(self) -> None:
        """Files of segments that are durably forgotten, and that no reader knows."""
        blocks = self._core.blocks
        bound = blocks.bound if self._forgotten else 0
        for segment in [segment for segment, number in self._forgotten.items() if number < bound]:
            await trio.to_thread.run_sync(blocks.segments.drop, segment)
            del self._forgotten[segment]
            blocks.emptied.gone(segment)

    async def _dissolve(self) -> bool:
        """Records of what was deleted; whether there were any."""
        worked = False
        self.turns.begin()
        while self._reclaim.step(self.turns.until):
            worked = True
            await self.turns.rest()
            if self._published:
                self._published = False
                await self.giveback.run()
        return worked

    # -- copying

    async def compact(self) -> None:
        """Copy all segments that hold more than a few percent of dead bytes.

        Raises:
            NoSpace, IOFailure.
        """
        with self.turns.hurrying():
            while await self._compact_one(thorough=True):
                await self.reclaim()
            await self.reclaim()
            await self.shrink(spare_percent=0)

    async def shrink(
        self, *, spare_percent: float = SPARE_PERCENT, spare_bytes_min: int = SPARE_BYTES_MIN
    ) -> bool:  # fmt: skip
        """Make the index's file small if so much of it is free; False: it was not the moment for that.

        Raises:
            NoSpace, IOFailure.
        """
        index, store, disk = self._index, self._core.path, self._core.disk
        async with self._lock:
            if not (self._can_shrink and shrinking.worth(index, spare_bytes_min, spare_percent)):
                return True
            await self._commit()
            number = index.txn_number
            free_bytes = disk.free_bytes(store)[0]
            if not self._as_of(number) or free_bytes < self._core.pending_bytes() + ROOM_BYTES + index.filling()[0]:
                return False
            try:
                await trio.to_thread.run_sync(shrinking.make_copy, index, store, disk)
                self.turns.begin()
                if not self._as_of(number):
                    return False
                self._can_shrink = shrinking.take_copy(index, store, disk)
                if self._can_shrink:
                    self._core.blocks.emptied.renumber()
                    self._forgotten = dict.fromkeys(self._forgotten, 0)
                else:
                    log.warning("the host cannot exchange directories: the index's file stays as large as it is")
                return True
            finally:
                await trio.to_thread.run_sync(shrinking.remove_copy, store, disk)

    def _as_of(self, number: int) -> bool:
        """Whether nothing was changed since this transaction began, and nobody relies on what was before."""
        index = self._index
        unchanged = not index.dirty and index.txn_number == number
        return unchanged and index.oldest_reader() is None and not self._core.blocks.is_pinned

    async def _compact_one(self, *, thorough: bool = False) -> bool:
        async with self._lock:
            segment = await self.compaction.next(thorough=thorough)
            return bool(segment) and await self.compaction.copy(segment)

    async def run_compaction(self) -> None:
        """Copy what is worth copying, for ever."""
        while True:
            await self._less.wait()
            await self._quiet()
            try:
                self._less = trio.Event()
                if await self._compact_one():
                    await self.reclaim(commit_first=False)
                    self._less.set()
                elif self._core.blocks.emptied.numbers:  # others came first
                    await trio.sleep(_AGAIN_SECONDS)
                    self._less.set()
                else:
                    await self._shrink_in_time()
            except SnapfsError:  # the disk is full, or refuses: later, then
                await trio.sleep(_REFUSED_SECONDS)
                self._less.set()

    async def _shrink_in_time(self) -> None:
        """Shrink the index, if that is worth it, once there were neither requests nor changes for a while; or until
        something is to be copied."""
        index, seconds = self._index, SHRINK_SECONDS
        while self._can_shrink and shrinking.worth(index, SPARE_BYTES_MIN, SPARE_PERCENT) and not self._less.is_set():
            before = index.txn_number, index.puts
            await trio.sleep(seconds)
            if not self.turns.busy and before == (index.txn_number, index.puts) and not await self.shrink():
                seconds = min(seconds * 2, SHRINK_SECONDS_MAX)

    async def _quiet(self) -> None:
        """Wait for a moment without requests, but not for long."""
        end = trio.current_time() + BUSY_SECONDS_MAX
        while self.turns.busy and trio.current_time() < end:  # noqa: ASYNC110 - a rest, not a wait
            await trio.sleep(_LOOK_SECONDS)


_AGAIN_SECONDS: Final = 1.0
_REFUSED_SECONDS: Final = 30.0
