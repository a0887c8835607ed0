"""SpaceService."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from snapfs.operations import Operations
from snapfs.rpc import convert
from snapfs.rpc.handlers.common import Call, once_of, parts
from snapfs.rpc.methods import visible
from snapfs.service import Service
from snapfs.v1 import space_pb2

OPTIMIZE: Final = "optimize"
"""Kind of the operation that optimizes a volume."""


class SpaceHandlers:
    def __init__(self, service: Service, operations: Operations) -> None:
        self._service = service
        self._operations = operations

    async def get_usage(
        self, request: space_pb2.GetUsageRequest, call: Call
    ) -> AsyncIterator[space_pb2.GetUsageResponse]:
        seen = visible(call.caller)
        found = await self._service.get_usage(volume=request.volume, snapshots=request.snapshots)
        for one in found:
            if seen is not None and one.volume not in seen:
                continue
            volume: space_pb2.VolumeUsage | None = convert.volume_usage_to(one)
            for usages in parts(one.usages):
                yield space_pb2.GetUsageResponse(volume=volume, usages=map(convert.usage_to, usages))
                volume = None

    async def what_if(self, request: space_pb2.WhatIfRequest, call: Call) -> space_pb2.WhatIfResponse:
        found = await self._service.what_if(targets=list(request.targets))
        return space_pb2.WhatIfResponse(what_if=convert.what_if_to(found))

    async def cheapest(self, request: space_pb2.CheapestRequest, call: Call) -> space_pb2.CheapestResponse:
        found = await self._service.cheapest(volume=request.volume, free_bytes=request.free_bytes)
        return space_pb2.CheapestResponse(what_if=convert.what_if_to(found))

    async def get_space(self, request: space_pb2.GetSpaceRequest, call: Call) -> space_pb2.GetSpaceResponse:
        return space_pb2.GetSpaceResponse(space=convert.space_to(await self._service.get_space()))

    async def start_optimize(
        self, request: space_pb2.StartOptimizeRequest, call: Call
    ) -> space_pb2.StartOptimizeResponse:
        await self._service.get_volume(name=request.volume)  # told at once if missing
        once = once_of(request, request.request_id, call)
        paths = [convert.path_of(path) for path in request.paths]
        started = self._operations.start(
            OPTIMIZE,
            lambda progress: self._service.optimize(
                volume=request.volume, paths=paths, bytes_per_second=request.bytes_per_second, progress=progress
            ),
            key=once.key if once else b"",
        )
        return space_pb2.StartOptimizeResponse(operation=convert.operation_to(started))
