"""Repair of what each head and snapshot shows: entries, links, link counts, extents, what no entry leads to.

Ancestors come first: what is mended in a snapshot is mended in all that shows it.  A snapshot is changed only where it
could not be read; what it shows otherwise, and every byte of every file, stays.  In a head, what no entry leads to goes
to ``lost+found``; in a snapshot it is noted as having no path.
"""

from __future__ import annotations

import itertools
import stat
from collections import Counter
from collections.abc import Sequence
from typing import Final

import msgspec

from snapfs.errors import SnapfsError
from snapfs.extents import Extent, plan_truncate, plan_write
from snapfs.format import keys, records
from snapfs.format.records import Inode
from snapfs.types import BLOCK_BYTES_MAX, FILE_BYTES_MAX, Ino
from snapfs.versions.epochs import View
from snapfs.volume.check.base import TYPES, Shown
from snapfs.volume.check.tree import insane, living
from snapfs.volume.core import now_ns
from snapfs.volume.names import check_name
from snapfs.volume.repair.base import Bench, replaced
from snapfs.volume.repair.records import LOST_TARGET

LOST_AND_FOUND: Final = b"lost+found"


def repair_views(bench: Bench) -> None:
    for shown in bench.shape.views():
        _View(bench, shown).run()


class _View:
    def __init__(self, bench: Bench, shown: Shown) -> None:
        self._bench = bench
        self._tree = bench.tree
        self._shown = shown
        self._view: View = shown.view
        self._seed = bench.place.seed
        self._links: Counter[Ino] = Counter()
        self._directories: Counter[Ino] = Counter()
        self._reached: set[Ino] = set()

    def _act(self, code: str, message: str) -> None:
        self._bench.act(code, f"{self._shown.name}: {message}")

    def run(self) -> None:
        self._root()
        self._walk(self._shown.root)
        self._unreached()
        used = sum(self._inode(ino) for ino in sorted(self._reached))
        self._used(used)

    def _inode_of(self, ino: Ino) -> Inode | None:
        return self._bench.inode(self._view, ino)

    def _root(self) -> None:
        root = self._inode_of(self._shown.root)
        if root is None or not stat.S_ISDIR(root.mode):
            self._act("inode", "its root directory is made anew")
            now = now_ns()
            self._bench.put_inode(
                self._view, Inode(self._shown.root, stat.S_IFDIR | 0o755, 2, 0, 0, 0, 0, 0, now, now, now, now)
            )

    # -- entries

    def _walk(self, top: Ino) -> None:
        """All directories from one down; each entry leads to an inode that links back."""
        stack = [top]
        self._reached.add(top)
        while stack:
            directory = stack.pop()
            entries = list(self._bench.reading.scan(self._view, keys.head(directory, keys.DIRENT)))
            for subject, _, payload in entries:
                child = self._entry(directory, subject, *records.decode_dirent(payload))
                if child is not None:
                    stack.append(child)

    def _entry(self, directory: Ino, subject: bytes, child: Ino, kind: int) -> Ino | None:
        """Mend an entry; the directory that it leads to, if that is one to go on with."""
        name = keys.split_hashed(subject)[1]
        inode = self._inode_of(child)
        again = inode is not None and stat.S_ISDIR(inode.mode) and self._is_elsewhere(child, directory, name)
        if inode is None or again:
            why = "leads to nothing" if inode is None else "is a directory's second one"
            self._act("entry", f"the entry {name!r} of directory {directory} is removed: it {why}")
            self._tree.delete(self._view, subject)
            self._tree.delete(self._view, keys.parent(child, directory, name))
            return None
        if stat.S_IFMT(inode.mode) not in TYPES and kind in TYPES:
            self._act("attributes", f"inode {child} is of the type again that its entry {name!r} says")
            inode = replaced(inode, mode=kind | stat.S_IMODE(inode.mode))
            self._bench.put_inode(self._view, inode)
        good = self._good_name(directory, subject, name, child)
        if stat.S_IFMT(inode.mode) != kind or good != subject:
            if good == subject:
                self._act("entry-type", f"the entry {name!r} of directory {directory} gets its inode's type")
            else:
                self._act("entry-name", f"the entry {name!r} of directory {directory} is put where it belongs")
                self._tree.delete(self._view, subject)
                self._tree.delete(self._view, keys.parent(child, directory, name))
            self._tree.put(self._view, good, records.encode_dirent(child, inode.mode))
        link = keys.parent(child, directory, keys.split_hashed(good)[1])
        if self._tree.get(self._view, link) is None:
            self._act("parent-link", f"inode {child} links back to its entry {name!r} in directory {directory}")
            self._tree.put(self._view, link, records.PRESENT)
        self._links[child] += 1
        self._reached.add(child)
        if not stat.S_ISDIR(inode.mode):
            return None
        self._directories[directory] += 1
        return child

    def _is_elsewhere(self, child: Ino, directory: Ino, name: bytes) -> bool:
        """Whether a directory has another entry, which it links back to."""
        if child in self._reached or self._tree.get(self._view, keys.parent(child, directory, name)) is not None:
            return child in self._reached
        for subject, _, _ in self._bench.reading.scan(self._view, keys.head(child, keys.PARENT)):
            parent, other = keys.split_hashed(subject)
            entry = self._tree.get(self._view, keys.dirent(Ino(parent), other, self._seed))
            if entry is not None and records.decode_dirent(entry)[0] == child:
                return True
        return False

    def _good_name(self, directory: Ino, subject: bytes, name: bytes, child: Ino) -> bytes:
        """The subject that the entry should have."""
        try:
            check_name(name)
        except SnapfsError:
            name = b"recovered-%d" % child
        good = keys.dirent(directory, name, self._seed)
        if good != subject and self._tree.get(self._view, good) is not None:
            good = keys.dirent(directory, b"recovered-%d" % child, self._seed)
        return good

    # -- what no entry leads to

    def _unreached(self) -> None:
        view, bench = self._view, self._bench
        unlinked = self._unlinked()
        there = [ino for ino in living(bench.index, bench.reading, view) if ino is not None]
        left = [ino for ino in there if ino not in self._reached]
        for ino in left:
            inode = self._inode_of(ino)
            if inode is not None and ino not in unlinked and ino not in self._reached:
                self._back_where_it_was(inode)
        left = [ino for ino in left if ino not in self._reached]
        if self._shown.snapshot is None:
            left = self._found([ino for ino in left if ino not in unlinked])
        for ino in unlinked | set(left):
            self._without_path(ino, ino in unlinked)

    def _unlinked(self) -> set[Ino]:
        """Inodes that count as unlinked while open."""
        if self._shown.snapshot is not None:
            return set(self._shown.snapshot.orphans)
        cursor = self._bench.index.cursor("orphans")
        prefix = keys.u64(self._view.volume_id)
        found, inos = cursor.set_range(prefix), set()
        while found and cursor.key().startswith(prefix):
            if len(cursor.key()) == 16:
                inos.add(Ino(keys.from_u64(cursor.key(), 8)))
            found = cursor.next()
        return inos

    def _back_where_it_was(self, inode: Inode) -> None:
        """A parent link tells where the entry was that is missing."""
        if not inode.nlink:
            return
        links = list(self._bench.reading.scan(self._view, keys.head(inode.ino, keys.PARENT)))
        for subject, _, _ in links:
            directory, name = keys.split_hashed(subject)
            entry = keys.dirent(Ino(directory), name, self._seed)
            free = self._tree.get(self._view, entry) is None
            if not free or not self._directory(Ino(directory)):
                continue
            self._act("entry", f"inode {inode.ino} gets back its entry {name!r} in directory {directory}")
            self._add(Ino(directory), name, inode)
            if stat.S_ISDIR(inode.mode):
                return

    def _add(self, directory: Ino, name: bytes, inode: Inode) -> None:
        entry = keys.dirent(directory, name, self._seed)
        self._tree.put(self._view, entry, records.encode_dirent(inode.ino, inode.mode))
        link = keys.parent(inode.ino, directory, name)
        if self._tree.get(self._view, link) is None:
            self._tree.put(self._view, link, records.PRESENT)
        self._links[inode.ino] += 1
        if stat.S_ISDIR(inode.mode):
            self._directories[directory] += 1
            self._walk(inode.ino)
        self._reached.add(inode.ino)

    def _found(self, left: list[Ino]) -> list[Ino]:
        """Into lost+found what has links; those that have none, or are no inodes, are returned."""
        inodes = {ino: inode for ino in left if (inode := self._inode_of(ino)) is not None}
        wanted = {ino for ino, inode in inodes.items() if inode.nlink}
        while wanted:
            inside = set()
            for ino in wanted:
                for _, _, payload in self._bench.reading.scan(self._view, keys.head(ino, keys.DIRENT)):
                    inside.add(records.decode_dirent(payload)[0])
            for ino in sorted(wanted - inside) or [min(wanted)]:
                if ino in self._reached:
                    continue
                self._act("unreached", f"inode {ino} has no entry: it becomes lost+found/#{ino}")
                for subject, _, _ in list(self._bench.reading.scan(self._view, keys.head(ino, keys.PARENT))):
                    self._tree.delete(self._view, subject)
                self._add(self._lost_and_found(), b"#%d" % ino, inodes[ino])
            wanted -= self._reached
        return [ino for ino in inodes if ino not in self._reached]

    def _lost_and_found(self) -> Ino:
        root = self._shown.root
        found = self._tree.get(self._view, keys.dirent(root, LOST_AND_FOUND, self._seed))
        if found is not None and records.decode_dirent(found)[1] == stat.S_IFDIR:
            return records.decode_dirent(found)[0]
        name = LOST_AND_FOUND if found is None else b"lost+found.%d" % self._view.epoch
        found = self._tree.get(self._view, keys.dirent(root, name, self._seed))
        if found is not None:
            return records.decode_dirent(found)[0]
        now = now_ns()
        made = Inode(
            Ino(self._bench.number("next_ino")), stat.S_IFDIR | 0o700, 2, 0, 0, 0, 0, 0, now, now, now, now
        )  # fmt: skip
        self._bench.put_inode(self._view, made)
        self._add(root, name, made)
        return made.ino

    def _without_path(self, ino: Ino, known: bool) -> None:
        """Note what has no entry as unlinked; or no longer, what has one."""
        inode = self._inode_of(ino)
        orphan = inode is not None and ino not in self._reached
        if orphan and not known:
            self._act("unreached", f"inode {ino}, which no entry leads to, counts as unlinked")
        elif not orphan and known:
            self._act("orphan", f"inode {ino} does not count as unlinked any more")
        if self._shown.snapshot is None:
            key = keys.u64(self._view.volume_id) + keys.u64(ino)
            if orphan and not known:
                self._bench.index.put("orphans", key, records.PRESENT)
            elif not orphan:
                self._bench.index.delete("orphans", key)
        elif orphan != known:
            self._note_orphan(ino, orphan)
        if inode is not None and orphan and inode.nlink:
            self._bench.put_inode(self._view, replaced(inode, nlink=0))

    def _note_orphan(self, ino: Ino, orphan: bool) -> None:
        record = self._bench.shape.snapshots[self._view.epoch]
        kept = [other for other in record.orphans if other != ino]
        self._bench.put_snapshot(msgspec.structs.replace(record, orphans=[*kept, ino] if orphan else kept))

    # -- inodes

    def _inode(self, ino: Ino) -> int:
        """Mend one; the bytes that it holds."""
        inode = self._inode_of(ino)
        if inode is None:
            return 0
        before = inode
        self._stale_links(inode)
        wrong = insane(inode)
        if wrong:
            self._act("attributes", f"inode {ino} {wrong}: it is made a file of a possible size")
            inode = replaced(inode, mode=_sane_mode(inode.mode), size=min(inode.size, FILE_BYTES_MAX))
        nlink = 2 + self._directories[ino] if stat.S_ISDIR(inode.mode) else self._links[ino]
        if inode.nlink != nlink:
            self._act("nlink", f"inode {ino} gets the link count {nlink}, not {inode.nlink}")
            inode = replaced(inode, nlink=nlink)
        if stat.S_ISREG(inode.mode):
            inode = self._extents(inode)
        elif stat.S_ISLNK(inode.mode):
            inode = self._target(inode)
        if inode != before:
            self._bench.put_inode(self._view, inode)
        return inode.allocated_bytes if stat.S_ISREG(inode.mode) else 0

    def _stale_links(self, inode: Inode) -> None:
        """Parent links without their entry: the entry comes back if a link is missing, else the link goes."""
        ino = inode.ino
        for subject, _, _ in list(self._bench.reading.scan(self._view, keys.head(ino, keys.PARENT))):
            directory, name = keys.split_hashed(subject)
            entry = self._tree.get(self._view, keys.dirent(Ino(directory), name, self._seed))
            if entry is not None and records.decode_dirent(entry)[0] == ino:
                continue
            missing = not stat.S_ISDIR(inode.mode) and self._links[ino] < inode.nlink
            if entry is None and missing and self._directory(Ino(directory)):
                self._act("entry", f"inode {ino} gets back its entry {name!r} in directory {directory}")
                self._add(Ino(directory), name, inode)
            else:
                self._act("parent-link", f"the link of inode {ino} to {name!r} in {directory} is removed")
                self._tree.delete(self._view, subject)

    def _directory(self, ino: Ino) -> bool:
        inode = self._inode_of(ino)
        return inode is not None and ino in self._reached and stat.S_ISDIR(inode.mode)

    def _target(self, inode: Inode) -> Inode:
        target = self._tree.get(self._view, keys.symlink(inode.ino))
        if target is None:
            self._act("symlink", f"the target of link {inode.ino} is lost; it becomes {LOST_TARGET.decode()!r}")
            target = LOST_TARGET
            self._tree.put(self._view, keys.symlink(inode.ino), target)
        if inode.size != len(target):
            self._act("symlink", f"link {inode.ino} gets the size of its target, {len(target)} bytes")
        return replaced(inode, size=len(target))

    def _extents(self, inode: Inode) -> Inode:
        """No two overlap, none reaches beyond the end; their sum is counted."""
        prefix = keys.extents(inode.ino, inode.fork)
        found = [
            (Extent(keys.split_extent(subject)[1], *records.decode_extent(payload)), epoch)
            for subject, epoch, payload in self._bench.reading.scan(self._view, prefix)
        ]
        old = [extent for extent, _ in found]
        kept = _apart(found)
        kept = [extent for extent in kept if extent.offset < inode.size]
        cut = plan_truncate([extent for extent in kept if extent.end > inode.size], inode.size)
        kept = sorted([extent for extent in kept if extent.end <= inode.size] + cut.puts)
        if kept != old:
            self._act("extent-overlap", f"inode {inode.ino}: extents that overlap or lie behind its end are cut")
            offsets = {extent.offset for extent in kept}
            for extent in old:
                if extent.offset not in offsets:
                    self._tree.delete(self._view, keys.extent(inode.ino, inode.fork, extent.offset))
            for extent in set(kept) - set(old):
                payload = records.encode_extent(extent.length, extent.block, extent.block_offset)
                self._tree.put(self._view, keys.extent(inode.ino, inode.fork, extent.offset), payload)
        held = sum(extent.length for extent in kept)
        if inode.allocated_bytes != held:
            self._act("allocated", f"inode {inode.ino} counts {held} bytes, not {inode.allocated_bytes}")
        return replaced(inode, allocated_bytes=held)

    def _used(self, used: int) -> None:
        bench, name = self._bench, self._shown.name
        if self._shown.snapshot is not None:
            record = bench.shape.snapshots[self._view.epoch]
            used += sum(self._held(ino) for ino in record.orphans)
            if record.used_bytes != used:
                bench.act("used", f"{name} counts {used} bytes of files, not {record.used_bytes}")
                bench.put_snapshot(msgspec.structs.replace(record, used_bytes=used))
            return
        head = bench.shape.volumes[self._view.volume_id]
        used += sum(self._held(ino) for ino in self._unlinked())
        if head.used_bytes != used:
            bench.act("used", f"{name} counts {used} bytes of files, not {head.used_bytes}")
            bench.put_volume(msgspec.structs.replace(head, used_bytes=used))

    def _held(self, ino: Ino) -> int:
        inode = self._inode_of(ino)
        return 0 if inode is None else inode.allocated_bytes


def _apart(found: Sequence[tuple[Extent, int]]) -> list[Extent]:
    """Extents that overlap, cut: of two, the one that was written later stays whole."""
    possible = [(extent, epoch) for extent, epoch in found if 0 < extent.length <= BLOCK_BYTES_MAX]
    if all(one.end <= other.offset for (one, _), (other, _) in itertools.pairwise(possible)):
        return [extent for extent, _ in possible]
    kept: dict[int, Extent] = {}
    for extent, _ in sorted(possible, key=lambda one: (one[1], one[0].offset)):
        below = sorted(old for old in kept.values() if old.end > extent.offset and old.offset < extent.end)
        plan = plan_write(below, (extent,), extent.offset, extent.end)
        for offset in plan.deletes:
            del kept[offset]
        kept |= {put.offset: put for put in plan.puts}
    return sorted(kept.values())


def _sane_mode(mode: int) -> int:
    kind = stat.S_IFMT(mode)
    return (kind if kind in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK) else stat.S_IFREG) | stat.S_IMODE(mode)
