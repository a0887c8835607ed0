"""How requests are awaited: by looking for a moment, then in poll(2), and only when none comes for a while by trio.

pyfuse3 hands a lock from worker to worker for each request, and waits for the next one in trio's epoll: passes of the
scheduler and changes of epoll's set cost more than most answers.  It takes lock and wait from its module attribute
``trio`` (as ``pyfuse3.asyncio.enable`` knows); ``Polling.installed`` puts others there.

Invariants:
  * Whoever holds the lock reads.  The lock is free only while its last holder runs on, answering; when that one lets
    others run instead, waiting workers are woken (``after_task_step``).  So requests are read as long as there is a
    worker that answers none.
  * Nothing of trio waits for requests: before each request it is looked whether a task is runnable, a timer is due or
    a descriptor of trio's is ready; if so, one pass of its scheduler comes first, and further ones until it has nothing
    to run.  One request is read at most between two passes then.
  * The thread rests in poll(2) only when trio would, too: it has nothing to run, and the same poll(2) ends at its next
    timer and when a descriptor of its own is ready.
  * Whatever happens the scheduler gets a pass every ``TURN_SECONDS``.  That is all there is if a later trio hides what
    can be seen of this one (``_Scheduler``); nobody rests in poll(2) then.  Cancelling takes no longer either.
  * Looking again and again, which saves the wake-up of a core that went idle, lasts ``LOOK_SECONDS`` at most.  It is
    left out for twice as many requests after each time that it was in vain (as the kernel's haltpoll shrinks its
    window), and for a while when another took the core meanwhile: who computes on this core keeps it.
  * Cores are held awake (``latency``) only by who awaits a request here: trio's wait begins when they were let go.
  * ``notify_closing`` ends the wait wherever it is.
"""

from __future__ import annotations

import select
from collections.abc import Awaitable, Collection, Iterator
from contextlib import contextmanager
from time import perf_counter
from types import TracebackType
from typing import Any, Final, cast

import pyfuse3
import trio

from snapfs.fuse.latency import QUIET_SECONDS, RUN_REQUESTS, Awake

TURN_SECONDS: Final = 0.002
"""Between two passes of the scheduler at most, and one request more.  Who makes fewer requests than one in that time
does not notice what trio's own wait costs."""
LOOK_SECONDS: Final = 0.00006
"""About twice what a client takes between two requests; a wake-up costs half of it."""
LOST_SECONDS: Final = 0.00005
"""Between two looks, which are a microsecond apart: another had the core."""
SKIPPED_WHEN_LOST: Final = 100
"""Requests that are not looked for after that."""
SKIPPED_MAX: Final = 512
_READY: Final = select.POLLIN
_NEVER: Final = float("inf")


class Polling(trio.abc.Instrument):
    """The waiting for requests of one session, and how it went.

    Args:
        enabled: else requests are awaited as pyfuse3 does it.  May be changed at any time.
        awake: keeps cores awake meanwhile; none does if not given.
    """

    def __init__(self, *, enabled: bool, awake: Awake | None = None) -> None:
        self.enabled = enabled
        self.awake = awake or Awake(enabled=False)
        self.found = 0
        """Requests that a look or poll(2) found."""
        self.sleeps = 0
        """Requests that trio's wait found."""
        self.passes = 0
        """How often trio went first."""
        self._lock = _Lock()
        self._scheduler = _Scheduler()
        self._turn_until = 0.0
        """The next pass of the scheduler is due; by ``perf_counter``."""
        self._fd = -1
        self._look = select.poll().poll
        self._skipped = 0
        """How many requests are not looked for again and again, as it was in vain."""
        self._skip = 0
        """Of these, still to come."""
        self._closing = False

    def counts(self) -> dict[str, float]:
        return {
            "found": self.found,
            "sleeps": self.sleeps,
            "passes": self.passes,
            "holds": self.awake.holds,
            "held_seconds": self.awake.held_seconds(),
        }

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Requests are awaited like this inside, which is to be in a task of the loop that they are awaited in."""
        self._scheduler = _Scheduler.running()
        self._fd, self._closing = -1, False
        trio.lowlevel.add_instrument(self)
        setattr(pyfuse3, "trio", _Trio(self, self._lock))  # noqa: B010 - its types hide it
        try:
            yield
        finally:
            self.awake.let_go()
            setattr(pyfuse3, "trio", trio)  # noqa: B010
            trio.lowlevel.remove_instrument(self)

    def notify_closing(self, fd: int) -> None:
        self._closing = True  # of a worker that has just let others run
        trio.lowlevel.notify_closing(fd)

    # -- instrument of trio: called by its scheduler, may not raise

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self._lock.wake()

    def before_io_wait(self, timeout: float) -> None:
        if timeout > 0.0:  # nobody awaits a request here: all workers may be answering, for as long as a disk hangs
            self.awake.let_go()

    def after_io_wait(self, timeout: float) -> None:
        self._turn_until = self._scheduler.turn_until()

    # -- for pyfuse3

    async def wait_readable(self, fd: int) -> None:
        """Until the kernel has a request, or the session has ended.

        Raises:
            trio.ClosedResourceError: ``notify_closing`` was called.
        """
        if fd != self._fd:
            self._follow(fd)
        look, runnable, can_rest = self._look, self._scheduler.runnable, self._scheduler.visible
        awake = self.awake
        let_go = perf_counter() + QUIET_SECONDS if awake.held else _NEVER
        while self.enabled:
            now, rest_ms = perf_counter(), 0.0
            if now >= let_go:
                awake.let_go()
                let_go = _NEVER
            if runnable or now >= self._turn_until:
                self.passes += 1
                await trio.lowlevel.checkpoint()
                if self._closing:
                    raise trio.ClosedResourceError
            elif can_rest:
                rest_ms = (min(self._turn_until, let_go) - now) * 1000
            # whoever rests without looking on looks once by that
            ready = [] if rest_ms and self._skip else look(0.0)
            if not ready and rest_ms:
                ready = self._look_on(now) or look(rest_ms)
            if ready:
                if len(ready) > 1 or ready[0][0] != fd:
                    self._turn_until = 0.0
                if ready[0][0] == fd:
                    self.found += 1
                    if not self.found % RUN_REQUESTS:
                        awake.asked(now)
                    return
            elif not can_rest:
                break
            elif rest_ms:
                if let_go is _NEVER:
                    break
                self._turn_until = 0.0  # trio's wait would not end when cores are to be let go
        awake.let_go()
        self.sleeps += 1
        await trio.lowlevel.wait_readable(fd)

    def _look_on(self, began: float) -> list[tuple[int, int]]:
        """Look until something is there, or it does not pay any more."""
        if self._skip:
            self._skip -= 1
            return []
        look, last, until = self._look, began, min(began + LOOK_SECONDS, self._turn_until)
        while not (ready := look(0.0)):
            now = perf_counter()
            if now - last > LOST_SECONDS:
                self._skip = max(SKIPPED_WHEN_LOST, self._skipped)
                return []
            if now >= until:
                self._skip = self._skipped = min(self._skipped * 2 + 1, SKIPPED_MAX)
                return []
            last = now
        self._skipped = 0
        return ready

    def _follow(self, fd: int) -> None:
        poll = select.poll()
        poll.register(fd, _READY)  # first: what is ready is told in this order
        if self._scheduler.epoll_fd >= 0:
            poll.register(self._scheduler.epoll_fd, _READY)
        self._fd, self._look = fd, poll.poll


class _Scheduler:
    """What can be seen of trio's scheduler without letting it run."""

    def __init__(self, runner: Any = None) -> None:
        self.runnable: Collection[object] = ()
        """Tasks that run in the next pass."""
        self.epoll_fd = -1
        """Ready when a descriptor that trio waits for is, or a thread has sent it something."""
        self.visible = False
        """All that could make it run is known."""
        self._deadlines: Any = None
        try:
            deadlines, runnable, epoll_fd = runner.deadlines, runner.runq, runner.io_manager._epoll.fileno()
            deadlines.next_deadline()
            self.runnable, self.epoll_fd, self._deadlines = runnable, epoll_fd, deadlines
            self.visible = True
        except AttributeError:
            pass

    @classmethod
    def running(cls) -> _Scheduler:
        """That of the running loop."""
        return cls(getattr(trio.lowlevel.current_root_task(), "_runner", None))

    def turn_until(self) -> float:
        """Asked when a pass begins: until when a task of it may go on; in the past if others run in this pass."""
        now = perf_counter()
        if not self.visible:
            return now + TURN_SECONDS
        if len(self.runnable) > 1:
            return 0.0
        idle_seconds: float = self._deadlines.next_deadline() - trio.current_time()
        return now + min(TURN_SECONDS, idle_seconds)


class _Done(tuple[()]):
    """Awaited, it is over at once; without a coroutine's cost, as all of it is in C."""

    __slots__ = ()
    __await__ = tuple.__iter__


_DONE: Final = cast(Awaitable[None], _Done())


class _Lock:
    """A lock that is not handed over: who runs may take it again before those who wait for it."""

    def __init__(self) -> None:
        self._held = False
        self._waiting = trio.lowlevel.ParkingLot()

    def __aenter__(self) -> Awaitable[None]:
        if self._held:
            return self._wait()
        self._held = True
        return _DONE

    def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Awaitable[None]:
        self._held = False
        return _DONE

    async def _wait(self) -> None:
        while self._held:
            await self._waiting.park()
        self._held = True

    def wake(self) -> None:
        """Nobody took it who could have."""
        if not self._held and self._waiting:
            self._waiting.unpark()


class _Delegate:
    """Another module, but for some of its attributes."""

    def __init__(self, module: object) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


class _Trio(_Delegate):
    """``trio`` as pyfuse3 gets it."""

    def __init__(self, polling: Polling, lock: _Lock) -> None:
        super().__init__(trio)
        self.Lock = lambda: lock
        self.lowlevel = _LowLevel(polling)


class _LowLevel(_Delegate):
    def __init__(self, polling: Polling) -> None:
        super().__init__(trio.lowlevel)
        self.wait_readable = polling.wait_readable
        self.notify_closing = polling.notify_closing
        self.current_task = trio.lowlevel.current_task
