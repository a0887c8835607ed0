"""Bytes of a snapshot's files.

Invariants:
  * Only bytes of blocks whose hash was checked are returned.
  * Blocks are read after the look that told their places.  One that is not there (its segment was compacted, or the
    index replaced) is looked up again; it is damaged only if it is missing twice where two new looks said that it is.
  * Threads read and verify at the same time; what they share is changed under the place's lock.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections import OrderedDict
from typing import Final

from snapfs.errors import Corrupt, Invalid, IsADirectory, NotFound, SnapfsError
from snapfs.extents import Extent
from snapfs.format import segments as fmt
from snapfs.format.records import Block, Inode
from snapfs.reader.tree import WINDOW_BYTES, Tree
from snapfs.store.blocks import unpack
from snapfs.store.disk import from_os
from snapfs.store.reading import Reader
from snapfs.types import SegmentId

CACHE_BYTES_MAX: Final = 32 * 1024 * 1024
"""Raw blocks kept of which only parts were read."""

SMALL_BYTES_MAX: Final = 1024 * 1024
"""Largest part of a file that is looked up together with others."""

TRIES: Final = 16
"""Looks for a block that moves: each needs a whole compaction of its segment in between."""

Pieces = list[tuple[Extent, Block | None]]
Part = tuple[bytes, int, int]
"""(path, offset, size in bytes)"""
_Where = tuple[SegmentId, int]


class _Missing(Exception):
    """A block is not where the index said."""

    def __init__(self, where: _Where, error: Corrupt) -> None:
        super().__init__(error.message)
        self.where = where
        self.error = error


class Contents:
    def __init__(self, tree: Tree, cache_bytes_max: int) -> None:
        self._tree = tree
        self._cache: OrderedDict[bytes, bytes] = OrderedDict()
        """Hash -> raw bytes."""
        self._cache_bytes = 0
        self._cache_bytes_max = cache_bytes_max

    def regular(self, path: bytes) -> Inode:
        """Of a regular file.

        Raises:
            NotFound, NotADirectory, IsADirectory, Invalid, Stale.
        """
        tree = self._tree
        return tree.look(lambda reader: _checked(tree.inode(reader, path)))

    def read(self, path: bytes, offset: int, size: int) -> bytes:
        """At most ``size`` bytes of a file.

        Raises:
            NotFound, NotADirectory, IsADirectory, Invalid.
            Corrupt: bytes are damaged.  Stale: the snapshot was deleted.
        """
        tree = self._tree

        def act(reader: Reader) -> tuple[Inode, Pieces]:
            inode = _checked(tree.inode(reader, path))
            return inode, self._pieces(reader, inode, offset, size)

        inode, pieces = tree.look(act)
        return self._joined(inode, offset, size, pieces)

    def read_inode(self, inode: Inode, offset: int, size: int) -> bytes:
        """As ``read``, of a file that was found."""
        pieces = self._tree.look(lambda reader: self._pieces(reader, inode, offset, size))
        return self._joined(inode, offset, size, pieces)

    def read_parts(self, parts: list[Part]) -> list[bytes]:
        """As ``read`` of each, found in one look."""
        tree = self._tree

        def act(reader: Reader) -> list[tuple[Inode, Pieces]]:
            found = []
            for path, offset, size in parts:
                inode = _checked(tree.inode(reader, path))
                small = min(size, inode.size - offset) <= SMALL_BYTES_MAX
                found.append((inode, self._pieces(reader, inode, offset, size) if small else []))
            return found

        several = tree.look(act)
        self._announce([piece for _, pieces in several for piece in pieces])
        result = []
        for (_, offset, size), (inode, pieces) in zip(parts, several, strict=True):
            if pieces or offset >= inode.size or not size:
                result.append(self._joined(inode, offset, size, pieces))
            else:
                result.append(self.read_inode(inode, offset, size))
        return result

    def _pieces(self, reader: Reader, inode: Inode, offset: int, size: int) -> Pieces:
        """Of the first window of the range."""
        end = min(offset + size, inode.size, (offset // WINDOW_BYTES + 1) * WINDOW_BYTES)
        return self._tree.pieces(reader, inode, offset, end - offset) if end > offset else []

    def _joined(self, inode: Inode, offset: int, size: int, pieces: Pieces) -> bytes:
        end = min(offset + size, inode.size)
        parts: list[bytes] = []
        while True:
            if len(pieces) > 1:
                self._announce(pieces)
            parts += self._fetched(inode, pieces)
            at = pieces[-1][0].end if pieces else end
            if at >= end:
                return parts[0] if len(parts) == 1 else b"".join(parts)
            start = at
            pieces = self._tree.look(lambda reader, start=start: self._pieces(reader, inode, start, end - start))  # type: ignore[misc]

    def _announce(self, pieces: Pieces) -> None:
        """These blocks are read now: the disk fetches them side by side (four times faster where nothing is cached, and
        a microsecond each where it is)."""
        with contextlib.suppress(OSError, SnapfsError):  # whoever reads them is told
            for _, block in pieces:
                if block is not None and not block.lost:
                    file = self._tree.place.file(block.segment)
                    size = fmt.BLOCK_HEADER_BYTES + block.stored_bytes
                    os.posix_fadvise(file.fd, block.offset, size, os.POSIX_FADV_WILLNEED)

    def _fetched(self, inode: Inode, pieces: Pieces) -> list[bytes]:
        """Bytes of pieces of one window."""
        try:
            return [self._piece(*piece) for piece in pieces]
        except _Missing:
            return self._again(inode, pieces)

    def _again(self, inode: Inode, pieces: Pieces) -> list[bytes]:
        """As ``_fetched``, when something was not where it should be."""
        offset, size = pieces[0][0].offset, sum(piece.length for piece, _ in pieces)
        tree = self._tree
        before: _Where | None = None

        def act(reader: Reader) -> Pieces:
            tree.forget(inode, offset, size)
            return tree.pieces(reader, inode, offset, size)

        for _ in range(TRIES):
            tree.place.doubt()
            pieces = tree.look(act)
            try:
                return [self._piece(*piece) for piece in pieces]
            except _Missing as missing:
                if missing.where == before:
                    raise missing.error from None
                before = missing.where
                tree.place.forget_file(before[0])
                last = missing.error
        raise last

    def _piece(self, piece: Extent, block: Block | None) -> bytes:
        if block is None:
            return bytes(piece.length)
        raw = self._cache.get(block.hash)
        if raw is None:
            raw = self._fetch(piece, block)
            if piece.length == len(raw):
                return raw
            self._keep(block.hash, raw)
        part = raw[piece.block_offset : piece.block_offset + piece.length]
        if len(part) != piece.length:
            raise Corrupt(f"block {piece.block} is shorter than the file's extent", hint="run: snap fsck")
        return part

    def _fetch(self, piece: Extent, block: Block) -> bytes:
        """Raw bytes of a block, verified.

        Raises:
            _Missing: it is not there.
            IOFailure: the disk refused.
        """
        where = block.segment, block.offset
        try:
            if block.lost:
                raise Corrupt(
                    f"block {piece.block} is lost", hint="restore the file from a snapshot that has it: snap fsck"
                )
            file = self._tree.place.file(block.segment)
            stored = os.pread(file.fd, block.stored_bytes, block.offset + fmt.BLOCK_HEADER_BYTES)
            return unpack(piece.block, block, stored)
        except OSError as error:
            raise from_os(error, f"segment {block.segment}") from error
        except NotFound as error:
            raise _Missing(where, Corrupt(f"block {piece.block}: {error.message}")) from None
        except Corrupt as error:
            raise _Missing(where, error) from None

    def _keep(self, digest: bytes, raw: bytes) -> None:
        with self._tree.place.lock:
            if digest not in self._cache:
                self._cache[digest] = raw
                self._cache_bytes += len(raw)
                while self._cache_bytes > self._cache_bytes_max:
                    self._cache_bytes -= len(self._cache.popitem(last=False)[1])


def _checked(inode: Inode) -> Inode:
    if stat.S_ISDIR(inode.mode):
        raise IsADirectory("is a directory")
    if not stat.S_ISREG(inode.mode):
        raise Invalid("is no regular file")
    return inode
