"""gRPC's connection to a daemon, blocking and for asyncio.

Invariants:

- Nobody waits for a daemon that is not there or not alive: connecting is bounded, and while a call runs the
  connection is probed (keepalive), so that a call without a deadline ends when its daemon does.
- The environment has no say: no proxy, no default certificate but the system's.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from typing import Final, TypeVar, cast

from google.protobuf.message import Message

from snapfs import errors
from snapfs.client import addresses
from snapfs.client.addresses import Target
from snapfs.client.credentials import Credentials
from snapfs.client.limits import (
    CONNECT_MILLISECONDS_MAX,
    KEEPALIVE_MILLISECONDS,
    KEEPALIVE_TIMEOUT_MILLISECONDS,
    RESPONSE_BYTES_MAX,
)
from snapfs.rpc import status
from snapfs.rpc.library import grpc

M = TypeVar("M", bound=Message)

RECONNECT_MILLISECONDS: Final = 100
"""After a failed attempt calls fail at once until the next: a daemon that is back should not be missed for long."""
RECONNECT_MILLISECONDS_MAX: Final = 1000

_CUT_OFF: Final = ("Socket closed", "Broken pipe", "Connection reset")
_SILENCE: Final = ("timed out", "timeout", "settings", "handshake read failed (endpoint closing)")
"""How gRPC tells of a connection that is closed at once, and of one on which nothing comes."""
_PLAIN_HINT: Final = "is that a snapfs daemon? One that asks for TLS is HOST:PORT, without `insecure:`"

_OPTIONS: Final[tuple[tuple[str, str | int], ...]] = (
    ("grpc.min_reconnect_backoff_ms", CONNECT_MILLISECONDS_MAX),  # what gRPC calls the time for one attempt
    ("grpc.initial_reconnect_backoff_ms", RECONNECT_MILLISECONDS),
    ("grpc.keepalive_time_ms", KEEPALIVE_MILLISECONDS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MILLISECONDS),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", RESPONSE_BYTES_MAX),
    ("grpc.enable_http_proxy", 0),
    ("grpc.service_config_disable_resolution", 1),
)
_REMOTE_OPTIONS: Final = (("grpc.max_reconnect_backoff_ms", RECONNECT_MILLISECONDS_MAX),)
_LOCAL_OPTIONS: Final = (
    ("grpc.default_authority", "localhost"),  # a unix socket has no host name to send
    ("grpc.max_reconnect_backoff_ms", RECONNECT_MILLISECONDS),  # an attempt costs next to nothing
)


def _of_channel(shown: Credentials) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(_content(shown.ca), _content(shown.key), _content(shown.certificate))


def _content(path: str | os.PathLike[str] | None) -> bytes | None:
    if not path:
        return None
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise errors.NotFound(f"there is no file {os.fspath(path)}") from None
    except OSError as error:
        raise errors.NotPermitted(f"cannot read {os.fspath(path)}: {error.strerror}") from None


class _Connection:
    """What both kinds of transport share: the channel's making, metadata, errors."""

    def __init__(self, target: Target, credentials: Credentials) -> None:
        credentials.check(target)
        self._target = target
        self._credentials = credentials
        self._directory = -1
        self._name = target.host_port
        if target.socket is not None:
            self._name = f"unix:{target.socket}"
            if not addresses.plain(target.socket):
                self._directory = _opened(target.socket.parent)
                self._name = f"unix:/proc/self/fd/{self._directory}/{target.socket.name}"

    def _options(self) -> list[tuple[str, str | int]]:
        return [*_OPTIONS, *(_LOCAL_OPTIONS if self._target.socket is not None else _REMOTE_OPTIONS)]

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return self._credentials.metadata(self._target)

    def _error(self, error: grpc.RpcError) -> errors.SnapfsError:
        failed = cast(status.Failed, error)  # what gRPC raises from a call always is
        if failed.code() is grpc.StatusCode.UNAVAILABLE and not _told_by_snapfs(failed):
            return self._unreachable(failed.details() or "")
        return status.error_of(failed)

    def _unreachable(self, details: str) -> errors.SnapfsError:
        """gRPC's own words are long and name every attempt: the telling part of the common cases."""
        shown = self._target.shown
        if "CERTIFICATE_VERIFY_FAILED" in details:
            return errors.Unavailable(
                f"{shown}: its certificate is not trusted",
                hint="name the certificate of its authority: --ca, SNAPFS_CA or ca=",
            )
        if "Ssl handshake failed" in details or "SSL_ERROR" in details:
            return errors.Unavailable(f"{shown}: no TLS connection", hint="does the daemon speak TLS there?")
        if self._target.tls and "failed to connect" in details and "Socket closed" in details:
            return errors.Unavailable(
                f"{shown} closed the connection", hint="does the daemon ask for a client's certificate (and key) there?"
            )
        if self._target.socket is not None and "Permission denied" in details:
            return errors.NotPermitted(f"no permission to use the daemon's socket {self._target.socket}")
        if not self._target.tls and "failed to connect" in details and any(cut in details for cut in _CUT_OFF):
            return errors.Unavailable(f"{shown} closed the connection", hint=_PLAIN_HINT)
        if "Connection refused" in details or "No such file" in details:
            return errors.Unavailable(f"no daemon listens at {shown}")
        if any(silence in details.lower() for silence in _SILENCE):
            return errors.Unavailable(
                f"the daemon at {shown} did not answer in time", hint="is it stopped or overloaded?"
            )
        if "errors resolving" in details or "DNS resolution failed" in details:
            return errors.Unavailable(f"{shown}: no such host")
        return errors.Unavailable(f"the daemon at {shown} cannot be reached: {details}")

    def _close_directory(self) -> None:
        if self._directory >= 0:
            os.close(self._directory)
            self._directory = -1


def _told_by_snapfs(failed: status.Failed) -> bool:
    """Else gRPC itself says it."""
    metadata = failed.trailing_metadata()
    return any(key == status.DETAILS_KEY for key, _ in cast(Iterable[tuple[str, object]], metadata or ()))


def _opened(directory: Path) -> int:
    try:
        return os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        raise errors.NotPermitted(f"no permission to use {directory}") from None
    except OSError as error:
        raise errors.Unavailable(f"no daemon listens in {directory}: {error.strerror}") from None


class GrpcTransport(_Connection):
    """A blocking connection; any number of threads may call at once."""

    def __init__(self, target: Target, credentials: Credentials) -> None:
        super().__init__(target, credentials)
        if target.tls:
            self._channel = grpc.secure_channel(self._name, _of_channel(credentials), self._options())
        else:
            self._channel = grpc.insecure_channel(self._name, self._options())

    def unary(self, method: str, request: Message, response: type[M], *, timeout_seconds: float | None) -> M:
        call: Callable[..., M] = self._channel.unary_unary(
            f"/{method}", request_serializer=type(request).SerializeToString, response_deserializer=response.FromString
        )
        try:
            return call(request, timeout=timeout_seconds, metadata=self._metadata())
        except grpc.RpcError as failed:
            raise self._error(failed) from None

    def stream(self, method: str, request: Message, response: type[M], *, timeout_seconds: float | None) -> Iterator[M]:
        start = self._channel.unary_stream(
            f"/{method}", request_serializer=type(request).SerializeToString, response_deserializer=response.FromString
        )
        call = start(request, timeout=timeout_seconds, metadata=self._metadata())
        try:
            yield from call
        except grpc.RpcError as failed:
            raise self._error(failed) from None
        finally:
            call.cancel()

    def close(self) -> None:
        self._channel.close()
        self._close_directory()


class AsyncGrpcTransport(_Connection):
    """A connection for the asyncio loop in which it is made."""

    def __init__(self, target: Target, credentials: Credentials) -> None:
        super().__init__(target, credentials)
        if target.tls:
            self._channel = grpc.aio.secure_channel(self._name, _of_channel(credentials), self._options())
        else:
            self._channel = grpc.aio.insecure_channel(self._name, self._options())

    async def unary(self, method: str, request: Message, response: type[M], *, timeout_seconds: float | None) -> M:
        call = self._channel.unary_unary(
            f"/{method}", request_serializer=type(request).SerializeToString, response_deserializer=response.FromString
        )
        try:
            answer: M = await call(request, timeout=timeout_seconds, metadata=self._metadata())
        except grpc.RpcError as failed:
            raise self._error(failed) from None
        return answer

    async def stream(
        self, method: str, request: Message, response: type[M], *, timeout_seconds: float | None
    ) -> AsyncIterator[M]:
        start = self._channel.unary_stream(
            f"/{method}", request_serializer=type(request).SerializeToString, response_deserializer=response.FromString
        )
        call = start(request, timeout=timeout_seconds, metadata=self._metadata())
        try:
            async for message in call:
                yield message
        except grpc.RpcError as failed:
            raise self._error(failed) from None
        finally:
            call.cancel()

    async def close(self) -> None:
        await self._channel.close()
        self._close_directory()
