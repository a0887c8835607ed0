"""What an fsync costs, what it makes durable, and who waits for it: by the redo log, and where that cannot be."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from snapfs.errors import IOFailure, NoSpace
from snapfs.store.blocks import digest
from snapfs.testing.crashing_disk import CHANGING, CrashingDisk
from snapfs.testing.engine import EngineSubject
from snapfs.testing.faulty import BROKEN, FaultyDisk
from snapfs.testing.trees import FILE
from snapfs.types import Ino
from snapfs.volume.limits import Limits

FILE_BYTES = 300_000
LIMITS = Limits(redo_bytes_max=32 * 1024)


class SlowDisk(FaultyDisk):
    """Syncs of the log, and of segments by a thread, wait until they may go on, or somebody has waited too long."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Event()
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def sync(self, what: str, fd: int) -> None:
        here = threading.current_thread() is threading.main_thread()
        if what == "redo.sync" or (what == "segment.sync" and not here):
            self.entered.set()
            assert self.may_go_on.wait(10)
        super().sync(what, fd)


class FullDisk(FaultyDisk):
    """When full it sets nothing aside beyond what it has set aside before."""

    def __init__(self) -> None:
        super().__init__()
        self.full = False
        self.set_aside = 0

    def allocate(self, what: str, path: Path, offset: int, length: int) -> None:
        if self.full and offset + length > self.set_aside:
            raise NoSpace("full")
        super().allocate(what, path, offset, length)
        self.set_aside = max(self.set_aside, offset + length)


@pytest.fixture
def disk() -> SlowDisk:
    return SlowDisk()


@pytest.fixture
def engine(tmp_path: Path, disk: SlowDisk) -> Iterator[EngineSubject]:
    subject = filled(tmp_path / "store", disk)
    yield subject
    assert subject.fsck() == []
    subject.close()


def filled(store: Path, disk: FaultyDisk | CrashingDisk, limits: Limits = LIMITS) -> EngineSubject:
    subject = EngineSubject(store, disk, limits)
    subject.create_volume("data")
    for name in (b"f", b"g"):
        subject.make("data", (name,), FILE, 0o644)
        subject.write("data", (name,), 0, random.Random(1).randbytes(FILE_BYTES))
    subject.flush()
    subject.write("data", (b"f",), 0, b"the first record makes the log")
    fsync(subject)
    return subject


def fsync(subject: EngineSubject, name: bytes = b"f") -> None:
    found = subject.lake.volumes.get("data")
    ino = subject.lake.files.lookup(found.head, found.root, name).ino
    subject.run(lambda: subject.lake.files.fsync(found.head, ino))


def test_a_page_and_its_fsync_are_two_writes_and_one_sync(tmp_path: Path) -> None:
    store = tmp_path / "store"
    disk = CrashingDisk(store)
    subject = filled(store, disk)
    for number in range(3):
        subject.write("data", (b"f",), number * 8192, random.randbytes(4096))
        disk.log.clear()
        fsync(subject)
        assert [one.name for one in disk.log if one.kind in CHANGING] == ["segment.append", "redo.append", "redo.sync"]
    disk.log.clear()
    fsync(subject)  # nothing is left to do
    assert [one.name for one in disk.log if one.kind in CHANGING] == []
    subject.close()


def test_what_was_synced_outlives_a_crash_and_nothing_else_does(engine: EngineSubject, disk: SlowDisk) -> None:
    """More of it than the log holds, over crashes in between."""
    chance, durable = random.Random(2), engine.tree("data")
    for step in range(60):
        name = chance.choice([b"f", b"g"])
        engine.write("data", (name,), chance.randrange(FILE_BYTES), chance.randbytes(chance.choice([100, 4096, 9000])))
        if step % 3:
            fsync(engine, name)
            fsync(engine, b"f" if name == b"g" else b"g")
            durable = engine.tree("data")
        if step % 7 == 0:
            engine.crash()
            assert engine.tree("data") == durable
    assert disk.calls["redo.append"] > 30
    assert disk.calls["index.commit"] < disk.calls["redo.append"]


def test_a_log_is_carried_out_on_a_full_disk(tmp_path: Path) -> None:
    """The room for the commit to come was set aside before each record."""
    disk = FullDisk()
    subject = filled(tmp_path / "store", disk, Limits())
    for number in range(20):
        subject.write("data", (b"f",), number * 8192, random.randbytes(4096))
        fsync(subject)
    durable = subject.tree("data")
    disk.full = True
    subject.crash()
    assert subject.tree("data") == durable
    subject.close()


def test_names_and_attributes_are_synced_with_a_file(engine: EngineSubject) -> None:
    engine.make("data", (b"new",), FILE, 0o640)
    engine.unlink("data", (b"g",))
    fsync(engine, b"new")
    engine.make("data", (b"lost",), FILE, 0o644)
    engine.crash()
    assert set(engine.tree("data")) >= {(b"f",), (b"new",)}
    assert not {(b"g",), (b"lost",)} & set(engine.tree("data"))


def test_after_a_commit_that_failed_what_was_synced_is_shown(engine: EngineSubject, disk: SlowDisk) -> None:
    engine.write("data", (b"f",), 5000, b"synced")
    fsync(engine)
    durable = engine.tree("data")
    engine.write("data", (b"f",), 5000, b"never!")
    engine.unlink("data", (b"g",))
    disk.failing["index.commit"] = BROKEN
    with pytest.raises(IOFailure):
        engine.flush()
    disk.failing.clear()
    assert engine.tree("data") == durable
    with pytest.raises(IOFailure):
        fsync(engine)
    engine.crash()
    assert engine.tree("data") == durable


@pytest.mark.parametrize("what", ["redo.append", "redo.sync"])
def test_a_log_that_fails_is_done_without(engine: EngineSubject, disk: SlowDisk, what: str) -> None:
    disk.failing[what] = BROKEN
    for content in (b"one", b"two"):
        engine.write("data", (b"f",), 5000, content)
        fsync(engine)
        durable = engine.tree("data")
    assert disk.calls[what] == 2  # the fixture's, and one that failed
    engine.crash()
    assert engine.tree("data") == durable


def test_requests_are_answered_while_the_log_is_synced(engine: EngineSubject, disk: SlowDisk) -> None:
    """And an fsync that comes meanwhile is not told that the one under way was its own."""
    files, found = engine.lake.files, engine.lake.volumes.get("data")
    head, root = found.head, found.root
    order: list[str] = []

    async def sync(name: bytes) -> None:
        ino = files.lookup(head, root, name).ino
        await files.write(head, ino, 100, b"of " + name)
        await files.fsync(head, ino)
        order.append(name.decode())

    async def play() -> None:
        disk.may_go_on.clear()
        disk.entered.clear()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sync, b"f")
            await trio.to_thread.run_sync(disk.entered.wait)
            nursery.start_soon(sync, b"g")
            assert files.lookup(head, root, b"g").size == FILE_BYTES
            assert await files.read(head, files.lookup(head, root, b"g").ino, 0, 4) != b""
            files.mknod(head, root, b"made", mode=0o100644, uid=0, gid=0)
            await trio.testing.wait_all_tasks_blocked()
            order.append("answered")
            disk.may_go_on.set()

    before = disk.calls["redo.append"]
    engine.run(play)
    assert order == ["answered", "f", "g"]
    assert disk.calls["redo.append"] == before + 2
    engine.crash()
    tree = engine.tree("data")
    assert (b"made",) in tree
    assert [written(engine, name) for name in (b"f", b"g")] == [b"of f", b"of g"]


def written(subject: EngineSubject, name: bytes) -> bytes:
    """Where the files differ."""
    found, files = subject.lake.volumes.get("data"), subject.lake.files
    ino = files.lookup(found.head, found.root, name).ino
    return bytes(subject.run(lambda: files.read(found.head, ino, 100, 4)))


def test_a_commit_beside_a_sync_syncs_for_itself(engine: EngineSubject, disk: SlowDisk) -> None:
    """Of who may not wait: what the other is about to sync is not durable yet."""
    engine.write("data", (b"f",), 0, random.Random(3).randbytes(200_000))

    async def play() -> None:
        await engine.lake.writeback.flush()
        disk.may_go_on.clear()
        disk.entered.clear()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.lake.commit)
            await trio.to_thread.run_sync(disk.entered.wait)
            before = disk.calls["segment.sync"]
            engine.lake.index.commit()
            assert disk.calls["segment.sync"] == before + 1
            disk.may_go_on.set()

    engine.run(play)


def test_a_commit_ends_records_but_not_the_need_for_their_bytes(engine: EngineSubject, disk: SlowDisk) -> None:
    """Appended, in a record, and named by nothing yet when the index commits: the next fsync syncs them."""
    lake, found = engine.lake, engine.lake.volumes.get("data")
    ino = lake.files.lookup(found.head, found.root, b"g").ino
    data = random.Random(4).randbytes(5000)

    async def play() -> None:
        await lake.commit()
        with lake.core.blocks.placing():
            lake.core.blocks.pack([(digest(data), data)])
            lake.files.setattr(found.head, ino, mode=0o600)
            await lake.persist()
            lake.files.setattr(found.head, ino, mode=0o640)
            lake.index.commit()
            before = disk.calls["segment.sync"]
            lake.files.setattr(found.head, ino, mode=0o644)
            await lake.persist()
            assert disk.calls["segment.sync"] == before + 1

    engine.run(play)


def test_many_fsyncs_share_records(engine: EngineSubject, disk: SlowDisk) -> None:
    files, found = engine.lake.files, engine.lake.volumes.get("data")

    async def sync(ino: Ino) -> None:
        await files.write(found.head, ino, 0, b"shared")
        await files.fsync(found.head, ino)

    async def play() -> None:
        async with trio.open_nursery() as nursery:
            for inode in made:
                nursery.start_soon(sync, inode.ino)

    made = [
        files.mknod(found.head, found.root, b"n%d" % number, mode=0o100644, uid=0, gid=0) for number in range(20)
    ]  # fmt: skip
    before = disk.calls["redo.append"]
    engine.run(play)
    assert 1 <= disk.calls["redo.append"] - before < 20


def test_events_are_told_when_they_are_durable(engine: EngineSubject, disk: SlowDisk) -> None:
    """One that comes while the record is written belongs to the next."""
    events, found = engine.lake.core.events, engine.lake.volumes.get("data")
    ino = engine.lake.files.lookup(found.head, found.root, b"f").ino

    async def play() -> None:
        events.warn("before")
        first = events.last
        assert events.durable < first
        disk.may_go_on.clear()
        disk.entered.clear()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.lake.files.fsync, found.head, ino)
            await trio.to_thread.run_sync(disk.entered.wait)
            events.warn("meanwhile")
            disk.may_go_on.set()
        assert events.durable == first
        await engine.lake.files.fsync(found.head, ino)
        assert events.durable == events.last == first + 1

    engine.run(play)


def test_a_snapshot_commits_and_ends_the_log(engine: EngineSubject, disk: SlowDisk) -> None:
    engine.write("data", (b"f",), 0, b"before")
    fsync(engine)
    assert engine.lake.index.redo.records() != []
    commits = disk.calls["index.commit"]
    engine.snapshot("data", "kept")
    assert disk.calls["index.commit"] == commits + 1
    assert engine.lake.index.redo.records() == []
    engine.write("data", (b"f",), 0, b"behind")
    fsync(engine)
    engine.crash()
    assert engine.listed("data") == {"kept": []}
    assert engine.tree("data") != engine.tree("data", "kept")
