"""Cores that have nothing to do are kept awake while requests come in quick succession.

A request wakes the daemon and its answer the client; where a core that went idle halts (a virtual one is given back to
the host by that), waking it takes longer than most answers.  Whoever has /dev/cpu_dma_latency open asks for what was
written to it, in us, as the time that no core of the system may take longer to wake up, and takes that back by closing
it (Linux' PM QoS).  At 0 idle cores look for work instead of halting.

Invariants:
  * The device is open exactly while cores are held awake.  There is no other state: the end of the process ends it.
  * That begins only when the last ``RUN_REQUESTS`` came within ``RUN_SECONDS``, and ends when none has come for
    ``QUIET_SECONDS``: before the loop sleeps, or in its next turn if tasks keep it from that.  So a daemon that is idle
    or asked seldom holds nothing; and beginning and end, each of which wakes every idle core once, come at most once in
    so many requests.
  * Children do not inherit it.
  * Where it cannot be opened (no such device, not root, a container) all else stays as it is.  It is not tried again
    before settings are read anew.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from time import perf_counter
from typing import Final

log = logging.getLogger(__name__)

DEVICE: Final = Path("/dev/cpu_dma_latency")
RUN_REQUESTS: Final = 16
RUN_SECONDS: Final = 0.016
"""A thousand requests a second: who syncs each small write to a quick disk makes more, and gains by it."""
QUIET_SECONDS: Final = 0.002
"""Longer than a sync takes on such a disk."""
_AT_ONCE_US: Final = (0).to_bytes(4, "little")
"""All that keeps virtual cores awake (haltpoll knows no other value): halting is said to take 1 us there, and takes 30
with the host's part.  On others it spares the 1 or 2 us of the first state."""


class Awake:
    """The hold on the cores of one session.

    Args:
        enabled: else there never is one.
        device: as /dev/cpu_dma_latency; int32 in the machine's order.
    """

    def __init__(self, *, enabled: bool, device: Path = DEVICE) -> None:
        self.held = False
        """Cores are kept awake."""
        self.holds = 0
        """How often they were."""
        self._enabled = enabled
        self._device = device
        self._fd = -1
        self._run_began = float("-inf")
        self._began = 0.0
        self._seconds = 0.0

    def held_seconds(self) -> float:
        """How long cores were held awake altogether."""
        return self._seconds + (perf_counter() - self._began if self.held else 0.0)

    def follow(self, *, enabled: bool) -> None:
        self._enabled = enabled
        if not enabled:
            self.let_go()

    def asked(self, now: float) -> None:
        """``RUN_REQUESTS`` have come since this was called last.  By ``perf_counter``."""
        quick = now - self._run_began <= RUN_SECONDS
        self._run_began = now
        if quick and self._enabled and not self.held:
            self._take(now)

    def _take(self, now: float) -> None:
        try:
            self._fd = os.open(self._device, os.O_WRONLY | os.O_CLOEXEC)
            os.write(self._fd, _AT_ONCE_US)
        except OSError as error:
            log.debug("idle cores are not kept awake: %s", error)
            self._close()
            self._enabled = False
            return
        self.held, self._began = True, now
        self.holds += 1

    def let_go(self) -> None:
        """Cores may halt again; they may already."""
        if self.held:
            self._seconds += perf_counter() - self._began
            self.held = False
            self._close()

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
