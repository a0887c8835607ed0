"""Comparison of new bytes with those of older files: equal pages keep their old blocks.  Pure but for fetching.

Invariants:
  * What is said to be in an old block was compared byte by byte with that block's verified bytes.
  * Touches no index: runs in a worker thread, with at most a few blocks in memory at a time.
  * A block that only the head shows is not kept for the sake of less than half of it: where the rest of it is written
    over, that would keep more alive than it saves.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from snapfs.errors import SnapfsError
from snapfs.store.blocks import Bytes, digest
from snapfs.types import BLOCK_BYTES_MAX, PAGE_BYTES, BlockId
from snapfs.volume.reduction.cutting import Chunk

_BLOCKS_MAX: Final = 16
"""Old blocks in memory at a time (at most 4 MiB): neighbouring chunks ask for the same ones."""

_NEEDLE_BYTES: Final = 32
_SEARCHED_BYTES_MIN: Final = 3 * PAGE_BYTES
_SEARCHES_MAX: Final = 4
"""For each chunk."""

Load = Callable[[], Bytes | None]
"""Gives a block's raw bytes."""


class Old(NamedTuple):
    """Bytes of an older file, where they would be in the new one."""

    start: int
    end: int
    block: BlockId
    block_offset: int
    raw_bytes: int
    """Of the whole block."""
    own: bool
    """Only the head shows them, and the new bytes take their place."""
    load: Load


class Match(NamedTuple):
    start: int
    end: int
    old: Old


class Candidate(NamedTuple):
    """A chunk and what may be equal to parts of it: sequences of old bytes, each by offset, the likeliest first."""

    chunk: Chunk
    olds: list[list[Old]]


class Outcome(NamedTuple):
    chunks: list[Chunk]
    """In place of the chunk; the chunk itself if too little of it was found."""
    best: int
    """Which of the sequences gave most; -1: none was worth it."""


class _Cache:
    def __init__(self) -> None:
        self._blocks: OrderedDict[BlockId, Bytes] = OrderedDict()

    def get(self, old: Old) -> Bytes:
        """The block's bytes; none where they cannot be read, which whoever reads the old file will be told."""
        data = self._blocks.get(old.block)
        if data is None:
            try:
                data = old.load() or b""
            except SnapfsError:
                data = b""
            self._blocks[old.block] = data
            if len(self._blocks) > _BLOCKS_MAX:
                self._blocks.popitem(last=False)
        return data


def compare(candidates: Iterable[Candidate]) -> list[Outcome]:
    """Worker thread: reads the old blocks."""
    cache = _Cache()
    outcomes = [_compare(candidate, cache) for candidate in candidates]
    _join(outcomes)
    for outcome in outcomes:
        for chunk in outcome.chunks:
            if not chunk.block and not chunk.hash:
                chunk.hash = digest(chunk.data)
    return outcomes


def _compare(candidate: Candidate, cache: _Cache) -> Outcome:
    chunk = candidate.chunk
    data = memoryview(chunk.data)
    todo = [(chunk.offset, chunk.end)]
    matches: list[Match] = []
    gains: list[int] = []
    for olds in candidate.olds:
        before = len(matches)
        todo = _match(data, chunk.offset, todo, olds, cache, matches)
        gains.append(sum(match.end - match.start for match in matches[before:]))
        if not todo:
            break
    if matches:
        _search(data, chunk.offset, todo, candidate, cache, matches)
    matches = _worthwhile(matches)
    if not matches or 2 * sum(match.end - match.start for match in matches) < len(data):
        return Outcome([chunk], -1)
    return Outcome(_pieces(chunk, data, sorted(matches, key=_start)), gains.index(max(gains)))


def _match(
    data: memoryview, base: int, todo: list[tuple[int, int]], olds: list[Old], cache: _Cache, matches: list[Match]
) -> list[tuple[int, int]]:
    """Look for the parts in question among the old bytes; what is found goes to ``matches``, the rest is returned."""
    left: list[tuple[int, int]] = []
    for first, last in todo:
        at = first  # up to here it is settled
        for old in olds:
            start, end = max(first, old.start), min(last, old.end)
            if start >= end:
                continue
            block = cache.get(old)
            shift = old.block_offset - old.start
            if len(block) < end + shift:
                continue
            for equal_start, equal_end in _equal(data, base, block, shift, start, end):
                if at < equal_start:
                    left.append((at, equal_start))
                matches.append(Match(equal_start, equal_end, old))
                at = equal_end
        if at < last:
            left.append((at, last))
    return left


def _search(
    data: memoryview, base: int, todo: list[tuple[int, int]], candidate: Candidate, cache: _Cache, matches: list[Match]
) -> None:
    """Look for what is left anywhere in the old blocks nearby: between two insertions the distance is one that no known
    chunk tells.  What is found goes to ``matches``."""
    blocks = {old.block: old for olds in candidate.olds for old in olds}
    for _ in range(_SEARCHES_MAX):
        todo = [(start, end) for start, end in todo if end - start >= _SEARCHED_BYTES_MIN]
        if not todo:
            return
        start, end = todo.pop(0)
        middle = (start + end) // 2
        needle = data[middle - base : middle - base + _NEEDLE_BYTES].tobytes()
        for old in blocks.values():
            block = cache.get(old)
            at = bytes(block).find(needle)
            if at >= 0:
                first = middle - at
                whole = old._replace(start=first, end=first + len(block), block_offset=0)
                todo += _match(data, base, [(start, end)], [whole], cache, matches)
                break


def _equal(data: memoryview, base: int, block: Bytes, shift: int, start: int, end: int) -> list[tuple[int, int]]:
    """(start, end) of where the new file's pages equal the block; ``shift``: from the file's offset to the block's."""
    if data[start - base : end - base].tobytes() == block[start + shift : end + shift]:
        return [(start, end)]
    found: list[tuple[int, int]] = []
    at = start
    while at < end:
        stop = min(end, (at // PAGE_BYTES + 1) * PAGE_BYTES)
        if data[at - base : stop - base].tobytes() == block[at + shift : stop + shift]:
            if found and found[-1][1] == at:
                found[-1] = (found[-1][0], stop)
            else:
                found.append((at, stop))
        at = stop
    return found


def _worthwhile(matches: list[Match]) -> list[Match]:
    """Without those in blocks that only the head shows and that hardly anything of is used."""
    used: Counter[BlockId] = Counter()
    for match in matches:
        if match.old.own:
            used[match.old.block] += match.end - match.start
    if not used:
        return matches
    return [match for match in matches if not match.old.own or 2 * used[match.old.block] >= match.old.raw_bytes]


def _pieces(chunk: Chunk, data: memoryview, matches: list[Match]) -> list[Chunk]:
    """The chunk as what was found and the runs between."""
    pieces: list[Chunk] = []
    at = chunk.offset
    for start, end, old in matches:
        if at < start:
            pieces.append(Chunk(at, data[at - chunk.offset : start - chunk.offset], b""))
        part = data[start - chunk.offset : end - chunk.offset]
        pieces.append(Chunk(start, part, b"", old.block, old.block_offset + start - old.start))
        at = end
    if at < chunk.end:
        pieces.append(Chunk(at, data[at - chunk.offset :], b""))
    return pieces


def _join(outcomes: list[Outcome]) -> None:
    """New bytes on both sides of where two chunks touch become one."""
    last: list[Chunk] = []
    for outcome in outcomes:
        chunks = outcome.chunks
        if last and _fresh(last[-1]) and _fresh(chunks[0]) and last[-1].end == chunks[0].offset:
            size = len(last[-1].data) + len(chunks[0].data)
            if size <= BLOCK_BYTES_MAX:
                before = last.pop()
                chunks[0] = Chunk(before.offset, bytes(before.data) + bytes(chunks[0].data), b"")
        if chunks:
            last = chunks


def _fresh(chunk: Chunk) -> bool:
    """Whether it was cut out of a chunk just now: whole chunks have their hashes."""
    return not chunk.block and not chunk.hash


def _start(match: Match) -> int:
    return match.start
