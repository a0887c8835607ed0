"""How much a store grows by small changes of large files; beside borg, restic and git-lfs, as far as they are here.

Two changes, through the mount, of noise that nothing compresses: one 4 KiB page in a 1 GB file; and 1 KiB put in
front of a 100 MB file that is then rewritten whole, either in place (truncated and written) or beside it and renamed
over it.  A snapshot (a backup, a commit) after each.  Growth is st_blocks of the store's directory.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks import harness
from benchmarks.contents import INSERTED_BYTES, PAGE_BYTES, replace_whole, with_bytes_in_front, write_noise
from benchmarks.harness import Options, Report
from benchmarks.peers import Snapfs, Subject, peers, snapfs

PAGED_BYTES = 1_000_000_000
SHIFTED_BYTES = 100_000_000
SHIFTED_BYTES_MIN = 20_000_000

PAGE_LIMIT_BYTES = 64 * 1024
INSERT_LIMIT_BYTES = 2_000_000

PEERS = ("borg", "restic", "git-lfs")
PEER_REPEATS = 1
"""Peers take seconds to minutes each time, and answer the same."""


def change_page(path: Path) -> None:
    """Another 4 KiB at a random page."""
    with path.open("r+b", buffering=0) as file:
        file.seek(random.randrange(path.stat().st_size // PAGE_BYTES) * PAGE_BYTES)
        file.write(os.urandom(PAGE_BYTES))


def insert_in_place(path: Path) -> None:
    data = os.urandom(INSERTED_BYTES) + path.read_bytes()
    with path.open("wb") as file:
        file.write(data)


def insert_and_rename(path: Path) -> None:
    replace_whole(path, with_bytes_in_front(path, random.Random()))


def changes(files: Path) -> dict[str, tuple[Callable[[], None], float, str]]:
    """Of each change: how it is made, its limit in bytes, the unit to show."""
    paged, shifted = files / "paged.bin", files / "shifted.bin"
    size = shifted.stat().st_size
    return {
        f"4 KiB changed in {paged.stat().st_size / 1e6:,.0f} MB": (
            partial(change_page, paged), PAGE_LIMIT_BYTES / 1024, "KiB",
        ),
        f"1 KiB inserted in {size / 1e6:,.0f} MB, rewritten in place": (
            partial(insert_in_place, shifted), INSERT_LIMIT_BYTES / 1e6, "MB",
        ),
        f"1 KiB inserted in {size / 1e6:,.0f} MB, written beside and renamed": (
            partial(insert_and_rename, shifted), INSERT_LIMIT_BYTES / 1e6, "MB",
        ),
    }  # fmt: skip


def measure_snapfs(report: Report, repeats: int, subject: Snapfs) -> None:
    subject.save()
    for what, (change, limit, unit) in changes(subject.files).items():
        grown, took, stored = [], [], []
        for _ in range(repeats):
            before = subject.mounted.info().stored_bytes
            growth, seconds = subject.measure(change)
            grown.append(growth)
            took.append(seconds)
            stored.append(float(subject.mounted.info().stored_bytes - before))
        report.values(f"snapfs: {what}", {"store on disk": grown, "stored bytes": stored}, unit=unit, limit=limit)
        report.values(f"snapfs: {what}: time of the snapshot", {"process": took}, unit="s")


def measure_peer(report: Report, name: str, subject: Subject) -> None:
    subject.save()
    for what, (change, _, unit) in changes(subject.files).items():
        measured = [subject.measure(change) for _ in range(PEER_REPEATS)]
        report.values(f"{name}: {what}", {"on disk": [growth for growth, _ in measured]}, unit=unit)
        report.values(f"{name}: {what}: time to save it", {"process": [took for _, took in measured]}, unit="s")


def body(report: Report, options: Options, place: Path) -> None:
    paged_bytes = options.scaled(PAGED_BYTES)
    shifted_bytes = options.scaled(SHIFTED_BYTES, SHIFTED_BYTES_MIN)

    def fill(files: Path) -> None:
        write_noise(files / "paged.bin", paged_bytes)
        write_noise(files / "shifted.bin", shifted_bytes)

    with snapfs(place) as store:
        fill(store.files)
        measure_snapfs(report, options.repeats, store)
    for name, subject in peers(report, PEERS, place, stored_bytes=lambda _: 2 * paged_bytes + 4 * shifted_bytes):
        fill(subject.files)
        measure_peer(report, name, subject)


if __name__ == "__main__":
    question = "how much does a store grow by a small change of a large file?"
    sys.exit(harness.main(Report("growth", question), body, repeats=1, full_repeats=3, scale=0.1, full_scale=0.2))
