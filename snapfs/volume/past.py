"""What is read from a consistent state of the past, so that everybody else may go on meanwhile."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

import trio

from snapfs import api
from snapfs.errors import SnapfsError
from snapfs.format.records import SnapshotRecord
from snapfs.types import Ino
from snapfs.versions.epochs import View
from snapfs.versions.keyspace import Snapshotted
from snapfs.volume.check import Check
from snapfs.volume.compare import compare, detached
from snapfs.volume.lake import Lake
from snapfs.volume.volumes import Volume

Progress = Callable[[int, int], None]
"""Is told (units done, units in all; 0: not known)."""

_PROGRESS_SECONDS: Final = 0.1


async def changes(
    lake: Lake, old: SnapshotRecord | None, volume: Volume, new: SnapshotRecord | None
) -> AsyncGenerator[api.Change, None]:
    """Changes from the old snapshot (None: from the one that the head stands on, or from nothing) to the new one
    (None: to the volume's head).

    Raises:
        Stale: a snapshot or the volume was removed meanwhile.
    """
    await lake.commit()
    # From here to the views no await: the reader's state and the paths must be of one moment.
    lake.index.commit()
    if new is None:
        lake.core.tree.check_writable(volume.head)  # not of a volume that is gone
    old = old or lake.snapshots.base(volume)
    for record in (old, new):
        if record:
            lake.snapshots.check_alive(record)
    before = (detached(lake.snapshots.view(old)), old.root) if old else None
    view = lake.snapshots.view(new) if new else volume.head
    after = (detached(view), new.root if new else volume.root)
    with lake.index.reader() as reader:
        for change in compare(lake.core, Snapshotted(reader), before, after):
            if change is None:
                await trio.lowlevel.checkpoint()
            else:
                yield change


async def check(lake: Lake, progress: Progress | None) -> api.CheckReport:
    """Check every invariant and every byte of the store as of now; changes nothing."""
    with _checking(lake) as (checked, views):
        last = trio.current_time()
        for done, total in checked.run(views):
            if progress and (trio.current_time() - last > _PROGRESS_SECONDS or done == total):
                progress(done, total)
                last = trio.current_time()
            await trio.lowlevel.checkpoint()
        return checked.report()


@contextmanager
def _checking(lake: Lake) -> Iterator[tuple[Check, list[tuple[str, View, Ino]]]]:
    """A check, and the views of the same moment: of all snapshots that can be read, however they are listed."""
    lake.index.commit()
    views = [(volume.name, detached(volume.head), volume.root) for volume in lake.volumes.all()]
    for epoch in lake.core.epochs.all():
        with suppress(SnapfsError):  # the check of the tables tells what is wrong
            record = lake.snapshots.get(epoch)
            if record is not None:
                owner = lake.volumes.by_id(record.volume)
                name = f"{owner.name if owner else record.volume}@{record.name}"
                views.append((name, detached(lake.snapshots.view(record)), record.root))
    with lake.index.reader() as reader:
        yield Check(lake.core, reader), views
