"""What a user can ask of a store as a whole: what it holds, whether it is sound.  The base of ``snapfs.service``, whose
rules hold here too."""

from __future__ import annotations

import time
from collections.abc import Callable

import trio

from snapfs import __version__, api
from snapfs.store import layout
from snapfs.types import Ino
from snapfs.volume import past
from snapfs.volume.lake import Lake
from snapfs.volume.mounted import Mounted
from snapfs.volume.past import Progress
from snapfs.volume.seals.verify import verify
from snapfs.volume.volumes import Volume


class Maintenance:
    """Verbs on a store as a whole."""

    def __init__(self, lake: Lake, mounted: Mounted | None) -> None:
        self._lake = lake
        self._mounted = mounted
        self._start_seconds = time.monotonic()

    async def get_store(self) -> api.StoreInfo:
        lake = self._lake
        holder = layout.read_holder(lake.path) if self._mounted is not None else None
        index_bytes = lake.index.used_bytes()
        failure = lake.index.failure
        return api.StoreInfo(
            path=str(lake.path),
            uuid=lake.uuid,
            format=layout.FORMAT_VERSION,
            volumes=len(lake.volumes.names()),
            snapshots=lake.index.count("created") - sum(map(lake.snapshots.count, lake.volumes.trashed())),
            stored_bytes=lake.core.blocks.space.stored_bytes,
            seal_bytes=lake.core.blocks.space.seal_bytes,
            logical_bytes=lake.core.blocks.space.raw_bytes,
            index_bytes=index_bytes,
            disk_bytes=lake.core.blocks.segments.disk_bytes() + index_bytes,
            free_bytes=lake.core.disk.free_bytes(lake.path)[0],
            mountpoint=holder.mountpoint if holder else "",
            pid=holder.pid if holder else 0,
            version=__version__,
            uptime_seconds=int(time.monotonic() - self._start_seconds) if holder else 0,
            dirty_bytes=lake.core.dirty_bytes,
            failure=failure.message if failure else "",
        )

    # -- checking

    async def check_store(self, *, progress: Progress | None = None) -> api.CheckReport:
        """Check every invariant and every byte of the store as of now; changes nothing."""
        await self._push()
        await self._lake.sync()
        return await past.check(self._lake, progress)

    async def verify_snapshot(
        self, *, volume: str, snapshot: str, progress: Progress | None = None
    ) -> api.VerifyReport:
        """Prove that the snapshot shows what it was sealed with, by reading all of it.

        Raises:
            NotFound, Invalid; Stale: it was removed meanwhile.
        """
        record = self._lake.snapshots.resolve(self._lake.volumes.get(volume), snapshot)
        return await verify(self._lake, record, progress)

    async def start_scrub(self, *, bytes_per_second: int = 0) -> api.ScrubStatus:
        """Verify everything beside its use, in the background, or go on with what was paused; one that runs goes on.

        Args:
            bytes_per_second: most that it reads; 0: as the store's pace says.
        """
        self._lake.scrub.start(bytes_per_second)
        await self._lake.commit()
        return self._lake.scrub.status()

    async def get_scrub(self) -> api.ScrubStatus:
        """The scrub that runs, or the last one."""
        return self._lake.scrub.status()

    async def pause_scrub(self) -> api.ScrubStatus:
        """Halt it until it is started again.  Raises Conflict: none runs."""
        self._lake.scrub.pause()
        await self._lake.commit()
        return self._lake.scrub.status()

    async def cancel_scrub(self) -> api.ScrubStatus:
        """End it; the next one begins anew.  Raises Conflict: none runs or is paused."""
        self._lake.scrub.cancel()
        await self._lake.commit()
        return self._lake.scrub.status()

    # -- shared

    async def _push(self, volume: Volume | None = None) -> None:
        """Fetch what the kernel has.  Flushed before, so that little is left to flush when the volume is held
        still: what a program writes from here to there is in no snapshot, and a checkout takes it away."""
        if self._mounted:
            if volume is not None:
                await self._lake.writeback.flush(view=volume.head)
            await self._mounted.push()

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
