"""What each head and snapshot shows, counted the slow way: a second opinion on ``snap du``, what-if and ``snap space``.

Every record of the tree is read through every view; nothing is taken from the accounts.  Blocks are counted as sets.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from snapfs import api
from snapfs.format import keys, records
from snapfs.format import segments as fmt
from snapfs.store.index import items
from snapfs.types import BlockId, Epoch, VolumeId
from snapfs.versions.epochs import View
from snapfs.versions.keyspace import Snapshotted
from snapfs.volume.lake import Lake

Blocks = frozenset[BlockId]


@dataclass(frozen=True)
class Seen:
    """One view: a head or a snapshot, also one that is in the trash."""

    epoch: Epoch
    volume: VolumeId
    snapshot: str
    """Empty: the head."""
    created_ns: int
    """Of the snapshot; 0 of a head."""
    deleted: bool
    """It was put into the trash, not only its volume."""
    trashed: bool
    """It or its volume is there."""
    logical_bytes: int
    blocks: Blocks


@dataclass
class Count:
    """Of a whole store, at one moment."""

    volumes: dict[VolumeId, tuple[str, bool]] = field(default_factory=dict)
    """(name, whether it is in the trash)."""
    seen: list[Seen] = field(default_factory=list)
    sizes: dict[BlockId, int] = field(default_factory=dict)
    """Stored bytes of every block of files, also of those that nothing shows."""
    unreferenced: set[BlockId] = field(default_factory=set)

    def bytes_of(self, blocks: Iterable[BlockId]) -> int:
        return sum(self.sizes[block] for block in blocks)

    def referenced(self, views: Iterable[Seen]) -> int:
        return self.bytes_of(_union(views))

    def exclusive(self, gone: Sequence[Seen]) -> int:
        """Stored bytes of what these views show and no other does."""
        epochs = {view.epoch for view in gone}
        return self.bytes_of(_union(gone) - _union(view for view in self.seen if view.epoch not in epochs))

    def of_volume(self, volume: VolumeId) -> list[Seen]:
        """Its head first, then its snapshots, oldest first."""
        found = [view for view in self.seen if view.volume == volume]
        return sorted(found, key=lambda view: (view.snapshot != "", view.created_ns, view.epoch))

    # -- as the service tells it

    def usage(self, view: Seen) -> api.Usage:
        name, _ = self.volumes[view.volume]
        return api.Usage(
            volume=name, snapshot=view.snapshot, created_ns=view.created_ns, trashed=view.trashed,
            logical_bytes=view.logical_bytes, referenced_bytes=self.referenced([view]),
            exclusive_bytes=self.exclusive([view]),
        )  # fmt: skip

    def volume_usages(self) -> list[api.VolumeUsage]:
        return [self._volume_usage(volume) for volume in self.volumes]

    def _volume_usage(self, volume: VolumeId) -> api.VolumeUsage:
        name, trashed = self.volumes[volume]
        head, *snapshots = views = self.of_volume(volume)
        return api.VolumeUsage(
            volume=name, trashed=trashed, logical_bytes=head.logical_bytes, referenced_bytes=self.referenced(views),
            exclusive_bytes=self.exclusive(views), snapshots_bytes=self.exclusive(snapshots),
            snapshots=sum(not view.deleted for view in snapshots), head=self.usage(head),
            usages=[self.usage(view) for view in snapshots],
        )  # fmt: skip

    def space(self) -> dict[str, int]:
        """The fields of ``api.Space`` that say who shows the blocks."""
        live = _union(view for view in self.seen if not (view.snapshot or view.trashed))
        kept = _union(view for view in self.seen if not view.trashed) - live
        trash = _union(self.seen) - live - kept
        deleting = self.sizes.keys() - live - kept - trash - self.unreferenced
        return {
            "live_bytes": self.bytes_of(live), "snapshots_bytes": self.bytes_of(kept),
            "trash_bytes": self.bytes_of(trash), "deleting_bytes": self.bytes_of(deleting),
            "waiting_bytes": self.bytes_of(self.unreferenced), "stored_bytes": sum(self.sizes.values()),
        }  # fmt: skip

    def fewest(self, candidates: Sequence[Seen], wanted_bytes: int) -> tuple[int, int] | None:
        """(how many of the candidates must go, at least, to free so much; the least that so many then free); None: all
        of them free too little."""
        for number in range(len(candidates) + 1):
            freed = [self.exclusive(chosen) for chosen in itertools.combinations(candidates, number)]
            enough = [size for size in freed if size >= wanted_bytes]
            if enough:
                return number, min(enough)
        return None


def count(lake: Lake) -> Count:
    """As of the open transaction; bytes that wait to be stored are in no view."""
    index = lake.index
    found = Count()
    for key, payload in items(index, "blocks"):
        block = records.decode_block(payload)
        if block.kind != fmt.DATA:
            continue
        name = BlockId(keys.from_u64(key))
        found.sizes[name] = 0 if block.lost else fmt.record_bytes(block.stored_bytes)
        if not block.refs:
            found.unreferenced.add(name)
    for _, payload in items(index, "volumes"):
        volume = records.decode_volume(payload)
        found.volumes[volume.id] = volume.name, bool(volume.deleted_ns)
        deleted = bool(volume.deleted_ns)
        logical, blocks = _shown(lake, volume.head, volume.id)
        found.seen.append(Seen(volume.head, volume.id, "", 0, deleted, deleted, logical, blocks))
    for _, payload in items(index, "snapshots"):
        record = records.decode_snapshot(payload)
        deleted = bool(record.deleted_ns)
        trashed = deleted or found.volumes[record.volume][1]
        shown = _shown(lake, record.epoch, record.volume)
        found.seen.append(Seen(record.epoch, record.volume, record.name, record.created_ns, deleted, trashed, *shown))
    return found


def _shown(lake: Lake, epoch: Epoch, volume: VolumeId) -> tuple[int, Blocks]:
    """(bytes that extents cover, blocks) of the files of a view: of every inode that it shows, by a path or not."""
    view = View(volume, lake.core.epochs.path(epoch), writable=False)
    forks: dict[int, int] = {}
    extents: list[tuple[int, int, int, BlockId]] = []
    for subject, _, payload in Snapshotted(lake.index).scan(view, b""):
        ino, kind = keys.split(subject)
        if kind == keys.INODE:
            forks[ino] = records.decode_inode(ino, payload).fork
        elif kind == keys.EXTENT:
            fork, _ = keys.split_extent(subject)
            length, block, _ = records.decode_extent(payload)
            extents.append((ino, fork, length, block))
    alive = [(length, block) for ino, fork, length, block in extents if forks.get(ino) == fork]
    return sum(length for length, _ in alive), frozenset(block for _, block in alive)


def _union(views: Iterable[Seen]) -> Blocks:
    return frozenset().union(*(view.blocks for view in views))


def differences(expected: Sequence[api.VolumeUsage], told: Sequence[api.VolumeUsage]) -> list[str]:
    """What is wrong with what was told of the volumes, a line each; the order of volumes does not count."""
    want, have = _figures(expected), _figures(told)
    lines = [
        f"{name}: {have.get(name)}, should be {figures}" for name, figures in want.items() if have.get(name) != figures
    ]
    return lines + [f"{name}: should not be there" for name in have.keys() - want.keys()]


def _figures(usages: Iterable[api.VolumeUsage]) -> dict[str, dict[str, int | bool]]:
    """Every figure, by an address that tells views apart; those with equal addresses are ordered by it."""
    rows: list[tuple[str, dict[str, int | bool]]] = []
    for usage in usages:
        trashed = " (trashed)" if usage.trashed else ""
        place = f"{usage.volume}{trashed}, {min([0, *(one.created_ns for one in usage.usages)])}"
        fields = {name: value for name, value in msgspec.structs.asdict(usage).items() if isinstance(value, int)}
        rows.append((place, fields))
        for one in (usage.head, *usage.usages):
            told = {name: value for name, value in msgspec.structs.asdict(one).items() if isinstance(value, int)}
            rows.append((f"{place}@{one.snapshot} of {one.created_ns}", told))
    rows.sort(key=lambda row: (row[0], sorted(row[1].items())))
    found: dict[str, dict[str, int | bool]] = {}
    for name, fields in rows:
        while name in found:
            name += "'"
        found[name] = fields
    return found
