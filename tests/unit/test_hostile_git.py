"""Names in a repository that look like options or like commands of a shell: git takes them for names."""

from __future__ import annotations

import ast
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from snapfs.errors import Invalid, NotFound, SnapfsError
from snapfs.git.receive import Update, snapshot_pushed
from snapfs.git.repository import Binding, Repository
from snapfs.testing.engine import EngineSubject
from snapfs_cli import main

SOURCES = Path(__file__).parents[2]
SNAP = Path(sys.executable).with_name("snap")
NAMES = (
    "--output=owned",
    "-x",
    "--upload-pack=touch owned",
    "--exec=touch owned",
    "$(touch owned)",
    "`touch owned`",
    "a;touch owned",
)
"""Each would make the file ``owned``, if it were taken for what it looks like."""


def git(directory: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=directory, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With one commit."""
    for name in list(os.environ):
        if name.startswith(("GIT_", "SNAPFS_")):
            monkeypatch.delenv(name)
    for name, value in (
        ("HOME", str(tmp_path)),
        ("GIT_CONFIG_NOSYSTEM", "1"),
        ("GIT_AUTHOR_NAME", "--author"),
        ("GIT_AUTHOR_EMAIL", "-a@b"),
        ("GIT_COMMITTER_NAME", "-c"),
        ("GIT_COMMITTER_EMAIL", "-c@d"),
    ):
        monkeypatch.setenv(name, value)
    directory = tmp_path / "repository"
    directory.mkdir()
    git(directory, "init", "-q", "-b", "main")
    git(directory, "commit", "-q", "--allow-empty", "-m", "--subject")
    monkeypatch.chdir(directory)
    return directory


def owned(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("owned*") if ".git" not in path.parts]


@pytest.mark.parametrize("revision", [*NAMES, "--all", "--git-dir", "-", "--", "", "HEAD --output=owned"])
def test_revisions(repository: Path, revision: str) -> None:
    one = Repository(repository, os.environ)
    with pytest.raises((NotFound, Invalid)):
        one.resolve(revision)
    with pytest.raises((NotFound, Invalid)):
        one.facts_of(revision)
    assert owned(repository) == []


@pytest.mark.parametrize("name", NAMES)
def test_branches(repository: Path, name: str) -> None:
    """git itself makes no branch of such a name, but who may write to a repository can."""
    commit = git(repository, "rev-parse", "HEAD")
    (repository / ".git" / "HEAD").write_text(f"ref: refs/heads/{name}\n")
    (repository / ".git" / "refs" / "heads" / name).write_text(commit + "\n")
    one = Repository(repository, os.environ)
    found = one.facts_of("HEAD") if " " not in name else None
    if found:
        assert (found.commit, found.branch, found.author, found.subject) == (
            commit,
            name,
            "--author <-a@b>",
            "--subject",
        )
    with pytest.raises((NotFound, Invalid)):
        one.resolve("-x")
    assert owned(repository) == []


@pytest.mark.parametrize("name", NAMES)
def test_pushed_branches(repository: Path, name: str, tmp_path: Path) -> None:
    class Store:
        def get_snapshot(self, *, volume: str, snapshot: str) -> object:
            raise NotFound("none")

        def create_snapshot(self, *, volume: str, git: object = None) -> object:
            branches.append(git.branch)  # type: ignore[attr-defined]
            return type("Made", (), {"created": True})()

    branches: list[str] = []
    commit = git(repository, "rev-parse", "HEAD")
    updates = [Update("0" * 40, commit, f"refs/heads/{name}"), Update("0" * 40, name, "refs/heads/x")]
    snapshot_pushed(Repository(repository, os.environ), Store(), "data", updates, lambda text: None)  # type: ignore[arg-type]
    assert branches == [name]
    assert owned(repository) == []


@pytest.mark.parametrize("value", NAMES)
def test_bindings(repository: Path, value: str) -> None:
    """What is bound is kept as it is, and taken away again."""
    one = Repository(repository, os.environ)
    one.bind(Binding(volume=value, store=value, token_file=value))
    assert (one.volume, one.binding.store, one.binding.token_file) == (value, value, value)
    assert one.unbind()
    assert not one.unbind()
    assert owned(repository) == []


@pytest.mark.parametrize("name", NAMES)
def test_hooks(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    """Whatever they are called with: they end well, and nothing of it is run."""
    store = tmp_path / "store"
    engine = EngineSubject(store)
    engine.create_volume("data")
    engine.close()
    assert main.run(["git", "install", "--store", str(store), "--volume", "data"]) == 0
    from snapfs_cli.git_hook import run_hook

    for arguments in (
        ["post-checkout", name, name, "1"],
        ["post-checkout", "1" * 40, name, "1"],
        ["post-checkout", name, "1" * 40, "1"],
        ["post-merge", name],
        ["post-rewrite", name],
        ["post-receive"],
        [name],
    ):
        text = f"{name} {name} refs/heads/{name}\n{'1' * 40} {'2' * 40}\n"
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        assert run_hook(arguments) == 0
    assert "internal error" not in capfd.readouterr().err
    assert owned(tmp_path) == []


def test_a_path_of_such_a_name(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store's path is in the hooks, which are programs of a shell."""
    place = tmp_path / "$(touch owned) `touch owned`;touch owned 'x' \"y\""
    place.mkdir()
    engine = EngineSubject(place / "--store")
    engine.create_volume("data")
    engine.close()
    assert main.run(["git", "install", "--store", str(place / "--store"), "--volume", "data"]) == 0
    done = subprocess.run(
        ["git", "commit", "-q", "--allow-empty", "-m", "x"], cwd=repository, capture_output=True, text=True, check=True
    )
    assert "internal error" not in done.stderr
    assert owned(tmp_path) == []
    engine = EngineSubject(place / "--store")
    names = [record.name for record in engine.lake.snapshots.all(engine.lake.volumes.get("data"))]
    engine.close()
    assert git(repository, "rev-parse", "HEAD") in names


def test_no_shell() -> None:
    """Programs are started with lists of arguments, everywhere."""
    started = 0
    for path in (*SOURCES.glob("snapfs/**/*.py"), *SOURCES.glob("cli/**/*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            assert called not in ("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"), path
            assert not any(word.arg == "shell" for word in node.keywords), (path, node.lineno)
            if called in ("subprocess.run", "subprocess.Popen"):
                started += 1
                assert not isinstance(node.args[0], ast.Constant | ast.JoinedStr), (path, node.lineno)
    assert started >= 3


def test_errors_are_ours(repository: Path) -> None:
    (repository / ".git" / "HEAD").write_text("garbage")
    with pytest.raises(SnapfsError):
        Repository(repository, os.environ)
