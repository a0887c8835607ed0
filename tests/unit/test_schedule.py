"""The daemon's schedule of retention policies, by a clock that jumps."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio
import trio.testing

from snapfs import api
from snapfs.daemon.schedule import FIRST_SECONDS, Schedule
from snapfs.errors import NotFound
from snapfs.volume.limits import Pace

HOUR = 3600.0


class Fake:
    """Volumes with policies, and when these were applied."""

    def __init__(self) -> None:
        self.volumes = ["data"]
        self.failing: set[str] = set()
        self.applied: list[tuple[float, str]] = []

    async def list_volumes(self) -> list[api.Volume]:
        policy = api.RetentionPolicy(last=1)
        with_policy = [api.Volume(name=name, snapshots=1, created_ns=1, policy=policy) for name in self.volumes]
        return [api.Volume(name="free", snapshots=1, created_ns=1), *with_policy]

    async def apply_policy(self, *, volume: str, dry_run: bool) -> api.RetentionReport:
        assert not dry_run
        await trio.sleep(10)
        self.applied.append((round(trio.current_time() - self.start), volume))
        if volume in self.failing:
            raise NotFound("it has just gone")
        return api.RetentionReport(decisions=[], deleted=1, freed_bytes=5, dry_run=False, warnings=["one"])

    start = 0.0


def play(story: Callable[[Fake, Schedule], Awaitable[None]]) -> Fake:
    """The story, from the daemon's start on."""
    service = Fake()
    schedule = Schedule(service)

    async def main() -> None:
        service.start = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(schedule.run)
            await story(service, schedule)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    return service


def test_every_hour_and_soon_after_the_start() -> None:
    async def story(service: Fake, schedule: Schedule) -> None:
        await trio.sleep(2 * HOUR + FIRST_SECONDS + 100)

    assert play(story).applied == [(FIRST_SECONDS + 10 + hour * HOUR, "data") for hour in range(3)]


def test_another_pace_counts_at_once() -> None:
    async def story(service: Fake, schedule: Schedule) -> None:
        await trio.sleep(FIRST_SECONDS + 20)
        schedule.follow(Pace(retention_every_hours=0.1))
        await trio.sleep(0.2 * HOUR)
        assert len(service.applied) == 3
        schedule.follow(Pace(retention_every_hours=0))
        await trio.sleep(100 * HOUR)
        assert len(service.applied) == 3
        schedule.follow(Pace(retention_every_hours=50))  # overdue
        await trio.sleep(20)

    assert len(play(story).applied) == 4


def test_one_that_fails_keeps_no_other_back() -> None:
    async def story(service: Fake, schedule: Schedule) -> None:
        service.volumes = ["a", "b"]
        service.failing = {"a"}
        await trio.sleep(FIRST_SECONDS + 30 + HOUR)

    assert [name for _, name in play(story).applied] == ["a", "b"] * 2
