"""Calls on volumes and their heads."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from snapfs import api
from snapfs.client.aio.calls import AsyncCalls, new_request_id
from snapfs.rpc import convert
from snapfs.v1 import volume_pb2

SERVICE = "snapfs.v1.VolumeService"


class AsyncVolumeCalls(AsyncCalls):
    """``snapfs.v1.VolumeService``."""

    async def create_volume(self, *, name: str, request_id: str = "") -> api.Volume:
        """Make an empty volume.

        Args:
            request_id: idempotency key; a fresh one unless given.

        Raises:
            AlreadyExists, Invalid, NameTooLong, NoSpace.
        """
        key = request_id or new_request_id()
        answer = await self._create(
            f"{SERVICE}/CreateVolume",
            lambda: volume_pb2.CreateVolumeRequest(name=name, request_id=key),
            volume_pb2.CreateVolumeResponse,
        )
        return convert.volume_of(answer.volume)

    async def get_volume(self, *, name: str) -> api.Volume:
        """Raises NotFound."""
        answer = await self._unary(
            f"{SERVICE}/GetVolume", lambda: volume_pb2.GetVolumeRequest(name=name), volume_pb2.GetVolumeResponse
        )
        return convert.volume_of(answer.volume)

    async def list_volumes(self, *, page_size: int = 0) -> AsyncIterator[api.Volume]:
        """By name.

        Args:
            page_size: how many a request fetches; 0: as many as the daemon gives.
        """
        pages = self._pages(
            f"{SERVICE}/ListVolumes",
            lambda token: volume_pb2.ListVolumesRequest(page_size=page_size, page_token=token),
            volume_pb2.ListVolumesResponse,
            lambda page: page.next_page_token,
        )
        async for page in pages:
            for message in page.volumes:
                yield convert.volume_of(message)

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
            quota_bytes: most that may be held; 0: no limit.
            quota_kind: what is counted.
            compression: of what is stored from then on: ``none``, or ``zstd:LEVEL`` with a level of 1 to 19.

        Raises:
            NotFound; Invalid: nothing is given, or no such compression.
        """
        answer = await self._unary(
            f"{SERVICE}/UpdateVolume",
            lambda: volume_pb2.UpdateVolumeRequest(
                name=name,
                quota_bytes=quota_bytes,
                quota_kind=convert.quota_kind_to(quota_kind) if quota_kind is not None else None,
                compression=compression,
            ),
            volume_pb2.UpdateVolumeResponse,
        )
        return convert.volume_of(answer.volume)

    async def delete_volume(self, *, name: str, force: bool = False, purge: bool = False) -> None:
        """Delete a volume, into the trash; with ``force`` also its snapshots and files.

        Args:
            purge: at once and for good, not into the trash.

        Raises:
            NotFound; Conflict: it has snapshots, or one of them is held or locked; NotEmpty: its head has files.
        """
        await self._unary(
            f"{SERVICE}/DeleteVolume",
            lambda: volume_pb2.DeleteVolumeRequest(name=name, force=force, purge=purge),
            volume_pb2.DeleteVolumeResponse,
        )

    async def clone(self, *, volume: str, snapshot: str, name: str, request_id: str = "") -> api.Volume:
        """A new volume from a snapshot; ``request_id`` as in ``create_volume``.

        Raises:
            NotFound, AlreadyExists, Invalid, NameTooLong, NoSpace.
        """
        key = request_id or new_request_id()
        answer = await self._create(
            f"{SERVICE}/Clone",
            lambda: volume_pb2.CloneRequest(volume=volume, snapshot=snapshot, name=name, request_id=key),
            volume_pb2.CloneResponse,
        )
        return convert.volume_of(answer.volume)

    async def checkout(
        self, *, volume: str, snapshot: str, unsaved: api.Save = api.Save.REFUSE, label: str = ""
    ) -> api.Checkout:
        """The head becomes the snapshot.

        Raises:
            NotFound; Conflict: there are unsaved changes, with Save.REFUSE.
        """
        answer = await self._unary(
            f"{SERVICE}/Checkout",
            lambda: volume_pb2.CheckoutRequest(
                volume=volume, snapshot=snapshot, unsaved=convert.unsaved_to(unsaved), label=label
            ),
            volume_pb2.CheckoutResponse,
        )
        return convert.checkout_of(answer)

    async def restore(self, *, volume: str, snapshot: str, paths: Sequence[str]) -> api.Restored:
        """Put files or directories (paths from the volume's root) of a snapshot back into the head.

        Raises:
            NotFound: then nothing was restored; Invalid, NotADirectory: something of another type is in the way.
        """
        answer = await self._unary(
            f"{SERVICE}/Restore",
            lambda: volume_pb2.RestoreRequest(
                volume=volume, snapshot=snapshot, paths=[convert.path_to(path) for path in paths]
            ),
            volume_pb2.RestoreResponse,
        )
        return convert.restored_of(answer)

    async def status(self, *, volume: str) -> AsyncIterator[api.Change]:
        """Changes of the head since the snapshot that it stands on, by path.  Raises NotFound."""
        answers = self._stream(
            f"{SERVICE}/Status", lambda: volume_pb2.StatusRequest(volume=volume), volume_pb2.StatusResponse
        )
        async for answer in answers:
            for message in answer.changes:
                yield convert.change_of(message)
