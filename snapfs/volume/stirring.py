"""When nothing goes on in a loop of trio, who looks after it now and then need not.

Who looks four times a second wakes a core that could sleep, for nothing.  Instead he waits until anything else runs:
a request, a call, the end of a thread's work, a timer.

Invariants:
  * Tasks that wait here, or say so, are *watchers*: what they do stirs nobody, or two of them would wake each other
    for ever.
  * What runs after ``wait`` was called ends it; what ran before does not: who looks, then waits, misses nothing.
  * The instrument is there only while its watcher waits: a loop that is at work pays for one step of a task a look.
"""

from __future__ import annotations

import weakref

import trio

_watchers: weakref.WeakSet[trio.lowlevel.Task] = weakref.WeakSet()


def watch() -> None:
    """The running task only looks now and then, by a timer of its own: it is a watcher, too."""
    _watchers.add(trio.lowlevel.current_task())


class Stirring(trio.abc.Instrument):
    """For one watcher."""

    def __init__(self) -> None:
        self._event = trio.Event()

    async def wait(self) -> None:
        """Until a task that is no watcher has its turn."""
        watch()
        self._event = trio.Event()
        trio.lowlevel.add_instrument(self)
        try:
            await self._event.wait()
        finally:
            trio.lowlevel.remove_instrument(self)

    # -- called by trio's scheduler, may not raise

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task not in _watchers:
            self._event.set()
