"""Differences between two views, by path: what the changes of the epochs between them come down to.

Cost: proportional to those changes (and the depth of their paths), never to the size of the volume.

Rules:
  * A path that exists in both views with another inode (rewritten and renamed over, removed and made anew) is
    MODIFIED, or unchanged if content and attributes are equal; but a directory that moved there is RENAMED.
  * An inode that lost one path and gained another is RENAMED; of a renamed directory only itself is reported.
  * Of two files with the same size and mtime but other records the bytes are compared: optimizing exchanges records.
  * Times of directories, ctime and atime do not count; a file's mtime is metadata.
"""

from __future__ import annotations

import itertools
import stat
from collections.abc import Generator, Iterator
from typing import Final

import msgspec

from snapfs.api import Change, ChangeKind
from snapfs.errors import Corrupt, IOFailure
from snapfs.extents import HOLE, Extent
from snapfs.format import keys, records
from snapfs.format.records import Inode
from snapfs.types import BLOCK_BYTES_MAX, FILE_BYTES_MAX, Ino
from snapfs.versions.difference import changed_subjects
from snapfs.versions.epochs import Chain, Path, View
from snapfs.versions.keyspace import Snapshotted
from snapfs.volume.core import Core

_PATHS_MAX: Final = 100_000
"""Directory paths remembered, to resolve each once in most comparisons."""

_SORTED_MAX: Final = 100_000
"""Changes sorted by path; longer answers come in sorted batches of this size, so that memory is bounded."""

_TYPES: Final = {
    stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink", stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket", stat.S_IFCHR: "device", stat.S_IFBLK: "device",
}  # fmt: skip

Link = tuple[Ino, bytes]


def detached(view: View) -> View:
    """A view that reclaiming does not change: for reading a state of the past."""
    return View(view.volume_id, view.path.lend(), writable=False)


EMPTY: Final = View(0, Path(Chain([]), 0), writable=False)  # type: ignore[arg-type]
"""The view of nothing."""


class Side:
    """One of the two views, with its directory paths."""

    def __init__(self, core: Core, tree: Snapshotted, view: View, root: Ino) -> None:
        self._core = core
        self._tree = tree
        self.view = view
        self.root = root
        self._paths: dict[Ino, bytes | None] = {}
        self._inos: dict[bytes, Ino | None] = {}

    def inode(self, ino: Ino) -> Inode | None:
        payload = self._tree.get(self.view, keys.inode(ino))
        if payload is None:
            return None
        inode = records.decode_inode(ino, payload)
        return inode if inode.nlink else None

    def links(self, ino: Ino) -> set[Link]:
        found = set()
        for subject, _, _ in self._tree.scan(self.view, keys.head(ino, keys.PARENT)):
            parent, name = keys.split_hashed(subject)
            found.add((Ino(parent), name))
        return found

    def path(self, link: Link) -> bytes | None:
        """Path of an entry, without a leading slash; None if a directory above it is gone."""
        above = self._directory_path(link[0])
        if above is None:
            return None
        return above + b"/" + link[1] if above else link[1]

    def _directory_path(self, ino: Ino) -> bytes | None:
        if ino == self.root:
            return b""
        if ino not in self._paths:
            links = self.links(ino)
            if len(self._paths) >= _PATHS_MAX:
                self._paths.clear()
            self._paths[ino] = self.path(links.pop()) if links else None
        return self._paths[ino]

    def resolve(self, path: bytes) -> Ino | None:
        """Inode at a path, or None."""
        above, _, name = path.rpartition(b"/")
        parent: Ino | None = self.root
        if above:
            if above not in self._inos:
                if len(self._inos) >= _PATHS_MAX:
                    self._inos.clear()
                self._inos[above] = self.resolve(above)
            parent = self._inos[above]
        if parent is None:
            return None
        payload = self._tree.get(self.view, keys.dirent(parent, name, self._core.seed))
        return records.decode_dirent(payload)[0] if payload else None

    def extents(self, inode: Inode) -> Iterator[tuple[bytes, Extent]]:
        """(payload, extent) of all extents of a file, by offset."""
        for subject, _, payload in self._tree.scan(self.view, keys.extents(inode.ino, inode.fork)):
            yield payload, Extent(keys.split_extent(subject)[1], *records.decode_extent(payload))

    def extras(self, inode: Inode) -> list[tuple[bytes, bytes]]:
        """xattrs."""
        found = self._tree.scan(self.view, keys.head(inode.ino, keys.XATTR))
        return [(keys.split_xattr(subject), payload) for subject, _, payload in found]

    def target(self, inode: Inode) -> bytes | None:
        return self._tree.get(self.view, keys.symlink(inode.ino)) if stat.S_ISLNK(inode.mode) else None


class Comparison:
    """Changes from one view to another."""

    def __init__(self, core: Core, tree: Snapshotted, old: tuple[View, Ino], new: tuple[View, Ino]) -> None:
        self._core = core
        self._tree = tree
        self._old = Side(core, tree, *old)
        self._new = Side(core, tree, *new)
        self._between = old[0].path.apart(new[0].path)
        self._bytes_left = FILE_BYTES_MAX
        """How many may still be compared where only records differ."""

    def __iter__(self) -> Iterator[Change | None]:
        """Changes, in batches sorted by path; None now and then, so that a caller can let others run."""
        batch: list[Change] = []
        for change in self.unsorted():
            if change is None:
                yield None
                continue
            batch.append(change)
            if len(batch) == _SORTED_MAX:
                yield from sorted(batch, key=_by_path)
                batch.clear()
        yield from sorted(batch, key=_by_path)

    def any(self) -> bool:
        """Whether anything differs at all; in doubt (see ``_BYTES_AT_ONCE_MAX``) it does."""
        self._bytes_left = _BYTES_AT_ONCE_MAX
        return any(change is not None for change in self.unsorted())

    def unsorted(self) -> Iterator[Change | None]:
        subjects = changed_subjects(self._tree, self._between)
        for ino, group in itertools.groupby(subjects, key=lambda subject: keys.split(subject)[0]):
            mine = False  # records of the inode itself, not entries of it as a directory
            extents = []
            for count, subject in enumerate(group):
                kind = keys.split(subject)[1]
                mine = mine or kind != keys.DIRENT
                if kind == keys.EXTENT:
                    extents.append(subject)
                if count % _SUBJECTS_A_TURN == 0:
                    yield None
            if mine:
                yield from self._inode(ino, extents)

    def _inode(self, ino: Ino, extents: list[bytes]) -> Iterator[Change | None]:
        old, new = self._old.inode(ino), self._new.inode(ino)
        before = self._old.links(ino) if old else set()
        after = self._new.links(ino) if new else set()
        if ino == self._new.root and old and new:
            yield from self._modified(old, new, b"", extents)
            return
        gone = self._paths(self._old, before - after)
        come = self._paths(self._new, after - before)
        kept = self._paths(self._new, before & after)
        # The directory around it was made anew under the same name: the path is what counts.
        back = set(gone) & set(come)
        gone, come, kept = _without(gone, back), _without(come, back), sorted({*kept, *back})
        if old and new and gone and come and stat.S_ISDIR(new.mode):
            # Even over another directory: what is in it moved with it, and that is reported nowhere else.
            yield self._change(ChangeKind.RENAMED, old, new, come[0], gone[0], extents)
            return
        # A path that the other side has too is a replacement, reported where the new inode stands.
        replaced = [(path, other) for path in come if (other := self._other(self._old, path, ino))]
        come = _without(come, {path for path, _ in replaced})
        gone = [path for path in gone if not self._reported(path)]
        if new:
            for path, other in replaced:
                yield from self._modified(other, new, path, None)
        renamed = bool(old and new and gone and come)
        if old and new:
            while gone and come:
                yield self._change(ChangeKind.RENAMED, old, new, come.pop(0), gone.pop(0), extents)
            if kept and not renamed:
                yield from self._modified(old, new, min(kept), extents)
        for path in gone:
            yield self._change(ChangeKind.DELETED, old, None, path)
        for path in come:
            yield self._change(ChangeKind.ADDED, None, new, path)

    def _reported(self, path: bytes) -> bool:
        """Whether a path that an inode lost has a new inode, which is reported there: not if it came along with a
        directory that was renamed."""
        found = self._new.resolve(path)
        if found is None:
            return False
        above, _, name = path.rpartition(b"/")
        parent = self._new.resolve(above) if above else self._new.root
        return self._old.inode(found) is None or (parent, name) not in self._old.links(found)

    @staticmethod
    def _paths(side: Side, links: set[Link]) -> list[bytes]:
        return sorted(path for link in links if (path := side.path(link)) is not None)

    @staticmethod
    def _other(side: Side, path: bytes, ino: Ino) -> Inode | None:
        found = side.resolve(path)
        return side.inode(found) if found is not None and found != ino else None

    def _modified(self, old: Inode, new: Inode, path: bytes, extents: list[bytes] | None) -> Iterator[Change | None]:
        change = self._change(ChangeKind.MODIFIED, old, new, path, extents=extents)
        same = (old.size, old.mtime_ns) == (new.size, new.mtime_ns) and stat.S_ISREG(new.mode)
        if change.content and same and (yield from self._same_bytes(old, new)):
            change = msgspec.structs.replace(change, content=False, changed_bytes=0)
        if change.content or change.metadata:
            yield change

    def _change(
        self,
        kind: ChangeKind,
        old: Inode | None,
        new: Inode | None,
        path: bytes,
        old_path: bytes = b"",
        extents: list[bytes] | None = None,
    ) -> Change:
        content, metadata, changed = True, True, 0
        if old and new:
            content, changed = self._content(old, new, extents)
            metadata = self._metadata(old, new)
        elif old or new:
            one = new or old
            changed = one.allocated_bytes if one and stat.S_ISREG(one.mode) else 0
        shown = new or old
        assert shown is not None
        return Change(
            kind=kind,
            path=path.decode(errors="surrogateescape"),
            old_path=old_path.decode(errors="surrogateescape"),
            type=_TYPES[stat.S_IFMT(shown.mode)],
            old_bytes=_size(old),
            new_bytes=_size(new),
            changed_bytes=changed,
            content=content,
            metadata=metadata,
        )

    def _metadata(self, old: Inode, new: Inode) -> bool:
        if (old.mode, old.uid, old.gid, old.rdev) != (new.mode, new.uid, new.gid, new.rdev):
            return True
        if not stat.S_ISDIR(new.mode) and old.mtime_ns != new.mtime_ns:
            return True
        return self._old.extras(old) != self._new.extras(new)

    def _content(self, old: Inode, new: Inode, extents: list[bytes] | None) -> tuple[bool, int]:
        """(whether content differs, how many of the new bytes do)."""
        if stat.S_ISLNK(new.mode) and stat.S_ISLNK(old.mode):
            return self._old.target(old) != self._new.target(new), 0
        if not (stat.S_ISREG(new.mode) and stat.S_ISREG(old.mode)):
            return stat.S_IFMT(old.mode) != stat.S_IFMT(new.mode), 0
        if extents is not None and old.ino == new.ino and old.fork == new.fork:
            differ, changed = self._changed_extents(old, new, extents)
        else:
            differ, changed = self._all_extents(old, new)
        return differ or old.size != new.size, changed

    def _same_bytes(self, old: Inode, new: Inode) -> Generator[None, None, bool]:
        """Whether two files of one size show the same by other records: optimizing exchanges these.  A block a step."""
        was = _pieces((extent for _, extent in self._old.extents(old)), old.size)
        now = _pieces((extent for _, extent in self._new.extents(new)), new.size)
        for a, b in _side_by_side(was, now):
            yield
            if _alike(a, b):
                continue
            self._bytes_left -= a.length
            try:
                if self._bytes_left < 0 or self._bytes(a) != self._bytes(b):
                    return False
            except (Corrupt, IOFailure):  # whoever reads it is told
                return False
        return True

    def _bytes(self, piece: Extent) -> bytes:
        if piece.block == HOLE:
            return bytes(piece.length)
        blocks = self._core.blocks
        data = blocks.cached(piece.block)
        if data is None:
            data = blocks.fetch(piece.block, *blocks.locate(piece.block)) or b""
            blocks.remember(piece.block, data)
        return data[piece.block_offset : piece.block_offset + piece.length]

    def _changed_extents(self, old: Inode, new: Inode, subjects: list[bytes]) -> tuple[bool, int]:
        """Of one file with one fork: only the extents that were written can differ."""
        differ, changed = False, 0
        for subject in subjects:
            fork, offset = keys.split_extent(subject)
            if fork != new.fork:
                continue
            was = self._tree.get(self._old.view, subject)
            now = self._tree.get(self._new.view, subject)
            if was != now:
                differ = True
                if now:
                    extent = Extent(offset, *records.decode_extent(now))
                    before = self._core.extents(self._old.view, old, offset, extent.end, self._tree)
                    changed += extent.length - sum(_shared(extent, e) for e, _ in before)
        return differ, changed

    def _all_extents(self, old: Inode, new: Inode) -> tuple[bool, int]:
        """Of two files, or forks: walk both lists of extents, which are as long as what was written."""
        was = self._old.extents(old)
        differ, changed = False, 0
        pending = next(was, None)
        for payload, extent in self._new.extents(new):
            while pending and pending[1].offset < extent.offset:
                differ, pending = True, next(was, None)
            if pending and pending[1].offset == extent.offset and pending[0] == payload:
                pending = next(was, None)
            else:
                differ, changed = True, changed + extent.length
        return differ or pending is not None, changed


_SUBJECTS_A_TURN: Final = 256
_BYTES_AT_ONCE_MAX: Final = 64 * 1024 * 1024
"""Compared where nobody else may run meanwhile: 0.1 s."""


def _shared(a: Extent, b: Extent) -> int:
    """Bytes that two extents of one file map alike."""
    if a.block != b.block or a.block_offset - a.offset != b.block_offset - b.offset:
        return 0
    return max(0, min(a.end, b.end) - max(a.offset, b.offset))


def _alike(a: Extent, b: Extent) -> bool:
    return a.block == b.block and (a.block == HOLE or a.block_offset == b.block_offset)


def _pieces(extents: Iterator[Extent], size: int) -> Iterator[Extent]:
    """The extents, and HOLEs of at most a block's size between and after them."""
    at = 0
    for extent in itertools.chain(extents, [Extent(size, 0, HOLE, 0)]):
        while at < extent.offset:
            length = min(extent.offset - at, BLOCK_BYTES_MAX)
            yield Extent(at, length, HOLE, 0)
            at += length
        if extent.length:
            yield extent
            at = extent.end


def _side_by_side(was: Iterator[Extent], now: Iterator[Extent]) -> Iterator[tuple[Extent, Extent]]:
    """Two files of one size in pieces of the same ranges."""
    a, b = next(was, None), next(now, None)
    while a and b:
        end = min(a.end, b.end)
        yield a.cut(a.offset, end), b.cut(b.offset, end)
        a = a.cut(end, a.end) if end < a.end else next(was, None)
        b = b.cut(end, b.end) if end < b.end else next(now, None)


def _size(inode: Inode | None) -> int:
    return inode.size if inode and not stat.S_ISDIR(inode.mode) else 0


def _without(paths: list[bytes], others: set[bytes]) -> list[bytes]:
    return [path for path in paths if path not in others]


def _by_path(change: Change) -> str:
    return change.path


def compare(core: Core, tree: Snapshotted, old: tuple[View, Ino] | None, new: tuple[View, Ino]) -> Comparison:
    """Compare two (view, root inode); ``old`` None stands for nothing at all."""
    return Comparison(core, tree, old or (EMPTY, new[1]), new)
