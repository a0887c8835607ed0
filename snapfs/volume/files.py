"""Files: all that names and attributes are, and the bytes."""

from __future__ import annotations

import stat
from collections.abc import Awaitable, Callable, Iterable

import msgspec

from snapfs.errors import Corrupt, Invalid, IsADirectory, TooLarge
from snapfs.extents import HOLE, Extent, plan_read
from snapfs.format import keys
from snapfs.format.records import Inode
from snapfs.store.gather import Buffers, Wanted, gather
from snapfs.store.occupancy import Occupancy
from snapfs.types import FILE_BYTES_MAX, BlockId, Ino
from snapfs.versions.epochs import View
from snapfs.volume.core import Core, now_ns
from snapfs.volume.names import Names
from snapfs.volume.storing import INLINE_BYTES
from snapfs.volume.threads import in_thread
from snapfs.volume.whereabouts import of_inode
from snapfs.volume.writeback import Writeback


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
    chosen, rest = list(wanted.values()), None
    if raw_bytes <= INLINE_BYTES:
        rest = gather(core.disk, chosen, buffer, wait=False)
    if rest is None:
        with blocks.pinned():
            rest = await in_thread(lambda: gather(core.disk, chosen, buffer))
    for block, data in rest or ():
        blocks.remember(block, data)


def _check_within(block: BlockId, end: int, raw_bytes: int) -> None:
    if end > raw_bytes:
        raise Corrupt(f"block {block} is shorter than the file's extent", hint="run: snap fsck")


def _check_regular(inode: Inode) -> None:
    if stat.S_ISDIR(inode.mode):
        raise IsADirectory(f"inode {inode.ino} is a directory")
    if not stat.S_ISREG(inode.mode):
        raise Invalid(f"inode {inode.ino} has no bytes")
