"""kill -9 of a real process at every batch of a deletion and of a compaction: whoever opens the store next goes on, and
nothing is lost, damaged or left behind."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from snapfs.format import keys
from snapfs.store.index import items
from snapfs.testing import dying
from snapfs.testing.engine import EngineSubject
from snapfs.testing.trees import FILE, Tree

SNAPSHOTS = 12
FILES = 10
SMALL_FILES = 8
QUICK_MOMENTS = 10
JOBS = ["delete", "compact"]
SLACK = 1.1
"""Of what segments may take more than after work that nobody interrupted: another end of the newest segment."""


@dataclass
class Prepared:
    """A store in which much is to be deleted, and what must stay."""

    store: Path
    job: str
    trees: dict[str, Tree]
    """Of the head (empty name) and of each snapshot that is kept."""
    moments: int
    stored_bytes: int
    segment_bytes: int
    """On the disk; both of them when all work is done."""


def build(place: Path) -> dict[str, Tree]:
    """Small files and pages changed in place, so that little can be punched alone; snapshots, one cloned from."""
    subject = EngineSubject(place, limits=dying.LIMITS)
    noise = random.Random(1)
    subject.create_volume("data")
    for number in range(FILES):
        subject.make("data", (b"f%d" % number,), FILE, 0o644)
        subject.write("data", (b"f%d" % number,), 0, noise.randbytes(30_000))
    for number in range(SNAPSHOTS):
        for file in range(FILES):
            subject.write("data", (b"f%d" % file,), noise.randrange(6) * 4096, noise.randbytes(8192))
        for small in range(SMALL_FILES):
            subject.make("data", (b"small%d-%d" % (number, small),), FILE, 0o644)
            subject.write("data", (b"small%d-%d" % (number, small),), 0, noise.randbytes(700 + 300 * small))
            if number and small:
                subject.unlink("data", (b"small%d-%d" % (number - 1, small),))
        if number % 3 == 2:
            subject.truncate("data", (b"f%d" % (number // 3),), 0)
            subject.write("data", (b"f%d" % (number // 3),), 0, noise.randbytes(20_000))
        subject.snapshot("data", f"s{number}")
    subject.clone("data", "s5", dying.DELETED)
    subject.write(dying.DELETED, (b"f9",), 0, noise.randbytes(50_000))
    subject.snapshot(dying.DELETED, "mine")
    subject.flush()
    subject.seal()
    found = kept(subject)
    subject.close()
    return found


def kept(subject: EngineSubject) -> dict[str, Tree]:
    return {name: subject.tree("data", name) for name in ("", *sorted(dying.KEPT))}


def segment_bytes(store: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in (store / "segments").iterdir())


def copied(store: Path, target: Path) -> Path:
    subprocess.run(["cp", "-a", "--sparse=always", store, target], check=True)
    return target


def start(store: Path, job: str, moment: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "snapfs.testing.dying", str(store), job, str(moment)]
    return subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)


@pytest.fixture(params=JOBS)
def prepared(request: pytest.FixtureRequest, place: Path) -> Prepared:
    store = place / "store"
    trees = build(store)
    done = copied(store, place / "done")
    before = segment_bytes(done)
    ended = start(done, request.param, 0)
    assert ended.returncode == 0, ended.stderr
    subject = EngineSubject(done, limits=dying.LIMITS)
    stored = subject.stored_bytes()
    subject.close()
    after = segment_bytes(done)
    assert after < before * 0.8, "nothing was given back"
    return Prepared(store, request.param, trees, int(ended.stdout), stored, after)


def check(one: Prepared, moment: int, target: Path) -> None:
    """Kill at the moment; then the store is sound, and who goes on comes to the same end."""
    store = copied(one.store, target)
    killed = start(store, one.job, moment)
    assert killed.returncode == -signal.SIGKILL, f"moment {moment}: {killed.returncode} {killed.stderr}"
    subject = EngineSubject(store, disk=dying.DISKS[one.job](), limits=dying.LIMITS)
    try:
        _sound(subject, one, moment)
        subject.run(partial(dying.work, subject.lake, one.job))
        subject.reclaim()
        _sound(subject, one, moment)
        assert subject.stored_bytes() == one.stored_bytes, f"moment {moment}"
        assert segment_bytes(store) <= one.segment_bytes * SLACK, f"moment {moment}"
        known = {f"{keys.from_u64(key):016d}.seg" for key, _ in items(subject.lake.index, "segments")}
        assert {path.name for path in (store / "segments").iterdir()} == known, f"moment {moment}: left behind"
    finally:
        subject.close()
        subprocess.run(["rm", "-r", store], check=True)


def _sound(subject: EngineSubject, one: Prepared, moment: int) -> None:
    assert subject.fsck() == [], f"moment {moment}"
    assert kept(subject) == one.trees, f"moment {moment}"


def check_all(one: Prepared, moments: Iterable[int], place: Path) -> None:
    for moment in moments:
        check(one, moment, place / f"killed-{moment}")


def test_some_kills(prepared: Prepared, place: Path) -> None:
    assert prepared.moments > 100
    step = prepared.moments / QUICK_MOMENTS
    check_all(prepared, [1 + int(number * step) for number in range(QUICK_MOMENTS)], place)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_every_kill(prepared: Prepared, place: Path) -> None:
    check_all(prepared, range(1, prepared.moments + 1), place)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_one_kill_after_the_other(prepared: Prepared) -> None:
    """Each process comes a little further than the one before, until one is through."""
    store, deaths, chance = prepared.store, 0, random.Random(2)
    while start(store, prepared.job, chance.randrange(40, 200)).returncode:
        deaths += 1
        subject = EngineSubject(store, disk=dying.DISKS[prepared.job](), limits=dying.LIMITS)
        _sound(subject, prepared, deaths)
        subject.close()
        assert deaths < prepared.moments
    assert deaths > 3
    subject = EngineSubject(store, limits=dying.LIMITS)
    _sound(subject, prepared, deaths)
    assert subject.stored_bytes() == prepared.stored_bytes
    subject.close()
