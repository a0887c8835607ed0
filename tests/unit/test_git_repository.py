"""Facts that snapshots record of git, and what the repository module knows of operations under way."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from snapfs import errors
from snapfs.git.repository import Binding, Repository, clean_environment, is_commit_id, is_null_id, without_credentials

Git = Callable[..., str]

ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith(("GIT_", "SNAPFS_"))} | {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_AUTHOR_NAME": "Ada",
    "GIT_AUTHOR_EMAIL": "ada@example.org",
    "GIT_COMMITTER_NAME": "Ada",
    "GIT_COMMITTER_EMAIL": "ada@example.org",
}


def runner(directory: Path) -> Git:
    def git(*arguments: str, fails: bool = False) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=directory, env=ENVIRONMENT, capture_output=True, text=True, check=False
        )
        assert (done.returncode != 0) == fails, done.stderr
        return done.stdout.strip()

    return git


@pytest.fixture(params=["sha1", "sha256"])
def work(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    directory = tmp_path / "work tree"
    directory.mkdir()
    runner(directory)("init", "-q", "-b", "main", f"--object-format={request.param}")
    return directory


@pytest.fixture
def git(work: Path) -> Git:
    return runner(work)


def commit(work: Path, subject: str) -> str:
    git = runner(work)
    (work / "file").write_text(subject)
    git("add", "file")
    git("commit", "-q", "-m", subject, "-m", "body")
    return git("rev-parse", "HEAD")


def test_facts_of_head(work: Path, git: Git) -> None:
    first = commit(work, "first é\t\"'")
    facts = Repository(work, ENVIRONMENT).facts_of()
    assert is_commit_id(first)
    assert (facts.commit, facts.branch, facts.subject) == (first, "main", "first é\t\"'")
    assert (facts.author, facts.remote, facts.dirty) == ("Ada <ada@example.org>", "", False)


def test_dirty_means_tracked_files(work: Path) -> None:
    commit(work, "first")
    (work / "untracked").write_text("")
    assert not Repository(work, ENVIRONMENT).facts_of().dirty
    (work / "file").write_text("changed")
    assert Repository(work, ENVIRONMENT).facts_of().dirty


def test_revisions(work: Path, git: Git) -> None:
    first = commit(work, "first")
    commit(work, "second")
    git("tag", "-a", "-m", "x", "v1", first)
    repository = Repository(work, ENVIRONMENT)
    for revision in ("HEAD~1", "v1", first, first[:10], "main^", ":/first"):
        assert repository.facts_of(revision).commit == first
    for revision in ("nope", "HEAD~9", "HEAD..main", "main:file", "a b", "", "-1", "--all", "-c", "\n"):
        with pytest.raises(errors.SnapfsError):
            repository.facts_of(revision)


def test_no_commit_yet(work: Path) -> None:
    with pytest.raises(errors.NotFound, match="no commit yet"):
        Repository(work, ENVIRONMENT).facts_of()
    with pytest.raises(errors.NotFound):
        Repository(work, ENVIRONMENT).head_moves()


def test_detached_and_odd_branches(work: Path, git: Git) -> None:
    commit(work, "first")
    git("checkout", "-q", "-b", "feature/é")
    assert Repository(work, ENVIRONMENT).facts_of().branch == "feature/é"
    git("checkout", "-q", "--detach")
    assert Repository(work, ENVIRONMENT).facts_of().branch == ""


def test_no_repository(tmp_path: Path) -> None:
    with pytest.raises(errors.NotFound, match="no git repository"):
        Repository(tmp_path, ENVIRONMENT | {"GIT_CEILING_DIRECTORIES": str(tmp_path.parent)})


def test_no_git(tmp_path: Path) -> None:
    # the search path decides, as in a shell
    with pytest.raises(errors.Unavailable, match="not installed"):
        Repository(tmp_path, {"PATH": str(tmp_path)})


def test_bare_repository(tmp_path: Path) -> None:
    git = runner(tmp_path)
    git("init", "-q", "--bare", "-b", "main", "bare")
    repository = Repository(tmp_path / "bare", ENVIRONMENT)
    assert repository.top is None
    assert repository.hooks_directory() == tmp_path / "bare/hooks"
    assert repository.work_state.branch == "main"


def test_remote_of_the_branch_without_credentials(work: Path, git: Git) -> None:
    commit(work, "first")
    git("remote", "add", "other", "https://u:p@example.org/other.git")
    assert Repository(work, ENVIRONMENT).facts_of().remote == "https://example.org/other.git"
    git("remote", "add", "origin", "https://token@example.org/origin.git")
    assert Repository(work, ENVIRONMENT).facts_of().remote == "https://example.org/origin.git"
    git("config", "branch.main.remote", "other")
    assert Repository(work, ENVIRONMENT).facts_of().remote == "https://example.org/other.git"


@pytest.mark.parametrize(
    ("url", "clean"),
    [
        ("https://user:secret@host/path.git", "https://host/path.git"),
        ("https://token@host:8443/a@b", "https://host:8443/a@b"),
        ("https://u:p@ss@host/x", "https://host/x"),
        ("https://host/x?token=secret", "https://host/x"),
        ("https://host/x#secret", "https://host/x"),
        ("https://u:p@host", "https://host"),
        ("https://u:p@host?x", "https://host"),
        ("ssh://git@host/x", "ssh://git@host/x"),
        ("ssh://git:secret@host:22/x", "ssh://git@host:22/x"),
        ("git@host:path.git", "git@host:path.git"),
        ("/srv/repo.git", "/srv/repo.git"),
        ("file:///srv/repo.git", "file:///srv/repo.git"),
        ("helper::https://u:p@host/x", "helper::https://host/x"),
    ],
)
def test_without_credentials(url: str, clean: str) -> None:
    assert without_credentials(url) == clean


def test_many_commits_in_one_run(work: Path) -> None:
    ids = [commit(work, f"number {number}") for number in range(5)]
    missing = "0" * (len(ids[0]) - 1) + "1"
    found = Repository(work, ENVIRONMENT).commits([*ids, missing, ids[0], "--all", "zz"])
    assert [found[one].subject for one in ids] == [f"number {number}" for number in range(5)]
    assert found[ids[3]].parents == [ids[2]]
    assert missing not in found
    assert Repository(work, ENVIRONMENT).commits([]) == {}


def test_head_moves_tell_what_moved_it(work: Path, git: Git) -> None:
    first, second = commit(work, "first"), commit(work, "second")
    git("checkout", "-q", first)
    now, before = Repository(work, ENVIRONMENT).head_moves()
    assert (now.id, before.id) == (first, second)
    assert now.reflog.startswith("checkout: moving from main to ")


def test_head_without_reflog(work: Path, git: Git) -> None:
    git("config", "core.logAllRefUpdates", "false")
    first = commit(work, "first")
    assert [move.id for move in Repository(work, ENVIRONMENT).head_moves()] == [first]


def test_binding(work: Path, git: Git) -> None:
    repository = Repository(work, ENVIRONMENT)
    assert (repository.volume, repository.store) == ("", None)
    assert not repository.unbind()
    repository.bind(Binding(store="/data/a store", volume="digits"))
    assert (repository.volume, repository.store) == ("digits", Path("/data/a store"))
    repository.bind(Binding(store="/other", volume="other"))
    assert git("config", "--get-all", "snapfs.volume") == "other"
    remote = Binding(volume="other", address="lake.example.org:7443", token_file="/etc/token", ca="/etc/ca.pem")
    repository.bind(remote)
    assert repository.binding == remote
    assert git("config", "--get", "snapfs.tokenFile") == "/etc/token"
    assert repository.store is None, "of the binding before nothing is left"
    assert repository.unbind()
    assert repository.binding == Binding()
    assert not repository.binding.complete


def test_facts_of_a_detached_head_with_the_branch_told(work: Path, git: Git) -> None:
    """As on a server that builds: it checks out a commit, and knows the branch from elsewhere."""
    first = commit(work, "first")
    git("checkout", "-q", "--detach", first)
    (work / "file").write_text("changed")
    repository = Repository(work, ENVIRONMENT)
    assert repository.facts_of().branch == ""
    told = repository.facts_of("HEAD", branch="feature/x")
    assert (told.commit, told.branch, told.dirty) == (first, "feature/x", True)


def test_a_work_tree_of_its_own_binding(work: Path, git: Git, tmp_path: Path) -> None:
    commit(work, "first")
    Repository(work, ENVIRONMENT).bind(Binding(store="/s", volume="shared"))
    git("worktree", "add", "-q", str(tmp_path / "linked"))
    linked = Repository(tmp_path / "linked", ENVIRONMENT)
    assert linked.volume == "shared"
    assert linked.git_dir != linked.common_dir
    git("config", "extensions.worktreeConfig", "true")
    linked = Repository(tmp_path / "linked", ENVIRONMENT)
    linked.bind(Binding(store="/s", volume="own"))
    assert Repository(tmp_path / "linked", ENVIRONMENT).volume == "own"
    assert Repository(work, ENVIRONMENT).volume == "shared"


def test_hooks_directory(work: Path, git: Git, tmp_path: Path) -> None:
    commit(work, "first")
    (work / "sub").mkdir()
    git("worktree", "add", "-q", str(tmp_path / "linked"))
    for place in (work, work / "sub", tmp_path / "linked"):
        assert Repository(place, ENVIRONMENT).hooks_directory() == work / ".git/hooks"
    git("config", "core.hooksPath", ".husky/_")
    assert Repository(work / "sub", ENVIRONMENT).hooks_directory() == work / ".husky/_"
    assert Repository(tmp_path / "linked", ENVIRONMENT).hooks_directory() == tmp_path / "linked/.husky/_"
    git("config", "core.hooksPath", "/etc/hooks")
    assert Repository(work, ENVIRONMENT).hooks_directory() == Path("/etc/hooks")


def test_environment_of_a_hook(work: Path, tmp_path: Path) -> None:
    commit(work, "first")
    environment = ENVIRONMENT | {
        "GIT_DIR": str(work / ".git"),
        "GIT_WORK_TREE": str(work),
        "GIT_INDEX_FILE": str(work / ".git/next-index-1.lock"),
        "GIT_PREFIX": "sub/",
        "GIT_REFLOG_ACTION": "rebase (pick)",
    }
    repository = Repository(tmp_path, environment)
    assert repository.top == work
    assert not repository.facts_of().dirty  # with the index that is gone everything would be deleted
    clean = clean_environment(environment)
    assert "GIT_PREFIX" not in clean
    assert "GIT_INDEX_FILE" not in clean
    assert clean["GIT_DIR"] == str(work / ".git")
    kept = clean_environment(environment | {"GIT_INDEX_FILE": str(work / ".git/index")})
    assert kept["GIT_INDEX_FILE"] == str(work / ".git/index")


def test_null_id() -> None:
    assert is_null_id("0" * 40)
    assert not is_null_id("")
    assert not is_null_id("01")
