"""A process that gives space back and kills itself on the way: ``python -m snapfs.testing.dying STORE JOB MOMENT``.

Moments are counted: each batch of reclaiming, before it is begun and before it is committed, and each operation that
changes something on the disk.  At the given one the process ends itself by SIGKILL; with 0 it lives, and prints how
many there were.  Batches are as small as they can be, so that there are many.

Jobs:
  * ``delete``: all snapshots but ``KEPT`` and the volume ``DELETED`` go, in a random order, and their space comes back;
  * ``compact``: the same on a host file system that cannot punch holes, and then compaction.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import trio

from snapfs.service import Service
from snapfs.store.disk import Disk
from snapfs.volume import compact
from snapfs.volume.lake import Lake
from snapfs.volume.limits import Limits
from snapfs.volume.reclaim import Reclaim

KEPT: Final = frozenset({"s3", "s7", "s11"})
DELETED: Final = "clone"
LIMITS: Final = Limits(segment_bytes_max=256 * 1024)
"""Small segments: several are emptied, and several compacted."""


class NoPunching(Disk):
    """A host file system without holes."""

    def punch(self, what: str, fd: int, offset: int, length: int) -> bool:
        return False


DISKS: Final[dict[str, type[Disk]]] = {"delete": Disk, "compact": NoPunching}


class Moments:
    """Counts them; dies at one of them (0: at none)."""

    def __init__(self, fatal: int) -> None:
        self._fatal = fatal
        self.count = 0

    def pass_one(self) -> None:
        self.count += 1
        if self.count == self._fatal:
            os.kill(os.getpid(), signal.SIGKILL)


_CHANGING: Final = ("pwrite", "sync", "sync_directory", "truncate", "punch", "unlink", "rename", "perform", "exchange")


def counting(disk: type[Disk], moments: Moments) -> Disk:
    """A disk on which everything that changes something is a moment."""

    def wrapped(name: str) -> Callable[..., Any]:
        plain = getattr(disk, name)

        def method(self: Disk, *args: Any, **kwargs: Any) -> Any:
            moments.pass_one()
            return plain(self, *args, **kwargs)

        return method

    made: Disk = type("Counting", (disk,), {name: wrapped(name) for name in _CHANGING})()
    return made


@contextmanager
def small_batches(lake: Lake, moments: Moments) -> Iterator[None]:
    """Each of one version, and committed: the process may die between any two of them."""
    step = Reclaim.step

    def one_version(self: Reclaim, until: float | None = None) -> bool:
        moments.pass_one()
        done = step(self, 0.0)  # a time that has passed
        moments.pass_one()
        lake.index.commit()
        return done

    Reclaim.step = one_version  # type: ignore[method-assign]
    at_once, compact.BATCH_BYTES_MAX = compact.BATCH_BYTES_MAX, 16 * 1024  # type: ignore[misc]
    try:
        yield
    finally:
        Reclaim.step = step  # type: ignore[method-assign]
        compact.BATCH_BYTES_MAX = at_once  # type: ignore[misc]


async def delete(lake: Lake) -> None:
    """What is to go and is still there."""
    service = Service(lake)
    if DELETED in lake.volumes.names():
        await service.delete_volume(name=DELETED, force=True, purge=True)
    volume = lake.volumes.get("data")
    names = sorted(record.name for record in lake.snapshots.all(volume) if record.name not in KEPT)
    random.Random(5).shuffle(names)
    for name in names:
        await service.delete_snapshot(volume="data", snapshot=name, purge=True)


async def work(lake: Lake, job: str) -> None:
    """To the end; what an earlier process has done of it is done."""
    await delete(lake)
    await lake.settle()
    if job == "compact":
        await lake.compact()


def main() -> None:
    store, job, fatal = sys.argv[1:]
    moments = Moments(int(fatal))
    lake = Lake.open(Path(store), disk=counting(DISKS[job], moments), limits=LIMITS)
    try:
        with small_batches(lake, moments):
            trio.run(work, lake, job)
    finally:
        lake.close()
    print(moments.count)


if __name__ == "__main__":
    main()
