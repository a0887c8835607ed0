"""What of a file's new chunks is really new, and how the rest is stored.

Invariants:
  * All that is kept of a file between flushes (``Memory``) only says where to look and how often: it is bounded, and
    nothing but speed and space depends on it.
  * Chunks that an old block has part of are applied with that block only if it is still referenced then; else the bytes
    at hand are stored after all.
  * Comparing that finds nothing is tried ever more rarely: a file of wholly new content costs a read of an old block
    for every 64th of its chunks at most.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

import trio

from snapfs.errors import Corrupt, NotFound, SnapfsError
from snapfs.extents import HOLE, Extent, merged
from snapfs.format import records
from snapfs.store.blocks import Bytes, Placed, digest
from snapfs.types import BlockId, Epoch, Ino, VolumeId
from snapfs.versions.epochs import View
from snapfs.volume.core import Core
from snapfs.volume.reduction.comparing import Candidate, Outcome, compare
from snapfs.volume.reduction.compression import Trials, level_of
from snapfs.volume.reduction.cutting import Chunk
from snapfs.volume.reduction.relatives import Relative, Relatives

_MEMORIES_MAX: Final = 1024
_PASSED_MAX: Final = 63
_BATCH_FIRST: Final = 4
_BATCH_MAX: Final = 16
"""Chunks compared by one call in a thread: to find what to compare one with takes the trio thread about 0.1 ms."""
_THREADS_MAX: Final = 4
"""That compare at a time: what is compared with lies on the disk, mostly, and is waited for."""
_AHEAD_MAX: Final = 16
"""Chunks that are looked through for the next known one."""


class Memory:
    """Of one file that is being written."""

    __slots__ = ("batch", "epoch", "failures", "passed", "relative", "trials")

    def __init__(self) -> None:
        self.epoch = Epoch(0)
        self.relative: Relative | None = None
        """Where the bytes before were found."""
        self.trials = Trials()
        self.failures = 0
        self.passed = 0
        """Chunks still to be passed over without comparing."""
        self.batch = _BATCH_FIRST

    def due(self) -> bool:
        if self.passed:
            self.passed -= 1
            return False
        return True

    def tell(self, found: bool) -> None:
        """What came of comparing a chunk."""
        if found:
            self.failures, self.passed, self.batch = 0, 0, min(2 * self.batch, _BATCH_MAX)
        else:
            self.failures, self.batch = self.failures + 1, 1
            self.passed = min((1 << min(self.failures, 16)) - 1, _PASSED_MAX)


class Fresh(NamedTuple):
    """Bytes to be stored."""

    hash: bytes
    data: Bytes
    level: int
    trials: Trials


class _Tried(NamedTuple):
    at: int
    """Which of the chunks."""
    relatives: list[Relative]
    candidate: Candidate


class Written(NamedTuple):
    """Of a file that is flushed."""

    view: View
    ino: Ino
    runs: list[list[Chunk]]
    """The chunks of each; changed in place."""


class _Step(NamedTuple):
    """Chunks of one file that are compared together."""

    memory: Memory
    batch: list[_Tried]
    results: dict[int, list[Chunk]]
    """What the file's chunks become, by their number."""

    def take(self, outcomes: list[Outcome]) -> None:
        for tried, outcome in zip(self.batch, outcomes, strict=True):
            self.memory.tell(outcome.best >= 0)
            if outcome.best >= 0:
                self.results[tried.at] = outcome.chunks
                self.memory.relative = tried.relatives[outcome.best]


class Reducer:
    def __init__(self, core: Core) -> None:
        self._core = core
        self._memories: OrderedDict[tuple[VolumeId, Ino], Memory] = OrderedDict()

    def _memory(self, view: View, ino: Ino) -> Memory:
        key = (view.volume_id, ino)
        memory = self._memories.setdefault(key, Memory())
        self._memories.move_to_end(key)
        if len(self._memories) > _MEMORIES_MAX:
            self._memories.popitem(last=False)
        return memory

    # -- comparing

    async def reduce(self, files: Iterable[Written]) -> None:
        """Put, for chunks that older files have part of, chunks that name their blocks: the same bytes.  The files are
        compared beside each other, so that they wait together for the disk.

        The caller has pinned the blocks until the result is applied.
        """
        going = [self._steps_of(written) for written in files]
        while asked := [(steps, step) for steps in going if (step := next(steps, None))]:
            batches = [[tried.candidate for tried in step.batch] for _, step in asked]
            for (_, step), outcomes in zip(asked, await _compared(batches), strict=True):
                step.take(outcomes)
            going = [steps for steps, _ in asked]

    def _steps_of(self, written: Written) -> Iterator[_Step]:
        for chunks in written.runs:
            yield from self._steps(written.view, written.ino, chunks)

    def _steps(self, view: View, ino: Ino, chunks: list[Chunk]) -> Iterator[_Step]:
        """What is to be compared next, and then next; at the end the chunks are replaced in their list."""
        known = [self._core.blocks.known(chunk.hash) for chunk in chunks]
        try:
            inode = self._core.inode(view, ino)
        except NotFound:
            return
        memory = self._memory(view, ino)
        if memory.epoch != view.epoch:
            memory.epoch, memory.relative, memory.failures, memory.passed = view.epoch, None, 0, 0
        relatives = Relatives(self._core, view, inode)
        memory.relative = relatives.refreshed(memory.relative)
        results: dict[int, list[Chunk]] = {}
        batch: list[_Tried] = []
        for index in range(len(chunks)):
            if known[index]:
                continue
            if index and known[index - 1]:
                memory.relative = relatives.by_home(chunks[index - 1], known[index - 1]) or memory.relative
                memory.passed = 0
            tried = self._tried(relatives, memory, chunks, known, index)
            if tried is not None:
                batch.append(tried)
            if len(batch) >= memory.batch:
                yield _Step(memory, batch, results)
                batch = []
        if batch:
            yield _Step(memory, batch, results)
        if chunks and known[-1]:  # for what is flushed next
            memory.relative = relatives.by_home(chunks[-1], known[-1]) or memory.relative
        if results:
            chunks[:] = [piece for index, chunk in enumerate(chunks) for piece in results.get(index, [chunk])]

    def _tried(
        self, relatives: Relatives, memory: Memory, chunks: list[Chunk], known: list[BlockId], index: int
    ) -> _Tried | None:
        """What to compare a chunk with; None: nothing."""
        likely = [memory.relative] if memory.relative else []
        for after in range(index + 1, min(index + _AHEAD_MAX, len(chunks))):
            if known[after]:
                found = relatives.by_home(chunks[after], known[after])
                likely += [found] if found else []
                break
        likely += relatives.usual
        if not likely or not memory.due():
            return None
        unique = list({relative.name: relative for relative in reversed(likely)}.values())[::-1]
        olds = [(relative, relatives.olds(relative, chunks[index].offset, chunks[index].end)) for relative in unique]
        useful = [(relative, found) for relative, found in olds if found]
        if not useful:
            return None
        return _Tried(index, [r for r, _ in useful], Candidate(chunks[index], [found for _, found in useful]))

    # -- storing

    def manner(self, view: View, ino: Ino) -> tuple[int, Trials]:
        """How new chunks of a file are to be stored: level of zstd, and what came of trying it."""
        return level_of(self._core.usages.of(view).compression), self._memory(view, ino).trials

    def pack(self, wanted: Iterable[Fresh]) -> list[Placed]:
        """Compress and append.  Worker thread; one call at a time.

        Raises:
            NoSpace, IOFailure: the disk refused.
        """
        blocks = self._core.blocks
        packed = []
        for fresh in wanted:
            level = fresh.level if fresh.level and fresh.trials.due() else 0
            made = blocks.compress([(fresh.hash, fresh.data)], compression=level)
            if level:
                fresh.trials.tell(made[0][0].codec != records.CODEC_RAW)
            packed += made
        return blocks.append(packed)

    def extents(
        self, view: View, ino: Ino, chunks: list[Chunk], limit: int, placed: dict[bytes, Placed]
    ) -> list[Extent]:
        """Extents of chunks up to an offset, with their blocks' entries in the index.

        Raises:
            NoSpace, IOFailure: a block had to be stored, and could not.
        """
        try:
            if len(chunks) == 1 and chunks[0].end <= limit:
                offset, data = chunks[0].offset, chunks[0].data
                return [Extent(offset, len(data), *self._block(view, ino, chunks[0], placed))]
            return merged(
                Extent(chunk.offset, min(len(chunk.data), limit - chunk.offset), *self._block(view, ino, chunk, placed))
                for chunk in chunks
                if chunk.offset < limit
            )
        except SnapfsError:
            self._core.blocks.disown()
            raise

    def _block(self, view: View, ino: Ino, chunk: Chunk, placed: dict[bytes, Placed]) -> tuple[BlockId, int]:
        """(block, offset in it).  Blocks are looked up again here: one that was known, or old, may have lost its last
        reference meanwhile."""
        blocks = self._core.blocks
        if chunk.block != HOLE and self._alive(chunk.block):
            return chunk.block, chunk.block_offset
        name = chunk.hash or digest(chunk.data)
        place = placed.pop(name, None)
        if place is not None:
            return blocks.add(place), 0
        block = blocks.known(name)
        if not block:  # rare: store it after all
            block = blocks.add(self.pack([Fresh(name, chunk.data, *self.manner(view, ino))])[0])
        return block, 0

    def _alive(self, block: BlockId) -> bool:
        try:
            entry = self._core.blocks.entry(self._core.index, block)
        except Corrupt:
            return False
        return entry.refs > 0 and not entry.lost


async def _compared(batches: list[list[Candidate]]) -> list[list[Outcome]]:
    """The outcomes of each batch."""
    found: list[list[Outcome]] = [[] for _ in batches]

    def some(first: int) -> None:
        for number in range(first, len(batches), _THREADS_MAX):
            found[number] = compare(batches[number])

    async with trio.open_nursery() as nursery:
        for first in range(min(len(batches), _THREADS_MAX)):
            nursery.start_soon(trio.to_thread.run_sync, some, first)
    return found
