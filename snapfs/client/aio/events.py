"""Following what happens in a store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection
from typing import Final

from snapfs import api, errors
from snapfs.client.aio.calls import AsyncCalls
from snapfs.rpc import convert
from snapfs.v1 import event_pb2

SERVICE: Final = "snapfs.v1.EventService"

RESUME_SECONDS_MAX: Final = 60.0
"""How long a watcher waits for a daemon that went away: a restart with much to write takes less."""
RESUME_PAUSE_SECONDS: Final = 0.1
RESUME_PAUSE_SECONDS_MAX: Final = 2.0
"""Pauses between attempts double from the first to this."""


class AsyncEventCalls(AsyncCalls):
    """``snapfs.v1.EventService``."""

    async def watch_events(
        self,
        *,
        after: int | None = None,
        volume: str = "",
        kinds: Collection[api.EventKind] = (),
        until_now: bool = False,
        resume: bool = True,
        resume_seconds_max: float = RESUME_SECONDS_MAX,
    ) -> AsyncIterator[api.Event]:
        """Events in order, each once, as they happen.

        Args:
            after: only later ones than this sequence; None: those from now on; 0: all that are kept.
            volume: only of this one; empty: of all that the caller may see.
            kinds: only these; empty: all.
            until_now: end after the last event that exists.
            resume: go on where it was when the daemon comes back after it went away; one that was never there is
                not waited for.
            resume_seconds_max: how long to wait for that; then Unavailable.

        Raises:
            Stale: events after ``after`` are no longer kept.
        """
        seen = after
        lost_since: float | None = None
        pause = RESUME_PAUSE_SECONDS
        answered = False
        while True:
            try:
                async for batch in self.watch_event_batches(
                    after=seen, volume=volume, kinds=kinds, until_now=until_now
                ):
                    answered, lost_since, pause = True, None, RESUME_PAUSE_SECONDS
                    for event in batch.events:
                        yield event
                    seen = batch.sequence
                return
            except (errors.Unavailable, errors.Cancelled):
                # Cancelled: by a daemon that ends; our own cancelling does not come here
                now = time.monotonic()
                lost_since = now if lost_since is None else lost_since
                if not resume or not answered or now - lost_since + pause > resume_seconds_max:
                    raise
            await asyncio.sleep(pause)
            pause = min(2 * pause, RESUME_PAUSE_SECONDS_MAX)

    async def watch_event_batches(
        self,
        *,
        after: int | None = None,
        volume: str = "",
        kinds: Collection[api.EventKind] = (),
        until_now: bool = False,
    ) -> AsyncIterator[api.Events]:
        """As ``watch_events`` without resuming: batches, each with the sequence to resume from."""
        answers = self._stream(
            f"{SERVICE}/WatchEvents",
            lambda: event_pb2.WatchEventsRequest(
                after=after,
                volume=volume,
                kinds=[convert.event_kind_to(kind) for kind in kinds],
                until_now=until_now,
            ),
            event_pb2.WatchEventsResponse,
        )
        async for answer in answers:
            yield convert.events_of(answer)
