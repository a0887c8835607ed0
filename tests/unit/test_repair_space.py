"""Trash, holds, policies, accounts: checked, mended, and brought back when the index is lost."""

from __future__ import annotations

import random
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from snapfs import api
from snapfs.format import keys, records
from snapfs.format.records import SnapshotRecord, VolumeRecord
from snapfs.store.index import Index, items
from snapfs.testing.engine import EngineSubject
from snapfs.volume.repair import rebuild
from snapfs.volume.repair.run import repairing

HOURS = 24.0
UNTIL_NS = time.time_ns() + 10**15
POLICY = api.RetentionPolicy(last=3, within_seconds=60, distinct=2)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two volumes, one of them in the trash, and a clone; snapshots that are held, locked, in the trash."""
    path = tmp_path_factory.mktemp("space") / "store"
    engine = EngineSubject(path, trash_hours=HOURS)
    service, rng = engine.service, random.Random(3)
    for volume in ("data", "old"):
        engine.create_volume(volume)
        engine.make(volume, (b"f",), "file", 0o644)
        for name in ("one", "two", "three", "four"):
            engine.write(volume, (b"f",), rng.randrange(9) * 4096, rng.randbytes(30_000))
            engine.snapshot(volume, name)
    engine.tag("data", "two", "v2", move=False)
    engine.run(lambda: service.hold_snapshot(volume="data", snapshot="one", hold="audit"))
    engine.run(lambda: service.lock_snapshot(volume="data", snapshot="three", until_ns=UNTIL_NS))
    engine.clone("data", "one", "copy")
    engine.write("copy", (b"f",), 0, rng.randbytes(10_000))
    engine.snapshot("copy", "own")
    engine.run(
        lambda: service.update_volume(
            name="data", quota_bytes=10**9, quota_kind=api.QuotaKind.EXCLUSIVE, compression="zstd:7"
        )
    )
    engine.run(lambda: service.set_policy(volume="data", policy=POLICY))
    engine.remove_snapshot("data", "two")
    engine.remove_snapshot("old", "three")
    engine.remove_volume("old", snapshots=True)
    engine.create_volume("old")  # the name is free
    engine.make("old", (b"g",), "file", 0o644)
    engine.snapshot("old", "first")
    engine.reclaim()
    assert engine.fsck() == []
    engine.close()
    return path


@pytest.fixture
def store(template: Path, tmp_path: Path) -> Path:
    subprocess.run(["cp", "-a", "--sparse=always", template, tmp_path / "store"], check=True)
    return tmp_path / "store"


def known(path: Path) -> tuple[dict[int, VolumeRecord], dict[int, SnapshotRecord]]:
    """Records of volumes (without what a rebuild may give anew) and snapshots."""
    index = Index(path / "index")
    try:
        volumes = [records.decode_volume(payload) for _, payload in items(index, "volumes")]
        snapshots = [records.decode_snapshot(payload) for _, payload in items(index, "snapshots")]
    finally:
        index.close()
    return (
        {record.id: msgspec.structs.replace(record, head=0) for record in volumes},
        {record.epoch: record for record in snapshots},
    )


def usages(path: Path) -> list[tuple[str, str, bool, int, int]]:
    """What ``snap du`` says of each snapshot."""
    engine = EngineSubject(path, trash_hours=HOURS)
    try:
        found = [one for volume in engine.run(engine.service.get_usage) for one in volume.usages]
        return sorted((u.volume, u.snapshot, u.trashed, u.referenced_bytes, u.exclusive_bytes) for u in found)
    finally:
        engine.close()


def test_a_rebuilt_index_has_all_that_seals_tell(store: Path) -> None:
    volumes, snapshots = known(store)
    before = usages(store)
    assert sum(trashed for _, _, trashed, _, _ in before) == 5
    shutil.rmtree(store / "index")
    rebuild.rebuild(store)
    assert known(store) == (volumes, snapshots)
    with repairing(store) as repair:
        assert repair.check().findings == []
        assert repair.plan().actions == []
    assert usages(store) == before
    engine = EngineSubject(store, trash_hours=HOURS)
    found = engine.run(engine.service.list_trash)
    assert sorted((entry.volume, entry.snapshot) for entry in found if not entry.snapshot) == [("old", "")]
    back = engine.run(lambda: engine.service.undelete_snapshot(volume="data", snapshot="two"))
    assert (back.name, back.tags) == ("two", ["v2"])
    assert engine.run(lambda: engine.service.undelete_volume(volume="old", name="old2")).snapshots == 3
    held = engine.run(lambda: engine.service.get_snapshot(volume="data", snapshot="one"))
    assert held.holds == ["audit"]
    engine.write("data", (b"f",), 0, b"goes on")
    engine.snapshot("data", "five")
    engine.reclaim()
    assert engine.fsck() == []
    engine.close()


def _trash_gone(index: Index) -> None:
    for key, _ in list(items(index, "trash")):
        index.delete("trash", key)


def _trash_found_by_name(index: Index) -> None:
    record = _trashed(index)
    index.put("names", keys.u64(record.volume) + record.name.encode(), keys.u64(record.epoch))


def _trash_found_by_time(index: Index) -> None:
    record = _trashed(index)
    index.put("created", keys.u64(record.volume) + keys.u64(record.created_ns) + keys.u64(record.epoch), b"\1")


def _trashed(index: Index) -> SnapshotRecord:
    found = (records.decode_snapshot(payload) for _, payload in items(index, "snapshots"))
    return next(record for record in found if record.deleted_ns)


def _trashed_record_spoiled(index: Index) -> None:
    key = keys.u64(_trashed(index).epoch)
    index._txn.put(key, b"spoiled", db=index._tables["snapshots"])
    index.dirty = True


@pytest.mark.parametrize(
    ("code", "harm"),
    [
        ("trash", _trash_gone),
        ("snapshot-name", _trash_found_by_name),
        ("snapshot-order", _trash_found_by_time),
        ("record", _trashed_record_spoiled),
    ],
)
def test_the_trash_is_checked_and_mended(store: Path, code: str, harm: Callable[[Index], None]) -> None:
    before = known(store)
    index = Index(store / "index")
    harm(index)
    index.commit()
    index.close()
    with repairing(store) as repair:
        assert code in {finding.code for finding in repair.check().findings}
        repair.carry_out()
        assert repair.check().findings == []
    assert known(store) == before


def test_accounts_that_are_lost_are_counted_again(store: Path) -> None:
    before = usages(store)
    index = Index(store / "index")
    for table in ("accounts", "account_ids", "aliases", "places"):
        for key, _ in list(items(index, table)):
            index.delete(table, key)
    index.commit()
    index.close()
    with repairing(store) as repair:
        assert {"account", "place"} <= {finding.code for finding in repair.check().findings}
        repair.carry_out()
        assert repair.check().findings == []
    assert usages(store) == before


def test_what_waits_to_be_accounted_is_no_fault_and_is_counted_by_a_repair(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many extents that a head hides at once."""
    monkeypatch.setattr("snapfs.volume.core.REAP_NOW_MAX", 0)
    engine = EngineSubject(store, trash_hours=HOURS)
    engine.make("data", (b"g",), "file", 0o644)
    for number in range(8):
        engine.write("data", (b"g",), number * 8192, random.Random(number).randbytes(4096))
    engine.snapshot("data", "with-g")
    engine.unlink("data", (b"g",))
    engine.unlink("data", (b"f",))
    engine.run(engine.lake.commit)
    assert engine.lake.index.count("unaccounted")
    assert engine.fsck() == []
    engine.close()
    index = Index(store / "index")
    for key, _ in list(items(index, "accounts")):
        index.delete("accounts", key)
    index.commit()
    index.close()
    with repairing(store) as repair:
        repair.carry_out()
        assert repair.check().findings == []
    index = Index(store / "index")
    assert not list(items(index, "unaccounted"))
    index.close()
    engine = EngineSubject(store, trash_hours=HOURS)
    engine.reclaim()
    assert engine.fsck() == []
    engine.close()
