"""The connection of a command to the daemon of this machine, by its unix socket, without gRPC's library.

It says the same on the wire, and of what goes wrong the same as ``channel``; tests hold the two against each other.

Invariants:

- Each call has a connection of its own, from those that lie idle or a new one: any number of threads may call.
- Nobody waits for a daemon that is not there or not alive (``http2``).
- No call is made on a connection before the daemon has answered on it: one that is stopped is asked for nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, TypeVar

from snapfs import errors
from snapfs.client import addresses
from snapfs.client.addresses import Target
from snapfs.client.credentials import Credentials
from snapfs.client.http2 import Broken, Connection, Metadata, Reset, TooLong
from snapfs.client.limits import CONNECT_MILLISECONDS_MAX
from snapfs.rpc.failures import CODE_NAMES, error_from

if TYPE_CHECKING:
    from google.protobuf.message import Message

M = TypeVar("M", bound="Message")

_FOREIGN_HINT: Final = "is that a snapfs daemon?"
_SLOW_HINT: Final = "is it stopped or overloaded?"
_AGAIN_MILLISECONDS_MAX: Final = 100
"""For a daemon that has just shown no life to show some: what is tried again at once has waited already."""
_AGAIN_SECONDS: Final = 1.0
"""What "just" means."""
_TIMEOUT_DIGITS_MAX: Final = 99_999_999
"""gRPC's header has eight digits and a unit."""
_RESETS: Final = {0: "UNAVAILABLE", 7: "UNAVAILABLE", 8: "CANCELLED", 11: "RESOURCE_EXHAUSTED", 12: "PERMISSION_DENIED"}
"""Code of an HTTP/2 reset, as gRPC reads it; INTERNAL otherwise."""


class LocalTransport:
    """A blocking connection to a unix socket; any number of threads may call at once."""

    def __init__(self, target: Target, credentials: Credentials) -> None:
        credentials.check(target)
        self._target = target
        self._credentials = credentials
        self._idle: list[Connection] = []
        self._live: set[Connection] = set()
        self._closed = False
        self._silent_until = 0.0

    def reach(self) -> bool:
        """Connect ahead of the first call; False if nobody listens.

        Raises:
            NotPermitted, Unavailable: the socket is another user's; its queue stays full.
        """
        try:
            connection = self._dial()
        except Broken:  # somebody was there: a call tells what is wrong
            return True
        if connection is None:
            return False
        self._idle.append(connection)
        return True

    def unary(self, method: str, request: Message, response: type[M], *, timeout_seconds: float | None) -> M:
        answer: M | None = None
        for message in self._answers(method, request, response, timeout_seconds, attended=False):
            answer = message
        if answer is None:
            raise error_from("INTERNAL", "an answer without a message", {})
        return answer

    def stream(self, method: str, request: Message, response: type[M], *, timeout_seconds: float | None) -> Iterator[M]:
        return self._answers(method, request, response, timeout_seconds, attended=True)

    def _answers(
        self, method: str, request: Message, response: type[M], timeout_seconds: float | None, *, attended: bool
    ) -> Iterator[M]:
        end = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        connection = self._connected(end)
        try:
            connection.request(self._headers(method, timeout_seconds), request.SerializeToString(), end)
            messages = connection.messages(end)
            for message in connection.attended(messages) if attended else messages:
                yield _parsed(message, response)
            metadata = connection.metadata  # before another call has the connection
        except BaseException as error:
            self._live.discard(connection)
            connection.close()
            if isinstance(error, TimeoutError | Broken | Reset | TooLong):
                raise self._error(error) from None
            raise
        self._live.discard(connection)
        self._idle.append(connection)
        if self._closed:  # meanwhile
            connection.close()
        _check(metadata)

    def close(self) -> None:
        """Cancels what runs."""
        self._closed = True
        for connection in [*self._idle, *self._live]:
            connection.close()

    def _dial(self) -> Connection | None:
        connected = addresses.dial(self._target.socket) if self._target.socket is not None else None
        if connected is None:
            return None
        try:
            return Connection(connected)
        except BaseException:
            connected.close()
            raise

    def _connected(self, end: float | None) -> Connection:
        """One that is ready for a call."""
        now = time.monotonic()
        patience = _AGAIN_MILLISECONDS_MAX if now < self._silent_until else CONNECT_MILLISECONDS_MAX
        connecting_end = now + patience / 1000
        connection: Connection | None = None
        try:
            connection = self._lying_idle() or self._dial()
            if connection is None:
                raise errors.Unavailable(f"no daemon listens at {self._target.shown}")
            self._live.add(connection)
            connection.open(connecting_end if end is None else min(end, connecting_end))
        except (TimeoutError, Broken) as error:
            if connection is not None:
                self._live.discard(connection)
                connection.close()
            if self._closed or (isinstance(error, TimeoutError) and end is not None and end <= connecting_end):
                raise self._error(error) from None
            if isinstance(error, TimeoutError) or error.silent:
                self._silent_until = time.monotonic() + _AGAIN_SECONDS
                raise self._error(Broken("", silent=True)) from None
            raise errors.Unavailable(f"{self._target.shown} closed the connection", hint=_FOREIGN_HINT) from None
        self._silent_until = 0.0
        return connection

    def _lying_idle(self) -> Connection | None:
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:  # another thread was first
                break
            if connection.usable:
                return connection
            connection.close()
        return None

    def _headers(self, method: str, timeout_seconds: float | None) -> list[tuple[bytes, bytes]]:
        headers = [
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", b"/" + method.encode()),
            (b":authority", b"localhost"),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
            (b"user-agent", b"snapfs"),
        ]
        if timeout_seconds is not None:
            milliseconds = min(max(int(timeout_seconds * 1000), 1), _TIMEOUT_DIGITS_MAX)
            headers.append((b"grpc-timeout", b"%dm" % milliseconds))
        sent = self._credentials.metadata(self._target)
        return [*headers, *((key.encode(), value.encode()) for key, value in sent)]

    def _error(self, error: TimeoutError | Broken | Reset | TooLong) -> errors.SnapfsError:
        shown = self._target.shown
        if self._closed:
            return error_from("CANCELLED", "", {})
        if isinstance(error, TimeoutError):
            return error_from("DEADLINE_EXCEEDED", "", {})
        if isinstance(error, Broken) and error.silent:
            return errors.Unavailable(f"the daemon at {shown} did not answer in time", hint=_SLOW_HINT)
        if isinstance(error, Broken):
            return errors.Unavailable(f"the daemon at {shown} cannot be reached: {error}")
        if isinstance(error, Reset):
            return error_from(_RESETS.get(error.code, "INTERNAL"), str(error), {})
        return error_from("RESOURCE_EXHAUSTED", str(error), {})


def _parsed(message: bytes, response: type[M]) -> M:
    from google.protobuf.message import DecodeError

    try:
        return response.FromString(message)
    except DecodeError:
        raise error_from("INTERNAL", "Exception deserializing response!", {}) from None


def _check(metadata: Metadata) -> None:
    """Raises SnapfsError for the status of a call that failed."""
    number = metadata.get(b"grpc-status", b"")
    if number == b"0":
        return
    if not number:
        status = metadata.get(b":status", b"").decode("ascii", "replace")
        raise error_from("UNKNOWN", f"an answer without a status (HTTP {status})", {})
    code = int(number) if number.isdigit() else 2
    name = CODE_NAMES[code] if code < len(CODE_NAMES) else "UNKNOWN"
    raise error_from(name, _details(metadata.get(b"grpc-message", b"")), _readable(metadata))


def _details(message: bytes) -> str:
    from urllib.parse import unquote

    return unquote(message.decode("ascii", "replace"))


def _readable(metadata: Metadata) -> dict[str, object]:
    """Text, or under ``-bin`` the bytes."""
    import base64
    import binascii

    found: dict[str, object] = {}
    for key, value in metadata.items():
        name = key.decode("ascii", "replace")
        found[name] = value.decode("ascii", "replace")
        if name.endswith("-bin"):
            try:
                found[name] = base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
            except binascii.Error:
                del found[name]
    return found
