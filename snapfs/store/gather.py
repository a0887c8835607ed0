"""Bytes of many blocks into one buffer: what lies near each other in a segment by one call, each block to its place.

Invariants:
  * Bytes that do not match their block's hash are never left in a buffer that is returned.
  * Touches no index and no cache: runs in any thread.
  * What comes by a flight, or without waiting, is an answer only where it matches: all else is ``gather``'s.
  * A block that does not come rightly with its neighbours (an error of the disk, an early end, other bytes than were
    written) is read once more, alone and through the page cache: that answer counts.  So a bad sector between blocks
    harms none of them, and what goes past the page cache changes no answer.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Final, NamedTuple

from snapfs.errors import Corrupt, IOFailure
from snapfs.format import records
from snapfs.format import segments as fmt
from snapfs.format.records import Block
from snapfs.store.disk import Disk
from snapfs.store.flights import READS_MAX, STAGING_BYTES, Flight, Read, fresh_buffer
from snapfs.store.segments import _File
from snapfs.store.unpacking import digest, mismatch, unpack
from snapfs.types import PAGE_BYTES, BlockId

GAP_BYTES_MAX: Final = 16 * 1024
"""Bytes between two records that are read along rather than by a second call."""

RUN_BYTES_MAX: Final = STAGING_BYTES - 2 * PAGE_BYTES
"""Read by one call: more than the kernel's largest request and the rest of the blocks at its ends.  With what else is
in its first and last page it fits into a staging buffer."""

DIRECT_BYTES_MIN: Final = 256 * 1024
"""What is read by one call, and not in the page cache, goes past it from here on.  The kernel keeps a stream as the
file's pages above us; a second copy costs more time than all else that is done with it, and puts other files out of
memory."""

Piece = tuple[int, int, int]
"""(start, length, at): so many bytes of a block from ``start`` on belong at ``at`` of the buffer."""


class Wanted(NamedTuple):
    """What is needed of a block; ``file`` is its segment's."""

    block: BlockId
    file: _File
    entry: Block
    pieces: list[Piece]


Run = list[Wanted]
"""Blocks that lie near each other in a segment, by offset."""

Rest = list[tuple[BlockId, bytes]]
"""(block, its raw bytes)."""


def gather(disk: Disk, wanted: list[Wanted], buffer: bytearray) -> Rest:
    """Fill a buffer with pieces of blocks, each of which is verified.  Waits for the disk: in a worker thread.

    Returns:
        The blocks that only a part was taken of, or that were unpacked.

    Raises:
        Corrupt: a segment does not hold what was written.
        IOFailure: the disk refused.
    """
    rest: Rest = []
    with _borrowed() as staging, memoryview(buffer) as view:
        for run in runs_of(wanted):
            start, size = span_of(run)
            if size >= DIRECT_BYTES_MIN and not disk.is_cached(run[0].file.fd, start, size):
                span = _past_the_cache(disk, run[0].file.fd, start, size, staging)
            else:
                span = staging[: _count(disk, run[0].file.fd, start, staging[:size])]
            for one in _settle_all(run, span, start, view, rest):
                _settle(one, _alone(disk, one), view, rest)
    return rest


def take_cached(disk: Disk, run: Run, buffer: bytearray, rest: Rest, *, look: bool = False) -> bool:
    """As ``gather``, of what the page cache has, without waiting.  False: it lacks some of the run, or has other bytes
    than were written, and the buffer may have anything in the run's place.

    Args:
        look: probably it lacks some: it is not to fetch that, which asking for bytes makes it do.
    """
    start, size = span_of(run)
    if (look or size >= DIRECT_BYTES_MIN) and not disk.is_cached(run[0].file.fd, start, size):
        return False
    with _borrowed() as staging, memoryview(buffer) as view:
        span = staging[:size]
        if disk.preadv_cached(run[0].file.fd, [span], start) < size:
            return False
        return not _settle_all(run, span, start, view, rest)


def reads_of(runs: list[Run]) -> Iterator[tuple[list[Run], list[Read]]]:
    """What to send on its way together."""
    batch: list[Run] = []
    reads: list[Read] = []
    total = 0
    for run in runs:
        start, size = span_of(run)
        first, end = start // PAGE_BYTES * PAGE_BYTES, -(-(start + size) // PAGE_BYTES) * PAGE_BYTES
        if batch and (total + end - first > STAGING_BYTES or len(reads) == READS_MAX):
            yield batch, reads
            batch, reads, total = [], [], 0
        batch.append(run)
        reads.append((run[0].file.fd, first, end - first))
        total += end - first
    if batch:
        yield batch, reads


def land(flight: Flight, runs: list[Run], reads: list[Read], buffer: bytearray, rest: Rest) -> list[Wanted]:
    """As ``gather``, of reads that have come: those of ``reads_of``.

    Returns:
        The blocks that did not come rightly.
    """
    missing: list[Wanted] = []
    at = 0
    with memoryview(buffer) as view:
        for run, (_, first, size), count in zip(runs, reads, flight.counts, strict=True):
            missing += _settle_all(run, flight.bytes[at : at + count], first, view, rest)
            at += size
    return missing


def runs_of(wanted: list[Wanted]) -> list[Run]:
    """Grouped by what lies near each other in a segment, by offset."""
    if len(wanted) == 1:
        return [wanted]
    runs: list[Run] = []
    segment = end = limit = 0
    for one in sorted(wanted, key=_place):
        entry = one.entry
        offset, last = entry.offset, entry.offset + entry.stored_bytes
        if entry.segment == segment and offset <= end + GAP_BYTES_MAX and last <= limit:
            runs[-1].append(one)
        else:
            runs.append([one])
            segment, limit = entry.segment, offset + RUN_BYTES_MAX
        end = last
    return runs


def _place(one: Wanted) -> tuple[int, int]:
    return one.entry.segment, one.entry.offset


def span_of(run: Run) -> tuple[int, int]:
    """(offset, size) of the stored bytes, and what is between them."""
    first, last = run[0].entry.offset, run[-1].entry
    return first + fmt.BLOCK_HEADER_BYTES, last.offset + last.stored_bytes - first


def _settle_all(run: Run, span: memoryview, start: int, view: memoryview, rest: Rest) -> list[Wanted]:
    """Check and lay out what begins at ``start`` of the segment.  Returns the blocks that are not as written."""
    wrong: list[Wanted] = []
    start -= fmt.BLOCK_HEADER_BYTES
    for one in run:
        at = one.entry.offset - start
        try:
            _settle(one, span[at : at + one.entry.stored_bytes], view, rest)
        except Corrupt:
            wrong.append(one)
    return wrong


@contextlib.contextmanager
def _borrowed() -> Iterator[memoryview]:
    try:
        staging = _staging.pop()
    except IndexError:
        staging = memoryview(fresh_buffer())
    try:
        yield staging
    finally:
        if len(_staging) < _STAGING_MAX:
            _staging.append(staging)


def _settle(one: Wanted, stored: memoryview, view: memoryview, rest: Rest) -> None:
    """Check a block's stored bytes, and lay its pieces where they belong.

    Raises:
        Corrupt: they are not what was written.
    """
    entry, pieces = one.entry, one.pieces
    raw: memoryview | bytes = stored
    if entry.codec != records.CODEC_RAW:
        raw = unpack(one.block, entry, stored)
        rest.append((one.block, raw))
    elif len(stored) != entry.raw_bytes or digest(stored) != entry.hash:
        raise mismatch(one.block, entry)
    elif len(pieces) > 1 or pieces[0][1] != entry.raw_bytes:
        raw = bytes(stored)
        rest.append((one.block, raw))
    for start, length, at in pieces:
        view[at : at + length] = raw[start : start + length]


def _past_the_cache(disk: Disk, fd: int, start: int, size: int, staging: memoryview) -> memoryview:
    """Bytes from ``start`` on, as many as came."""
    first = start // PAGE_BYTES * PAGE_BYTES
    end = -(-(start + size) // PAGE_BYTES) * PAGE_BYTES
    count = disk.pread_direct("segment.read", fd, staging[: end - first], first)
    return staging[start - first : count]


def _count(disk: Disk, fd: int, start: int, span: memoryview) -> int:
    """Bytes that could be read.  The kernel tells of an error only who begins with it: else the answer is short."""
    try:
        return disk.preadv("segment.read", fd, [span], start)
    except IOFailure:
        return 0


def _alone(disk: Disk, one: Wanted) -> memoryview:
    """The stored bytes of a block.

    Raises:
        Corrupt: the segment ends before.
        IOFailure: the disk refused.
    """
    target = memoryview(bytearray(one.entry.stored_bytes))
    start, done = one.entry.offset + fmt.BLOCK_HEADER_BYTES, 0
    while done < len(target):
        count = disk.preadv("segment.read", one.file.fd, [target[done:]], start + done)
        if not count:
            raise mismatch(one.block, one.entry)
        done += count
    return target


_STAGING_MAX: Final = 4
"""Kept: as many as read at a time, mostly."""

_staging: Final[list[memoryview]] = []
"""Buffers that nobody uses now, at a page's beginning, as O_DIRECT wants it."""


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
