"""What deleting gives back, and what a reader notices of it.

Of a dataset 1,000 snapshots are made, each after a hundred pages were written in place and a small file was replaced.
Five volumes are cloned from some of them; then all but ten are deleted, in a random order, those that were cloned
too, while a process reads 4 KiB at random places of the mount.  Beside it a store that saw the same writes and clones
but never made more than what is left.

A read takes its page from the daemon: what the kernel has cached of it is dropped after each.  The reader rests for a
millisecond between two of them.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks import contents, harness
from benchmarks.contents import PAGE_BYTES
from benchmarks.harness import VOLUME, Mounted, Options, Report
from benchmarks.peers import settle_store
from snapfs import client
from snapfs.client import Client

FILES = 20
FILE_BYTES = 25_000_000
SNAPSHOTS = 1000
KEPT = 10
CLONES = 5
PAGES_A_VERSION = 100
SMALL_BYTES = 64 * 1024

SPACE_FACTOR_MAX = 1.03
LATENCY_FACTOR_MAX = 2.0
PERCENTILE = 0.99

QUIET_SECONDS = 15.0
"""How long reads are timed before anything is deleted."""
REST_SECONDS = 0.001
SETTLE_SECONDS_MAX = 3600.0
POLL_SECONDS = 3.0
CALL_SECONDS_MAX = 120.0


class Plan:
    """Which versions are kept by a snapshot, which are cloned from; the same for both stores."""

    def __init__(self, snapshots: int) -> None:
        dice = random.Random(11)
        self.versions = snapshots
        chosen = dice.sample(range(snapshots), KEPT + CLONES)
        self.kept = sorted(chosen[:KEPT])
        self.cloned = sorted(chosen[KEPT:])
        self.order = [number for number in range(snapshots) if number not in self.kept]
        dice.shuffle(self.order)


def play(mounted: Mounted, plan: Plan, file_bytes: int, wanted: set[int]) -> None:
    """All versions, of which ``wanted`` get a snapshot; then the clones."""
    dice = random.Random(12)
    paths = [mounted.volume / f"{number:02d}.bin" for number in range(FILES)]
    for number, path in enumerate(paths):
        contents.write_noise(path, file_bytes, number)
    with connected(mounted) as connection:
        for version in range(plan.versions):
            for path, pages in _places(paths, file_bytes, dice).items():
                contents.change_pages(path, pages, dice)
            (mounted.volume / "small").write_bytes(dice.randbytes(SMALL_BYTES))
            if version in wanted:
                connection.create_snapshot(volume=VOLUME, name=f"s{version}")
        for number in plan.cloned:
            connection.clone(volume=VOLUME, snapshot=f"s{number}", name=f"clone{number}")


def _places(paths: list[Path], file_bytes: int, dice: random.Random) -> dict[Path, list[int]]:
    found: dict[Path, list[int]] = {}
    for _ in range(PAGES_A_VERSION):
        found.setdefault(dice.choice(paths), []).append(dice.randrange(file_bytes // PAGE_BYTES))
    return found


@contextmanager
def connected(mounted: Mounted) -> Iterator[Client]:
    with client.connect(mounted.store, timeout_seconds=CALL_SECONDS_MAX) as connection:
        yield connection


def delete(mounted: Mounted, numbers: list[int]) -> list[float]:
    """Seconds that each took to answer."""
    took: list[float] = []
    with connected(mounted) as connection:
        for number in numbers:
            begun = time.perf_counter()
            connection.delete_snapshot(volume=VOLUME, snapshot=f"s{number}", purge=True)
            took.append(time.perf_counter() - begun)
    return took


def drain(mounted: Mounted) -> float:
    """Wait until nothing is being given back any more; seconds."""
    begun = time.perf_counter()
    with connected(mounted) as connection:
        while time.perf_counter() - begun < SETTLE_SECONDS_MAX:
            space = connection.get_space()
            if not (space.deleting_bytes or space.waiting_bytes):
                break
            time.sleep(POLL_SECONDS)
    return time.perf_counter() - begun


def settle(mounted: Mounted) -> None:
    """... and until what is left was put together, which waits for a quiet moment."""
    drain(mounted)
    settle_store(mounted.store)


# -- the reader


def read_pages(paths: list[Path], told: Connection) -> None:
    """Reads until something is told; then sends (when each began, seconds that it took)."""
    dice = random.Random(13)
    fds = [os.open(path, os.O_RDONLY) for path in paths]
    pages = [os.fstat(fd).st_size // PAGE_BYTES for fd in fds]
    for fd in fds:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    found: list[tuple[float, float]] = []
    while not told.poll():
        number = dice.randrange(len(fds))
        fd, offset = fds[number], dice.randrange(pages[number]) * PAGE_BYTES
        begun = time.perf_counter()
        data = os.pread(fd, PAGE_BYTES, offset)
        found.append((begun, time.perf_counter() - begun))
        if len(data) != PAGE_BYTES:
            raise SystemExit(f"a read at {offset} of {paths[number]} gave {len(data)} bytes")
        os.posix_fadvise(fd, offset, PAGE_BYTES, os.POSIX_FADV_DONTNEED)
        time.sleep(REST_SECONDS)
    told.send(found)


@contextmanager
def reading(mounted: Mounted) -> Iterator[list[tuple[float, float]]]:
    """A process that reads while it lasts; afterwards the list has what it found."""
    paths = [mounted.volume / f"{number:02d}.bin" for number in range(FILES)]
    ours, theirs = multiprocessing.Pipe()
    reader = multiprocessing.get_context("spawn").Process(target=read_pages, args=(paths, theirs))
    reader.start()
    theirs.close()
    found: list[tuple[float, float]] = []
    try:
        yield found
        ours.send("stop")
        found += ours.recv()
        reader.join()
    finally:
        if reader.is_alive():
            reader.terminate()
            reader.join()


def percentile(values: list[float]) -> float:
    return sorted(values)[min(len(values) - 1, int(PERCENTILE * len(values)))]


# -- the report


def shrink(report: Report, mounted: Mounted, plan: Plan) -> None:
    """Delete, beside a reader; tell what it noticed."""
    settle(mounted)
    harness.settle()
    with reading(mounted) as reads:
        time.sleep(QUIET_SECONDS)
        begun = time.perf_counter()
        answers = delete(mounted, plan.order)
        deleted = time.perf_counter()
        draining = drain(mounted)
        ended = deleted + draining
    settle(mounted)
    before = [took for when, took in reads if when < begun]
    meanwhile = [took for when, took in reads if begun <= when < ended]
    report.values(f"delete a snapshot ({len(plan.order)} of them): time to answer", {"call": answers}, unit="ms")
    report.values("until all space was given back", {"after the last answer": [draining]}, unit="s")
    series = {"before": before, "while deleting": meanwhile}
    report.values("read 4 KiB", series, unit="ms")
    p99 = {name: [percentile(values)] for name, values in series.items()}
    report.compare(f"read 4 KiB, p{PERCENTILE * 100:.0f}", p99, unit="ms", limit=LATENCY_FACTOR_MAX)


def store_of(place: Path, name: str, plan: Plan, file_bytes: int, wanted: set[int]) -> Path:
    store = place / name
    harness.snap("init", store)
    with harness.mounted(store) as (mounted,):
        mounted.snap("volume", "create", VOLUME)
        play(mounted, plan, file_bytes, wanted)
    return store


def body(report: Report, options: Options, place: Path) -> None:
    plan = Plan(options.scaled(SNAPSHOTS, 4 * (KEPT + CLONES)))
    file_bytes = options.scaled(FILE_BYTES, 1_000_000) // PAGE_BYTES * PAGE_BYTES
    reference = store_of(place, "reference", plan, file_bytes, {*plan.kept, *plan.cloned})
    with harness.mounted(reference) as (mounted,):
        delete(mounted, plan.cloned)
        settle(mounted)
    store = store_of(place, "store", plan, file_bytes, set(range(plan.versions)))
    full_bytes = harness.disk_bytes(store)
    with harness.mounted(store) as (mounted,):
        shrink(report, mounted, plan)
    for one in (reference, store):
        harness.snap("fsck", one)  # anything found is an error
    sizes = {"only ever the ten": reference, f"after {len(plan.order)} were deleted": store}
    for part in ("segments", "index"):
        report.values(part, {name: [harness.disk_bytes(path / part)] for name, path in sizes.items()}, unit="MB")
    report.values("before anything was deleted", {"on disk": [full_bytes]}, unit="MB")
    held = {name: [float(harness.disk_bytes(path))] for name, path in sizes.items()}
    report.compare("what the store takes on disk", held, unit="MB", limit=SPACE_FACTOR_MAX)
    kept = statistics.median(held["only ever the ten"])
    print(f"\n({len(plan.kept)} snapshots and {len(plan.cloned)} clones are left; {kept / 1e6:,.0f} MB)")


if __name__ == "__main__":
    question = "does deleting give all space back, and what does a reader notice?"
    sys.exit(harness.main(Report("deletion", question), body, repeats=1, scale=0.05, full_scale=0.1))
