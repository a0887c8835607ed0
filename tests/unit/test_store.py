"""What a store costs, and what is refused as a store."""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from snapfs.errors import (
    AlreadyExists,
    Busy,
    Corrupt,
    Invalid,
    NoSpace,
    NotFound,
    NotPermitted,
    SnapfsError,
    Unavailable,
    Unsupported,
)
from snapfs.format import segments as fmt
from snapfs.store import layout, verify
from snapfs.store.disk import Disk
from snapfs.store.pages import DamagedIndex
from snapfs.store.segments import Segments
from snapfs.testing.engine import EngineSubject
from snapfs.testing.faulty import FaultyDisk
from snapfs.types import PAGE_BYTES, SegmentId
from snapfs.volume.lake import Lake

MEGABYTE = 1 << 20


def written(engine: EngineSubject, offset: int, data: bytes, path: bytes = b"f") -> int:
    """By how much the store grows."""
    before = engine.stored_bytes()
    for place in range(0, len(data), MEGABYTE):
        engine.write("data", (path,), offset + place, data[place : place + MEGABYTE])
    engine.flush()
    return engine.stored_bytes() - before


class TestSpace:
    def test_one_page_of_a_large_file(self, engine: EngineSubject) -> None:
        written(engine, 0, random.randbytes(16 * MEGABYTE))
        engine.snapshot("data", "one")
        assert written(engine, 5 * MEGABYTE + PAGE_BYTES, random.randbytes(PAGE_BYTES)) < PAGE_BYTES + 200

    def test_an_insertion_in_front(self, engine: EngineSubject) -> None:
        data = random.randbytes(16 * MEGABYTE)
        written(engine, 0, data)
        engine.snapshot("data", "one")
        engine.truncate("data", (b"f",), 0)
        assert written(engine, 0, random.randbytes(1024) + data) < MEGABYTE

    def test_the_same_bytes_again(self, engine: EngineSubject) -> None:
        data = random.randbytes(3 * MEGABYTE)
        written(engine, 0, data)
        engine.make("data", (b"g",), "file", 0o644)
        assert written(engine, 0, data, b"g") < 100_000  # where the cuts of a stream's end differ
        assert written(engine, 0, data) < 100_000

    def test_text_is_compressed(self, engine: EngineSubject) -> None:
        assert written(engine, 0, b"some text that repeats, " * 50_000) < 100_000

    def test_holes_cost_nothing(self, engine: EngineSubject) -> None:
        engine.truncate("data", (b"f",), 1 << 40)
        assert written(engine, 1 << 39, b"x") < 200
        view, ino = engine._resolve("data", (b"f",))
        inode = engine.lake.files.getattr(view, ino)
        assert (inode.size, inode.allocated_bytes) == (1 << 40, 1)

    def test_space_comes_back(self, engine: EngineSubject) -> None:
        written(engine, 0, random.randbytes(4 * MEGABYTE))
        engine.snapshot("data", "one")
        engine.truncate("data", (b"f",), 0)
        engine.reclaim()
        assert engine.stored_bytes() > 4 * MEGABYTE
        engine.remove_snapshot("data", "one")
        engine.reclaim()
        assert engine.stored_bytes() == 0
        assert engine.lake.core.blocks.segments.disk_bytes() < MEGABYTE

    def test_truncation_to_zero_does_not_visit_extents(self, engine: EngineSubject) -> None:
        for place in range(600):
            engine.write("data", (b"f",), place * 8192, b"%d" % place)
        engine.snapshot("data", "one")
        engine.flush()
        puts = engine.lake.index.puts
        engine.truncate("data", (b"f",), 0)
        assert engine.lake.index.puts - puts < 10
        assert engine.tree("data")[b"f",].content == b""
        assert len(engine.tree("data", "one")[b"f",].content) > 599 * 8192

    def test_counters_are_right_after_reopening(self, engine: EngineSubject) -> None:
        written(engine, 0, random.randbytes(MEGABYTE))
        stored = engine.stored_bytes()
        engine.reopen()
        assert engine.stored_bytes() == stored

    def test_what_could_not_be_appended_whole_leaves_nothing(self, tmp_path: Path) -> None:
        """Also where a segment was filled and another begun, before the disk was full."""
        (tmp_path / "segments").mkdir()
        disk = _FullAfter()
        segments = Segments(
            tmp_path / "segments", bytes(16), disk, newest=SegmentId(0), end=0, bytes_max=PAGE_BYTES
        )  # fmt: skip
        record = (fmt.Head(3000, 3000, 0, fmt.DATA, bytes(32)), random.randbytes(3000))
        first = segments.append([record])
        size = segments.disk_bytes()
        disk.appends = 2
        with pytest.raises(NoSpace):
            segments.append([record] * 6)
        assert segments.disk_bytes() <= size + 2 * PAGE_BYTES  # headers of what was begun
        disk.appends = 100
        places = segments.append([record] * 6)
        assert len({*first, *places}) == 7
        for segment, offset in [*first, *places]:
            data = segments.file_path(segment).read_bytes()
            assert data[offset + fmt.BLOCK_HEADER_BYTES :][:3000] == record[1]
        for segment, offset in dict([*first, *places]).items():
            assert segments.file_path(segment).stat().st_size == offset + fmt.record_bytes(3000)

    def test_no_descriptor_for_a_sync_fails_no_store(self, tmp_path: Path) -> None:
        """What could not be opened was not synced, so nothing is lost: unlike a sync that failed."""
        disk = FaultyDisk()
        engine = EngineSubject(tmp_path / "store", disk)
        engine.create_volume("data")
        engine.make("data", (b"f",), "file", 0o644)
        engine.write("data", (b"f",), 0, b"content")
        engine.run(engine.lake.writeback.flush)
        disk.failing["segment.open"] = errno.EMFILE
        with pytest.raises(Unavailable, match="too many open files"):
            engine.run(engine.lake.commit)
        disk.failing.clear()
        engine.run(engine.lake.commit)
        engine.crash()
        assert engine.tree("data")[b"f",].content == b"content"
        engine.close()


class _FullAfter(Disk):
    """A disk that takes so many more appends."""

    appends = 100

    def pwrite(self, what: str, fd: int, parts: list[bytes], offset: int) -> None:
        if what == "segment.append":
            if self.appends == 0:
                raise NoSpace("the disk is full")
            self.appends -= 1
        super().pwrite(what, fd, parts, offset)


class TestRefusals:
    def test_the_lock_names_its_holder(self, engine: EngineSubject) -> None:
        with pytest.raises(Busy, match=f"process {os.getpid()}"):
            Lake.open(engine.path)
        code = (
            "import sys, pathlib\nfrom snapfs.errors import Busy\nfrom snapfs.volume.lake import Lake\n"
            "try:\n    Lake.open(pathlib.Path(sys.argv[1]))\nexcept Busy as error:\n    print(error)"
        )
        done = subprocess.run([sys.executable, "-c", code, engine.path], capture_output=True, text=True, check=True)
        assert f"in use by process {os.getpid()}" in done.stdout

    def test_missing_and_foreign(self, tmp_path: Path) -> None:
        with pytest.raises(NotFound, match="no such store"):
            Lake.open(tmp_path / "missing")
        (tmp_path / "file").write_text("x")
        (tmp_path / "directory").mkdir()
        (tmp_path / "directory" / "thing").touch()
        for name in ("file", "directory"):
            with pytest.raises(Invalid):
                Lake.open(tmp_path / name)
            with pytest.raises(Invalid):
                Lake.create(tmp_path / name)
        with pytest.raises(Invalid):
            Lake.create(tmp_path / "no" / "parent")

    @pytest.fixture
    def closed(self, tmp_path: Path) -> Path:
        subject = EngineSubject(tmp_path / "closed")
        subject.create_volume("data")
        subject.close()
        return tmp_path / "closed"

    def test_a_store_is_not_made_twice(self, closed: Path) -> None:
        with pytest.raises(AlreadyExists):
            Lake.create(closed)

    @pytest.mark.parametrize("version", [1, layout.FORMAT_VERSION + 1])
    def test_older_and_newer(self, closed: Path, version: int) -> None:
        marker = json.loads((closed / layout.MARKER).read_text())
        (closed / layout.MARKER).write_text(json.dumps(marker | {"version": version}))
        with pytest.raises(Unsupported, match=f"format {version}"):
            Lake.open(closed)

    @pytest.mark.parametrize("content", [b"", b"{", b'{"format": "snapfs"}', b"\xff" * 5000])
    def test_a_damaged_marker(self, closed: Path, content: bytes) -> None:
        (closed / layout.MARKER).write_bytes(content)
        with pytest.raises(Corrupt):
            Lake.open(closed)

    @pytest.mark.parametrize("size", [0, 100, 4096, 8192, 20_000])
    def test_a_truncated_index(self, closed: Path, size: int) -> None:
        """Mapping it would end the process by SIGBUS."""
        os.truncate(closed / layout.INDEX / "data.mdb", size)
        with pytest.raises(Corrupt):
            Lake.open(closed)
        with pytest.raises(Corrupt):
            Lake.open(closed)  # not Busy: the lock was let go

    def test_a_missing_index(self, closed: Path) -> None:
        (closed / layout.INDEX / "data.mdb").unlink()
        with pytest.raises(Corrupt, match="missing"):
            Lake.open(closed)

    def test_the_index_of_another_store(self, closed: Path, tmp_path: Path) -> None:
        Lake.create(tmp_path / "other")
        (closed / layout.INDEX).rename(tmp_path / "index")
        (tmp_path / "other" / layout.INDEX).rename(closed / layout.INDEX)
        with pytest.raises(Corrupt, match="another store"):
            Lake.open(closed)

    def test_an_old_copy_of_the_index(self, closed: Path) -> None:
        """It looks whole; but the space of blocks that it names may have been given back since."""
        index = closed / layout.INDEX / "data.mdb"
        old = index.read_bytes()
        lake = Lake.open(closed)
        lake.volumes.create("new")
        lake.index.commit()
        lake.close()
        index.write_bytes(old)
        with pytest.raises(Corrupt, match="old copy"):
            Lake.open(closed)


@pytest.mark.parametrize("size", [9000, 10])
def test_a_long_value_that_shrinks_is_no_damage(size: int, tmp_path: Path) -> None:
    """In one transaction: LMDB keeps the pages that it has for it."""
    engine = EngineSubject(tmp_path / "store")
    engine.create_volume("data")
    files, volume = engine.lake.files, engine.lake.volumes.get("data")
    for length in (20_000, size):
        files.setxattr(volume.head, volume.root, b"user.long", bytes(length))
    engine.lake.index.commit()
    engine.close()
    directory = tmp_path / "store" / layout.INDEX
    assert verify.problems(directory / verify.DATA_FILE) == []
    old = DamagedIndex(directory)
    assert all(reached or free for reached, free in zip(old._reached[2:], old._free[2:], strict=True))
    old.close()
    Lake.open(tmp_path / "store").close()


def test_a_file_that_does_not_fit_leaves_the_old_one(tmp_path: Path) -> None:
    file = tmp_path / "file"
    Disk().write_file("file", file, b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(SnapfsError):
            Disk().write_file("file", file, b"n" * 10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert file.read_bytes() == b"old"


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_a_store_of_another_user() -> None:
    with tempfile.TemporaryDirectory() as place:  # not below pytest's own, which nobody else may enter
        store = Path(place) / "store"
        Lake.create(store)
        Path(place).chmod(0o711)
        os.seteuid(65534)
        try:
            with pytest.raises(NotPermitted):
                layout.read_marker(store)
        finally:
            os.seteuid(0)
