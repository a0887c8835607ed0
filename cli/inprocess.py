"""The store opened in this process, when no daemon has it: the daemon's own dispatcher, without gRPC.

So both ways are one code path from the request's message on.  A thread owns trio, the lake and its lock; calls are
handed to it.  It ends when ``finish`` says so: everything is committed before ``finish`` returns.

Whoever can open a store owns it; a token that is given narrows that, as with a daemon.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import trio
from google.protobuf.message import Message

from snapfs import api, errors
from snapfs.access import OWNER, Access
from snapfs.access import Transport as Way
from snapfs.client.transport import Transport
from snapfs.config import Settings
from snapfs.git.reachable import reachable
from snapfs.operations import Operations
from snapfs.rpc.dispatch import Dispatcher
from snapfs.service import Service
from snapfs.volume.lake import Lake
from snapfs.volume.limits import Pace

M = TypeVar("M", bound=Message)
T = TypeVar("T")

PEER: Final = "local"
"""In the audit log."""


class _Server:
    """The dispatcher in its thread, and the calls that wait for it."""

    def __init__(self, dispatcher: Dispatcher, caller: api.Caller, tasks: trio.Nursery) -> None:
        self.dispatcher = dispatcher
        self.caller = caller
        self._tasks = tasks
        self._token = trio.lowlevel.current_trio_token()
        self._waiting: set[Future[Any]] = set()

    def soon(self, act: Callable[[], object]) -> None:
        """Do it in the server's thread, if that still runs."""
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(act)

    def start(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run it as a task, if there can be one still.  In the server's thread."""
        with suppress(RuntimeError):  # the nursery has ended
            self._tasks.start_soon(work)

    def call(self, work: Callable[[], Awaitable[T]], timeout_seconds: float | None) -> T:
        """The result of work in the server's thread; who stops waiting cancels it.

        Raises:
            SnapfsError: the work's; Unavailable: it takes longer than ``timeout_seconds``.
        """
        scope = trio.CancelScope()
        future: Future[T] = Future()

        async def run() -> None:
            with scope:
                try:
                    future.set_result(await work())
                except Exception as error:
                    future.set_exception(error)

        self._waiting.add(future)
        try:
            self.soon(lambda: self.start(run))
            return _result(future, timeout_seconds)
        except BaseException:
            self.soon(scope.cancel)
            raise
        finally:
            self._waiting.discard(future)

    def end(self, failure: BaseException | None) -> None:
        """Nobody works any more: tell who waits."""
        for future in list(self._waiting):
            if not future.done():
                future.set_exception(failure or errors.Unavailable("the store was closed"))


def _result(future: Future[T], timeout_seconds: float | None) -> T:
    try:
        return future.result(timeout_seconds)
    except TimeoutError:
        raise errors.Unavailable("the store did not answer in time", hint="is its disk overloaded?") from None


class InProcess:
    """One store, open until ``finish``.

    Args:
        store: the store's directory.
        token: secret of a token; empty: the caller is the store's owner.
        deadline: for opening, as in ``snapfs.client.connect``.

    Raises:
        Busy: somebody else holds the store's lock.
        NotFound, Invalid, Unsupported, Corrupt: as ``Lake.open``.
        Unauthenticated: the token is not known.
    """

    def __init__(self, store: Path, *, token: str = "", deadline: float | None = None) -> None:
        self._store = store
        self._secret = token
        self._failure: BaseException | None = None
        self._ending = trio.Event()
        opened: Future[_Server] = Future()
        # a daemon thread: when the deadline of a hook has passed, leaving must not wait (the store is crash-safe)
        self._thread = threading.Thread(target=self._serve, args=(opened,), name="store", daemon=True)
        self._thread.start()
        self._server = _result(opened, None if deadline is None else deadline - time.monotonic())
        self.transport: Transport = _InProcessTransport(self._server)
        """For calls."""

    # -- in the server's thread

    def _serve(self, opened: Future[_Server]) -> None:
        try:
            trio.run(self._main, opened)
        except BaseException as error:
            self._failure = _single(error)
        if not opened.done():
            opened.set_exception(self._failure or errors.Unavailable("the store was closed"))
        elif opened.exception() is None:
            opened.result().end(self._failure)

    async def _main(self, opened: Future[_Server]) -> None:
        lake = Lake.open(self._store)
        try:
            access = Access(self._store)
            caller = access.authenticate(self._secret, transport=Way.UNIX) if self._secret else OWNER
            operations, settings = Operations(), Settings(self._store)
            _follow(lake, settings)
            async with lake.running(), access.running(), trio.open_nursery() as nursery:
                await nursery.start(operations.run)
                dispatcher = Dispatcher(
                    Service(lake, reachable=reachable),
                    operations,
                    access,
                    settings,
                    metrics=_no_metrics,
                    sound=lambda: lake.index.failure is None,
                )
                opened.set_result(_Server(dispatcher, caller, nursery))
                await self._ending.wait()
                nursery.cancel_scope.cancel()
        finally:
            lake.close()

    # -- in the caller's thread

    def finish(self, timeout_seconds: float | None = None) -> None:
        """Commit, close, release the lock.

        Args:
            timeout_seconds: wait no longer for it; None waits for ever.

        Raises:
            SnapfsError: the last commit failed, or took longer.
        """
        self._server.soon(self._ending.set)
        self._thread.join(timeout_seconds)
        if self._thread.is_alive():
            raise errors.Unavailable(f"closing the store {self._store} takes too long")
        if self._failure is not None:
            raise self._failure


class _InProcessTransport:
    """A blocking transport of ``snapfs.client``."""

    def __init__(self, server: _Server) -> None:
        self._server = server

    def unary(self, method: str, request: Message, response: type[M], *, timeout_seconds: float | None) -> M:
        server = self._server
        answer = server.call(lambda: server.dispatcher.unary(method, request, server.caller, PEER), timeout_seconds)
        assert isinstance(answer, response)
        return answer

    def stream(self, method: str, request: Message, response: type[M], *, timeout_seconds: float | None) -> Iterator[M]:
        """One task runs the stream; each answer waits until it is asked for."""
        server = self._server
        end = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        stream = _Stream(server, method, request)
        server.soon(lambda: server.start(stream.run))
        try:
            while True:
                answer = server.call(stream.next, None if end is None else max(end - time.monotonic(), 0.0))
                if answer is None:
                    return
                assert isinstance(answer, response)
                yield answer
        finally:
            server.soon(stream.scope.cancel)

    def close(self) -> None:
        """The store stays open until it is finished."""


class _Stream:
    """The answers of one streaming call, on their way from its task to whoever asks."""

    def __init__(self, server: _Server, method: str, request: Message) -> None:
        self._server = server
        self._method = method
        self._request = request
        self._error: Exception | None = None
        self._send, self._receive = trio.open_memory_channel[Message](0)
        self.scope = trio.CancelScope()

    async def run(self) -> None:
        """The call's task."""
        server = self._server
        with self.scope, self._send:
            try:
                answers = server.dispatcher.stream(self._method, self._request, server.caller, PEER)
                async with aclosing(answers) as messages:
                    async for message in messages:
                        await self._send.send(message)
            except Exception as error:
                self._error = error

    async def next(self) -> Message | None:
        """None after the last.

        Raises:
            SnapfsError: the call failed.
        """
        try:
            return await self._receive.receive()
        except trio.EndOfChannel:
            if self._error is not None:
                raise self._error from None
            return None


def _follow(lake: Lake, settings: Settings) -> None:
    """How long the trash keeps things, if that is configured; if nobody can tell, nothing goes for good.  Nothing else
    of the configuration is for a process as short as this."""
    try:
        if settings.path.exists():
            lake.trash.follow(settings.config.pace())
    except errors.SnapfsError:
        lake.trash.follow(Pace(trash_hours=math.inf))


def _no_metrics() -> str:
    raise errors.Unavailable("no daemon runs, and what metrics count is a daemon's", hint="mount the store")


def _single(error: BaseException) -> BaseException:
    """The one error inside nested groups."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
