"""StoreService."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from snapfs import api
from snapfs.operations import Operations
from snapfs.rpc import convert
from snapfs.rpc.handlers.common import Call, once_of
from snapfs.service import Service
from snapfs.v1 import store_pb2

CHECK: Final = "check"
"""Kind of the operation that checks a store."""
VERIFY: Final = "verify"
"""Kind of the operation that verifies a snapshot."""


class Settings(Protocol):
    """The store's settings, and the file that they are in."""

    def describe(self) -> api.Settings: ...

    def update(self, name: str, value: str) -> api.Setting:
        """Write one setting (as TOML; empty: back to its default) and apply it where that can be done while running.

        Raises:
            Invalid: no such setting, or no value for it; nothing was changed.
        """

    def reload(self) -> api.Reloaded:
        """Raises Invalid: the file is not valid; the settings stay as they are."""


class StoreHandlers:
    """
    Args:
        metrics: makes the text of all metrics, as Prometheus wants it.
    """

    def __init__(
        self, service: Service, operations: Operations, settings: Settings, metrics: Callable[[], str]
    ) -> None:
        self._service = service
        self._operations = operations
        self._settings = settings
        self._metrics = metrics

    async def get_store(self, request: store_pb2.GetStoreRequest, call: Call) -> store_pb2.GetStoreResponse:
        return convert.store_to(await self._service.get_store())

    async def check_store(
        self, request: store_pb2.CheckStoreRequest, call: Call
    ) -> store_pb2.CheckStoreResponse:
        once = once_of(request, request.request_id, call)
        started = self._operations.start(
            CHECK, lambda progress: self._service.check_store(progress=progress), key=once.key if once else b""
        )
        return store_pb2.CheckStoreResponse(operation=convert.operation_to(started))

    async def verify_snapshot(
        self, request: store_pb2.VerifySnapshotRequest, call: Call
    ) -> store_pb2.VerifySnapshotResponse:
        await self._service.get_snapshot(volume=request.volume, snapshot=request.snapshot)  # told at once if missing
        once = once_of(request, request.request_id, call)
        started = self._operations.start(
            VERIFY,
            lambda progress: self._service.verify_snapshot(
                volume=request.volume, snapshot=request.snapshot, progress=progress
            ),
            key=once.key if once else b"",
        )
        return store_pb2.VerifySnapshotResponse(operation=convert.operation_to(started))

    async def start_scrub(self, request: store_pb2.StartScrubRequest, call: Call) -> store_pb2.StartScrubResponse:
        status = await self._service.start_scrub(bytes_per_second=request.bytes_per_second)
        return store_pb2.StartScrubResponse(scrub=convert.scrub_to(status))

    async def get_scrub(self, request: store_pb2.GetScrubRequest, call: Call) -> store_pb2.GetScrubResponse:
        return store_pb2.GetScrubResponse(scrub=convert.scrub_to(await self._service.get_scrub()))

    async def pause_scrub(self, request: store_pb2.PauseScrubRequest, call: Call) -> store_pb2.PauseScrubResponse:
        return store_pb2.PauseScrubResponse(scrub=convert.scrub_to(await self._service.pause_scrub()))

    async def cancel_scrub(self, request: store_pb2.CancelScrubRequest, call: Call) -> store_pb2.CancelScrubResponse:
        return store_pb2.CancelScrubResponse(scrub=convert.scrub_to(await self._service.cancel_scrub()))

    async def get_metrics(
        self, request: store_pb2.GetMetricsRequest, call: Call
    ) -> store_pb2.GetMetricsResponse:
        return store_pb2.GetMetricsResponse(text=self._metrics())

    async def get_settings(
        self, request: store_pb2.GetSettingsRequest, call: Call
    ) -> store_pb2.GetSettingsResponse:
        return convert.settings_to(self._settings.describe())

    async def update_setting(
        self, request: store_pb2.UpdateSettingRequest, call: Call
    ) -> store_pb2.UpdateSettingResponse:
        changed = self._settings.update(request.name, request.value)
        return store_pb2.UpdateSettingResponse(setting=convert.setting_to(changed))

    async def reload_settings(
        self, request: store_pb2.ReloadSettingsRequest, call: Call
    ) -> store_pb2.ReloadSettingsResponse:
        return convert.reloaded_to(self._settings.reload())
