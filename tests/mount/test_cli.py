"""The command line inside and beside a mount: through the daemon, from the current directory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from snapfs.testing.mounted import MountedStore

SNAP = Path(sys.executable).with_name("snap")


class Shell:
    """Runs the installed command in a directory."""

    def __init__(self, mounted: MountedStore) -> None:
        self.mounted = mounted
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("GIT_", "SNAPFS_"))}
        self.environment = kept | {"GIT_CEILING_DIRECTORIES": str(mounted.store.parent)}

    def run(self, *arguments: str, cwd: Path | None = None, code: int = 0) -> str:
        """stdout; of a failure the one line on stderr."""
        done = subprocess.run(
            [SNAP, *arguments],
            cwd=cwd or self.mounted.store.parent,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == code, (arguments, done.stdout, done.stderr)
        assert done.stderr.count("\n") == (1 if code else 0), done.stderr
        return done.stderr if code else done.stdout

    def json(self, *arguments: str, cwd: Path | None = None) -> Any:
        return json.loads(self.run(*arguments, "--json", cwd=cwd))


@pytest.fixture
def shell(mounted: MountedStore) -> Shell:
    return Shell(mounted)


def test_the_current_directory_tells_store_and_volume(shell: Shell, mounted: MountedStore) -> None:
    deep = mounted.volume / "tables/deep"
    deep.mkdir(parents=True)
    (deep / "file").write_text("one")
    assert shell.run("create", "--name", "one", cwd=deep) == "data@one\n"
    (deep / "file").write_text("two, not flushed yet")
    (change,) = shell.json("status", cwd=deep)
    assert (change["path"], change["new_bytes"]) == ("tables/deep/file", 20)
    assert [entry["name"] for entry in shell.json("list", cwd=mounted.volume)] == ["one"]
    info = shell.json("info", cwd=mounted.root)
    assert (info["pid"], info["mountpoint"]) == (mounted.pid, str(mounted.root))
    assert "which store" in shell.run("list", code=2)


def test_store_by_its_mount_point(shell: Shell, mounted: MountedStore) -> None:
    for store in (str(mounted.store), str(mounted.root), "store", "lake/"):
        assert [v["name"] for v in shell.json("volume", "list", "--store", store)] == ["data"]
    assert shell.json("--store", "store", "list") == []


def test_a_volume_is_a_directory(shell: Shell, mounted: MountedStore) -> None:
    shell.run("volume", "create", "more", cwd=mounted.root)
    assert (mounted.root / "more").is_dir()
    (mounted.root / "made").mkdir()
    assert {v["name"] for v in shell.json("volume", "list", cwd=mounted.root)} == {"data", "made", "more"}
    shell.run("volume", "rm", "more", cwd=mounted.root)
    assert not (mounted.root / "more").exists()
    assert "data, made" in shell.run("create", cwd=mounted.root, code=2)


def test_checkout_and_diff_through_the_mount(shell: Shell, mounted: MountedStore) -> None:
    file = mounted.volume / "file"
    file.write_text("first")
    shell.run("create", "--name", "one", cwd=mounted.volume)
    file.write_text("second state")
    assert "--save" in shell.run("checkout", "@one", cwd=mounted.volume, code=4)
    saved = shell.json("checkout", "--save", "@one", cwd=mounted.volume)["saved"]["name"]
    assert file.read_text() == "first"
    (change,) = shell.json("diff", "data@one", f"data@{saved}", cwd=mounted.root)
    assert (change["old_bytes"], change["new_bytes"]) == (5, 12)
    shell.run("checkout", f"@{saved}", cwd=mounted.volume)
    assert file.read_text() == "second state"


def test_restore_relative_to_the_current_directory(shell: Shell, mounted: MountedStore) -> None:
    tables = mounted.volume / "tables"
    tables.mkdir()
    for name in ("a", "b", "\udcff", "new\nline"):
        (tables / name).write_text(f"old {name!r}")
    (mounted.volume / "top").write_text("old top")
    shell.run("create", "--name", "one", cwd=tables)

    def spoil() -> None:
        for name in ("a", "b"):
            (tables / name).write_text("spoilt")
        (mounted.volume / "top").write_text("spoilt")

    def states() -> list[bool]:
        return [path.read_text().startswith("old") for path in (tables / "a", tables / "b", mounted.volume / "top")]

    for arguments, cwd, restored in [
        (["a"], tables, [True, False, False]),
        (["."], tables, [True, True, False]),
        (["../top", "./b"], tables, [False, True, True]),
        (["."], mounted.volume, [True, True, True]),
        (["tables/a"], mounted.root, [True, False, False]),
        ([str(tables / "b")], mounted.root, [False, True, False]),
        (["b"], mounted.volume / ".snap/one/tables", [False, True, False]),
    ]:
        spoil()
        shell.run("restore", "data@one", *arguments, cwd=cwd)
        assert states() == restored, arguments
    (tables / "\udcff").unlink()
    (tables / "new\nline").unlink()
    shell.run("restore", "@one", "\udcff", "new\nline", cwd=tables)
    assert (tables / "\udcff").exists()
    assert (tables / "new\nline").exists()
    assert "leads out" in shell.run("restore", "@one", "../../x", cwd=tables, code=2)


def test_create_through_the_daemon_is_quick(shell: Shell, mounted: MountedStore) -> None:
    def best(command: list[str | Path]) -> float:
        took = []
        for _ in range(5):
            started = time.perf_counter()
            subprocess.run(command, cwd=mounted.volume, env=shell.environment, check=True, capture_output=True)
            took.append(time.perf_counter() - started)
        return min(took)

    with_click = best([sys.executable, "-c", "import click, msgspec"])
    assert best([SNAP, "create"]) < with_click + 0.15


def test_a_stopped_daemon_is_told(shell: Shell, mounted: MountedStore) -> None:
    os.kill(mounted.pid, signal.SIGSTOP)
    try:
        told = shell.run("list", "--store", str(mounted.store), code=5)
    finally:
        os.kill(mounted.pid, signal.SIGCONT)
    assert "did not answer" in told


def test_fsck_beside_the_daemon(shell: Shell, mounted: MountedStore) -> None:
    (mounted.volume / "file").write_bytes(os.urandom(300_000))
    shell.run("create", "--name", "one", cwd=mounted.volume)
    report = shell.json("fsck", str(mounted.store))
    assert report["findings"] == []
    assert report["data_read_bytes"] >= 300_000


def test_many_commands_at_once(shell: Shell, mounted: MountedStore) -> None:
    (mounted.volume / "file").write_text("x")
    running = [
        subprocess.Popen(
            [SNAP, "create", "--name", f"s{number}"],
            cwd=mounted.volume,
            env=shell.environment,
            stdout=subprocess.DEVNULL,
        )
        for number in range(8)
    ]
    assert [one.wait(60) for one in running] == [0] * 8
    assert {entry["name"] for entry in shell.json("list", cwd=mounted.volume)} == {f"s{n}" for n in range(8)}


def test_mount_and_umount(shell: Shell, mounted: MountedStore, tmp_path: Path) -> None:
    (mounted.volume / "file").write_text("kept")
    assert "unmounted" in shell.run("umount", str(mounted.root))
    mounted.pid = 0
    assert shell.json("info", "--store", str(mounted.store))["pid"] == 0
    shell.run("create", "data", "--name", "one", "--store", str(mounted.store))
    answer = shell.json("mount", str(mounted.store), str(mounted.root))
    mounted.pid = answer["pid"]
    assert (mounted.volume / ".snap/one/file").read_text() == "kept"
    shell.run("umount", str(tmp_path / "nowhere"), code=3)
    assert shell.json("umount", str(mounted.root)) == {"mountpoint": str(mounted.root)}
    mounted.pid = 0
