"""A disk that loses bytes, as users meet it: an I/O error that names the file, fsck, a good copy, a repair."""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from snapfs import api

MountedStore = Any
"""Of the conftest beside."""

SNAP = str(Path(sys.executable).with_name("snap"))


def snap(*arguments: object, code: int = 0, cwd: Path | None = None) -> str:
    """What a command prints, and complains about."""
    done = subprocess.run(
        [SNAP, *map(str, arguments)], capture_output=True, text=True, check=False, cwd=cwd, stdin=subprocess.DEVNULL
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def spoil(store: Path, content: bytes) -> None:
    """Flip a bit of these bytes where the store keeps them."""
    for path in (store / "segments").glob("*.seg"):
        data = bytearray(path.read_bytes())
        place = data.find(content)
        if place >= 0:
            data[place + len(content) // 2] ^= 4
            path.write_bytes(data)
            return
    raise AssertionError("the store does not have these bytes")


@pytest.fixture
def damaged(stores: Callable[..., MountedStore]) -> MountedStore:
    """``images/7.png`` is whole in ``first``, damaged in ``second`` and the head."""
    one = stores().mount()
    one.volume.mkdir()
    (one.volume / "images").mkdir()
    picture = one.volume / "images" / "7.png"
    (one.volume / "other").write_bytes(b"not touched" * 1000)
    picture.write_bytes(b"the first picture" * 1000)
    one.snapshot("first")
    second = random.Random(7).randbytes(9000)
    picture.write_bytes(second)
    one.snapshot("second")
    one.umount()
    spoil(one.store, second)
    return one.mount()


def test_a_damaged_file_is_named_and_comes_back(damaged: MountedStore) -> None:
    picture = damaged.volume / "images" / "7.png"
    with pytest.raises(OSError, check=lambda error: error.errno == errno.EIO):
        picture.read_bytes()
    assert (damaged.volume / "other").read_bytes() == b"not touched" * 1000
    assert "data:'images/7.png' (inode " in damaged.log()
    with (damaged.volume / "other").open("rb") as file:
        os.fsync(file.fileno())  # events are told when they are durable
    warnings = [
        event.message
        for batch in damaged.call("watch_events", after=0, until_now=True)
        for event in getattr(batch, "events", [batch])
        if event.kind is api.EventKind.WARNING
    ]
    assert any("data:'images/7.png'" in text and "does not match its hash" in text for text in warnings)
    told = snap("fsck", damaged.root, code=1)
    line = next(line for line in told.splitlines() if line.startswith("data/images/7.png"))
    assert line == ("data/images/7.png: damaged in head, second; good in first: snap restore data@first images/7.png")
    (damage,) = json.loads(snap("fsck", damaged.root, "--json", code=1))["damage"]
    assert (damage["path"], damage["head"], damage["good"]) == ("images/7.png", True, ["first"])
    snap(*line.split(": snap ")[1].split(), "--store", damaged.store)
    assert picture.read_bytes() == b"the first picture" * 1000


def test_a_repair_of_a_mounted_store_is_refused(damaged: MountedStore) -> None:
    told = snap("fsck", damaged.store, "--repair", "--yes", code=5)
    assert f"snap umount {damaged.root}" in told
    damaged.umount()
    assert "nobody can be asked" in snap("fsck", damaged.store, "--repair", code=2)
    assert "this would be done" in snap("fsck", damaged.store, "--repair", "--dry-run", code=1)
    snap("fsck", damaged.store, "--repair", "--yes", code=1)  # what is lost stays lost
    assert "nothing to repair" in snap("fsck", damaged.store, "--repair", code=1)
    damaged.mount()
    picture = damaged.volume / "images" / "7.png"
    with pytest.raises(OSError, check=lambda error: error.errno == errno.EIO):
        picture.read_bytes()
    again = random.Random(7).randbytes(9000)
    (damaged.volume / "again.png").write_bytes(again)  # the same bytes: they must not share what is damaged
    damaged.remount()
    assert (damaged.volume / "again.png").read_bytes() == again
    damaged.call("delete_snapshot", volume="data", snapshot="second", purge=True)
    picture.unlink()
    damaged.remount()
    assert snap("fsck", damaged.store).startswith("clean")


def test_the_answer_no(damaged: MountedStore) -> None:
    damaged.umount()
    ours, terminal = os.openpty()
    try:
        os.write(ours, b"n\n")
        done = subprocess.run(
            [SNAP, "fsck", damaged.store, "--repair"], stdin=terminal, capture_output=True, text=True, check=False
        )
    finally:
        os.close(ours)
        os.close(terminal)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (1, "nothing was done")
    assert "Do it? [y/N]" in done.stderr
    assert "this would be done" in snap("fsck", damaged.store, "--repair", "--dry-run", code=1)


def test_a_store_that_cannot_be_opened_is_checked_and_repaired(damaged: MountedStore) -> None:
    damaged.umount()
    index = damaged.store / "index" / "data.mdb"
    with index.open("r+b") as file:
        file.truncate(8192)
    assert "structure: " in snap("fsck", damaged.store, code=1)
    plan = snap("fsck", damaged.store, "--repair", "--dry-run", code=1)
    assert "it cannot be mended in place" in plan
    assert "2 snapshots" in plan
    snap("fsck", damaged.store, "--repair", "--yes", code=1)
    damaged.mount()
    assert (damaged.volume / ".snap" / "first" / "images" / "7.png").read_bytes() == b"the first picture" * 1000
    assert (damaged.volume / "other").read_bytes() == b"not touched" * 1000
