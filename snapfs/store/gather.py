"""Bytes of many blocks into one buffer: what lies side by side in a segment by one call, each block to its place.

Invariants:
  * Bytes that do not match their block's hash are never left in a buffer that is returned.
  * Touches no index and no cache: runs in any thread.
"""

from __future__ import annotations

import sys
from typing import Final, NamedTuple

from snapfs.errors import IOFailure
from snapfs.format import records
from snapfs.format import segments as fmt
from snapfs.format.records import Block
from snapfs.store.blocks import digest, mismatch, unpack
from snapfs.store.disk import Disk
from snapfs.store.segments import _File
from snapfs.types import BlockId

GAP_BYTES_MAX: Final = 4096
"""Bytes between two blocks that are read along rather than by a second call."""

RUN_BLOCKS_MAX: Final = 500
"""Two buffers each in one preadv: below Linux's IOV_MAX of 1,024."""


class Piece(NamedTuple):
    """``length`` bytes of a block from ``start`` on belong at ``at`` of the buffer."""

    start: int
    length: int
    at: int


class Wanted(NamedTuple):
    """What is needed of a block; ``file`` is its segment's."""

    block: BlockId
    file: _File
    entry: Block
    pieces: list[Piece]

    @property
    def whole(self) -> bool:
        """Its stored bytes are just what is needed, at one place."""
        entry = self.entry
        return (
            entry.codec == records.CODEC_RAW
            and entry.stored_bytes == entry.raw_bytes
            and len(self.pieces) == 1
            and self.pieces[0].length == entry.raw_bytes
        )

    @property
    def offset(self) -> int:
        """Of its stored bytes in the segment."""
        return self.entry.offset + fmt.BLOCK_HEADER_BYTES


def gather(
    disk: Disk, wanted: list[Wanted], buffer: bytearray, *, wait: bool = True
) -> list[tuple[BlockId, bytes]] | None:
    """Fill a buffer with pieces of blocks, each of which is verified.

    Args:
        wait: false: give up, with anything in the buffer, if the page cache lacks some of it.

    Returns:
        (block, its raw bytes) of those that only a part was taken of; None if it gave up.

    Raises:
        Corrupt: a segment does not hold what was written.
        IOFailure: the disk refused.
    """
    rest: list[tuple[BlockId, bytes]] = []
    with memoryview(buffer) as view:
        for run in _runs(wanted):
            stored = _read(disk, run, view, wait)
            if stored is None:
                return None
            for one, data in zip(run, stored, strict=True):
                if isinstance(data, memoryview):
                    if digest(data) != one.entry.hash:
                        raise mismatch(one.block, one.entry)
                else:
                    raw = unpack(one.block, one.entry, data)
                    for piece in one.pieces:
                        view[piece.at : piece.at + piece.length] = raw[piece.start : piece.start + piece.length]
                    rest.append((one.block, raw))
    return rest


def _runs(wanted: list[Wanted]) -> list[list[Wanted]]:
    """Grouped by what lies near each other in a segment, by offset."""
    runs: list[list[Wanted]] = []
    end = segment = 0
    for one in sorted(wanted, key=_place):
        entry = one.entry
        near = entry.segment == segment and 0 <= one.offset - end <= GAP_BYTES_MAX
        if near and len(runs[-1]) < RUN_BLOCKS_MAX:
            runs[-1].append(one)
        else:
            runs.append([one])
        segment, end = entry.segment, one.offset + entry.stored_bytes
    return runs


def _place(one: Wanted) -> tuple[int, int]:
    return one.entry.segment, one.entry.offset


def _read(disk: Disk, run: list[Wanted], view: memoryview, wait: bool) -> list[memoryview | bytes] | None:
    """Stored bytes of each block of a run: a part of ``view`` where that is their place."""
    parts: list[memoryview | bytearray] = []
    targets: list[memoryview | bytearray] = []
    start = end = run[0].offset
    for one in run:
        if one.offset > end:
            parts.append(memoryview(_SINK)[: one.offset - end])
        if one.whole:
            at = one.pieces[0].at
            targets.append(view[at : at + one.entry.raw_bytes])
        else:
            targets.append(bytearray(one.entry.stored_bytes))
        parts.append(targets[-1])
        end = one.offset + one.entry.stored_bytes
    if wait:
        if len(run) == 1:
            _read_all(disk, run[0], memoryview(targets[0]))
        elif _count(disk, run[0], parts) < end - start:  # at what the disk cannot read: perhaps a gap
            return [data for one in run for data in _read(disk, [one], view, wait) or ()]
    elif disk.preadv_cached(run[0].file.fd, parts, start) < end - start:
        return None
    return [target if isinstance(target, memoryview) else bytes(target) for target in targets]


def _count(disk: Disk, first: Wanted, parts: list[memoryview | bytearray]) -> int:
    """Bytes that could be read.  The kernel tells of an error only who begins with it: else the answer is short."""
    try:
        return disk.preadv("segment.read", first.file.fd, parts, first.offset)
    except IOFailure:
        return 0


def _read_all(disk: Disk, one: Wanted, target: memoryview) -> None:
    """Raises:
    Corrupt: the segment ends before.
    IOFailure: the disk refused.
    """
    done = 0
    while done < len(target):
        count = disk.preadv("segment.read", one.file.fd, [target[done:]], one.offset + done)
        if not count:
            raise mismatch(one.block, one.entry)
        done += count


_SINK: Final = bytearray(GAP_BYTES_MAX)
"""Where bytes go that nobody needs, from any thread."""


BUFFER_BYTES: Final = 1024 * 1024
"""The kernel's largest request."""

BUFFERS_MAX: Final = 8


class Buffers:
    """Buffers for the largest requests, used again: the host's fresh memory costs as much time as what is read into it.

    Invariants:
      * None is given out while anybody else refers to it.
    """

    def __init__(self) -> None:
        self._buffers: list[bytearray] = []

    def take(self, size: int) -> bytearray:
        """A buffer with anything in it.  It is free again when its last user has let go of it."""
        if size != BUFFER_BYTES:
            return bytearray(size)
        for buffer in self._buffers:
            if sys.getrefcount(buffer) <= _REFERENCES_FREE:
                return buffer
        buffer = bytearray(size)
        if len(self._buffers) < BUFFERS_MAX:
            self._buffers.append(buffer)
        return buffer


def _references_free() -> int:
    for buffer in [bytearray()]:  # as in ``take``
        return sys.getrefcount(buffer)
    raise AssertionError


_REFERENCES_FREE: Final = _references_free()
"""Of a buffer that nobody uses: of the list, the loop's variable, and (before Python 3.14) the call that counts."""
