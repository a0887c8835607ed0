"""What the daemon tells systemd, if it was started by it (``Type=notify``): sd_notify(3).

Invariants:
  * The watchdog is fed by a trio task: a loop that hangs stops feeding it.
  * Nothing here fails the daemon.
"""

from __future__ import annotations

from typing import Final

import trio
from cysystemd.daemon import Notification, notify

_FEEDS: Final = 3
"""Times that the watchdog is fed in the time that systemd allows between two: one may come late."""


class Supervisor:
    """
    Args:
        listens: whether there is a systemd that wants to hear (NOTIFY_SOCKET is set).
        watchdog_seconds: longest silence that it allows; 0: any.
    """

    def __init__(self, *, listens: bool = False, watchdog_seconds: float = 0.0) -> None:
        self._listens = listens
        self._watchdog_seconds = watchdog_seconds

    def ready(self, status: str) -> None:
        """It serves, or serves again after ``reloading``."""
        self._tell(Notification.STATUS, status)
        self._tell(Notification.READY)

    def reloading(self) -> None:
        self._tell(Notification.RELOADING)

    def stopping(self, status: str) -> None:
        self._tell(Notification.STATUS, status)
        self._tell(Notification.STOPPING)

    async def feed_watchdog(self) -> None:
        """For ever, if it wants to be fed."""
        while self._listens and self._watchdog_seconds:
            self._tell(Notification.WATCHDOG)
            await trio.sleep(self._watchdog_seconds / _FEEDS)

    def _tell(self, what: Notification, value: str | None = None) -> None:
        if self._listens:
            notify(what, value.replace("\n", " ") if value else None)  # type: ignore[arg-type]
