"""Paths through the tree of epochs, and what is shared between them; how many snapshots there are."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path

import pytest

from snapfs.store.index import Index
from snapfs.testing.engine import EngineSubject
from snapfs.types import Epoch, VolumeId
from snapfs.versions.epochs import ROOT, Chain, Epochs
from snapfs.versions.epochs import Path as EpochPath

VOLUME = VolumeId(7)


@pytest.fixture
def epochs(tmp_path: Path) -> Epochs:
    directory = tmp_path / "index"
    directory.mkdir()
    return Epochs(Index(directory, create=True))


def ancestry(epochs: Epochs, epoch: Epoch) -> list[Epoch]:
    """The plain way: one parent after the other."""
    found = [epoch]
    while (parent := epochs.parents()[found[-1]]) != ROOT:
        found.append(parent)
    return found[::-1]


@pytest.mark.parametrize("seed", range(20))
def test_a_path_is_the_same_whatever_is_near(epochs: Epochs, seed: int) -> None:
    dice = random.Random(seed)
    known = [epochs.create(ROOT, VOLUME)]
    paths = [epochs.path(known[0])]
    for _ in range(60):
        parent = dice.choice([known[-1], known[-1], *known])  # long lines with branches
        epoch = epochs.create(parent, VOLUME)
        known.append(epoch)
        near = dice.choice([None, *paths])
        extended = dice.random() < 0.5
        path = epochs.extend(epochs.path(parent, near), epoch) if extended else epochs.path(epoch, near)
        assert list(path) == ancestry(epochs, epoch)
        paths.append(path)
    for path in paths:  # no other one's making has changed it
        expected = ancestry(epochs, path.last)
        assert list(path) == expected
        assert [epoch for epoch in known if epoch in path] == expected
        assert [path.below(epoch) for epoch in expected] == [ROOT, *expected[:-1]]
        other = dice.choice(paths)
        assert path.apart(other) == other.lend().apart(path) == sorted({*path} ^ {*other})
    nothing = EpochPath(Chain([]), ROOT)
    assert paths[0].apart(nothing) == nothing.apart(paths[0]) == list(paths[0])


def test_a_lent_path_keeps_an_epoch_that_leaves_the_tree(epochs: Epochs) -> None:
    line = [epochs.create(ROOT, VOLUME)]
    for _ in range(4):
        line.append(epochs.create(line[-1], VOLUME))
    path = epochs.path(line[-1])
    lent = path.lend()
    again = lent.lend()
    epochs.doom(line[2])
    epochs.remove(line[2])
    assert list(path) == [line[0], line[1], line[3], line[4]]
    assert list(lent) == list(again) == line
    assert line[2] in lent
    assert lent.below(line[3]) == line[2]
    assert line[2] not in path
    longer = epochs.extend(path, epochs.create(line[-1], VOLUME))
    assert list(longer) == [*list(path), longer.last]
    assert longer.last not in lent


def test_what_is_appended_is_not_on_a_lent_path() -> None:
    chain = Chain([Epoch(1), Epoch(3)])
    lent = EpochPath(chain, Epoch(3)).lend()
    chain.append(Epoch(5))
    assert list(lent) == [1, 3]
    assert Epoch(5) not in lent


def test_snapshots_are_counted_as_they_come_and_go(engine: EngineSubject) -> None:
    service, lake = engine.service, engine.lake

    def counted() -> int:
        volume = lake.volumes.get("data")
        found = lake.snapshots.count(volume)
        assert found == len(lake.snapshots.names(volume))
        return found

    assert counted() == 0
    for name in ("one", "two", "three"):
        engine.run(partial(service.create_snapshot, volume="data", name=name))
    assert counted() == 3
    engine.run(lambda: service.rename_snapshot(volume="data", snapshot="two", name="zwei"))
    assert counted() == 3
    volume = lake.volumes.get("data")
    for name, purge in (("one", True), ("zwei", False)):
        lake.trash.delete_snapshot(volume, lake.snapshots.resolve(volume, name), purge=purge)
    assert counted() == 1
    engine.run(lambda: lake.commit())
    lake.snapshots.look_again()  # as after a commit that failed
    assert counted() == 1
