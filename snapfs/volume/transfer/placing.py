"""Chunks that an import has read, on their way into segments.

Invariants:
  * Threads compress, several at once; one at a time appends, between two flushes.
  * What several parts of an import have is appended once, or rarely twice when they come at the same moment: nobody
    waits for anybody else's chunks, so nobody can wait for ever.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Final

import trio

from snapfs.store.blocks import Blocks, Bytes, Packed, Placed
from snapfs.versions.epochs import View
from snapfs.volume.core import Core
from snapfs.volume.reduction.compression import level_of
from snapfs.volume.reduction.cutting import Chunk
from snapfs.volume.writeback import Writeback

IN_FLIGHT_MAX: Final = 6
"""Parts of files in memory."""


class Placing:
    """Of one import into one head."""

    def __init__(self, core: Core, writeback: Writeback, head: View, threads: trio.CapacityLimiter) -> None:
        self._core = core
        self._writeback = writeback
        self._head = head
        self._threads = threads
        self._coming: set[bytes] = set()
        """Hashes of what is on its way."""
        self._coming_bytes = 0
        """Of what was not appended yet: it needs room on the disk."""

    @asynccontextmanager
    async def of(self, chunks: Iterable[Chunk]) -> AsyncIterator[dict[bytes, Placed]]:
        """Inside, what is new of the chunks is in a segment, by its hash, or will soon have been stored by somebody
        else who has the same."""
        blocks, coming = self._core.blocks, self._coming
        fresh: dict[bytes, Chunk] = {}
        for chunk in chunks:
            name = chunk.hash
            if name not in fresh and name not in coming and not blocks.known(name):
                fresh[name] = chunk
        placed: dict[bytes, Placed] = {}
        coming.update(fresh)
        try:
            with blocks.placing():
                if fresh:
                    await self._place(list(fresh.values()), placed)
                yield placed
        finally:
            coming.difference_update(fresh)

    async def place(self, chunks: Iterable[Chunk], placed: dict[bytes, Placed]) -> None:
        """Append those of the chunks that are neither stored nor placed, after all.

        Raises:
            NoSpace, IOFailure.
        """
        known = self._core.blocks.known
        await self._place([c for c in chunks if c.hash not in placed and not known(c.hash)], placed)

    async def _place(self, chunks: list[Chunk], placed: dict[bytes, Placed]) -> None:
        blocks = self._core.blocks
        fresh = {chunk.hash: chunk.data for chunk in chunks}
        size = sum(map(len, fresh.values()))
        self._coming_bytes += size
        try:
            self._core.admit(self._coming_bytes)
            level = level_of(self._core.usages.of(self._head).compression)
            packed = await trio.to_thread.run_sync(_compress, blocks, list(fresh.items()), level, limiter=self._threads)
            async with self._writeback.appending():
                for place in await trio.to_thread.run_sync(blocks.append, packed, limiter=self._threads):
                    placed[place.hash] = place
        finally:
            self._coming_bytes -= size
            self._core.forget_free_space()


def _compress(blocks: Blocks, chunks: list[tuple[bytes, Bytes]], level: int) -> list[Packed]:
    return blocks.compress(chunks, compression=level)
