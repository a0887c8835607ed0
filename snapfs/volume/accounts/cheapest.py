"""Which snapshots to delete to free so many bytes.  Pure.

Given is what only the candidates show, by which of them (``Ledger.needs``): bytes are freed when all of theirs are
chosen.  To find the fewest candidates that free enough is a covering problem without a quick exact answer.  So up to 12
candidates every choice is tried; with more, several greedy ones are, and the best of them, with nothing in it
that it can do without, is the answer.

Invariants:
  * Whatever is answered frees at least what was asked; taking any one out of it would free too little.
  * Of answers with equally many the one that frees least counts: it is the nearest to what was asked.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import accumulate
from typing import Final

from snapfs.volume.accounts.views import Intervals, Members, numbers

EXACT_MAX: Final = 12
"""Candidates up to which every choice is tried: 4,096 of them."""

RUN_MAX: Final = 64
"""Neighbours that are tried together; more go together when they are all that is left."""

_AT_ONCE: Final = 20
"""Of so many candidates one goes in a round of those that can be done without; of the last ones each by itself."""

Needs = dict[Intervals, int]
"""Bytes, by the candidates that must all go for them: as intervals of their numbers."""


def cheapest(count: int, needs: Needs, wanted_bytes: int, rest: Callable[[], None]) -> list[int] | None:
    """The fewest candidates whose deletion frees so much.

    Args:
        count: of candidates, which are numbered from 0 on, neighbours next to each other.

    Returns:
        They, ascending; None: all of them together free too little.
    """
    if sum(needs.values()) < wanted_bytes:
        return None
    if wanted_bytes <= 0:
        return []
    few = count <= EXACT_MAX
    return sorted(_exact(count, needs, wanted_bytes) if few else _greedy(count, needs, wanted_bytes, rest))


def freed(count: int, chosen: Collection[int], needs: Needs) -> int:
    members = Members(count, chosen)
    return sum(stored_bytes for key, stored_bytes in needs.items() if members.hold_all(key))


def _exact(count: int, needs: Needs, wanted_bytes: int) -> list[int]:
    """Of every choice what it frees: that of each smaller one is added, one candidate after the other."""
    sums = [0] * (1 << count)
    for key, stored_bytes in needs.items():
        sums[sum(1 << number for number in numbers(key))] += stored_bytes
    for number in range(count):
        bit = 1 << number
        for choice in range(1 << count):
            if choice & bit:
                sums[choice] += sums[choice ^ bit]
    enough = (choice for choice in range(1 << count) if sums[choice] >= wanted_bytes)
    best = min(enough, key=lambda choice: (choice.bit_count(), sums[choice], choice))
    return [number for number in range(count) if best >> number & 1]


def _greedy(count: int, needs: Needs, wanted_bytes: int, rest: Callable[[], None]) -> Collection[int]:
    starts = [set(range(count)), *_starts(count, needs, wanted_bytes, rest)]
    answers = [_prune(count, start, needs, wanted_bytes, rest) for start in starts]
    return min(answers, key=lambda answer: (len(answer), freed(count, answer, needs), sorted(answer)))


def _starts(count: int, needs: Needs, wanted_bytes: int, rest: Callable[[], None]) -> Iterator[set[int]]:
    """Choices that free enough, from runs of neighbours: the shortest run that does alone, and as many as it takes,
    those first that free most for each of them, or most."""
    runs = _runs(count, needs, rest)
    alone = [run for run in runs if runs[run] >= wanted_bytes]
    if alone:
        start, end = min(alone, key=lambda run: (run[1] - run[0], runs[run], run))
        yield set(range(start, end))
    for weight in (_by_density, _by_bytes):
        order = sorted(runs, key=lambda run, weight=weight: weight(run, runs[run]))  # type: ignore[misc]
        low, high = 0, len(order)
        while low < high:  # the more runs, the more they free
            rest()
            middle = (low + high) // 2
            if freed(count, _all_of(order[:middle]), needs) >= wanted_bytes:
                high = middle
            else:
                low = middle + 1
        taken = _all_of(order[:low])
        if freed(count, taken, needs) >= wanted_bytes:
            yield taken


def _by_density(run: tuple[int, int], freed_bytes: int) -> tuple[float, tuple[int, int]]:
    return -freed_bytes / (run[1] - run[0]), run


def _by_bytes(run: tuple[int, int], freed_bytes: int) -> tuple[float, tuple[int, int]]:
    return -freed_bytes, run


def _all_of(runs: Sequence[tuple[int, int]]) -> set[int]:
    return {number for start, end in runs for number in range(start, end)}


def _runs(count: int, needs: Needs, rest: Callable[[], None]) -> dict[tuple[int, int], int]:
    """Of each run (start, end) of at most ``RUN_MAX`` neighbours what it frees, if that is more than the runs inside
    it do."""
    by_start: dict[int, list[tuple[int, int]]] = {}
    for key, stored_bytes in needs.items():
        by_start.setdefault(key[0], []).append((key[-1], stored_bytes))
    found: dict[tuple[int, int], int] = {}
    ends = [0] * (count + 1)
    """What needs no neighbour before ``start`` and ends there."""
    for start in range(count - 1, -1, -1):
        rest()
        fresh = {end for end, _ in by_start.get(start, ())}
        for end, stored_bytes in by_start.get(start, ()):
            ends[end] += stored_bytes
        held = 0
        for end in range(start + 1, min(count, start + RUN_MAX) + 1):
            held += ends[end]
            if end in fresh:
                found[start, end] = held
    return found


def _prune(
    count: int, chosen: set[int], needs: Needs, wanted_bytes: int, rest: Callable[[], None]
) -> set[int]:  # fmt: skip
    """Without what it can do without: again and again that goes whose absence loses least.  Losses only shrink, so
    that at the end none can go."""
    members = Members(count, chosen)
    kept = set(chosen)
    alive = [(key, size) for key, size in needs.items() if members.hold_all(key)]
    spare_bytes = sum(size for _, size in alive) - wanted_bytes
    rises = [0] * (count + 1)
    """Of what a candidate's absence loses, by how much it is more than its neighbour's before it."""
    for key, size in alive:
        _rise(rises, key, size)
    batch = count
    while batch:
        rest()
        losses = list(accumulate(rises))
        batch = min(batch, 1 + len(kept) // _AT_ONCE)
        going = heapq.nsmallest(batch, kept, key=losses.__getitem__)
        if not going or sum(losses[number] for number in going) > spare_bytes:
            batch = min(batch, len(going)) // 2
            continue
        kept.difference_update(going)
        gone = Members(count, going)
        left = []
        for one in alive:
            if gone.hold_any(one[0]):
                _rise(rises, one[0], -one[1])
                spare_bytes -= one[1]
            else:
                left.append(one)
        alive = left
    return kept


def _rise(rises: list[int], key: Intervals, size: int) -> None:
    for at in range(0, len(key), 2):
        rises[key[at]] += size
        rises[key[at + 1]] -= size
