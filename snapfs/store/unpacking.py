"""Raw bytes from a block's record in a segment: decompressed, and checked against its hash.  In any thread.

Invariants:
  * Bytes that do not match their hash are never returned.
  * A library's working memory serves one call at a time; what failed is not used again.
"""

from __future__ import annotations

from typing import Final

import zstandard
from blake3 import blake3

from snapfs.errors import Corrupt
from snapfs.format import records
from snapfs.format.records import Block
from snapfs.types import BlockId

Bytes = bytes | bytearray | memoryview


def digest(data: Bytes) -> bytes:
    return blake3(data).digest()


def unpack(block: BlockId, entry: Block, stored: Bytes) -> bytes:
    """Raw bytes of a stored block.

    Raises:
        Corrupt: they do not match the hash.
    """
    raw: bytes | None = None
    if entry.codec == records.CODEC_RAW:
        raw = bytes(stored)
    elif entry.codec == records.CODEC_ZSTD:
        raw = _decompress(stored, entry.raw_bytes)
    if raw is None or len(raw) != entry.raw_bytes or digest(raw) != entry.hash:
        raise mismatch(block, entry)
    return raw


def mismatch(block: BlockId, entry: Block) -> Corrupt:
    return Corrupt(
        f"block {block} (segment {entry.segment}, offset {entry.offset}) does not match its hash",
        hint="run: snap fsck",
    )


def _decompress(stored: Bytes, raw_bytes: int) -> bytes | None:
    """None: it does not become so many bytes."""
    try:
        decompressor = _idle.pop()
    except IndexError:
        decompressor = zstandard.ZstdDecompressor()
    try:  # a frame says how much it becomes, and the library believes it: it could ask for all memory
        if zstandard.frame_content_size(stored) != raw_bytes:
            return None
        raw = decompressor.decompress(stored)
    except zstandard.ZstdError:
        return None
    if len(_idle) < _IDLE_MAX:
        _idle.append(decompressor)
    return raw


_IDLE_MAX: Final = 4

_idle: Final[list[zstandard.ZstdDecompressor]] = []
"""Decompressors that nobody uses now: a new one costs three times as much as a small block."""
