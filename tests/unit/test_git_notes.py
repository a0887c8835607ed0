"""Notes on seals: lines beside other lines, written once, found again; when there is nothing to note."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from snapfs import api, errors
from snapfs.git import notes
from snapfs.git.notes import Noted
from snapfs.git.repository import Repository

DIGEST, OTHER = "a1" * 32, "b2" * 32
LINE = f"snapfs-seal: data@one {DIGEST}"

ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith(("GIT_", "SNAPFS_"))} | {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_AUTHOR_NAME": "Ada",
    "GIT_AUTHOR_EMAIL": "ada@example.org",
    "GIT_COMMITTER_NAME": "Ada",
    "GIT_COMMITTER_EMAIL": "ada@example.org",
}


def test_lines() -> None:
    text = f"by hand\n{LINE}\n  snapfs-seal: data@a b@c {OTHER}\nsnapfs-seal: data@x short\n"
    assert notes.parse(text) == [Noted("data", "one", DIGEST), Noted("data", "a b@c", OTHER)]
    assert notes.parse("") == []


def test_a_line_is_added() -> None:
    text = notes.merged(f"by hand\n{LINE}\n", Noted("data", "two", OTHER))
    assert text == f"by hand\n{LINE}\nsnapfs-seal: data@two {OTHER}\n"
    assert notes.merged("no newline", Noted("data", "two", OTHER)) == f"no newline\nsnapfs-seal: data@two {OTHER}\n"
    assert notes.merged("", Noted("data", "two", OTHER)) == f"snapfs-seal: data@two {OTHER}\n"


@pytest.mark.parametrize("name", [f"one {DIGEST}\nsnapfs-seal: data@two", "a\u2028b", "a\x85", "\n"])
def test_a_name_cannot_forge_a_line(name: str) -> None:
    with pytest.raises(errors.Invalid):
        notes.merged("", Noted("data", name, OTHER))


@pytest.fixture
def git(tmp_path: Path) -> Callable[..., str]:
    def run(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    run("init", "-q", "-b", "main")
    run("commit", "-q", "--allow-empty", "-m", "first")
    return run


@pytest.fixture
def repository(git: Callable[..., str], tmp_path: Path) -> Repository:
    return Repository(tmp_path, ENVIRONMENT)


def snapshot(commit: str, *, seal: str = DIGEST, volume: str = "data") -> api.Snapshot:
    return api.Snapshot(volume=volume, name="one", created_ns=1, git=api.GitCommit(commit=commit), seal=seal)


def test_noting(repository: Repository, git: Callable[..., str]) -> None:
    head = git("rev-parse", "HEAD")
    git("notes", "--ref=snapfs", "add", "-m", "by hand", head)
    assert notes.note(repository, snapshot(head))
    assert not notes.note(repository, snapshot(head))
    assert git("notes", "--ref=snapfs", "show", head) == f"by hand\n{LINE}"
    assert notes.note(repository, snapshot(head, volume="more", seal=OTHER))
    assert notes.of_volume(repository, head, "more") == [Noted("more", "one", OTHER)]
    assert notes.of_volume(repository, head, "data") == [Noted("data", "one", DIGEST)]
    assert git("log", "-1", "--format=%B%N", "--notes=snapfs").endswith(LINE + f"\nsnapfs-seal: more@one {OTHER}")


def test_another_seal_is_never_written_over(repository: Repository, git: Callable[..., str]) -> None:
    first = git("rev-parse", "HEAD")
    git("commit", "-q", "--allow-empty", "-m", "second")
    second = git("rev-parse", "HEAD")
    assert notes.note(repository, snapshot(first))
    with pytest.raises(errors.Conflict, match=DIGEST):
        notes.note(repository, snapshot(first, seal=OTHER))
    with pytest.raises(errors.Conflict, match=DIGEST):
        notes.note_missing(repository, [snapshot(first, seal=OTHER), snapshot(second)])
    assert git("notes", "--ref=snapfs", "show", first) == LINE
    assert git("notes", "--ref=snapfs", "show", second) == LINE  # what could be noted was


def test_what_others_noted_stays_byte_by_byte(repository: Repository, git: Callable[..., str], tmp_path: Path) -> None:
    head = git("rev-parse", "HEAD")
    (tmp_path / "note").write_bytes(b"caf\xe9\x85 \x0c\n")
    git("notes", "--ref=snapfs", "add", "-F", str(tmp_path / "note"), head)
    blob = git("notes", "--ref=snapfs", "list", head)
    before = subprocess.run(["git", "cat-file", "blob", blob], cwd=tmp_path, env=ENVIRONMENT, capture_output=True)
    assert notes.note(repository, snapshot(head))
    blob = git("notes", "--ref=snapfs", "list", head)
    after = subprocess.run(["git", "cat-file", "blob", blob], cwd=tmp_path, env=ENVIRONMENT, capture_output=True)
    assert before.stdout.startswith(b"caf\xe9")
    assert after.stdout == before.stdout + LINE.encode() + b"\n"


def test_notes_that_cannot_be_read_are_not_taken_for_none(
    repository: Repository, git: Callable[..., str], tmp_path: Path
) -> None:
    head = git("rev-parse", "HEAD")
    assert notes.note(repository, snapshot(head))
    blob = git("notes", "--ref=snapfs", "list", head)
    (tmp_path / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    with pytest.raises(errors.Unavailable):
        notes.note(repository, snapshot(head, volume="more"))
    with pytest.raises(errors.Unavailable):
        notes.of_volume(repository, head, "data")


def test_what_cannot_be_noted(repository: Repository, git: Callable[..., str]) -> None:
    head = git("rev-parse", "HEAD")
    assert not notes.note(repository, snapshot(head, seal=""))
    with pytest.raises(errors.Invalid):
        notes.note(repository, msgspec.structs.replace(snapshot(head), git=None))
    with pytest.raises(errors.Invalid):
        notes.note(repository, snapshot("--all"))
    elsewhere = snapshot("ab" * 20)
    with pytest.raises(errors.NotFound):
        notes.note(repository, elsewhere)
    assert notes.note_missing(repository, [elsewhere, snapshot(head, seal=""), snapshot(head)]) == [snapshot(head)]
    assert notes.note_missing(repository, [elsewhere, snapshot(head)]) == []


def test_waiting_for_a_seal() -> None:
    class Store:
        calls = 0

        def get_snapshot(self, *, volume: str, snapshot: str) -> api.Snapshot:
            self.calls += 1
            return made if self.calls < 3 else msgspec.structs.replace(made, seal=DIGEST)

    made = snapshot("ab" * 20, seal="")
    store = Store()
    assert notes.awaited(store, made, 30.0).seal == DIGEST
    assert store.calls == 3
    assert notes.awaited(store, made, 0.0).seal == ""
    assert notes.awaited(store, snapshot("ab" * 20), 0.0).seal == DIGEST
    assert store.calls == 3


@pytest.mark.parametrize(("value", "wanted"), [("true", True), ("Yes", True), ("1", True), ("false", False)])
def test_the_setting(tmp_path: Path, git: Callable[..., str], value: str, wanted: bool) -> None:
    assert not notes.wanted(Repository(tmp_path, ENVIRONMENT))
    git("config", "snapfs.notes", value)
    assert notes.wanted(Repository(tmp_path, ENVIRONMENT)) == wanted
