"""Room for the index's file on the host: what the next commit writes is set aside before.

Invariants:
  * Blocks that were set aside and never written hold nothing; no page is written there before the next commit.
  * The file never ends before LMDB's last page.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

from snapfs.errors import NoSpace, SnapfsError
from snapfs.store.disk import Disk
from snapfs.types import PAGE_BYTES

SPARE_BYTES: Final = 8 * 1024 * 1024
"""Blocks of the host that the file has ready beyond its last page: for deletions when the disk is full."""
PUTS_PER_PAGE: Final = 4
"""That a page takes of a commit, at least where it comes to deletions, which are not held back: seen are 5 to 20."""

GROWTH_BYTES: Final = 1 << 29
"""More than the pages one transaction may hold dirty (LMDB spills at 131,072 pages)."""


class Room:
    """``used_bytes``: up to LMDB's last page."""

    def __init__(self, disk: Disk, file: Path) -> None:
        self._disk = disk
        self._file = file
        self._file_bytes = 0
        self._reserved_bytes = 0
        """The host has set blocks aside for the file up to here."""

    def reserve(self, used_bytes: int, puts: int) -> bool:
        """Have the host set blocks aside for what the next commit writes: another program may have taken what was free
        when the work was admitted, and a commit that fails halfway could not be tried again.

        Returns:
            False if the host has too few: commit soon, while it still fits.

        Raises:
            IOFailure.
        """
        wanted = used_bytes + puts * PAGE_BYTES + SPARE_BYTES
        return self._reserved_bytes >= wanted - SPARE_BYTES // 2 or self._set_aside(wanted)

    def is_enough(self, used_bytes: int, puts: int) -> bool:
        """Whether a commit will fit all the same, as so many puts hardly ever take a page each.

        What an earlier process had set aside is there still: this one is to be told so.
        """
        needed = used_bytes + puts // PUTS_PER_PAGE * PAGE_BYTES
        return self._reserved_bytes >= needed or self._set_aside(needed)

    def _set_aside(self, end: int) -> bool:
        """Blocks of the host up to there; False if it has too few.  Raises IOFailure."""
        try:
            self._disk.allocate("index.reserve", self._file, self._reserved_bytes, end - self._reserved_bytes)
        except NoSpace:
            return False
        self._reserved_bytes = end
        return True

    def trim(self, used_bytes: int) -> None:
        """Give back what was set aside for a large commit and not needed."""
        end = used_bytes + SPARE_BYTES
        if self._reserved_bytes > end + SPARE_BYTES // 8:
            with contextlib.suppress(SnapfsError):
                fd = self._disk.open("index.trim", self._file, os.O_WRONLY)
                try:
                    self._disk.punch("index.trim", fd, end, self._reserved_bytes - end)
                finally:
                    os.close(fd)
                self._reserved_bytes = end

    def grow(self, used_bytes: int) -> None:
        """Keep the (sparse) file ahead of LMDB's last page.

        LMDB counts pages that a transaction took and gave back without writing them, so its file may end
        before its own last page; then a truncated file could not be told from a sound one.
        """
        needed = used_bytes + GROWTH_BYTES
        if self._file_bytes < needed:
            self._file_bytes = max(self._file.stat().st_size, needed + GROWTH_BYTES)
            self._disk.grow("index.grow", self._file, self._file_bytes)
