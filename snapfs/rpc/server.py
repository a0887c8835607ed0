"""The daemon's side of the channel.

Invariants:

- The socket (0600) lives in a directory of mode 0700: who can reach it owns the store.
- One call at a time for each client; a client that goes away cancels its call.
- Nothing that a client sends ends the server, and no error of a call ends its client's connection.
- Clients and the size of their messages are bounded; a stream is only as fast as its reader.
"""

from __future__ import annotations

import logging
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import trio

from snapfs import errors
from snapfs.rpc import wire
from snapfs.rpc.methods import PROGRESS, Method, methods_of
from snapfs.rpc.wire import Reply, ReplyKind

CLIENTS_MAX: Final = 64
"""Each holds a task and its buffers; far more than people and hooks of one machine need."""

IDLE_SECONDS_MAX: Final = 60.0
"""How long a client may be silent between calls before its place is given away."""

RECEIVE_BYTES: Final = 64 * 1024
BATCH_BYTES: Final = 32 * 1024
"""Items of a stream are gathered up to this size into one send."""

PROGRESS_INTERVAL_SECONDS: Final = 0.1

_log = logging.getLogger(__name__)


class _Gone(Exception):
    """The client closed the connection, or breaks the protocol."""


class _Connection:
    """Lines to and from one client."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._buffer = bytearray()

    async def _fill(self) -> None:
        if len(self._buffer) > wire.MESSAGE_BYTES_MAX:
            raise _Gone
        try:
            data = await self._stream.receive_some(RECEIVE_BYTES)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise _Gone from None
        if not data:
            raise _Gone
        self._buffer += data

    async def line(self) -> bytes:
        with trio.move_on_after(IDLE_SECONDS_MAX):
            searched = 0
            while (end := self._buffer.find(b"\n", searched)) < 0:
                searched = len(self._buffer)
                await self._fill()
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            return line
        raise _Gone

    async def watch(self, scope: trio.CancelScope) -> None:
        """Cancel ``scope`` when the client goes away; what it sends meanwhile is kept for later."""
        try:
            while True:
                await self._fill()
        except _Gone:
            scope.cancel()

    async def send(self, data: bytes | bytearray) -> None:
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise _Gone from None


class _Session:
    """One client's calls on one service."""

    def __init__(self, service: object, methods: dict[str, Method], connection: _Connection) -> None:
        self._service = service
        self._methods = methods
        self._connection = connection

    async def run(self) -> None:
        """Until the client goes."""
        with suppress(_Gone):
            if not await self._greet():
                return
            while True:
                line = await self._connection.line()
                answered = False
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._connection.watch, nursery.cancel_scope)
                    answered = await self._answer(line)
                    nursery.cancel_scope.cancel()
                if not answered:
                    return

    async def _greet(self) -> bool:
        try:
            hello = wire.decode(await self._connection.line(), wire.Hello)
        except errors.Invalid as error:
            await self._fail(error)
            return False
        await self._connection.send(wire.encode(wire.Hello(protocol=wire.PROTOCOL_VERSION, pid=os.getpid())))
        return hello.protocol == wire.PROTOCOL_VERSION

    async def _fail(self, error: errors.SnapfsError) -> None:
        await self._connection.send(wire.encode(Reply(kind=ReplyKind.ERROR, value=wire.Failure.of(error))))

    async def _answer(self, line: bytes) -> bool:
        """False when the client is gone."""
        try:
            try:
                call = wire.decode(line, wire.Call)
                method = self._methods.get(call.method)
                if method is None:
                    raise errors.Unsupported(f"the daemon knows no method {call.method!r}")
                await self._perform(method, method.arguments(call.params))
            except errors.SnapfsError as error:
                await self._fail(error)
            except (_Gone, trio.Cancelled):
                raise
            except Exception as error:
                _log.exception("a call failed unexpectedly")
                await self._fail(
                    errors.IOFailure(f"internal error: {type(error).__name__}: {error}", hint="see the log")
                )
        except _Gone:
            return False
        return True

    async def _perform(self, method: Method, arguments: dict[str, Any]) -> None:
        function = getattr(self._service, method.name)
        if method.stream:
            await self._stream(function(**arguments))
        elif method.progress:
            await self._with_progress(function, arguments)
        else:
            await self._result(await function(**arguments))

    async def _result(self, value: object) -> None:
        data = wire.encode(Reply(kind=ReplyKind.RESULT, value=value))
        if len(data) > wire.MESSAGE_BYTES_MAX:
            raise errors.TooLarge(f"the answer has {len(data)} bytes, more than the channel carries")
        await self._connection.send(data)

    async def _stream(self, items: Any) -> None:
        batch = bytearray()
        try:
            async for item in items:
                batch += wire.encode(Reply(kind=ReplyKind.ITEM, value=item))
                if len(batch) >= BATCH_BYTES:
                    await self._connection.send(batch)
                    batch = bytearray()
        except errors.SnapfsError:
            await self._connection.send(batch)  # what came before the error is the client's
            raise
        finally:
            with trio.CancelScope(shield=True):
                await items.aclose()
        await self._connection.send(batch + wire.encode(Reply(kind=ReplyKind.END)))

    async def _with_progress(self, function: Any, arguments: dict[str, Any]) -> None:
        """Progress is a plain function call for the service: keep the newest and send it now and then."""
        newest: list[tuple[int, int]] = []

        async def report() -> None:
            while True:
                await trio.sleep(PROGRESS_INTERVAL_SECONDS)
                if newest:
                    await self._connection.send(wire.encode(Reply(kind=ReplyKind.PROGRESS, value=newest.pop())))

        async def report_until_gone(scope: trio.CancelScope) -> None:
            try:
                await report()
            except _Gone:
                scope.cancel()

        def progress(done: int, total: int) -> None:
            newest[:] = [(done, total)]

        failure: errors.SnapfsError | None = None
        result: object = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(report_until_gone, nursery.cancel_scope)
            try:
                result = await function(**arguments, **{PROGRESS: progress})
            except errors.SnapfsError as error:
                failure = error  # raised inside the nursery it would become an exception group
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        await self._result(result)


async def serve_stream(service: object, stream: trio.abc.Stream) -> None:
    """Serve one connected client until it goes."""
    try:
        await _Session(service, methods_of(type(service)), _Connection(stream)).run()
    finally:
        await trio.aclose_forcefully(stream)


@contextmanager
def short_path(directory: Path) -> Iterator[str]:
    """A path of the socket in ``directory`` that fits a socket address."""
    path = str(directory / wire.SOCKET_NAME)
    if len(os.fsencode(path)) <= wire.SOCKET_PATH_BYTES_MAX:
        yield path
        return
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{wire.SOCKET_NAME}"
    finally:
        os.close(descriptor)


def _listen(directory: Path) -> socket.socket:
    """A listening socket; the caller holds the store's lock, so one that exists is a dead daemon's."""
    directory.mkdir(mode=0o700, exist_ok=True)
    directory.chmod(0o700)
    path = directory / wire.SOCKET_NAME
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise errors.Invalid(f"{path} is in the way: not a socket", hint="move it away")
        path.unlink()
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with short_path(directory) as address:
            listening.bind(address)
        path.chmod(0o600)
        listening.listen(CLIENTS_MAX)
    except BaseException:
        listening.close()
        raise
    return listening


async def serve(
    service: object, directory: Path, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve ``service`` on ``directory/socket`` until cancelled.

    Raises:
        Invalid: something that is not a socket has the socket's name.
        OSError: the host file system refuses the directory or the socket.
    """
    listening = _listen(directory)
    clients = trio.CapacityLimiter(CLIENTS_MAX)
    methods = methods_of(type(service))

    async def handle(stream: trio.SocketStream) -> None:
        connection = _Connection(stream)
        try:
            clients.acquire_nowait()
        except trio.WouldBlock:
            with suppress(_Gone), trio.move_on_after(1):
                full = errors.Busy(f"the daemon already serves {CLIENTS_MAX} clients", hint="try again")
                await connection.send(wire.encode(Reply(kind=ReplyKind.ERROR, value=wire.Failure.of(full))))
            return
        try:
            await _Session(service, methods, connection).run()
        except Exception:
            _log.exception("a client's connection failed unexpectedly")
        finally:
            clients.release()

    try:
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening))
        task_status.started()
        await trio.serve_listeners(handle, [listener])
    finally:
        listening.close()
        with suppress(FileNotFoundError):
            (directory / wire.SOCKET_NAME).unlink()
