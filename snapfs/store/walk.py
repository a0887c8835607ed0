"""Values of the index as they lie there, for who checks them: nothing is unsealed, and damage to a table's structure is
told as ours."""

from __future__ import annotations

from collections.abc import Iterator

import lmdb

from snapfs.errors import Corrupt
from snapfs.store.index import Reading


def values(source: Reading, table: str, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
    """(key, sealed value) of each key that is greater than ``after``, in order.  Not across a commit or mutation.

    Raises:
        Corrupt: what follows cannot be reached.
    """
    key = after
    try:
        cursor = source.cursor(table)
        found = cursor.set_range(after) if after else cursor.first()
        if found and cursor.key() == after:
            found = cursor.next()
        while found:
            key, value = cursor.item()
            yield key, value
            found = cursor.next()
    except lmdb.Error as error:
        raise _unreachable(table, f"after key {key.hex()}" if key else "at all", error) from error


def last_key(source: Reading, table: str) -> bytes:
    """The greatest; empty if there is none.

    Raises:
        Corrupt: it cannot be reached.
    """
    try:
        cursor = source.cursor(table)
        return bytes(cursor.key()) if cursor.last() else b""
    except lmdb.Error as error:
        raise _unreachable(table, "at its end", error) from error


def _unreachable(table: str, where: str, error: lmdb.Error) -> Corrupt:
    return Corrupt(f"table {table} of the index cannot be read {where} ({error})", hint="unmount, then run: snap fsck")
