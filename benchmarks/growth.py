"""How much a store grows by small changes of large files; beside borg, restic and git-lfs, as far as they are here.

Two changes, through the mount, of noise that nothing compresses: one 4 KiB page in a 1 GB file; and 1 KiB put in
front of a 100 MB file that is then rewritten whole, either in place (truncated and written) or beside it and renamed
over it.  A snapshot (a backup, a commit) after each.  Growth is st_blocks of the store's directory.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks import harness
from benchmarks.harness import VOLUME, Mounted, Options, Report

PAGED_BYTES = 1_000_000_000
PAGE_BYTES = 4096
SHIFTED_BYTES = 100_000_000
INSERTED_BYTES = 1024

PAGE_LIMIT_BYTES = 64 * 1024
INSERT_LIMIT_BYTES = 2_000_000

STREAM_BYTES = 4 * 1024 * 1024
"""Of one write."""

PEER_REPEATS = 1
"""Peers take seconds to minutes each time, and answer the same."""


def write_noise(path: Path, size: int) -> None:
    noise = random.Random(size)
    with path.open("wb") as file:
        for offset in range(0, size, STREAM_BYTES):
            file.write(noise.randbytes(min(STREAM_BYTES, size - offset)))


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
    beside = path.with_suffix(".new")
    with path.open("rb") as old, beside.open("wb") as new:
        new.write(os.urandom(INSERTED_BYTES))
        shutil.copyfileobj(old, new, STREAM_BYTES)
    beside.rename(path)


class Subject:
    """What keeps versions of a directory's files: snapfs or a peer."""

    def __init__(self, files: Path, kept: Path) -> None:
        self.files = files
        """Where the files are changed."""
        self.kept = kept
        """What must not grow."""

    def save(self) -> None:
        raise NotImplementedError

    def measure(self, change: Callable[[], None]) -> tuple[float, float]:
        """(bytes that ``kept`` grew by, seconds of the save) for a change."""
        before = harness.disk_bytes(self.kept)
        change()
        begun = time.perf_counter()
        self.save()
        took = time.perf_counter() - begun
        return harness.disk_bytes(self.kept) - before, took


class Snapfs(Subject):
    def __init__(self, mounted: Mounted) -> None:
        super().__init__(mounted.volume, mounted.store)
        self.mounted = mounted
        self._numbers = itertools.count()

    def save(self) -> None:
        self.mounted.snap("create", VOLUME, "--name", f"s{next(self._numbers)}")


class Borg(Subject):
    def __init__(self, place: Path) -> None:
        super().__init__(place / "files", place / "borg")
        self._environment = {"BORG_BASE_DIR": str(place / "home"), "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes"}
        self._numbers = itertools.count()
        harness.run("borg", "init", "-e", "none", self.kept, env=self._environment)

    def save(self) -> None:
        name = f"{self.kept}::{next(self._numbers)}"
        harness.run("borg", "create", name, ".", cwd=self.files, env=self._environment)


class Restic(Subject):
    def __init__(self, place: Path) -> None:
        super().__init__(place / "files", place / "restic")
        self._environment = {"RESTIC_PASSWORD": "benchmark", "XDG_CACHE_HOME": str(place / "home")}
        harness.run("restic", "init", "-r", self.kept, env=self._environment)

    def save(self) -> None:
        harness.run("restic", "backup", "-q", "-r", self.kept, ".", cwd=self.files, env=self._environment)


class GitLfs(Subject):
    def __init__(self, place: Path) -> None:
        files = place / "files"
        super().__init__(files, files / ".git")
        self._git("init", "-q")
        self._git("lfs", "install", "--local")
        self._git("lfs", "track", "*.bin")

    def _git(self, *arguments: str) -> None:
        harness.run("git", "-c", "user.name=b", "-c", "user.email=b@example.org", *arguments, cwd=self.files)

    def save(self) -> None:
        self._git("add", ".")
        self._git("commit", "-q", "--allow-empty", "-m", "version")


PEERS: dict[str, tuple[str, Callable[[Path], Subject]]] = {
    "borg": ("borg", Borg),
    "restic": ("restic", Restic),
    "git-lfs": ("git-lfs", GitLfs),
}


def changes(files: Path) -> dict[str, tuple[Callable[[], None], float, str]]:
    """Of each change: how it is made, its limit in bytes, the unit to show."""
    paged, shifted = files / "paged.bin", files / "shifted.bin"
    return {
        f"4 KiB changed in {paged.stat().st_size / 1e6:,.0f} MB": (
            partial(change_page, paged), PAGE_LIMIT_BYTES / 1024, "KiB",
        ),
        f"1 KiB inserted in {SHIFTED_BYTES / 1e6:,.0f} MB, rewritten in place": (
            partial(insert_in_place, shifted), INSERT_LIMIT_BYTES / 1e6, "MB",
        ),
        f"1 KiB inserted in {SHIFTED_BYTES / 1e6:,.0f} MB, written beside and renamed": (
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
    paged_bytes = options.scaled(PAGED_BYTES, 2 * SHIFTED_BYTES)
    store = place / "store"
    harness.snap("init", store)
    with harness.mounted(store) as (mounted,):
        mounted.snap("volume", "create", VOLUME)
        write_noise(mounted.volume / "paged.bin", paged_bytes)
        write_noise(mounted.volume / "shifted.bin", SHIFTED_BYTES)
        measure_snapfs(report, options.repeats, Snapfs(mounted))
    shutil.rmtree(store)
    for name, (program, make) in PEERS.items():
        if harness.installed(program):
            home = place / name
            (home / "files").mkdir(parents=True)
            subject = make(home)
            write_noise(subject.files / "paged.bin", paged_bytes)
            write_noise(subject.files / "shifted.bin", SHIFTED_BYTES)
            measure_peer(report, name, subject)
            shutil.rmtree(home)


if __name__ == "__main__":
    question = "how much does a store grow by a small change of a large file?"
    sys.exit(harness.main(Report("growth", question), body, repeats=5))
