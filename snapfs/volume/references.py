"""How snapshots are named and found: by name, tag, git commit, and in the order that they were made in.

Invariants:
  * (volume, name) -> epoch and (volume, tag) -> epoch are unique, and no name of a volume is a tag of it too.
  * ``commits`` has an entry for each snapshot with a git commit, ``created`` one for each snapshot; a snapshot's
    record names its tags, and ``tags`` has an entry for each.
  * A snapshot in the trash has its record only, and an entry in ``trash``: none of these finds it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Final

from snapfs.api import GitCommit
from snapfs.errors import AlreadyExists, Corrupt, Invalid, NotFound
from snapfs.format import keys, records
from snapfs.format.records import SnapshotRecord
from snapfs.store.index import Index, items, items_backward
from snapfs.types import Epoch
from snapfs.volume.suggest import nearest
from snapfs.volume.volumes import Volume, check_label

COMMIT_PREFIX_MIN: Final = 4
"""As git's own minimum for abbreviated commit IDs."""

COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
COMMIT_PREFIX = re.compile(rf"[0-9a-f]{{{COMMIT_PREFIX_MIN},64}}")
_NUMBERED = re.compile(r"(?P<commit>[0-9a-f]{4,64})\.(?P<number>[1-9][0-9]*)")
_KEY_NAME_BYTES: Final = 300
"""More than any name has, less than LMDB's longest key."""

Position = tuple[int, Epoch]
"""A snapshot's place in its volume: (ns since 1970 when it was made, epoch)."""


class References:
    def __init__(self, index: Index) -> None:
        self._index = index

    # -- reading

    def get(self, epoch: Epoch) -> SnapshotRecord | None:
        """Also of one in the trash."""
        payload = self._index.get("snapshots", keys.u64(epoch))
        return None if payload is None else records.decode_snapshot(payload)

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

    def _must(self, epoch: Epoch) -> SnapshotRecord:
        record = self.get(epoch)
        if record is None:
            raise Corrupt(f"snapshot {epoch} has a name but no record", hint="run: snap fsck")
        return record

    def names(self, volume: Volume) -> list[str]:
        return self._labels("names", volume)

    def tags(self, volume: Volume) -> list[str]:
        return self._labels("tags", volume)

    def _labels(self, table: str, volume: Volume) -> list[str]:
        prefix = keys.u64(volume.id)
        return [key[len(prefix) :].decode() for key, _ in items(self._index, table, prefix)]

    def count(self, volume: Volume) -> int:
        return sum(1 for _ in items(self._index, "names", keys.u64(volume.id)))

    # -- finding

    def resolve(self, volume: Volume, ref: str) -> SnapshotRecord:
        """Find by name, tag, commit ID (the newest snapshot of it) or unique commit prefix; ``<commit>.<n>`` is the
        n-th snapshot of a commit.

        Raises:
            NotFound: the hint names near ones.
            Invalid: the prefix fits several commits.
        """
        record = self.find(volume, ref)
        if record is None:
            hint = nearest(ref, [*self.tags(volume), *self.names(volume)], "snapshots")
            raise NotFound(f"volume {volume.name!r} has no snapshot {ref!r}", hint=hint)
        return record

    def find(self, volume: Volume, ref: str) -> SnapshotRecord | None:
        if not COMMIT.fullmatch(ref):
            epoch = self._labelled("names", volume, ref) or self._labelled("tags", volume, ref)
            if epoch is not None:
                return self._must(epoch)
        if COMMIT_PREFIX.fullmatch(ref):
            epochs = self._of_commit(volume, ref)
            return self._must(epochs[-1]) if epochs else None
        numbered = _NUMBERED.fullmatch(ref)
        if numbered:
            epochs = self._of_commit(volume, numbered["commit"])
            number = int(numbered["number"])
            wanted = [numbered["commit"], ref] if number == 1 else [ref]
            for record in map(self._must, epochs):
                if record.git and record.name.removeprefix(record.git.commit) in ("", f".{number}"):
                    short = numbered["commit"] + record.name.removeprefix(record.git.commit)
                    if short in wanted:
                        return record
        return None

    def tagged(self, volume: Volume, tag: str) -> SnapshotRecord | None:
        """The snapshot that has the tag."""
        epoch = self._labelled("tags", volume, tag)
        return None if epoch is None else self._must(epoch)

    def is_name(self, volume: Volume, name: str) -> bool:
        """Whether a snapshot has just this name; no tag, no commit is looked for."""
        return self._labelled("names", volume, name) is not None

    def _labelled(self, table: str, volume: Volume, label: str) -> Epoch | None:
        found = self._index.get(table, self._label_key(volume, label))
        return None if found is None else Epoch(keys.from_u64(found))

    def _of_commit(self, volume: Volume, prefix: str) -> list[Epoch]:
        """Snapshots of the one commit with the prefix, oldest first."""
        commits: dict[str, list[Epoch]] = {}
        for commit, epoch in self.of_commits(volume, prefix):
            commits.setdefault(commit, []).append(epoch)
            if len(commits) > 1 and not COMMIT.fullmatch(prefix):
                shown = ", ".join(c[:12] for c in commits)
                raise Invalid(f"commit prefix {prefix!r} is ambiguous", hint=f"it fits {shown}: give more digits")
        return sorted(commits.popitem()[1]) if commits else []

    def of_commits(self, volume: Volume, prefix: str) -> Iterator[tuple[str, Epoch]]:
        """(commit ID, epoch) of the snapshots whose commit begins so."""
        head = keys.u64(volume.id)
        for key, _ in items(self._index, "commits", head + prefix.encode()):
            commit, _, number = key[len(head) :].partition(b"\0")
            yield commit.decode(), Epoch(keys.from_u64(number))

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
        numbered = _NUMBERED.fullmatch(tag)
        if COMMIT.fullmatch(numbered["commit"] if numbered else tag):
            raise Invalid(f"{tag!r} is the name of a commit's snapshot, so it cannot be a tag")
        if self._labelled("names", volume, tag) is not None:
            raise AlreadyExists(f"volume {volume.name!r} has a snapshot {tag!r} already", hint="choose another tag")
        return tag

    # -- keys

    @staticmethod
    def _label_key(volume: Volume, name: str) -> bytes:
        # A name that is not UTF-8 (a byte name from a mount) cannot exist: look up what it would be.
        return keys.u64(volume.id) + name.encode(errors="surrogateescape")[:_KEY_NAME_BYTES]

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
