"""Puts on top of a rebuilt index what the old one has and no seal: heads, volumes without a snapshot, snapshots that
were not yet sealed.

Invariants:
  * An epoch is taken over with its own number and all its sound records; what seals have is not touched.  So a view
    shows what it did: the base as it was sealed, and over it each record that was written later.
  * An extent is taken over by its block's hash.  Where no segment holds that block, it is a lost one: an I/O error.
  * A record that is known to be lost stays known (``losses``): nobody is shown what was there before it.
  * A snapshot comes back only if nothing of it is lost; else its records are part of what stands on it.
"""

from __future__ import annotations

import functools
from collections import Counter
from typing import Final

import msgspec

from snapfs.api import Event
from snapfs.format import keys, records
from snapfs.format import segments as fmt
from snapfs.format.records import LOST_SEGMENT, Block, SnapshotRecord, VolumeRecord
from snapfs.types import BLOCK_BYTES_MAX, BlockId, Epoch
from snapfs.volume.check.base import MALFORMED, decode_version
from snapfs.volume.core import now_ns
from snapfs.volume.events import EVENTS_MAX
from snapfs.volume.references import stamp
from snapfs.volume.repair.index_builder import Builder, Numbers, free_name
from snapfs.volume.repair.losses import Losses
from snapfs.volume.repair.old import Line, Old
from snapfs.volume.repair.sealed import Scan

_BATCH: Final = 1000
_CACHED_HASHES: Final = 4096


class Salvage:
    def __init__(self, builder: Builder, scan: Scan) -> None:
        """The builder knows the old index, or there is nothing to do."""
        self._builder = builder
        self._scan = scan
        self._hash = functools.lru_cache(_CACHED_HASHES)(self._find_hash)
        self._by_dedup: dict[BlockId, bytes] | None = None
        self._lost_block = BlockId(0)

    @property
    def _old(self) -> Old:
        assert self._builder.old is not None
        return self._builder.old

    def fill(self, numbers: Numbers) -> None:
        """Everything; in the builder's index, before it counts what is used."""
        old, builder = self._old, self._builder
        lines = [*old.whole, *old.heads, *old.aside]
        taken = sorted({epoch for line in lines for epoch in line.path})
        self._versions(set(taken))
        lost = {epoch: found for epoch in taken if (found := self._lost(epoch))}
        doubt = {epoch: ranges for epoch in taken if (ranges := old.doubtful(epoch))}
        whole = [line for line in old.whole if not any(epoch in lost or epoch in doubt for epoch in line.path)]
        living = {line.epoch for line in [*whole, *old.heads, *old.aside]}
        for epoch in taken:
            state = records.LIVE if epoch in living else records.DYING
            payload = records.encode_epoch(old.parent[epoch], old.volume_of[epoch], state)
            builder.put("epochs", keys.u64(epoch), payload)
        parent = {seal.root.epoch: seal.root.base for seal in self._scan.seals.values()} | {
            epoch: old.parent[epoch] for epoch in taken
        }
        losses = Losses(builder, parent, self._lost_one)
        for epoch, subjects in lost.items():
            losses.note(epoch, old.volume_of[epoch], subjects)
        for line in [*old.heads, *old.aside]:
            losses.settle(line.epoch, line.volume, old.root(line), [one for e in line.path for one in doubt.get(e, ())])
        losses.count()
        for line in whole:
            if line.record is not None:
                self._snapshot(msgspec.structs.replace(line.record, root=old.root(line)))
        for line in old.heads:
            record = msgspec.structs.replace(old.volumes[line.volume], name=line.name, root=old.root(line))
            builder.put_volume(record)
        for line in old.aside:
            self._aside(line)
        self._queues(set(taken), {line.volume for line in old.heads})
        self._events()

    # -- records

    def _versions(self, wanted: set[Epoch]) -> None:
        """All sound records of these epochs."""
        builder, counts, reach = self._builder, Counter[BlockId](), dict[BlockId, int]()
        for key, payload in self._old.index.records("tree") if wanted else ():
            try:
                subject, epoch = key[: -keys.EPOCH_BYTES], keys.epoch_of(key)
                if epoch not in wanted:
                    continue
                decode_version(subject, payload)
                ino, kind = keys.split(subject)
            except MALFORMED:
                continue
            stored = payload
            if payload and kind == keys.EXTENT:
                length, old, offset = records.decode_extent(payload)
                if not 0 < length <= BLOCK_BYTES_MAX - offset:
                    continue
                block, offset = self._block(old, offset, length)
                counts[block] += 1
                reach[block] = max(reach.get(block, 0), offset + length)
                stored = records.encode_extent(length, block, offset)
            elif kind == keys.INODE and payload and records.decode_inode(ino, payload).nlink == 0:
                builder.put("orphans", keys.u64(self._old.volume_of[epoch]) + keys.u64(ino), records.PRESENT)
            builder.ino_max = max(builder.ino_max, ino)
            builder.put("tree", key, stored)
            builder.put("changes", keys.u64(epoch) + subject, b"")
            if len(counts) > _BATCH:
                builder.refer(counts, reach)
                counts.clear()
                reach.clear()
            builder.pause()
        builder.refer(counts, reach)

    def _lost(self, epoch: Epoch) -> list[bytes]:
        """Subjects that the epoch has written, and whose records are not there."""
        index = self._builder.index
        found = [key[8:] for key, _ in self._old.index.records("changes", keys.u64(epoch), keys.u64(epoch + 1))]
        found = [subject for subject in found if len(subject) >= keys.HEAD_BYTES]
        return [subject for subject in found if index.get("tree", keys.versioned(subject, epoch)) is None]

    # -- blocks

    def _block(self, old: BlockId, offset: int, length: int) -> tuple[BlockId, int]:
        """(the block here, offset in it) of a run in a block of the old index; a lost one if its bytes are nowhere."""
        digest = self._hash(old)
        if digest is None:
            return self._lost_one(), 0
        block = self._builder.named(digest, offset + length)
        entry = records.decode_block(self._builder.index.get("blocks", keys.u64(block)) or b"")
        if not entry.lost and entry.raw_bytes < offset + length:
            return self._lost_one(), 0
        return block, offset

    def _find_hash(self, old: BlockId) -> bytes | None:
        payload = self._old.index.get("blocks", keys.u64(old))
        try:
            entry = records.decode_block(payload) if payload else None
        except MALFORMED:
            entry = None
        if entry is not None:
            return entry.hash if entry.kind == fmt.DATA and entry.hash.strip(b"\0") else None
        if self._by_dedup is None:
            self._by_dedup = dict(self._dedup())
        return self._by_dedup.get(old)

    def _dedup(self) -> list[tuple[BlockId, bytes]]:
        """Of blocks whose entries may be lost, what finds them by their hashes."""
        index = self._old.index
        gaps = index.gaps("blocks")
        found = [(payload, key) for key, payload in index.records("dedup")] if gaps else []
        return [
            (BlockId(keys.from_u64(number)), key) for number, key in found if any(g.holds(number, number) for g in gaps)
        ]

    def _lost_one(self) -> BlockId:
        """A block whose bytes are lost, for all of which nothing is known."""
        if not self._lost_block:
            nothing = Block(
                LOST_SEGMENT, 0, 0, BLOCK_BYTES_MAX, records.CODEC_RAW, fmt.DATA, bytes(records.HASH_BYTES), 0
            )
            self._lost_block = self._builder.new_block(nothing)
        return self._lost_block

    # -- volumes, snapshots

    def _snapshot(self, record: SnapshotRecord) -> None:
        """As it was; names and tags that a sealed one has stay with that.  It waits to be sealed."""
        index, volume = self._builder.index, keys.u64(record.volume)

        def taken(label: str) -> bool:
            return any(index.get(table, volume + label.encode()) is not None for table in ("names", "tags"))

        if not record.deleted_ns:
            name = free_name(record.name, record.epoch, taken)
            record = msgspec.structs.replace(record, name=name, tags=[tag for tag in record.tags if not taken(tag)])
        self._builder.changed.add(record.epoch)
        self._builder.add_snapshot(record)

    def _aside(self, line: Line) -> None:
        """A head that an older index has, as a snapshot."""
        old: VolumeRecord = self._old.volumes[line.volume]
        record = SnapshotRecord(
            epoch=line.epoch, volume=line.volume, name=f"salvaged-{stamp()}", root=self._old.root(line),
            created_ns=now_ns(), message="the volume's files as an older index has them", used_bytes=old.used_bytes,
        )  # fmt: skip
        self._snapshot(record)

    def _queues(self, epochs: set[Epoch], volumes: set[int]) -> None:
        index, builder = self._old.index, self._builder
        for key, _ in index.records("orphans"):
            if len(key) == 16 and keys.from_u64(key) in volumes:
                builder.put("orphans", key, records.PRESENT)
        for key, _ in index.records("reap"):
            if len(key) == keys.HEAD_BYTES + 12 and keys.from_u64(key, keys.HEAD_BYTES + 4) in epochs:
                builder.put("reap", key, records.PRESENT)

    def _events(self) -> None:
        """The log goes on, where it is there to its end without a gap."""
        events: list[Event] = []
        for event in sorted(self._old.events, key=lambda event: event.sequence):
            if events and event.sequence != events[-1].sequence + 1:
                return
            events.append(event)
        for event in events[-EVENTS_MAX + 2 :]:
            self._builder.put("events", keys.u64(event.sequence), records.encode_json(event))
