"""An index rebuilt from the segments: every sealed snapshot comes back as it was, and nothing that was not sealed."""

from __future__ import annotations

import itertools
import shutil
import tempfile
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from snapfs.errors import Busy, Corrupt, IOFailure, NotFound
from snapfs.format import segments as fmt
from snapfs.store import layout
from snapfs.store.disk import Disk
from snapfs.store.scan import Found, SegmentScan, segment_file, segment_files
from snapfs.testing import trees
from snapfs.testing.corrupting import Expected, copy
from snapfs.testing.engine import EngineSubject
from snapfs.testing.faulty import BROKEN, FaultyDisk
from snapfs.testing.machine import StoreMachine
from snapfs.types import SegmentId
from snapfs.volume.repair import rebuild


def scanned(store: Path, number: SegmentId) -> list[Found]:
    uuid = bytes.fromhex(layout.read_marker(store).uuid.replace("-", ""))
    with SegmentScan(store / layout.SEGMENTS, number, uuid, Disk()) as scan:
        return [found for found in scan.records() if found is not None]


def records(store: Path) -> list[Found]:
    return list(itertools.chain.from_iterable(scanned(store, n) for n in segment_files(store / layout.SEGMENTS)))


def overwrite(store: Path, found: Found, at: int, data: bytes) -> None:
    with segment_file(store / layout.SEGMENTS, found.segment).open("r+b") as file:
        file.seek(found.offset + at)
        file.write(data)


def check_snapshots(store: Path, expected: Expected, but: frozenset[str] = frozenset()) -> None:
    """All are there, with their content; heads show the newest."""
    engine = EngineSubject(store)
    try:
        assert engine.fsck() == []
        for volume, snapshot in expected:
            if snapshot and f"{volume}@{snapshot}" not in but:
                assert trees.differences(expected[volume, snapshot], engine.tree(volume, snapshot)) == []
        for volume in engine.lake.volumes.all():
            newest = engine.lake.snapshots.all(volume)[-1]
            assert engine.tree(volume.name) == engine.tree(volume.name, newest.name)
    finally:
        engine.close()


# -- all is there


@pytest.mark.parametrize(
    "harm", ["nothing", "index missing", "index truncated", "index is noise", "marker damaged", "no marker"]
)
def test_every_snapshot_comes_back(store: Path, expected: Expected, harm: str) -> None:
    engine = EngineSubject(store)
    seals, listed = engine.seals(), {volume: engine.listed(volume) for volume in ("data", "models", "copy")}
    facts = engine.records()
    engine.close()
    index = store / layout.INDEX / "data.mdb"
    if harm == "index missing":
        shutil.rmtree(store / layout.INDEX)
    elif harm == "index truncated":
        with index.open("r+b") as file:
            file.truncate(20_000)
    elif harm == "index is noise":
        index.write_bytes(b"\xa5" * 100_000)
    elif harm == "marker damaged":
        (store / layout.MARKER).write_bytes(b'{"format": "\xff')
    elif harm == "no marker":
        (store / layout.MARKER).unlink()
    planned = rebuild.plan(store)
    report = rebuild.rebuild(store)
    assert report.plan == planned
    assert planned.lost == []
    assert report.lost_blocks == 0
    assert bool(report.kept) == (harm != "index missing")
    assert not report.kept or (store / report.kept / "data.mdb").exists()
    check_snapshots(store, expected)
    engine = EngineSubject(store)
    assert engine.seals() == seals
    assert {volume: engine.listed(volume) for volume in listed} == listed
    assert [msgspec.structs.replace(one) for one in engine.records()] == facts
    engine.check_seals()
    engine.close()


def test_a_rebuilt_store_goes_on(store: Path) -> None:
    """New numbers do not meet old ones; deleting everything leaves nothing; a second rebuild finds the new state."""
    rebuild.rebuild(store)
    engine = EngineSubject(store)
    engine.write("data", (b"large",), 0, b"something else")
    engine.snapshot("data", "after")
    engine.remove_snapshot("data", "first")
    engine.rename_snapshot("data", "second", "other")
    engine.reclaim()
    seals, tree = engine.seals(), engine.tree("data", "after")
    assert engine.fsck() == []
    engine.close()
    report = rebuild.rebuild(store)
    assert {"data@after", "data@other"} <= set(report.plan.snapshots)
    assert not {"data@first", "data@second", "data@deleted"} & set(report.plan.snapshots)
    engine = EngineSubject(store)
    assert engine.tree("data", "after") == tree
    assert engine.seals() == seals
    for volume in ("data", "models", "copy"):
        engine.remove_volume(volume, snapshots=True)
    engine.reclaim()
    assert engine.stored_bytes() == 0
    assert engine.fsck() == []
    engine.close()


class RebuiltMachine(StoreMachine):
    """At its end the index is rebuilt: whatever was done before, each snapshot is as the oracle has it."""

    subject: EngineSubject

    def make_subject(self) -> EngineSubject:
        self.directory = tempfile.mkdtemp(prefix="snapfs-rebuild-")
        return EngineSubject(Path(self.directory) / "store")

    def teardown(self) -> None:
        try:
            if self.oracle.volumes:
                self.rebuilt()
        finally:
            self.subject.close()
            shutil.rmtree(self.directory)

    def rebuilt(self) -> None:
        self.subject.reclaim()
        seals = self.subject.seals()
        self.subject.close()
        report = rebuild.rebuild(self.subject.path)
        self.subject = EngineSubject(self.subject.path)
        assert report.plan.lost == []
        assert self.subject.fsck() == []
        assert self.subject.seals() == seals
        for name, volume in self.oracle.volumes.items():
            if volume.snapshots:
                assert self.subject.listed(name) == self.oracle.listed(name)
            for snapshot, frozen in volume.snapshots.items():
                assert not trees.differences(trees.shown(frozen.root), self.subject.tree(name, snapshot))
        for live in self.subject.lake.volumes.all():
            assert self.oracle.volumes[live.name].snapshots
            self.subject.remove_volume(live.name, snapshots=True)
        self.subject.reclaim()
        assert self.subject.stored_bytes() == 0
        assert self.subject.fsck() == []


def run_machine(examples: int) -> None:
    run_state_machine_as_test(
        RebuiltMachine,
        settings=settings(
            deadline=None, max_examples=examples, stateful_step_count=50, print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip


def test_whatever_was_done() -> None:
    run_machine(5)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_whatever_was_done_for_long() -> None:
    run_machine(2000)


# -- some is damaged


@pytest.mark.parametrize("first", [0, pytest.param(1, marks=pytest.mark.soak), pytest.param(2, marks=pytest.mark.soak)])
@pytest.mark.timeout(300)
def test_a_damaged_seal_costs_what_is_built_on_it(store: Path, expected: Expected, first: int) -> None:
    """Records of seals, one at a time: what comes back is whole, the rest is named as lost."""
    lost_somewhere = False
    found_all = [found for found in records(store) if found.head.kind != fmt.DATA]
    for number, found in enumerate(found_all[first::5] if first == 0 else found_all[first::3]):
        goal = store.with_name(f"copy-{number}")
        copy(store, goal)
        overwrite(goal, found, fmt.BLOCK_HEADER_BYTES + 5, b"\xff\x00\xff\x00")
        report = rebuild.rebuild(goal)
        missing = {f"{volume}@{name}" for volume, name in expected if name} - set(report.plan.snapshots)
        lost_somewhere |= bool(report.plan.lost)
        assert len(report.plan.lost) >= len({one.address for one in report.plan.lost} & missing)
        check_snapshots(goal, expected, frozenset(missing))
        shutil.rmtree(goal)
    assert lost_somewhere


def test_lost_blocks(store: Path, expected: Expected) -> None:
    """A record whose header is gone is not found: files that need it say so, all others are whole."""
    largest = max((found for found in records(store) if found.head.kind == fmt.DATA), key=lambda f: f.head.stored_bytes)
    overwrite(store, largest, 0, b"\0" * 8)
    report = rebuild.rebuild(store)
    assert report.plan.lost == []
    assert report.lost_blocks == 1
    engine = EngineSubject(store)
    codes = {line.split(":")[0] for line in engine.fsck()}
    assert codes == {"block-lost"}
    damaged = 0
    for (volume, snapshot), tree in expected.items():
        if snapshot:
            try:
                assert engine.tree(volume, snapshot) == tree
            except Corrupt:
                damaged += 1
    assert damaged
    for volume in ("data", "models", "copy"):
        engine.remove_volume(volume, snapshots=True)
    engine.reclaim()
    assert engine.fsck() == []
    engine.close()


def test_a_missing_segment(store: Path, expected: Expected) -> None:
    numbers = segment_files(store / layout.SEGMENTS)
    assert len(numbers) > 2
    for number in (numbers[0], numbers[len(numbers) // 2], numbers[-1]):
        goal = store.with_name(f"without-{number}")
        copy(store, goal)
        segment_file(goal / layout.SEGMENTS, number).unlink()
        report = rebuild.rebuild(goal)
        engine = EngineSubject(goal)
        assert {line.split(":")[0] for line in engine.fsck()} <= {"block-lost"}
        for address in report.plan.snapshots:
            volume, _, name = address.partition("@")
            try:
                assert engine.tree(volume, name) == expected[volume, name]
            except Corrupt:
                assert report.lost_blocks
        engine.close()
        shutil.rmtree(goal)


# -- the scan


def test_the_scan_finds_what_is_behind_damage(store: Path) -> None:
    number = segment_files(store / layout.SEGMENTS)[0]
    before = scanned(store, number)
    assert len(before) > 20
    broken = before[5]
    overwrite(store, broken, 0, b"XXXX" + b"SBLK" * 3)
    assert scanned(store, number) == before[:5] + before[6:]


def test_a_record_inside_a_files_bytes_is_none(tmp_path: Path) -> None:
    """A copy of a segment, stored as a file, brings no second record."""
    engine = EngineSubject(tmp_path / "store")
    engine.create_volume("v")
    for number in range(3):
        engine.make("v", (b"f%d" % number,), "file", 0o644)
        engine.write("v", (b"f%d" % number,), 0, bytes(range(256)) * 20 + b"%d" % number)
    engine.snapshot("v", "s")
    first = scanned(tmp_path / "store", SegmentId(1))
    copied = segment_file(tmp_path / "store" / layout.SEGMENTS, SegmentId(1)).read_bytes()
    engine.make("v", (b"copy",), "file", 0o644)
    engine.write("v", (b"copy",), 0, copied)
    engine.snapshot("v", "t")
    engine.close()
    after = scanned(tmp_path / "store", SegmentId(1))
    assert after[: len(first)] == first
    with segment_file(tmp_path / "store" / layout.SEGMENTS, SegmentId(1)).open("r+b") as file:
        file.seek(first[-1].end)
        file.write(b"\xff" * 40)  # the header behind: the scan looks for the next one inside the file's bytes
    found = scanned(tmp_path / "store", SegmentId(1))
    assert all(one in after for one in found)


# -- the change of places


def test_the_store_must_not_be_open(store: Path) -> None:
    engine = EngineSubject(store)
    with pytest.raises(Busy):
        rebuild.rebuild(store)
    engine.close()


@pytest.mark.parametrize("what", ["rebuild.publish", "rebuild.keep", "rebuild.directory", "index.commit"])
def test_a_disk_that_fails_leaves_the_old_index_or_the_new(store: Path, expected: Expected, what: str) -> None:
    disk = FaultyDisk()
    disk.failing[what] = BROKEN
    with pytest.raises(IOFailure):
        rebuild.rebuild(store, disk=disk)
    engine = EngineSubject(store)  # there is an index, whichever
    assert engine.tree("data", "first") == expected["data", "first"]
    engine.close()
    kept = {place.name for place in store.glob("index.*")}
    report = rebuild.rebuild(store)
    assert report.plan.lost == []
    assert not (store / rebuild.BESIDE).exists()
    assert {place for place in kept if "damaged" in place} <= {place.name for place in store.glob("index.damaged-*")}
    check_snapshots(store, expected)


def test_a_host_that_cannot_exchange_directories(store: Path, expected: Expected) -> None:
    disk = FaultyDisk()
    disk.exchange = lambda what, one, other: False  # type: ignore[method-assign]
    report = rebuild.rebuild(store, disk=disk)
    assert (store / report.kept / "data.mdb").exists()
    assert not (store / rebuild.BESIDE).exists()
    check_snapshots(store, expected)


def test_no_store(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        rebuild.plan(tmp_path / "nothing")


def test_a_plan_says_what_is_lost(store: Path) -> None:
    planned = rebuild.plan(store)
    lines = "\n".join(planned.lines())
    assert set(planned.heads) == {"data", "models", "copy"}
    assert planned.heads["models"] == "epoch-2"
    assert all(f"volume {volume}: " in lines for volume in planned.heads)
    assert all(since < time.time_ns() for since in planned.since_ns.values())
