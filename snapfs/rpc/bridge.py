"""Work on the trio thread for threads that wait for it: gRPC calls us on threads of its own.

Invariants:

- What a thread waits for always comes: a result, an error, or Unavailable when the trio side has ended.
- A task here lives as long as its call: whoever cancels the call cancels the task, and ``run`` returns only when all
  tasks have ended.
- A stream is as fast as its reader; one whose reader takes nothing for ``STALL_SECONDS_MAX`` is given up.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import Future
from contextlib import aclosing, suppress
from typing import Any, Final, Generic, TypeVar

import trio

from snapfs.errors import Cancelled, SnapfsError, Unavailable

T = TypeVar("T")

STALL_SECONDS_MAX: Final = 60.0
"""A reader that takes so long for one message holds a thread that others need."""


def ending() -> Unavailable:
    return Unavailable("the daemon is ending", hint="try again when it has started again")


class Task:
    """What a thread can do to its task: cancel it."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge
        self._scope = trio.CancelScope()
        self._reason: SnapfsError = Cancelled("the call was cancelled")

    def cancel(self, reason: SnapfsError | None = None) -> None:
        """From any thread, at any time; the first reason counts.  A task that has ended stays as it is."""

        def on_trio() -> None:
            if reason is not None and not self._scope.cancel_called:
                self._reason = reason
            self._scope.cancel()

        with suppress(Unavailable):
            self._bridge.soon(on_trio)


class Once(Task, Generic[T]):
    """A job with one result."""

    def __init__(self, bridge: Bridge, job: Callable[[], Awaitable[T]]) -> None:
        super().__init__(bridge)
        self._job = job
        self._future: Future[T] = Future()

    def result(self) -> T:
        """Start it and wait.  Raises what the job raises; Cancelled; Unavailable."""
        self._bridge.start(self._run, self._future)
        return self._future.result()

    async def _run(self) -> None:
        future = self._future
        try:
            with self._scope:
                future.set_result(await self._job())
            if self._scope.cancelled_caught:
                future.set_exception(self._reason)
        except Exception as error:
            future.set_exception(error)
        finally:
            if not future.done():
                future.set_exception(ending())


class Stream(Task, Generic[T]):
    """A job with many results, which a thread takes one by one.

    Args:
        job: makes the results; closed when the stream ends, for whatever reason.
        give_up: called on the trio thread when the reader takes nothing; must make it come back.
    """

    def __init__(
        self, bridge: Bridge, job: Callable[[], AsyncGenerator[T, None]], *, give_up: Callable[[], object]
    ) -> None:
        super().__init__(bridge)
        self._job = job
        self._give_up = give_up
        self._wanted: Future[T | None] | None = None
        self._asked = trio.Event()
        self._ended = False
        self._error: Exception | None = None

    def start(self) -> None:
        self._bridge.start(self._run, Future())

    def take(self) -> T | None:
        """The next result; None at the end.  Raises what the job raises; Cancelled; Unavailable."""
        future: Future[T | None] = Future()
        self._bridge.soon(self._ask, future)
        return future.result()

    def _ask(self, future: Future[T | None]) -> None:
        if not self._ended:
            self._wanted = future
            self._asked.set()
        else:
            self._settle(future)

    def _settle(self, future: Future[T | None]) -> None:
        if self._error is not None:
            future.set_exception(self._error)
        else:
            future.set_result(None)

    async def _run(self) -> None:
        self._error = ending()
        try:
            with self._scope:
                await self._produce()
            self._error = self._reason if self._scope.cancelled_caught else None
        except Exception as error:
            self._error = error
        finally:
            self._ended = True
            if self._wanted is not None:
                self._settle(self._wanted)

    async def _produce(self) -> None:
        async with aclosing(self._job()) as results:
            async for result in results:
                with trio.move_on_after(STALL_SECONDS_MAX) as patience:
                    await self._asked.wait()
                if patience.cancelled_caught:
                    self._give_up()
                    raise Cancelled("the client does not take what it asked for")
                wanted, self._wanted, self._asked = self._wanted, None, trio.Event()
                assert wanted is not None
                wanted.set_result(result)


class Bridge:
    """Made by ``run``; all its methods are for threads."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._token = trio.lowlevel.current_trio_token()
        self._closing = trio.Event()

    def soon(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Call it on the trio thread.

        Raises:
            Unavailable: trio has ended.
        """
        try:
            self._token.run_sync_soon(function, *arguments)
        except trio.RunFinishedError:
            raise ending() from None

    def start(self, task: Callable[[], Awaitable[None]], future: Future[Any]) -> None:
        """Start a task; ``future`` is failed if that is no longer possible."""

        def on_trio() -> None:
            if self._closing.is_set():
                future.set_exception(ending())
            else:
                self._nursery.start_soon(task)

        self.soon(on_trio)

    def close(self) -> None:
        """On the trio thread: no new tasks; those that run are cancelled."""
        self._closing.set()
        self._nursery.cancel_scope.cancel()


async def run(*, task_status: trio.TaskStatus[Bridge]) -> None:
    """Until ``Bridge.close``: cancelling what is around does not end calls, their server does that in order."""
    async with trio.open_nursery() as nursery:
        nursery.cancel_scope.shield = True
        task_status.started(bridge := Bridge(nursery))
        await bridge._closing.wait()
