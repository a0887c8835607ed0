"""Which older bytes a file's new bytes may be equal to: where to look, in the index, on the trio thread.

A *relative* is a file as some view shows it, and by how much its offsets differ.  They are found by what a snapshot
shows in the file's place (the same inode; else the same name) and by chunks that are known: the block says which file
took it into use last, its *home*.

Invariants:
  * Nothing here is believed: what is found is compared byte by byte before it is used.
  * A relative found by a block's home shows that very block there.
"""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Iterator
from functools import partial
from typing import Final, NamedTuple

from snapfs.errors import Corrupt, NotFound, SnapfsError
from snapfs.format import keys, records
from snapfs.format.records import Block, Inode
from snapfs.types import BlockId, Epoch, Ino
from snapfs.versions.epochs import ROOT, View
from snapfs.volume.core import Core
from snapfs.volume.reduction.comparing import Old
from snapfs.volume.reduction.cutting import Chunk

_OLDS_MAX: Final = 512
"""Extents under one chunk: where there are more, comparing costs more than it saves."""


class Relative(NamedTuple):
    view: View
    inode: Inode
    delta: int
    """Its offset is the new file's plus this."""
    replaced: bool
    """It is the file itself: what it has there is about to be replaced."""

    @property
    def name(self) -> tuple[Epoch, Ino, int, int]:
        return self.view.epoch, self.inode.ino, self.inode.fork, self.delta


class Relatives:
    """Of one file of a head, for one flush."""

    def __init__(self, core: Core, view: View, inode: Inode) -> None:
        self._core = core
        self._view = view
        self._inode = inode
        self._parent = parent_view(core, view)
        self.usual = list(self._usual())
        """By place."""

    def _usual(self) -> Iterator[Relative]:
        if self._inode.allocated_bytes:
            yield Relative(self._view, self._inode, 0, replaced=True)
        if self._parent is None:
            return
        older = previous(self._core, self._view, self._parent, self._inode.ino)
        if older is not None and (older.ino, older.fork) != (self._inode.ino, self._inode.fork):
            yield Relative(self._parent, older, 0, replaced=False)

    def by_home(self, chunk: Chunk, block: BlockId) -> Relative | None:
        """Whose bytes the neighbours of a known chunk may be: the file that its block is at home in."""
        core = self._core
        try:
            entry = core.blocks.entry(core.index, block)
        except Corrupt:
            return None
        if not entry.home_ino:
            return None
        own = entry.home_ino == self._inode.ino
        for view in (self._parent, self._view) if own else (self._view, self._parent):
            if view is None:
                continue
            with contextlib.suppress(NotFound):
                inode = core.inode(view, entry.home_ino)
                at = entry.home_offset
                if any(extent.block == block for extent, _ in core.extents(view, inode, at, at + 1)):
                    return Relative(view, inode, at - chunk.offset, replaced=own and view is self._view)
        return None

    def refreshed(self, relative: Relative | None) -> Relative | None:
        """The same as of now, if it is still there."""
        for view in (self._view, self._parent):
            if relative is not None and view is not None and view.epoch == relative.view.epoch:
                with contextlib.suppress(NotFound):
                    return relative._replace(view=view, inode=self._core.inode(view, relative.inode.ino))
        return None

    def olds(self, relative: Relative, start: int, end: int) -> list[Old]:
        """What the relative has where [start, end) of the file would be."""
        blocks, delta = self._core.blocks, relative.delta
        start, end = max(start + delta, 0), min(end + delta, relative.inode.size)
        if start >= end:
            return []
        found = self._core.extents(relative.view, relative.inode, start, end)
        if len(found) > _OLDS_MAX:
            return []
        olds = []
        for extent, epoch in found:
            with contextlib.suppress(SnapfsError):  # lost or damaged
                file, entry = blocks.locate(extent.block)
                if entry.refs:
                    own = relative.replaced and epoch == self._view.epoch and self._only_head(entry)
                    load = partial(blocks.fetch, extent.block, file, entry)
                    start, end = extent.offset - delta, extent.end - delta
                    olds.append(Old(start, end, extent.block, extent.block_offset, entry.raw_bytes, own, load))
        return olds

    def _only_head(self, entry: Block) -> bool:
        """Whether no other view shows the block."""
        changes = self._core.accounts.changes(entry.account)
        return all(epoch == self._view.epoch for epoch, _ in changes)


def parent_view(core: Core, view: View) -> View | None:
    """What the snapshot that a head stands on shows; None without one."""
    if view.epoch not in core.epochs:
        return None
    parent = core.epochs.parent(view.epoch)
    if parent == ROOT:
        return None
    return View(view.volume_id, core.epochs.path(parent, near=view.path), writable=False)


def previous(core: Core, view: View, parent: View, ino: Ino) -> Inode | None:
    """The file as the parent view shows it: the same inode, else what has one of its names there."""
    with contextlib.suppress(NotFound):
        return core.inode(parent, ino)
    for subject, _, _ in core.tree.scan(view, keys.head(ino, keys.PARENT)):
        directory, name = keys.split_hashed(subject)
        payload = core.tree.get(parent, keys.dirent(Ino(directory), name, core.seed))
        if payload is not None:
            found, kind = records.decode_dirent(payload)
            if kind == stat.S_IFREG:
                with contextlib.suppress(NotFound):
                    return core.inode(parent, found)
    return None
