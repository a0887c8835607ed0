"""Many keys that come in order: how they fill their pages.

LMDB halves a page that is full, unless the new key comes last in it; where a run of ascending keys goes in before
others, each page that it fills is left half empty for ever.  So the few keys that follow are taken out first and put
back after: 66 bytes an entry in place of 121.

Invariants:
  * Inside, nobody touches those keys: they are greater than all of the run, and the step has no await.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from snapfs.store.index import EngineError, Index, damaged

RUN_MIN: Final = 128
"""Keys of a run for which that pays."""

_TAKEN_MAX: Final = 128
"""More than a page has of the smallest records."""


@contextmanager
def in_order(index: Index, table: str, first: bytes, last: bytes) -> Iterator[None]:
    """Inside, keys from first to last are put, ascending, and nothing else of the table is read or written."""
    taken = _take(index, table, first, last)
    try:
        yield
    finally:
        if index.failure is None:
            _put_back(index, table, taken)


def _take(index: Index, table: str, first: bytes, last: bytes) -> list[tuple[bytes, bytes]]:
    """What follows the run; nothing if there are keys inside it, or none behind it."""
    index.check()
    taken: list[tuple[bytes, bytes]] = []
    try:
        cursor = index.cursor(table)
        if cursor.set_range(first) and cursor.key() > last:
            while cursor.key() and len(taken) < _TAKEN_MAX:
                taken.append(cursor.item())
                cursor.delete()
    except EngineError as error:
        raise index.fail(damaged(error)) from error
    return taken


def _put_back(index: Index, table: str, taken: list[tuple[bytes, bytes]]) -> None:
    try:
        cursor = index.cursor(table)
        for key, value in taken:
            cursor.put(key, value)
    except EngineError as error:
        raise index.fail(damaged(error)) from error
