"""Files that were renamed over others: what of them is new is compared with what they replaced.

Programs save by writing a new file and renaming it over the old one.  While it is written nobody can know what it
will replace; blocks that are known tell it mostly (their homes), but not if every chunk has a change.  So afterwards
the blocks that only the new file has are compared, page by page, with the file that the snapshot below shows under
that name, in the background; a snapshot waits for it for a moment (``SETTLE_SECONDS``).

Invariants:
  * The queue only says where to look: nothing but space depends on it, and it is bounded.
  * Only records of the head's own epoch are changed, and only blocks that nothing else names are let go.
"""

from __future__ import annotations

import contextlib
import stat
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Final, NamedTuple

import trio

from snapfs.errors import SnapfsError
from snapfs.extents import Extent
from snapfs.format.records import Block, Inode
from snapfs.store.blocks import Placed
from snapfs.types import Epoch, Ino, VolumeId
from snapfs.versions.epochs import View
from snapfs.volume.core import Core
from snapfs.volume.reduction.comparing import Candidate, Load, Old, Outcome, compare
from snapfs.volume.reduction.cutting import CHUNK_BYTES_MIN, Chunk
from snapfs.volume.reduction.exchange import Found, exchange
from snapfs.volume.reduction.reducer import Fresh, Memory, Reducer
from snapfs.volume.reduction.relatives import Relative, Relatives, parent_view, previous

SETTLE_SECONDS: Final = 2.0
"""How long a snapshot waits at most: what is compared later than it cannot change what it holds."""

FILES_MAX: Final = 256
WINDOW_BYTES: Final = 4 * 1024 * 1024
"""Of a file whose extents are looked at between two rests."""

Alone = Callable[[], AbstractAsyncContextManager[None]]
"""Inside, no flush goes on."""


class _Fresh(NamedTuple):
    """An extent that is the whole of a block which nothing else names, with what may be equal to parts of it."""

    extent: Extent
    epoch: Epoch
    entry: Block
    load: Load
    olds: list[Old]


class Replaced:
    def __init__(self, core: Core, reducer: Reducer, alone: Alone) -> None:
        self._core = core
        self._reducer = reducer
        self._alone = alone
        self._queue: OrderedDict[tuple[VolumeId, Ino], View] = OrderedDict()
        self._wanted = trio.Event()
        self._busy: Counter[VolumeId] = Counter()
        self._done = trio.Event()
        """Of whatever is compared next to its end."""

    def add(self, view: View, ino: Ino, other: Inode) -> None:
        """The file took the name of another one."""
        if not stat.S_ISREG(other.mode) or other.size < CHUNK_BYTES_MIN:
            return
        self._queue[view.volume_id, ino] = view
        if len(self._queue) > FILES_MAX:
            self._queue.popitem(last=False)
        self._wanted.set()

    async def run(self) -> None:
        """Compare what comes, in the background."""
        while True:
            await self._wanted.wait()
            self._wanted = trio.Event()
            while self._queue:
                await self._next(*next(iter(self._queue)))

    async def settle(self, view: View) -> None:
        """Compare what waits of a volume now, as long as that does not take too long."""
        with trio.move_on_after(SETTLE_SECONDS):
            while waiting := [key for key in self._queue if key[0] == view.volume_id]:
                await self._next(*waiting[0])
            while self._busy[view.volume_id]:
                await self._done.wait()

    async def _next(self, volume: VolumeId, ino: Ino) -> None:
        view = self._queue.pop((volume, ino))
        self._busy[volume] += 1
        try:
            with contextlib.suppress(SnapfsError):  # what cannot be compared stays as it is
                await self._compare(view, ino)
        finally:
            self._busy[volume] -= 1
            self._done.set()
            self._done = trio.Event()

    async def _compare(self, view: View, ino: Ino) -> None:
        core, memory, at = self._core, Memory(), 0
        while view.epoch in core.epochs:
            inode = core.inode(view, ino)
            parent = parent_view(core, view)
            older = previous(core, view, parent, ino) if parent else None
            if parent is None or older is None or older.ino == ino or at >= min(inode.size, older.size):
                return
            relative = Relative(parent, older, 0, replaced=False)
            with core.blocks.pinned():
                window = list(self._fresh(view, inode, relative, at, at + WINDOW_BYTES))
                while window:
                    batch, window = window[: memory.batch], window[memory.batch :]
                    batch = [fresh for fresh in batch if memory.due()]
                    if batch:
                        async with self._alone():
                            await self._reduce(view, inode, batch, memory)
            at += WINDOW_BYTES
            await trio.lowlevel.checkpoint()

    def _fresh(self, view: View, inode: Inode, older: Relative, start: int, end: int) -> Iterator[_Fresh]:
        core, relatives = self._core, Relatives(self._core, view, inode)
        for extent, epoch in core.extents(view, inode, start, end):
            if epoch != view.epoch or extent.offset < start or extent.length < CHUNK_BYTES_MIN:
                continue
            file, entry = core.blocks.locate(extent.block)
            if entry.refs == 1 and entry.raw_bytes == extent.length:
                olds = relatives.olds(older, extent.offset, extent.end)
                if olds:
                    yield _Fresh(extent, epoch, entry, partial(core.blocks.fetch, extent.block, file, entry), olds)

    async def _reduce(self, view: View, inode: Inode, batch: list[_Fresh], memory: Memory) -> None:
        core, reducer = self._core, self._reducer
        with core.blocks.placing():
            outcomes = await trio.to_thread.run_sync(_outcomes, batch)
            wanted: dict[bytes, Fresh] = {}
            for outcome in outcomes:
                memory.tell(outcome.best >= 0)
                for chunk in outcome.chunks if outcome.best >= 0 else ():
                    if not chunk.block and not core.blocks.known(chunk.hash):
                        wanted[chunk.hash] = Fresh(chunk.hash, chunk.data, *reducer.manner(view, inode.ino))
            placed = await trio.to_thread.run_sync(reducer.pack, list(wanted.values()))
            by_hash: dict[bytes, Placed] = {place.hash: place for place in placed}
            for found, chunks in _together(batch, outcomes):
                if found[0][1] == view.epoch:
                    exchange(core, reducer, view, inode.ino, inode.fork, found, chunks, by_hash)


def _together(batch: list[_Fresh], outcomes: list[Outcome]) -> list[tuple[Found, list[Chunk]]]:
    """What is to be exchanged for what.  Extents that touch are one: a chunk may be of both."""
    found: list[tuple[Found, list[Chunk]]] = []
    for fresh, outcome in zip(batch, outcomes, strict=True):
        if outcome.best < 0:
            continue
        if not found or found[-1][0][-1][0].end != fresh.extent.offset:
            found.append(([], []))
        found[-1][0].append((fresh.extent, fresh.epoch))
        found[-1][1].extend(outcome.chunks)
    return found


def _outcomes(batch: list[_Fresh]) -> list[Outcome]:
    """Worker thread."""
    return compare(
        Candidate(Chunk(fresh.extent.offset, fresh.load() or b"", fresh.entry.hash), [fresh.olds]) for fresh in batch
    )
