"""How often things happen, how long they take and how they end: counters for who watches the daemon.

Invariants:
  * Adding costs well under a microsecond and allocates nothing for a name that was seen before: it is done for every
    request of the kernel.
  * ``add`` is for one thread, ``observe`` for any; a reader may see a count before its sum.
  * Names are few and fixed, never made from what callers send.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter, defaultdict
from typing import Final

BOUNDS_SECONDS: Final = (
    10e-6, 25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0,
)  # fmt: skip
"""Upper bounds of a histogram's buckets: from an answer out of memory to a disk that hangs."""
_QUICK_SECONDS: Final = BOUNDS_SECONDS[0]


class Timing:
    """A histogram of durations."""

    __slots__ = ("counts", "seconds")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_SECONDS) + 1)
        """How many took at most the bound, and more than the one before; the last: more than all bounds."""
        self.seconds = 0.0
        """Sum."""

    def add(self, seconds: float) -> None:
        self.counts[0 if seconds <= _QUICK_SECONDS else bisect_left(BOUNDS_SECONDS, seconds)] += 1  # mostly the first
        self.seconds += seconds


class Timings:
    """Durations by name, and outcomes worth counting by (name, outcome)."""

    def __init__(self) -> None:
        self.by_name: defaultdict[str, Timing] = defaultdict(Timing)
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def add(self, name: str, seconds: float) -> None:
        self.by_name[name].add(seconds)

    def sums(self) -> tuple[int, float]:
        """(how often anything happened, seconds that it took in all)."""
        timings = list(self.by_name.values())
        return sum(sum(timing.counts) for timing in timings), sum(timing.seconds for timing in timings)

    def observe(self, name: str, outcome: str, seconds: float) -> None:
        """``add``, and count the outcome."""
        with self._lock:
            self.add(name, seconds)
            self.outcomes[name, outcome] += 1
