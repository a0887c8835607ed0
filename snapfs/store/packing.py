"""Makes records of blocks' bytes: compressed where that helps.  Thread-safe, without an index."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Final

import zstandard

from snapfs.format import records
from snapfs.format import segments as fmt

ZSTD_LEVEL: Final = 1
COMPRESS_BYTES_MIN: Final = 128
"""Below this a compressed form saves nothing once records are padded."""

Bytes = bytes | bytearray | memoryview

Packed = tuple[fmt.Head, Bytes]
"""A record: its header, its stored bytes."""


class Packer:
    def __init__(self) -> None:
        self._threads = threading.local()

    def pack(self, chunks: Iterable[tuple[bytes, Bytes]], kind: int, level: int) -> list[Packed]:
        """Records of (hash, bytes) chunks.

        Args:
            level: of zstd; 0: not compressed.
        """
        packed: list[Packed] = []
        compressor = self._compressor(level) if level else None
        for name, data in chunks:
            stored, codec = data, records.CODEC_RAW
            raw_bytes = len(data)
            if compressor is not None and raw_bytes >= COMPRESS_BYTES_MIN:
                smaller = compressor.compress(data)
                if len(smaller) < raw_bytes:
                    stored, codec = smaller, records.CODEC_ZSTD
            packed.append((fmt.Head(len(stored), raw_bytes, codec, kind, name), stored))
        return packed

    def _compressor(self, level: int) -> zstandard.ZstdCompressor:
        """One for each thread and level: they are not thread-safe."""
        known: dict[int, zstandard.ZstdCompressor] = self._threads.__dict__.setdefault("by_level", {})
        if level not in known:
            known[level] = zstandard.ZstdCompressor(level=level)
        return known[level]
