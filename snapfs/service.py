"""What a user can ask of one store, as methods on plain records (``snapfs.api``).

One object behind both transports: the CLI calls it in-process when no daemon runs, the daemon's
channel calls it when one does.  Every method is ``async`` and runs on the trio thread; every error is a
``SnapfsError``.  ``volume`` is a volume's name; ``snapshot`` is a reference: a name, a full commit
ID, or a unique prefix (4 or more characters) of a commit ID.

One rhythm in whatever looks at a head or changes it: fetch the kernel's dirty pages, hold the volume still,
act in one step, let it go, commit, make the kernel forget.  What is answered is described in the step too, as it was
then: while its commit is waited for it may be removed by others.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import aclosing

from snapfs import api
from snapfs.errors import Conflict, Invalid
from snapfs.format.records import SnapshotRecord
from snapfs.retaining import Reachable
from snapfs.transfer import Transfer
from snapfs.volume import past
from snapfs.volume.compare import compare
from snapfs.volume.events import Wanted
from snapfs.volume.lake import Lake
from snapfs.volume.listing import Listing
from snapfs.volume.mounted import Mounted
from snapfs.volume.once import Once
from snapfs.volume.restore import Restore, split_path
from snapfs.volume.volumes import Volume


class Service(Transfer):
    """All verbs.  ``reachable`` asks git, of which this layer knows nothing."""

    def __init__(self, lake: Lake, mounted: Mounted | None = None, *, reachable: Reachable | None = None) -> None:
        super().__init__(lake, mounted, reachable)
        self._listing = Listing(lake.volumes, lake.snapshots, self._describe)

    def watch_events(
        self,
        *,
        after: int | None = None,
        volume: str = "",
        kinds: Collection[api.EventKind] = (),
        until_now: bool = False,
        visible: Collection[str] | None = None,
    ) -> AsyncIterator[api.Events]:
        """What happens, once it is durable, in batches.  The first comes at once, perhaps empty: nothing after its
        ``sequence`` will be missed.

        Args:
            after: only later ones; None: those from now on; 0: all that are kept (the newest 10,000).
            volume: only of this one, whether it exists or not.
            until_now: end with the last that exists.
            visible: only of these volumes, and not what concerns the store as a whole.

        Raises:
            Stale: what comes after ``after`` was dropped.
            IOFailure: the store takes no more changes.
        """
        wanted = Wanted(
            volume=volume, kinds=frozenset(kinds), visible=None if visible is None else frozenset(visible)
        )
        return self._lake.core.events.watch(wanted, after=after, until_now=until_now)

    # -- volumes

    async def create_volume(self, *, name: str, once: Once | None = None) -> api.Volume:
        """Raises Invalid, NameTooLong, AlreadyExists, NoSpace; with ``once`` also NotFound: made, and deleted since."""
        lake = self._lake
        made = lake.requests.volume(once)
        if made is None:
            made = lake.volumes.create(name, uid=os.getuid(), gid=os.getgid())
            lake.requests.record(once, volume=made.id)
        answer = self._describe.volume(made)
        await lake.commit()
        return answer

    async def get_volume(self, *, name: str) -> api.Volume:
        await self._lake.exclusive.counted()
        return self._describe.volume(self._lake.volumes.get(name))

    async def list_volumes(self) -> list[api.Volume]:
        """By name."""
        await self._lake.exclusive.counted()
        return [self._describe.volume(volume) for volume in self._lake.volumes.all()]

    async def update_volume(
        self,
        *,
        name: str,
        quota_bytes: int | None = None,
        quota_kind: api.QuotaKind | None = None,
        compression: str | None = None,
    ) -> api.Volume:
        """Change what is given.

        Args:
            quota_bytes: most that the volume may hold; 0: no limit.  Less than it holds now: it can only shrink.
            quota_kind: what the quota counts.
            compression: of data written from now on: ``none``, or ``zstd:LEVEL``.

        Raises:
            NotFound; Invalid: nothing is given, a negative number, no such compression.
        """
        volume = self._lake.volumes.get(name)
        if quota_bytes is None and quota_kind is None and compression is None:
            raise Invalid("nothing to change was given", hint="snap volume set VOLUME --quota SIZE")
        self._lake.volumes.update(volume, quota_bytes=quota_bytes, quota_kind=quota_kind, compression=compression)
        await self._lake.exclusive.counted()
        answer = self._describe.volume(volume)
        await self._lake.commit()
        return answer

    # -- snapshots

    async def create_snapshot(
        self,
        *,
        volume: str,
        name: str = "",
        message: str = "",
        meta: dict[str, str] | None = None,
        git: api.GitCommit | None = None,
        once: Once | None = None,
    ) -> api.Snapshot:
        """Freeze the head.  Neither name nor git: a name from the time, ``YYYYMMDDTHHMMSSZ``.  With git and no name
        the full commit ID is the name; a further snapshot of the same commit is ``<id>.2``, ``<id>.3``...  For a
        commit that has a snapshot, and data that is still the same, it answers that one, with ``created`` false.

        Raises:
            NotFound, Invalid, NameTooLong, AlreadyExists, NoSpace.
        """
        lake = self._lake
        made = lake.requests.snapshot(once)
        if made is None:
            target = lake.volumes.get(volume)
            await self._push(target)
            async with lake.writeback.hold(target.head):
                made = lake.requests.snapshot(once)  # by a call with the same key, meanwhile
                if made is None:
                    same = self._same_commit(target, name, git)
                    record = same or lake.snapshots.freeze(target, name=name, message=message, meta=meta, git=git)
                    lake.requests.record(once, epoch=record.epoch, created=same is None)
                    made = target, record, same is None
        owner, record, created = made
        answer = self._describe.snapshot(owner, record, created=created)
        await lake.commit()
        return answer

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

    async def list_snapshots(
        self,
        *,
        volume: str = "",
        filter: api.SnapshotFilter | None = None,
        newest_first: bool = False,
        page_size: int = 0,
        page_token: str = "",
        visible: Collection[str] | None = None,
    ) -> api.SnapshotPage:
        """A page, in the order that they were made in; of all volumes if ``volume`` is empty.

        Args:
            page_size: 0: 1,000, which is also the most.
            page_token: of the page before, which was asked for the same.
            visible: only of these volumes; None: of all.

        Raises:
            NotFound: no such volume.
            Invalid: the token is none of this list; a commit in the filter that is none.
        """
        return await self._listing.snapshots(
            volume, filter or api.SnapshotFilter(), newest_first=newest_first,
            page_size=page_size, page_token=page_token, visible=visible,
        )  # fmt: skip

    async def get_snapshot(self, *, volume: str, snapshot: str) -> api.Snapshot:
        return self._describe.snapshot(*self._find(volume, snapshot))

    async def list_ancestry(
        self,
        *,
        volume: str,
        snapshot: str = "",
        page_size: int = 0,
        page_token: str = "",
        visible: Collection[str] | None = None,
    ) -> api.SnapshotPage:
        """Ancestry, newest first, of the snapshot or, if empty, of the head (across clones: an ancestor may be
        another volume's).  Arguments as of ``list_snapshots``."""
        return await self._listing.ancestry(
            volume, snapshot, page_size=page_size, page_token=page_token, visible=visible
        )

    async def rename_snapshot(self, *, volume: str, snapshot: str, name: str) -> api.Snapshot:
        owner, record = self._find(volume, snapshot)
        answer = self._describe.snapshot(owner, self._lake.snapshots.rename(owner, record, name))
        await self._lake.commit()
        return answer

    async def tag_snapshot(self, *, volume: str, snapshot: str, tag: str, move: bool = False) -> api.Snapshot:
        """Give a snapshot a further name, which must be no snapshot's name; it goes when the snapshot goes.

        Raises:
            AlreadyExists: another snapshot has the tag (without ``move``), or a snapshot that name.
            NotFound, Invalid, NameTooLong, Conflict (100 tags).
        """
        owner, record = self._find(volume, snapshot)
        answer = self._describe.snapshot(owner, self._lake.snapshots.tag(owner, record, tag, move=move))
        await self._lake.commit()
        return answer

    async def delete_tag(self, *, volume: str, tag: str) -> None:
        """Raises NotFound."""
        self._lake.snapshots.remove_tag(self._lake.volumes.get(volume), tag)
        await self._lake.commit()

    async def carry_snapshots(
        self, *, volume: str, rewritten: Sequence[tuple[str, api.GitCommit]]
    ) -> api.Carried:
        """For each (old commit ID, new commit): a snapshot of the new commit with the old one's data, unless the
        new one has a snapshot already.  Of several olds with one new, the last that has a snapshot counts.

        Raises:
            NotFound, Invalid, NoSpace: nothing was carried.
        """
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
        carried = snapshots.carry(target, list(origins.values()))
        answer = api.Carried(carried=[self._describe.snapshot(target, record) for record in carried], missing=missing)
        await self._lake.commit()
        return answer

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
        async with aclosing(past.changes(self._lake, old, target, record)) as changes:
            async for change in changes:
                yield change

    async def status(self, *, volume: str) -> AsyncIterator[api.Change]:
        """Changes of the head since the snapshot that it stands on."""
        target = self._lake.volumes.get(volume)
        await self._settle(target)
        async with aclosing(past.changes(self._lake, None, target, None)) as changes:
            async for change in changes:
                yield change

    async def _settle(self, volume: Volume) -> None:
        """All of the head's acknowledged data is in the tree."""
        await self._push(volume)
        await self._lake.writeback.flush(view=volume.head)

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
                own = base is not None and base.volume == target.id  # else it is a clone, of what is not told
                where = f"{volume}@{base.name}" if base and own else "it was made"
                raise Conflict(
                    f"volume {volume!r} has unsaved changes since {where}",
                    hint="see them with: snap status; keep them with --save, drop them with --discard",
                )
            if dirty and unsaved is api.Save.SAVE:
                saved = lake.snapshots.freeze(target, name=lake.snapshots.unsaved_name(target, label))
            if moved:
                touched = lake.snapshots.checkout(target, record)
                if self._mounted:
                    outdated = self._mounted.outdate(target.id, touched)
        try:
            return api.Checkout(
                snapshot=self._describe.snapshot(target, record),
                saved=self._describe.snapshot(target, saved) if saved else None,
                moved=moved,
            )
        finally:
            await self._publish(outdated)

    async def restore(self, *, volume: str, snapshot: str, paths: Sequence[str]) -> api.Restored:
        """Put files or directories (paths from the volume's root) of the snapshot back into the head.

        Raises:
            NotFound: the snapshot has nothing at a path.
            Invalid, NotADirectory: something of another type is in the way.
            QuotaExceeded: the head would hold more than it may.  After each of these nothing was restored.
            NoSpace: some of it may be restored already.
        """
        lake = self._lake
        target, record = self._find(volume, snapshot)
        names = [split_path(path) for path in paths]
        if not names:
            raise Invalid("name at least one path to restore")
        source = lake.snapshots.view(record)
        await self._push(target)
        outdated: object = None
        try:
            async with lake.writeback.hold(target.head):
                lake.snapshots.check_alive(record)
                restore = Restore(lake.core, lake.files, source, target.head, target.root, self._keeper(target))
                try:
                    restore.paths(names)
                finally:
                    if self._mounted:
                        outdated = self._mounted.outdate(target.id, restore.touched)
                    if restore.touched.inodes:
                        lake.snapshots.tell_restore(target, record)
        finally:
            await self._publish(outdated)
        return api.Restored(paths=list(paths), files=restore.files, total_bytes=restore.total_bytes)

    async def clone(self, *, volume: str, snapshot: str, name: str, once: Once | None = None) -> api.Volume:
        """Raises AlreadyExists, Invalid, NameTooLong, NotFound, NoSpace."""
        lake = self._lake
        made = lake.requests.volume(once)
        if made is None:
            made = lake.snapshots.clone(self._find(volume, snapshot)[1], name)
            lake.requests.record(once, volume=made.id)
        answer = self._describe.volume(made)
        await lake.commit()
        return answer
