"""The index, copied into another file.

Invariants:
  * It goes in small steps: LMDB keeps the interpreter's lock, which the trio thread needs.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any, Final

import lmdb

from snapfs.errors import IOFailure
from snapfs.format.records import seal, unseal
from snapfs.store import verify
from snapfs.store.environment import open_environment
from snapfs.store.reading import Cursor

NUMBERED: Final = ("freed", "emptied")
"""Tables whose keys begin with a transaction's number."""

_COPIED_A_STEP: Final = 1000
_STEPS_A_COMMIT: Final = 50


def copy_index(source: Any, tables: dict[str, Any], directory: Path) -> None:
    """As ``Index.copy``: the last commit of an environment."""
    try:
        env, targets = open_environment(directory, create=True, sync=False)
        try:
            with source.begin() as reader:
                for name, target in targets.items():
                    copy_table(reader.cursor(db=tables[name]), env, target, renumber=name in NUMBERED)
            env.sync(True)
            content = verify.witness(int(env.info()["last_txnid"]))
        finally:
            env.close()
        (directory / verify.WITNESS).write_bytes(content)
    except (lmdb.Error, OSError) as error:
        raise IOFailure(f"{directory}: the index cannot be copied ({error})") from error


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
