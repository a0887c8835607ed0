"""VolumeService."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Final

from snapfs.rpc import convert
from snapfs.rpc.handlers.common import Call, batches, once_of
from snapfs.rpc.methods import visible
from snapfs.service import Service
from snapfs.v1 import volume_pb2
from snapfs.volume.paging import decode_token, encode_token, page_items

_SCOPE: Final = "volumes"


class VolumeHandlers:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def create_volume(
        self, request: volume_pb2.CreateVolumeRequest, call: Call
    ) -> volume_pb2.CreateVolumeResponse:
        once = once_of(request, request.request_id, call)
        made = await self._service.create_volume(name=request.name, once=once)
        return volume_pb2.CreateVolumeResponse(volume=convert.volume_to(made))

    async def get_volume(self, request: volume_pb2.GetVolumeRequest, call: Call) -> volume_pb2.GetVolumeResponse:
        found = await self._service.get_volume(name=request.name)
        return volume_pb2.GetVolumeResponse(volume=convert.volume_to(found))

    async def list_volumes(
        self, request: volume_pb2.ListVolumesRequest, call: Call
    ) -> volume_pb2.ListVolumesResponse:
        """Tokens are names: a page begins after one, whatever came and went."""
        # a token that somebody made up may hold anything
        after = decode_token(_SCOPE, request.page_token).decode(errors="replace") if request.page_token else ""
        items = page_items(request.page_size)
        seen = visible(call.caller)
        volumes = sorted(await self._service.list_volumes(), key=lambda volume: volume.name)
        rest = [volume for volume in volumes if volume.name > after and (seen is None or volume.name in seen)]
        more = len(rest) > items
        return volume_pb2.ListVolumesResponse(
            volumes=[convert.volume_to(volume) for volume in rest[:items]],
            next_page_token=encode_token(_SCOPE, rest[items - 1].name.encode()) if more else "",
        )

    async def update_volume(
        self, request: volume_pb2.UpdateVolumeRequest, call: Call
    ) -> volume_pb2.UpdateVolumeResponse:
        quota_bytes = request.quota_bytes if request.HasField("quota_bytes") else None
        changed = await self._service.update_volume(
            name=request.name,
            quota_bytes=quota_bytes,
            quota_kind=convert.quota_kind_of(request.quota_kind) if request.quota_kind else None,
            compression=request.compression or None,
        )
        return volume_pb2.UpdateVolumeResponse(volume=convert.volume_to(changed))

    async def delete_volume(
        self, request: volume_pb2.DeleteVolumeRequest, call: Call
    ) -> volume_pb2.DeleteVolumeResponse:
        await self._service.delete_volume(name=request.name, force=request.force, purge=request.purge)
        return volume_pb2.DeleteVolumeResponse()

    async def clone(self, request: volume_pb2.CloneRequest, call: Call) -> volume_pb2.CloneResponse:
        once = once_of(request, request.request_id, call)
        made = await self._service.clone(
            volume=request.volume, snapshot=request.snapshot, name=request.name, once=once
        )
        return volume_pb2.CloneResponse(volume=convert.volume_to(made))

    async def checkout(self, request: volume_pb2.CheckoutRequest, call: Call) -> volume_pb2.CheckoutResponse:
        done = await self._service.checkout(
            volume=request.volume,
            snapshot=request.snapshot,
            unsaved=convert.unsaved_of(request.unsaved),
            label=request.label,
        )
        return convert.checkout_to(done)

    async def restore(self, request: volume_pb2.RestoreRequest, call: Call) -> volume_pb2.RestoreResponse:
        paths = [convert.path_of(path) for path in request.paths]
        done = await self._service.restore(volume=request.volume, snapshot=request.snapshot, paths=paths)
        return convert.restored_to(done)

    async def status(
        self, request: volume_pb2.StatusRequest, call: Call
    ) -> AsyncIterator[volume_pb2.StatusResponse]:
        async with aclosing(batches(self._service.status(volume=request.volume))) as found:
            async for changes in found:
                yield volume_pb2.StatusResponse(changes=changes)
