"""How the C library keeps memory in the daemon.

A stream's buffers are made in one thread and let go in another.  glibc keeps what was let go: for each thread an arena
of its own, and in each arena whatever does not lie at its end.  After 12 GB that was 180 MB more than was in use.
"""

from __future__ import annotations

import ctypes
from typing import Any, Final

import trio

from snapfs.store.resident import Counted
from snapfs.volume.stirring import Stirring

_M_ARENA_MAX: Final = -8
"""Of malloc.h."""
EVERY_SECONDS: Final = 1.0
IDLE_BYTES_MAX: Final = 48 * 1024 * 1024
"""More than this that is resident and not in use is given back to the host: it takes some milliseconds, and the next
stream as many page faults."""


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
        self._counted: Counted | None = None
        """While ``give_back`` runs."""
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

    def other_bytes(self) -> int:
        """Resident, and not in use by who has it of the C library: what that keeps, and what others have of the host
        (Python's small objects, stacks).  While ``give_back`` runs."""
        info = self._libc.mallinfo2()
        anonymous_bytes = self._counted.anonymous_bytes() if self._counted is not None else 0
        return anonymous_bytes - int(info.uordblks + info.hblkhd)

    async def give_back(self) -> None:
        """From now on keep no more than a little that is not in use.

        What was given back still counts as idle until it is used again, and then it is resident again though no more
        is idle than before: so it is told by what is resident.
        """
        if not self._known:
            return
        self._counted = Counted()
        try:
            await self._give_back()
        finally:
            self._counted.close()

    def _trim(self) -> int:
        """Worker thread; others wait for memory meanwhile.  As ``other_bytes``, of right afterwards: later somebody may
        have let go of more."""
        self._libc.malloc_trim(0)
        return self.other_bytes()

    async def _give_back(self) -> None:
        others_bytes, stirring = self.other_bytes() - self.idle_bytes(), Stirring()
        while True:
            await stirring.wait()  # what nobody uses grows only while somebody works
            await trio.sleep(EVERY_SECONDS)
            now_bytes = self.other_bytes()
            others_bytes = min(others_bytes, now_bytes)
            if now_bytes - others_bytes > IDLE_BYTES_MAX:
                others_bytes = await trio.to_thread.run_sync(self._trim)
