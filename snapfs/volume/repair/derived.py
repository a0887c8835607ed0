"""Repair of what can be made anew from what it derives from: ``changes``, what finds snapshots, queues, logs."""

from __future__ import annotations

from collections import Counter

import msgspec

from snapfs.api import Event, EventKind
from snapfs.format import keys, records
from snapfs.format.records import SnapshotRecord
from snapfs.format.seals import SealRecord
from snapfs.format.segments import SEAL_PART, SEAL_ROOT
from snapfs.types import BlockId, Epoch
from snapfs.versions.epochs import ROOT
from snapfs.volume.check.base import DECODERS, decoded, sound, values
from snapfs.volume.check.tables import commit_key, trash_keys
from snapfs.volume.events import EVENTS_MAX
from snapfs.volume.references import created_key
from snapfs.volume.repair.base import Bench, quiet


def repair_changes(bench: Bench) -> None:
    """``changes`` has just an entry for each version."""
    index = bench.index
    missing = [
        keys.u64(keys.epoch_of(key)) + key[: -keys.EPOCH_BYTES]
        for key, _ in values(index, "tree", quiet)
        if sound(index, "changes", keys.u64(keys.epoch_of(key)) + key[: -keys.EPOCH_BYTES], lambda _: True) is None
    ]
    for key in missing:
        bench.act("changes", f"the changes of epoch {keys.from_u64(key)} name the record {key[8:].hex()}")
        index.put("changes", key, b"")
    bad = [key for key, _ in bench.bad("changes", lambda key, _: keys.from_u64(key))]
    stale = [
        key
        for key, _ in values(index, "changes", quiet)
        if len(key) < keys.HEAD_BYTES + keys.EPOCH_BYTES
        or sound(index, "tree", keys.versioned(key[8:], keys.from_u64(key)), lambda _: True) is None
    ]
    for key in [*bad, *stale]:
        bench.act("changes", f"an entry of changes goes that no record has: {key.hex()}")
        index.delete("changes", key)


def repair_labels(bench: Bench) -> None:
    """Each snapshot is found by its name, its time, its commit and its tags, one in the trash by when it was deleted;
    nothing else is found."""
    _unique_names(bench)
    names: dict[bytes, bytes] = {}
    tags: dict[bytes, bytes] = {}
    created: dict[bytes, bytes] = {}
    commits: dict[bytes, bytes] = {}
    living = [record for record in bench.shape.snapshots.values() if not record.deleted_ns]
    for record in sorted(living, key=lambda record: record.epoch):
        names[_label(record, record.name)] = keys.u64(record.epoch)
        created[created_key(record)] = records.PRESENT
        if record.git:
            commits[commit_key(record)] = records.PRESENT
    for record in living:
        kept = [tag for tag in record.tags if _label(record, tag) not in names and _label(record, tag) not in tags]
        tags |= {_label(record, tag): keys.u64(record.epoch) for tag in kept}
        if kept != record.tags:
            bench.act("tag", f"snapshot {bench.shape.label(record)} has only the tags {', '.join(kept) or 'none'}")
            bench.put_snapshot(msgspec.structs.replace(record, tags=kept))
    for table, wanted, what in (
        ("names", names, "snapshot-name"), ("tags", tags, "tag"),
        ("created", created, "snapshot-order"), ("commits", commits, "snapshot-commit"),
        ("trash", dict.fromkeys(trash_keys(bench.shape), records.PRESENT), "trash"),
    ):  # fmt: skip
        _make_table(bench, table, wanted, what)


def _label(record: SnapshotRecord, label: str) -> bytes:
    return keys.u64(record.volume) + label.encode()


def _unique_names(bench: Bench) -> None:
    taken: set[bytes] = set()
    for record in sorted(bench.shape.snapshots.values(), key=lambda record: record.epoch):
        if record.deleted_ns:
            continue
        if _label(record, record.name) in taken:
            name = f"{record.name}.recovered-{record.epoch}"
            bench.act("snapshot-name", f"a second snapshot {bench.shape.label(record)} is called {name}")
            bench.put_snapshot(msgspec.structs.replace(record, name=name))
        taken.add(_label(record, bench.shape.snapshots[record.epoch].name))


def _make_table(bench: Bench, table: str, wanted: dict[bytes, bytes], what: str) -> None:
    index = bench.index
    found = dict(values(index, table, quiet))
    bad = [key for key, _ in bench.bad(table, lambda key, payload: payload)]
    for key in [*bad, *(key for key in found if key not in wanted)]:
        if key not in wanted:
            bench.act(what, f"table {table}: the entry {key[8:]!r} is removed: it leads to nothing that has it")
            index.delete(table, key)
    for key, payload in wanted.items():
        if found.get(key) != payload:
            bench.act(what, f"table {table}: the entry {key[8:]!r} is put back")
            index.put(table, key, payload)


# -- logs and queues


def repair_logs(bench: Bench) -> None:
    index = bench.index
    bad = {keys.from_u64(key) for key, _ in bench.bad("events", DECODERS["events"])}
    found = dict(decoded(index, "events", quiet, DECODERS["events"]))
    bad |= {keys.from_u64(key) for key, event in found.items() if keys.u64(event.sequence) != key}
    there = {keys.from_u64(key) for key in found}
    good = there - bad
    newest = max(good, default=0)
    for number in sorted(number for number in bad if number > newest + EVENTS_MAX):
        bench.act("event", f"event {number} is removed")
        index.delete("events", keys.u64(number))
        bad.discard(number)
    every = there | bad
    oldest, newest = min(good or every, default=1), max(good | bad, default=0)
    for number in range(oldest, newest + 1):
        if number not in good:
            bench.act("event", f"event {number} is lost; another says so in its place")
            event = Event(
                sequence=number, time_ns=_time_before(index_events=found, number=number), kind=EventKind.WARNING,
                message="an event was lost by damage",
            )  # fmt: skip
            index.put("events", keys.u64(number), records.encode_json(event))
    for number in sorted(number for number in every if number < oldest):
        bench.act("event", f"event {number} is removed")
        index.delete("events", keys.u64(number))
    _requests(bench)


def _time_before(index_events: dict[bytes, Event], number: int) -> int:
    before = index_events.get(keys.u64(number - 1))
    return before.time_ns if before is not None else 0


def _requests(bench: Bench) -> None:
    index = bench.index
    for key, _ in bench.bad("requests", DECODERS["requests"]):
        bench.act("request", f"the damaged record of request {key.hex()[:12]} is removed")
        index.delete("requests", key)
    found = dict(decoded(index, "requests", quiet, DECODERS["requests"]))
    wanted = {keys.u64(request.time_ns) + key: records.PRESENT for key, request in found.items()}
    _make_table(bench, "requests_by_time", wanted, "request")


def repair_queues(bench: Bench) -> None:
    """What waits: unlinked files, dead records, snapshots to seal."""
    index, shape = bench.index, bench.shape
    for table in ("orphans", "reap", "unsealed"):
        for key, _ in bench.bad(table, DECODERS[table]):
            bench.act("record", f"table {table}: the damaged entry {key.hex()} is removed")
            index.delete(table, key)
    for key, _ in list(decoded(index, "orphans", quiet, DECODERS["orphans"])):
        if keys.from_u64(key) not in shape.volumes:
            bench.act("orphan", f"inode {keys.from_u64(key, 8)} does not count as unlinked: its volume is gone")
            index.delete("orphans", key)
    for key, _ in list(decoded(index, "reap", quiet, DECODERS["reap"])):
        if Epoch(keys.from_u64(key, len(key) - 8)) not in shape.parent:
            bench.act("reap", f"records of inode {keys.from_u64(key)} are not dropped: their epoch is gone")
            index.delete("reap", key)


def repair_seals(bench: Bench) -> None:
    """A snapshot without a whole seal is sealed again, by whoever opens the store next; it keeps its digest if the
    seal's own record can be read.  A seal of nothing goes."""
    index, shape = bench.index, bench.shape
    for key, _ in bench.bad("seals", DECODERS["seals"]):
        bench.act("seal", f"the damaged record of the seal of epoch {keys.from_u64(key)} is removed")
        index.delete("seals", key)
    found = {seal.epoch: seal for _, seal in decoded(index, "seals", quiet, DECODERS["seals"])}
    for epoch in sorted(found):
        seal = found[epoch]
        entries = {block: bench.block(block) for block in seal.blocks()}
        whole = all(
            entry is not None and entry.kind == (SEAL_ROOT if block == seal.root else SEAL_PART) and not entry.lost
            for block, entry in entries.items()
        )
        bases = {other.base for other in found.values()}
        needed = epoch in shape.snapshots or epoch in bases or sound(index, "unsealed", keys.u64(epoch), bool)
        lost = not whole and epoch not in shape.snapshots
        if lost or not needed or (seal.base != ROOT and seal.base not in found):
            bench.act("seal", f"the seal of epoch {epoch} is removed: it is incomplete or of nothing")
            index.delete("seals", keys.u64(epoch))
            del found[epoch]
    for epoch, record in shape.snapshots.items():
        if epoch in found:
            _seal_bytes(bench, found[epoch], record)
        elif sound(index, "unsealed", keys.u64(epoch), bool) is None:
            bench.act("seal", f"snapshot {shape.label(record)} waits to be sealed")
            index.put("unsealed", keys.u64(epoch), records.PRESENT)


def _seal_bytes(bench: Bench, seal: SealRecord, record: SnapshotRecord) -> None:
    """A rebuild could not use a seal of which anything is damaged: it is written again while the snapshot is there."""
    index = bench.index
    bad = {block for block in seal.blocks() if bench.bytes_of(block) is None}
    root = bench.block(seal.root)
    # with its root, the sealer takes the whole seal for lost; else it would keep its parts
    all_anew = root is not None and seal.root not in bad and not bad.isdisjoint(seal.parts)
    if not bad or (not all_anew and sound(index, "unsealed", keys.u64(seal.epoch), bool)):
        return
    bench.act("seal", f"the seal of snapshot {bench.shape.label(record)} is damaged: it will be written again")
    if all_anew and root is not None:
        given_up = msgspec.structs.replace(root, segment=records.LOST_SEGMENT, offset=0, stored_bytes=0)
        index.put("blocks", keys.u64(seal.root), records.encode_block(given_up))
    index.put("unsealed", keys.u64(seal.epoch), records.PRESENT)


def references(bench: Bench) -> Counter[BlockId]:
    """How many records of the tree and seals name each block."""
    found: Counter[BlockId] = Counter()
    for key, payload in values(bench.index, "tree", quiet):
        if payload and keys.split(key)[1] == keys.EXTENT:
            found[records.decode_extent(payload)[1]] += 1
    for _, seal in decoded(bench.index, "seals", quiet, DECODERS["seals"]):
        found.update(seal.blocks())
    return found
