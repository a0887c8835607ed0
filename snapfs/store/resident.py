"""How much of the index's map is counted as this process's memory.

LMDB reads through a map of its file. Each page that is touched stays mapped for as long as the process lives: a walk
of a million files leaves a gigabyte that nobody needs any more. The pages are the kernel's cache, not ours, and go
when memory is short; but they count as the process's, and whoever bounds that kills it for them.

Invariants:
  * What is given up are translations, never data: the map is shared and only read, and what is read again comes from
    the page cache (a fault for each 64 KiB, about 1 us).
  * Any thread may read the map meanwhile.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
from pathlib import Path
from typing import Final

RESIDENT_BYTES_MAX: Final = 64 * 1024 * 1024
"""Of mapped files, libraries included (25 MB): looked at a few times a second, so peaks are higher."""

_SHARED: Final = 2
"""Field of /proc/self/statm: pages of mapped files."""


def bound(file: Path) -> bool:
    """Give up the pages of the file's map if more than RESIDENT_BYTES_MAX of files are mapped; whether there were any.

    Args:
        file: the index's; who opens and closes it does so on the caller's thread.
    """
    try:
        if mapped_bytes() <= RESIDENT_BYTES_MAX:
            return False
        place = _find(file)  # anew each time: the index may have been opened anew, and another map be in its place
    except OSError:  # as when too many files are open; later, then
        return False
    return place is not None and _madvise(*place, mmap.MADV_DONTNEED) == 0


def mapped_bytes() -> int:
    """Of files, counted as this process's memory."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[_SHARED]) * resource.getpagesize()


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
