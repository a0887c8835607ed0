"""Volumes: named trees, each with a head; the directories at the root of the mount.

Invariants:
  * A volume in the trash has its record, its head and its snapshots as before, but no name: nothing finds it, its head
    is ``gone``, and whatever was unlinked in it and still open is gone for good.
  * What is recorded of a volume is all in ``Volume`` and its ``usage``: ``save`` loses nothing.
  * What seals tell of a volume is in the seal of its newest snapshot at the latest with the next sealing.
"""

from __future__ import annotations

import re
import stat
from typing import Final

import msgspec

from snapfs.api import EventKind, QuotaKind, RetentionPolicy
from snapfs.errors import AlreadyExists, Conflict, Invalid, NameTooLong, NotEmpty, NotFound
from snapfs.format import keys, records
from snapfs.format.records import Inode, SnapshotRecord, VolumeRecord
from snapfs.format.seals import VolumeFacts
from snapfs.store.index import items, items_backward
from snapfs.types import NAME_BYTES_MAX, Epoch, Ino, VolumeId
from snapfs.versions.epochs import ROOT, View
from snapfs.volume.core import Core, now_ns
from snapfs.volume.files import Files
from snapfs.volume.quota import COMPRESSION, Usage, check_quota
from snapfs.volume.suggest import nearest

DOOMED_NS: Final = 1
"""In place of when a volume was deleted: it goes for good, a part at a time, and cannot be taken back."""

_COMPRESSION = re.compile(r"none|zstd:(?:[1-9]|1[0-9])")


class Volume:
    """A volume: one object for its life in this process."""

    __slots__ = ("created_ns", "deleted_ns", "head", "id", "name", "origin", "policy", "root", "usage")

    def __init__(self, record: VolumeRecord, head: View, usage: Usage) -> None:
        self.id = record.id
        self.name = record.name
        self.root = record.root
        self.created_ns = record.created_ns
        self.deleted_ns = record.deleted_ns
        """In the trash since; 0: not deleted; ``DOOMED_NS``: it is being dissolved."""
        self.origin = record.origin
        """The snapshot that it was cloned from; it need not exist any more; 0: none."""
        self.policy = record.policy
        self.head = head
        self.usage = usage

    def facts(self) -> VolumeFacts:
        """What seals tell of it."""
        usage = self.usage
        return VolumeFacts(
            id=self.id, name=self.name, created_ns=self.created_ns, quota_bytes=usage.quota_bytes,
            quota_kind=usage.quota_kind, compression=usage.compression, policy=self.policy, origin=self.origin,
            deleted_ns=self.deleted_ns,
        )  # fmt: skip

    def record(self) -> VolumeRecord:
        """As it is to be recorded."""
        facts = msgspec.structs.asdict(self.facts())
        return VolumeRecord(**facts, root=self.root, head=self.head.epoch, used_bytes=self.usage.used_bytes)


class Volumes:
    def __init__(self, core: Core, files: Files) -> None:
        self._core = core
        self._files = files
        self._by_name: dict[str, Volume] = {}
        self._by_id: dict[VolumeId, Volume] = {}
        self._trashed: dict[VolumeId, Volume] = {}
        for _, payload in items(core.index, "volumes"):
            record = records.decode_volume(payload)
            self._register(record, View(record.id, core.epochs.path(record.head), writable=True))
        core.index.before_commit.append(self._before_commit)

    def _before_commit(self) -> None:
        for number in self._core.usages.changed():
            volume = self.any_by_id(number)
            assert volume is not None
            self.save(volume)

    def fall_back(self) -> None:
        """The index shows its last commit again: so do the heads.  ``Epochs.load`` was called."""
        heads = {volume.id: volume.head for volume in self.everything()}
        self._by_name.clear()
        self._by_id.clear()
        self._trashed.clear()
        for number, head in heads.items():
            head.gone = True
            self._core.usages.remove(number)
        for _, payload in items(self._core.index, "volumes"):
            record = records.decode_volume(payload)
            path = self._core.epochs.path(record.head)
            head = heads.get(record.id) or View(record.id, path, writable=True)
            head.path = path
            self._register(record, head)

    def _register(self, record: VolumeRecord, head: View) -> Volume:
        usage = Usage(record.name, record.used_bytes, record.quota_bytes, record.quota_kind, record.compression)
        volume = Volume(record, head, self._core.usages.add(record.id, usage))
        self._place(volume)
        return volume

    def _place(self, volume: Volume) -> None:
        """Where it belongs: among those that are found, or in the trash."""
        volume.head.gone = volume.deleted_ns != 0
        if volume.deleted_ns:
            self._trashed[volume.id] = volume
        else:
            self._by_name[volume.name] = volume
            self._by_id[volume.id] = volume

    def names(self) -> list[str]:
        return sorted(self._by_name)

    def all(self) -> list[Volume]:
        return [self._by_name[name] for name in self.names()]

    def get(self, name: str) -> Volume:
        """Raises:
        NotFound: no such volume; the hint names near ones.
        """
        volume = self._by_name.get(name)
        if volume is None:
            raise NotFound(f"volume {name!r} does not exist", hint=nearest(name, self._by_name, "volumes"))
        return volume

    def by_id(self, number: VolumeId) -> Volume | None:
        """None if it was deleted (its snapshots may live on in clones' ancestry)."""
        return self._by_id.get(number)

    def any_by_id(self, number: VolumeId) -> Volume | None:
        """Also one in the trash."""
        return self._by_id.get(number) or self._trashed.get(number)

    def everything(self) -> list[Volume]:
        """Also those in the trash, by number."""
        return sorted([*self._by_id.values(), *self._trashed.values()], key=lambda volume: volume.id)

    def trashed(self) -> list[Volume]:
        """Those in the trash, by number; also those that are being dissolved."""
        return sorted(self._trashed.values(), key=lambda volume: volume.id)

    def create(self, name: str, *, mode: int = 0o755, uid: int = 0, gid: int = 0) -> Volume:
        """A volume with an empty root directory.

        Raises:
            Invalid, NameTooLong, AlreadyExists.
        """
        self._check_new(name)
        core = self._core
        core.admit()
        number = VolumeId(core.epochs.number())
        head = View(number, core.epochs.path(core.epochs.create(ROOT, number)), writable=True)
        root = core.new_ino()
        now = now_ns()
        permissions = stat.S_IFDIR | stat.S_IMODE(mode)
        core.put_inode(head, Inode(root, permissions, 2, uid, gid, 0, 0, 0, now, now, now, now))
        return self._add(name, root, head, now)

    def create_from(self, name: str, origin: SnapshotRecord, address: str) -> Volume:
        """A clone: a volume whose head begins as the snapshot, in O(1), without a quota or policy; it compresses as its
        origin's volume does.  ``address`` is ``volume@snapshot`` of the origin, to be told."""
        self._check_new(name)
        core = self._core
        core.admit()
        number = VolumeId(core.epochs.number())
        source = self.any_by_id(origin.volume)
        path = core.epochs.path(origin.epoch, source.head.path if source else None)
        head = View(number, core.epochs.extend(path, core.epochs.create(origin.epoch, number)), writable=True)
        return self._add(name, origin.root, head, now_ns(), address, origin)

    def _check_new(self, name: str) -> None:
        check_label(name, "volume")
        self._core.index.check()
        if name in self._by_name:
            raise AlreadyExists(f"volume {name!r} exists already")

    def _add(
        self, name: str, root: Ino, head: View, now: int, address: str = "", origin: SnapshotRecord | None = None
    ) -> Volume:
        source = self.any_by_id(origin.volume) if origin else None
        record = VolumeRecord(
            id=head.volume_id, name=name, root=root, head=head.epoch, created_ns=now,
            used_bytes=origin.used_bytes if origin else 0, origin=origin.epoch if origin else Epoch(0),
            compression=source.usage.compression if source else COMPRESSION,
        )  # fmt: skip
        volume = self._register(record, head)
        self.save(volume)
        self._core.events.append(EventKind.VOLUME_CREATED, name, message=address)
        return volume

    def save(self, volume: Volume) -> None:
        """Record where the head stands, what it holds, and what else is known of the volume."""
        volume.usage.changed = False
        self._core.index.put("volumes", keys.u64(volume.id), records.encode_json(volume.record()))

    def _tell_seals(self, volume: Volume) -> None:
        """The newest snapshot is sealed anew, with what is known of the volume now."""
        for key, _ in items_backward(self._core.index, "created", keys.u64(volume.id)):
            self._core.index.put("unsealed", key[-keys.EPOCH_BYTES :], records.PRESENT)
            return

    # -- changing

    def update(
        self,
        volume: Volume,
        *,
        quota_bytes: int | None = None,
        quota_kind: QuotaKind | None = None,
        compression: str | None = None,
    ) -> None:
        """Change what is given: the quota (0: none), what it limits, how new data is compressed.

        Raises:
            Invalid: no size that a quota can have; no such compression.
        """
        self._core.index.check()
        usage = volume.usage
        wanted = (
            usage.quota_bytes if quota_bytes is None else check_quota(quota_bytes),
            usage.quota_kind if quota_kind is None else quota_kind,
            usage.compression if compression is None else check_compression(compression),
        )
        told = []
        if wanted[:2] != (usage.quota_bytes, usage.quota_kind):
            limit = f"quota {wanted[0]} bytes" if wanted[0] else "no quota"
            told.append(limit + (" (exclusive)" if wanted[1] is QuotaKind.EXCLUSIVE else ""))
        if wanted[2] != usage.compression:
            told.append(f"compression {wanted[2]}")
        if told:
            usage.quota_bytes, usage.quota_kind, usage.compression = wanted
            self._updated(volume, ", ".join(told))

    def set_policy(self, volume: Volume, policy: RetentionPolicy | None, told: str) -> None:
        """Which snapshots stay; None: all.  ``told``: in words.  The policy was checked."""
        self._core.index.check()
        if policy != volume.policy:
            volume.policy = policy
            self._updated(volume, told)

    def _updated(self, volume: Volume, told: str) -> None:
        self.save(volume)
        self._tell_seals(volume)
        self._core.events.append(EventKind.VOLUME_UPDATED, volume.name, message=told)

    # -- deleting

    def check_removable(self, volume: Volume, *, force: bool = False) -> None:
        """Raises:
        Conflict: it has snapshots.
        NotEmpty: its root directory has entries.  Neither with ``force``.
        """
        self._core.index.check()
        if force:
            return
        for _ in items(self._core.index, "names", keys.u64(volume.id)):
            raise Conflict(f"volume {volume.name!r} has snapshots", hint="remove them first, or both: --snapshots")
        for _ in self._files.readdir(volume.head, volume.root, 0):
            raise NotEmpty(f"volume {volume.name!r} is not empty", hint="remove its files first, or both: --snapshots")

    def remove(self, name: str) -> None:
        """Remove a volume that has no snapshots, also none in the trash, at once; its head's data goes in the
        background.

        Raises:
            Conflict, NotEmpty: as ``check_removable``.
        """
        volume = self.get(name)
        self.check_removable(volume)
        self._files.forget_head(volume.head)
        self._unlist(volume)
        self.dissolve(volume)

    def move_to_trash(self, volume: Volume, deleted_ns: int) -> None:
        """It is found no more, and its name is free.  The caller holds it still, or gives up what is not stored."""
        core = self._core
        core.index.check()
        orphans = list(core.orphans(volume.head))
        self._files.forget_head(volume.head)
        for ino in orphans:
            core.bury(volume.head, core.inode(volume.head, ino))
        self._unlist(volume)
        volume.deleted_ns = deleted_ns
        self._place(volume)
        self._tell_seals(volume)
        self.save(volume)

    def _unlist(self, volume: Volume) -> None:
        volume.head.gone = True
        del self._by_name[volume.name]
        del self._by_id[volume.id]
        self._core.events.append(EventKind.VOLUME_DELETED, volume.name)

    def take_back(self, volume: Volume, name: str) -> None:
        """Out of the trash, under a name that is free.

        Raises:
            AlreadyExists, Invalid, NameTooLong, NoSpace.
        """
        self._check_new(name)
        self._core.admit()
        was = volume.name
        del self._trashed[volume.id]
        volume.name = volume.usage.volume = name
        volume.deleted_ns = 0
        self._place(volume)
        self._tell_seals(volume)
        self.save(volume)
        self._core.events.append(EventKind.VOLUME_RESTORED, name, message=was if was != name else "")

    def doom(self, volume: Volume) -> None:
        """One in the trash cannot be taken back any more."""
        volume.deleted_ns = DOOMED_NS
        self.save(volume)

    def dissolve(self, volume: Volume) -> None:
        """One that is found no more and has no snapshots is no more."""
        core = self._core
        core.epochs.doom(volume.head.epoch)
        core.index.delete("volumes", keys.u64(volume.id))
        core.usages.remove(volume.id)
        self._trashed.pop(volume.id, None)


def check_compression(compression: str) -> str:
    """Raises:
    Invalid: no compression that a volume can have.
    """
    if not _COMPRESSION.fullmatch(compression):
        raise Invalid(
            f"{compression!a} is no compression", hint="none, or zstd:LEVEL with a level from 1 (fast) to 19 (small)"
        )
    return compression


def check_label(name: str, what: str) -> str:
    """Check the name of a volume, snapshot or tag, which is also a name in a directory.

    Raises:
        Invalid, NameTooLong.
    """
    if not name:
        raise Invalid(f"a {what} name cannot be empty")
    if name in (".", "..", ".snap"):
        raise Invalid(f"{name!r} cannot be a {what} name")
    bad = sorted({character for character in name if character in "/@" or not character.isprintable()})
    if bad:
        shown = ", ".join(ascii(character) for character in bad)
        raise Invalid(f"{what} name {name!a} has characters that it cannot have: {shown}")
    if name.startswith("-"):
        raise Invalid(f"a {what} name cannot begin with '-': {name!r}")
    try:
        size = len(name.encode())
    except UnicodeEncodeError as error:
        raise Invalid(f"{what} name {name!a} is not valid UTF-8") from error
    if size > NAME_BYTES_MAX:
        raise NameTooLong(f"a {what} name has at most {NAME_BYTES_MAX} bytes, this has {size}")
    return name
