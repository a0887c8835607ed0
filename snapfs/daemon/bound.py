"""The daemon ends within a time, whatever keeps it.

Invariants:
  * Works on a thread of its own, which is there from the beginning: also a loop that hangs in a system call is ended.
  * What is given up is said in the log, and the mount is detached, as far as either can be done: neither may keep the
    process from ending.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from snapfs import mounts
from snapfs.errors import SnapfsError

log = structlog.stdlib.get_logger(__name__)

STATUS: Final = 75
"""Exit status of a daemon that gave up: EX_TEMPFAIL of sysexits."""
_LAST_WORDS_SECONDS: Final = 0.5
"""For the log, and again for the mount: both may hang with the disk."""


class Bound:
    """
    Args:
        mountpoint: where the daemon serves.
        unflushed_bytes: how much of what programs wrote is only in memory now; called from another thread.
    """

    def __init__(self, mountpoint: Path, unflushed_bytes: Callable[[], int]) -> None:
        self._mountpoint = mountpoint
        self._unflushed_bytes = unflushed_bytes
        self._done = threading.Event()
        self._deadline = float("inf")
        self._seconds = 0.0
        reading, self._begun = os.pipe()
        threading.Thread(target=self._wait, args=(reading,), name="bound", daemon=True).start()

    def begin(self, seconds: float) -> None:
        """From now on there is so much time.  Only the first call counts.  May be called in a signal's handler."""
        if not self._seconds:
            self._seconds, self._deadline = seconds, time.monotonic() + seconds
            os.write(self._begun, b"!")

    def share(self, part: float) -> float:
        """This part of the time that is left, in seconds; infinite before ``begin``."""
        return max(0.0, (self._deadline - time.monotonic()) * part)

    def met(self) -> None:
        """The daemon has done all it had to."""
        self._done.set()

    def _wait(self, begun: int) -> None:
        os.read(begun, 1)
        rest = max(0.0, self._deadline - time.monotonic() - 2 * _LAST_WORDS_SECONDS)
        if self._done.wait(rest):
            return
        _tried(self._say)
        _tried(self._detach)
        if not self._done.is_set():
            os._exit(STATUS)

    def _say(self) -> None:
        log.error(
            "could not end in time: what programs wrote last is lost",
            stop_seconds=self._seconds,
            unflushed_bytes=self._unflushed_bytes(),
            hint="raise daemon.stop_seconds, or see what keeps the store's disk",
        )

    def _detach(self) -> None:
        with contextlib.suppress(SnapfsError, OSError):
            mount = mounts.at(self._mountpoint)
            if mount is not None and mount.type == mounts.TYPE:
                mounts.unmount(self._mountpoint, lazy=True)


def _tried(act: Callable[[], None]) -> None:
    thread = threading.Thread(target=act, name="last words", daemon=True)
    thread.start()
    thread.join(_LAST_WORDS_SECONDS)
