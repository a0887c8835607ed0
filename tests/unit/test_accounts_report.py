"""Figures of space from accounts, against a count by hand of every view."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import pytest

from snapfs.errors import Corrupt
from snapfs.format.accounts import Changes, Sums, collected
from snapfs.types import Epoch, VolumeId
from snapfs.volume.accounts.cheapest import EXACT_MAX, cheapest
from snapfs.volume.accounts.report import Ledger, Shown, no_rest
from snapfs.volume.accounts.views import Intervals, Members, Owners, ViewOrder, numbers


class World:
    """A random tree of epochs with views, some of them gone, and accounts; and what each view shows, counted simply."""

    def __init__(self, seed: int, epochs: int = 14, rows: int = 60) -> None:
        self.random = random.Random(seed)
        self.parents = {Epoch(n): Epoch(self.random.choice([0, n - 1, *range(n)])) for n in range(1, epochs + 1)}
        self.views = [
            Shown(epoch, VolumeId(100 + self.random.randrange(3)), head=self.random.random() < 0.3,
                  trashed=self.random.random() < 0.2)
            for epoch in self.parents
            if self.random.random() < 0.7
        ]  # fmt: skip
        self.aliases = {Epoch(50): Epoch(3), Epoch(51): Epoch(50), Epoch(52): Epoch(0)}
        self.rows = [(Sums(self.random.randrange(1, 1000), 1, 1), self._changes()) for _ in range(rows)]
        self.ledger = Ledger(self.parents, self.views, self.aliases).add(self.rows)

    def _changes(self) -> Changes:
        """Of some records: each born somewhere, and hidden from some epochs below on."""
        found: list[tuple[Epoch, int]] = []
        for _ in range(self.random.randrange(1, 4)):
            born = self.random.choice([*self.parents, *self.aliases])
            found.append((born, 1))
            below = [e for e in self.parents if e != born and self.resolve(born) in self.path(e)[1:]]
            deaths: list[Epoch] = []
            for epoch in self.random.sample(below, min(len(below), self.random.randrange(3))):
                if not any(set(self.path(epoch)) & {d} or set(self.path(d)) & {epoch} for d in deaths):
                    deaths.append(epoch)
            found += [(death, -1) for death in deaths]
        return collected(found)

    def resolve(self, epoch: Epoch) -> Epoch:
        while epoch in self.aliases:
            epoch = self.aliases[epoch]
        return epoch

    def path(self, epoch: Epoch) -> list[Epoch]:
        path = []
        while epoch:
            path.append(epoch)
            epoch = self.parents[epoch]
        return path

    def showing(self, changes: Changes) -> set[Epoch]:
        return {
            view.epoch
            for view in self.views
            if sum(change for epoch, change in changes if self.resolve(epoch) in self.path(view.epoch)) > 0
        }

    def freed(self, gone: set[Epoch]) -> int:
        shown = [(sums.stored_bytes, self.showing(changes)) for sums, changes in self.rows]
        return sum(size for size, views in shown if views and views <= gone)


@pytest.mark.parametrize("seed", range(40))
def test_figures_equal_a_simple_count(seed: int) -> None:
    world = World(seed)
    ledger = world.ledger
    for view, figures in zip(ledger.shown, ledger.views(), strict=True):
        showing = [sums.stored_bytes for sums, changes in world.rows if view.epoch in world.showing(changes)]
        assert figures.referenced_bytes == sum(showing)
        assert figures.exclusive_bytes == world.freed({view.epoch})
    for volume, sums_of in ledger.volumes().items():
        own = {view.epoch for view in world.views if view.volume == volume}
        heads = {view.epoch for view in world.views if view.volume == volume and view.head}
        showing = [sums.stored_bytes for sums, changes in world.rows if world.showing(changes) & own]
        assert sums_of.referenced_bytes == sum(showing)
        assert sums_of.exclusive_bytes == world.freed(own)
        assert sums_of.snapshots_bytes == world.freed(own - heads)
    for size in range(5):
        gone = set(world.random.sample([view.epoch for view in world.views], min(size, len(world.views))))
        assert ledger.freed(ledger.of_epochs(gone)) == world.freed(gone)


@pytest.mark.parametrize("seed", range(20))
def test_space_counts_each_account_once_by_its_best_view(seed: int) -> None:
    world = World(seed)
    space = world.ledger.space()
    assert space.total_bytes == sum(sums.stored_bytes for sums, _ in world.rows) == world.ledger.stored_bytes
    by_epoch = {view.epoch: view for view in world.views}
    found = [0, 0, 0, 0]
    for sums, changes in world.rows:
        views = [by_epoch[epoch] for epoch in world.showing(changes)]
        live = any(view.head and not view.trashed for view in views)
        kept = any(not view.trashed for view in views)
        found[0 if live else 1 if kept else 2 if views else 3] += sums.stored_bytes
    assert found == [space.live_bytes, space.snapshots_bytes, space.trash_bytes, space.deleting_bytes]


def test_views_of_an_unknown_epoch_are_damage() -> None:
    order = ViewOrder({Epoch(1): Epoch(0)}, [Epoch(1)])
    assert order.shown(((Epoch(1), 1),)) == (0, 1)
    with pytest.raises(Corrupt, match="epoch 7"):
        order.shown(((Epoch(7), 1),))


def test_a_tree_that_cannot_be_is_survived() -> None:
    order = ViewOrder({Epoch(1): Epoch(2), Epoch(2): Epoch(9), Epoch(3): Epoch(1)}, [Epoch(2), Epoch(3)])
    assert order.shown(((Epoch(1), 1),)) == (order.number[Epoch(3)], order.number[Epoch(3)] + 1)


def test_members_and_owners() -> None:
    members = Members(6, [1, 2, 4])
    assert members.hold_all((1, 3))
    assert not members.hold_all((1, 4))
    assert not members.hold_all(())
    assert members.hold_any((3, 5))
    assert not members.hold_any((0, 1, 3, 4))
    owners = Owners([VolumeId(1), VolumeId(1), VolumeId(2), VolumeId(1)])
    assert owners.of((0, 2)) == {1}
    assert owners.of((1, 3)) == {1, 2}
    assert owners.of((0, 1, 3, 4)) == {1}
    assert owners.of(()) == set()


# -- the cheapest set


def _freed(chosen: Sequence[int], needs: dict[Intervals, int]) -> int:
    return sum(size for key, size in needs.items() if set(numbers(key)) <= set(chosen))


def _random_needs(rng: random.Random, count: int, sets: int) -> dict[Intervals, int]:
    needs: dict[Intervals, int] = {}
    for _ in range(sets):
        start = rng.randrange(count)
        key: Intervals = (start, min(count, start + rng.choice([1, 1, 1, 2, 3, 8])))
        if rng.random() < 0.2 and key[1] < count - 1:
            key = (*key, count - 1, count)
        needs[key] = rng.randrange(1, 100)
    return needs


@pytest.mark.parametrize("seed", range(20))
def test_few_candidates_are_chosen_exactly(seed: int) -> None:
    rng = random.Random(seed)
    needs = _random_needs(rng, 8, 12)
    for share in (0.1, 0.5, 0.9, 1.0):
        wanted = max(1, int(sum(needs.values()) * share))
        found = cheapest(8, needs, wanted, no_rest)
        assert found is not None
        best = min(
            (size, freed)
            for size in range(9)
            for chosen in itertools.combinations(range(8), size)
            if (freed := _freed(chosen, needs)) >= wanted
        )
        assert (len(found), _freed(found, needs)) == best
        assert found == sorted(found)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [EXACT_MAX + 1, 60, 300])
def test_of_many_candidates_none_is_chosen_for_nothing(seed: int, count: int) -> None:
    rng = random.Random(seed)
    needs = _random_needs(rng, count, 3 * count)
    for share in (0.05, 0.5, 0.95):
        wanted = int(sum(needs.values()) * share)
        found = cheapest(count, needs, wanted, no_rest)
        assert found is not None
        assert _freed(found, needs) >= wanted
        for number in found[:10]:
            assert _freed([other for other in found if other != number], needs) < wanted


def test_of_many_candidates_one_large_one_is_found() -> None:
    needs: dict[Intervals, int] = {(number, number + 1): 1 for number in range(60)}
    needs[7, 8], needs[20, 30] = 100, 1000
    assert cheapest(60, needs, 90, no_rest) == [7]


def test_of_many_candidates_neighbours_are_found_that_free_only_together() -> None:
    needs: dict[Intervals, int] = {(number, number + 1): 10 for number in range(60)}
    needs[20, 24] = 1000
    assert cheapest(60, needs, 1000, no_rest) == [20, 21, 22, 23]


def test_what_is_impossible_is_none_and_nothing_is_nobody() -> None:
    assert cheapest(1, {(0, 1): 5}, 6, no_rest) is None
    assert cheapest(1, {(0, 1): 5}, 0, no_rest) == []
    assert cheapest(0, {}, 1, no_rest) is None


def test_needs_are_told_by_the_candidates_numbers() -> None:
    parents = {Epoch(n): Epoch(n - 1) for n in range(1, 6)}
    views = [Shown(epoch, VolumeId(1), head=epoch == 5, trashed=False) for epoch in parents]
    changes = [((Epoch(2), 1), (Epoch(4), -1)), ((Epoch(3), 1), (Epoch(5), -1)), ((Epoch(1), 1), (Epoch(2), -1))]
    ledger = Ledger(parents, views).add([(Sums(10, 1, 1), change) for change in changes])
    assert ledger.needs([Epoch(2), Epoch(3), Epoch(4)]) == {(0, 2): 10, (1, 3): 10}
    assert ledger.needs([Epoch(1), Epoch(4)]) == {(0, 1): 10}
