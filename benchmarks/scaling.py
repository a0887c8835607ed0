"""Snapshot, clone and checkout of a volume with 100,000 files and 10 GB against one with 100 files.

Both are in stores of their own, so that the index is as large as the volume.  Through the mount the whole tree has been
walked before, so that the kernel and the daemon know every file of it.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import trio

from benchmarks import harness
from benchmarks.harness import VOLUME, Mounted, Options, Report
from snapfs import api
from snapfs.service import Service
from snapfs.volume.lake import Lake

FEW, MANY = 100, 100_000
PAYLOAD_BYTES = 4096
SIZE_BYTES = 100_000
"""Times 100,000 is 10 GB; all but the payload is a hole, which to a snapshot is the same."""

SWITCHED_FILES = 100
"""Files that differ between the two snapshots of the larger checkout."""

RATIO_MAX = 1.5

ENGINE_FACTOR = 4
"""More rounds of what takes a few milliseconds, most of them the disk's."""


class Engine:
    """The verbs on one store, in this process."""

    def __init__(self, lake: Lake, service: Service) -> None:
        self._lake = lake
        self._service = service
        self._numbers = itertools.count()
        self._side = 0

    async def change(self, numbers: range) -> None:
        """Write the first page of each of the files."""
        view, root = (volume := self._lake.volumes.get(VOLUME)).head, volume.root
        for number in numbers:
            ino = root
            for name in harness.file_path(number).encode().split(b"/"):
                ino = self._lake.files.lookup(view, ino, name).ino
            await self._lake.files.write(view, ino, 0, os.urandom(PAYLOAD_BYTES))

    async def create(self, name: str) -> None:
        await self._service.create_snapshot(volume=VOLUME, name=name)

    async def snapshot(self) -> float:
        await self.change(range(1))
        return await harness.timed_async(partial(self.create, f"s{next(self._numbers)}"))

    async def clone(self) -> float:
        name = f"c{next(self._numbers)}"
        return await harness.timed_async(partial(self._service.clone, volume=VOLUME, snapshot="near-0", name=name))

    async def checkout(self, pair: str) -> float:
        self._side = 1 - self._side
        name = f"{pair}-{self._side}"
        await self._service.checkout(volume=VOLUME, snapshot=f"{pair}-{1 - self._side}", unsaved=api.Save.DISCARD)
        begun = time.perf_counter()
        done = await self._service.checkout(volume=VOLUME, snapshot=name)
        took = time.perf_counter() - begun
        assert done.moved
        return took


class Commands:
    """The verbs on one mounted store, as whole processes."""

    def __init__(self, mounted: Mounted) -> None:
        self._mounted = mounted
        self._numbers = itertools.count()
        self._side = 0

    def snapshot(self) -> float:
        with open(self._mounted.volume / harness.file_path(0), "r+b") as file:
            file.write(os.urandom(PAYLOAD_BYTES))
        name = f"m{next(self._numbers)}"
        return harness.timed(partial(self._mounted.snap, "create", VOLUME, "--name", name))

    def clone(self) -> float:
        name = f"n{next(self._numbers)}"
        return harness.timed(partial(self._mounted.snap, "clone", f"{VOLUME}@near-0", name))

    def checkout(self, pair: str) -> float:
        self._side = 1 - self._side
        self._mounted.snap("checkout", "--discard", f"{VOLUME}@{pair}-{1 - self._side}")
        return harness.timed(partial(self._mounted.snap, "checkout", f"{VOLUME}@{pair}-{self._side}"))


async def measure_engine(report: Report, repeats: int, stores: dict[str, Path]) -> None:
    async with AsyncExitStack() as stack:
        engines = {}
        for name, store in stores.items():
            engine = engines[name] = Engine(*await stack.enter_async_context(harness.opened(store)))
            for pair, files in (("near", range(1)), ("far", range(SWITCHED_FILES))):
                for side in range(2):
                    await engine.change(files)
                    await engine.create(f"{pair}-{side}")
        harness.settle()
        verbs: dict[str, Callable[[Engine], Awaitable[float]]] = {
            "snapshot": Engine.snapshot,
            "clone": Engine.clone,
            "checkout, 1 file differs": lambda engine: engine.checkout("near"),
            f"checkout, {SWITCHED_FILES} files differ": lambda engine: engine.checkout("far"),
        }
        for verb, call in verbs.items():
            actions = {name: partial(call, engine) for name, engine in engines.items()}
            series = await harness.turns_async(actions, repeats)
            report.compare(f"{verb}: engine", series, limit=RATIO_MAX)


def measure_commands(report: Report, repeats: int, stores: dict[str, Path]) -> None:
    with harness.mounted(*stores.values()) as mounts:
        for mount in mounts:
            harness.run("find", mount.volume, "-size", "+1", "-newermt", "2000-01-01")  # a stat of each
        harness.settle()
        commands = dict(zip(stores, map(Commands, mounts), strict=True))
        verbs: dict[str, Callable[[Commands], float]] = {
            "snapshot": Commands.snapshot,
            "clone": Commands.clone,
            "checkout, 1 file differs": lambda command: command.checkout("near"),
            f"checkout, {SWITCHED_FILES} files differ": lambda command: command.checkout("far"),
        }
        for verb, call in verbs.items():
            actions = {name: partial(call, command) for name, command in commands.items()}
            report.compare(f"{verb}: command", harness.turns(actions, repeats), limit=RATIO_MAX)


def body(report: Report, options: Options, place: Path) -> None:
    many = options.scaled(MANY, FEW)
    stores = {f"{FEW:,} files": place / "few", f"{many:,} files": place / "many"}
    for store, files in zip(stores.values(), (FEW, many), strict=True):
        harness.fill(store, files=files, payload_bytes=PAYLOAD_BYTES, size_bytes=SIZE_BYTES)
    trio.run(measure_engine, report, ENGINE_FACTOR * options.repeats, stores)
    measure_commands(report, options.repeats, stores)


if __name__ == "__main__":
    question = "do snapshot, clone and checkout take the same, whatever the volume's size?"
    sys.exit(harness.main(Report("scaling", question), body, repeats=20))
