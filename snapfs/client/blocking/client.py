# Generated from snapfs/client/aio/client.py by `make generate`: change that file, not this one.
"""All calls of one daemon as one object."""

from __future__ import annotations

from types import TracebackType

from snapfs.client.blocking.access import AccessCalls
from snapfs.client.blocking.events import EventCalls
from snapfs.client.blocking.retention import RetentionCalls
from snapfs.client.blocking.snapshots import SnapshotCalls
from snapfs.client.blocking.space import SpaceCalls
from snapfs.client.blocking.stores import StoreCalls
from snapfs.client.blocking.transfer import TransferCalls
from snapfs.client.blocking.volumes import VolumeCalls


class Client(
    VolumeCalls,
    SnapshotCalls,
    StoreCalls,
    SpaceCalls,
    RetentionCalls,
    TransferCalls,
    EventCalls,
    AccessCalls,
):
    """What a daemon offers, as methods on the records of ``snapfs.api``; usable in a ``with`` statement.

    Besides what each method says, any of them raises:
        Unavailable: the daemon cannot be reached, or does not answer in time.
        Unauthenticated, NotPermitted: the token is none, or may not do this.
        Unsupported: the daemon is of another version.
        IOFailure: the store's disk failed.
    """

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
