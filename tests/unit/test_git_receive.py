"""What post-receive does: real repositories, a store that only remembers."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from snapfs import api, errors
from snapfs.git.receive import BRANCHES_MAX, Update, read_updates, snapshot_pushed
from snapfs.git.repository import Repository

NULL = "0" * 40
ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith(("GIT_", "SNAPFS_"))} | {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_AUTHOR_NAME": "Ada",
    "GIT_AUTHOR_EMAIL": "ada@example.org",
    "GIT_COMMITTER_NAME": "Ada",
    "GIT_COMMITTER_EMAIL": "ada@example.org",
}


class Remembering:
    """Snapshots by commit."""

    def __init__(self) -> None:
        self.made: dict[str, api.GitCommit] = {}
        self.full = False

    def get_snapshot(self, *, volume: str, snapshot: str) -> api.Snapshot:
        if snapshot not in self.made:
            raise errors.NotFound(f"no snapshot {snapshot}")
        return api.Snapshot(volume=volume, name=snapshot, created_ns=1)

    def create_snapshot(self, *, volume: str, git: api.GitCommit | None = None) -> api.Snapshot:
        assert git is not None
        if self.full:
            raise errors.NoSpace("no space")
        self.made[git.commit] = git
        return api.Snapshot(volume=volume, name=git.commit, created_ns=1, git=git)


def git(directory: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=directory, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    directory = tmp_path / "pushed.git"
    directory.mkdir()
    git(directory, "init", "-q", "--bare", "-b", "main")
    return directory


def commit(bare: Path, subject: str) -> str:
    tree = git(bare, "mktree", "--missing")
    return git(bare, "commit-tree", tree, "-m", subject)


def receive(bare: Path, store: Remembering, updates: list[Update]) -> list[str]:
    told: list[str] = []
    snapshot_pushed(Repository(bare, ENVIRONMENT), store, "digits", updates, told.append)
    return told


def test_input_of_the_hook() -> None:
    assert read_updates(f"{NULL} {'1' * 40} refs/heads/a b\n\n{'2' * 40} {NULL} refs/tags/v1\n") == [
        Update(NULL, "1" * 40, "refs/heads/a b"),
        Update("2" * 40, NULL, "refs/tags/v1"),
    ]
    assert read_updates("") == []


def test_branches_get_snapshots_and_nothing_else_does(bare: Path) -> None:
    store = Remembering()
    tip, other, tagged = commit(bare, "tip"), commit(bare, "other"), commit(bare, "tagged")
    told = receive(
        bare,
        store,
        [
            Update(NULL, tip, "refs/heads/main"),
            Update(tip, NULL, "refs/heads/gone"),
            Update(NULL, tagged, "refs/tags/v1"),
            Update(NULL, other, "refs/heads/feature/ä"),
        ],
    )
    assert told == [
        f"digits@{tip[:12]} holds the data of main",
        f"digits@{other[:12]} holds the data of feature/ä",
    ]
    assert store.made == {
        tip: api.GitCommit(commit=tip, branch="main", subject="tip", author="Ada <ada@example.org>"),
        other: api.GitCommit(commit=other, branch="feature/ä", subject="other", author="Ada <ada@example.org>"),
    }


def test_a_commit_keeps_its_first_snapshot(bare: Path) -> None:
    store = Remembering()
    tip = commit(bare, "tip")
    receive(bare, store, [Update(NULL, tip, "refs/heads/main")])
    told = receive(bare, store, [Update(NULL, tip, "refs/heads/again")])
    assert told == [f"digits@{tip[:12]} holds the data of again already"]
    assert store.made[tip].branch == "main"


def test_what_was_pushed_away_meanwhile(bare: Path) -> None:
    store = Remembering()
    assert receive(bare, store, [Update(NULL, "1" * 40, "refs/heads/main")]) == []
    assert store.made == {}


def test_a_mirror_of_many_branches_is_bounded_and_told(bare: Path) -> None:
    store = Remembering()
    tip = commit(bare, "tip")
    told = receive(bare, store, [Update(NULL, tip, f"refs/heads/b{n}") for n in range(BRANCHES_MAX + 3)])
    assert len(told) == BRANCHES_MAX + 1
    assert told[-1].startswith("3 more branches got no snapshot of digits")


def test_what_the_store_refuses_is_the_callers_to_tell(bare: Path) -> None:
    store = Remembering()
    store.full = True
    with pytest.raises(errors.NoSpace):
        receive(bare, store, [Update(NULL, commit(bare, "tip"), "refs/heads/main")])
