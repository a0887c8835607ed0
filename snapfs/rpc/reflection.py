"""grpc.reflection.v1alpha.ServerReflection: lets tools call what they have no .proto of.  grpcio's own answers."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from grpc_health.v1 import health_pb2

from snapfs.rpc import requests
from snapfs.rpc.dispatch import SERVICES

if TYPE_CHECKING:
    from grpc_reflection.v1alpha.reflection import ReflectionServicer

SERVICE: Final = "grpc.reflection.v1alpha.ServerReflection"
METHOD: Final = f"{SERVICE}/ServerReflectionInfo"


@functools.cache
def _servicer() -> ReflectionServicer:
    from grpc_reflection.v1alpha.reflection import ReflectionServicer  # here: few ask, and it brings grpc.aio along

    health = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
    return ReflectionServicer([*SERVICES, health, SERVICE])


def answer(sent: Iterator[bytes]) -> Iterator[bytes]:
    """One response for each request, serialized, as they come."""
    from grpc_reflection.v1alpha import reflection_pb2

    parsed = (requests.parse(data, reflection_pb2.ServerReflectionRequest) for data in sent)
    for response in _servicer().ServerReflectionInfo(parsed, None):
        yield response.SerializeToString()
