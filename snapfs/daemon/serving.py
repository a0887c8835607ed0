"""Composition root: the store, the service, the mount and the channel, wired, and ended in the right order.

The end, for whatever reason it comes:
  1. the channel takes no more calls and those that run are cancelled, while the mount still answers;
  2. unmount: the kernel hands over its dirty pages through us (a mount in use is asked for them, then
     detached);
  3. flush and commit everything;
  4. close the store, which frees its lock: whoever waits for that knows that nothing was lost.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

import trio

from snapfs.daemon.places import checked_mountpoint
from snapfs.fuse.session import Options, Session, check_device
from snapfs.rpc import server, wire
from snapfs.service import Service
from snapfs.volume.lake import Lake

log = logging.getLogger(__name__)

_ENDING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def serve(
    store: Path, mountpoint: Path, options: Options, *, opened: Callable[[], None], ready: Callable[[], None]
) -> None:
    """Mount the store and serve it until it is unmounted or a signal says to end.

    Args:
        opened: called once the store is ours.
        ready: called once the mount and the channel can be used.

    Raises:
        SnapfsError: it cannot be mounted, or the store failed; perhaps within an ExceptionGroup.
    """
    place = checked_mountpoint(store, mountpoint)
    check_device()
    lake = Lake.open(store, mountpoint=str(place))
    try:
        opened()
        trio.run(_serve, lake, place, options, ready)
    finally:
        lake.close()
    log.info("store %s closed", lake.path)


async def _serve(lake: Lake, mountpoint: Path, options: Options, ready: Callable[[], None]) -> None:
    session = Session(lake, mountpoint, options)
    with trio.open_signal_receiver(*_ENDING) as signals:
        async with lake.running():
            session.mount()
            try:
                await _serve_mount(lake, session, signals, ready)
            finally:
                session.close()


async def _serve_mount(
    lake: Lake, session: Session, signals: AsyncIterator[int], ready: Callable[[], None]
) -> None:
    async with trio.open_nursery() as requests:
        await requests.start(session.run)
        async with trio.open_nursery() as calls:
            await calls.start(server.serve, Service(lake, session.kernel), lake.path / wire.DIRECTORY_NAME)
            log.info("store %s is mounted", lake.path)
            ready()
            calls.start_soon(_until_signal, signals, calls.cancel_scope)
            await session.ended.wait()
            calls.cancel_scope.cancel()
        await session.unmount()


async def _until_signal(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    async for number in signals:
        log.info("ending on %s", signal.Signals(number).name)
        scope.cancel()
        return
