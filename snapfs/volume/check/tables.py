"""fsck of the small tables: epochs, volumes, snapshots and how these are found, logs, seals, counters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from snapfs.errors import Corrupt
from snapfs.format import keys, records, seals
from snapfs.format.records import SnapshotRecord
from snapfs.format.seals import SealRecord
from snapfs.format.segments import SEAL_PART, SEAL_ROOT
from snapfs.store import space
from snapfs.store.index import Reading
from snapfs.types import BlockId, Epoch, VolumeId
from snapfs.versions.epochs import ROOT
from snapfs.volume.check.base import DECODERS, Findings, Shape, decoded, sound
from snapfs.volume.references import created_key, trash_key


class Tables:
    """Checks of what a reader's state holds beside the tree and the blocks."""

    def __init__(self, source: Reading, shape: Shape, findings: Findings) -> None:
        self._source = source
        self._shape = shape
        self._findings = findings
        self._found = findings.add
        self.references: Counter[BlockId] = Counter()
        """How often seals name each block."""
        self.seals: dict[BlockId, SealRecord] = {}
        """By their root's block."""

    def run(self) -> Iterator[None]:
        for step in (
            self._epochs(), self._volumes(), self._snapshots(), self._labels(), self._orders(), self._trash(),
            self._logs(), self._queues(), self._seals(), self._counters(),
        ):  # fmt: skip
            yield from step

    def _epochs(self) -> Iterator[None]:
        shape = self._shape
        heads = {volume.head for volume in shape.volumes.values()}
        for epoch, parent in shape.parent.items():
            if parent != ROOT and parent not in shape.parent:
                self._found("epoch-parent", f"epoch {epoch} has no parent {parent}")
            elif parent >= epoch:
                self._found("epoch-parent", f"epoch {epoch} has a later one, {parent}, as its parent")
            used = epoch in heads or epoch in shape.snapshots
            if used and epoch in shape.dying:
                self._found("epoch-state", f"epoch {epoch} is in use and waits to be reclaimed")
            if not used and epoch not in shape.dying:
                self._found("epoch-state", f"epoch {epoch} is that of no head and no snapshot")
        yield

    def _volumes(self) -> Iterator[None]:
        shape = self._shape
        names: Counter[str] = Counter()
        for volume in shape.volumes.values():
            names[volume.name] += not volume.deleted_ns
            if volume.head not in shape.parent:
                self._found("volume-head", f"volume {volume.name} has the head {volume.head}, which is not there")
            elif shape.volume_of[volume.head] != volume.id or volume.head in shape.snapshots:
                self._found("volume-head", f"volume {volume.name} has the head {volume.head}, which is not its own")
        for name, count in names.items():
            if count > 1:
                self._found("volume-name", f"{count} volumes have the name {name}")
        yield

    def _snapshots(self) -> Iterator[None]:
        source, shape = self._source, self._shape
        for record in shape.snapshots.values():
            label = shape.label(record)
            if record.epoch not in shape.parent:
                self._found("snapshot-epoch", f"snapshot {label} names epoch {record.epoch}, which is not there")
            if record.volume not in shape.volumes:
                self._found("snapshot-volume", f"snapshot {label} is of volume {record.volume}, which is not there")
            if record.deleted_ns:
                continue
            name = keys.u64(record.volume) + record.name.encode(errors="surrogatepass")
            if sound(source, "names", name, keys.from_u64) != record.epoch:
                self._found("snapshot-name", f"snapshot {label} is not found by its name")
            if sound(source, "created", created_key(record), bool) is None:
                self._found("snapshot-order", f"snapshot {label} is not found by its time")
            if record.git and sound(source, "commits", commit_key(record), bool) is None:
                self._found("snapshot-commit", f"snapshot {label} is not found by its commit")
            for tag in record.tags:
                if sound(source, "tags", keys.u64(record.volume) + tag.encode(), keys.from_u64) != record.epoch:
                    self._found("tag", f"snapshot {label} is not found by its tag {tag!r}")
            yield

    def _labels(self) -> Iterator[None]:
        """Names and tags lead to snapshots that have them."""
        snapshots = self._shape.snapshots
        for key, (name, epoch) in decoded(self._source, "names", self._findings.record, DECODERS["names"]):
            record = snapshots.get(Epoch(epoch))
            if record is None or record.deleted_ns or (record.volume, record.name) != (keys.from_u64(key), name):
                self._found("snapshot-name", f"name {name!r} leads to no snapshot that has it")
            yield
        for key, (tag, epoch) in decoded(self._source, "tags", self._findings.record, DECODERS["tags"]):
            record = snapshots.get(Epoch(epoch))
            if record is None or record.deleted_ns or record.volume != keys.from_u64(key) or tag not in record.tags:
                self._found("tag", f"tag {tag!r} leads to no snapshot that has it")
            if sound(self._source, "names", key, bool) is not None:
                self._found("tag", f"tag {tag!r} is also a snapshot's name")
            yield

    def _orders(self) -> Iterator[None]:
        """Times and commits lead to snapshots that have them."""
        snapshots = self._shape.snapshots
        for key, _ in decoded(self._source, "created", self._findings.record, DECODERS["created"]):
            record = snapshots.get(Epoch(keys.from_u64(key, 16)))
            if record is None or record.deleted_ns or created_key(record) != key:
                self._found("snapshot-order", f"time {keys.from_u64(key, 8)} leads to no snapshot that was made then")
            yield
        for key, _ in decoded(self._source, "commits", self._findings.record, DECODERS["commits"]):
            record = snapshots.get(Epoch(keys.from_u64(key, len(key) - 8)))
            if record is None or record.deleted_ns or not record.git or commit_key(record) != key:
                commit = key[8:-9].decode(errors="replace")
                self._found("snapshot-commit", f"commit {commit} leads to no snapshot of it")
            yield

    def _trash(self) -> Iterator[None]:
        """What was deleted is found by when; nothing else is."""
        wanted = trash_keys(self._shape)
        found = {key for key, _ in decoded(self._source, "trash", self._findings.record, DECODERS["trash"])}
        for key in sorted(wanted.keys() - found):
            self._found("trash", f"{wanted[key]} was deleted, and is not found in the trash")
        for key in sorted(found - wanted.keys()):
            self._found("trash", f"the trash has number {keys.from_u64(key, 8)}, which was not deleted then")
        yield

    def _logs(self) -> Iterator[None]:
        source, bad = self._source, self._findings.record
        last = 0
        for key, event in decoded(source, "events", bad, DECODERS["events"]):
            number = keys.from_u64(key)
            if event.sequence != number:
                self._found("event", f"event {number} has another number")
            if last and number != last + 1 and ("events", keys.u64(last + 1)) not in self._findings.bad:
                self._found("event", f"events {last + 1} to {number - 1} are missing")
            last = number
            yield
        for key, request in decoded(source, "requests", bad, DECODERS["requests"]):
            if sound(source, "requests_by_time", keys.u64(request.time_ns) + key, bool) is None:
                self._found("request", f"request {key.hex()} is not found by its time")
            yield
        for key, _ in decoded(source, "requests_by_time", bad, DECODERS["requests_by_time"]):
            found = sound(source, "requests", key[8:], records.decode_request)
            if found is None or found.time_ns != keys.from_u64(key):
                self._found("request", f"time {keys.from_u64(key)} leads to no request")
            yield

    def _queues(self) -> Iterator[None]:
        """What waits: unlinked files, records that nobody sees, snapshots to seal."""
        shape = self._shape
        for key, _ in decoded(self._source, "orphans", self._findings.record, DECODERS["orphans"]):
            if VolumeId(keys.from_u64(key)) not in shape.volumes:
                self._found("orphan", f"unlinked inode {keys.from_u64(key, 8)} is of no volume")
        for key, _ in decoded(self._source, "reap", self._findings.record, DECODERS["reap"]):
            if Epoch(keys.from_u64(key, len(key) - 8)) not in shape.parent:
                self._found("reap", f"dead records of inode {keys.from_u64(key)} are of no epoch")
        for _ in decoded(self._source, "unsealed", self._findings.record, DECODERS["unsealed"]):
            yield
        yield

    def _seals(self) -> Iterator[None]:
        shape, source = self._shape, self._source
        found = {seal.epoch: seal for _, seal in decoded(source, "seals", self._findings.record, DECODERS["seals"])}
        queued = {keys.from_u64(key) for key, _ in decoded(source, "unsealed", _ignore, DECODERS["unsealed"])}
        bases = {seal.base for seal in found.values()}
        for epoch, seal in found.items():
            self.seals[seal.root] = seal
            for block in seal.blocks():
                self.references[block] += 1
                entry = sound(source, "blocks", keys.u64(block), records.decode_block)
                if entry is None or entry.kind != (SEAL_ROOT if block == seal.root else SEAL_PART):
                    self._found("seal", f"the seal of epoch {epoch} names block {block}, which is no such part of it")
            if seal.base != ROOT and (seal.base not in found or seal.base >= epoch):
                self._found("seal", f"the seal of epoch {epoch} builds on that of {seal.base}, which is not there")
            if epoch not in shape.snapshots and epoch not in queued and epoch not in bases:
                self._found("seal", f"the seal of epoch {epoch} is of no snapshot, and nothing builds on it")
            yield
        for epoch, record in shape.snapshots.items():
            if epoch not in found and epoch not in queued:
                self._found("seal", f"snapshot {shape.label(record)} has no seal and does not wait for one")

    def _counters(self) -> Iterator[None]:
        """Numbers that are given next are greater than all that are taken."""
        greatest = {
            "next_epoch": max([0, *self._shape.parent, *self._shape.volumes]),
            "next_seal": max((seal.sequence for seal in self.seals.values()), default=0),
        }
        for name, taken in greatest.items():
            if counter(self._source, name, 1) <= taken:
                self._found("counter", f"{name} is {counter(self._source, name, 1)}, but {taken} is taken")
        for name in COUNTERS:
            if counter(self._source, name, 0) < 0:
                self._findings.record("meta", name.encode(), f"the counter {name} cannot be read")
        yield


COUNTERS = ("next_ino", "next_epoch", "next_block", "next_seal", "next_account", *space.COUNTERS)


def counter(source: Reading, name: str, missing: int) -> int:
    """A number of table ``meta``; -1 if it cannot be read."""
    try:
        payload = source.get("meta", name.encode())
    except Corrupt:
        return -1
    return missing if payload is None else int.from_bytes(payload, "little")


def trash_keys(shape: Shape) -> dict[bytes, str]:
    """What table ``trash`` must have, and for what."""
    volumes = {
        trash_key(volume.deleted_ns, volume.id): f"volume {volume.name}"
        for volume in shape.volumes.values()
        if volume.deleted_ns
    }
    return volumes | {
        trash_key(record.deleted_ns, record.epoch): f"snapshot {shape.label(record)}"
        for record in shape.snapshots.values()
        if record.deleted_ns
    }


def commit_key(record: SnapshotRecord) -> bytes:
    """In table ``commits``."""
    commit = record.git.commit if record.git else ""
    return keys.u64(record.volume) + commit.encode() + b"\0" + keys.u64(record.epoch)


def _ignore(table: str, key: bytes, message: str) -> None:
    """Told elsewhere."""


def agrees(seal: SealRecord, data: bytes) -> bool:
    """Whether the bytes of a seal's root block are those of this seal."""
    root = seals.decode_root(data)
    return (root.epoch, root.sequence, root.base, root.digest, root.content) == (
        seal.epoch, seal.sequence, seal.base, seal.digest, seal.content,
    )  # fmt: skip
