"""The service's methods as plain synchronous calls, typed; the same over the daemon's channel and
in-process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from snapfs import api
from snapfs.rpc.client import Client

RESULTS: Final[dict[str, Any]] = {
    "get_store": api.StoreInfo,
    "create_volume": api.Volume,
    "list_volumes": list[api.Volume],
    "delete_volume": type(None),
    "create_snapshot": api.Snapshot,
    "list_snapshots": list[api.Snapshot],
    "get_snapshot": api.Snapshot,
    "list_ancestry": list[api.Snapshot],
    "rename_snapshot": api.Snapshot,
    "delete_snapshot": type(None),
    "carry_snapshots": api.Carried,
    "diff": api.Change,
    "status": api.Change,
    "checkout": api.Checkout,
    "restore": api.Restored,
    "clone": api.Volume,
    "check_store": api.CheckReport,
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

    def get_store(self) -> api.StoreInfo:
        answer: api.StoreInfo = self._call("get_store")
        return answer

    def create_volume(self, *, name: str) -> api.Volume:
        answer: api.Volume = self._call("create_volume", name=name)
        return answer

    def list_volumes(self) -> list[api.Volume]:
        answer: list[api.Volume] = self._call("list_volumes")
        return answer

    def delete_volume(self, *, name: str, snapshots: bool = False) -> None:
        self._call("delete_volume", name=name, snapshots=snapshots)

    def create_snapshot(
        self,
        *,
        volume: str,
        name: str = "",
        message: str = "",
        meta: dict[str, str] | None = None,
        git: api.GitCommit | None = None,
    ) -> api.Snapshot:
        answer: api.Snapshot = self._call(
            "create_snapshot", volume=volume, name=name, message=message, meta=meta, git=git
        )
        return answer

    def list_snapshots(self, *, volume: str = "") -> list[api.Snapshot]:
        answer: list[api.Snapshot] = self._call("list_snapshots", volume=volume)
        return answer

    def get_snapshot(self, *, volume: str, snapshot: str) -> api.Snapshot:
        answer: api.Snapshot = self._call("get_snapshot", volume=volume, snapshot=snapshot)
        return answer

    def list_ancestry(self, *, volume: str, snapshot: str = "") -> list[api.Snapshot]:
        answer: list[api.Snapshot] = self._call("list_ancestry", volume=volume, snapshot=snapshot)
        return answer

    def rename_snapshot(self, *, volume: str, snapshot: str, name: str) -> api.Snapshot:
        answer: api.Snapshot = self._call("rename_snapshot", volume=volume, snapshot=snapshot, name=name)
        return answer

    def delete_snapshot(self, *, volume: str, snapshot: str) -> None:
        self._call("delete_snapshot", volume=volume, snapshot=snapshot)

    def carry_snapshots(self, *, volume: str, rewritten: Sequence[tuple[str, api.GitCommit]]) -> api.Carried:
        answer: api.Carried = self._call("carry_snapshots", volume=volume, rewritten=list(rewritten))
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

    def check_store(self, *, progress: Callable[[int, int], None] | None = None) -> api.CheckReport:
        return self._client.call("check_store", api.CheckReport, progress=progress)
