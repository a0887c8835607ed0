"""How a client's methods make their calls: deadlines, requests, pages, and what is tried again.

Invariants:

- What cannot be put into a request (text that is not Unicode, a number out of range) is Invalid, before anything is
  sent.
- Only calls that create something under an idempotency key are made again when the daemon cannot be reached; the time
  for all attempts together is that of one.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from typing import Final, TypeVar

from google.protobuf.message import Message

from snapfs import errors
from snapfs.client.transport import AsyncTransport

M = TypeVar("M", bound=Message)

RETRY_SECONDS: Final = (0.1, 0.5)
"""Pauses before a creating call is made a second and a third time."""


def new_request_id() -> str:
    """An idempotency key that nobody else has."""
    return os.urandom(16).hex()


def _built(make: Callable[[], Message]) -> Message:
    try:
        return make()
    except UnicodeEncodeError as error:
        raise errors.Invalid(f"not Unicode text: {error.object!r}") from None
    except ValueError as error:
        raise errors.Invalid(f"a value is out of range: {error}") from None
    except TypeError as error:
        raise errors.Invalid(f"a value is of the wrong type: {error}") from None


class AsyncCalls:
    """One client's calls.

    Args:
        transport: owned from here on.
        timeout_seconds: longest wait for the answer of one call (not of a stream); None waits for ever.
        deadline: ``time.monotonic()`` after which every wait fails with Unavailable; None sets none.
    """

    def __init__(
        self, transport: AsyncTransport, *, timeout_seconds: float | None = None, deadline: float | None = None
    ) -> None:
        self._transport = transport
        self._timeout_seconds = timeout_seconds
        self._deadline = deadline
        self._closed = False

    async def close(self) -> None:
        """Cancels what runs; no call can be made any more."""
        self._closed = True
        await self._transport.close()

    def _left_seconds(self, limit_seconds: float | None) -> float | None:
        """The time for a wait.  Raises Invalid when closed, Unavailable after the deadline."""
        if self._closed:
            raise errors.Invalid("the client is closed")
        if self._deadline is None:
            return limit_seconds
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise errors.Unavailable("the daemon did not answer in time", hint="is it stopped or overloaded?")
        return left if limit_seconds is None else min(left, limit_seconds)

    async def _unary(self, method: str, make: Callable[[], Message], response: type[M]) -> M:
        request = _built(make)
        return await self._transport.unary(
            method, request, response, timeout_seconds=self._left_seconds(self._timeout_seconds)
        )

    async def _create(self, method: str, make: Callable[[], Message], response: type[M]) -> M:
        """A call whose request has an idempotency key."""
        request = _built(make)
        limit = self._left_seconds(self._timeout_seconds)
        end = None if limit is None else time.monotonic() + limit
        for pause in (*RETRY_SECONDS, None):
            left = None if end is None else max(end - time.monotonic(), 0.0)
            try:
                return await self._transport.unary(method, request, response, timeout_seconds=left)
            except errors.Unavailable:
                if pause is None or (end is not None and time.monotonic() + pause >= end):
                    raise
                await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    def _stream(self, method: str, make: Callable[[], Message], response: type[M]) -> AsyncIterator[M]:
        return self._transport.stream(method, _built(make), response, timeout_seconds=self._left_seconds(None))

    async def _pages(
        self, method: str, make: Callable[[str], Message], response: type[M], token: Callable[[M], str]
    ) -> AsyncIterator[M]:
        """All pages.

        Args:
            make: the request for the page that a token names.
            token: of the page after a response; empty for the last.
        """
        next_token = ""
        while True:
            page = await self._unary(method, lambda: make(next_token), response)  # noqa: B023
            yield page
            next_token = token(page)
            if not next_token:
                return
