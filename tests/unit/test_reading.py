"""Reads: what comes of files whose blocks are many, shared, compressed, damaged or on their way."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import pytest
import trio

from snapfs.errors import Corrupt, IOFailure
from snapfs.store import flights
from snapfs.store.flights import Flight, Read
from snapfs.store.gather import BUFFER_BYTES, BUFFERS_MAX, Buffers
from snapfs.testing.engine import EngineSubject
from snapfs.testing.faulty import FaultyDisk
from snapfs.types import BLOCK_BYTES_MAX, PAGE_BYTES
from snapfs.volume import files
from snapfs.volume.threads import in_thread

MIB = 1 << 20
assert BUFFER_BYTES == MIB


class Disk(FaultyDisk):
    """Can hold up reads, refuse large ones, have a page that cannot be read, and tell what goes past the page cache."""

    def __init__(self) -> None:
        super().__init__()
        self.refuses_large = False
        self.caches: bool | None = None
        """What it says of the page cache; None: the truth."""
        self.past = ""
        """What reads past the page cache do wrong."""
        self.direct: list[int] = []
        """Bytes that were read past the page cache."""
        self.bad_page = -1
        self.flies = True
        self.flights: list[int] = []
        """Reads that were sent together."""
        self.began = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()

    def preadv(self, what: str, fd: int, buffers: Sequence[bytearray | memoryview], offset: int) -> int:
        self.began.set()
        assert self.go_on.wait(30)
        if self.refuses_large and sum(map(len, buffers)) > BLOCK_BYTES_MAX:
            raise IOFailure(f"{what}: Input/output error")
        start = self.bad_page * PAGE_BYTES
        if start < 0 or offset >= start + PAGE_BYTES or offset + sum(map(len, buffers)) <= start:
            return super().preadv(what, fd, buffers, offset)
        if offset >= start:
            raise IOFailure(f"{what}: Input/output error")
        data = super().pread(what, fd, start - offset, offset)  # as Linux does: what is before it, and no error
        done = 0
        for buffer in buffers:
            size = min(len(buffer), len(data) - done)
            buffer[:size] = data[done : done + size]
            done += size
        return done

    def submit_direct(self, what: str, reads: Sequence[Read]) -> Flight | None:
        """As ``pread_direct``; held up it stays on its way."""
        if self.past == "refused" or not self.flies:
            return None
        flight = super().submit_direct(what, reads)
        if flight is None:
            return None
        self.flights.append(len(reads))
        return cast(Flight, HeldFlight(self, flight, reads))

    def preadv_cached(self, fd: int, buffers: Sequence[bytearray | memoryview], offset: int) -> int:
        if offset <= self.bad_page * PAGE_BYTES < offset + sum(map(len, buffers)):
            return 0
        return super().preadv_cached(fd, buffers, offset)

    def preadv_waiting(self, fd: int, buffers: Sequence[bytearray | memoryview], offset: int) -> int:
        """In place of ``preadv_cached``: a page cache that has all."""
        return super().preadv("segment.read", fd, buffers, offset)

    def is_cached(self, fd: int, offset: int, size: int) -> bool:
        return super().is_cached(fd, offset, size) if self.caches is None else self.caches

    def pread_direct(self, what: str, fd: int, buffer: memoryview, offset: int) -> int:
        self.began.set()
        assert self.go_on.wait(30)
        start = self.bad_page * PAGE_BYTES
        if self.past == "refused" or self.refuses_large or offset <= start < offset + len(buffer):
            return 0
        assert offset % PAGE_BYTES == len(buffer) % PAGE_BYTES == 0
        count = super().pread_direct(what, fd, buffer, offset)
        if self.past == "short":
            count = count // 3 // PAGE_BYTES * PAGE_BYTES
        if self.past == "stale":
            buffer[count // 2 : count // 2 + 100_000] = bytes(100_000)
        self.direct.append(count)
        return count


class HeldFlight:
    """A flight that comes when its disk lets go of it, and whose reads went as the disk has them go."""

    def __init__(self, disk: Disk, flight: Flight, reads: Sequence[Read]) -> None:
        self._disk, self._flight, self._reads = disk, flight, reads
        self.counts = flight.counts
        self.fd = os.eventfd(1)
        """Always ready: who waits for it asks again."""

    @property
    def bytes(self) -> memoryview:
        return self._flight.bytes

    def done(self) -> bool:
        self._disk.began.set()
        if not self._disk.go_on.is_set() or not self._flight.done():
            return False
        disk, start, at = self._disk, self._disk.bad_page * PAGE_BYTES, 0
        for number, (_, offset, size) in enumerate(self._reads):
            if disk.refuses_large or offset <= start < offset + size:
                self.counts[number] = 0
            if disk.past == "short":
                self.counts[number] //= 3
            if disk.past == "stale":
                self.bytes[at + size // 2 : at + size // 2 + 1000] = bytes(1000)
            disk.direct.append(self.counts[number])
            at += size
        return True

    def finish(self) -> None:
        self._flight.finish()
        os.close(self.fd)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flights, "SENDING_SECONDS_MAX", 30)  # this machine may be busy


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def engine(tmp_path: Path, disk: Disk) -> Iterator[EngineSubject]:
    subject = EngineSubject(tmp_path / "store", disk=disk)
    subject.create_volume("data")
    subject.make("data", (b"f",), "file", 0o644)
    yield subject
    subject.close()


def read(engine: EngineSubject, offset: int, size: int) -> bytes | bytearray:
    view, ino = engine._resolve("data", (b"f",))
    return engine.run(lambda: engine.lake.files.read(view, ino, offset, size))


def stored(engine: EngineSubject, data: bytes) -> None:
    """The file has the bytes, and nothing in memory has them."""
    engine.write("data", (b"f",), 0, data)
    engine.flush()
    engine.reopen()


def mixed(rng: random.Random, size: int) -> bytes:
    """Noise, text, zeros and what was there before, in turn."""
    data = bytearray()
    while len(data) < size:
        part = rng.randrange(1, 300_000)
        kind = rng.randrange(4)
        if kind == 0:
            data += rng.randbytes(part)
        elif kind == 1:
            data += (b"%d of many words; " % rng.randrange(1 << 30)) * (part // 20)
        elif kind == 2:
            data += bytes(part)
        elif data:
            start = rng.randrange(len(data))
            data += data[start : start + part]
    return bytes(data[:size])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("caches", [True, False])
def test_reads_are_what_was_written(engine: EngineSubject, disk: Disk, seed: int, caches: bool) -> None:
    """Many at a time, of any size, and all answers are kept: no buffer is given out twice."""
    disk.caches = caches
    rng = random.Random(seed)
    data = bytearray(mixed(rng, 6 * MIB))
    stored(engine, bytes(data))
    for _ in range(5):  # some of it is newer, and not stored yet
        at, new = rng.randrange(len(data)), rng.randbytes(rng.randrange(1, 50_000))
        engine.write("data", (b"f",), at, new[: len(data) - at])
        data[at : at + len(new)] = new[: len(data) - at]
    spans = [(rng.randrange(len(data)), rng.choice([1, 4096, 70_000, MIB, 2 * MIB])) for _ in range(30)]
    spans += [(at, MIB) for at in range(0, len(data), MIB)] * 3
    answers: dict[int, bytes | bytearray] = {}
    view, ino = engine._resolve("data", (b"f",))

    async def one(number: int, at: int, size: int) -> None:
        answers[number] = await engine.lake.files.read(view, ino, at, size)

    async def play() -> None:
        async with trio.open_nursery() as nursery:
            for number, (at, size) in enumerate(spans):
                nursery.start_soon(one, number, at, size)

    engine.run(play)
    for number, (at, size) in enumerate(spans):
        assert answers[number] == data[at : at + size], (number, at, size)


def test_what_lies_side_by_side_is_read_by_one_call(engine: EngineSubject, disk: Disk) -> None:
    data = random.Random(1).randbytes(4 * MIB)
    stored(engine, data)
    for at in range(0, len(data), MIB):
        disk.calls.clear()
        assert read(engine, at, MIB) == data[at : at + MIB]
        assert disk.calls["segment.read"] == 1
    blocks = engine.lake.core.blocks
    assert blocks._cache_bytes <= 8 * 256 * 1024, "only blocks at the ends of requests are kept"


@pytest.mark.parametrize("flies", [True, False])
@pytest.mark.parametrize("past", ["", "refused", "short", "stale"])
def test_past_the_page_cache(engine: EngineSubject, disk: Disk, past: str, flies: bool) -> None:
    """Whatever comes of it, the answer is what was written: what is missing or wrong is read once more."""
    rng = random.Random(9)
    data = b"".join(rng.randbytes(MIB) + b"some text, " * 20_000 for _ in range(3))
    stored(engine, data)
    disk.caches, disk.past, disk.flies = False, past, flies
    for at, size in ((0, MIB), (MIB, MIB), (777, MIB), (len(data) - MIB, MIB), (5, 2 * MIB)):
        engine.lake.core.blocks._cache.clear()
        assert read(engine, at, size) == data[at : at + size]
    assert bool(disk.direct) == (past != "refused")
    assert bool(disk.flights) == (flies and past != "refused")


def scattered(engine: EngineSubject, disk: Disk, rng: random.Random) -> bytes:
    """A file whose pages lie in many places, and which nothing has in memory."""
    data = bytearray(rng.randbytes(MIB))
    stored(engine, bytes(data))
    for at in rng.sample(range(0, MIB, 2 * PAGE_BYTES), 100):
        engine.write("data", (b"f",), at, new := rng.randbytes(PAGE_BYTES))
        engine.write("data", (b"f",), at + 2 * MIB, rng.randbytes(40_000))  # between them
        data[at : at + PAGE_BYTES] = new
        engine.flush()
    engine.reopen()
    disk.calls.clear()
    return bytes(data)


@pytest.mark.parametrize("bad", [False, True])
def test_what_lies_scattered_is_read_at_once(
    engine: EngineSubject, disk: Disk, bad: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that do not come are read once more, alone; what the disk cannot read at all is an error."""
    data = scattered(engine, disk, random.Random(12))
    monkeypatch.setattr(disk, "preadv_cached", lambda *_: 0)
    disk.past = "short" if bad else ""
    assert read(engine, 0, MIB) == data
    assert len(disk.flights) == 1
    assert disk.flights[0] > 30
    assert (disk.calls["segment.read"] > disk.flights[0]) == bad


def test_one_of_many_reads_that_fails(
    engine: EngineSubject, disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = scattered(engine, disk, random.Random(13))
    monkeypatch.setattr(disk, "preadv_cached", lambda *_: 0)
    (segment,) = (tmp_path / "store" / "segments").glob("*.seg")
    disk.bad_page = segment.read_bytes().index(data[500_000:][:64]) // PAGE_BYTES
    with pytest.raises(IOFailure):
        read(engine, 0, MIB)
    assert disk.flights
    disk.bad_page = -1
    assert read(engine, 0, MIB) == data


def test_others_have_their_turn_while_much_is_laid_out(
    engine: EngineSubject, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = scattered(engine, disk, random.Random(14))
    disk.caches = True
    monkeypatch.setattr(files, "TURN_SECONDS", 0)
    monkeypatch.setattr(disk, "preadv_cached", disk.preadv_waiting)
    view, ino = engine._resolve("data", (b"f",))
    turns = 0

    async def play() -> bytes | bytearray:
        nonlocal turns
        async with trio.open_nursery() as nursery:

            async def count() -> None:
                nonlocal turns
                while True:
                    await trio.lowlevel.checkpoint()
                    turns += 1

            nursery.start_soon(count)
            answer = await engine.lake.files.read(view, ino, 0, MIB)
            nursery.cancel_scope.cancel()
            return answer

    assert engine.run(play) == data
    assert disk.flights == []
    assert turns > 30


def test_what_the_page_cache_has_is_taken_from_there(engine: EngineSubject, disk: Disk, tmp_path: Path) -> None:
    data = random.Random(10).randbytes(3 * MIB)
    stored(engine, data)
    (segment,) = (tmp_path / "store" / "segments").glob("*.seg")
    with open(segment, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if disk.is_cached(file.fileno(), MIB, MIB):
            pytest.skip("a file system without a page cache of its own")
        assert read(engine, MIB, MIB) == data[MIB : 2 * MIB]
        assert sum(disk.direct) >= MIB
        assert not disk.is_cached(file.fileno(), MIB, MIB)
        os.pread(file.fileno(), 4 * MIB, 0)
    disk.direct.clear()
    assert read(engine, 0, MIB) == data[:MIB]
    assert disk.direct == []


def test_a_small_read_waits_for_the_disk_in_a_thread(
    engine: EngineSubject, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page cache has it, has some of it, or nothing."""
    data = random.Random(11).randbytes(40_000)
    stored(engine, data)
    where: list[int] = []
    real, kept = disk.preadv_cached, 0

    def preadv_cached(fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        return real(fd, [buffers[0][:kept]], offset) if kept else 0

    monkeypatch.setattr(disk, "preadv_cached", preadv_cached)
    for kept in (1 << 20, 5000, 0):  # noqa: B007 - for ``preadv_cached``
        disk.calls.clear()
        engine.lake.core.blocks._cache.clear()
        assert read(engine, 0, 40_000) == data
        where.append(disk.calls["segment.read"])
    assert where == [0, 1, 1]


def test_bytes_between_blocks_that_cannot_be_read_do_not_matter(engine: EngineSubject, disk: Disk) -> None:
    data = random.Random(2).randbytes(MIB)
    stored(engine, data)
    disk.refuses_large = True
    assert read(engine, 0, MIB) == data
    disk.failing["segment.read"] = 5
    engine.reopen()
    with pytest.raises(IOFailure):
        read(engine, 0, MIB)


def test_a_page_that_cannot_be_read(engine: EngineSubject, disk: Disk, tmp_path: Path) -> None:
    """What is before it can be; the error is the disk's, and not that the data is damaged."""
    data = random.Random(7).randbytes(MIB)
    stored(engine, data)
    (segment,) = (tmp_path / "store" / "segments").glob("*.seg")
    disk.bad_page = segment.read_bytes().index(data[800_000:][:64]) // PAGE_BYTES
    with pytest.raises(IOFailure):
        read(engine, 0, MIB)
    assert read(engine, 0, MIB // 2) == data[: MIB // 2]


def test_a_segment_that_ends_too_early(engine: EngineSubject, tmp_path: Path) -> None:
    """Also when the buffer still has what was read there before."""
    data = random.Random(8).randbytes(MIB)
    stored(engine, data)
    assert read(engine, 0, MIB) == data
    engine.lake.core.blocks._cache.clear()
    (segment,) = (tmp_path / "store" / "segments").glob("*.seg")
    with open(segment, "r+b") as file:
        file.truncate(segment.stat().st_size - 300_000)
    with pytest.raises(Corrupt, match="does not match its hash"):
        read(engine, 0, MIB)


def test_damage_among_good_blocks(engine: EngineSubject, tmp_path: Path) -> None:
    data = random.Random(3).randbytes(4 * MIB)
    stored(engine, data)
    (segment,) = (tmp_path / "store" / "segments").glob("*.seg")
    content = bytearray(segment.read_bytes())
    content[content.index(data[MIB + 500_000 :][:64])] ^= 1
    segment.write_bytes(content)
    with pytest.raises(Corrupt, match=r"bytes from 1048576: block \d+ .* does not match its hash"):
        read(engine, MIB, MIB)
    for at in (0, 2 * MIB, 3 * MIB):
        assert read(engine, at, MIB) == data[at : at + MIB]


@pytest.mark.parametrize("flies", [True, False])
def test_what_is_read_stays_until_it_is_read(engine: EngineSubject, disk: Disk, flies: bool) -> None:
    """The file is cut off, stored anew and its old blocks given back while a read waits for the disk."""
    disk.flies, disk.caches = flies, False
    data, new = (random.Random(seed).randbytes(MIB) for seed in (4, 5))
    stored(engine, data)
    view, ino = engine._resolve("data", (b"f",))
    files = engine.lake.files
    answers: list[bytes | bytearray] = []

    async def read_old() -> None:
        answers.append(await files.read(view, ino, 0, MIB))

    async def play() -> None:
        disk.began.clear()
        disk.go_on.clear()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_old)
            try:
                assert await trio.to_thread.run_sync(disk.began.wait, 30)
                files.setattr(view, ino, size=0)
                await files.write(view, ino, 0, new)
                await engine.lake.sync()
                await engine.lake.reclaim_all()
            finally:
                disk.go_on.set()

    engine.run(play)
    assert answers == [data]
    assert bool(disk.flights) == flies
    assert read(engine, 0, MIB) == new
    assert engine.fsck() == []


def test_buffers_are_used_again_when_nobody_has_them() -> None:
    buffers = Buffers()
    one = buffers.take(MIB)
    two = buffers.take(MIB)
    assert one is not two
    view = memoryview(two)
    name = id(one)
    del one, two
    again = buffers.take(MIB)
    assert id(again) == name
    assert buffers.take(MIB) is not view.obj
    kept = [buffers.take(MIB) for _ in range(3 * BUFFERS_MAX)]
    assert len({id(buffer) for buffer in kept}) == len(kept)
    assert len(buffers._buffers) == BUFFERS_MAX
    assert len(buffers.take(10)) == 10


def test_a_thread_for_a_moment() -> None:
    def fail() -> int:
        raise IOFailure("of the thread")

    async def play() -> None:
        assert await in_thread(threading.get_ident) != threading.get_ident()
        with pytest.raises(IOFailure, match="of the thread"):
            await in_thread(fail)
        with trio.CancelScope() as scope:
            scope.cancel()
            assert await in_thread(lambda: 7) == 7  # what a thread has begun is waited for

    trio.run(play)
