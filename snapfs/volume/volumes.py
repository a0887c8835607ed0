"""Volumes: named trees, each with a head; the directories at the root of the mount."""

from __future__ import annotations

import stat

from snapfs.api import EventKind
from snapfs.errors import AlreadyExists, Conflict, Invalid, NameTooLong, NotEmpty, NotFound
from snapfs.format import keys, records
from snapfs.format.records import Inode, SnapshotRecord, VolumeRecord
from snapfs.store.index import items
from snapfs.types import NAME_BYTES_MAX, Ino, VolumeId
from snapfs.versions.epochs import ROOT, View
from snapfs.volume.core import Core, now_ns
from snapfs.volume.files import Files
from snapfs.volume.quota import Usage, check_quota
from snapfs.volume.suggest import nearest


class Volume:
    """A live volume: one object for its life in this process."""

    __slots__ = ("created_ns", "head", "id", "name", "root", "usage")

    def __init__(self, record: VolumeRecord, head: View, usage: Usage) -> None:
        self.id = record.id
        self.name = record.name
        self.root = record.root
        self.created_ns = record.created_ns
        self.head = head
        self.usage = usage


class Volumes:
    def __init__(self, core: Core, files: Files) -> None:
        self._core = core
        self._files = files
        self._by_name: dict[str, Volume] = {}
        self._by_id: dict[VolumeId, Volume] = {}
        for _, payload in items(core.index, "volumes"):
            record = records.decode_volume(payload)
            self._register(record, View(record.id, core.epochs.path(record.head), writable=True))
        core.index.before_commit.append(self._before_commit)

    def _before_commit(self) -> None:
        for number in self._core.usages.changed():
            self.save(self._by_id[number])

    def fall_back(self) -> None:
        """The index shows its last commit again: so do the heads.  ``Epochs.load`` was called."""
        heads = {volume.id: volume.head for volume in self._by_id.values()}
        self._by_name.clear()
        self._by_id.clear()
        for number, head in heads.items():
            head.gone = True
            self._core.usages.remove(number)
        for _, payload in items(self._core.index, "volumes"):
            record = records.decode_volume(payload)
            path = self._core.epochs.path(record.head)
            head = heads.get(record.id) or View(record.id, path, writable=True)
            head.path, head.gone = path, False
            self._register(record, head)

    def _register(self, record: VolumeRecord, head: View) -> Volume:
        usage = self._core.usages.add(record.id, Usage(record.name, record.used_bytes, record.quota_bytes))
        volume = Volume(record, head, usage)
        self._by_name[volume.name] = volume
        self._by_id[volume.id] = volume
        return volume

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
        """None if it was removed (its snapshots may live on in clones' ancestry)."""
        return self._by_id.get(number)

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
        """A clone: a volume whose head begins as the snapshot, in O(1), without a quota.  ``address`` is
        ``volume@snapshot`` of it, to be told."""
        self._check_new(name)
        core = self._core
        core.admit()
        number = VolumeId(core.epochs.number())
        head = View(number, core.epochs.path(core.epochs.create(origin.epoch, number)), writable=True)
        return self._add(name, origin.root, head, now_ns(), address, origin.used_bytes)

    def _check_new(self, name: str) -> None:
        check_label(name, "volume")
        self._core.index.check()
        if name in self._by_name:
            raise AlreadyExists(f"volume {name!r} exists already")

    def _add(
        self, name: str, root: Ino, head: View, now: int, origin: str = "", used_bytes: int = 0
    ) -> Volume:
        record = VolumeRecord(
            id=head.volume_id, name=name, root=root, head=head.epoch, created_ns=now, used_bytes=used_bytes
        )
        volume = self._register(record, head)
        self.save(volume)
        self._core.events.append(EventKind.VOLUME_CREATED, name, message=origin)
        return volume

    def save(self, volume: Volume) -> None:
        """Record where the head stands and what it holds."""
        record = VolumeRecord(
            id=volume.id,
            name=volume.name,
            root=volume.root,
            head=volume.head.epoch,
            created_ns=volume.created_ns,
            quota_bytes=volume.usage.quota_bytes,
            used_bytes=volume.usage.used_bytes,
        )
        volume.usage.changed = False
        self._core.index.put("volumes", keys.u64(volume.id), records.encode_json(record))

    def set_quota(self, volume: Volume, quota_bytes: int) -> None:
        """Limit what the head may hold; 0: no limit.

        Raises:
            Invalid: no size that a quota can have.
        """
        self._core.index.check()
        check_quota(quota_bytes)
        if quota_bytes == volume.usage.quota_bytes:
            return
        volume.usage.quota_bytes = quota_bytes
        self.save(volume)
        told = f"quota {quota_bytes} bytes" if quota_bytes else "no quota"
        self._core.events.append(EventKind.VOLUME_UPDATED, volume.name, message=told)

    def remove(self, name: str, *, force: bool = False) -> None:
        """Remove a volume; its head's data goes in the background.

        Raises:
            Conflict: it has snapshots.
            NotEmpty: its root directory has entries (unless ``force``).
        """
        volume = self.get(name)
        core = self._core
        core.index.check()
        for _ in items(core.index, "names", keys.u64(volume.id)):
            raise Conflict(f"volume {name!r} has snapshots", hint="remove them first, or remove both at once")
        if not force:
            for _ in self._files.readdir(volume.head, volume.root, 0):
                raise NotEmpty(f"volume {name!r} is not empty", hint="remove its files first, or force it")
        self._files.forget_head(volume.head)
        volume.head.gone = True
        core.epochs.doom(volume.head.epoch)
        core.index.delete("volumes", keys.u64(volume.id))
        del self._by_name[name]
        del self._by_id[volume.id]
        core.usages.remove(volume.id)
        core.events.append(EventKind.VOLUME_DELETED, name)


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

