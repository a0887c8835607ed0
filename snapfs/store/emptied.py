"""Table ``emptied``: segments that records were moved out of, and what of them may still be read.

Invariants:
  * Such a segment has one row, under the transaction of the last move.  It is dropped when that is durable and neither
    a reader nor a pin knows what was before.
  * A seal's record that is forgotten is found nowhere in the segments: neither where it is nor at an old place.  Old
    places are known as long as the store is open.  Of segments that were being emptied when it was left they are
    not: as long as there are such, seals in other segments are not forgotten.
"""

from __future__ import annotations

from snapfs.format import keys, records
from snapfs.format import segments as fmt
from snapfs.format.records import Block
from snapfs.store.index import Index, items
from snapfs.types import BlockId, SegmentId


class Emptied:
    def __init__(self, index: Index) -> None:
        self._index = index
        self.numbers = {SegmentId(keys.from_u64(key, 8)): keys.from_u64(key) for key, _ in items(index, "emptied")}
        """The transaction of the last move out of each."""
        self._guarded = set(self.numbers)
        self._copies: dict[BlockId, list[tuple[SegmentId, int]]] = {}

    def note(self, block: BlockId, entry: Block) -> None:
        """The open transaction moves the block away from where its entry was."""
        if entry.kind != fmt.DATA:
            self._copies.setdefault(block, []).append((entry.segment, entry.offset))
        number = self._index.txn_number
        if self.numbers.get(entry.segment) != number:
            self._delete(entry.segment)
            self.numbers[entry.segment] = number
            self._index.put("emptied", keys.u64(number) + keys.u64(entry.segment), records.PRESENT)

    def _delete(self, segment: SegmentId) -> None:
        number = self.numbers.pop(segment, None)
        if number is not None:
            self._index.delete("emptied", keys.u64(number) + keys.u64(segment))

    def renumber(self) -> None:
        """The index's transactions are numbered anew; none before counts any more."""
        self.numbers = dict.fromkeys(self.numbers, 0)

    def forget(self, segment: SegmentId) -> None:
        """The index does not know the segment any more, or need not know that records were moved out of it."""
        self._delete(segment)

    def gone(self, segment: SegmentId) -> None:
        """The segment was dropped, or no trace is left in it of what was moved."""
        self._guarded.discard(segment)
        for block, old in list(self._copies.items()):
            self._copies[block] = [place for place in old if place[0] != segment]
            if not self._copies[block]:
                del self._copies[block]

    def copies(self, block: BlockId) -> list[tuple[SegmentId, int]]:
        """Old places of a seal's record: what is forgotten must not be found there."""
        return self._copies.get(block, [])

    def forget_block(self, block: BlockId) -> None:
        self._copies.pop(block, None)

    def guards(self, entry: Block) -> bool:
        """Whether a seal's record may have an old place that is not known."""
        return entry.kind != fmt.DATA and bool(self._guarded) and entry.segment not in self._guarded
