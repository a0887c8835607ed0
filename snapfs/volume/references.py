"""How snapshots are named, and in what order they are listed; ``finding`` is how they are found.

Invariants:
  * ``created`` has an entry for each snapshot, but for those in the trash.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from snapfs.api import GitCommit
from snapfs.errors import AlreadyExists, Invalid
from snapfs.format import keys
from snapfs.format.records import SnapshotRecord
from snapfs.store.index import Index, items, items_backward
from snapfs.types import Epoch, VolumeId
from snapfs.volume.finding import COMMIT as COMMIT
from snapfs.volume.finding import COMMIT_PREFIX as COMMIT_PREFIX
from snapfs.volume.finding import COMMIT_PREFIX_MIN as COMMIT_PREFIX_MIN
from snapfs.volume.finding import NUMBERED, Finding
from snapfs.volume.volumes import Volume, check_label

Position = tuple[int, Epoch]
"""A snapshot's place in its volume: (ns since 1970 when it was made, epoch)."""


class References(Finding):
    def __init__(self, index: Index) -> None:
        super().__init__(index)
        self._index = index
        self._counts: dict[VolumeId, int] = {}
        """Of the volumes that somebody asked about; all that lists or unlists a snapshot keeps it up to date."""

    # -- listing

    def all(self, volume: Volume) -> list[SnapshotRecord]:
        """Oldest first."""
        return [self._must(epoch) for _, epoch in self.order(volume)]

    def order(self, volume: Volume, *, after: Position | None = None, backward: bool = False) -> Iterator[Position]:
        """The volume's snapshots in the order that they were made in (backward: the newest first), from the one after
        a position on; nothing is known of whether that still exists.  Not across a commit or mutation."""
        prefix = keys.u64(volume.id)
        place = keys.u64(after[0]) + keys.u64(after[1]) if after else b""
        if backward:
            found = items_backward(self._index, "created", prefix, place if after else None)
        else:
            found = items(self._index, "created", prefix, place + b"\0" if after else b"")
        for key, _ in found:
            yield keys.from_u64(key, 8), Epoch(keys.from_u64(key, 16))

    def count(self, volume: Volume) -> int:
        """Snapshots that can be found: counted once, then kept up with."""
        if volume.id not in self._counts:
            self._counts[volume.id] = sum(1 for _ in items(self._index, "names", keys.u64(volume.id)))
        return self._counts[volume.id]

    def _counted(self, volume: Volume, change: int) -> None:
        if volume.id in self._counts:
            self._counts[volume.id] += change

    # -- naming

    def new_name(self, volume: Volume, name: str, git: GitCommit | None) -> str:
        """Check a name, or find one: the commit's ID, or the time."""
        if git is not None:
            check_commit(git)
        if not name:
            return self._free_name(volume, git.commit if git else stamp())
        check_label(name, "snapshot")
        if COMMIT.fullmatch(name) and (git is None or git.commit != name):
            raise Invalid(f"{name!r} is a commit ID", hint="name it by its commit: --git-commit")
        self._check_free(volume, name)
        return name

    def unsaved_name(self, volume: Volume, label: str) -> str:
        """A name for a snapshot that takes unsaved changes."""
        return self._free_name(volume, f"unsaved-{stamp()}", f"-{label}" if label else "")

    def _free_name(self, volume: Volume, name: str, ending: str = "") -> str:
        found, number = name + ending, 1
        while self._taken(volume, found):
            number += 1
            found = f"{name}.{number}{ending}"
        return found

    def _taken(self, volume: Volume, name: str) -> bool:
        return any(self._labelled(table, volume, name) is not None for table in ("names", "tags"))

    def _check_free(self, volume: Volume, name: str) -> None:
        if self._labelled("names", volume, name) is not None:
            raise AlreadyExists(f"volume {volume.name!r} has a snapshot {name!r} already")
        if self._labelled("tags", volume, name) is not None:
            raise AlreadyExists(f"volume {volume.name!r} has a tag {name!r} already", hint="remove the tag first")

    def check_tag(self, volume: Volume, tag: str) -> str:
        """Check that a snapshot may get the tag.

        Raises:
            AlreadyExists: a snapshot has it as its name.
            Invalid, NameTooLong.
        """
        check_label(tag, "tag")
        numbered = NUMBERED.fullmatch(tag)
        if COMMIT.fullmatch(numbered["commit"] if numbered else tag):
            raise Invalid(f"{tag!r} is the name of a commit's snapshot, so it cannot be a tag")
        if self._labelled("names", volume, tag) is not None:
            raise AlreadyExists(f"volume {volume.name!r} has a snapshot {tag!r} already", hint="choose another tag")
        return tag

    # -- keys

    @staticmethod
    def _commit_key(volume: Volume, record: SnapshotRecord) -> bytes:
        commit = record.git.commit if record.git else ""
        return keys.u64(volume.id) + commit.encode() + b"\0" + keys.u64(record.epoch)


def check_commit(git: GitCommit) -> None:
    """Raises:
    Invalid: it is not named in full.
    """
    if not COMMIT.fullmatch(git.commit):
        raise Invalid(f"{git.commit!r} is not a full commit ID")


def created_key(record: SnapshotRecord) -> bytes:
    """In table ``created``."""
    return keys.u64(record.volume) + keys.u64(record.created_ns) + keys.u64(record.epoch)


def trash_key(deleted_ns: int, number: int) -> bytes:
    """In table ``trash``: of a snapshot, by its epoch, or of a volume; both come from one sequence."""
    return keys.u64(deleted_ns) + keys.u64(number)


def stamp() -> str:
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
