"""EventService."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from snapfs.rpc import convert
from snapfs.rpc.handlers.common import Call
from snapfs.rpc.methods import visible
from snapfs.service import Service
from snapfs.v1 import event_pb2


class EventHandlers:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def watch_events(
        self, request: event_pb2.WatchEventsRequest, call: Call
    ) -> AsyncIterator[event_pb2.WatchEventsResponse]:
        events = self._service.watch_events(
            after=request.after if request.HasField("after") else None,
            volume=request.volume,
            kinds=[convert.event_kind_of(kind) for kind in request.kinds],
            until_now=request.until_now,
            visible=visible(call.caller),
        )
        async with aclosing(events) as batches:  # type: ignore[type-var] # an async generator
            async for batch in batches:
                yield convert.events_to(batch)
