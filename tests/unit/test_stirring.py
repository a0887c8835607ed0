"""Who looks now and then sleeps while nothing goes on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from snapfs.errors import IOFailure
from snapfs.volume.lake import Lake
from snapfs.volume.limits import Limits
from snapfs.volume.stirring import Stirring, watch


async def count(looks: list[float], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    stirring = Stirring()
    watch()  # before it is told to have started
    task_status.started()
    while True:
        await stirring.wait()
        await trio.sleep(1)
        looks.append(trio.current_time())


def test_a_watcher_sleeps_until_another_task_runs() -> None:
    async def main() -> None:
        looks: list[float] = []
        watch()
        async with trio.open_nursery() as nursery:
            for _ in range(3):  # they do not wake each other
                await nursery.start(count, looks)
            await trio.sleep(1000)
            before = len(looks)
            await trio.sleep(1000)
            assert len(looks) == before
            async with trio.open_nursery() as others:
                others.start_soon(trio.lowlevel.checkpoint)
            await trio.sleep(1000)
            assert len(looks) == before + 3
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_the_end_of_a_thread_s_work_stirs() -> None:
    async def main() -> None:
        watch()
        go, stirred = threading.Event(), trio.Event()

        async def wait() -> None:
            await Stirring().wait()
            stirred.set()

        async def work() -> None:
            watch()
            await trio.to_thread.run_sync(go.wait)

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(work)
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(wait)
                await trio.testing.wait_all_tasks_blocked()
                go.set()
                await stirred.wait()

    trio.run(main)


def test_an_instrument_stays_only_while_its_watcher_waits() -> None:
    async def main() -> None:
        instruments = trio.lowlevel.current_root_task()
        assert instruments is not None
        watch()
        stirring = Stirring()
        for _ in range(3):
            with trio.move_on_after(0.001):
                await stirring.wait()
        try:
            trio.lowlevel.remove_instrument(stirring)
        except KeyError:
            return
        raise AssertionError("it is there still")

    trio.run(main)


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    Lake.create(tmp_path / "store")
    lake = Lake.open(tmp_path / "store", limits=Limits(commit_seconds=5))
    yield lake
    lake.close()


def looks_of(lake: Lake) -> list[float]:
    """When it looks at its map, from now on."""
    looks: list[float] = []
    bound = lake.index.map.bound

    def look() -> bool:
        looks.append(trio.current_time())
        return bound()

    lake.index.map.bound = look  # type: ignore[method-assign]
    return looks


def test_a_store_that_nobody_uses_is_not_looked_at(lake: Lake) -> None:
    looks = looks_of(lake)

    async def main() -> None:
        watch()
        async with lake.running():
            lake.volumes.create("v")
            await lake.sync()
            await trio.sleep(120)  # all that was begun by it is over
            looks.clear()
            await trio.sleep(120)
            assert len(looks) < 120, "four times a second it were 480"
            quiet = len(looks)
            assert quiet > 3  # reclaiming is tried again with each sync

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.005))


def test_promises_after_a_long_rest(lake: Lake) -> None:
    """What is written after a minute in which nothing went on is flushed and committed as soon as ever."""

    async def main() -> None:
        watch()
        async with lake.running():
            volume = lake.volumes.create("v")
            inode = lake.files.mknod(volume.head, volume.root, b"f", mode=0o100644, uid=0, gid=0)
            await lake.sync()
            await trio.sleep(60)
            await lake.files.write(volume.head, inode.ino, 0, b"x" * 100_000)
            begun = trio.current_time()
            while lake.core.dirty_bytes:
                await trio.sleep(0.25)
                assert trio.current_time() - begun < 3, "it is flushed half a second after the last write"
            while lake.index.dirty:
                await trio.sleep(0.25)
                assert trio.current_time() - begun < 8

    # the clock is not to run on while a thread writes, however slow the disk is
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.03))


def test_a_store_that_failed_is_left_alone(lake: Lake) -> None:
    looks = looks_of(lake)

    async def main() -> None:
        watch()
        async with lake.running():
            lake.volumes.create("v")
            lake.index.fail(IOFailure("the disk is gone"))
            await trio.sleep(120)
            looks.clear()
            await trio.sleep(120)
            assert len(looks) < 120

    try:
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.005))
    except* IOFailure:
        pass
