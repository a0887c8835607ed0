"""Workloads whose every disk operation is a crash point: what programs and people do, small and deterministic."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from snapfs.api import Save
from snapfs.testing.crashing import Run, Workload
from snapfs.testing.trees import DIRECTORY, FILE, SYMLINK, Path


def noise(seed: int, size: int) -> bytes:
    """Does not compress."""
    return random.Random(seed).randbytes(size)


def new_file(run: Run, path: Path, data: bytes, volume: str = "data") -> None:
    run.content("make", volume, path, FILE, 0o644)
    run.content("write", volume, path, 0, data)


def small_files(run: Run) -> None:
    """Many small files in directories, with a sync now and then."""
    run.both("create_volume", "data")
    for number in range(48):
        directory = (b"d%d" % (number // 8),)
        if number % 8 == 0:
            run.content("make", "data", directory, DIRECTORY, 0o755)
        path = (*directory, b"f%d" % number)
        new_file(run, path, noise(number, 300 + number * 190))
        if number % 3 == 0:
            run.both("fsync", "data", path)
        if number % 12 == 11:
            run.both("flush")
        if number % 6 == 5:
            run.both("unlink", "data", (*directory, b"f%d" % (number - 2)))
    run.both("reclaim")


def overwrites(run: Run) -> None:
    """A database: pages overwritten in place, each followed by fsync; another file is written and not synced."""
    run.both("create_volume", "data")
    new_file(run, (b"db",), noise(1, 160_000))
    new_file(run, (b"log",), b"")
    run.both("fsync", "data", (b"db",))
    for number in range(40):
        chance = random.Random(number)
        page = chance.randrange(40) * 4096
        run.content("write", "data", (b"db",), page, noise(number, 4096 * chance.choice([1, 1, 2, 5])))
        run.content("write", "data", (b"log",), number * 100, noise(number, 100))
        run.both("fsync", "data", (b"db",))
        if number % 10 == 9:
            run.both("flush")
            run.both("reclaim")


def saves(run: Run) -> None:
    """As editors save: write beside, fsync, rename over; backups as hard links and by exchange."""
    run.both("create_volume", "data")
    run.content("make", "data", (b"link",), SYMLINK, 0o777, b"text")
    new_file(run, (b"text",), noise(0, 5000))
    for number in range(1, 31):
        new_file(run, (b"text.new",), noise(number, 3000 + 500 * number))
        run.both("fsync", "data", (b"text.new",))
        if number % 5 == 0:
            run.both("link", "data", (b"text",), (b"text~%d" % number,))
        swap = number % 7 == 0
        run.both("rename", "data", (b"text.new",), (b"text",), noreplace=False, exchange=swap)
        if swap:
            run.both("unlink", "data", (b"text.new",))
        run.both("setxattr", "data", (b"text",), b"user.n", b"%d" % number, create=False, replace=False)
        if number % 4 == 0:
            run.both("flush")
        if number % 10 == 0:
            run.both("reclaim")


def versions(run: Run) -> None:
    """Snapshots, tags, deletions, checkouts, clones, restores."""
    run.both("create_volume", "data")
    for number in range(12):
        new_file(run, (b"f%d" % number,), noise(number, 9000))
        run.content("write", "data", (b"f0",), number * 5000, noise(100 + number, 6000))
        run.both("snapshot", "data", f"s{number}")
        if number % 3 == 0:
            run.both("tag", "data", f"s{number}", "latest", move=True)
        if number % 4 == 1:
            run.content("write", "data", (b"f1",), 0, noise(200 + number, 20_000))
            run.both("checkout", "data", f"s{number - 1}", Save.DISCARD)
        if number % 4 == 2:
            run.both("remove_snapshot", "data", f"s{number - 2}")
            run.both("reclaim")
        if number % 4 == 3:
            run.both("clone", "data", f"s{number}", f"clone{number}")
            new_file(run, (b"more",), noise(300 + number, 30_000), f"clone{number}")
            run.both("unlink", "data", (b"f0",))
            run.both("restore", "data", f"s{number}", (b"f0",))
    run.both("rename_snapshot", "data", "s11", "last")
    run.both("remove_tag", "data", "latest")
    run.both("remove_volume", "clone3", snapshots=True)
    for number in (1, 3, 5, 7):
        run.both("remove_snapshot", "data", f"s{number}")
    run.both("reclaim")


def deletions(run: Run) -> None:
    """Snapshots and volumes into the trash, back from it, and out of it for good."""
    for turn in range(4):
        name = f"v{turn}"
        run.both("create_volume", name)
        for number in range(4):
            new_file(run, (b"f%d" % number,), noise(turn * 10 + number, 9000 + 4000 * number), name)
            run.both("snapshot", name, f"s{number}")
        run.both("tag", name, "s1", "best", move=False)
        run.both("trash_snapshot", name, "s1")
        run.both("trash_snapshot", name, "s2")
        run.both("reclaim")
        run.both("undelete_snapshot", name, "s1")
        run.both("clone", name, "s1", f"clone{turn}")
        new_file(run, (b"more",), noise(turn, 20_000), name)
        run.both("trash_volume", name)
        if turn % 2:
            run.both("reclaim")
            run.both("undelete_volume", name)
            new_file(run, (b"again",), noise(turn, 20_000), name)
            run.both("undelete_snapshot", name, "s2")
            run.both("trash_snapshot", name, "s0")
        else:
            run.both("create_volume", name)
            new_file(run, (b"other",), noise(90 + turn, 5000), name)
            run.both("undelete_volume", name)  # refused
        if turn == 2:
            run.both("expire")
            run.both("reclaim")
    run.both("expire")
    run.both("reclaim")


def truncations(run: Run) -> None:
    """Files cut, grown sparse, emptied and written anew."""
    run.both("create_volume", "data")
    for number in range(30):
        path = (b"f%d" % (number % 5),)
        if number < 5:
            new_file(run, path, noise(number, 40_000))
        run.content("truncate", "data", path, (number * 7919) % 50_000)
        run.content("write", "data", path, (number * 5003) % 60_000, noise(number, 4000))
        if number % 3 == 2:
            run.content("truncate", "data", path, 0)
            run.content("write", "data", path, 0, noise(number, 12_000))
        if number % 4 == 3:
            run.both("fsync", "data", path)
        if number % 6 == 5:
            run.both("snapshot", "data", f"s{number}")
        if number % 10 == 9:
            run.both("reclaim")
    run.both("reclaim")


def removals(run: Run) -> None:
    """Volumes that come and go; segments fill, empty, are punched and dropped."""
    for turn in range(6):
        name = f"v{turn}"
        run.both("create_volume", name)
        for number in range(5):
            new_file(run, (b"f%d" % number,), noise(turn * 10 + number, 45_000), name)
        run.both("snapshot", name, "one")
        new_file(run, (b"shared",), noise(7, 30_000), name)
        run.both("flush")
        run.both("unlink", name, (b"f1",))
        run.both("reclaim")
        if turn >= 2:
            run.both("remove_volume", f"v{turn - 2}", snapshots=True)
            run.both("reclaim")
    for turn in (4, 5):
        run.both("remove_snapshot", f"v{turn}", "one")
        run.both("reclaim")


def compactions(run: Run) -> None:
    """Small files and a file with many versions; most goes, and what is left of the segments is copied together."""
    run.both("create_volume", "data")
    new_file(run, (b"paged",), noise(1, 60_000))
    for turn in range(4):
        for number in range(14):
            new_file(run, (b"f%d-%d" % (turn, number),), noise(turn * 100 + number, 600 + 700 * number))
        for number in range(4):
            run.content("write", "data", (b"paged",), (turn * 4 + number) % 14 * 4096, noise(turn + number, 4096))
            run.both("snapshot", "data", f"s{turn}-{number}")
        for number in range(14):
            if number % 5:
                run.both("unlink", "data", (b"f%d-%d" % (turn, number),))
        for number in (2, 0, 1):
            run.both("remove_snapshot", "data", f"s{turn}-{number}")
        run.both("compact")
        if turn == 2:
            run.both("clone", "data", "s1-3", "clone")
            run.both("remove_snapshot", "data", "s0-3")
    run.both("remove_volume", "clone", snapshots=True)
    run.both("compact")


def shrinkings(run: Run) -> None:
    """The index is copied without its free pages, again and again, amid what goes on."""
    run.both("create_volume", "data")
    for turn in range(4):
        for number in range(6):
            new_file(run, (b"f%d-%d" % (turn, number),), noise(turn * 10 + number, 3000 * number + 100))
        run.both("snapshot", "data", f"s{turn}")
        run.both("shrink")
        run.both("unlink", "data", (b"f%d-1" % turn,))
        if turn % 2:
            run.both("remove_snapshot", "data", f"s{turn - 1}")
            run.both("flush")  # what is freed waits for a number that the copy does not have
            run.both("shrink")
            run.both("reclaim")
    run.both("compact")
    run.both("shrink")


def random_steps(seed: int, steps: int = 140) -> Workload:
    """Of the kinds that the oracle's machine knows, those that it does not refuse."""

    def random_workload(run: Run) -> None:
        chance = random.Random(seed)
        run.both("create_volume", "data")
        for number in range(steps):
            _random_step(run, chance, number)
        run.both("reclaim")

    random_workload.__name__ = f"random_{seed}"
    return random_workload


def _random_step(run: Run, chance: random.Random, number: int) -> None:
    volumes = run.oracle.volumes
    name = chance.choice(sorted(volumes))
    walk = list(volumes[name].root.walk())
    directories = [path for path, node in walk if node.kind == DIRECTORY and len(path) < 3]
    files = [path for path, node in walk if node.kind == FILE]
    snapshots = sorted(volumes[name].snapshots)
    place = (*chance.choice(directories), b"n%d" % number)
    size = chance.choice([10, 3000, 9000, 30_000, 90_000])
    steps: list[Callable[[], object]] = [
        lambda: new_file(run, place, noise(number % 9, size), name),
        lambda: new_file(run, place, noise(number, size), name),
        lambda: run.content("make", name, place, DIRECTORY, 0o755),
        lambda: run.both("flush"),
        lambda: run.both("snapshot", name, f"s{number}"),
        lambda: run.both("reclaim"),
    ]
    if files:
        file, other = chance.choice(files), chance.choice(files)
        steps += [
            lambda: run.content("write", name, file, chance.randrange(60_000), noise(number, size)),
            lambda: run.content("write", name, file, chance.randrange(10) * 4096, noise(number, 4096)),
            lambda: run.content("truncate", name, file, chance.choice([0, 5000, 70_000])),
            lambda: run.both("fsync", name, file),
            lambda: run.both("fsync", name, file),
            lambda: run.both("unlink", name, file),
            lambda: run.both("link", name, file, place),
            lambda: run.both("rename", name, file, other, noreplace=False, exchange=chance.random() < 0.3),
            lambda: run.both("chmod", name, file, 0o600),
        ]
    if snapshots:
        snapshot = chance.choice(snapshots)
        steps += [
            lambda: run.both("remove_snapshot", name, snapshot),
            lambda: run.both("checkout", name, snapshot, Save.DISCARD),
            lambda: run.both("restore", name, snapshot, ()),
            lambda: run.both("tag", name, snapshot, f"t{number % 3}", move=True),
            lambda: run.both("clone", name, snapshot, f"v{number}") if len(volumes) < 4 else None,
        ]
    if len(volumes) > 2:
        steps.append(lambda: run.both("remove_volume", name, snapshots=True))
    chance.choice(steps)()


NAMED: Final[list[Workload]] = [
    small_files, overwrites, saves, versions, deletions, truncations, removals, compactions, shrinkings,
]  # fmt: skip
