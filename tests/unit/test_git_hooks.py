"""Our block in hooks: beside what is there, idempotent, and gone without a trace."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from snapfs import errors
from snapfs.git import hooks
from snapfs.git.hooks import HOOK_NAMES

SHELL_HOOKS = {
    "plain": b"#!/bin/sh\necho theirs\n",
    "exits": b"#!/usr/bin/env bash\nset -eu\necho theirs\nexit 0\n",
    "execs": b"#!/bin/sh -e\nexec echo theirs\n",
    "no shebang": b"echo theirs\n",
    "no newline at the end": b"#!/bin/sh\necho theirs",
    "not utf-8": b"#!/bin/dash\n# \xff\xfe\necho theirs\n",
    "env with options": b"#!/usr/bin/env -S bash -e\necho theirs\n",
}
PYTHON_HOOK = b"#!/usr/bin/env python3\nimport sys\nprint('theirs', *sys.argv[1:], sys.stdin.read())\n"


@pytest.fixture
def snap(tmp_path: Path) -> Path:
    """Stands for the command: notes its arguments and input."""
    command = tmp_path / "it's a dir" / "snap"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >> "{tmp_path}/calls"\ncat >> "{tmp_path}/input"\nexit 7\n')
    command.chmod(0o755)
    return command


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "hooks"
    made.mkdir()
    return made


def put(path: Path, content: bytes, mode: int = 0o755) -> None:
    path.write_bytes(content)
    path.chmod(mode)


def run(hook: Path, *arguments: str, given: str = "") -> str:
    done = subprocess.run([hook, *arguments], input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def calls(tmp_path: Path) -> list[str]:
    path = tmp_path / "calls"
    return path.read_text().splitlines() if path.exists() else []


def test_into_nothing_and_out_again(directory: Path, snap: Path, tmp_path: Path) -> None:
    hooks.install(directory, snap)
    assert sorted(os.listdir(directory)) == sorted(HOOK_NAMES)
    assert all(state.installed and state.current and not state.beside for state in hooks.status(directory, snap))
    assert run(directory / "post-checkout", "a", "b c", "1") == ""
    assert calls(tmp_path) == ["git hook post-checkout a b c 1"]
    assert hooks.uninstall(directory) == list(HOOK_NAMES)
    assert os.listdir(directory) == []
    assert hooks.uninstall(directory) == []


@pytest.mark.parametrize("kind", list(SHELL_HOOKS))
def test_beside_a_shell_hook(kind: str, directory: Path, snap: Path, tmp_path: Path) -> None:
    content = SHELL_HOOKS[kind]
    put(directory / "post-commit", content, 0o750)
    hooks.install(directory, snap)
    first = (directory / "post-commit").read_bytes()
    hooks.install(directory, snap)
    assert (directory / "post-commit").read_bytes() == first
    if kind != "no shebang":  # git runs that one through sh, the kernel does not
        assert run(directory / "post-commit") == "theirs\n"
        assert calls(tmp_path) == ["git hook post-commit"]
    state = hooks.status(directory, snap)[0]
    assert (state.installed, state.current, state.beside) == (True, True, "own lines")
    hooks.uninstall(directory)
    assert (directory / "post-commit").read_bytes() == content
    assert (directory / "post-commit").stat().st_mode & 0o777 == 0o750


@pytest.mark.parametrize("content", [*SHELL_HOOKS.values(), PYTHON_HOOK])
def test_both_read_the_input_of_post_rewrite(content: bytes, directory: Path, snap: Path, tmp_path: Path) -> None:
    if not content.startswith(b"#!"):
        pytest.skip("the kernel cannot run it")
    reads = content.replace(b"echo theirs", b"cat")
    put(directory / "post-rewrite", reads)
    hooks.install(directory, snap)
    lines = "".join(f"{number:040} {number + 1:040}\n" for number in range(5000))
    told = run(directory / "post-rewrite", "rebase", given=lines)
    assert lines in told
    assert (tmp_path / "input").read_text() == lines


def test_the_hook_of_a_server_reads_and_hands_on(directory: Path, snap: Path, tmp_path: Path) -> None:
    put(directory / "post-receive", b"#!/bin/sh\nexec cat\n")
    hooks.install(directory, snap, hooks.SERVER_HOOK_NAMES)
    assert os.listdir(directory) == ["post-receive"]
    lines = "".join(f"{number:040} {number + 1:040} refs/heads/b{number}\n" for number in range(5000))
    assert lines in run(directory / "post-receive", given=lines)
    assert (tmp_path / "input").read_text() == lines
    assert calls(tmp_path) == ["git hook post-receive"]
    (state,) = hooks.status(directory, snap, hooks.SERVER_HOOK_NAMES)
    assert (state.current, state.beside) == (True, "own lines")
    assert hooks.uninstall(directory) == ["post-receive"]
    assert (directory / "post-receive").read_bytes() == b"#!/bin/sh\nexec cat\n"


def test_a_hook_in_another_language_is_kept(directory: Path, snap: Path, tmp_path: Path) -> None:
    put(directory / "post-merge", PYTHON_HOOK, 0o700)
    hooks.install(directory, snap)
    hooks.install(directory, snap)
    assert run(directory / "post-merge", "0").split() == ["theirs", "0"]
    assert calls(tmp_path) == ["git hook post-merge 0"]
    state = hooks.status(directory, snap)[2]
    assert (state.current, state.beside) == (True, "post-merge.pre-snapfs")
    hooks.uninstall(directory)
    assert os.listdir(directory) == ["post-merge"]
    assert (directory / "post-merge").read_bytes() == PYTHON_HOOK
    assert (directory / "post-merge").stat().st_mode & 0o777 == 0o700


def test_a_symlink_and_its_target_stay(directory: Path, snap: Path, tmp_path: Path) -> None:
    put(tmp_path / "shared.sh", b"#!/bin/sh\necho theirs\n")
    (directory / "post-commit").symlink_to("../shared.sh")
    hooks.install(directory, snap)
    assert run(directory / "post-commit") == "theirs\n"
    assert (tmp_path / "shared.sh").read_bytes() == b"#!/bin/sh\necho theirs\n"
    hooks.uninstall(directory)
    assert os.readlink(directory / "post-commit") == "../shared.sh"


def test_a_hook_that_is_switched_off_stays_off(directory: Path, snap: Path, tmp_path: Path) -> None:
    put(directory / "post-commit", b"#!/bin/sh\necho theirs\n", 0o644)
    hooks.install(directory, snap)
    assert run(directory / "post-commit") == ""
    assert calls(tmp_path) == ["git hook post-commit"]
    hooks.uninstall(directory)
    assert (directory / "post-commit").stat().st_mode & 0o777 == 0o644


def test_two_kept_hooks_are_never_overwritten(directory: Path, snap: Path) -> None:
    put(directory / "post-commit", PYTHON_HOOK)
    put(directory / "post-commit.pre-snapfs", b"precious")
    with pytest.raises(errors.Conflict, match="already there"):
        hooks.install(directory, snap)
    assert (directory / "post-commit").read_bytes() == PYTHON_HOOK
    assert (directory / "post-commit.pre-snapfs").read_bytes() == b"precious"


def test_husky_runs_the_users_file(tmp_path: Path, snap: Path) -> None:
    generated = tmp_path / ".husky/_"
    generated.mkdir(parents=True)
    put(
        generated / "h",
        b'n=$(basename "$0")\ns=$(dirname "$(dirname "$0")")/$n\n[ ! -f "$s" ] && exit 0\nsh -e "$s" "$@"\n',
    )
    for name in HOOK_NAMES:
        put(generated / name, b'#!/usr/bin/env sh\n. "$(dirname "$0")/h"\n')
    put(tmp_path / ".husky/post-commit", b"echo theirs\n", 0o644)
    hooks.install(generated, snap)
    hooks.install(generated, snap)
    assert all(state.current for state in hooks.status(generated, snap))
    assert run(generated / "post-commit") == "theirs\n"
    assert run(generated / "post-merge", "0") == ""
    assert calls(tmp_path) == ["git hook post-commit", "git hook post-merge 0"]
    hooks.uninstall(generated)
    assert (tmp_path / ".husky/post-commit").read_bytes() == b"echo theirs\n"
    assert sorted(os.listdir(tmp_path / ".husky")) == ["_", "post-commit"]


def test_a_command_that_is_gone(directory: Path, snap: Path, tmp_path: Path) -> None:
    hooks.install(directory, snap)
    snap.unlink()
    empty = {"PATH": str(tmp_path)}
    done = subprocess.run(
        ["/bin/sh", directory / "post-commit"], env=empty, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert done.stderr.count("\n") == 1
    assert "does not follow" in done.stderr


def test_another_installation_updates_the_block(directory: Path, snap: Path, tmp_path: Path) -> None:
    hooks.install(directory, tmp_path / "old/snap")
    assert not any(state.current for state in hooks.status(directory, snap))
    assert all(state.installed for state in hooks.status(directory, snap))
    hooks.install(directory, snap)
    assert all(state.current for state in hooks.status(directory, snap))
    assert (directory / "post-commit").read_bytes().count(b">>> snapfs >>>") == 1
