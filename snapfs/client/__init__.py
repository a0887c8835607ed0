"""Python's way to a store's daemon, here or on another machine.

    from snapfs import client

    with client.connect("/data/store") as store:
        made = store.create_snapshot(volume="digits", name="cleaned", meta={"accuracy": "0.97"})
        for change in store.diff(volume="digits", snapshot="cleaned"):
            print(change.kind, change.path)

    async with client.aconnect("lake.example.org:7432", token=secret, ca="ca.pem") as store:
        async for event in store.watch_events(volume="digits"):
            print(event.kind, event.snapshot)

Invariants:

- Methods, parameters and records are those of ``snapfs.service.Service``; lists and streams are iterators.
- Every error is a ``snapfs.errors.SnapfsError``.
- Making a client does no I/O but reading the files of its credentials: an unreachable daemon shows at the first call.
- Importing this imports neither gRPC nor the store; connecting imports gRPC.

A ``Client`` may be used by many threads at once, an ``AsyncClient`` in the asyncio loop in which it was made.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from snapfs.client.addresses import parse

if TYPE_CHECKING:
    from snapfs.client.aio.client import AsyncClient
    from snapfs.client.blocking.client import Client

__all__ = ["AsyncClient", "Client", "aconnect", "connect"]


def connect(
    address: str | os.PathLike[str],
    *,
    token: str = "",
    ca: str | os.PathLike[str] | None = None,
    certificate: str | os.PathLike[str] | None = None,
    key: str | os.PathLike[str] | None = None,
    timeout_seconds: float | None = None,
    deadline: float | None = None,
) -> Client:
    """A client; close it, or use it in a ``with`` statement.

    Args:
        address: ``host:port`` (TLS), ``unix:/path/to/socket``, ``insecure:127.0.0.1:port``, or a store's directory
            (whoever can read the store is its owner).
        token: secret of a token.
        ca: file of certificates that the daemon's must descend from; None: the system's.
        certificate, key: files of the client's own certificate chain and key.
        timeout_seconds: longest wait for the answer of one call (not of a stream); None: for ever, as long as the
            daemon lives.
        deadline: ``time.monotonic()`` after which every wait, also of streams, fails.

    Raises:
        Invalid, NotFound, NotPermitted: a bad address, or files that cannot be used.
    """
    from snapfs.client.blocking.client import Client
    from snapfs.client.channel import GrpcTransport
    from snapfs.client.credentials import Credentials

    credentials = Credentials(token=token, ca=ca, certificate=certificate, key=key)
    return Client(GrpcTransport(parse(address), credentials), timeout_seconds=timeout_seconds, deadline=deadline)


def aconnect(
    address: str | os.PathLike[str],
    *,
    token: str = "",
    ca: str | os.PathLike[str] | None = None,
    certificate: str | os.PathLike[str] | None = None,
    key: str | os.PathLike[str] | None = None,
    timeout_seconds: float | None = None,
    deadline: float | None = None,
) -> AsyncClient:
    """As ``connect``, for asyncio: call it while the loop runs."""
    from snapfs.client.aio.client import AsyncClient
    from snapfs.client.channel import AsyncGrpcTransport
    from snapfs.client.credentials import Credentials

    credentials = Credentials(token=token, ca=ca, certificate=certificate, key=key)
    transport = AsyncGrpcTransport(parse(address), credentials)
    return AsyncClient(transport, timeout_seconds=timeout_seconds, deadline=deadline)


def __getattr__(name: str) -> object:
    """The classes, imported when they are asked for."""
    if name == "Client":
        from snapfs.client.blocking.client import Client

        return Client
    if name == "AsyncClient":
        from snapfs.client.aio.client import AsyncClient

        return AsyncClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
