"""Copies what is left of segments that hold mostly dead bytes, so that their files can be dropped.

Pages that the dead share with the living cannot be punched, and some hosts cannot punch at all.

Invariants:
  * A record is verified before it is appended elsewhere; the index names the copy only once it is there, and its
    commit comes after the sync of the copy, as for all blocks.  Each record moves by itself, so a crash at any moment
    leaves some moved and some not; the segment is then found again by its row in ``emptied``.
  * The old place is read by whoever knows it until no reader and no pin does; only then is it punched or dropped.
  * What is copied beyond the limit that the owner set is paid for by what was deleted: CREDIT bytes for each.
  * It takes no space that files may need, and gives way to whoever waits for space.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import trio

from snapfs.errors import Corrupt, IOFailure, NoSpace
from snapfs.format import segments as fmt
from snapfs.format.records import Block
from snapfs.store import places
from snapfs.store.blocks import Packed, unpack
from snapfs.types import PAGE_BYTES, BlockId, SegmentId
from snapfs.volume.core import Core
from snapfs.volume.limits import DEFAULT_PACE, Pace
from snapfs.volume.turns import Turns
from snapfs.volume.writeback import Writeback

BATCH_BYTES_MAX: Final = 1024 * 1024
"""Copied at a time: who waits for the segments, or for memory, waits for no more."""

READ_BYTES_MAX: Final = 256 * 1024
"""Neighbours are read at once, up to this much and a record."""

ROOM_BYTES: Final = 16 * 1024 * 1024
"""Space that must be free, beyond what is spoken for: copying can wait, files cannot."""

FEW_PERCENT: Final = 2
"""Less waste than this is never worth copying a segment."""

CREDIT: Final = 10
"""Bytes that may be copied for each byte that was deleted, where there is less waste than the owner's limit."""

WASTE_BYTES_MIN: Final = 256 * 1024
_BUSY_REST_SECONDS: Final = 0.25
"""After each copy, while requests come: some 4 MiB a second."""

Wanted = list[tuple[BlockId, Block]]


class Waste(msgspec.Struct, frozen=True):
    """Of one segment."""

    segment: SegmentId
    occupied_bytes: int
    """On the host."""
    live_bytes: int

    @property
    def bytes(self) -> int:
        return max(self.occupied_bytes - self.live_bytes - fmt.SEGMENT_HEADER_BYTES, 0)

    @property
    def percent(self) -> float:
        return 100 * self.bytes / max(self.occupied_bytes, 1)


class Compaction:
    """
    Args:
        asked: whether somebody waits for the lock that the caller holds.
        given_bytes: records that were given back since the store was opened.
    """

    def __init__(
        self, core: Core, writeback: Writeback, commit: Callable[[], Awaitable[None]], turns: Turns,
        asked: Callable[[], bool], given_bytes: Callable[[], int], segment_bytes_max: int,
    ) -> None:  # fmt: skip
        self._core = core
        self._writeback = writeback
        self._commit = commit
        self._turns = turns
        self._asked = asked
        self._given_bytes = given_bytes
        self._waste_bytes_min = min(WASTE_BYTES_MIN, segment_bytes_max // 16)
        self._pace = DEFAULT_PACE
        self._swept: set[SegmentId] = set()
        self._refused: set[SegmentId] = set()
        """Something in them is damaged: left alone as long as the store is open."""
        self.copied_bytes = 0
        """Since the store was opened."""

    def follow(self, pace: Pace) -> None:
        self._pace = pace

    # -- which

    async def next(self, *, thorough: bool = False) -> SegmentId:
        """The segment that wastes most, if it is worth being copied; 0: none is.

        Args:
            thorough: whatever it costs, and also if the owner wants none in the background.
        """
        if not self._pace.compact_percent and not thorough:
            return SegmentId(0)
        wastes = await self._wastes()
        self._swept &= {waste.segment for waste in wastes}
        begun = self._core.blocks.emptied.numbers
        for waste in sorted(wastes, key=lambda waste: (waste.segment not in begun, -waste.percent)):
            if waste.segment in self._refused or not waste.live_bytes:
                continue
            if waste.segment in begun:
                return waste.segment
            if not self._worth(waste, thorough):
                continue
            if waste.segment not in self._swept:
                self._swept.add(waste.segment)
                await self.sweep(waste.segment)
                waste = (await self._wastes([waste.segment]))[0]
                if not self._worth(waste, thorough):
                    continue
            return waste.segment
        return SegmentId(0)

    def _worth(self, waste: Waste, thorough: bool) -> bool:
        if waste.bytes < self._waste_bytes_min or waste.percent < FEW_PERCENT:
            return False
        credit = CREDIT * self._given_bytes() - self.copied_bytes
        return thorough or waste.percent > self._pace.compact_percent or waste.live_bytes <= credit

    async def _wastes(self, segments: list[SegmentId] | None = None) -> list[Waste]:
        blocks = self._core.blocks
        ends = {segment: blocks.end_of(segment) for segment in segments or blocks.known_segments()}

        def look() -> list[Waste]:
            found = []
            for segment, (end, live) in ends.items():
                found.append(Waste(segment, blocks.segments.occupied_bytes(segment, end), live))
            return found

        found = await trio.to_thread.run_sync(look)
        self._turns.begin()
        return found

    # -- pages that hold nothing

    async def sweep(self, segment: SegmentId, *, wipe: bool = False) -> None:
        """Punch all pages of a segment that no record needs.  Those that go with their last record are punched then;
        what is left are those that a crash of the host's brought back, or that a block under way kept.

        Args:
            wipe: what is dead on other pages becomes zeros.
        """
        blocks = self._core.blocks
        limit = self._limit(segment)
        if limit is None or blocks.is_emptying(segment):
            return
        start, pages, edges = fmt.SEGMENT_HEADER_BYTES, list[places.Range](), list[places.Range]()
        while start < limit:
            for (first, last), following in places.gaps(self._core.index, segment, start, limit, blocks.stored_bytes):
                start = following
                inner = places.whole_pages(first, last)
                if inner[0] < inner[1]:
                    pages.append(inner)
                    edges += [(first, inner[0]), (inner[1], last)]
                else:
                    edges.append((first, last))
                if self._turns.due:
                    break
            await self._turns.rest_if_due()
        edges = [edge for edge in edges if edge[0] < edge[1]] if wipe else []
        await trio.to_thread.run_sync(blocks.segments.wipe, segment, edges)
        await trio.to_thread.run_sync(blocks.segments.give_back, segment, [], pages)
        self._turns.begin()
        self._core.forget_free_space()

    def _limit(self, segment: SegmentId) -> int | None:
        """Where what is known of the segment ends; None: nothing is, now."""
        frontier, end = self._core.blocks.frontier, self._core.blocks.end_of(segment)[0]
        if segment < frontier[0]:
            return -(-end // PAGE_BYTES) * PAGE_BYTES
        return min(end, frontier[1]) if segment == frontier[0] else None

    # -- copying

    async def copy(self, segment: SegmentId) -> bool:
        """Move a segment's records elsewhere; not all of them if somebody waits for the lock, or something is damaged.
        False: there is too little room.

        Raises:
            IOFailure: the disk refused.
        """
        if segment == self._core.blocks.segments.current:
            async with self._writeback.appending():
                if segment == self._core.blocks.segments.current:
                    self._core.blocks.segments.begin_next()
        start = 0
        while True:
            wanted, start = await self._gather(segment, start)
            if not wanted:
                break
            if not self._room():
                return False
            try:
                await self._copy_some(segment, wanted)
            except Corrupt as error:
                await self._refuse(segment, error)
                return True
            except NoSpace:
                return False
            if self._asked():
                return True
            if self._turns.busy:
                await trio.sleep(_BUSY_REST_SECONDS)
        await self._commit()
        self._turns.begin()
        return True

    def _room(self) -> bool:
        free_bytes = self._core.disk.free_bytes(self._core.path)[0]
        return free_bytes >= self._core.pending_bytes() + ROOM_BYTES

    async def _gather(self, segment: SegmentId, start: int) -> tuple[Wanted, int]:
        """Records from ``start`` on that make up a copy, and where to go on."""
        index, blocks = self._core.index, self._core.blocks
        wanted: Wanted = []
        size, found = 0, True
        while found and size < BATCH_BYTES_MAX:
            found = False
            for offset, block in places.in_segment(index, segment, start):
                found, start = True, offset + 1
                entry = blocks.entry(index, block)
                if entry.refs:  # others go by themselves
                    wanted.append((block, entry))
                    size += fmt.record_bytes(entry.stored_bytes)
                if size >= BATCH_BYTES_MAX or self._turns.due:
                    break
            await self._turns.rest_if_due()
        return wanted, start

    async def _copy_some(self, segment: SegmentId, wanted: Wanted) -> None:
        """Raises:
        Corrupt: a record is damaged, or cannot be read; nothing is changed.
        NoSpace: there is too little room for the copies; nothing is changed.
        """
        blocks = self._core.blocks
        with blocks.pinned():
            packed = await trio.to_thread.run_sync(self._read, segment, wanted)
        with blocks.placing():
            async with self._writeback.appending():
                placed = await trio.to_thread.run_sync(blocks.append, packed)
            self._turns.begin()
            self.copied_bytes += sum(fmt.record_bytes(place.stored_bytes) for place in placed)
            moved: list[places.Range] = []
            for (block, entry), place in zip(wanted, placed, strict=True):
                if blocks.move(block, entry, place):
                    moved.append((entry.offset, entry.offset + fmt.record_bytes(entry.stored_bytes)))
                await self._turns.rest_if_due()
        self._core.forget_free_space()
        if self._core.disk.free_bytes(self._core.path)[0] < self._core.pending_bytes() + 2 * blocks.end_of(segment)[1]:
            await self._vacate(segment, moved)

    async def _vacate(self, segment: SegmentId, moved: list[places.Range]) -> None:
        """Where there is little room: give back at once what was moved, if nobody reads it."""
        await self._commit()
        blocks = self._core.blocks
        if blocks.is_emptying(segment):
            return
        found = []
        for start, end in places.joined(moved):
            first, last = places.punchable(
                self._core.index, segment, start, end, (), blocks.frontier, blocks.stored_bytes
            )  # fmt: skip
            found += [(first, last)] if first < last else []
            await self._turns.rest_if_due()
        await trio.to_thread.run_sync(blocks.segments.give_back, segment, [], places.joined(found))
        self._core.forget_free_space()

    def _read(self, segment: SegmentId, wanted: Wanted) -> list[Packed]:
        """Worker thread.  Raises:
        Corrupt: a record is damaged, or cannot be read.
        """
        segments, disk = self._core.blocks.segments, self._core.disk
        packed: list[Packed] = []
        with segments.reading(segment) as fd:
            for span in _spans(wanted):
                first = span[0][1].offset
                size = span[-1][1].offset + fmt.record_bytes(span[-1][1].stored_bytes) - first
                try:
                    data = disk.pread("segment.compact_read", fd, size, first)
                except IOFailure as error:
                    raise Corrupt(error.message, hint="run: snap fsck") from error
                for block, entry in span:
                    at = entry.offset - first + fmt.BLOCK_HEADER_BYTES
                    stored = data[at : at + entry.stored_bytes]
                    unpack(block, entry, stored)
                    head = fmt.Head(entry.stored_bytes, entry.raw_bytes, entry.codec, entry.kind, entry.hash)
                    packed.append((head, stored))
        return packed

    async def _refuse(self, segment: SegmentId, error: Corrupt) -> None:
        """Something in it is damaged: what was moved has left it, what is there stays."""
        self._refused.add(segment)
        self._core.events.warn(f"segment {segment} cannot be copied to save space: {error.message}")
        await self._commit()
        blocks = self._core.blocks
        if segment in blocks.emptied.numbers and not blocks.is_emptying(segment):
            await self.sweep(segment, wipe=True)
            blocks.emptied.forget(segment)
            blocks.emptied.gone(segment)


def _spans(wanted: Wanted) -> list[Wanted]:
    """Records that are read at once."""
    found: list[Wanted] = []
    for one in wanted:
        if found and one[1].offset - found[-1][0][1].offset < READ_BYTES_MAX:
            found[-1].append(one)
        else:
            found.append([one])
    return found
