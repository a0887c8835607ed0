"""What becomes of records of a salvaged epoch that are known, or feared, to be lost.

What an epoch has written is known twice: by its records, and by the list of its changes.  A record that only the list
has is lost.  Without it a view would show what an older epoch has: older bytes, a hole, a file that was removed.

Invariants:
  * The bytes of a lost extent, as far as it may have reached, cannot be read; nor can a file whose attributes are lost:
    nothing says which of its bytes were the last ones.
  * Where records may be lost without a trace, no file can be read that they may concern.
  * A tombstone stands only where an older version would show through: what is lost and had none was no tombstone.
  * Other records (entries, extended attributes) are left in place as unreadable, for the repair to mend.
"""

from __future__ import annotations

import contextlib
import stat
from collections import Counter
from collections.abc import Callable

from snapfs.errors import Corrupt
from snapfs.format import keys, records
from snapfs.format.records import Inode
from snapfs.store.walk import values
from snapfs.types import BLOCK_BYTES_MAX, BlockId, Epoch, Ino, VolumeId
from snapfs.versions.epochs import ROOT, Chain, Path, View
from snapfs.volume.check.base import MALFORMED, Tolerant
from snapfs.volume.check.tree import living
from snapfs.volume.core import now_ns
from snapfs.volume.repair.base import unreadable
from snapfs.volume.repair.index_builder import Builder


class Losses:
    def __init__(self, builder: Builder, parent: dict[Epoch, Epoch], block: Callable[[], BlockId]) -> None:
        """``block`` makes a lost one, once."""
        self._builder = builder
        self._parent = parent
        self._block = block
        self._used = 0
        self._noted: dict[Epoch, list[bytes]] = {}
        self._kinds: dict[Ino, set[int]] = {}
        """Of what each inode has lost."""

    def _view(self, epoch: Epoch, volume: VolumeId) -> View:
        path = [epoch]
        while self._parent[path[-1]] != ROOT:
            path.append(self._parent[path[-1]])
        return View(volume, Path(Chain(path[::-1]), epoch), writable=True)

    def _tree(self) -> Tolerant:
        """Not across puts: a cursor of its own each time."""
        return Tolerant(self._builder.index)

    def count(self) -> None:
        """The lost block is used so often."""
        if self._used:
            self._builder.refer(Counter({self._block(): self._used}), {})

    # -- what is known to be lost

    def note(self, epoch: Epoch, volume: VolumeId, subjects: list[bytes]) -> None:
        """Put something in each one's place.  Ancestors first."""
        self._noted[epoch] = subjects
        runs: dict[tuple[Ino, int], list[int]] = {}
        links: list[bytes] = []
        for subject in subjects:
            ino, kind = keys.split(subject)
            self._kinds.setdefault(ino, set()).add(kind)
            if kind == keys.PARENT and len(subject) > keys.HEAD_BYTES + 9:
                links.append(subject)
            elif kind == keys.EXTENT and len(subject) == keys.HEAD_BYTES + 12:
                fork, offset = keys.split_extent(subject)
                runs.setdefault((ino, fork), []).append(offset)
            else:
                self._builder.put("changes", keys.u64(epoch) + subject, b"")
                self._builder.index.put_unreadable("tree", keys.versioned(subject, epoch))
            self._builder.ino_max = max(self._builder.ino_max, ino)
            self._builder.pause()
        view = self._view(epoch, volume)
        for (ino, fork), offsets in runs.items():
            self._extents(view, ino, fork, offsets)
        for subject in links:
            self._link(view, subject)
        for subject in subjects:
            if keys.split(subject)[1] == keys.DIRENT:
                self._entry(view, subject, set(subjects))

    def _entry(self, view: View, subject: bytes, lost: set[bytes]) -> None:
        """An entry was written over or removed, and what it led to was written, but not its link: so it was removed."""
        above = self._parent[view.epoch]
        if above == ROOT:
            return
        try:
            older = self._tree().get(self._view(above, view.volume_id), subject)
            if older is None:
                return
            ino = records.decode_dirent(older)[0]
        except MALFORMED:
            return
        link = keys.parent(ino, keys.split(subject)[0], keys.split_hashed(subject)[1])
        written = self._builder.index.get("tree", keys.versioned(link, view.epoch)) is not None
        if keys.inode(ino) in lost and not written:
            self._put(view.epoch, keys.inode(ino), records.TOMBSTONE)

    def _link(self, view: View, subject: bytes) -> None:
        """An inode's link to its entry: it is there if the entry is, or if it can be no tombstone."""
        directory, name = keys.split_hashed(subject)
        entry = None
        with contextlib.suppress(*MALFORMED):
            entry = self._tree().get(view, keys.dirent(Ino(directory), name, self._builder.seed))
        leads = entry is not None and records.decode_dirent(entry)[0] == keys.split(subject)[0]
        if leads or self._tree().get(view, subject) is None:
            self._put(view.epoch, subject, records.PRESENT)
        else:
            self._put(view.epoch, subject, records.TOMBSTONE)

    def _extents(self, view: View, ino: Ino, fork: int, offsets: list[int]) -> None:
        try:
            inode = self._tree().inode(view, ino)
            size = inode.size if inode is not None and inode.fork == fork else 0
        except MALFORMED:  # its attributes are lost, too
            size = max(offsets) + BLOCK_BYTES_MAX
        prefix = keys.extents(ino, fork)
        starts = {keys.split_extent(subject)[1] for subject, _, _ in self._tree().scan(view, prefix)} | set(offsets)
        ordered = sorted(starts)
        following = dict(zip(ordered, [*ordered[1:], size], strict=True))
        for offset in offsets:
            subject = keys.extent(ino, fork, offset)
            end = min(following[offset], offset + BLOCK_BYTES_MAX, size)
            if end > offset:
                self._put(view.epoch, subject, records.encode_extent(end - offset, self._block(), 0))
            elif size and self._tree().get(view, subject) is not None:  # behind the file's end: it was cut off
                self._put(view.epoch, subject, records.TOMBSTONE)

    def _put(self, epoch: Epoch, subject: bytes, payload: bytes) -> None:
        if payload and keys.split(subject)[1] == keys.EXTENT:
            self._used += 1
        self._builder.put("tree", keys.versioned(subject, epoch), payload)
        self._builder.put("changes", keys.u64(epoch) + subject, b"")
        self._builder.pause()

    # -- what cannot be trusted

    def settle(self, head: Epoch, volume: VolumeId, root: Ino, doubtful: list[tuple[int, int]]) -> None:
        """In a head: no file can be read whose attributes are lost, or of which more may be.

        Args:
            doubtful: ranges (first, last) of inodes.
        """
        view = self._view(head, volume)
        lost = {
            keys.split(subject)[0]
            for epoch in view.path
            for subject in self._noted.get(epoch, ())
            if keys.split(subject)[1] == keys.INODE
        }
        if doubtful:
            there = living(self._builder.index, self._tree(), view)
            lost |= {ino for ino in there if ino and any(first <= ino <= last for first, last in doubtful)}
        for ino in sorted(lost - {root}):
            self._unreadable(view, ino, root)

    def _unreadable(self, view: View, ino: Ino, root: Ino) -> None:
        tree, older = self._tree(), None
        try:
            found = older = tree.inode(view, ino)
            if found is None:
                return
        except MALFORMED:
            older = self._older(view, ino)
            found = None
            if older is not None and not self._linked(view, ino):
                self._put(view.epoch, keys.inode(ino), records.TOMBSTONE)
                return
        if older is None:
            older = self._new(view, ino, root, self._mode(view, ino))
        if stat.S_ISDIR(older.mode) and found is None and keys.DIRENT in self._kinds.get(ino, ()):
            self._put(view.epoch, keys.inode(ino), records.encode_inode(older))
        if not stat.S_ISREG(older.mode):
            return
        forks, end = self._forks(view, ino)
        made, extents = unreadable(older, max([*forks, older.fork]) + 1, max(older.size, end), self._block())
        for subject, payload in extents:
            self._put(view.epoch, subject, payload)
        self._put(view.epoch, keys.inode(ino), records.encode_inode(made))
        for dead in forks:
            self._builder.put("reap", keys.extents(ino, dead) + keys.u64(view.epoch), records.PRESENT)

    def _linked(self, view: View, ino: Ino) -> bool:
        """Whether an entry leads to the inode, or one that cannot be read may."""
        for subject, _, _ in self._tree().scan(view, keys.head(ino, keys.PARENT)):
            directory, name = keys.split_hashed(subject)
            try:
                entry = self._tree().get(view, keys.dirent(Ino(directory), name, self._builder.seed))
                if entry is not None and records.decode_dirent(entry)[0] == ino:
                    return True
            except MALFORMED:
                return True
        return False

    def _older(self, view: View, ino: Ino) -> Inode | None:
        """The newest attributes in the view's past that can be read."""
        for epoch in sorted(view.path, reverse=True):
            try:
                payload = self._builder.index.get("tree", keys.versioned(keys.inode(ino), epoch))
                if payload:
                    return records.decode_inode(ino, payload)
            except MALFORMED:
                continue
        return None

    def _mode(self, view: View, ino: Ino) -> int:
        """S_IFMT bits of an inode without attributes, by what belongs to it."""
        tree, lost = self._tree(), self._kinds.get(ino, set())
        for kind, mode in ((keys.DIRENT, stat.S_IFDIR), (keys.SYMLINK, stat.S_IFLNK), (keys.EXTENT, stat.S_IFREG)):
            if kind in lost:
                return mode
        if next(tree.scan(view, keys.head(ino, keys.DIRENT)), None) is not None:
            return stat.S_IFDIR
        try:
            is_link = tree.get(view, keys.symlink(ino)) is not None
        except Corrupt:
            is_link = True
        linked = next(tree.scan(view, keys.head(ino, keys.PARENT)), None)
        entry = None
        if linked is not None:
            directory, name = keys.split_hashed(linked[0])
            try:
                entry = tree.get(view, keys.dirent(Ino(directory), name, self._builder.seed))
            except Corrupt:
                entry = None
        if entry is not None:
            return records.decode_dirent(entry)[1]
        return stat.S_IFLNK if is_link else stat.S_IFREG

    def _new(self, view: View, ino: Ino, root: Ino, kind: int) -> Inode:
        try:
            above = self._tree().inode(view, root)
        except MALFORMED:
            above = None
        uid, gid = (above.uid, above.gid) if above is not None else (0, 0)
        now = now_ns()
        mode = kind | (0o700 if kind == stat.S_IFDIR else 0o600)
        return Inode(ino, mode, 1, uid, gid, 0, 0, 0, now, now, now, now)

    def _forks(self, view: View, ino: Ino) -> tuple[set[int], int]:
        """Forks of which the view's epochs have records; and where the last of the newest one's bytes end."""
        ends: dict[int, int] = {}
        prefix = keys.head(ino, keys.EXTENT)
        for key, value in values(self._builder.index, "tree", prefix):
            if not key.startswith(prefix):
                break
            subject, epoch = key[: -keys.EPOCH_BYTES], keys.epoch_of(key)
            if epoch not in view.path or len(subject) != keys.HEAD_BYTES + 12:
                continue
            fork, offset = keys.split_extent(subject)
            ends.setdefault(fork, 0)
            try:
                payload = records.unseal(key, value)
            except Corrupt:
                continue
            if payload:
                ends[fork] = max(ends[fork], offset + records.decode_extent(payload)[0])
        return set(ends), ends[max(ends)] if ends else 0
