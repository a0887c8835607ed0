"""OperationService."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from snapfs.operations import Operations
from snapfs.rpc import convert
from snapfs.rpc.handlers.common import Call
from snapfs.v1 import operation_pb2


class OperationHandlers:
    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    async def get_operation(
        self, request: operation_pb2.GetOperationRequest, call: Call
    ) -> operation_pb2.GetOperationResponse:
        found = self._operations.get(request.id)
        return operation_pb2.GetOperationResponse(operation=convert.operation_to(found))

    async def list_operations(
        self, request: operation_pb2.ListOperationsRequest, call: Call
    ) -> operation_pb2.ListOperationsResponse:
        return operation_pb2.ListOperationsResponse(
            operations=[convert.operation_to(one) for one in self._operations.list()]
        )

    async def cancel_operation(
        self, request: operation_pb2.CancelOperationRequest, call: Call
    ) -> operation_pb2.CancelOperationResponse:
        asked = self._operations.cancel(request.id)
        return operation_pb2.CancelOperationResponse(operation=convert.operation_to(asked))

    async def watch_operation(
        self, request: operation_pb2.WatchOperationRequest, call: Call
    ) -> AsyncIterator[operation_pb2.WatchOperationResponse]:
        states = self._operations.watch(request.id, cancel_when_abandoned=request.cancel_when_abandoned)
        async with aclosing(states) as updates:  # type: ignore[type-var] # an async generator
            async for operation in updates:
                yield operation_pb2.WatchOperationResponse(operation=convert.operation_to(operation))
