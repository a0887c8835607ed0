"""What the parts of fsck and of repair share: findings, reading that goes on after a bad record, the store's shape.

Invariants:
  * Nothing here needs a sound store: whatever a table holds, it is read to its end, and each bad record is told once.
  * Everything is read from one source (an LMDB reader, or the open transaction of a repair) and from the segments.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Callable, Iterator
from pathlib import Path as FilePath
from typing import Any, Final, TypeVar

import msgspec

from snapfs.api import Finding
from snapfs.errors import Corrupt, SnapfsError
from snapfs.format import accounts, keys, records, seals
from snapfs.format.records import HASH_BYTES, Inode, SnapshotRecord, VolumeRecord
from snapfs.store import walk
from snapfs.store.disk import Disk
from snapfs.store.index import Reading
from snapfs.types import Epoch, Ino, VolumeId
from snapfs.versions.epochs import ROOT, Chain, Path, View
from snapfs.versions.keyspace import Snapshotted, Version

FINDINGS_MAX: Final = 1000
"""A report lists no more: a store this broken needs no longer list."""

MALFORMED: Final = (SnapfsError, struct.error, msgspec.MsgspecError, ValueError, IndexError)
"""What decoding a record may raise that has a right checksum but makes no sense."""

T = TypeVar("T")


class Place(msgspec.Struct, frozen=True):
    """Where the store is, and what ties its bytes to it."""

    path: FilePath
    """Of the segments."""
    uuid: bytes
    disk: Disk

    @property
    def seed(self) -> int:
        """Of the hashes of names."""
        return int.from_bytes(self.uuid[:8], "little")


class Findings:
    """What is wrong, as far as the list goes; how much in all."""

    def __init__(self) -> None:
        self.listed: list[Finding] = []
        self.total = 0
        self.bad: set[tuple[str, bytes]] = set()
        """(table, key) of records that cannot be read, told already."""

    def add(self, code: str, message: str) -> None:
        self.total += 1
        if len(self.listed) < FINDINGS_MAX:
            self.listed.append(Finding(code=code, message=message))
        elif len(self.listed) == FINDINGS_MAX:
            self.listed.append(Finding(code="more", message="there is more: the list ends here"))

    def record(self, table: str, key: bytes, message: str) -> None:
        """A record that cannot be read."""
        if (table, key) not in self.bad:
            if len(self.bad) < FINDINGS_MAX * 10:
                self.bad.add((table, key))
            self.add("record", f"table {table}: {message}")


Bad = Callable[[str, bytes, str], None]
"""Is told of a bad record: (table, key, what is wrong)."""


def values(source: Reading, table: str, bad: Bad, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
    """(key, payload) of the table's sound values, in order, of keys greater than ``after``; ``bad`` is told of the
    others."""
    try:
        for key, value in walk.values(source, table, after):
            try:
                payload = records.unseal(key, value)
            except SnapfsError as error:
                bad(table, key, error.message)
            else:
                yield key, payload
    except SnapfsError as error:  # the pages themselves: nothing behind them can be reached
        bad(table, b"", error.message)


def decoded(
    source: Reading, table: str, bad: Bad, decode: Callable[[bytes, bytes], T], after: bytes = b""
) -> Iterator[tuple[bytes, T]]:
    """(key, ``decode(key, payload)``) of the table's sound records, of keys greater than ``after``."""
    for key, payload in values(source, table, bad, after):
        try:
            yield key, decode(key, payload)
        except MALFORMED as error:
            bad(table, key, f"record {key.hex()} is malformed ({_told(error)})")


def _told(error: BaseException) -> str:
    return error.message if isinstance(error, SnapfsError) else str(error)


def sound(source: Reading, table: str, key: bytes, decode: Callable[[bytes], T]) -> T | None:
    """The decoded record; None if it is not there or bad."""
    try:
        payload = source.get(table, key)
        return None if payload is None else decode(payload)
    except MALFORMED:
        return None


# -- what each table's keys and payloads must look like


def _wanted(holds: bool, what: str) -> None:
    if not holds:
        raise Corrupt(what)


def decode_version(subject: bytes, payload: bytes) -> Any:
    """The record of a version (None for a tombstone).  Raises any of ``MALFORMED``."""
    kind = keys.split(subject)[1]
    size = len(subject)
    if kind == keys.INODE:
        _wanted(size == keys.HEAD_BYTES, "its key is too long")
        return records.decode_inode(keys.split(subject)[0], payload) if payload else None
    if kind == keys.EXTENT:
        _wanted(size == keys.HEAD_BYTES + 12, "its key has another length")
        return records.decode_extent(payload) if payload else None
    if kind in (keys.DIRENT, keys.PARENT):
        _wanted(size > keys.HEAD_BYTES + 9 and subject.endswith(b"\0"), "its key has no name")
        if kind == keys.DIRENT:
            return records.decode_dirent(payload) if payload else None
        _wanted(payload in (b"", records.PRESENT), "its value says nothing known")
        return payload or None
    if kind == keys.XATTR:
        _wanted(size > keys.HEAD_BYTES + 1 and subject.endswith(b"\0"), "its key has no name")
        _wanted(not payload or payload.startswith(records.PRESENT), "its value is malformed")
        return payload or None
    _wanted(kind == keys.SYMLINK and size == keys.HEAD_BYTES, f"it is of no known kind ({kind})")
    return payload or None


def split_version(key: bytes) -> tuple[bytes, Epoch]:
    """(subject, epoch) of a key of table ``tree``."""
    _wanted(len(key) >= keys.HEAD_BYTES + keys.EPOCH_BYTES, "its key is too short")
    return key[: -keys.EPOCH_BYTES], keys.epoch_of(key)


def _number(key: bytes, payload: bytes) -> int:
    _wanted(len(payload) == 8, "it is no number")
    return keys.from_u64(payload)


def _label(key: bytes, payload: bytes) -> tuple[str, int]:
    return key[8:].decode(), _number(key, payload)


def _keyed(size: int) -> Callable[[bytes, bytes], bytes]:
    def decode(key: bytes, payload: bytes) -> bytes:
        _wanted(len(key) == size, "its key has another length")
        return key

    return decode


def _reap(key: bytes, payload: bytes) -> bytes:
    _wanted(len(key) == keys.HEAD_BYTES + 12 and keys.split(key)[1] == keys.EXTENT, "it names no fork")
    return key


def _commit(key: bytes, payload: bytes) -> bytes:
    _wanted(len(key) > 17 and key[-9:-8] == b"\0", "its key is malformed")
    return key


def _dedup(key: bytes, payload: bytes) -> int:
    _wanted(len(key) == HASH_BYTES, "its key is no hash")
    return _number(key, payload)


def _unaccounted(key: bytes, payload: bytes) -> bytes:
    subject = key[keys.EPOCH_BYTES :]
    _wanted(len(subject) == keys.HEAD_BYTES + 12 and keys.split(subject)[1] == keys.EXTENT, "it names no extents")
    return key


def _account_id(key: bytes, payload: bytes) -> int:
    _wanted(len(key) == accounts.ID_BYTES, "its key is no digest")
    return _number(key, payload)


def _alias(key: bytes, payload: bytes) -> tuple[Epoch, Epoch]:
    epoch, successor = Epoch(keys.from_u64(key)), accounts.decode_alias(payload)
    _wanted(len(key) == 8 and (successor == accounts.NOWHERE or successor > epoch), "it leads back")
    return epoch, successor


def _place(key: bytes, payload: bytes) -> int:
    _wanted(len(key) == 16, "its key has another length")
    return _number(key, payload)


DECODERS: Final[dict[str, Callable[[bytes, bytes], Any]]] = {
    "epochs": lambda key, payload: (keys.from_u64(key), *records.decode_epoch(payload)),
    "volumes": lambda key, payload: records.decode_volume(payload),
    "snapshots": lambda key, payload: records.decode_snapshot(payload),
    "names": _label,
    "tags": _label,
    "commits": _commit,
    "created": _keyed(24),
    "blocks": lambda key, payload: records.decode_block(payload),
    "dedup": _dedup,
    "freed": _keyed(16),
    "segments": lambda key, payload: records.decode_segment(payload),
    "orphans": _keyed(16),
    "reap": _reap,
    "events": lambda key, payload: records.decode_event(payload),
    "requests": lambda key, payload: records.decode_request(payload),
    "requests_by_time": _keyed(40),
    "seals": lambda key, payload: seals.decode_record(payload),
    "unsealed": _keyed(8),
    "places": _place,
    "emptied": _keyed(16),
    "accounts": lambda key, payload: accounts.decode_account(payload),
    "account_ids": _account_id,
    "aliases": _alias,
    "unaccounted": _unaccounted,
    "trash": _keyed(16),
}
"""Of all tables but ``tree``, ``changes`` and ``meta``."""


# -- the store's shape


class Shown(msgspec.Struct, frozen=True):
    """A head or a snapshot."""

    name: str
    """``volume`` or ``volume@snapshot``."""
    volume: str
    view: View
    root: Ino
    snapshot: SnapshotRecord | None


class Shape:
    """Epochs, volumes and snapshots, as far as their records can be read."""

    def __init__(self, source: Reading, bad: Bad) -> None:
        self.parent: dict[Epoch, Epoch] = {}
        self.volume_of: dict[Epoch, VolumeId] = {}
        self.dying: set[Epoch] = set()
        """Those that are shared, too."""
        self.shared: set[Epoch] = set()
        for _, (epoch, parent, volume, state) in decoded(source, "epochs", bad, DECODERS["epochs"]):
            self.parent[epoch] = parent
            self.volume_of[epoch] = volume
            if state != records.LIVE:
                self.dying.add(epoch)
            if state == records.SHARED:
                self.shared.add(epoch)
        self.volumes: dict[VolumeId, VolumeRecord] = {}
        for key, volume in decoded(source, "volumes", bad, DECODERS["volumes"]):
            if keys.u64(volume.id) == key:
                self.volumes[volume.id] = volume
            else:
                bad("volumes", key, f"the record of volume {volume.id} is under another number")
        self.snapshots: dict[Epoch, SnapshotRecord] = {}
        for key, snapshot in decoded(source, "snapshots", bad, DECODERS["snapshots"]):
            if keys.u64(snapshot.epoch) == key:
                self.snapshots[snapshot.epoch] = snapshot
            else:
                bad("snapshots", key, f"the record of snapshot {snapshot.epoch} is under another number")

    def rooted(self, epoch: Epoch) -> bool:
        """Whether the epoch's ancestors are all there."""
        while epoch in self.parent:
            above = self.parent[epoch]
            if above >= epoch:
                return False
            epoch = above
        return epoch == ROOT

    def ancestors(self, epoch: Epoch) -> Iterator[Epoch]:
        """The epoch itself, its parent, and so on, as far as they are there."""
        while epoch in self.parent:
            yield epoch
            above = self.parent[epoch]
            if above >= epoch:
                return
            epoch = above

    def label(self, record: SnapshotRecord) -> str:
        volume = self.volumes.get(record.volume)
        return f"{volume.name if volume else record.volume}@{record.name}"

    def views(self) -> list[Shown]:
        """Of all heads and snapshots whose epochs are there, in the order of these: an ancestor comes first."""
        wanted: dict[Epoch, tuple[str, str, VolumeId, Ino, SnapshotRecord | None]] = {}
        for record in self.snapshots.values():
            owner = self.volumes.get(record.volume)
            volume = owner.name if owner else str(record.volume)
            wanted[record.epoch] = (f"{volume}@{record.name}", volume, record.volume, record.root, record)
        for head in self.volumes.values():
            wanted.setdefault(head.head, (head.name, head.name, head.id, head.root, None))
        chains: dict[Epoch, Chain] = {}
        found = []
        for epoch in sorted(wanted, reverse=True):  # a descendant comes first and has the ancestors' chain made
            if not self.rooted(epoch) or epoch not in self.parent:
                continue
            if epoch not in chains:
                chain = Chain(sorted(self.ancestors(epoch)))
                for member in chain.order:
                    chains.setdefault(member, chain)
            name, volume, number, root, snapshot = wanted[epoch]
            view = View(number, Path(chains[epoch], epoch), writable=snapshot is None)
            found.append(Shown(name, volume, view, root, snapshot))
        return found[::-1]


class Tolerant(Snapshotted):
    """Reads that pass over records that cannot be read: a scan leaves them out, a get raises Corrupt."""

    def scan(self, view: View, prefix: bytes, start: bytes = b"", stop: bytes | None = None) -> Iterator[Version]:
        while True:
            try:
                for version in super().scan(view, prefix, start, stop):
                    start = version[0][len(prefix) :] + _PAST
                    yield version
                return
            except Corrupt:
                following = self._after_bad(view, prefix, start, stop)
                if following is None:
                    return
                start = following

    def _after_bad(self, view: View, prefix: bytes, start: bytes, stop: bytes | None) -> bytes | None:
        """Where to go on: behind the first subject from ``start`` on whose version in the view is bad."""
        cursor = self._source.cursor("tree")
        found = cursor.set_range(prefix + start)
        while found:
            key: bytes = cursor.key()
            subject = key[: -keys.EPOCH_BYTES]
            if not key.startswith(prefix) or (stop is not None and subject >= prefix + stop):
                return None
            try:
                self.find(view, subject)
            except Corrupt:
                return subject[len(prefix) :] + _PAST
            found = cursor.set_range(subject + _PAST)
        return None

    def forget_cursor(self) -> None:
        """The transaction that is read has ended."""
        self._cursor = None

    def inode(self, view: View, ino: Ino) -> Inode | None:
        """None if the view has none.  Raises any of ``MALFORMED``: it cannot be read."""
        payload: bytes | None = self.get(view, keys.inode(ino))
        return records.decode_inode(ino, payload) if payload else None


_PAST: Final = b"\xff" * (keys.EPOCH_BYTES + 1)
"""Behind all versions of a subject."""

TYPES: Final = frozenset(
    (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK)
)
"""S_IFMT bits that an inode can have."""
