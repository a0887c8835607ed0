"""What handlers share: who calls, keys of requests, pages and batches that fit a message."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing
from typing import Final, TypeVar

import msgspec
from blake3 import blake3
from google.protobuf.message import Message

from snapfs import api
from snapfs.errors import Invalid
from snapfs.rpc import convert
from snapfs.v1 import snapshot_pb2
from snapfs.volume.once import Once
from snapfs.volume.paging import page_items

M = TypeVar("M", bound=Message)
T = TypeVar("T")

REQUEST_ID_BYTES_MAX: Final = 128

PAGE_BYTES_MAX: Final = 2 * 1024 * 1024
"""A page that is larger is made of fewer items: gRPC clients take 4 MiB by default."""

BATCH_BYTES: Final = 32 * 1024
"""Changes are gathered up to about this size into one message."""

FIRST_BATCH_BYTES: Final = 1024
"""The first message comes early: somebody looks at it."""

PART_ITEMS_MAX: Final = 1000
"""Of what is known at once and told in a stream, in one message."""

BATCH_SECONDS_MAX: Final = 0.25
"""Nor does a change wait longer than this for others, when they come slowly."""


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One call."""

    method: str
    """``snapfs.v1.Service/Method``."""
    caller: api.Caller
    peer: str


def once_of(request: Message, request_id: str, call: Call) -> Once | None:
    """What makes the request idempotent; None for one without a key.

    Raises:
        Invalid: the key is too long.
    """
    if not request_id:
        return None
    if len(request_id.encode()) > REQUEST_ID_BYTES_MAX:
        raise Invalid(f"a request_id has at most {REQUEST_ID_BYTES_MAX} bytes", hint="use a random UUID")
    bare = type(request)()
    bare.CopyFrom(request)
    bare.ClearField("request_id")
    key = blake3()
    for part in (call.caller.name, call.method, request_id):
        raw = part.encode()
        key.update(len(raw).to_bytes(8, "little") + raw)
    return Once(key=key.digest(), fingerprint=blake3(bare.SerializeToString(deterministic=True)).digest())


async def fitting(page: Callable[[int], Awaitable[M]], page_size: int) -> M:
    """The page, or, if that is too large for a message, a shorter one (of one item at least).

    Args:
        page: makes a page of so many items.

    Raises:
        Invalid: a negative page size.
    """
    items = page_items(page_size)
    while True:
        response = await page(items)
        size = response.ByteSize()
        if size <= PAGE_BYTES_MAX or items == 1:
            return response
        items = max(1, min(items - 1, items * PAGE_BYTES_MAX // size))


async def batches(changes: AsyncIterator[api.Change]) -> AsyncGenerator[list[snapshot_pb2.Change], None]:
    """The changes in lists that each make a message of a good size."""
    batch: list[snapshot_pb2.Change] = []
    size, limit, last = 0, FIRST_BATCH_BYTES, time.monotonic()
    async with aclosing(changes) as source:  # type: ignore[type-var] # each is an async generator
        async for change in source:
            message = convert.change_to(change)
            batch.append(message)
            size += message.ByteSize()
            if size >= limit or time.monotonic() - last > BATCH_SECONDS_MAX:
                yield batch
                batch, size, limit, last = [], 0, BATCH_BYTES, time.monotonic()
    if batch:
        yield batch


def parts(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """The items in lists that each fit into a message; one at least, which may be empty."""
    for start in range(0, max(len(items), 1), PART_ITEMS_MAX):
        yield items[start : start + PART_ITEMS_MAX]
