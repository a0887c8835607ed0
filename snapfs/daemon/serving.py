"""Composition root: the store, the service, the mount and the API, wired, and ended in the right order.

The end, for whatever reason it comes:
  1. the API takes no more calls, those that run end or are cancelled, while the mount still answers;
  2. unmount: the kernel hands over its dirty pages through us (a mount in use is asked for them, then
     detached);
  3. flush and commit everything;
  4. close the store, which frees its lock: whoever waits for that knows that nothing was lost.

After a signal all of that together is bounded by ``daemon.stop_seconds``: a step that takes too long is given up for
the next one, and at last the process ends (``bound``).
"""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import structlog
import trio

from snapfs.access import Access
from snapfs.config import Config, Settings
from snapfs.daemon.bound import Bound
from snapfs.daemon.exporter import Exporter
from snapfs.daemon.memory import Heap
from snapfs.daemon.places import checked_mountpoint, clear_stale
from snapfs.daemon.schedule import Schedule
from snapfs.daemon.signals import received
from snapfs.daemon.supervisor import Supervisor
from snapfs.errors import SnapfsError
from snapfs.fuse.session import Options, Session, check_device
from snapfs.git.reachable import reachable
from snapfs.metrics import Metrics
from snapfs.operations import Operations
from snapfs.rpc import server
from snapfs.rpc.dispatch import Dispatcher
from snapfs.rpc.endpoints import TcpEndpoint, UnixEndpoint
from snapfs.service import Service
from snapfs.timings import Timings
from snapfs.types import CONTROL_DIRECTORY
from snapfs.volume.lake import Lake

log = structlog.stdlib.get_logger(__name__)

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

_UNMOUNT_PART: Final = 0.5
"""Of the time to stop, what the kernel may take at most to hand over what it has; the rest is for flush and commit."""
_REQUESTS_SECONDS: Final = 2.0
"""For requests that run when the mount is gone: nobody hears of their answers."""


@dataclass(frozen=True, kw_only=True)
class Process:
    """What the process around it does for ``serve``."""

    configure: Callable[[Config], None]
    """Log as the configuration says."""
    opened: Callable[[], None]
    """Called once the store is ours."""
    ready: Callable[[], None]
    """Called once the mount and the API can be used."""
    supervisor: Supervisor
    hangup_ends: bool = False
    """SIGHUP tells that the terminal is gone, not to reload."""


def serve(store: Path, mountpoint: Path, options: Options, process: Process) -> None:
    """Mount the store and serve it until it is unmounted or a signal says to end.

    Args:
        options: what of the mount was asked for besides the configuration.

    Raises:
        SnapfsError: it cannot be mounted, or the store failed; perhaps within an ExceptionGroup.
    """
    _allow_files()
    settings = Settings(store)
    config = settings.config
    process.configure(config)
    place = checked_mountpoint(store, mountpoint)
    check_device()
    cleared = clear_stale(store)
    with closing(Lake.open(store, mountpoint=str(place), limits=config.limits())) as lake:
        process.opened()
        for stale in cleared:
            log.warning("cleared the mount of a daemon that died", mountpoint=stale)
        bound = Bound(place, lambda: lake.core.dirty_bytes)
        options = Options(
            allow_other=options.allow_other or config.mount.allow_other,
            xattrs=options.xattrs or config.mount.xattrs,
            polling=config.mount.polling,
            awake=config.mount.awake,
        )
        trio.run(_Daemon(lake, settings, place, options, process, bound).run)
    log.info("the store is closed", store=lake.path)
    bound.met()


def _allow_files() -> None:
    """As many open files as we may have: the usual limit of 1,024 is kept low for programs that use select(2)."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class _Daemon:
    """One mount of one store."""

    def __init__(
        self, lake: Lake, settings: Settings, mountpoint: Path, options: Options, process: Process, bound: Bound
    ) -> None:
        self._lake = lake
        self._settings = settings
        self._mountpoint = mountpoint
        self._session = Session(lake, mountpoint, options)
        self._process = process
        self._bound = bound
        self._calls = Timings()
        self._metrics = Metrics(
            lake,
            fuse=self._session.timings,
            rpc=self._calls,
            open_files=self._session.files_open,
            polling=self._session.polling.counts,
        )

    async def run(self) -> None:
        self._lake.follow(self._settings.config.pace())
        self._lake.scrub.serve(self._session.timings.sums)
        self._lake.fetch = self._session.kernel.fetch
        self._lake.index.after_failure.append(self._tell_failure)
        with received(_SIGNALS, self._signalled) as signals:
            async with self._lake.running():
                self._session.mount()
                try:
                    await self._serve_mount(signals)
                finally:
                    self._session.close()

    async def _serve_mount(self, signals: AsyncIterable[signal.Signals]) -> None:
        session = self._session
        async with trio.open_nursery() as requests:
            await requests.start(session.run)
            requests.start_soon(self._process.supervisor.feed_watchdog)
            requests.start_soon(Heap().give_back)
            async with self._api() as addresses, trio.open_nursery() as waiting:
                log.info(
                    "the store is mounted", store=self._lake.path, mountpoint=self._mountpoint, pid=os.getpid(),
                    addresses=" ".join(addresses),
                )  # fmt: skip
                self._process.ready()
                self._process.supervisor.ready(self._status())
                waiting.start_soon(self._follow_signals, signals, waiting.cancel_scope)
                await session.ended.wait()
                waiting.cancel_scope.cancel()
            self._process.supervisor.stopping("ending")
            if not session.ended.is_set():
                await session.unmount(self._bound.share(_UNMOUNT_PART))
            requests.cancel_scope.deadline = trio.current_time() + _REQUESTS_SECONDS
            await session.ended.wait()
            requests.cancel_scope.cancel()

    def _status(self) -> str:
        return f"{self._lake.path} is mounted at {self._mountpoint}"

    @asynccontextmanager
    async def _api(self) -> AsyncIterator[list[str]]:
        """The API is served while inside; its addresses."""
        lake, config = self._lake, self._settings.config
        access = Access(lake.path)
        operations = Operations()
        service = Service(lake, self._session.kernel, reachable=reachable)
        schedule = Schedule(service)
        schedule.follow(config.pace())
        dispatcher = Dispatcher(
            service,
            operations,
            access,
            self._settings,
            metrics=self._metrics.text,
            sound=lambda: lake.index.failure is None,
        )
        access.new_owner_secret()
        try:
            async with access.running(), trio.open_nursery() as nursery:
                exporter = Exporter(self._metrics.text, nursery)
                exporter.serve(config.metrics.address)
                self._settings.follow(lambda changed: self._apply(changed, exporter, schedule))
                await nursery.start(operations.run)
                nursery.start_soon(schedule.run)
                listen = partial(server.serve, observe=self._calls.observe)
                yield await nursery.start(listen, dispatcher, access, _places(lake.path, config))
                nursery.cancel_scope.cancel()
        finally:
            access.remove_owner_secret()

    # -- while it runs

    def _tell_failure(self) -> None:
        failure = self._lake.index.failure
        if failure is not None:
            log.error("the store is read-only from now on", reason=failure.message, hint=failure.hint)

    def _apply(self, config: Config, exporter: Exporter, schedule: Schedule) -> None:
        """Put changed settings into force.  Raises Unavailable: an address cannot be had."""
        exporter.serve(config.metrics.address)
        self._process.configure(config)
        self._lake.follow(config.pace())
        self._session.polling.enabled = config.mount.polling
        self._session.polling.awake.follow(enabled=config.mount.awake)
        schedule.follow(config.pace())

    def _ends(self, number: signal.Signals) -> bool:
        return number != signal.SIGHUP or self._process.hangup_ends

    def _signalled(self, number: signal.Signals) -> None:
        """In the signal's handler: from now on the time runs, also for a loop that hangs."""
        if self._ends(number):
            self._bound.begin(self._settings.config.daemon.stop_seconds)

    async def _follow_signals(self, signals: AsyncIterable[signal.Signals], scope: trio.CancelScope) -> None:
        async for number in signals:
            if self._ends(number):
                break
            self._reload()
        log.info(
            "ending",
            signal=number.name,
            stop_seconds=self._settings.config.daemon.stop_seconds,
            unflushed_bytes=self._lake.core.dirty_bytes,
        )
        scope.cancel()

    def _reload(self) -> None:
        supervisor = self._process.supervisor
        supervisor.reloading()
        try:
            done = self._settings.reload()
            log.info("reloaded the configuration", applied=",".join(done.applied), waiting=",".join(done.waiting))
        except SnapfsError as error:
            log.error("the configuration stays as it was", reason=error.message, hint=error.hint)
        supervisor.ready(self._status())


def _places(store: Path, config: Config) -> list[UnixEndpoint | TcpEndpoint]:
    """Where to listen: in the store always, and wherever the configuration says."""
    control, listen = config.control, config.listen
    places: list[UnixEndpoint | TcpEndpoint] = [UnixEndpoint(directory=store / CONTROL_DIRECTORY)]
    if control.directory:
        places.append(UnixEndpoint(directory=Path(control.directory), group=control.group))
    if listen.address:
        places.append(
            TcpEndpoint(
                address=listen.address,
                certificate=_path(listen.certificate),
                key=_path(listen.key),
                client_ca=_path(listen.client_ca),
                plaintext=listen.plaintext,
            )
        )
    return places


def _path(name: str) -> Path | None:
    return Path(name) if name else None
