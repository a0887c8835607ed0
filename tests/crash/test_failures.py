"""What a store does after its disk failed it, and what it does with what a crash left behind."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from snapfs.errors import AlreadyExists, IOFailure, SnapfsError
from snapfs.store import layout
from snapfs.testing.crashing_disk import CrashingDisk, Fault, Moment
from snapfs.testing.engine import EngineSubject
from snapfs.testing.faulty import BROKEN, FaultyDisk
from snapfs.testing.trees import FILE
from snapfs.volume.lake import Lake
from snapfs.volume.limits import Limits

FSYNCS = 10
SYNCS = ["segment.sync", "index.commit"]


@pytest.fixture
def disk() -> FaultyDisk:
    return FaultyDisk()


@pytest.fixture
def engine(tmp_path: Path, disk: FaultyDisk):
    subject = EngineSubject(tmp_path / "store", disk)
    subject.create_volume("data")
    for number in range(FSYNCS):
        subject.make("data", (b"f%d" % number,), FILE, 0o644)
        subject.write("data", (b"f%d" % number,), 0, random.Random(number).randbytes(5000))
    subject.flush()
    yield subject
    subject.close()


@pytest.mark.parametrize("what", SYNCS)
def test_all_who_wait_for_a_failed_sync_are_told(engine: EngineSubject, disk: FaultyDisk, what: str) -> None:
    """Those who share the commit, who come while it fails, a snapshot, the timer, and whoever asks later."""
    told: list[str] = []

    async def expect(name: str, work: Callable[[], Awaitable[object]]) -> None:
        with pytest.raises(IOFailure):
            await work()
        told.append(name)

    async def play() -> None:
        lake, view = engine.lake, engine.lake.volumes.get("data").head
        root = engine.lake.volumes.get("data").root
        inos = [lake.files.lookup(view, root, b"f%d" % number).ino for number in range(FSYNCS)]
        for ino in inos:
            await lake.files.write(view, ino, 0, random.randbytes(9000))
        disk.failing[what] = disk.failing["redo.sync"] = BROKEN
        async with trio.open_nursery() as nursery:
            for number, ino in enumerate(inos):
                nursery.start_soon(expect, f"fsync {number}", lambda ino=ino: lake.files.fsync(view, ino))
            nursery.start_soon(expect, "snapshot", lambda: engine.service.create_snapshot(volume="data", name="no"))
            nursery.start_soon(expect, "timer", lake.sync)
        disk.failing.clear()
        await expect("later", lake.sync)
        for ino in inos:
            await expect("later", lambda ino=ino: lake.files.fsync(view, ino))

    engine.run(play)
    assert len(told) == FSYNCS + 2 + 1 + FSYNCS
    assert engine.listed("data") == {}


@pytest.mark.parametrize("what", SYNCS)
def test_after_a_failed_sync_what_is_shown_is_what_is_durable(
    engine: EngineSubject, disk: FaultyDisk, what: str
) -> None:
    """Volumes, snapshots, heads: just what the store will show when it is opened anew."""
    engine.snapshot("data", "kept")
    engine.unlink("data", (b"f1",))
    engine.flush()
    durable = engine.tree("data")
    engine.write("data", (b"f2",), 100, b"never durable")
    engine.unlink("data", (b"f3",))
    engine.make("data", (b"new",), FILE, 0o644)
    engine.run(engine.lake.writeback.flush)
    engine.write("data", (b"f4",), 0, b"not even flushed")
    disk.failing[what] = BROKEN
    with pytest.raises(IOFailure):
        engine.snapshot("data", "lost")
    disk.failing.clear()
    calls = disk.calls["segment.sync"] + disk.calls["index.commit"]
    for refused in (
        lambda: engine.snapshot("data", "no"),
        lambda: engine.remove_snapshot("data", "kept"),
        lambda: engine.create_volume("no"),
        lambda: engine.clone("data", "kept", "no"),
        lambda: engine.write("data", (b"f4",), 0, b"no"),
        lambda: engine.unlink("data", (b"f4",)),
        lambda: engine.truncate("data", (b"f4",), 0),
        lambda: engine.tag("data", "kept", "no", move=False),
        engine.flush,
        lambda: engine.run(engine.lake.reclaim_all),
    ):
        with pytest.raises(IOFailure, match="takes no more changes"):
            refused()
    assert disk.calls["segment.sync"] + disk.calls["index.commit"] == calls  # never tried again
    for _ in range(2):
        assert engine.lake.volumes.names() == ["data"]
        assert engine.listed("data") == {"kept": []}
        assert engine.tree("data") == durable
        assert (b"f1",) in engine.tree("data", "kept")
        engine.crash()
    assert engine.fsck() == []
    engine.snapshot("data", "after")


def test_a_checkout_that_was_not_durable_is_taken_back(engine: EngineSubject, disk: FaultyDisk) -> None:
    engine.snapshot("data", "old")
    engine.unlink("data", (b"f0",))
    engine.snapshot("data", "new")
    disk.failing["index.commit"] = BROKEN
    with pytest.raises(IOFailure):
        engine.run(lambda: engine.service.checkout(volume="data", snapshot="old"))
    assert (b"f0",) not in engine.tree("data")
    assert engine.run(lambda: engine.service.get_store()).failure
    disk.failing.clear()
    engine.crash()
    assert (b"f0",) not in engine.tree("data")


def segments(store: Path) -> dict[int, int]:
    """Number -> bytes."""
    return {int(path.stem): path.stat().st_size for path in (store / layout.SEGMENTS).glob("*.seg")}


def test_segments_that_the_index_forgot_are_removed(tmp_path: Path) -> None:
    """What was not unlinked any more after the commit that forgot it."""
    engine = EngineSubject(tmp_path / "store", limits=Limits(segment_bytes_max=50_000))
    engine.create_volume("data")
    for number in range(3):
        engine.make("data", (b"f%d" % number,), FILE, 0o644)
        engine.write("data", (b"f%d" % number,), 0, random.Random(number).randbytes(60_000))
        engine.flush()
    first = min(segments(engine.path))
    saved = engine.lake.core.blocks.segments.file_path(first).read_bytes()
    engine.unlink("data", (b"f0",))
    engine.reclaim()
    assert first not in segments(engine.path)
    engine.lake.core.blocks.segments.file_path(first).write_bytes(saved)  # as if the unlink had been lost
    engine.crash()
    engine.reclaim()
    assert first not in segments(engine.path)
    assert engine.fsck() == []
    engine.close()


def test_what_was_appended_and_never_committed_goes_once_something_newer_is_durable(tmp_path: Path) -> None:
    """Until then it stays: an index that is older than its segments would need it."""
    engine = EngineSubject(tmp_path / "store", limits=Limits(segment_bytes_max=50_000))
    engine.create_volume("data")
    engine.make("data", (b"f",), FILE, 0o644)
    engine.write("data", (b"f",), 0, random.Random(1).randbytes(10_000))
    engine.flush()
    before = segments(engine.path)
    engine.write("data", (b"f",), 0, random.Random(2).randbytes(200_000))
    engine.run(engine.lake.writeback.flush)
    lost = segments(engine.path)
    assert len(lost) > len(before)
    engine.crash()
    engine.reclaim()
    assert segments(engine.path) == lost
    engine.write("data", (b"f",), 0, random.Random(3).randbytes(10_000))
    engine.make("data", (b"g",), FILE, 0o644)
    engine.write("data", (b"g",), 0, random.Random(1).randbytes(10_000))
    engine.reclaim()
    left = segments(engine.path)
    assert left.keys().isdisjoint(lost.keys() - before.keys())
    assert sum(left.values()) <= sum(before.values()) + 25_000  # the tail is cut off, too
    assert engine.fsck() == []
    engine.close()


@pytest.mark.parametrize("moment", Moment)
def test_a_store_is_made_whole_or_not_at_all(tmp_path: Path, moment: Moment) -> None:
    """Whatever fails while it is made: it is no store, and can be made at the same place; or it is one."""
    path, number = tmp_path / "store", 0
    while True:
        path.mkdir()
        disk = CrashingDisk(path, Fault(number, errno.EIO, moment))
        try:
            Lake.create(path, disk)
        except SnapfsError:
            assert disk.met
        if not disk.met:
            break
        if (path / layout.MARKER).exists():
            with pytest.raises(AlreadyExists):
                Lake.create(path)
        else:
            Lake.create(path)
        Lake.open(path).close()
        path.rename(tmp_path / f"done-{number}")
        number += 1
    assert number > 8
    assert {"index.commit", "store.directory", "marker.rename"} <= {operation.name for operation in disk.log}
    assert os.listdir(path)
