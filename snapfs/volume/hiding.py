"""Versions of a dying epoch that nothing below it sees: each child, or all that is below a dying one, hides them.

Invariants:
  * An inode's attributes stay in an epoch as long as it has anything else of the inode.  So a tombstone on them below
    has something to hide, and stays, as long as there is anything that it hides.
"""

from __future__ import annotations

from snapfs.format import keys, records
from snapfs.types import Epoch, Ino
from snapfs.versions.epochs import Epochs, Path, View
from snapfs.versions.keyspace import Keyspace

_DEAD = -1


class Hiding:
    """Looks at the open transaction.  What it remembers of inodes is good until somebody else changes the tree."""

    def __init__(self, tree: Keyspace, epochs: Epochs) -> None:
        self._tree = tree
        self._epochs = epochs
        self._forks: dict[tuple[Epoch, Ino], int | None] = {}
        self._near: Path | None = None

    def forget(self) -> None:
        """Somebody may have changed the tree."""
        self._forks.clear()

    def fork(self, epoch: Epoch, ino: Ino) -> int | None:
        """Which fork of the inode's data the epoch's own version of it shows: None if it has none, -1 if the inode is
        dead there."""
        place = epoch, ino
        if place not in self._forks:
            payload = self._tree.at(epoch, keys.inode(ino))
            fork = records.decode_inode(ino, payload).fork if payload else _DEAD
            self._forks[place] = None if payload is None else fork
        return self._forks[place]

    def by_inode(self, epoch: Epoch, subject: bytes) -> bool:
        """Whether the epoch's own attributes of the subject's inode hide its older versions."""
        ino, kind = keys.split(subject)
        fork = self.fork(epoch, ino)
        if kind == keys.EXTENT:
            return fork not in (None, keys.split_extent(subject)[0])
        return fork == _DEAD and kind != keys.INODE

    def below(self, epoch: Epoch, subject: bytes) -> bool:
        """Whether all children of the epoch hide its version, those that are dying by theirs if not themselves."""
        waiting = list(self._epochs.children(epoch))
        while waiting:
            child = waiting.pop()
            if not self.by_inode(child, subject) and self._tree.at(child, subject) is None:
                if child not in self._epochs.dying:
                    return False
                waiting.extend(self._epochs.children(child))
        return True

    def idle_tombstones(self, epoch: Epoch, subject: bytes) -> list[Epoch]:
        """Nearest epochs below whose tombstone of the subject hides nothing, now that the epoch has no version."""
        found, waiting = [], list(self._epochs.children(epoch))
        while waiting:
            child = waiting.pop()
            own = self._tree.at(child, subject)
            if own is None:
                waiting.extend(self._epochs.children(child) if child in self._epochs.dying else ())
            elif own == records.TOMBSTONE:
                self._near = self._epochs.path(child, self._near)  # a long one takes a millisecond to make
                view = View(self._epochs.volume(child), self._near, writable=False)
                if self._tree.find_below(view, subject, child) is None:
                    found.append(child)
        return found
