"""Reads, lookups and a new snapshot in a volume with 2,000 snapshots against one with a single snapshot.

Both volumes see the same writes: one 4 KiB page of the next file and one page of a file that changes every time.  One
is snapshotted after each of them, the other once at the end: what differs is the history alone.
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
from snapfs.service import Service
from snapfs.types import Ino
from snapfs.versions.epochs import View
from snapfs.volume.lake import Lake

FILES = 1000
FILE_BYTES = 16 * 1024
HOT_NAME = b"hot"
HOT_PAGES = 256
PAGE_BYTES = 4096
SNAPSHOTS = 2000

RATIO_MAX = 1.5

SNAPSHOT_FACTOR = 3
"""More rounds of what takes a few milliseconds, most of them the disk's."""


async def build(store: Path, snapshots: int, *, each: bool) -> None:
    """Play the history; ``each``: with a snapshot after each change."""
    noise = random.Random(1)
    async with harness.opened(store) as (lake, service):
        volume = lake.volumes.get(VOLUME)
        inos = [ino for _, _, ino in walk(lake, volume.head, volume.root)]
        hot = lake.files.mknod(volume.head, volume.root, HOT_NAME, mode=0o100644, uid=0, gid=0).ino
        await lake.files.write(volume.head, hot, 0, noise.randbytes(HOT_PAGES * PAGE_BYTES))
        for number in range(snapshots):
            page = noise.randrange(HOT_PAGES) * PAGE_BYTES
            await lake.files.write(volume.head, hot, page, noise.randbytes(PAGE_BYTES))
            await lake.files.write(volume.head, inos[number % len(inos)], 0, noise.randbytes(PAGE_BYTES))
            await lake.writeback.flush()
            if each or number == snapshots - 1:
                await service.create_snapshot(volume=VOLUME, name=f"s{number}")


def walk(lake: Lake, view: View, root: Ino) -> list[tuple[Ino, bytes, Ino]]:
    """(directory, name, inode) of all files in the directories of the root."""
    directories = [ino for _, name, ino, _ in lake.files.readdir(view, root, 0) if name != HOT_NAME]
    return [(d, name, ino) for d in directories for _, name, ino, _ in lake.files.readdir(view, d, 0)]


class Engine:
    """One store; each measurement opens it anew, so that nothing of it is in this process's caches."""

    def __init__(self, store: Path, oldest: str) -> None:
        self._store = store
        self._oldest = oldest

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
                record = lake.snapshots.resolve(volume, self._oldest)
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


class Snapshotting:
    """A store that stays open."""

    def __init__(self, lake: Lake, service: Service) -> None:
        self._lake = lake
        self._service = service
        self._numbers = itertools.count()

    async def snapshot(self) -> float:
        volume = self._lake.volumes.get(VOLUME)
        ino = walk(self._lake, volume.head, volume.root)[0][2]
        await self._lake.files.write(volume.head, ino, 0, os.urandom(PAGE_BYTES))
        name = f"e{next(self._numbers)}"
        return await harness.timed_async(partial(self._service.create_snapshot, volume=VOLUME, name=name))


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


async def measure_engine(report: Report, repeats: int, engines: dict[str, Engine]) -> None:
    verbs: dict[str, Callable[[Engine], Awaitable[float]]] = {
        f"look {FILES} names up": Engine.lookups,
        f"list {FILES} entries": Engine.listing,
        f"read {FILES} files of 16 KiB": Engine.reads,
        f"read {FILES} files of 16 KiB in the oldest snapshot": partial(Engine.reads, oldest=True),
        "read a file that every snapshot changed (1 MiB)": Engine.hot_read,
    }
    for verb, call in verbs.items():
        actions = {name: partial(call, engine) for name, engine in engines.items()}
        report.compare(f"{verb}: engine", await harness.turns_async(actions, repeats), limit=RATIO_MAX)
    opens = {name: engine.open for name, engine in engines.items()}
    report.compare("open the store: engine", await harness.turns_async(opens, repeats))


async def measure_snapshot(report: Report, repeats: int, stores: dict[str, Path]) -> None:
    """The volume with one snapshot has a few by the end: next to thousands that is no difference."""
    async with AsyncExitStack() as stack:
        opened = {
            name: Snapshotting(*await stack.enter_async_context(harness.opened(store)))
            for name, store in stores.items()
        }
        actions = {name: one.snapshot for name, one in opened.items()}
        report.compare("snapshot: engine", await harness.turns_async(actions, repeats), limit=RATIO_MAX)


def measure_mount(report: Report, repeats: int, stores: dict[str, Path]) -> None:
    with harness.mounted(*stores.values()) as mounts:
        by_name = dict(zip(stores, map(Mount, mounts), strict=True))
        verbs: dict[str, Callable[[Mount], float]] = {
            f"stat {FILES} files, fresh mount": Mount.lookups,
            f"read {FILES} files of 16 KiB, fresh mount": Mount.reads,
            "snapshot: command": Mount.snapshot,
        }
        for verb, call in verbs.items():
            actions = {name: partial(call, mount) for name, mount in by_name.items()}
            report.compare(verb, harness.turns(actions, repeats), limit=RATIO_MAX)


def body(report: Report, options: Options, place: Path) -> None:
    snapshots = options.scaled(SNAPSHOTS, 10)
    stores = {"1 snapshot": place / "one", f"{snapshots:,} snapshots": place / "many"}
    oldest = {"1 snapshot": f"s{snapshots - 1}", f"{snapshots:,} snapshots": "s0"}
    for name, store in stores.items():
        harness.fill(store, files=FILES, payload_bytes=FILE_BYTES, size_bytes=FILE_BYTES)
        trio.run(partial(build, store, snapshots, each=name != "1 snapshot"))
    harness.settle()
    engines = {name: Engine(store, oldest[name]) for name, store in stores.items()}
    trio.run(measure_engine, report, options.repeats, engines)
    trio.run(measure_snapshot, report, SNAPSHOT_FACTOR * options.repeats, stores)
    measure_mount(report, options.repeats, stores)


if __name__ == "__main__":
    question = "do reads, lookups and a new snapshot cost the same after 2,000 snapshots as after one?"
    sys.exit(harness.main(Report("history", question), body, repeats=12))
