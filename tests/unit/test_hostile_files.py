"""What somebody may have put in the place of a store's files: a pipe, whose other end never comes, a symbolic link."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from snapfs.errors import Corrupt, SnapfsError
from snapfs.store import layout, verify
from snapfs.store.disk import Disk, open_file, open_to_read, read_start
from snapfs.volume.check.run import structure
from snapfs.volume.lake import Lake

PLACES = (layout.MARKER, layout.LOCK, "index/data.mdb", "index/lock.mdb")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "store"
    Lake.create(path)
    Lake.open(path).close()
    return path


def replace(path: Path, kind: str) -> None:
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()


@pytest.mark.parametrize("kind", ["pipe", "link", "directory"])
@pytest.mark.parametrize("name", PLACES)
def test_a_store_is_not_opened(store: Path, name: str, kind: str) -> None:
    replace(store / name, kind)
    with pytest.raises(SnapfsError):
        Lake.open(store).close()


@pytest.mark.parametrize("kind", ["pipe", "link", "directory"])
def test_the_number_of_the_last_commit(store: Path, kind: str) -> None:
    replace(store / "index" / verify.WITNESS, kind)
    assert verify.read_witness(store / "index") == 0


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR | os.O_CREAT])
@pytest.mark.parametrize("kind", ["pipe", "link", "directory"])
def test_nothing_but_a_file_is_opened(tmp_path: Path, kind: str, flags: int) -> None:
    replace(tmp_path / "file", kind)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError):
        open_file(tmp_path / "file", flags)
    with pytest.raises(SnapfsError):
        Disk().open("test.open", tmp_path / "file", flags)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_is_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abcdef")
    assert read_start(tmp_path / "file", 4) == b"abcd"
    with open_to_read(tmp_path / "file") as file:
        assert file.read() == b"abcdef"
    with pytest.raises(FileNotFoundError):
        read_start(tmp_path / "none", 4)


def test_segments(store: Path) -> None:
    replace(store / "segments" / f"{7:016d}.seg", "pipe")
    with pytest.raises(Corrupt):
        Disk().open("segment.open", store / "segments" / f"{7:016d}.seg", os.O_RDONLY)
    with pytest.raises(SnapfsError):
        Disk().read_direct("segment.direct", store / "segments" / f"{7:016d}.seg", 4096, 0)


def test_who_looks_at_an_index_is_not_told_of_ctrl_c(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would answer with a traceback; who started it ends it."""
    told = "import json, os; print(json.dumps([str(os.getpgrp())]))"
    monkeypatch.setattr("snapfs.volume.check.run._PAGES_HERE_MAX", 0)
    monkeypatch.setattr(verify, "command", lambda path: [sys.executable, "-c", told])
    (group,) = structure(store / "index" / "data.mdb")
    assert json.loads(group) != os.getpgrp()
