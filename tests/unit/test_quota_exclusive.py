"""Quotas on exclusive bytes: the figure equals what ``snap du`` counts, and no write makes it more than it may be."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import trio

from snapfs import api
from snapfs.api import QuotaKind
from snapfs.errors import NotFound, QuotaExceeded
from snapfs.testing.engine import EngineSubject

KIB = 1024


def limit(engine: EngineSubject, quota_bytes: int, volume: str = "data") -> api.Volume:
    return engine.run(
        lambda: engine.service.update_volume(name=volume, quota_bytes=quota_bytes, quota_kind=QuotaKind.EXCLUSIVE)
    )


def used(engine: EngineSubject, volume: str = "data") -> int:
    return engine.run(lambda: engine.service.get_volume(name=volume)).used_bytes


def exact(engine: EngineSubject, volume: str = "data") -> int:
    """After a flush, and with what others did counted."""

    async def count() -> int:
        await engine.lake.sync()
        await engine.lake.exclusive.exact()
        return engine.lake.volumes.get(volume).usage.total_bytes

    return engine.run(count)


def by_du(engine: EngineSubject, volume: str = "data") -> int:
    return engine.run(lambda: engine.service.get_usage(volume=volume, snapshots=False))[0].exclusive_bytes


def put(engine: EngineSubject, name: bytes, data: bytes, offset: int = 0, volume: str = "data") -> None:
    try:
        engine._resolve(volume, (name,))
    except NotFound:
        engine.make(volume, (name,), "file", 0o644)
    engine.write(volume, (name,), offset, data)


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(size + seed).randbytes(size)


def test_nobody_listens_without_such_a_quota(engine: EngineSubject) -> None:
    put(engine, b"f", noise(50 * KIB))
    engine.flush()
    assert engine.lake.accounts.moved == []
    limit(engine, 1000 * KIB)
    assert len(engine.lake.accounts.moved) == 1
    engine.run(lambda: engine.service.update_volume(name="data", quota_kind=QuotaKind.LOGICAL))
    engine.run(engine.lake.exclusive.exact)
    assert engine.lake.accounts.moved == []
    assert used(engine) == 50 * KIB


def test_a_write_that_does_not_fit_is_refused(engine: EngineSubject) -> None:
    put(engine, b"f", noise(50 * KIB))
    engine.snapshot("data", "one")
    changed = limit(engine, 110 * KIB)
    assert changed.quota_kind is QuotaKind.EXCLUSIVE
    assert 50 * KIB < changed.used_bytes < 52 * KIB
    put(engine, b"f", noise(50 * KIB, 1))  # the snapshot shows the old bytes, too
    with pytest.raises(QuotaExceeded, match="data"):
        put(engine, b"f", noise(20 * KIB, 2))
    engine.remove_snapshot("data", "one")
    engine.reclaim()
    put(engine, b"f", noise(20 * KIB, 2))
    assert exact(engine) == by_du(engine) <= 110 * KIB


def test_what_compresses_or_is_known_costs_little(engine: EngineSubject) -> None:
    limit(engine, 100 * KIB)
    for number in range(8):  # each is taken for 50 KiB until it is stored
        put(engine, b"text%d" % number, b"all the same, again and again.." * 1600)
    assert exact(engine) == by_du(engine) < 10 * KIB
    for number in range(5):
        put(engine, b"copy%d" % number, noise(40 * KIB))
        engine.flush()
    assert exact(engine) == by_du(engine) < 52 * KIB
    with pytest.raises(QuotaExceeded):
        put(engine, b"g", noise(60 * KIB, 1))


def test_a_clone_shares_until_its_origin_goes(engine: EngineSubject) -> None:
    put(engine, b"f", noise(80 * KIB))
    engine.snapshot("data", "one")
    engine.clone("data", "one", "copy")
    limit(engine, 100 * KIB)
    limit(engine, 100 * KIB, "copy")
    assert exact(engine) == exact(engine, "copy") == 0
    put(engine, b"g", noise(90 * KIB, 1), volume="copy")
    engine.flush()
    engine.remove_volume("data", snapshots=True)
    assert exact(engine, "copy") == by_du(engine, "copy") > 170 * KIB  # over it, and by no write
    with pytest.raises(QuotaExceeded):
        put(engine, b"h", b"x", volume="copy")
    engine.unlink("copy", (b"g",))
    put(engine, b"h", b"x", volume="copy")
    assert exact(engine, "copy") == by_du(engine, "copy")


def test_restored_files_cost_nothing(engine: EngineSubject) -> None:
    put(engine, b"f", noise(80 * KIB))
    engine.snapshot("data", "one")
    limit(engine, 90 * KIB)
    engine.unlink("data", (b"f",))
    engine.restore("data", "one", (b"f",))
    assert exact(engine) == by_du(engine) < 90 * KIB


def test_it_holds_after_a_restart(engine: EngineSubject) -> None:
    put(engine, b"f", noise(80 * KIB))
    limit(engine, 100 * KIB)
    engine.reopen()
    with pytest.raises(QuotaExceeded):
        put(engine, b"g", noise(40 * KIB, 1))
    assert used(engine) == by_du(engine)


def test_writers_at_once_do_not_exceed_it(engine: EngineSubject) -> None:
    limit(engine, 256 * KIB)
    refused = 0

    async def write(number: int) -> None:
        nonlocal refused
        view, root = engine._head("data")
        inode = engine.lake.files.mknod(view, root, b"n%d" % number, mode=0o100644, uid=0, gid=0)
        for part in range(8):
            try:
                await engine.lake.files.write(view, inode.ino, part * 8 * KIB, noise(8 * KIB, number * 100 + part))
            except QuotaExceeded:
                refused += 1

    async def at_once() -> None:
        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(write, number)

    engine.run(at_once)
    assert refused
    assert 200 * KIB < exact(engine) == by_du(engine) <= 256 * KIB


@pytest.mark.parametrize("seed", range(4))
def test_any_operations(engine: EngineSubject, seed: int) -> None:
    """What is kept up equals what is counted anew, whatever happens."""
    rng = random.Random(seed)
    limit(engine, 1 << 40)
    clones, snapshots = 0, 0
    for step in range(120):
        name = b"n%d" % rng.randrange(4)
        kind = rng.randrange(12)
        names = list(engine.listed("data"))
        if kind < 5:
            put(engine, name, noise(rng.randrange(1, 40 * KIB), rng.randrange(6)), rng.randrange(4) * 4 * KIB)
        elif kind == 5 and (name,) in engine.tree("data"):
            engine.unlink("data", (name,))
        elif kind == 6:
            engine.flush()
        elif kind == 7:
            engine.snapshot("data", f"s{snapshots}")
            snapshots += 1
        elif kind == 8 and names:
            engine.remove_snapshot("data", rng.choice(names))
        elif kind == 9 and names:
            engine.clone("data", rng.choice(names), f"c{clones}")
            limit(engine, 1 << 40, f"c{clones}")
            put(engine, b"own", noise(9 * KIB, step), volume=f"c{clones}")
            clones += 1
        elif kind == 10 and names:
            engine.checkout("data", rng.choice(names), api.Save.DISCARD)
        elif kind == 11:
            engine.reclaim()
        if step % 4 == 0:
            for volume in ("data", f"c{clones - 1}") if clones else ("data",):
                assert exact(engine, volume) == by_du(engine, volume), step


def test_an_import_does_not_exceed_it(engine: EngineSubject, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()

    def bring() -> None:
        engine.run(lambda: engine.service.import_tree(source=str(source), volume="data"))

    limit(engine, 100 * KIB)
    (source / "f").write_bytes(noise(60 * KIB))
    bring()
    engine.snapshot("data", "one")
    (source / "f").write_bytes(noise(60 * KIB, 1))
    with pytest.raises(QuotaExceeded):  # the snapshot goes on to show what it takes the place of
        bring()
    assert exact(engine) == by_du(engine) <= 100 * KIB
