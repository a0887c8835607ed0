# Generated from snapfs/client/aio/space.py by `make generate`: change that file, not this one.
"""Calls on what takes space."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from snapfs import api, errors
from snapfs.client.blocking.calls import new_request_id
from snapfs.client.blocking.operations import OperationCalls
from snapfs.rpc import convert
from snapfs.v1 import space_pb2

SERVICE: Final = "snapfs.v1.SpaceService"


class SpaceCalls(OperationCalls):
    """``snapfs.v1.SpaceService``."""

    def get_usage(self, *, volume: str = "", snapshots: bool = True) -> list[api.VolumeUsage]:
        """What volumes and their snapshots hold, those in the trash too.

        Args:
            volume: empty: all that the caller may see.
            snapshots: tell of each snapshot, too.

        Raises:
            NotFound: no such volume.
        """
        answers = self._stream(
            f"{SERVICE}/GetUsage",
            lambda: space_pb2.GetUsageRequest(volume=volume, snapshots=snapshots),
            space_pb2.GetUsageResponse,
        )
        found: list[tuple[space_pb2.VolumeUsage, list[api.Usage]]] = []
        for answer in answers:
            if answer.HasField("volume"):
                found.append((answer.volume, []))
            found[-1][1].extend(map(convert.usage_of, answer.usages))
        return [convert.volume_usage_of(message, usages) for message, usages in found]

    def what_if(self, *, targets: Sequence[str]) -> api.WhatIf:
        """Exactly what would be freed if just these went, together.

        Args:
            targets: ``volume@snapshot``, or ``volume`` for a whole volume with all its snapshots.

        Raises:
            NotFound, Invalid.
        """
        answer = self._unary(
            f"{SERVICE}/WhatIf", lambda: space_pb2.WhatIfRequest(targets=targets), space_pb2.WhatIfResponse
        )
        return convert.what_if_of(answer.what_if)

    def cheapest(self, *, volume: str = "", free_bytes: int) -> api.WhatIf:
        """The fewest snapshots that free at least so much; never protected ones.

        Args:
            volume: only of this one; empty: of all.

        Raises:
            NotFound: no such volume; Conflict: all together free less.
        """
        answer = self._unary(
            f"{SERVICE}/Cheapest",
            lambda: space_pb2.CheapestRequest(volume=volume, free_bytes=free_bytes),
            space_pb2.CheapestResponse,
        )
        return convert.what_if_of(answer.what_if)

    def get_space(self) -> api.Space:
        """Why the store holds what it holds."""
        answer = self._unary(f"{SERVICE}/GetSpace", space_pb2.GetSpaceRequest, space_pb2.GetSpaceResponse)
        return convert.space_of(answer.space)

    def start_optimize(
        self, *, volume: str, paths: Sequence[str] = (), bytes_per_second: int = 0, request_id: str = ""
    ) -> api.Operation:
        """Begin what ``optimize`` does.  The same ``request_id`` gives the same operation.

        Raises:
            NotFound: no such volume; Busy: too many operations run.
        """
        key = request_id or new_request_id()
        answer = self._create(
            f"{SERVICE}/StartOptimize",
            lambda: space_pb2.StartOptimizeRequest(
                volume=volume,
                paths=[convert.path_to(path) for path in paths],
                bytes_per_second=bytes_per_second,
                request_id=key,
            ),
            space_pb2.StartOptimizeResponse,
        )
        return convert.operation_of(answer.operation)

    def optimize(
        self,
        *,
        volume: str,
        paths: Sequence[str] = (),
        bytes_per_second: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> api.OptimizeReport:
        """Cut files anew whose data is in small pieces, or was stored before something equal was known, and wait for
        its end; whoever stops waiting cancels it.

        Args:
            paths: files or directories, from the volume's root; none: all of the volume.
            bytes_per_second: most that it reads; 0: no limit.
            progress: gets units of work done, and of all.

        Raises:
            NotFound; Cancelled: somebody else cancelled it.
        """
        started = self.start_optimize(volume=volume, paths=paths, bytes_per_second=bytes_per_second)
        done = self._followed(started, progress)
        if done.optimize is None:
            raise errors.Cancelled("the optimization was cancelled")
        return done.optimize
