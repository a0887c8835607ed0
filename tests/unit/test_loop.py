"""The request loop on a pipe: what pyfuse3's workers do, without a kernel that asks."""

from __future__ import annotations

import itertools
import os
import random
import re
import select
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pyfuse3
import pytest
import trio
import trio.testing

from snapfs.fuse import loop
from snapfs.fuse.loop import Polling

Handler = Callable[[int], Awaitable[None]]

CALLS_A_TURN = 10


class Requests:
    """A pipe of which each byte is a request, and workers as in ``pyfuse3.main``."""

    def __init__(self, reading: int, writing: int, polling: Polling) -> None:
        self.reading = reading
        self.writing = writing
        self.polling = polling
        self.taken = 0
        self.closed = 0

    def send(self, count: int = 1) -> None:
        os.write(self.writing, b"r" * count)

    async def serve(self, handler: Handler) -> None:
        """One worker."""
        shown = pyfuse3.trio  # type: ignore[attr-defined]
        while True:
            try:
                async with shown.Lock():
                    await shown.lowlevel.wait_readable(self.reading)
                    assert os.read(self.reading, 1) == b"r"
            except trio.ClosedResourceError:
                self.closed += 1
                return
            self.taken += 1
            await handler(self.taken)

    async def hammered(self, handler: Handler) -> None:
        """One worker; there always is a further request."""

        async def again(number: int) -> None:
            self.send()
            await handler(number)

        self.send()
        await self.serve(again)


@pytest.fixture
def polling() -> Polling:
    return Polling(enabled=True)


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock for the loop that goes on whenever it is read."""
    ticks = itertools.count()
    monkeypatch.setattr(loop, "perf_counter", lambda: next(ticks) * loop.TURN_SECONDS / CALLS_A_TURN)


@contextmanager
def _piped(polling: Polling) -> Iterator[Requests]:
    reading, writing = os.pipe()
    try:
        with polling.installed():
            yield Requests(reading, writing, polling)
    finally:
        os.close(reading)
        os.close(writing)


async def nothing(number: int) -> None:
    pass


async def _runs_soon(polling: Polling, wake: Callable[[trio.Event], None], waiters: int = 1) -> list[int]:
    """``wake`` is called in the 50th of endless requests; how many more were taken until each waiter ran."""
    found: list[int] = []
    event = trio.Event()
    with _piped(polling) as requests:
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                await event.wait()
                found.append(requests.taken - 50)
                if len(found) == waiters:
                    nursery.cancel_scope.cancel()

            async def handler(number: int) -> None:
                if number == 50:
                    wake(event)

            for _ in range(waiters):
                nursery.start_soon(wait)
            nursery.start_soon(requests.hammered, handler)
    return found


class TestOthersGoFirst:
    async def test_tasks_that_can_run(self, polling: Polling) -> None:
        found = await _runs_soon(polling, lambda event: event.set(), waiters=20)
        assert max(found) <= 1

    async def test_what_a_thread_sends(self, polling: Polling) -> None:
        token = trio.lowlevel.current_trio_token()
        found = await _runs_soon(polling, lambda event: token.run_sync_soon(event.set))
        assert found[0] <= 3  # the entry queue's task, then the one that it wakes

    async def test_descriptors(self, polling: Polling) -> None:
        mine, theirs = trio.socket.socketpair()
        with mine, theirs, _piped(polling) as requests:
            async with trio.open_nursery() as nursery:

                async def handler(number: int) -> None:
                    if number == 50:
                        os.write(theirs.fileno(), b"x")

                nursery.start_soon(requests.hammered, handler)
                await mine.recv(1)
                assert 50 <= requests.taken <= 52
                nursery.cancel_scope.cancel()

    async def test_timers(self, polling: Polling) -> None:
        late: list[int] = []
        with _piped(polling) as requests:
            async with trio.open_nursery() as nursery:
                after = 0
                deadline = trio.current_time()

                async def handler(number: int) -> None:
                    nonlocal after
                    after += trio.current_time() > deadline

                nursery.start_soon(requests.hammered, handler)
                for _ in range(50):
                    deadline, after = trio.current_time() + 0.001, 0
                    await trio.sleep_until(deadline)
                    late.append(after)
                nursery.cancel_scope.cancel()
        assert max(late) <= 2
        assert requests.taken > 50

    async def test_requests_are_not_starved_by_a_task_that_never_rests(self, polling: Polling) -> None:
        with _piped(polling) as requests:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(requests.hammered, nothing)
                passes = 0
                while requests.taken < 100:
                    passes += 1
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
        assert 100 <= passes <= 120  # in turns

    async def test_cancelling(self, polling: Polling, ticking: None) -> None:
        with _piped(polling) as requests, trio.CancelScope() as scope:

            async def handler(number: int) -> None:
                assert number <= 50 + CALLS_A_TURN + 1
                if number == 50:
                    scope.cancel()

            await requests.hammered(handler)
        assert scope.cancelled_caught

    @pytest.mark.parametrize("runner", [None, SimpleNamespace(runq=())])
    async def test_a_trio_that_shows_nothing(
        self, runner: object, polling: Polling, ticking: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hidden = loop._Scheduler(runner)
        assert (hidden.epoll_fd, len(hidden.runnable)) == (-1, 0)
        monkeypatch.setattr(loop._Scheduler, "running", lambda: hidden)
        found = await _runs_soon(polling, lambda event: event.set(), waiters=5)
        assert max(found) <= 2 * CALLS_A_TURN + 1  # a pass may call us before the others


class TestWorkers:
    async def test_somebody_reads_as_long_as_somebody_can(self, polling: Polling) -> None:
        answering: list[int] = []
        with _piped(polling) as requests:
            async with trio.open_nursery() as nursery:

                async def handler(number: int) -> None:
                    answering.append(number)
                    await trio.sleep_forever()

                for _ in range(5):
                    nursery.start_soon(requests.serve, handler)
                for count in range(1, 6):
                    await trio.testing.wait_all_tasks_blocked()
                    requests.send()
                    await trio.testing.wait_all_tasks_blocked()
                    assert answering == list(range(1, count + 1))
                nursery.cancel_scope.cancel()

    async def test_who_answers_at_once_reads_on(self, polling: Polling) -> None:
        """Without handing the lock over: one worker answers all."""
        workers = set()
        with _piped(polling) as requests:
            async with trio.open_nursery() as nursery:

                async def handler(number: int) -> None:
                    workers.add(trio.lowlevel.current_task())
                    if number == 1000:
                        nursery.cancel_scope.cancel()

                requests.send(1001)
                for _ in range(8):
                    nursery.start_soon(requests.serve, handler)
        assert len(workers) == 1

    @pytest.mark.parametrize("enabled", [False, True])
    @pytest.mark.parametrize("workers", [1, 3, 8])
    async def test_every_request_is_answered(self, workers: int, enabled: bool) -> None:
        chance = random.Random(workers)
        answered = 0
        with _piped(Polling(enabled=enabled)) as requests:
            async with trio.open_nursery() as nursery:

                async def handler(number: int) -> None:
                    nonlocal answered
                    kind = chance.randrange(6)
                    if kind == 0:
                        await trio.lowlevel.checkpoint()
                    elif kind == 1:
                        await trio.sleep(chance.random() * 0.001)
                    elif kind == 2:
                        await trio.to_thread.run_sync(lambda: None)
                    answered += 1
                    if answered == 1000:
                        nursery.cancel_scope.cancel()

                def client() -> None:
                    writer = random.Random(1)
                    for _ in range(100):
                        requests.send(10)
                        if writer.randrange(3) == 0:
                            time.sleep(writer.random() * 0.001)

                for _ in range(workers):
                    nursery.start_soon(requests.serve, handler)
                thread = threading.Thread(target=client)
                thread.start()
            thread.join()
        assert answered == requests.taken == 1000

    @pytest.mark.parametrize("enabled", [False, True])
    async def test_closing_while_asleep(self, enabled: bool) -> None:
        polling = Polling(enabled=enabled)
        with _piped(polling) as requests:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(requests.serve, nothing)
                await trio.testing.wait_all_tasks_blocked()
                polling.notify_closing(requests.reading)
        assert requests.closed == 1

    async def test_closing_while_others_run(self, polling: Polling) -> None:
        with _piped(polling) as requests:
            async with trio.open_nursery() as nursery:

                async def close() -> None:
                    polling.notify_closing(requests.reading)

                async def handler(number: int) -> None:
                    nursery.start_soon(close)

                requests.send()
                nursery.start_soon(requests.serve, handler)
        assert requests.closed == 1


class TestRest:
    async def test_requests_are_awaited_in_place(self, polling: Polling, monkeypatch: pytest.MonkeyPatch) -> None:
        """A client in another thread that asks again when it has its answer."""
        monkeypatch.setattr(loop, "TURN_SECONDS", 30.0)
        mine, theirs = socket.socketpair()
        with mine, theirs, _piped(polling) as requests:

            def client() -> None:
                for _ in range(300):
                    requests.send()
                    assert theirs.recv(1) == b"a"

            async def handler(number: int) -> None:
                mine.send(b"a")

            async with trio.open_nursery() as nursery:
                nursery.start_soon(requests.serve, handler)
                await trio.to_thread.run_sync(client)
                assert (requests.taken, polling.found, polling.sleeps) == (300, 300, 0)
                nursery.cancel_scope.cancel()

    async def test_a_timer_ends_it(self, polling: Polling, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(loop, "TURN_SECONDS", 30.0)
        with _piped(polling) as requests, trio.move_on_after(0.01):
            await requests.serve(nothing)

    async def test_a_thread_ends_it(self, polling: Polling, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(loop, "TURN_SECONDS", 30.0)
        with _piped(polling) as requests:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(requests.serve, nothing)
                for _ in range(100):
                    await trio.to_thread.run_sync(lambda: None)
                nursery.cancel_scope.cancel()

    async def test_who_waits_for_nothing_sleeps(self, polling: Polling) -> None:
        """No more than one rest: an idle mount does not wake up every turn."""
        with _piped(polling) as requests:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(requests.serve, nothing)
                await trio.testing.wait_all_tasks_blocked()
                looks = 0

                def look(milliseconds: float | None = None, /) -> list[tuple[int, int]]:
                    nonlocal looks
                    looks += 1
                    return []

                assert (polling.sleeps, polling.found) == (1, 0)
                polling._look = look
                requests.send()
                await trio.testing.wait_all_tasks_blocked()
                assert polling.sleeps == 2
                passes, looks = polling.passes, 0
                await trio.sleep(10 * loop.TURN_SECONDS)
                assert (looks, polling.passes, polling.sleeps) == (0, passes, 2)
                nursery.cancel_scope.cancel()

    async def test_switched_off(self) -> None:
        polling = Polling(enabled=False)
        with _piped(polling) as requests:
            async with trio.open_nursery() as nursery:
                requests.send(101)

                async def handler(number: int) -> None:
                    if number == 100:
                        nursery.cancel_scope.cancel()

                nursery.start_soon(requests.serve, handler)
        assert polling.counts() == {
            "found": 0, "sleeps": polling.sleeps, "passes": 0, "holds": 0, "held_seconds": 0
        }  # fmt: skip
        assert polling.sleeps >= 100


class TestLooking:
    """On a clock and a descriptor of the test's own: how often it is looked before the thread rests."""

    class Looks:
        def __init__(self, monkeypatch: pytest.MonkeyPatch, polling: Polling) -> None:
            self.now = 0.0
            self.step = loop.LOOK_SECONDS / 10
            self.ready_at = float("inf")
            self.count = 0
            self.polling = polling
            polling._look = self.look
            polling._turn_until = float("inf")
            monkeypatch.setattr(loop, "perf_counter", lambda: self.now)

        def look(self, milliseconds: float | None = None, /) -> list[tuple[int, int]]:
            self.count += 1
            self.now += self.step
            return [(7, select.POLLIN)] if self.now >= self.ready_at else []

        def wait(self, ready_in: float = float("inf")) -> int:
            """How often it was looked for one request."""
            self.ready_at, self.count = self.now + ready_in, 0
            assert bool(self.polling._look_on(self.now)) == (self.count > 0 and self.now >= self.ready_at)
            return self.count

    @pytest.fixture
    def looks(self, monkeypatch: pytest.MonkeyPatch, polling: Polling) -> Looks:
        return self.Looks(monkeypatch, polling)

    def test_requests_that_come_soon_are_found(self, looks: Looks) -> None:
        assert all(looks.wait(loop.LOOK_SECONDS / 2) > 1 for _ in range(20))

    def test_in_vain_it_is_left_out_for_ever_longer(self, looks: Looks) -> None:
        looked = [number for number in range(2000) if looks.wait()]
        gaps = [later - earlier - 1 for earlier, later in itertools.pairwise(looked)]
        assert gaps == [1, 3, 7, 15, 31, 63, 127, 255, 511, 512][: len(gaps)]
        assert len(gaps) >= 9

    def test_it_ends_with_the_turn(self, looks: Looks) -> None:
        looks.polling._turn_until = looks.now + 3 * looks.step
        assert looks.wait() <= 4

    def test_success_begins_anew(self, looks: Looks) -> None:
        for _ in range(100):
            looks.wait()
        while not looks.wait(looks.step):
            pass
        assert [bool(looks.wait()) for _ in range(3)] == [True, False, True]

    def test_it_ends_when_another_takes_the_core(self, looks: Looks) -> None:
        looks.step = loop.LOST_SECONDS * 1.1
        assert looks.wait() == 1
        assert [looks.wait() for _ in range(loop.SKIPPED_WHEN_LOST)] == [0] * loop.SKIPPED_WHEN_LOST
        assert looks.wait() == 1


class TestWhatPyfuse3Takes:
    async def test_all_of_it_is_there(self, polling: Polling) -> None:
        """Names that its sources (which come with it) take from trio: a later version may take more."""
        assert pyfuse3.__file__
        sources = [*Path(pyfuse3.__file__).parent.glob("*.pyx"), *Path(pyfuse3.__file__).parent.glob("*.pxi")]
        used = {name for source in sources for name in re.findall(r"\btrio\.([a-zA-Z_.]+)", source.read_text())}
        used = {name.rstrip(".") for name in used if not name.startswith(("readthedocs", "html"))}
        assert {"Lock", "lowlevel.wait_readable", "lowlevel.notify_closing", "open_nursery"} <= used
        with polling.installed():
            for name in used:
                found: object = pyfuse3.trio  # type: ignore[attr-defined]
                for part in name.split("."):
                    if name.startswith("run_sync_in_worker_thread"):  # of old, in a docstring
                        break
                    found = getattr(found, part)
            assert pyfuse3.trio.lowlevel.wait_readable == polling.wait_readable  # type: ignore[attr-defined]
        assert pyfuse3.trio is trio  # type: ignore[attr-defined]

    async def test_this_trio_shows_what_is_wanted(self) -> None:
        seen = loop._Scheduler.running()
        assert seen.epoll_fd >= 0
        assert not seen.runnable
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.lowlevel.checkpoint)
            assert len(seen.runnable) == 1
        trio.lowlevel.current_trio_token().run_sync_soon(lambda: None)
        assert select.select([seen.epoll_fd], [], [], 0)[0]
