"""RetentionService."""

from __future__ import annotations

from collections.abc import AsyncIterator

from snapfs.rpc import convert
from snapfs.rpc.handlers.common import Call, parts
from snapfs.rpc.methods import visible
from snapfs.service import Service
from snapfs.v1 import retention_pb2


class RetentionHandlers:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def hold_snapshot(
        self, request: retention_pb2.HoldSnapshotRequest, call: Call
    ) -> retention_pb2.HoldSnapshotResponse:
        held = await self._service.hold_snapshot(volume=request.volume, snapshot=request.snapshot, hold=request.hold)
        return retention_pb2.HoldSnapshotResponse(snapshot=convert.snapshot_to(held))

    async def release_snapshot(
        self, request: retention_pb2.ReleaseSnapshotRequest, call: Call
    ) -> retention_pb2.ReleaseSnapshotResponse:
        released = await self._service.release_snapshot(
            volume=request.volume, snapshot=request.snapshot, hold=request.hold
        )
        return retention_pb2.ReleaseSnapshotResponse(snapshot=convert.snapshot_to(released))

    async def lock_snapshot(
        self, request: retention_pb2.LockSnapshotRequest, call: Call
    ) -> retention_pb2.LockSnapshotResponse:
        locked = await self._service.lock_snapshot(
            volume=request.volume, snapshot=request.snapshot, until_ns=convert.time_of(request.until_time)
        )
        return retention_pb2.LockSnapshotResponse(snapshot=convert.snapshot_to(locked))

    async def set_policy(self, request: retention_pb2.SetPolicyRequest, call: Call) -> retention_pb2.SetPolicyResponse:
        policy = convert.policy_of(request.policy) if request.HasField("policy") else None
        changed = await self._service.set_policy(volume=request.volume, policy=policy)
        return retention_pb2.SetPolicyResponse(volume=convert.volume_to(changed))

    async def apply_policy(
        self, request: retention_pb2.ApplyPolicyRequest, call: Call
    ) -> AsyncIterator[retention_pb2.ApplyPolicyResponse]:
        policy = convert.policy_of(request.policy) if request.HasField("policy") else None
        done = await self._service.apply_policy(volume=request.volume, policy=policy, dry_run=request.dry_run)
        report: retention_pb2.RetentionReport | None = convert.retention_report_to(done)
        for decisions in parts(done.decisions):
            yield retention_pb2.ApplyPolicyResponse(report=report, decisions=map(convert.decision_to, decisions))
            report = None

    async def list_trash(
        self, request: retention_pb2.ListTrashRequest, call: Call
    ) -> AsyncIterator[retention_pb2.ListTrashResponse]:
        seen = visible(call.caller)
        found = await self._service.list_trash(volume=request.volume)
        for entries in parts([one for one in found if seen is None or one.volume in seen]):
            yield retention_pb2.ListTrashResponse(entries=map(convert.trash_entry_to, entries))

    async def empty_trash(
        self, request: retention_pb2.EmptyTrashRequest, call: Call
    ) -> retention_pb2.EmptyTrashResponse:
        return convert.emptied_to(await self._service.empty_trash(volume=request.volume, snapshot=request.snapshot))

    async def undelete_snapshot(
        self, request: retention_pb2.UndeleteSnapshotRequest, call: Call
    ) -> retention_pb2.UndeleteSnapshotResponse:
        back = await self._service.undelete_snapshot(
            volume=request.volume, snapshot=request.snapshot, name=request.name
        )
        return retention_pb2.UndeleteSnapshotResponse(snapshot=convert.snapshot_to(back))

    async def undelete_volume(
        self, request: retention_pb2.UndeleteVolumeRequest, call: Call
    ) -> retention_pb2.UndeleteVolumeResponse:
        back = await self._service.undelete_volume(volume=request.volume, name=request.name)
        return retention_pb2.UndeleteVolumeResponse(volume=convert.volume_to(back))
