"""Requests with an idempotency key: sent again, they make nothing twice."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
from blake3 import blake3

from snapfs import api
from snapfs.api import GitCommit
from snapfs.errors import AlreadyExists, Invalid, NotFound
from snapfs.store.index import items
from snapfs.testing.engine import EngineSubject
from snapfs.volume import once as module
from snapfs.volume.once import Once

COMMIT = "ab12" + "0" * 36


def once(key: str, content: str = "") -> Once:
    return Once(blake3(key.encode()).digest(), blake3(content.encode()).digest())


def snapshot(engine: EngineSubject, key: Once | None, name: str = "", git: GitCommit | None = None) -> api.Snapshot:
    return engine.run(lambda: engine.service.create_snapshot(volume="data", name=name, git=git, once=key))


def kept(engine: EngineSubject) -> int:
    found = [sum(1 for _ in items(engine.lake.index, table)) for table in ("requests", "requests_by_time")]
    assert found[0] == found[1]
    return found[0]


@pytest.mark.parametrize("again", [lambda engine: None, EngineSubject.reopen, EngineSubject.crash])
def test_a_retry_is_answered_with_what_was_made(
    engine: EngineSubject, again: Callable[[EngineSubject], None]
) -> None:
    service = engine.service
    made = snapshot(engine, once("1"), "one")
    volume = engine.run(lambda: service.create_volume(name="more", once=once("2")))
    clone = engine.run(lambda: service.clone(volume="data", snapshot="one", name="copy", once=once("3")))
    again(engine)
    service = engine.service
    assert snapshot(engine, once("1"), "one") == made
    assert engine.run(lambda: service.create_volume(name="more", once=once("2"))) == volume
    assert engine.run(lambda: service.clone(volume="data", snapshot="one", name="copy", once=once("3"))) == clone
    assert made.created
    assert [found.name for found in engine.run(service.list_volumes)] == ["copy", "data", "more"]
    assert list(engine.listed("data")) == ["one"]
    with pytest.raises(AlreadyExists):
        snapshot(engine, once("4"), "one")  # another request
    assert kept(engine) == 3


def test_what_a_crash_took_is_made_again(engine: EngineSubject, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process dies between the request's step and its commit: neither the snapshot nor its record is there."""
    engine.flush()

    async def never() -> None:
        raise trio.TooSlowError  # in place of the process's end

    monkeypatch.setattr(engine.lake, "commit", never)
    with pytest.raises(trio.TooSlowError):
        snapshot(engine, once("1"))
    engine.crash()
    assert engine.listed("data") == {}
    assert kept(engine) == 0
    made = snapshot(engine, once("1"))
    assert snapshot(engine, once("1")).name == made.name
    assert len(engine.listed("data")) == 1


def test_unnamed_snapshots_and_those_of_a_commit(engine: EngineSubject) -> None:
    name = snapshot(engine, once("1")).name
    engine.write("data", (b"f",), 0, b"changed")
    assert snapshot(engine, once("1")).name == name
    git = GitCommit(commit=COMMIT)
    assert snapshot(engine, once("2"), git=git).created
    assert snapshot(engine, once("2"), git=git).created
    found = snapshot(engine, once("3"), git=git)  # another request, which finds the commit's snapshot
    assert (found.name, found.created) == (COMMIT, False)
    engine.write("data", (b"f",), 0, b"changed again")
    again = snapshot(engine, once("3"), git=git)
    assert (again.name, again.created) == (COMMIT, False)
    assert len(engine.listed("data")) == 2


def test_a_key_is_for_one_request(engine: EngineSubject) -> None:
    snapshot(engine, once("1", "this"), "one")
    with pytest.raises(Invalid, match="request_id was used for another request"):
        snapshot(engine, once("1", "that"), "two")
    with pytest.raises(Invalid):
        engine.run(lambda: engine.service.create_volume(name="more", once=once("1", "that")))
    with pytest.raises(ValueError, match="32 bytes"):
        Once(b"short", bytes(32))


def test_what_was_made_may_change_or_go(engine: EngineSubject) -> None:
    snapshot(engine, once("1"), "one")
    engine.rename_snapshot("data", "one", "renamed")
    assert snapshot(engine, once("1"), "one").name == "renamed"
    engine.remove_snapshot("data", "renamed")
    engine.reclaim()
    with pytest.raises(NotFound, match="that this request made was deleted since"):
        snapshot(engine, once("1"), "one")
    engine.run(lambda: engine.service.create_volume(name="more", once=once("2")))
    engine.remove_volume("more", snapshots=False)
    with pytest.raises(NotFound, match="that this request made was deleted since"):
        engine.run(lambda: engine.service.create_volume(name="more", once=once("2")))
    snapshot(engine, once("3"), "last")
    engine.remove_volume("data", snapshots=True)
    with pytest.raises(NotFound, match="that this request made was deleted since"):
        snapshot(engine, once("3"), "last")
    engine.create_volume("data")


def test_what_failed_may_be_tried_again(engine: EngineSubject) -> None:
    engine.snapshot("data", "one")
    with pytest.raises(AlreadyExists):
        snapshot(engine, once("1"), "one")
    engine.remove_snapshot("data", "one")
    assert snapshot(engine, once("1"), "one").created


def test_two_calls_at_once_with_one_key_make_one_snapshot(engine: EngineSubject) -> None:
    names: list[str] = []

    async def call() -> None:
        names.append((await engine.service.create_snapshot(volume="data", once=once("1"))).name)

    async def play() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(call)

    engine.write("data", (b"f",), 0, bytes(100_000))
    engine.run(play)
    assert len(names) == 5
    assert list(engine.listed("data")) == [names[0]] == list(set(names))


def test_old_requests_are_forgotten(engine: EngineSubject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REQUESTS_MAX", 3)
    for number in range(5):
        snapshot(engine, once(str(number)), f"s{number}")
    assert kept(engine) == 3
    with pytest.raises(AlreadyExists):
        snapshot(engine, once("0"), "s0")
    assert snapshot(engine, once("4"), "s4").name == "s4"
    later = module.now_ns() + (module.KEPT_SECONDS + 1) * 10**9
    monkeypatch.setattr(module, "now_ns", lambda: later)
    with pytest.raises(AlreadyExists):
        snapshot(engine, once("4"), "s4")
    snapshot(engine, once("4"), "s5")  # the same key, a day later: a new request
    assert kept(engine) == 1
    assert snapshot(engine, once("4"), "s5").name == "s5"
