"""Table ``places``: where each block's record lies; so also what lies between them, and can be given back.

Invariants:
  * Each block that has an entry, and is not lost, has one row; it goes with the entry, and moves with it.
  * Bytes of a segment before the *frontier* that no row covers are dead for good: nothing is written there again.
    At or after the frontier they may belong to blocks that have no entry yet.
  * A page is punched only if no byte of it belongs to a record that stays: records of 4 KiB pages share every page
    with a neighbour, so one that goes frees what it shares with those that have gone before.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

from snapfs.format import keys
from snapfs.format import segments as fmt
from snapfs.store.index import Reading, items, items_backward
from snapfs.types import PAGE_BYTES, BlockId, SegmentId

Range = tuple[int, int]
"""(first byte, end) in a segment."""

Frontier = tuple[SegmentId, int]

StoredBytes = Callable[[BlockId], int]
"""Bytes of a block's record in its segment, padding included."""


def key(segment: SegmentId, offset: int) -> bytes:
    return keys.u64(segment) + keys.u64(offset)


def in_segment(source: Reading, segment: SegmentId, start: int = 0) -> Iterator[tuple[int, BlockId]]:
    """(offset, block) of the records of a segment, from an offset on.  Not across a commit or mutation."""
    for found, payload in items(source, "places", keys.u64(segment), keys.u64(start)):
        yield keys.from_u64(found, 8), BlockId(keys.from_u64(payload))


def joined(ranges: Sequence[Range]) -> list[Range]:
    """Sorted, those that touch or overlap made one."""
    found: list[Range] = []
    for start, end in sorted(ranges):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def whole_pages(start: int, end: int) -> Range:
    """Those inside a range; empty or less if there are none."""
    return -(-start // PAGE_BYTES) * PAGE_BYTES, end // PAGE_BYTES * PAGE_BYTES


def punchable(
    source: Reading, segment: SegmentId, start: int, end: int, gone: Collection[int], frontier: Frontier,
    stored_bytes: StoredBytes,
) -> Range:  # fmt: skip
    """The whole pages that can be punched when the records in [start, end) go.

    Args:
        gone: offsets of records that still have rows, and go too.
        frontier: see above.
    """
    first, last = whole_pages(start, end)
    known = frontier >= (segment, start)
    if first > start and known and _free_before(source, segment, first - PAGE_BYTES, start, gone, stored_bytes):
        first -= PAGE_BYTES
    known = frontier >= (segment, last + PAGE_BYTES)
    if last < end and known and _free_after(source, segment, end, last + PAGE_BYTES, gone):
        last += PAGE_BYTES
    return first, last


def _free_before(
    source: Reading, segment: SegmentId, page: int, start: int, gone: Collection[int], stored_bytes: StoredBytes
) -> bool:
    """Whether no record that stays reaches from before ``start`` into the page."""
    for found, payload in items_backward(source, "places", keys.u64(segment), keys.u64(start)):
        offset = keys.from_u64(found, 8)
        if offset in gone:
            if offset <= page:
                return True
            continue
        return offset + stored_bytes(BlockId(keys.from_u64(payload))) <= page
    return page >= fmt.SEGMENT_HEADER_BYTES


def _free_after(source: Reading, segment: SegmentId, end: int, page_end: int, gone: Collection[int]) -> bool:
    """Whether no record that stays begins between ``end`` and the end of its page."""
    for offset, _ in in_segment(source, segment, end):
        if offset >= page_end:
            return True
        if offset not in gone:
            return False
    return True


def gaps(
    source: Reading, segment: SegmentId, start: int, limit: int, stored_bytes: StoredBytes
) -> Iterator[tuple[Range, int]]:
    """(what holds nothing between two records, where the second ends) from ``start`` on, the end of a record, up to
    ``limit``.  Not across a commit or mutation; who stops goes on from the second number."""
    for offset, block in in_segment(source, segment, start):
        if offset >= limit:
            break
        end = offset + stored_bytes(block)
        yield (start, offset), end
        start = end
    if start < limit:
        yield (start, limit), limit
