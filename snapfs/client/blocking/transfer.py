# Generated from snapfs/client/aio/transfer.py by `make generate`: change that file, not this one.
"""Calls that bring trees of files in and out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from snapfs import api, errors
from snapfs.client.blocking.calls import new_request_id
from snapfs.client.blocking.operations import OperationCalls
from snapfs.rpc import convert
from snapfs.v1 import transfer_pb2

SERVICE: Final = "snapfs.v1.TransferService"


class TransferCalls(OperationCalls):
    """``snapfs.v1.TransferService``."""

    def start_import(self, *, source: str, volume: str, path: str = "", request_id: str = "") -> api.Operation:
        """Begin what ``import_tree`` does.  The same ``request_id`` gives the same operation.

        Raises:
            NotPermitted: this is not the store's owner; Busy: too many operations run.
        """
        key = request_id or new_request_id()
        answer = self._create(
            f"{SERVICE}/StartImport",
            lambda: transfer_pb2.StartImportRequest(
                source=convert.path_to(source), volume=volume, path=convert.path_to(path), request_id=key
            ),
            transfer_pb2.StartImportResponse,
        )
        return convert.operation_of(answer.operation)

    def import_tree(
        self, *, source: str, volume: str, path: str = "", progress: Callable[[int, int], None] | None = None
    ) -> api.ImportReport:
        """Copy a directory of the daemon's machine into a volume, with all that ``cp -a`` keeps, and wait for its end;
        whoever stops waiting cancels it.  What is there already and unchanged is passed over.

        Args:
            source: its absolute path.
            volume: made if there is none.
            path: directory in the volume; empty: its root.
            progress: gets units of work done, and of all.

        Raises:
            NotPermitted: this is not the store's owner; NotFound, NotADirectory, Invalid; QuotaExceeded, NoSpace: what
            was imported until then stays; Cancelled: somebody else cancelled it.
        """
        done = self._followed(self.start_import(source=source, volume=volume, path=path), progress)
        if done.imported is None:
            raise errors.Cancelled("the import was cancelled")
        return done.imported

    def export_snapshot(self, *, volume: str, snapshot: str, path: str = "") -> Iterator[bytes]:
        """What a snapshot shows, as the parts of a POSIX tar archive (pax).

        Args:
            path: only this file or directory; empty: everything.

        Raises:
            NotFound; Invalid: an ambiguous prefix.
        """
        answers = self._stream(
            f"{SERVICE}/ExportSnapshot",
            lambda: transfer_pb2.ExportSnapshotRequest(volume=volume, snapshot=snapshot, path=convert.path_to(path)),
            transfer_pb2.ExportSnapshotResponse,
        )
        for answer in answers:
            yield answer.data
