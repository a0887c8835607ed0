"""What can be read of an index, whichever state it is of: tables by key, in order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import lmdb

from snapfs.errors import Corrupt, Unavailable
from snapfs.format import records
from snapfs.store import verify

Cursor = Any
"""An lmdb.Cursor (the library has no type hints)."""

EngineError = lmdb.Error
"""What a cursor may raise where the file is damaged; whoever moves one tells it by ``damaged``."""


def damaged(error: Exception) -> Corrupt:
    return Corrupt(f"the index is damaged ({error})", hint=verify.HINT)


class Reading(Protocol):
    """What can be read: the open transaction, or a consistent state of the past."""

    def get(self, table: str, key: bytes) -> bytes | None: ...
    def cursor(self, table: str) -> Cursor: ...


def items(source: Reading, table: str, prefix: bytes = b"", start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
    """(key, payload) of all keys with the prefix, from prefix + start on.  Not across a commit or mutation."""
    try:
        cursor = source.cursor(table)
        found = cursor.set_range(prefix + start) if prefix or start else cursor.first()
        while found:
            key, value = cursor.item()
            if not key.startswith(prefix):
                return
            yield key, records.unseal(key, value)
            found = cursor.next()
    except lmdb.Error as error:
        raise damaged(error) from error


def items_backward(
    source: Reading, table: str, prefix: bytes = b"", before: bytes | None = None
) -> Iterator[tuple[bytes, bytes]]:
    """As ``items`` in descending order, from the greatest key that is less than prefix + before on (None: from the
    greatest with the prefix)."""
    try:
        cursor = source.cursor(table)
        stop = _after(prefix) if before is None else prefix + before
        found = cursor.prev() if stop and cursor.set_range(stop) else cursor.last()
        while found:
            key, value = cursor.item()
            if not key.startswith(prefix):
                return
            yield key, records.unseal(key, value)
            found = cursor.prev()
    except lmdb.Error as error:
        raise damaged(error) from error


def _after(prefix: bytes) -> bytes:
    """The least key that is greater than all with the prefix; empty if there is none."""
    kept = prefix.rstrip(b"\xff")
    return kept[:-1] + bytes([kept[-1] + 1]) if kept else b""


class Reader:
    """A consistent state: that of the last commit when it was made.  Close it soon: it keeps space from reuse."""

    def __init__(self, env: Any, tables: dict[str, Any]) -> None:
        self._tables = tables
        try:
            self._txn = env.begin(write=False)
        except lmdb.ReadersFullError as error:  # which says nothing of the file
            raise Unavailable("too many read the index at this moment", hint="try again") from error
        except lmdb.Error as error:
            raise damaged(error) from error

    def get(self, table: str, key: bytes) -> bytes | None:
        try:
            value = self._txn.get(key, db=self._tables[table])
        except lmdb.Error as error:
            raise damaged(error) from error
        return None if value is None else records.unseal(key, value)

    def cursor(self, table: str) -> Cursor:
        return self._txn.cursor(db=self._tables[table])

    def stat(self, table: str) -> int:
        """Entries in the table."""
        return int(self._txn.stat(self._tables[table])["entries"])

    @property
    def number(self) -> int:
        """Of the commit: what is read is the same as long as it is."""
        return int(self._txn.id())

    def close(self) -> None:
        self._txn.abort()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
