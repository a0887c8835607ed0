"""The daemon's schedule: volumes' retention policies are applied every so often.

Invariants:
  * One volume's failure, or one time's, keeps nothing else from being done; it is logged.
  * A daemon that is started often applies them soon after each start: nothing is remembered, as it does no harm.
"""

from __future__ import annotations

import math
from typing import Final, Protocol

import structlog
import trio

from snapfs import api
from snapfs.errors import SnapfsError
from snapfs.volume.limits import DEFAULT_PACE, Pace

log = structlog.stdlib.get_logger(__name__)

FIRST_SECONDS: Final = 60.0
"""After the start: what was begun by whoever mounted the store comes first."""
_HOUR_SECONDS: Final = 3600.0


class Policies(Protocol):
    """What the schedule needs of the service."""

    async def list_volumes(self) -> list[api.Volume]: ...

    async def apply_policy(self, *, volume: str, dry_run: bool) -> api.RetentionReport: ...


class Schedule:
    def __init__(self, service: Policies) -> None:
        self._service = service
        self._every_seconds = DEFAULT_PACE.retention_every_hours * _HOUR_SECONDS
        self._changed = trio.Event()

    def follow(self, pace: Pace) -> None:
        """From now on the policies are applied as often as the pace says; 0: not at all."""
        self._every_seconds = pace.retention_every_hours * _HOUR_SECONDS
        self._changed.set()

    async def run(self) -> None:
        """For ever."""
        first, last = trio.current_time() + FIRST_SECONDS, -math.inf
        while True:
            self._changed = trio.Event()
            due = max(first, last + self._every_seconds) if self._every_seconds else math.inf
            with trio.move_on_at(due):
                await self._changed.wait()
                continue
            last = trio.current_time()
            await self._apply()

    async def _apply(self) -> None:
        for volume in await self._service.list_volumes():
            if volume.policy is None:
                continue
            try:
                report = await self._service.apply_policy(volume=volume.name, dry_run=False)
            except SnapfsError as error:  # e.g. the volume has just been deleted, or the disk is full
                log.warning("a retention policy was not applied", volume=volume.name, reason=error.message)
                continue
            except Exception:  # a mistake of ours in a policy must not end the mount
                log.exception("a retention policy failed", volume=volume.name)
                continue
            for warning in report.warnings:
                log.warning("a retention policy could not ask all", volume=volume.name, reason=warning)
            if report.deleted:
                log.info(
                    "a retention policy deleted snapshots", volume=volume.name,
                    deleted=report.deleted, freed_bytes=report.freed_bytes,
                )  # fmt: skip
