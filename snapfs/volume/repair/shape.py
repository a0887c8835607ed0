"""Repair of epochs, volumes and snapshots: what everything else hangs on.

Where a seal says what a bad record was, it is put back as it was.  Else it is put together from what other tables say.
An epoch whose place in the tree nobody knows makes the index unfit for repair: everything that it shows depends on it.
"""

from __future__ import annotations

import msgspec

from snapfs.api import GitCommit
from snapfs.errors import SnapfsError
from snapfs.format import keys, records, seals
from snapfs.format.records import SnapshotRecord, VolumeRecord
from snapfs.format.seals import SealBody, SealRecord
from snapfs.types import Epoch, Ino, VolumeId
from snapfs.versions.epochs import ROOT
from snapfs.volume.check.base import DECODERS, MALFORMED, decoded
from snapfs.volume.check.tables import counter
from snapfs.volume.repair.base import Bench, NeedsRebuild, quiet, told_of
from snapfs.volume.repair.epochs import fitting_parent


def repair_shape(bench: Bench) -> None:
    """Raises:
    NeedsRebuild: it cannot be done in place.
    """
    step = _Shape(bench)
    step.counters()
    step.epochs()
    step.volumes()
    step.snapshots()
    step.heads()
    step.states()


class _Shape:
    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._index = bench.index
        self._seals: dict[Epoch, SealRecord] = {}
        for key, seal in decoded(bench.index, "seals", quiet, DECODERS["seals"]):
            if keys.u64(seal.epoch) == key:
                self._seals[seal.epoch] = seal

    def _body(self, epoch: Epoch) -> SealBody | None:
        """What the seal of an epoch says of its snapshot."""
        seal = self._seals.get(epoch)
        pieces = [self._bench.bytes_of(block) for block in seal.body] if seal else []
        if not pieces or None in pieces:
            return None
        try:
            return seals.decode_body(b"".join(filter(None, pieces)))
        except SnapfsError:
            return None

    def counters(self) -> None:
        """Before anything takes a number: each is above all that were given."""
        bench, shape = self._bench, self._bench.shape
        ino = epoch = block = 0
        for key, _ in decoded(bench.index, "tree", quiet, lambda key, _: key):
            if len(key) >= keys.HEAD_BYTES:
                ino = max(ino, keys.split(key)[0])
                epoch = max(epoch, keys.epoch_of(key))
        for number, _ in bench.blocks():
            block = max(block, number)
        epoch = max([epoch, *shape.parent, *shape.volumes, *shape.snapshots])
        sequence = max((seal.sequence for seal in self._seals.values()), default=0)
        for name, taken in (("next_ino", ino), ("next_epoch", epoch), ("next_block", block), ("next_seal", sequence)):
            if counter(bench.index, name, 1) <= taken:
                bench.act("counter", f"{name} becomes {taken + 1}: {taken} is taken")
                bench.index.put("meta", name.encode(), (taken + 1).to_bytes(8, "little"))

    # -- epochs

    def epochs(self) -> None:
        bench = self._bench
        for key, message in bench.bad("epochs", DECODERS["epochs"]):
            if not self._epoch_moved(key):
                self._epoch_again(Epoch(keys.from_u64(key)), message)
        shape = bench.shape
        for epoch in sorted(shape.parent):
            parent = shape.parent[epoch]
            if parent >= epoch or (parent != ROOT and parent not in shape.parent):
                self._epoch_again(epoch, f"its parent {parent} is not there")
        for epoch in [*shape.snapshots, *(volume.head for volume in shape.volumes.values())]:
            if epoch not in shape.parent and epoch in self._seals:
                self._epoch_again(epoch, "it is missing")

    def _epoch_moved(self, key: bytes) -> bool:
        """Put a record back whose key alone was damaged: its checksum fits an epoch that is missing."""
        bench, shape = self._bench, self._bench.shape
        value = self._raw("epochs", key)
        wanted = {*shape.snapshots, *shape.parent.values(), *(volume.head for volume in shape.volumes.values())}
        for epoch in sorted(wanted - shape.parent.keys() - {ROOT}):
            try:
                payload = records.unseal(keys.u64(epoch), value)
                records.decode_epoch(payload)
            except MALFORMED:
                continue
            bench.act("epoch-parent", f"the record of epoch {epoch} is put back under its number")
            self._index.delete("epochs", key)
            self._index.put("epochs", keys.u64(epoch), payload)
            bench.look_again()
            return True
        return False

    def _raw(self, table: str, key: bytes) -> bytes:
        """A value as it lies there."""
        cursor = self._index.cursor(table)
        return bytes(cursor.value()) if cursor.set_key(key) else b""

    def _epoch_again(self, epoch: Epoch, why: str) -> None:
        """From its seal, which names the nearest sealed ancestor; of a head, by what makes its tree whole."""
        bench, shape = self._bench, self._bench.shape
        for volume_record in list(shape.volumes.values()):
            if volume_record.head == epoch and epoch not in shape.snapshots:
                parent = fitting_parent(bench, epoch, volume_record.id, volume_record.root)
                if parent is None:
                    break
                where = f"epoch {parent}" if parent != ROOT else "nothing"
                bench.act("epoch-parent", f"the head of {volume_record.name} stands on {where}: so its tree is whole")
                payload = records.encode_epoch(parent, volume_record.id, records.LIVE)
                self._index.put("epochs", keys.u64(epoch), payload)
                bench.look_again()
                return
        seal = self._seals.get(epoch)
        record = shape.snapshots.get(epoch)
        volume = record.volume if record is not None else None
        between = [other for other in shape.parent if seal and seal.base < other < epoch]
        if seal is None or volume is None or any(other not in self._seals for other in between):
            raise NeedsRebuild(f"epoch {epoch}: {why}, and nothing says where it belongs")
        if seal.base != ROOT and seal.base not in shape.parent:
            raise NeedsRebuild(f"epoch {epoch}: {why}, and its base {seal.base} is not there either")
        bench.act("epoch-parent", f"epoch {epoch} gets the parent {seal.base} that its seal names ({why})")
        payload = records.encode_epoch(seal.base, volume, records.LIVE)
        self._index.put("epochs", keys.u64(epoch), payload)
        bench.look_again()

    def states(self) -> None:
        """What is used lives, what is not dies."""
        bench, shape = self._bench, self._bench.shape
        used = {volume.head for volume in shape.volumes.values()} | shape.snapshots.keys()
        for epoch, parent in shape.parent.items():
            if (epoch in used) == (epoch in shape.dying):
                state = records.LIVE if epoch in used else records.DYING
                what = "is kept" if epoch in used else "is given back: no head or snapshot has it"
                bench.act("epoch-state", f"epoch {epoch} {what}")
                payload = records.encode_epoch(parent, shape.volume_of[epoch], state)
                self._index.put("epochs", keys.u64(epoch), payload)
        bench.look_again()

    # -- volumes

    def volumes(self) -> None:
        bench = self._bench
        wrong = [key for key, _ in bench.bad("volumes", DECODERS["volumes"])]
        wrong += [
            key
            for key, record in decoded(bench.index, "volumes", quiet, DECODERS["volumes"])
            if keys.u64(record.id) != key
        ]
        for key in wrong:
            if not self._volume_moved(key):
                self._volume_again(key)
        # a live epoch is never given back because the record that it belongs to cannot be found
        for number in sorted(set(bench.shape.volume_of.values()) - bench.shape.volumes.keys()):
            if any(
                owner == number and epoch not in bench.shape.dying and not self._is_frozen(epoch)
                for epoch, owner in bench.shape.volume_of.items()
            ):
                self._volume_again(keys.u64(number))
        taken: set[str] = set()
        for record in list(bench.shape.volumes.values()):
            if record.deleted_ns:
                continue
            if record.name in taken:
                name = self._free(f"{record.name}.{record.id}", taken)
                bench.act("volume-name", f"a second volume {record.name} is called {name}")
                bench.put_volume(msgspec.structs.replace(record, name=name))
            taken.add(bench.shape.volumes[record.id].name)

    def _volume_moved(self, key: bytes) -> bool:
        """Put a record back whose key alone was damaged: its checksum tells."""
        bench, value = self._bench, self._raw("volumes", key)
        try:
            record = records.decode_volume(value[: -records.CRC_BYTES])
            records.unseal(keys.u64(record.id), value)
        except MALFORMED:
            return False
        if record.id in bench.shape.volumes:
            return False
        bench.act("volume", f"the record of volume {record.name} is put back under its number")
        self._index.delete("volumes", key)
        bench.put_volume(record)
        return True

    def _volume_again(self, key: bytes) -> None:
        bench, shape = self._bench, self._bench.shape
        number = VolumeId(keys.from_u64(key))
        heads = [epoch for epoch, volume in shape.volume_of.items() if volume == number]
        heads = [epoch for epoch in heads if not self._is_frozen(epoch) and epoch not in shape.dying]
        frozen = [record for record in shape.snapshots.values() if record.volume == number]
        root = self._root(number, heads)
        if not heads and not frozen:
            bench.act("volume", f"the damaged record of volume {number} is removed: nothing of it is left")
            self._index.delete("volumes", key)
            return
        facts = [body.volume for body in map(self._body, (record.epoch for record in frozen)) if body]
        known = next((fact for fact in facts if fact and fact.id == number), None)
        taken = {record.name for record in shape.volumes.values() if not record.deleted_ns}
        name = self._free(known.name if known else f"recovered-{number}", taken)
        bench.act("volume", f"the record of volume {number} is put together again; its name is {name}")
        bench.put_volume(
            VolumeRecord(
                id=number, name=name, root=root, head=max(heads, default=ROOT),
                created_ns=known.created_ns if known else min((record.created_ns for record in frozen), default=0),
                **told_of(known),
            )
        )  # fmt: skip

    def _is_frozen(self, epoch: Epoch) -> bool:
        """Whether there is a record of a snapshot, readable or not."""
        return bool(self._index.cursor("snapshots").set_key(keys.u64(epoch)))

    def _root(self, number: VolumeId, heads: list[Epoch]) -> Ino:
        """The root directory: that of the volume's snapshots or ancestors, else its oldest directory."""
        bench, shape = self._bench, self._bench.shape
        for epoch in heads:
            for ancestor in shape.ancestors(epoch):
                if ancestor in shape.snapshots:
                    return shape.snapshots[ancestor].root
        of_volume = [record.root for record in shape.snapshots.values() if record.volume == number]
        if of_volume:
            return of_volume[-1]
        for epoch in heads:
            for subject in bench.tree.changes(epoch):
                ino, kind = keys.split(subject)
                if kind == keys.INODE and bench.inode(bench.view(epoch), ino) is not None:
                    return ino
        return Ino(bench.number("next_ino"))

    @staticmethod
    def _free(name: str, taken: set[str]) -> str:
        found, number = name, 1
        while found in taken:
            number += 1
            found = f"{name}.{number}"
        return found

    def heads(self) -> None:
        """Each volume's head is an epoch of its own."""
        bench, shape = self._bench, self._bench.shape
        for volume in list(shape.volumes.values()):
            head = volume.head
            if head in shape.parent and shape.volume_of[head] == volume.id and head not in shape.snapshots:
                continue
            own = [epoch for epoch, owner in shape.volume_of.items() if owner == volume.id]
            free = [epoch for epoch in own if epoch not in shape.snapshots and epoch not in shape.dying]
            if free:
                head = max(free)
                bench.act("volume-head", f"volume {volume.name}: its head is epoch {head} again")
                root = volume.root
            else:
                newest = max((r for r in shape.snapshots.values() if r.volume == volume.id), default=None, key=_epoch)
                head = Epoch(bench.number("next_epoch"))
                where = f"the newest snapshot, {newest.name}" if newest else "nothing"
                bench.act("volume-head", f"volume {volume.name}: its head is lost and begins anew from {where}")
                parent = newest.epoch if newest else ROOT
                root = newest.root if newest else volume.root
                self._index.put("epochs", keys.u64(head), records.encode_epoch(parent, volume.id, records.LIVE))
            bench.put_volume(msgspec.structs.replace(volume, head=head, root=root))
            bench.look_again()

    # -- snapshots

    def snapshots(self) -> None:
        bench, index = self._bench, self._index
        for key, _ in bench.bad("snapshots", DECODERS["snapshots"]):
            self._snapshot_again(Epoch(keys.from_u64(key)), key)
        for key, record in list(decoded(index, "snapshots", quiet, DECODERS["snapshots"])):
            if keys.u64(record.epoch) != key:
                self._snapshot_again(Epoch(keys.from_u64(key)), key)
        bench.look_again()
        heads = {volume.head for volume in bench.shape.volumes.values()}
        named = {Epoch(to) for _, (_, to) in decoded(index, "names", quiet, DECODERS["names"])}
        for epoch in (named | self._seals.keys()) & bench.shape.parent.keys():
            if epoch not in bench.shape.snapshots and epoch not in heads and epoch not in bench.shape.dying:
                self._snapshot_again(epoch, keys.u64(epoch))
        bench.look_again()
        for record in list(bench.shape.snapshots.values()):
            if record.epoch not in bench.shape.parent:
                bench.act("snapshot-epoch", f"snapshot {bench.shape.label(record)} is removed: nothing of it is left")
                index.delete("snapshots", keys.u64(record.epoch))
            elif record.volume not in bench.shape.volumes:
                head = Epoch(bench.number("next_epoch"))
                bench.act("snapshot-volume", f"a volume recovered-{record.volume} is made for snapshot {record.name}")
                payload = records.encode_epoch(record.epoch, record.volume, records.LIVE)
                index.put("epochs", keys.u64(head), payload)
                made = VolumeRecord(
                    id=record.volume, name=f"recovered-{record.volume}", root=record.root, head=head,
                    created_ns=record.created_ns,
                )  # fmt: skip
                bench.put_volume(made)
                bench.look_again()
        bench.look_again()

    def _snapshot_again(self, epoch: Epoch, key: bytes) -> None:
        bench, shape = self._bench, self._bench.shape
        if epoch not in shape.parent:
            bench.act("snapshot", f"the damaged record of snapshot {epoch} is removed: nothing of it is left")
            self._index.delete("snapshots", key)
            return
        body = self._body(epoch)
        if body is not None and body.record is not None and body.record.epoch == epoch:
            bench.act("snapshot", f"the record of snapshot {body.record.name} is put back from its seal")
            bench.put_snapshot(body.record)
            return
        record = self._from_tables(epoch)
        bench.act(
            "snapshot", f"the record of snapshot {record.name} is put together again: message and metadata are lost"
        )
        bench.put_snapshot(record)

    def _from_tables(self, epoch: Epoch) -> SnapshotRecord:
        """From what finds the snapshot: its name, its time, its tags."""
        shape, index = self._bench.shape, self._index
        number = shape.volume_of[epoch]
        labels: dict[str, list[str]] = {}
        for table in ("names", "tags"):
            found = decoded(index, table, quiet, DECODERS[table])
            labels[table] = [label for key, (label, to) in found if to == epoch and keys.from_u64(key) == number]
        times = [key for key, _ in decoded(index, "created", quiet, DECODERS["created"])]
        created = [keys.from_u64(key, 8) for key in times if keys.from_u64(key, 16) == epoch]
        volume = shape.volumes.get(number)
        commits = [key for key, _ in decoded(index, "commits", quiet, DECODERS["commits"])]
        commit = [key[8:-9].decode() for key in commits if keys.from_u64(key, len(key) - 8) == epoch]
        return SnapshotRecord(
            epoch=epoch,
            volume=number,
            name=next(iter(labels["names"]), f"recovered-{epoch}"),
            root=volume.root if volume else self._root(number, [epoch]),
            created_ns=next(iter(created), 0),
            git=GitCommit(commit=commit[0]) if commit else None,
            tags=sorted(labels["tags"]),
        )


def _epoch(record: SnapshotRecord) -> Epoch:
    return record.epoch
