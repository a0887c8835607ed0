"""Calls on snapshots, their tags and their differences."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence

from snapfs import api
from snapfs.client.aio.calls import AsyncCalls, new_request_id
from snapfs.rpc import convert
from snapfs.v1 import snapshot_pb2

SERVICE = "snapfs.v1.SnapshotService"


class AsyncSnapshotCalls(AsyncCalls):
    """``snapfs.v1.SnapshotService``."""

    async def create_snapshot(
        self,
        *,
        volume: str,
        name: str = "",
        message: str = "",
        meta: Mapping[str, str] | None = None,
        git: api.GitCommit | None = None,
        request_id: str = "",
    ) -> api.Snapshot:
        """Freeze the head.  Neither name nor git: named by the time.  With git and no name: by the commit's full ID;
        if the commit has a snapshot with the same data, that one is the answer, with ``created`` false.

        Args:
            request_id: idempotency key; a fresh one unless given.

        Raises:
            NotFound, AlreadyExists, Invalid, NameTooLong, NoSpace.
        """
        key = request_id or new_request_id()
        answer = await self._create(
            f"{SERVICE}/CreateSnapshot",
            lambda: snapshot_pb2.CreateSnapshotRequest(
                volume=volume,
                name=name,
                message=message,
                meta=meta or {},
                git=convert.git_to(git) if git is not None else None,
                request_id=key,
            ),
            snapshot_pb2.CreateSnapshotResponse,
        )
        return convert.snapshot_of(answer.snapshot)

    async def get_snapshot(self, *, volume: str, snapshot: str) -> api.Snapshot:
        """By name, tag, commit ID or unique prefix of one.  Raises NotFound; Invalid: an ambiguous prefix."""
        answer = await self._unary(
            f"{SERVICE}/GetSnapshot",
            lambda: snapshot_pb2.GetSnapshotRequest(volume=volume, snapshot=snapshot),
            snapshot_pb2.GetSnapshotResponse,
        )
        return convert.snapshot_of(answer.snapshot)

    async def list_snapshots(
        self,
        *,
        volume: str = "",
        filter: api.SnapshotFilter | None = None,
        newest_first: bool = False,
        page_size: int = 0,
    ) -> AsyncIterator[api.Snapshot]:
        """Oldest first unless ``newest_first``; of all volumes that the caller may see if ``volume`` is empty.

        Args:
            page_size: how many a request fetches; 0: as many as the daemon gives.

        Raises:
            NotFound: no such volume.
        """
        pages = self._pages(
            f"{SERVICE}/ListSnapshots",
            lambda token: snapshot_pb2.ListSnapshotsRequest(
                volume=volume,
                page_size=page_size,
                page_token=token,
                filter=convert.filter_to(filter) if filter is not None else None,
                newest_first=newest_first,
            ),
            snapshot_pb2.ListSnapshotsResponse,
            lambda page: page.next_page_token,
        )
        async for page in pages:
            for message in page.snapshots:
                yield convert.snapshot_of(message)

    async def list_ancestry(
        self, *, volume: str, snapshot: str = "", page_size: int = 0
    ) -> AsyncIterator[api.Snapshot]:
        """From the snapshot (empty: the head) to its oldest ancestor, newest first; across clones."""
        pages = self._pages(
            f"{SERVICE}/ListAncestry",
            lambda token: snapshot_pb2.ListAncestryRequest(
                volume=volume, snapshot=snapshot, page_size=page_size, page_token=token
            ),
            snapshot_pb2.ListAncestryResponse,
            lambda page: page.next_page_token,
        )
        async for page in pages:
            for message in page.snapshots:
                yield convert.snapshot_of(message)

    async def rename_snapshot(self, *, volume: str, snapshot: str, name: str) -> api.Snapshot:
        """Raises NotFound, AlreadyExists, Invalid, NameTooLong."""
        answer = await self._unary(
            f"{SERVICE}/RenameSnapshot",
            lambda: snapshot_pb2.RenameSnapshotRequest(volume=volume, snapshot=snapshot, name=name),
            snapshot_pb2.RenameSnapshotResponse,
        )
        return convert.snapshot_of(answer.snapshot)

    async def delete_snapshot(self, *, volume: str, snapshot: str, purge: bool = False) -> None:
        """Into the trash; its tags go with it.

        Args:
            purge: at once and for good, not into the trash.

        Raises:
            NotFound; Conflict: it is held or locked.
        """
        await self._unary(
            f"{SERVICE}/DeleteSnapshot",
            lambda: snapshot_pb2.DeleteSnapshotRequest(volume=volume, snapshot=snapshot, purge=purge),
            snapshot_pb2.DeleteSnapshotResponse,
        )

    async def tag_snapshot(self, *, volume: str, snapshot: str, tag: str, move: bool = False) -> api.Snapshot:
        """Give the snapshot a further name; with ``move`` take it from the snapshot that has it.

        Raises:
            NotFound, AlreadyExists, Invalid, NameTooLong.
        """
        answer = await self._unary(
            f"{SERVICE}/TagSnapshot",
            lambda: snapshot_pb2.TagSnapshotRequest(volume=volume, snapshot=snapshot, tag=tag, move=move),
            snapshot_pb2.TagSnapshotResponse,
        )
        return convert.snapshot_of(answer.snapshot)

    async def delete_tag(self, *, volume: str, tag: str) -> None:
        """The snapshot stays.  Raises NotFound."""
        await self._unary(
            f"{SERVICE}/DeleteTag",
            lambda: snapshot_pb2.DeleteTagRequest(volume=volume, tag=tag),
            snapshot_pb2.DeleteTagResponse,
        )

    async def carry_snapshots(self, *, volume: str, rewritten: Sequence[tuple[str, api.GitCommit]]) -> api.Carried:
        """For each (old commit ID, new commit): a snapshot of the new commit with the old one's data."""
        answer = await self._unary(
            f"{SERVICE}/CarrySnapshots",
            lambda: snapshot_pb2.CarrySnapshotsRequest(
                volume=volume, rewrites=[convert.rewrite_to(old, git) for old, git in rewritten]
            ),
            snapshot_pb2.CarrySnapshotsResponse,
        )
        return convert.carried_of(answer)

    async def diff(
        self, *, volume: str, snapshot: str, other_volume: str = "", other: str = ""
    ) -> AsyncIterator[api.Change]:
        """Changes from ``snapshot`` to ``other`` (empty: the head of ``other_volume`` or ``volume``), by path."""
        answers = self._stream(
            f"{SERVICE}/Diff",
            lambda: snapshot_pb2.DiffRequest(volume=volume, snapshot=snapshot, other_volume=other_volume, other=other),
            snapshot_pb2.DiffResponse,
        )
        async for answer in answers:
            for message in answer.changes:
                yield convert.change_of(message)
