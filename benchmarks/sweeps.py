"""Snapshot, clone, checkout, diff and deletion of volumes with 100 to 1,000,000 files, and of 1 to 10,000 changes.

Each volume is in a store of its own, so that the index is as large as the volume. Through the mount the whole tree
has been walked before, so that the kernel and the daemon know every file of it. What a volume's size must not show in
is held against a limit: the largest volume against the smallest, one file changed. What a change's size costs is
shown, beside the same verb after one file was changed, in a volume of 100,000 files.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import trio

from benchmarks import harness
from benchmarks.harness import VOLUME, Mounted, Options, Report
from benchmarks.verbs import PAYLOAD_BYTES, VERBS, Engine

SIZES = (100, 1_000, 10_000, 100_000, 1_000_000)
CHANGES = (1, 10, 100, 1_000, 10_000)
CHANGED_VOLUME_FILES = 100_000

RATIO_MAX = 1.3
LIMITED = ("snapshot", "clone", "checkout")

ENGINE_FACTOR = 4
"""More rounds of what takes a few milliseconds, most of them the disk's."""


class Commands:
    """The verbs on one mounted store, as whole processes."""

    def __init__(self, mounted: Mounted) -> None:
        self._mounted = mounted
        self._numbers = itertools.count()

    def _change(self) -> None:
        with open(self._mounted.volume / harness.file_path(0), "r+b") as file:
            file.write(os.urandom(PAYLOAD_BYTES))

    def _create(self) -> str:
        name = f"m{next(self._numbers)}"
        self._change()
        self._mounted.snap("create", VOLUME, "--name", name)
        return name

    def snapshot(self) -> float:
        return harness.timed(self._create)

    def clone(self) -> float:
        name = self._create()
        return harness.timed(partial(self._mounted.snap, "clone", f"{VOLUME}@{name}", f"c{name}"))

    def checkout(self) -> float:
        before = self._create()
        self._create()
        return harness.timed(partial(self._mounted.snap, "checkout", f"{VOLUME}@{before}"))


async def measure_sizes(report: Report, repeats: int, stores: dict[int, Path]) -> None:
    few, many = min(stores), max(stores)
    async with AsyncExitStack() as stack:
        engines: dict[int, Engine] = {}
        for files, store in stores.items():
            engines[files] = Engine(*await stack.enter_async_context(harness.opened(store)), files)
            await engines[files].ready()
        harness.settle()
        for verb, call in VERBS.items():
            actions = {str(files): partial(call, engine, 1) for files, engine in engines.items()}
            series = await harness.turns_async(actions, repeats)
            what = f"{verb}, 1 file changed"
            for size, values in series.items():
                report.values(f"{size} files", {"snapfs": values}, unit="ms", group=what)
            ends = {f"{files:,} files": series[str(files)] for files in (few, many)}
            report.compare(what, ends, limit=RATIO_MAX if verb in LIMITED else None)


async def measure_changes(report: Report, repeats: int, store: Path, files: int) -> None:
    """By the number of files that were changed."""
    async with harness.opened(store) as opened:
        engine = Engine(*opened, files)
        await engine.ready()
        found: dict[str, dict[int, list[float]]] = {}
        for _ in range(repeats):
            for count in [count for count in CHANGES if count <= files]:
                for verb, took in (await engine.every(count)).items():
                    found.setdefault(verb, {}).setdefault(count, []).append(took)
        for verb, series in found.items():
            for changed, values in series.items():
                report.values(f"{changed} changed", {"snapfs": values}, unit="ms", group=f"{verb}, {files:,} files")


def measure_commands(report: Report, repeats: int, stores: dict[int, Path]) -> None:
    """The smallest and the largest."""
    ends = {f"{files:,} files": stores[files] for files in (min(stores), max(stores))}
    with harness.mounted(*ends.values()) as mounts:
        for mount in mounts:
            harness.run("find", mount.volume, "-size", "+1", "-newermt", "2000-01-01")  # a stat of each
        harness.settle()
        commands = dict(zip(ends, map(Commands, mounts), strict=True))
        verbs: dict[str, Callable[[Commands], float]] = {
            "snapshot": Commands.snapshot, "clone": Commands.clone, "checkout": Commands.checkout,
        }  # fmt: skip
        for verb, call in verbs.items():
            actions = {name: partial(call, command) for name, command in commands.items()}
            report.compare(f"{verb}: command", harness.turns(actions, repeats), limit=RATIO_MAX)


def body(report: Report, options: Options, place: Path) -> None:
    most = options.scaled(SIZES[-1], SIZES[1])
    sizes = sorted({*(files for files in SIZES if files < most), most})
    stores = {files: place / f"{files}" for files in sizes}
    for files, store in stores.items():
        harness.fill(store, files=files, payload_bytes=PAYLOAD_BYTES, size_bytes=PAYLOAD_BYTES)
    trio.run(measure_sizes, report, ENGINE_FACTOR * options.repeats, stores)
    changed = max(files for files in sizes if files <= CHANGED_VOLUME_FILES)
    trio.run(measure_changes, report, options.repeats, stores[changed], changed)
    measure_commands(report, options.repeats, stores)


if __name__ == "__main__":
    question = "do snapshot, clone and checkout take the same, whatever the volume's size?"
    sys.exit(harness.main(Report("sweeps", question), body, repeats=3, full_repeats=5, scale=0.02))
