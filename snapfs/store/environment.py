"""LMDB's environment of an index, and its tables."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any, Final

import lmdb

from snapfs.errors import Corrupt, IOFailure, SnapfsError
from snapfs.store import verify
from snapfs.store.disk import Disk, open_to_read

TABLES: Final = (
    "tree", "changes", "epochs", "volumes", "snapshots", "names", "commits",
    "tags", "created", "blocks", "dedup", "freed", "places", "segments", "emptied", "orphans", "reap",
    "accounts", "account_ids", "aliases", "unaccounted", "trash",
    "events", "requests", "requests_by_time", "seals", "unsealed", "meta",
)  # fmt: skip

MAP_BYTES: Final = 1 << 42
"""Size of the sparse map (4 TiB): far beyond any real index, so that a put never fails for want of map."""

READERS_MAX: Final = 510

PREFETCH_BYTES_MAX: Final = 64 * 1024 * 1024
"""An index of at most so much is read ahead when it is opened (12 ms for 33 MB that no cache has): page by page, as
they are touched, it takes 60 us each."""
_PREFETCH_STEP_BYTES: Final = 128 * 1024
"""The kernel reads no more ahead for one call, whatever is asked for."""
_HOST_ERRORS: Final = (lmdb.ReadonlyError, lmdb.MemoryError, lmdb.DiskError, lmdb.LockError, lmdb.ReadersFullError)
"""No right to it, no memory, no room: the host's, not the file's."""


def open_environment(path: Path, *, create: bool = False, sync: bool = True) -> tuple[Any, dict[str, Any]]:
    """
    Raises:
        Corrupt: the file is damaged or missing.
        IOFailure: it cannot be opened, which says nothing of it.
    """
    try:
        env = lmdb.open(
            os.fsencode(path), map_size=MAP_BYTES, max_dbs=len(TABLES), max_readers=READERS_MAX,
            mode=0o600, create=create, subdir=True, readahead=False, sync=sync,
        )  # fmt: skip
        tables = {name: env.open_db(name.encode(), create=create) for name in TABLES}
        if any(any(table.flags().values()) for table in tables.values()):
            raise lmdb.CorruptedError("a table has flags that are never set")
    except _HOST_ERRORS as error:  # which says nothing of the file
        raise IOFailure(f"{path}: the index cannot be opened ({error})", hint="mend that, and try again") from error
    except lmdb.Error as error:
        if type(error) is lmdb.Error:  # an error of the host that LMDB has no name for
            raise IOFailure(f"{path}: the index cannot be opened ({error})") from error
        raise Corrupt(f"{path}: the index cannot be opened ({error})", hint=verify.HINT) from error
    return env, tables


def prefetch(disk: Disk, file: Path, used_bytes: int) -> bool:
    """Have the kernel read a small index into its cache, without waiting for it: nothing of that is this process's.

    Returns:
        Whether it is small, and all there already.
    """
    if used_bytes > PREFETCH_BYTES_MAX:
        return False
    with contextlib.suppress(OSError, SnapfsError), open_to_read(file) as opened:  # whoever needs a page reads it then
        if disk.is_cached(opened.fileno(), 0, used_bytes):
            return True
        for start in range(0, used_bytes, _PREFETCH_STEP_BYTES):
            os.posix_fadvise(opened.fileno(), start, _PREFETCH_STEP_BYTES, os.POSIX_FADV_WILLNEED)
    return False
