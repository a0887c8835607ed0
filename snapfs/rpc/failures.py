"""The error that a failed call stands for; the way back of ``status``, without grpc.

A status with an ErrorInfo of ours in its details is the very error that was raised; any other was made by gRPC itself,
or by a proxy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from snapfs import errors
from snapfs.errors import Kind, SnapfsError

DOMAIN: Final = "snapfs"
DETAILS_KEY: Final = "grpc-status-details-bin"
VERSION_KEY: Final = "snapfs-version"
"""Metadata of every answer: the daemon's version of snapfs."""
API_KEY: Final = "snapfs-api"
"""Metadata of every call: the major number of the API that the client speaks."""
API_NUMBER: Final = "1"

CODE_NAMES: Final = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip
"""By gRPC's number of a code."""

_SAME_VERSION: Final = "use the same version of snapfs on both sides"


def error_from(code: str, details: str, metadata: Mapping[str, object]) -> SnapfsError:
    """The error of a status.

    Args:
        code: its name, as in ``CODE_NAMES``.
        metadata: what came with the status; values are text, or bytes under keys that end in ``-bin``.
    """
    packed = metadata.get(DETAILS_KEY)
    if isinstance(packed, bytes):
        error = _unpacked(packed)
        if error is not None:
            return error
    return _foreign(code, details, metadata.get(VERSION_KEY))


def _unpacked(packed: bytes) -> SnapfsError | None:
    """The error of a ``google.rpc.Status`` of ours; of a kind that we do not know, the nearest that we do."""
    from google.protobuf.message import DecodeError
    from google.rpc.error_details_pb2 import ErrorInfo  # type: ignore[import-untyped]
    from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

    try:
        status = Status.FromString(packed)
        info = ErrorInfo()
        if not any(detail.Unpack(info) for detail in status.details) or info.domain != DOMAIN:
            return None
    except DecodeError:
        return None
    kind = Kind.__members__.get(info.reason, Kind.IO)
    return errors.by_kind()[kind](status.message, hint=info.metadata.get("hint", ""))


def _foreign(code: str, details: str, version: object) -> SnapfsError:
    """What grpc itself, or a proxy, says."""
    if code == "UNAVAILABLE":
        return errors.Unavailable("the daemon cannot be reached" + (f": {details}" if details else ""))
    if code == "DEADLINE_EXCEEDED":
        return errors.Unavailable("the daemon did not answer in time", hint="is it stopped or overloaded?")
    if code == "UNIMPLEMENTED":
        other = f"the daemon, of version {version}," if isinstance(version, str) else "the daemon"
        return errors.Unsupported(f"{other} does not know this call: {details}", hint=_SAME_VERSION)
    if code == "RESOURCE_EXHAUSTED":
        if "larger than max" in details:
            return errors.TooLarge(f"a message is too large: {details}")
        return errors.Busy(f"the daemon has too much to do: {details}", hint="try again")
    if code == "UNAUTHENTICATED":
        return errors.Unauthenticated(details or "the daemon does not know the caller")
    if code == "PERMISSION_DENIED":
        return errors.NotPermitted(details or "the daemon refuses the call")
    if code == "CANCELLED":
        return errors.Cancelled("the call was cancelled")
    if code == "INTERNAL" and "deserializ" in details:
        return errors.Unsupported("the daemon's answer makes no sense to this program", hint=_SAME_VERSION)
    return errors.IOFailure(f"the call failed: {code}: {details}", hint="see the daemon's log: snap daemon logs")
