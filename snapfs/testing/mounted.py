"""A store mounted by a real daemon: class and fixtures for all tests that need a mount."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from snapfs import api, client, daemon, mounts
from snapfs.client import Client
from snapfs.errors import SnapfsError
from snapfs.volume.lake import Lake

END_SECONDS_MAX = 20.0
CALL_SECONDS_MAX = 30.0


class MountedStore:
    """A store with one volume, ``data``, and its daemon.

    Attributes:
        store: path of the store.
        root: the mount point.
        volume: path of the volume ``data``.
        pid: of the daemon; 0 while it does not run.
    """

    def __init__(self, place: Path) -> None:
        self.store = place / "store"
        self.root = place / "lake"
        self.volume = self.root / "data"
        self.snap = self.volume / ".snap"
        self.pid = 0
        self.options: dict[str, bool] = {}
        if not self.store.exists():
            Lake.create(self.store)
        self.root.mkdir(exist_ok=True)

    def mount(self, **options: bool) -> MountedStore:
        self.options = options or self.options
        self.pid = daemon.start(self.store, self.root, **self.options)
        return self

    def umount(self) -> None:
        daemon.stop(self.root)
        self._reap()

    def remount(self) -> None:
        self.umount()
        self.mount()

    def kill(self) -> None:
        """kill -9: the mount is left dead."""
        os.kill(self.pid, signal.SIGKILL)
        self._reap()

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        self.pid = 0

    def connect(self) -> Client:
        """A client of the daemon."""
        return client.connect(self.store, timeout_seconds=CALL_SECONDS_MAX)

    def call(self, method: str, **params: Any) -> Any:
        """A method of the client; what it yields as a list."""
        with self.connect() as connected:
            answer = getattr(connected, method)(**params)
            return list(answer) if isinstance(answer, Iterator) else answer

    def snapshot(self, name: str, **params: Any) -> api.Snapshot:
        with self.connect() as connected:
            return connected.create_snapshot(volume="data", name=name, **params)

    def checkout(self, name: str, unsaved: api.Save = api.Save.DISCARD) -> api.Checkout:
        with self.connect() as connected:
            return connected.checkout(volume="data", snapshot=name, unsaved=unsaved)

    def log(self) -> str:
        return (self.store / "daemon.log").read_text(errors="replace")

    def close(self) -> None:
        """Leave nothing behind, whatever happened."""
        if self.pid:
            with contextlib.suppress(SnapfsError):
                mounts.unmount(self.root)
            deadline = time.monotonic() + END_SECONDS_MAX
            while time.monotonic() < deadline and not _ended(self.pid):
                time.sleep(0.005)
            if not _ended(self.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, signal.SIGKILL)
        while mounts.at(self.root) is not None:
            mounts.unmount(self.root, lazy=True)
        if self.pid:
            self._reap()


def _ended(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return not Path(f"/proc/{pid}").exists()


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[Callable[..., MountedStore]]:
    """Makes stores that are cleaned up whatever happens; not mounted yet."""
    made: list[MountedStore] = []

    def make(name: str = "one") -> MountedStore:
        place = tmp_path / name
        place.mkdir()
        made.append(MountedStore(place))
        return made[-1]

    yield make
    for store in made:
        store.close()


@pytest.fixture
def mounted(stores: Callable[..., MountedStore]) -> Iterator[MountedStore]:
    """A mounted store with the volume ``data``; afterwards the daemon's log must hold no warning."""
    one = stores().mount()
    one.volume.mkdir()
    yield one
    one.close()
    complaints = [line for line in one.log().splitlines() if " WARNING " in line or " ERROR " in line]
    assert not complaints, "\n".join(complaints)


@pytest.fixture
def volume(mounted: MountedStore) -> Path:
    """The volume's directory in a mounted store."""
    return mounted.volume
