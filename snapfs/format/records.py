"""Records of the index and their bytes.

Invariants:
  * Every value ends in the CRC-32 of its key and payload (LMDB has no checksums, and a right value under a
    wrong key is wrong too); ``seal`` adds it, ``unseal`` checks and removes it.
  * An empty payload is a tombstone; every record's payload has at least one byte.
  * Numbers are little-endian; keys alone are big-endian.
  * Whatever bytes are decoded, the outcome is a record whose numbers are within their limits, or Corrupt: a store may
    have been made by somebody who means harm, and a checksum is no proof against that.
"""

from __future__ import annotations

import struct
from typing import Final, TypeVar
from zlib import crc32

import msgspec

from snapfs.api import Event, GitCommit, QuotaKind, RetentionPolicy
from snapfs.errors import Corrupt
from snapfs.types import BLOCK_BYTES_MAX, FILE_BYTES_MAX, INO_BITS, BlockId, Epoch, Ino, SegmentId, VolumeId

_pack_crc = struct.Struct("<I").pack
CRC_BYTES: Final = 4
_CRC_OF_SEALED: Final = 0x2144DF1C
"""CRC-32 of whatever bytes and their own CRC-32 behind them (little-endian): a property of the polynomial."""
TOMBSTONE: Final = b""
PRESENT: Final = b"\x01"
"""Payload of records that say no more than that they are there (parent links); prefix of xattr values."""


def seal(key: bytes, payload: bytes) -> bytes:
    return payload + _pack_crc(crc32(payload, crc32(key)))


def seal_nothing(key: bytes) -> bytes:
    """``seal`` of an empty payload."""
    return _pack_crc(crc32(key))


def unseal(key: bytes, value: bytes) -> bytes:
    """Payload of a value.

    Raises:
        Corrupt: the checksum does not match.
    """
    if crc32(value, crc32(key)) != _CRC_OF_SEALED or len(value) < CRC_BYTES:
        raise Corrupt(f"index record {key.hex()} is damaged", hint="run: snap fsck")
    return value[:-CRC_BYTES]


_R = TypeVar("_R")


def _damaged(what: str) -> Corrupt:
    return Corrupt(f"a record of {what} is damaged", hint="run: snap fsck")


_INODE = struct.Struct("<IIIIQQQqqqqI")
_unpack_inode = _INODE.unpack


class Inode(msgspec.Struct, frozen=True, gc=False):
    """Attributes of an inode.  Times are ns since 1970."""

    ino: Ino
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    allocated_bytes: int
    """Bytes that extents cover (holes do not count)."""
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    btime_ns: int
    fork: int = 0
    """Which generation of the file's data is alive; truncation to zero begins a new one, in O(1)."""


def encode_inode(inode: Inode) -> bytes:
    return _INODE.pack(
        inode.mode, inode.nlink, inode.uid, inode.gid, inode.rdev, inode.size, inode.allocated_bytes,
        inode.atime_ns, inode.mtime_ns, inode.ctime_ns, inode.btime_ns, inode.fork,
    )  # fmt: skip


def decode_inode(ino: Ino, payload: bytes) -> Inode:
    try:
        inode = Inode(ino, *_unpack_inode(payload))
    except struct.error:
        raise _damaged(f"inode {ino}") from None
    if inode.size > FILE_BYTES_MAX or inode.allocated_bytes > FILE_BYTES_MAX:
        raise _damaged(f"inode {ino}")
    return inode


_DIRENT = struct.Struct("<QB")
_unpack_dirent = _DIRENT.unpack
_TYPE_MAX: Final = 15


def encode_dirent(ino: Ino, mode: int) -> bytes:
    """A directory entry keeps the inode and its type (the S_IFMT bits, shifted)."""
    return _DIRENT.pack(ino, mode >> 12)


def decode_dirent(payload: bytes) -> tuple[Ino, int]:
    """(inode, S_IFMT bits)."""
    try:
        ino, kind = _unpack_dirent(payload)
    except struct.error:
        raise _damaged("a directory entry") from None
    if ino >> INO_BITS or kind > _TYPE_MAX:
        raise _damaged("a directory entry")
    return ino, kind << 12


_EXTENT = struct.Struct("<IQI")


def encode_extent(length: int, block: BlockId, block_offset: int) -> bytes:
    return _EXTENT.pack(length, block, block_offset)


def decode_extent(payload: bytes) -> tuple[int, BlockId, int]:
    """(length in bytes, block, offset of the first byte in the block)."""
    try:
        length, block, offset = _EXTENT.unpack(payload)
    except struct.error:
        raise _damaged("an extent") from None
    return length, BlockId(block), offset


_EPOCH = struct.Struct("<QQB")
LIVE: Final = 0
"""Epoch of a head or of a snapshot that exists."""
DYING: Final = 1
"""Epoch of a deleted snapshot or discarded head, not yet reclaimed."""
SHARED: Final = 2
"""Dying with several children that all need what is left of it: nothing to do until something below changes."""


def encode_epoch(parent: Epoch, volume: VolumeId, state: int) -> bytes:
    return _EPOCH.pack(parent, volume, state)


def decode_epoch(payload: bytes) -> tuple[Epoch, VolumeId, int]:
    try:
        parent, volume, state = _EPOCH.unpack(payload)
    except struct.error:
        raise _damaged("an epoch") from None
    if state > SHARED:
        raise _damaged("an epoch")
    return Epoch(parent), VolumeId(volume), state


_BLOCK = struct.Struct("<QQIIBB32sQQQQ")
HASH_BYTES: Final = 32
CODEC_RAW: Final = 0
CODEC_ZSTD: Final = 1
LOST_SEGMENT: Final = SegmentId(0)
"""Where lost blocks are: segments begin at 1."""


class Block(msgspec.Struct, frozen=True, gc=False):
    """Where a block's bytes are.  ``offset`` is that of its record header in the segment."""

    segment: SegmentId
    offset: int
    stored_bytes: int
    raw_bytes: int
    codec: int
    kind: int
    """Of format.segments: a file's bytes, or a seal's."""
    hash: bytes
    refs: int
    """Extent records (of all epochs) and seals that name the block; 0: waiting to be reclaimed."""
    account: int = 0
    """Number of the account (table ``accounts``) that says which views show it; 0: of a seal, or without references."""
    home_ino: Ino = Ino(0)
    """A hint: the file that last took the block into use; 0: none."""
    home_offset: int = 0
    """Where in that file the block's first byte would be."""

    @property
    def lost(self) -> bool:
        """Its bytes are nowhere: a repair found no trace of them, and keeps the block so that reading it fails."""
        return self.segment == LOST_SEGMENT


def encode_block(block: Block) -> bytes:
    return _BLOCK.pack(
        block.segment, block.offset, block.stored_bytes, block.raw_bytes,
        block.codec, block.kind, block.hash, block.refs, block.account, block.home_ino, block.home_offset,
    )  # fmt: skip


def decode_block(payload: bytes) -> Block:
    try:
        block = Block(*_BLOCK.unpack(payload))
    except struct.error:
        raise _damaged("a block") from None
    if block.stored_bytes > BLOCK_BYTES_MAX or block.raw_bytes > BLOCK_BYTES_MAX:  # both are allocated
        raise _damaged("a block")
    return block


_SEGMENT = struct.Struct("<QQ")
_SEGMENT_BYTES_MAX: Final = 1 << 40
"""Far more than a segment ever has."""


def encode_segment(end_bytes: int, live_bytes: int) -> bytes:
    return _SEGMENT.pack(end_bytes, live_bytes)


def decode_segment(payload: bytes) -> tuple[int, int]:
    """(end of the committed records, bytes of them that live blocks take)."""
    try:
        end, live = _SEGMENT.unpack(payload)
    except struct.error:
        raise _damaged("a segment") from None
    if not live <= end <= _SEGMENT_BYTES_MAX:
        raise _damaged("a segment")
    return end, live


def _check_numbers(*numbers: int) -> None:
    """Raises ValueError, which decoding tells as a damaged record."""
    if not all(0 <= number <= _U64_MAX for number in numbers):
        raise ValueError("a number is out of range")


_U64_MAX: Final = (1 << 64) - 1


class VolumeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """JSON, as are all records that are few and read seldom."""

    id: VolumeId
    name: str
    root: Ino
    head: Epoch
    created_ns: int
    quota_bytes: int = 0
    """Most that the head's files may hold; 0: no limit."""
    used_bytes: int = 0
    """What the head's files hold: the sum of their ``allocated_bytes``."""
    quota_kind: QuotaKind = QuotaKind.LOGICAL
    compression: str = "zstd:1"
    """``none`` or ``zstd:LEVEL``."""
    policy: RetentionPolicy | None = None
    origin: Epoch = Epoch(0)
    """The snapshot that it was cloned from; it need not exist any more; 0: none."""
    deleted_ns: int = 0
    """In the trash since; 0: not deleted."""

    def __post_init__(self) -> None:
        _check_numbers(
            self.id, self.root, self.head, self.created_ns, self.quota_bytes, self.used_bytes, self.origin,
            self.deleted_ns,
        )  # fmt: skip


class SnapshotRecord(msgspec.Struct, frozen=True, kw_only=True):
    epoch: Epoch
    """Its permanent number: the epoch that it froze."""
    volume: VolumeId
    name: str
    root: Ino
    created_ns: int
    message: str = ""
    meta: dict[str, str] = {}
    git: GitCommit | None = None
    orphans: list[Ino] = []
    """Files that were unlinked and still open when it was made: no path leads to them.  A head that starts from
    the snapshot lets go of them."""
    tags: list[str] = []
    """Further names, sorted; each has its entry in table ``tags``."""
    used_bytes: int = 0
    """What its files hold: the sum of their ``allocated_bytes``."""
    holds: list[str] = []
    """Names of holds, sorted: it cannot be deleted while there is one."""
    locked_until_ns: int = 0
    """It cannot be deleted before; never made earlier; 0: not locked."""
    deleted_ns: int = 0
    """In the trash since; 0: not deleted.  One in the trash has no entry in ``names``, ``tags``, ``commits``,
    ``created``; it still counts as a view, and its tags are kept to be given back."""

    def __post_init__(self) -> None:
        _check_numbers(
            self.epoch, self.volume, self.root, self.created_ns, self.used_bytes, self.locked_until_ns,
            self.deleted_ns, *self.orphans,
        )  # fmt: skip


class RequestRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a request with an idempotency key has made: a snapshot or a volume."""

    fingerprint: bytes
    """Of the request's content (BLAKE3): the same key for another content is a mistake."""
    time_ns: int
    created: bool = True
    """False when it found what it would have made."""
    epoch: Epoch = Epoch(0)
    """Of the snapshot."""
    volume: VolumeId = VolumeId(0)
    """The volume, when it made one."""

    def __post_init__(self) -> None:
        _check_numbers(self.time_ns, self.epoch, self.volume)


def encode_json(record: msgspec.Struct) -> bytes:
    return msgspec.json.encode(record)


def _decode_json(payload: bytes, kind: type[_R], what: str) -> _R:
    try:
        return msgspec.json.decode(payload, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise _damaged(what) from None


def decode_volume(payload: bytes) -> VolumeRecord:
    return _decode_json(payload, VolumeRecord, "a volume")


def decode_snapshot(payload: bytes) -> SnapshotRecord:
    return _decode_json(payload, SnapshotRecord, "a snapshot")


def decode_request(payload: bytes) -> RequestRecord:
    return _decode_json(payload, RequestRecord, "a request")


def decode_event(payload: bytes) -> Event:
    event = _decode_json(payload, Event, "an event")
    if not (0 <= event.sequence <= _U64_MAX and 0 <= event.time_ns <= _U64_MAX):
        raise _damaged("an event")
    return event
