"""Segment files: a header, then block records, each self-describing, each at a multiple of 8.

A record is a header (magic, lengths, codec, kind, BLAKE3 of the raw bytes, CRC-32) and the stored bytes, so that the
index can be rebuilt from the segments alone.

Invariants:
  * A header's CRC covers the store's UUID, the segment's number and the record's offset too: a record that lies
    anywhere else, or a copy of one inside a file's bytes, is none.
"""

from __future__ import annotations

import struct
from typing import Final
from zlib import crc32

import msgspec

from snapfs.errors import Corrupt
from snapfs.types import BLOCK_BYTES_MAX, SegmentId

SEGMENT_MAGIC: Final = b"SNAPSEG\x01"
BLOCK_MAGIC: Final = b"SBLK"
ALIGN_BYTES: Final = 8

_SEGMENT = struct.Struct("<8s16sQ28x")
_BLOCK = struct.Struct("<4sIIBB2x32s")
_PLACE = struct.Struct("<16sQQ")
_CRC = struct.Struct("<I")

SEGMENT_HEADER_BYTES: Final = _SEGMENT.size + _CRC.size
BLOCK_HEADER_BYTES: Final = _BLOCK.size + _CRC.size


def encode_segment_header(store_uuid: bytes, segment: SegmentId) -> bytes:
    head = _SEGMENT.pack(SEGMENT_MAGIC, store_uuid, segment)
    return head + _CRC.pack(crc32(head))


def check_segment_header(data: bytes, store_uuid: bytes, segment: SegmentId) -> None:
    """Raises:
    Corrupt: not the header of this store's segment.
    """
    if data != encode_segment_header(store_uuid, segment):
        raise Corrupt(f"segment {segment}: header is damaged or of another store", hint="run: snap fsck")


DATA: Final = 0
"""Kind of a block: bytes of files."""
SEAL_PART: Final = 1
"""A piece of what a seal lists."""
SEAL_ROOT: Final = 2
"""What a seal says of its snapshot, with the hashes of its parts: where a rebuild of the index begins."""
KINDS: Final = (DATA, SEAL_PART, SEAL_ROOT)


class Head(msgspec.Struct, frozen=True, gc=False):
    """What a block record's header says."""

    stored_bytes: int
    raw_bytes: int
    codec: int
    kind: int
    hash: bytes
    """BLAKE3 of the raw bytes."""


def encode_block_header(head: Head, store_uuid: bytes, segment: SegmentId, offset: int) -> bytes:
    """``offset`` is that of the header in its segment."""
    packed = _BLOCK.pack(BLOCK_MAGIC, head.stored_bytes, head.raw_bytes, head.codec, head.kind, head.hash)
    return packed + _CRC.pack(crc32(packed, crc32(_PLACE.pack(store_uuid, segment, offset))))


def decode_block_header(data: bytes, store_uuid: bytes, segment: SegmentId, offset: int) -> Head:
    """Raises:
    Corrupt: not the header of a block at this place.
    """
    packed = data[:-4]
    if len(data) != BLOCK_HEADER_BYTES or data[-4:] != _CRC.pack(
        crc32(packed, crc32(_PLACE.pack(store_uuid, segment, offset)))
    ):
        raise Corrupt(f"segment {segment}, offset {offset}: the block's header is damaged", hint="run: snap fsck")
    magic, stored_bytes, raw_bytes, codec, kind, digest = _BLOCK.unpack(packed)
    if magic != BLOCK_MAGIC or kind not in KINDS or max(stored_bytes, raw_bytes) > BLOCK_BYTES_MAX:
        raise Corrupt(f"segment {segment}, offset {offset}: no block begins here", hint="run: snap fsck")
    return Head(stored_bytes, raw_bytes, codec, kind, digest)


def record_bytes(stored_bytes: int) -> int:
    """Space a block record takes, padding included."""
    return -(-(BLOCK_HEADER_BYTES + stored_bytes) // ALIGN_BYTES) * ALIGN_BYTES
