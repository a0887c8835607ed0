"""``snap optimize``: what of a head is in many small or half-used blocks is cut anew by its content.

Databases and other programs that write in place leave a file in pieces: each page written is a block, and what is left
of the old blocks around it stays alive whole.

Invariants:
  * It never costs space: bytes are stored again only if at least as many are let go by it, of blocks that nothing else
    names; what snapshots show is only exchanged for blocks that are there already.
  * Memory is bounded by a region (``REGION_BYTES_MAX``) and a listing's page.
  * It keeps no state: after a cancellation it is run again and finds less to do.
"""

from __future__ import annotations

import contextlib
import stat
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from itertools import groupby, islice
from typing import Final, NamedTuple

import trio

from snapfs.api import OptimizeReport
from snapfs.errors import Corrupt, NotFound
from snapfs.extents import Extent
from snapfs.format import keys
from snapfs.format.records import Block, Inode
from snapfs.store.blocks import Blocks, Placed
from snapfs.store.segments import _File
from snapfs.types import BlockId, Ino
from snapfs.versions.epochs import View
from snapfs.volume.files import Files
from snapfs.volume.lake import Lake
from snapfs.volume.reduction.cutting import CHUNK_BYTES_MIN, Chunk, cut
from snapfs.volume.reduction.exchange import Found, exchange
from snapfs.volume.reduction.reducer import Fresh
from snapfs.volume.restore import split_path
from snapfs.volume.volumes import Volume

REGION_BYTES_MAX: Final = 4 * 1024 * 1024
BRIDGE_BYTES_MAX: Final = 64 * 1024
"""Of what is good between two that are not."""
WINDOW_BYTES: Final = 16 * 1024 * 1024
"""Of a file whose extents are looked at between two rests."""
_LISTED_MAX: Final = 1000
"""Entries of a directory read between two rests."""
_FEWER_MIN: Final = 2
"""By so many the extents of a part must become fewer, where nothing is freed by it."""

Progress = Callable[[int, int], None]


async def optimize(
    lake: Lake, volume: Volume, paths: Sequence[str] = (), bytes_per_second: int = 0, progress: Progress | None = None
) -> OptimizeReport:
    """Cut anew what is in pieces, of the files of a volume's head at the paths (none: all).

    Args:
        bytes_per_second: that are looked at and read at most; 0: no limit.
        progress: is told (bytes looked at, bytes that the head's files hold).

    Raises:
        NotFound, Invalid: a path.
        ReadOnly, Stale: the volume takes no changes, or not any more.
        NoSpace, IOFailure.
    """
    view, files = volume.head, lake.files
    lake.core.tree.check_writable(view)
    roots: list[Ino] = []
    for path in paths or [""]:
        ino = volume.root
        for name in split_path(path):
            ino = files.lookup(view, ino, name).ino
        roots.append(ino)
    work = _Work(lake, view)
    looked, began = 0, trio.current_time()
    async for inode in _walk(files, view, roots):
        async for size in work.file(inode):
            looked += size
            if progress is not None:
                progress(looked, max(looked, lake.core.usages.of(view).used_bytes))
            if bytes_per_second:
                await trio.sleep_until(began + (looked + work.read_bytes) / bytes_per_second)
    await lake.commit()
    return work.report()


async def _walk(files: Files, view: View, roots: list[Ino]) -> AsyncIterator[Inode]:
    """Regular files below the roots, each once."""
    seen: set[Ino] = set()
    stack = roots[::-1]
    while stack:
        await trio.lowlevel.checkpoint()
        try:
            inode = files.getattr(view, stack.pop())
        except NotFound:
            continue  # removed meanwhile
        if stat.S_ISREG(inode.mode) and inode.size and inode.ino not in seen:
            if inode.nlink > 1:
                seen.add(inode.ino)
            yield inode
        if stat.S_ISDIR(inode.mode):
            after = 0
            while page := list(islice(files.readdir(view, inode.ino, after), _LISTED_MAX)):
                after = page[-1][0]
                stack += [ino for _, _, ino, kind in page if kind in (stat.S_IFREG, stat.S_IFDIR)]
                await trio.lowlevel.checkpoint()


class _Part(NamedTuple):
    found: Found
    chunks: list[Chunk]
    """What comes in the place of it."""
    gain_bytes: int
    """Raw bytes that it frees."""


def _inside(region: Found, chunks: list[Chunk]) -> Found:
    """The extents under the chunks; none if they do not begin and end where the chunks do."""
    start, end = chunks[0].offset, chunks[-1].end
    found = [each for each in region if each[0].offset < end and each[0].end > start]
    return found if found[0][0].offset == start and found[-1][0].end == end else []


class _Work:
    def __init__(self, lake: Lake, view: View) -> None:
        self._lake = lake
        self._core = lake.core
        self._view = view
        self._files = 0
        self._rewritten = 0
        self._written_bytes = 0
        self._before = 0
        self._after = 0
        self.read_bytes = 0

    def report(self) -> OptimizeReport:
        return OptimizeReport(
            files=self._files, rewritten=self._rewritten, read_bytes=self.read_bytes,
            written_bytes=self._written_bytes, extents_before=self._before, extents_after=self._after,
        )  # fmt: skip

    async def file(self, inode: Inode) -> AsyncIterator[int]:
        """Do one file; yields how many bytes of it were looked at."""
        core, view = self._core, self._view
        await self._lake.writeback.flush(view=view, ino=inode.ino)
        self._files += 1
        at, rewritten = self._next(inode, 0), False
        while at < inode.size:
            found = [each for each in core.extents(view, inode, at, at + WINDOW_BYTES) if each[0].offset >= at]
            self._before += len(found)
            self._after += len(found)
            for region in list(self._regions(found)):
                with contextlib.suppress(NotFound, Corrupt):  # gone meanwhile, or fsck's work
                    rewritten = await self._recut(inode, region) or rewritten
            yield sum([extent.length for extent, _ in found])
            await trio.lowlevel.checkpoint()
            at = self._next(inode, at + WINDOW_BYTES)
        self._rewritten += rewritten

    def _next(self, inode: Inode, at: int) -> int:
        """Where data begins from a place on: holes may be far larger than all data; none: the file's end."""
        prefix = keys.extents(inode.ino, inode.fork)
        found = next(iter(self._core.tree.scan(self._view, prefix, keys.u64(at))), None)
        return inode.size if found is None else keys.split_extent(found[0])[1]

    def _regions(self, found: Found) -> Iterator[Found]:
        """Neighbours that are small or only part of their blocks, with what is between them."""
        region: Found = []
        bridge: Found = []
        for extent, epoch in found:
            entry = self._core.blocks.entry(self._core.index, extent.block)
            poor = not entry.lost and (extent.length < CHUNK_BYTES_MIN or extent.length < entry.raw_bytes)
            if region:
                start, last = region[0][0].offset, (bridge or region)[-1][0].end
                far = not poor and extent.end - region[-1][0].end > BRIDGE_BYTES_MAX
                if far or entry.lost or last != extent.offset or extent.end - start > REGION_BYTES_MAX:
                    yield region
                    region, bridge = [], []
            if poor:
                region += [*bridge, (extent, epoch)]
                bridge = []
            elif region:
                bridge.append((extent, epoch))
        if region:
            yield region

    async def _recut(self, inode: Inode, region: Found) -> bool:
        """Cut a region anew, if that frees something, or makes its extents fewer, and costs nothing."""
        core = self._core
        if len(region) == 1 and (self._whole(region[0][0]) or not self._freed_bytes(region)):
            return False
        with core.blocks.pinned():
            async with self._lake.writeback.appending():
                places = {extent.block: core.blocks.locate(extent.block) for extent, _ in region}
                chunks = await trio.to_thread.run_sync(_read_and_cut, core.blocks, region, places)
                self.read_bytes += sum(entry.stored_bytes for _, entry in places.values())
                done = False
                for part in self._parts(region, chunks):
                    done = await self._store(inode, part.found, part.chunks) or done
                return done

    def _parts(self, region: Found, chunks: list[Chunk]) -> list[_Part]:
        """What to exchange for what: the whole region, or else what of it is known and what is not, each by itself."""
        known = self._core.blocks.known
        runs = [list(run) for _, run in groupby(chunks, key=lambda chunk: bool(known(chunk.hash)))]
        parts = [part for run in runs if (part := self._part(_inside(region, run), run))]
        whole = self._part(region, chunks)
        if whole and whole.gain_bytes >= sum(part.gain_bytes for part in parts):
            return [whole]
        return parts

    def _part(self, found: Found, chunks: list[Chunk]) -> _Part | None:
        """None if it is not worth it."""
        known = [self._core.blocks.known(chunk.hash) for chunk in chunks]
        fresh = sum(len(chunk.data) for chunk, block in zip(chunks, known, strict=True) if not block)
        gain = self._freed_bytes(found, set(known)) - fresh
        fewer = len(found) - len(chunks)
        if not found or gain < 0 or (not gain and fewer < _FEWER_MIN):
            return None
        return _Part(found, chunks, gain)

    def _freed_bytes(self, region: Found, kept: Collection[BlockId] = ()) -> int:
        """Raw bytes of blocks that nothing but the head's own records in the region name, without those kept."""
        uses = Counter(
            extent.block for extent, epoch in region if epoch == self._view.epoch and extent.block not in kept
        )
        entries = {block: self._core.blocks.entry(self._core.index, block) for block in uses}
        return sum(entry.raw_bytes for block, entry in entries.items() if entry.refs == uses[block])

    def _whole(self, extent: Extent) -> bool:
        return extent.length == self._core.blocks.entry(self._core.index, extent.block).raw_bytes

    async def _store(self, inode: Inode, part: Found, chunks: list[Chunk]) -> bool:
        core, reducer = self._core, self._lake.writeback.reducer
        epoch = self._view.epoch
        wanted: dict[bytes, Fresh] = {}
        for chunk in chunks:
            if not core.blocks.known(chunk.hash):
                wanted[chunk.hash] = Fresh(chunk.hash, chunk.data, *reducer.manner(self._view, inode.ino))
        size = sum(len(fresh.data) for fresh in wanted.values())
        core.admit(size)
        with core.blocks.placing():
            placed: list[Placed] = []
            if wanted:
                placed = await trio.to_thread.run_sync(reducer.pack, list(wanted.values()))
            if self._view.epoch != epoch:  # a snapshot shows it now
                return False
            by_hash = {place.hash: place for place in placed}
            if not exchange(core, reducer, self._view, inode.ino, inode.fork, part, chunks, by_hash):
                return False
        self._written_bytes += size
        self._after += len(chunks) - len(part)
        return True


def _read_and_cut(blocks: Blocks, region: Found, places: dict[BlockId, tuple[_File, Block]]) -> list[Chunk]:
    """The region's bytes as chunks.  Worker thread.

    Raises:
        Corrupt, IOFailure: they cannot be read.
    """
    data = bytearray()
    last: tuple[BlockId, bytes] = (BlockId(0), b"")
    for extent, _ in region:
        if last[0] != extent.block:
            last = extent.block, blocks.fetch(extent.block, *places[extent.block]) or b""
        data += _part(last[1], extent)
    return cut(region[0][0].offset, bytes(data), final=True)[0]


def _part(block: bytes, extent: Extent) -> bytes:
    return block[extent.block_offset : extent.block_offset + extent.length]
