"""How fast files come into a store: 100,000 small ones, and 10 GB; beside ``cp -a`` and ``borg create``.

Each into something empty on the same disk, and once more where a second run can pass over what has not changed.  The
clock runs until the disk has everything (``sync``).  Half of the bytes are noise, half a table that compresses; the
sources have just been written, so that the page cache has what fits into it.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
from functools import partial
from pathlib import Path

from benchmarks import contents, harness
from benchmarks.harness import Mounted, Options, Report
from benchmarks.peers import Borg

SMALL_FILES = 100_000
SMALL_BYTES_MAX = 8192
DIRECTORY_FILES = 1000
LARGE_FILES = 10
LARGE_BYTES = 1_000_000_000


def write_small(place: Path, files: int) -> int:
    """Bytes written; 4 KiB a file on average."""
    dice, total = random.Random(21), 0
    table = contents.rows(dice, 0, 10_000)
    for number in range(files):
        path = place / f"{number // DIRECTORY_FILES:04d}" / f"{number:06d}"
        path.parent.mkdir(exist_ok=True)
        size = dice.randrange(1, SMALL_BYTES_MAX)
        start = dice.randrange(len(table) - size)
        path.write_bytes(dice.randbytes(size) if number % 2 else table[start : start + size])
        total += size
    return total


def write_large(place: Path, size: int) -> int:
    for number in range(LARGE_FILES):
        write = contents.write_noise if number % 2 else contents.write_csv
        write(place / f"{number}.bin", size, number)
    return sum(path.stat().st_size for path in place.iterdir())


def synced(*command: str | Path) -> None:
    harness.run(*command)
    os.sync()


def _archive(repository: Borg) -> None:
    repository.save()
    os.sync()


class Importing:
    """One source, into fresh stores, repositories and directories."""

    def __init__(self, place: Path, source: Path, mounted: Mounted) -> None:
        self._place, self._source, self._mounted = place, source, mounted
        self._numbers = iter(range(1000))
        self._last = ""

    def snap(self) -> float:
        self._last = f"v{next(self._numbers)}"
        return self.snap_again()

    def snap_again(self) -> float:
        words = (harness.SNAP, "import", self._source, self._last, "--store", self._mounted.store)
        took = harness.timed(partial(synced, *words))
        wanted, found = (sum(len(names) for _, _, names in os.walk(top)) for top in (self._source, self._volume))
        if wanted != found:
            raise SystemExit(f"{found} files were imported of {wanted}")
        return took

    @property
    def _volume(self) -> Path:
        return self._mounted.root / self._last

    def copy(self) -> float:
        target = self._place / "copy"
        took = harness.timed(partial(synced, "cp", "-a", self._source, target))
        shutil.rmtree(target)
        os.sync()
        return took

    def borg(self) -> tuple[float, float]:
        """(the first archive, another of the same)."""
        home = self._place / "borg-home"
        home.mkdir()
        repository = Borg(home, "lz4")
        repository.files = self._source
        first, second = harness.timed(partial(_archive, repository)), harness.timed(partial(_archive, repository))
        shutil.rmtree(home)
        os.sync()
        return first, second


def measure(report: Report, options: Options, place: Path, what: str, source: Path, total: int) -> None:
    """Fresh stores for each round: what is imported twice would be known."""
    first: dict[str, list[float]] = {"snap import": [], "cp -a": [], "borg create": []}
    again: dict[str, list[float]] = {"snap import": [], "borg create": []}
    for number in range(options.repeats):
        store = place / f"store{number}"
        harness.snap("init", store)
        with harness.mounted(store) as (mounted,):
            one = Importing(place, source, mounted)
            harness.settle()
            first["snap import"].append(one.snap())
            again["snap import"].append(one.snap_again())
        shutil.rmtree(store)
        harness.settle()
        first["cp -a"].append(one.copy())
        harness.settle()
        if harness.installed("borg"):
            archive, second = one.borg()
            first["borg create"].append(archive)
            again["borg create"].append(second)
    for name, series in (("", first), (", once more", again)):
        found = {program: values for program, values in series.items() if values}
        report.values(f"{what}{name}", found, unit="s")
        rates = {program: [total / value for value in values] for program, values in found.items()}
        report.values(f"{what}{name}: rate", rates, unit="MB/s")


def body(report: Report, options: Options, place: Path) -> None:
    files = options.scaled(SMALL_FILES, 1000)
    small, large = place / "small", place / "large"
    small.mkdir()
    total = write_small(small, files)
    measure(report, options, place, f"{files:,} files, {total / 1e6:,.0f} MB", small, total)
    shutil.rmtree(small)
    large.mkdir()
    total = write_large(large, options.scaled(LARGE_BYTES, 10_000_000))
    measure(report, options, place, f"{LARGE_FILES} files, {total / 1e6:,.0f} MB", large, total)


if __name__ == "__main__":
    question = "how fast do files come into a store?"
    sys.exit(harness.main(Report("importing", question), body, repeats=1, scale=0.05, full_scale=0.2))
