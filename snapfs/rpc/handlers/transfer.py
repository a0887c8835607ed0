"""TransferService."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Final

from snapfs.operations import Operations
from snapfs.rpc import convert
from snapfs.rpc.handlers.common import Call, once_of
from snapfs.service import Service
from snapfs.v1 import transfer_pb2

IMPORT: Final = "import"
"""Kind of the operation that imports a tree."""

PART_BYTES_MAX: Final = 1024 * 1024
"""Of an archive, in one message."""


class TransferHandlers:
    def __init__(self, service: Service, operations: Operations) -> None:
        self._service = service
        self._operations = operations

    async def start_import(
        self, request: transfer_pb2.StartImportRequest, call: Call
    ) -> transfer_pb2.StartImportResponse:
        source, path = convert.path_of(request.source), convert.path_of(request.path)
        once = once_of(request, request.request_id, call)
        started = self._operations.start(
            IMPORT,
            lambda progress: self._service.import_tree(
                source=source, volume=request.volume, path=path, progress=progress
            ),
            key=once.key if once else b"",
        )
        return transfer_pb2.StartImportResponse(operation=convert.operation_to(started))

    async def export_snapshot(
        self, request: transfer_pb2.ExportSnapshotRequest, call: Call
    ) -> AsyncIterator[transfer_pb2.ExportSnapshotResponse]:
        archive = self._service.export_snapshot(
            volume=request.volume, snapshot=request.snapshot, path=convert.path_of(request.path)
        )
        gathered = bytearray()
        async with aclosing(archive) as pieces:
            async for piece in pieces:
                gathered += piece
                while len(gathered) >= PART_BYTES_MAX:
                    yield transfer_pb2.ExportSnapshotResponse(data=bytes(gathered[:PART_BYTES_MAX]))
                    del gathered[:PART_BYTES_MAX]
        if gathered:
            yield transfer_pb2.ExportSnapshotResponse(data=bytes(gathered))
