"""Counts accounts anew, from the records of the tree: for those who check or repair them.

The tree is read once, in its order.  All versions of an extent's subject are next to each other, and those of its
inode's attributes are looked up once an inode.  The epochs that hide any of them are put into the forest that they make
in the tree of epochs: a record's deaths are the children of its epoch there.  So the cost of a subject is that of
sorting its versions.

Invariants:
  * What is counted is what the accounts should say, not what views see: deaths that ``unaccounted`` names are left out,
    and a record that its own epoch hides (``reap`` names it) counts until it is dropped: no epoch hides it once more.
  * Nothing here needs sound tables: a record that cannot be read is passed over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from snapfs.errors import SnapfsError
from snapfs.format import keys, records
from snapfs.store import walk
from snapfs.store.index import Reading
from snapfs.types import BlockId, Epoch, Ino
from snapfs.versions.epochs import ROOT

Counted = tuple[BlockId, Epoch, tuple[Epoch, ...]]
"""A record of an extent: (block, epoch, deaths)."""

_TURN: Final = 200
_OFFSET_NONE: Final = 1 << 64


class Forest:
    """The tree of epochs, in an order in which descendants follow each epoch at once."""

    def __init__(self, parents: Mapping[Epoch, Epoch]) -> None:
        """``parents`` of all epochs; one that is missing or no less than its child counts as the root."""
        above = {epoch: parent if parent < epoch and parent in parents else ROOT for epoch, parent in parents.items()}
        size = dict.fromkeys(above, 1)
        size[ROOT] = 1
        for epoch in sorted(above, reverse=True):
            size[above[epoch]] += size[epoch]
        self._first: dict[Epoch, int] = {}
        self._last: dict[Epoch, int] = {}
        free = {ROOT: 0}
        for epoch in sorted(above):
            start = free[above[epoch]]
            free[above[epoch]] = start + size[epoch]
            self._first[epoch], self._last[epoch] = start, start + size[epoch]
            free[epoch] = start + 1

    def __contains__(self, epoch: Epoch) -> bool:
        return epoch in self._first

    def nearest(self, epochs: set[Epoch]) -> dict[Epoch, list[Epoch]]:
        """Of each of the epochs those others that are nearest below it."""
        first, last = self._first, self._last
        found: dict[Epoch, list[Epoch]] = {}
        path: list[Epoch] = []
        for epoch in sorted(epochs, key=first.__getitem__):
            while path and last[path[-1]] <= first[epoch]:
                path.pop()
            if path:
                found[path[-1]].append(epoch)
            found[epoch] = []
            path.append(epoch)
        return found


class Recount:
    def __init__(self, source: Reading, parents: Mapping[Epoch, Epoch]) -> None:
        self._source = source
        self._forest = Forest(parents)
        self._ino = Ino(0)
        self._forks: dict[Epoch, int | None] = {}
        """Of the inode that is looked at: of each version of its attributes the fork; None: a tombstone."""
        self._hiding: dict[int, set[Epoch]] = {}
        """Epochs at which a fork of it is not shown."""
        self._pending = {
            (Epoch(keys.from_u64(key)), key[8:-8]): keys.from_u64(key, len(key) - 8)
            for key, _ in _values(source, "unaccounted")
            if len(key) == keys.EPOCH_BYTES + keys.HEAD_BYTES + 12
        }
        """(epoch, prefix of a fork's extents) -> offset from which on they are not accounted."""

    def run(self) -> Iterator[Counted | None]:
        """All records of extents; None now and then between them."""
        subject, versions = b"", dict[Epoch, bytes]()
        for number, (key, payload) in enumerate(_values(self._source, "tree")):
            if number % _TURN == 0:
                yield None
            if len(key) != _KEY_BYTES or key[8] != keys.EXTENT:
                continue
            if not key.startswith(subject) or not subject:
                yield from self._counted(subject, versions)
                subject, versions = key[: -keys.EPOCH_BYTES], {}
            epoch = keys.epoch_of(key)
            if epoch in self._forest:
                versions[epoch] = payload
        yield from self._counted(subject, versions)

    def _counted(self, subject: bytes, versions: dict[Epoch, bytes]) -> Iterator[Counted]:
        if not versions:
            return
        ino = keys.split(subject)[0]
        if ino != self._ino:
            self._look_at(ino)
        fork, offset = keys.split_extent(subject)
        hiding = self._hides(fork)
        below = {} if len(versions) == 1 and not hiding else self._forest.nearest(hiding.union(versions))
        for epoch, payload in versions.items():
            if not payload:
                continue
            hiders = below.get(epoch, ()) if epoch not in hiding else ()
            deaths = [death for death in hiders if death in versions or self._told(death, subject, offset)]
            try:
                block = records.decode_extent(payload)[1]
            except SnapfsError:
                continue
            yield block, epoch, tuple(sorted(deaths))

    def _told(self, epoch: Epoch, subject: bytes, offset: int) -> bool:
        """Whether the accounts know that the epoch hides the extent."""
        return not self._pending or offset < self._pending.get((epoch, subject[:-8]), _OFFSET_NONE)

    def _look_at(self, ino: Ino) -> None:
        self._ino = ino
        self._hiding = {}
        self._forks = {}
        prefix = keys.inode(ino)
        for key, payload in _values(self._source, "tree", prefix):
            if not key.startswith(prefix) or len(key) != len(prefix) + keys.EPOCH_BYTES:
                return
            try:
                self._forks[keys.epoch_of(key)] = records.decode_inode(ino, payload).fork if payload else None
            except SnapfsError:
                continue

    def _hides(self, fork: int) -> set[Epoch]:
        known = self._hiding.get(fork)
        if known is None:
            known = {epoch for epoch, shown in self._forks.items() if shown != fork and epoch in self._forest}
            self._hiding[fork] = known
        return known


_KEY_BYTES: Final = keys.HEAD_BYTES + 12 + keys.EPOCH_BYTES
"""Of a version of an extent."""


def _values(source: Reading, table: str, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
    """(key, payload) of sound values, of keys greater than ``after``; as far as they can be reached."""
    try:
        for key, value in walk.values(source, table, after):
            try:
                yield key, records.unseal(key, value)
            except SnapfsError:
                continue
    except SnapfsError:
        return
