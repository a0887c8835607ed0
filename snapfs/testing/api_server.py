"""A store that is not mounted and the daemon's API server on it, in a thread of this process."""

from __future__ import annotations

import stat
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import trio

from snapfs import client
from snapfs.access import Access
from snapfs.client import Client
from snapfs.config import Settings
from snapfs.operations import Operations
from snapfs.rpc import server
from snapfs.rpc.dispatch import Dispatcher
from snapfs.rpc.endpoints import TcpEndpoint, UnixEndpoint
from snapfs.rpc.library import grpc
from snapfs.service import Service
from snapfs.types import CONTROL_DIRECTORY
from snapfs.volume.lake import Lake

T = TypeVar("T")

SECONDS_MAX: Final = 20.0


class ApiServer:
    """Serves until ``stop``.

    Args:
        store: the store's directory; made if missing.
        places: further ones than the store's own socket.

    Attributes:
        addresses: of all places, the store's socket first.
        ended: (method, code) of each call that has ended.
        text: what the metrics are.
    """

    def __init__(self, store: Path, places: Sequence[UnixEndpoint | TcpEndpoint] = ()) -> None:
        self.store = store
        self.places = [UnixEndpoint(directory=store / CONTROL_DIRECTORY), *places]
        self.addresses: list[str] = []
        self.ended: list[tuple[str, str]] = []
        self.text = "snapfs_up 1\n"
        if not store.exists():
            Lake.create(store)
        self._failure: BaseException | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="api")
        self._thread.start()
        assert self._ready.wait(SECONDS_MAX)
        if not self.addresses:
            self.stop()

    def _run(self) -> None:
        try:
            trio.run(self._main)
        except BaseException as error:
            while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
                error = error.exceptions[0]
            self._failure = error
        finally:
            self._ready.set()

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self.lake = lake = Lake.open(self.store)
        self.service, self.operations, self.access = Service(lake), Operations(), Access(self.store)
        self.dispatcher = Dispatcher(
            self.service,
            self.operations,
            self.access,
            Settings(self.store),
            metrics=lambda: self.text,
            sound=lambda: lake.index.failure is None,
        )
        try:
            async with lake.running(), self.access.running(), trio.open_nursery() as nursery:
                await nursery.start(self.operations.run)
                self.access.new_owner_secret()
                serve = partial(server.serve, self.dispatcher, self.access, self.places, observe=self._observe)
                self.addresses = await nursery.start(serve)
                self._nursery = nursery
                self._ready.set()
                await trio.sleep_forever()
        finally:
            lake.close()

    def _observe(self, method: str, code: str, seconds: float) -> None:
        assert seconds >= 0
        self.ended.append((method, code))

    def stop(self) -> None:
        """Raises what the server ended with, if it was an error."""
        if self.addresses:  # else it never served, and is ending by itself
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._nursery.cancel_scope.cancel)
        self._thread.join(SECONDS_MAX)
        assert not self._thread.is_alive()
        if self._failure is not None:
            raise self._failure

    # -- from a test's thread

    def run(self, job: Callable[[], Awaitable[T]]) -> T:
        """The job's result; it runs beside the calls."""
        return trio.from_thread.run(job, trio_token=self._token)

    def connect(self, **options: Any) -> Client:
        """As the store's owner."""
        return client.connect(self.store, **{"timeout_seconds": SECONDS_MAX, **options})

    def channel(self, place: int = 0) -> grpc.Channel:
        """A bare channel without any credentials; for plain TCP and unix sockets."""
        return grpc.insecure_channel(self.addresses[place] if place else f"unix:{self.addresses[0]}")

    def count(self, method: str, code: str) -> int:
        """How many calls of the method (without package) have ended so."""
        return sum(name.endswith(f"/{method}") and found == code for name, found in self.ended)

    def wait_for(self, done: Callable[[], object]) -> None:
        """Until it holds; fails if it never does."""
        deadline = time.monotonic() + SECONDS_MAX
        while not done():
            assert time.monotonic() < deadline
            time.sleep(0.005)

    @contextmanager
    def held(self, volume: str) -> Iterator[None]:
        """Whoever wants to hold the volume still waits meanwhile: snapshots, checkouts."""
        got: Future[trio.Event] = Future()

        async def hold() -> None:
            async with self.lake.writeback.hold(self.lake.volumes.get(volume).head):
                got.set_result(end := trio.Event())
                await end.wait()

        self._token.run_sync_soon(self._nursery.start_soon, hold)
        end = got.result(SECONDS_MAX)
        try:
            yield
        finally:
            with suppress(trio.RunFinishedError):  # stopped meanwhile
                self._token.run_sync_soon(end.set)

    def make_files(self, volume: str, names: Sequence[bytes]) -> None:
        """Empty files in the volume's root."""

        async def make() -> None:
            found = self.lake.volumes.get(volume)
            for name in names:
                self.lake.files.mknod(found.head, found.root, name, mode=stat.S_IFREG | 0o644, uid=0, gid=0)

        self.run(make)

    def tasks(self) -> int:
        """How many tasks run beside those of a server without calls."""

        async def count() -> int:
            return trio.lowlevel.current_statistics().tasks_living

        return self.run(count)
