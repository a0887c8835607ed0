"""What a client needs of a connection; ``snapfs.client.channel`` has gRPC's, others bring their own.

``method`` is ``snapfs.v1.SnapshotService/CreateSnapshot``.  Every error is a SnapfsError.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Protocol, TypeVar

from google.protobuf.message import Message

M = TypeVar("M", bound=Message)


class Transport(Protocol):
    """A connection whose calls block."""

    def unary(self, method: str, request: Message, response: type[M], *, timeout_seconds: float | None) -> M:
        """The response to one call."""

    def stream(self, method: str, request: Message, response: type[M], *, timeout_seconds: float | None) -> Iterator[M]:
        """The responses of one call as they come; closing the iterator cancels the call."""

    def close(self) -> None:
        """Cancels what runs."""


class AsyncTransport(Protocol):
    """A connection for asyncio."""

    async def unary(self, method: str, request: Message, response: type[M], *, timeout_seconds: float | None) -> M:
        """The response to one call."""

    def stream(
        self, method: str, request: Message, response: type[M], *, timeout_seconds: float | None
    ) -> AsyncIterator[M]:
        """The responses of one call as they come; closing the iterator cancels the call."""

    async def close(self) -> None:
        """Cancels what runs."""
