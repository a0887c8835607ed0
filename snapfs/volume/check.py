"""fsck: every invariant of a committed store, checked by reading all of it, once.

It reads a consistent state (an LMDB reader), so it can run beside a busy file system.  It changes nothing.

Checked: every value's checksum; every epoch has a parent; versions and ``changes`` agree; entries, parent links,
link counts and directories of each head and snapshot; extents inside their blocks and not overlapping;
references; dedup; names, tags and commits; events and requests; the counters of space; every block's bytes
against its hash.
"""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

from snapfs.api import CheckReport, Finding
from snapfs.errors import SnapfsError
from snapfs.extents import Extent
from snapfs.format import keys, records
from snapfs.format.segments import record_bytes
from snapfs.store.blocks import Blocks
from snapfs.store.index import Reader, items
from snapfs.types import BlockId, Epoch, Ino
from snapfs.versions.epochs import View
from snapfs.versions.keyspace import Snapshotted
from snapfs.volume.compare import detached
from snapfs.volume.core import Core
from snapfs.volume.references import created_key

FINDINGS_MAX: Final = 1000
"""A report stops here: a store this broken needs no longer list."""

_TURN: Final = 500

Progress = Callable[[int, int], None]


class Check:
    """One check of one consistent state."""

    def __init__(self, core: Core, reader: Reader) -> None:
        self._core = core
        self._reader = reader
        self._tree = Snapshotted(reader)
        self.findings: list[Finding] = []
        self.inodes = 0
        self.blocks = 0
        self.snapshots = 0
        self.data_read_bytes = 0
        self._refs: Counter[int] = Counter()

    def report(self) -> CheckReport:
        return CheckReport(
            findings=self.findings,
            inodes=self.inodes,
            blocks=self.blocks,
            snapshots=self.snapshots,
            data_read_bytes=self.data_read_bytes,
        )

    def _found(self, code: str, message: str) -> None:
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(Finding(code=code, message=message))

    def run(self, views: list[tuple[str, View, Ino]]) -> Iterator[tuple[int, int]]:
        """Check everything; yields (blocks read, blocks in all) now and then, for progress and for others to run.

        Args:
            views: (name, view, root inode) of every head and snapshot, of the reader's state.
        """
        total = int(self._reader.stat("blocks"))
        steps = (
            self._tables(), self._logs(), self._versions(), *(self._view(*view) for view in views), self._blocks(total)
        )  # fmt: skip
        for step in steps:
            try:
                for _ in step:
                    yield self.blocks, total
            except SnapfsError as error:
                self._found("record", error.message)
        yield total, total

    def _tables(self) -> Iterator[None]:
        """Names, commits and snapshot records agree; epochs have parents."""
        known = {keys.from_u64(key) for key, _ in items(self._reader, "epochs")}
        for key, payload in items(self._reader, "epochs"):
            parent = records.decode_epoch(payload)[0]
            if parent and parent not in known:
                self._found("epoch-parent", f"epoch {keys.from_u64(key)} has no parent {parent}")
        snapshots = set()
        tags: dict[bytes, Epoch] = {}
        for key, payload in items(self._reader, "snapshots"):
            record = records.decode_snapshot(payload)
            snapshots.add(record.epoch)
            name = keys.u64(record.volume) + record.name.encode()
            if record.epoch not in known or keys.from_u64(key) != record.epoch:
                self._found("snapshot-epoch", f"snapshot {record.name} names epoch {record.epoch}, which is not there")
            if self._reader.get("names", name) != keys.u64(record.epoch):
                self._found("snapshot-name", f"snapshot {record.name} is not found by its name")
            if self._reader.get("created", created_key(record)) is None:
                self._found("snapshot-order", f"snapshot {record.name} is not found by its time")
            for tag in record.tags:
                tags[keys.u64(record.volume) + tag.encode()] = record.epoch
            yield
        self.snapshots = len(snapshots)
        for key, payload in items(self._reader, "names"):
            if keys.from_u64(payload) not in snapshots:
                self._found("snapshot-name", f"name {key[8:]!r} leads to no snapshot")
        if self._reader.stat("created") != len(snapshots):
            self._found("snapshot-order", f"{self._reader.stat('created')} entries for {len(snapshots)} snapshots")
        self._tags(tags)

    def _tags(self, tags: dict[bytes, Epoch]) -> None:
        """Tags as the snapshots' records tell them (key in table ``tags`` -> epoch) against the table."""
        found = {key: Epoch(keys.from_u64(payload)) for key, payload in items(self._reader, "tags")}
        for key in sorted(tags.keys() | found.keys()):
            if tags.get(key) != found.get(key):
                self._found("tag", f"tag {key[8:]!r} and its snapshot do not agree")
            if self._reader.get("names", key) is not None:
                self._found("tag", f"tag {key[8:]!r} is also a snapshot's name")

    def _logs(self) -> Iterator[None]:
        """Events and requests can be read; each request is found by its time."""
        for key, payload in items(self._reader, "events"):
            if records.decode_event(payload).sequence != keys.from_u64(key):
                self._found("event", f"event {keys.from_u64(key)} has another number")
            yield
        for key, payload in items(self._reader, "requests"):
            time_key = keys.u64(records.decode_request(payload).time_ns) + key
            if self._reader.get("requests_by_time", time_key) is None:
                self._found("request", f"request {key.hex()} is not found by its time")
            yield
        if self._reader.stat("requests") != self._reader.stat("requests_by_time"):
            self._found("request", "requests and their times do not agree")

    def _versions(self) -> Iterator[None]:
        """Every version is in ``changes`` and the reverse; extents count their blocks."""
        epochs = {keys.from_u64(key) for key, _ in items(self._reader, "epochs")}
        count = 0
        for key, payload in items(self._reader, "tree"):
            subject, epoch = key[: -keys.EPOCH_BYTES], keys.epoch_of(key)
            if epoch not in epochs:
                self._found("version-epoch", f"record {key.hex()} belongs to no epoch")
            if self._reader.get("changes", keys.u64(epoch) + subject) is None:
                self._found("changes", f"record {key.hex()} is missing in the changes of epoch {epoch}")
            if payload and keys.split(subject)[1] == keys.EXTENT:
                self._refs[records.decode_extent(payload)[1]] += 1
            count += 1
            if count % _TURN == 0:
                yield
        changes = 0
        for _ in items(self._reader, "changes"):
            changes += 1
            if changes % _TURN == 0:
                yield
        if changes != count:
            self._found("changes", f"{count} versions but {changes} entries in changes")

    def _view(self, name: str, view: View, root: Ino) -> Iterator[None]:
        """The file tree that a view shows."""
        view = detached(view)
        seen: Counter[Ino] = Counter()
        directories: Counter[Ino] = Counter()
        stack = [root]
        while stack:
            ino = stack.pop()
            for subject, _, payload in self._tree.scan(view, keys.head(ino, keys.DIRENT)):
                child, kind = records.decode_dirent(payload)
                entry = keys.split_hashed(subject)[1]
                seen[child] += 1
                if self._tree.get(view, keys.parent(child, ino, entry)) is None:
                    self._found("parent-link", f"{name}: entry {entry!r} of inode {ino} has no parent link")
                if kind == stat.S_IFDIR:
                    directories[ino] += 1
                    if seen[child] > 1:
                        self._found("directory-links", f"{name}: directory {child} has several entries")
                    else:
                        stack.append(child)
            yield
        for ino in {root, *seen}:
            self._inode(name, view, ino, seen[ino], directories[ino], root)
            self.inodes += 1
            if self.inodes % _TURN == 0:
                yield

    def _inode(self, name: str, view: View, ino: Ino, links: int, directories: int, root: Ino) -> None:
        payload = self._tree.get(view, keys.inode(ino))
        if payload is None:
            self._found("inode", f"{name}: an entry leads to inode {ino}, which does not exist")
            return
        inode = records.decode_inode(ino, payload)
        expected = 2 + directories if stat.S_ISDIR(inode.mode) else links
        if inode.nlink != expected:
            self._found("nlink", f"{name}: inode {ino} has link count {inode.nlink}, should be {expected}")
        if not stat.S_ISREG(inode.mode):
            return
        end, allocated = 0, 0
        for subject, _, value in self._tree.scan(view, keys.extents(ino, inode.fork)):
            extent = Extent(keys.split_extent(subject)[1], *records.decode_extent(value))
            if extent.offset < end or extent.length < 1:
                self._found("extent-overlap", f"{name}: inode {ino} has overlapping extents at {extent.offset}")
            end = extent.end
            allocated += extent.length
            block = self._reader.get("blocks", keys.u64(extent.block))
            if block is None:
                self._found("extent-block", f"{name}: inode {ino} needs block {extent.block}, which is not there")
            elif extent.block_offset + extent.length > records.decode_block(block).raw_bytes:
                self._found("extent-block", f"{name}: inode {ino} reaches beyond block {extent.block}")
        if end > inode.size:
            self._found("size", f"{name}: inode {ino} has extents to {end} but size {inode.size}")
        if allocated != inode.allocated_bytes:
            self._found("allocated", f"{name}: inode {ino} counts {inode.allocated_bytes} bytes, has {allocated}")

    def _space(self, live: Counter[int]) -> None:
        """The counters of space against the blocks (live: bytes of records by segment)."""
        for key, payload in items(self._reader, "segments"):
            segment, counted = keys.from_u64(key), records.decode_segment(payload)[1]
            if counted != live[segment]:
                self._found("space", f"segment {segment} counts {counted} live bytes, has {live[segment]}")
        stored = int.from_bytes(self._reader.get("meta", b"stored_bytes") or b"\0", "little")
        if stored != live.total():
            self._found("space", f"the store counts {stored} bytes of blocks, has {live.total()}")

    def _blocks(self, total: int) -> Iterator[None]:
        """References, dedup, and every block's bytes against its hash."""
        blocks: Blocks = self._core.blocks
        freed = {keys.from_u64(key, 8) for key, _ in items(self._reader, "freed")}
        live: Counter[int] = Counter()
        for key, payload in items(self._reader, "blocks"):
            number, entry = BlockId(keys.from_u64(key)), records.decode_block(payload)
            if entry.refs != self._refs[number]:
                self._found("refs", f"block {number} counts {entry.refs} references, has {self._refs[number]}")
            if entry.refs == 0:
                if number not in freed:
                    self._found("leak", f"block {number} has no references and does not wait to be reclaimed")
            else:
                if number in freed:
                    self._found("freed", f"block {number} is referenced but waits to be reclaimed")
                try:
                    blocks.fetch(number, blocks.segments.open(entry.segment), entry)
                except SnapfsError as error:
                    self._found("block-hash", error.message)
            live[entry.segment] += record_bytes(entry.stored_bytes)
            self.data_read_bytes += entry.stored_bytes
            self.blocks += 1
            yield
        self._space(live)
        for digest, payload in items(self._reader, "dedup"):
            found = self._reader.get("blocks", payload)
            if found is None or records.decode_block(found).hash != digest:
                self._found("dedup", f"dedup names block {keys.from_u64(payload)}, which is not that block")

