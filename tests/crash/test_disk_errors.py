"""A disk that is full or broken: a typed error, nothing lost that was acknowledged, a clean store afterwards."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from snapfs.api import GitCommit
from snapfs.errors import Corrupt, IOFailure, NoSpace
from snapfs.testing.engine import EngineSubject
from snapfs.testing.faulty import BROKEN, FULL, FaultyDisk
from snapfs.types import BlockId

WRITING = ["segment.append", "segment.open", "segment.create", "segment.header", "segment.directory"]


@pytest.fixture
def disk() -> FaultyDisk:
    return FaultyDisk()


@pytest.fixture
def engine(tmp_path: Path, disk: FaultyDisk):
    subject = EngineSubject(tmp_path / "store", disk)
    subject.create_volume("data")
    subject.make("data", (b"f",), "file", 0o644)
    yield subject
    disk.failing.clear()
    disk.free = 0
    subject.crash()
    assert subject.fsck() == []
    subject.reclaim()
    assert subject.fsck() == []
    subject.close()


@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.parametrize("size", [1000, 500_000])
@pytest.mark.parametrize("what", WRITING)
def test_a_full_disk_keeps_data_dirty_until_there_is_room(
    engine: EngineSubject, disk: FaultyDisk, what: str, size: int, torn: bool
) -> None:
    """What was written is not durable, but neither lost: the flush says so, and a later one succeeds."""
    data = random.randbytes(size)
    engine.write("data", (b"f",), 0, data)
    disk.failing[what] = FULL
    disk.torn = {what} if torn else set()
    with pytest.raises(NoSpace):
        engine.flush()
    with pytest.raises(NoSpace):
        engine.snapshot("data", "no")
    disk.torn.clear()
    disk.failing.clear()
    assert engine.tree("data")[b"f",].content == data
    engine.snapshot("data", "yes")
    engine.crash()
    assert engine.tree("data", "yes")[b"f",].content == data


def test_data_that_was_synced_survives_a_full_disk(engine: EngineSubject, disk: FaultyDisk) -> None:
    first, second = random.randbytes(100_000), random.randbytes(50_000)
    engine.write("data", (b"f",), 0, first)
    engine.flush()
    engine.write("data", (b"f",), 20_000, second)
    disk.failing["segment.append"] = FULL
    with pytest.raises(NoSpace):
        engine.flush()
    assert engine.tree("data")[b"f",].content == first[:20_000] + second + first[70_000:]
    disk.failing.clear()
    engine.crash()
    assert engine.tree("data")[b"f",].content == first


def test_what_does_not_need_the_full_disk_is_committed(engine: EngineSubject, disk: FaultyDisk) -> None:
    """One file that cannot be stored must not keep everything else from being durable."""
    engine.make("data", (b"made",), "directory", 0o755)
    engine.write("data", (b"f",), 0, random.randbytes(100_000))
    disk.failing["segment.append"] = FULL
    with pytest.raises(NoSpace):
        engine.run(engine.lake.sync)
    disk.failing.clear()
    engine.crash()
    assert (b"made",) in engine.tree("data")


def test_a_failed_append_leaves_no_bytes_behind(engine: EngineSubject, disk: FaultyDisk) -> None:
    engine.flush()
    engine.write("data", (b"f",), 0, random.randbytes(100_000))
    engine.flush()
    segments = engine.path / "segments"
    before = sum(path.stat().st_size for path in segments.iterdir())
    engine.write("data", (b"f",), 0, random.randbytes(2_000_000))
    disk.failing["segment.append"], disk.torn = FULL, {"segment.append"}
    with pytest.raises(NoSpace):
        engine.flush()
    assert sum(path.stat().st_size for path in segments.iterdir()) == before
    disk.failing.clear()
    disk.torn.clear()


def test_a_block_that_cannot_be_stored_at_the_last_moment_stays_dirty(
    engine: EngineSubject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Known when the flush was planned, gone when it is applied, and then the disk is full."""
    blocks, data = engine.lake.core.blocks, random.randbytes(1000)
    engine.write("data", (b"f",), 0, data)
    answers = iter([BlockId(1), BlockId(0)])
    with monkeypatch.context() as patch:
        patch.setattr(blocks, "known", lambda _: next(answers))

        def append(packed: list[object]) -> list[object]:
            if packed:
                raise NoSpace("full")
            return []

        patch.setattr(blocks, "append", append)
        with pytest.raises(NoSpace):
            engine.flush()
    assert engine.tree("data")[b"f",].content == data
    engine.snapshot("data", "whole")
    assert engine.tree("data", "whole")[b"f",].content == data


def test_a_sync_that_fails_is_final(engine: EngineSubject, disk: FaultyDisk) -> None:
    """The kernel forgets what it could not write: a second sync that succeeds would prove nothing."""
    first = random.randbytes(100_000)
    engine.write("data", (b"f",), 0, first)
    engine.flush()
    engine.write("data", (b"f",), 0, random.randbytes(100_000))
    disk.failing["segment.sync"] = BROKEN
    with pytest.raises(IOFailure):
        engine.flush()
    disk.failing.clear()
    with pytest.raises(IOFailure, match="takes no more changes"):
        engine.flush()
    with pytest.raises(IOFailure, match="takes no more changes"):
        engine.make("data", (b"g",), "file", 0o644)
    with pytest.raises(IOFailure):
        engine.snapshot("data", "no")
    engine.crash()
    assert engine.tree("data")[b"f",].content == first


def test_a_sync_that_fails_inside_the_commit_is_final_too(engine: EngineSubject, disk: FaultyDisk) -> None:
    engine.write("data", (b"f",), 0, b"x" * 1000)
    engine.run(engine.lake.writeback.flush)
    disk.failing["segment.sync"] = BROKEN
    with pytest.raises(IOFailure):
        engine.lake.index.commit()
    disk.failing.clear()
    with pytest.raises(IOFailure, match="takes no more changes"):
        engine.flush()


def test_a_read_error_is_an_error(engine: EngineSubject, disk: FaultyDisk) -> None:
    data = random.randbytes(1000)
    engine.write("data", (b"f",), 0, data)
    engine.reopen()
    disk.failing["segment.read"] = BROKEN
    with pytest.raises(IOFailure):
        engine.tree("data")
    assert [line.split(":")[0] for line in engine.fsck()] == ["block-hash"]
    disk.failing.clear()
    assert engine.tree("data")[b"f",].content == data


def test_damaged_bytes_are_never_returned(engine: EngineSubject, tmp_path: Path) -> None:
    data = random.randbytes(1000)
    engine.write("data", (b"f",), 0, data)
    engine.reopen()
    (segment,) = (tmp_path / "store" / "segments").glob("*.seg")
    whole = segment.read_bytes()
    damaged = bytearray(whole)
    damaged[-100] ^= 1
    segment.write_bytes(damaged)
    with pytest.raises(Corrupt, match=r"inode .* block "):
        engine.tree("data")
    assert any("block-hash" in line for line in engine.fsck())
    segment.write_bytes(whole)


def test_space_is_refused_before_it_is_gone(engine: EngineSubject, disk: FaultyDisk) -> None:
    """At admission; and deleting still works, as it is what helps."""
    data = random.randbytes(300_000)
    engine.write("data", (b"f",), 0, data)
    engine.flush()
    disk.free = 1 << 20
    engine.lake.core.forget_free_space()
    for refused in (
        lambda: engine.write("data", (b"f",), 0, b"x"),
        lambda: engine.make("data", (b"g",), "file", 0o644),
        lambda: engine.snapshot("data", "one"),
        lambda: engine.create_volume("more"),
    ):
        with pytest.raises(NoSpace):
            refused()
    assert engine.tree("data")[b"f",].content == data
    engine.unlink("data", (b"f",))
    engine.reclaim()
    assert engine.stored_bytes() == 0
    disk.free = 0


def test_snapshots_are_refused_before_their_records_fill_the_disk(engine: EngineSubject, disk: FaultyDisk) -> None:
    """A commit that fails makes the store read-only, so nothing that grows the index may be left to it."""
    service, commit = engine.service, "ab12" + "0" * 36
    meta = {str(number): "x" * 60_000 for number in range(60)}
    engine.run(lambda: service.create_snapshot(volume="data", git=GitCommit(commit=commit), meta=meta))
    index, pending = engine.lake.index, engine.lake.core.pending_bytes()
    view = engine.lake.volumes.get("data")
    engine.lake.snapshots.freeze(view, name="large", meta=meta)
    assert index.puts * 4096 > 3_600_000  # not yet committed: it counts for who comes next
    engine.flush()
    disk.free = pending + 1_000_000
    engine.lake.core.forget_free_space()
    for growing in (
        lambda: service.create_snapshot(volume="data", name="one", meta=meta),
        lambda: service.rename_snapshot(volume="data", snapshot="large", name="one"),
        lambda: service.tag_snapshot(volume="data", snapshot="large", tag="one"),
        lambda: service.carry_snapshots(volume="data", rewritten=[(commit, GitCommit(commit="cd" * 20))]),
    ):
        with pytest.raises(NoSpace):
            engine.run(growing)
    assert engine.listed("data") == {commit: [], "large": []}
    engine.snapshot("data", "small")
    engine.run(lambda: service.delete_snapshot(volume="data", snapshot="large"))


def test_a_punch_that_fails_only_delays(engine: EngineSubject, disk: FaultyDisk) -> None:
    engine.write("data", (b"f",), 0, random.randbytes(300_000))
    engine.flush()
    engine.unlink("data", (b"f",))
    disk.failing["segment.punch"] = BROKEN
    with pytest.raises(IOFailure):
        engine.reclaim()
    disk.failing.clear()
    engine.reclaim()
    assert engine.stored_bytes() == 0


def test_killed_at_any_moment_the_store_is_as_of_its_last_commit(tmp_path: Path) -> None:
    """Close without a sync, after every few operations, and compare with what was last made durable."""
    seed = random.Random(5)
    engine = EngineSubject(tmp_path / "store")
    engine.create_volume("data")
    durable = engine.tree("data")
    for turn in range(25):
        for number in range(seed.randrange(6)):
            path = (b"%d-%d" % (turn, number),)
            engine.make("data", path, "file", 0o644)
            engine.write("data", path, seed.randrange(9000), seed.randbytes(seed.choice([10, 90_000])))
        if seed.random() < 0.5:
            engine.flush()
            durable = engine.tree("data")
        if seed.random() < 0.3:
            engine.snapshot("data", f"s{turn}")
            durable = engine.tree("data")
        if seed.random() < 0.3 and engine.lake.volumes.get("data"):
            engine.run(engine.lake.writeback.flush)
        engine.crash()
        assert engine.tree("data") == durable
        assert engine.fsck() == []
    engine.close()
