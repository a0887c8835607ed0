"""The daemon of a store as seen from outside: whether one runs, and ending it.

Invariants:
  * Only what holds the store's lock is taken for its daemon; a signal goes to that very process, never to another one
    that got its number.
  * What a daemon that died left behind is cleared on the way.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from snapfs import mounts
from snapfs.daemon import logfile, places
from snapfs.errors import Busy, NotPermitted, SnapfsError, Unavailable
from snapfs.store import layout

MARGIN_SECONDS: Final = 5.0
"""How much longer than its own bound the daemon is waited for."""
_POLL_SECONDS: Final = 0.01


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What there is of a store's daemon."""

    running: bool
    pid: int = 0
    """Of the daemon; without one, of a command that uses the store."""
    mountpoint: str = ""
    stale: list[str] = []
    """Mount points that a daemon which died left behind."""


def look(store: Path) -> State:
    """Raises NotFound, Invalid, Unsupported, Corrupt: it is no store that can be used."""
    layout.read_marker(store)
    holder = places.holder_of(store)
    if holder is not None and holder.mountpoint:
        return State(running=True, pid=holder.pid, mountpoint=holder.mountpoint)
    inside = Path(os.path.realpath(store))
    stale = [
        str(mount.mountpoint)
        for mount in mounts.table()
        if mount.type == mounts.TYPE and mount.store == inside and mounts.is_dead(mount.mountpoint)
    ]
    return State(running=False, pid=holder.pid if holder else 0, stale=stale)


def end(store: Path, *, progress: Callable[[float], None] | None = None) -> bool:
    """End the store's daemon, with everything on disk; whether one ran.

    Args:
        progress: called again and again with the seconds that were waited.

    Raises:
        Busy: a command uses the store.
        NotPermitted: the daemon is another user's.
        Unavailable: it did not end in time.
        NotFound, Invalid, Unsupported, Corrupt: no store that can be used.
    """
    layout.read_marker(store)
    holder = places.holder_of(store)
    if holder is None:
        places.clear_stale(store)
        return False
    if not holder.mountpoint:
        raise Busy(f"{store}: the store is in use by a command, process {holder.pid}", hint="wait for it")
    seconds_max = _stop_seconds(store) + MARGIN_SECONDS
    _terminate(store, holder)
    began = time.monotonic()
    while (now := places.holder_of(store)) is not None and now.pid == holder.pid:
        waited = time.monotonic() - began
        if waited > seconds_max:
            raise Unavailable(
                f"the daemon of {store} did not end in {seconds_max:.0f} s",
                hint=f"see {store / logfile.NAME}; kill -9 {holder.pid} ends it, with what was not synced lost",
            )
        if progress is not None:
            progress(waited)
        time.sleep(_POLL_SECONDS)
    places.clear_stale(store)
    return True


def _terminate(store: Path, holder: layout.Holder) -> None:
    try:
        process = os.pidfd_open(holder.pid)
    except ProcessLookupError:
        return
    try:
        if places.holder_of(store) == holder:  # so the descriptor is the daemon's
            signal.pidfd_send_signal(process, signal.SIGTERM)
    except ProcessLookupError:
        pass
    except PermissionError:
        raise NotPermitted(f"the daemon of {store}, process {holder.pid}, belongs to another user") from None
    finally:
        os.close(process)


def _stop_seconds(store: Path) -> float:
    """How long the daemon may take to end."""
    from snapfs.config import Config, Settings  # here: few commands need it, and it loads the store's libraries

    try:
        return Settings(store).config.daemon.stop_seconds
    except SnapfsError:  # the running daemon does not know the file as it is now
        return Config().daemon.stop_seconds
