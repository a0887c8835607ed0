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

    libraries = best([sys.executable, "-c", "import click, msgspec, grpc, google.protobuf.timestamp_pb2"])
    assert best([SNAP, "create"]) < libraries + 0.1


def test_a_stopped_daemon_is_told(shell: Shell, mounted: MountedStore) -> None:
    os.kill(mounted.pid, signal.SIGSTOP)
    try:
        told = shell.run("list", "--store", str(mounted.store), code=5)
    finally:
        os.kill(mounted.pid, signal.SIGCONT)
    assert "did not answer" in told


def test_a_socket_left_by_a_dead_daemon_is_no_daemon(shell: Shell, mounted: MountedStore) -> None:
    shell.run("create", "--name", "one", cwd=mounted.volume)
    mounted.kill()
    assert (mounted.store / "control/socket").exists()
    assert [entry["name"] for entry in shell.json("list", "--store", str(mounted.store))] == ["one"]
    told = shell.run("list", "--address", f"unix:{mounted.store}/control/socket", code=5)
    assert "no daemon listens" in told
    mounted.mount()
    assert shell.json("info", "--store", str(mounted.store))["pid"] == mounted.pid


def test_the_daemon_by_its_socket(shell: Shell, mounted: MountedStore, tmp_path: Path) -> None:
    address = f"unix:{mounted.store}/control/socket"
    assert shell.run("create", "data", "--name", "one", "--address", address) == "data@one\n"
    assert shell.json("--address", address, "show", "data@one")["name"] == "one"
    assert "admin" in shell.run("token", "create", "ci", "--role", "viewer", "--address", address, code=8)
    made = shell.json("token", "create", "ci", "--role", "viewer", "--store", str(mounted.store))
    (tmp_path / "token").write_text(made["secret"])
    shown = ["--token-file", str(tmp_path / "token")]
    assert len(shell.json("list", *shown, cwd=mounted.volume)) == 1
    assert "operator" in shell.run("create", *shown, cwd=mounted.volume, code=8)


def test_watch(shell: Shell, mounted: MountedStore) -> None:
    """One line of JSON an event, over a restart of the daemon; ctrl-C ends it quietly."""
    shell.run("create", "data", "--name", "before", "--store", str(mounted.store))
    command = [SNAP, "watch", "--after", "0", "--kind", "snapshot_created", "--json", "--store", str(mounted.store)]
    watcher = subprocess.Popen(
        command, env=shell.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert watcher.stdout is not None
        assert watcher.stderr is not None
        assert json.loads(watcher.stdout.readline())["snapshot"] == "before"
        shell.run("create", "data", "--name", "one", "--store", str(mounted.store))
        assert json.loads(watcher.stdout.readline())["snapshot"] == "one"
        mounted.remount()
        shell.run("create", "data", "--name", "two", "--store", str(mounted.store))
        assert json.loads(watcher.stdout.readline())["snapshot"] == "two"
        watcher.send_signal(signal.SIGINT)
        out, err = watcher.communicate(timeout=20)
        assert (watcher.returncode, out, err) == (130, "", "")
    finally:
        watcher.kill()
        watcher.communicate()


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


def test_two_creates_for_one_commit_are_one_snapshot(shell: Shell, mounted: MountedStore, tmp_path: Path) -> None:
    work = tmp_path / "work"
    subprocess.run(["git", "init", "--quiet", work], check=True)
    who = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    subprocess.run(["git", "-C", work, *who, "commit", "--quiet", "--allow-empty", "-m", "one"], check=True)
    (mounted.volume / "file").write_text("x")
    command = [SNAP, "create", "data", "--git-commit", "--json", "--store", mounted.store]
    running = [
        subprocess.Popen(command, cwd=work, env=shell.environment, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    made = [json.loads(one.communicate(timeout=60)[0]) for one in running]
    assert [one.returncode for one in running] == [0] * 4
    assert len({one["name"] for one in made}) == 1
    assert [one["created"] for one in made].count(True) == 1
    assert len(shell.json("list", cwd=mounted.volume)) == 1


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
