"""Records that cannot be found any more, because it is their key that was damaged.

A damaged value is met by whoever reads it: its checksum does not match.  With a damaged key the record is not met at
all: a file would have a hole, a directory one entry less.  Such a record still lies in the table, under a key that
its checksum does not fit and that no other table knows.

Invariants:
  * A record that is merely damaged is none of these: its key is confirmed by another table.
  * All values are read once, in the order of their keys; nothing is decoded that has a wrong checksum.
  * A large index is looked over by a child (``python -m snapfs.store.hidden DIRECTORY``): first its structure, without
    LMDB, then its records.
"""

from __future__ import annotations

import json
import os
import resource
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import lmdb
import msgspec

from snapfs.errors import Corrupt
from snapfs.format import keys, records
from snapfs.format.records import SnapshotRecord
from snapfs.store import verify
from snapfs.store.walk import values

Source = Any
"""An Index, or a Reader."""

_FINDERS: Final = ("names", "tags", "created", "commits")
FOUND_MAX: Final = 100


def hidden(source: Source) -> list[str]:
    """A line for each record whose key is damaged; the first FOUND_MAX.

    Raises:
        Corrupt: a table cannot be followed.
    """
    found: list[str] = []
    for line in _all(source):
        found.append(line)
        if len(found) == FOUND_MAX:
            break
    return found


def _all(source: Source) -> Iterator[str]:
    for key in _bad(source, "tree"):
        known = len(key) > keys.EPOCH_BYTES and _there(
            source, "changes", keys.u64(keys.epoch_of(key)) + key[: -keys.EPOCH_BYTES]
        )
        if not known:
            yield f"a record of the tree has another key than it was stored with: {key.hex()}"
    for key in _bad(source, "changes"):
        known = len(key) > keys.EPOCH_BYTES and _there(
            source, "tree", keys.versioned(key[keys.EPOCH_BYTES :], keys.from_u64(key))
        )
        if not known:
            yield f"a change has another key than it was stored with: {key.hex()}"
    told: set[tuple[str, bytes]] | None = None
    for table in _FINDERS:
        for key in _bad(source, table):
            told = _told(source) if told is None else told
            if (table, key) not in told:
                yield f"a record of table {table} has another key than it was stored with: {key.hex()}"


def _bad(source: Source, table: str) -> Iterator[bytes]:
    """Keys of the records whose checksum does not match."""
    for key, value in values(source, table):
        try:
            records.unseal(key, value)
        except Corrupt:
            yield key


def _there(source: Source, table: str, key: bytes) -> bool:
    try:
        return source.get(table, key) is not None
    except Corrupt:
        return False


def _told(source: Source) -> set[tuple[str, bytes]]:
    """(table, key) of what snapshots' records say is there to find them by."""
    told: set[tuple[str, bytes]] = set()
    for key, value in values(source, "snapshots"):
        try:
            record = records.decode_snapshot(records.unseal(key, value))
        except (Corrupt, msgspec.MsgspecError, ValueError, struct.error):
            continue
        told.update(_finders(record))
    return told


def _finders(record: SnapshotRecord) -> Iterator[tuple[str, bytes]]:
    volume, epoch = keys.u64(record.volume), keys.u64(record.epoch)
    yield "names", volume + record.name.encode()
    yield "created", volume + keys.u64(record.created_ns) + epoch
    for tag in record.tags:
        yield "tags", volume + tag.encode()
    if record.git:
        yield "commits", volume + record.git.commit.encode() + b"\0" + epoch


class _Beside:
    """The last commit of an index file that another process has open; that keeps a reader meanwhile."""

    def __init__(self, directory: Path, tables: tuple[str, ...]) -> None:
        self._env = lmdb.open(str(directory), readonly=True, lock=False, max_dbs=len(tables), readahead=False)
        self._tables = {name: self._env.open_db(name.encode(), create=False) for name in tables}
        self._txn = self._env.begin()

    def get(self, table: str, key: bytes) -> bytes | None:
        value = self._txn.get(key, db=self._tables[table])
        return None if value is None else records.unseal(key, value)

    def cursor(self, table: str) -> Any:
        return self._txn.cursor(db=self._tables[table])

    def close(self) -> None:
        self._txn.abort()
        self._env.close()


def hidden_beside(directory: Path) -> list[str]:
    """``hidden`` in an index that another process has open; only when its structure is sound."""
    beside: _Beside | None = None
    try:
        beside = _Beside(directory, ("tree", "changes", "snapshots", *_FINDERS))
        return hidden(beside)
    except (lmdb.Error, Corrupt) as error:
        return [str(error)]
    finally:
        if beside is not None:
            beside.close()


def command(directory: Path) -> list[str]:
    """Of the child that looks an index over: it prints what it finds, as JSON, and ends with 0."""
    return [sys.executable, "-P", "-m", "snapfs.store.hidden", os.fspath(directory)]


def main() -> int:
    verify.end_with_parent()
    os.nice(verify.NICE)
    directory = Path(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_DATA, (verify.MEMORY_BYTES_MAX, verify.MEMORY_BYTES_MAX))
    found = verify.problems(directory / verify.DATA_FILE) or hidden_beside(directory)
    sys.stdout.write(json.dumps(found[:FOUND_MAX]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
