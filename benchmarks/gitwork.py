"""git on a file system: ``git clone`` of a repository, and ``git status`` in the clone, cold and warm.

The repository is made here, outside of all file systems compared: 10,000 files of about 2 KiB in 200 directories, 50
commits of which each changes 200 files.  A clone goes through git's protocol (no hard links) and ends with a sync.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks import filesystems, harness
from benchmarks.filesystems import FileSystem
from benchmarks.harness import Options, Report

FILES = 10_000
DIRECTORY_FILES = 50
COMMITS = 50
CHANGED_PART = 0.02
ONCE = ("ext4", "btrfs", "S3QL")
"""In a full run."""
LINES_MAX = 100

CLONE, COLD, WARM = "clone", "status, cold", "status, warm"
TOUCHED, LOG = "status, 1 % of the files touched", "log, cold"


def _file(dice: random.Random, number: int) -> bytes:
    lines = range(dice.randrange(1, LINES_MAX))
    return b"".join(b"line %d of file %d: %08x\n" % (line, number, dice.getrandbits(32)) for line in lines)


def _history(files: int) -> Iterator[bytes]:
    """What git fast-import reads."""
    dice = random.Random(files)
    for commit in range(COMMITS):
        chosen = range(files) if not commit else sorted(dice.sample(range(files), max(1, round(files * CHANGED_PART))))
        message = b"commit %d" % commit
        yield b"commit refs/heads/main\ncommitter b <b@example.org> %d +0000\n" % (1_600_000_000 + commit)
        yield b"data %d\n%s\n" % (len(message), message)
        for number in chosen:
            content = _file(dice, number)
            path = b"%03d/%05d.txt" % (number // DIRECTORY_FILES, number)
            yield b"M 100644 inline %s\ndata %d\n%s\n" % (path, len(content), content)


def make(repository: Path, files: int) -> None:
    harness.run("git", "init", "-q", "--bare", "-b", "main", repository)
    words = ["git", "-C", str(repository), "fast-import", "--quiet"]
    with subprocess.Popen(words, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        for part in _history(files):
            process.stdin.write(part)
    if process.returncode:
        raise SystemExit("git fast-import failed")


def measure(system: FileSystem, repository: Path, files: int) -> dict[str, float]:
    """Seconds of each command."""
    found = {}
    clone = system.root / "clone"

    def git(*arguments: str) -> str:
        return harness.run("git", "-C", clone, *arguments)

    def cloned() -> None:
        harness.run("git", "clone", "-q", "--no-local", repository, clone)
        harness.run("sync", "-f", system.root)

    def clean() -> None:
        if told := git("status", "--porcelain"):
            raise SystemExit(f"{clone} is not clean: {told[:200]}")

    def forget() -> None:
        system.forget_caches()
        harness.run("git", "--version")  # the program itself is not what is cold

    found[CLONE] = harness.timed(cloned)
    forget()
    found[COLD] = harness.timed(clean)
    found[WARM] = harness.timed(clean)
    for number in range(0, files, 100):
        (clone / f"{number // DIRECTORY_FILES:03d}/{number:05d}.txt").touch()
    found[TOUCHED] = harness.timed(clean)
    forget()
    found[LOG] = harness.timed(partial(git, "log", "--stat", "-n", "20"))
    shutil.rmtree(clone)
    return found


def body(report: Report, options: Options, place: Path) -> None:
    files, repository = options.scaled(FILES, DIRECTORY_FILES), place / "repository.git"
    make(repository, files)
    report.note(f"{files:,} files, {COMMITS} commits")
    work = partial(measure, repository=repository, files=files)
    filesystems.durations(report, options, place, work, group="git", once=ONCE)


if __name__ == "__main__":
    question = "how long do git clone and git status take, beside other file systems?"
    report = Report("gitwork", question)
    sys.exit(harness.main(report, body, repeats=1, scale=0.1, full_repeats=3, subjects=filesystems.NAMES))
