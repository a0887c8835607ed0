"""Written bytes of one file that are not in blocks yet: sorted runs that do not overlap.  Pure.

Large writes stay the objects that they came as.  Of small ones a run grows in place while a file is written in order;
other writes cut what they overlap.

Invariants:
  * ``bytes`` among the data may be others' too, and never change; a ``bytearray`` is of this object alone.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

from snapfs.types import PAGE_BYTES

RUN_BYTES_MAX: Final = 4 * 1024 * 1024
"""A run stops growing here, so that growing it never copies much."""

KEPT_BYTES_MIN: Final = 512 * 1024
"""A write so large is kept as it is; the kernel hands over a stream in pieces of 1 MiB."""


class Runs:
    __slots__ = ("data", "offsets", "total_bytes")

    def __init__(self) -> None:
        self.offsets: list[int] = []
        self.data: list[bytes | bytearray] = []
        self.total_bytes = 0

    def __bool__(self) -> bool:
        return bool(self.offsets)

    @property
    def end(self) -> int:
        """Where the last run ends; 0 without runs."""
        return self.offsets[-1] + len(self.data[-1]) if self.offsets else 0

    def write(self, offset: int, data: bytes) -> None:
        """Put bytes over what is there."""
        if not data:
            return
        place = bisect_right(self.offsets, offset) - 1
        if place >= 0:
            run, start = self.data[place], self.offsets[place]
            inside = offset - start
            small = len(data) < KEPT_BYTES_MIN
            if small and inside + len(data) <= len(run):
                if not isinstance(run, bytearray):
                    run = self.data[place] = bytearray(run)
                run[inside : inside + len(data)] = data
                return
            grows = small and inside == len(run) < RUN_BYTES_MAX and isinstance(run, bytearray)
            if grows and self._free(place + 1, offset + len(data)):
                run += data
                self.total_bytes += len(data)
                return
        self._clear(offset, offset + len(data))
        self._insert(offset, _own(data))

    def write_under(self, offset: int, data: bytes | bytearray) -> None:
        """Put bytes only where there are none (they are older than what is there)."""
        at, end = offset, offset + len(data)
        for start, run in list(zip(self.offsets, self.data, strict=True)):
            if start + len(run) <= at:
                continue
            if start >= end:
                break
            if start > at:
                self._insert(at, _own(data[at - offset : start - offset]))
            at = start + len(run)
        if at < end:
            self._insert(at, _own(data[at - offset :]))

    def truncate(self, size: int) -> None:
        if self.end > size:
            self._clear(size, self.end)

    def pieces(self, start: int, end: int) -> list[tuple[int, bytes]]:
        """(offset, bytes) of what overlaps [start, end), copied."""
        found = []
        place = max(bisect_right(self.offsets, start) - 1, 0)
        while place < len(self.offsets) and self.offsets[place] < end:
            at, run = self.offsets[place], self.data[place]
            first, last = max(at, start), min(at + len(run), end)
            if first < last:
                found.append((first, bytes(memoryview(run)[first - at : last - at])))
            place += 1
        return found

    def spans(self, start: int, end: int) -> list[tuple[int, int]]:
        """(start, end) of the parts of runs that are in [start, end)."""
        found = []
        place = max(bisect_right(self.offsets, start) - 1, 0)
        while place < len(self.offsets) and self.offsets[place] < end:
            at = self.offsets[place]
            first, last = max(at, start), min(at + len(self.data[place]), end)
            if first < last:
                found.append((first, last))
            place += 1
        return found

    def joined(self) -> list[tuple[int, list[bytes | bytearray]]]:
        """(offset, pieces) of runs, those that touch made one.  Pieces touch where a page of the file begins, and no
        two small ones do."""
        groups: list[tuple[int, list[list[bytes | bytearray]]]] = []
        end = size = 0
        for offset, run in zip(self.offsets, self.data, strict=True):
            if not groups or offset != end:
                groups.append((offset, [[run]]))
                size = 0
            elif offset % PAGE_BYTES or max(size, len(run)) < KEPT_BYTES_MIN:
                groups[-1][1][-1].append(run)
            else:
                groups[-1][1].append([run])
                size = 0
            size += len(run)
            end = offset + len(run)
        return [(o, [part[0] if len(part) == 1 else b"".join(part) for part in parts]) for o, parts in groups]

    def _free(self, place: int, end: int) -> bool:
        return place >= len(self.offsets) or self.offsets[place] >= end

    def _insert(self, offset: int, run: bytes | bytearray) -> None:
        place = bisect_right(self.offsets, offset)
        self.offsets.insert(place, offset)
        self.data.insert(place, run)
        self.total_bytes += len(run)

    def _clear(self, start: int, end: int) -> None:
        """Make [start, end) empty, cutting the runs that reach into it."""
        place = max(bisect_right(self.offsets, start) - 1, 0)
        while place < len(self.offsets) and self.offsets[place] < end:
            first, run = self.offsets[place], self.data[place]
            last = first + len(run)
            if last <= start:
                place += 1
                continue
            del self.offsets[place], self.data[place]
            self.total_bytes -= len(run)
            if first < start:
                self._insert(first, run[: start - first])
                place += 1
            if last > end:
                self._insert(end, run[end - first :])
                place += 1


def _own(data: bytes | bytearray) -> bytes | bytearray:
    """The bytes as a run that nobody else changes."""
    return data if len(data) >= KEPT_BYTES_MIN and isinstance(data, bytes) else bytearray(data)
