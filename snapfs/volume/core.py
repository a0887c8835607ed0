"""What all of the volume layer stands on: the open store, its keyspace, inodes and their extents.

Invariants:
  * Everything here is synchronous and runs on the trio thread: between two awaits of a caller it is atomic.
  * An operation checks everything that can fail before its first put: there is no rolling back.
  * Extents of an inode belong to its ``fork``; records that no view can reach any more are named in table
    ``reap``, by their inode, and dropped in the background; at once if much waits there.
  * Whatever adds, hides or drops the record of an extent tells the accounts so in the same step, before it changes the
    tree; but where a step hides many at once, they are named in table ``unaccounted``.  Own records of an inode that
    is named there are not reaped before: they say what was accounted already.
"""

from __future__ import annotations

import contextlib
import pathlib
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from snapfs.errors import Corrupt, NoSpace, NotFound
from snapfs.extents import Extent, Plan
from snapfs.format import keys, records
from snapfs.format.records import Inode
from snapfs.store import ordering
from snapfs.store.blocks import Blocks
from snapfs.store.disk import Disk
from snapfs.store.index import Index, items
from snapfs.types import BLOCK_BYTES_MAX, INO_BITS, PAGE_BYTES, BlockId, Epoch, Ino
from snapfs.versions.epochs import Epochs, View
from snapfs.versions.keyspace import Keyspace, Snapshotted, Version
from snapfs.volume.accounts import unaccounted
from snapfs.volume.accounts.book import Book, Home
from snapfs.volume.accounts.unaccounted import Unaccounted
from snapfs.volume.events import EventLog
from snapfs.volume.hiding import Hiding
from snapfs.volume.quota import Usages

RESERVE_BYTES: Final = 8 * 1024 * 1024
"""Host space that admission leaves free, beside what waits to be written: for commits and for deletions."""

BLOCK_BYTES_TYPICAL: Final = 64 * 1024
PAGES_PER_BLOCK: Final = 5
"""Pages of the index that a new block dirties (entry, dedup, extent, its account, the entry of a block that it hides):
dirty data takes more than its bytes.  New entries lie side by side, as do their places and lines in ``changes``."""

SPACE_CHECK_NS: Final = 100_000_000
"""How long a reading of the host's free space is good for."""

REAP_NOW_MAX: Final = 256
"""Records accounted as hidden, or dropped, within the operation that killed them; more are left to the background."""

REAP_WAITING_MAX: Final = 20_000
"""Dead inodes and forks that may wait for the background: who removes faster than that gives space back does it
himself, so that what waits stays bounded."""

ALL_FORKS: Final = 0xFFFFFFFF
"""In table ``reap``: everything of the inode."""


_CLOCK_REALTIME_COARSE: Final = 5
"""Of linux/time.h; Python does not name it."""


def now_ns() -> int:
    """The clock as of the kernel's last tick, which also stamps what the kernel caches: a finer one would let a file's
    ctime go back when a write that the kernel stamped follows a change that we did."""
    return time.clock_gettime_ns(_CLOCK_REALTIME_COARSE)


class _Change:
    """What a step changes for a block: records that the head's epoch gets, less those that go; older ones it hides."""

    __slots__ = ("born", "hidden", "home")

    def __init__(self) -> None:
        self.born = 0
        self.hidden = 0
        self.home: Home | None = None


_NOTHING: Final = contextlib.nullcontext()


class Core:
    def __init__(self, path: pathlib.Path, index: Index, blocks: Blocks, disk: Disk, seed: int) -> None:
        self.path = path
        self.index = index
        self.blocks = blocks
        self.disk = disk
        self.seed = seed
        self.epochs = Epochs(index)
        self.tree = Keyspace(index)
        self.hiding = Hiding(self.tree, self.epochs)
        self.events = EventLog(index)
        self.usages = Usages()
        self.accounts = Book(index, blocks, self.epochs)
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
            hint = "free space there, or delete for good: snap trash empty, snap rm --purge"
            error = NoSpace(f"{self.path}: the store's disk is full", hint=hint)
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
        subject = keys.inode(ino)
        if source is not None:
            payload = source.get(view, subject)
            if payload is None:
                raise NotFound(f"inode {ino} does not exist")
            return records.decode_inode(ino, payload)
        tree, epoch = self.tree, view.path.last
        seen = tree.seen.get(subject)
        if seen is not None and seen[0] == epoch:
            return seen[2]
        found = tree.find(view, subject)
        if found is None or not found[1]:
            raise NotFound(f"inode {ino} does not exist")
        inode = records.decode_inode(ino, found[1])
        tree.remember(subject, (epoch, found[0], inode))
        return inode

    def put_inode(self, view: View, inode: Inode) -> None:
        tree, epoch, subject = self.tree, view.path.last, keys.inode(inode.ino)
        seen = tree.seen.get(subject)
        if seen is not None and seen[0] == epoch == seen[1]:
            tree.replace(view, subject, records.encode_inode(inode))
        else:
            tree.put(view, subject, records.encode_inode(inode))
        tree.remember(subject, (epoch, epoch, inode))

    # -- extents

    def extents(
        self, view: View, inode: Inode, start: int, end: int, source: Snapshotted | None = None
    ) -> list[tuple[Extent, Epoch]]:
        """Extents that overlap [start, end), each with the epoch of its record, by offset."""
        tree = source or self.tree
        prefix = keys.extents(inode.ino, inode.fork)
        at = keys.u64(start)
        found = []
        for subject, epoch, payload in tree.scan(view, prefix, at, keys.u64(end)):
            found.append((Extent(keys.offset_of(subject), *records.decode_extent(payload)), epoch))
        if start and not (found and found[0][0].offset == start):  # one that begins before may reach into it
            before = tree.last_before(view, prefix, keys.u64(max(0, start - BLOCK_BYTES_MAX + 1)), at)
            if before is not None:
                extent = Extent(keys.offset_of(before[0]), *records.decode_extent(before[2]))
                if extent.end > start:
                    found.insert(0, (extent, before[1]))
        return found

    def apply(self, view: View, inode: Inode, old: list[tuple[Extent, Epoch]], plan: Plan) -> None:
        """Carry out a plan on a head's file.  The caller stores the inode, whose allocated bytes change by
        ``plan.covered_bytes``."""
        tree, epoch, ino, fork = self.tree, view.epoch, inode.ino, inode.fork
        if not old and len(plan.puts) == 1:  # as of most files
            offset, length, block, block_offset = plan.puts[0]
            self.accounts.change(block, epoch, born=1, home=(ino, offset - block_offset))
            tree.put(view, keys.extent(ino, fork, offset), records.encode_extent(length, block, block_offset))
            self.usages.grow(view, plan.covered_bytes)
            return
        touched = {extent.offset for extent in plan.puts}.union(plan.deletes)
        changes: dict[BlockId, _Change] = {}
        hidden: list[tuple[Epoch, bytes]] = []
        for extent, found in old:
            if extent.offset not in touched:
                continue
            change = changes.get(extent.block)
            if change is None:
                change = changes[extent.block] = _Change()
            if found == epoch:
                change.born -= 1
            else:
                change.hidden += 1
                hidden.append((found, keys.extent(ino, fork, extent.offset)))
        for offset, _, block, block_offset in plan.puts:
            change = changes.get(block)
            if change is None:
                change = changes[block] = _Change()
            change.born += 1
            change.home = ino, offset - block_offset
        for block, change in changes.items():
            if change.born or change.hidden:
                self.accounts.change(block, epoch, born=change.born, hidden=change.hidden, home=change.home)
        for offset in plan.deletes:
            tree.delete(view, keys.extent(ino, fork, offset))
        with self._in_order(view, inode, plan) if not old else _NOTHING:
            for offset, length, block, block_offset in plan.puts:
                tree.put(view, keys.extent(ino, fork, offset), records.encode_extent(length, block, block_offset))
        if hidden:
            self._release(hidden)
        self.usages.grow(view, plan.covered_bytes)

    @contextlib.contextmanager
    def _in_order(self, view: View, inode: Inode, plan: Plan) -> Iterator[None]:
        """Extents of a stream, where there were none: their records fill their pages."""
        if len(plan.puts) < ordering.RUN_MIN:
            yield
            return
        first, last = (keys.extent(inode.ino, inode.fork, plan.puts[end].offset) for end in (0, -1))
        epoch = keys.u64(view.epoch)
        with (
            ordering.in_order(self.index, "tree", first, keys.versioned(last, 0)),
            ordering.in_order(self.index, "changes", epoch + first, epoch + last),
        ):
            yield

    def put_extent(self, view: View, ino: Ino, fork: int, offset: int, payload: bytes) -> None:
        """A further record of a block that has some, where the head's file has no extent."""
        _, block, block_offset = records.decode_extent(payload)
        self.accounts.change(block, view.epoch, born=1, home=(ino, offset - block_offset))
        self.tree.put(view, keys.extent(ino, fork, offset), payload)

    def account_hidden(self, epoch: Epoch, versions: Iterable[Version]) -> None:
        """The epoch hides these extents, which its parent's view shows."""
        counts = Counter(records.decode_extent(payload)[1] for _, _, payload in versions)
        for block, count in counts.items():
            self.accounts.change(block, epoch, hidden=count)

    def _hide(self, view: View, inode: Inode) -> list[tuple[Epoch, bytes]]:
        """The head's epoch hides the older extents of the inode's fork: (epoch, subject) of those that were accounted
        now."""
        if not inode.allocated_bytes:
            return []
        older = self.tree.find_below(view, keys.inode(inode.ino), view.epoch)
        if older is None or records.decode_inode(inode.ino, older).fork != inode.fork:
            return []
        found, rest = self.tree.scan_some(view, keys.extents(inode.ino, inode.fork), b"", REAP_NOW_MAX)
        if rest is not None:
            unaccounted.put(self.index, Unaccounted(view.epoch, inode.ino, inode.fork, 0))
            return []
        found = [version for version in found if version[1] != view.epoch]
        self.account_hidden(view.epoch, found)
        return [(epoch, subject) for subject, epoch, _ in found]

    def _release(self, hidden: list[tuple[Epoch, bytes]]) -> None:
        """A head hides records now.  Those in dying epochs may be hidden by all that is below."""
        for epoch, subject in hidden:
            if not self.epochs.is_shared(epoch):
                continue
            if unaccounted.first(self.index) is not None:  # others that hide it are to be accounted before
                self.epochs.wake(epoch)
            else:
                self.hiding.forget()
                if self.hiding.below(epoch, subject):
                    self.drop_hidden(epoch, subject)

    # -- records that no view can reach

    def _drop(self, epoch: Epoch, subject: bytes, *, dead: bool) -> None:
        """Remove one version, with the reference it may hold.

        Args:
            dead: the epoch itself hides it, which is not accounted yet; else no view sees it, and that is.
        """
        if keys.split(subject)[1] == keys.EXTENT:
            payload = self.tree.at(epoch, subject)
            if payload:
                block = records.decode_extent(payload)[1]
                if dead:
                    self.accounts.change(block, epoch, born=-1)
                else:
                    self.accounts.drop_unseen(block)
        self.tree.drop_at(epoch, subject)

    def drop_hidden(self, epoch: Epoch, subject: bytes) -> None:
        """Remove a version of a dying epoch that all below hides, and tombstones below that hid nothing else."""
        self._drop(epoch, subject, dead=False)
        for child in self.hiding.idle_tombstones(epoch, subject):
            self.tree.drop_at(child, subject)

    def bury(self, view: View, inode: Inode) -> None:
        """The inode is gone from the head: a tombstone if an older version exists, and all else that the head's
        own epoch holds of it dropped."""
        hidden = self._hide(view, inode)
        subject = keys.inode(inode.ino)
        seen = self.tree.seen.get(subject)
        self.tree.delete(view, subject, seen[1] if seen is not None and seen[0] == view.path.last else None)
        if hidden:
            self._release(hidden)
        self.reap(view.epoch, inode.ino, ALL_FORKS)
        self.usages.grow(view, -inode.allocated_bytes)

    def next_fork(self, view: View, inode: Inode) -> Inode:
        """The inode without its data, in O(1).  The caller stores it."""
        hidden = self._hide(view, inode)
        cut = msgspec.structs.replace(inode, fork=inode.fork + 1, size=0, allocated_bytes=0)
        if any(self.epochs.is_shared(epoch) for epoch, _ in hidden):
            self.put_inode(view, cut)  # what hides them
            self._release(hidden)
        self.reap(view.epoch, inode.ino, inode.fork)
        self.usages.grow(view, -inode.allocated_bytes)
        return cut

    def reap(self, epoch: Epoch, ino: Ino, fork: int) -> None:
        """Drop the epoch's records of a dead inode or fork: later, by way of table ``reap``; now if they are few and
        many wait there already."""
        subjects = self._own(epoch, ino, fork, 0)
        if not subjects:
            return
        if self.index.count("reap") >= REAP_WAITING_MAX:
            subjects = self._own(epoch, ino, fork, REAP_NOW_MAX)
            waits = self.index.count("unaccounted") > 0 and unaccounted.first(self.index, epoch, ino) is not None
            if not waits and self._drop_dead(epoch, subjects, REAP_NOW_MAX):
                return
        self.index.put("reap", keys.extents(ino, fork) + keys.u64(epoch), records.PRESENT)

    def reap_some(self, epoch: Epoch, ino: Ino, fork: int, limit: int) -> bool:
        """Drop at most ``limit`` records; whether that was all."""
        return self._drop_dead(epoch, self._own(epoch, ino, fork, limit), limit)

    def _own(self, epoch: Epoch, ino: Ino, fork: int, limit: int) -> list[bytes]:
        """What the epoch has of a dead inode or fork: one more than the limit if there is more."""
        return self.tree.own(epoch, keys.u64(ino) if fork == ALL_FORKS else keys.extents(ino, fork), limit + 1)

    def _drop_dead(self, epoch: Epoch, subjects: list[bytes], limit: int) -> bool:
        for subject in subjects[:limit]:
            self._drop(epoch, subject, dead=True)
        return len(subjects) <= limit

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
