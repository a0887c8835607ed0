"""Many calls at once on the same few names, some given up: each ends as it may, and nothing is left half done."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable

import trio
from blake3 import blake3

from snapfs.api import Change, GitCommit, RetentionPolicy, Save
from snapfs.errors import NotFound, SnapfsError
from snapfs.service import Service
from snapfs.testing.engine import EngineSubject
from snapfs.types import Ino
from snapfs.volume.limits import Pace
from snapfs.volume.once import Once
from snapfs.volume.volumes import Volume

CLIENTS = 24
CALLS = 100
"""Of each client."""
VOLUMES = ("data", "more", "copy")


def commit(number: int) -> GitCommit:
    return GitCommit(commit=f"{number:040x}")


async def read(changes: AsyncIterator[Change]) -> None:
    async for _ in changes:
        pass


async def check(service: Service) -> None:
    report = await service.check_store()
    assert report.findings == []


def calls(service: Service, seed: random.Random) -> list[Callable[[], Awaitable[object]]]:
    """One of each kind, with arguments drawn by the seed."""
    volume, snapshot = seed.choice(VOLUMES), f"s{seed.randrange(6)}"
    other, tag, git = f"s{seed.randrange(6)}", f"t{seed.randrange(4)}", commit(seed.randrange(4))
    once = Once(blake3(b"%d" % seed.randrange(100)).digest(), blake3(volume.encode()).digest())
    new = seed.choice(VOLUMES)
    return [
        lambda: service.create_volume(name=volume),
        lambda: service.create_volume(name=volume, once=once),
        lambda: service.create_snapshot(volume=volume, name=snapshot),
        lambda: service.create_snapshot(volume=volume, git=git),
        lambda: service.create_snapshot(volume=volume, once=once),
        lambda: service.delete_snapshot(volume=volume, snapshot=snapshot),
        lambda: service.rename_snapshot(volume=volume, snapshot=snapshot, name=other),
        lambda: service.tag_snapshot(volume=volume, snapshot=snapshot, tag=tag, move=True),
        lambda: service.delete_tag(volume=volume, tag=tag),
        lambda: service.carry_snapshots(volume=volume, rewritten=[(git.commit, commit(seed.randrange(4, 8)))]),
        lambda: service.checkout(volume=volume, snapshot=snapshot, unsaved=seed.choice(list(Save))),
        lambda: service.restore(volume=volume, snapshot=snapshot, paths=["f1", "f2"]),
        lambda: service.clone(volume=volume, snapshot=snapshot, name=new, once=once),
        lambda: service.list_snapshots(newest_first=True),
        lambda: service.list_ancestry(volume=volume),
        lambda: read(service.diff(volume=volume, snapshot=snapshot, other=other)),
        lambda: read(service.diff(volume=volume, snapshot=snapshot, other_volume=new)),
        lambda: read(service.status(volume=volume)),
        lambda: service.delete_volume(name=volume, force=True),
        lambda: check(service),
        lambda: service.delete_snapshot(volume=volume, snapshot=snapshot, purge=True),
        lambda: service.delete_volume(name=volume, force=True, purge=True),
        lambda: service.undelete_snapshot(volume=volume, snapshot=snapshot),
        lambda: service.undelete_volume(volume=volume),
        lambda: service.list_trash(),
        lambda: service.empty_trash(volume=new),
        lambda: service.hold_snapshot(volume=volume, snapshot=snapshot, hold="needed"),
        lambda: service.release_snapshot(volume=volume, snapshot=snapshot, hold="needed"),
        lambda: service.apply_policy(volume=volume, policy=RetentionPolicy(last=3, distinct=4), dry_run=False),
    ]


WEIGHTS = [2, 1, 8, 4, 4, 3, 2, 2, 1, 1, 3, 2, 1, 1, 1, 2, 1, 2, 1, 1, 1, 1, 4, 2, 1, 1, 1, 3, 2]


def test_calls_at_once(engine: EngineSubject) -> None:
    lake, service = engine.lake, engine.service
    outcomes: Counter[str] = Counter()

    async def client(number: int) -> None:
        seed = random.Random(number)
        for _ in range(CALLS):
            patience = seed.choice([60, 60, seed.uniform(0, 0.005)])
            (call,) = seed.choices(calls(service, seed), WEIGHTS)
            with trio.move_on_after(patience) as scope:
                try:
                    await call()
                    outcomes["done"] += 1
                except SnapfsError as error:
                    outcomes[error.kind.name] += 1
            outcomes["given up"] += scope.cancelled_caught
            await trio.lowlevel.checkpoint()

    def writable(volume: Volume, name: bytes) -> Ino:
        try:
            return lake.files.lookup(volume.head, volume.root, name).ino
        except NotFound:
            return lake.files.mknod(volume.head, volume.root, name, mode=0o100644, uid=0, gid=0).ino

    async def writer(ended: trio.Event) -> None:
        seed = random.Random(0)
        while not ended.is_set():
            for volume in lake.volumes.all():
                name = b"f%d" % seed.randrange(4)
                try:
                    ino = writable(volume, name)
                    await lake.files.write(volume.head, ino, seed.randrange(300_000), seed.randbytes(20_000))
                except SnapfsError as error:
                    outcomes[f"write: {error.kind.name}"] += 1
            await trio.lowlevel.checkpoint()

    async def play() -> None:
        ended = trio.Event()
        lake.trash.follow(Pace())
        async with lake.running(), trio.open_nursery() as writing:
            writing.start_soon(writer, ended)
            async with trio.open_nursery() as nursery:
                for number in range(CLIENTS):
                    nursery.start_soon(client, number)
            ended.set()
        await check(service)
        for volume in lake.volumes.all():
            for record in filter(lambda record: record.holds, lake.snapshots.all(volume)):
                await service.release_snapshot(volume=volume.name, snapshot=record.name, hold="needed")
            await service.delete_volume(name=volume.name, force=True)
        assert (await service.empty_trash()).kept == 0
        await lake.settle()
        assert lake.index.oldest_reader() is None

    engine.run(play)
    assert outcomes["done"] > CALLS
    assert outcomes["given up"] > 0
    engine.reopen()
    assert engine.stored_bytes() == 0
