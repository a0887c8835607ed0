"""What keeps versions of a directory: snapfs and its peers, each behind the same few words.

A peer is started where it is installed; where not, or where the disk has no room for it, that is noted in the report
and it is left out.  All that a peer writes is under the place that it is given; its configuration and caches too.
Each is used as its documentation says, by its commands as whole processes.
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
from benchmarks.harness import VOLUME, Mounted, Report

SETTLE_SECONDS_MAX = 300.0
POLL_SECONDS = 0.5
STILL_POLLS = 14
"""So often in a row a store must have the same size to count as settled."""

ROOM_FACTOR = 1.1
"""Of what is going to be stored, that must be free."""
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
        self._numbers = itertools.count()

    def save(self) -> str:
        """A version of the files as they are; its name."""
        version = f"v{next(self._numbers)}"
        self._keep(version)
        return version

    def _keep(self, version: str) -> None:
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
        """Leave nothing running, and nothing that cannot be removed."""


class Returning(Subject):
    """One that takes the files back to a version where they are, as git checks out."""

    def go(self, version: str) -> None:
        """The files are as in that version."""
        raise NotImplementedError


class Snapfs(Returning):
    def __init__(self, mounted: Mounted) -> None:
        super().__init__(mounted.volume, mounted.store)
        self.mounted = mounted

    def _keep(self, version: str) -> None:
        self.mounted.snap("create", VOLUME, "--name", version)

    def go(self, version: str) -> None:
        self.mounted.snap("checkout", f"{VOLUME}@{version}")

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
    def __init__(self, place: Path, compression: str) -> None:
        super().__init__(place / "files", place / "borg")
        self.files.mkdir()
        self._environment = {
            "BORG_BASE_DIR": str(place / "home"), "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
        }  # fmt: skip
        self._compression = compression or "zstd,1"
        harness.run("borg", "init", "-e", "none", self.kept, env=self._environment)

    def _keep(self, version: str) -> None:
        name = f"{self.kept}::{version}"
        harness.run("borg", "create", "-C", self._compression, name, ".", cwd=self.files, env=self._environment)


class Restic(Subject):
    def __init__(self, place: Path, compression: str) -> None:
        super().__init__(place / "files", place / "restic")
        self.files.mkdir()
        self._environment = {"RESTIC_PASSWORD": "benchmark", "XDG_CACHE_HOME": str(place / "home")}
        self._compression = "off" if compression == "none" else "auto"
        harness.run("restic", "init", "--repository-version", "2", "-r", self.kept, env=self._environment)

    def _keep(self, version: str) -> None:
        words = ("restic", "backup", "-q", "--compression", self._compression, "--tag", version, "-r", self.kept, ".")
        harness.run(*words, cwd=self.files, env=self._environment)


class InGit(Returning):
    """A git repository with the files in ``data``."""

    def __init__(self, place: Path, kept: str) -> None:
        self.repository = place / "repository"
        super().__init__(self.repository / "data", self.repository / kept)
        self.files.mkdir(parents=True)
        self.environment = {
            "GIT_CONFIG_GLOBAL": str(place / "gitconfig"), "GIT_CONFIG_SYSTEM": "/dev/null", "HOME": str(place),
            "XDG_CONFIG_HOME": str(place / "home"), "XDG_CACHE_HOME": str(place / "home"),
        }  # fmt: skip
        self.run("git", "init", "-q")
        self.run("git", "config", "--global", "user.name", "b")
        self.run("git", "config", "--global", "user.email", "b@example.org")

    def run(self, *words: str) -> None:
        harness.run(*words, cwd=self.repository, env=self.environment)

    def _keep(self, version: str) -> None:
        self._add()
        self.run("git", "commit", "-q", "--allow-empty", "-m", version)
        self.run("git", "tag", version)

    def _add(self) -> None:
        self.run("git", "add", ".")

    def go(self, version: str) -> None:
        self.run("git", "checkout", "-q", version)


class GitLfs(InGit):
    def __init__(self, place: Path) -> None:
        super().__init__(place, ".git")
        self.run("git", "lfs", "install", "--local")
        self.run("git", "lfs", "track", "*.bin")


class GitAnnex(InGit):
    """Files are added unlocked: a locked one cannot be changed in place."""

    def __init__(self, place: Path) -> None:
        super().__init__(place, ".git")
        self.run("git", "annex", "init", "-q")
        self.run("git", "annex", "config", "--set", "annex.addunlocked", "true")

    def _add(self) -> None:
        self.run("git", "annex", "add", "-q", ".")

    def close(self) -> None:
        harness.run("chmod", "-R", "u+w", self.repository)  # it protects what it keeps


class Dvc(InGit):
    """What a ``.dvc`` file names is in the cache, under ``.dvc``."""

    def __init__(self, place: Path) -> None:
        super().__init__(place, ".dvc")
        self.environment |= {"DVC_NO_ANALYTICS": "1", "DVC_SITE_CACHE_DIR": str(place / "site")}
        self.run("dvc", "init", "-q")
        self.run("dvc", "config", "-q", "core.check_update", "false")

    def _add(self) -> None:
        self.run("dvc", "add", "-q", self.files.name)
        self.run("git", "add", f"{self.files.name}.dvc", ".gitignore")

    def go(self, version: str) -> None:
        super().go(version)
        self.run("dvc", "checkout", "-q")


class Btrfs(Subject):
    """A file system of its own in a file, with read-only snapshots of one subvolume."""

    def __init__(self, place: Path, size_bytes: int) -> None:
        self._image, root = place / "btrfs.image", place / "btrfs"
        super().__init__(root / "files", root)
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

    def _keep(self, version: str) -> None:
        harness.run("btrfs", "subvolume", "snapshot", "-r", self.files, self.kept / version)

    def held_bytes(self) -> int:
        harness.run("btrfs", "filesystem", "sync", self.kept)
        state = os.statvfs(self.kept)
        return (state.f_blocks - state.f_bfree) * state.f_frsize

    def close(self) -> None:
        harness.run("umount", self.kept)


PROGRAMS = {
    "borg": "borg", "restic": "restic", "git-lfs": "git-lfs", "git-annex": "git-annex", "DVC": "dvc",
    "btrfs": "mkfs.btrfs",
}  # fmt: skip
IN_GIT: dict[str, Callable[[Path], Subject]] = {"git-lfs": GitLfs, "git-annex": GitAnnex, "DVC": Dvc}

COPYING = tuple(IN_GIT)
"""Keep every version of a file whole, beside the one in the work tree."""


def hindrance(name: str, place: Path, needed_bytes: int) -> str:
    """Why a peer cannot take part here; empty: it can."""
    if not shutil.which(PROGRAMS[name]):
        return f"no {PROGRAMS[name]} here"
    free = shutil.disk_usage(place).free
    needed = needed_bytes * ROOM_FACTOR
    return f"{needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free" if free < needed else ""


@contextmanager
def peer(name: str, place: Path, *, stored_bytes: int, compression: str = "") -> Iterator[Subject]:
    """A peer with an empty directory, removed afterwards.

    Args:
        stored_bytes: what it is going to keep, at most.
        compression: "none", or empty for its own default (borg and restic only).
    """
    home = place / name
    home.mkdir()
    subject: Subject | None = None
    try:
        if name == "borg":
            subject = Borg(home, compression)
        elif name == "restic":
            subject = Restic(home, compression)
        elif name == "btrfs":
            subject = Btrfs(home, max(BTRFS_BYTES_MIN, round(stored_bytes * BTRFS_SPARE)))
        else:
            subject = IN_GIT[name](home)
        yield subject
    finally:
        if subject is not None:
            subject.close()
        shutil.rmtree(home)


def peers(
    report: Report, names: Sequence[str], place: Path, *, stored_bytes: Callable[[str], int], compression: str = ""
) -> Iterator[tuple[str, Subject]]:
    """One after the other, those that can run here; who cannot is noted in the report."""
    for name in names:
        needed = stored_bytes(name)
        if why := hindrance(name, place, needed):
            report.note(f"{name} is left out: {why}")
            continue
        with peer(name, place, stored_bytes=needed, compression=compression) as subject:
            yield name, subject
