"""Snapshots: freeze a head; rename, tag and remove frozen epochs; clone and check out.

Invariants:
  * A snapshot is one frozen epoch with a record; no version at that epoch is ever written again, but for
    those that reclaiming a deleted ancestor moves into it, which changes nothing that it shows.
  * Whatever changes a snapshot's record leaves an entry in ``unsealed``: its seal is written, anew, or goes (``seal``).
  * freeze, clone, checkout, carry, tag and remove are one small transaction each, whatever the volume's size, with
    the event that tells of it.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Final

import msgspec

from snapfs.api import EventKind, GitCommit
from snapfs.errors import AlreadyExists, Conflict, Invalid, NotFound
from snapfs.format import keys, records
from snapfs.format.records import SnapshotRecord
from snapfs.types import PAGE_BYTES, Epoch
from snapfs.versions.difference import changed_subjects, epochs_between
from snapfs.versions.epochs import View
from snapfs.volume.core import Core, now_ns
from snapfs.volume.files import Files
from snapfs.volume.references import References, check_commit, created_key
from snapfs.volume.suggest import nearest
from snapfs.volume.touched import Touched
from snapfs.volume.volumes import Volume, Volumes, check_label

META_MAX: Final = 100
"""Key-value pairs a snapshot may carry."""
TEXT_BYTES_MAX: Final = 64 * 1024
"""Longest message or metadata value."""
TAGS_MAX: Final = 100
"""Tags of one snapshot: all are in its record."""
_PAGES_A_RECORD: Final = 8
"""Of the index: one in each table that names a new snapshot."""


class Snapshots(References):
    def __init__(self, core: Core, volumes: Volumes, files: Files) -> None:
        super().__init__(core.index)
        self._core = core
        self._volumes = volumes
        self._files = files
        self._views: weakref.WeakValueDictionary[Epoch, View] = weakref.WeakValueDictionary()

    # -- reading

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

    def ancestry(self, epoch: Epoch, *, below: Epoch | None = None) -> Iterator[SnapshotRecord]:
        """Snapshots from the epoch to the root of the tree, nearest first; only those numbered below a bound, if
        there is one (an ancestor's number is less than its descendant's)."""
        for ancestor in self._core.epochs.ancestors(epoch):
            record = self.get(ancestor) if below is None or ancestor < below else None
            if record is not None:
                yield record

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
        core.admit(_record_bytes(message, meta or {}))
        frozen = volume.head.epoch
        record = SnapshotRecord(
            epoch=frozen, volume=volume.id, name=name, root=volume.root, created_ns=now_ns(),
            message=message, meta=meta or {}, git=git, orphans=list(core.orphans(volume.head)),
            used_bytes=volume.usage.used_bytes,
        )  # fmt: skip
        volume.head.path = core.epochs.extend(volume.head.path, core.epochs.create(frozen, volume.id))
        self._volumes.save(volume)
        self._put_new(volume, record)
        return record

    def carry(self, volume: Volume, origins: list[tuple[SnapshotRecord, GitCommit]]) -> list[SnapshotRecord]:
        """Of each a further snapshot of what it shows, for another commit: an empty epoch on top of it.  Tags stay
        with the origin.

        Raises:
            Invalid, NoSpace: nothing was carried.
        """
        self._index.check()
        for _, git in origins:
            check_commit(git)
        self._core.admit(sum(_record_bytes(origin.message, origin.meta) for origin, _ in origins))
        return [self._carry(volume, origin, git) for origin, git in origins]

    def _carry(self, volume: Volume, origin: SnapshotRecord, git: GitCommit) -> SnapshotRecord:
        name = self.new_name(volume, "", git)
        epoch = self._core.epochs.create(origin.epoch, volume.id)
        record = msgspec.structs.replace(origin, epoch=epoch, name=name, git=git, created_ns=now_ns(), tags=[])
        self._put_new(volume, record)
        return record

    def _put_new(self, volume: Volume, record: SnapshotRecord) -> None:
        self._put(record)
        self._index.put("names", self._label_key(volume, record.name), keys.u64(record.epoch))
        self._index.put("created", created_key(record), records.PRESENT)
        if record.git:
            self._index.put("commits", self._commit_key(volume, record), records.PRESENT)
        self._tell(EventKind.SNAPSHOT_CREATED, volume, record)

    def _put(self, record: SnapshotRecord) -> None:
        self._index.put("snapshots", keys.u64(record.epoch), records.encode_json(record))
        self._index.put("unsealed", keys.u64(record.epoch), records.PRESENT)

    def _tell(self, kind: EventKind, volume: Volume, record: SnapshotRecord, message: str = "") -> None:
        commit = record.git.commit if record.git else ""
        self._core.events.append(kind, volume.name, record.name, commit, message)

    def tell_restore(self, volume: Volume, record: SnapshotRecord) -> None:
        """In the step that puts something of the snapshot back into the head."""
        self._tell(EventKind.RESTORE, volume, record)

    def clone(self, record: SnapshotRecord, name: str) -> Volume:
        source = self._volumes.by_id(record.volume)
        origin = f"{source.name}@{record.name}" if source else record.name
        made = self._volumes.create_from(name, record, origin)
        self._let_go(made.head, record)
        return made

    def _let_go(self, head: View, record: SnapshotRecord) -> None:
        """Nobody can have the snapshot's unlinked files open in a head that starts from it."""
        for ino in record.orphans:
            inode = self._files.getattr(head, ino)
            if inode.nlink == 0:
                self._core.bury(head, inode)

    def checkout(self, volume: Volume, record: SnapshotRecord) -> Touched:
        """The head becomes the snapshot, whatever its quota; what it held and no snapshot has is gone.  The caller
        holds the volume still, has asked about unsaved changes, and commits."""
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
        volume.usage.used_bytes = record.used_bytes
        self._let_go(volume.head, record)
        core.epochs.doom(old)
        self._volumes.save(volume)
        self._tell(EventKind.CHECKOUT, volume, record)
        return touched

    # -- changing and removing

    def rename(self, volume: Volume, record: SnapshotRecord, name: str) -> SnapshotRecord:
        self._index.check()
        name = self.new_name(volume, check_label(name, "snapshot"), record.git)
        self._core.admit(_record_bytes(record.message, record.meta))
        self._index.delete("names", self._label_key(volume, record.name))
        renamed = msgspec.structs.replace(record, name=name)
        self._put(renamed)
        self._index.put("names", self._label_key(volume, name), keys.u64(record.epoch))
        self._tell(EventKind.SNAPSHOT_RENAMED, volume, renamed, record.name)
        return renamed

    def tag(self, volume: Volume, record: SnapshotRecord, tag: str, *, move: bool = False) -> SnapshotRecord:
        """Give the snapshot a further name; nothing happens if it has it already.

        Raises:
            AlreadyExists: a snapshot has it as its name, or, without ``move``, another as its tag.
            Invalid, NameTooLong, NoSpace, Conflict (too many tags).
        """
        self._index.check()
        owner = self.tagged(volume, self.check_tag(volume, tag))
        if owner is not None and owner.epoch == record.epoch:
            return record
        if owner is not None and not move:
            raise AlreadyExists(f"snapshot {owner.name!r} has the tag {tag!r}", hint="to move the tag ask for that")
        if len(record.tags) >= TAGS_MAX:
            raise Conflict(f"snapshot {record.name!r} has {TAGS_MAX} tags, which is the most", hint="remove one first")
        self._core.admit(_record_bytes(record.message, record.meta))
        if owner is not None:
            self._put(_without(owner, tag))
        tagged = msgspec.structs.replace(record, tags=sorted([*record.tags, tag]))
        self._put(tagged)
        self._index.put("tags", self._label_key(volume, tag), keys.u64(record.epoch))
        self._tell(EventKind.TAG_SET, volume, tagged, tag)
        return tagged

    def remove_tag(self, volume: Volume, tag: str) -> None:
        """Raises:
        NotFound: no snapshot of the volume has the tag.
        """
        self._index.check()
        owner = self.tagged(volume, tag)
        if owner is None:
            raise NotFound(f"volume {volume.name!r} has no tag {tag!r}", hint=nearest(tag, self.tags(volume), "tags"))
        self._put(_without(owner, tag))
        self._index.delete("tags", self._label_key(volume, tag))
        self._tell(EventKind.TAG_DELETED, volume, owner, tag)

    def remove(self, volume: Volume, record: SnapshotRecord) -> None:
        """Forget the snapshot and its tags, in O(1); its space comes back in the background.  No clone and no later
        snapshot is touched by it."""
        self._index.check()
        self._forget(volume, record)
        self._tell(EventKind.SNAPSHOT_DELETED, volume, record)

    def remove_all(self, volume: Volume) -> None:
        """Forget all of the volume's, which is removed in the same step: its event tells of them too."""
        self._index.check()
        for record in self.all(volume):
            self._forget(volume, record)

    def _forget(self, volume: Volume, record: SnapshotRecord) -> None:
        index = self._index
        index.delete("names", self._label_key(volume, record.name))
        index.delete("created", created_key(record))
        for tag in record.tags:
            index.delete("tags", self._label_key(volume, tag))
        if record.git:
            index.delete("commits", self._commit_key(volume, record))
        index.delete("snapshots", keys.u64(record.epoch))
        index.put("unsealed", keys.u64(record.epoch), records.PRESENT)  # its seal goes, too
        view = self._views.pop(record.epoch, None)
        if view is not None:
            view.gone = True
        self._core.epochs.doom(record.epoch)


def _without(record: SnapshotRecord, tag: str) -> SnapshotRecord:
    return msgspec.structs.replace(record, tags=[kept for kept in record.tags if kept != tag])


def _record_bytes(message: str, meta: dict[str, str]) -> int:
    """What a snapshot's record and its entries in other tables take of the next commit, about."""
    return _PAGES_A_RECORD * PAGE_BYTES + 2 * (len(message) + sum(map(len, meta.values())))


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
