"""What a scrub checks of the index, in short slices beside those who change it.

Each value's checksum, whether it can be decoded, and whether what it names is there and agrees.  What takes counts over
the whole store (references, link counts, space) is fsck's: a scrub's memory does not grow with the store.

Invariants:
  * It reads the open transaction, in one step without an await: what others do in one step is seen whole or not at all.
  * It changes nothing.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from snapfs.api import Finding
from snapfs.errors import SnapfsError
from snapfs.format import accounts, keys, records
from snapfs.format import segments as fmt
from snapfs.format.seals import decode_record
from snapfs.store.index import Reading
from snapfs.store.walk import values
from snapfs.types import BLOCK_BYTES_MAX, Epoch, Ino
from snapfs.volume.accounts import unaccounted
from snapfs.volume.references import trash_key

_CLOCK_EVERY: Final = 8
"""Values between two looks at the clock."""

Check = Callable[[Reading, bytes, bytes], Iterator[str]]
"""What is wrong with one entry: of the index, its key, its payload."""


class Slice(msgspec.Struct, frozen=True):
    """What one slice came to."""

    position: bytes
    """The last key that was looked at."""
    done: int
    """Values looked at."""
    ended: bool
    """The table has no more."""
    findings: list[Finding]


def check_some(index: Reading, table: str, after: bytes, seconds: float) -> Slice:
    """Check the table's values that come after a key, for about so long."""
    end = time.perf_counter() + seconds
    check = _CHECKS.get(table)
    findings: list[Finding] = []
    position, done = after, 0
    try:
        for position, value in values(index, table, after):
            findings += _check(index, table, position, value, check)
            done += 1
            if done % _CLOCK_EVERY == 0 and time.perf_counter() > end:
                return Slice(position, done, False, findings)
    except SnapfsError as error:  # the rest of the table is out of reach
        findings.append(Finding(code="structure", message=error.message))
    return Slice(position, done, True, findings)


def _check(index: Reading, table: str, key: bytes, value: bytes, check: Check | None) -> Iterator[Finding]:
    try:
        payload = records.unseal(key, value)
    except SnapfsError:
        yield Finding(code="record", message=f"table {table}: the record {key.hex()} is damaged")
        return
    if check is None:
        return
    try:
        for wrong in check(index, key, payload):
            yield Finding(code=table, message=wrong)
    except SnapfsError as error:
        yield Finding(code="record", message=f"table {table}: the record {key.hex()}: {error.message}")
    except (ValueError, LookupError, struct.error, msgspec.MsgspecError) as error:
        yield Finding(code="record", message=f"table {table}: the record {key.hex()} is malformed ({error})")


# -- the versioned keyspace


def _tree(index: Reading, key: bytes, payload: bytes) -> Iterator[str]:
    subject, epoch = key[: -keys.EPOCH_BYTES], keys.epoch_of(key)
    ino, kind = keys.split(subject)
    if index.get("epochs", keys.u64(epoch)) is None:
        yield f"a record of inode {ino} belongs to epoch {epoch}, which is not there"
    if index.get("changes", keys.u64(epoch) + subject) is None:
        yield f"a record of inode {ino} is missing in the changes of epoch {epoch}"
    if not payload:
        return
    if kind == keys.INODE:
        records.decode_inode(ino, payload)
    elif kind == keys.DIRENT:
        records.decode_dirent(payload)
    elif kind == keys.EXTENT:
        yield from _extent(index, ino, subject, payload)


def _extent(index: Reading, ino: Ino, subject: bytes, payload: bytes) -> Iterator[str]:
    offset = keys.split_extent(subject)[1]
    length, block, block_offset = records.decode_extent(payload)
    found = index.get("blocks", keys.u64(block))
    if found is None:
        yield f"inode {ino} needs at {offset} block {block}, which is not there"
        return
    entry = records.decode_block(found)
    if length < 1 or block_offset + length > entry.raw_bytes:
        yield f"inode {ino} reaches at {offset} beyond block {block}"
    if entry.refs < 1:
        yield f"inode {ino} needs at {offset} block {block}, which counts no reference"


def _changes(index: Reading, key: bytes, payload: bytes) -> Iterator[str]:
    epoch, subject = keys.from_u64(key), key[keys.EPOCH_BYTES :]
    if index.get("tree", keys.versioned(subject, epoch)) is None:
        yield f"epoch {epoch} is said to have changed {subject.hex()}, which it has not"


def _epochs(index: Reading, key: bytes, payload: bytes) -> Iterator[str]:
    parent = records.decode_epoch(payload)[0]
    if parent and index.get("epochs", keys.u64(parent)) is None:
        yield f"epoch {keys.from_u64(key)} has no parent {parent}"


# -- volumes, snapshots, and how they are found


def _volumes(index: Reading, key: bytes, payload: bytes) -> Iterator[str]:
    record = records.decode_volume(payload)
    if record.id != keys.from_u64(key) or index.get("epochs", keys.u64(record.head)) is None:
        yield f"the head of volume {record.name!r} is not there"
    if record.deleted_ns and index.get("trash", trash_key(record.deleted_ns, record.id)) is None:
        yield f"volume {record.name!r} was deleted, and the trash does not have it"


def _snapshots(index: Reading, key: bytes, payload: bytes) -> Iterator[str]:
    record = records.decode_snapshot(payload)
    epoch, volume = keys.u64(record.epoch), keys.u64(record.volume)
    if key != epoch or index.get("epochs", epoch) is None:
        yield f"snapshot {record.name!r} names epoch {record.epoch}, which is not there"
    if record.deleted_ns:
        if index.get("trash", trash_key(record.deleted_ns, record.epoch)) is None:
            yield f"snapshot {record.name!r} was deleted, and the trash does not have it"
        return
    if index.get("names", volume + record.name.encode()) != epoch:
        yield f"snapshot {record.name!r} is not found by its name"
    if index.get("created", volume + keys.u64(record.created_ns) + epoch) is None:
        yield f"snapshot {record.name!r} is not found by its time"
    for tag in record.tags:
        if index.get("tags", volume + tag.encode()) != epoch:
            yield f"snapshot {record.name!r} is not found by its tag {tag!r}"


def _snapshot(index: Reading, epoch: bytes) -> records.SnapshotRecord | None:
    payload = index.get("snapshots", epoch)
    return None if payload is None else records.decode_snapshot(payload)


def _names(index: Reading, key: bytes, payload: bytes) -> Iterator[str]:
    record = _snapshot(index, payload)
    if record is None or record.name.encode() != key[8:]:
        yield f"the name {key[8:]!r} leads to no snapshot of that name"


def _tags(index: Reading, key: bytes, payload: bytes) -> Iterator[str]:
    record = _snapshot(index, payload)
    if record is None or key[8:].decode() not in record.tags:
        yield f"the tag {key[8:]!r} leads to no snapshot that has it"


def _commits(index: Reading, key: bytes, payload: bytes) -> Iterator[str]:
    record = _snapshot(index, key[-8:])
    commit = key[8:-9].decode()
    if record is None or record.git is None or record.git.commit != commit:
        yield f"the commit {commit!r} leads to no snapshot of it"


def _created(index: Reading, key: bytes, payload: bytes) -> Iterator[str]:
    record = _snapshot(index, key[16:])
    if record is None or record.created_ns != keys.from_u64(key, 8):
        yield f"no snapshot of epoch {keys.from_u64(key, 16)} was made at the time that is noted for it"


def _trash(index: Reading, key: bytes, payload: bytes) -> Iterator[str]:
    deleted_ns, number = keys.from_u64(key), key[8:]
    record = _snapshot(index, number)
    if record is None:
        volume = index.get("volumes", number)
        found = records.decode_volume(volume).deleted_ns if volume else 0
    else:
        found = record.deleted_ns
    if found != deleted_ns:
        yield f"the trash has {keys.from_u64(number)}, which is nothing that was deleted then"


# -- blocks


def _blocks(index: Reading, key: bytes, payload: bytes) -> Iterator[str]:
    entry = records.decode_block(payload)
    block = keys.from_u64(key)
    if not 0 < entry.raw_bytes <= BLOCK_BYTES_MAX or entry.stored_bytes > entry.raw_bytes:
        yield f"block {block} is of {entry.raw_bytes} bytes, stored in {entry.stored_bytes}, which cannot be"
    if entry.kind not in fmt.KINDS or entry.codec not in (records.CODEC_RAW, records.CODEC_ZSTD):
        yield f"block {block} is of an unknown kind"
    if bool(entry.account) != (entry.kind == fmt.DATA and entry.refs > 0):
        yield f"block {block} has account {entry.account} and {entry.refs} references"


def _dedup(index: Reading, key: bytes, payload: bytes) -> Iterator[str]:
    found = index.get("blocks", payload)
    if found is None or records.decode_block(found).hash != key:
        yield f"the hash {key.hex()} leads to block {keys.from_u64(payload)}, which is not that block"


def _freed(index: Reading, key: bytes, payload: bytes) -> Iterator[str]:
    block = keys.from_u64(key, 8)
    found = index.get("blocks", keys.u64(block))
    if found is None or records.decode_block(found).refs:
        yield f"block {block} waits to be reclaimed, but is referenced or not there"


# -- accounts (those that changed since the last commit are in memory, and blocks name them already)


def _accounts(index: Reading, key: bytes, payload: bytes) -> Iterator[str]:
    for epoch, _ in accounts.decode_account(payload)[1]:
        if index.get("epochs", keys.u64(epoch)) is None and index.get("aliases", keys.u64(epoch)) is None:
            yield f"account {keys.from_u64(key)} names epoch {epoch}, which is not there"


def _account_ids(index: Reading, key: bytes, payload: bytes) -> Iterator[str]:
    found = index.get("accounts", payload)
    changes = None if found is None else accounts.encode_changes(accounts.decode_account(found)[1])
    if changes is None or accounts.account_id(changes) != key:
        yield f"the changes {key.hex()} lead to account {keys.from_u64(payload)}, which is not that account"


def _aliases(index: Reading, key: bytes, payload: bytes) -> Iterator[str]:
    successor = keys.u64(accounts.decode_alias(payload))
    if successor != keys.u64(accounts.NOWHERE) and all(
        index.get(table, successor) is None for table in ("epochs", "aliases")
    ):
        yield f"epoch {keys.from_u64(key)} went to epoch {keys.from_u64(successor)}, which is not there"


def _unaccounted(index: Reading, key: bytes, payload: bytes) -> Iterator[str]:
    row = unaccounted.decode(key)
    if index.get("epochs", keys.u64(row.epoch)) is None:
        yield f"extents of inode {row.ino} are hidden by epoch {row.epoch}, which is not there"


# -- the rest


def _decoded(_: object) -> Iterator[str]:
    """Decoding has checked it."""
    return iter(())


def _events(index: Reading, key: bytes, payload: bytes) -> Iterator[str]:
    if records.decode_event(payload).sequence != keys.from_u64(key):
        yield f"event {keys.from_u64(key)} has another number"


def _requests(index: Reading, key: bytes, payload: bytes) -> Iterator[str]:
    record = records.decode_request(payload)
    if index.get("requests_by_time", keys.u64(record.time_ns) + key) is None:
        yield f"request {key.hex()} is not found by its time"


def _requests_by_time(index: Reading, key: bytes, payload: bytes) -> Iterator[str]:
    if index.get("requests", key[8:]) is None:
        yield f"request {key[8:].hex()} has a time but no record"


def _seals(index: Reading, key: bytes, payload: bytes) -> Iterator[str]:
    record = decode_record(payload)
    epoch = Epoch(keys.from_u64(key))
    if record.epoch != epoch:
        yield f"the seal of epoch {epoch} is another's"
    for block in record.blocks():
        found = index.get("blocks", keys.u64(block))
        if found is None or records.decode_block(found).refs < 1:
            yield f"the seal of epoch {epoch} needs block {block}, which is not there"
    if record.base and index.get("seals", keys.u64(record.base)) is None:
        yield f"the seal of epoch {epoch} builds on that of epoch {record.base}, which is not there"


_CHECKS: Final[dict[str, Check]] = {
    "tree": _tree,
    "changes": _changes,
    "epochs": _epochs,
    "volumes": _volumes,
    "snapshots": _snapshots,
    "names": _names,
    "tags": _tags,
    "commits": _commits,
    "created": _created,
    "trash": _trash,
    "blocks": _blocks,
    "dedup": _dedup,
    "freed": _freed,
    "accounts": _accounts,
    "account_ids": _account_ids,
    "aliases": _aliases,
    "unaccounted": _unaccounted,
    "segments": lambda index, key, payload: _decoded(records.decode_segment(payload)),
    "events": _events,
    "requests": _requests,
    "requests_by_time": _requests_by_time,
    "seals": _seals,
}
