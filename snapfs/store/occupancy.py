"""What the store's files occupy on the host file system.

To measure it, the host is asked about each file: there are some thousand in a large store.  So who asks often is told
what was measured a little while ago.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import Final

from snapfs.store import redo
from snapfs.store.index import Index
from snapfs.store.segments import Segments

KEPT_SECONDS: Final = 1.0
KEPT_PART: Final = 100
"""A measurement is also kept for so many times as long as it took: so measuring takes 1 % of the time at most."""


class Occupancy:
    def __init__(self, segments: Segments, index: Index) -> None:
        self._segments = segments
        self._index = index
        self._recent_bytes = 0
        self._until = 0.0

    def segments_bytes(self) -> int:
        return self._segments.disk_bytes()

    def index_bytes(self) -> int:
        """With its log."""
        found = 0
        with contextlib.suppress(FileNotFoundError):
            found = (self._index.path.parent / redo.FILE).lstat().st_blocks * _SECTOR_BYTES
        with os.scandir(self._index.path) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # the index was exchanged for a smaller copy
                    found += entry.stat(follow_symlinks=False).st_blocks * _SECTOR_BYTES
        return found

    def recent_bytes(self) -> int:
        """All of it, as of a second ago at most (of a store with very many segments, a little more)."""
        began = time.monotonic()
        if began >= self._until:
            self._recent_bytes = self.segments_bytes() + self.index_bytes()
            now = time.monotonic()
            self._until = now + max(KEPT_SECONDS, KEPT_PART * (now - began))
        return self._recent_bytes


_SECTOR_BYTES: Final = 512
"""Unit of ``st_blocks``."""
