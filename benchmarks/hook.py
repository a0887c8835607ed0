"""What following git costs at a commit: ``snap create --git-commit`` and the post-commit hook, as whole processes.

Beside an empty Python process, the plainest commands of snapfs, and a commit in a repository that nothing follows.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

import trio

from benchmarks import harness
from benchmarks.harness import VOLUME, Mounted, Options, Report

FILES = 1000
FILE_BYTES = 4096

SECONDS_MAX = 0.25
"""Of one command, by its median: what a person does not wait for."""

PLAIN = (("create", VOLUME), ("status", VOLUME), ("list", VOLUME, "--newest", "1"))
"""Commands that are run most."""

WHO = ("-c", "user.name=b", "-c", "user.email=b@example.org", "-c", "gc.auto=0")


class Repository:
    def __init__(self, path: Path, mounted: Mounted) -> None:
        self._path = path
        self._mounted = mounted
        path.mkdir()
        harness.run("git", "init", "-q", cwd=path)
        (path / "code.py").write_text("pass\n")
        harness.run("git", "add", ".", cwd=path)
        self.commit()

    def follow(self) -> None:
        harness.snap("git", "install", "--volume", VOLUME, "--store", self._mounted.store, cwd=self._path)

    def commit(self) -> float:
        words = ("git", *WHO, "commit", "-q", "--allow-empty", "-m", "change")
        return harness.timed(partial(harness.run, *words, cwd=self._path))

    def _change_data(self) -> None:
        with open(self._mounted.volume / harness.file_path(0), "r+b") as file:
            file.write(os.urandom(FILE_BYTES))

    def commit_with_data(self) -> float:
        self._change_data()
        return self.commit()

    def create(self) -> float:
        """A snapshot of a new commit."""
        self._change_data()
        self.commit()
        words = ("create", VOLUME, "--git-commit", "--store", self._mounted.store)
        return harness.timed(partial(harness.snap, *words, cwd=self._path))


async def snapshot(store: Path) -> None:
    async with harness.opened(store) as (_, service):
        await service.create_snapshot(volume=VOLUME, name="base")


def body(report: Report, options: Options, place: Path) -> None:
    store = place / "store"
    harness.fill(store, files=options.scaled(FILES), payload_bytes=FILE_BYTES, size_bytes=FILE_BYTES)
    trio.run(snapshot, store)
    with harness.mounted(store) as (mounted,):
        plain, followed = Repository(place / "plain", mounted), Repository(place / "followed", mounted)
        followed.follow()
        harness.settle()
        python = partial(harness.run, sys.executable, "-c", "pass")
        series = harness.turns(
            {
                "python -c pass": partial(harness.timed, python),
                "git commit, no hooks": plain.commit,
                "git commit with the post-commit hook": followed.commit_with_data,
                "snap create --git-commit": plain.create,
                **{f"snap {words[0]}": partial(harness.timed, partial(mounted.snap, *words)) for words in PLAIN},
                "snap --version": partial(harness.timed, partial(harness.snap, "--version")),
            },
            options.repeats,
        )
        for name, values in series.items():
            report.values(name, {"process": values}, unit="ms")
        for name in ("git commit with the post-commit hook", "snap create --git-commit"):
            median = sorted(series[name])[len(series[name]) // 2]
            report.values(f"{name}, median", {"process": [median]}, unit="ms", limit=SECONDS_MAX * 1000)


if __name__ == "__main__":
    question = "what does following git cost at a commit?"
    sys.exit(harness.main(Report("hook", question), body, repeats=8, full_repeats=20))
