"""Fills a new index from what a scan of the segments found (see ``rebuild``).

Invariants:
  * Parents come before children: an epoch is put with all its versions, extents naming blocks that have an entry.
  * References are counted as records are put; what has none at the end is forgotten.
  * A delta is put as it is, as the versions of its epoch: it lists what changed since the base, which is the parent.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Final

import msgspec

from snapfs.api import EventKind
from snapfs.errors import NotFound
from snapfs.format import keys, records, seals
from snapfs.format import segments as fmt
from snapfs.format.records import LOST_SEGMENT, Block, SnapshotRecord, VolumeRecord
from snapfs.format.seals import SealRecord, VolumeFacts
from snapfs.store.index import Index, items
from snapfs.store.scan import Found
from snapfs.store.space import Space
from snapfs.types import BlockId, Epoch, Ino, SegmentId, VolumeId
from snapfs.versions.epochs import ROOT, Chain, View
from snapfs.versions.epochs import Path as EpochPath
from snapfs.versions.keyspace import Snapshotted
from snapfs.volume.check.blocks import place_key
from snapfs.volume.events import EventLog
from snapfs.volume.references import created_key, trash_key
from snapfs.volume.repair.accounts import recount
from snapfs.volume.repair.base import told_of
from snapfs.volume.repair.old import Old
from snapfs.volume.repair.sealed import Lost, Scan, Seal

COMMIT_PUTS_MAX: Final = 50_000


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a rebuild would make."""

    snapshots: list[str]
    """VOLUME@NAME of those that come back whole."""
    lost: list[Lost]
    """Those that are known, but do not."""
    heads: dict[str, str]
    """Each volume that comes back, and the snapshot that its head will show."""
    since_ns: dict[str, int]
    """When that snapshot was made: what the volume's files became later is lost."""
    salvaged: list[str] | None = None
    """A line for each head and snapshot that comes from the old index; None: that is not asked."""
    salvaged_heads: list[str] = []
    """Volumes whose heads come from it: these are not in ``heads``."""
    unread: list[str]
    """Segment files that could not be read, or not to their end."""

    def lines(self) -> list[str]:
        """For people."""
        volumes = len(self.heads) + len(self.salvaged_heads)
        lines = [f"make a new index from the segments: {len(self.snapshots)} snapshots of {volumes} volumes return"]
        lines += self.salvaged or []
        for volume in sorted(self.heads):
            stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since_ns[volume] / 1e9))
            lines.append(
                f"volume {volume}: its files become those of snapshot {self.heads[volume]}; "
                f"what changed since {stamp} is lost"
            )
        lines += [f"snapshot {lost.address} does not come back: {lost.why}" for lost in self.lost]
        lines += [f"segment {name} cannot be read" for name in self.unread]
        if self.salvaged is None:
            lines.append("volumes without a snapshot, and what heads had since, are lost")
        lines.append("the keys of requests are lost; the old index is kept")
        return lines


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a rebuild made."""

    plan: Plan
    blocks: int = 0
    lost_blocks: int = 0
    """Blocks that snapshots need and no segment holds."""
    forgotten_bytes: int = 0
    """Space that records take which nothing names any more."""
    kept: str = ""
    """Directory, in the store, that holds the old index; empty if there was none."""


class Numbers:
    """Epochs and volumes share one sequence."""

    def __init__(self, taken_max: int) -> None:
        self._next = taken_max + 1

    def next(self) -> int:
        self._next += 1
        return self._next - 1


class Builder:
    """Fills a new index (None: only plans)."""

    def __init__(self, scan: Scan, index: Index | None = None) -> None:
        self._scan = scan
        self._made = index
        self._next_block = 1
        self.ino_max = 0
        self._lost_blocks = 0
        self._ids: dict[tuple[SegmentId, int], BlockId] = {}
        """Blocks of seals, by their place."""
        self.changed: set[Epoch] = set()
        """Snapshots that do not keep the name or all tags that their seals say."""
        self._puts = 0
        self.old: Old | None = None
        """What the old index says; None: nothing of it is asked."""

    @property
    def index(self) -> Index:
        assert self._made is not None
        return self._made

    @property
    def seed(self) -> int:
        """Of the hashes of names."""
        return int.from_bytes(self._scan.uuid[:8], "little")

    def put(self, table: str, key: bytes, payload: bytes) -> None:
        self.index.put(table, key, payload)
        self._puts += 1

    def pause(self) -> None:
        """Between two steps, where a half of the index may as well be written."""
        if self._puts > COMMIT_PUTS_MAX:
            self._puts = 0
            self.index.commit()

    # -- blocks

    def take_data(self, found: Found) -> None:
        """A block of files' bytes; of several copies the first that is sound counts."""
        name = found.head.hash
        known = self.index.get("dedup", name)
        if known is None:
            self.put("dedup", name, keys.u64(self.new_block(found.entry())))
        else:
            entry = records.decode_block(self.index.get("blocks", known) or b"")
            old = Found(entry.segment, entry.offset, fmt.Head(
                entry.stored_bytes, entry.raw_bytes, entry.codec, entry.kind, entry.hash
            ))  # fmt: skip
            if self._scan.body_of(old) is None and self._scan.body_of(found) is not None:
                self.put("blocks", known, records.encode_block(found.entry()))
        self.pause()

    def new_block(self, entry: Block) -> BlockId:
        block = BlockId(self._next_block)
        self._next_block += 1
        self.put("blocks", keys.u64(block), records.encode_block(entry))
        return block

    def named(self, name: bytes, length: int) -> BlockId:
        """The block with this hash, which an extent needs so much of; a lost one if there is none."""
        known = self.index.get("dedup", name)
        if known is None:
            block = self.new_block(Block(LOST_SEGMENT, 0, 0, length, records.CODEC_RAW, fmt.DATA, name, 0))
            self.put("dedup", name, keys.u64(block))  # gone at the end
            return block
        return BlockId(keys.from_u64(known))

    def refer(self, counts: Counter[BlockId], reach: dict[BlockId, int]) -> None:
        for block, count in counts.items():
            entry = records.decode_block(self.index.get("blocks", keys.u64(block)) or b"")
            raw_bytes = max(entry.raw_bytes, reach.get(block, 0)) if entry.lost else entry.raw_bytes
            entry = msgspec.structs.replace(entry, refs=entry.refs + count, raw_bytes=raw_bytes)
            self.put("blocks", keys.u64(block), records.encode_block(entry))

    # -- snapshots

    def build(self, salvage: Callable[[Numbers], None] | None = None) -> Report:
        """Everything but the final commit.  ``salvage`` adds what the old index has besides."""
        scan, old = self._scan, self.old
        numbers = Numbers(max(scan.numbers_max, old.numbers_max if old else 0))
        volume_of = self._volumes_of_epochs()
        for found in scan.seal_places:
            self._ids[found.segment, found.offset] = self.new_block(found.entry())
        for epoch, seal in scan.seals.items():
            self._epoch(epoch, seal, volume_of[epoch])
            self.pause()
        for record in self._records().values():
            self.add_snapshot(record)
        heads = self._heads()
        for number, facts in self._facts().items():
            if old is None or number not in old.salvaged():
                self._volume(number, facts, heads.get(number), Epoch(numbers.next()))
        if old is not None and salvage is not None:
            self.ino_max = max(self.ino_max, old.ino_max)
            salvage(numbers)
        for name, value in (
            (b"next_ino", self.ino_max + 1), (b"next_epoch", numbers.next()), (b"next_seal", scan.sequence_max + 1),
        ):  # fmt: skip
            self.put("meta", name, value.to_bytes(8, "little"))
        blocks, forgotten_bytes = self._settle()
        parents = {
            Epoch(keys.from_u64(key)): records.decode_epoch(payload)[0] for key, payload in items(self.index, "epochs")
        }
        recount(self.index, parents, lambda: self.index.commit() if self.index.puts > COMMIT_PUTS_MAX else None)
        planned = self.plan()
        EventLog(self.index).append(
            EventKind.WARNING,
            message=f"the index was rebuilt from the segments: {len(planned.snapshots)} snapshots are back, "
            f"{len(planned.lost)} are lost, {self._lost_blocks} blocks are missing",
        )
        return Report(plan=planned, blocks=blocks, lost_blocks=self._lost_blocks, forgotten_bytes=forgotten_bytes)

    def _volumes_of_epochs(self) -> dict[Epoch, VolumeId]:
        """Whose epoch each is; that of a deleted snapshot goes with one that builds on it."""
        found: dict[Epoch, VolumeId] = {}
        for epoch, seal in sorted(self._scan.seals.items(), reverse=True):
            if seal.body.record is not None:
                found[epoch] = seal.body.record.volume
            found.setdefault(seal.root.base, found[epoch])
        return found

    def _epoch(self, epoch: Epoch, seal: Seal, volume: VolumeId) -> None:
        """The epoch with its versions and its seal."""
        root, body = seal.root, seal.body
        state = records.LIVE if body.record is not None else records.DYING
        self.put("epochs", keys.u64(epoch), records.encode_epoch(root.base, volume, state))
        for part in self._scan.entries(seal):
            counts: Counter[BlockId] = Counter()
            reach: dict[BlockId, int] = {}
            for subject, payload in part:
                self.ino_max = max(self.ino_max, keys.split(subject)[0])
                stored = payload
                if payload and keys.split(subject)[1] == keys.EXTENT:
                    length, name, offset = seals.decode_extent(payload)
                    block = self.named(name, offset + length)
                    counts[block] += 1
                    reach[block] = max(reach.get(block, 0), offset + length)
                    stored = records.encode_extent(length, block, offset)
                self.put("tree", keys.versioned(subject, epoch), stored)
                self.put("changes", keys.u64(epoch) + subject, b"")
            self.refer(counts, reach)
            self.pause()
        record = SealRecord(
            epoch=epoch, base=root.base, parent=root.parent, parent_epoch=root.parent_epoch, digest=root.digest,
            content=root.content, sequence=root.sequence, gone=body.record is None, root=self._at(seal.at),
            body=[self._at(found) for found in seal.body_at], parts=[self._at(found) for found in seal.parts_at],
        )  # fmt: skip
        self.put("seals", keys.u64(epoch), seals.encode_record(record))
        self.refer(Counter(set(record.blocks())), {})

    def _at(self, found: Found) -> BlockId:
        return self._ids[found.segment, found.offset]

    def _records(self) -> dict[Epoch, SnapshotRecord]:
        """The snapshots' records: of two with one name or tag, it stays with the one that was written last."""
        taken: set[tuple[VolumeId, str]] = set()
        found: dict[Epoch, SnapshotRecord] = {}
        by_age = sorted(self._scan.seals.values(), key=lambda seal: -seal.root.sequence)
        living = [seal.body.record for seal in by_age if seal.body.record and not seal.body.record.deleted_ns]
        names = {(record.volume, record.name) for record in living}
        for seal in by_age:
            record = seal.body.record
            if record is None:
                continue
            if record.deleted_ns:
                found[record.epoch] = record
                continue
            name = free_name(record.name, record.epoch, lambda name, of=record.volume: (of, name) in taken)  # type: ignore[misc]
            taken.add((record.volume, name))
            tags = [tag for tag in record.tags if (record.volume, tag) not in taken | names]
            taken.update((record.volume, tag) for tag in tags)
            if (name, tags) != (record.name, record.tags):
                self.changed.add(record.epoch)
            found[record.epoch] = msgspec.structs.replace(record, name=name, tags=tags)
        return dict(sorted(found.items()))

    def add_snapshot(self, record: SnapshotRecord) -> None:
        volume, epoch = keys.u64(record.volume), keys.u64(record.epoch)
        self.put("snapshots", epoch, records.encode_json(record))
        if record.epoch in self.changed:
            self.put("unsealed", epoch, records.PRESENT)
        if record.deleted_ns:
            self.put("trash", trash_key(record.deleted_ns, record.epoch), records.PRESENT)
            return
        self.put("names", volume + record.name.encode(), epoch)
        self.put("created", created_key(record), records.PRESENT)
        for tag in record.tags:
            self.put("tags", volume + tag.encode(), epoch)
        if record.git:
            self.put("commits", volume + record.git.commit.encode() + b"\0" + epoch, records.PRESENT)

    # -- volumes

    def _facts(self) -> dict[VolumeId, VolumeFacts]:
        """Volumes that have snapshots, as the seal that was written last has them; no two of one name."""
        found: dict[VolumeId, VolumeFacts] = {}
        salvaged = self.old.salvaged() if self.old else {}
        taken = set(salvaged.values())
        for seal in sorted(self._scan.seals.values(), key=lambda seal: -seal.root.sequence):
            record, facts = seal.body.record, seal.body.volume
            if record is None or record.volume in found:
                continue
            if facts is None:
                facts = VolumeFacts(id=record.volume, name=f"recovered-{record.volume}", created_ns=record.created_ns)
            found[record.volume] = facts
        for number, facts in found.items():
            if not facts.deleted_ns:
                name = salvaged.get(number) or free_name(facts.name, number, taken.__contains__)
                taken.add(name)
                found[number] = msgspec.structs.replace(facts, name=name)
        return found

    def _heads(self) -> dict[VolumeId, SnapshotRecord]:
        """Of each volume the newest snapshot; one in the trash only if it has no other."""
        found = sorted(self._records().values(), key=lambda record: (not record.deleted_ns, record.epoch))
        return {record.volume: record for record in found}

    def _volume(self, number: VolumeId, facts: VolumeFacts, base: SnapshotRecord | None, head: Epoch) -> None:
        if base is None:
            raise NotFound(f"volume {facts.name!r} has no snapshot")
        self.put("epochs", keys.u64(head), records.encode_epoch(base.epoch, number, records.LIVE))
        record = VolumeRecord(
            id=number, name=facts.name, root=base.root, head=head, created_ns=facts.created_ns,
            used_bytes=base.used_bytes - self._let_go(number, base, head), **told_of(facts),
        )  # fmt: skip
        self.put_volume(record)

    def put_volume(self, record: VolumeRecord) -> None:
        self.put("volumes", keys.u64(record.id), records.encode_json(record))
        if record.deleted_ns:
            self.put("trash", trash_key(record.deleted_ns, record.id), records.PRESENT)

    def _let_go(self, number: VolumeId, base: SnapshotRecord, head: Epoch) -> int:
        """The head has no files that were unlinked and still open; returns the bytes that they held."""
        path = [base.epoch]
        while self._scan.seals[path[-1]].root.base != ROOT:
            path.append(self._scan.seals[path[-1]].root.base)
        view = View(number, EpochPath(Chain(path[::-1]), base.epoch), writable=False)
        tree, bytes_held = Snapshotted(self.index), 0
        for ino in base.orphans:
            payload = tree.get(view, keys.inode(ino))
            inode = records.decode_inode(Ino(ino), payload) if payload else None
            if inode is not None and inode.nlink == 0:
                self.put("tree", keys.versioned(keys.inode(ino), head), records.TOMBSTONE)
                self.put("changes", keys.u64(head) + keys.inode(ino), b"")
                bytes_held += inode.allocated_bytes
        return bytes_held

    def plan(self) -> Plan:
        facts, heads = self._facts(), self._heads()
        volumes = {
            number: f"{told.name} (in the trash, {number})" if told.deleted_ns else told.name
            for number, told in facts.items()
        }
        old = self.old
        heads = {number: record for number, record in heads.items() if old is None or number not in old.salvaged()}
        back = {line.epoch for line in old.whole} if old else set()
        return Plan(
            salvaged=old.lines() if old else None,
            salvaged_heads=sorted(old.salvaged().values()) if old else [],
            snapshots=[f"{volumes[record.volume]}@{record.name}" for record in self._records().values()],
            lost=[lost for lost in self._scan.lost if lost.epoch not in back],
            heads={volumes[number]: record.name for number, record in heads.items()},
            since_ns={volumes[number]: record.created_ns for number, record in heads.items()},
            unread=[f"{number:016d}.seg" for number in self._scan.unread],
        )

    # -- at the end

    def _settle(self) -> tuple[int, int]:
        """Forget blocks that nothing names, release superseded seals, count space; (blocks, bytes forgotten)."""
        live: Counter[SegmentId] = Counter()
        space = Space()
        blocks = forgotten_bytes = 0
        start: bytes | None = b""
        while start is not None:
            batch, start = _some(self.index, start)
            for key, entry in batch:
                size = fmt.record_bytes(entry.stored_bytes)
                if entry.lost:
                    self._lost_blocks += 1
                    self.index.delete("dedup", entry.hash)
                elif entry.refs == 0 and (entry.kind == fmt.DATA or self._scan.lost or self._scan.unread):
                    forgotten_bytes += size
                    self.index.delete("blocks", key)
                    if entry.kind == fmt.DATA and self.index.get("dedup", entry.hash) == key:
                        self.index.delete("dedup", entry.hash)
                    self._puts += 2
                    continue
                elif entry.refs == 0:  # it would be found again
                    self.put("freed", keys.u64(0) + key, records.PRESENT)
                if not entry.lost:
                    live[entry.segment] += size
                    space.count(entry)
                    self.put("places", place_key(entry), key)
                blocks += 1
            self.pause()
        for segment, live_bytes in live.items():
            end = self._scan.ends[segment]  # behind whatever may lie there
            self.put("segments", keys.u64(segment), records.encode_segment(end - end % fmt.ALIGN_BYTES, live_bytes))
        for name, value in {"next_block": self._next_block, **space.counters()}.items():
            self.put("meta", name.encode(), value.to_bytes(8, "little"))
        return blocks, forgotten_bytes


def _some(index: Index, start: bytes) -> tuple[list[tuple[bytes, Block]], bytes | None]:
    """Some entries of ``blocks`` from a key on, and the key to go on from; None at the end."""
    batch: list[tuple[bytes, Block]] = []
    for key, payload in items(index, "blocks", start=start):
        if len(batch) == _SETTLED_AT_ONCE:
            return batch, key
        batch.append((key, records.decode_block(payload)))
    return batch, None


def free_name(name: str, number: int, taken: Callable[[str], bool]) -> str:
    """The name, or, if it is taken, one with the number behind it, which is unique."""
    return f"{name[:_NAME_MAX]}.{number}" if taken(name) else name


_SETTLED_AT_ONCE: Final = 5000
_NAME_MAX: Final = 60
"""Characters kept of a name that gets a number: what all names may have, whatever the characters."""
