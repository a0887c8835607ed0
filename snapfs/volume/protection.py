"""Which snapshots nothing but their owner's own word may delete: no policy, and no suggestion."""

from __future__ import annotations

from typing import NamedTuple

from snapfs.format.records import SnapshotRecord
from snapfs.types import Epoch
from snapfs.volume.snapshots import Snapshots, is_locked
from snapfs.volume.volumes import Volumes


class Anchors(NamedTuple):
    """What others stand on, at one moment."""

    cloned: set[Epoch]
    """Snapshots that some volume was cloned from."""
    current: set[Epoch]
    """Those that some head stands on."""


def anchors(volumes: Volumes, snapshots: Snapshots) -> Anchors:
    everything = volumes.everything()
    bases = (snapshots.base(volume) for volume in everything)
    return Anchors({volume.origin for volume in everything}, {base.epoch for base in bases if base is not None})


def protection(record: SnapshotRecord, standing: Anchors) -> tuple[str, ...]:
    """Why it stays; empty: it may go."""
    reasons = {
        "held": bool(record.holds),
        "locked": is_locked(record),
        "tagged": bool(record.tags),
        "cloned": record.epoch in standing.cloned,
        "current": record.epoch in standing.current,
    }
    return tuple(reason for reason, holds in reasons.items() if holds)
