"""How a flush goes on: what was written is cut, reduced and stored, some megabytes at a time.

Invariants:
  * Records are appended one call after the other, in the order of the chunks.
  * What fails, fails the flush as a whole: nobody is told of a place unless all chunks have one.
  * At most ``PART_BYTES`` are being cut, as many wait, and as many are being compressed and appended: memory holds no
    second copy of what was written but for that.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Final, NamedTuple, TypeVar

import msgspec
import trio

from snapfs.errors import SnapfsError
from snapfs.store.blocks import Placed
from snapfs.volume.reduction.cutting import Chunk, chunks_of
from snapfs.volume.reduction.reducer import Fresh, Reducer

PART_BYTES: Final = 4 * 1024 * 1024
"""That is cut at once, while what was cut before is stored."""

INLINE_BYTES: Final = 64 * 1024
"""Work on fewer bytes costs less than handing it to a thread (about 60 us)."""

T = TypeVar("T")

Pack = Callable[[list[Fresh]], Awaitable[None]]


class Cut(msgspec.Struct, gc=False):
    """A run that is to be stored: [start, end) of the file.  What no chunk has of it is zeros."""

    start: int
    end: int
    chunks: list[Chunk]


class Part(NamedTuple):
    """Chunks that are done together, next to each other in a run."""

    file: int
    """Which of the flush."""
    run: Cut
    chunks: list[Chunk]


class Cutting:
    """Cuts the runs of files, some chunks at a time."""

    def __init__(self, files: list[list[tuple[int, list[bytes | bytearray]]]], final: bool) -> None:
        self.done: list[tuple[list[Cut], list[Chunk]]] = [([], []) for _ in files]
        """(runs to store, unfinished chunks to keep) of each file, once all is cut."""
        self._parts = self._cut(files, final)

    def next(self) -> list[Part]:
        """What is cut next; nothing at the end.  Worker thread."""
        return next(self._parts, [])

    def _cut(self, files: list[list[tuple[int, list[bytes | bytearray]]]], final: bool) -> Iterator[list[Part]]:
        parts: list[Part] = []
        size = 0
        for number, runs in enumerate(files):
            cuts, rests = self.done[number]
            for offset, pieces in runs:
                run = Cut(offset, offset + sum(map(len, pieces)), [])
                cuts.append(run)
                part = Part(number, run, [])
                for chunk in chunks_of(offset, pieces, final=final):
                    if not chunk.hash:
                        rests.append(chunk)
                        run.end = chunk.offset
                        break
                    part.chunks.append(chunk)
                    size += len(chunk.data)
                    if size >= PART_BYTES:
                        yield [*parts, part]
                        parts, part, size = [], Part(number, run, []), 0
                if part.chunks:
                    parts.append(part)
        if parts:
            yield parts


@asynccontextmanager
async def packing(reducer: Reducer, size: int, placed: dict[bytes, Placed]) -> AsyncIterator[Pack]:
    """Gives who stores chunks, in order; ``placed`` gets their places, all of them at the end.  Of much, some are
    stored while the next are cut.

    Raises:
        NoSpace, IOFailure: not all could be stored.
    """

    async def pack(wanted: list[Fresh]) -> None:
        if wanted:
            found = await work(sum(len(new.data) for new in wanted), reducer.pack, wanted)
            placed.update((place.hash, place) for place in found)

    if size <= PART_BYTES:
        yield pack
        return
    failures: list[SnapfsError] = []
    send, receive = trio.open_memory_channel[list[Fresh]](1)

    async def follow() -> None:
        async with receive:
            try:
                async for wanted in receive:
                    await pack(wanted)
            except SnapfsError as error:
                failures.append(error)

    async def later(wanted: list[Fresh]) -> None:
        if failures:
            raise failures[0]
        with contextlib.suppress(trio.BrokenResourceError):
            await send.send(wanted)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow)
        async with send:
            try:
                yield later
            except SnapfsError as error:
                failures.append(error)
    if failures:
        raise failures[0]


async def work(size: int, function: Callable[..., T], *args: object) -> T:
    """Run work on that many bytes: here if it is small, else in a thread."""
    if size <= INLINE_BYTES:
        return function(*args)
    return await trio.to_thread.run_sync(function, *args)
