"""Volumes and snapshots as the records of ``snapfs.api``."""

from __future__ import annotations

from snapfs import api
from snapfs.format import keys
from snapfs.format.records import SnapshotRecord
from snapfs.format.seals import decode_record
from snapfs.types import Epoch
from snapfs.volume.core import Core
from snapfs.volume.snapshots import Snapshots
from snapfs.volume.volumes import Volume, Volumes


class Describe:
    def __init__(self, core: Core, volumes: Volumes, snapshots: Snapshots) -> None:
        self._core = core
        self._volumes = volumes
        self._snapshots = snapshots

    def volume(self, volume: Volume) -> api.Volume:
        return api.Volume(
            name=volume.name,
            snapshots=self._snapshots.count(volume),
            created_ns=volume.created_ns,
            parent=self._address(self._snapshots.base(volume)),
            quota_bytes=volume.usage.quota_bytes,
            used_bytes=volume.usage.total_bytes,
            quota_kind=volume.usage.quota_kind,
            compression=volume.usage.compression,
            policy=volume.policy,
            origin=self._address(self._snapshots.alive(volume.origin) if volume.origin else None),
        )

    def snapshot(
        self, volume: Volume, record: SnapshotRecord, *, base: Epoch | None = None, created: bool = True
    ) -> api.Snapshot:
        """The base, for those who describe many: of ``base_of(volume)``."""
        current = self.base_of(volume) if base is None else base
        parent = next(self._snapshots.ancestry(self._core.epochs.parent(record.epoch)), None)
        return api.Snapshot(
            volume=volume.name,
            name=record.name,
            created_ns=record.created_ns,
            message=record.message,
            meta=record.meta,
            git=record.git,
            parent=self._address(parent),
            current=current == record.epoch,
            created=created,
            tags=record.tags,
            seal=self._seal(record.epoch),
            holds=record.holds,
            locked_until_ns=record.locked_until_ns,
        )

    def _seal(self, epoch: Epoch) -> str:
        payload = self._core.index.get("seals", keys.u64(epoch))
        return decode_record(payload).digest.hex() if payload else ""

    def base_of(self, volume: Volume) -> Epoch:
        """Epoch of the snapshot that the head stands on; 0 if there is none."""
        base = self._snapshots.base(volume)
        return base.epoch if base else Epoch(0)

    def _address(self, record: SnapshotRecord | None) -> str:
        owner = self._volumes.by_id(record.volume) if record else None
        return f"{owner.name}@{record.name}" if owner and record else ""
