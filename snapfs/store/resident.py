"""How much of the index's map is counted as this process's memory.

LMDB reads through a map of its file. Each page that is touched stays mapped for as long as the process lives: a walk
of a million files leaves a gigabyte that nobody needs any more. The pages are the kernel's cache, not ours, and go
when memory is short; but they count as the process's, and whoever bounds that kills it for them.

Invariants:
  * What is given up are translations, never data: the map is shared and only read, and what is read again comes from
    the page cache (a fault for each 64 KiB, about 1 us).
  * Any thread may read the map meanwhile; who opens and closes it looks, too, on the same thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
from pathlib import Path
from typing import Final

RESIDENT_BYTES_MAX: Final = 64 * 1024 * 1024
"""Of mapped files, libraries included (25 MB)."""

POPULATED_BYTES_MAX: Final = 36 * 1024 * 1024
"""Of an index: with the libraries less than may be mapped."""

GROWN_BYTES: Final = 4 * 1024 * 1024
"""From one look to the next: it is worth looking more often."""

_STATM_BYTES_MAX: Final = 256
_MADV_POPULATE_READ: Final = 22
"""Of linux/mman.h; Python's mmap does not have it."""


class Counted:
    """What the kernel counts as this process's memory.  The descriptor stays open: later there may be none left.

    Raises:
        OSError: it cannot be told.
    """

    def __init__(self) -> None:
        self._fd = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)

    def mapped_bytes(self) -> int:
        """Of files."""
        return int(os.pread(self._fd, _STATM_BYTES_MAX, 0).split(None, 3)[2]) * mmap.PAGESIZE

    def anonymous_bytes(self) -> int:
        """All other: heap, stacks."""
        _, resident, shared, _ = os.pread(self._fd, _STATM_BYTES_MAX, 0).split(None, 3)
        return (int(resident) - int(shared)) * mmap.PAGESIZE

    def close(self) -> None:
        os.close(self._fd)


class Map:
    """The map of an index's file, which is kept small."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._counted: Counted | None = None
        with contextlib.suppress(OSError):  # without /proc, or descriptors, it is not bounded
            self._counted = Counted()
        self._most_bytes = RESIDENT_BYTES_MAX
        self._seen_bytes = 0

    def populate(self, size_bytes: int) -> None:
        """Map the beginning of a small index at once (0.15 ms a MB), which must be in the page cache: else its first
        lookups take a fault each, some 5 us in a virtual machine.  Before Linux 5.14 nothing happens."""
        if size_bytes > POPULATED_BYTES_MAX:
            return
        with contextlib.suppress(OSError):  # as when too many files are open
            place = _find(self._file)
            if place is not None:
                address, mapped_bytes = place
                _madvise(address, min(size_bytes, mapped_bytes), _MADV_POPULATE_READ)

    def bound(self) -> bool:
        """Give up the pages of the map if too much is mapped.  About 2 us; 1 ms where it does.

        Returns:
            Whether more is mapped than the last time, or was.
        """
        counted = self._counted
        if counted is None:
            return False
        mapped, before = counted.mapped_bytes(), self._seen_bytes
        if mapped > self._most_bytes:
            self._give_up()
            self._seen_bytes = counted.mapped_bytes()
            # where that is still too much it is others', and nothing to try again for each time
            self._most_bytes = max(RESIDENT_BYTES_MAX, self._seen_bytes + RESIDENT_BYTES_MAX // 2)
            return True
        self._seen_bytes = mapped
        self._most_bytes = max(RESIDENT_BYTES_MAX, min(self._most_bytes, mapped + RESIDENT_BYTES_MAX // 2))
        return mapped > before + GROWN_BYTES

    def _give_up(self) -> None:
        with contextlib.suppress(OSError):  # as when too many files are open
            # anew each time: the index may have been opened anew, and another map be in its place
            place = _find(self._file)
            if place is not None:
                _madvise(*place, mmap.MADV_DONTNEED)

    def close(self) -> None:
        if self._counted is not None:
            self._counted.close()
            self._counted = None


def _find(file: Path) -> tuple[int, int] | None:
    """(address, bytes) of the longest map of the file; None: there is none."""
    wanted = os.fsencode(file.resolve()).replace(b"\n", b"\\012")
    found: list[tuple[int, int]] = []
    with open("/proc/self/maps", "rb") as lines:
        for line in lines:
            place, *rest = line.rstrip(b"\n").split(maxsplit=5)
            if rest[-1] == wanted:
                start, end = (int(address, 16) for address in place.split(b"-"))
                found.append((end - start, start))
    size_bytes, start = max(found, default=(0, 0))
    return (start, size_bytes) if size_bytes else None


_madvise = ctypes.CDLL(None, use_errno=True).madvise
_madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
