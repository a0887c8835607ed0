"""``snap du`` and its kin: what they say would be freed is what is freed."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from snapfs import api
from snapfs.errors import Conflict, Invalid, NotFound
from snapfs.testing.engine import EngineSubject
from snapfs.volume import past
from snapfs.volume.accounts.statement import Statement
from snapfs.volume.lake import Lake

PAGE = 4096


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A volume with 20 snapshots of a file that is written to in place and others that come and go, a clone of one of
    them that went its own way, and a volume with copies of the same bytes."""
    path = tmp_path_factory.mktemp("accounting") / "store"
    subject = EngineSubject(path, trash_hours=24.0)
    rng = random.Random(5)
    subject.create_volume("data")
    subject.make("data", (b"f",), "file", 0o644)
    subject.write("data", (b"f",), 0, rng.randbytes(64 * PAGE))
    for number in range(20):
        for _ in range(3):
            subject.write("data", (b"f",), rng.randrange(64) * PAGE, rng.randbytes(PAGE))
        subject.truncate("data", (b"f",), 64 * PAGE)
        subject.write("data", (b"f",), 64 * PAGE, rng.randbytes(2 * PAGE))  # just this snapshot has it
        name = b"n%d" % (number % 3)
        if number >= 3:
            subject.unlink("data", (name,))
        subject.make("data", (name,), "file", 0o644)
        subject.write("data", (name,), 0, rng.randbytes(20_000))
        subject.snapshot("data", f"s{number:02d}")
    subject.clone("data", "s04", "copy")
    subject.write("copy", (b"f",), 0, rng.randbytes(10 * PAGE))
    subject.snapshot("copy", "own")
    subject.create_volume("other")
    subject.make("other", (b"n",), "file", 0o644)
    content = subject.tree("data", "s10")[(b"n1",)].content
    subject.write("other", (b"n",), 0, content)
    subject.flush()
    subject.close()
    return path


@pytest.fixture
def store(template: Path, tmp_path: Path) -> Iterator[EngineSubject]:
    subprocess.run(["cp", "-a", "--sparse=always", template, tmp_path / "store"], check=True)
    subject = EngineSubject(tmp_path / "store", trash_hours=24.0)
    yield subject
    assert subject.fsck() == []
    subject.close()


def usage(store: EngineSubject, volume: str = "") -> list[api.VolumeUsage]:
    return store.run(lambda: store.service.get_usage(volume=volume))


def what_if(store: EngineSubject, *targets: str) -> api.WhatIf:
    return store.run(lambda: store.service.what_if(targets=targets))


def space(store: EngineSubject) -> api.Space:
    return store.run(store.service.get_space)


def purge(store: EngineSubject, *targets: str) -> int:
    """Delete them for good; how many stored bytes that has freed."""
    store.reclaim()
    before = store.lake.core.blocks.space.stored_bytes
    for target in targets:
        volume, _, snapshot = target.partition("@")
        if snapshot:
            store.run(lambda v=volume, s=snapshot: store.service.delete_snapshot(volume=v, snapshot=s, purge=True))  # type: ignore[misc]
        else:
            store.run(lambda v=volume: store.service.delete_volume(name=v, force=True, purge=True))  # type: ignore[misc]
    store.reclaim()
    return before - store.lake.core.blocks.space.stored_bytes


def test_what_would_be_freed_is_freed(store: EngineSubject) -> None:
    exclusive = {f"data@{one.snapshot}": one.exclusive_bytes for one in usage(store, "data")[0].usages}
    assert what_if(store, "data@s07").freed_bytes == exclusive["data@s07"] == purge(store, "data@s07")
    rng = random.Random(1)
    left = [f"data@s{number:02d}" for number in range(20) if number != 7]
    for size in (3, 1, 5, 2):
        targets = rng.sample(left, size)
        left = [target for target in left if target not in targets]
        expected = what_if(store, *targets).freed_bytes
        assert expected == purge(store, *targets), targets
    assert what_if(store, "copy", "other").freed_bytes == purge(store, "copy", "other") > 0
    volume = usage(store, "data")[0]
    assert volume.snapshots_bytes == purge(store, *left)
    assert usage(store, "data")[0].exclusive_bytes == purge(store, "data")
    assert store.lake.core.blocks.space.stored_bytes == 0


def test_usage_of_volumes(store: EngineSubject) -> None:
    found = {one.volume: one for one in usage(store)}
    assert list(found) == ["copy", "data", "other"]
    data = found["data"]
    assert data.snapshots == len(data.usages) == 20
    assert [one.snapshot for one in data.usages] == [f"s{number:02d}" for number in range(20)]
    assert data.logical_bytes == data.head.logical_bytes == 66 * PAGE + 3 * 20_000
    assert max(one.referenced_bytes for one in data.usages) < data.referenced_bytes
    assert data.head.exclusive_bytes == 0  # its last snapshot shows the same
    assert data.exclusive_bytes < data.referenced_bytes
    assert found["other"].exclusive_bytes == 0  # s10 shows the same bytes
    assert found["other"].referenced_bytes > 20_000
    assert usage(store, "copy")[0] == found["copy"]
    no_snapshots = store.run(lambda: store.service.get_usage(volume="data", snapshots=False))[0]
    assert not no_snapshots.usages
    assert no_snapshots.snapshots == 20


def test_what_is_in_the_trash_counts_until_it_goes(store: EngineSubject) -> None:
    before = what_if(store, "data@s05").freed_bytes
    assert before > 2 * PAGE
    store.remove_snapshot("data", "s05")
    data = usage(store, "data")[0]
    assert [one.snapshot for one in data.usages if one.trashed] == ["s05"]
    assert data.snapshots == 19
    assert what_if(store, "data@s05").freed_bytes == before
    assert space(store).trash_bytes == before
    store.run(lambda: store.service.empty_trash())
    store.reclaim()
    assert len(usage(store, "data")[0].usages) == 19
    store.remove_volume("other", snapshots=True)
    trashed = usage(store, "other")[0]
    assert trashed.trashed
    assert trashed.head.trashed
    store.create_volume("other")
    assert [one.trashed for one in usage(store, "other")] == [False, True]
    assert what_if(store, "other").freed_bytes == 0  # the living one is meant


def test_space_adds_up(store: EngineSubject) -> None:
    store.remove_snapshot("data", "s11")
    found = space(store)
    blocks = found.live_bytes + found.snapshots_bytes + found.trash_bytes + found.deleting_bytes + found.waiting_bytes
    assert blocks == found.stored_bytes == store.lake.core.blocks.space.stored_bytes
    assert blocks + found.seal_bytes + found.index_bytes + found.overhead_bytes == found.disk_bytes
    assert min(found.live_bytes, found.snapshots_bytes, found.trash_bytes, found.index_bytes) > 0
    assert found.raw_bytes >= found.stored_bytes // 2
    assert found.logical_bytes == sum(one.logical_bytes for one in usage(store))
    assert found.oldest_reader_seconds == 0.0


def test_space_tells_how_long_a_reader_has_been_there(store: EngineSubject) -> None:
    store.flush()
    with store.lake.index.reader():
        assert space(store).oldest_reader_seconds == 0.0  # nothing was committed since
        store.write("data", (b"f",), 0, b"more")
        store.flush()
        store.service._commits[-1] = (store.service._commits[-1][0], time.monotonic() - 60)
        number = store.lake.index.txn_number - 1
        store.service._commits.append((number, time.monotonic() - 50))
        assert 50 <= space(store).oldest_reader_seconds < 60


def test_the_cheapest_set_frees_enough(store: EngineSubject) -> None:
    possible = what_if(store, *(f"data@s{number:02d}" for number in range(19) if number != 4)).freed_bytes
    for share in (0.1, 0.6, 1.0):
        wanted = int(possible * share)
        found = store.run(lambda w=wanted: store.service.cheapest(volume="data", free_bytes=w))  # type: ignore[misc]
        assert found.freed_bytes >= wanted
        assert found == what_if(store, *found.targets)
    assert found.freed_bytes == purge(store, *found.targets)


def test_the_cheapest_set_names_just_what_it_means(store: EngineSubject) -> None:
    """A commit's bare ID is the name of its first snapshot, and means its newest."""
    git = api.GitCommit(commit="ab" * 20)
    store.create_volume("twice")
    store.make("twice", (b"f",), "file", 0o644)
    for seed in (1, 2):
        store.write("twice", (b"f",), 0, random.Random(seed).randbytes(50_000))
        store.run(lambda: store.service.create_snapshot(volume="twice", git=git))
    found = store.run(lambda: store.service.cheapest(volume="twice", free_bytes=40_000))
    assert found.targets == [f"twice@{git.commit}.1"]
    assert what_if(store, *found.targets) == api.WhatIf(
        targets=[f"twice@{git.commit}"], freed_bytes=found.freed_bytes, protected=[]
    )


def test_the_cheapest_set_has_nothing_that_is_protected(store: EngineSubject) -> None:
    def of(number: int) -> str:
        return f"s{number:02d}"

    store.run(lambda: store.service.hold_snapshot(volume="data", snapshot=of(1), hold="audit"))
    until = time.time_ns() + 10**12
    store.run(lambda: store.service.lock_snapshot(volume="data", snapshot=of(2), until_ns=until))
    store.tag("data", of(3), "v1", move=False)
    kept = {1, 2, 3, 4, 19}  # 4 was cloned, 19 is what the head stands on
    with pytest.raises(Conflict, match=r"the 15 snapshots .* free only (\d+) bytes") as refused:
        store.run(lambda: store.service.cheapest(volume="data", free_bytes=1 << 40))
    possible = int(refused.value.message.split()[-2])
    found = store.run(lambda: store.service.cheapest(free_bytes=possible))
    assert not set(found.targets) & {f"data@{of(number)}" for number in kept}
    assert found.protected == []
    asked = what_if(store, "data@s01", "data@s02", "data@s03")
    assert [line.split(" until")[0] for line in asked.protected] == ["data@s01: held by audit", "data@s02: locked"]
    whole = what_if(store, "data")
    assert whole.protected == asked.protected


@pytest.mark.parametrize("target", ["nothing", "data@nothing", "nothing@s01"])
def test_what_is_not_there(store: EngineSubject, target: str) -> None:
    with pytest.raises(NotFound):
        what_if(store, target)


def test_what_cannot_be_asked(store: EngineSubject) -> None:
    with pytest.raises(Invalid):
        what_if(store)
    with pytest.raises(NotFound):
        usage(store, "nothing")
    with pytest.raises(Invalid):
        store.run(lambda: store.service.cheapest(free_bytes=0))
    with pytest.raises(NotFound):
        store.run(lambda: store.service.cheapest(volume="nothing", free_bytes=1))


def test_who_asks_at_once_shares_an_evaluation(store: EngineSubject, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Statement] = []

    async def counted(lake: Lake) -> Statement:
        made.append(await original(lake))
        return made[-1]

    original = past.statement
    monkeypatch.setattr(past, "statement", counted)
    answers: list[list[api.VolumeUsage]] = []

    async def ask() -> None:
        answers.append(await store.service.get_usage())

    async def at_once() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(ask)

    store.run(at_once)
    assert len(made) <= 2  # the first one's; and one for all who came when it had begun
    assert len(answers) == 8
    assert all(answer == answers[0] for answer in answers)
    store.write("data", (b"f",), 0, random.Random(2).randbytes(9 * PAGE))
    assert usage(store) != answers[0]  # never one from before the question
    assert store.service._last is None


def test_optimize_leaves_the_bytes_alone(store: EngineSubject) -> None:
    before = store.tree("data")
    report = store.run(lambda: store.service.optimize(volume="data"))
    assert report.files == 4
    assert store.tree("data") == before
    with pytest.raises(Invalid):
        store.run(lambda: store.service.optimize(volume="data", bytes_per_second=-1))
