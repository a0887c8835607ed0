"""The metrics by HTTP, for Prometheus: GET /metrics on a loopback address.

Invariants:
  * Answered on the trio thread, where the store may be looked at; what is asked is read and answered within
    ``CALL_SECONDS_MAX``, by at most ``CLIENTS_MAX`` clients at once.
  * One answer a connection: HTTP/1.0 is all that a scraper needs.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from typing import Final

import trio

from snapfs.config import host_port
from snapfs.errors import Unavailable
from snapfs.metrics import CONTENT_TYPE

log = logging.getLogger(__name__)

CLIENTS_MAX: Final = 16
CALL_SECONDS_MAX: Final = 10.0
REQUEST_BYTES_MAX: Final = 16 * 1024
_END: Final = b"\r\n\r\n"
_BACKLOG: Final = 16


class Exporter:
    """
    Args:
        text: makes the answer.
    """

    def __init__(self, text: Callable[[], str], nursery: trio.Nursery) -> None:
        self._text = text
        self._nursery = nursery
        self._address = ""
        self._scope = trio.CancelScope()
        self._clients = 0

    def serve(self, address: str) -> None:
        """Serve at ``HOST:PORT`` from now on, and nowhere else; empty: not at all.

        Raises:
            Unavailable: the address cannot be had; then it serves where it did.
        """
        if address == self._address:
            return
        listeners = _bound(address) if address else []
        self._scope.cancel()
        self._scope, self._address = trio.CancelScope(), address
        if listeners:
            self._nursery.start_soon(self._serve, listeners, self._scope)
            log.info("metrics are at http://%s/metrics", address)

    async def _serve(self, listeners: list[trio.SocketListener], scope: trio.CancelScope) -> None:
        with scope:
            await trio.serve_listeners(self._answer, listeners)

    async def _answer(self, stream: trio.SocketStream) -> None:
        async with stream:
            if self._clients >= CLIENTS_MAX:
                return
            self._clients += 1
            try:
                with trio.move_on_after(CALL_SECONDS_MAX):
                    request = await _request(stream)
                    if request:
                        await stream.send_all(self._response(request))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            finally:
                self._clients -= 1

    def _response(self, request: bytes) -> bytes:
        words = request.partition(b"\r\n")[0].split(b" ")
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            return _message("400 Bad Request", "text/plain", b"bad request\n")
        if words[0] not in (b"GET", b"HEAD"):
            return _message("405 Method Not Allowed", "text/plain", b"GET only\n")
        if words[1].partition(b"?")[0] != b"/metrics":
            return _message("404 Not Found", "text/plain", b"see /metrics\n")
        body = self._text().encode()
        answer = _message("200 OK", CONTENT_TYPE, body)
        return answer if words[0] == b"GET" else answer[: -len(body)]


def _bound(address: str) -> list[trio.SocketListener]:
    host, port = host_port(address)
    found: list[trio.SocketListener] = []
    try:
        kinds = {info[0]: info[4][0] for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
        for family, place in kinds.items():
            bound = socket.create_server((str(place), port), family=family, backlog=_BACKLOG)
            found.append(trio.SocketListener(_trio_socket(bound)))
    except OSError as error:
        for listener in found:
            listener.socket.close()
        raise Unavailable(
            f"metrics cannot be served at {address}: {error.strerror or error}", hint="see metrics.address"
        ) from None
    return found


def _trio_socket(bound: socket.socket) -> trio.socket.SocketType:
    made = trio.socket.from_stdlib_socket(bound)
    made.listen(_BACKLOG)
    return made


async def _request(stream: trio.SocketStream) -> bytes:
    """Head of the request; empty if the client breaks off or says too much."""
    data = bytearray()
    while _END not in data:
        part = await stream.receive_some(REQUEST_BYTES_MAX)
        data += part
        if not part or len(data) > REQUEST_BYTES_MAX:
            return b""
    return bytes(data)


def _message(status: str, kind: str, body: bytes) -> bytes:
    head = f"HTTP/1.0 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + body
