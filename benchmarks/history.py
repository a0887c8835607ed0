"""Reads, lookups, versioning and lists of a volume with 1 to 10,000 snapshots.

All volumes see the same writes: one 4 KiB page of the next file and one page of a file that changes every time. Only
how often a snapshot is made meanwhile differs: after each change in the one with the most, once at the end in the one
with the fewest.
"""

from __future__ import annotations

import itertools
import os
import random
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import trio

from benchmarks import harness
from benchmarks.harness import VOLUME, Mounted, Options, Report
from benchmarks.verbs import VERBS, walk
from benchmarks.verbs import Engine as Verbs
from snapfs.volume.lake import Lake

FILES = 1000
FILE_BYTES = 16 * 1024
HOT_NAME = b"hot"
HOT_PAGES = 256
PAGE_BYTES = 4096
COUNTS = (1, 10, 100, 1_000, 10_000)

RATIO_MAX = 1.3
LIST_SECONDS_MAX = 1.0

SNAPSHOT_FACTOR = 3
"""More rounds of what takes a few milliseconds, most of them the disk's."""


async def build(store: Path, changes: int, snapshots: int) -> None:
    """Play the history, with so many snapshots at equal distances, the last one at its end."""
    noise = random.Random(1)
    async with harness.opened(store) as (lake, service):
        volume = lake.volumes.get(VOLUME)
        inos = [ino for _, _, ino in walk(lake, volume.head, volume.root)]
        hot = lake.files.mknod(volume.head, volume.root, HOT_NAME, mode=0o100644, uid=0, gid=0).ino
        await lake.files.write(volume.head, hot, 0, noise.randbytes(HOT_PAGES * PAGE_BYTES))
        for number in range(changes):
            page = noise.randrange(HOT_PAGES) * PAGE_BYTES
            await lake.files.write(volume.head, hot, page, noise.randbytes(PAGE_BYTES))
            await lake.files.write(volume.head, inos[number % len(inos)], 0, noise.randbytes(PAGE_BYTES))
            await lake.writeback.flush()
            if (number + 1) * snapshots // changes > number * snapshots // changes:
                await service.create_snapshot(volume=VOLUME, name=f"s{number}")
        await lake.settle()


class Reads:
    """One store; each measurement opens it anew, so that nothing of it is in this process's caches."""

    def __init__(self, store: Path) -> None:
        self._store = store

    async def open(self) -> float:
        begun = time.perf_counter()
        lake = Lake.open(self._store)
        took = time.perf_counter() - begun
        lake.close()
        return took

    async def lookups(self) -> float:
        async with harness.opened(self._store) as (lake, _):
            volume = lake.volumes.get(VOLUME)
            entries = walk(lake, volume.head, volume.root)
            begun = time.perf_counter()
            for directory, name, _ in entries:
                lake.files.lookup(volume.head, directory, name)
            return time.perf_counter() - begun

    async def listing(self) -> float:
        async with harness.opened(self._store) as (lake, _):
            volume = lake.volumes.get(VOLUME)
            return harness.timed(partial(walk, lake, volume.head, volume.root))

    async def reads(self, *, oldest: bool = False) -> float:
        async with harness.opened(self._store) as (lake, _):
            volume = lake.volumes.get(VOLUME)
            view, root = volume.head, volume.root
            if oldest:
                first = next(iter(lake.snapshots.order(volume)))[1]
                record = lake.snapshots.get(first)
                assert record is not None
                view, root = lake.snapshots.view(record), record.root
            inos = [ino for _, _, ino in walk(lake, view, root)]
            begun = time.perf_counter()
            for ino in inos:
                await lake.files.read(view, ino, 0, FILE_BYTES)
            return time.perf_counter() - begun

    async def hot_read(self) -> float:
        async with harness.opened(self._store) as (lake, _):
            volume = lake.volumes.get(VOLUME)
            ino = lake.files.lookup(volume.head, volume.root, HOT_NAME).ino
            return await harness.timed_async(partial(lake.files.read, volume.head, ino, 0, HOT_PAGES * PAGE_BYTES))


class Mount:
    """One store through its mount; the kernel's caches are as fresh as the mount."""

    def __init__(self, mounted: Mounted) -> None:
        self._mounted = mounted
        self._numbers = itertools.count()

    def _fresh(self) -> list[Path]:
        self._mounted.umount()
        self._mounted.mount()
        files = self._mounted.volume
        return [files / harness.file_path(number) for number in range(FILES)]

    def lookups(self) -> float:
        paths = self._fresh()

        def stat_all() -> None:
            for path in paths:
                os.stat(path)

        return harness.timed(stat_all)

    def reads(self) -> float:
        paths = self._fresh()

        def read_all() -> None:
            for path in paths:
                with open(path, "rb", buffering=0) as file:
                    file.read(FILE_BYTES)

        return harness.timed(read_all)

    def snapshot(self) -> float:
        with open(self._mounted.volume / harness.file_path(0), "r+b") as file:
            file.write(os.urandom(PAGE_BYTES))
        name = f"m{next(self._numbers)}"
        return harness.timed(partial(self._mounted.snap, "create", VOLUME, "--name", name))


def tell(
    report: Report, verb: str, series: dict[str, list[float]], *, limit: float | None, held: bool = True
) -> None:  # fmt: skip
    """A row for each count, and the most against the fewest."""
    for count, values in series.items():
        report.values(f"{count} snapshots", {"snapfs": values}, unit="ms", group=verb)
    if held:
        few, *_, many = series
        ends = {f"{count} snapshots": series[count] for count in (few, many)}
        report.compare(verb, ends, limit=limit)


async def measure_reads(report: Report, repeats: int, stores: dict[str, Path]) -> None:
    all_reads = {count: Reads(store) for count, store in stores.items()}
    verbs: dict[str, Callable[[Reads], Awaitable[float]]] = {
        f"look {FILES} names up": Reads.lookups,
        f"list {FILES} entries": Reads.listing,
        f"read {FILES} files of 16 KiB": Reads.reads,
        f"read {FILES} files of 16 KiB in the oldest snapshot": partial(Reads.reads, oldest=True),
        "read a file that every snapshot changed (1 MiB)": Reads.hot_read,
    }
    for verb, call in verbs.items():
        actions = {count: partial(call, reads) for count, reads in all_reads.items()}
        tell(report, f"{verb}: engine", await harness.turns_async(actions, repeats), limit=RATIO_MAX)
    opens = {count: reads.open for count, reads in all_reads.items()}
    tell(report, "open the store: engine", await harness.turns_async(opens, repeats), limit=None, held=False)


async def measure_verbs(report: Report, repeats: int, stores: dict[str, Path]) -> None:
    """Each verb adds a few snapshots: beside a hundred and more that is no difference."""
    async with AsyncExitStack() as stack:
        engines: dict[str, Verbs] = {}
        for count, store in stores.items():
            engines[count] = Verbs(*await stack.enter_async_context(harness.opened(store)), FILES)
            await engines[count].ready()
        for verb, call in VERBS.items():
            actions = {count: partial(call, engine, 1) for count, engine in engines.items()}
            tell(report, f"{verb}: engine", await harness.turns_async(actions, repeats), limit=None)


def measure_mount(report: Report, repeats: int, stores: dict[str, Path]) -> None:
    ends = {f"{count} snapshots": stores[count] for count in (next(iter(stores)), next(reversed(stores)))}
    with harness.mounted(*ends.values()) as mounts:
        by_name = dict(zip(ends, map(Mount, mounts), strict=True))
        verbs: dict[str, Callable[[Mount], float]] = {
            f"stat {FILES} files, fresh mount": Mount.lookups,
            f"read {FILES} files of 16 KiB, fresh mount": Mount.reads,
            "snapshot: command": Mount.snapshot,
        }
        for verb, call in verbs.items():
            actions = {name: partial(call, mount) for name, mount in by_name.items()}
            report.compare(verb, harness.turns(actions, repeats), limit=RATIO_MAX)


def measure_lists(report: Report, repeats: int, store: Path, snapshots: int) -> None:
    """``snap list`` of them all, whole processes: by the daemon that has the store mounted, and without one."""
    mounted = Mounted(store)
    words = {"table": ("list", VOLUME), "JSON": ("list", VOLUME, "--json")}
    actions = {name: partial(harness.timed, partial(mounted.snap, *given)) for name, given in words.items()}

    def tell_all(how: str) -> None:
        for name, values in harness.turns(actions, repeats).items():
            what = f"snap list of {snapshots:,} snapshots, {name}, {how}"
            report.values(what, {"process": values}, unit="s", limit=LIST_SECONDS_MAX)

    tell_all("no daemon")
    with harness.mounted(store):
        tell_all("by the daemon")


def body(report: Report, options: Options, place: Path) -> None:
    most = options.scaled(COUNTS[-1], 10)
    counts = sorted({*(count for count in COUNTS if count < most), most})
    stores = {str(count): place / f"{count}" for count in counts}
    for count, store in zip(counts, stores.values(), strict=True):
        harness.fill(store, files=FILES, payload_bytes=FILE_BYTES, size_bytes=FILE_BYTES)
        trio.run(build, store, most, count)
    harness.settle()
    measure_lists(report, options.repeats, stores[str(most)], most)
    trio.run(measure_reads, report, options.repeats, stores)
    measure_mount(report, options.repeats, stores)
    trio.run(measure_verbs, report, SNAPSHOT_FACTOR * options.repeats, stores)


if __name__ == "__main__":
    question = "do reads, lookups and versioning cost the same after 10,000 snapshots as after one?"
    sys.exit(harness.main(Report("history", question), body, repeats=3, full_repeats=5, scale=0.1))
