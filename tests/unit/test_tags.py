"""Tags: further names of snapshots, in one namespace with their names."""

from __future__ import annotations

import pytest

from snapfs import api
from snapfs.api import GitCommit
from snapfs.errors import AlreadyExists, Conflict, Invalid, NameTooLong, NotFound
from snapfs.format import keys, records
from snapfs.store.index import items
from snapfs.testing.engine import EngineSubject
from snapfs.volume import snapshots

COMMIT = "ab12" + "0" * 36


def tag(engine: EngineSubject, snapshot: str, name: str, *, move: bool = False) -> api.Snapshot:
    return engine.run(
        lambda: engine.service.tag_snapshot(volume="data", snapshot=snapshot, tag=name, move=move)
    )


def test_a_tag_is_a_further_name(engine: EngineSubject) -> None:
    engine.snapshot("data", "one")
    engine.write("data", (b"f",), 0, b"later")
    engine.snapshot("data", "two")
    assert tag(engine, "one", "v1").tags == ["v1"]
    assert tag(engine, "v1", "best").tags == ["best", "v1"]
    engine.crash()
    found = engine.run(lambda: engine.service.get_snapshot(volume="data", snapshot="v1"))
    assert (found.name, found.tags) == ("one", ["best", "v1"])
    assert engine.tree("data", "best")[b"f",].content == b""
    engine.checkout("data", "v1", api.Save.REFUSE)
    engine.clone("data", "best", "copy")
    assert engine.tree("copy") == engine.tree("data") == engine.tree("data", "one")
    engine.rename_snapshot("data", "v1", "first")
    assert engine.listed("data") == {"first": ["best", "v1"], "two": []}


def test_names_and_tags_do_not_meet(engine: EngineSubject) -> None:
    engine.snapshot("data", "one")
    engine.snapshot("data", "two")
    tag(engine, "one", "v1")
    for snapshot, name in (("one", "two"), ("one", "one"), ("two", "v1")):
        with pytest.raises(AlreadyExists):
            tag(engine, snapshot, name)
    with pytest.raises(AlreadyExists, match="has a tag 'v1' already"):
        engine.snapshot("data", "v1")
    for old in ("one", "two"):
        with pytest.raises(AlreadyExists):
            engine.rename_snapshot("data", old, "v1")
    with pytest.raises(AlreadyExists):
        tag(engine, "one", "two", move=True)
    assert tag(engine, "two", "v1", move=True).tags == ["v1"]
    assert engine.listed("data") == {"one": [], "two": ["v1"]}
    engine.clone("data", "one", "copy")
    engine.snapshot("copy", "v1")  # another volume


def test_a_name_that_is_made_up_is_none_of_the_tags(engine: EngineSubject) -> None:
    first = engine.run(lambda: engine.service.create_snapshot(volume="data")).name
    engine.rename_snapshot("data", first, "renamed")
    tag(engine, "renamed", first)
    assert engine.run(lambda: engine.service.create_snapshot(volume="data")).name != first


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".snap", "a/b", "a@b", "-a", "a\nb", "\udc80", COMMIT, f"{COMMIT}.2", "cd" * 32]
)
def test_bad_tags(engine: EngineSubject, name: str) -> None:
    engine.snapshot("data", "one")
    with pytest.raises(Invalid):
        tag(engine, "one", name)
    assert engine.listed("data") == {"one": []}


def test_limits(engine: EngineSubject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "TAGS_MAX", 3)
    engine.snapshot("data", "one")
    with pytest.raises(NameTooLong):
        tag(engine, "one", "é" * 128)
    for name in ("c", "b", "a"):
        tag(engine, "one", name)
    with pytest.raises(Conflict, match="3 tags"):
        tag(engine, "one", "d")
    assert tag(engine, "one", "a").tags == ["a", "b", "c"]  # it has it: nothing to refuse
    engine.run(lambda: engine.service.delete_tag(volume="data", tag="b"))
    assert tag(engine, "one", "d").tags == ["a", "c", "d"]


def test_removing(engine: EngineSubject) -> None:
    engine.snapshot("data", "release-1")
    tag(engine, "release-1", "stable")
    with pytest.raises(NotFound) as caught:
        engine.remove_tag("data", "stabel")
    assert "stable" in caught.value.hint
    with pytest.raises(NotFound):
        engine.remove_tag("data", "release-1")  # its name is no tag
    engine.remove_tag("data", "stable")
    with pytest.raises(NotFound):
        engine.tree("data", "stable")
    tag(engine, "release-1", "stable")
    engine.remove_snapshot("data", "stable")
    assert list(items(engine.lake.index, "tags")) == []
    engine.snapshot("data", "stable")


def test_tags_of_a_removed_volume_go(engine: EngineSubject) -> None:
    engine.snapshot("data", "one")
    tag(engine, "one", "v1")
    engine.remove_volume("data", snapshots=True)
    for table in ("tags", "created", "names", "snapshots"):
        assert list(items(engine.lake.index, table)) == []
    engine.create_volume("data")


def test_carried_snapshots_leave_tags_where_they_are(engine: EngineSubject) -> None:
    engine.run(lambda: engine.service.create_snapshot(volume="data", git=GitCommit(commit=COMMIT)))
    tag(engine, COMMIT, "v1")
    new = "cd" * 20
    done = engine.run(
        lambda: engine.service.carry_snapshots(volume="data", rewritten=[(COMMIT, GitCommit(commit=new))])
    )
    assert done.carried[0].tags == []
    assert engine.listed("data") == {COMMIT: ["v1"], new: []}


def test_a_tag_wins_over_a_commit_prefix_and_loses_to_a_name(engine: EngineSubject) -> None:
    engine.run(lambda: engine.service.create_snapshot(volume="data", git=GitCommit(commit=COMMIT)))
    engine.snapshot("data", "other")
    tag(engine, "other", "ab12")
    found = engine.run(lambda: engine.service.get_snapshot(volume="data", snapshot="ab12"))
    assert found.name == "other"


def test_near_tags_are_suggested(engine: EngineSubject) -> None:
    engine.snapshot("data", "one")
    tag(engine, "one", "production")
    with pytest.raises(NotFound) as caught:
        engine.tree("data", "prodution")
    assert "production" in caught.value.hint


class TestFsck:
    """The checks that the tables of tags and times have: what they find, and that it goes when it is mended."""

    @pytest.mark.parametrize("table", ["tags", "created"])
    def test_entries_that_are_missing_or_too_many(self, engine: EngineSubject, table: str) -> None:
        engine.snapshot("data", "one")
        tag(engine, "one", "v1")
        index = engine.lake.index
        (key, payload), *_ = items(index, table)
        index.delete(table, key)
        assert engine.fsck()
        index.put(table, key, payload)
        assert engine.fsck() == []
        index.put(table, key[:8] + b"x" * (len(key) - 8), keys.u64(1))
        assert engine.fsck()
        index.delete(table, key[:8] + b"x" * (len(key) - 8))

    def test_a_tag_that_is_a_name(self, engine: EngineSubject) -> None:
        engine.snapshot("data", "one")
        key = engine.lake.snapshots._label_key(engine.lake.volumes.get("data"), "one")
        engine.lake.index.put("tags", key, keys.u64(1))
        assert any("also a snapshot's name" in finding for finding in engine.fsck())
        engine.lake.index.delete("tags", key)

    def test_requests_and_events(self, engine: EngineSubject) -> None:
        index = engine.lake.index
        index.put("requests_by_time", bytes(40), records.PRESENT)
        assert engine.fsck() == ["request: time 0 leads to no request"]
        index.delete("requests_by_time", bytes(40))
        payload = index.get("events", keys.u64(1))
        assert payload is not None
        index.put("events", keys.u64(100), payload)
        assert "event: event 100 has another number" in engine.fsck()
        index.delete("events", keys.u64(100))
