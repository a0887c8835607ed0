"""Cores kept awake: on a file in the device's place, and a clock of the test's own."""

from __future__ import annotations

import itertools
import logging
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import pyfuse3
import pytest
import trio
import trio.testing

from snapfs.fuse import latency, loop
from snapfs.fuse.latency import QUIET_SECONDS, RUN_REQUESTS, RUN_SECONDS, Awake
from snapfs.fuse.loop import Polling

LIST_DESCRIPTORS = """
import os
print([os.readlink(entry.path) for entry in os.scandir("/proc/self/fd") if os.path.lexists(entry.path)])
"""


@pytest.fixture
def device(tmp_path: Path) -> Path:
    path = tmp_path / "cpu_dma_latency"
    path.touch()
    return path


def is_open(device: Path) -> bool:
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the directory's own
            found.append(os.readlink(entry))
    return str(device) in found


class TestHold:
    """What makes one begin and end."""

    def test_quick_requests(self, device: Path) -> None:
        awake = Awake(enabled=True, device=device)
        awake.asked(100.0)
        assert not awake.held
        assert not is_open(device)
        awake.asked(100.0 + RUN_SECONDS * 0.9)
        assert awake.held
        assert is_open(device)
        assert device.read_bytes() == bytes(4)
        awake.asked(100.0 + RUN_SECONDS)
        awake.let_go()
        assert not awake.held
        assert not is_open(device)
        assert awake.holds == 1

    def test_a_hundred_requests_a_second(self, device: Path) -> None:
        awake = Awake(enabled=True, device=device)
        for number in range(100):
            awake.asked(5.0 + number * RUN_REQUESTS / 100)
        assert awake.holds == 0
        assert not is_open(device)

    def test_each_run_is_one_of_its_own(self, device: Path) -> None:
        """What came before a pause does not count."""
        awake = Awake(enabled=True, device=device)
        for began in range(10, 20):
            awake.asked(float(began))
            assert not awake.held
            awake.asked(began + RUN_SECONDS / 2)
            assert awake.held
            awake.let_go()
        assert awake.holds == 10

    def test_how_long_it_was(self, device: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        now = SimpleNamespace(seconds=0.0)
        monkeypatch.setattr(latency, "perf_counter", lambda: now.seconds)
        awake = Awake(enabled=True, device=device)
        for began, seconds, before in ((1.0, 0.25, 0.0), (2.0, 0.5, 0.25)):
            now.seconds = began
            awake.asked(began)
            awake.asked(began)
            assert awake.held_seconds() == before
            now.seconds = began + seconds
            assert awake.held_seconds() == before + seconds
            awake.let_go()
            awake.let_go()
        now.seconds = 10.0
        assert awake.held_seconds() == 0.75

    def test_switched(self, device: Path) -> None:
        awake = Awake(enabled=True, device=device)
        awake.asked(1.0)
        awake.asked(1.0)
        awake.follow(enabled=False)
        assert not awake.held
        assert not is_open(device)
        awake.asked(1.0)
        assert not awake.held
        awake.follow(enabled=True)
        awake.asked(1.0)
        assert awake.held
        awake.let_go()

    def test_children_do_not_inherit_it(self, device: Path) -> None:
        awake = Awake(enabled=True, device=device)
        awake.asked(1.0)
        awake.asked(1.0)
        child = subprocess.run(
            [sys.executable, "-c", LIST_DESCRIPTORS], close_fds=False, check=True, capture_output=True, text=True
        )
        assert awake.held
        assert str(device) not in child.stdout
        awake.let_go()


class TestUnavailable:
    @pytest.mark.parametrize("name", ["absent", "directory", "/dev/full"])
    def test_all_else_stays_as_it_is(self, name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        (tmp_path / "directory").mkdir()
        device = tmp_path / name
        awake = Awake(enabled=True, device=device)
        with caplog.at_level(logging.DEBUG):
            for _ in range(5):
                awake.asked(1.0)
        assert [record.levelno for record in caplog.records] == [logging.DEBUG]
        assert (awake.held, awake.holds, awake.held_seconds()) == (False, 0, 0.0)
        assert not is_open(device)
        awake.let_go()

    def test_it_is_tried_once(self, tmp_path: Path) -> None:
        device = tmp_path / "later"
        awake = Awake(enabled=True, device=device)
        awake.asked(1.0)
        awake.asked(1.0)
        device.touch()
        awake.asked(1.0)
        assert not awake.held


@contextmanager
def serving(polling: Polling, handler: Callable[[], None] = lambda: None) -> Iterator[tuple[int, Callable[[], object]]]:
    """Where a byte asks for something, and what one worker does."""
    reading, writing = os.pipe()

    async def serve() -> None:
        shown = pyfuse3.trio  # type: ignore[attr-defined]
        while True:
            async with shown.Lock():
                await shown.lowlevel.wait_readable(reading)
                os.read(reading, 1)
            handler()

    try:
        with polling.installed():
            yield writing, serve
    finally:
        os.close(reading)
        os.close(writing)


RUN = bytes(2 * RUN_REQUESTS)


class TestInTheLoop:
    @pytest.fixture
    def awake(self, device: Path) -> Awake:
        return Awake(enabled=True, device=device)

    @pytest.fixture
    def polling(self, awake: Awake) -> Polling:
        return Polling(enabled=True, awake=awake)

    @pytest.fixture
    def ticking(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Time goes on by a tenth of what makes cores be let go whenever it is read."""
        ticks = itertools.count()
        monkeypatch.setattr(loop, "perf_counter", lambda: next(ticks) * QUIET_SECONDS / 10)

    async def test_let_go_when_no_more_come(self, polling: Polling, awake: Awake) -> None:
        with serving(polling) as (writing, serve):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve)
                for count in range(1, 6):
                    os.write(writing, RUN)
                    await trio.testing.wait_all_tasks_blocked()
                    assert (awake.holds, awake.held) == (count, False)
                nursery.cancel_scope.cancel()

    async def test_held_while_they_come(self, polling: Polling, awake: Awake) -> None:
        seen: list[bool] = []
        with serving(polling, lambda: seen.append(awake.held)) as (writing, serve):
            async with trio.open_nursery() as nursery:
                os.write(writing, RUN + RUN)
                nursery.start_soon(serve)
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
        assert seen == sorted(seen)
        assert seen.count(True) >= 2 * RUN_REQUESTS

    async def test_seldom_requests(self, polling: Polling, awake: Awake, monkeypatch: pytest.MonkeyPatch) -> None:
        """On a clock that goes on by a hundredth of a second with each."""
        now = SimpleNamespace(seconds=0.0)
        monkeypatch.setattr(loop, "perf_counter", lambda: now.seconds)

        def answer() -> None:
            now.seconds += 0.01

        with serving(polling, answer) as (writing, serve):
            async with trio.open_nursery() as nursery:
                os.write(writing, RUN * 10)
                nursery.start_soon(serve)
                while now.seconds < 0.01 * 9.5 * len(RUN):
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
        assert polling.found >= 9 * len(RUN)
        assert awake.holds == 0

    async def test_the_loop_never_sleeps_holding(
        self, polling: Polling, awake: Awake, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whatever the gaps between requests are: when trio awaits one, cores may halt."""
        wait_readable, slept = trio.lowlevel.wait_readable, []

        async def wait(fd: int) -> None:
            slept.append(awake.held)
            await wait_readable(fd)

        monkeypatch.setattr(trio.lowlevel, "wait_readable", wait)
        with serving(polling) as (writing, serve):

            def client() -> None:
                chance, pause = random.Random(3), threading.Event()
                for _ in range(100):
                    os.write(writing, bytes(chance.randrange(1, 60)))
                    pause.wait(chance.random() * 2 * QUIET_SECONDS)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve)
                await trio.to_thread.run_sync(client)
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
        assert awake.holds > 0
        assert slept
        assert not any(slept)

    async def test_let_go_beside_a_task_that_never_rests(self, polling: Polling, awake: Awake, ticking: None) -> None:
        with serving(polling) as (_, serve):
            async with trio.open_nursery() as nursery:
                awake.asked(loop.perf_counter())
                awake.asked(loop.perf_counter())
                nursery.start_soon(serve)
                passes = 0
                while awake.held:
                    passes += 1
                    assert passes < 100
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
        assert passes > 1

    async def test_let_go_when_awaited_as_pyfuse3_does(self, polling: Polling, awake: Awake) -> None:
        def switch_off() -> None:
            assert awake.held
            polling.enabled = False

        with serving(polling, switch_off) as (writing, serve):
            async with trio.open_nursery() as nursery:
                awake.asked(1.0)
                awake.asked(1.0)
                os.write(writing, b"r")
                nursery.start_soon(serve)
                await trio.testing.wait_all_tasks_blocked()
                assert not awake.held
                nursery.cancel_scope.cancel()

    async def test_let_go_while_every_worker_answers(self, polling: Polling, awake: Awake) -> None:
        """And waits, as all do when a disk hangs: then nobody awaits a request."""
        answered = trio.Event()
        with serving(polling):

            async def answer() -> None:
                awake.asked(1.0)
                awake.asked(1.0)
                assert awake.held
                await answered.wait()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(answer)
                await trio.testing.wait_all_tasks_blocked(0.001)
                assert not awake.held
                answered.set()

    async def test_let_go_by_a_trio_that_shows_nothing(
        self, polling: Polling, awake: Awake, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hidden = loop._Scheduler(None)
        monkeypatch.setattr(loop._Scheduler, "running", lambda: hidden)
        await self.test_let_go_when_no_more_come(polling, awake)

    async def test_let_go_when_the_session_ends(self, polling: Polling, awake: Awake, device: Path) -> None:
        with serving(polling):
            awake.asked(1.0)
            awake.asked(1.0)
            assert awake.held
        assert not awake.held
        assert not is_open(device)

    async def test_it_is_counted(self, polling: Polling, awake: Awake) -> None:
        assert polling.counts()["holds"] == polling.counts()["held_seconds"] == 0
        awake.asked(1.0)
        awake.asked(1.0)
        awake.let_go()
        assert polling.counts()["holds"] == 1
        assert polling.counts()["held_seconds"] != 0
