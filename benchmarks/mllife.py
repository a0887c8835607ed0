"""The life of a dataset: its first version, versions after a change, going back; beside DVC, git-lfs and git-annex.

20,000 files of 250 kB of noise, 5 GB. Two changes, each of one part in a hundred: of the pages, written in place, all
over the files, as labels and features are mended; and of the files, each written anew. After a change a version is
saved, then the one before is taken back, a file that differs is read, and the new one is taken again.

Each is used as its documentation says, by its commands as whole processes, in a git repository where it needs one.
What was changed lies in the page cache when a version is saved, with snapfs too: the time includes what the kernel
still has to hand over. snapfs and a peer take turns; what each then holds is checked.
"""

from __future__ import annotations

import random
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import contents, harness
from benchmarks.contents import PAGE_BYTES
from benchmarks.harness import VOLUME, Mounted, Options, Report

FILES = 20_000
FILE_BYTES = 250_000
DIRECTORY_FILES = 1000
CHANGED_PART = 0.01

TIMES_FASTER = {"DVC": 50.0, "git-lfs": 50.0}
PEERS = ("DVC", "git-lfs", "git-annex")

SPACE_FACTOR_MAX = 1.1


class Dataset:
    """Saves and takes back versions of the files in a directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        """Where the files are."""

    def save(self, version: str) -> None:
        raise NotImplementedError

    def go(self, version: str) -> None:
        """The files are as in that version."""
        raise NotImplementedError


class Snapfs(Dataset):
    def __init__(self, mounted: Mounted) -> None:
        super().__init__(mounted.volume)
        self._mounted = mounted

    def save(self, version: str) -> None:
        self._mounted.snap("create", VOLUME, "--name", version)

    def go(self, version: str) -> None:
        self._mounted.snap("checkout", f"{VOLUME}@{version}")


class InGit(Dataset):
    """A git repository with the files in ``data``."""

    def __init__(self, place: Path) -> None:
        super().__init__(place / "repository" / "data")
        self.repository = place / "repository"
        self.root.mkdir(parents=True)
        self.environment = {
            "GIT_CONFIG_GLOBAL": str(place / "gitconfig"), "GIT_CONFIG_SYSTEM": "/dev/null", "HOME": str(place),
            "XDG_CONFIG_HOME": str(place / "home"), "XDG_CACHE_HOME": str(place / "home"),
        }  # fmt: skip
        self.run("git", "init", "-q")
        self.run("git", "config", "--global", "user.name", "b")
        self.run("git", "config", "--global", "user.email", "b@example.org")

    def run(self, *words: str) -> None:
        harness.run(*words, cwd=self.repository, env=self.environment)

    def commit(self, version: str) -> None:
        self.run("git", "commit", "-q", "-m", version)
        self.run("git", "tag", version)

    def save(self, version: str) -> None:
        self.run("git", "add", ".")
        self.commit(version)

    def go(self, version: str) -> None:
        self.run("git", "checkout", "-q", version)


class GitLfs(InGit):
    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self.run("git", "lfs", "install", "--local")
        self.run("git", "lfs", "track", "*.bin")


class GitAnnex(InGit):
    """Files are added unlocked: a locked one cannot be changed in place."""

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self.run("git", "annex", "init", "-q")
        self.run("git", "annex", "config", "--set", "annex.addunlocked", "true")

    def save(self, version: str) -> None:
        self.run("git", "annex", "add", "-q", ".")
        self.commit(version)


class Dvc(InGit):
    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self.environment |= {"DVC_NO_ANALYTICS": "1", "DVC_SITE_CACHE_DIR": str(place / "site")}
        self.run("dvc", "init", "-q")

    def save(self, version: str) -> None:
        self.run("dvc", "add", "-q", "data")
        self.run("git", "add", "data.dvc", ".gitignore")
        self.commit(version)

    def go(self, version: str) -> None:
        self.run("git", "checkout", "-q", version)
        self.run("dvc", "checkout", "-q")


PROGRAMS = {"DVC": "dvc", "git-lfs": "git-lfs", "git-annex": "git-annex"}
KINDS: dict[str, Callable[[Path], InGit]] = {"DVC": Dvc, "git-lfs": GitLfs, "git-annex": GitAnnex}


@contextmanager
def peer(report: Report, name: str, place: Path, stored_bytes: int) -> Iterator[InGit | None]:
    """A peer with an empty directory, removed afterwards; None, which is noted, if it cannot run here."""
    if not harness.installed(PROGRAMS[name]):
        report.note(f"{name} is not installed: left out")
        yield None
        return
    free = shutil.disk_usage(place).free
    if free < stored_bytes * SPACE_FACTOR_MAX:
        report.note(f"no room for {name}: {stored_bytes / 1e9:.0f} GB are needed: left out")
        yield None
        return
    home = place / name
    home.mkdir()
    try:
        yield KINDS[name](home)
    finally:
        harness.run("chmod", "-R", "u+w", home)  # git-annex protects what it keeps
        shutil.rmtree(home)


# -- what happens to the files


def path_of(root: Path, number: int) -> Path:
    return root / f"{number // DIRECTORY_FILES:03d}" / f"{number:06d}.bin"


def write_all(root: Path, files: int) -> None:
    for number in range(files):
        path = path_of(root, number)
        if number % DIRECTORY_FILES == 0:
            path.parent.mkdir()
        contents.write_noise(path, FILE_BYTES, number)


def change_pages(root: Path, files: int, seed: int) -> Path:
    """One page in a hundred; one of the files that were changed."""
    dice = random.Random(seed)
    pages = FILE_BYTES // PAGE_BYTES
    chosen = sorted(dice.sample(range(files * pages), round(files * pages * CHANGED_PART)))
    of_file: dict[int, list[int]] = {}
    for place in chosen:
        of_file.setdefault(place // pages, []).append(place % pages)
    for number, changed in of_file.items():
        contents.change_pages(path_of(root, number), changed, dice)
    return path_of(root, chosen[0] // pages)


def change_files(root: Path, files: int, seed: int) -> Path:
    """One file in a hundred; one of them."""
    chosen = sorted(random.Random(seed).sample(range(files), max(1, round(files * CHANGED_PART))))
    for number in chosen:
        contents.write_noise(path_of(root, number), FILE_BYTES, seed * files + number)
    return path_of(root, chosen[0])


CHANGES: dict[str, Callable[[Path, int, int], Path]] = {
    "1 % of the pages changed in place": change_pages,
    "1 % of the files written anew": change_files,
}


class Times:
    """Seconds of each step, of each subject."""

    def __init__(self) -> None:
        self.of: dict[tuple[str, str], dict[str, list[float]]] = {}

    def take(self, group: str, what: str, name: str, action: Callable[[], object]) -> None:
        took = harness.timed(action)
        self.of.setdefault((group, what), {}).setdefault(name, []).append(took)


def begin(times: Times, name: str, subject: Dataset, files: int) -> None:
    times.take("first version", "write the files", name, lambda: write_all(subject.root, files))
    times.take("first version", "save it", name, lambda: subject.save("v0"))


def live(times: Times, name: str, subject: Dataset, kind: str, seed: int, files: int, before: str) -> str:
    """A change, its version, back to the one before, and forth; the new version's name."""
    version = f"v{seed}"
    group = f"a version, {kind}"
    changed = CHANGES[kind](subject.root, files, seed)
    new = changed.read_bytes()
    times.take(group, "save it", name, lambda: subject.save(version))
    times.take(group, "go back", name, lambda: subject.go(before))
    read: list[bytes] = []
    times.take(group, "then read a changed file", name, lambda: read.append(changed.read_bytes()))
    if read[0] == new:
        raise SystemExit(f"{name}: {changed} is not as it was in {before}")
    subject.go(version)
    if changed.read_bytes() != new:
        raise SystemExit(f"{name}: {changed} is not as it was saved in {version}")
    return version


def beside(times: Times, snapfs: Dataset, at: str, name: str, other: Dataset, files: int, repeats: int) -> str:
    """snapfs, which has a version, and a peer in turns; the version that snapfs then has."""
    begin(times, name, other, files)
    theirs, seed = "v0", int(at[1:])
    for kind in CHANGES:
        for number in range(repeats):
            seed += 1
            turns = [("snapfs", snapfs, at), (name, other, theirs)]
            for who, subject, before in turns if number % 2 else turns[::-1]:
                live(times, who, subject, kind, seed, files, before)
            at = theirs = f"v{seed}"
    return at


def body(report: Report, options: Options, place: Path) -> None:
    files = options.scaled(FILES, 100)
    first_bytes = files * FILE_BYTES
    times = Times()
    store = place / "store"
    harness.snap("init", store)
    with harness.mounted(store) as (mounted,):
        mounted.snap("volume", "create", VOLUME)
        mine = Snapfs(mounted)
        begin(times, "snapfs", mine, files)
        at = "v0"
        for name in [name for name in PEERS if name in options.on]:
            # the work tree, its first version, and one whole per version of which all files were changed
            with peer(report, name, place, (3 + options.repeats) * first_bytes) as other:
                if other is not None:
                    at = beside(times, mine, at, name, other, files, options.repeats)
    for (group, what), series in times.of.items():
        title = f"{group} ({files:,} files, {first_bytes / 1e9:g} GB)"
        limits = TIMES_FASTER if group.startswith("a version") and what in ("save it", "go back") else None
        first = {name: series[name] for name in sorted(series, key=lambda name: name != "snapfs")}
        report.durations(what, first, unit="s", times_faster=limits, group=title)


if __name__ == "__main__":
    question = "how much faster than DVC, git-lfs and git-annex is a new version, and going back?"
    program = Report("mllife", question)
    sys.exit(harness.main(program, body, repeats=1, full_repeats=2, scale=0.02, subjects=("snapfs", *PEERS)))
