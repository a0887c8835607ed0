"""Which commits a real git repository reaches."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from snapfs.errors import NotFound, SnapfsError, Unavailable
from snapfs.git.reachable import reachable

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


class Code:
    """A repository with helpers."""

    def __init__(self, path: Path, *options: str) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self("init", "-q", "-b", "main", *options)

    def __call__(self, *arguments: str, at: Path | None = None) -> str:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        identity = {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        done = subprocess.run(
            ["git", *arguments], cwd=at or self.path, env=kept | identity | {"GIT_CONFIG_GLOBAL": "/dev/null"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def commit(self, text: str, *, at: Path | None = None) -> str:
        ((at or self.path) / "file").write_text(text)
        self("add", "file", at=at)
        self("commit", "-q", "-m", text, at=at)
        return self("rev-parse", "HEAD", at=at)

    def reaches(self, *commits: str) -> list[bool]:
        found = reachable(str(self.path), commits)
        assert found <= set(commits)
        return [commit in found for commit in commits]


@pytest.fixture
def code(tmp_path: Path) -> Code:
    return Code(tmp_path / "code")


UNKNOWN = "ab" * 20


def forget_reflogs(code: Code) -> None:
    code("reflog", "expire", "--expire=now", "--all")


class TestReached:
    def test_branches_and_their_history(self, code: Code) -> None:
        first, second = code.commit("1"), code.commit("2")
        code("switch", "-q", "-c", "side", first)
        side = code.commit("3")
        code("switch", "-q", "main")
        forget_reflogs(code)
        assert code.reaches(first, second, side, UNKNOWN) == [True, True, True, False]
        code("branch", "-q", "-D", "side")
        assert code.reaches(first, second, side) == [True, True, False]

    @pytest.mark.parametrize("annotated", [False, True])
    def test_tags(self, code: Code, annotated: bool) -> None:
        first = code.commit("1")
        second = code.commit("2")
        code("tag", *(["-a", "-m", "said"] if annotated else []), "v1")
        code("reset", "-q", "--hard", first)
        forget_reflogs(code)
        assert code.reaches(second) == [True]
        code("tag", "-d", "v1")
        assert code.reaches(first, second) == [True, False]

    def test_a_detached_head(self, code: Code) -> None:
        first = code.commit("1")
        code("switch", "-q", "--detach")
        second = code.commit("2")
        forget_reflogs(code)
        assert code.reaches(second) == [True]
        code("switch", "-q", "main")
        forget_reflogs(code)
        assert code.reaches(first, second) == [True, False]

    def test_stashes(self, code: Code) -> None:
        first = code.commit("1")
        stashes = []
        for text in ("2", "3"):
            (code.path / "file").write_text(text)
            code("stash", "push", "-q")
            stashes.append(code("rev-parse", "stash@{0}"))
        assert code.reaches(*stashes) == [True, True]
        code("stash", "clear")
        assert code.reaches(first, *stashes) == [True, False, False]

    def test_what_a_reset_left_behind_until_the_reflog_forgets_it(self, code: Code) -> None:
        first, second = code.commit("1"), code.commit("2")
        code("reset", "-q", "--hard", first)
        assert code.reaches(first, second) == [True, True]
        forget_reflogs(code)
        assert code.reaches(first, second) == [True, False]

    def test_linked_work_trees(self, code: Code, tmp_path: Path) -> None:
        first = code.commit("1")
        linked = tmp_path / "linked"
        code("worktree", "add", "-q", "--detach", str(linked))
        second, third = code.commit("2", at=linked), code.commit("3", at=linked)
        code("reset", "-q", "--hard", second, at=linked)
        assert code.reaches(second, third) == [True, True]  # its HEAD, and the reflog of that
        forget_reflogs(code)
        assert code.reaches(second, third) == [True, False]
        assert reachable(str(linked), [first, second, third]) == {first, second}

    def test_remote_branches(self, code: Code, tmp_path: Path) -> None:
        first = code.commit("1")
        code("clone", "-q", "--bare", str(code.path), str(tmp_path / "bare.git"))
        second = code.commit("2")
        code("push", "-q", str(tmp_path / "bare.git"), "main")
        assert reachable(str(tmp_path / "bare.git"), [first, second]) == {first, second}
        code("remote", "add", "origin", str(tmp_path / "bare.git"))
        code("fetch", "-q", "origin")
        code("reset", "-q", "--hard", first)
        forget_reflogs(code)
        assert code.reaches(second) == [True]

    def test_sha256(self, tmp_path: Path) -> None:
        code = Code(tmp_path / "code", "--object-format=sha256")
        first = code.commit("1")
        assert len(first) == 64
        assert code.reaches(first, "ab" * 32) == [True, False]

    def test_the_caller_s_own_repository_has_no_say(
        self, code: Code, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As in a hook of another repository."""
        other = Code(tmp_path / "other")
        other.commit("x")
        first = code.commit("1")
        monkeypatch.setenv("GIT_DIR", str(other.path / ".git"))
        assert reachable(str(code.path), [first]) == {first}

    def test_grafts_do_not_cut_the_history(self, code: Code) -> None:
        first, second = code.commit("1"), code.commit("2")
        (code.path / ".git" / "info" / "grafts").write_text(f"{second}\n")
        forget_reflogs(code)
        assert code.reaches(first, second) == [True, True]

    def test_replaced_commits_count_as_they_are(self, code: Code) -> None:
        first, second = code.commit("1"), code.commit("2")
        code("switch", "-q", "--orphan", "lone")
        lone = code.commit("3")
        code("switch", "-q", "main")
        code("replace", second, lone)
        assert code.reaches(first, second, lone) == [True, True, True]


class TestItCannotTell:
    def refused(self, path: Path, kind: type[SnapfsError], *commits: str) -> str:
        with pytest.raises(kind) as caught:
            reachable(str(path), commits or [UNKNOWN])
        return caught.value.message

    def test_no_directory(self, tmp_path: Path) -> None:
        assert str(tmp_path / "none") in self.refused(tmp_path / "none", NotFound)

    def test_a_place_that_it_may_not_look_at(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        def refuse(path: Path) -> bool:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))

        assert "too long" in self.refused(tmp_path / ("a" * 300), Unavailable)
        monkeypatch.setattr(Path, "is_dir", refuse)  # as for root nothing is closed
        assert "Permission denied" in self.refused(tmp_path, Unavailable)

    def test_no_place_for_temporary_files(self, code: Code, monkeypatch: pytest.MonkeyPatch) -> None:
        first = code.commit("1")
        monkeypatch.setattr(tempfile, "tempdir", str(code.path / "none"))
        assert "cannot be asked" in self.refused(code.path, Unavailable, first)

    def test_no_repository(self, tmp_path: Path) -> None:
        self.refused(tmp_path, SnapfsError)

    def test_a_repository_that_was_removed_inside_of_another(self, code: Code) -> None:
        """The one around it knows nothing of its commits."""
        first = code.commit("1")
        (code.path / "inner").mkdir()
        self.refused(code.path / "inner", NotFound, first)

    def test_a_repository_made_anew_in_its_place(self, code: Code) -> None:
        assert "another" in self.refused(code.path, Unavailable, UNKNOWN)  # empty
        code.commit("1")
        assert "another" in self.refused(code.path, Unavailable, UNKNOWN)

    def test_a_shallow_clone(self, code: Code, tmp_path: Path) -> None:
        code.commit("1")
        second = code.commit("2")
        code("clone", "-q", "--depth=1", f"file://{code.path}", str(tmp_path / "shallow"))
        assert "shallow" in self.refused(tmp_path / "shallow", Unavailable, second)

    def test_a_damaged_repository(self, code: Code) -> None:
        first, second = code.commit("1"), code.commit("2")
        damaged = code.path / ".git" / "objects" / first[:2] / first[2:]
        damaged.unlink()
        self.refused(code.path, Unavailable, first, second)

    def test_no_git(self, code: Code, monkeypatch: pytest.MonkeyPatch) -> None:
        first = code.commit("1")
        monkeypatch.setattr("snapfs.git.reachable._PATH", "/nowhere")
        assert "not installed" in self.refused(code.path, Unavailable, first)

    def test_git_takes_too_long(self, code: Code, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        first = code.commit("1")
        slow = tmp_path / "bin" / "git"
        slow.parent.mkdir()
        slow.write_text("#!/bin/sh\nexec sleep 1000\n")
        slow.chmod(0o755)
        monkeypatch.setattr("snapfs.git.reachable._PATH", f"{slow.parent}:/usr/bin:/bin")
        monkeypatch.setattr("snapfs.git.reachable.SECONDS_MAX", 0.05)
        assert "too long" in self.refused(code.path, Unavailable, first)


def test_nothing_asked(code: Code) -> None:
    assert reachable(str(code.path), []) == set()
    assert code.commit("1")
    assert reachable(str(code.path), ["no commit"]) == set()
