"""How the C library keeps memory in the daemon.

A stream's buffers are made in one thread and let go in another.  glibc keeps what was let go: for each thread an arena
of its own, and in each arena whatever does not lie at its end.  After 12 GB that was 180 MB more than was in use.
"""

from __future__ import annotations

import ctypes
from typing import Any, Final

import trio

_M_ARENA_MAX: Final = -8
"""Of malloc.h."""
EVERY_SECONDS: Final = 1.0
IDLE_BYTES_MAX: Final = 48 * 1024 * 1024
"""More than this is given back to the host: it takes some milliseconds, and the next stream as many page faults."""


class _Mallinfo(ctypes.Structure):
    """mallinfo2(3): ten counts."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
        )
    ]  # fmt: skip


class Heap:
    """The C library's heap; does nothing where it is not glibc's (2.33 or newer)."""

    def __init__(self) -> None:
        try:
            self._libc: Any = ctypes.CDLL(None)
            self._libc.mallinfo2.restype = _Mallinfo
            self._libc.malloc_trim.argtypes = [ctypes.c_size_t]
            self._known = True
        except (OSError, AttributeError):
            self._known = False

    def keep_together(self) -> None:
        """One arena for all threads; before there are any."""
        if self._known:
            self._libc.mallopt(_M_ARENA_MAX, 1)

    def idle_bytes(self) -> int:
        """Kept and not in use, whether or not it was given back."""
        return int(self._libc.mallinfo2().fordblks)

    async def give_back(self) -> None:
        """From now on keep no more than a little that is not in use."""
        given_bytes = 0
        while self._known:
            await trio.sleep(EVERY_SECONDS)
            # what was given back still counts as idle until it is used again
            if abs(self.idle_bytes() - given_bytes) > IDLE_BYTES_MAX:
                await trio.to_thread.run_sync(self._libc.malloc_trim, 0)  # other threads wait for memory meanwhile
                given_bytes = self.idle_bytes()
