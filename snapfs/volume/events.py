"""What happened in the store, as a log that can be followed and resumed.

Invariants:
  * An event is appended in the transaction of what it tells: after a crash both are there or neither.
  * Sequences grow by one from event to event, over restarts too; the newest EVENTS_MAX are kept.
  * A watcher is given an event only when it is durable.  It keeps no place in the log: a slow one holds nothing
    up and is refused when what it has not seen was dropped.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, Callable
from typing import Final

import msgspec
import trio

from snapfs.api import Event, EventKind, Events
from snapfs.errors import SnapfsError, Stale
from snapfs.format import keys, records
from snapfs.store.index import Index, items, items_backward

EVENTS_MAX: Final = 10_000
"""Events kept: days of a busy store, a few megabytes."""

BATCH_MAX: Final = 500
"""Events looked at between two awaits (about a millisecond), and the most in one answer."""

WARNING_SECONDS: Final = 60.0
"""The same warning is not told again for so long."""

WARNINGS_MAX: Final = 100
"""Different warnings told in that time: a disk that breaks must not push all else out of the log."""

_TEXT_MAX: Final = 1000


class EventLog:
    def __init__(self, index: Index) -> None:
        self._index = index
        newest = next(items_backward(index, "events"), None)
        self._last = keys.from_u64(newest[0]) if newest else 0
        self.durable = self._last
        """Sequence of the newest event that watchers may see; 0 before the first."""
        self._news = trio.Event()
        self._warned: dict[str, float] = {}
        index.after_publish.append(self._published)
        index.after_failure.append(self._wake)

    def append(
        self, kind: EventKind, volume: str = "", snapshot: str = "", commit: str = "", message: str = ""
    ) -> None:
        """Tell with the open transaction what it does."""
        self._last += 1
        event = Event(
            sequence=self._last, time_ns=time.time_ns(), kind=kind,
            volume=volume, snapshot=snapshot, commit=commit, message=message,
        )  # fmt: skip
        self._index.put("events", keys.u64(self._last), records.encode_json(event))
        if self._last > EVENTS_MAX:
            self._index.delete("events", keys.u64(self._last - EVENTS_MAX))

    def warn(self, message: str) -> None:
        """Tell that something is wrong, unless the same was told lately or nothing can be written any more."""
        now = time.monotonic()
        self._warned = {text: told for text, told in self._warned.items() if now - told < WARNING_SECONDS}
        if message in self._warned or len(self._warned) >= WARNINGS_MAX:
            return
        self._warned[message] = now
        with contextlib.suppress(SnapfsError):
            self._index.check()
            self.append(EventKind.WARNING, message=message[:_TEXT_MAX])

    @property
    def last(self) -> int:
        """Sequence of the newest event."""
        return self._last

    def _published(self) -> None:
        self.published(self._last)

    def published(self, last: int) -> None:
        """Events up to this one are durable."""
        if self.durable < last:
            self.durable = last
            self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = trio.Event()

    @property
    def _oldest(self) -> int:
        """Sequence of the oldest event that is kept; of the next one if there is none."""
        first = next(items(self._index, "events"), None)
        return keys.from_u64(first[0]) if first else self._last + 1

    async def watch(
        self, wanted: Callable[[Event], bool], *, after: int | None = None, until_now: bool = False
    ) -> AsyncGenerator[Events, None]:
        """Events in order, in batches.  The first batch comes at once, perhaps empty: it says from where on nothing
        will be missed.

        Args:
            after: only later ones; None: those from now on; 0: all that are kept.
            until_now: end after the last that exists.

        Raises:
            Stale: events after ``after`` (or after what a slow watcher has seen) were dropped, or it is yet to come.
            IOFailure: the store takes no more changes, so nothing will come.
        """
        self._index.check()
        end = self.durable
        position = told = self._start(after)
        first = True
        while True:
            found, position = self._batch(position, end if until_now else self.durable, wanted)
            done = until_now and position >= end
            if found or first or done or position - told >= BATCH_MAX:
                yield Events(events=found, sequence=position)
                told = position
            first = False
            if done:
                return
            if position < self.durable:
                await trio.lowlevel.checkpoint()
            else:
                self._index.check()
                await self._news.wait()

    def _start(self, after: int | None) -> int:
        if after is None:
            return self.durable
        oldest = self._oldest
        if after == 0:
            return oldest - 1
        if after > self.durable:
            raise Stale(
                f"event {after} is yet to come: the newest is {self.durable}", hint=f"resume after {self.durable}"
            )
        self._check_kept(after, oldest)
        return after

    @staticmethod
    def _check_kept(position: int, oldest: int) -> None:
        if position < oldest - 1:
            raise Stale(
                f"events after {position} were dropped: the oldest that is kept is {oldest}",
                hint=f"resume after {oldest - 1}, or after 0 for all that are kept",
            )

    def _batch(self, position: int, end: int, wanted: Callable[[Event], bool]) -> tuple[list[Event], int]:
        """(wanted events, sequence up to which all were looked at), a batch's worth after the position."""
        self._index.check()
        if position >= end:
            return [], position
        self._check_kept(position, self._oldest)
        found = []
        looked = position
        for key, payload in items(self._index, "events", start=keys.u64(position + 1)):
            sequence = keys.from_u64(key)
            if sequence > end or sequence - position > BATCH_MAX:
                break
            event = records.decode_event(payload)
            if wanted(event):
                found.append(event)
            looked = sequence
        return found, looked


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which events a watcher wants: all that are given must hold."""

    volume: str = ""
    kinds: frozenset[EventKind] = frozenset()
    visible: frozenset[str] | None = None
    """Volumes that the watcher may see; None: all, and what concerns the store as a whole."""

    def __call__(self, event: Event) -> bool:
        return (
            (not self.volume or event.volume == self.volume)
            and (not self.kinds or event.kind in self.kinds)
            and (self.visible is None or event.volume in self.visible)
        )
