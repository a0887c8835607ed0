"""Gives the space of blocks without references back to the host.

Invariants:
  * Only of blocks whose last reference went with a transaction that is durable, and which no reader and no pin knows.
  * First their pages are punched (the headers of a seal's records zeroed), in a worker thread; then they are
    forgotten.  So a crash in between repeats some of it, and leaves nothing behind.
  * Work on the trio thread is in turns.  One at a time (the caller's lock).
"""

from __future__ import annotations

import logging
from typing import Final

import trio

from snapfs.format import segments as fmt
from snapfs.format.records import Block
from snapfs.store import places
from snapfs.types import BlockId, SegmentId
from snapfs.volume.core import Core
from snapfs.volume.turns import Turns

BATCH: Final = 128
"""Blocks whose pages are punched at a time: neighbours that go together cost one call."""

_LOOK: Final = 8
"""Blocks handled between two looks at the clock."""

log = logging.getLogger(__name__)

Going = tuple[bytes, BlockId, Block]
"""(key in ``freed``, block, its entry)"""


class GiveBack:
    def __init__(self, core: Core, turns: Turns) -> None:
        self._core = core
        self._turns = turns
        self._told = False
        self.given_bytes = 0
        """Since the store was opened."""

    async def run(self) -> bool:
        """Give back all that can be given back now; whether there was anything.

        Raises:
            IOFailure: the disk refused; the rest is left to the next time.
        """
        blocks = self._core.blocks
        found, after = False, b""
        self._turns.begin()
        while freed := blocks.reclaimable(BATCH, after):
            after = freed[-1][0]
            going: list[Going] = []
            for key, block in freed:
                entry = blocks.doomed(block)
                if entry is not None:
                    going.append((key, block, entry))
                if len(going) % _LOOK == 0:
                    await self._turns.rest_if_due()
            await self._punch(going)
            for number, (key, block, entry) in enumerate(going):
                blocks.forget(key, block, entry)
                self.given_bytes += fmt.record_bytes(entry.stored_bytes)
                if number % _LOOK == 0:
                    await self._turns.rest_if_due()
            self._core.forget_free_space()
            found = found or bool(going)
        return found

    async def _punch(self, going: list[Going]) -> None:
        blocks = self._core.blocks
        records: dict[SegmentId, list[places.Range]] = {}
        erased: dict[SegmentId, list[int]] = {}
        for _, block, entry in going:
            if entry.lost:
                continue
            end = entry.offset + fmt.record_bytes(entry.stored_bytes)
            records.setdefault(entry.segment, []).append((entry.offset, end))
            if entry.kind != fmt.DATA:  # small records are not punched, and a rebuild must not find what is gone
                erased.setdefault(entry.segment, []).append(entry.offset)
                for segment, offset in blocks.emptied.copies(block):
                    erased.setdefault(segment, []).append(offset)
        ranges = {segment: await self._pages(segment, of_segment) for segment, of_segment in records.items()}
        work = [
            (segment, erased.get(segment, []), ranges.get(segment, [])) for segment in {**ranges, **erased}
        ]  # fmt: skip

        def act() -> None:
            for segment, offsets, pages in work:
                if offsets or (pages and blocks.segments.can_punch):
                    blocks.segments.give_back(segment, offsets, pages)

        if work:
            await trio.to_thread.run_sync(act)
            self._turns.begin()
        if not blocks.segments.can_punch and not self._told:
            self._told = True
            log.warning("the host file system cannot punch holes: space comes back only by copying what is left")

    async def _pages(self, segment: SegmentId, records: list[places.Range]) -> list[places.Range]:
        """Whole pages that can be punched when these records go."""
        blocks, found = self._core.blocks, []
        gone = {start for start, _ in records}
        for start, end in places.joined(records):
            # What was moved out of the segment has no row there any more, but may be read there: pages are not shared.
            if blocks.is_emptying(segment):
                first, last = places.whole_pages(start, end)
            else:
                first, last = places.punchable(
                    self._core.index, segment, start, end, gone, blocks.frontier, blocks.stored_bytes
                )  # fmt: skip
            if first < last:
                found.append((first, last))
            await self._turns.rest_if_due()
        return places.joined(found)
