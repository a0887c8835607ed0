"""Calls on holds, locks, policies and the trash."""

from __future__ import annotations

from typing import Final

from snapfs import api
from snapfs.client.aio.calls import AsyncCalls
from snapfs.rpc import convert
from snapfs.v1 import retention_pb2

SERVICE: Final = "snapfs.v1.RetentionService"


class AsyncRetentionCalls(AsyncCalls):
    """``snapfs.v1.RetentionService``."""

    async def hold_snapshot(self, *, volume: str, snapshot: str, hold: str) -> api.Snapshot:
        """It cannot be deleted until all its holds are released.

        Args:
            hold: who or what needs it.

        Raises:
            NotFound, Invalid, NameTooLong.
        """
        answer = await self._unary(
            f"{SERVICE}/HoldSnapshot",
            lambda: retention_pb2.HoldSnapshotRequest(volume=volume, snapshot=snapshot, hold=hold),
            retention_pb2.HoldSnapshotResponse,
        )
        return convert.snapshot_of(answer.snapshot)

    async def release_snapshot(self, *, volume: str, snapshot: str, hold: str) -> api.Snapshot:
        """Raises NotFound: no such snapshot, or it has no such hold."""
        answer = await self._unary(
            f"{SERVICE}/ReleaseSnapshot",
            lambda: retention_pb2.ReleaseSnapshotRequest(volume=volume, snapshot=snapshot, hold=hold),
            retention_pb2.ReleaseSnapshotResponse,
        )
        return convert.snapshot_of(answer.snapshot)

    async def lock_snapshot(self, *, volume: str, snapshot: str, until_ns: int) -> api.Snapshot:
        """It cannot be deleted before this time, which can only be made later.

        Raises:
            NotFound; Conflict: it is locked for longer; Invalid: the time is past.
        """
        answer = await self._unary(
            f"{SERVICE}/LockSnapshot",
            lambda: retention_pb2.LockSnapshotRequest(
                volume=volume, snapshot=snapshot, until_time=convert.optional_time_to(until_ns)
            ),
            retention_pb2.LockSnapshotResponse,
        )
        return convert.snapshot_of(answer.snapshot)

    async def set_policy(self, *, volume: str, policy: api.RetentionPolicy | None) -> api.Volume:
        """Which snapshots stay when the policy is applied; None: all.

        Raises:
            NotFound, Invalid.
        """
        answer = await self._unary(
            f"{SERVICE}/SetPolicy",
            lambda: retention_pb2.SetPolicyRequest(
                volume=volume, policy=convert.policy_to(policy) if policy is not None else None
            ),
            retention_pb2.SetPolicyResponse,
        )
        return convert.volume_of(answer.volume)

    async def apply_policy(
        self, *, volume: str = "", policy: api.RetentionPolicy | None = None, dry_run: bool = True
    ) -> api.RetentionReport:
        """Delete what the policy does not keep; or only say what that would be.

        Args:
            volume: empty: every one that has a policy.
            policy: instead of the volume's own.
            dry_run: delete nothing.

        Raises:
            NotFound, Invalid.
        """
        answers = self._stream(
            f"{SERVICE}/ApplyPolicy",
            lambda: retention_pb2.ApplyPolicyRequest(
                volume=volume, policy=convert.policy_to(policy) if policy is not None else None, dry_run=dry_run
            ),
            retention_pb2.ApplyPolicyResponse,
        )
        report = retention_pb2.RetentionReport()
        decisions: list[api.Decision] = []
        async for answer in answers:
            if answer.HasField("report"):
                report = answer.report
            decisions.extend(map(convert.decision_of, answer.decisions))
        return convert.retention_report_of(report, decisions)

    async def list_trash(self, *, volume: str = "") -> list[api.TrashEntry]:
        """What was deleted and can still be taken back.

        Args:
            volume: empty: of all that the caller may see.
        """
        answers = self._stream(
            f"{SERVICE}/ListTrash",
            lambda: retention_pb2.ListTrashRequest(volume=volume),
            retention_pb2.ListTrashResponse,
        )
        found: list[api.TrashEntry] = []
        async for answer in answers:
            found.extend(map(convert.trash_entry_of, answer.entries))
        return found

    async def empty_trash(self, *, volume: str = "", snapshot: str = "") -> api.Emptied:
        """Delete for good what is in the trash, but for what is held or locked.

        Args:
            volume, snapshot: only this; empty: everything.

        Raises:
            NotFound: that is not in the trash.
        """
        answer = await self._unary(
            f"{SERVICE}/EmptyTrash",
            lambda: retention_pb2.EmptyTrashRequest(volume=volume, snapshot=snapshot),
            retention_pb2.EmptyTrashResponse,
        )
        return convert.emptied_of(answer)

    async def undelete_snapshot(self, *, volume: str, snapshot: str, name: str = "") -> api.Snapshot:
        """Take it out of the trash; its tags come back where they are free.

        Args:
            name: its name from then on; empty: as it was.

        Raises:
            NotFound: it is not in the trash; Conflict: its name is taken; Invalid, NameTooLong.
        """
        answer = await self._unary(
            f"{SERVICE}/UndeleteSnapshot",
            lambda: retention_pb2.UndeleteSnapshotRequest(volume=volume, snapshot=snapshot, name=name),
            retention_pb2.UndeleteSnapshotResponse,
        )
        return convert.snapshot_of(answer.snapshot)

    async def undelete_volume(self, *, volume: str, name: str = "") -> api.Volume:
        """Take it out of the trash, with all that it had.  As ``undelete_snapshot`` else."""
        answer = await self._unary(
            f"{SERVICE}/UndeleteVolume",
            lambda: retention_pb2.UndeleteVolumeRequest(volume=volume, name=name),
            retention_pb2.UndeleteVolumeResponse,
        )
        return convert.volume_of(answer.volume)
