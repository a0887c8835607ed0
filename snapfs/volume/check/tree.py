"""fsck of the versioned tree: every version by itself, then every view as a file tree."""

from __future__ import annotations

import stat
from array import array
from collections import Counter
from collections.abc import Iterator
from typing import Final

from snapfs.errors import SnapfsError
from snapfs.extents import Extent
from snapfs.format import keys, records
from snapfs.format.records import Inode
from snapfs.store.index import Reading
from snapfs.types import BLOCK_BYTES_MAX, FILE_BYTES_MAX, PATH_BYTES_MAX, BlockId, Ino
from snapfs.versions.epochs import View
from snapfs.volume.check.base import (
    MALFORMED,
    TYPES,
    Findings,
    Shape,
    Shown,
    Tolerant,
    decode_version,
    sound,
    split_version,
    values,
)
from snapfs.volume.names import check_name

_TURN: Final = 200
"""Records looked at between two yields (a millisecond or two)."""


class Counts:
    """A number for each block: 8 bytes each, as blocks are numbered from 1 on."""

    def __init__(self, limit: int) -> None:
        """``limit``: numbers from here on are counted one by one, as no such block can be there."""
        self._of = array("Q", bytes(8 * (limit + 1)))
        self.others: Counter[int] = Counter()

    def add(self, block: int, count: int = 1) -> None:
        if block < len(self._of):
            self._of[block] += count
        else:
            self.others[block] += count

    def put(self, block: int, number: int) -> None:
        if block < len(self._of):
            self._of[block] = number
        else:
            self.others[block] = number

    def __getitem__(self, block: int) -> int:
        return self._of[block] if block < len(self._of) else self.others[block]

    def items(self) -> Iterator[tuple[BlockId, int]]:
        """(block, number) of all that have one."""
        for block, count in enumerate(self._of):
            if count:
                yield BlockId(block), count
        for block, count in self.others.items():
            yield BlockId(block), count


class Versions:
    """All records of the tree, each by itself, and ``changes``."""

    def __init__(self, source: Reading, shape: Shape, findings: Findings, counts: Counts) -> None:
        self._source = source
        self._shape = shape
        self._findings = findings
        self._counts = counts
        self.ino_max = 0

    def run(self) -> Iterator[None]:
        """Count the blocks' references; every version is in ``changes`` and the reverse."""
        source, found, epochs = self._source, self._findings.add, self._shape.parent
        count = 0
        for key, payload in values(source, "tree", self._findings.record):
            count += 1
            if count % _TURN == 0:
                yield
            try:
                subject, epoch = split_version(key)
                record = decode_version(subject, payload)
            except MALFORMED as error:
                message = getattr(error, "message", str(error))
                self._findings.record("tree", key, f"record {key.hex()} is malformed ({message})")
                continue
            ino, kind = keys.split(subject)
            self.ino_max = max(self.ino_max, ino)
            if epoch not in epochs:
                found("version-epoch", f"record {key.hex()} belongs to no epoch")
            if sound(source, "changes", keys.u64(epoch) + subject, lambda _: True) is None:
                found("changes", f"record {key.hex()} is missing in the changes of epoch {epoch}")
            if record is not None and kind == keys.EXTENT:
                self._counts.add(record[1])
        for key, _ in values(source, "changes", self._findings.record):
            count += 1
            if count % _TURN == 0:
                yield
            if self._missing(key[8:], key):
                found("changes", f"epoch {keys.from_u64(key)} has no record {key[8:].hex()}, which its changes name")

    def _missing(self, subject: bytes, key: bytes) -> bool:
        try:
            return self._source.get("tree", keys.versioned(subject, keys.from_u64(key))) is None
        except MALFORMED:
            return False  # it is there; that it is bad is told


class Trees:
    """Views as file trees."""

    def __init__(self, source: Reading, findings: Findings, seed: int) -> None:
        self._source = source
        self._tree = Tolerant(source)
        self._findings = findings
        self._found = findings.add
        self._seed = seed
        self.inodes = 0
        self._turn = 0

    def run(self, shown: Shown) -> Iterator[None]:
        """All that a view shows, from the root down; then what no entry leads to."""
        name, view = shown.name, shown.view
        links: Counter[Ino] = Counter()
        kinds: dict[Ino, int] = {}
        directories: Counter[Ino] = Counter()
        stack = [shown.root]
        while stack:
            ino = stack.pop()
            for subject, _, payload in self._tree.scan(view, keys.head(ino, keys.DIRENT)):
                child, kind = records.decode_dirent(payload)
                entry = self._entry(name, view, ino, subject, child)
                links[child] += 1
                if kinds.setdefault(child, kind) != kind:
                    self._found("entry-type", f"{name}: entries of inode {child} say different types")
                if kind == stat.S_IFDIR:
                    directories[ino] += 1
                    if links[child] > 1 or child == shown.root:
                        self._found("directory-links", f"{name}: directory {child} has another entry, {entry!r}")
                    else:
                        stack.append(child)
                if self._due():
                    yield
            yield
        links[shown.root] += 0
        used = 0
        for ino in links:
            used += self._inode(name, view, ino, links[ino], directories[ino], kinds.get(ino, stat.S_IFDIR))
            if self._due():
                yield
        yield from self._unreached(shown, links, used)

    def _due(self) -> bool:
        self._turn += 1
        return self._turn % _TURN == 0

    def _entry(self, name: str, view: View, ino: Ino, subject: bytes, child: Ino) -> bytes:
        cookie, entry = keys.split_hashed(subject)
        try:
            check_name(entry)
        except SnapfsError as error:
            self._found("entry-name", f"{name}: inode {ino} has an entry that cannot be: {error.message}")
        if cookie != keys.name_cookie(entry, self._seed):
            self._found("entry-hash", f"{name}: entry {entry!r} of inode {ino} is not where its name says")
        try:
            link = self._tree.get(view, keys.parent(child, ino, entry))
        except MALFORMED:
            return entry
        if link is None:
            self._found("parent-link", f"{name}: entry {entry!r} of inode {ino} has no parent link")
        return entry

    def _unreached(self, shown: Shown, reached: Counter[Ino], used: int) -> Iterator[None]:
        """Living inodes that no entry leads to, and the sum of what files hold."""
        name, view = shown.name, shown.view
        unlinked = set(self._unlinked(shown))
        for ino in living(self._source, self._tree, view):
            if self._due():
                yield
            if ino is None or ino in reached:
                continue
            try:
                inode = self._tree.inode(view, ino)
            except MALFORMED:
                continue
            if inode is None:
                continue
            if ino in unlinked:
                used += inode.allocated_bytes
                if inode.nlink:
                    self._found("orphan", f"{name}: inode {ino} counts as unlinked but has {inode.nlink} links")
            else:
                self._found("unreached", f"{name}: no entry leads to inode {ino}")
        for ino in unlinked:
            if ino in reached:
                self._found("orphan", f"{name}: inode {ino} counts as unlinked but has an entry")
        counted = self._counted(shown)
        if counted is not None and counted != used:
            self._found("used", f"{name} counts {counted} bytes of files, has {used}")

    def _unlinked(self, shown: Shown) -> list[Ino]:
        if shown.snapshot is not None:
            return list(shown.snapshot.orphans)
        prefix = keys.u64(shown.view.volume_id)
        cursor = self._source.cursor("orphans")
        found, inos = cursor.set_range(prefix), []
        while found and cursor.key().startswith(prefix) and len(cursor.key()) == 16:
            inos.append(Ino(keys.from_u64(cursor.key(), 8)))
            found = cursor.next()
        return inos

    def _counted(self, shown: Shown) -> int | None:
        if shown.snapshot is not None:
            return shown.snapshot.used_bytes
        head = sound(self._source, "volumes", keys.u64(shown.view.volume_id), records.decode_volume)
        return None if head is None else head.used_bytes

    def _inode(self, name: str, view: View, ino: Ino, links: int, directories: int, kind: int) -> int:
        """Check one; its allocated bytes."""
        self.inodes += 1
        try:
            inode = self._tree.inode(view, ino)
        except MALFORMED:
            return 0  # told with the record
        if inode is None:
            self._found("inode", f"{name}: an entry leads to inode {ino}, which does not exist")
            return 0
        if stat.S_IFMT(inode.mode) != kind:
            self._found("entry-type", f"{name}: the entry of inode {ino} says another type than its attributes")
        expected = 2 + directories if stat.S_ISDIR(inode.mode) else links
        if inode.nlink != expected:
            self._found("nlink", f"{name}: inode {ino} has link count {inode.nlink}, should be {expected}")
        self._links(name, view, ino)
        wrong = insane(inode)
        if wrong:
            self._found("attributes", f"{name}: inode {ino} {wrong}")
        if stat.S_ISREG(inode.mode):
            self._extents(name, view, inode)
            return inode.allocated_bytes
        if stat.S_ISLNK(inode.mode):
            self._target(name, view, inode)
        return 0

    def _links(self, name: str, view: View, ino: Ino) -> None:
        """Each parent link has its entry."""
        for subject, _, _ in self._tree.scan(view, keys.head(ino, keys.PARENT)):
            directory, entry = keys.split_hashed(subject)
            try:
                found = self._tree.get(view, keys.dirent(Ino(directory), entry, self._seed))
                leads = found is not None and records.decode_dirent(found)[0] == ino
            except MALFORMED:
                continue
            if not leads:
                self._found("parent-link", f"{name}: inode {ino} has a link as {entry!r} in {directory}, without entry")

    def _target(self, name: str, view: View, inode: Inode) -> None:
        try:
            target = self._tree.get(view, keys.symlink(inode.ino))
        except MALFORMED:
            return
        if target is None or len(target) != inode.size:
            self._found("symlink", f"{name}: symbolic link {inode.ino} has no target of {inode.size} bytes")

    def _extents(self, name: str, view: View, inode: Inode) -> None:
        ino, end, allocated, unread = inode.ino, 0, 0, len(self._findings.bad)
        for subject, _, value in self._tree.scan(view, keys.extents(ino, inode.fork)):
            extent = Extent(keys.split_extent(subject)[1], *records.decode_extent(value))
            if extent.offset < end or not 0 < extent.length <= BLOCK_BYTES_MAX:
                self._found("extent-overlap", f"{name}: inode {ino} has overlapping extents at {extent.offset}")
            end = max(end, extent.end)
            allocated += extent.length
            block = sound(self._source, "blocks", keys.u64(extent.block), records.decode_block)
            if block is None:
                self._found("extent-block", f"{name}: inode {ino} needs block {extent.block}, which is not there")
            elif extent.block_offset + extent.length > block.raw_bytes:
                self._found("extent-block", f"{name}: inode {ino} reaches beyond block {extent.block}")
        if end > inode.size:
            self._found("size", f"{name}: inode {ino} has extents to {end} but size {inode.size}")
        if allocated != inode.allocated_bytes and not unread:
            self._found("allocated", f"{name}: inode {ino} counts {inode.allocated_bytes} bytes, has {allocated}")


def living(source: Reading, tree: Tolerant, view: View) -> Iterator[Ino | None]:
    """Inodes whose attributes the view shows or cannot read, in order; None now and then between them."""
    cursor = source.cursor("tree")
    found = cursor.first()
    step = 0
    while found:
        key = cursor.key()
        if len(key) < keys.HEAD_BYTES:
            found = cursor.next()
            continue
        ino = keys.split(key)[0]
        try:
            alive = tree.get(view, keys.inode(ino)) is not None
        except MALFORMED:
            alive = True
        if alive:
            yield ino
        step += 1
        if step % _TURN == 0:
            yield None
        found = ino < (1 << 64) - 1 and cursor.set_range(keys.u64(ino + 1))


def insane(inode: Inode) -> str:
    """What of the attributes cannot be; empty if all can."""
    if stat.S_IFMT(inode.mode) not in TYPES:
        return f"is of no known type (mode {inode.mode:o})"
    if inode.size > (PATH_BYTES_MAX if stat.S_ISLNK(inode.mode) else FILE_BYTES_MAX):
        return f"is too large ({inode.size} bytes)"
    if inode.mode >> 16:
        return f"has unknown bits in its mode ({inode.mode:o})"
    return ""
