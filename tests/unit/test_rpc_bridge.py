"""Between threads that wait and the trio thread: whatever happens there, who waits is told."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Callable
from concurrent import futures
from typing import Any

import pytest
import trio

from snapfs import errors
from snapfs.rpc import bridge
from snapfs.rpc.bridge import Bridge, Once, Stream

SECONDS_MAX = 10.0


def beside(use: Callable[[Bridge], Any]) -> Any:
    """What ``use`` gives on a thread, while a bridge stands; the bridge is closed when it has ended."""

    async def main() -> Any:
        async with trio.open_nursery() as nursery:
            stands: Bridge = await nursery.start(start)
            with trio.fail_after(SECONDS_MAX):
                result = await trio.to_thread.run_sync(use, stands)
            stands.close()
        return stands, result

    async def start(*, task_status: trio.TaskStatus[Bridge]) -> None:
        await bridge.run(task_status=task_status)

    return trio.run(main)


async def for_ever() -> int:
    await trio.sleep_forever()
    return 0


async def broken() -> int:
    raise errors.NoSpace("full")


async def answer() -> int:
    await trio.lowlevel.checkpoint()
    return 42


async def count() -> AsyncGenerator[int, None]:
    for number in range(3):
        await trio.lowlevel.checkpoint()
        yield number
    raise errors.Corrupt("the end")


def read(stream: Stream[int]) -> None:
    while stream.take() is not None:
        pass


def test_results_and_errors() -> None:
    def use(stands: Bridge) -> None:
        assert Once(stands, answer).result() == 42
        with pytest.raises(errors.NoSpace):
            Once(stands, broken).result()
        stream = Stream(stands, count, give_up=lambda: None)
        stream.start()
        assert [stream.take() for _ in range(3)] == [0, 1, 2]
        for _ in range(2):  # the end stays the end
            with pytest.raises(errors.Corrupt):
                stream.take()

    beside(use)


def test_cancelling_at_any_time() -> None:
    def use(stands: Bridge) -> None:
        early = Once(stands, for_ever)
        early.cancel()
        with pytest.raises(errors.Cancelled):
            early.result()
        late = Once(stands, answer)
        assert late.result() == 42
        late.cancel()
        running = Once(stands, for_ever)
        with futures.ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(running.result)
            running.cancel(errors.Busy("another has come"))
            running.cancel(errors.Conflict("too late to be the reason"))
            with pytest.raises(errors.Busy):
                waiting.result(SECONDS_MAX)

    beside(use)


def test_a_stream_is_closed_when_it_is_cancelled() -> None:
    closed = threading.Event()

    async def endless() -> AsyncGenerator[int, None]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    def use(stands: Bridge) -> None:
        stream = Stream(stands, endless, give_up=lambda: None)
        stream.start()
        assert stream.take() == 1
        stream.cancel()
        with pytest.raises(errors.Cancelled):
            read(stream)
        assert closed.is_set()

    beside(use)


def test_who_waits_when_the_bridge_closes_is_told() -> None:
    async def main() -> None:
        async def start(*, task_status: trio.TaskStatus[Bridge]) -> None:
            await bridge.run(task_status=task_status)

        async with trio.open_nursery() as nursery:
            stands: Bridge = await nursery.start(start)
            begun = trio.Event()

            async def begin() -> int:
                begun.set()
                return await for_ever()

            with futures.ThreadPoolExecutor(1) as pool:
                waiting = pool.submit(Once(stands, begin).result)
                await begun.wait()
                stands.close()
                with pytest.raises(errors.Unavailable, match="ending"):
                    await trio.to_thread.run_sync(waiting.result, SECONDS_MAX)
                late = pool.submit(Once(stands, answer).result)  # the loop still runs, the bridge does not
                with pytest.raises(errors.Unavailable, match="ending"):
                    await trio.to_thread.run_sync(late.result, SECONDS_MAX)

    trio.run(main)


def test_when_trio_has_ended() -> None:
    stands, _ = beside(lambda stands: None)
    once = Once(stands, answer)
    once.cancel()
    with pytest.raises(errors.Unavailable):
        once.result()
    stream = Stream(stands, count, give_up=lambda: None)
    with pytest.raises(errors.Unavailable):
        stream.start()
    with pytest.raises(errors.Unavailable):
        stream.take()
