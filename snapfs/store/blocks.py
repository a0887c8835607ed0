"""Blocks: variable runs of bytes, stored once, named by their BLAKE3 hash, counted exactly.

Invariants:
  * ``refs`` of a block is the number of extent records, of all epochs, that name it, and of seals that do.
  * ``dedup`` names only blocks with references: a block that lost its last one is never referenced again.
  * A block without references is in ``freed`` under the transaction that took the last one (of a draft: that made
    it); its space is reclaimed when that transaction is durable and no reader sees an older one.
  * Bytes go to a segment before their block gets an entry, and are synced before the entry is committed.
  * Bytes that do not match their hash are never returned.
  * A record that is moved stays at its old place, too, until no reader and no pin can know that place.
  * A block's row in ``places`` comes, moves and goes with its entry.

``compress``, ``append``, ``pack`` and ``fetch`` touch no index: they run in worker threads.  Everything else is the
trio thread's.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

import msgspec

from snapfs.errors import Corrupt
from snapfs.format import keys, records
from snapfs.format import segments as fmt
from snapfs.format.records import Block
from snapfs.store import places
from snapfs.store.disk import Disk
from snapfs.store.emptied import Emptied
from snapfs.store.index import Index, Reading, items
from snapfs.store.packing import ZSTD_LEVEL as ZSTD_LEVEL
from snapfs.store.packing import Bytes as Bytes
from snapfs.store.packing import Packed as Packed
from snapfs.store.packing import Packer
from snapfs.store.segments import Segments, _File
from snapfs.store.space import COUNTERS, Space
from snapfs.store.unpacking import digest as digest
from snapfs.store.unpacking import mismatch as mismatch
from snapfs.store.unpacking import unpack as unpack
from snapfs.types import BlockId, Ino, SegmentId

CACHE_BYTES_MAX: Final = 32 * 1024 * 1024
"""Raw blocks kept: the kernel caches pages above us; this serves several small reads of one block."""


class Placed(msgspec.Struct, frozen=True, gc=False):
    """A block whose bytes are in a segment but which has no entry yet."""

    segment: SegmentId
    offset: int
    stored_bytes: int
    raw_bytes: int
    codec: int
    kind: int
    hash: bytes


class Draft(msgspec.Struct, frozen=True, gc=False):
    """A block that nobody names yet."""

    block: BlockId
    hash: bytes
    waiting: bytes
    """Its key in ``freed``."""


class Blocks:
    def __init__(self, index: Index, segments: Segments, disk: Disk, cache_bytes_max: int = CACHE_BYTES_MAX) -> None:
        self._index = index
        self._cache_bytes_max = cache_bytes_max
        self._disk = disk
        self.segments = segments
        self._next = int.from_bytes(index.get("meta", b"next_block") or b"\1", "little")
        self._live = {
            SegmentId(keys.from_u64(key)): records.decode_segment(payload) for key, payload in items(index, "segments")
        }
        self._touched: set[SegmentId] = set()
        self._placed = False  # blocks got entries since the last commit
        self._cache: OrderedDict[BlockId, bytes] = OrderedDict()
        self._cache_bytes = 0
        self.cache_hits = self.cache_misses = 0
        self._pins: Counter[int] = Counter()
        self._frontiers: list[places.Frontier] = []
        """Where segments ended when those began that place blocks now."""
        self._fresh: dict[BlockId, Block] = {}
        """Entries that ``add`` made and nobody has put: its caller adds references in the same step, with one put."""
        self._packer = Packer()
        self.emptied = Emptied(index)
        self.space = Space(
            **{name: int.from_bytes(index.get("meta", name.encode()) or b"\0", "little") for name in COUNTERS}
        )
        self._counters_dirty = False
        index.before_commit.append(self._before_commit)
        index.before_publish.append(self._before_publish)

    # -- writing

    def known(self, digest: bytes) -> BlockId:
        """The block with this hash, or 0."""
        found = self._index.get("dedup", digest)
        return BlockId(keys.from_u64(found)) if found else BlockId(0)

    def compress(
        self, chunks: Iterable[tuple[bytes, Bytes]], kind: int = fmt.DATA, *, compression: int = ZSTD_LEVEL
    ) -> list[Packed]:
        """Records of (hash, bytes) chunks, by a level of zstd; 0: as they are.  Thread-safe."""
        return self._packer.pack(chunks, kind, compression)

    def append(self, packed: list[Packed]) -> list[Placed]:
        """Append records.  Worker thread; one call at a time.

        Raises:
            NoSpace, IOFailure: the disk refused.
        """
        return [
            Placed(segment, offset, head.stored_bytes, head.raw_bytes, head.codec, head.kind, head.hash)
            for (segment, offset), (head, _) in zip(self.segments.append(packed), packed, strict=True)
        ]

    def pack(
        self, chunks: Iterable[tuple[bytes, Bytes]], kind: int = fmt.DATA, *, compression: int = ZSTD_LEVEL
    ) -> list[Placed]:
        """``compress`` and ``append``."""
        return self.append(self.compress(chunks, kind, compression=compression))

    @contextmanager
    def placing(self) -> Iterator[None]:
        """From before ``append`` to after ``add``: segments may hold blocks that have no entry yet, so none counts as
        empty, and nothing that lies behind where they end now counts as dead."""
        mark = self.segments.position
        self._frontiers.append(mark)
        try:
            yield
        finally:
            self._frontiers.remove(mark)

    @property
    def frontier(self) -> places.Frontier:
        """What lies before it in the segments, and has no row in ``places``, is dead."""
        return min(self._frontiers, default=self.segments.position)

    def add(self, placed: Placed) -> BlockId:
        """Give a placed block its entry, as yet without references; the block that is known by its hash, if one is by
        now."""
        block, number = BlockId(self._next), keys.u64(self._next)
        # A seal's bytes are never shared with a file's.
        if placed.kind == fmt.DATA and not self._index.put_new("dedup", placed.hash, number):
            return self.known(placed.hash)
        self._next += 1
        self._counters_dirty = True
        entry = Block(
            placed.segment, placed.offset, placed.stored_bytes, placed.raw_bytes,
            placed.codec, placed.kind, placed.hash, 0,
        )  # fmt: skip
        self._fresh[block] = entry
        self._index.put("places", places.key(placed.segment, placed.offset), number)
        self.space.count(entry)
        self._occupy(entry, +1)
        return block

    def adjust(
        self,
        block: BlockId,
        delta: int,
        *,
        account: int | None = None,
        home: tuple[Ino, int] | None = None,
        entry: Block | None = None,
    ) -> None:
        """Records that name the block were added (or, negative, removed).

        Args:
            account: number of its account from now on; None: as before.
            home: (inode, where in that file the block's first byte would be; negative: not told); None: as before.
            entry: what it has now, if the caller knows.

        Raises:
            Corrupt: more removed than there are.
        """
        entry = entry or self.entry(self._index, block)
        refs = entry.refs + delta
        if refs < 0:
            raise Corrupt(f"block {block}: more references dropped than it has", hint="run: snap fsck")
        ino, offset = home if home is not None and home[1] >= 0 else (entry.home_ino, entry.home_offset)
        entry = Block(
            entry.segment, entry.offset, entry.stored_bytes, entry.raw_bytes, entry.codec, entry.kind, entry.hash,
            refs, entry.account if account is None else account, ino, offset,
        )  # fmt: skip
        self._index.put("blocks", keys.u64(block), records.encode_block(entry))
        self._fresh.pop(block, None)
        if refs == 0:
            if self.known(entry.hash) == block:
                self._index.delete("dedup", entry.hash)
            self._index.put("freed", keys.u64(self._index.txn_number) + keys.u64(block), records.PRESENT)

    def disown(self) -> None:
        """Blocks that were added in this step get no references after all: they wait to be reclaimed."""
        for block in list(self._fresh):
            self.adjust(block, 0)

    def draft(self, placed: Placed) -> Draft:
        """Give a placed block of a seal an entry that waits to be reclaimed, unless it is taken before: also a crash
        leaves it so.  The caller keeps it by ``pinned`` until then."""
        block = self.add(placed)
        self._put_fresh()
        waiting = keys.u64(self._index.txn_number) + keys.u64(block)
        self._index.put("freed", waiting, records.PRESENT)
        return Draft(block, placed.hash, waiting)

    def take(self, draft: Draft) -> BlockId:
        """The draft is needed: whoever takes it adds the references."""
        self._index.delete("freed", draft.waiting)
        return draft.block

    def _discount(self, entry: Block) -> None:
        if entry.lost:
            return
        self.space.count(entry, -1)
        try:
            if min(self.space.counters().values()) < 0:
                raise Corrupt("the store counts fewer bytes than it has", hint="run: snap fsck")
            self._occupy(entry, -1)
        except Corrupt:
            self.space.count(entry)
            raise
        self._counters_dirty = True

    def _occupy(self, entry: Block, sign: int) -> None:
        """A record came into its segment, or went."""
        size = fmt.record_bytes(entry.stored_bytes)
        end, live = self._live.get(entry.segment, (fmt.SEGMENT_HEADER_BYTES, 0))
        if sign < 0 and size > live:
            raise Corrupt(f"segment {entry.segment} counts fewer bytes than it has", hint="run: snap fsck")
        self._live[entry.segment] = (max(end, entry.offset + size), live + sign * size)
        self._touched.add(entry.segment)
        self._placed = True

    def _put_fresh(self) -> None:
        while self._fresh:
            block, entry = self._fresh.popitem()
            self._index.put("blocks", keys.u64(block), records.encode_block(entry))

    def _before_commit(self) -> None:
        self._put_fresh()
        for segment in self._touched:
            if segment in self._live:
                self._index.put("segments", keys.u64(segment), records.encode_segment(*self._live[segment]))
            else:
                self._index.delete("segments", keys.u64(segment))
        self._touched.clear()
        if self._counters_dirty:
            for name, value in {"next_block": self._next, **self.space.counters()}.items():
                self._index.put("meta", name.encode(), value.to_bytes(8, "little"))
            self._counters_dirty = False

    def _before_publish(self) -> None:
        if self._placed and self.segments.is_behind:  # little: the caller has just synced in a worker
            self.segments.sync()
        self.segments.end_records()
        self._placed = False

    # -- reading

    def entry(self, source: Reading, block: BlockId) -> Block:
        """Raises:
        Corrupt: no such block.
        """
        fresh = self._fresh.get(block)
        if fresh is not None:
            return fresh
        payload = source.get("blocks", keys.u64(block))
        if payload is None:
            raise Corrupt(f"block {block} is not in the index", hint="run: snap fsck")
        return records.decode_block(payload)

    def cached(self, block: BlockId) -> bytes | None:
        data = self._cache.get(block)
        if data is None:
            self.cache_misses += 1
        else:
            self.cache_hits += 1
            self._cache.move_to_end(block)
        return data

    def remember(self, block: BlockId, data: bytes) -> None:
        if block not in self._cache:
            self._cache[block] = data
            self._cache_bytes += len(data)
            while self._cache_bytes > self._cache_bytes_max:
                self._cache_bytes -= len(self._cache.popitem(last=False)[1])

    @contextmanager
    def pinned(self) -> Iterator[None]:
        """While it lasts no block that is referenced now is reclaimed (for reads that wait for the disk), and no draft
        that is made."""
        number = self._index.txn_number
        self._pins[number] += 1
        try:
            yield
        finally:
            self._pins[number] -= 1
            if not self._pins[number]:
                del self._pins[number]

    def locate(self, block: BlockId) -> tuple[_File, Block]:
        """What ``fetch`` needs; the file stays open as long as the caller keeps it."""
        entry = self.entry(self._index, block)
        if entry.lost:
            raise Corrupt(f"block {block} is lost", hint="restore the file from a snapshot that has it: snap fsck")
        return self.segments.open(entry.segment), entry

    def fetch(self, block: BlockId, file: _File, entry: Block) -> bytes:
        """The block's raw bytes, verified.

        Raises:
            Corrupt: the segment does not hold what was written.
            IOFailure: the disk refused.
        """
        offset = entry.offset + fmt.BLOCK_HEADER_BYTES
        return unpack(block, entry, self._disk.pread("segment.read", file.fd, entry.stored_bytes, offset))

    # -- giving space back

    @property
    def bound(self) -> int:
        """What changed in an earlier transaction is durable, and neither a reader nor a pin knows what was before."""
        oldest = self._index.oldest_reader()
        # The open transaction is not durable; a reader of transaction N still sees what N + 1 freed.
        bound = self._index.txn_number if oldest is None else min(self._index.txn_number, oldest + 1)
        return min(bound, *self._pins) if self._pins else bound

    @property
    def is_pinned(self) -> bool:
        return bool(self._pins or self._frontiers)

    def is_emptying(self, segment: SegmentId) -> bool:
        """Whether records that were moved out of the segment may still be read there."""
        number = self.emptied.numbers.get(segment)
        return number is not None and number >= self.bound

    def reclaimable(self, limit: int, after: bytes = b"") -> list[tuple[bytes, BlockId]]:
        """(key in ``freed``, block) of blocks whose space nobody can need any more; oldest first, from behind a key
        on."""
        bound = self.bound
        found: list[tuple[bytes, BlockId]] = []
        for key, _ in items(self._index, "freed", start=after):
            if len(found) >= limit or keys.from_u64(key) >= bound:
                break
            if key != after:
                found.append((key, BlockId(keys.from_u64(key, 8))))
        return found

    def doomed(self, block: BlockId) -> Block | None:
        """The entry of a block that is reclaimed now; None if it has to wait.

        Raises:
            Corrupt: it is referenced, or not there.
        """
        entry = self.entry(self._index, block)
        if entry.refs:
            raise Corrupt(f"block {block} waits to be reclaimed but is referenced", hint="run: snap fsck")
        return None if self.emptied.guards(entry) else entry

    def forget(self, key: bytes, block: BlockId, entry: Block) -> None:
        """The space of a block without references was given back; ``key`` is that in ``freed``."""
        self._discount(entry)
        self._index.delete("freed", key)
        self._index.delete("blocks", keys.u64(block))
        if not entry.lost:
            self._index.delete("places", places.key(entry.segment, entry.offset))
        self.emptied.forget_block(block)
        cached = self._cache.pop(block, None)
        self._cache_bytes -= len(cached) if cached is not None else 0

    def stored_bytes(self, block: BlockId) -> int:
        """Of its record in a segment."""
        return fmt.record_bytes(self.entry(self._index, block).stored_bytes)

    def empty_segments(self) -> list[SegmentId]:
        """Segments that hold no block, and whose old places nobody knows: to be forgotten now and dropped once that
        is durable."""
        if self._frontiers:
            return []
        empty = [s for s, (_, live) in self._live.items() if live == 0 and s != self.segments.current]
        bound = self.bound if empty else 0
        return [s for s in empty if self.emptied.numbers.get(s, 0) < bound]

    def forget_segments(self, segments: list[SegmentId]) -> None:
        for segment in segments:
            self._live.pop(segment, None)
            self._touched.add(segment)
            self.emptied.forget(segment)

    # -- moving records

    def known_segments(self) -> list[SegmentId]:
        """All that the index knows, or will with its next commit."""
        return list(self._live)

    def end_of(self, segment: SegmentId) -> tuple[int, int]:
        """(end, live bytes) of a segment."""
        return self._live.get(segment, (fmt.SEGMENT_HEADER_BYTES, 0))

    def move(self, block: BlockId, old: Block, new: Placed) -> bool:
        """A record was copied: from now on the block is there.  False: it is not where it was, or goes; nothing is
        changed."""
        payload = self._index.get("blocks", keys.u64(block))
        entry = records.decode_block(payload) if payload else None
        if entry is None or not entry.refs or (entry.segment, entry.offset) != (old.segment, old.offset):
            return False
        self._occupy(entry, -1)
        moved = msgspec.structs.replace(entry, segment=new.segment, offset=new.offset)
        self._occupy(moved, +1)
        self._index.put("blocks", keys.u64(block), records.encode_block(moved))
        self._index.delete("places", places.key(old.segment, old.offset))
        self._index.put("places", places.key(new.segment, new.offset), keys.u64(block))
        self.emptied.note(block, entry)
        return True
