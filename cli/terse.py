"""The calls of the verbs that are run most, answered by messages.

Invariants:

- On the wire they are those of ``snapfs.client.Client`` (a test holds them against each other).
- Records are what ``--json`` shows: only that imports msgspec and makes them (``snapfs.rpc.convert``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from snapfs.client.blocking.calls import Calls, new_request_id
from snapfs.v1 import snapshot_pb2, volume_pb2

if TYPE_CHECKING:
    from snapfs.git.repository import Facts

_SNAPSHOTS = "snapfs.v1.SnapshotService"
_VOLUMES = "snapfs.v1.VolumeService"

UNSAVED = {
    "refuse": volume_pb2.UNSAVED_REFUSE,
    "save": volume_pb2.UNSAVED_SAVE,
    "discard": volume_pb2.UNSAVED_DISCARD,
}
"""What a checkout does with unsaved changes."""


class Terse(Calls):
    """Methods as of ``Client``; what they raise, too."""

    def create_snapshot(
        self, *, volume: str, name: str = "", message: str = "", meta: Mapping[str, str], git: Facts | None = None
    ) -> snapshot_pb2.Snapshot:
        key = new_request_id()
        return self._create(
            f"{_SNAPSHOTS}/CreateSnapshot",
            lambda: snapshot_pb2.CreateSnapshotRequest(
                volume=volume,
                name=name,
                message=message,
                meta=meta,
                git=snapshot_pb2.GitCommit(**git._asdict()) if git is not None else None,
                request_id=key,
            ),
            snapshot_pb2.CreateSnapshotResponse,
        ).snapshot

    def checkout(self, *, volume: str, snapshot: str, unsaved: volume_pb2.Unsaved) -> volume_pb2.CheckoutResponse:
        return self._unary(
            f"{_VOLUMES}/Checkout",
            lambda: volume_pb2.CheckoutRequest(volume=volume, snapshot=snapshot, unsaved=unsaved),
            volume_pb2.CheckoutResponse,
        )

    def get_volume(self, *, name: str) -> volume_pb2.Volume:
        return self._unary(
            f"{_VOLUMES}/GetVolume", lambda: volume_pb2.GetVolumeRequest(name=name), volume_pb2.GetVolumeResponse
        ).volume

    def list_volumes(self) -> Iterator[volume_pb2.Volume]:
        pages = self._pages(
            f"{_VOLUMES}/ListVolumes",
            lambda token: volume_pb2.ListVolumesRequest(page_token=token),
            volume_pb2.ListVolumesResponse,
            lambda page: page.next_page_token,
        )
        for page in pages:
            yield from page.volumes

    def status(self, *, volume: str) -> Iterator[snapshot_pb2.Change]:
        answers = self._stream(
            f"{_VOLUMES}/Status", lambda: volume_pb2.StatusRequest(volume=volume), volume_pb2.StatusResponse
        )
        return _changes(answers)

    def diff(
        self, *, volume: str, snapshot: str, other_volume: str = "", other: str = ""
    ) -> Iterator[snapshot_pb2.Change]:
        answers = self._stream(
            f"{_SNAPSHOTS}/Diff",
            lambda: snapshot_pb2.DiffRequest(volume=volume, snapshot=snapshot, other_volume=other_volume, other=other),
            snapshot_pb2.DiffResponse,
        )
        return _changes(answers)

    def list_snapshots(
        self, *, volume: str, filter: Mapping[str, str | int | Mapping[str, str]], newest_first: bool, page_size: int
    ) -> Iterator[snapshot_pb2.Snapshot]:
        """``filter``: fields of ``snapfs.api.SnapshotFilter`` that are asked for."""
        pages = self._pages(
            f"{_SNAPSHOTS}/ListSnapshots",
            lambda token: snapshot_pb2.ListSnapshotsRequest(
                volume=volume,
                page_size=page_size,
                page_token=token,
                filter=_filter(filter) if filter else None,
                newest_first=newest_first,
            ),
            snapshot_pb2.ListSnapshotsResponse,
            lambda page: page.next_page_token,
        )
        for page in pages:
            yield from page.snapshots

    def list_ancestry(self, *, volume: str, snapshot: str = "") -> Iterator[snapshot_pb2.Snapshot]:
        pages = self._pages(
            f"{_SNAPSHOTS}/ListAncestry",
            lambda token: snapshot_pb2.ListAncestryRequest(volume=volume, snapshot=snapshot, page_token=token),
            snapshot_pb2.ListAncestryResponse,
            lambda page: page.next_page_token,
        )
        for page in pages:
            yield from page.snapshots


def _filter(given: Mapping[str, object]) -> snapshot_pb2.SnapshotFilter:
    from snapfs import api
    from snapfs.rpc import convert

    return convert.filter_to(api.SnapshotFilter(**given))  # type: ignore[arg-type] # by name, as it is asked for


def _changes(
    answers: Iterable[volume_pb2.StatusResponse] | Iterable[snapshot_pb2.DiffResponse],
) -> Iterator[snapshot_pb2.Change]:
    for answer in answers:
        yield from answer.changes
