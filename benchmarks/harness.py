"""What the benchmarks share: scratch stores, real mounts, turns, medians, tables.

Rules:
  * Every path is under one temporary directory on the disk that TMPDIR names; it is removed, and every mount in
    it unmounted, whatever happens.
  * The store is used as a user does: mounted by ``snap mount``, commands as whole processes.  "Engine" means the
    service's methods called in this process, with no mount.
  * What is compared takes turns (A B B A ...), and the first round does not count.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import trio

from snapfs import api, mounts
from snapfs.errors import SnapfsError
from snapfs.service import Service
from snapfs.volume.lake import Lake

SNAP: Final = str(Path(sys.executable).parent / "snap")

VOLUME: Final = "data"

DIRECTORY_FILES: Final = 1000
"""Files of one directory in a tree that ``fill`` makes."""

COMMIT_EVERY_FILES: Final = 5000

QUIET_SECONDS: Final = 1.0
"""After building: what the disk still has to write falls on nobody's measurement."""


# -- figures


@dataclass
class Row:
    """One line of a report: named series of one quantity, and how they relate."""

    what: str
    unit: str
    series: dict[str, list[float]]
    limit: float | None = None
    ratio: tuple[str, str] | None = None
    """(of, to): names of the two series whose medians' ratio counts."""

    @property
    def figure(self) -> float:
        """What the limit is held against: the ratio of two medians, or the largest value of the first series."""
        if self.ratio:
            of, to = (statistics.median(self.series[name]) for name in self.ratio)
            return of / to
        return max(next(iter(self.series.values())))

    @property
    def met(self) -> bool:
        return self.limit is None or self.figure <= self.limit


@dataclass
class Report:
    """Figures of one benchmark; printed as they come, as lines of a Markdown table."""

    name: str
    question: str
    rows: list[Row] = field(default_factory=list)

    def start(self) -> None:
        print(f"\n## {self.name}: {self.question}\n\n{machine()}\n", flush=True)
        print("| what | median (10th to 90th percentile) | ratio or largest | limit | |")
        print("|---|---|---|---|---|", flush=True)

    def compare(
        self, what: str, series: Mapping[str, Sequence[float]], *, unit: str = "ms", limit: float | None = None
    ) -> None:
        """Seconds of two variants: the ratio of the second to the first."""
        names = list(series)
        self._add(Row(what, unit, _scaled(series, unit), limit, (names[1], names[0])))

    def values(
        self, what: str, series: Mapping[str, Sequence[float]], *, unit: str, limit: float | None = None
    ) -> None:
        """Figures whose first series' largest value is held against a limit, in the unit."""
        self._add(Row(what, unit, _scaled(series, unit), limit))

    def _add(self, row: Row) -> None:
        self.rows.append(row)
        shown = "<br>".join(f"{name}: {_summary(values)} {row.unit}" for name, values in row.series.items())
        unit = "" if row.ratio else f" {row.unit}"
        limit = "" if row.limit is None else f"{row.limit:g}{unit}"
        verdict = "" if row.limit is None else "met" if row.met else "MISSED"
        figure = f"{row.figure:.2f}{unit}" if row.ratio or row.limit is not None else ""
        print(f"| {row.what} | {shown} | {figure} | {limit} | {verdict} |", flush=True)

    def save(self, path: Path) -> None:
        """Write everything, each single value included, as JSON."""
        rows = [{**vars(row), "figure": row.figure, "met": row.met} for row in self.rows]
        document = {"benchmark": self.name, "question": self.question, "machine": machine(), "rows": rows}
        path.write_text(json.dumps(document, indent=1) + "\n")

    @property
    def exit_code(self) -> int:
        return 0 if all(row.met for row in self.rows) else 1


_FACTORS: Final = {"s": 1, "calls": 1, "times": 1, "ms": 1e3, "us": 1e6, "bytes": 1, "KiB": 2**-10, "MB": 1e-6}


def _scaled(series: Mapping[str, Sequence[float]], unit: str) -> dict[str, list[float]]:
    """From seconds or bytes to the unit that is shown."""
    return {name: [value * _FACTORS[unit] for value in values] for name, values in series.items()}


def _summary(values: Sequence[float]) -> str:
    ordered = sorted(values)
    low, high = (ordered[round(part * (len(ordered) - 1))] for part in (0.1, 0.9))
    spread = f" ({low:.3g} to {high:.3g})" if len(ordered) > 1 else ""
    return f"{statistics.median(ordered):.3g}{spread}"


def machine() -> str:
    """When and on what: one line."""
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    load = os.getloadavg()[0]
    return (
        f"{now}; {os.cpu_count()} cores ({platform.machine()}), Linux {platform.release()}, "
        f"Python {platform.python_version()}; load average at the start {load:.1f}"
    )


# -- taking turns


def timed(action: Callable[[], object]) -> float:
    """Seconds it takes."""
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


async def timed_async(action: Callable[[], Awaitable[object]]) -> float:
    begun = time.perf_counter()
    await action()
    return time.perf_counter() - begun


def turns(actions: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Run each action ``repeats`` times, in turns, after one round that does not count.  An action prepares,
    measures its part and returns seconds (or whatever it measures)."""
    found: dict[str, list[float]] = {name: [] for name in actions}
    for number in range(repeats + 1):
        for name in _order(actions, number):
            value = actions[name]()
            if number:
                found[name].append(value)
    return found


async def turns_async(actions: Mapping[str, Callable[[], Awaitable[float]]], repeats: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in actions}
    for number in range(repeats + 1):
        for name in _order(actions, number):
            value = await actions[name]()
            if number:
                found[name].append(value)
    return found


def _order(actions: Mapping[str, object], number: int) -> list[str]:
    names = list(actions)
    return names if number % 2 else names[::-1]


# -- processes


def run(*command: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """Run a command to its end; its standard output.

    Raises:
        SystemExit: it failed; its complaint is shown.
    """
    words = [str(word) for word in command]
    environment = {**os.environ, **(env or {})}
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words[:4])} ... failed ({done.returncode}): {done.stderr.strip()[-500:]}")
    return done.stdout


def snap(*arguments: str | Path, cwd: Path | None = None) -> str:
    return run(SNAP, *arguments, cwd=cwd)


def installed(program: str) -> bool:
    """Whether a peer is there; if not, that is said."""
    if shutil.which(program):
        return True
    print(f"(no {program} here: left out)", file=sys.stderr)
    return False


# -- stores


class Mounted:
    """A store and where it is mounted."""

    def __init__(self, store: Path) -> None:
        self.store = store
        self.root = store.with_name(store.name + ".mount")
        self.root.mkdir(exist_ok=True)

    @property
    def volume(self) -> Path:
        return self.root / VOLUME

    def mount(self) -> None:
        snap("mount", self.store, self.root)

    def umount(self) -> None:
        snap("umount", self.root)

    def snap(self, *arguments: str) -> str:
        """A verb on this store."""
        return snap(*arguments, "--store", self.store)

    def info(self) -> api.StoreInfo:
        document = json.loads(self.snap("info", "--json"))  # it also tells how the scrub gets on
        return api.StoreInfo(**{name: document[name] for name in api.StoreInfo.__struct_fields__ if name in document})


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A temporary directory; at the end whatever is mounted in it is unmounted and it is removed."""
    place = Path(tempfile.mkdtemp(prefix="snapfs-bench-"))
    try:
        yield place
    finally:
        for root in place.glob("*.mount"):
            while mounts.at(root) is not None:
                with contextlib.suppress(SnapfsError, SystemExit):
                    snap("umount", root)
                if mounts.at(root) is not None:
                    mounts.unmount(root, lazy=True)
        shutil.rmtree(place)


@contextlib.contextmanager
def mounted(*stores: Path) -> Iterator[list[Mounted]]:
    """The stores, mounted."""
    made = [Mounted(store) for store in stores]
    with contextlib.ExitStack() as stack:
        for one in made:
            one.mount()
            stack.callback(one.umount)
        yield made


@contextlib.asynccontextmanager
async def opened(store: Path) -> AsyncIterator[tuple[Lake, Service]]:
    """The store in this process."""
    lake = Lake.open(store)
    try:
        async with lake.running():
            yield lake, Service(lake)
    finally:
        lake.close()


def disk_bytes(path: Path) -> int:
    """What a directory tree occupies on the disk (st_blocks)."""
    total = 0
    for directory, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(directory, name)).st_blocks * 512
    return total


def file_path(number: int) -> str:
    """Path, in a tree that ``fill`` made, of one of its files."""
    return f"{number // DIRECTORY_FILES:04d}/{number:06d}.bin"


def fill(store: Path, *, files: int, payload_bytes: int, size_bytes: int) -> None:
    """Make a store whose volume has files of ``size_bytes``, of which the first ``payload_bytes`` are noise and the
    rest a hole."""
    Lake.create(store)
    trio.run(_fill, store, files, payload_bytes, size_bytes)


async def _fill(store: Path, files: int, payload_bytes: int, size_bytes: int) -> None:
    noise = random.Random(files)
    async with opened(store) as (lake, _):
        volume = lake.volumes.create(VOLUME)
        view, parent = volume.head, volume.root
        for number in range(files):
            directory, name = file_path(number).encode().split(b"/")
            if number % DIRECTORY_FILES == 0:
                parent = lake.files.mkdir(view, volume.root, directory, mode=0o755, uid=0, gid=0).ino
            inode = lake.files.mknod(view, parent, name, mode=0o100644, uid=0, gid=0)
            await lake.files.write(view, inode.ino, 0, noise.randbytes(payload_bytes))
            if size_bytes > payload_bytes:
                lake.files.setattr(view, inode.ino, size=size_bytes)
            if number % COMMIT_EVERY_FILES == 0:
                await lake.sync()


def settle() -> None:
    """Let the disk write what it has, so that it does not fall on a measurement."""
    os.sync()
    time.sleep(QUIET_SECONDS)


# -- one benchmark as a program


@dataclass
class Options:
    """What every benchmark takes."""

    repeats: int
    scale: float
    json: Path | None

    def scaled(self, number: int, least: int = 1) -> int:
        return max(least, round(number * self.scale))


def main(report: Report, body: Callable[[Report, Options, Path], None], *, repeats: int, scale: float = 1.0) -> int:
    """Run a benchmark; its exit code: 1 if a limit was missed.  ``scale``: unless another is asked for."""
    parser = argparse.ArgumentParser(description=report.question)
    parser.add_argument("--repeats", type=int, default=repeats, help=f"rounds that count (default: {repeats})")
    told = f"shrink the data by this factor; 1 is the full size (default: {scale:g})"
    parser.add_argument("--scale", type=float, default=scale, help=told)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every value to FILE")
    given = parser.parse_args()
    if given.repeats < 1 or not 0 < given.scale <= 1:
        parser.error("--repeats is at least 1, --scale more than 0 and at most 1")
    report.start()
    with scratch() as place:
        body(report, Options(given.repeats, given.scale, given.json), place)
    if given.json:
        report.save(given.json)
    return report.exit_code
