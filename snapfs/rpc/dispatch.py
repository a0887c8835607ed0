"""From a method's name and a request to its response, whatever carries them.

Invariants:

- Every RPC of the services is answered: handlers are found by the generated descriptors, when a dispatcher is made.
- In this order: the request is well-formed, the caller may ask for it, the audit log can be written (mutating calls),
  the handler runs, its outcome is recorded.
- What comes out of here is a response or a SnapfsError (or trio's cancellation); anything else that a handler raises
  is logged and becomes IOFailure.
- A caller that is narrowed to volumes is told no other volume's name.
- Each mutating call leaves one entry in the audit log, also when it was refused or cancelled.  Cancelled in the log:
  nobody waited for the answer; whether it was done, the store tells.

No grpc here: commands without a daemon come this way too.
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any, Final

import msgspec
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2

from snapfs import api
from snapfs.access.callers import Access
from snapfs.errors import IOFailure, Kind, NotFound, SnapfsError, Unauthenticated
from snapfs.operations import Operations
from snapfs.rpc import methods, narrow, requests
from snapfs.rpc.handlers.access import AccessHandlers
from snapfs.rpc.handlers.common import Call
from snapfs.rpc.handlers.events import EventHandlers
from snapfs.rpc.handlers.health import HealthHandlers
from snapfs.rpc.handlers.operations import OperationHandlers
from snapfs.rpc.handlers.retention import RetentionHandlers
from snapfs.rpc.handlers.snapshots import SnapshotHandlers
from snapfs.rpc.handlers.space import SpaceHandlers
from snapfs.rpc.handlers.stores import Settings, StoreHandlers
from snapfs.rpc.handlers.transfer import TransferHandlers
from snapfs.rpc.handlers.volumes import VolumeHandlers
from snapfs.service import Service
from snapfs.v1 import (
    access_pb2,
    event_pb2,
    operation_pb2,
    retention_pb2,
    snapshot_pb2,
    space_pb2,
    store_pb2,
    transfer_pb2,
    volume_pb2,
)

_FILES: Final = (
    volume_pb2,
    snapshot_pb2,
    store_pb2,
    space_pb2,
    retention_pb2,
    transfer_pb2,
    operation_pb2,
    event_pb2,
    access_pb2,
)
SERVICES: Final[dict[str, ServiceDescriptor]] = {
    service.full_name: service for file in _FILES for service in file.DESCRIPTOR.services_by_name.values()
}
"""Ours, by full name."""

_HEALTH: Final = health_pb2.DESCRIPTOR.services_by_name["Health"]
_OK: Final = "OK"

_log = logging.getLogger(__name__)


class Rpc(msgspec.Struct, frozen=True):
    """One RPC."""

    request: type[Message]
    response: type[Message]
    streams: bool
    """Its answer is a stream."""
    handler: Callable[[Any, Call], Any]


def name_of(method: MethodDescriptor) -> str:
    """``package.Service/Method``."""
    assert method.containing_service is not None
    return f"{method.containing_service.full_name}/{method.name}"


def snake_case(name: str) -> str:
    """Of an RPC's name: the method of handlers, clients and the service."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def _rpcs(service: ServiceDescriptor, handlers: object) -> Iterator[tuple[str, Rpc]]:
    for method in service.methods:
        yield (
            name_of(method),
            Rpc(
                request=GetMessageClass(method.input_type),
                response=GetMessageClass(method.output_type),
                streams=method.server_streaming,
                handler=getattr(handlers, snake_case(method.name)),
            ),
        )


def _narrowed(response: Message, caller: api.Caller) -> Message:
    if caller.volumes:
        narrow.hide(response, caller.volumes)
    return response


class Dispatcher:
    """All RPCs of one store.

    Args:
        metrics: makes the text of all metrics, as Prometheus wants it.
        sound: whether the store takes changes: what the health service tells.
    """

    def __init__(
        self,
        service: Service,
        operations: Operations,
        access: Access,
        settings: Settings,
        *,
        metrics: Callable[[], str],
        sound: Callable[[], bool],
    ) -> None:
        self._access = access
        handlers: dict[str, object] = {
            "snapfs.v1.VolumeService": VolumeHandlers(service),
            "snapfs.v1.SnapshotService": SnapshotHandlers(service),
            "snapfs.v1.StoreService": StoreHandlers(service, operations, settings, metrics),
            "snapfs.v1.SpaceService": SpaceHandlers(service, operations),
            "snapfs.v1.RetentionService": RetentionHandlers(service),
            "snapfs.v1.TransferService": TransferHandlers(service, operations),
            "snapfs.v1.OperationService": OperationHandlers(operations),
            "snapfs.v1.EventService": EventHandlers(service),
            "snapfs.v1.AccessService": AccessHandlers(access),
        }
        self.rpcs: Final[dict[str, Rpc]] = {
            **{name: rpc for full, one in SERVICES.items() for name, rpc in _rpcs(one, handlers[full])},
            **dict(_rpcs(_HEALTH, HealthHandlers(SERVICES, sound))),
        }

    async def unary(self, method: str, request: Message, caller: api.Caller, peer: str) -> Message:
        """The response to one call.

        Args:
            method: ``package.Service/Method``, one of ``rpcs`` that does not stream.

        Raises:
            SnapfsError: whatever the call meets with.
        """
        with self._performing(method, request, caller, peer) as call:
            answer: Awaitable[Message] = self.rpcs[method].handler(request, call)
            return _narrowed(await answer, caller)

    async def stream(
        self, method: str, request: Message, caller: api.Caller, peer: str
    ) -> AsyncGenerator[Message, None]:
        """The responses to one call.  Close it: it may hold something until then.  As ``unary`` else."""
        with self._performing(method, request, caller, peer) as call:
            async with aclosing(self.rpcs[method].handler(request, call)) as responses:
                async for response in responses:
                    yield _narrowed(response, caller)

    def refused(self, method: str, peer: str, error: Unauthenticated) -> None:
        """A call of somebody who is not known, and of whom nothing was read.  From any thread."""
        if methods.find(method).mutating:
            self._access.record(caller="", peer=peer, method=method, request="", result=error.kind.name)

    @contextmanager
    def _performing(self, method: str, request: Message, caller: api.Caller, peer: str) -> Iterator[Call]:
        """All that is done around a handler."""
        mutating = methods.find(method).mutating
        result = Kind.IO.name
        try:
            requests.check(request)
            methods.authorize(method, request, caller)
            if mutating:
                self._access.check_audit()
            yield Call(method=method, caller=caller, peer=peer)
            result = _OK
        except SnapfsError as error:
            result = error.kind.name
            if caller.volumes and isinstance(error, NotFound):
                raise NotFound(error.message) from None  # a hint may name volumes that are not the caller's
            raise
        except Exception as error:
            _log.exception("%s failed unexpectedly", method)
            raise IOFailure(
                f"internal error: {type(error).__name__}: {error}", hint="see the daemon's log: snap daemon logs"
            ) from error
        except BaseException:  # trio's cancellation, alone or as a group that a nursery made of it, or GeneratorExit
            result = Kind.CANCELLED.name
            raise
        finally:
            if mutating:
                told = requests.shown(request)
                self._access.record(caller=caller.name, peer=peer, method=method, request=told, result=result)
