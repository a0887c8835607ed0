"""The daemon's gRPC server: threads of grpc's in front, the dispatcher on the trio thread behind.

Invariants:

- Each place has threads of its own: who floods a port keeps nobody from the socket.  Connections are so few that
  half of the process's descriptors stay for the store, whoever connects.
- Calls, their size and the threads they hold are bounded; ``calls`` bounds the rest.
- At the end: no new calls, streams that wait end at once, the others get ``GRACE_SECONDS``.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Final, NamedTuple

import trio

from snapfs.access.callers import Access, Transport
from snapfs.errors import SnapfsError
from snapfs.rpc import bridge, endpoints
from snapfs.rpc.bridge import Bridge
from snapfs.rpc.calls import Calls, Observe
from snapfs.rpc.dispatch import Dispatcher
from snapfs.rpc.endpoints import TcpEndpoint, UnixEndpoint
from snapfs.rpc.library import grpc

THREADS_MAX: Final = 96
"""Of one place."""
CALLS_MAX: Final = 1024
"""At once, most of them queueing for a thread; beyond: refused."""

REQUEST_BYTES_MAX: Final = 4 * 1024 * 1024
CONNECTIONS_MAX: Final = 1000
"""Of one place; fewer where the process may have few descriptors."""
CONNECTIONS_PART: Final = 0.5
"""Of the process's descriptors, for connections to all places."""

GRACE_SECONDS: Final = 2.0

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", REQUEST_BYTES_MAX),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_concurrent_streams", 4 * CALLS_MAX),  # of one connection; a client is told nothing better than a reset
    ("grpc.so_reuseport", 0),  # a port that is taken is an error
    ("grpc.keepalive_time_ms", 30_000),  # a client that vanished is noticed
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.max_connection_idle_ms", 300_000),  # connections are few; a client that comes back connects again
    ("grpc.server_handshake_timeout_ms", 20_000),
)


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
        options = (*_OPTIONS, ("grpc.max_allowed_incoming_connections", _connections_max(len(places))))
        served: list[_Served] = []
        with ExitStack() as stack:
            try:
                addresses = []
                for place in places:
                    calls = Calls(dispatcher, access, work, observe or (lambda method, code, seconds: None))
                    one = _serving(place, calls, options)
                    served.append(one)
                    addresses.append(_listen(place, one.server, stack))
                for one in served:
                    one.server.start()
                    nursery.start_soon(one.calls.drop_the_slow)
                    nursery.start_soon(one.calls.drop_the_refused)
                task_status.started(addresses)
                await trio.sleep_forever()
            except SnapfsError as error:
                refused = error  # raised in the nursery it would become a group
                nursery.cancel_scope.cancel()
            finally:
                with trio.CancelScope(shield=True):
                    await _end(served, work)
    if refused is not None:
        raise refused


async def _bridge(*, task_status: trio.TaskStatus[Bridge]) -> None:
    await bridge.run(task_status=task_status)


def _connections_max(places: int) -> int:
    """Of one of so many places."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return CONNECTIONS_MAX
    return max(1, min(CONNECTIONS_MAX, int(soft * CONNECTIONS_PART) // max(1, places)))


class _Served(NamedTuple):
    """One place."""

    server: grpc.Server
    calls: Calls
    pool: ThreadPoolExecutor


def _serving(place: UnixEndpoint | TcpEndpoint, calls: Calls, options: Sequence[tuple[str, int]]) -> _Served:
    transport = Transport.UNIX if isinstance(place, UnixEndpoint) else Transport.TCP
    handlers: list[grpc.GenericRpcHandler] = [_Handlers(calls, transport)]
    pool = ThreadPoolExecutor(THREADS_MAX, thread_name_prefix="rpc")
    return _Served(
        grpc.server(pool, handlers=handlers, options=options, maximum_concurrent_rpcs=CALLS_MAX), calls, pool
    )


def _listen(place: UnixEndpoint | TcpEndpoint, server: grpc.Server, stack: ExitStack) -> str:
    if isinstance(place, UnixEndpoint):
        return stack.enter_context(endpoints.bound(server, place))
    return endpoints.listen(server, place)


async def _end(served: Sequence[_Served], work: Bridge) -> None:
    stopped = [one.server.stop(GRACE_SECONDS) for one in served]
    for one in served:
        one.calls.end_waiting()
    for event in stopped:
        await trio.to_thread.run_sync(event.wait)
    work.close()
    for one in served:
        await trio.to_thread.run_sync(one.pool.shutdown)  # not here: its threads wait for us


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
