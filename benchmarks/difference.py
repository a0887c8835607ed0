"""``snap diff`` of a volume with 100,000 files of which 100 changed; beside git over the same tree on the host.

Whole processes, against the daemon.  Git has the same files, changed in the same places, in a work tree on the host's
file system, everything in its page cache.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import trio

from benchmarks import harness
from benchmarks.harness import VOLUME, Mounted, Options, Report

FILES = 100_000
FILE_BYTES = 1024
CHANGED = 100

SECONDS_MAX = 0.5

GIT = ("git", "-c", "core.fsync=none", "-c", "gc.auto=0", "-c", "user.name=b", "-c", "user.email=b@example.org")


def changed_numbers(files: int) -> range:
    """Spread over all directories."""
    return range(0, files, max(1, files // CHANGED))


def change(root: Path, files: int) -> None:
    for number in changed_numbers(files):
        with open(root / harness.file_path(number), "r+b") as file:
            file.seek(FILE_BYTES // 2)
            file.write(os.urandom(16))


def make_repository(tree: Path, files: int) -> None:
    """The tree that ``harness.fill`` made, committed to git."""
    for number in range(files):
        path = tree / harness.file_path(number)
        if number % harness.DIRECTORY_FILES == 0:
            path.parent.mkdir(parents=True)
        path.write_bytes(os.urandom(FILE_BYTES))
    harness.run(*GIT, "init", "-q", cwd=tree)
    harness.run(*GIT, "add", ".", cwd=tree)
    harness.run(*GIT, "commit", "-q", "-m", "base", cwd=tree)


async def snapshot(store: Path, name: str) -> None:
    async with harness.opened(store) as (_, service):
        await service.create_snapshot(volume=VOLUME, name=name)


def check(mounted: Mounted, tree: Path, changed: int) -> None:
    """Both see what was changed, and no more."""
    seen = mounted.snap("diff", f"{VOLUME}@base", "--json").count('"modified"')
    git = len(harness.run("git", "status", "--porcelain", cwd=tree).splitlines())
    if not seen == git == changed:
        raise SystemExit(f"{changed} files were changed; snap diff tells {seen}, git status {git}")


def measure(commands: dict[str, Callable[[], object]], tree: Path | None, repeats: int) -> dict[str, list[float]]:
    """Seconds of each command, in turns with git's own in the tree."""
    if tree is not None:
        for verb, option in (("status", "--porcelain"), ("diff", "--stat")):
            commands[f"git {verb}"] = partial(harness.run, "git", verb, option, cwd=tree)
    return harness.turns({name: partial(harness.timed, command) for name, command in commands.items()}, repeats)


def body(report: Report, options: Options, place: Path) -> None:
    files = options.scaled(FILES, CHANGED)
    store, tree = place / "store", place / "tree"
    harness.fill(store, files=files, payload_bytes=FILE_BYTES, size_bytes=FILE_BYTES)
    trio.run(snapshot, store, "base")
    with_git = harness.installed("git")
    if with_git:
        make_repository(tree, files)
    with harness.mounted(store) as (mounted,):
        change(mounted.volume, files)
        if with_git:
            change(tree, files)
            check(mounted, tree, len(changed_numbers(files)))
        harness.settle()
        base, changed = f"{VOLUME}@base", f"{VOLUME}@changed"
        commands: dict[str, Callable[[], object]] = {
            "snap diff A (the head)": partial(mounted.snap, "diff", base),
            "snap status": partial(mounted.snap, "status", VOLUME),
        }
        series = measure(commands, tree if with_git else None, options.repeats)
        mounted.snap("create", VOLUME, "--name", "changed")
        commands = {"snap diff A B": partial(mounted.snap, "diff", base, changed)}
        series |= measure(commands, None, options.repeats)
        for name, values in series.items():
            limit = SECONDS_MAX if name.startswith("snap diff") else None
            what = f"{name}: {files:,} files, {len(changed_numbers(files))} changed"
            report.values(what, {"process": values}, unit="s", limit=limit)


if __name__ == "__main__":
    question = "does `snap diff` answer in under half a second, whatever the volume's size?"
    sys.exit(harness.main(Report("difference", question), body, repeats=5, full_repeats=12, scale=0.1))
