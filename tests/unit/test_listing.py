"""Lists of snapshots: pages, order, filters; while snapshots come and go."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapfs import api
from snapfs.api import GitCommit, SnapshotFilter
from snapfs.errors import Invalid, NotFound
from snapfs.store.index import Index, items, items_backward
from snapfs.testing.engine import EngineSubject
from snapfs.volume import listing, paging, snapshots

COMMITS = ["ab12" + "0" * 36, "ab12" + "1" * 36, "cd" * 20]


def page(engine: EngineSubject, **asked: Any) -> api.SnapshotPage:
    return engine.run(lambda: engine.service.list_snapshots(**asked))


def names(found: api.SnapshotPage) -> list[str]:
    return [snapshot.name for snapshot in found.snapshots]


def everything(engine: EngineSubject, **asked: Any) -> list[str]:
    """Of all pages."""
    found: list[str] = []
    token = ""
    while True:
        one = page(engine, page_token=token, **asked)
        found += names(one)
        token = one.next_page_token
        if not token:
            return found


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The time of what is made next; it stands still unless it is changed."""
    now = [1_000]
    monkeypatch.setattr(snapshots, "now_ns", lambda: now[0])
    return now


@pytest.fixture
def history(engine: EngineSubject, clock: list[int]) -> EngineSubject:
    """s0 to s6 in two volumes, at 1000, 1001..., with commits and metadata on some."""
    engine.create_volume("more")
    for number in range(7):
        git = GitCommit(commit=COMMITS[number % 3], branch="main" if number < 3 else "work") if number % 2 else None
        meta = {"even": str(number % 2 == 0), "number": str(number)}
        volume = "more" if number in (2, 5) else "data"
        engine.run(
            lambda volume=volume, name=f"s{number}", git=git, meta=meta: engine.service.create_snapshot(
                volume=volume, name=name, git=git, meta=meta
            )
        )
        clock[0] += 1
    return engine


def test_items_backward_mirrors_items(tmp_path: Path) -> None:
    index = Index(tmp_path, create=True)
    for key in (b"a", b"b", b"ba", b"b\xff", b"b\xff\xff", b"c", b"\xff", b"\xff\xff"):
        index.put("meta", key, b"1")
    for prefix in (b"", b"a", b"b", b"b\xff", b"\xff", b"x"):
        forward = [key for key, _ in items(index, "meta", prefix)]
        assert [key for key, _ in items_backward(index, "meta", prefix)] == forward[::-1]
        for before in (b"\0", b"a", b"\xff", b"\xff\xff"):
            wanted = [key for key in forward if key < prefix + before]
            assert [key for key, _ in items_backward(index, "meta", prefix, before)] == wanted[::-1]
    index.close()


@pytest.mark.parametrize("size", [0, 1, 2, 3, 7, 2000])
def test_pages_put_together_are_the_list(history: EngineSubject, size: int) -> None:
    all_names = [f"s{number}" for number in range(7)]
    assert everything(history, page_size=size) == all_names
    assert everything(history, page_size=size, newest_first=True) == all_names[::-1]
    assert everything(history, page_size=size, volume="more") == ["s2", "s5"]
    assert everything(history, page_size=size, volume="more", newest_first=True) == ["s5", "s2"]
    first = page(history, page_size=size)
    assert len(first.snapshots) == min(size or 1000, 7)
    assert bool(first.next_page_token) == (0 < size < 7)


def test_the_same_moment_and_a_clock_that_was_set_back(engine: EngineSubject, clock: list[int]) -> None:
    for name in ("a", "b", "c"):
        engine.snapshot("data", name)
    clock[0] -= 1
    engine.snapshot("data", "d")
    for size in (1, 2, 3, 4):
        assert everything(engine, volume="data", page_size=size) == ["d", "a", "b", "c"]
        assert everything(engine, volume="data", page_size=size, newest_first=True) == ["c", "b", "a", "d"]


@pytest.mark.parametrize("newest_first", [False, True])
def test_pages_stay_what_they_are_while_snapshots_come_and_go(
    history: EngineSubject, clock: list[int], newest_first: bool
) -> None:
    order = [f"s{number}" for number in range(7)]
    if newest_first:
        order.reverse()
    first = page(history, page_size=3, newest_first=newest_first)
    assert names(first) == order[:3]
    for name in (order[0], order[2], order[3]):  # before, at and after the token
        history.remove_snapshot("more" if name in ("s2", "s5") else "data", name)
    history.snapshot("data", "new")
    history.reclaim()
    second = page(history, page_size=10, newest_first=newest_first, page_token=first.next_page_token)
    assert names(second) == order[4:] + ([] if newest_first else ["new"])


def test_filters(history: EngineSubject) -> None:
    history.tag("data", "s3", "release", move=False)
    history.tag("more", "s5", "release", move=False)
    cases: list[tuple[dict[str, Any], list[str]]] = [
        ({"name_prefix": "s"}, [f"s{number}" for number in range(7)]),
        ({"name_prefix": "s3"}, ["s3"]),
        ({"commit": COMMITS[0]}, ["s3"]),
        ({"commit": "ab12"}, ["s1", "s3"]),
        ({"commit": "abcd"}, []),
        ({"branch": "work"}, ["s3", "s5"]),
        ({"tag": "release"}, ["s3", "s5"]),
        ({"tag": "release", "commit": "ab12"}, ["s3"]),
        ({"tag": "relea"}, []),
        ({"meta": {"even": "True"}}, ["s0", "s2", "s4", "s6"]),
        ({"meta": {"even": "True", "number": "4"}}, ["s4"]),
        ({"meta": {"missing": ""}}, []),
        ({"created_from_ns": 1003}, ["s3", "s4", "s5", "s6"]),
        ({"created_before_ns": 1003}, ["s0", "s1", "s2"]),
        ({"created_from_ns": 1002, "created_before_ns": 1004}, ["s2", "s3"]),
        ({"created_from_ns": 1004, "created_before_ns": 1004}, []),
        ({"created_from_ns": 1}, [f"s{number}" for number in range(7)]),
    ]
    for (wanted, expected), size in itertools.product(cases, (1, 2, 0)):
        asked = SnapshotFilter(**wanted)
        assert everything(history, filter=asked, page_size=size) == expected, wanted
        assert everything(history, filter=asked, page_size=size, newest_first=True) == expected[::-1], wanted
    for bad in ({"commit": "ab"}, {"commit": "ABCD"}, {"commit": "xyz1"}, {"created_from_ns": -1}):
        with pytest.raises(Invalid):
            page(history, filter=SnapshotFilter(**bad))


def test_a_filter_that_takes_several_turns(engine: EngineSubject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "_TURN", 3)
    for number in range(10):
        engine.snapshot("data", f"{number % 5}-{number}")
    for prefix in range(5):
        asked = SnapshotFilter(name_prefix=f"{prefix}-")
        assert everything(engine, filter=asked) == [f"{prefix}-{prefix}", f"{prefix}-{prefix + 5}"]
    assert len(everything(engine, page_size=4)) == 10


def test_who_may_see_what(history: EngineSubject) -> None:
    assert everything(history, visible=["more"]) == ["s2", "s5"]
    assert everything(history, visible=[]) == []
    assert everything(history, visible=["more"], volume="more") == ["s2", "s5"]
    with pytest.raises(NotFound):
        page(history, visible=["more"], volume="data")
    with pytest.raises(NotFound):
        page(history, volume="missing")


def test_wrong_tokens(history: EngineSubject) -> None:
    token = page(history, page_size=2).next_page_token
    other = history.run(lambda: history.service.list_ancestry(volume="data", page_size=2)).next_page_token
    assert token
    assert other
    for bad in ("x", "!", "é", token[:-2], token + "AAAA", other, "A" * 10_000):
        with pytest.raises(Invalid, match="page token"):
            page(history, page_size=2, page_token=bad)
    for asked in ({"newest_first": True}, {"volume": "data"}, {"filter": SnapshotFilter(name_prefix="s")}):
        with pytest.raises(Invalid, match="page token"):
            page(history, page_size=2, page_token=token, **asked)
    with pytest.raises(Invalid, match="page size"):
        page(history, page_size=-1)
    assert names(page(history, page_size=1, page_token=token)) == ["s2"]  # another size is another page


@given(st.text(max_size=30), st.binary(max_size=40), st.binary(max_size=60))
def test_tokens_are_bound_to_their_list(scope: str, position: bytes, noise: bytes) -> None:
    token = paging.encode_token(scope, position)
    assert paging.decode_token(scope, token) == position
    with pytest.raises(Invalid):
        paging.decode_token(scope + "x", token)
    with pytest.raises(Invalid):
        paging.decode_token(scope, noise.hex() if noise.hex() != token else "x")


class TestAncestry:
    def ancestry(self, engine: EngineSubject, **asked: Any) -> list[str]:
        found: list[str] = []
        token = ""
        while True:
            one = engine.run(lambda: engine.service.list_ancestry(page_token=token, **asked))  # noqa: B023
            found += [f"{snapshot.volume}@{snapshot.name}" for snapshot in one.snapshots]
            token = one.next_page_token
            if not token:
                return found

    @pytest.mark.parametrize("size", [0, 1, 2, 5])
    def test_across_clones(self, engine: EngineSubject, size: int) -> None:
        for name in ("one", "two", "three"):
            engine.snapshot("data", name)
        engine.clone("data", "two", "copy")
        engine.snapshot("copy", "more")
        assert self.ancestry(engine, volume="copy", page_size=size) == ["copy@more", "data@two", "data@one"]
        assert self.ancestry(engine, volume="data", snapshot="two", page_size=size) == ["data@two", "data@one"]
        assert self.ancestry(engine, volume="copy", page_size=size, visible=["copy"]) == ["copy@more"]
        with pytest.raises(NotFound):
            self.ancestry(engine, volume="copy", snapshot="missing")

    def test_a_page_whose_last_one_went(self, engine: EngineSubject) -> None:
        for number in range(5):
            engine.snapshot("data", f"s{number}")
        first = engine.run(lambda: engine.service.list_ancestry(volume="data", page_size=2))
        assert names(first) == ["s4", "s3"]
        for name in ("s3", "s2"):
            engine.remove_snapshot("data", name)
        engine.reclaim()
        engine.snapshot("data", "new")
        token = first.next_page_token
        rest = engine.run(lambda: engine.service.list_ancestry(volume="data", page_size=2, page_token=token))
        assert names(rest) == ["s1", "s0"]
        assert rest.next_page_token == ""

    def test_wrong_tokens(self, engine: EngineSubject) -> None:
        with pytest.raises(Invalid, match="page token"):
            engine.run(lambda: engine.service.list_ancestry(volume="data", page_token="x"))


def test_what_is_told_of_a_volume_and_the_store(history: EngineSubject) -> None:
    volume = history.run(lambda: history.service.get_volume(name="data"))
    assert (volume.name, volume.snapshots, volume.parent) == ("data", 5, "data@s6")
    with pytest.raises(NotFound):
        history.run(lambda: history.service.get_volume(name="missing"))
    history.write("data", (b"f",), 0, bytes(1000))
    store = history.run(history.service.get_store)
    assert (store.volumes, store.snapshots, store.dirty_bytes, store.failure) == (2, 7, 1000, "")
    assert store.free_bytes > 0
    assert store.version
    assert (store.pid, store.mountpoint, store.uptime_seconds) == (0, "", 0)
