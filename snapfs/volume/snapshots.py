"""Snapshots: freeze a head, name, find, rename and remove frozen epochs; clone and check out.

Invariants:
  * A snapshot is one frozen epoch with a record; no version at that epoch is ever written again, but for
    those that reclaiming a deleted ancestor moves into it, which changes nothing that it shows.
  * (volume, name) -> epoch is unique; ``commits`` has an entry for each snapshot with a git commit.
  * freeze, clone, checkout and carry are one small transaction each, whatever the volume's size.
"""

from __future__ import annotations

import re
import time
import weakref
from collections.abc import Iterator
from typing import Final

import msgspec

from snapfs.api import GitCommit
from snapfs.errors import AlreadyExists, Corrupt, Invalid, NotFound, Stale
from snapfs.format import keys, records
from snapfs.format.records import SnapshotRecord
from snapfs.store.index import items
from snapfs.types import Epoch
from snapfs.versions.difference import changed_subjects, epochs_between
from snapfs.versions.epochs import View
from snapfs.volume.core import Core, now_ns
from snapfs.volume.files import Files
from snapfs.volume.suggest import nearest
from snapfs.volume.touched import Touched
from snapfs.volume.volumes import Volume, Volumes, check_label

COMMIT_PREFIX_MIN: Final = 4
"""As git's own minimum for abbreviated commit IDs."""

_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_COMMIT_PREFIX = re.compile(r"[0-9a-f]{4,64}")
_NUMBERED = re.compile(r"(?P<commit>[0-9a-f]{4,64})\.(?P<number>[1-9][0-9]*)")
_KEY_NAME_BYTES: Final = 300
"""More than any name has, less than LMDB's longest key."""
META_MAX: Final = 100
"""Key-value pairs a snapshot may carry."""
TEXT_BYTES_MAX: Final = 64 * 1024
"""Longest message or metadata value."""


class Snapshots:
    def __init__(self, core: Core, volumes: Volumes, files: Files) -> None:
        self._core = core
        self._volumes = volumes
        self._files = files
        self._views: weakref.WeakValueDictionary[Epoch, View] = weakref.WeakValueDictionary()

    # -- reading

    def get(self, epoch: Epoch) -> SnapshotRecord | None:
        payload = self._core.index.get("snapshots", keys.u64(epoch))
        return None if payload is None else records.decode_snapshot(payload)

    def all(self, volume: Volume) -> list[SnapshotRecord]:
        """Oldest first."""
        epochs = sorted(Epoch(keys.from_u64(p)) for _, p in items(self._core.index, "names", keys.u64(volume.id)))
        return [self._must(epoch) for epoch in epochs]

    def _must(self, epoch: Epoch) -> SnapshotRecord:
        record = self.get(epoch)
        if record is None:
            raise Corrupt(f"snapshot {epoch} has a name but no record", hint="run: snap fsck")
        return record

    def names(self, volume: Volume) -> list[str]:
        prefix = keys.u64(volume.id)
        return [key[len(prefix) :].decode() for key, _ in items(self._core.index, "names", prefix)]

    def count(self, volume: Volume) -> int:
        return sum(1 for _ in items(self._core.index, "names", keys.u64(volume.id)))

    def view(self, record: SnapshotRecord) -> View:
        """The read-only view; one object as long as somebody uses it."""
        view = self._views.get(record.epoch)
        if view is None:
            volume = self._volumes.by_id(record.volume)
            near = volume.head.path if volume else None
            view = View(record.volume, self._core.epochs.path(record.epoch, near), writable=False)
            self._views[record.epoch] = view
        return view

    def base(self, volume: Volume) -> SnapshotRecord | None:
        """The snapshot that the head stands on: the nearest ancestor that still is one."""
        return next(self.ancestry(self._core.epochs.parent(volume.head.epoch)), None)

    def ancestry(self, epoch: Epoch) -> Iterator[SnapshotRecord]:
        """Snapshots from the epoch to the root of the tree, nearest first."""
        for ancestor in self._core.epochs.ancestors(epoch):
            record = self.get(ancestor)
            if record is not None:
                yield record

    def resolve(self, volume: Volume, ref: str) -> SnapshotRecord:
        """Find by name, commit ID (the newest snapshot of it) or unique commit prefix; ``<commit>.<n>`` is the
        n-th snapshot of a commit.

        Raises:
            NotFound: the hint names near ones.
            Invalid: the prefix fits several commits.
        """
        record = self.find(volume, ref)
        if record is None:
            hint = nearest(ref, self.names(volume), "snapshots")
            raise NotFound(f"volume {volume.name!r} has no snapshot {ref!r}", hint=hint)
        return record

    def find(self, volume: Volume, ref: str) -> SnapshotRecord | None:
        if not _COMMIT.fullmatch(ref):
            found = self._core.index.get("names", self._name_key(volume, ref))
            if found is not None:
                return self._must(Epoch(keys.from_u64(found)))
        if _COMMIT_PREFIX.fullmatch(ref):
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

    def _of_commit(self, volume: Volume, prefix: str) -> list[Epoch]:
        """Snapshots of the one commit with the prefix, oldest first."""
        head = keys.u64(volume.id)
        commits: dict[bytes, list[Epoch]] = {}
        for key, _ in items(self._core.index, "commits", head + prefix.encode()):
            commit, _, number = key[len(head) :].partition(b"\0")
            commits.setdefault(commit, []).append(Epoch(keys.from_u64(number)))
            if len(commits) > 1 and not _COMMIT.fullmatch(prefix):
                shown = ", ".join(c.decode()[:12] for c in commits)
                raise Invalid(f"commit prefix {prefix!r} is ambiguous", hint=f"it fits {shown}: give more digits")
        return sorted(commits.popitem()[1]) if commits else []

    @staticmethod
    def _name_key(volume: Volume, name: str) -> bytes:
        # A name that is not UTF-8 (a byte name from a mount) cannot exist: look up what it would be.
        return keys.u64(volume.id) + name.encode(errors="surrogateescape")[:_KEY_NAME_BYTES]

    def check_alive(self, record: SnapshotRecord) -> None:
        """For whoever has awaited since it found the snapshot: one that is being reclaimed shows anything.

        Raises:
            Stale: it was removed meanwhile.
        """
        if self.get(record.epoch) is None:
            raise Stale(f"snapshot {record.name!r} was removed meanwhile")

    # -- making

    def freeze(
        self,
        volume: Volume,
        *,
        name: str = "",
        message: str = "",
        meta: dict[str, str] | None = None,
        git: GitCommit | None = None,
    ) -> SnapshotRecord:
        """Freeze the head as it is.  The caller holds the volume still and commits.

        Raises:
            AlreadyExists, Invalid, NameTooLong, NoSpace.
        """
        name = self.new_name(volume, name, git)
        check_texts(message, meta or {})
        core = self._core
        core.tree.check_writable(volume.head)  # it may have been removed while the caller waited
        core.admit()
        frozen = volume.head.epoch
        record = SnapshotRecord(
            epoch=frozen, volume=volume.id, name=name, root=volume.root, created_ns=now_ns(),
            message=message, meta=meta or {}, git=git, orphans=list(core.orphans(volume.head)),
        )  # fmt: skip
        volume.head.path = core.epochs.extend(volume.head.path, core.epochs.create(frozen, volume.id))
        self._volumes.save(volume)
        self._put(volume, record)
        return record

    def carry(self, volume: Volume, origin: SnapshotRecord, git: GitCommit) -> SnapshotRecord:
        """A further snapshot of what ``origin`` shows, for another commit: an empty epoch on top of it."""
        name = self.new_name(volume, "", git)
        self._core.index.check()
        epoch = self._core.epochs.create(origin.epoch, volume.id)
        record = msgspec.structs.replace(origin, epoch=epoch, name=name, git=git, created_ns=now_ns())
        self._put(volume, record)
        return record

    def new_name(self, volume: Volume, name: str, git: GitCommit | None) -> str:
        """Check a name, or find one: the commit's ID, or the time."""
        if git is not None and not _COMMIT.fullmatch(git.commit):
            raise Invalid(f"{git.commit!r} is not a full commit ID")
        if name:
            check_label(name, "snapshot")
            if _COMMIT.fullmatch(name) and (git is None or git.commit != name):
                raise Invalid(f"{name!r} is a commit ID", hint="name it by its commit: --git-commit")
        elif git is not None:
            name, number = git.commit, 1
            while self._taken(volume, name):
                number += 1
                name = f"{git.commit}.{number}"
            return name
        else:
            stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
            name, number = stamp, 1
            while self._taken(volume, name):
                number += 1
                name = f"{stamp}.{number}"
            return name
        if self._taken(volume, name):
            raise AlreadyExists(f"volume {volume.name!r} has a snapshot {name!r} already")
        return name

    def _taken(self, volume: Volume, name: str) -> bool:
        return self._core.index.get("names", self._name_key(volume, name)) is not None

    def _put(self, volume: Volume, record: SnapshotRecord) -> None:
        index = self._core.index
        index.put("snapshots", keys.u64(record.epoch), records.encode_json(record))
        index.put("names", self._name_key(volume, record.name), keys.u64(record.epoch))
        if record.git:
            index.put("commits", self._commit_key(volume, record), records.PRESENT)

    @staticmethod
    def _commit_key(volume: Volume, record: SnapshotRecord) -> bytes:
        commit = record.git.commit if record.git else ""
        return keys.u64(volume.id) + commit.encode() + b"\0" + keys.u64(record.epoch)

    def clone(self, record: SnapshotRecord, name: str) -> Volume:
        made = self._volumes.create_from(name, record.root, record.epoch)
        self._let_go(made.head, record)
        return made

    def _let_go(self, head: View, record: SnapshotRecord) -> None:
        """Nobody can have the snapshot's unlinked files open in a head that starts from it."""
        for ino in record.orphans:
            inode = self._files.getattr(head, ino)
            if inode.nlink == 0:
                self._core.bury(head, inode)

    def checkout(self, volume: Volume, record: SnapshotRecord) -> Touched:
        """The head becomes the snapshot; what it held and no snapshot has is gone.  The caller holds the volume
        still, has asked about unsaved changes, and commits."""
        core = self._core
        core.tree.check_writable(volume.head)
        self.check_alive(record)
        core.admit()
        old = volume.head.epoch
        between = epochs_between(core.epochs, old, record.epoch)
        touched = Touched().add(changed_subjects(core.tree, between))
        self._files.forget_head(volume.head)
        path = core.epochs.path(record.epoch, volume.head.path)
        volume.head.path = core.epochs.extend(path, core.epochs.create(record.epoch, volume.id))
        volume.root = record.root
        self._let_go(volume.head, record)
        core.epochs.doom(old)
        self._volumes.save(volume)
        return touched

    # -- changing and removing

    def rename(self, volume: Volume, record: SnapshotRecord, name: str) -> SnapshotRecord:
        self._core.index.check()
        name = self.new_name(volume, check_label(name, "snapshot"), record.git)
        self._core.index.delete("names", self._name_key(volume, record.name))
        record = msgspec.structs.replace(record, name=name)
        self._put(volume, record)
        return record

    def remove(self, volume: Volume, record: SnapshotRecord) -> None:
        """Forget the snapshot, in O(1); its space comes back in the background.  No clone and no later snapshot
        is touched by it."""
        index = self._core.index
        index.check()
        index.delete("names", self._name_key(volume, record.name))
        if record.git:
            index.delete("commits", self._commit_key(volume, record))
        index.delete("snapshots", keys.u64(record.epoch))
        view = self._views.pop(record.epoch, None)
        if view is not None:
            view.gone = True
        self._core.epochs.doom(record.epoch)


def check_texts(message: str, meta: dict[str, str]) -> None:
    """Raises:
    Invalid: a message or metadata that is too large or malformed.
    """
    if len(meta) > META_MAX:
        raise Invalid(f"a snapshot carries at most {META_MAX} metadata values")
    for key in meta:
        check_label(key, "metadata")
    for text in (message, *meta.values()):
        if len(text.encode(errors="replace")) > TEXT_BYTES_MAX:
            raise Invalid(f"a message or metadata value has at most {TEXT_BYTES_MAX} bytes")
