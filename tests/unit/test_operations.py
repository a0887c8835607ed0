"""Long work: its states, progress, results, cancellation and bounds."""

from __future__ import annotations

import itertools
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager

import pytest
import trio
import trio.testing

from snapfs import api
from snapfs.api import OperationState
from snapfs.errors import Busy, Corrupt, NotFound, Unavailable
from snapfs.operations import ENDED_MAX, RUNNING_MAX, UPDATE_SECONDS, Operations
from snapfs.testing.engine import EngineSubject

REPORT = api.CheckReport(findings=[], inodes=1, blocks=2, snapshots=3, data_read_bytes=4)


@asynccontextmanager
async def running() -> AsyncIterator[Operations]:
    operations = Operations()
    async with trio.open_nursery() as nursery:
        await nursery.start(operations.run)
        try:
            yield operations
        finally:
            nursery.cancel_scope.cancel()


class Job:
    """Work that goes on as it is told."""

    def __init__(self) -> None:
        self.progress: Callable[[int, int], None] = lambda done, total: None
        self.begun = trio.Event()
        self.finish = trio.Event()
        self.failure: Exception | None = None
        self.was_cancelled = False

    async def __call__(self, progress: Callable[[int, int], None]) -> api.CheckReport:
        self.progress = progress
        self.begun.set()
        try:
            await self.finish.wait()
        except trio.Cancelled:
            self.was_cancelled = True
            raise
        if self.failure is not None:
            raise self.failure
        return REPORT


async def ended(operations: Operations, id: str) -> api.Operation:
    with trio.fail_after(10):
        async with aclosing(operations.watch(id)) as updates:
            seen = [update async for update in updates]
    assert operations.get(id) == seen[-1]
    return seen[-1]


async def test_success() -> None:
    async with running() as operations:
        job = Job()
        started = operations.start("check", job)
        assert (started.kind, started.state, started.end_ns) == ("check", OperationState.RUNNING, 0)
        assert started.start_ns > 0
        await job.begun.wait()
        job.progress(3, 10)
        assert (operations.get(started.id).done, operations.get(started.id).total) == (3, 10)
        job.finish.set()
        done = await ended(operations, started.id)
        assert (done.state, done.check, done.error, done.done) == (OperationState.SUCCEEDED, REPORT, None, 3)
        assert done.end_ns >= done.start_ns
        job.progress(4, 10)  # too late
        assert operations.get(started.id) == done


async def test_failure(caplog: pytest.LogCaptureFixture) -> None:
    async with running() as operations:
        known, bug = Job(), Job()
        known.failure, bug.failure = Corrupt("damaged", hint="mend it"), ZeroDivisionError("a bug")
        ids = [operations.start("check", job).id for job in (known, bug)]
        for job in (known, bug):
            job.finish.set()
        told = await ended(operations, ids[0])
        assert told.state is OperationState.FAILED
        assert told.error == api.OperationError(kind="corrupt", message="damaged", hint="mend it")
        assert told.check is None
        with caplog.at_level(logging.ERROR):
            internal = await ended(operations, ids[1])
        assert internal.error is not None
        assert (internal.error.kind, internal.error.message) == ("io", "internal error: ZeroDivisionError: a bug")
        assert "ZeroDivisionError" in caplog.text


async def test_cancelling() -> None:
    async with running() as operations:
        job = Job()
        id = operations.start("check", job).id
        await job.begun.wait()
        operations.cancel(id)
        cancelled = await ended(operations, id)
        assert (cancelled.state, cancelled.check, cancelled.error) == (OperationState.CANCELLED, None, None)
        assert job.was_cancelled
        assert operations.cancel(id) == cancelled
        early = operations.start("check", Job()).id
        operations.cancel(early)  # before its first step
        assert (await ended(operations, early)).state is OperationState.CANCELLED


async def test_unknown_ones() -> None:
    async with running() as operations:
        for ask in (operations.get, operations.cancel):
            with pytest.raises(NotFound):
                ask("missing")
        with pytest.raises(NotFound):
            await anext(operations.watch("missing"))


async def test_bounds_and_order() -> None:
    async with running() as operations:
        jobs = [Job() for _ in range(RUNNING_MAX)]
        ids = [operations.start("check", job).id for job in jobs]
        with pytest.raises(Busy):
            operations.start("check", Job())
        assert {operation.id for operation in operations.list()} == set(ids)
        jobs[0].finish.set()
        await ended(operations, ids[0])
        for _ in range(ENDED_MAX):
            job = Job()
            job.finish.set()
            await ended(operations, operations.start("check", job).id)
        with pytest.raises(NotFound):
            operations.get(ids[0])
        everything = operations.list()
        assert len(everything) == ENDED_MAX + RUNNING_MAX - 1
        starts = [operation.start_ns for operation in everything]
        assert starts == sorted(starts, reverse=True)
        assert {operation.id for operation in everything[ENDED_MAX:]} == set(ids[1:])


async def test_the_same_key_is_the_same_operation() -> None:
    async with running() as operations:
        job = Job()
        first = operations.start("check", job, key=b"key")
        assert operations.start("check", Job(), key=b"key") == first
        assert operations.start("check", Job(), key=b"other").id != first.id
        assert operations.start("check", Job()).id != first.id
        job.finish.set()
        done = await ended(operations, first.id)
        assert operations.start("check", Job(), key=b"key") == done


async def test_a_watcher_is_told_seldom_but_of_the_end_at_once(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as operations:
        job = Job()
        id = operations.start("check", job).id
        seen: list[tuple[float, int, OperationState]] = []

        async def follow() -> None:
            async with aclosing(operations.watch(id)) as updates:
                async for update in updates:
                    seen.append((trio.current_time(), update.done, update.state))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow)
            await job.begun.wait()
            for step in range(1, 101):
                job.progress(step, 100)
                await trio.sleep(0.01)
            await trio.sleep(5)  # nothing happens: nothing is told
            job.progress(100, 100)  # nothing new
            await trio.sleep(5)
            job.progress(101, 101)
            await trio.sleep(0.001)
            job.finish.set()
        times = [time for time, _, _ in seen]
        assert all(later - earlier > UPDATE_SECONDS * 0.99 for earlier, later in itertools.pairwise(times[:-1]))
        assert 10 <= len(seen) <= 14
        assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
        assert seen[-1][1:] == (101, OperationState.SUCCEEDED)
        assert times[-1] - times[-2] < UPDATE_SECONDS


@pytest.mark.parametrize("cancel", [True, False])
async def test_an_abandoned_operation(cancel: bool) -> None:
    async with running() as operations:
        job = Job()
        id = operations.start("check", job).id
        async with aclosing(operations.watch(id, cancel_when_abandoned=cancel)) as updates:
            assert (await anext(updates)).state is OperationState.RUNNING
        await trio.testing.wait_all_tasks_blocked()
        assert job.was_cancelled == cancel
        assert operations.get(id).state is (OperationState.CANCELLED if cancel else OperationState.RUNNING)
        job.finish.set()


async def test_the_end_of_the_process() -> None:
    job = Job()
    async with running() as operations:
        id = operations.start("check", job).id
        await job.begun.wait()
    assert job.was_cancelled
    assert operations.get(id).state is OperationState.CANCELLED
    with pytest.raises(Unavailable):
        operations.start("check", Job())


def test_a_check_of_a_store(engine: EngineSubject) -> None:
    engine.write("data", (b"f",), 0, bytes(range(256)) * 1000)
    engine.snapshot("data", "one")

    async def play() -> api.Operation:
        async with running() as operations:
            started = operations.start("check", lambda progress: engine.service.check_store(progress=progress))
            return await ended(operations, started.id)

    done = engine.run(play)
    assert done.state is OperationState.SUCCEEDED
    assert done.check is not None
    assert (done.check.findings, done.check.snapshots) == ([], 1)
    assert done.done == done.total == done.check.blocks > 0
