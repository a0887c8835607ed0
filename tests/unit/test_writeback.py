"""Dirty data, flushes, and what happens between them."""

from __future__ import annotations

import random

import pytest
import trio
import trio.testing

from snapfs import api
from snapfs.errors import NoSpace, SnapfsError
from snapfs.extents import Extent
from snapfs.format import keys, records
from snapfs.store.blocks import digest
from snapfs.testing.engine import EngineSubject
from snapfs.types import PAGE_BYTES
from snapfs.versions.keyspace import Snapshotted
from snapfs.volume import storing
from snapfs.volume.limits import Limits
from snapfs.volume.writeback import CHANGES_MAX, IDLE_SECONDS, SETTLED_BYTES_MAX


def content(engine: EngineSubject) -> bytes:
    return engine.tree("data")[b"f",].content


def test_a_block_that_its_file_lets_go_and_takes_up_in_one_flush(engine: EngineSubject) -> None:
    """The first run of the flush drops the last reference; the second wants the same bytes elsewhere."""
    one, two = random.randbytes(5000), random.randbytes(5000)
    engine.write("data", (b"f",), 0, one)
    engine.flush()
    engine.write("data", (b"f",), 0, two)
    engine.write("data", (b"f",), 1 << 20, one)
    engine.flush()
    assert engine.fsck() == []
    engine.reclaim()
    assert content(engine) == two + bytes((1 << 20) - 5000) + one


def test_more_than_may_be_dirty_in_one_write(engine: EngineSubject) -> None:
    engine.limits = Limits(dirty_bytes_max=1 << 20)
    engine.reopen()
    data = random.randbytes(3 << 20)

    async def write() -> None:
        view, ino = engine._resolve("data", (b"f",))
        with trio.fail_after(10):
            await engine.lake.files.write(view, ino, 0, data)

    engine.run(write)
    assert content(engine) == data


def stopped_in_its_thread(engine: EngineSubject, monkeypatch: pytest.MonkeyPatch) -> trio.Event:
    """Flushes wait in their worker thread until the event is set."""
    again = trio.Event()
    real = engine.lake.core.blocks.append

    def append(packed_blocks):
        if not again.is_set():
            trio.from_thread.run(again.wait)
        return real(packed_blocks)

    monkeypatch.setattr(engine.lake.core.blocks, "append", append)
    return again


def test_truncation_and_writes_during_a_flush(engine: EngineSubject, monkeypatch: pytest.MonkeyPatch) -> None:
    """The flush is under way in its thread while the file changes."""
    data = random.randbytes(300_000)
    again = stopped_in_its_thread(engine, monkeypatch)

    async def play() -> None:
        view, ino = engine._resolve("data", (b"f",))
        files = engine.lake.files
        await files.write(view, ino, 0, data)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.lake.sync)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert await files.read(view, ino, 0, len(data)) == data
            files.setattr(view, ino, size=100_000)
            await files.write(view, ino, 150_000, b"late")
            files.setattr(view, ino, size=200_000)
            expected = data[:100_000] + bytes(50_000) + b"late" + bytes(49_996)
            assert await files.read(view, ino, 0, 1 << 20) == expected
            again.set()
        assert await files.read(view, ino, 0, 1 << 20) == expected
        await engine.lake.sync()
        assert await files.read(view, ino, 0, 1 << 20) == expected

    engine.run(play)


def test_a_file_unlinked_during_a_flush(engine: EngineSubject, monkeypatch: pytest.MonkeyPatch) -> None:
    again = stopped_in_its_thread(engine, monkeypatch)

    async def play() -> None:
        view, ino = engine._resolve("data", (b"f",))
        await engine.lake.files.write(view, ino, 0, random.randbytes(300_000))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.lake.sync)
            await trio.testing.wait_all_tasks_blocked(0.05)
            engine.unlink("data", (b"f",))
            again.set()
        assert engine.lake.core.dirty_bytes == 0
        await engine.lake.reclaim_all()

    engine.run(play)
    assert engine.stored_bytes() == 0


def test_a_full_segment_is_not_dropped_under_a_flush(engine: EngineSubject, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flush has appended to a segment, begun the next, and not yet named its blocks: all the first one's named
    blocks are dead, and yet it holds data."""
    engine.limits = Limits(segment_bytes_max=200_000)
    engine.reopen()
    engine.make("data", (b"old",), "file", 0o644)
    engine.write("data", (b"old",), 0, random.randbytes(1000))
    engine.flush()
    engine.unlink("data", (b"old",))
    engine.flush()
    packed, again = trio.Event(), trio.Event()
    real = engine.lake.core.blocks.append

    def append(packed_blocks):
        places = real(packed_blocks)
        trio.from_thread.run_sync(packed.set)
        trio.from_thread.run(again.wait)
        return places

    monkeypatch.setattr(engine.lake.core.blocks, "append", append)
    data = random.randbytes(600_000)

    async def play() -> None:
        view, ino = engine._resolve("data", (b"f",))
        await engine.lake.files.write(view, ino, 0, data)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.lake.sync)
            await packed.wait()
            await engine.lake.reclaim_all()
            again.set()

    engine.run(play)
    engine.reopen()
    assert content(engine) == data


def test_tasks_that_write_truncate_and_snapshot_at_once(engine: EngineSubject) -> None:
    """Each task knows its own file; snapshots hold a whole number of writes of each."""
    count, rounds = 4, 30
    for number in range(count):
        engine.make("data", (b"%d" % number,), "file", 0o644)

    async def writer(number: int, seed: random.Random, after: dict[int, bytes]) -> None:
        view, ino = engine._resolve("data", (b"%d" % number,))
        files = engine.lake.files
        model = bytearray()
        for _ in range(rounds):
            if seed.random() < 0.3:
                size = seed.randrange(200_000)
                files.setattr(view, ino, size=size)
                del model[size:]
                model.extend(bytes(size - len(model)))
            else:
                offset, data = seed.randrange(200_000), seed.randbytes(seed.choice([10, 5000, 100_000]))
                await files.write(view, ino, offset, data)
                model.extend(bytes(max(0, offset - len(model))))
                model[offset : offset + len(data)] = data
            if seed.random() < 0.2:
                await files.fsync(view, ino)
            assert await files.read(view, ino, 0, 1 << 20) == model
            await trio.lowlevel.checkpoint()
        after[number] = bytes(model)

    async def play() -> dict[int, bytes]:
        after: dict[int, bytes] = {}
        async with engine.lake.running(), trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(writer, number, random.Random(number), after)
            for turn in range(10):
                await engine.service.create_snapshot(volume="data", name=f"s{turn}")
                if turn % 3 == 2:
                    await engine.service.delete_snapshot(volume="data", snapshot=f"s{turn - 1}")
        return after

    after = engine.run(play)
    tree = engine.tree("data")
    for number, data in after.items():
        assert tree[b"%d" % number,].content == data


def test_a_commit_that_fails_fails_for_all_who_wait(engine: EngineSubject, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who shares a commit must not be told that it succeeded."""
    from snapfs.errors import IOFailure

    outcomes: list[str] = []
    real = engine.lake.index.commit

    def commit() -> None:
        raise engine.lake.index.fail(IOFailure("no disk"))

    monkeypatch.setattr(engine.lake.index, "commit", commit)

    async def wait() -> None:
        try:
            await engine.lake.commit()
            outcomes.append("done")
        except SnapfsError:
            outcomes.append("failed")

    async def play() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(wait)

    engine.run(play)
    assert outcomes == ["failed"] * 3
    monkeypatch.setattr(engine.lake.index, "commit", real)
    engine.crash()


def in_small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flushes of a megabyte have many parts."""
    monkeypatch.setattr(storing, "PART_BYTES", 256 << 10)


def test_a_flush_in_parts_stores_nothing_twice(engine: EngineSubject, monkeypatch: pytest.MonkeyPatch) -> None:
    in_small_parts(monkeypatch)
    appends = []
    real = engine.lake.core.blocks.append
    monkeypatch.setattr(engine.lake.core.blocks, "append", lambda packed: appends.append(len(packed)) or real(packed))
    data = random.randbytes(2 << 20)
    engine.write("data", (b"f",), 0, data + data)
    engine.make("data", (b"g",), "file", 0o644)
    engine.write("data", (b"g",), 0, data)
    engine.flush()
    assert len(appends) > 4
    assert len(data) <= engine.stored_bytes() < len(data) + (600 << 10)  # one seam is no other's, and headers
    assert (content(engine), engine.tree("data")[b"g",].content) == (data + data, data)
    assert engine.fsck() == []


@pytest.mark.parametrize("failing", [0, 3])
def test_a_part_that_cannot_be_stored(engine: EngineSubject, monkeypatch: pytest.MonkeyPatch, failing: int) -> None:
    """The flush fails as a whole, leaves nothing in the segments, and can be done again."""
    in_small_parts(monkeypatch)
    engine.write("data", (b"f",), 0, b"first")
    engine.flush()
    blocks = engine.lake.core.blocks
    position = blocks.segments.position
    real, calls = blocks.append, iter(range(1000))

    def append(packed):
        if next(calls) == failing:
            raise NoSpace("the disk is full")
        return real(packed)

    monkeypatch.setattr(blocks, "append", append)
    newer, data = random.randbytes(5000), random.randbytes(3 << 20)

    async def play() -> None:
        view, ino = engine._resolve("data", (b"f",))
        await engine.lake.files.write(view, ino, 0, data)
        with pytest.raises(NoSpace):
            await engine.lake.sync()
        assert blocks.segments.position == position
        assert blocks.segments.file_path(position[0]).stat().st_size == position[1]
        assert await engine.lake.files.read(view, ino, 0, len(data)) == data
        await engine.lake.files.write(view, ino, 1 << 20, newer)

    engine.run(play)
    engine.flush()
    wanted = data[: 1 << 20] + newer + data[(1 << 20) + len(newer) :]
    assert content(engine) == wanted
    assert engine.fsck() == []
    assert blocks.segments.disk_bytes() < len(data) + (1 << 20)
    engine.reopen()
    assert content(engine) == wanted


def test_a_writer_goes_on_as_soon_as_there_is_room(engine: EngineSubject, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not after a flush of its own, when the one under way has made room."""
    engine.limits = Limits(dirty_bytes_max=2 << 20)
    engine.reopen()
    again = stopped_in_its_thread(engine, monkeypatch)
    flushed = []
    real = engine.lake.writeback._store
    monkeypatch.setattr(
        engine.lake.writeback, "_store", lambda files, final: flushed.append(len(files)) or real(files, final)
    )

    async def play() -> None:
        view, ino = engine._resolve("data", (b"f",))
        files = engine.lake.files
        await files.write(view, ino, 0, random.randbytes(1500 << 10))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.lake.sync)
            await trio.testing.wait_all_tasks_blocked(0.05)
            await files.write(view, ino, 3 << 20, b"small")
            nursery.start_soon(files.write, view, ino, 4 << 20, random.randbytes(1 << 20))
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert files.getattr(view, ino).size < 5 << 20
            again.set()
        assert flushed == [1]

    engine.run(play)


def pages_changed(engine: EngineSubject, names: list[bytes], pages: int) -> None:
    """So many pages of each file, every other one, by one program."""

    async def write() -> None:
        for name in names:
            view, ino = engine._resolve("data", (name,))
            for number in range(pages):
                await engine.lake.files.write(view, ino, 2 * number * PAGE_BYTES, random.randbytes(PAGE_BYTES))

    engine.run(write)


def dirty_files(engine: EngineSubject) -> set[bytes]:
    tree = engine._head("data")
    names = {name: engine.lake.files.lookup(*tree, name).ino for name in (b"f", b"g")}
    return {name for name, ino in names.items() if engine.lake.writeback.dirty(tree[0], ino) is not None}


class TestSoon:
    """When the background stores what was written."""

    def test_many_changed_pages_are_stored_but_not_new_files(self, engine: EngineSubject) -> None:
        writeback, half = engine.lake.writeback, CHANGES_MAX // 2
        engine.make("data", (b"g",), "file", 0o644)
        pages_changed(engine, [b"f"], 2 * half + 1)
        assert not writeback.wanted.is_set()  # a new file
        engine.flush()
        pages_changed(engine, [b"f"], half)
        pages_changed(engine, [b"g"], 2 * half)
        assert not writeback.wanted.is_set()
        engine.run(writeback.flush_some)
        assert dirty_files(engine) == {b"f", b"g"}  # too few
        pages_changed(engine, [b"f"], half)  # the same ones
        assert not writeback.wanted.is_set()
        pages_changed(engine, [b"f"], 2 * half + 1)
        assert writeback.wanted.is_set()
        engine.run(writeback.flush_some)
        assert dirty_files(engine) == {b"g"}
        pages_changed(engine, [b"f"], 2)
        engine.run(writeback.flush_some)
        assert dirty_files(engine) == {b"f", b"g"}  # counted anew

    def test_what_lies_idle_is_stored(self, engine: EngineSubject, autojump_clock: trio.testing.MockClock) -> None:
        lake = engine.lake

        async def play() -> None:
            view, ino = engine._resolve("data", (b"f",))
            async with lake.running():
                for _ in range(10):  # again and again: nothing of it is idle
                    await lake.files.write(view, ino, 0, random.randbytes(PAGE_BYTES))
                    stored = lake.core.blocks.space.stored_bytes
                    await trio.sleep(IDLE_SECONDS / 2)
                    assert lake.core.blocks.space.stored_bytes == stored
                    assert lake.core.dirty_bytes == PAGE_BYTES
                await trio.sleep(2 * IDLE_SECONDS)
                assert lake.core.dirty_bytes == 0

        trio.run(play, clock=autojump_clock)


class TestSettled:
    """Files that took the place of others are flushed early; new ones, which often go again, are not."""

    @staticmethod
    def save(engine: EngineSubject, count: int, *, over: bool) -> None:
        for number in range(count):
            name = (b"%d" % number if over else b"new%d" % number,)
            engine.make("data", (b"tmp",), "file", 0o644)
            engine.write("data", (b"tmp",), 0, random.randbytes(1 << 20))
            engine.rename("data", (b"tmp",), name, noreplace=False, exchange=False)

    @pytest.mark.parametrize("over", [True, False])
    def test_from_some_megabytes_on(self, engine: EngineSubject, over: bool) -> None:
        writeback, core = engine.lake.writeback, engine.lake.core
        for number in range(6):
            engine.make("data", (b"%d" % number,), "file", 0o644)
        self.save(engine, SETTLED_BYTES_MAX >> 20, over=over)
        assert not writeback.wanted.is_set()
        engine.make("data", (b"other",), "file", 0o644)
        engine.write("data", (b"other",), 0, b"x" * 1000)
        self.save(engine, 1 + (SETTLED_BYTES_MAX >> 20), over=over)
        assert writeback.wanted.is_set() is over
        engine.run(writeback.flush_some)
        if over:
            assert core.dirty_bytes == 1000, "of the other: the rest is in blocks, to the last byte"
        else:
            assert core.dirty_bytes > SETTLED_BYTES_MAX
        assert engine.fsck() == []

    def test_what_went_again_counts_no_more(self, engine: EngineSubject) -> None:
        writeback = engine.lake.writeback
        for number in range(6):
            engine.make("data", (b"%d" % number,), "file", 0o644)
        self.save(engine, 4, over=True)
        for number in range(4):
            engine.unlink("data", (b"%d" % number,))
        engine.run(writeback.flush_some)
        writeback.wanted = trio.Event()
        engine.make("data", (b"tmp",), "file", 0o644)
        engine.write("data", (b"tmp",), 0, b"x" * 1000)
        engine.rename("data", (b"tmp",), (b"4",), noreplace=False, exchange=False)
        assert not writeback.wanted.is_set()


def test_extents_are_those_that_a_scan_of_the_whole_file_finds(engine: EngineSubject) -> None:
    """Whatever other versions lie between: pages of snapshots, of other heads, tombstones."""
    dice = random.Random(7)
    size = 40 * PAGE_BYTES
    engine.write("data", (b"f",), 0, dice.randbytes(size))
    names = []

    def check() -> None:
        view, ino = engine._resolve("data", (b"f",))
        core = engine.lake.core
        inode = core.inode(view, ino)
        every = [
            (Extent(keys.split_extent(subject)[1], *records.decode_extent(payload)), epoch)
            for subject, epoch, payload in core.tree.scan(view, keys.extents(ino, inode.fork))
        ]
        for _ in range(20):
            start = dice.randrange(size + PAGE_BYTES)
            end = start + dice.randrange(1, 5 * PAGE_BYTES)
            assert core.extents(view, inode, start, end) == [
                found for found in every if found[0].offset < end and found[0].end > start
            ]
        with engine.lake.index.reader() as reader:
            committed = Snapshotted(reader)
            of = core.inode(view, ino, committed)
            assert core.extents(view, of, 0, size, committed) == core.extents(view, of, 1, size, committed)

    for step in range(60):
        choice = dice.randrange(10)
        if choice == 0:
            names.append(f"s{step}")
            engine.snapshot("data", names[-1])
        elif choice == 1 and names:
            engine.checkout("data", dice.choice(names), api.Save.DISCARD)
        elif choice == 2:
            engine.truncate("data", (b"f",), dice.randrange(size))
        else:
            at = dice.randrange(size)
            engine.write("data", (b"f",), at, dice.randbytes(dice.randrange(1, 3 * PAGE_BYTES)))
        engine.flush()
        engine.run(engine.lake.commit)
        check()


def test_a_block_that_another_made_known_meanwhile_is_not_made_twice(engine: EngineSubject) -> None:
    blocks = engine.lake.core.blocks
    data = random.randbytes(5000)
    with blocks.placing():
        place, again = (blocks.pack([(digest(data), data)])[0] for _ in range(2))
        engine.write("data", (b"f",), 0, data)
        engine.flush()
        known = blocks.known(digest(data))
        assert known
        before = blocks.space.counters()
        assert blocks.add(place) == blocks.add(again) == known
        assert blocks.space.counters() == before
