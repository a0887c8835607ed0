"""What keeps versions of a directory: snapfs and its peers, each behind the same few words.

A peer is started where it is installed; where not, that is said and it is left out.  All that a peer writes is under
the place that it is given; its configuration and caches too.
"""

from __future__ import annotations

import itertools
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks import harness
from benchmarks.harness import VOLUME, Mounted

SETTLE_SECONDS_MAX = 300.0
POLL_SECONDS = 0.5
STILL_POLLS = 20
"""So often in a row a store must have the same size to count as settled."""

BTRFS_SPARE = 1.3
"""Of what is going to be stored, with room for metadata."""
BTRFS_BYTES_MIN = 512 * 1024 * 1024


class Subject:
    """Keeps versions of a directory's files."""

    def __init__(self, files: Path, kept: Path) -> None:
        self.files = files
        """Where the files are changed."""
        self.kept = kept
        """What must not grow."""

    def save(self) -> None:
        """A version of the files as they are."""
        raise NotImplementedError

    def settle(self) -> None:
        """Wait until nothing is done in the background."""

    def held_bytes(self) -> int:
        """What all versions take on the disk."""
        return harness.disk_bytes(self.kept)

    def measure(self, change: Callable[[], object]) -> tuple[float, float]:
        """(bytes that ``kept`` grew by, seconds of the save) for a change."""
        before = self.held_bytes()
        change()
        begun = time.perf_counter()
        self.save()
        took = time.perf_counter() - begun
        self.settle()
        return self.held_bytes() - before, took

    def close(self) -> None:
        """Leave nothing running."""


class Snapfs(Subject):
    def __init__(self, mounted: Mounted) -> None:
        super().__init__(mounted.volume, mounted.store)
        self.mounted = mounted
        self._numbers = itertools.count()

    def save(self) -> None:
        self.mounted.snap("create", VOLUME, "--name", f"s{next(self._numbers)}")

    def settle(self) -> None:
        settle_store(self.mounted.store)


def settle_store(store: Path) -> int:
    """Wait until a store that is mounted keeps its size; what it takes then."""
    deadline = time.monotonic() + SETTLE_SECONDS_MAX
    still, last = 0, -1
    while still < STILL_POLLS and time.monotonic() < deadline:
        size = harness.disk_bytes(store)
        still, last = (still + 1 if size == last else 0), size
        time.sleep(POLL_SECONDS)
    return last


@contextmanager
def snapfs(place: Path, compression: str = "", name: str = "snapfs") -> Iterator[Snapfs]:
    """A new store with an empty volume, mounted; removed afterwards."""
    store = place / name
    harness.snap("init", store)
    with harness.mounted(store) as (mounted,):
        mounted.snap("volume", "create", VOLUME)
        if compression:
            mounted.snap("volume", "set", VOLUME, "--compression", compression)
        yield Snapfs(mounted)
    shutil.rmtree(store)


class Borg(Subject):
    def __init__(self, place: Path, compression: str = "lz4") -> None:
        super().__init__(place / "files", place / "borg")
        self._environment = {
            "BORG_BASE_DIR": str(place / "home"), "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
        }  # fmt: skip
        self._compression = compression
        self._numbers = itertools.count()
        harness.run("borg", "init", "-e", "none", self.kept, env=self._environment)

    def save(self) -> None:
        name = f"{self.kept}::{next(self._numbers)}"
        harness.run("borg", "create", "-C", self._compression, name, ".", cwd=self.files, env=self._environment)


class Restic(Subject):
    def __init__(self, place: Path, compression: str = "auto") -> None:
        super().__init__(place / "files", place / "restic")
        self._environment = {"RESTIC_PASSWORD": "benchmark", "XDG_CACHE_HOME": str(place / "home")}
        self._compression = compression
        harness.run("restic", "init", "--repository-version", "2", "-r", self.kept, env=self._environment)

    def save(self) -> None:
        words = ("restic", "backup", "-q", "--compression", self._compression, "-r", self.kept, ".")
        harness.run(*words, cwd=self.files, env=self._environment)


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


class Dvc(Subject):
    """As after ``dvc add``: what a ``.dvc`` file names is in the cache."""

    def __init__(self, place: Path) -> None:
        super().__init__(place / "files", place / "repository" / ".dvc")
        self._environment = {
            "DVC_NO_ANALYTICS": "1", "DVC_SITE_CACHE_DIR": str(place / "site"), "DVC_TEST": "1",
            "XDG_CONFIG_HOME": str(place / "home"), "XDG_CACHE_HOME": str(place / "home"),
        }  # fmt: skip
        self._repository = place / "repository"
        self._repository.mkdir()
        self.files.rmdir()
        self.files = self._repository / "files"
        self.files.mkdir()
        self._dvc("init", "-q", "--no-scm")

    def _dvc(self, *arguments: str) -> None:
        harness.run("dvc", *arguments, cwd=self._repository, env=self._environment)

    def save(self) -> None:
        self._dvc("add", "-q", "files")


class Btrfs(Subject):
    """A file system of its own in a file, with read-only snapshots of one subvolume."""

    def __init__(self, place: Path, size_bytes: int) -> None:
        self._image, root = place / "btrfs.image", place / "btrfs"
        super().__init__(root / "files", root)
        (place / "files").rmdir()
        root.mkdir()
        with self._image.open("wb") as file:
            file.truncate(size_bytes)
        harness.run("mkfs.btrfs", "-q", "-m", "single", self._image)
        harness.run("mount", "-o", "loop,noatime", self._image, root)
        try:
            harness.run("btrfs", "subvolume", "create", self.files)
        except BaseException:
            self.close()
            raise
        self._numbers = itertools.count()

    def save(self) -> None:
        harness.run("btrfs", "subvolume", "snapshot", "-r", self.files, self.kept / f"s{next(self._numbers)}")

    def held_bytes(self) -> int:
        harness.run("btrfs", "filesystem", "sync", self.kept)
        state = os.statvfs(self.kept)
        return (state.f_blocks - state.f_bfree) * state.f_frsize

    def close(self) -> None:
        harness.run("umount", self.kept)


PROGRAMS = {"borg": "borg", "restic": "restic", "git-lfs": "git-lfs", "DVC": "dvc", "btrfs": "mkfs.btrfs"}

COPYING = ("git-lfs", "DVC")
"""Keep every version of a file whole, beside the one in the work tree."""


@contextmanager
def peer(name: str, place: Path, *, stored_bytes: int, compression: str = "") -> Iterator[Subject | None]:
    """A peer with an empty directory, removed afterwards; None, said aloud, if it cannot run here.

    Args:
        stored_bytes: what it is going to keep, at most.
        compression: "none", or empty for its own default (borg and restic only).
    """
    if not (harness.installed(PROGRAMS[name]) and _room(name, place, stored_bytes)):
        yield None
        return
    home = place / name
    (home / "files").mkdir(parents=True)
    subject: Subject | None = None
    try:
        if name == "borg":
            subject = Borg(home, compression or "zstd,1")
        elif name == "restic":
            subject = Restic(home, "off" if compression == "none" else "auto")
        elif name == "btrfs":
            subject = Btrfs(home, max(BTRFS_BYTES_MIN, round(stored_bytes * BTRFS_SPARE)))
        else:
            subject = {"git-lfs": GitLfs, "DVC": Dvc}[name](home)
        yield subject
    finally:
        if subject is not None:
            subject.close()
        shutil.rmtree(home)


def _room(name: str, place: Path, needed: int) -> bool:
    free = shutil.disk_usage(place).free
    if free < needed * 1.1:
        print(f"(no room for {name}: {needed / 1e9:.0f} GB are needed, {free / 1e9:.0f} GB free: left out)", flush=True)
    return free >= needed * 1.1


def peers(
    names: Sequence[str], place: Path, *, stored_bytes: Callable[[str], int], compression: str = ""
) -> Iterator[tuple[str, Subject]]:
    """One after the other, those that can run here."""
    for name in names:
        with peer(name, place, stored_bytes=stored_bytes(name), compression=compression) as subject:
            if subject is not None:
                yield name, subject
