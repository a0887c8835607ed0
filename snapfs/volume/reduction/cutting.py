"""A run of written bytes becomes chunks: zero runs are left out, the rest is cut by its content.

Invariants:
  * Chunks lie in the run, in order, and do not overlap; what they leave out of the run is zeros.
  * Where a chunk ends depends on what is before it up to the run's start or the last zero run, and on nothing after
    it: so an insertion shifts no chunk but its own.
  * Touches no index and keeps nothing between calls: any number of threads may cut.

Long runs are cut by FastCDC (Xia et al., 2016 and 2020).
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Final

import msgspec
import pyfastcdc

from snapfs.extents import HOLE
from snapfs.store.blocks import Bytes, digest
from snapfs.types import BLOCK_BYTES_MAX, PAGE_BYTES, BlockId

CHUNK_BYTES_MIN: Final = 16 * 1024
CHUNK_BYTES_AVERAGE: Final = 64 * 1024

STREAM_BYTES: Final = 1024 * 1024
"""A run this long is taken for a stream that goes on: its last chunk waits for what follows."""

ZEROS_BYTES_MIN: Final = 16 * 1024
"""Zeros inside a run become a hole from here on: a hole costs an extent more."""

_ZERO_PAGE: Final = bytes(PAGE_BYTES)
_ZERO_HEADS: Final = bytes(ZEROS_BYTES_MIN // PAGE_BYTES)


class Chunk(msgspec.Struct, gc=False):
    """Bytes of a file that become one extent."""

    offset: int
    data: Bytes
    hash: bytes
    """BLAKE3; empty when it is not known yet, of a chunk that has an old block."""
    block: BlockId = HOLE
    """An old block in which the bytes were found; HOLE: none."""
    block_offset: int = 0

    @property
    def end(self) -> int:
        return self.offset + len(self.data)


class _Chunkers(threading.local):
    def __init__(self) -> None:
        self.fastcdc = pyfastcdc.FastCDC(CHUNK_BYTES_AVERAGE, min_size=CHUNK_BYTES_MIN, max_size=BLOCK_BYTES_MAX)


_chunkers = _Chunkers()


def cut(offset: int, data: Bytes, *, final: bool) -> tuple[list[Chunk], Chunk | None]:
    """Cut a run that begins at a file's offset.

    Args:
        final: false: more may follow the run.

    Returns:
        The chunks, with their hashes, and what of a stream's end waits for what follows, without one.
    """
    chunks = list(chunks_of(offset, [data], final=final))
    rest = chunks.pop() if chunks and not chunks[-1].hash else None
    return chunks, rest


def chunks_of(offset: int, pieces: Sequence[Bytes], *, final: bool) -> Iterator[Chunk]:
    """Cut a run as ``cut`` does, chunk by chunk; what waits comes last, without a hash.

    Args:
        pieces: of the run, in order; each but the first begins where a page of the file does.
    """
    if len(pieces) == 1 and 0 < len(pieces[0]) < ZEROS_BYTES_MIN:  # one chunk, or a hole: mostly a page
        (data,) = pieces
        if offset % PAGE_BYTES or bytes(data) != bytes(len(data)):
            yield Chunk(offset, memoryview(data), digest(data))
        return
    run = _Run(offset, pieces)
    for start, end in _between(run.size, run.zeros()):
        waits = not final and end == run.size >= STREAM_BYTES
        for at, data in _cut(run, start, end):
            last = waits and at + len(data) == end
            yield Chunk(offset + at, data, b"" if last else digest(data))


def _cut(run: _Run, start: int, end: int) -> Iterator[tuple[int, memoryview]]:
    """(where in the run, bytes) of the chunks of [start, end): the same, whatever pieces the run is in."""
    at = start
    while at < end:
        part = run.rest_of_piece(at, end)
        known = at + len(part) == end  # what follows the piece could end its last chunk elsewhere
        if len(part) > CHUNK_BYTES_MIN:
            cuts = [(at + found.offset, found.length) for found in _chunkers.fastcdc.cut_buf(part)]
        else:
            cuts = [(at, len(part))]
        for first, length in cuts if known else cuts[:-1]:
            yield first, part[first - at : first - at + length]
        if known:
            return
        at = cuts[-1][0]
        seam = run.slice(at, min(at + BLOCK_BYTES_MAX, end))
        length = next(iter(_chunkers.fastcdc.cut_buf(seam))).length if len(seam) > CHUNK_BYTES_MIN else len(seam)
        yield at, seam[:length]
        at += length


class _Run:
    """Pieces as one sequence of bytes, without making one of them."""

    def __init__(self, offset: int, pieces: Sequence[Bytes]) -> None:
        self._offset = offset
        self._pieces = [memoryview(piece) for piece in pieces]
        self._starts = [0, *accumulate(map(len, pieces))]
        self.size = self._starts.pop()

    def rest_of_piece(self, start: int, end: int) -> memoryview:
        """What the piece that has ``start`` has of [start, end)."""
        number = bisect_right(self._starts, start) - 1
        first = self._starts[number]
        return self._pieces[number][start - first : end - first]

    def slice(self, start: int, end: int) -> memoryview:
        part = self.rest_of_piece(start, end)
        if len(part) == end - start:
            return part
        parts = [part]
        while (start := start + len(part)) < end:
            part = self.rest_of_piece(start, end)
            parts.append(part)
        return memoryview(b"".join(parts))

    def zeros(self) -> list[tuple[int, int]]:
        """As ``zero_runs``."""
        first = -self._offset % PAGE_BYTES
        size = self.size
        if size <= first:
            return []
        # The first byte of each page: a piece that is not the first begins with a page.
        heads = b"".join([bytes(p[0 if n else first :: PAGE_BYTES]) for n, p in enumerate(self._pieces)])
        needle = _ZERO_HEADS if size >= ZEROS_BYTES_MIN else b"\0"
        found: list[tuple[int, int]] = []
        at = heads.find(needle)
        while at >= 0:
            start = end = first + at * PAGE_BYTES
            while end < size and self._is_zero(end):
                end = min(end + PAGE_BYTES, size)
            if end - start >= ZEROS_BYTES_MIN or (start == 0 and end == size):
                found.append((start, end))
            at = heads.find(needle, max(at + 1, -(-(end - first) // PAGE_BYTES)))
        return found

    def _is_zero(self, start: int) -> bool:
        page = bytes(self.rest_of_piece(start, start + PAGE_BYTES))
        return page == _ZERO_PAGE[: len(page)]


def zero_runs(offset: int, data: Bytes) -> list[tuple[int, int]]:
    """(start, end) in ``data``, which begins at a file's offset, of zeros that become holes: whole pages of the file,
    or up to the end of the data; at least ``ZEROS_BYTES_MIN``, or all there is."""
    return _Run(offset, [data]).zeros()


def has_zeros(offset: int, data: Bytes) -> bool:
    """Whether storing the data may take less than its size, as some of it becomes a hole."""
    return bool(zero_runs(offset, data))


def _between(size: int, gaps: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """(start, end) of what the gaps leave of [0, size)."""
    at = 0
    for start, end in gaps:
        if at < start:
            yield at, start
        at = end
    if at < size:
        yield at, size
