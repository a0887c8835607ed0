"""The trash, holds and locks, and policies on a real store."""

from __future__ import annotations

import random
import shutil
import threading
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from snapfs import api
from snapfs.api import EventKind, GitCommit, QuotaKind, RetentionPolicy, Save
from snapfs.errors import AlreadyExists, Conflict, Invalid, IOFailure, NotEmpty, NotFound, Stale, Unavailable
from snapfs.service import Service
from snapfs.store import layout
from snapfs.store.index import items
from snapfs.testing.engine import EngineSubject
from snapfs.testing.faulty import BROKEN, FaultyDisk
from snapfs.volume import snapshots as snapshots_module
from snapfs.volume import trash as trash_module
from snapfs.volume.core import now_ns
from snapfs.volume.limits import Pace
from snapfs.volume.once import Once
from snapfs.volume.repair import rebuild

HOUR_NS = 3600 * 10**9
COMMIT = "ab12" + "0" * 36


class Clock:
    """The clock that deletions, expiry and locks go by; it can be set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.offset_ns = 0
        for module in (trash_module, snapshots_module):
            monkeypatch.setattr(module, "now_ns", lambda: now_ns() + self.offset_ns)

    def forward(self, hours: float) -> None:
        self.offset_ns += int(hours * HOUR_NS)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[EngineSubject]:
    """With a trash of a day; the volume ``data`` has snapshots ``one`` (tagged ``best``) and ``two``, which differ."""
    subject = EngineSubject(tmp_path / "store", trash_hours=24)
    subject.create_volume("data")
    subject.make("data", (b"f",), "file", 0o644)
    for number, name in enumerate(["one", "two"]):
        write(subject, number)
        subject.snapshot("data", name)
    write(subject, 2)
    subject.tag("data", "one", "best", move=False)
    subject.flush()
    yield subject
    assert subject.fsck() == []
    subject.close()


def write(engine: EngineSubject, seed: int, volume: str = "data") -> None:
    engine.write(volume, (b"f",), 0, random.Random(seed).randbytes(50_000))


def trash(engine: EngineSubject) -> list[str]:
    """What is in it, as people write it, oldest first."""
    entries = engine.run(engine.service.list_trash)
    return [f"{entry.volume}@{entry.snapshot}" if entry.snapshot else entry.volume for entry in entries]


def undelete(engine: EngineSubject, snapshot: str, name: str = "") -> api.Snapshot:
    return engine.run(lambda: engine.service.undelete_snapshot(volume="data", snapshot=snapshot, name=name))


def undelete_volume(engine: EngineSubject, volume: str = "data", name: str = "") -> api.Volume:
    return engine.run(lambda: engine.service.undelete_volume(volume=volume, name=name))


def expire(engine: EngineSubject) -> None:
    engine.run(engine.lake.trash.expire)
    engine.reclaim()


def told(engine: EngineSubject) -> list[tuple[EventKind, str, str, str]]:
    async def collect() -> list[tuple[EventKind, str, str, str]]:
        return [
            (event.kind, event.volume, event.snapshot, event.message)
            async for batch in engine.service.watch_events(after=0, until_now=True)
            for event in batch.events
        ]

    return engine.run(collect)


def rows(engine: EngineSubject, table: str) -> int:
    return sum(1 for _ in items(engine.lake.index, table))


both = pytest.mark.parametrize("then", [lambda engine: None, EngineSubject.reopen, EngineSubject.crash])
Then = Callable[[EngineSubject], None]


class TestSnapshots:
    @both
    def test_there_and_back(self, engine: EngineSubject, then: Then) -> None:
        before, tree = engine.run(engine.service.list_snapshots), engine.tree("data", "one")
        engine.seal()
        seal = engine.run(lambda: engine.service.get_snapshot(volume="data", snapshot="one")).seal
        engine.remove_snapshot("data", "one")
        then(engine)
        assert list(engine.listed("data")) == ["two"]
        for ref in ("one", "best"):
            with pytest.raises(NotFound):
                engine.tree("data", ref)
        assert trash(engine) == ["data@one"]
        engine.reclaim()
        assert engine.fsck() == []
        assert undelete(engine, "one").tags == ["best"]
        then(engine)
        after = engine.run(engine.service.list_snapshots)
        assert [s.name for s in after.snapshots] == [s.name for s in before.snapshots]
        assert engine.tree("data", "best") == tree
        assert trash(engine) == []
        engine.seal()
        assert engine.run(lambda: engine.service.get_snapshot(volume="data", snapshot="one")).seal == seal
        engine.check_seals()
        kinds = [event[:3] for event in told(engine)][-2:]
        assert kinds == [(EventKind.SNAPSHOT_DELETED, "data", "one"), (EventKind.SNAPSHOT_RESTORED, "data", "one")]

    def test_entries_say_until_when_and_how_much(self, engine: EngineSubject) -> None:
        engine.remove_snapshot("data", "one")
        (entry,) = engine.run(engine.service.list_trash)
        assert entry.expires_ns - entry.deleted_ns == 24 * HOUR_NS
        assert abs(now_ns() - entry.deleted_ns) < HOUR_NS
        assert 40_000 < entry.exclusive_bytes < 60_000
        assert engine.run(lambda: engine.service.list_trash(volume="other")) == []
        engine.reclaim()  # seals, too
        before = engine.stored_bytes()
        engine.run(engine.service.empty_trash)
        engine.reclaim()
        assert before - engine.stored_bytes() >= entry.exclusive_bytes  # its seal goes, too

    def test_a_taken_name(self, engine: EngineSubject) -> None:
        engine.remove_snapshot("data", "one")
        engine.snapshot("data", "one")
        engine.tag("data", "two", "best", move=False)
        with pytest.raises(Conflict, match="one") as caught:
            undelete(engine, "one")
        assert "--as" in caught.value.hint
        with pytest.raises(AlreadyExists):
            undelete(engine, "one", name="best")
        with pytest.raises(Invalid):
            undelete(engine, "one", name="a/b")
        back = undelete(engine, "one", name="uno")
        assert (back.name, back.tags) == ("uno", [])
        assert told(engine)[-1] == (EventKind.SNAPSHOT_RESTORED, "data", "uno", "one")
        assert sorted(engine.listed("data")) == ["one", "two", "uno"]

    def test_found_by_tag_and_commit_the_last_deleted_first(self, engine: EngineSubject, clock: Clock) -> None:
        git = GitCommit(commit=COMMIT)
        engine.run(lambda: engine.service.create_snapshot(volume="data", git=git))
        for name in ("one", COMMIT):
            engine.remove_snapshot("data", name)
            clock.forward(1)
        assert undelete(engine, "best").name == "one"
        assert undelete(engine, COMMIT[:12]).git == git
        for number in (COMMIT, COMMIT[:39] + "f"):
            engine.run(
                lambda number=number: engine.service.create_snapshot(volume="data", git=GitCommit(commit=number))
            )
            engine.remove_snapshot("data", number)
        with pytest.raises(Invalid, match="ambiguous"):
            undelete(engine, COMMIT[:12])
        assert engine.run(lambda: engine.service.empty_trash(volume="data", snapshot=COMMIT[:39] + "f")).entries == 1
        for seed in range(2):
            write(engine, seed + 10)
            engine.snapshot("data", "same")
            engine.remove_snapshot("data", "same")
            clock.forward(1)
        last = undelete(engine, "same")
        with pytest.raises(Conflict):
            undelete(engine, "same")
        first = undelete(engine, "same", name="same2")
        assert first.created_ns < last.created_ns
        with pytest.raises(NotFound, match="trash"):
            undelete(engine, "same")

    def test_none_such(self, engine: EngineSubject) -> None:
        engine.remove_snapshot("data", "two")
        with pytest.raises(NotFound) as caught:
            undelete(engine, "twoo")
        assert "two" in caught.value.hint
        with pytest.raises(NotFound):
            engine.run(lambda: engine.service.undelete_snapshot(volume="nowhere", snapshot="two"))
        with pytest.raises(NotFound):
            engine.run(lambda: engine.service.empty_trash(volume="data", snapshot="one"))
        with pytest.raises(Invalid):
            engine.run(lambda: engine.service.empty_trash(snapshot="one"))

    def test_who_looks_at_it_meanwhile(self, engine: EngineSubject) -> None:
        """Its view is gone, and the same view is back: kernels have it under its epoch's number."""
        lake = engine.lake
        record = lake.snapshots.resolve(lake.volumes.get("data"), "one")
        view = lake.snapshots.view(record)
        engine.remove_snapshot("data", "one")
        assert view.gone
        with pytest.raises(Stale):
            lake.snapshots.check_alive(record)
        undelete(engine, "one")
        assert not view.gone
        assert lake.snapshots.view(record) is view
        lake.snapshots.check_alive(record)

    def test_heads_and_clones_that_stand_on_it(self, engine: EngineSubject) -> None:
        """As after a deletion for good: the nearest ancestor counts, and what it has the clone keeps."""
        engine.clone("data", "two", "copy")
        tree = engine.tree("copy")
        engine.remove_snapshot("data", "two")
        for name in ("data", "copy"):
            volume = engine.run(lambda name=name: engine.service.get_volume(name=name))
            assert (volume.parent, volume.origin) == ("data@one", "")
        engine.run(engine.service.empty_trash)
        engine.reclaim()
        assert engine.tree("copy") == tree

    def test_a_retry_of_what_made_it(self, engine: EngineSubject) -> None:
        once = Once(bytes(32), bytes(32))
        make = lambda: engine.service.create_snapshot(volume="data", name="three", once=once)  # noqa: E731
        engine.run(make)
        engine.remove_snapshot("data", "three")
        with pytest.raises(NotFound, match="deleted"):
            engine.run(make)
        undelete(engine, "three")
        assert engine.run(make).name == "three"

    def test_it_expires(self, engine: EngineSubject, clock: Clock) -> None:
        stored = engine.stored_bytes()
        engine.remove_snapshot("data", "one")
        clock.forward(12)
        engine.remove_snapshot("data", "two")
        clock.forward(11.9)
        expire(engine)
        assert trash(engine) == ["data@one", "data@two"]
        assert engine.stored_bytes() >= stored
        clock.forward(0.2)
        expire(engine)
        assert trash(engine) == ["data@two"]
        assert engine.stored_bytes() < stored - 40_000
        clock.forward(12)
        engine.reopen()
        expire(engine)
        assert (trash(engine), rows(engine, "trash"), rows(engine, "snapshots")) == ([], 0, 0)
        assert engine.stored_bytes() < stored - 90_000

    def test_the_pace_can_change(self, engine: EngineSubject, clock: Clock) -> None:
        engine.remove_snapshot("data", "one")
        clock.forward(30)
        engine.lake.trash.follow(Pace(trash_hours=48))
        expire(engine)
        assert trash(engine) == ["data@one"]
        engine.lake.trash.follow(Pace(trash_hours=float("inf")))
        clock.forward(10**5)
        expire(engine)
        assert trash(engine) == ["data@one"]
        engine.lake.trash.follow(Pace(trash_hours=0))
        expire(engine)
        assert trash(engine) == []

    @pytest.mark.parametrize("way", ["purge", "no trash"])
    def test_at_once(self, engine: EngineSubject, way: str) -> None:
        if way == "no trash":
            engine.lake.trash.follow(Pace(trash_hours=0))
        engine.run(lambda: engine.service.delete_snapshot(volume="data", snapshot="one", purge=way == "purge"))
        assert (trash(engine), rows(engine, "trash"), rows(engine, "snapshots")) == ([], 0, 1)

    def test_the_timer(self, engine: EngineSubject) -> None:
        """In a store that is in use what expires goes, also when that is soon after it was deleted."""

        async def play() -> None:
            async with engine.lake.running():
                await trio.testing.wait_all_tasks_blocked(0.01)
                engine.lake.trash.follow(Pace(trash_hours=0.5 / 3600))
                await engine.service.delete_snapshot(volume="data", snapshot="one")
                assert rows(engine, "trash") == 1
                with trio.fail_after(20):
                    while rows(engine, "trash"):
                        await trio.sleep(0.05)

        engine.run(play)

    def test_a_commit_that_has_several(self, engine: EngineSubject) -> None:
        """Who deletes what a list names must not hit the newest."""
        git = GitCommit(commit=COMMIT)
        for seed in (5, 6):
            write(engine, seed)
            engine.run(lambda: engine.service.create_snapshot(volume="data", git=git))
        for purge in (False, True):
            with pytest.raises(Invalid, match="several"):
                engine.run(
                    lambda purge=purge: engine.service.delete_snapshot(volume="data", snapshot=COMMIT, purge=purge)
                )
        for name in (f"{COMMIT}.1", COMMIT):  # the second by then has the commit for itself
            engine.run(lambda name=name: engine.service.delete_snapshot(volume="data", snapshot=name))
        assert trash(engine) == [f"data@{COMMIT}", f"data@{COMMIT}.2"]


class TestVolumes:
    @both
    def test_there_and_back(self, engine: EngineSubject, then: Then) -> None:
        set_all = lambda: engine.service.update_volume(  # noqa: E731
            name="data", quota_bytes=10**6, quota_kind=QuotaKind.EXCLUSIVE, compression="zstd:7"
        )
        engine.run(set_all)
        engine.run(lambda: engine.service.set_policy(volume="data", policy=RetentionPolicy(last=5)))
        write(engine, 7)  # dirty: it is not lost
        trees = [engine.tree("data", name) for name in ("", "one", "two")]
        before = engine.run(lambda: engine.service.get_volume(name="data"))
        engine.remove_volume("data", snapshots=True)
        then(engine)
        assert engine.run(engine.service.list_volumes) == []
        with pytest.raises(NotFound):
            engine.listed("data")
        info = engine.run(engine.service.get_store)
        assert (info.volumes, info.snapshots) == (0, 0)
        assert trash(engine) == ["data"]
        engine.reclaim()
        assert engine.fsck() == []
        engine.create_volume("data")  # its name is free
        then(engine)
        assert undelete_volume(engine, name="old").name == "old"
        then(engine)
        after = engine.run(lambda: engine.service.get_volume(name="old"))
        fields = ("snapshots", "created_ns", "quota_bytes", "quota_kind", "compression", "policy")
        assert [getattr(after, field) for field in fields] == [getattr(before, field) for field in fields]
        assert [engine.tree("old", name) for name in ("", "one", "two")] == trees
        assert engine.listed("old") == {"one": ["best"], "two": []}
        write(engine, 8, "old")
        assert told(engine)[-1] == (EventKind.VOLUME_RESTORED, "old", "", "data")

    def test_a_taken_name_and_several_of_one_name(self, engine: EngineSubject, clock: Clock) -> None:
        engine.remove_volume("data", snapshots=True)
        clock.forward(1)
        engine.create_volume("data")
        with pytest.raises(Conflict, match="data") as caught:
            undelete_volume(engine)
        assert "--as" in caught.value.hint
        with pytest.raises(AlreadyExists):
            undelete_volume(engine, name="data")
        engine.remove_volume("data", snapshots=True)
        assert trash(engine) == ["data", "data"]
        assert undelete_volume(engine).snapshots == 0  # deleted last
        assert undelete_volume(engine, name="first").snapshots == 2
        with pytest.raises(NotFound, match="trash"):
            undelete_volume(engine)

    def test_its_snapshots_in_the_trash_go_and_come_with_it(self, engine: EngineSubject, clock: Clock) -> None:
        engine.remove_snapshot("data", "one")
        clock.forward(1)
        engine.remove_volume("data", snapshots=True)
        assert trash(engine) == ["data@one", "data"]
        with pytest.raises(NotFound):
            undelete(engine, "one")
        undelete_volume(engine)
        assert list(engine.listed("data")) == ["two"]
        assert undelete(engine, "one").tags == ["best"]

    @both
    def test_it_expires_with_all_it_has(self, engine: EngineSubject, clock: Clock, then: Then) -> None:
        clock.forward(2)
        engine.remove_snapshot("data", "one")
        clock.forward(-1)  # the clock was set back: the volume's time comes first
        engine.remove_volume("data", snapshots=True)
        clock.forward(24.5)
        then(engine)
        expire(engine)
        assert [rows(engine, table) for table in ("trash", "snapshots", "volumes", "epochs", "tree")] == [0] * 5
        assert engine.stored_bytes() == 0

    def test_one_that_others_were_cloned_from(self, engine: EngineSubject, clock: Clock) -> None:
        engine.clone("data", "one", "copy")
        tree = engine.tree("copy")
        engine.remove_volume("data", snapshots=True)
        copy = engine.run(lambda: engine.service.get_volume(name="copy"))
        assert (copy.parent, copy.origin) == ("", "")
        undelete_volume(engine, name="back")
        copy = engine.run(lambda: engine.service.get_volume(name="copy"))
        assert (copy.parent, copy.origin) == ("back@one", "back@one")
        engine.remove_volume("back", snapshots=True)
        clock.forward(25)
        expire(engine)
        assert engine.tree("copy") == tree

    def test_a_crash_while_it_is_dissolved(self, engine: EngineSubject, monkeypatch: pytest.MonkeyPatch) -> None:
        """Half of it is gone: it can be neither seen nor taken back, and the rest goes."""
        monkeypatch.setattr(trash_module, "BATCH", 1)
        for name in ("three", "four"):
            engine.snapshot("data", name)
        engine.remove_snapshot("data", "three")
        engine.run(lambda: engine.service.delete_volume(name="data", force=True, purge=True))
        assert 0 < rows(engine, "snapshots") < 4
        engine.crash()
        assert trash(engine) == []
        with pytest.raises(NotFound):
            undelete_volume(engine)
        assert engine.run(engine.service.get_store).snapshots == 0
        assert engine.fsck() == []
        while engine.lake.trash.step(doomed_only=True):
            engine.run(engine.lake.commit)
            engine.crash()
            assert engine.fsck() == []
        engine.reclaim()
        assert [rows(engine, table) for table in ("trash", "snapshots", "volumes", "epochs")] == [0] * 4

    @pytest.mark.parametrize("way", ["purge", "no trash"])
    def test_at_once(self, engine: EngineSubject, way: str) -> None:
        if way == "no trash":
            engine.lake.trash.follow(Pace(trash_hours=0))
        engine.run(lambda: engine.service.delete_volume(name="data", force=True, purge=way == "purge"))
        assert [rows(engine, table) for table in ("trash", "snapshots", "volumes")] == [0] * 3

    def test_without_force(self, engine: EngineSubject) -> None:
        with pytest.raises(Conflict, match="snapshots"):
            engine.remove_volume("data", snapshots=False)
        for name in ("one", "two"):
            engine.remove_snapshot("data", name)
        with pytest.raises(NotEmpty):
            engine.remove_volume("data", snapshots=False)
        engine.unlink("data", (b"f",))
        engine.remove_volume("data", snapshots=False)
        assert sorted(trash(engine)) == ["data", "data@one", "data@two"]

    def test_rmdir_on_the_mount(self, engine: EngineSubject) -> None:
        """An empty volume goes at once; but not what the trash has of it."""
        engine.create_volume("empty")
        engine.lake.trash.remove_volume("empty")
        assert trash(engine) == []
        for name in ("one", "two"):
            engine.remove_snapshot("data", name)
        engine.unlink("data", (b"f",))
        engine.lake.trash.remove_volume("data")
        undelete_volume(engine)
        assert undelete(engine, "one").name == "one"

    def test_what_is_open_and_unlinked_in_it(self, engine: EngineSubject) -> None:
        view, ino = engine._resolve("data", (b"f",))
        engine.lake.files.unlink(view, engine.lake.volumes.get("data").root, b"f", is_open=lambda _: True)
        assert list(engine.lake.core.orphans(view)) == [ino]
        engine.remove_volume("data", snapshots=True)
        assert view.gone
        assert rows(engine, "orphans") == 0
        engine.reopen()
        undelete_volume(engine)
        with pytest.raises(NotFound):
            engine.lake.files.getattr(engine.lake.volumes.get("data").head, ino)
        assert engine.lake.volumes.get("data").usage.used_bytes == 0

    def test_a_retry_of_what_made_it(self, engine: EngineSubject) -> None:
        once = Once(bytes(32), bytes(32))
        make = lambda: engine.service.create_volume(name="new", once=once)  # noqa: E731
        engine.run(make)
        engine.remove_volume("new", snapshots=True)
        with pytest.raises(NotFound, match="deleted"):
            engine.run(make)

    def test_a_snapshot_that_waits_while_it_goes(self, engine: EngineSubject) -> None:
        caught: list[BaseException] = []

        async def make() -> None:
            try:
                await engine.service.create_snapshot(volume="data", name="late")
            except Stale as error:
                caught.append(error)

        async def play() -> None:
            head = engine.lake.volumes.get("data").head
            async with trio.open_nursery() as nursery, engine.lake.writeback.hold(head):
                nursery.start_soon(lambda: engine.service.delete_volume(name="data", force=True))
                await trio.testing.wait_all_tasks_blocked(0.01)
                nursery.start_soon(make)
                await trio.testing.wait_all_tasks_blocked(0.01)

        engine.run(play)
        assert len(caught) == 1
        assert trash(engine) == ["data"]


def test_what_was_not_durable_is_taken_back(tmp_path: Path) -> None:
    """A commit fails: what it would have deleted, or brought back, is as it was."""
    disk = FaultyDisk()
    engine = EngineSubject(tmp_path / "store", disk, trash_hours=24)
    for name in ("data", "more"):
        engine.create_volume(name)
        engine.snapshot(name, "one")
    engine.snapshot("data", "two")
    engine.remove_volume("more", snapshots=True)
    engine.flush()
    lake = engine.lake
    view = lake.snapshots.view(lake.snapshots.resolve(lake.volumes.get("data"), "one"))
    lake.trash.take_back_volume("more")
    lake.trash.delete_snapshot(lake.volumes.get("data"), lake.snapshots.resolve(lake.volumes.get("data"), "one"))
    lake.trash.delete_volume(lake.volumes.get("data"), force=True)
    assert view.gone
    disk.failing["index.commit"] = BROKEN
    with pytest.raises(IOFailure):
        engine.flush()
    assert not view.gone
    assert lake.volumes.names() == ["data"]
    assert sorted(engine.listed("data")) == ["one", "two"]
    assert not lake.volumes.get("data").head.gone
    assert [volume.name for volume in lake.volumes.trashed()] == ["more"]
    assert engine.tree("data", "one").keys() == {()}
    with pytest.raises(IOFailure):
        lake.trash.take_back_volume("more")
    disk.failing.clear()
    engine.crash()
    assert engine.fsck() == []
    assert trash(engine) == ["more"]
    engine.close()


class TestKept:
    def delete(self, engine: EngineSubject, *, purge: bool = False) -> None:
        engine.run(lambda: engine.service.delete_snapshot(volume="data", snapshot="one", purge=purge))

    def refused(self, engine: EngineSubject, match: str) -> None:
        """By every way there is."""
        for purge in (False, True):
            with pytest.raises(Conflict, match=match):
                self.delete(engine, purge=purge)
            with pytest.raises(Conflict, match=match):
                engine.run(lambda purge=purge: engine.service.delete_volume(name="data", force=True, purge=purge))
        with pytest.raises(Conflict, match=match):
            engine.lake.snapshots.remove(
                engine.lake.volumes.get("data"), engine.lake.snapshots.resolve(engine.lake.volumes.get("data"), "one")
            )
        assert sorted(engine.listed("data")) == ["one", "two"]
        assert trash(engine) == []

    @both
    def test_holds(self, engine: EngineSubject, then: Then) -> None:
        hold = lambda name: engine.run(  # noqa: E731
            lambda: engine.service.hold_snapshot(volume="data", snapshot="one", hold=name)
        )
        release = lambda name: engine.run(  # noqa: E731
            lambda: engine.service.release_snapshot(volume="data", snapshot="one", hold=name)
        )
        assert hold("paper").holds == ["paper"]
        assert hold("audit").holds == ["audit", "paper"]
        events = told(engine)
        assert events[-1] == (EventKind.SNAPSHOT_UPDATED, "data", "one", "hold audit")
        assert hold("audit").holds == ["audit", "paper"]
        assert told(engine) == events  # it had it
        then(engine)
        self.refused(engine, "held: audit, paper")
        with pytest.raises(NotFound) as caught:
            release("papr")
        assert "paper" in caught.value.hint
        release("paper")
        self.refused(engine, "held: audit")
        assert release("audit").holds == []
        self.delete(engine)
        assert undelete(engine, "one").holds == []

    def test_bad_holds(self, engine: EngineSubject, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(snapshots_module, "HOLDS_MAX", 1)
        for name, error in (("", Invalid), ("a/b", Invalid), ("fine", None), ("more", Conflict)):
            hold = lambda name=name: engine.service.hold_snapshot(volume="data", snapshot="one", hold=name)  # noqa: E731
            if error is None:
                engine.run(hold)
            else:
                with pytest.raises(error):
                    engine.run(hold)

    @both
    def test_locks(self, engine: EngineSubject, clock: Clock, then: Then) -> None:
        def lock(hours: float) -> api.Snapshot:
            until_ns = start_ns + int(hours * HOUR_NS)
            return engine.run(lambda: engine.service.lock_snapshot(volume="data", snapshot="one", until_ns=until_ns))

        start_ns = now_ns()
        with pytest.raises(Invalid):
            lock(-1)
        with pytest.raises(Invalid):
            lock(10**10)
        assert lock(5).locked_until_ns == start_ns + 5 * HOUR_NS
        events = told(engine)
        assert events[-1][0] is EventKind.SNAPSHOT_UPDATED
        lock(5)
        assert told(engine) == events
        with pytest.raises(Conflict, match="locked until"):
            lock(4)
        lock(10)
        then(engine)
        self.refused(engine, "locked until")
        clock.forward(9)
        self.refused(engine, "locked until")
        clock.forward(1.1)
        self.delete(engine)

    def test_a_lock_that_a_wrong_clock_had_opened(self, engine: EngineSubject, clock: Clock) -> None:
        """Set back, it is in force again: what it keeps stays in the trash."""
        until_ns = now_ns() + 100 * HOUR_NS
        engine.run(lambda: engine.service.lock_snapshot(volume="data", snapshot="one", until_ns=until_ns))
        clock.forward(101)
        self.delete(engine)
        engine.clone("data", "two", "copy")
        engine.remove_volume("data", snapshots=True)
        clock.forward(-101)
        engine.lake.trash.follow(Pace(trash_hours=0))
        clock.forward(50)
        emptied = engine.run(engine.service.empty_trash)
        assert (emptied.entries, emptied.kept) == (0, 2)
        expire(engine)
        assert sorted(trash(engine)) == ["data", "data@one"]
        clock.forward(51)
        expire(engine)
        assert trash(engine) == []

    def test_a_volume_is_not_purged_with_what_a_lock_keeps_in_the_trash(
        self, engine: EngineSubject, clock: Clock
    ) -> None:
        until_ns = now_ns() + 100 * HOUR_NS
        engine.run(lambda: engine.service.lock_snapshot(volume="data", snapshot="one", until_ns=until_ns))
        clock.forward(101)
        self.delete(engine)
        clock.forward(-101)
        for hours, purge in ((24, True), (0, False)):
            engine.lake.trash.follow(Pace(trash_hours=hours))
            with pytest.raises(Conflict, match="data@one is locked until"):
                engine.run(lambda purge=purge: engine.service.delete_volume(name="data", force=True, purge=purge))
        assert engine.lake.volumes.names() == ["data"]
        assert trash(engine) == ["data@one"]
        clock.forward(101)
        engine.run(lambda: engine.service.delete_volume(name="data", force=True, purge=True))

    def test_a_carried_snapshot_has_none_of_it(self, engine: EngineSubject) -> None:
        git = GitCommit(commit=COMMIT)
        engine.run(lambda: engine.service.create_snapshot(volume="data", name=COMMIT, git=git))
        engine.run(lambda: engine.service.hold_snapshot(volume="data", snapshot=COMMIT, hold="mine"))
        new = GitCommit(commit=COMMIT[::-1])
        carried = engine.run(lambda: engine.service.carry_snapshots(volume="data", rewritten=[(COMMIT, new)]))
        assert carried.carried[0].holds == []


class TestEmpty:
    def test_all(self, engine: EngineSubject) -> None:
        engine.create_volume("more")
        engine.remove_snapshot("data", "one")
        engine.remove_volume("more", snapshots=True)
        emptied = engine.run(engine.service.empty_trash)
        assert (emptied.entries, emptied.kept, trash(engine)) == (2, 0, [])
        engine.reclaim()
        assert rows(engine, "trash") == 0
        assert list(engine.listed("data")) == ["two"]

    def test_by_name(self, engine: EngineSubject) -> None:
        engine.create_volume("more")
        for name in ("one", "two"):
            engine.remove_snapshot("data", name)
        engine.remove_volume("more", snapshots=True)
        assert engine.run(lambda: engine.service.empty_trash(volume="data", snapshot="two")).entries == 1
        assert trash(engine) == ["data@one", "more"]
        assert engine.run(lambda: engine.service.empty_trash(volume="more")).entries == 1
        assert trash(engine) == ["data@one"]
        with pytest.raises(NotFound):
            engine.run(lambda: engine.service.empty_trash(volume="more"))


# -- policies


def many(engine: EngineSubject, count: int) -> None:
    for number in range(count):
        engine.chmod("data", (b"f",), 0o400 + number)
        engine.snapshot("data", f"s{number:02d}")


def apply(
    engine: EngineSubject, policy: RetentionPolicy | None = None, *, volume: str = "data", dry_run: bool = False
) -> api.RetentionReport:
    return engine.run(lambda: engine.service.apply_policy(volume=volume, policy=policy, dry_run=dry_run))


def decided(report: api.RetentionReport) -> dict[str, list[str] | None]:
    """Reasons, or None: it goes."""
    return {decision.snapshot: decision.reasons if decision.keep else None for decision in report.decisions}


class TestPolicies:
    def test_what_is_protected_stays(self, engine: EngineSubject) -> None:
        many(engine, 6)
        run, own = engine.run, engine.service
        run(lambda: own.hold_snapshot(volume="data", snapshot="s00", hold="paper"))
        run(lambda: own.lock_snapshot(volume="data", snapshot="s01", until_ns=now_ns() + HOUR_NS))
        engine.clone("data", "s02", "copy")
        engine.clone("data", "s03", "standing")
        engine.snapshot("standing", "new")
        engine.remove_volume("standing", snapshots=True)  # the trash counts
        run(lambda: own.checkout(volume="data", snapshot="s04", unsaved=Save.DISCARD))
        wanted = {
            "one": ["tagged"], "two": None, "s00": ["held"], "s01": ["locked"], "s02": ["cloned", "current"],
            "s03": ["cloned", "current"], "s04": ["current"], "s05": ["last"],
        }  # fmt: skip
        policy = RetentionPolicy(last=1)
        dry = apply(engine, policy, dry_run=True)
        assert decided(dry) == wanted
        assert (dry.deleted, dry.dry_run) == (0, True)
        assert 40_000 < dry.freed_bytes < 60_000
        assert len(engine.listed("data")) == 8
        done = apply(engine, policy)
        assert decided(done) == wanted
        assert (done.deleted, done.freed_bytes, done.dry_run) == (1, dry.freed_bytes, False)
        assert sorted(engine.listed("data")) == sorted(name for name, why in wanted.items() if why)
        assert sorted(trash(engine)) == ["data@two", "standing"]
        again = apply(engine, policy)
        assert (again.deleted, again.freed_bytes) == (0, 0)
        assert undelete(engine, "two").name == "two"

    def test_distinct_by_what_seals_say(self, engine: EngineSubject) -> None:
        engine.run(lambda: engine.service.checkout(volume="data", snapshot="one", unsaved=Save.DISCARD))
        engine.snapshot("data", "again")  # as one
        engine.remove_tag("data", "best")
        engine.write("data", (b"f",), 0, b"new")
        engine.snapshot("data", "last")
        assert (
            list(decided(apply(engine, RetentionPolicy(distinct=9), dry_run=True)).values())[:2] == [["distinct"]] * 2
        )
        engine.seal()
        found = decided(apply(engine, RetentionPolicy(distinct=9), dry_run=True))
        assert [name for name, reasons in found.items() if reasons is None] == ["one"]
        assert apply(engine, RetentionPolicy(distinct=9)).deleted == 1
        assert sorted(engine.listed("data")) == ["again", "last", "two"]

    @both
    def test_the_volume_s_own(self, engine: EngineSubject, then: Then) -> None:
        many(engine, 4)
        policy = RetentionPolicy(last=2)
        with pytest.raises(Conflict, match="no retention policy"):
            apply(engine)
        volume = engine.run(lambda: engine.service.set_policy(volume="data", policy=policy))
        assert volume.policy == policy
        assert told(engine)[-1] == (EventKind.VOLUME_UPDATED, "data", "", "retention policy: last 2")
        then(engine)
        write(engine, 5)
        engine.flush()  # what the head holds is recorded: so is the policy
        then(engine)
        engine.create_volume("without")
        report = apply(engine, volume="")
        assert report.deleted == 3
        assert {decision.volume for decision in report.decisions} == {"data"}
        assert sorted(engine.listed("data")) == ["one", "s02", "s03"]
        engine.run(lambda: engine.service.set_policy(volume="data", policy=None))
        assert apply(engine, volume="").decisions == []
        engine.reopen()
        assert engine.run(lambda: engine.service.get_volume(name="data")).policy is None

    def test_refused(self, engine: EngineSubject) -> None:
        for policy in (RetentionPolicy(), RetentionPolicy(last=-1), RetentionPolicy(reachable=True)):
            with pytest.raises(Invalid):
                engine.run(lambda policy=policy: engine.service.set_policy(volume="data", policy=policy))
            with pytest.raises(Invalid):
                apply(engine, policy)
        with pytest.raises(Invalid, match="volume"):
            apply(engine, RetentionPolicy(last=1), volume="")
        with pytest.raises(NotFound):
            apply(engine, RetentionPolicy(last=1), volume="nowhere")

    def test_reachable(self, engine: EngineSubject) -> None:
        commits = [f"{number:040x}" for number in (1, 2, 3)]
        for number, commit in enumerate(commits):
            write(engine, number)
            git = GitCommit(commit=commit)
            engine.run(lambda git=git: engine.service.create_snapshot(volume="data", git=git))
        many(engine, 1)
        asked: list[tuple[str, Collection[str]]] = []

        def reach(repository: str, wanted: Collection[str]) -> set[str]:
            asked.append((repository, wanted))
            if repository == "/broken":
                raise Unavailable("it is broken")
            return {commits[0]} if repository == "/a" else {commits[1]}

        engine.service = Service(engine.lake, reachable=reach)

        def found(*repositories: str) -> tuple[dict[str, list[str] | None], list[str]]:
            policy = RetentionPolicy(last=1, reachable=True, repositories=list(repositories))
            report = apply(engine, policy, dry_run=True)
            return {name: why for name, why in decided(report).items() if name in commits}, report.warnings

        assert found("/a") == ({commits[0]: ["reachable"], commits[1]: None, commits[2]: None}, [])
        assert found("/a", "/b")[0] == {commits[0]: ["reachable"], commits[1]: ["reachable"], commits[2]: None}
        unknown = ["reachability unknown"]
        decisions, warnings = found("/a", "/broken")
        assert decisions == {commits[0]: ["reachable"], commits[1]: unknown, commits[2]: unknown}
        assert "it is broken" in warnings[0]
        assert asked[0] == ("/a", set(commits))
        engine.service = Service(engine.lake)
        decisions, warnings = found("/a")
        assert set(map(tuple, decisions.values())) == {tuple(unknown)}  # type: ignore[arg-type]
        assert warnings

    @pytest.mark.parametrize("change", ["hold", "lock", "tag", "clone", "checkout", "delete", "policy", "newer"])
    def test_what_changes_between_the_decision_and_the_act(self, engine: EngineSubject, change: str) -> None:
        """While git is asked, which takes long."""
        many(engine, 5)
        git = GitCommit(commit=COMMIT)
        engine.run(lambda: engine.service.create_snapshot(volume="data", git=git))
        policy = RetentionPolicy(last=2, reachable=True, repositories=["/a"])
        engine.run(lambda: engine.service.set_policy(volume="data", policy=policy))
        left = {
            "policy": ["one", "two", "s00", "s01", "s02", "s03", "s04", COMMIT], "newer": ["one", COMMIT, "newer"],
            "delete": ["one", "s03", COMMIT],
        }.get(change, ["one", "s02", "s04", COMMIT])  # fmt: skip

        async def act() -> None:
            own = engine.service
            if change == "hold":
                await own.hold_snapshot(volume="data", snapshot="s02", hold="mine")
            elif change == "lock":
                await own.lock_snapshot(volume="data", snapshot="s02", until_ns=now_ns() + HOUR_NS)
            elif change == "tag":
                await own.tag_snapshot(volume="data", snapshot="s02", tag="mine")
            elif change == "clone":
                await own.clone(volume="data", snapshot="s02", name="mine")
            elif change == "checkout":
                await own.checkout(volume="data", snapshot="s02", unsaved=Save.DISCARD)
            elif change == "delete":
                await own.delete_snapshot(volume="data", snapshot="s04")
            elif change == "policy":
                await own.set_policy(volume="data", policy=None)
            else:
                await own.create_snapshot(volume="data", name="newer")

        def reach(repository: str, wanted: Collection[str]) -> set[str]:
            trio.from_thread.run(act)
            return {COMMIT}

        engine.service = Service(engine.lake, reachable=reach)
        apply(engine)
        assert list(engine.listed("data")) == left

    def test_a_clone_made_in_the_step_before_the_act(
        self, engine: EngineSubject, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nothing but the look in the step itself sees it."""
        many(engine, 4)
        real = engine.service._facts

        async def facts(volume):  # type: ignore[no-untyped-def]
            found = await real(volume)
            if "late" not in engine.lake.volumes.names():
                engine.lake.snapshots.clone(engine.lake.snapshots.resolve(volume, "s00"), "late")
            return found

        monkeypatch.setattr(engine.service, "_facts", facts)
        report = apply(engine, RetentionPolicy(last=1))
        assert decided(report)["s00"] in (["changed meanwhile"], ["cloned", "current"])
        assert sorted(engine.listed("data")) == ["one", "s00", "s03"]

    @pytest.mark.parametrize("step", ["_facts", "_evaluate_policy"])
    @pytest.mark.parametrize("times", [1, 100])
    def test_what_is_deleted_while_it_is_decided(
        self, engine: EngineSubject, monkeypatch: pytest.MonkeyPatch, step: str, times: int
    ) -> None:
        """Of what the rules keep, others delete all but some: these are what the rules keep now."""
        many(engine, 5)
        real = getattr(engine.service, step)
        calls = 0

        async def hooked(*arguments):  # type: ignore[no-untyped-def]
            nonlocal calls
            found = await real(*arguments)
            calls += 1
            lake, data = engine.lake, engine.lake.volumes.get("data")
            if calls == 2:  # the first is for the report
                for name in ("s02", "s03", "s04"):
                    lake.trash.delete_snapshot(data, lake.snapshots.resolve(data, name))
            elif 2 < calls <= times:
                held = lake.snapshots.hold(data, lake.snapshots.resolve(data, "s01"), "short")
                lake.snapshots.release(data, held, "short")
            return found

        monkeypatch.setattr(engine.service, step, hooked)
        report = apply(engine, RetentionPolicy(last=2))
        gone = {"two"} if times == 1 else set()  # without a pause nothing goes
        assert set(engine.listed("data")) == {"one", "two", "s00", "s01"} - gone
        assert report.deleted == len(gone)

    def test_a_git_that_does_not_answer(self, engine: EngineSubject) -> None:
        """Who waits for it can be cancelled, so the daemon can end; and it takes no more than a few threads."""
        answer, asked = threading.Event(), threading.Semaphore(0)

        def reach(repository: str, wanted: Collection[str]) -> set[str]:
            asked.release()
            answer.wait()
            return set()

        engine.run(lambda: engine.service.create_snapshot(volume="data", git=GitCommit(commit=COMMIT)))
        service = Service(engine.lake, reachable=reach)
        policy = RetentionPolicy(last=1, reachable=True, repositories=["/a"])

        async def run() -> None:
            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(lambda: service.apply_policy(volume="data", policy=policy, dry_run=False))
                for _ in range(2):
                    await trio.to_thread.run_sync(asked.acquire)
                await trio.testing.wait_all_tasks_blocked(0.05)
                assert not asked.acquire(blocking=False)
                nursery.cancel_scope.cancel()

        try:
            engine.run(run)
        finally:
            answer.set()
        assert "two" in engine.listed("data")

    def test_a_volume_that_goes_meanwhile(self, engine: EngineSubject) -> None:
        many(engine, 3)

        def reach(repository: str, wanted: Collection[str]) -> set[str]:
            trio.from_thread.run(lambda: engine.service.delete_volume(name="data", force=True))
            return set()

        git = GitCommit(commit=COMMIT)
        engine.run(lambda: engine.service.create_snapshot(volume="data", git=git))
        engine.service = Service(engine.lake, reachable=reach)
        apply(engine, RetentionPolicy(last=1, reachable=True, repositories=["/a"]))
        assert trash(engine) == ["data"]
        assert undelete_volume(engine).snapshots == 6

    def test_several_batches(self, engine: EngineSubject, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("snapfs.retaining._TURN", 3)
        monkeypatch.setattr("snapfs.retaining._BATCH", 2)
        many(engine, 15)
        report = apply(engine, RetentionPolicy(last=2))
        assert report.deleted == 14
        assert sorted(engine.listed("data")) == ["one", "s13", "s14"]
        events = [event[2] for event in told(engine) if event[0] is EventKind.SNAPSHOT_DELETED]
        assert sorted(events) == [*(f"s{number:02d}" for number in range(13)), "two"]


class TestSettings:
    def test_compression(self, engine: EngineSubject) -> None:
        update = lambda **changes: engine.run(lambda: engine.service.update_volume(name="data", **changes))  # noqa: E731
        assert update(compression="none").compression == "none"
        assert told(engine)[-1] == (EventKind.VOLUME_UPDATED, "data", "", "compression none")
        for wrong in ("zstd:0", "zstd:20", "zstd:", "gzip", "", "zstd:01"):
            with pytest.raises(Invalid):
                update(compression=wrong)
        engine.clone("data", "one", "copy")
        assert engine.run(lambda: engine.service.get_volume(name="copy")).compression == "none"
        engine.reopen()
        assert engine.lake.volumes.get("data").usage.compression == "none"
        assert update(quota_bytes=10**6, quota_kind=QuotaKind.EXCLUSIVE).quota_kind is QuotaKind.EXCLUSIVE
        with pytest.raises(Invalid):
            update()


class TestLostIndex:
    """What is in the trash, and all that keeps a snapshot, is in the seals, too."""

    def prepare(self, engine: EngineSubject, clock: Clock) -> None:
        run, own = engine.run, engine.service
        many(engine, 2)
        run(lambda: own.hold_snapshot(volume="data", snapshot="s00", hold="paper"))
        run(lambda: own.lock_snapshot(volume="data", snapshot="s00", until_ns=now_ns() + HOUR_NS))
        engine.remove_snapshot("data", "one")
        run(lambda: own.set_policy(volume="data", policy=RetentionPolicy(last=3)))
        run(lambda: own.update_volume(name="data", compression="zstd:5"))
        engine.clone("data", "two", "copy")
        engine.snapshot("copy", "first")
        engine.snapshot("copy", "second")
        engine.reclaim()
        clock.forward(1)
        engine.remove_volume("copy", snapshots=True)
        engine.reclaim()

    def test_rebuilt_from_the_segments(self, engine: EngineSubject, clock: Clock) -> None:
        self.prepare(engine, clock)
        one = engine.run(lambda: engine.service.list_trash(volume="data"))[0]
        kept = engine.run(lambda: engine.service.get_snapshot(volume="data", snapshot="s00"))
        volume = engine.run(lambda: engine.service.get_volume(name="data"))
        engine.close()
        shutil.rmtree(engine.path / layout.INDEX)
        assert rebuild.rebuild(engine.path).plan.lost == []
        engine._open()
        assert engine.fsck() == []
        assert sorted(trash(engine)) == ["copy", "data@one"]
        assert engine.run(lambda: engine.service.list_trash(volume="data"))[0].deleted_ns == one.deleted_ns
        assert engine.lake.volumes.names() == ["data"]
        assert list(engine.listed("data")) == ["two", "s00", "s01"]
        assert engine.run(lambda: engine.service.get_snapshot(volume="data", snapshot="s00")) == kept
        after = engine.run(lambda: engine.service.get_volume(name="data"))
        assert (after.policy, after.compression) == (volume.policy, "zstd:5")
        assert undelete(engine, "one").tags == ["best"]
        assert undelete_volume(engine, "copy").snapshots == 2
        engine.check_seals()

    def test_scrubbed(self, engine: EngineSubject, clock: Clock) -> None:
        self.prepare(engine, clock)
        engine.lake.scrub.follow(Pace(scrub_bytes_per_second=10**9))

        async def play() -> api.ScrubStatus:
            async with engine.lake.running():
                await engine.service.start_scrub()
                with trio.fail_after(30):
                    while engine.lake.scrub.status().state is api.ScrubState.RUNNING:
                        await trio.sleep(0.01)
                return engine.lake.scrub.status()

        status = engine.run(play)
        assert (status.state, status.found) == (api.ScrubState.FINISHED, 0)
