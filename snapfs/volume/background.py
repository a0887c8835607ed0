"""Long computing beside requests: in a thread, which lets the trio thread have its turn.

Python computes in one thread at a time, and would let a busy one go on for 5 ms before another gets its turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

import trio

from snapfs.volume.accounts.report import Rest

WORK_SECONDS: Final = 0.001
"""That a thread computes at a time: the trio thread waits so long at most for its turn."""

T = TypeVar("T")


class _Turns:
    """``rest`` for a worker thread: while it computes, the trio thread cannot."""

    def __init__(self) -> None:
        self._until = 0.0

    def __call__(self) -> None:
        if time.perf_counter() >= self._until:
            trio.from_thread.check_cancelled()
            time.sleep(WORK_SECONDS)
            self._until = time.perf_counter() + WORK_SECONDS


async def in_background(work: Callable[[Rest], T]) -> T:
    """The outcome of long computing, in a thread that rests as long as it works."""
    return await trio.to_thread.run_sync(work, _Turns())
