"""Whether a store can be mounted at a place: every refusal is made before anything is changed.

The one thing that is put right is a mount of ours whose daemon died: it is taken away.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import Final

from snapfs import mounts
from snapfs.errors import Busy, Invalid, IOFailure, NotADirectory, NotEmpty, NotFound, NotPermitted
from snapfs.store import layout

ABORT_SECONDS_MAX: Final = 10.0
"""For a killed daemon to end once its connection was ended: it has nothing left to do."""
_POLL_SECONDS: Final = 0.005


def checked_mountpoint(store: Path, mountpoint: Path) -> Path:
    """The mount point without symlinks; a dead mount of ours there is unmounted.

    Raises:
        NotFound, NotADirectory, NotEmpty: as a directory.
        Busy: something is mounted there.
        Invalid: it is in the store, or the store in it.
        NotPermitted, IOFailure: it cannot be looked at.
    """
    place = Path(os.path.realpath(mountpoint))
    mount = mounts.at(place)
    if mount is not None and mount.type == mounts.TYPE and clear_if_abandoned(mount):
        mount = mounts.at(place)
    if mount is not None:
        what = f"store {mount.store}" if mount.type == mounts.TYPE else f"a file system of type {mount.type}"
        hint = f"snap umount {place}" if mount.type == mounts.TYPE else "choose another mount point"
        raise Busy(f"{place} is a mount point already, of {what}", hint=hint)
    _check_directory(place)
    inside = Path(os.path.realpath(store))
    if inside == place or inside.is_relative_to(place):
        raise Invalid(f"the store {inside} lies in the mount point {place}", hint="mount it somewhere else")
    if place.is_relative_to(inside):
        raise Invalid(f"the mount point {place} lies in the store {inside}", hint="mount it somewhere else")
    return place


def clear_if_abandoned(mount: mounts.Mount) -> bool:
    """Take away a mount of ours whose daemon has died; whether it had.

    The mount itself is not asked before it is known that somebody answers: a daemon that was killed may be kept
    from ending by a thread that waits for the kernel.
    """
    try:
        lock = os.open(mount.store / layout.LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # the store was moved or removed: only the mount can tell
        if not mounts.is_dead(mount.mountpoint):
            return False
        mounts.unmount(mount.mountpoint, lazy=True)
        return True
    try:
        if not _is_free(lock):
            holder = layout.read_holder(mount.store)
            if holder is None or _is_running(holder.pid):
                return False
            mounts.abort(mount)
            deadline = time.monotonic() + ABORT_SECONDS_MAX
            while not _is_free(lock) and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)
        elif not mounts.is_dead(mount.mountpoint):
            return False  # it is just ending, or just beginning
        mounts.unmount(mount.mountpoint, lazy=True)
        return True
    finally:
        os.close(lock)


def clear_stale(store: Path) -> list[Path]:
    """Take away all mounts of the store whose daemon has died; where they were."""
    inside = Path(os.path.realpath(store))
    stale = [mount for mount in mounts.table() if mount.type == mounts.TYPE and mount.store == inside]
    return [mount.mountpoint for mount in stale if clear_if_abandoned(mount)]


def holder_of(store: Path) -> layout.Holder | None:
    """Who holds the store's lock now: a daemon, or (without a mount point) a command."""
    try:
        lock = os.open(store / layout.LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return None if _is_free(lock) else layout.read_holder(store)
    finally:
        os.close(lock)


def _is_free(lock: int) -> bool:
    """Whether no daemon holds the lock (nobody is kept out by the look)."""
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(lock, fcntl.LOCK_UN)
    return True


def _is_running(pid: int) -> bool:
    """False if the process is gone, or killed and not able to end."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] not in ("Z", "X")


def _check_directory(place: Path) -> None:
    try:
        with os.scandir(place) as entries:
            empty = next(entries, None) is None
    except FileNotFoundError:
        raise NotFound(f"the mount point {place} does not exist", hint=f"mkdir -p {place}") from None
    except NotADirectoryError:
        raise NotADirectory(f"the mount point {place} is not a directory") from None
    except PermissionError:
        raise NotPermitted(f"the mount point {place} cannot be read") from None
    except OSError as error:
        raise IOFailure(f"the mount point {place} cannot be used: {error.strerror}") from None
    if not empty:
        raise NotEmpty(f"the mount point {place} is not empty", hint="mount on an empty directory")
