"""What a user can ask for across the store's border: import of a directory, export of a snapshot."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from pathlib import Path

import trio

from snapfs import api
from snapfs.errors import Invalid
from snapfs.retaining import Retaining
from snapfs.volume.past import Progress
from snapfs.volume.restore import split_path
from snapfs.volume.touched import Touched
from snapfs.volume.transfer.archive import Archive
from snapfs.volume.transfer.importer import Forbidden, Import
from snapfs.volume.transfer.target import Target
from snapfs.volume.transfer.walk import Source
from snapfs.volume.volumes import Volume


class Transfer(Retaining):
    """Verbs that take in and give out whole trees."""

    async def import_tree(
        self, *, source: str, volume: str, path: str = "", progress: Progress | None = None
    ) -> api.ImportReport:
        """Copy a directory of this machine into a volume's head, with all that ``cp -a`` keeps.  It is laid over what
        is there; what is there unchanged (type, size, mtime, mode, owner) is passed over.

        Args:
            source: absolute path.
            volume: made if there is none.
            path: directory in the volume that the source becomes, made if there is none; empty: the root.
            progress: is told how many bytes were read or passed over.

        Raises:
            Invalid: the source is relative, or is or lies in this store or its mount.
            NotFound, NotADirectory, NotPermitted, Unavailable: it cannot be opened.
            QuotaExceeded, NoSpace, Stale: what was imported until then stays.
        """
        if not Path(source).is_absolute():
            raise Invalid(f"{source!a} is not an absolute path")
        names = split_path(path)
        opened, forbidden = await trio.to_thread.run_sync(self._open_source, Path(source))
        try:
            return await self._import(opened, forbidden, volume, names, progress)
        finally:
            opened.close()

    async def _import(
        self, source: Source, forbidden: Forbidden, volume: str, names: list[bytes], progress: Progress | None
    ) -> api.ImportReport:
        lake = self._lake
        if volume not in lake.volumes.names():
            lake.volumes.create(volume, uid=os.getuid(), gid=os.getgid())
        await lake.exclusive.counted()  # a quota may be on that
        owner = lake.volumes.get(volume)
        lake.core.tree.check_writable(owner.head)
        target = self._target(owner)
        work = Import(
            lake.core, lake.writeback, owner.head, source, target,
            tell=lambda: self._tell(owner, target), forbidden=forbidden,
            progress=lambda done: progress(done, 0) if progress is not None else None,
        )  # fmt: skip
        try:
            await work.run(target.enter(names, uid=os.getuid(), gid=os.getgid()))
        finally:
            with trio.CancelScope(shield=True):
                try:
                    await self._tell(owner, target)
                finally:
                    await lake.commit()
        return work.report()

    def _open_source(self, path: Path) -> tuple[Source, Forbidden]:
        """The source, and what must not be met in it.  Worker thread: it may lie on a file system that hangs, even on
        our own mount."""
        store = self._lake.path.stat()

        def forbidden(found: os.stat_result) -> str:
            if self._mounted is not None and found.st_dev == self._mounted.device:
                return "it is the store's own mount"
            if (found.st_dev, found.st_ino) == (store.st_dev, store.st_ino):
                return "it is the store itself"
            return ""

        real = Path(os.path.realpath(path))
        for place in (real, *real.parents):
            try:
                why = forbidden(place.stat())
            except OSError:  # told when it is opened
                continue
            if why:
                raise Invalid(f"{os.fspath(path)!a} cannot be imported: {place}: {why}", hint="name another directory")
        source = Source(path)
        if why := forbidden(source.stat):  # it has changed in this moment
            source.close()
            raise Invalid(f"{os.fspath(path)!a} cannot be imported: {why}")
        return source, forbidden

    def _target(self, owner: Volume) -> Target:
        lake, mounted = self._lake, self._mounted
        return Target(
            lake.core, lake.files, owner.head, owner.root, self._keeper(owner),
            (lambda ino: mounted.is_known(owner.id, ino)) if mounted is not None else lambda ino: False,
        )  # fmt: skip

    async def _tell(self, owner: Volume, target: Target) -> None:
        """Make the kernel forget what was touched."""
        touched, mounted = target.touched, self._mounted
        if not touched.inodes:
            return
        target.touched = Touched()
        if mounted is not None:
            await mounted.refresh(mounted.outdate(owner.id, touched))

    async def export_snapshot(self, *, volume: str, snapshot: str, path: str = "") -> AsyncGenerator[bytes, None]:
        """What the snapshot shows at a path (a file or directory from the volume's root; empty: everything) as a POSIX
        tar archive, piece by piece, with nanoseconds, owners, hard links, devices, extended attributes and holes.

        Raises:
            NotFound, Invalid; Stale: the snapshot was removed meanwhile; Corrupt: a file's bytes are damaged.
        """
        lake = self._lake
        _, record = self._find(volume, snapshot)
        archive = Archive(
            lake.core, lake.files, lake.snapshots.view(record), lambda: lake.snapshots.check_alive(record)
        )
        async for piece in archive.pieces(record.root, split_path(path)):
            yield piece
