"""Errors as gRPC statuses and back: the one total mapping of ``Kind`` (a test proves it).

Invariants:

- A failed call ends with the code of its kind, the message as the status's details, and a ``google.rpc.Status`` with
  an ErrorInfo in the trailing metadata: reason = name of the kind, domain ``snapfs``, the hint in its metadata.
  With that the very error comes back; a status without it was made by grpc itself or by a proxy.
- What is sent fits the 8 KiB of metadata that every client accepts, however long a message is.
"""

from __future__ import annotations

from typing import Final, Protocol

from snapfs import errors
from snapfs.errors import Kind, SnapfsError
from snapfs.rpc.library import grpc

DOMAIN: Final = "snapfs"
DETAILS_KEY: Final = "grpc-status-details-bin"
VERSION_KEY: Final = "snapfs-version"
"""Metadata of every answer: the daemon's version of snapfs."""
API_KEY: Final = "snapfs-api"
"""Metadata of every call: the major number of the API that the client speaks."""
API_NUMBER: Final = "1"

MESSAGE_BYTES_MAX: Final = 1000
HINT_BYTES_MAX: Final = 500
"""Together, percent-encoded and in base64: about 5 KiB."""

_Code = grpc.StatusCode
_SAME_VERSION: Final = "use the same version of snapfs on both sides"

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
    metadata = _metadata(failed)
    packed = metadata.get(DETAILS_KEY)
    if isinstance(packed, bytes):
        error = _unpacked(packed)
        if error is not None:
            return error
    return _foreign(failed.code(), failed.details() or "", metadata.get(VERSION_KEY))


def _metadata(failed: Failed) -> dict[str, object]:
    found = failed.trailing_metadata()
    if not found:
        return {}
    return dict(iter(found))  # type: ignore[call-overload] # pairs, in grpc's and grpc.aio's own containers


def _unpacked(packed: bytes) -> SnapfsError | None:
    """The error of a ``google.rpc.Status`` of ours; of a kind that we do not know, the nearest that we do."""
    from google.protobuf.message import DecodeError
    from google.rpc.error_details_pb2 import ErrorInfo
    from google.rpc.status_pb2 import Status

    try:
        status = Status.FromString(packed)
        info = ErrorInfo()
        if not any(detail.Unpack(info) for detail in status.details) or info.domain != DOMAIN:
            return None
    except DecodeError:
        return None
    kind = Kind.__members__.get(info.reason, Kind.IO)
    return errors.by_kind()[kind](status.message, hint=info.metadata.get("hint", ""))


def _foreign(code: grpc.StatusCode, details: str, version: object) -> SnapfsError:
    """What grpc itself, or a proxy, says."""
    if code is _Code.UNAVAILABLE:
        return errors.Unavailable("the daemon cannot be reached" + (f": {details}" if details else ""))
    if code is _Code.DEADLINE_EXCEEDED:
        return errors.Unavailable("the daemon did not answer in time", hint="is it stopped or overloaded?")
    if code is _Code.UNIMPLEMENTED:
        other = f"the daemon, of version {version}," if isinstance(version, str) else "the daemon"
        return errors.Unsupported(
            f"{other} does not know this call: {details}", hint=_SAME_VERSION
        )
    if code is _Code.RESOURCE_EXHAUSTED:
        if "larger than max" in details:
            return errors.TooLarge(f"a message is too large: {details}")
        return errors.Busy(f"the daemon has too much to do: {details}", hint="try again")
    if code is _Code.UNAUTHENTICATED:
        return errors.Unauthenticated(details or "the daemon does not know the caller")
    if code is _Code.PERMISSION_DENIED:
        return errors.NotPermitted(details or "the daemon refuses the call")
    if code is _Code.CANCELLED:
        return errors.Cancelled("the call was cancelled")
    if code is _Code.INTERNAL and "deserializ" in details:
        return errors.Unsupported("the daemon's answer makes no sense to this program", hint=_SAME_VERSION)
    return errors.IOFailure(f"the call failed: {code.name}: {details}", hint="see the daemon's log: snap daemon logs")


def _cut(words: str, bytes_max: int) -> str:
    """As UTF-8, which a status must be, and no longer than this."""
    encoded = words.encode("utf-8", "replace")
    if len(encoded) <= bytes_max:
        return encoded.decode()
    return encoded[: bytes_max - 3].decode("utf-8", "ignore") + "..."
