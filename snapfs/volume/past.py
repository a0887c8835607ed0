"""What is read from a consistent state of the past, so that everybody else may go on meanwhile."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Final

import msgspec
import trio

from snapfs import api
from snapfs.format.records import SnapshotRecord
from snapfs.store import layout, verify
from snapfs.versions.keyspace import Snapshotted
from snapfs.volume.accounts.report import Rest
from snapfs.volume.accounts.statement import Statement, state
from snapfs.volume.background import in_background
from snapfs.volume.check.base import Place
from snapfs.volume.check.run import Check, structure
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
    lake.index.commit()
    store_uuid = bytes.fromhex(lake.uuid.replace("-", ""))
    place = Place(lake.path / layout.SEGMENTS, store_uuid, lake.core.disk)
    with lake.index.reader() as reader:
        checked = Check(reader, place, reader.stat("blocks"))
        file = lake.path / layout.INDEX / verify.DATA_FILE
        for problem in await trio.to_thread.run_sync(structure, file):
            checked.findings.add("structure", problem)
        steps = checked.run()
        last = trio.current_time()
        while True:
            if checked.reads_blocks:
                step = await trio.to_thread.run_sync(next, steps, None)
            else:
                step = next(steps, None)
            if step is None:
                return checked.report()
            done, total = step
            if progress and (trio.current_time() - last > _PROGRESS_SECONDS or done == total):
                progress(done, total)
                last = trio.current_time()
            await trio.lowlevel.checkpoint()


async def statement(lake: Lake) -> Statement:
    """What the store holds, as of a commit that is made now.  What its ledger is asked is long computing, too."""
    lake.index.commit()
    with lake.index.reader() as reader:

        def read(rest: Rest) -> Statement:
            occupancy = lake.files.occupancy
            segments_bytes, index_bytes = occupancy.segments_bytes(), occupancy.index_bytes()
            return msgspec.structs.replace(
                state(reader, rest), segments_bytes=segments_bytes, index_bytes=index_bytes
            )  # fmt: skip

        return await in_background(read)
