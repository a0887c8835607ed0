"""Which store and which volume a command means, and the way to it.

The store: ``--store``; else the snapfs mount around the current directory; else SNAPFS_STORE; else git's
``snapfs.store`` of the repository around it.  A path that is a mount point stands for the store mounted
there.

The volume: the argument; else the first directory below the mount point; else git's ``snapfs.volume``; else
the store's only one.

The way: the daemon's channel if one listens, else the store opened in this process.  A store that is locked
without a daemon that listens (one that starts, ends, or another command) is retried for a moment.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from snapfs import errors, mounts
from snapfs.git.repository import Repository
from snapfs.rpc import client as channel
from snapfs.rpc import wire

from .addresses import Address, path_in_volume, without_snap_directory
from .calls import Calls

STORE_VARIABLE: Final = "SNAPFS_STORE"

BUSY_SECONDS_MAX: Final = 2.0
BUSY_RETRY_SECONDS: Final = 0.05

CLOSE_SECONDS_MAX: Final = 5.0
"""For closing after a deadline has passed."""


def current_directory() -> Path | None:
    """None when it was deleted."""
    try:
        return Path(os.getcwd())  # noqa: PTH109  (Path.cwd() is the same; the name says what may fail)
    except FileNotFoundError:
        return None


class Place:
    """What the current directory, the options and the environment say."""

    def __init__(self, store: str) -> None:
        self._directory = current_directory()
        self._repository: Repository | None = None
        self._looked_for_repository = False
        self._mount = _around(self._directory) if self._directory else None
        self.store = self._find_store(store)
        if self._mount is not None and _same(self._mount.store, self.store):
            self._volume, self._inside = self._below(self._mount)
        else:
            self._volume, self._inside, self._mount = "", "", None

    def _below(self, mount: mounts.Mount) -> tuple[str, str]:
        assert self._directory is not None
        volume, *rest = (*self._directory.relative_to(mount.mountpoint).parts, "")
        return volume, without_snap_directory("/".join(part for part in rest if part))

    def _find_store(self, option: str) -> Path:
        if option:
            return self._behind(Path(option))
        if self._mount is not None:
            return self._mount.store
        if os.environ.get(STORE_VARIABLE):
            return self._behind(Path(os.environ[STORE_VARIABLE]))
        repository = self.repository
        if repository is not None and repository.store is not None:
            return repository.store
        raise errors.Invalid("which store?", hint=f"name it with --store or {STORE_VARIABLE}, or go into its mount")

    def _behind(self, path: Path) -> Path:
        absolute = path.absolute()
        mount = mounts.at(absolute)
        return mount.store if mount is not None and mount.type == mounts.TYPE else absolute

    @property
    def repository(self) -> Repository | None:
        """The git repository around the current directory."""
        if not self._looked_for_repository:
            self._looked_for_repository = True
            try:
                if self._directory is not None:
                    self._repository = Repository(self._directory, os.environ)
            except errors.SnapfsError:
                self._repository = None
        return self._repository

    def implied_volume(self) -> str:
        """The volume that the current directory or git tells; else empty."""
        if self._volume:
            return self._volume
        repository = self.repository
        if repository is not None and repository.volume:
            bound = repository.store
            if bound is None or _same(bound, self.store):
                return repository.volume
        return ""

    def volume(self, calls: Calls, given: str = "") -> str:
        """The volume's name.

        Raises:
            Invalid: it cannot be told.
        """
        known = given or self.implied_volume()
        if known:
            return known
        names = [volume.name for volume in calls.list_volumes()]
        if len(names) == 1:
            return names[0]
        if not names:
            raise errors.NotFound("the store has no volume", hint="snap volume create NAME")
        raise errors.Invalid(f"which volume? the store has {len(names)}", hint=f"name one: {_few(names)}")

    def snapshot(self, calls: Calls, address: Address) -> Address:
        """The address with its volume filled in."""
        return Address(self.volume(calls, address.volume), address.snapshot)

    def path(self, text: str, volume: str) -> str:
        """A path inside ``volume``, relative to the current directory where that is inside it."""
        root = str(self._mount.mountpoint / volume) if self._mount is not None else ""
        inside = self._inside if volume == self._volume else ""
        return path_in_volume(text, inside=inside, mounted_root=root)


def _around(directory: Path) -> mounts.Mount | None:
    mount = mounts.containing(directory)
    return mount if mount is not None and mount.type == mounts.TYPE else None


def _same(one: Path, other: Path) -> bool:
    try:
        return one == other or one.samefile(other)
    except OSError:
        return False


def _few(names: list[str], count_max: int = 5) -> str:
    return ", ".join(names[:count_max]) + (", ..." if len(names) > count_max else "")


@contextmanager
def connected(store: Path, *, deadline: float | None = None) -> Iterator[Calls]:
    """Calls to the store, through its daemon or in this process.

    Args:
        deadline: ``time.monotonic()`` after which every wait fails with Unavailable.

    Raises:
        SnapfsError: the store is missing, foreign, in use or damaged.
    """
    directory = store / wire.DIRECTORY_NAME
    patience = time.monotonic() + BUSY_SECONDS_MAX
    while True:
        client = channel.connect(directory, deadline=deadline)
        if client is not None:
            try:
                yield Calls(client)
            finally:
                client.close()
            return
        from .inprocess import InProcess  # trio and the store: only without a daemon

        try:
            opened = InProcess(store, deadline=deadline)
        except errors.Busy:
            if time.monotonic() >= patience:
                raise
            time.sleep(BUSY_RETRY_SECONDS)
            continue
        break
    try:
        yield Calls(opened.client)
    except BaseException:
        with suppress(errors.SnapfsError):  # the first error tells more
            opened.finish(CLOSE_SECONDS_MAX if deadline is not None else None)
        raise
    opened.finish(None if deadline is None else max(CLOSE_SECONDS_MAX, deadline - time.monotonic()))


@contextmanager
def opened(store: str) -> Iterator[tuple[Place, Calls]]:
    """The place and the calls of one command."""
    place = Place(store)
    with connected(place.store) as calls:
        yield place, calls
