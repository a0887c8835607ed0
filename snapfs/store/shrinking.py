"""Makes the index's file as small as what it holds.  LMDB uses free pages again, but never gives them back.

A copy without free pages is made beside the index, by a worker thread, of its last commit.  If nothing was committed
meanwhile it takes the index's place; else it is dropped.

Invariants:
  * Both files hold the same records, so whichever of them a crash leaves in the place is right; what is left beside is
    removed by whoever opens the store.  Nothing is committed to the copy before its place is durable.
  * A copy's transactions are numbered from 1 again; so what waits for one of the old numbers (``freed``, ``emptied``)
    gets the number 0.  Nobody reads, and nothing is pinned, when it takes the place: all of it may be given back.
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Final

from snapfs.errors import SnapfsError
from snapfs.store.disk import Disk, from_os
from snapfs.store.index import Index
from snapfs.store.layout import INDEX

COPY: Final = "index.copy"


def remove_copy(store: Path, disk: Disk) -> None:
    """What a crash left beside the index, or the file that it was before; not if it may be in the index's place after
    a crash of the host."""
    if (store / COPY).exists():
        with contextlib.suppress(SnapfsError):
            disk.sync_directory("index.directory", store)
            shutil.rmtree(store / COPY, ignore_errors=True)


def make_copy(index: Index, store: Path, disk: Disk) -> None:
    """The last commit, durably, in the directory beside the index.  Worker thread.

    Raises:
        NoSpace, IOFailure: it could not be made.
    """
    remove_copy(store, disk)
    place = store / COPY
    try:
        place.mkdir(mode=0o700)
    except OSError as error:
        raise from_os(error, str(place)) from error
    disk.perform("index.copy", lambda: index.copy(place))
    disk.sync_directory("index.copy_directory", place)


def take_copy(index: Index, store: Path, disk: Disk) -> bool:
    """The copy takes the index's place.  False: the host cannot do that in one step, and nothing has changed.

    Raises:
        IOFailure: the index takes no more changes.
    """

    def act() -> bool:
        here = not (store / INDEX).is_symlink()  # else its owner wants it elsewhere
        if not (here and disk.exchange("index.exchange", store / COPY, store / INDEX)):
            return False
        disk.sync_directory("index.directory", store)
        return True

    return index.exchange(act)


def worth(index: Index, spare_bytes_min: int, spare_percent: float) -> bool:
    """Whether so much of the file holds nothing."""
    try:
        if index.used_bytes() <= spare_bytes_min:  # as mostly; all tables are asked below, and this after each commit
            return False
        filled, total = index.filling()
    except SnapfsError:
        return False
    return total - filled > max(spare_bytes_min, filled * spare_percent / 100)
