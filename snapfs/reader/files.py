"""A file of a snapshot, open for reading: what ``io.BufferedReader`` and libraries expect of one.

Invariant: it never changes, so its size is known from the beginning; only where it is read is its state.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, Final

BUFFER_BYTES: Final = 128 * 1024
"""What a buffered file reads at once: as much as the kernel asks of a mount."""


class SnapshotFile(io.RawIOBase):
    """
    Args:
        name: for messages.
        read: (offset, size) -> bytes; fewer only at the end of the file.
    """

    def __init__(self, name: str, size: int, read: Callable[[int, int], bytes]) -> None:
        super().__init__()
        self.name = name
        self.mode = "rb"
        self.size = size
        """Of the whole file, in bytes."""
        self._read = read
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        self._check_open()
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Raises ValueError for a negative place, or another ``whence`` than SEEK_SET, SEEK_CUR, SEEK_END."""
        self._check_open()
        bases = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}
        if whence not in bases:
            raise ValueError(f"whence {whence} is none of SEEK_SET, SEEK_CUR, SEEK_END")
        at = bases[whence] + offset
        if at < 0:
            raise ValueError(f"a place before the file's beginning: {at}")
        self._at = at
        return at

    def readinto(self, buffer: Any, /) -> int:
        self._check_open()
        with memoryview(buffer) as view, view.cast("B") as target:
            data = self._read(self._at, len(target)) if self._at < self.size else b""
            target[: len(data)] = data
        self._at += len(data)
        return len(data)

    def read(self, size: int | None = -1, /) -> bytes:
        """At most ``size`` bytes (negative: all that are left); without the copy that ``readinto`` makes."""
        self._check_open()
        left = max(0, self.size - self._at)
        wanted = left if size is None or size < 0 else min(size, left)
        data = self._read(self._at, wanted) if wanted else b""
        self._at += len(data)
        return data

    def readall(self) -> bytes:
        return self.read()

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")
