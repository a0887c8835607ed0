"""What a crash left in the segments and nothing needs: found without reading it, removed when that is safe.

Invariants:
  * A file is removed only if the index durably knows a newer segment and not this one: what committed the newer one
    would have named this one too, so it was forgotten (it held no block any more), or what was appended to it was
    given up before it was committed.  An index that is rebuilt needs no block of it either.
  * As long as a damaged index is kept, nothing is removed: the rebuilt one knows only what it needs of the segments,
    and the old one may still tell what else is in them.
  * Bytes that are newer than all that the index knows may be what an index older than its segments has lost.  They
    are kept until something newer is committed: a store with such files begins a new segment.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from snapfs.store.layout import old_indexes
from snapfs.store.segments import Segments
from snapfs.types import SegmentId


class Leftovers:
    """Files in the directory of segments against what the index, just opened, has.

    Attributes:
        newest: the newest segment that the index knows; 0: none.
        append_at: where to go on appending to it; 0: begin a new one.
    """

    def __init__(self, path: Path, ends: Mapping[SegmentId, int]) -> None:
        """``ends`` of all segments in the index."""
        self._store = path.parent
        numbers = {int(entry.stem) for entry in path.glob("*.seg") if entry.stem.isdigit()}
        self._files = {SegmentId(number) for number in numbers.difference(ends)}
        self.newest = max(ends, default=SegmentId(0))
        end = ends.get(self.newest, 0)
        newer = any(segment > self.newest for segment in self._files)
        self.append_at = 0 if newer else end
        self._tail = (self.newest, end) if newer and end else None

    def __bool__(self) -> bool:
        return bool(self._files)

    def remove(self, segments: Segments, known: Collection[SegmentId]) -> None:
        """Remove what may be removed.

        Args:
            known: all segments in the index, as of its last commit.

        Raises:
            IOFailure: the rest is left to the next time.
        """
        if old_indexes(self._store):
            return
        newest = max(known, default=SegmentId(0))
        for segment in sorted(self._files):
            if segment < newest and segment not in known:
                segments.drop(segment)
                self._files.remove(segment)
        if self._tail and newest > self._tail[0]:
            if self._tail[0] in known:
                segments.cut(*self._tail)
            self._tail = None
