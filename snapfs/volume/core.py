"""What all of the volume layer stands on: the open store, its keyspace, inodes and their extents.

Invariants:
  * Everything here is synchronous and runs on the trio thread: between two awaits of a caller it is atomic.
  * An operation checks everything that can fail before its first put: there is no rolling back.
  * Extents of an inode belong to its ``fork``; a record that no view can reach any more is dropped at once if
    there are few of its kind, else named in table ``reap``.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from snapfs.errors import Corrupt, NoSpace, NotFound
from snapfs.extents import Extent, Plan
from snapfs.format import keys, records
from snapfs.format.records import Inode
from snapfs.store.blocks import Blocks
from snapfs.store.disk import Disk
from snapfs.store.index import Index, items
from snapfs.types import BLOCK_BYTES_MAX, INO_BITS, PAGE_BYTES, Epoch, Ino
from snapfs.versions.epochs import Epochs, View
from snapfs.versions.keyspace import Keyspace, Snapshotted
from snapfs.volume.events import EventLog
from snapfs.volume.quota import Usages

RESERVE_BYTES: Final = 8 * 1024 * 1024
"""Host space that admission leaves free, beside what waits to be written: for commits and for deletions."""

BLOCK_BYTES_TYPICAL: Final = 64 * 1024
PAGES_PER_BLOCK: Final = 3
"""Pages of the index that a new block dirties (entry, dedup, extent): dirty data takes more than its bytes."""

SPACE_CHECK_NS: Final = 100_000_000
"""How long a reading of the host's free space is good for."""

REAP_NOW_MAX: Final = 256
"""Records dropped within the operation that killed them; more are left to the background."""

ALL_FORKS: Final = 0xFFFFFFFF
"""In table ``reap``: everything of the inode."""


_CLOCK_REALTIME_COARSE: Final = 5
"""Of linux/time.h; Python does not name it."""


def now_ns() -> int:
    """The clock as of the kernel's last tick, which also stamps what the kernel caches: a finer one would let a file's
    ctime go back when a write that the kernel stamped follows a change that we did."""
    return time.clock_gettime_ns(_CLOCK_REALTIME_COARSE)


class Core:
    def __init__(self, path: Path, index: Index, blocks: Blocks, disk: Disk, seed: int) -> None:
        self.path = path
        self.index = index
        self.blocks = blocks
        self.disk = disk
        self.seed = seed
        self.epochs = Epochs(index)
        self.tree = Keyspace(index)
        self.events = EventLog(index)
        self.usages = Usages()
        self.dirty_bytes = 0
        """File data in memory, not yet in a segment."""
        self.dirty_runs = 0
        """Pieces it is in, about: each becomes one block or more."""
        self._next_ino = int.from_bytes(index.get("meta", b"next_ino") or b"\1", "little")
        self._ino_dirty = False
        self.short_of_space = False
        """Work was refused for want of space: what was deleted should be given back now."""
        self._space_at_ns = 0
        self._free_bytes = 0
        index.before_commit.append(self._before_commit)

    def _before_commit(self) -> None:
        if self._ino_dirty:
            self.index.put("meta", b"next_ino", self._next_ino.to_bytes(8, "little"))
            self._ino_dirty = False

    # -- space

    def admit(self, size: int = 0) -> None:
        """Refuse work that the disk may not be able to hold, while it still can hold what is under way.

        Raises:
            NoSpace: too little is free.
        """
        now = time.monotonic_ns()
        if now - self._space_at_ns > SPACE_CHECK_NS:
            self._free_bytes = self.disk.free_bytes(self.path)[0]
            self._space_at_ns = now
        if self._free_bytes < self.pending_bytes() + size:
            self.short_of_space = True
            self._space_at_ns = 0
            error = NoSpace(f"{self.path}: the store's disk is full", hint="free space there, or delete snapshots")
            self.events.warn(error.message)
            raise error

    def pending_bytes(self) -> int:
        """Space that is spoken for: dirty data, the next commit's pages, the reserve."""
        blocks = self.dirty_runs + self.dirty_bytes // BLOCK_BYTES_TYPICAL
        return RESERVE_BYTES + self.dirty_bytes + (blocks * PAGES_PER_BLOCK + self.index.puts) * PAGE_BYTES

    def forget_free_space(self) -> None:
        """Something was given back: look again."""
        self._space_at_ns = 0

    # -- inodes

    def new_ino(self) -> Ino:
        if self._next_ino >= 1 << INO_BITS:
            raise NoSpace("the store has no inode numbers left", hint="start a new store")
        ino = Ino(self._next_ino)
        self._next_ino += 1
        self._ino_dirty = True
        return ino

    @property
    def inodes_free(self) -> int:
        return (1 << INO_BITS) - self._next_ino

    def inode(self, view: View, ino: Ino, source: Snapshotted | None = None) -> Inode:
        """Raises:
        NotFound: the view has no such inode.
        """
        payload = (source or self.tree).get(view, keys.inode(ino))
        if payload is None:
            raise NotFound(f"inode {ino} does not exist")
        return records.decode_inode(ino, payload)

    def put_inode(self, view: View, inode: Inode) -> None:
        self.tree.put(view, keys.inode(inode.ino), records.encode_inode(inode))

    # -- extents

    def extents(
        self, view: View, inode: Inode, start: int, end: int, source: Snapshotted | None = None
    ) -> list[tuple[Extent, Epoch]]:
        """Extents that overlap [start, end), each with the epoch of its record, by offset."""
        prefix = keys.extents(inode.ino, inode.fork)
        first = keys.u64(max(0, start - BLOCK_BYTES_MAX + 1))
        found = []
        for subject, epoch, payload in (source or self.tree).scan(view, prefix, first, keys.u64(end)):
            extent = Extent(keys.split_extent(subject)[1], *records.decode_extent(payload))
            if extent.end > start:
                found.append((extent, epoch))
        return found

    def apply(self, view: View, inode: Inode, old: list[tuple[Extent, Epoch]], plan: Plan) -> None:
        """Carry out a plan on a head's file.  The caller stores the inode, whose allocated bytes change by
        ``plan.covered_bytes``."""
        own = view.epoch
        deltas: Counter[int] = Counter()
        replaced = {extent.offset: extent.block for extent, epoch in old if epoch == own}
        for offset in plan.deletes:
            if offset in replaced:
                deltas[replaced[offset]] -= 1
            self.tree.delete(view, keys.extent(inode.ino, inode.fork, offset))
        for extent in plan.puts:
            if extent.offset in replaced:
                deltas[replaced[extent.offset]] -= 1
            deltas[extent.block] += 1
            self.tree.put(
                view,
                keys.extent(inode.ino, inode.fork, extent.offset),
                records.encode_extent(extent.length, extent.block, extent.block_offset),
            )
        for block, delta in deltas.items():
            if delta:
                self.blocks.adjust(block, delta)  # type: ignore[arg-type]
        self.usages.grow(view, plan.covered_bytes)

    # -- records that no view can reach

    def drop_version(self, epoch: Epoch, subject: bytes) -> None:
        """Remove one version, with the reference it may hold."""
        if keys.split(subject)[1] == keys.EXTENT:
            payload = self.tree.at(epoch, subject)
            if payload:
                self.blocks.adjust(records.decode_extent(payload)[1], -1)
        self.tree.drop_at(epoch, subject)

    def bury(self, view: View, inode: Inode) -> None:
        """The inode is gone from the head: a tombstone if an older version exists, and all else that the head's
        own epoch holds of it dropped."""
        self.tree.delete(view, keys.inode(inode.ino))
        self.reap(view.epoch, inode.ino, ALL_FORKS)
        self.usages.grow(view, -inode.allocated_bytes)

    def next_fork(self, view: View, inode: Inode) -> Inode:
        """The inode without its data, in O(1).  The caller stores it."""
        self.reap(view.epoch, inode.ino, inode.fork)
        self.usages.grow(view, -inode.allocated_bytes)
        return msgspec.structs.replace(inode, fork=inode.fork + 1, size=0, allocated_bytes=0)

    def reap(self, epoch: Epoch, ino: Ino, fork: int) -> None:
        """Drop the epoch's records of a dead inode or fork: now if few, later if many."""
        if not self.reap_some(epoch, ino, fork, REAP_NOW_MAX):
            self.index.put("reap", keys.extents(ino, fork) + keys.u64(epoch), records.PRESENT)

    def reap_some(self, epoch: Epoch, ino: Ino, fork: int, limit: int) -> bool:
        """Drop at most ``limit`` records; whether that was all."""
        prefix = keys.u64(ino) if fork == ALL_FORKS else keys.extents(ino, fork)
        subjects: list[bytes] = []
        for subject in self.tree.changes(epoch, prefix):
            if keys.split(subject)[1] != keys.INODE:
                if len(subjects) == limit:
                    break
                subjects.append(subject)
        else:
            limit += 1
        for subject in subjects:
            self.drop_version(epoch, subject)
        return len(subjects) < limit

    def to_reap(self) -> tuple[bytes, Epoch, Ino, int] | None:
        """(key, epoch, inode, fork) of one entry of table ``reap``."""
        for key, _ in items(self.index, "reap"):
            ino, kind = keys.split(key)
            if kind != keys.EXTENT:
                raise Corrupt("table reap is damaged", hint="run: snap fsck")
            fork, epoch = keys.split_extent(key)
            return key, Epoch(epoch), ino, fork
        return None

    # -- unlinked, still open

    def orphans(self, view: View) -> Iterator[Ino]:
        for key, _ in items(self.index, "orphans", keys.u64(view.volume_id)):
            yield Ino(keys.from_u64(key, 8))
