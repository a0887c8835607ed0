"""Snapshots: freeze a head; rename, tag and remove frozen epochs; clone and check out.

Invariants:
  * A snapshot is one frozen epoch with a record; no version at that epoch is ever written again, but for
    those that reclaiming a deleted ancestor moves into it, which changes nothing that it shows.
  * Whatever changes a snapshot's record leaves an entry in ``unsealed``: its seal is written, anew, or goes (``seal``).
  * freeze, clone, checkout, carry, tag, hold, lock, remove, and into the trash and back, are one small transaction
    each, whatever the volume's size, with the event that tells of it.
  * What is held, or locked still, is never deleted: all deletions of snapshots go through ``check_deletable``.
"""

from __future__ import annotations

import itertools
import time
import weakref
from collections.abc import Iterator
from typing import Final

import msgspec

from snapfs.api import EventKind, GitCommit
from snapfs.errors import AlreadyExists, Conflict, Invalid, NotFound, Stale
from snapfs.format import keys, records
from snapfs.format.records import SnapshotRecord
from snapfs.types import PAGE_BYTES, Epoch
from snapfs.versions.difference import changed_inodes, epochs_between
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
HOLDS_MAX: Final = 100
"""Holds of one snapshot."""
LOCKED_NS_MAX: Final = (1 << 63) - 1
"""Latest end of a lock: in the year 2262."""
_PAGES_A_RECORD: Final = 8
"""Of the index: one in each table that names a new snapshot."""


class Snapshots(References):
    def __init__(self, core: Core, volumes: Volumes, files: Files) -> None:
        super().__init__(core.index)
        self._core = core
        self._volumes = volumes
        self._files = files
        self._views: weakref.WeakValueDictionary[Epoch, View] = weakref.WeakValueDictionary()
        self.changes = 0
        """Grows whenever a snapshot comes, goes or changes: for who looks at many with awaits in between."""

    # -- reading

    def alive(self, epoch: Epoch) -> SnapshotRecord | None:
        """None if there is none, or it or its volume was deleted."""
        record = self.get(epoch)
        if record is None or record.deleted_ns or self._volumes.by_id(record.volume) is None:
            return None
        return record

    def check_alive(self, record: SnapshotRecord) -> None:
        """For whoever has awaited since it found the snapshot: one that is being reclaimed shows anything.

        Raises:
            Stale: it was removed meanwhile.
        """
        if self.alive(record.epoch) is None:
            raise Stale(f"snapshot {record.name!r} was removed meanwhile")

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
            record = self.alive(ancestor) if below is None or ancestor < below else None
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
        record = msgspec.structs.replace(
            origin, epoch=epoch, name=name, git=git, created_ns=now_ns(), tags=[], holds=[], locked_until_ns=0
        )
        self._put_new(volume, record)
        return record

    def _put_new(self, volume: Volume, record: SnapshotRecord) -> None:
        self._put(record)
        self._list(volume, record)
        self._tell(EventKind.SNAPSHOT_CREATED, volume, record)

    def _list(self, volume: Volume, record: SnapshotRecord) -> None:
        """It can be found."""
        self._counted(volume, +1)
        self._index.put("names", self._label_key(volume, record.name), keys.u64(record.epoch))
        self._index.put("created", created_key(record), records.PRESENT)
        for tag in record.tags:
            self._index.put("tags", self._label_key(volume, tag), keys.u64(record.epoch))
        if record.git:
            self._index.put("commits", self._commit_key(volume, record), records.PRESENT)

    def _put(self, record: SnapshotRecord) -> None:
        self.changes += 1
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
        touched = Touched().add(changed_inodes(core.tree, between))
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

    # -- what keeps it

    def hold(self, volume: Volume, record: SnapshotRecord, name: str) -> SnapshotRecord:
        """It cannot be deleted until it is released; nothing happens if it has such a hold already.

        Raises:
            Invalid, NameTooLong, NoSpace, Conflict (too many holds).
        """
        self._index.check()
        if check_label(name, "hold") in record.holds:
            return record
        if len(record.holds) >= HOLDS_MAX:
            raise Conflict(f"snapshot {record.name!r} has {HOLDS_MAX} holds, which is the most")
        held = msgspec.structs.replace(record, holds=sorted([*record.holds, name]))
        return self._update(volume, held, f"hold {name}")

    def release(self, volume: Volume, record: SnapshotRecord, name: str) -> SnapshotRecord:
        """Raises:
        NotFound: it has no such hold.
        """
        self._index.check()
        if name not in record.holds:
            hint = nearest(name, record.holds, "holds")
            raise NotFound(f"snapshot {volume.name}@{record.name} has no hold {name!r}", hint=hint)
        released = msgspec.structs.replace(record, holds=[kept for kept in record.holds if kept != name])
        return self._update(volume, released, f"release {name}")

    def lock(self, volume: Volume, record: SnapshotRecord, until_ns: int) -> SnapshotRecord:
        """It cannot be deleted before a time, whoever asks; the time can be made later, never earlier.

        Raises:
            Invalid: the time is past, or out of range.
            Conflict: it is locked until later than that.
        """
        self._index.check()
        if not now_ns() < until_ns <= LOCKED_NS_MAX:
            raise Invalid(f"a lock ends in the future, before the year 2262, not at {moment(max(0, until_ns))}")
        if until_ns < record.locked_until_ns:
            raise Conflict(
                f"snapshot {volume.name}@{record.name} is locked until {moment(record.locked_until_ns)}",
                hint="a lock can be made longer, not shorter",
            )
        if until_ns == record.locked_until_ns:
            return record
        locked = msgspec.structs.replace(record, locked_until_ns=until_ns)
        return self._update(volume, locked, f"locked until {moment(until_ns)}")

    def _update(self, volume: Volume, record: SnapshotRecord, told: str) -> SnapshotRecord:
        self._core.admit(_record_bytes(record.message, record.meta))
        self._put(record)
        self._tell(EventKind.SNAPSHOT_UPDATED, volume, record, told)
        return record

    def check_deletable(self, record: SnapshotRecord, volume: str) -> None:
        """``volume``: its name, to be told.

        Raises:
            Conflict: it is held or locked.
        """
        label = f"snapshot {volume}@{record.name}"
        if record.holds:
            raise Conflict(f"{label} is held: {', '.join(record.holds)}", hint="see: snap release")
        if is_locked(record):
            raise Conflict(
                f"{label} is locked until {moment(record.locked_until_ns)}", hint="nobody can delete it before"
            )

    # -- deleting

    def remove(self, volume: Volume, record: SnapshotRecord) -> None:
        """Forget the snapshot and its tags, in O(1); its space comes back in the background.  No clone and no later
        snapshot is touched by it.

        Raises:
            Conflict: it is held or locked.
        """
        self._index.check()
        self.check_deletable(record, volume.name)
        self._unlist(volume, record)
        self.dissolve(record)
        self._tell(EventKind.SNAPSHOT_DELETED, volume, record)

    def move_to_trash(self, volume: Volume, record: SnapshotRecord, deleted_ns: int) -> None:
        """As ``remove``, but all of it is kept: only nothing finds it any more."""
        self._index.check()
        self.check_deletable(record, volume.name)
        self._unlist(volume, record)
        self._put(msgspec.structs.replace(record, deleted_ns=deleted_ns))
        self._tell(EventKind.SNAPSHOT_DELETED, volume, record)

    def take_back(self, volume: Volume, record: SnapshotRecord, name: str) -> SnapshotRecord:
        """Out of the trash, under a name that is free, with those of its tags that are free.

        Raises:
            AlreadyExists, Invalid, NameTooLong, NoSpace.
        """
        self._index.check()
        name = self.new_name(volume, check_label(name, "snapshot"), record.git)
        self._core.admit(_record_bytes(record.message, record.meta))
        tags = [tag for tag in record.tags if tag != name and not self._taken(volume, tag)]
        back = msgspec.structs.replace(record, name=name, tags=tags, deleted_ns=0)
        self._put(back)
        self._list(volume, back)
        self._show(record.epoch, there=True)
        self._tell(EventKind.SNAPSHOT_RESTORED, volume, back, record.name if record.name != name else "")
        return back

    def dissolve(self, record: SnapshotRecord) -> None:
        """One that is found no more is no more."""
        self._show(record.epoch, there=False)
        self.changes += 1
        self._index.delete("snapshots", keys.u64(record.epoch))
        self._index.put("unsealed", keys.u64(record.epoch), records.PRESENT)  # its seal goes, too
        self._core.epochs.doom(record.epoch)

    def dissolve_some(self, volume: Volume, limit: int) -> int:
        """Some snapshots of a volume that is found no more are no more; how many."""
        some = [self._must(epoch) for _, epoch in itertools.islice(self.order(volume), limit)]
        for record in some:
            self._unlist(volume, record)
            self.dissolve(record)
        return len(some)

    def look_again(self) -> None:
        """Views are gone with their snapshots or volumes, or are back with them."""
        self.changes += 1
        self._counts.clear()
        for epoch in list(self._views):
            self._show(epoch, there=self.alive(epoch) is not None)

    def _unlist(self, volume: Volume, record: SnapshotRecord) -> None:
        """Nothing finds it."""
        self._counted(volume, -1)
        index = self._index
        index.delete("names", self._label_key(volume, record.name))
        index.delete("created", created_key(record))
        for tag in record.tags:
            index.delete("tags", self._label_key(volume, tag))
        if record.git:
            index.delete("commits", self._commit_key(volume, record))
        self._show(record.epoch, there=False)

    def _show(self, epoch: Epoch, *, there: bool) -> None:
        view = self._views.get(epoch)
        if view is not None:
            view.gone = not there


def is_locked(record: SnapshotRecord) -> bool:
    """By the clock of the machine: one that is set forward opens locks for as long as it is wrong."""
    return record.locked_until_ns > now_ns()


def moment(time_ns: int) -> str:
    """A time as it is told to people."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(time_ns // 10**9))


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
