"""A table of the index, copied into another file.

Invariants:
  * It goes in small steps: LMDB keeps the interpreter's lock, which the trio thread needs.
"""

from __future__ import annotations

from itertools import islice
from typing import Any, Final

from snapfs.format.records import seal, unseal
from snapfs.store.reading import Cursor

_COPIED_A_STEP: Final = 1000
_STEPS_A_COMMIT: Final = 50


def copy_table(rows: Cursor, env: Any, table: Any, *, renumber: bool) -> None:
    """Put all rows into an empty table of another index."""
    items = iter(rows)
    more = True
    while more:
        with env.begin(write=True) as txn:
            target = txn.cursor(db=table)
            for _ in range(_STEPS_A_COMMIT):
                part = list(islice(items, _COPIED_A_STEP))
                more = bool(part)
                if not more:
                    break
                if renumber:  # no longer in order, perhaps
                    part = [_renumbered(key, value) for key, value in part]
                target.putmulti(part, append=not renumber)


def _renumbered(key: bytes, value: bytes) -> tuple[bytes, bytes]:
    return (new := bytes(8) + key[8:]), seal(new, unseal(key, value))
