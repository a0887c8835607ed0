"""The trash as programs on the mount see it."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from snapfs import api
from snapfs.testing.mounted import MountedStore

WAIT_SECONDS_MAX = 20.0


def fails(code: int, path: Path) -> None:
    with pytest.raises(OSError) as caught:
        os.listdir(path)
    assert caught.value.errno == code


def test_a_snapshot_that_is_deleted_and_taken_back(mounted: MountedStore) -> None:
    (mounted.volume / "file").write_bytes(b"one" * 10_000)
    mounted.snapshot("one")
    (mounted.volume / "file").write_bytes(b"two")
    inside = os.open(mounted.snap / "one", os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert (mounted.snap / "one" / "file").read_bytes() == b"one" * 10_000
        mounted.call("delete_snapshot", volume="data", snapshot="one")
        assert os.listdir(mounted.snap) == []
        fails(errno.ENOENT, mounted.snap / "one")
        with pytest.raises(OSError) as caught:
            os.stat("file", dir_fd=inside)
        assert caught.value.errno in (errno.ESTALE, errno.ENOENT)
        mounted.call("undelete_snapshot", volume="data", snapshot="one")
        assert os.listdir(mounted.snap) == ["one"]
        assert (mounted.snap / "one" / "file").read_bytes() == b"one" * 10_000
    finally:
        os.close(inside)
    mounted.remount()
    assert (mounted.snap / "one" / "file").read_bytes() == b"one" * 10_000


def test_a_volume_that_is_deleted_and_taken_back(mounted: MountedStore) -> None:
    """What programs wrote just before is not lost; who has a file of it open gets an error."""
    (mounted.volume / "d").mkdir()
    file = mounted.volume / "d" / "file"
    file.write_bytes(b"old" * 50_000)
    mounted.snapshot("one")
    opened = os.open(file, os.O_RDWR)
    try:
        os.pwrite(opened, b"new", 0)  # in the kernel's cache
        mounted.call("delete_volume", name="data", force=True)
        assert os.listdir(mounted.root) == []
        fails(errno.ENOENT, mounted.volume)
        with pytest.raises(OSError) as caught:
            os.fsync(opened) or os.pread(opened, 10, 100_000)
        assert caught.value.errno in (errno.ESTALE, errno.EIO)
    finally:
        os.close(opened)
    mounted.volume.mkdir()
    (mounted.volume / "other").write_bytes(b"other")
    mounted.call("undelete_volume", volume="data", name="back")
    assert sorted(os.listdir(mounted.root)) == ["back", "data"]
    back = mounted.root / "back"
    assert (back / "d" / "file").read_bytes() == b"new" + (b"old" * 50_000)[3:]
    assert (back / ".snap" / "one" / "d" / "file").read_bytes() == b"old" * 50_000
    (back / "d" / "file").write_bytes(b"goes on")
    assert os.listdir(mounted.volume) == ["other"]
    mounted.remount()
    assert (back / "d" / "file").read_bytes() == b"goes on"
    assert mounted.call("check_store").findings == []


def test_rmdir_of_a_volume(mounted: MountedStore) -> None:
    mounted.snapshot("one")
    with pytest.raises(OSError):
        mounted.volume.rmdir()
    mounted.call("delete_snapshot", volume="data", snapshot="one")
    mounted.volume.rmdir()
    assert {(entry.volume, entry.snapshot) for entry in mounted.call("list_trash")} == {("data", ""), ("data", "one")}
    mounted.call("undelete_volume", volume="data")
    mounted.call("undelete_snapshot", volume="data", snapshot="one")
    assert os.listdir(mounted.snap) == ["one"]


def test_the_daemon_empties_it_when_its_time_comes(mounted: MountedStore) -> None:
    mounted.snapshot("one")
    mounted.snapshot("two")
    mounted.call("delete_snapshot", volume="data", snapshot="one")
    with mounted.connect() as client:
        assert [entry.snapshot for entry in client.list_trash()] == ["one"]
        client.update_setting(name="trash.hours", value="0.0")
        wait_for(lambda: not client.list_trash())
        client.delete_snapshot(volume="data", snapshot="two")
        assert client.list_trash() == []


def test_a_policy_asks_the_repository(mounted: MountedStore, tmp_path: Path) -> None:
    """Through the API, by the daemon, with real git."""
    code = tmp_path / "code"
    identity = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    subprocess.run(["git", "init", "-q", str(code)], check=True)
    for text in ("first", "second"):
        subprocess.run(["git", *identity, "commit", "-q", "--allow-empty", "-m", text], cwd=code, check=True)
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=code, check=True, capture_output=True, text=True)
        (mounted.volume / "file").write_text(text)
        mounted.snapshot(text, git=api.GitCommit(commit=head.stdout.strip()))
    mounted.snapshot("last")
    policy = api.RetentionPolicy(last=1, reachable=True, repositories=[str(code)])
    mounted.call("set_policy", volume="data", policy=policy)
    assert mounted.call("apply_policy", volume="data", dry_run=False).deleted == 0
    subprocess.run(["git", "reset", "-q", "--hard", "HEAD~"], cwd=code, check=True)
    assert mounted.call("apply_policy", volume="data", dry_run=False).deleted == 0  # the reflog has it
    subprocess.run(["git", "reflog", "expire", "--expire=now", "--all"], cwd=code, check=True)
    report = mounted.call("apply_policy", volume="data", dry_run=False)
    assert [decision.snapshot for decision in report.decisions if not decision.keep] == ["second"]
    assert sorted(os.listdir(mounted.snap)) == ["first", "last"]
    shutil.rmtree(code)
    report = mounted.call("apply_policy", volume="data", dry_run=True)
    assert all(decision.keep for decision in report.decisions)
    assert str(code) in report.warnings[0]


def wait_for(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)
