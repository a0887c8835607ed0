"""What the steps of a repair share: the index's open transaction, the store's shape, the list of what is done.

Invariants:
  * A step finds what is wrong by itself, in the state that the steps before it left, and mends it in the open
    transaction; whether that is committed or dropped (a rehearsal) is not its business.
  * What is outside the index (segment files) is changed by ``later`` only, after the commit.
  * Done a second time, a step finds nothing to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

from snapfs.api import Finding
from snapfs.format import keys, records
from snapfs.format import segments as fmt
from snapfs.format.records import Block, Inode, SnapshotRecord, VolumeRecord
from snapfs.format.seals import VolumeFacts
from snapfs.store.index import Index
from snapfs.types import BLOCK_BYTES_MAX, BlockId, Epoch, Ino
from snapfs.versions.epochs import Chain, Path, View
from snapfs.versions.keyspace import Keyspace
from snapfs.volume.check.base import MALFORMED, Place, Shape, Tolerant, decoded, sound
from snapfs.volume.check.blocks import body, segment_file
from snapfs.volume.check.tables import counter

ACTIONS_MAX: Final = 10_000
"""Actions listed; all are done."""


class NeedsRebuild(Exception):
    """The index cannot be mended in place."""


class Bench:
    def __init__(self, index: Index, place: Place) -> None:
        self.index = index
        self.place = place
        self.actions: list[Finding] = []
        self.total = 0
        self.later: list[Callable[[], None]] = []
        """To do once what was done in the index is durable."""
        self.tree = Keyspace(index)
        self.reading = Tolerant(index)
        index.after_commit.append(self.reading.forget_cursor)
        self.shape = Shape(index, quiet)

    def act(self, code: str, message: str) -> None:
        """Note what is done; called before it is."""
        self.total += 1
        if len(self.actions) < ACTIONS_MAX:
            self.actions.append(Finding(code=code, message=message))

    def look_again(self) -> None:
        """Epochs, volumes or snapshots changed."""
        self.shape = Shape(self.index, quiet)

    def bad(self, table: str, decode: Callable[[bytes, bytes], object]) -> list[tuple[bytes, str]]:
        """(key, what is wrong) of the table's records that cannot be read."""
        found: list[tuple[bytes, str]] = []
        for _ in decoded(self.index, table, lambda _, key, message: found.append((key, message)), decode):
            pass
        if any(not key for key, _ in found):
            raise NeedsRebuild(f"table {table} cannot be read to its end")
        return found

    # -- views

    def view(self, epoch: Epoch) -> View:
        """Of any epoch, writable or not: repairs may write to all."""
        chain = Chain(sorted(self.shape.ancestors(epoch)))
        return View(self.shape.volume_of[epoch], Path(chain, epoch), writable=True)

    def inode(self, view: View, ino: Ino) -> Inode | None:
        """None also if it cannot be read."""
        try:
            return self.reading.inode(view, ino)
        except MALFORMED:
            return None

    def put_inode(self, view: View, inode: Inode) -> None:
        self.tree.put(view, keys.inode(inode.ino), records.encode_inode(inode))

    def drop_version(self, key: bytes) -> None:
        """Remove exactly this record of the tree; references are counted later."""
        subject, epoch = key[: -keys.EPOCH_BYTES], keys.epoch_of(key)
        self.index.delete("changes", keys.u64(epoch) + subject)
        self.index.delete("tree", key)

    # -- records

    def put_volume(self, record: VolumeRecord) -> None:
        self.index.put("volumes", keys.u64(record.id), records.encode_json(record))
        self.shape.volumes[record.id] = record

    def put_snapshot(self, record: SnapshotRecord) -> None:
        """Its seal is to be written anew."""
        self.index.put("snapshots", keys.u64(record.epoch), records.encode_json(record))
        self.index.put("unsealed", keys.u64(record.epoch), records.PRESENT)
        self.shape.snapshots[record.epoch] = record

    def number(self, name: str) -> int:
        """Take the next one of a counter, which is right."""
        found = max(counter(self.index, name, 1), 1)
        self.index.put("meta", name.encode(), (found + 1).to_bytes(8, "little"))
        return found

    # -- blocks

    def block(self, number: BlockId) -> Block | None:
        return sound(self.index, "blocks", keys.u64(number), records.decode_block)

    def lost_block(self, size_bytes: int, digest: bytes = bytes(records.HASH_BYTES)) -> BlockId:
        """A new block whose bytes are lost."""
        number = BlockId(self.number("next_block"))
        self.put_lost(number, size_bytes, digest)
        return number

    def put_lost(
        self, number: BlockId, size_bytes: int = BLOCK_BYTES_MAX, digest: bytes = bytes(records.HASH_BYTES)
    ) -> None:
        lost = Block(records.LOST_SEGMENT, 0, 0, size_bytes, records.CODEC_RAW, fmt.DATA, digest, 0)
        self.index.put("blocks", keys.u64(number), records.encode_block(lost))

    def blocks(self) -> Iterator[tuple[BlockId, Block]]:
        """All whose entries can be read."""
        for key, entry in decoded(self.index, "blocks", quiet, lambda _, payload: records.decode_block(payload)):
            yield BlockId(keys.from_u64(key)), entry

    def bytes_of(self, number: BlockId) -> bytes | None:
        """A block's raw bytes; None if they cannot be had."""
        entry = self.block(number)
        if entry is None or entry.lost:
            return None
        with segment_file(self.place) as file:
            try:
                return body(file, number, entry)
            except MALFORMED:
                return None


def quiet(table: str, key: bytes, message: str) -> None:
    """What cannot be read is found by the step whose business it is."""


LOST_BYTES_MAX: Final = 16 << 30
"""Of a file whose size is only guessed, so much is said to be lost."""


def unreadable(inode: Inode, fork: int, size: int, block: BlockId) -> tuple[Inode, Iterator[tuple[bytes, bytes]]]:
    """The inode of a file nobody knows the bytes of, and (subject, payload) of the extents that make reading it fail.

    Args:
        fork: one that the file has never had.
        size: as far as its bytes may have reached.
        block: a lost one of the greatest size.
    """
    size = min(max(size, 1), LOST_BYTES_MAX)
    extents = (
        (
            keys.extent(inode.ino, fork, offset),
            records.encode_extent(min(BLOCK_BYTES_MAX, size - offset), block, 0),
        )
        for offset in range(0, size, BLOCK_BYTES_MAX)
    )
    return replaced(inode, fork=fork, size=size, allocated_bytes=size), extents


def replaced(inode: Inode, **changes: int) -> Inode:
    return msgspec.structs.replace(inode, **changes)


def told_of(facts: VolumeFacts | None) -> dict[str, Any]:
    """Fields of a volume's record besides its name and age that seals tell of."""
    if facts is None:
        return {}
    told = msgspec.structs.asdict(facts)
    return {field: told[field] for field in _TOLD}


_TOLD: Final = ("quota_bytes", "quota_kind", "compression", "policy", "origin", "deleted_ns")
