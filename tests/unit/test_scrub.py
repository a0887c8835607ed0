"""Scrub: what it finds, that it goes on where it was, its pace, and that it harms nobody."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lmdb
import msgspec
import pytest
import trio
import trio.testing

from snapfs import api
from snapfs.api import EventKind, ScrubState
from snapfs.errors import Conflict, Invalid
from snapfs.format import keys, records
from snapfs.format.records import LOST_SEGMENT, Block
from snapfs.format.segments import BLOCK_HEADER_BYTES, record_bytes
from snapfs.store import verify
from snapfs.store.index import TABLES, items
from snapfs.testing.engine import EngineSubject
from snapfs.testing.faulty import BROKEN, FaultyDisk
from snapfs.types import BLOCK_BYTES_MAX, BlockId, SegmentId
from snapfs.volume.limits import Pace
from snapfs.volume.scrub.run import (
    BATCH_BYTES,
    DAY_NS,
    DENSE_REQUESTS_PER_SECOND,
    DENSE_SHARE,
    FINDINGS_MAX,
    REST_SECONDS_MAX,
    SLACK_SECONDS,
    Scrub,
    Throttle,
)

WAIT_SECONDS = 20
FAST = 1 << 40


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EngineSubject]:
    """A store with data in several files, some of it in a snapshot only; each file's blocks do not compress."""
    subject = EngineSubject(tmp_path / "store")
    subject.create_volume("data")
    rng = random.Random(7)
    for name in (b"a", b"b", b"c"):
        subject.make("data", (name,), "file", 0o644)
        subject.write("data", (name,), 0, rng.randbytes(300_001))
    subject.snapshot("data", "one")
    subject.write("data", (b"a",), 0, rng.randbytes(1001))
    subject.unlink("data", (b"b",))
    subject.flush()
    subject.reclaim()
    yield subject
    subject.close()


async def _finished(scrub: Scrub) -> api.ScrubStatus:
    with trio.fail_after(WAIT_SECONDS):
        while scrub.status().state is ScrubState.RUNNING:
            await trio.sleep(0.005)
    return scrub.status()


def scrubbed(subject: EngineSubject) -> api.ScrubStatus:
    async def run() -> api.ScrubStatus:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(subject.lake.scrub.run)
            subject.lake.scrub.start(FAST)
            status = await _finished(subject.lake.scrub)
            nursery.cancel_scope.cancel()
        return status

    return subject.run(run)


def blocks_of(subject: EngineSubject) -> dict[BlockId, Block]:
    found = ((keys.from_u64(key), records.decode_block(value)) for key, value in items(subject.lake.index, "blocks"))
    return {BlockId(block): entry for block, entry in found if entry.refs}


def damage(subject: EngineSubject, segment: SegmentId, offset: int) -> None:
    path = subject.lake.core.blocks.segments.file_path(segment)
    with path.open("r+b") as file:
        file.seek(offset)
        old = file.read(1)
        file.seek(offset)
        file.write(bytes([old[0] ^ 0x40]))
        os.fsync(file.fileno())


def told(subject: EngineSubject) -> list[str]:
    events = [records.decode_event(payload) for _, payload in items(subject.lake.index, "events")]
    return [event.message for event in events if event.kind is EventKind.DAMAGE_FOUND]


# -- what it finds


def test_nothing_in_a_sound_store(store: EngineSubject) -> None:
    assert store.lake.scrub.status().state is ScrubState.NEVER
    counted = sum(store.lake.index.count(table) for table in TABLES)
    blocks = blocks_of(store)
    status = scrubbed(store)
    assert (status.state, status.findings, status.found) == (ScrubState.FINISHED, [], 0)
    assert status.done == status.total == len(blocks)
    assert status.data_read_bytes == sum(record_bytes(entry.stored_bytes) for entry in blocks.values())
    assert abs(status.index_done - counted) <= 2  # it keeps a record of its own
    assert 0 < status.start_ns <= status.end_ns
    store.crash()
    assert store.lake.scrub.status() == status
    assert store.fsck() == []


@pytest.mark.parametrize(
    ("place", "code"),
    [
        (lambda entry: 0, "block-header"),
        (lambda entry: BLOCK_HEADER_BYTES - 1, "block-header"),
        (lambda entry: BLOCK_HEADER_BYTES, "block-hash"),
        (lambda entry: BLOCK_HEADER_BYTES + entry.stored_bytes - 1, "block-hash"),
        (lambda entry: record_bytes(entry.stored_bytes) - 1, "block-header"),
    ],
    ids=["header", "header's end", "data", "data's end", "padding"],
)
def test_a_damaged_block(
    store: EngineSubject, place: Callable[[Block], int], code: str, caplog: pytest.LogCaptureFixture
) -> None:
    block, entry = next(
        (block, entry)
        for block, entry in blocks_of(store).items()
        if record_bytes(entry.stored_bytes) > BLOCK_HEADER_BYTES + entry.stored_bytes
    )
    damage(store, entry.segment, entry.offset + place(entry))
    with caplog.at_level(logging.ERROR):
        status = scrubbed(store)
    assert [one.code for one in status.findings] == [code]
    assert f"block {block} (segment {entry.segment}, offset {entry.offset})" in status.findings[0].message
    assert told(store) == [f"{code}: {status.findings[0].message}"]
    assert status.findings[0].message in caplog.text
    assert store.lake.scrub.damage_found == 1
    store.crash()
    assert store.lake.scrub.status() == status


def test_a_block_that_was_lost_before(store: EngineSubject) -> None:
    """There is nowhere to read it, and it is told at every scrub until nothing needs it."""
    block, entry = next(iter(blocks_of(store).items()))
    lost = msgspec.structs.replace(entry, segment=LOST_SEGMENT, offset=0, stored_bytes=0, codec=records.CODEC_RAW)
    store.lake.index.put("blocks", keys.u64(block), records.encode_block(lost))
    for _ in range(2):
        (finding,) = scrubbed(store).findings
        assert finding.code == "block-lost"


def test_a_segment_header_and_a_truncated_segment(store: EngineSubject) -> None:
    segment = max(entry.segment for entry in blocks_of(store).values())
    damage(store, segment, 5)
    assert [one.code for one in scrubbed(store).findings] == ["segment"]
    damage(store, segment, 5)
    assert scrubbed(store).found == 0
    last = max((entry.offset, block) for block, entry in blocks_of(store).items() if entry.segment == segment)
    os.truncate(store.lake.core.blocks.segments.file_path(segment), last[0] + BLOCK_HEADER_BYTES + 8)
    assert [one.code for one in scrubbed(store).findings] == ["block-hash"]
    store.lake.core.blocks.segments.file_path(segment).unlink()
    status = scrubbed(store)
    lost = [block for block, entry in blocks_of(store).items() if entry.segment == segment]
    assert sorted(one.code for one in status.findings) == ["block-read"] * len(lost) + ["segment"]


def test_what_the_disk_does_not_give(tmp_path: Path) -> None:
    disk = FaultyDisk()
    subject = EngineSubject(tmp_path / "store", disk=disk)
    subject.create_volume("data")
    subject.make("data", (b"f",), "file", 0o644)
    subject.write("data", (b"f",), 0, b"content")
    subject.flush()
    disk.failing["segment.scrub"] = BROKEN
    assert sorted(one.code for one in scrubbed(subject).findings) == ["block-read", "segment"]
    disk.failing.clear()
    assert scrubbed(subject).findings == []
    subject.close()


def _first(subject: EngineSubject, table: str, wanted: Callable[[bytes, bytes], bool] = lambda k, v: True) -> bytes:
    return next(key for key, payload in items(subject.lake.index, table) if wanted(key, payload))


def _put_raw(subject: EngineSubject, table: str, key: bytes, value: bytes) -> None:
    index = subject.lake.index
    index._txn.put(key, value, db=index._tables[table])
    index.dirty = True


def _wrong_extent(subject: EngineSubject) -> None:
    key = _first(subject, "tree", lambda key, _: keys.split(key)[1] == keys.EXTENT)
    payload = subject.lake.index.get("tree", key)
    assert payload is not None
    length, block, _ = records.decode_extent(payload)
    subject.lake.index.put("tree", key, records.encode_extent(length, block, BLOCK_BYTES_MAX - length))


DAMAGES: dict[str, tuple[Callable[[EngineSubject], object], str]] = {
    "a value's checksum": (lambda s: _put_raw(s, "tree", _first(s, "tree"), b"wrong"), "record"),
    "a snapshot's record": (lambda s: s.lake.index.put("snapshots", _first(s, "snapshots"), b"{"), "record"),
    "an inode's length": (
        lambda s: s.lake.index.put("tree", _first(s, "tree", lambda k, _: keys.split(k)[1] == keys.INODE), b"\1"),
        "record",
    ),
    "an extent beyond its block": (_wrong_extent, "tree"),
    "a change that is missing": (lambda s: s.lake.index.delete("changes", _first(s, "changes")), "tree"),
    "a change that is none": (lambda s: s.lake.index.put("changes", keys.u64(1) + keys.inode(99), b"\1"), "changes"),  # type: ignore[arg-type]
    "a name that is missing": (lambda s: s.lake.index.delete("names", _first(s, "names")), "snapshots"),
    "a name that leads nowhere": (lambda s: s.lake.index.put("names", keys.u64(1) + b"x", keys.u64(77)), "names"),
    "a tag that leads nowhere": (lambda s: s.lake.index.put("tags", keys.u64(1) + b"x", keys.u64(77)), "tags"),
    "a commit that leads nowhere": (
        lambda s: s.lake.index.put("commits", keys.u64(1) + b"ab" * 20 + b"\0" + keys.u64(77), b"\1"), "commits",
    ),
    "a time of no snapshot": (
        lambda s: s.lake.index.put("created", keys.u64(1) + keys.u64(5) + keys.u64(77), b"\1"), "created",
    ),
    "a hash of another block": (lambda s: s.lake.index.put("dedup", bytes(32), _first(s, "blocks")), "dedup"),
    "a live block that waits to go": (
        lambda s: s.lake.index.put("freed", keys.u64(1 << 60) + keys.u64(next(iter(blocks_of(s)))), b"\1"), "freed",
    ),
    "an epoch without its parent": (
        lambda s: s.lake.index.put("epochs", keys.u64(90), records.encode_epoch(89, 1, records.LIVE)), "epochs",  # type: ignore[arg-type]
    ),
    "an event's number": (
        lambda s: s.lake.index.put("events", keys.u64(1 << 50), s.lake.index.get("events", _first(s, "events")) or b""),
        "events",
    ),
    "a time of no request": (
        lambda s: s.lake.index.put("requests_by_time", keys.u64(5) + bytes(32), b"\1"), "requests_by_time",
    ),
    "more live bytes than a segment has": (
        lambda s: s.lake.index.put("segments", keys.u64(1 << 40), records.encode_segment(64, 65)), "record",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_index(store: EngineSubject, name: str) -> None:
    harm, code = DAMAGES[name]
    harm(store)
    codes = {one.code for one in scrubbed(store).findings}
    assert code in codes
    assert store.lake.scrub.status().state is ScrubState.FINISHED


def test_a_damaged_index_file(store: EngineSubject, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found, and LMDB is not led through it.  (A copy is looked at: the open one is in use.)"""
    store.flush()
    good = store.path / "index" / verify.DATA_FILE
    copy = store.path.parent / "copy.mdb"
    with good.open("rb") as file:
        content = bytearray(file.read(store.lake.index.used_bytes()))
    for offset in range(2 * 4096 + 12, len(content), 4096):
        content[offset : offset + 4] = b"\xff\xff\xff\xff"  # where a page's free space begins and ends
    copy.write_bytes(content)
    command = verify.command
    monkeypatch.setattr(verify, "command", lambda path: command(copy if path == good else path))
    status = scrubbed(store)
    assert {one.code for one in status.findings} == {"structure"}
    assert (status.state, status.index_done, status.done) == (ScrubState.FINISHED, 0, 0)


def test_findings_are_bounded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    subject = EngineSubject(tmp_path / "store")
    count = FINDINGS_MAX + 20
    subject.create_volume("data")
    for number in range(count):
        name = (str(number).encode(),)
        subject.make("data", name, "file", 0o644)
        subject.write("data", name, 0, f"content of {number}".encode())
    subject.flush()
    for entry in blocks_of(subject).values():
        damage(subject, entry.segment, entry.offset)
    with caplog.at_level(logging.ERROR):
        status = scrubbed(subject)
    assert (status.found, len(status.findings)) == (count, FINDINGS_MAX)
    assert len(told(subject)) == FINDINGS_MAX
    assert len(caplog.records) <= FINDINGS_MAX + 2
    subject.close()


def test_a_block_that_goes_while_it_is_read(store: EngineSubject, monkeypatch: pytest.MonkeyPatch) -> None:
    scrub, check = store.lake.scrub, store.lake.scrub._medium.check
    gone: list[int] = []

    async def forget() -> None:
        for name in (b"a", b"c"):
            store.unlink("data", (name,))
        await store.service.delete_snapshot(volume="data", snapshot="one")
        with trio.move_on_after(1):
            await store.lake.sync()
            await store.lake.reclaim_all()

    def check_late(wanted: list[tuple[BlockId, Block]]) -> object:
        if not gone:
            gone.append(len(wanted))
            trio.from_thread.run(forget)
        return check(wanted)

    monkeypatch.setattr(scrub._medium, "check", check_late)
    assert scrubbed(store).found == 0
    assert gone[0] > 0
    store.reclaim()
    assert blocks_of(store) == {}


def test_what_nobody_expected_pauses_it(
    store: EngineSubject, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(wanted: object) -> None:
        raise ZeroDivisionError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(store.lake.scrub._medium, "check", fail)
        assert scrubbed(store).state is ScrubState.PAUSED
    assert "ZeroDivisionError" in caplog.text
    assert scrubbed(store).state is ScrubState.FINISHED


def test_a_table_that_cannot_be_followed_ends_it(store: EngineSubject, monkeypatch: pytest.MonkeyPatch) -> None:
    class Torn:
        """As LMDB's cursor, but what it needs next is damaged."""

        def __init__(self, cursor: Any) -> None:
            self._cursor = cursor

        def __getattr__(self, name: str) -> Any:
            return getattr(self._cursor, name)

        def next(self) -> bool:
            raise lmdb.CorruptedError("mdb_cursor_get")

    index = store.lake.index
    cursor = index.cursor
    monkeypatch.setattr(index, "cursor", lambda table: Torn(cursor(table)) if table == "blocks" else cursor(table))
    status = scrubbed(store)
    assert status.state is ScrubState.FINISHED
    assert [one.code for one in status.findings] == ["structure", "structure"]  # of the values, and of the bytes
    assert "table blocks" in status.findings[0].message


# -- going on


async def _until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(WAIT_SECONDS):
        while not condition():
            await trio.sleep(0.002)


def test_it_goes_on_after_a_crash(tmp_path: Path) -> None:
    subject = EngineSubject(tmp_path / "store")
    subject.create_volume("data")
    subject.make("data", (b"f",), "file", 0o644)
    rng = random.Random(3)
    for number in range(8):
        subject.write("data", (b"f",), number * BATCH_BYTES, rng.randbytes(BATCH_BYTES))
    subject.flush()
    total_bytes = subject.lake.core.blocks.space.stored_bytes
    late = max(blocks_of(subject))
    entry = blocks_of(subject)[late]
    damage(subject, entry.segment, entry.offset)

    async def part() -> None:
        scrub = subject.lake.scrub
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scrub.run)
            scrub.start(BATCH_BYTES * 4)
            await _until(lambda: scrub.status().data_read_bytes > 2 * BATCH_BYTES)
            await subject.lake.commit()
            nursery.cancel_scope.cancel()

    subject.run(part)
    before = subject.lake.scrub.status()
    subject.crash()
    after = subject.lake.scrub.status()
    assert after.state is ScrubState.PAUSED  # nobody goes on with it
    assert 0 < after.done <= before.done < after.total
    assert (after.start_ns, after.index_done, after.data_read_bytes) == (
        before.start_ns, before.index_done, before.data_read_bytes,
    )  # fmt: skip
    status = scrubbed(subject)
    assert (status.state, status.start_ns, status.done) == (ScrubState.FINISHED, before.start_ns, after.total)
    assert status.data_read_bytes == total_bytes  # nothing twice: the last commit was at a batch's end
    assert [one.code for one in status.findings] == ["block-header"]
    assert len(told(subject)) == 1
    subject.close()


def test_pause_and_cancel(store: EngineSubject) -> None:
    scrub = store.lake.scrub
    for refused in (scrub.pause, scrub.cancel):
        with pytest.raises(Conflict):
            refused()
    with pytest.raises(Invalid):
        scrub.start(-1)
    scrub.start()
    scrub._job.table = TABLES[0]
    scrub._check_index(scrub._job)
    scrub.pause()
    scrub.pause()
    assert scrub.status().state is ScrubState.PAUSED
    before = scrub.status()
    assert before.index_done > 0
    scrub.start()
    assert scrub.status() == msgspec.structs.replace(before, state=ScrubState.RUNNING)
    scrub.cancel()
    assert scrub.status().state is ScrubState.CANCELLED
    assert scrub.status().end_ns >= before.start_ns
    scrub.start()
    assert scrub.status().index_done == 0
    assert scrubbed(store).state is ScrubState.FINISHED


def test_it_pauses_while_it_waits(store: EngineSubject) -> None:
    """At a byte a second it would wait for days after its first batch."""
    scrub = store.lake.scrub

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scrub.run)
            scrub.start(1)
            await _until(lambda: scrub.status().done > 0)
            scrub.pause()
            await trio.testing.wait_all_tasks_blocked()
            scrub.start(FAST)
            status = await _finished(scrub)
            assert status.state is ScrubState.FINISHED
            nursery.cancel_scope.cancel()

    store.run(run)


def test_it_begins_by_itself(store: EngineSubject) -> None:
    scrub = store.lake.scrub

    async def run() -> api.ScrubStatus:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scrub.run)
            await trio.testing.wait_all_tasks_blocked()
            scrub.follow(Pace(scrub_bytes_per_second=FAST, scrub_every_days=1e-9))
            await trio.testing.wait_all_tasks_blocked()
            assert scrub.status().state is ScrubState.NEVER  # not in a process that is no daemon
            scrub.serve(lambda: (0, 0.0))
            await _until(lambda: scrub.status().start_ns > 0)
            scrub.follow(Pace(scrub_bytes_per_second=FAST, scrub_every_days=30))
            status = await _finished(scrub)
            nursery.cancel_scope.cancel()
        return status

    status = store.run(run)
    assert status.state is ScrubState.FINISHED
    assert status.next_ns == status.end_ns + 30 * DAY_NS
    scrub.follow(Pace(scrub_every_days=0))
    assert scrub.status().next_ns == 0
    store.crash()
    store.lake.scrub.serve(lambda: (0, 0.0))
    assert store.lake.scrub.status().next_ns == status.next_ns


def test_a_record_that_is_damaged_is_forgotten(store: EngineSubject) -> None:
    scrubbed(store)
    for payload in (b"{", msgspec.json.encode({"table": "unknown"})):
        store.lake.index.put("meta", b"scrub", payload)
        store.lake.index.commit()
        store.crash()
        assert store.lake.scrub.status().state is ScrubState.NEVER
    _put_raw(store, "meta", b"scrub", b"wrong")
    store.lake.index.commit()
    store.crash()
    assert store.lake.scrub.status().state is ScrubState.NEVER


def test_on_a_full_disk_it_writes_nothing(tmp_path: Path) -> None:
    disk = FaultyDisk()
    subject = EngineSubject(tmp_path / "store", disk=disk)
    subject.create_volume("data")
    subject.flush()
    disk.free = 4096
    txn = subject.lake.index.txn_number
    assert scrubbed(subject).state is ScrubState.FINISHED
    assert subject.lake.index.txn_number == txn
    disk.free = 0
    subject.run(subject.lake.commit)
    subject.crash()
    assert subject.lake.scrub.status().state is ScrubState.FINISHED
    subject.close()


# -- its pace


def test_the_rate_is_kept() -> None:
    throttle, rng = Throttle(), random.Random(5)
    rate, now, read_bytes = 1_000_000, 1000.0, 0
    begun = now
    for _ in range(2000):
        size = rng.randrange(200_000)
        assert read_bytes <= rate * (now - begun + SLACK_SECONDS)
        now += rng.random() * 0.02  # reading takes time, too
        read_bytes += size
        now += throttle.spend(size, rate, now)
    assert read_bytes > 0.9 * rate * (now - begun)
    now += 1000  # what was not used is not saved up
    waited = sum(throttle.spend(rate // 10, rate, now) for _ in range(3))
    assert waited > 0.2


def test_the_rate_is_kept_by_a_scrub(store: EngineSubject) -> None:
    size = store.lake.core.blocks.space.stored_bytes
    scrub = store.lake.scrub

    async def run() -> float:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scrub.run)
            scrub.start(size)
            begun = trio.current_time()
            await _finished(scrub)
            nursery.cancel_scope.cancel()
        return trio.current_time() - begun

    # but for the last batch, which nobody waits for, and the slack
    assert store.run(run) >= 0.5


def test_it_gives_way(store: EngineSubject) -> None:
    async def rested(requests_per_second: float, share: float) -> float:
        scrub = store.lake.scrub
        begun = trio.current_time()
        scrub.requests = lambda: (
            int(100 + requests_per_second * (trio.current_time() - begun)), 9 + share * (trio.current_time() - begun)
        )  # fmt: skip
        scrub._sampled = begun, 100, 9.0
        await trio.sleep(0.1)
        now = trio.current_time()
        await scrub._give_way(REST_SECONDS_MAX)
        return trio.current_time() - now

    def ask(requests_per_second: float, share: float) -> float:
        return trio.run(rested, requests_per_second, share, clock=trio.testing.MockClock(autojump_threshold=0))

    assert ask(DENSE_REQUESTS_PER_SECOND / 2, DENSE_SHARE / 2) == 0
    for much in ((DENSE_REQUESTS_PER_SECOND * 2, DENSE_SHARE / 2), (DENSE_REQUESTS_PER_SECOND / 2, DENSE_SHARE * 2)):
        assert REST_SECONDS_MAX <= ask(*much) < REST_SECONDS_MAX * 1.2
