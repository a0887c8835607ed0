"""What a user can ask of one store, as methods on plain records (``snapfs.api``).

One object behind both transports: the CLI calls it in-process when no daemon runs, the daemon's
channel calls it when one does.  Every method is ``async`` and runs on the trio thread; every error is a
``SnapfsError``.  ``volume`` is a volume's name; ``snapshot`` is a reference: a name, a full commit
ID, or a unique prefix (4 or more characters) of a commit ID.

One rhythm in whatever looks at a head or changes it: fetch the kernel's dirty pages, hold the volume still,
act in one step, let it go, commit, make the kernel forget.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Protocol

import msgspec
import trio

from snapfs import api
from snapfs.errors import Conflict, Invalid
from snapfs.format.records import SnapshotRecord
from snapfs.store import layout
from snapfs.types import Ino
from snapfs.versions.epochs import View
from snapfs.versions.keyspace import Snapshotted
from snapfs.volume.check import Check
from snapfs.volume.compare import compare, detached
from snapfs.volume.lake import Lake
from snapfs.volume.restore import Restore, split_path
from snapfs.volume.volumes import Volume

_UNSAVED: Final = "unsaved"
_PROGRESS_SECONDS: Final = 0.1


class Mounted(Protocol):
    """What the service needs from a mount of the store; a store opened directly has none."""

    async def push(self) -> None:
        """Make the kernel hand over its dirty pages (syncfs)."""

    def keep_unlinked(self, volume_id: int, ino: Ino) -> bool:
        """Whether a file of the head that loses its last name is open and must stay until it is closed."""

    def outdate(self, volume_id: int, touched: object) -> object:
        """In the very step of a checkout or restore (no await between): what is open of what it touched goes
        stale.  ``refresh`` must get the result."""

    async def refresh(self, outdated: object) -> None:
        """Make the kernel forget what a checkout or restore touched.  After the volume's writes are let go again:
        the kernel waits for writes meanwhile, so while they are held it would wait for ever."""

    async def volume_removed(self, name: str) -> None:
        """Make the kernel forget the name of a volume that was removed."""


class Service:
    """All verbs."""

    def __init__(self, lake: Lake, mounted: Mounted | None = None) -> None:
        self._lake = lake
        self._mounted = mounted

    async def get_store(self) -> api.StoreInfo:
        lake = self._lake
        holder = layout.read_holder(lake.path)
        mounted = self._mounted is not None and holder is not None
        volumes = lake.volumes.all()
        index_bytes = lake.index.used_bytes()
        return api.StoreInfo(
            path=str(lake.path),
            uuid=lake.uuid,
            format=layout.FORMAT_VERSION,
            volumes=len(volumes),
            snapshots=sum(lake.snapshots.count(volume) for volume in volumes),
            stored_bytes=lake.core.blocks.stored_bytes,
            logical_bytes=lake.core.blocks.raw_bytes,
            index_bytes=index_bytes,
            disk_bytes=lake.core.blocks.segments.disk_bytes() + index_bytes,
            mountpoint=holder.mountpoint if mounted and holder else "",
            pid=holder.pid if mounted and holder else 0,
        )

    # -- volumes

    async def create_volume(self, *, name: str) -> api.Volume:
        """Raises Invalid, NameTooLong, AlreadyExists, NoSpace."""
        volume = self._lake.volumes.create(name, uid=os.getuid(), gid=os.getgid())
        await self._lake.commit()
        return self._volume(volume)

    async def list_volumes(self) -> list[api.Volume]:
        return [self._volume(volume) for volume in self._lake.volumes.all()]

    async def delete_volume(self, *, name: str, snapshots: bool = False) -> None:
        """Remove a volume; with ``snapshots`` also its snapshots and what its head holds.

        Raises:
            Conflict: it has snapshots.
            NotEmpty: its head has files.
        """
        lake = self._lake
        volume = lake.volumes.get(name)
        if snapshots:
            for record in lake.snapshots.all(volume):
                lake.snapshots.remove(volume, record)
        lake.volumes.remove(name, force=snapshots)
        await lake.commit()
        if self._mounted:
            await self._mounted.volume_removed(name)

    # -- snapshots

    async def create_snapshot(
        self,
        *,
        volume: str,
        name: str = "",
        message: str = "",
        meta: dict[str, str] | None = None,
        git: api.GitCommit | None = None,
    ) -> api.Snapshot:
        """Freeze the head.  Neither name nor git: a name from the time, ``YYYYMMDDTHHMMSSZ``.  With git and no name
        the full commit ID is the name; a further snapshot of the same commit is ``<id>.2``, ``<id>.3``...  For a
        commit that has a snapshot, and data that is still the same, it answers that one, with ``created`` false.

        Raises:
            NotFound, Invalid, NameTooLong, AlreadyExists, NoSpace.
        """
        lake = self._lake
        target = lake.volumes.get(volume)
        await self._push(target)
        async with lake.writeback.hold(target.head):
            same = self._same_commit(target, name, git)
            if same is not None:
                record = same
            else:
                record = lake.snapshots.freeze(target, name=name, message=message, meta=meta, git=git)
        await lake.commit()
        return msgspec.structs.replace(self._snapshot(target, record), created=same is None)

    def _same_commit(self, volume: Volume, name: str, git: api.GitCommit | None) -> SnapshotRecord | None:
        """The commit's newest snapshot, if the head shows just what it shows (and it has the name asked for)."""
        if git is None:
            return None
        record = self._lake.snapshots.find(volume, git.commit)
        if record is None or (name and name != record.name):
            return None
        return None if self._differs(volume, record) else record

    def _differs(self, volume: Volume, record: SnapshotRecord | None) -> bool:
        """Whether the head, held still, shows anything else than the snapshot (None: than nothing)."""
        lake = self._lake
        old = (lake.snapshots.view(record), record.root) if record else None
        return compare(lake.core, lake.core.tree, old, (volume.head, volume.root)).any()

    async def list_snapshots(self, *, volume: str = "") -> list[api.Snapshot]:
        """Oldest first; of all volumes if ``volume`` is empty."""
        volumes = [self._lake.volumes.get(volume)] if volume else self._lake.volumes.all()
        found = [self._snapshot(v, record) for v in volumes for record in self._lake.snapshots.all(v)]
        return sorted(found, key=lambda snapshot: snapshot.created_ns)

    async def get_snapshot(self, *, volume: str, snapshot: str) -> api.Snapshot:
        return self._snapshot(*self._find(volume, snapshot))

    async def list_ancestry(self, *, volume: str, snapshot: str = "") -> list[api.Snapshot]:
        """Ancestry, newest first, of the snapshot or, if empty, of the head (across clones: an ancestor may be
        another volume's)."""
        target = self._lake.volumes.get(volume)
        epoch = self._find(volume, snapshot)[1].epoch if snapshot else target.head.epoch
        found = []
        for record in self._lake.snapshots.ancestry(epoch):
            owner = self._lake.volumes.by_id(record.volume)
            if owner is not None:
                found.append(self._snapshot(owner, record))
        return found

    async def rename_snapshot(self, *, volume: str, snapshot: str, name: str) -> api.Snapshot:
        owner, record = self._find(volume, snapshot)
        record = self._lake.snapshots.rename(owner, record, name)
        await self._lake.commit()
        return self._snapshot(owner, record)

    async def delete_snapshot(self, *, volume: str, snapshot: str) -> None:
        self._lake.snapshots.remove(*self._find(volume, snapshot))
        await self._lake.commit()

    async def carry_snapshots(
        self, *, volume: str, rewritten: Sequence[tuple[str, api.GitCommit]]
    ) -> api.Carried:
        """For each (old commit ID, new commit): a snapshot of the new commit with the old one's data, unless the
        new one has a snapshot already.  Of several olds with one new, the last that has a snapshot counts."""
        snapshots = self._lake.snapshots
        target = self._lake.volumes.get(volume)
        origins: dict[str, tuple[SnapshotRecord, api.GitCommit]] = {}
        missing = []
        for old, git in rewritten:
            record = snapshots.find(target, old)
            if record is None:
                missing.append(old)
            elif snapshots.find(target, git.commit) is None:
                origins[git.commit] = record, git
        carried = [snapshots.carry(target, record, git) for record, git in origins.values()]
        await self._lake.commit()
        return api.Carried(carried=[self._snapshot(target, record) for record in carried], missing=missing)

    # -- differences

    async def diff(
        self, *, volume: str, snapshot: str, other_volume: str = "", other: str = ""
    ) -> AsyncIterator[api.Change]:
        """Changes from ``snapshot`` to ``other`` (empty: the head of ``other_volume`` or ``volume``), by path."""
        _, old = self._find(volume, snapshot)
        target = self._lake.volumes.get(other_volume or volume)
        record = self._find(target.name, other)[1] if other else None
        if record is None:
            await self._settle(target)
        async for change in self._changes(old, target, record):
            yield change

    async def status(self, *, volume: str) -> AsyncIterator[api.Change]:
        """Changes of the head since the snapshot that it stands on."""
        target = self._lake.volumes.get(volume)
        await self._settle(target)
        async for change in self._changes(self._lake.snapshots.base(target), target, None):
            yield change

    async def _settle(self, volume: Volume) -> None:
        """All of the head's acknowledged data is in the tree."""
        await self._push(volume)
        await self._lake.writeback.flush(view=volume.head)

    async def _changes(
        self, old: SnapshotRecord | None, volume: Volume, new: SnapshotRecord | None
    ) -> AsyncIterator[api.Change]:
        """Compare in a consistent state of the past, so that others may go on meanwhile."""
        lake = self._lake
        await lake.commit()
        # From here to the views no await: the reader's state and the paths must be of one moment.
        lake.index.commit()
        for record in (old, new):
            if record:
                lake.snapshots.check_alive(record)
        before = (detached(lake.snapshots.view(old)), old.root) if old else None
        view = lake.snapshots.view(new) if new else volume.head
        after = (detached(view), new.root if new else volume.root)
        with lake.index.reader() as reader:
            for change in compare(lake.core, Snapshotted(reader), before, after):
                if change is None:
                    await trio.lowlevel.checkpoint()
                else:
                    yield change

    # -- moving the head

    async def checkout(
        self, *, volume: str, snapshot: str, unsaved: api.Save = api.Save.REFUSE, label: str = ""
    ) -> api.Checkout:
        """The head becomes the snapshot.  With Save.SAVE unsaved changes are first snapshotted as
        ``unsaved-<time>[-label]``.

        Raises:
            Conflict: there are unsaved changes, with Save.REFUSE.
        """
        lake = self._lake
        target, record = self._find(volume, snapshot)
        await self._push(target)
        saved = None
        outdated: object = None
        async with lake.writeback.hold(target.head):
            lake.snapshots.check_alive(record)
            base = lake.snapshots.base(target)
            dirty = self._differs(target, base)
            moved = dirty or base is None or base.epoch != record.epoch
            if dirty and unsaved is api.Save.REFUSE and not self._differs(target, record):
                dirty = False  # what is unsaved is just what is asked for: nothing can be lost
            if dirty and unsaved is api.Save.REFUSE:
                where = f"{volume}@{base.name}" if base else "it was made"
                raise Conflict(
                    f"volume {volume!r} has unsaved changes since {where}",
                    hint="see them with: snap status; keep them with --save, drop them with --discard",
                )
            if dirty and unsaved is api.Save.SAVE:
                saved = lake.snapshots.freeze(target, name=self._unsaved_name(target, label))
            if moved:
                touched = lake.snapshots.checkout(target, record)
                if self._mounted:
                    outdated = self._mounted.outdate(target.id, touched)
        await self._publish(outdated)
        return api.Checkout(
            snapshot=self._snapshot(target, record),
            saved=self._snapshot(target, saved) if saved else None,
            moved=moved,
        )

    def _unsaved_name(self, volume: Volume, label: str) -> str:
        stamp = self._lake.snapshots.new_name(volume, "", None)
        name = f"{_UNSAVED}-{stamp}" + (f"-{label}" if label else "")
        number = 1
        while self._lake.snapshots.find(volume, name) is not None:
            number += 1
            name = f"{_UNSAVED}-{stamp}.{number}" + (f"-{label}" if label else "")
        return name

    async def restore(self, *, volume: str, snapshot: str, paths: Sequence[str]) -> api.Restored:
        """Put files or directories (paths from the volume's root) of the snapshot back into the head.

        Raises:
            NotFound: the snapshot has nothing at a path; then nothing was restored.
            Invalid, NotADirectory: something of another type is in the way.
        """
        lake = self._lake
        target, record = self._find(volume, snapshot)
        names = [split_path(path) for path in paths]
        if not names:
            raise Invalid("name at least one path to restore")
        source = lake.snapshots.view(record)
        for path in names:
            ino = record.root
            for name in path:
                ino = lake.files.lookup(source, ino, name).ino
        await self._push(target)
        outdated: object = None
        try:
            async with lake.writeback.hold(target.head):
                lake.snapshots.check_alive(record)
                restore = Restore(lake.core, lake.files, source, target.head, target.root, self._keeper(target))
                try:
                    for path in names:
                        restore.path(path)
                finally:
                    if self._mounted:
                        outdated = self._mounted.outdate(target.id, restore.touched)
        finally:
            await self._publish(outdated)
        return api.Restored(paths=list(paths), files=restore.files, total_bytes=restore.total_bytes)

    async def _publish(self, outdated: object) -> None:
        """Commit, and make the kernel forget what is outdated.  Not given up half-way when the client goes: the
        kernel would believe the old state for a day."""
        with trio.CancelScope(shield=True):
            try:
                await self._lake.commit()
            finally:
                if self._mounted:
                    await self._mounted.refresh(outdated)

    def _keeper(self, volume: Volume) -> Callable[[Ino], bool]:
        mounted = self._mounted
        return (lambda ino: mounted.keep_unlinked(volume.id, ino)) if mounted else (lambda ino: False)

    async def clone(self, *, volume: str, snapshot: str, name: str) -> api.Volume:
        """Raises AlreadyExists, Invalid, NameTooLong, NoSpace."""
        _, record = self._find(volume, snapshot)
        made = self._lake.snapshots.clone(record, name)
        await self._lake.commit()
        return self._volume(made)

    # -- checking

    async def check_store(self, *, progress: Callable[[int, int], None] | None = None) -> api.CheckReport:
        """Check every invariant and every byte of the store as of now; changes nothing."""
        await self._push()
        await self._lake.sync()
        with self._checking() as (check, views):
            last = trio.current_time()
            for done, total in check.run(views):
                if progress and (trio.current_time() - last > _PROGRESS_SECONDS or done == total):
                    progress(done, total)
                    last = trio.current_time()
                await trio.lowlevel.checkpoint()
            return check.report()

    @contextmanager
    def _checking(self) -> Iterator[tuple[Check, list[tuple[str, View, Ino]]]]:
        """A check, and the views of the same moment."""
        lake = self._lake
        lake.index.commit()
        views: list[tuple[str, View, Ino]] = []
        for volume in lake.volumes.all():
            views.append((volume.name, detached(volume.head), volume.root))
            for record in lake.snapshots.all(volume):
                view = detached(lake.snapshots.view(record))
                views.append((f"{volume.name}@{record.name}", view, record.root))
        with lake.index.reader() as reader:
            yield Check(lake.core, reader), views

    # -- shared

    async def _push(self, volume: Volume | None = None) -> None:
        """Fetch what the kernel has.  Flushed before, so that little is left to flush when the volume is held
        still: what a program writes from here to there is in no snapshot, and a checkout takes it away."""
        if self._mounted:
            if volume is not None:
                await self._lake.writeback.flush(view=volume.head)
            await self._mounted.push()

    def _find(self, volume: str, snapshot: str) -> tuple[Volume, SnapshotRecord]:
        target = self._lake.volumes.get(volume)
        return target, self._lake.snapshots.resolve(target, snapshot)

    def _volume(self, volume: Volume) -> api.Volume:
        base = self._lake.snapshots.base(volume)
        return api.Volume(
            name=volume.name,
            snapshots=self._lake.snapshots.count(volume),
            created_ns=volume.created_ns,
            parent=self._address(base),
        )

    def _address(self, record: SnapshotRecord | None) -> str:
        owner = self._lake.volumes.by_id(record.volume) if record else None
        return f"{owner.name}@{record.name}" if owner and record else ""

    def _snapshot(self, volume: Volume, record: SnapshotRecord) -> api.Snapshot:
        lake = self._lake
        parent = next(lake.snapshots.ancestry(lake.core.epochs.parent(record.epoch)), None)
        base = lake.snapshots.base(volume)
        return api.Snapshot(
            volume=volume.name,
            name=record.name,
            created_ns=record.created_ns,
            message=record.message,
            meta=record.meta,
            git=record.git,
            parent=self._address(parent),
            current=base is not None and base.epoch == record.epoch,
        )

