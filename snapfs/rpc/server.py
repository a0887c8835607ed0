"""The daemon's gRPC server: threads of grpc's in front, the dispatcher on the trio thread behind.

Invariants:

- A call goes: who is it, may it wait, its request, the dispatcher, its responses.  Of a caller that is not known
  nothing is read and nothing waits.
- A call that its client gives up, whose deadline passes or whose client dies is cancelled on the trio side, too.
- Calls, their size, the threads they hold and the time that a client may take to send or to take a message are
  bounded.  Streams that wait for something to happen hold ``WAITING_MAX`` threads at most: others stay for work.
- At the end: no new calls, streams that wait end at once, the others get ``GRACE_SECONDS``.
"""

from __future__ import annotations

import logging
import threading
import time
import urllib.parse
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Final

import trio
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

import snapfs
from snapfs import api, errors
from snapfs.access.callers import Access, Transport
from snapfs.errors import Kind, SnapfsError
from snapfs.rpc import bridge, endpoints, methods, reflection, requests, status
from snapfs.rpc.bridge import Bridge
from snapfs.rpc.dispatch import Dispatcher, Rpc
from snapfs.rpc.endpoints import TcpEndpoint, UnixEndpoint
from snapfs.rpc.library import grpc

THREADS_MAX: Final = 96
WAITING_MAX: Final = 48
"""Of these threads, for streams that wait."""

CALLS_MAX: Final = 1024
"""At once, most of them queueing for a thread; beyond: refused."""

REQUEST_BYTES_MAX: Final = 4 * 1024 * 1024
REQUEST_SECONDS_MAX: Final = 20.0
"""For a request to come once its call has begun."""

GRACE_SECONDS: Final = 2.0

_WAITING: Final = frozenset(
    {
        "snapfs.v1.EventService/WatchEvents",
        "snapfs.v1.OperationService/WatchOperation",
        "grpc.health.v1.Health/Watch",
        reflection.METHOD,
    }
)
"""Streams that may last for ever."""

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", REQUEST_BYTES_MAX),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_concurrent_streams", 4 * CALLS_MAX),  # of one connection; a client is told nothing better than a reset
    ("grpc.so_reuseport", 0),  # a port that is taken is an error
    ("grpc.keepalive_time_ms", 30_000),  # a client that vanished is noticed
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.server_handshake_timeout_ms", 20_000),
)

Observe = Callable[[str, str, float], None]
"""Told of each call that ends: method, code of its status, seconds."""

_log = logging.getLogger(__name__)


async def serve(
    dispatcher: Dispatcher,
    access: Access,
    places: Sequence[UnixEndpoint | TcpEndpoint],
    *,
    observe: Observe | None = None,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled; started with the addresses, as places have them.

    Raises:
        SnapfsError: as ``endpoints.bound`` and ``endpoints.listen``.
    """
    refused: SnapfsError | None = None
    async with trio.open_nursery() as nursery:
        work: Bridge = await nursery.start(_bridge)
        calls = Calls(dispatcher, access, work, observe or (lambda method, code, seconds: None))
        pool = ThreadPoolExecutor(THREADS_MAX, thread_name_prefix="rpc")
        servers: list[grpc.Server] = []
        with ExitStack() as stack:
            try:
                addresses = [_listen(place, calls, pool, servers, stack) for place in places]
                for server in servers:
                    server.start()
                nursery.start_soon(calls.drop_the_slow)
                task_status.started(addresses)
                await trio.sleep_forever()
            except SnapfsError as error:
                refused = error  # raised in the nursery it would become a group
                nursery.cancel_scope.cancel()
            finally:
                with trio.CancelScope(shield=True):
                    await _end(servers, calls, work, pool)
    if refused is not None:
        raise refused


async def _bridge(*, task_status: trio.TaskStatus[Bridge]) -> None:
    await bridge.run(task_status=task_status)


def _listen(
    place: UnixEndpoint | TcpEndpoint,
    calls: Calls,
    pool: ThreadPoolExecutor,
    servers: list[grpc.Server],
    stack: ExitStack,
) -> str:
    transport = Transport.UNIX if isinstance(place, UnixEndpoint) else Transport.TCP
    handlers: list[grpc.GenericRpcHandler] = [_Handlers(calls, transport)]
    server = grpc.server(pool, handlers=handlers, options=_OPTIONS, maximum_concurrent_rpcs=CALLS_MAX)
    servers.append(server)
    if isinstance(place, UnixEndpoint):
        return stack.enter_context(endpoints.bound(server, place))
    return endpoints.listen(server, place)


async def _end(servers: Sequence[grpc.Server], calls: Calls, work: Bridge, pool: ThreadPoolExecutor) -> None:
    stopped = [server.stop(GRACE_SECONDS) for server in servers]
    calls.end_waiting()
    for one in stopped:
        await trio.to_thread.run_sync(one.wait)
    work.close()
    await trio.to_thread.run_sync(pool.shutdown)  # not here: its threads wait for us


class _Handlers(grpc.GenericRpcHandler):
    """Gives every method, known or not, to ``Calls``: as a stream of messages both ways, whatever it is for its
    client (on the wire it is the same), so that a call is seen before its request is there."""

    def __init__(self, calls: Calls, transport: Transport) -> None:
        self._calls = calls
        self._transport = transport

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        method = handler_call_details.method.removeprefix("/")

        def answer(sent: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            return self._calls.answer(method, sent, context, self._transport)

        return grpc.stream_stream_rpc_method_handler(answer)


class Calls:
    """Answers calls, each on a thread."""

    def __init__(self, dispatcher: Dispatcher, access: Access, work: Bridge, observe: Observe) -> None:
        self._dispatcher = dispatcher
        self._access = access
        self._work = work
        self._observe = observe
        self._lock = threading.Lock()
        self._waiting: dict[grpc.ServicerContext, Callable[[], object]] = {}
        """Streams that wait, with what ends them."""
        self._ending = False
        self._receiving: dict[grpc.ServicerContext, float] = {}
        """Calls whose request is awaited, since when."""

    # -- one call

    def answer(
        self, method: str, sent: Iterator[bytes], context: grpc.ServicerContext, transport: Transport
    ) -> Iterator[bytes]:
        """The responses, serialized."""
        began = time.monotonic()
        code = "CANCELLED"
        try:
            yield from self._answer(method, sent, context, transport)
            code = "OK"
        except SnapfsError as error:
            code = status.CODES[error.kind].name
            self._fail(context, error)
        except grpc.RpcError:
            raise  # how grpc tells that the client is gone
        except Exception as error:
            _log.exception("%s failed unexpectedly", method)
            code = status.CODES[Kind.IO].name
            self._fail(context, errors.IOFailure(f"internal error: {type(error).__name__}: {error}"))
        finally:
            known = method if method in methods.METHODS else "unknown"
            self._observe(known, code, time.monotonic() - began)

    def _answer(
        self, method: str, sent: Iterator[bytes], context: grpc.ServicerContext, transport: Transport
    ) -> Iterator[bytes]:
        metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        _check_version(metadata.get(status.API_KEY, status.API_NUMBER))
        peer = _peer(context)
        try:
            caller = self._caller(method, metadata, context, transport)
        except errors.Unauthenticated as error:
            self._dispatcher.refused(method, peer, error)
            raise
        context.send_initial_metadata(((status.VERSION_KEY, snapfs.__version__),))
        if method in _WAITING:
            with self._place(context):
                yield from self._respond(method, sent, context, caller, peer)
        else:
            yield from self._respond(method, sent, context, caller, peer)

    def _respond(
        self, method: str, sent: Iterator[bytes], context: grpc.ServicerContext, caller: api.Caller, peer: str
    ) -> Iterator[bytes]:
        if method == reflection.METHOD:
            methods.authorize(method, Empty(), caller)
            yield from reflection.answer(self._received(sent, context))
            return
        rpc = self._dispatcher.rpcs[method]
        request = self._request(rpc, sent, context)
        if rpc.streams:
            yield from self._stream(method, request, caller, peer, context)
        else:
            yield self._unary(method, request, caller, peer, context)

    def _caller(
        self, method: str, metadata: dict[str, str], context: grpc.ServicerContext, transport: Transport
    ) -> api.Caller:
        rule = methods.find(method)
        try:
            return self._access.authenticate(
                _secret(metadata.get("authorization")),
                transport=transport,
                certificate_names=_certificate_names(context),
            )
        except errors.Unauthenticated:
            if rule.role is methods.ANYBODY:
                return _NOBODY
            raise

    def _request(self, rpc: Rpc, sent: Iterator[bytes], context: grpc.ServicerContext) -> Message:
        for data in self._received(sent, context):
            return requests.parse(data, rpc.request)
        raise errors.Invalid("the call ended without a request")

    def _received(self, sent: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        """What the client sends, message by message; it must not take too long for one."""
        while True:
            self._receiving[context] = time.monotonic()
            try:
                data = next(sent, None)
            finally:
                self._receiving.pop(context, None)
            if data is None:
                return
            yield data

    def _unary(
        self, method: str, request: Message, caller: api.Caller, peer: str, context: grpc.ServicerContext
    ) -> bytes:
        task = bridge.Once(self._work, lambda: self._dispatcher.unary(method, request, caller, peer))
        if not context.add_callback(task.cancel):
            raise errors.Cancelled("the call was cancelled")
        return task.result().SerializeToString()

    def _stream(
        self, method: str, request: Message, caller: api.Caller, peer: str, context: grpc.ServicerContext
    ) -> Iterator[bytes]:
        def responses() -> AsyncGenerator[Message, None]:
            return self._dispatcher.stream(method, request, caller, peer)

        task = bridge.Stream(self._work, responses, give_up=context.cancel)
        if not context.add_callback(task.cancel):
            raise errors.Cancelled("the call was cancelled")
        self._ends_by(context, lambda: task.cancel(bridge.ending()))
        task.start()
        try:
            while (response := task.take()) is not None:
                yield response.SerializeToString()
        finally:
            task.cancel()

    @staticmethod
    def _fail(context: grpc.ServicerContext, error: SnapfsError) -> None:
        code, details, metadata = status.status_of(error)
        context.set_trailing_metadata((*metadata, (status.VERSION_KEY, snapfs.__version__)))
        context.abort(code, details)

    # -- those that wait

    @contextmanager
    def _place(self, context: grpc.ServicerContext) -> Iterator[None]:
        """One of the places for streams that wait."""
        with self._lock:
            if self._ending:
                raise bridge.ending()
            if len(self._waiting) >= WAITING_MAX:
                raise errors.Busy(
                    f"{WAITING_MAX} streams are followed already", hint="end some that nobody needs, or try again"
                )
            self._waiting[context] = context.cancel
        try:
            yield
        finally:
            with self._lock:
                del self._waiting[context]

    def _ends_by(self, context: grpc.ServicerContext, end: Callable[[], object]) -> None:
        """How a stream that waits ends better than by breaking it off."""
        with self._lock:
            if context in self._waiting:
                self._waiting[context] = end
                if self._ending:
                    end()

    def end_waiting(self) -> None:
        """All streams that wait end, and no new ones begin."""
        with self._lock:
            self._ending = True
            for end in self._waiting.values():
                end()

    async def drop_the_slow(self) -> None:
        """Break off calls whose request does not come."""
        while True:
            await trio.sleep(REQUEST_SECONDS_MAX / 4)
            before = time.monotonic() - REQUEST_SECONDS_MAX
            for context, since in self._receiving.copy().items():
                if since < before:
                    context.cancel()


_NOBODY: Final = api.Caller(name="", role=api.Role.VIEWER)
"""Who asks for what anybody may have."""


def _check_version(number: str) -> None:
    if number != status.API_NUMBER:
        raise errors.Unsupported(
            f"the client speaks version {number} of the API, the daemon (snapfs {snapfs.__version__}) version "
            f"{status.API_NUMBER}",
            hint="use the same version of snapfs on both sides",
        )


def _secret(authorization: str | None) -> str | None:
    """Of the metadata ``authorization``.  Raises Unauthenticated if that is nothing that we know."""
    if authorization is None:
        return None
    scheme, _, secret = authorization.partition(" ")
    if scheme.lower() != "bearer" or not secret.strip():
        raise errors.Unauthenticated(
            "the metadata `authorization` is no token", hint="send `authorization: Bearer SECRET`"
        )
    return secret.strip()


def _peer(context: grpc.ServicerContext) -> str:
    scheme, _, address = context.peer().partition(":")
    return "unix" if scheme == "unix" else urllib.parse.unquote(address)


def _certificate_names(context: grpc.ServicerContext) -> list[str]:
    """Of the client's certificate, which has been verified; most telling first."""
    properties: Mapping[str, Iterable[bytes]] = context.auth_context()  # type: ignore[assignment] # wrong in the stubs
    return [
        name.decode(errors="replace")
        for key in ("x509_subject_alternative_name", "x509_common_name")
        for name in properties.get(key, ())
    ]
