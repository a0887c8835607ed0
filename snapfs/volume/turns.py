"""How work in the background shares the trio thread with requests.

Invariants:
  * Between two rests it takes about TURN_SECONDS, and one unit of work more.
  * While requests come it takes about SHARE of the time, else all that is left over; or all of it at once, while
    somebody waits for what it does (``hurrying``).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Final

import trio

TURN_SECONDS: Final = 0.00015
"""What a request may wait for: about as long as one takes."""

SHARE: Final = 0.08
"""Of the time, while requests come."""

IDLE_SECONDS: Final = 0.05
"""Without a request for so long nobody is at work."""


class Turns:
    """Who works calls ``rest`` when its turn is over; several may share one.

    Args:
        requests: how many requests there were so far, of those that come first.
    """

    def __init__(self, requests: Callable[[], int]) -> None:
        self._requests = requests
        self._seen = 0
        self._seen_at = time.perf_counter() - IDLE_SECONDS
        self._hurrying = 0
        self._began = time.perf_counter()

    @property
    def until(self) -> float:
        """When the turn is over, by ``time.perf_counter``."""
        return self._began + TURN_SECONDS

    @property
    def due(self) -> bool:
        return time.perf_counter() > self._began + TURN_SECONDS

    @property
    def busy(self) -> bool:
        """Whether requests come."""
        count, now = self._requests(), time.perf_counter()
        if count != self._seen:
            self._seen, self._seen_at = count, now
        return now - self._seen_at < IDLE_SECONDS

    @property
    def gives_way(self) -> bool:
        """Whether requests come first now."""
        return not self._hurrying and self.busy

    def begin(self) -> None:
        """After something else: a wait for a thread, a commit."""
        self._began = time.perf_counter()

    async def rest(self) -> None:
        worked = min(time.perf_counter() - self._began, TURN_SECONDS * 2)  # more was a wait
        if self.gives_way:
            await trio.sleep(worked * (1 / SHARE - 1))
        else:
            await trio.lowlevel.checkpoint()
        self._began = time.perf_counter()

    async def rest_if_due(self) -> None:
        if self.due:
            await self.rest()

    @contextlib.contextmanager
    def hurrying(self) -> Iterator[None]:
        """Somebody waits for it."""
        self._hurrying += 1
        try:
            yield
        finally:
            self._hurrying -= 1
