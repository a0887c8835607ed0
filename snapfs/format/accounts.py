"""Accounts: which views show which blocks, as bytes.

An account says of a block how many of the extent records that name it each view shows, as *changes*: at which epochs
that count differs from the parent's view, and by how much.  A view shows the block if the changes on its path add up to
more than 0.  Blocks with equal changes share an account, which sums their bytes.

Invariants:
  * Changes are sorted by epoch; no epoch is there twice; none is 0.
  * Whatever bytes are decoded, the outcome is an account whose changes are so, or Corrupt.
"""

from __future__ import annotations

import bisect
import operator
import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

from blake3 import blake3

from snapfs.errors import Corrupt
from snapfs.types import Epoch

ID_BYTES: Final = 16
"""Of an account's digest, its key in table ``account_ids``."""

NOWHERE: Final = Epoch(0)
"""In place of an epoch that left the tree with all below it."""


Changes = tuple[tuple[Epoch, int], ...]
"""(epoch, how many more records its view shows than its parent's; negative: fewer)."""

NO_CHANGES: Final[Changes] = ()
"""Of a block that no view shows (any more)."""


class Sums(NamedTuple):
    """Of the blocks with one account."""

    stored_bytes: int
    """Their records in the segments (``format.segments.record_bytes``); one that is lost takes nothing."""
    raw_bytes: int
    blocks: int


_SUMS = struct.Struct("<QQQ")
_CHANGE = struct.Struct("<Iq")


def encode_changes(changes: Changes) -> bytes:
    return b"".join(_CHANGE.pack(epoch, change) for epoch, change in changes)


def encode_account(sums: Sums, changes: bytes) -> bytes:
    """``changes``: as ``encode_changes`` makes them."""
    return _SUMS.pack(*sums) + changes


def decode_account(payload: bytes) -> tuple[Sums, Changes]:
    try:
        sums = Sums(*_SUMS.unpack_from(payload))
        changes = tuple((Epoch(epoch), change) for epoch, change in _CHANGE.iter_unpack(payload[_SUMS.size :]))
    except struct.error:
        raise _damaged() from None
    last = NOWHERE
    for epoch, change in changes:
        if epoch <= last or not change:
            raise _damaged()
        last = epoch
    return sums, changes


def _damaged() -> Corrupt:
    return Corrupt("a record of an account is damaged", hint="run: snap fsck")


def account_id(changes: bytes) -> bytes:
    """Digest of encoded changes."""
    return blake3(changes).digest(length=ID_BYTES)


def collected(changes: Iterable[tuple[Epoch, int]]) -> Changes:
    """The same in order, each epoch once; what is NOWHERE does not count."""
    sums: dict[Epoch, int] = {}
    for epoch, change in changes:
        sums[epoch] = sums.get(epoch, 0) + change
    return tuple(sorted((epoch, change) for epoch, change in sums.items() if change and epoch != NOWHERE))


def with_change(changes: Changes, epoch: Epoch, change: int) -> Changes:
    """The changes and one more; most often at an epoch after all of them."""
    place = bisect.bisect_left(changes, epoch, key=_epoch)
    after = place
    if place < len(changes) and changes[place][0] == epoch:
        change += changes[place][1]
        after += 1
    return (*changes[:place], *(((epoch, change),) if change else ()), *changes[after:])


_epoch = operator.itemgetter(0)

_EPOCH = struct.Struct("<Q")


def encode_alias(epoch: Epoch) -> bytes:
    return _EPOCH.pack(epoch)


def decode_alias(payload: bytes) -> Epoch:
    try:
        return Epoch(_EPOCH.unpack(payload)[0])
    except struct.error:
        raise Corrupt("a record of an alias is damaged", hint="run: snap fsck") from None
