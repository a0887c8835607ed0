"""Written bytes of one file that are not in blocks yet: sorted runs that do not overlap.  Pure.

A run grows in place while a file is written in order; other writes cut what they overlap.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

RUN_BYTES_MAX: Final = 4 * 1024 * 1024
"""A run stops growing here, so that growing it never copies much."""


class Runs:
    __slots__ = ("data", "offsets", "total_bytes")

    def __init__(self) -> None:
        self.offsets: list[int] = []
        self.data: list[bytearray] = []
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
            if inside + len(data) <= len(run):
                run[inside : inside + len(data)] = data
                return
            if inside == len(run) < RUN_BYTES_MAX and self._free(place + 1, offset + len(data)):
                run += data
                self.total_bytes += len(data)
                return
        self._clear(offset, offset + len(data))
        self._insert(offset, bytearray(data))

    def write_under(self, offset: int, data: bytes | bytearray) -> None:
        """Put bytes only where there are none (they are older than what is there)."""
        at, end = offset, offset + len(data)
        for start, run in list(zip(self.offsets, self.data, strict=True)):
            if start + len(run) <= at:
                continue
            if start >= end:
                break
            if start > at:
                self._insert(at, bytearray(data[at - offset : start - offset]))
            at = start + len(run)
        if at < end:
            self._insert(at, bytearray(data[at - offset :]))

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

    def joined(self) -> list[tuple[int, bytes | bytearray]]:
        """(offset, bytes) with runs that touch made one."""
        groups: list[tuple[int, list[bytearray]]] = []
        end = -1
        for offset, run in zip(self.offsets, self.data, strict=True):
            if offset == end:
                groups[-1][1].append(run)
            else:
                groups.append((offset, [run]))
            end = offset + len(run)
        return [(offset, parts[0] if len(parts) == 1 else b"".join(parts)) for offset, parts in groups]

    def _free(self, place: int, end: int) -> bool:
        return place >= len(self.offsets) or self.offsets[place] >= end

    def _insert(self, offset: int, run: bytearray) -> None:
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
