"""Which files show damaged bytes or records, in which views, and which snapshots still have them whole.

Invariants:
  * Looked at are only inodes that something damaged belongs to, in views that see it: the cost is the damage, once
    the tree was read to find them.
  * A file is whole in a view if its attributes, its target and all its extents can be read and all their blocks are
    sound; then so is the same path there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

from snapfs.api import Damage
from snapfs.format import keys, records
from snapfs.store.index import Reading
from snapfs.types import BlockId, Ino, VolumeId
from snapfs.versions.epochs import View
from snapfs.volume.check.base import MALFORMED, Findings, Shape, Shown, Tolerant, values

FILES_MAX: Final = 1000
"""Files listed; inodes looked for."""

BLOCKS_MAX: Final = 100
"""Of one file listed."""

GOOD_MAX: Final = 20
"""Snapshots named that have a file whole: the newest ones."""

_TURN: Final = 500
_DEPTH_MAX: Final = 4096


class _File:
    """One path of one volume."""

    def __init__(self) -> None:
        self.head = False
        self.snapshots: list[str] = []
        self.blocks: set[BlockId] = set()


class Damages:
    def __init__(self, source: Reading, shape: Shape, blocks: set[BlockId], findings: Findings, seed: int) -> None:
        """``blocks``: those whose bytes cannot be had.  ``seed``: of the hashes of names."""
        self._source = source
        self._seed = seed
        self._shape = shape
        self._blocks = blocks
        self._findings = findings
        self._tree = Tolerant(source)
        self._files: dict[tuple[VolumeId, bytes], _File] = {}
        self._good: dict[tuple[VolumeId, bytes], list[str]] = {}
        self._cut = False

    def run(self) -> Iterator[None]:
        """Find them; the result is ``listed()``."""
        inos: set[Ino] = set()
        for table, key in self._findings.bad:
            if table == "tree" and len(key) >= keys.HEAD_BYTES and len(inos) < FILES_MAX:
                inos.add(keys.split(key)[0])
        if self._blocks:
            yield from self._users(inos)
        if not inos:
            return
        views = self._shape.views()
        for shown in views:
            for ino in sorted(inos):
                self._look(shown, ino)
                yield
        for shown in reversed(views):
            if shown.snapshot is not None and not shown.snapshot.deleted_ns:
                self._find_good(shown)
                yield
        if self._cut:
            self._findings.add("more", f"more than {FILES_MAX} files are damaged: the list of them is cut")

    def _users(self, inos: set[Ino]) -> Iterator[None]:
        """Inodes with an extent, of any epoch, in a damaged block."""
        for number, (key, payload) in enumerate(values(self._source, "tree", _told)):
            if number % _TURN == 0:
                yield
            if not payload or len(key) < keys.HEAD_BYTES or keys.split(key)[1] != keys.EXTENT:
                continue
            try:
                block = records.decode_extent(payload)[1]
            except MALFORMED:
                continue
            if block in self._blocks:
                if len(inos) >= FILES_MAX:
                    self._cut = True
                    return
                inos.add(keys.split(key)[0])

    def _look(self, shown: Shown, ino: Ino) -> None:
        found = self._damage_of(shown.view, ino)
        if found is None:
            return
        for path in self._paths(shown, ino):
            if len(self._files) >= FILES_MAX and (shown.view.volume_id, path) not in self._files:
                self._cut = True
                continue
            file = self._files.setdefault((shown.view.volume_id, path), _File())
            file.blocks |= found
            if shown.snapshot is None:
                file.head = True
            else:
                file.snapshots.append(shown.snapshot.name)

    def _damage_of(self, view: View, ino: Ino) -> set[BlockId] | None:
        """Damaged blocks that the view shows of the inode (none of them: a record is damaged); None: it is whole, or
        not there."""
        try:
            inode = self._tree.inode(view, ino)
        except MALFORMED:
            return set()
        if inode is None:
            return None
        blocks: set[BlockId] = set()
        unread = False
        cursor = self._source.cursor("tree")
        found = cursor.set_range(keys.u64(ino))
        while found:
            key = cursor.key()
            subject = key[: -keys.EPOCH_BYTES]
            if not key.startswith(keys.u64(ino)) or len(subject) < keys.HEAD_BYTES:
                break
            kind = keys.split(subject)[1]
            of_fork = kind != keys.EXTENT or keys.split_extent(subject)[0] == inode.fork
            if of_fork and (kind != keys.DIRENT or ("tree", key) in self._findings.bad):
                try:
                    payload = self._tree.get(view, subject)
                    if payload and kind == keys.EXTENT:
                        block = records.decode_extent(payload)[1]
                        if block in self._blocks:
                            blocks.add(block)
                except MALFORMED:
                    unread = True
            found = cursor.next()
        return blocks if blocks or unread else None

    def _paths(self, shown: Shown, ino: Ino) -> list[bytes]:
        if ino == shown.root:
            return [b""]
        paths = []
        for subject, _, _ in self._tree.scan(shown.view, keys.head(ino, keys.PARENT)):
            parent, name = keys.split_hashed(subject)
            above = self._above(shown, Ino(parent))
            if above is not None:
                paths.append(b"/".join([*above, name]))
        return paths

    def _above(self, shown: Shown, ino: Ino) -> list[bytes] | None:
        """Names from the root to a directory; None if they do not lead there."""
        return path_of(self._tree, shown.view, shown.root, ino)

    def _find_good(self, shown: Shown) -> None:
        """What of the damaged paths the snapshot has whole."""
        assert shown.snapshot is not None
        number = shown.view.volume_id
        for volume, path in self._files:
            good = self._good.setdefault((volume, path), [])
            if volume == number and len(good) < GOOD_MAX and self._is_whole(shown, path):
                good.append(shown.snapshot.name)

    def _is_whole(self, shown: Shown, path: bytes) -> bool:
        ino = shown.root
        try:
            for name in filter(None, path.split(b"/")):
                entry = self._tree.get(shown.view, keys.dirent(ino, name, self._seed))
                if entry is None:
                    return False
                ino = records.decode_dirent(entry)[0]
            return self._tree.inode(shown.view, ino) is not None and self._damage_of(shown.view, ino) is None
        except MALFORMED:
            return False

    def listed(self) -> list[Damage]:
        """By volume and path."""
        found = []
        for (number, path), file in self._files.items():
            owner = self._shape.volumes.get(number)
            found.append(
                Damage(
                    volume=owner.name if owner else str(number),
                    path=os.fsdecode(path),
                    head=file.head,
                    snapshots=file.snapshots,
                    good=self._good.get((number, path), []),
                    blocks=[int(block) for block in sorted(file.blocks)[:BLOCKS_MAX]],
                )
            )
        return sorted(found, key=lambda damage: (damage.volume, damage.path))


def path_of(tree: Tolerant, view: View, root: Ino, ino: Ino) -> list[bytes] | None:
    """Names from the root of a view to a directory in it; None if parent links do not lead there."""
    names: list[bytes] = []
    while ino != root:
        link = next(iter(tree.scan(view, keys.head(ino, keys.PARENT))), None)
        if link is None or len(names) > _DEPTH_MAX:
            return None
        parent, name = keys.split_hashed(link[0])
        names.append(name)
        ino = Ino(parent)
    return names[::-1]


def _told(table: str, key: bytes, message: str) -> None:
    """By those who came before."""
