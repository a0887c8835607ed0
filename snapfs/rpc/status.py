"""Errors as gRPC statuses and back: the one total mapping of ``Kind`` (a test proves it).

Invariants:

- A failed call ends with the code of its kind, the message as the status's details, and a ``google.rpc.Status`` with
  an ErrorInfo in the trailing metadata: reason = name of the kind, domain ``snapfs``, the hint in its metadata.
  With that the very error comes back (``failures``); a status without it was made by grpc itself or by a proxy.
- What is sent fits the 8 KiB of metadata that every client accepts, however long a message is.
"""

from __future__ import annotations

from typing import Final, Protocol

from snapfs.errors import Kind, SnapfsError
from snapfs.rpc.failures import API_KEY, API_NUMBER, DETAILS_KEY, DOMAIN, VERSION_KEY, error_from
from snapfs.rpc.library import grpc

__all__ = [
    "API_KEY",
    "API_NUMBER",
    "CODES",
    "DETAILS_KEY",
    "DOMAIN",
    "VERSION_KEY",
    "Failed",
    "Metadata",
    "error_of",
    "status_of",
]

MESSAGE_BYTES_MAX: Final = 1000
HINT_BYTES_MAX: Final = 500
"""Together, percent-encoded and in base64: about 5 KiB."""

_Code = grpc.StatusCode

CODES: Final[dict[Kind, grpc.StatusCode]] = {
    Kind.NOT_FOUND: _Code.NOT_FOUND,
    Kind.ALREADY_EXISTS: _Code.ALREADY_EXISTS,
    Kind.NOT_A_DIRECTORY: _Code.INVALID_ARGUMENT,
    Kind.IS_A_DIRECTORY: _Code.INVALID_ARGUMENT,
    Kind.NOT_EMPTY: _Code.FAILED_PRECONDITION,
    Kind.NAME_TOO_LONG: _Code.INVALID_ARGUMENT,
    Kind.INVALID: _Code.INVALID_ARGUMENT,
    Kind.NOT_PERMITTED: _Code.PERMISSION_DENIED,
    Kind.UNAUTHENTICATED: _Code.UNAUTHENTICATED,
    Kind.READ_ONLY: _Code.FAILED_PRECONDITION,
    Kind.CROSS_VOLUME: _Code.INVALID_ARGUMENT,
    Kind.TOO_MANY_LINKS: _Code.RESOURCE_EXHAUSTED,
    Kind.TOO_LARGE: _Code.RESOURCE_EXHAUSTED,
    Kind.NO_SPACE: _Code.RESOURCE_EXHAUSTED,
    Kind.NO_ATTRIBUTE: _Code.NOT_FOUND,
    Kind.STALE: _Code.OUT_OF_RANGE,
    Kind.CONFLICT: _Code.FAILED_PRECONDITION,
    Kind.BUSY: _Code.UNAVAILABLE,
    Kind.UNAVAILABLE: _Code.UNAVAILABLE,
    Kind.UNSUPPORTED: _Code.UNIMPLEMENTED,
    Kind.CANCELLED: _Code.CANCELLED,
    Kind.CORRUPT: _Code.DATA_LOSS,
    Kind.IO: _Code.INTERNAL,
    Kind.QUOTA_EXCEEDED: _Code.RESOURCE_EXHAUSTED,
}

Metadata = tuple[tuple[str, str | bytes], ...]


class Failed(Protocol):
    """What a failed call tells: ``grpc.RpcError`` of a call, ``grpc.aio.AioRpcError``."""

    def code(self) -> grpc.StatusCode: ...

    def details(self) -> str | None: ...

    def trailing_metadata(self) -> object: ...


def status_of(error: SnapfsError) -> tuple[grpc.StatusCode, str, Metadata]:
    """Code, details and trailing metadata of a call that failed with ``error``."""
    from google.protobuf.any_pb2 import Any
    from google.rpc.error_details_pb2 import ErrorInfo  # type: ignore[import-untyped]
    from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

    code = CODES[error.kind]
    message = _cut(error.message, MESSAGE_BYTES_MAX)
    info = ErrorInfo(reason=error.kind.name, domain=DOMAIN)
    if error.hint:
        info.metadata["hint"] = _cut(error.hint, HINT_BYTES_MAX)
    packed = Any()
    packed.Pack(info)
    status = Status(code=code.value[0], message=message, details=[packed])
    return code, message, ((DETAILS_KEY, status.SerializeToString()),)


def error_of(failed: Failed) -> SnapfsError:
    """The error that a failed call stands for."""
    return error_from(failed.code().name, failed.details() or "", _metadata(failed))


def _metadata(failed: Failed) -> dict[str, object]:
    found = failed.trailing_metadata()
    if not found:
        return {}
    return dict(iter(found))  # type: ignore[call-overload] # pairs, in grpc's and grpc.aio's own containers


def _cut(words: str, bytes_max: int) -> str:
    """As UTF-8, which a status must be, and no longer than this."""
    encoded = words.encode("utf-8", "replace")
    if len(encoded) <= bytes_max:
        return encoded.decode()
    return encoded[: bytes_max - 3].decode("utf-8", "ignore") + "..."
