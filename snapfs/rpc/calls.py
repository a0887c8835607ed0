"""Calls of one place: from grpc's threads to the dispatcher on the trio thread, and back.

Invariants:

- A call goes: who is it, may it wait, its request, the dispatcher, its responses.  Of a caller that is not known
  nothing is read and nothing waits, but for the health, which few of them may ask for at once.
- A call that its client gives up, whose deadline passes or whose client dies is cancelled on the trio side, too.
- The time that a client may take to send or to take a message is bounded.  Streams that wait for something to happen,
  or for the reader of an archive, hold ``WAITING_MAX`` threads at most: others stay for work.
- A stream ends within ``RECHECK_SECONDS``, twice that if its client does not read, when its caller's token or
  certificate is no longer good.
"""

from __future__ import annotations

import logging
import threading
import time
import urllib.parse
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Final, NamedTuple

import trio
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

import snapfs
from snapfs import api, errors
from snapfs.access.callers import Access, Transport
from snapfs.errors import Kind, SnapfsError
from snapfs.rpc import bridge, methods, reflection, requests, status
from snapfs.rpc.bridge import Bridge
from snapfs.rpc.dispatch import Dispatcher, Rpc
from snapfs.rpc.library import grpc
from snapfs.volume.stirring import watch

WAITING_MAX: Final = 48
"""Threads of one place for streams that wait."""
STRANGERS_MAX: Final = 16
"""Threads of one place for callers that are not known: anybody may ask for the health."""


REQUEST_SECONDS_MAX: Final = 20.0
"""For a request to come once its call has begun."""

RECHECK_SECONDS: Final = 2.0
"""How often it is looked whether the callers of streams may still call."""

_WAITING: Final = frozenset(
    {
        "snapfs.v1.EventService/WatchEvents",
        "snapfs.v1.OperationService/WatchOperation",
        "snapfs.v1.TransferService/ExportSnapshot",
        "grpc.health.v1.Health/Watch",
        reflection.METHOD,
    }
)
"""Streams that last for ever, or as long as their readers like."""

Observe = Callable[[str, str, float], None]
"""Told of each call that ends: method, code of its status, seconds."""

_log = logging.getLogger(__name__)


class _Client(NamedTuple):
    """Who calls, and from where."""

    caller: api.Caller
    peer: str
    again: Callable[[], api.Caller]
    """Finds out anew who that is.  Raises Unauthenticated: nobody any more."""


class _Open(NamedTuple):
    """A stream, and how it ends when its caller may no longer call."""

    client: _Client
    end: Callable[[SnapfsError], object]


class Calls:
    """Answers calls of one place, each on a thread."""

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
        self._streams: dict[grpc.ServicerContext, _Open] = {}
        """Of known callers."""
        self._strangers = 0
        """Calls of callers that are not known, at present."""

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
        try:
            client = self._client(method, metadata, context, transport)
        except errors.Unauthenticated as error:
            self._dispatcher.refused(method, _peer(context), error)
            raise
        context.send_initial_metadata(((status.VERSION_KEY, snapfs.__version__),))
        with ExitStack() as stack:
            if client.caller is _NOBODY:
                stack.enter_context(self._stranger())
            if method in _WAITING:
                stack.enter_context(self._place(context))
            yield from self._respond(method, sent, context, client)

    def _respond(
        self, method: str, sent: Iterator[bytes], context: grpc.ServicerContext, client: _Client
    ) -> Iterator[bytes]:
        if method == reflection.METHOD:
            methods.authorize(method, Empty(), client.caller)
            yield from reflection.answer(self._received(sent, context))
            return
        rpc = self._dispatcher.rpcs[method]
        request = self._request(rpc, sent, context)
        if rpc.streams:
            yield from self._stream(method, request, client, context)
        else:
            yield self._unary(method, request, client, context)

    def _client(
        self, method: str, metadata: dict[str, str], context: grpc.ServicerContext, transport: Transport
    ) -> _Client:
        rule, authorization, names = methods.find(method), metadata.get("authorization"), _certificate_names(context)

        def find_out() -> api.Caller:
            return self._access.authenticate(_secret(authorization), transport=transport, certificate_names=names)

        try:
            return _Client(find_out(), _peer(context), find_out)
        except errors.Unauthenticated:
            if rule.role is methods.ANYBODY:
                return _Client(_NOBODY, _peer(context), lambda: _NOBODY)
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

    def _unary(self, method: str, request: Message, client: _Client, context: grpc.ServicerContext) -> bytes:
        task = bridge.Once(self._work, lambda: self._dispatcher.unary(method, request, client.caller, client.peer))
        if not context.add_callback(task.cancel):
            raise errors.Cancelled("the call was cancelled")
        return task.result().SerializeToString()

    def _stream(self, method: str, request: Message, client: _Client, context: grpc.ServicerContext) -> Iterator[bytes]:
        def responses() -> AsyncGenerator[Message, None]:
            return self._dispatcher.stream(method, request, client.caller, client.peer)

        task = bridge.Stream(self._work, responses, give_up=context.cancel)
        if not context.add_callback(task.cancel):
            raise errors.Cancelled("the call was cancelled")
        self._ends_by(context, lambda: task.cancel(bridge.ending()))
        if client.caller is not _NOBODY:
            self._streams[context] = _Open(client, task.cancel)
        task.start()
        try:
            while (response := task.take()) is not None:
                yield response.SerializeToString()
        finally:
            self._streams.pop(context, None)
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

    @contextmanager
    def _stranger(self) -> Iterator[None]:
        """One of the places for callers that are not known."""
        with self._lock:
            if self._strangers >= STRANGERS_MAX:
                raise errors.Busy(f"{STRANGERS_MAX} calls without a token run already", hint="try again, or use one")
            self._strangers += 1
        try:
            yield
        finally:
            with self._lock:
                self._strangers -= 1

    async def drop_the_refused(self) -> None:
        """End streams of callers whose token or certificate is no longer good."""
        watch()
        ended: set[grpc.ServicerContext] = set()
        while True:
            await trio.sleep(RECHECK_SECONDS)
            streams = self._streams.copy()
            refused = await trio.to_thread.run_sync(self._refused, streams) if streams else {}
            for context, (open_, error) in refused.items():
                if context in ended:  # and its client does not read that
                    context.cancel()
                open_.end(error)
            ended = set(refused)

    @staticmethod
    def _refused(
        streams: dict[grpc.ServicerContext, _Open],
    ) -> dict[grpc.ServicerContext, tuple[_Open, SnapfsError]]:
        """Those whose caller may no longer call, with why."""
        found: dict[grpc.ServicerContext, tuple[_Open, SnapfsError]] = {}
        for context, one in streams.items():
            try:
                if one.client.again() != one.client.caller:
                    found[context] = one, errors.Unauthenticated("the caller's rights have changed", hint="call again")
            except SnapfsError as error:
                found[context] = one, error
        return found

    async def drop_the_slow(self) -> None:
        """Break off calls whose request does not come."""
        watch()
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
