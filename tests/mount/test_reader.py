"""A snapshot read in-process beside the daemon that serves its store."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from snapfs import reader
from snapfs.testing.mounted import MountedStore

FILES = 30


def fill(volume: Path) -> dict[str, bytes]:
    """Names and contents."""
    contents = {}
    (volume / "sub").mkdir()
    for number in range(FILES):
        name = f"sub/{number}" if number % 2 else f"{number}"
        contents[name] = os.urandom(1000 * number)
        (volume / name).write_bytes(contents[name])
    (volume / "link").symlink_to("sub/1")
    return contents


def test_it_is_what_the_mount_shows(mounted: MountedStore, volume: Path) -> None:
    contents = fill(volume)
    mounted.snapshot("first")
    (volume / "0").write_bytes(b"newer")
    past = volume / ".snap" / "first"
    with reader.open_snapshot(mounted.store, "data@first") as snapshot:
        assert {name: snapshot.read_bytes(name) for name in contents} == contents
        walked = [(os.path.join(past, here).rstrip("/"), names) for here, _, names in snapshot.walk()]
        shown = {here: sorted(names) for here, _, names in os.walk(past)}
        assert dict(walked) == shown
        for name in [*contents, "sub", "link"]:
            mine, its = snapshot.stat(name, follow_symlinks=False), os.lstat(past / name)
            for field in ("st_mode", "st_nlink", "st_uid", "st_gid", "st_size", "st_mtime_ns", "st_ctime_ns"):
                assert getattr(mine, field) == getattr(its, field), (name, field)
        assert snapshot.readlink("link") == os.readlink(past / "link")


def test_a_daemon_that_is_killed_and_comes_again(mounted: MountedStore, volume: Path) -> None:
    contents = fill(volume)
    mounted.snapshot("first")
    with reader.open_snapshot(mounted.store, "data@first") as snapshot:
        mounted.kill()
        assert {name: snapshot.read_bytes(name) for name in contents} == contents
        mounted.mount()
        (volume / "0").write_bytes(b"newer")
        mounted.snapshot("second")
        assert {name: snapshot.read_bytes(name) for name in contents} == contents
        with reader.open_snapshot(mounted.store, "data@second") as second:
            assert second.read_bytes("0") == b"newer"


def test_a_snapshot_that_goes_into_the_trash(mounted: MountedStore, volume: Path) -> None:
    fill(volume)
    mounted.snapshot("first")
    with reader.open_snapshot(mounted.store, "data@first") as snapshot:
        mounted.call("delete_snapshot", volume="data", snapshot="first")
        mounted.snapshot("second")  # a deletion may be answered before it is durable, which this is
        with pytest.raises(OSError, match="deleted") as gone:
            snapshot.read_bytes("0")
        assert gone.value.errno == errno.ESTALE
        mounted.call("undelete_snapshot", volume="data", snapshot="first")
        mounted.snapshot("third")
        assert snapshot.read_bytes("link") == snapshot.read_bytes("sub/1")
