"""SnapshotService."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from snapfs.rpc import convert
from snapfs.rpc.handlers.common import Call, batches, fitting, once_of
from snapfs.rpc.methods import visible
from snapfs.service import Service
from snapfs.v1 import snapshot_pb2


class SnapshotHandlers:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def create_snapshot(
        self, request: snapshot_pb2.CreateSnapshotRequest, call: Call
    ) -> snapshot_pb2.CreateSnapshotResponse:
        made = await self._service.create_snapshot(
            volume=request.volume,
            name=request.name,
            message=request.message,
            meta=dict(request.meta),
            git=convert.git_of(request.git) if request.HasField("git") else None,
            once=once_of(request, request.request_id, call),
        )
        return snapshot_pb2.CreateSnapshotResponse(snapshot=convert.snapshot_to(made))

    async def get_snapshot(
        self, request: snapshot_pb2.GetSnapshotRequest, call: Call
    ) -> snapshot_pb2.GetSnapshotResponse:
        found = await self._service.get_snapshot(volume=request.volume, snapshot=request.snapshot)
        return snapshot_pb2.GetSnapshotResponse(snapshot=convert.snapshot_to(found))

    async def list_snapshots(
        self, request: snapshot_pb2.ListSnapshotsRequest, call: Call
    ) -> snapshot_pb2.ListSnapshotsResponse:
        wanted = convert.filter_of(request.filter) if request.HasField("filter") else None

        async def page(items: int) -> snapshot_pb2.ListSnapshotsResponse:
            found = await self._service.list_snapshots(
                volume=request.volume,
                filter=wanted,
                newest_first=request.newest_first,
                page_size=items,
                page_token=request.page_token,
                visible=visible(call.caller),
            )
            return snapshot_pb2.ListSnapshotsResponse(
                snapshots=convert.snapshots_to(found.snapshots), next_page_token=found.next_page_token
            )

        return await fitting(page, request.page_size)

    async def list_ancestry(
        self, request: snapshot_pb2.ListAncestryRequest, call: Call
    ) -> snapshot_pb2.ListAncestryResponse:
        """Across clones: what the caller may not see is left out."""
        async def page(items: int) -> snapshot_pb2.ListAncestryResponse:
            found = await self._service.list_ancestry(
                volume=request.volume,
                snapshot=request.snapshot,
                page_size=items,
                page_token=request.page_token,
                visible=visible(call.caller),
            )
            return snapshot_pb2.ListAncestryResponse(
                snapshots=convert.snapshots_to(found.snapshots), next_page_token=found.next_page_token
            )

        return await fitting(page, request.page_size)

    async def rename_snapshot(
        self, request: snapshot_pb2.RenameSnapshotRequest, call: Call
    ) -> snapshot_pb2.RenameSnapshotResponse:
        renamed = await self._service.rename_snapshot(
            volume=request.volume, snapshot=request.snapshot, name=request.name
        )
        return snapshot_pb2.RenameSnapshotResponse(snapshot=convert.snapshot_to(renamed))

    async def delete_snapshot(
        self, request: snapshot_pb2.DeleteSnapshotRequest, call: Call
    ) -> snapshot_pb2.DeleteSnapshotResponse:
        await self._service.delete_snapshot(
            volume=request.volume, snapshot=request.snapshot, purge=request.purge
        )
        return snapshot_pb2.DeleteSnapshotResponse()

    async def tag_snapshot(
        self, request: snapshot_pb2.TagSnapshotRequest, call: Call
    ) -> snapshot_pb2.TagSnapshotResponse:
        tagged = await self._service.tag_snapshot(
            volume=request.volume, snapshot=request.snapshot, tag=request.tag, move=request.move
        )
        return snapshot_pb2.TagSnapshotResponse(snapshot=convert.snapshot_to(tagged))

    async def delete_tag(
        self, request: snapshot_pb2.DeleteTagRequest, call: Call
    ) -> snapshot_pb2.DeleteTagResponse:
        await self._service.delete_tag(volume=request.volume, tag=request.tag)
        return snapshot_pb2.DeleteTagResponse()

    async def carry_snapshots(
        self, request: snapshot_pb2.CarrySnapshotsRequest, call: Call
    ) -> snapshot_pb2.CarrySnapshotsResponse:
        done = await self._service.carry_snapshots(
            volume=request.volume, rewritten=[convert.rewrite_of(one) for one in request.rewrites]
        )
        return convert.carried_to(done)

    async def diff(
        self, request: snapshot_pb2.DiffRequest, call: Call
    ) -> AsyncIterator[snapshot_pb2.DiffResponse]:
        changes = self._service.diff(
            volume=request.volume,
            snapshot=request.snapshot,
            other_volume=request.other_volume,
            other=request.other,
        )
        async with aclosing(batches(changes)) as found:
            async for batch in found:
                yield snapshot_pb2.DiffResponse(changes=batch)
