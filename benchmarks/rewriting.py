"""What a file that is rewritten whole adds to a store, beside borg, restic, git-lfs, DVC and btrfs.

Programs save by writing a new file and renaming it over the old one.  Of noise, which nothing compresses: once with
1 % of the file's 4 KiB pages changed, once with 1 KiB put in front.  Of a table (CSV): with 1,000 rows inserted at
random places, with each program's compression and, in a full run, without.  The old version is kept by a snapshot (a
backup, a commit).  Growth is st_blocks of the store's directory, of btrfs what its file system has in use; in MB of
1,000,000 bytes.
"""

from __future__ import annotations

import random
import sys
from functools import partial
from pathlib import Path

from benchmarks import contents, harness
from benchmarks.contents import PAGE_BYTES
from benchmarks.harness import Options, Report
from benchmarks.peers import COPYING, Subject, peers, snapfs

FILE_BYTES = 500_000_000
CHANGED_PART = 0.01
CHANGED_FACTOR_MAX = 1.5
"""Growth by changed pages, over their bytes."""
INSERT_LIMIT_BYTES = 2_000_000

ROWS = 1000
TABLE_PART_MAX = 0.15
"""Growth by inserted rows, over the table."""
PEER_FACTOR_MAX = 1.2
"""... and over that of the best peer which deduplicates."""

PEERS = ("borg", "restic", "git-lfs", "DVC", "btrfs")
DEDUPLICATING = ("borg", "restic")
PEER_REPEATS = 1

SNAPFS_COMPRESSION = {"": "zstd:1", "none": "none"}
PEER_COMPRESSION = {"": "compressed", "none": "not compressed"}


class Rewritten:
    """A file of noise, and its two changes; what they take is in ``added``."""

    def __init__(self, subject: Subject, size: int) -> None:
        self._subject = subject
        self._path = subject.files / "data.bin"
        contents.write_noise(self._path, size)
        subject.save()
        subject.settle()
        self._dice = random.Random(7)

    def _pages(self) -> None:
        pages = contents.some_pages(self._path, CHANGED_PART, self._dice)
        contents.replace_whole(self._path, contents.with_pages_changed(self._path, pages, self._dice))

    def _insert(self) -> None:
        contents.replace_whole(self._path, contents.with_bytes_in_front(self._path, self._dice))

    def pages(self) -> tuple[float, float]:
        return self._subject.measure(self._pages)

    def insert(self) -> tuple[float, float]:
        return self._subject.measure(self._insert)


def rewrite(report: Report, options: Options, place: Path) -> None:
    size = options.scaled(FILE_BYTES, 20_000_000)
    changed = round(size // PAGE_BYTES * CHANGED_PART) * PAGE_BYTES
    whats = {
        "pages": (f"1 % of the pages of {size / 1e6:,.0f} MB changed, rewritten whole", CHANGED_FACTOR_MAX * changed),
        "insert": (f"1 KiB put in front of {size / 1e6:,.0f} MB, rewritten whole", INSERT_LIMIT_BYTES),
    }
    with snapfs(place) as store:
        file = Rewritten(store, size)
        for verb, (what, limit) in whats.items():
            measured = [getattr(file, verb)() for _ in range(options.repeats)]
            tell(report, "snapfs", what, measured, limit / 1e6)
    # What copies keeps each version whole, and its changes make two.
    stored = lambda name: 6 * size if name in (*COPYING, "btrfs") else 3 * size  # noqa: E731
    for name, subject in peers(report, PEERS, place, stored_bytes=stored):
        file = Rewritten(subject, size)
        for verb, (what, _) in whats.items():
            tell(report, name, what, [getattr(file, verb)() for _ in range(PEER_REPEATS)])


def table(report: Report, options: Options, place: Path, compression: str) -> None:
    size = options.scaled(FILE_BYTES, 20_000_000)
    count = options.scaled(ROWS, 10)
    what = f"{count:,} rows inserted into a table of {size / 1e6:,.0f} MB ({PEER_COMPRESSION[compression]})"
    best: float | None = None
    deduplicating = peers(report, DEDUPLICATING, place, stored_bytes=lambda _: 3 * size, compression=compression)
    for name, subject in deduplicating:
        added = [inserted(subject, size, count) for _ in range(PEER_REPEATS)]
        tell(report, name, what, added)
        grown = min(growth for growth, _ in added)
        best = grown if best is None else min(best, grown)
    limit = size * TABLE_PART_MAX
    limit = limit if best is None else min(limit, PEER_FACTOR_MAX * best)
    with snapfs(place, SNAPFS_COMPRESSION[compression]) as store:
        tell(report, "snapfs", what, [inserted(store, size, count)], limit / 1e6)


def inserted(subject: Subject, size: int, count: int) -> tuple[float, float]:
    path = subject.files / "table.csv"
    contents.write_csv(path, size)
    subject.save()
    subject.settle()
    parts = contents.with_rows_inserted(path, count, random.Random(8))
    return subject.measure(partial(contents.replace_whole, path, parts))


def tell(report: Report, name: str, what: str, measured: list[tuple[float, float]], limit: float | None = None) -> None:
    report.values(f"{name}: {what}", {"added": [growth for growth, _ in measured]}, unit="MB", limit=limit)
    report.values(f"{name}: {what}: time to save it", {"process": [took for _, took in measured]}, unit="s")


def body(report: Report, options: Options, place: Path) -> None:
    rewrite(report, options, place)
    table(report, options, place, "")
    if options.full:
        table(report, options, place, "none")


if __name__ == "__main__":
    question = "what does a file that is rewritten whole add?"
    sys.exit(harness.main(Report("rewriting", question), body, repeats=1, full_repeats=2, scale=0.1, full_scale=0.2))
