# Generated from snapfs/client/aio/operations.py by `make generate`: change that file, not this one.
"""Calls on long work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from snapfs import api, errors
from snapfs.client.blocking.calls import Calls
from snapfs.rpc import convert
from snapfs.v1 import operation_pb2

OPERATIONS: Final = "snapfs.v1.OperationService"


class OperationCalls(Calls):
    """``snapfs.v1.OperationService``."""

    def get_operation(self, *, id: str) -> api.Operation:
        """Raises NotFound: unknown, or forgotten since it ended."""
        answer = self._unary(
            f"{OPERATIONS}/GetOperation",
            lambda: operation_pb2.GetOperationRequest(id=id),
            operation_pb2.GetOperationResponse,
        )
        return convert.operation_of(answer.operation)

    def list_operations(self) -> list[api.Operation]:
        """Newest first: those that run, and the last that ended."""
        answer = self._unary(
            f"{OPERATIONS}/ListOperations", operation_pb2.ListOperationsRequest, operation_pb2.ListOperationsResponse
        )
        return [convert.operation_of(message) for message in answer.operations]

    def cancel_operation(self, *, id: str) -> api.Operation:
        """Ask it to stop; one that has ended stays as it is.  Raises NotFound."""
        answer = self._unary(
            f"{OPERATIONS}/CancelOperation",
            lambda: operation_pb2.CancelOperationRequest(id=id),
            operation_pb2.CancelOperationResponse,
        )
        return convert.operation_of(answer.operation)

    def watch_operation(self, *, id: str, cancel_when_abandoned: bool = False) -> Iterator[api.Operation]:
        """The operation as it moves on, to its end.

        Args:
            cancel_when_abandoned: cancel it when this stream is not read to its end.
        """
        answers = self._stream(
            f"{OPERATIONS}/WatchOperation",
            lambda: operation_pb2.WatchOperationRequest(id=id, cancel_when_abandoned=cancel_when_abandoned),
            operation_pb2.WatchOperationResponse,
        )
        for answer in answers:
            yield convert.operation_of(answer.operation)

    def _followed(self, operation: api.Operation, progress: Callable[[int, int], None] | None) -> api.Operation:
        """The operation at its end, watched as by who cares for it alone.  Raises what it failed with."""
        now = operation
        for now in self.watch_operation(id=operation.id, cancel_when_abandoned=True):
            if progress is not None and (now.done or now.total):
                progress(now.done, now.total)
        if now.error is not None:
            raise _failure(now.error)
        return now


def _failure(error: api.OperationError) -> errors.SnapfsError:
    """Why an operation failed; of a kind that we do not know, the nearest that we do."""
    known = {str(kind): cls for kind, cls in errors.by_kind().items()}
    return known.get(error.kind, errors.IOFailure)(error.message, hint=error.hint)
