"""Long work that goes on by itself: started by a call, then looked at, followed and cancelled by its id.

Invariants:
  * Everything here runs on the trio thread.  At most RUNNING_MAX operations run; ENDED_MAX that have ended are kept, so
    who asks late still learns the result.  None outlives the process.
  * An operation ends once, and never changes again: SUCCEEDED with its report, FAILED with its error, or CANCELLED.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import msgspec
import trio

from snapfs import api
from snapfs.errors import Busy, IOFailure, NotFound, SnapfsError, Unavailable
from snapfs.volume.past import Progress

RUNNING_MAX: Final = 4
"""Each reads the whole store: more at once only slow each other down."""

ENDED_MAX: Final = 100

UPDATE_SECONDS: Final = 0.1
"""A watcher is told at most so often."""

_ID_BYTES: Final = 8

log = logging.getLogger(__name__)

Report = api.CheckReport | api.VerifyReport | api.OptimizeReport | api.ImportReport
_FIELDS: Final[dict[type[Report], str]] = {
    api.CheckReport: "check",
    api.VerifyReport: "verify",
    api.OptimizeReport: "optimize",
    api.ImportReport: "imported",
}
"""Where in an operation its report is."""

Work = Callable[[Progress], Awaitable[Report]]


class _Operation:
    """One operation's state; ``now`` is what others see of it."""

    def __init__(self, kind: str, key: bytes) -> None:
        self.key = key
        self.scope = trio.CancelScope()
        self.changed = trio.Event()
        """Set, and replaced, at every change."""
        self.ended = trio.Event()
        self.now = api.Operation(
            id=secrets.token_hex(_ID_BYTES), kind=kind, state=api.OperationState.RUNNING, start_ns=time.time_ns()
        )

    def progress(self, done: int, total: int) -> None:
        if not self.ended.is_set() and (done, total) != (self.now.done, self.now.total):
            self._become(msgspec.structs.replace(self.now, done=done, total=total))

    def end(
        self, state: api.OperationState, *, report: Report | None = None, error: SnapfsError | None = None
    ) -> None:
        failure = api.OperationError(kind=error.kind, message=error.message, hint=error.hint) if error else None
        self.ended.set()
        result = {_FIELDS[type(report)]: report} if report else {}
        self._become(msgspec.structs.replace(self.now, state=state, error=failure, end_ns=time.time_ns(), **result))

    def _become(self, now: api.Operation) -> None:
        self.now = now
        self.changed.set()
        self.changed = trio.Event()


class Operations:
    """All operations of one process.  ``run`` must be running for any to start."""

    def __init__(self) -> None:
        self._nursery: trio.Nursery | None = None
        self._running: dict[str, _Operation] = {}
        self._ended: dict[str, _Operation] = {}
        """In the order in which they ended."""

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Room for operations to run in, until it is cancelled, and they with it."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None

    def start(self, kind: str, work: Work, *, key: bytes = b"") -> api.Operation:
        """Start work.

        Args:
            kind: what it does, e.g. ``check``.
            work: is given a function to tell its progress to: (units done, units in all; 0: not known).
            key: if an operation with the same is known it is the answer, and nothing is started.

        Raises:
            Busy: enough run already.
            Unavailable: the process is ending.
        """
        if key:
            for known in (*self._running.values(), *self._ended.values()):
                if known.key == key:
                    return known.now
        if self._nursery is None:
            raise Unavailable("no operation can be started now: the daemon is ending", hint="try again later")
        if len(self._running) >= RUNNING_MAX:
            raise Busy(f"{RUNNING_MAX} operations are running already", hint="wait for one to end, or cancel one")
        operation = _Operation(kind, key)
        self._running[operation.now.id] = operation
        self._nursery.start_soon(self._perform, operation, work)
        return operation.now

    async def _perform(self, operation: _Operation, work: Work) -> None:
        report: Report | None = None
        failure: SnapfsError | None = None
        try:
            with operation.scope:
                report = await work(operation.progress)
        except SnapfsError as error:
            failure = error
        except Exception as error:
            log.exception("an operation failed unexpectedly")
            failure = IOFailure(f"internal error: {type(error).__name__}: {error}", hint="see the daemon's log")
        finally:  # also when the process is ending: then it was cancelled
            state = api.OperationState.FAILED if failure else api.OperationState.CANCELLED
            operation.end(api.OperationState.SUCCEEDED if report else state, report=report, error=failure)
            self._keep(operation)

    def _keep(self, operation: _Operation) -> None:
        self._ended[operation.now.id] = self._running.pop(operation.now.id)
        while len(self._ended) > ENDED_MAX:
            del self._ended[next(iter(self._ended))]

    def _find(self, id: str) -> _Operation:
        found = self._running.get(id) or self._ended.get(id)
        if found is None:
            raise NotFound(
                f"there is no operation {id!r}",
                hint=f"those that run and the last {ENDED_MAX} that ended are known, since the daemon was started",
            )
        return found

    def get(self, id: str) -> api.Operation:
        """Raises:
        NotFound: unknown, or forgotten.
        """
        return self._find(id).now

    def list(self) -> list[api.Operation]:
        """Newest first."""
        known = [operation.now for operation in (*self._running.values(), *self._ended.values())]
        return sorted(known, key=lambda operation: operation.start_ns, reverse=True)

    def cancel(self, id: str) -> api.Operation:
        """Ask it to stop, which it does soon; one that has ended stays as it is.

        Raises:
            NotFound: unknown, or forgotten.
        """
        operation = self._find(id)
        operation.scope.cancel()
        return operation.now

    async def watch(self, id: str, *, cancel_when_abandoned: bool = False) -> AsyncIterator[api.Operation]:
        """The operation now, whenever it has moved on (at most every UPDATE_SECONDS), and at its end.

        Args:
            cancel_when_abandoned: cancel it when this iterator is closed before the end.

        Raises:
            NotFound: unknown, or forgotten.
        """
        operation = self._find(id)
        try:
            while True:
                changed, now = operation.changed, operation.now
                yield now
                if now.state is not api.OperationState.RUNNING:
                    return
                with trio.move_on_after(UPDATE_SECONDS):
                    await operation.ended.wait()
                await changed.wait()
        finally:
            if cancel_when_abandoned and not operation.ended.is_set():
                operation.scope.cancel()
