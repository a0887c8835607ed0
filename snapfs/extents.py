"""Pure arithmetic on a file's extents: no I/O, no clock, no await.

Invariants (of every list that comes in and of the file after every plan):
  * Extents are sorted by offset, do not overlap and have a positive length; what they do not cover is a hole.
  * An extent lies wholly inside its block: ``block_offset + length <= raw length of the block``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from snapfs.types import BlockId

HOLE = BlockId(0)


class Extent(NamedTuple):
    """``length`` bytes of a file from ``offset`` on are those of ``block`` from ``block_offset`` on."""

    offset: int
    length: int
    block: BlockId
    block_offset: int

    @property
    def end(self) -> int:
        return self.offset + self.length

    def cut(self, start: int, end: int) -> Extent:
        """The part inside [start, end); it must not be empty."""
        first = max(start, self.offset)
        last = min(end, self.end)
        return Extent(first, last - first, self.block, self.block_offset + first - self.offset)


class Plan(NamedTuple):
    """Changes that a write or truncation makes to a file's extents."""

    puts: list[Extent]
    """Extents to store, by offset; each replaces an old one that starts at the same offset, and none equals it."""
    deletes: list[int]
    """Offsets of extents to remove; none of them is among the puts."""
    covered_bytes: int
    """By how much the bytes that extents cover grow (negative: shrink)."""


def plan_read(extents: Sequence[Extent], offset: int, size: int) -> Iterator[Extent]:
    """Pieces that together are [offset, offset + size), in order; holes have block HOLE."""
    at, end = offset, offset + size
    for extent in extents:
        if extent.end <= at:
            continue
        if extent.offset >= end:
            break
        if extent.offset > at:
            yield Extent(at, extent.offset - at, HOLE, 0)
            at = extent.offset
        whole = extent.offset == at and extent.end <= end  # as most are
        piece = extent if whole else extent.cut(at, end)
        yield piece
        at = piece.end
    if at < end:
        yield Extent(at, end - at, HOLE, 0)


def plan_write(old: Sequence[Extent], new: Sequence[Extent], start: int, end: int) -> Plan:
    """[start, end) becomes ``new`` (all inside it; gaps become holes).  ``old``: what overlaps [start, end)."""
    puts: list[Extent] = []
    gone: list[Extent] = []
    covered = 0
    for extent in old:
        offset, length, block, block_offset = extent
        last = offset + length
        if last <= start or offset >= end:
            continue
        gone.append(extent)
        covered -= length
        if offset < start:
            puts.append(Extent(offset, start - offset, block, block_offset))
            covered += start - offset
        if last > end:
            puts.append(Extent(end, last - end, block, block_offset + end - offset))
            covered += last - end
    for extent in new:
        covered += extent.length
    puts.extend(new)
    puts.sort()
    if not gone:
        return Plan(puts, [], covered)
    kept = {extent.offset for extent in puts}
    deletes = [extent.offset for extent in gone if extent.offset not in kept]
    same = set(gone).intersection(puts)
    return Plan([extent for extent in puts if extent not in same] if same else puts, deletes, covered)


def merged(extents: Iterable[Extent]) -> list[Extent]:
    """The same bytes in as few extents as possible: those that go on in the same block are made one.  By offset."""
    found: list[Extent] = []
    for extent in extents:
        last = found[-1] if found else None
        if last and last.block == extent.block != HOLE and _goes_on(last, extent):
            found[-1] = last._replace(length=last.length + extent.length)
        else:
            found.append(extent)
    return found


def _goes_on(last: Extent, extent: Extent) -> bool:
    return extent.offset == last.end and extent.block_offset == last.block_offset + last.length


def plan_truncate(old: Sequence[Extent], size: int) -> Plan:
    """Nothing is left from ``size`` on.  ``old``: what overlaps [size, infinity)."""
    end = max((extent.end for extent in old), default=size)
    return plan_write(old, (), size, max(end, size))
