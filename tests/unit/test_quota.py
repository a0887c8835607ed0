"""Quotas: what a volume's files hold is counted exactly, and no write makes it more than it may be."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from snapfs import api, errors
from snapfs.errors import Invalid, NotFound, QuotaExceeded
from snapfs.testing.api_server import ApiServer
from snapfs.testing.engine import EngineSubject
from snapfs.volume.limits import Limits
from snapfs.volume.quota import QUOTA_BYTES_MAX, uncovered_bytes
from snapfs.volume.runs import Runs
from snapfs_cli.sizes import parse_size

KIB = 1024
MIB = 1024 * KIB


def limit(engine: EngineSubject, quota_bytes: int, volume: str = "data") -> api.Volume:
    return engine.run(lambda: engine.service.update_volume(name=volume, quota_bytes=quota_bytes))


def used(engine: EngineSubject, volume: str = "data") -> int:
    return engine.run(lambda: engine.service.get_volume(name=volume)).used_bytes


def put(engine: EngineSubject, name: bytes, data: bytes, offset: int = 0, volume: str = "data") -> None:
    try:
        engine._resolve(volume, (name,))
    except NotFound:
        engine.make(volume, (name,), "file", 0o644)
    engine.write(volume, (name,), offset, data)


def warnings(engine: EngineSubject) -> list[api.Event]:
    async def told() -> list[api.Event]:
        await engine.lake.commit()
        watching = engine.service.watch_events(after=0, kinds=[api.EventKind.WARNING], until_now=True)
        return [event async for events in watching for event in events.events]

    return engine.run(told)


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


@pytest.mark.parametrize(
    ("covers", "bytes_left"),
    [([], 100), ([(0, 150)], 50), ([(150, 160)], 90), ([(190, 300), (50, 110)], 80), ([(100, 200)], 0),
     ([(300, 400)], 100), ([(110, 140), (120, 130), (0, 1)], 70)],
)  # fmt: skip
def test_uncovered(covers: list[tuple[int, int]], bytes_left: int) -> None:
    assert uncovered_bytes(100, 200, covers) == bytes_left


def test_spans_of_runs() -> None:
    runs = Runs()
    runs.write(10, bytes(10))
    runs.write(30, bytes(10))
    assert runs.spans(0, 100) == [(10, 20), (30, 40)]
    assert runs.spans(15, 31) == [(15, 20), (30, 31)]
    assert runs.spans(20, 30) == []
    assert runs.spans(35, 0) == []


# -- counting


def test_use_is_what_files_hold(engine: EngineSubject) -> None:
    put(engine, b"a", noise(300 * KIB))
    assert used(engine) == 300 * KIB  # dirty
    engine.flush()
    assert used(engine) == 300 * KIB
    put(engine, b"a", noise(300 * KIB))  # the same bytes once more: dirty data is taken to be new
    assert used(engine) == 600 * KIB
    engine.flush()
    assert used(engine) == 300 * KIB
    put(engine, b"b", b"x", offset=1 << 30)  # a hole does not count
    engine.flush()
    assert used(engine) == 300 * KIB + 1
    engine.truncate("data", (b"a",), 100 * KIB)
    assert used(engine) == 100 * KIB + 1
    engine.truncate("data", (b"a",), 1 << 40)
    assert used(engine) == 100 * KIB + 1
    engine.truncate("data", (b"a",), 0)
    assert used(engine) == 1
    engine.unlink("data", (b"b",))
    assert used(engine) == 0


def test_use_with_snapshots(engine: EngineSubject) -> None:
    put(engine, b"a", noise(100_000))
    engine.snapshot("data", "one")
    put(engine, b"b", noise(50_000))
    engine.snapshot("data", "two")
    engine.unlink("data", (b"a",))
    engine.flush()
    assert used(engine) == 50_000
    engine.checkout("data", "one", api.Save.DISCARD)
    assert used(engine) == 100_000
    engine.checkout("data", "two", api.Save.DISCARD)
    assert used(engine) == 150_000
    engine.clone("data", "one", "copy")
    assert used(engine, "copy") == 100_000
    engine.unlink("data", (b"a",))
    engine.restore("data", "one", ())
    assert used(engine) == 150_000
    engine.reopen()
    assert (used(engine), used(engine, "copy")) == (150_000, 100_000)


def test_unlinked_files_that_are_open_count(engine: EngineSubject) -> None:
    put(engine, b"a", noise(100_000))
    engine.flush()
    view, ino = engine._resolve("data", (b"a",))
    root = engine._head("data")[1]
    engine.lake.files.unlink(view, root, b"a", is_open=lambda _: True)
    assert used(engine) == 100_000
    assert engine.fsck() == []
    engine.snapshot("data", "one")
    assert engine.fsck() == []
    engine.clone("data", "one", "copy")
    assert used(engine, "copy") == 0
    assert used(engine) == 100_000
    engine.lake.files.drop(view, ino)
    assert used(engine) == 0


def test_fsck_counts_again(engine: EngineSubject) -> None:
    put(engine, b"a", noise(100_000))
    engine.snapshot("data", "one")
    volume = engine.lake.volumes.get("data")
    volume.usage.used_bytes += 5
    engine.lake.volumes.save(volume)
    assert [finding.code for finding in engine.run(engine.service.check_store).findings] == ["used"]
    volume.usage.used_bytes -= 5
    engine.lake.volumes.save(volume)
    assert engine.fsck() == []


# -- limits


def test_a_write_that_does_not_fit_is_refused(engine: EngineSubject) -> None:
    assert limit(engine, MIB).quota_bytes == MIB
    put(engine, b"a", noise(900 * KIB))
    with pytest.raises(QuotaExceeded, match=r"volume 'data' holds .* of the 1048576 bytes") as caught:
        put(engine, b"b", noise(200 * KIB))
    assert "the quota of volume 'data' is full" in [event.message for event in warnings(engine)]
    assert "--quota" in caught.value.hint
    assert engine.tree("data")[b"b",].content == b""
    put(engine, b"b", noise(124 * KIB))  # to the last byte
    with pytest.raises(QuotaExceeded):
        put(engine, b"b", b"x", offset=124 * KIB)
    assert used(engine) == MIB
    engine.flush()
    engine.unlink("data", (b"a",))
    put(engine, b"b", b"x", offset=124 * KIB)
    assert used(engine) == 124 * KIB + 1


def test_a_full_volume_can_be_changed_in_place(engine: EngineSubject) -> None:
    limit(engine, MIB)
    put(engine, b"a", noise(MIB))
    for offset in range(0, MIB, 4 * KIB):
        put(engine, b"a", noise(4 * KIB), offset)
    assert used(engine) == MIB
    engine.flush()
    put(engine, b"a", noise(MIB))
    put(engine, b"a", noise(MIB))
    assert used(engine) == MIB
    with pytest.raises(QuotaExceeded):
        put(engine, b"a", b"1", offset=MIB)
    engine.truncate("data", (b"a",), 500 * KIB)
    put(engine, b"b", noise(524 * KIB))
    with pytest.raises(QuotaExceeded):
        put(engine, b"b", b"1", offset=524 * KIB)
    engine.flush()
    assert used(engine) == MIB


def test_truncation_and_holes_cost_nothing(engine: EngineSubject) -> None:
    limit(engine, 1000)
    engine.truncate("data", (b"f",), 1 << 40)
    put(engine, b"f", bytes(1000), offset=1 << 39)  # zeros are a hole as soon as it matters
    put(engine, b"f", noise(1000), offset=1 << 38)
    for offset in (0, 1 << 39):
        with pytest.raises(QuotaExceeded):
            put(engine, b"f", b"1", offset=offset)
    put(engine, b"f", bytes(1000), offset=1 << 38)
    put(engine, b"f", noise(1000), offset=1 << 39)
    engine.flush()
    assert used(engine) == 1000


def test_dirty_bytes_that_were_counted_twice_are_counted_again(engine: EngineSubject) -> None:
    put(engine, b"a", noise(500 * KIB))
    engine.flush()
    limit(engine, MIB)
    put(engine, b"a", noise(500 * KIB))  # let in without counting: 1000 KiB are taken to be used
    assert used(engine) == 1000 * KIB
    put(engine, b"b", noise(524 * KIB))
    engine.flush()
    assert used(engine) == MIB


def test_smaller_than_what_is_held(engine: EngineSubject) -> None:
    put(engine, b"a", noise(MIB))
    limit(engine, 1000)
    put(engine, b"a", noise(1000))
    with pytest.raises(QuotaExceeded):
        put(engine, b"a", b"1", offset=MIB)
    limit(engine, 0)
    put(engine, b"a", b"1", offset=MIB)
    with pytest.raises(Invalid):
        limit(engine, -1)
    with pytest.raises(Invalid):
        limit(engine, QUOTA_BYTES_MAX + 1)
    with pytest.raises(Invalid, match="nothing to change"):
        engine.run(lambda: engine.service.update_volume(name="data"))


def test_checkout_may_exceed_a_quota_and_restore_may_not(engine: EngineSubject) -> None:
    put(engine, b"a", noise(MIB))
    engine.make("data", (b"d",), "directory", 0o755)
    engine.make("data", (b"d", b"x"), "file", 0o644)
    engine.write("data", (b"d", b"x"), 0, noise(1000))
    engine.snapshot("data", "one")
    for path in ((b"a",), (b"d", b"x")):
        engine.unlink("data", path)
    engine.snapshot("data", "two")
    limit(engine, 500 * KIB)
    before = engine.tree("data")
    with pytest.raises(QuotaExceeded, match="more are too many"):
        engine.restore("data", "one", ())
    assert engine.tree("data") == before
    engine.restore("data", "one", (b"d",))
    assert used(engine) == 1000
    engine.checkout("data", "one", api.Save.DISCARD)
    assert used(engine) == MIB + 1000
    put(engine, b"a", noise(1000))
    engine.flush()
    engine.restore("data", "one", ())  # what is replaced makes room for it
    assert used(engine) == MIB + 1000
    with pytest.raises(QuotaExceeded):
        put(engine, b"b", b"1")


def test_a_failed_flush_keeps_the_count(engine: EngineSubject, monkeypatch: pytest.MonkeyPatch) -> None:
    limit(engine, 4 * MIB)
    put(engine, b"a", noise(MIB))
    real = engine.lake.core.blocks.append

    def append(packed):
        raise errors.NoSpace("full")

    with monkeypatch.context() as patched:
        patched.setattr(engine.lake.core.blocks, "append", append)
        with pytest.raises(errors.NoSpace):
            engine.flush()
    assert engine.lake.core.blocks.append == real
    assert used(engine) == MIB
    put(engine, b"a", noise(500 * KIB))
    engine.flush()
    assert used(engine) == MIB
    assert engine.lake.volumes.get("data").usage.pending_bytes == 0


def test_streams_keep_their_count(engine: EngineSubject) -> None:
    """A stream's last chunk stays dirty when memory is short."""
    engine.limits = Limits(dirty_bytes_max=2 * MIB)
    engine.reopen()
    limit(engine, 8 * MIB)
    for offset in range(0, 8 * MIB, 128 * KIB):
        put(engine, b"a", random.Random(offset).randbytes(128 * KIB), offset)
        usage = engine.lake.volumes.get("data").usage
        files = engine.lake.writeback._files.values()
        assert usage.pending_bytes == sum(f.reserved_bytes + f.taken_reserved_bytes for f in files)
        assert usage.total_bytes == offset + 128 * KIB
    with pytest.raises(QuotaExceeded):
        put(engine, b"a", b"1", 8 * MIB)
    engine.flush()
    assert used(engine) == 8 * MIB


def test_writers_at_once_do_not_exceed_it(engine: EngineSubject) -> None:
    limit(engine, MIB)
    done = []

    async def write(number: int) -> None:
        view, ino = engine._resolve("data", (b"%d" % number,))
        for offset in range(0, MIB, 64 * KIB):
            try:
                await engine.lake.files.write(view, ino, offset, random.randbytes(64 * KIB))
            except QuotaExceeded:
                return
            done.append(64 * KIB)
            await trio.lowlevel.checkpoint()
            if number == 2:
                await engine.lake.writeback.flush()

    async def all_of_them() -> None:
        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(write, number)

    for number in range(4):
        put(engine, b"%d" % number, b"")
    engine.run(all_of_them)
    assert sum(done) == MIB
    engine.flush()
    assert used(engine) == MIB


@pytest.mark.parametrize("seed", range(10))
def test_any_operations(engine: EngineSubject, seed: int) -> None:
    """The count is exact after each flush, and never more than allowed; fsck agrees."""
    rng = random.Random(seed)
    limit(engine, 200 * KIB)
    for name in (b"a", b"b", b"c"):
        put(engine, name, b"")
    refused = 0
    for step in range(120):
        path = (rng.choice([b"a", b"b", b"c"]),)
        kind = rng.random()
        try:
            if kind < 0.6:
                engine.write("data", path, rng.randrange(150 * KIB), rng.randbytes(rng.randrange(1, 40 * KIB)))
            elif kind < 0.75:
                engine.truncate("data", path, rng.choice([0, rng.randrange(200 * KIB)]))
            elif kind < 0.8:
                engine.snapshot("data", f"s{step}")
            elif kind < 0.85:
                engine.unlink("data", path)
                engine.make("data", path, "file", 0o644)
            else:
                engine.flush()
        except QuotaExceeded:
            refused += 1
        usage = engine.lake.volumes.get("data").usage
        files = engine.lake.writeback._files.values()
        assert usage.pending_bytes == sum(f.reserved_bytes + f.taken_reserved_bytes for f in files)
        assert 0 <= usage.total_bytes <= 200 * KIB
    engine.flush()
    view, _ = engine._head("data")
    inodes = [engine.lake.files.getattr(*engine._resolve("data", (name,))) for name in (b"a", b"b", b"c")]
    held = sum(extent.length for inode in inodes for extent, _ in engine.lake.core.extents(view, inode, 0, MIB))
    assert used(engine) == held
    assert refused


# -- asked for


@pytest.fixture
def served(tmp_path: Path) -> Iterator[ApiServer]:
    one = ApiServer(tmp_path / "store")
    yield one
    one.stop()


def test_over_the_api(served: ApiServer) -> None:
    with served.connect() as owner:
        owner.create_volume(name="data")
        assert owner.get_volume(name="data").quota_bytes == 0
        assert owner.update_volume(name="data", quota_bytes=10 * MIB).quota_bytes == 10 * MIB
        served.make_files("data", [b"one"])
        (listed,) = owner.list_volumes()
        assert (listed.quota_bytes, listed.used_bytes) == (10 * MIB, owner.get_volume(name="data").used_bytes)
        with pytest.raises(errors.NotFound):
            owner.update_volume(name="none", quota_bytes=1)
        with pytest.raises(Invalid):
            owner.update_volume(name="data")
        events = owner.watch_events(after=0, until_now=True, kinds=[api.EventKind.VOLUME_UPDATED])
        assert [(event.volume, event.message) for event in events] == [("data", "quota 10485760 bytes")]
        assert list(owner.list_audit_entries())[-1].result == "INVALID"


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("4096", 4096), ("10G", 10 << 30), ("10 GiB", 10 << 30), ("512m", 512 << 20), ("1KiB", 1024), ("7B", 7),
     ("2T", 2 << 40), ("1E", 1 << 60)],
)  # fmt: skip
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "-1", "1.5G", "10X", "10 G B", "1GB2", "99999999999999999999", "\u0661"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(Invalid, match="is no size"):
        parse_size(text)
