"""Storing only what is new: zero runs, comparison with older versions, compression, cutting anew."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable

import hypothesis.strategies as st
import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings

from snapfs import api
from snapfs.errors import AlreadyExists, Invalid, NoSpace, NotFound
from snapfs.extents import Extent, merged, plan_write
from snapfs.store.blocks import digest
from snapfs.store.index import items
from snapfs.store.ordering import in_order
from snapfs.testing.engine import EngineSubject
from snapfs.testing.trees import DIRECTORY
from snapfs.types import PAGE_BYTES, BlockId
from snapfs.volume.optimize import optimize
from snapfs.volume.reduction import reducer, replaced
from snapfs.volume.reduction.compression import Trials, check_compression, level_of
from snapfs.volume.reduction.cutting import CHUNK_BYTES_MIN, Chunk, chunks_of, cut, zero_runs

KIB = 1024
MIB = 1024 * KIB
NAME = (b"f",)
Edit = Callable[[bytes, random.Random], bytes]


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def pages_changed(data: bytes, pages: list[int], dice: random.Random) -> bytes:
    new = bytearray(data)
    for page in pages:
        new[page * PAGE_BYTES : (page + 1) * PAGE_BYTES] = dice.randbytes(PAGE_BYTES)
    return bytes(new)


def content(engine: EngineSubject, name: bytes = b"f", snapshot: str = "") -> bytes:
    return engine.tree("data", snapshot)[name,].content


def extents(engine: EngineSubject, name: bytes = b"f") -> list[Extent]:
    view, ino = engine._resolve("data", (name,))
    inode = engine.lake.core.inode(view, ino)
    return [extent for extent, _ in engine.lake.core.extents(view, inode, 0, inode.size + 1)]


def allocated(engine: EngineSubject, name: bytes = b"f") -> int:
    view, ino = engine._resolve("data", (name,))
    return engine.lake.files.getattr(view, ino).allocated_bytes


def data_bytes(engine: EngineSubject) -> int:
    """Of files' blocks, when all is given back that can be."""
    engine.reclaim()
    return engine.lake.core.blocks.space.stored_bytes


def put(engine: EngineSubject, name: bytes, data: bytes, part: int = 300 * KIB) -> None:
    """Write a file in pieces, as programs do."""
    with contextlib.suppress(AlreadyExists):
        engine.make("data", (name,), "file", 0o644)
    for offset in range(0, len(data), part):
        engine.write("data", (name,), offset, data[offset : offset + part])


def by_rename(engine: EngineSubject, data: bytes) -> None:
    put(engine, b"f.tmp", data)
    engine.rename("data", (b"f.tmp",), NAME, noreplace=False, exchange=False)


def by_truncation(engine: EngineSubject, data: bytes) -> None:
    engine.truncate("data", NAME, 0)
    engine.write("data", NAME, 0, data)


def in_place(engine: EngineSubject, data: bytes) -> None:
    for offset in range(0, len(data), 128 * KIB):
        engine.write("data", NAME, offset, data[offset : offset + 128 * KIB])
    engine.truncate("data", NAME, len(data))


def by_removal(engine: EngineSubject, data: bytes) -> None:
    engine.unlink("data", NAME)
    put(engine, b"f", data)


WAYS = [by_rename, by_truncation, in_place, by_removal]


# -- pure


def test_zero_runs() -> None:
    assert zero_runs(0, bytes(5)) == [(0, 5)]  # all there is
    assert zero_runs(PAGE_BYTES, bytes(PAGE_BYTES)) == [(0, PAGE_BYTES)]
    assert zero_runs(1, bytes(PAGE_BYTES)) == []  # no whole page of the file
    assert zero_runs(0, b"") == []
    data = bytearray(noise(200 * KIB))
    assert zero_runs(0, bytes(data)) == []
    data[10_000:110_000] = bytes(100_000)
    assert zero_runs(0, data) == [(3 * PAGE_BYTES, 26 * PAGE_BYTES)]
    assert zero_runs(100, data) == [(3 * PAGE_BYTES - 100, 26 * PAGE_BYTES - 100)]
    data[:] = noise(200 * KIB)
    data[4 * PAGE_BYTES : 7 * PAGE_BYTES] = bytes(3 * PAGE_BYTES)
    assert zero_runs(0, data) == []  # too short to be worth an extent
    data[-5 * PAGE_BYTES :] = bytes(5 * PAGE_BYTES)
    assert zero_runs(0, data[:-1]) == [(45 * PAGE_BYTES, 200 * KIB - 1)]


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 10_000),
    st.lists(st.tuples(st.booleans(), st.integers(1, 100_000)), max_size=6),
    st.booleans(),
    st.integers(0, 9),
)
def test_chunks_and_zeros_are_the_run(offset: int, parts: list[tuple[bool, int]], final: bool, seed: int) -> None:
    data = b"".join(bytes(size) if zero else noise(size, seed) for zero, size in parts)
    chunks, rest = cut(offset, data, final=final)
    end = rest.offset if rest else offset + len(data)
    found = bytearray(end - offset)
    at = offset
    for chunk in chunks:
        assert chunk.offset >= at
        assert chunk.hash == digest(chunk.data)
        found[chunk.offset - offset : chunk.end - offset] = chunk.data
        at = chunk.end
    assert at <= end
    assert bytes(found) + bytes(rest.data if rest else b"") == data


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 5000),
    st.lists(st.tuples(st.booleans(), st.integers(1, 300_000)), max_size=8),
    st.lists(st.integers(1, 300), max_size=12),
    st.booleans(),
    st.integers(0, 9),
)
def test_pieces_are_cut_as_the_whole(
    offset: int, parts: list[tuple[bool, int]], pages: list[int], final: bool, seed: int
) -> None:
    """Wherever the pages that begin a piece are: also small ones, a chunk in several, and zeros across them."""
    data = b"".join(bytes(size) if zero else noise(size, seed) for zero, size in parts)
    pieces, at = [], 0
    for count in pages:
        end = (offset + at) // PAGE_BYTES * PAGE_BYTES + count * PAGE_BYTES - offset
        pieces.append(data[at:end])
        at = min(end, len(data))
    pieces.append(data[at:])
    pieces = [piece for piece in pieces if piece]
    chunks, rest = cut(offset, data, final=final)
    found = list(chunks_of(offset, pieces, final=final))
    assert [(c.offset, c.hash, bytes(c.data)) for c in found] == [
        (c.offset, c.hash, bytes(c.data)) for c in [*chunks, *([rest] if rest else [])]
    ]


def test_a_plan_leaves_out_what_is_there_already() -> None:
    one, two, three = Extent(0, 10, BlockId(1), 0), Extent(10, 10, BlockId(2), 0), Extent(20, 10, BlockId(3), 0)
    new = Extent(10, 10, BlockId(9), 0)
    assert plan_write([one, two, three], [one, new, three], 0, 30) == ([new], [], 0)
    assert plan_write([one, two, three], [one, two, three], 0, 30) == ([], [], 0)
    assert plan_write([one, two, three], [one, three], 0, 30) == ([], [10], -10)


def test_extents_that_go_on_in_a_block_are_one() -> None:
    first, second = Extent(0, 10, BlockId(1), 5), Extent(10, 10, BlockId(1), 15)
    assert merged([first, second]) == [Extent(0, 20, BlockId(1), 5)]
    for apart in (Extent(11, 10, BlockId(1), 15), Extent(10, 10, BlockId(1), 16), Extent(10, 10, BlockId(2), 15)):
        assert merged([first, apart]) == [first, apart]


@pytest.mark.parametrize(("text", "level"), [("none", 0), ("zstd:1", 1), ("zstd:19", 19)])
def test_compressions(text: str, level: int) -> None:
    assert level_of(text) == level
    assert check_compression(text) == text


@pytest.mark.parametrize("text", ["", "zstd", "zstd:0", "zstd:20", "zstd:-1", "zstd: 3", "zstd:１", "lz4", "NONE"])  # noqa: RUF001
def test_no_compressions(text: str) -> None:
    with pytest.raises(Invalid, match="is no compression"):
        level_of(text)


def test_what_does_not_shrink_is_tried_ever_more_rarely() -> None:
    trials = Trials()

    def tried(count: int) -> int:
        found = 0
        for _ in range(count):
            if trials.due():
                trials.tell(shrank=False)
                found += 1
        return found

    assert tried(3) == 3
    assert tried(1000) < 30
    assert tried(6400) == 100
    while not trials.due():
        pass
    trials.tell(shrank=True)
    assert tried(3) == 3


# -- zeros


def test_zeros_take_nothing(engine: EngineSubject) -> None:
    put(engine, b"zeros", bytes(3 * MIB + 100))
    some = noise(100_000)
    put(engine, b"f", some + bytes(MIB) + some)
    assert data_bytes(engine) < 220_000
    assert allocated(engine, b"zeros") == 0
    assert 200_000 <= allocated(engine) < 200_000 + 2 * PAGE_BYTES
    assert content(engine, b"zeros") == bytes(3 * MIB + 100)
    assert content(engine) == some + bytes(MIB) + some
    assert engine.fsck() == []


def test_a_page_of_zeros_over_data_is_a_hole(engine: EngineSubject) -> None:
    data = bytearray(noise(200 * KIB))
    engine.write("data", NAME, 0, bytes(data))
    engine.snapshot("data", "one")
    engine.write("data", NAME, 5 * PAGE_BYTES, bytes(PAGE_BYTES))
    engine.flush()
    assert allocated(engine) == 200 * KIB - PAGE_BYTES
    assert content(engine, snapshot="one") == bytes(data)
    data[5 * PAGE_BYTES : 6 * PAGE_BYTES] = bytes(PAGE_BYTES)
    assert content(engine) == bytes(data)
    engine.write("data", NAME, 0, bytes(200 * KIB))
    engine.flush()
    assert (allocated(engine), extents(engine)) == (0, [])
    assert engine.run(lambda: engine.service.get_volume(name="data")).used_bytes == 0
    assert content(engine) == bytes(200 * KIB)
    assert engine.fsck() == []


# -- comparison


@pytest.mark.parametrize("way", WAYS)
def test_changed_pages_are_all_that_is_stored(engine: EngineSubject, way: Callable[..., None]) -> None:
    dice = random.Random(1)
    data = noise(8 * MIB)
    put(engine, b"f", data)
    engine.snapshot("data", "0")
    versions = [data]
    before = data_bytes(engine)
    for version in range(1, 4):
        data = pages_changed(data, dice.sample(range(8 * MIB // PAGE_BYTES), 40), dice)
        way(engine, data)
        engine.snapshot("data", str(version))
        versions.append(data)
        assert data_bytes(engine) - before <= 1.25 * version * 40 * PAGE_BYTES
    for version, expected in enumerate(versions):
        assert content(engine, snapshot=str(version)) == expected
    assert content(engine) == data
    assert engine.fsck() == []


@pytest.mark.parametrize("way", WAYS)
def test_every_chunk_has_a_change(engine: EngineSubject, way: Callable[..., None]) -> None:
    """No chunk is known, so nothing of the new file says what it was made from."""
    dice, pages = random.Random(2), list(range(3, 1024, 8))
    data = noise(4 * MIB)
    put(engine, b"f", data)
    engine.snapshot("data", "old")
    before = data_bytes(engine)
    new = pages_changed(data, pages, dice)
    way(engine, new)
    engine.snapshot("data", "new")  # waits for the comparison of what was renamed
    assert data_bytes(engine) - before <= 1.25 * len(pages) * PAGE_BYTES
    assert (content(engine), content(engine, snapshot="old")) == (new, data)
    assert engine.fsck() == []


def test_a_copy_with_changes_under_another_name(engine: EngineSubject) -> None:
    dice = random.Random(3)
    data = noise(8 * MIB)
    put(engine, b"f", data)
    before = data_bytes(engine)
    new = pages_changed(data, dice.sample(range(2048), 20), dice)
    put(engine, b"g", new)
    assert data_bytes(engine) - before <= 1.25 * 20 * PAGE_BYTES
    engine.unlink("data", NAME)
    engine.reclaim()
    assert content(engine, b"g") == new
    assert engine.fsck() == []


@pytest.mark.parametrize("way", WAYS)
def test_insertions(engine: EngineSubject, way: Callable[..., None]) -> None:
    """Before an insertion the old file's bytes are at one distance, after it at another."""
    dice = random.Random(4)
    data = noise(8 * MIB)
    put(engine, b"f", data)
    engine.snapshot("data", "old")
    before = data_bytes(engine)
    new = b"in front" + data
    for at in sorted(dice.sample(range(8 * MIB), 20), reverse=True):
        new = new[:at] + dice.randbytes(100) + new[at:]
    way(engine, new)
    engine.snapshot("data", "new")
    assert data_bytes(engine) - before <= 21 * 4 * PAGE_BYTES
    assert (content(engine), content(engine, snapshot="old")) == (new, data)
    assert engine.fsck() == []


def test_the_same_bytes_again_change_no_record(engine: EngineSubject) -> None:
    data = noise(2 * MIB)
    put(engine, b"f", data)
    engine.snapshot("data", "one")
    engine.write("data", NAME, 5000, noise(10))
    engine.flush()
    before = extents(engine)
    records = engine.lake.index.count("tree")
    data = data[:5000] + noise(10) + data[5010:]
    in_place(engine, data)
    engine.flush()
    assert extents(engine) == before
    assert engine.lake.index.count("tree") == records


def test_a_file_that_is_cut_while_it_is_compared(engine: EngineSubject, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last block then touches one that is gone, with a change on both sides of where they touched."""
    new = noise(2 * MIB)
    old = bytearray(new)
    for chunk in cut(0, new, final=True)[0][1:]:
        old[chunk.offset - 500] ^= 1
        old[chunk.offset + 500] ^= 1
    put(engine, b"f", bytes(old))
    engine.snapshot("data", "old")
    put(engine, b"f.tmp", new)
    engine.flush()
    sizes: list[int] = []
    real = replaced._outcomes

    def outcomes(batch):
        found = real(batch)
        if not sizes:
            sizes.append(batch[0].extent.end)
            trio.from_thread.run_sync(engine.truncate, "data", NAME, sizes[0])
        return found

    monkeypatch.setattr(replaced, "_outcomes", outcomes)
    engine.rename("data", (b"f.tmp",), NAME, noreplace=False, exchange=False)
    engine.snapshot("data", "new")
    assert content(engine) == new[: sizes[0]]
    assert engine.fsck() == []


def test_a_block_that_cannot_be_stored_leaves_none_behind(
    engine: EngineSubject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those before it have their entries by then."""
    put(engine, b"f", b"")
    view, ino = engine._resolve("data", NAME)
    core, reducer = engine.lake.core, engine.lake.writeback.reducer
    first, second = Chunk(0, noise(20_000, 1), b""), Chunk(20_000, noise(20_000, 2), b"")
    with core.blocks.placing():
        (placed,) = core.blocks.pack([(digest(first.data), first.data)])

        def full(wanted):
            raise NoSpace("the disk is full")

        monkeypatch.setattr(reducer, "pack", full)
        with pytest.raises(NoSpace):
            reducer.extents(view, ino, [first, second], 40_000, {placed.hash: placed})
    assert not core.blocks.known(placed.hash)
    assert data_bytes(engine) == 0
    assert engine.fsck() == []


def fetched(engine: EngineSubject, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the blocks that are read from now on."""
    sizes: list[int] = []
    real = engine.lake.core.blocks.fetch

    def fetch(block, file, entry):
        sizes.append(entry.raw_bytes)
        return real(block, file, entry)

    monkeypatch.setattr(engine.lake.core.blocks, "fetch", fetch)
    return sizes


@pytest.mark.parametrize("way", WAYS)
def test_new_content_does_not_read_the_old_file(
    engine: EngineSubject, monkeypatch: pytest.MonkeyPatch, way: Callable[..., None]
) -> None:
    put(engine, b"f", noise(32 * MIB, 1))
    engine.snapshot("data", "old")
    sizes = fetched(engine, monkeypatch)
    new = noise(32 * MIB, 2)
    way(engine, new)
    engine.snapshot("data", "new")
    assert sum(sizes) <= 5 * MIB
    monkeypatch.undo()
    assert content(engine) == new


def test_a_stream_of_new_bytes_reads_nothing(engine: EngineSubject, monkeypatch: pytest.MonkeyPatch) -> None:
    put(engine, b"other", noise(4 * MIB, 1))
    engine.snapshot("data", "old")
    sizes = fetched(engine, monkeypatch)
    put(engine, b"f", noise(4 * MIB, 2))
    engine.flush()
    assert sizes == []


def test_rewriting_without_snapshots_does_not_pile_up(engine: EngineSubject) -> None:
    """Every round keeps some pages of the blocks before: they must not keep whole blocks alive."""
    dice = random.Random(5)
    data = noise(2 * MIB)
    put(engine, b"f", data)
    for _ in range(12):
        data = pages_changed(data, dice.sample(range(512), 100), dice)
        in_place(engine, data)
        engine.flush()
    assert data_bytes(engine) <= 2.2 * len(data)
    assert content(engine) == data


def test_old_blocks_that_are_gone_when_they_are_needed(engine: EngineSubject, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between comparing and applying the old version goes: what was taken for stored is stored after all."""
    dice = random.Random(6)
    data = noise(2 * MIB)
    put(engine, b"f", data)
    engine.snapshot("data", "old")
    put(engine, b"g", data[: MIB // 2])
    new = pages_changed(data, list(range(3, 512, 16)), dice)
    again = trio.Event()
    real = engine.lake.core.blocks.append

    def append(packed):
        if not again.is_set():
            trio.from_thread.run(again.wait)
        return real(packed)

    monkeypatch.setattr(engine.lake.core.blocks, "append", append)

    async def play() -> None:
        engine.truncate("data", NAME, 0)
        view, ino = engine._resolve("data", NAME)
        await engine.lake.files.write(view, ino, 0, new)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.lake.writeback.flush)
            await trio.testing.wait_all_tasks_blocked(0.05)
            await engine.service.delete_snapshot(volume="data", snapshot="old", purge=True)
            await engine.lake.reclaim_all()
            again.set()

    engine.run(play)
    assert content(engine) == new
    engine.reclaim()
    assert content(engine) == new
    assert engine.fsck() == []


def test_truncation_while_comparing(engine: EngineSubject, monkeypatch: pytest.MonkeyPatch) -> None:
    dice = random.Random(7)
    data = noise(2 * MIB)
    put(engine, b"f", data)
    engine.snapshot("data", "old")
    new = pages_changed(data, list(range(3, 512, 16)), dice)
    reading = trio.Event()
    again = trio.Event()
    real = engine.lake.core.blocks.fetch

    def fetch(block, file, entry):
        trio.from_thread.run_sync(reading.set)
        trio.from_thread.run(again.wait)
        return real(block, file, entry)

    monkeypatch.setattr(engine.lake.core.blocks, "fetch", fetch)

    async def play() -> None:
        view, ino = engine._resolve("data", NAME)
        await engine.lake.files.write(view, ino, 0, new)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.lake.sync)
            await reading.wait()
            engine.lake.files.setattr(view, ino, size=700_001)
            again.set()

    engine.run(play)
    monkeypatch.undo()
    assert content(engine) == new[:700_001]
    assert content(engine, snapshot="old") == data
    assert engine.fsck() == []


def test_a_damaged_old_version_harms_no_new_one(engine: EngineSubject) -> None:
    dice = random.Random(8)
    data = noise(2 * MIB)
    put(engine, b"f", data)
    engine.snapshot("data", "old")
    (segment,) = (engine.path / "segments").iterdir()
    sound = segment.read_bytes()
    with segment.open("r+b") as file:
        file.seek(MIB)
        file.write(b"damage" * 10_000)
    new = pages_changed(data, list(range(3, 512, 16)), dice)
    by_truncation(engine, new)
    engine.flush()
    assert content(engine) == new
    with segment.open("r+b") as file:
        file.write(sound)
    assert engine.fsck() == []


def test_a_file_that_is_written_on_after_it_was_renamed(engine: EngineSubject) -> None:
    """The comparison with what it replaced, and writes, meet in the middle of it."""
    dice = random.Random(9)
    data = noise(4 * MIB)
    put(engine, b"f", data)
    engine.snapshot("data", "old")
    new = bytearray(pages_changed(data, list(range(3, 1024, 16)), dice))
    by_rename(engine, bytes(new))
    engine.flush()

    async def play() -> None:
        view, ino = engine._resolve("data", NAME)
        async with engine.lake.running():
            for _ in range(50):
                at = dice.randrange(4 * MIB - 9000)
                new[at : at + 9000] = dice.randbytes(9000)
                await engine.lake.files.write(view, ino, at, bytes(new[at : at + 9000]))
                await engine.lake.writeback.flush(view=view, ino=ino)
        engine.lake.files.setattr(view, ino, size=3 * MIB + 17)

    engine.run(play)
    engine.reclaim()
    assert content(engine) == bytes(new[: 3 * MIB + 17])
    assert content(engine, snapshot="old") == data
    assert engine.fsck() == []


def test_a_snapshot_does_not_wait_for_long(engine: EngineSubject, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not compared in time is kept as it is."""
    monkeypatch.setattr(replaced, "SETTLE_SECONDS", 0.0)
    data = noise(4 * MIB)
    put(engine, b"f", data)
    engine.snapshot("data", "old")
    new = pages_changed(data, list(range(3, 1024, 8)), random.Random(10))
    by_rename(engine, new)
    engine.snapshot("data", "new")
    engine.run(lambda: engine.lake.writeback.replaced.settle(engine._head("data")[0]))
    assert content(engine, snapshot="new") == content(engine) == new
    assert engine.fsck() == []


# -- compression


def set_compression(engine: EngineSubject, text: str) -> None:
    engine.run(lambda: engine.service.update_volume(name="data", compression=text))


def test_compression_of_a_volume(engine: EngineSubject) -> None:
    text = b"".join(b"%d,%d,%d\n" % (n, n * n, n % 7) for n in range(100_000))
    sizes = {}
    for number, how in enumerate(["none", "zstd:1", "zstd:19"]):
        set_compression(engine, how)
        put(engine, b"%d" % number, b"%d" % number + text)
        sizes[how] = data_bytes(engine)
        assert content(engine, b"%d" % number) == b"%d" % number + text
        engine.unlink("data", (b"%d" % number,))
        engine.reclaim()  # else the next finds its chunks
    assert sizes["none"] > len(text) > 2 * sizes["zstd:1"]
    assert sizes["zstd:19"] < 0.9 * sizes["zstd:1"]
    with pytest.raises(Invalid):
        set_compression(engine, "zip")


def test_incompressible_chunks_are_not_tried_again_and_again(
    engine: EngineSubject, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []
    real = engine.lake.core.blocks.compress

    def compress(chunks, kind=0, *, compression=1):
        tried.append(compression)
        return real(chunks, kind, compression=compression)

    monkeypatch.setattr(engine.lake.core.blocks, "compress", compress)
    put(engine, b"f", noise(16 * MIB))
    engine.flush()
    assert len(tried) > 100
    assert sum(1 for level in tried if level) < len(tried) / 8
    tried.clear()
    put(engine, b"text", b"some words " * 100_000)
    engine.flush()
    assert all(tried)


# -- cutting anew


def run_optimize(engine: EngineSubject, *paths: str) -> api.OptimizeReport:
    return engine.run(lambda: optimize(engine.lake, engine.lake.volumes.get("data"), paths))


def test_optimize_a_file_that_was_written_in_place(engine: EngineSubject) -> None:
    dice = random.Random(11)
    data = noise(4 * MIB)
    put(engine, b"f", data)
    engine.flush()
    for page in dice.sample(range(1024), 300):
        new = dice.randbytes(PAGE_BYTES)
        data = data[: page * PAGE_BYTES] + new + data[(page + 1) * PAGE_BYTES :]
        engine.write("data", NAME, page * PAGE_BYTES, new)
    before = data_bytes(engine)
    pieces = len(extents(engine))
    report = run_optimize(engine)
    assert (report.files, report.rewritten) == (1, 1)
    assert report.extents_before == pieces
    assert report.extents_after == len(extents(engine)) < pieces / 4
    assert data_bytes(engine) < before
    assert data_bytes(engine) <= 1.01 * len(data)
    assert content(engine) == data
    assert engine.fsck() == []
    again = run_optimize(engine)
    assert (again.rewritten, again.read_bytes, again.written_bytes) == (0, 0, 0)


def test_optimize_leaves_small_files_alone(engine: EngineSubject) -> None:
    put(engine, b"f", noise(5000))
    put(engine, b"g", noise(300_000) + noise(100, 1))
    engine.flush()
    report = run_optimize(engine)
    assert (report.files, report.rewritten, report.read_bytes) == (2, 0, 0)


def test_optimize_passes_over_holes(engine: EngineSubject) -> None:
    """However large they are: they take no time, also of a rate."""
    far = 1 << 60
    put(engine, b"f", noise(5000))
    engine.write("data", NAME, far, noise(5000, 1))
    engine.write("data", NAME, far + (1 << 40), b"end")
    engine.flush()
    told: list[int] = []
    volume = engine.lake.volumes.get("data")
    report = engine.run(
        lambda: optimize(engine.lake, volume, bytes_per_second=1_000_000, progress=lambda n, _: told.append(n))
    )
    assert (report.files, report.extents_before) == (1, len(extents(engine)))
    assert told[-1] == sum(extent.length for extent in extents(engine)) < 100_000


def test_optimize_never_costs_space(engine: EngineSubject) -> None:
    """What a snapshot shows stays as it is; and what is equal to it again becomes it."""
    dice = random.Random(12)
    data = noise(2 * MIB)
    put(engine, b"f", data)
    engine.snapshot("data", "old")
    engine.write("data", NAME, 0, bytes(reversed(data[:MIB])))
    pages = dice.sample(range(256, 512), 60)
    for page in pages:
        engine.write("data", NAME, page * PAGE_BYTES, dice.randbytes(PAGE_BYTES))
    before = data_bytes(engine)
    expected = content(engine)
    run_optimize(engine, "f")
    assert data_bytes(engine) <= before
    assert content(engine) == expected
    for page in pages:
        at = page * PAGE_BYTES
        engine.write("data", NAME, at, data[at : at + PAGE_BYTES])
        engine.flush()
    expected = content(engine)
    run_optimize(engine, "f")
    assert data_bytes(engine) < before - 30 * PAGE_BYTES
    assert content(engine) == expected
    assert content(engine, snapshot="old") == data
    assert engine.fsck() == []


def test_optimize_changes_nothing_that_a_snapshot_shows(engine: EngineSubject) -> None:
    """Its file gets known blocks in place of its pieces: that is no unsaved work."""
    dice = random.Random(13)
    base = noise(MIB)
    pages = list(range(0, 256, 4))
    data = pages_changed(base, pages, dice)
    put(engine, b"g", data)
    put(engine, b"f", base)
    engine.flush()
    for page in pages:
        engine.write("data", NAME, page * PAGE_BYTES, data[page * PAGE_BYTES : (page + 1) * PAGE_BYTES])
    engine.flush()
    engine.snapshot("data", "old")
    pieces = len(extents(engine))
    assert run_optimize(engine).rewritten == 1
    assert len(extents(engine)) < pieces
    assert engine.status("data") == []
    engine.write("data", NAME, 5 * PAGE_BYTES, b"x")
    assert [change.path for change in engine.status("data")] == ["f"]


def test_optimize_asks_for_what_is_there(engine: EngineSubject) -> None:
    engine.make("data", (b"dir",), DIRECTORY, 0o755)
    for name in (b"a", b"b"):
        engine.make("data", (b"dir", name), "file", 0o644)
        for page in range(40):
            engine.write("data", (b"dir", name), page * PAGE_BYTES, noise(PAGE_BYTES, page + 1000 * ord(name)))
            engine.flush()
    with pytest.raises(NotFound):
        run_optimize(engine, "dir/c")
    told: list[tuple[int, int]] = []

    async def play() -> api.OptimizeReport:
        volume = engine.lake.volumes.get("data")
        return await optimize(engine.lake, volume, ["dir"], 10 * MIB, lambda *so_far: told.append(so_far))

    report = engine.run(play)
    assert report.files == 2
    assert told[-1] == (80 * PAGE_BYTES, 80 * PAGE_BYTES)
    assert report.extents_after < report.extents_before / 3
    assert data_bytes(engine) <= 80 * PAGE_BYTES + 1000


# -- the index


@pytest.mark.parametrize(("ordered", "entry_bytes_max"), [(True, 80), (False, 150)])
def test_records_that_come_in_order_fill_their_pages(
    engine: EngineSubject, ordered: bool, entry_bytes_max: int
) -> None:
    index = engine.lake.index
    expected = {b"%c%026d" % (end, number) for end in b"az" for number in range(300)}
    for key in sorted(expected, key=digest):
        index.put("requests", key, bytes(20))
    before = index.filling()[0]
    for run in range(50):
        names = [b"m%026d" % (200 * run + number) for number in range(200)]
        with in_order(index, "requests", names[0], names[-1]) if ordered else contextlib.nullcontext():
            for key in names:
                index.put("requests", key, bytes(20))
        expected.update(names)
    assert [key for key, _ in items(index, "requests")] == sorted(expected)
    entry_bytes = (index.filling()[0] - before) / 10_000
    assert entry_bytes < entry_bytes_max
    assert ordered or entry_bytes > 100  # else LMDB has learned it, and this is not needed any more
    engine.crash()  # they are no records


def test_records_in_order_among_others(engine: EngineSubject) -> None:
    """Where there are keys inside the run, or none behind it, nothing is taken out."""
    index = engine.lake.index
    for keys_there in ([b"b"], [b"a"], [b"a", b"bb", b"c"], [b"a", b"c"]):
        for key in keys_there:
            index.put("requests", key, key)
        with contextlib.suppress(ZeroDivisionError), in_order(index, "requests", b"b", b"bz"):
            index.put("requests", b"b1", b"new")
            raise ZeroDivisionError
        expected = sorted({*((key, key) for key in keys_there), (b"b1", b"new")})
        assert list(items(index, "requests")) == expected
        for key, _ in expected:
            index.delete("requests", key)


# -- any edits


@st.composite
def _edits(draw: st.DrawFn) -> list[tuple[str, int, int, int]]:
    kinds = st.sampled_from(["insert", "delete", "page", "pages", "truncate", "zero", "append", "nothing"])
    steps = st.tuples(kinds, st.integers(0, 1 << 20), st.integers(1, 60_000), st.integers(0, 1 << 30))
    return draw(st.lists(steps, min_size=1, max_size=4))


def edited(data: bytes, kind: str, at: int, size: int, seed: int) -> bytes:
    at = min(at, len(data))
    if kind == "insert":
        return data[:at] + noise(size, seed) + data[at:]
    if kind == "delete":
        return data[:at] + data[at + size :]
    if kind in ("page", "pages", "zero"):
        start = at // PAGE_BYTES * PAGE_BYTES
        length = PAGE_BYTES if kind == "page" else -(-size // PAGE_BYTES) * PAGE_BYTES
        new = bytes(length) if kind == "zero" else noise(length, seed)
        return data[:start] + new + data[start + length :]
    if kind == "truncate":
        return data[:at]
    return data + noise(size, seed) if kind == "append" else data


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    start=st.integers(0, 600_000),
    rounds=st.lists(st.tuples(st.sampled_from(WAYS), _edits(), st.booleans(), st.booleans()), min_size=1, max_size=5),
)
def test_any_edits(
    engine: EngineSubject,
    start: int,
    rounds: list[tuple[Callable[..., None], list[tuple[str, int, int, int]], bool, bool]],
) -> None:
    """Whatever is done to a file, in whatever way it is saved, it and its snapshots read back as plain bytes would, and
    what is stored is bounded by what is new."""
    engine.truncate("data", NAME, 0)
    for name in engine.listed("data"):
        engine.remove_snapshot("data", name)
    data = noise(start)
    put(engine, b"f", data)
    shown: dict[str, bytes] = {}
    bound = len(data)
    for number, (way, edits, snapshot, flush) in enumerate(rounds):
        for kind, at, size, seed in edits:
            data = edited(data, kind, at, size, seed)
            bound += size + 2 * 256 * KIB  # a chunk at each end may be cut otherwise
        way(engine, data)
        if flush:
            engine.flush()
        if snapshot:
            engine.snapshot("data", f"s{number}")
            shown[f"s{number}"] = data
        assert content(engine) == data
    engine.run(lambda: optimize(engine.lake, engine.lake.volumes.get("data")))
    assert data_bytes(engine) <= 2 * bound + 64 * KIB
    assert content(engine) == data
    for name, expected in shown.items():
        assert content(engine, snapshot=name) == expected
    assert engine.fsck() == []
    assert min((extent.length for extent in extents(engine)), default=CHUNK_BYTES_MIN) > 0


@pytest.mark.parametrize("threads", [1, 4])
def test_files_compared_beside_each_other(engine: EngineSubject, monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    """Many replaced files in one flush, each with a page changed in every chunk: what they kept is stored once, and a
    comparison waits for no other file's."""
    monkeypatch.setattr(reducer, "_THREADS_MAX", threads)
    dice = random.Random(1)
    olds = [noise(200 * KIB, seed) for seed in range(10)]
    for number, old in enumerate(olds):
        put(engine, b"%d" % number, old)
    engine.flush()
    engine.snapshot("data", "old")
    before = data_bytes(engine)
    news = [pages_changed(old, [3, 12, 21, 30, 39, 48], dice) for old in olds]
    asked: list[int] = []
    real = reducer._compared

    async def compared(batches):
        asked.append(len(batches))
        return await real(batches)

    monkeypatch.setattr(reducer, "_compared", compared)
    for number, new in enumerate(news):
        put(engine, b"tmp", new)
        engine.rename("data", (b"tmp",), (b"%d" % number,), noreplace=False, exchange=False)
    engine.flush()
    assert asked[0] == len(news)
    assert len(asked) < len(news)
    assert data_bytes(engine) - before < 10 * 6 * (PAGE_BYTES + 200)
    assert [content(engine, b"%d" % number) for number in range(10)] == news
    assert [content(engine, b"%d" % number, "old") for number in range(10)] == olds
    assert engine.fsck() == []


def test_what_a_flush_compares_is_not_compared_again(engine: EngineSubject) -> None:
    queue = engine.lake.writeback.replaced._queue
    put(engine, b"f", noise(100 * KIB))
    engine.flush()
    engine.snapshot("data", "old")
    by_rename(engine, noise(100 * KIB, 1))
    assert not queue, "all of it is in memory still"
    put(engine, b"f.tmp", noise(100 * KIB, 2))
    engine.flush()
    engine.rename("data", (b"f.tmp",), NAME, noreplace=False, exchange=False)
    assert len(queue) == 1


def test_what_is_written_again_at_once_is_not_stored_again(engine: EngineSubject) -> None:
    """Blocks of a file that was cut to nothing, or removed, are there until the background has been by."""
    data = noise(300 * KIB)
    put(engine, b"f", data)
    engine.flush()
    end = engine.lake.core.blocks.segments.position
    by_truncation(engine, data)
    engine.flush()
    engine.unlink("data", NAME)
    put(engine, b"f", data)
    engine.flush()
    assert engine.lake.core.blocks.segments.position == end
    engine.reclaim()
    assert content(engine) == data
    assert engine.fsck() == []
