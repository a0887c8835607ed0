"""What a damaged index still says of volumes, snapshots and epochs, and what of it seals do not have.

Invariants:
  * Only sound records count; what is put together from others (a volume's name, where a head stands) is so only where
    these leave no choice.
  * A head or snapshot is *salvaged* if each epoch between it and what the seals have is known by its place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from snapfs.api import Event, EventKind
from snapfs.format import keys, records
from snapfs.format.records import SnapshotRecord, VolumeRecord
from snapfs.store.pages import DamagedIndex
from snapfs.types import INO_BITS, VIEW_BITS, Epoch, Ino, VolumeId
from snapfs.versions.epochs import ROOT
from snapfs.volume.check.base import DECODERS, MALFORMED
from snapfs.volume.repair.base import told_of
from snapfs.volume.repair.sealed import Scan

_TELLING: Final = (EventKind.SNAPSHOT_CREATED, EventKind.CHECKOUT, EventKind.VOLUME_CREATED)
_INO_MAX: Final = (1 << 64) - 1


class Line(msgspec.Struct):
    """A head, or a snapshot that no seal has, and what of it is salvaged."""

    epoch: Epoch
    volume: VolumeId
    name: str
    """``volume``, or ``volume@snapshot``."""
    path: list[Epoch]
    """The epochs to take over, ascending; empty: it has changed nothing that seals do not have."""
    base: Epoch
    """The sealed epoch that they stand on; ROOT: none."""
    record: SnapshotRecord | None = None


class Old:
    """The damaged index.

    Attributes:
        heads: volumes whose heads are salvaged; snapshots: those that no seal has, and all is there of.
        aside: heads that are older than what seals have: salvaged as snapshots, beside the newest one.
        lost: what cannot be salvaged, a line each.
    """

    def __init__(self, index: DamagedIndex, scan: Scan) -> None:
        self.index = index
        self._scan = scan
        self.lost: list[str] = []
        self.parent: dict[Epoch, Epoch] = {}
        self.volume_of: dict[Epoch, VolumeId] = {}
        self.live: set[Epoch] = set()
        for epoch, parent, volume, state in self._all("epochs"):
            if not (_possible(epoch) and _possible(volume)):
                continue
            self.parent[epoch], self.volume_of[epoch] = parent, volume
            if state == records.LIVE:
                self.live.add(epoch)
        self.snapshots: dict[Epoch, SnapshotRecord] = {
            record.epoch: record for record in self._all("snapshots") if _possible(record.epoch)
        }
        self.volumes: dict[VolumeId, VolumeRecord] = {
            record.id: record for record in self._all("volumes") if _possible(record.id) and _possible(record.head)
        }
        self.events: list[Event] = list(self._all("events")) if not index.gaps("events") else []
        self._count()
        self.numbers_max = max(
            [*self.parent, *self.volume_of.values(), *self.snapshots, *self.volumes, *self.records, *self.changes,
             self._counter(b"next_epoch", VIEW_BITS) - 1, 0]
        )  # fmt: skip
        """The greatest number of an epoch or volume that it knows."""
        self.ino_max = max(self._counter(b"next_ino", INO_BITS) - 1, 0)
        self._volumes_again()
        self._labels_again()
        self.heads: list[Line] = []
        self.aside: list[Line] = []
        self.whole: list[Line] = []
        self._decide()

    def _all(self, table: str) -> Iterator[Any]:
        """Records of a small table that make sense."""
        for key, payload in self.index.records(table):
            try:
                yield DECODERS[table](key, payload)
            except MALFORMED:
                continue

    def _counter(self, name: bytes, bits: int) -> int:
        """0 if it cannot be read, or has a number that it never had."""
        found = int.from_bytes(self.index.get("meta", name) or b"", "little")
        return found if found <= 1 << bits else 0

    def _count(self) -> None:
        """Versions of each epoch, as the two tables have them; and each epoch's oldest directory."""
        self.records: Counter[Epoch] = Counter()
        self.changes: Counter[Epoch] = Counter()
        self.oldest: dict[Epoch, Ino] = {}
        for key, payload in self.index.records("tree"):
            if len(key) < keys.HEAD_BYTES + keys.EPOCH_BYTES:
                continue
            epoch, (ino, kind) = keys.epoch_of(key), keys.split(key)
            if not _possible(epoch):
                continue
            self.records[epoch] += 1
            if kind == keys.INODE and payload and epoch not in self._scan.seals:
                self.oldest[epoch] = min(self.oldest.get(epoch, ino), ino)
        for key, _ in self.index.records("changes"):
            if len(key) >= keys.HEAD_BYTES + keys.EPOCH_BYTES and _possible(keys.from_u64(key)):
                self.changes[Epoch(keys.from_u64(key))] += 1

    # -- what is put together again

    def _volumes_again(self) -> None:
        """Volumes whose records are lost, by their epochs; their names by seals and by what was told of them."""
        if not self.index.gaps("volumes"):
            return
        frozen = self.snapshots.keys() | self._scan.seals.keys()
        there = sorted({self.volume_of[epoch] for epoch in self.live})
        named = list(dict.fromkeys(event.volume for event in self.events if event.kind is EventKind.VOLUME_CREATED))
        gone = {event.volume for event in self.events if event.kind is EventKind.VOLUME_DELETED}
        names = dict(zip(there, named, strict=True)) if len(there) == len(named) and not gone else {}
        sealed = {seal.body.record.volume: seal.body for seal in self._scan.seals.values() if seal.body.record}
        for number in there:
            heads = [epoch for epoch in self.live - frozen if self.volume_of[epoch] == number]
            if number in self.volumes or not heads:
                continue
            body, head = sealed.get(number), max(heads)
            facts = body.volume if body else None
            name = facts.name if facts else names.get(number, f"recovered-{number}")
            self.volumes[number] = VolumeRecord(
                id=number, name=name, root=Ino(0), head=head, created_ns=facts.created_ns if facts else 0,
                **told_of(facts),
            )  # fmt: skip

    def _labels_again(self) -> None:
        """Snapshots whose records are lost, by their names and times."""
        if not self.index.gaps("snapshots"):
            return
        heads = {record.head for record in self.volumes.values()}
        times = {Epoch(keys.from_u64(key, 16)): keys.from_u64(key, 8) for key in self._all("created")}
        for key, payload in self.index.records("names"):
            epoch = Epoch(int.from_bytes(payload))
            if epoch in self.live - heads - self._scan.seals.keys() and epoch not in self.snapshots:
                self.snapshots[epoch] = SnapshotRecord(
                    epoch=epoch, volume=self.volume_of[epoch], name=key[8:].decode(errors="replace"), root=Ino(0),
                    created_ns=times.get(epoch, 0),
                )  # fmt: skip

    def _parent_of(self, epoch: Epoch, volume: VolumeId) -> Epoch | None:
        """None if nothing tells."""
        if epoch in self.parent:
            return self.parent[epoch]
        owner = self.volumes.get(volume)
        if owner is None:
            return None
        told = [event for event in self.events if event.volume == owner.name and event.kind in _TELLING]
        record = self.snapshots.get(epoch)
        if record is not None:  # what was told before it was made; a carried one, of a commit, did not stand there
            made = [place for place, event in enumerate(told) if event.snapshot == record.name]
            if record.git or not made or told[made[0]].kind is not EventKind.SNAPSHOT_CREATED:
                return None
            told = told[: made[0]]
        for event in reversed(told):
            origin = (event.volume, event.snapshot)
            if event.kind is EventKind.VOLUME_CREATED:
                if not event.message:
                    return ROOT
                origin = (event.message.partition("@")[0], event.message.partition("@")[2])
            found = self._named(*origin)
            if found is None or found.epoch < epoch:
                return found.epoch if found else None
            if not found.git:
                return None
        return None

    def _named(self, volume: str, name: str) -> SnapshotRecord | None:
        sealed = (seal.body.record for seal in self._scan.seals.values())
        for record in [*self.snapshots.values(), *filter(None, sealed)]:
            owner = self.volumes.get(record.volume)
            if record.name == name and owner is not None and owner.name == volume:
                return record
        return None

    # -- what is salvaged

    def _line(self, epoch: Epoch, volume: VolumeId, name: str, record: SnapshotRecord | None = None) -> Line | None:
        path: list[Epoch] = []
        at = epoch
        while at != ROOT and at not in self._scan.seals:
            above = self._parent_of(at, volume if at == epoch else self.volume_of.get(at, volume))
            if above is None or above >= at:
                self.lost.append(f"{name}: nothing says what its {self.records[epoch]} records stand on")
                return None
            path.append(at)
            self.parent[at] = above
            self.volume_of.setdefault(at, volume)
            at = above
        return Line(epoch, volume, name, path[::-1], at, record)

    def _decide(self) -> None:
        newest: dict[VolumeId, Epoch] = {}
        for seal in self._scan.seals.values():
            if seal.body.record is not None:
                newest[seal.body.record.volume] = seal.root.epoch
        is_old = max(self._scan.seals, default=ROOT) > self.numbers_max
        for record in sorted(self.snapshots.values(), key=lambda record: record.epoch):
            if record.epoch not in self._scan.seals and not is_old:  # of an old index, it may have been deleted
                owner = self.volumes.get(record.volume)
                name = f"{owner.name if owner else record.volume}@{record.name}"
                line = self._line(record.epoch, record.volume, name, record)
                if line is not None:
                    self.whole.append(line)
        for volume in self.volumes.values():
            if volume.head not in self._scan.seals:
                line = self._line(volume.head, volume.id, volume.name)
                if line is not None and volume.id in newest and self._nothing_of(line):
                    self.lost.append(f"head of {volume.name}: nothing of it can be read")
                elif line is not None:
                    stale = newest.get(volume.id, ROOT) > self.numbers_max
                    (self.aside if stale else self.heads).append(line)

    def salvaged(self) -> dict[VolumeId, str]:
        """Volumes whose heads are salvaged, and their names."""
        return {line.volume: line.name for line in self.heads}

    def missing(self, line: Line) -> int:
        """How many of its records are known to be lost."""
        return sum(max(0, self.changes[epoch] - self.records[epoch]) for epoch in line.path)

    def lines(self) -> list[str]:
        """What is salvaged, for people."""
        lines = list(self.index.notes)
        for line in [*self.whole, *self.heads, *self.aside]:
            count, missing = sum(self.records[epoch] for epoch in line.path), self.missing(line)
            what = f"snapshot {line.name}" if line.record else f"head of {line.name}"
            if line in self.aside:
                what += ", as a snapshot: it is older than the newest one"
            told = f"{what}: {count} records come back from the old index"
            if not count + missing:
                told = f"{what}: it comes back, as what it stands on"
            if missing:
                told += f"; {missing} records could not be read"
            if any(self.doubtful(epoch) for epoch in line.path):
                told += "; others may be lost, so files that they may concern cannot be read"
            lines.append(told)
        return lines + self.lost

    def _nothing_of(self, line: Line) -> bool:
        """Whether there may have been records, and none is left."""
        none = not any(self.records[epoch] or self.changes[epoch] for epoch in line.path)
        return none and any(self.doubtful(epoch) for epoch in line.path)

    def root(self, line: Line) -> Ino:
        """The root directory of what a line shows."""
        found = line.record.root if line.record else self.volumes[line.volume].root
        if found:
            return found
        body = self._scan.seals[line.base].body if line.base != ROOT else None
        if body is not None and body.record is not None:
            return body.record.root
        owner = self.volumes.get(line.volume)
        oldest = [self.oldest[epoch] for epoch in line.path if epoch in self.oldest]
        return (owner.root if owner else Ino(0)) or min(oldest, default=Ino(0))

    def doubtful(self, epoch: Epoch) -> list[tuple[int, int]]:
        """Ranges (first, last) of inodes of whose records at the epoch some may be lost without a trace."""
        found = []
        low, high = keys.u64(epoch), keys.u64(epoch + 1)
        for gap in self.index.gaps("changes"):
            if (gap.high is not None and gap.high <= low) or gap.low >= high:
                continue
            first = _ino(gap.low[8:]) if gap.low > low else 0
            last = _ino(gap.high[8:], _INO_MAX) if gap.high is not None and gap.high < high else _INO_MAX
            for other in self.index.gaps("tree"):
                one = max(first, _ino(other.low))
                two = min(last, _INO_MAX if other.high is None else _ino(other.high, _INO_MAX))
                if one <= two:
                    found.append((one, two))
        return found


def _possible(number: int) -> bool:
    """Whether an epoch or a volume can have the number."""
    return 0 < number < 1 << VIEW_BITS


def _ino(subject: bytes, short: int = 0) -> int:
    return int.from_bytes(subject[:8].ljust(8, b"\0")) if subject else short
