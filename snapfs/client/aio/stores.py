"""Calls on the store as a whole and its settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from snapfs import api, errors
from snapfs.client.aio.calls import new_request_id
from snapfs.client.aio.operations import AsyncOperationCalls
from snapfs.rpc import convert
from snapfs.v1 import store_pb2

STORE: Final = "snapfs.v1.StoreService"


class AsyncStoreCalls(AsyncOperationCalls):
    """``snapfs.v1.StoreService`` and the standard health service."""

    async def get_store(self) -> api.StoreInfo:
        """What the store holds and who serves it."""
        answer = await self._unary(f"{STORE}/GetStore", store_pb2.GetStoreRequest, store_pb2.GetStoreResponse)
        return convert.store_of(answer)

    async def health(self, *, service: str = "") -> bool:
        """Whether the daemon (or one service of it) can be used; needs no token.

        Raises:
            NotFound: no such service.
        """
        from grpc_health.v1 import health_pb2

        answer = await self._unary(
            "grpc.health.v1.Health/Check",
            lambda: health_pb2.HealthCheckRequest(service=service),
            health_pb2.HealthCheckResponse,
        )
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def get_metrics(self) -> str:
        """In Prometheus' text format."""
        answer = await self._unary(f"{STORE}/GetMetrics", store_pb2.GetMetricsRequest, store_pb2.GetMetricsResponse)
        return answer.text

    async def get_settings(self) -> api.Settings:
        answer = await self._unary(f"{STORE}/GetSettings", store_pb2.GetSettingsRequest, store_pb2.GetSettingsResponse)
        return convert.settings_of(answer)

    async def update_setting(self, *, name: str, value: str) -> api.Setting:
        """Change one setting in the configuration file.

        Args:
            name: ``table.name``.
            value: as TOML; empty: back to the default.

        Raises:
            Invalid: nothing was changed.
        """
        answer = await self._unary(
            f"{STORE}/UpdateSetting",
            lambda: store_pb2.UpdateSettingRequest(name=name, value=value),
            store_pb2.UpdateSettingResponse,
        )
        return convert.setting_of(answer.setting)

    async def reload_settings(self) -> api.Reloaded:
        """Read the configuration file again.  Raises Invalid: the old settings stay in force."""
        answer = await self._unary(
            f"{STORE}/ReloadSettings", store_pb2.ReloadSettingsRequest, store_pb2.ReloadSettingsResponse
        )
        return convert.reloaded_of(answer)

    # -- long work

    async def start_check(self, *, request_id: str = "") -> api.Operation:
        """Begin to check every invariant and every byte.  The same ``request_id`` gives the same operation.

        Raises:
            Busy: too many operations run.
        """
        key = request_id or new_request_id()
        answer = await self._create(
            f"{STORE}/CheckStore", lambda: store_pb2.CheckStoreRequest(request_id=key), store_pb2.CheckStoreResponse
        )
        return convert.operation_of(answer.operation)

    async def check_store(self, *, progress: Callable[[int, int], None] | None = None) -> api.CheckReport:
        """``start_check``, and wait for its end; whoever stops waiting cancels it.

        Args:
            progress: gets units of work done, and of all.

        Raises:
            Cancelled: somebody else cancelled it.
        """
        done = await self._followed(await self.start_check(), progress)
        if done.check is None:
            raise errors.Cancelled("the check was cancelled")
        return done.check

    async def start_verify(self, *, volume: str, snapshot: str, request_id: str = "") -> api.Operation:
        """Begin to prove that a snapshot shows what it was sealed with.  The same ``request_id`` gives the same
        operation.

        Raises:
            NotFound; Invalid: an ambiguous prefix; Busy: too many operations run.
        """
        key = request_id or new_request_id()
        answer = await self._create(
            f"{STORE}/VerifySnapshot",
            lambda: store_pb2.VerifySnapshotRequest(volume=volume, snapshot=snapshot, request_id=key),
            store_pb2.VerifySnapshotResponse,
        )
        return convert.operation_of(answer.operation)

    async def verify_snapshot(
        self, *, volume: str, snapshot: str, progress: Callable[[int, int], None] | None = None
    ) -> api.VerifyReport:
        """``start_verify``, and wait for its end; whoever stops waiting cancels it.

        Args:
            progress: gets units of work done, and of all.

        Raises:
            NotFound; Invalid: an ambiguous prefix; Cancelled: somebody else cancelled it.
        """
        done = await self._followed(await self.start_verify(volume=volume, snapshot=snapshot), progress)
        if done.verify is None:
            raise errors.Cancelled("the verification was cancelled")
        return done.verify

    # -- scrubs

    async def start_scrub(self, *, bytes_per_second: int = 0) -> api.ScrubStatus:
        """Verify the whole store in the background, or go on with what was paused; one that runs goes on.

        Args:
            bytes_per_second: most that it reads; 0: as ``scrub.bytes_per_second`` says.

        Raises:
            IOFailure: the store takes no more changes.
        """
        answer = await self._unary(
            f"{STORE}/StartScrub",
            lambda: store_pb2.StartScrubRequest(bytes_per_second=bytes_per_second),
            store_pb2.StartScrubResponse,
        )
        return convert.scrub_of(answer.scrub)

    async def get_scrub(self) -> api.ScrubStatus:
        """The scrub that runs, or the last one."""
        answer = await self._unary(f"{STORE}/GetScrub", store_pb2.GetScrubRequest, store_pb2.GetScrubResponse)
        return convert.scrub_of(answer.scrub)

    async def pause_scrub(self) -> api.ScrubStatus:
        """Halt it until it is started again.  Raises Conflict: none runs."""
        answer = await self._unary(f"{STORE}/PauseScrub", store_pb2.PauseScrubRequest, store_pb2.PauseScrubResponse)
        return convert.scrub_of(answer.scrub)

    async def cancel_scrub(self) -> api.ScrubStatus:
        """End it; the next one begins anew.  Raises Conflict: none runs or is paused."""
        answer = await self._unary(f"{STORE}/CancelScrub", store_pb2.CancelScrubRequest, store_pb2.CancelScrubResponse)
        return convert.scrub_of(answer.scrub)
