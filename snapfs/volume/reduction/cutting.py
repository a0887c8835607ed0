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
from collections.abc import Iterator
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
    view = memoryview(data)
    chunks: list[Chunk] = []
    rest: Chunk | None = None
    for start, end in _between(len(data), zero_runs(offset, data)):
        if end - start <= CHUNK_BYTES_MIN:
            cuts = [(start, end - start)]
        else:
            part = data if end - start == len(data) else view[start:end]
            cuts = [(start + c.offset, c.length) for c in _chunkers.fastcdc.cut_buf(part)]
        if not final and end == len(data) >= STREAM_BYTES:
            at, length = cuts.pop()
            rest = Chunk(offset + at, view[at : at + length], b"")
        for at, length in cuts:
            piece = view[at : at + length]
            chunks.append(Chunk(offset + at, piece, digest(piece)))
    return chunks, rest


def zero_runs(offset: int, data: Bytes) -> list[tuple[int, int]]:
    """(start, end) in ``data``, which begins at a file's offset, of zeros that become holes: whole pages of the file,
    or up to the end of the data; at least ``ZEROS_BYTES_MIN``, or all there is."""
    first = -offset % PAGE_BYTES
    size = len(data)
    if size <= first:
        return []
    heads = bytes(memoryview(data)[first::PAGE_BYTES])
    needle = _ZERO_HEADS if size >= ZEROS_BYTES_MIN else b"\0"
    found: list[tuple[int, int]] = []
    at = heads.find(needle)
    while at >= 0:
        start = end = first + at * PAGE_BYTES
        while end < size and _is_zero(data, end):
            end = min(end + PAGE_BYTES, size)
        if end - start >= ZEROS_BYTES_MIN or (start == 0 and end == size):
            found.append((start, end))
        at = heads.find(needle, max(at + 1, -(-(end - first) // PAGE_BYTES)))
    return found


def has_zeros(offset: int, data: Bytes) -> bool:
    """Whether storing the data may take less than its size, as some of it becomes a hole."""
    return bool(zero_runs(offset, data))


def _is_zero(data: Bytes, start: int) -> bool:
    page = bytes(data[start : start + PAGE_BYTES])
    return page == _ZERO_PAGE[: len(page)]


def _between(size: int, gaps: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """(start, end) of what the gaps leave of [0, size)."""
    at = 0
    for start, end in gaps:
        if at < start:
            yield at, start
        at = end
    if at < size:
        yield at, size
