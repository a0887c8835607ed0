"""The service's methods as plain synchronous calls, typed; the same over the daemon's channel and
in-process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from snapfs import api
from snapfs.rpc.client import Client

RESULTS: Final[dict[str, Any]] = {
    "info": api.StoreInfo,
    "volume_create": api.Volume,
    "volume_list": list[api.Volume],
    "volume_remove": type(None),
    "snapshot_create": api.Snapshot,
    "snapshot_list": list[api.Snapshot],
    "snapshot_get": api.Snapshot,
    "snapshot_log": list[api.Snapshot],
    "snapshot_rename": api.Snapshot,
    "snapshot_remove": type(None),
    "snapshot_carry": api.Carried,
    "diff": api.Change,
    "status": api.Change,
    "checkout": api.Checkout,
    "restore": api.Restored,
    "clone": api.Volume,
    "fsck": api.CheckReport,
}
"""Type of each method's answer (of one item, for a stream).  Kept beside the service, not read from it:
importing the
service would import the store with it.  A test compares the two."""


class Calls:
    """All verbs of one store.  Every method raises SnapfsError as ``snapfs.service.Service`` says."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def _call(self, method: str, **params: Any) -> Any:
        return self._client.call(method, RESULTS[method], **params)

    def info(self) -> api.StoreInfo:
        answer: api.StoreInfo = self._call("info")
        return answer

    def volume_create(self, *, name: str) -> api.Volume:
        answer: api.Volume = self._call("volume_create", name=name)
        return answer

    def volume_list(self) -> list[api.Volume]:
        answer: list[api.Volume] = self._call("volume_list")
        return answer

    def volume_remove(self, *, name: str, snapshots: bool = False) -> None:
        self._call("volume_remove", name=name, snapshots=snapshots)

    def snapshot_create(
        self,
        *,
        volume: str,
        name: str = "",
        message: str = "",
        meta: dict[str, str] | None = None,
        git: api.GitCommit | None = None,
    ) -> api.Snapshot:
        answer: api.Snapshot = self._call(
            "snapshot_create", volume=volume, name=name, message=message, meta=meta, git=git
        )
        return answer

    def snapshot_list(self, *, volume: str = "") -> list[api.Snapshot]:
        answer: list[api.Snapshot] = self._call("snapshot_list", volume=volume)
        return answer

    def snapshot_get(self, *, volume: str, snapshot: str) -> api.Snapshot:
        answer: api.Snapshot = self._call("snapshot_get", volume=volume, snapshot=snapshot)
        return answer

    def snapshot_log(self, *, volume: str, snapshot: str = "") -> list[api.Snapshot]:
        answer: list[api.Snapshot] = self._call("snapshot_log", volume=volume, snapshot=snapshot)
        return answer

    def snapshot_rename(self, *, volume: str, snapshot: str, name: str) -> api.Snapshot:
        answer: api.Snapshot = self._call("snapshot_rename", volume=volume, snapshot=snapshot, name=name)
        return answer

    def snapshot_remove(self, *, volume: str, snapshot: str) -> None:
        self._call("snapshot_remove", volume=volume, snapshot=snapshot)

    def snapshot_carry(self, *, volume: str, rewritten: Sequence[tuple[str, api.GitCommit]]) -> api.Carried:
        answer: api.Carried = self._call("snapshot_carry", volume=volume, rewritten=list(rewritten))
        return answer

    def diff(self, *, volume: str, snapshot: str, other_volume: str = "", other: str = "") -> Iterator[api.Change]:
        return self._client.stream(
            "diff", api.Change, volume=volume, snapshot=snapshot, other_volume=other_volume, other=other
        )

    def status(self, *, volume: str) -> Iterator[api.Change]:
        return self._client.stream("status", api.Change, volume=volume)

    def checkout(
        self, *, volume: str, snapshot: str, unsaved: api.Save = api.Save.REFUSE, label: str = ""
    ) -> api.Checkout:
        answer: api.Checkout = self._call("checkout", volume=volume, snapshot=snapshot, unsaved=unsaved, label=label)
        return answer

    def restore(self, *, volume: str, snapshot: str, paths: Sequence[str]) -> api.Restored:
        answer: api.Restored = self._call("restore", volume=volume, snapshot=snapshot, paths=list(paths))
        return answer

    def clone(self, *, volume: str, snapshot: str, name: str) -> api.Volume:
        answer: api.Volume = self._call("clone", volume=volume, snapshot=snapshot, name=name)
        return answer

    def fsck(self, *, progress: Callable[[int, int], None] | None = None) -> api.CheckReport:
        return self._client.call("fsck", api.CheckReport, progress=progress)
