"""Files: all that names and attributes are, and the bytes."""

from __future__ import annotations

import stat
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import msgspec
import trio

from snapfs.errors import Corrupt, Invalid, IsADirectory, TooLarge
from snapfs.extents import HOLE, Extent, plan_read
from snapfs.format import keys
from snapfs.format.records import CODEC_RAW, Inode
from snapfs.store.disk import Disk
from snapfs.store.gather import (
    DIRECT_BYTES_MIN,
    Buffers,
    Rest,
    Run,
    Wanted,
    gather,
    land,
    reads_of,
    runs_of,
    span_of,
    take_cached,
)
from snapfs.store.occupancy import Occupancy
from snapfs.types import FILE_BYTES_MAX, BlockId, Ino
from snapfs.versions.epochs import View
from snapfs.volume.core import Core, now_ns
from snapfs.volume.names import Names
from snapfs.volume.storing import INLINE_BYTES
from snapfs.volume.threads import in_thread
from snapfs.volume.whereabouts import of_inode
from snapfs.volume.writeback import Writeback

TURN_SECONDS: Final = 0.0005
"""Spent on pieces of one answer before others have their turn."""

SCATTERED_MIN: Final = 4
"""So many reads at places of their own go together past the page cache, rather than one after the other through it."""


class Space(msgspec.Struct, frozen=True):
    """What statfs(2) tells, in bytes and inodes."""

    total_bytes: int
    """What the store's files occupy on the host, and what is free for them there."""
    free_bytes: int
    available_bytes: int
    """Less what is spoken for: dirty data, the next commit, the reserve."""
    inodes: int
    inodes_free: int


class Files(Names):
    def __init__(self, core: Core, writeback: Writeback, commit: Callable[[], Awaitable[None]]) -> None:
        super().__init__(core, writeback)
        self._commit = commit
        self.reads = 0
        """How many began, also of who has no mount: background work gives way to them."""
        self._buffers = Buffers()
        self.occupancy = Occupancy(core.blocks.segments, core.index)

    async def read(self, view: View, ino: Ino, offset: int, size: int) -> bytes | bytearray:
        """At most ``size`` bytes: short at the end of the file, zeros in holes.

        Raises:
            NotFound, IsADirectory, Invalid.
            Corrupt: a block does not hold what was written; the message names the file and the block.
        """
        self.reads += 1
        core = self._core
        inode = core.inode(view, ino)
        _check_regular(inode)
        dirty = self._writeback.dirty(view, ino)
        length = min(size, max(inode.size, dirty.end if dirty else 0) - offset)
        if length <= 0:
            return b""
        pieces = plan_read([extent for extent, _ in core.extents(view, inode, offset, offset + length)], offset, length)
        # What is dirty is laid over now: when the blocks have come, a flush may have moved it into extents.
        newer = dirty.pieces(offset, offset + length) if dirty else []
        buffer = self._buffers.take(length)
        try:
            await fill(core, pieces, offset, buffer)
        except Corrupt as error:
            where = of_inode(core, view, ino)
            core.events.warn(f"a read met damaged data: {where}: {error.message}")
            raise Corrupt(f"{where}, bytes from {offset}: {error.message}", hint=error.hint) from error
        for start, data in newer:
            buffer[start - offset : start - offset + len(data)] = data
        return buffer

    async def write(
        self,
        view: View,
        ino: Ino,
        offset: int,
        data: bytes,
        *,
        touch: bool = True,
        check: Callable[[], None] | None = None,
    ) -> int:
        """Take bytes into memory; ``fsync`` or a commit makes them durable.

        Args:
            touch: false leaves the times alone (the kernel's writeback cache sends them itself).
            check: called once nothing is waited for any more; may raise (a checkout came in between).

        Raises:
            ReadOnly, NotFound, TooLarge, NoSpace, QuotaExceeded (nothing of the write happened).
        """
        self._tree.check_writable(view)
        if offset < 0 or offset + len(data) > FILE_BYTES_MAX:
            raise TooLarge(f"a file has at most {FILE_BYTES_MAX} bytes")
        growth = await self._writeback.room(view, ino, offset, len(data))
        self._tree.check_writable(view)
        if check is not None:
            check()
        inode = self._core.inode(view, ino)
        _check_regular(inode)
        self._core.admit(len(data))
        self._writeback.write(view, ino, offset, data, growth)
        if touch:
            now = now_ns()
            self._core.put_inode(view, msgspec.structs.replace(inode, mtime_ns=now, ctime_ns=now))
        return len(data)

    async def fsync(self, view: View, ino: Ino) -> None:
        """The file's data and all metadata are durable."""
        if view.writable:
            await self._writeback.flush(view=view, ino=ino)
            await self._commit()

    def is_clean(self, view: View, ino: Ino) -> bool:
        """Whether no data of the file waits to be flushed."""
        return self._writeback.dirty(view, ino) is None

    def forget_head(self, view: View) -> None:
        """The head is about to be replaced or removed: drop what only it holds in memory and in tables."""
        self._writeback.discard_volume(view)
        for ino in list(self._core.orphans(view)):
            self._core.index.delete("orphans", keys.u64(view.volume_id) + keys.u64(ino))

    def space(self) -> Space:
        free = self._core.disk.free_bytes(self._core.path)[0]
        available = max(0, free - self._core.pending_bytes())
        inodes = self._core.inodes_free
        return Space(self.occupancy.recent_bytes() + free, free, available, inodes, inodes)


async def fill(core: Core, pieces: Iterable[Extent], offset: int, buffer: bytearray) -> None:
    """Bytes of pieces of a file into a buffer that begins at ``offset`` of it: from the block cache, the page cache or,
    in a worker thread, from the disk.

    Raises:
        Corrupt: a block does not hold what was written, or less than its extent says.
        IOFailure: the disk refused.
    """
    blocks = core.blocks
    wanted: dict[BlockId, Wanted] = {}
    raw_bytes = 0
    for place, length, block, start in pieces:
        at = place - offset
        if block == HOLE:
            buffer[at : at + length] = bytes(length)
            continue
        data = blocks.cached(block)
        if data is not None:
            _check_within(block, start + length, len(data))
            buffer[at : at + length] = data[start : start + length]
            continue
        one = wanted.get(block)
        if one is None:
            file, entry = blocks.locate(block)
            one = wanted[block] = Wanted(block, file, entry, [])
            raw_bytes += entry.raw_bytes
        _check_within(block, start + length, one.entry.raw_bytes)
        one.pieces.append((start, length, at))
    if not wanted:
        return
    for block, data in await _gather(core, list(wanted.values()), raw_bytes, buffer):
        blocks.remember(block, data)


async def _gather(core: Core, wanted: list[Wanted], raw_bytes: int, buffer: bytearray) -> Rest:
    """As ``gather``: on this thread what the page cache has, and by a flight what is much or lies scattered; the rest
    in a worker thread."""
    # Decompressing is for a thread; what is stored as it is takes less time than the way there and back.
    here = raw_bytes <= INLINE_BYTES or all(one.entry.codec == CODEC_RAW for one in wanted)
    runs = runs_of(wanted)
    rest: Rest = []
    if here and len(runs) == 1 and take_cached(core.disk, wanted, buffer, rest):  # as mostly
        return rest
    with core.blocks.pinned():
        if here:
            if len(runs) > 1:
                runs = await _take_cached(core.disk, runs, buffer, rest)
            if len(runs) >= SCATTERED_MIN or sum(span_of(run)[1] for run in runs) >= DIRECT_BYTES_MIN:
                wanted = await _fly(core.disk, runs, buffer, rest)
            else:
                wanted = [one for run in runs for one in run]
        if wanted:
            rest += await in_thread(lambda: gather(core.disk, wanted, buffer))
    return rest


async def _take_cached(disk: Disk, runs: list[Run], buffer: bytearray, rest: Rest) -> list[Run]:
    """Returns those that the page cache had not.  Others have their turn meanwhile."""
    missing: list[Run] = []
    until = time.perf_counter() + TURN_SECONDS
    for run in runs:
        if not take_cached(disk, run, buffer, rest, look=bool(missing)):
            missing.append(run)
        if time.perf_counter() > until:
            await trio.lowlevel.cancel_shielded_checkpoint()
            until = time.perf_counter() + TURN_SECONDS
    return missing


async def _fly(disk: Disk, runs: list[Run], buffer: bytearray, rest: Rest) -> list[Wanted]:
    """Read past the page cache.  Returns the blocks that have to be read otherwise."""
    clean: list[Run] = []
    missing: list[Wanted] = []
    for run in runs:
        if disk.is_clean(run[0].file.fd, *span_of(run)):
            clean.append(run)
        else:
            missing += run
    for batch, reads in reads_of(clean):
        flight = disk.submit_direct("segment.read", reads)
        if flight is None:
            missing += [one for run in batch for one in run]
            continue
        try:
            with trio.CancelScope(shield=True):
                while not flight.done():
                    await trio.lowlevel.wait_readable(flight.fd)
            missing += land(flight, batch, reads, buffer, rest)
        finally:
            flight.finish()
    return missing


def _check_within(block: BlockId, end: int, raw_bytes: int) -> None:
    if end > raw_bytes:
        raise Corrupt(f"block {block} is shorter than the file's extent", hint="run: snap fsck")


def _check_regular(inode: Inode) -> None:
    if stat.S_ISDIR(inode.mode):
        raise IsADirectory(f"inode {inode.ino} is a directory")
    if not stat.S_ISREG(inode.mode):
        raise Invalid(f"inode {inode.ino} has no bytes")
