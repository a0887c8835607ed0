"""Records of the index and their bytes.

Invariants:
  * Every value ends in the CRC-32 of its key and payload (LMDB has no checksums, and a right value under a
    wrong key is wrong too); ``seal`` adds it, ``unseal`` checks and removes it.
  * An empty payload is a tombstone; every record's payload has at least one byte.
  * Numbers are little-endian; keys alone are big-endian.
"""

from __future__ import annotations

import struct
from typing import Final
from zlib import crc32

import msgspec

from snapfs.api import Event, GitCommit
from snapfs.errors import Corrupt
from snapfs.types import BlockId, Epoch, Ino, SegmentId, VolumeId

_CRC = struct.Struct("<I")
_CRC_BYTES: Final = 4
TOMBSTONE: Final = b""
PRESENT: Final = b"\x01"
"""Payload of records that say no more than that they are there (parent links); prefix of xattr values."""


def seal(key: bytes, payload: bytes) -> bytes:
    return payload + _CRC.pack(crc32(payload, crc32(key)))


def unseal(key: bytes, value: bytes) -> bytes:
    """Payload of a value.

    Raises:
        Corrupt: the checksum does not match.
    """
    payload = value[:-_CRC_BYTES]
    if value[-_CRC_BYTES:] != _CRC.pack(crc32(payload, crc32(key))):
        raise Corrupt(f"index record {key.hex()} is damaged", hint="run: snap fsck")
    return payload


_INODE = struct.Struct("<IIIIQQQqqqqI")


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
    return Inode(ino, *_INODE.unpack(payload))


_DIRENT = struct.Struct("<QB")


def encode_dirent(ino: Ino, mode: int) -> bytes:
    """A directory entry keeps the inode and its type (the S_IFMT bits, shifted)."""
    return _DIRENT.pack(ino, mode >> 12)


def decode_dirent(payload: bytes) -> tuple[Ino, int]:
    """(inode, S_IFMT bits)."""
    ino, kind = _DIRENT.unpack(payload)
    return Ino(ino), kind << 12


_EXTENT = struct.Struct("<IQI")


def encode_extent(length: int, block: BlockId, block_offset: int) -> bytes:
    return _EXTENT.pack(length, block, block_offset)


def decode_extent(payload: bytes) -> tuple[int, BlockId, int]:
    """(length in bytes, block, offset of the first byte in the block)."""
    length, block, offset = _EXTENT.unpack(payload)
    return length, BlockId(block), offset


_EPOCH = struct.Struct("<QQB")
LIVE: Final = 0
"""Epoch of a head or of a snapshot that exists."""
DYING: Final = 1
"""Epoch of a deleted snapshot or discarded head, not yet reclaimed."""


def encode_epoch(parent: Epoch, volume: VolumeId, state: int) -> bytes:
    return _EPOCH.pack(parent, volume, state)


def decode_epoch(payload: bytes) -> tuple[Epoch, VolumeId, int]:
    parent, volume, state = _EPOCH.unpack(payload)
    return Epoch(parent), VolumeId(volume), state


_BLOCK = struct.Struct("<QQIIBB32sQ")
HASH_BYTES: Final = 32
CODEC_RAW: Final = 0
CODEC_ZSTD: Final = 1


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


def encode_block(block: Block) -> bytes:
    return _BLOCK.pack(
        block.segment, block.offset, block.stored_bytes, block.raw_bytes,
        block.codec, block.kind, block.hash, block.refs,
    )  # fmt: skip


def decode_block(payload: bytes) -> Block:
    return Block(*_BLOCK.unpack(payload))


_SEGMENT = struct.Struct("<QQ")


def encode_segment(end_bytes: int, live_bytes: int) -> bytes:
    return _SEGMENT.pack(end_bytes, live_bytes)


def decode_segment(payload: bytes) -> tuple[int, int]:
    """(end of the committed records, bytes of them that live blocks take)."""
    end, live = _SEGMENT.unpack(payload)
    return end, live


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


def encode_json(record: msgspec.Struct) -> bytes:
    return msgspec.json.encode(record)


def decode_volume(payload: bytes) -> VolumeRecord:
    return msgspec.json.decode(payload, type=VolumeRecord)


def decode_snapshot(payload: bytes) -> SnapshotRecord:
    return msgspec.json.decode(payload, type=SnapshotRecord)


def decode_request(payload: bytes) -> RequestRecord:
    return msgspec.json.decode(payload, type=RequestRecord)


def decode_event(payload: bytes) -> Event:
    return msgspec.json.decode(payload, type=Event)
