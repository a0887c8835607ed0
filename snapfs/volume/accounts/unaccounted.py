"""Table ``unaccounted``: extents that an epoch hid too many of to account them at once.

A row (epoch, inode, fork, offset) says: of the extents of that fork that the epoch's parent shows, those from that
offset on that have no version at the epoch itself are hidden there, which is not in the accounts yet.

Invariants:
  * There is at most one row of an epoch, inode and fork.  Records of these are reaped only when it is gone.
"""

from __future__ import annotations

from typing import NamedTuple

from snapfs.errors import Corrupt
from snapfs.format import keys, records
from snapfs.store.index import Index, Reading, items
from snapfs.types import Epoch, Ino


class Unaccounted(NamedTuple):
    epoch: Epoch
    """That hides the extents."""
    ino: Ino
    fork: int
    offset: int

    @property
    def key(self) -> bytes:
        return keys.u64(self.epoch) + keys.extent(self.ino, self.fork, self.offset)


def decode(key: bytes) -> Unaccounted:
    """Raises:
    Corrupt: it is no key of the table.
    """
    ino, kind = keys.split(key[keys.EPOCH_BYTES :])
    if kind != keys.EXTENT:
        raise Corrupt("table unaccounted is damaged", hint="run: snap fsck")
    fork, offset = keys.split_extent(key[keys.EPOCH_BYTES :])
    return Unaccounted(Epoch(keys.from_u64(key)), ino, fork, offset)


def first(source: Reading, epoch: Epoch | None = None, ino: Ino | None = None) -> Unaccounted | None:
    """A row; of the epoch, or of the epoch and the inode."""
    prefix = b"" if epoch is None else keys.u64(epoch) + (b"" if ino is None else keys.u64(ino))
    for key, _ in items(source, "unaccounted", prefix):
        return decode(key)
    return None


def put(index: Index, row: Unaccounted) -> None:
    index.put("unaccounted", row.key, records.PRESENT)
