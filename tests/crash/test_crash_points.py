"""Every operation of a workload is a moment to crash: killed, without power, with an error.  And bugs that are put in
on purpose are found."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from snapfs.store import redo
from snapfs.store.blocks import Blocks
from snapfs.store.index import items
from snapfs.store.segments import Segments
from snapfs.testing import crashing, workloads
from snapfs.testing.crashing import Recording, Survey, Workload
from snapfs.testing.crashing_disk import REDO_SYNC, CrashingDisk, Kind
from snapfs.types import BlockId
from snapfs.volume.core import Core
from snapfs.volume.files import Files
from snapfs.volume.lake import Lake

SEEDS = range(100, 105)
POINTS_MIN = 2000
"""In each of the three ways."""
ALL = [*workloads.NAMED, *(workloads.random_steps(seed) for seed in SEEDS)]


def survey(workload: Workload, place: Path, points: int, errors: int) -> tuple[Survey, Recording]:
    """At so many points, spread out, in the two ways that play a crash; at so many in the one that fails; 0: all."""
    recording = crashing.record(workload, place)
    found = Survey()
    crashing.crash(recording, spread(recording.points, points), place, found)
    crashing.fail(recording, spread(recording.points, errors), place, found)
    return found, recording


def spread(points: list[int], count: int) -> list[int]:
    step = len(points) / count if count else 1
    return points if step <= 1 else [points[int(number * step)] for number in range(count)]


def expect_sound(found: Survey) -> None:
    assert not found.wrong, f"{len(found.wrong)} of {dict(found.tried)}:\n" + "\n".join(found.wrong[:10])


@pytest.mark.parametrize("workload", [*workloads.NAMED, workloads.random_steps(1)], ids=lambda w: w.__name__)
def test_some_points(workload: Workload, place: Path) -> None:
    found, _ = survey(workload, place, 22, 4)
    expect_sound(found)
    assert found.tried == {"kill": 22, "power": 22, "error": 4}


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("workload", ALL, ids=lambda w: w.__name__)
def test_all_points(workload: Workload, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing acknowledged is lost, nothing is half there, nothing leaks, wherever the crash comes."""
    found, recording = survey(workload, place, 0, 0)
    with capsys.disabled():
        print(f"\n{recording.name}: {dict(found.tried)}, wrong: {len(found.wrong)}")
    expect_sound(found)
    assert set(found.tried.values()) == {len(recording.points)}


@pytest.mark.soak
def test_there_are_points_enough(place: Path) -> None:
    assert sum(len(crashing.record(workload, place).points) for workload in ALL) >= POINTS_MIN


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_reads_and_opens_that_fail(place: Path) -> None:
    """They change nothing on the disk: only to fail there is a way of its own."""
    total = Survey()
    for workload in workloads.NAMED:
        recording = crashing.record(workload, place)
        points = [n for n, one in enumerate(recording.log) if one.kind in (Kind.OPEN, Kind.READ)]
        crashing.fail(recording, points, place, total)
    expect_sound(total)
    assert total.tried["error"] > 100


# -- the harness finds bugs

Patch = pytest.MonkeyPatch


def no_segment_sync(patch: Patch) -> None:
    patch.setattr(Segments, "sync", lambda self: self.unsynced.clear())


def index_first(patch: Patch) -> None:
    async def publish(self: Lake) -> None:
        segments = self.core.blocks.segments
        later, segments.unsynced = segments.unsynced, set()
        self.index.commit()
        segments.unsynced = later
        segments.sync()

    patch.setattr(Lake, "_publish", publish)


def no_checksum(patch: Patch) -> None:
    patch.setattr("snapfs.store.unpacking.digest", Everything())


class Everything:
    """A digest that is every other."""

    def __call__(self, _: object) -> Everything:
        return self

    def __eq__(self, _: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0


def freed_early(patch: Patch) -> None:
    def reclaimable(self: Blocks, limit: int, after: bytes = b"") -> list[tuple[bytes, BlockId]]:
        waiting = [(key, BlockId(int.from_bytes(key[8:], "big"))) for key, _ in items(self._index, "freed")]
        return [one for one in waiting if one[0] > after][:limit]

    patch.setattr(Blocks, "reclaimable", reclaimable)


def no_directory_sync(patch: Patch) -> None:
    patch.setattr(CrashingDisk, "sync_directory", lambda self, what, path: None)


def forgotten_hook(patch: Patch) -> None:
    patch.setattr(Core, "_before_commit", lambda self: None)


def fsync_without_commit(patch: Patch) -> None:
    async def fsync(self: Files, view: Any, ino: Any) -> None:
        await self._writeback.flush(view=view, ino=ino)

    patch.setattr(Files, "fsync", fsync)


def sync_tried_again(patch: Patch) -> None:
    async def publish(self: Lake) -> None:
        self.core.blocks.segments.sync()  # what it raises is told, and the next one is believed
        self.index.commit()

    patch.setattr(Lake, "_publish", publish)


def blocks_not_in_the_log(patch: Patch) -> None:
    patch.setattr(Segments, "_note", lambda *_: None)


def blocks_not_restored(patch: Patch) -> None:
    patch.setattr(redo, "restore", lambda *_: None)


def log_outlives_its_commit(patch: Patch) -> None:
    patch.setattr(redo, "new_name", lambda: b"always the same.")


def log_not_synced(patch: Patch) -> None:
    sync = CrashingDisk.sync

    def count(self: CrashingDisk, what: str, fd: int) -> None:
        if what == REDO_SYNC:
            self.commits += 1
        else:
            sync(self, what, fd)

    patch.setattr(CrashingDisk, "sync", count)


def put_not_in_the_log(patch: Patch) -> None:
    take = redo.Redo.take

    def forget(self: redo.Redo, pieces: list[redo.Piece]) -> Any:
        if self.pending is not None:
            self.pending = deque([put for put in self.pending if put[0] != "segments"], redo.PUTS_MAX + 1)
        return take(self, pieces)

    patch.setattr(redo.Redo, "take", forget)


BUGS: list[tuple[Callable[[Patch], None], Workload, str, str]] = [
    (no_segment_sync, workloads.overwrites, "crash", ""),
    (index_first, workloads.overwrites, "crash", ""),
    (no_checksum, workloads.overwrites, "crash", ""),
    (freed_early, workloads.versions, "crash", "index.commit"),
    (no_directory_sync, workloads.removals, "crash", ""),
    (forgotten_hook, workloads.small_files, "crash", ""),
    (fsync_without_commit, workloads.saves, "crash", ""),
    (sync_tried_again, workloads.overwrites, "fail", "segment.sync"),
    (blocks_not_in_the_log, workloads.overwrites, "crash", ""),
    (blocks_not_restored, workloads.overwrites, "crash", ""),
    (log_outlives_its_commit, workloads.overwrites, "crash", ""),
    (log_not_synced, workloads.overwrites, "crash", ""),
    (put_not_in_the_log, workloads.overwrites, "crash", ""),
]
"""The bug, a workload that it hurts, the way to stop, and at which operations (empty: all)."""


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("bug", "workload", "way", "where"), BUGS, ids=lambda value: getattr(value, "__name__", value))
def test_a_bug_is_found(
    bug: Callable[[Patch], None], workload: Workload, way: str, where: str, place: Path, monkeypatch: Patch,
    record_property: Any,
) -> None:  # fmt: skip
    """Put in on purpose.  How many crash points it takes is noted with the test's result."""
    bug(monkeypatch)
    found = Survey()
    try:
        recording = crashing.record(workload, place)
    except crashing.Broken:
        record_property("crash points", 0)  # acknowledged, and seen not to be durable at once
        return
    points = [point for point in recording.points if recording.log[point].name.startswith(where)]
    random.Random(1).shuffle(points)
    for point in points:
        if way == "crash":
            crashing.crash(recording, [point], place, found)
        else:
            crashing.fail(recording, [point], place, found)
        if found.wrong:
            break
    assert found.wrong, f"not found at {len(points)} crash points"
    record_property("crash points", sum(found.tried.values()))
    print(f"{bug.__name__}: {sum(found.tried.values())} crash points; {found.wrong[0]}")
