"""What a store holds in one state: its views, the ledger of what they show, and the counters of blocks.

Invariants:
  * Everything is read from one source, so that all figures are of one moment.
  * Extents are never walked: the cost is that of the accounts, which are as many as there are different histories of
    blocks.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from snapfs.errors import Corrupt
from snapfs.format import accounts, keys, records
from snapfs.format.accounts import Changes, Sums
from snapfs.format.records import SnapshotRecord, VolumeRecord
from snapfs.store.index import Reading, items
from snapfs.store.space import COUNTERS, Space
from snapfs.types import Epoch, VolumeId
from snapfs.volume.accounts.report import Ledger, Rest, Shown


class Statement(msgspec.Struct, frozen=True):
    ledger: Ledger
    volumes: dict[VolumeId, VolumeRecord]
    """Those in the trash, too."""
    snapshots: dict[Epoch, SnapshotRecord]
    """Those in the trash, too."""
    space: Space
    segments_bytes: int = 0
    """What the segments occupied on the host when the state was read; 0: not asked."""
    index_bytes: int = 0
    """What the index did."""

    def trashed(self, record: SnapshotRecord) -> bool:
        """Whether the snapshot is in the trash, by itself or with its volume."""
        owner = self.volumes.get(record.volume)
        return bool(record.deleted_ns or (owner is not None and owner.deleted_ns))

    def address(self, record: SnapshotRecord) -> str:
        owner = self.volumes.get(record.volume)
        return f"{owner.name if owner else record.volume}@{record.name}"

    def exact_address(self, record: SnapshotRecord) -> str:
        """For whoever will delete just this one: a commit's bare ID, which its first snapshot has as its name, means
        its newest."""
        first = record.git is not None and record.git.commit == record.name
        return self.address(record) + (".1" if first else "")


def state(source: Reading, rest: Rest) -> Statement:
    """Raises:
    Corrupt: a record cannot be read, or names what is not there.
    """
    parents: dict[Epoch, Epoch] = {}
    for key, payload in items(source, "epochs"):
        parents[Epoch(keys.from_u64(key))] = records.decode_epoch(payload)[0]
    volumes = {record.id: record for record in (records.decode_volume(p) for _, p in items(source, "volumes"))}
    found = (records.decode_snapshot(payload) for _, payload in items(source, "snapshots"))
    snapshots: dict[Epoch, SnapshotRecord] = {}
    for record in found:
        snapshots[record.epoch] = record
        rest()
    ledger = Ledger(parents, list(_views(parents, volumes, snapshots)), aliases_of(source), rest)
    space = Space(**{name: int.from_bytes(source.get("meta", name.encode()) or b"\0", "little") for name in COUNTERS})
    return Statement(ledger.add(rows(source)), volumes, snapshots, space)


def rows(source: Reading) -> Iterator[tuple[Sums, Changes]]:
    """Of all accounts."""
    for _, payload in items(source, "accounts"):
        yield accounts.decode_account(payload)


def aliases_of(source: Reading) -> dict[Epoch, Epoch]:
    """Where epochs went that left the tree."""
    return {
        Epoch(keys.from_u64(key)): accounts.decode_alias(payload) for key, payload in items(source, "aliases")
    }  # fmt: skip


def _views(
    parents: dict[Epoch, Epoch], volumes: dict[VolumeId, VolumeRecord], snapshots: dict[Epoch, SnapshotRecord]
) -> Iterator[Shown]:
    for volume in volumes.values():
        if volume.head not in parents:
            raise Corrupt(f"the head of volume {volume.name!r} is missing", hint="run: snap fsck")
        yield Shown(volume.head, volume.id, head=True, trashed=bool(volume.deleted_ns))
    for record in snapshots.values():
        if record.epoch not in parents:
            raise Corrupt(f"the epoch of snapshot {record.name!r} is missing", hint="run: snap fsck")
        owner = volumes.get(record.volume)
        trashed = bool(record.deleted_ns or (owner is not None and owner.deleted_ns))
        yield Shown(record.epoch, record.volume, head=False, trashed=trashed)
