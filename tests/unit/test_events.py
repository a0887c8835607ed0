"""Events: told in order, once durable, with what they tell; resumed, filtered, bounded."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from snapfs.api import Event, EventKind, Events, GitCommit, Save
from snapfs.errors import Corrupt, IOFailure, NoSpace, SnapfsError, Stale
from snapfs.store.disk import Disk
from snapfs.testing.engine import EngineSubject
from snapfs.volume import events

COMMIT = "ab12" + "0" * 36


def told(engine: EngineSubject, after: int | None = 0, **chosen: Any) -> list[Event]:
    """All that is durable now."""

    async def collect() -> list[Event]:
        found = []
        batches = engine.service.watch_events(after=after, until_now=True, **chosen)
        async for batch in batches:
            assert len(batch.events) <= events.BATCH_MAX
            found += batch.events
            assert not found or batch.sequence >= found[-1].sequence
        return found

    return engine.run(collect)


def plain(found: list[Event]) -> list[tuple[str, ...]]:
    return [tuple(filter(None, (e.kind, e.volume, e.snapshot, e.commit, e.message))) for e in found]


def test_everything_that_happens_is_told_in_order(engine: EngineSubject) -> None:
    service = engine.service
    before = told(engine)[-1].sequence

    async def play() -> None:
        await service.create_snapshot(volume="data", name="one")
        await service.create_snapshot(volume="data", git=GitCommit(commit=COMMIT))
        await service.rename_snapshot(volume="data", snapshot="one", name="first")
        await service.tag_snapshot(volume="data", snapshot="first", tag="v1")
        await service.tag_snapshot(volume="data", snapshot="first", tag="v1")  # nothing happens
        await service.tag_snapshot(volume="data", snapshot=COMMIT, tag="v1", move=True)
        await service.delete_tag(volume="data", tag="v1")
        await service.clone(volume="data", snapshot="first", name="copy")
        await service.checkout(volume="data", snapshot="first")
        await service.carry_snapshots(volume="data", rewritten=[(COMMIT, GitCommit(commit="cd" * 20))])
        await service.delete_snapshot(volume="data", snapshot="first")
        await service.delete_volume(name="copy", force=True)
        await service.delete_volume(name="data", force=True)

    engine.run(play)
    found = told(engine, before)
    assert plain(found) == [
        ("snapshot_created", "data", "one"),
        ("snapshot_created", "data", COMMIT, COMMIT),
        ("snapshot_renamed", "data", "first", "one"),
        ("tag_set", "data", "first", "v1"),
        ("tag_set", "data", COMMIT, COMMIT, "v1"),
        ("tag_deleted", "data", COMMIT, COMMIT, "v1"),
        ("volume_created", "copy", "data@first"),
        ("checkout", "data", "first"),
        ("snapshot_created", "data", "cd" * 20, "cd" * 20),
        ("snapshot_deleted", "data", "first"),
        ("volume_deleted", "copy"),
        ("volume_deleted", "data"),
    ]
    assert [event.sequence for event in found] == list(range(before + 1, before + 13))
    assert [event.time_ns for event in found] == sorted(event.time_ns for event in found)


def test_a_checkout_that_saves_and_a_restore(engine: EngineSubject) -> None:
    engine.snapshot("data", "one")
    engine.write("data", (b"f",), 0, b"new")
    before = told(engine)[-1].sequence
    saved = engine.checkout("data", "one", Save.SAVE)
    engine.restore("data", "one", (b"f",))  # is there already: nothing happens
    engine.restore("data", saved, (b"f",))
    assert plain(told(engine, before)) == [
        ("snapshot_created", "data", saved),
        ("checkout", "data", "one"),
        ("restore", "data", saved),
    ]


def test_a_filter(engine: EngineSubject) -> None:
    engine.create_volume("more")
    for volume in ("data", "more"):
        engine.snapshot(volume, "one")
        engine.tag(volume, "one", "v1", move=False)
    engine.lake.core.events.warn("something is wrong")
    engine.flush()
    kinds: Collection[EventKind] = [EventKind.TAG_SET, EventKind.WARNING]
    assert plain(told(engine, kinds=kinds)) == [
        ("tag_set", "data", "one", "v1"), ("tag_set", "more", "one", "v1"), ("warning", "something is wrong"),
    ]  # fmt: skip
    assert plain(told(engine, kinds=kinds, visible=["more"])) == [("tag_set", "more", "one", "v1")]
    assert plain(told(engine, kinds=kinds, volume="data")) == [("tag_set", "data", "one", "v1")]
    assert told(engine, volume="data", visible=["more"]) == []
    assert told(engine, visible=[]) == []


def test_only_what_is_durable_is_told_and_nothing_else_survives(engine: EngineSubject) -> None:
    before = told(engine)[-1].sequence
    engine.lake.volumes.create("made")  # as by mkdir in a mount: the commit comes later
    assert told(engine, before) == []
    engine.crash()
    assert told(engine, before) == []
    assert "made" not in engine.lake.volumes.names()
    engine.lake.volumes.create("made")
    engine.flush()
    engine.crash()
    assert plain(told(engine, before)) == [("volume_created", "made")]
    assert told(engine, before)[0].sequence == before + 1


async def next_of(batches: AsyncIterator[Events]) -> Events:
    with trio.fail_after(10):
        return await anext(batches)


def test_a_watcher_is_woken_by_the_commit(engine: EngineSubject) -> None:
    before = told(engine)[-1].sequence

    async def play() -> None:
        async with aclosing(engine.service.watch_events()) as batches, trio.open_nursery() as nursery:
            assert await next_of(batches) == Events(events=[], sequence=before)
            seen: list[Events] = []

            async def follow() -> None:
                seen.append(await next_of(batches))

            nursery.start_soon(follow)
            await trio.testing.wait_all_tasks_blocked()
            engine.lake.volumes.create("made")
            await trio.testing.wait_all_tasks_blocked()
            assert seen == []
            await engine.lake.commit()
            await trio.testing.wait_all_tasks_blocked()
            assert plain(seen[0].events) == [("volume_created", "made")]
            assert seen[0].sequence == before + 1

    engine.run(play)


def test_a_watcher_of_a_busy_store_that_wants_little_learns_where_to_resume(
    engine: EngineSubject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "BATCH_MAX", 3)

    async def play() -> None:
        async with aclosing(engine.service.watch_events(after=0, kinds=[EventKind.CHECKOUT])) as batches:
            assert (await next_of(batches)).sequence == 1
            for number in range(7):
                await engine.service.create_snapshot(volume="data", name=f"s{number}")
            assert [await next_of(batches) for _ in range(2)] == [
                Events(events=[], sequence=4),
                Events(events=[], sequence=7),
            ]
            await engine.service.checkout(volume="data", snapshot="s0")
            assert plain((await next_of(batches)).events) == [("checkout", "data", "s0")]

    engine.run(play)


def test_batches_and_resuming(engine: EngineSubject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "BATCH_MAX", 3)
    for number in range(8):
        engine.snapshot("data", f"s{number}")
    everything = told(engine)
    assert len(everything) == 9
    for event in everything:
        assert told(engine, event.sequence) == everything[event.sequence :]
    engine.reopen()
    assert told(engine) == everything


def test_old_ones_are_dropped_and_their_watchers_refused(
    engine: EngineSubject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "EVENTS_MAX", 5)

    async def slow() -> None:
        async with aclosing(engine.service.watch_events(after=0)) as batches:
            await next_of(batches)
            for number in range(7):
                await engine.service.create_snapshot(volume="data", name=f"s{number}")
            with pytest.raises(Stale, match="the oldest that is kept is 4") as caught:
                await next_of(batches)
            assert "resume after 3" in caught.value.hint

    engine.run(slow)
    assert [event.sequence for event in told(engine)] == [4, 5, 6, 7, 8]
    assert [event.sequence for event in told(engine, 3)] == [4, 5, 6, 7, 8]
    for after, message in ((2, "dropped"), (9, "yet to come: the newest is 8")):
        with pytest.raises(Stale, match=message):
            told(engine, after)
    assert told(engine, 8) == []


class FullDisk(Disk):
    def __init__(self) -> None:
        self.full = False
        self.broken = ""

    def free_bytes(self, path: Path) -> tuple[int, int]:
        available, total = super().free_bytes(path)
        return (0 if self.full else available), total

    def pwrite(self, what: str, fd: int, parts: list[bytes], offset: int) -> None:
        if what == self.broken:
            raise IOFailure(f"{what}: Input/output error")
        super().pwrite(what, fd, parts, offset)

    def sync(self, what: str, fd: int) -> None:
        if what == self.broken:
            raise IOFailure(f"{what}: Input/output error")
        super().sync(what, fd)


@pytest.fixture
def full(tmp_path: Path) -> Iterator[tuple[EngineSubject, FullDisk]]:
    disk = FullDisk()
    subject = EngineSubject(tmp_path / "full", disk)
    subject.create_volume("data")
    subject.make("data", (b"f",), "file", 0o644)
    subject.flush()
    yield subject, disk
    disk.full, disk.broken = False, ""
    subject.close()


def warnings(engine: EngineSubject) -> list[str]:
    return [event.message for event in told(engine, kinds=[EventKind.WARNING])]


def refused(action: Callable[[], object], error: type[SnapfsError]) -> None:
    with pytest.raises(error):
        action()


def test_a_full_disk_is_told_once(full: tuple[EngineSubject, FullDisk]) -> None:
    engine, disk = full
    engine.lake.core.forget_free_space()
    disk.full = True
    for name in ("one", "two"):
        refused(lambda name=name: engine.create_volume(name), NoSpace)
    assert warnings(engine) == []  # not durable yet
    disk.full = False
    engine.flush()
    assert len(warnings(engine)) == 1
    assert "the store's disk is full" in warnings(engine)[0]


def test_data_that_cannot_be_stored_is_told(full: tuple[EngineSubject, FullDisk]) -> None:
    engine, disk = full
    engine.write("data", (b"f",), 0, b"x" * 100)
    disk.broken = "segment.append"
    refused(engine.flush, IOFailure)
    assert warnings(engine) == ["written data could not be stored: segment.append: Input/output error"]


def test_who_watches_a_store_that_fails_is_told_by_an_error(full: tuple[EngineSubject, FullDisk]) -> None:
    engine, disk = full

    async def play() -> None:
        async with aclosing(engine.service.watch_events()) as batches, trio.open_nursery() as nursery:
            await next_of(batches)
            outcome: list[str] = []

            async def follow() -> None:
                with pytest.raises(IOFailure) as caught:
                    await next_of(batches)
                outcome.append(caught.value.message)

            nursery.start_soon(follow)
            await trio.testing.wait_all_tasks_blocked()
            view, ino = engine._resolve("data", (b"f",))
            await engine.lake.files.write(view, ino, 0, random.randbytes(1000))
            disk.broken = "segment.sync"
            with pytest.raises(IOFailure):
                await engine.lake.sync()
            await trio.testing.wait_all_tasks_blocked()
            assert len(outcome) == 1
            assert "takes no more changes" in outcome[0]
            store = await engine.service.get_store()
            assert store.failure == outcome[0]
            assert (store.volumes, store.snapshots) == (1, 0)

    engine.run(play)


def test_damaged_data_met_by_a_read_is_told_once(tmp_path: Path) -> None:
    engine = EngineSubject(tmp_path / "store")
    try:
        engine.create_volume("data")
        engine.make("data", (b"f",), "file", 0o644)
        engine.write("data", (b"f",), 0, random.randbytes(1000))
        engine.flush()
        segment = next((tmp_path / "store" / "segments").glob("*.seg"))
        content = bytearray(segment.read_bytes())
        content[-100] ^= 1
        segment.write_bytes(content)
        view, ino = engine._resolve("data", (b"f",))
        for _ in range(2):
            refused(lambda: engine.run(lambda: engine.lake.files.read(view, ino, 0, 1000)), Corrupt)
        engine.flush()
        assert len(warnings(engine)) == 1
        assert "does not match its hash" in warnings(engine)[0]
    finally:
        engine.close()


def test_different_warnings_are_bounded(engine: EngineSubject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "WARNINGS_MAX", 3)
    for number in range(5):
        engine.lake.core.events.warn(f"wrong {number}" * 500)
    engine.flush()
    assert [message[:7] for message in warnings(engine)] == ["wrong 0", "wrong 1", "wrong 2"]
    assert all(len(message) <= 1000 for message in warnings(engine))
    monkeypatch.setattr(events, "WARNING_SECONDS", 0.0)
    engine.lake.core.events.warn("wrong again")
    engine.flush()
    assert warnings(engine)[-1] == "wrong again"
