"""Random damage to any file of a store is found, or harmless: never wrong bytes, a traceback or a signal."""

from __future__ import annotations

import os
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from snapfs.errors import Corrupt, IOFailure
from snapfs.store import layout, verify
from snapfs.store.index import Index, items
from snapfs.testing.corrupting import (
    BAD,
    FOUND,
    HARMLESS,
    INDEX_FILE,
    REBUILD_EVERY,
    Expected,
    Verdict,
    copy,
    damage,
    examine,
    look,
    look_after_rebuild,
)
from snapfs.volume import doubt
from snapfs.volume.lake import Lake

QUICK = range(40)
SOAK = range(1000)


def run(original: tuple[Path, Expected], tmp_path: Path, seeds: range, rebuild_every: int) -> Counter[tuple[str, str]]:
    """Damage copies; verdicts by (what was looked at, verdict)."""
    store, expected = original
    verdicts: Counter[tuple[str, str]] = Counter()
    bad = []
    for seed in seeds:
        for looking in (look, look_after_rebuild)[: 2 if seed % rebuild_every == 0 else 1]:
            goal = tmp_path / f"{looking.__name__}-{seed}"
            copy(store, goal)
            name, kind = damage(goal, seed)
            verdict = examine(goal, expected, looking)
            shutil.rmtree(goal)
            verdicts[looking.__name__, verdict.what] += 1
            if verdict.what == BAD:
                bad.append(f"seed {seed}, {looking.__name__}, {name}, {kind}: {verdict.how}")
    print(dict(verdicts))
    assert not bad, "\n".join(bad)
    assert verdicts["look", FOUND] > len(seeds) // 4  # the damage is real
    return verdicts


@pytest.mark.timeout(300)
def test_random_damage(original: tuple[Path, Expected], tmp_path: Path) -> None:
    run(original, tmp_path, QUICK, 15)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_random_damage_a_thousand_times(original: tuple[Path, Expected], tmp_path: Path) -> None:
    run(original, tmp_path, SOAK, REBUILD_EVERY)


# -- the harness itself


def test_an_undamaged_store_is_harmless(original: tuple[Path, Expected], tmp_path: Path) -> None:
    copy(original[0], tmp_path / "copy")
    assert examine(tmp_path / "copy", original[1]) == Verdict(HARMLESS, "")


def test_the_harness_sees_wrong_bytes(original: tuple[Path, Expected], tmp_path: Path) -> None:
    copy(original[0], tmp_path / "copy")
    address = ("data", "first")
    tree = {path: shown for path, shown in original[1][address].items() if path != (b"large",)}
    verdict = examine(tmp_path / "copy", {**original[1], address: tree})
    assert verdict.what == BAD
    assert "should not be there" in verdict.how


@pytest.mark.parametrize("number", [7, 11])
def test_the_harness_sees_a_signal(original: tuple[Path, Expected], tmp_path: Path, number: int) -> None:
    def dies(store: Path, expected: Expected) -> Verdict:
        os.kill(os.getpid(), number)
        return Verdict(HARMLESS, "")

    assert examine(tmp_path, original[1], dies) == Verdict(BAD, f"ended by signal {number}")


def test_the_harness_sees_a_traceback(original: tuple[Path, Expected], tmp_path: Path) -> None:
    def raises(store: Path, expected: Expected) -> Verdict:
        raise ValueError("of no type of ours")

    assert "of no type of ours" in examine(tmp_path, original[1], raises).how


# -- single damages that random ones seldom hit


@pytest.fixture
def index(original: tuple[Path, Expected], tmp_path: Path) -> Path:
    copy(original[0], tmp_path / "store")
    return tmp_path / "store" / layout.INDEX / verify.DATA_FILE


def rewrite(file: Path, offset: int, change: Callable[[bytes], bytes], size: int) -> None:
    with file.open("r+b") as opened:
        opened.seek(offset)
        data = opened.read(size)
        opened.seek(offset)
        opened.write(change(data))


def test_every_bit_of_the_meta_pages(index: Path, original: tuple[Path, Expected]) -> None:
    """What LMDB reads of them before it maps the file: refused, or the last commit is opened as it was."""
    with index.open("rb") as file:
        whole = file.read(8192)
    rng = random.Random(1)
    refused = 0
    for _ in range(60):
        page, place, bit = rng.randrange(2), rng.randrange(152), rng.randrange(8)
        broken = bytearray(whole)
        broken[page * 4096 + place] ^= 1 << bit
        rewrite(index, 0, lambda _, new=bytes(broken): new, len(whole))  # type: ignore[misc]
        try:
            verify.check_file(index)
            verify.check_structure(index)
        except Corrupt:
            refused += 1
        else:
            newest = max(verify.read_metas(index)[:2], key=lambda meta: meta.transaction)
            assert newest.transaction == verify.read_witness(index.parent)
    rewrite(index, 0, lambda _: whole, len(whole))
    verify.check_structure(index)
    assert refused > 30


def test_a_commit_that_is_lost(index: Path) -> None:
    """The newest meta page says that it is two transactions older: LMDB would open the commit before."""
    metas = verify.read_metas(index)[:2]
    newest = max((0, 1), key=lambda number: metas[number].transaction)
    place = newest * 4096 + 144
    older = (metas[newest].transaction - 2).to_bytes(8, "little")
    rewrite(index, place, lambda _: older, 8)
    with pytest.raises(Corrupt, match="last commit"):
        Index(index.parent)


def hide(store: Path, rng: random.Random) -> bytes:
    """Flip a bit of a key of the tree, so that its record is not where it is looked for; returns the key."""
    index = Index(store / layout.INDEX)
    found = [key for key, _ in items(index, "tree")]
    index.close()
    key = rng.choice(found)
    broken = bytearray(key)
    broken[rng.randrange(7, len(key))] ^= 1 << rng.randrange(8)
    with (store / INDEX_FILE).open("r+b") as opened:
        data = opened.read(1 << 21)
        opened.seek(0)
        opened.write(data.replace(key, bytes(broken)))  # also where it is no longer alive
    return key


def test_a_damaged_key_hides_no_record(original: tuple[Path, Expected], tmp_path: Path) -> None:
    """Reads alone would show a hole, or one entry less."""
    rng = random.Random(2)
    for number in range(8):
        goal = tmp_path / f"copy-{number}"
        copy(original[0], goal)
        hide(goal, rng)
        verdict = examine(goal, original[1])
        shutil.rmtree(goal)
        assert verdict.what == FOUND, verdict.how


# -- an index too large to be verified before it is used


@pytest.fixture
def large(original: tuple[Path, Expected], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store whose index counts as such."""
    copy(original[0], tmp_path / "store")
    monkeypatch.setattr("snapfs.store.index.VERIFY_PAGES_MAX", 0)
    return tmp_path / "store"


async def test_a_large_index_is_looked_over(large: Path) -> None:
    lake = Lake.open(large)
    assert not lake.index.verified
    with trio.fail_after(40):
        async with lake.running():
            while not lake.index.verified:
                assert lake.index.failure is None
                await trio.sleep(0.02)
    lake.close()


async def test_a_large_index_that_is_damaged_takes_no_more_changes(large: Path) -> None:
    hide(large, random.Random(4))
    lake = Lake.open(large)
    with trio.fail_after(40):
        await doubt.look_over(lake.index, lake.core.events, lake.commit)
    assert lake.index.failure is not None
    assert "snap fsck" in lake.index.failure.hint
    with pytest.raises(IOFailure, match="another key"):
        lake.volumes.create("more")
    lake.close()
