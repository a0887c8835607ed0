"""All calls of one daemon as one object."""

from __future__ import annotations

from types import TracebackType

from snapfs.client.aio.access import AsyncAccessCalls
from snapfs.client.aio.events import AsyncEventCalls
from snapfs.client.aio.retention import AsyncRetentionCalls
from snapfs.client.aio.snapshots import AsyncSnapshotCalls
from snapfs.client.aio.space import AsyncSpaceCalls
from snapfs.client.aio.stores import AsyncStoreCalls
from snapfs.client.aio.transfer import AsyncTransferCalls
from snapfs.client.aio.volumes import AsyncVolumeCalls


class AsyncClient(
    AsyncVolumeCalls,
    AsyncSnapshotCalls,
    AsyncStoreCalls,
    AsyncSpaceCalls,
    AsyncRetentionCalls,
    AsyncTransferCalls,
    AsyncEventCalls,
    AsyncAccessCalls,
):
    """What a daemon offers, as methods on the records of ``snapfs.api``; usable in a ``with`` statement.

    Besides what each method says, any of them raises:
        Unavailable: the daemon cannot be reached, or does not answer in time.
        Unauthenticated, NotPermitted: the token is none, or may not do this.
        Unsupported: the daemon is of another version.
        IOFailure: the store's disk failed.
    """

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
