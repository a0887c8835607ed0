"""Segment files: a header, then block records, each self-describing, each at a multiple of 8.

A record is a header (magic, lengths, codec, BLAKE3 of the raw bytes, CRC-32 of the header) and the stored
bytes, so that the index's block table can be rebuilt from the segments alone.
"""

from __future__ import annotations

import struct
from typing import Final
from zlib import crc32

from snapfs.errors import Corrupt
from snapfs.types import SegmentId

SEGMENT_MAGIC: Final = b"SNAPSEG\x01"
BLOCK_MAGIC: Final = b"SBLK"
ALIGN_BYTES: Final = 8

_SEGMENT = struct.Struct("<8s16sQ28x")
_BLOCK = struct.Struct("<4sIIB3x32s")
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


def encode_block_header(stored_bytes: int, raw_bytes: int, codec: int, digest: bytes) -> bytes:
    head = _BLOCK.pack(BLOCK_MAGIC, stored_bytes, raw_bytes, codec, digest)
    return head + _CRC.pack(crc32(head))


def decode_block_header(data: bytes) -> tuple[int, int, int, bytes]:
    """(stored bytes, raw bytes, codec, hash).

    Raises:
        Corrupt: not a block header.
    """
    if len(data) != BLOCK_HEADER_BYTES or data[-4:] != _CRC.pack(crc32(data[:-4])):
        raise Corrupt("block header is damaged")
    magic, stored, raw, codec, digest = _BLOCK.unpack(data[:-4])
    if magic != BLOCK_MAGIC:
        raise Corrupt("no block header here")
    return stored, raw, codec, digest


def record_bytes(stored_bytes: int) -> int:
    """Space a block record takes, padding included."""
    return -(-(BLOCK_HEADER_BYTES + stored_bytes) // ALIGN_BYTES) * ALIGN_BYTES
