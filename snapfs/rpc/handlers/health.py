"""grpc.health.v1.Health: the daemon as a whole (the empty name) and each service by name, all with one status."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection
from typing import Final

import trio
from grpc_health.v1 import health_pb2

from snapfs.errors import NotFound
from snapfs.rpc.handlers.common import Call

_POLL_SECONDS: Final = 1.0
"""How late a watcher may learn that the store failed."""

_SERVING: Final = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING
_SERVICE_UNKNOWN: Final = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class HealthHandlers:
    """
    Args:
        services: full names of the services.
        sound: whether the store takes changes.
    """

    def __init__(self, services: Collection[str], sound: Callable[[], bool]) -> None:
        self._names = ["", *services]
        self._sound = sound

    def _status(self) -> health_pb2.HealthCheckResponse:
        return health_pb2.HealthCheckResponse(status=_SERVING if self._sound() else _NOT_SERVING)

    async def check(
        self, request: health_pb2.HealthCheckRequest, call: Call
    ) -> health_pb2.HealthCheckResponse:
        if request.service not in self._names:
            raise NotFound(f"no service {request.service!r}")
        return self._status()

    async def list(self, request: health_pb2.HealthListRequest, call: Call) -> health_pb2.HealthListResponse:
        return health_pb2.HealthListResponse(statuses={name: self._status() for name in self._names})

    async def watch(
        self, request: health_pb2.HealthCheckRequest, call: Call
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """The status, and again whenever it has changed; does not end by itself."""
        if request.service not in self._names:
            yield health_pb2.HealthCheckResponse(status=_SERVICE_UNKNOWN)
            await trio.sleep_forever()
        told = None
        while True:
            now = self._status()
            if now != told:
                told = now
                yield now
            await trio.sleep(_POLL_SECONDS)
