"""Times, names, text and enum values, to messages and back.

The tables of enum values are total in both directions (a test proves it).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from snapfs import api
from snapfs.errors import Invalid, Unsupported
from snapfs.v1 import access_pb2, event_pb2, operation_pb2, snapshot_pb2, store_pb2, volume_pb2

R = TypeVar("R")

_SECOND_NS: Final = 1_000_000_000
_TIME_NS_MIN: Final = -62_135_596_800 * _SECOND_NS
_TIME_NS_MAX: Final = 253_402_300_800 * _SECOND_NS - 1
"""A Timestamp goes from the year 1 to the year 9999."""

CHANGE_KINDS: Final = {
    api.ChangeKind.ADDED: snapshot_pb2.CHANGE_KIND_ADDED,
    api.ChangeKind.DELETED: snapshot_pb2.CHANGE_KIND_DELETED,
    api.ChangeKind.MODIFIED: snapshot_pb2.CHANGE_KIND_MODIFIED,
    api.ChangeKind.RENAMED: snapshot_pb2.CHANGE_KIND_RENAMED,
}
FILE_TYPES: Final = {
    "file": snapshot_pb2.FILE_TYPE_FILE,
    "directory": snapshot_pb2.FILE_TYPE_DIRECTORY,
    "symlink": snapshot_pb2.FILE_TYPE_SYMLINK,
    "fifo": snapshot_pb2.FILE_TYPE_FIFO,
    "socket": snapshot_pb2.FILE_TYPE_SOCKET,
    "device": snapshot_pb2.FILE_TYPE_DEVICE,
}
UNSAVED: Final = {
    api.Save.REFUSE: volume_pb2.UNSAVED_REFUSE,
    api.Save.SAVE: volume_pb2.UNSAVED_SAVE,
    api.Save.DISCARD: volume_pb2.UNSAVED_DISCARD,
}
EVENT_KINDS: Final = {
    api.EventKind.VOLUME_CREATED: event_pb2.EVENT_KIND_VOLUME_CREATED,
    api.EventKind.VOLUME_DELETED: event_pb2.EVENT_KIND_VOLUME_DELETED,
    api.EventKind.SNAPSHOT_CREATED: event_pb2.EVENT_KIND_SNAPSHOT_CREATED,
    api.EventKind.SNAPSHOT_RENAMED: event_pb2.EVENT_KIND_SNAPSHOT_RENAMED,
    api.EventKind.SNAPSHOT_DELETED: event_pb2.EVENT_KIND_SNAPSHOT_DELETED,
    api.EventKind.TAG_SET: event_pb2.EVENT_KIND_TAG_SET,
    api.EventKind.TAG_DELETED: event_pb2.EVENT_KIND_TAG_DELETED,
    api.EventKind.CHECKOUT: event_pb2.EVENT_KIND_CHECKOUT,
    api.EventKind.RESTORE: event_pb2.EVENT_KIND_RESTORE,
    api.EventKind.WARNING: event_pb2.EVENT_KIND_WARNING,
    api.EventKind.DAMAGE_FOUND: event_pb2.EVENT_KIND_DAMAGE_FOUND,
    api.EventKind.VOLUME_UPDATED: event_pb2.EVENT_KIND_VOLUME_UPDATED,
    api.EventKind.SNAPSHOT_UPDATED: event_pb2.EVENT_KIND_SNAPSHOT_UPDATED,
    api.EventKind.SNAPSHOT_RESTORED: event_pb2.EVENT_KIND_SNAPSHOT_RESTORED,
    api.EventKind.VOLUME_RESTORED: event_pb2.EVENT_KIND_VOLUME_RESTORED,
}
OPERATION_STATES: Final = {
    api.OperationState.RUNNING: operation_pb2.OPERATION_STATE_RUNNING,
    api.OperationState.SUCCEEDED: operation_pb2.OPERATION_STATE_SUCCEEDED,
    api.OperationState.FAILED: operation_pb2.OPERATION_STATE_FAILED,
    api.OperationState.CANCELLED: operation_pb2.OPERATION_STATE_CANCELLED,
}
QUOTA_KINDS: Final = {
    api.QuotaKind.LOGICAL: volume_pb2.QUOTA_KIND_LOGICAL,
    api.QuotaKind.EXCLUSIVE: volume_pb2.QUOTA_KIND_EXCLUSIVE,
}
SCRUB_STATES: Final = {
    api.ScrubState.NEVER: store_pb2.SCRUB_STATE_NEVER,
    api.ScrubState.RUNNING: store_pb2.SCRUB_STATE_RUNNING,
    api.ScrubState.PAUSED: store_pb2.SCRUB_STATE_PAUSED,
    api.ScrubState.FINISHED: store_pb2.SCRUB_STATE_FINISHED,
    api.ScrubState.CANCELLED: store_pb2.SCRUB_STATE_CANCELLED,
}
ROLES: Final = {
    api.Role.VIEWER: access_pb2.ROLE_VIEWER,
    api.Role.OPERATOR: access_pb2.ROLE_OPERATOR,
    api.Role.ADMIN: access_pb2.ROLE_ADMIN,
}


def _inverted(table: Mapping[R, int]) -> dict[int, R]:
    return {int(value): key for key, value in table.items()}


CHANGE_KINDS_OF: Final = _inverted(CHANGE_KINDS)
FILE_TYPES_OF: Final = _inverted(FILE_TYPES)
UNSAVED_OF: Final = {int(volume_pb2.UNSAVED_UNSPECIFIED): api.Save.REFUSE, **_inverted(UNSAVED)}
EVENT_KINDS_OF: Final = _inverted(EVENT_KINDS)
OPERATION_STATES_OF: Final = _inverted(OPERATION_STATES)
SCRUB_STATES_OF: Final = _inverted(SCRUB_STATES)
ROLES_OF: Final = _inverted(ROLES)
QUOTA_KINDS_OF: Final = {int(volume_pb2.QUOTA_KIND_UNSPECIFIED): api.QuotaKind.LOGICAL, **_inverted(QUOTA_KINDS)}


def known(table: Mapping[int, R], value: int, what: str) -> R:
    try:
        return table[value]
    except KeyError:
        raise Unsupported(
            f"{what} {value} is unknown to this version of snapfs", hint="use the same version as the daemon"
        ) from None


def time_to(time_ns: int) -> Timestamp:
    """Raises Invalid outside the years 1 to 9999."""
    if not _TIME_NS_MIN <= time_ns <= _TIME_NS_MAX:
        raise Invalid(f"a time of {time_ns} ns since 1970 is out of range")
    seconds, nanos = divmod(time_ns, _SECOND_NS)
    return Timestamp(seconds=seconds, nanos=nanos)


def optional_time_to(time_ns: int) -> Timestamp | None:
    """None, which leaves a field absent, for 0."""
    return time_to(time_ns) if time_ns else None


def time_of(message: Timestamp) -> int:
    """Nanoseconds since 1970; 0 for an absent field.  Raises Invalid for what is no Timestamp."""
    time_ns = message.seconds * _SECOND_NS + message.nanos
    if not 0 <= message.nanos < _SECOND_NS or not _TIME_NS_MIN <= time_ns <= _TIME_NS_MAX:
        raise Invalid(f"a time of {message.seconds} s and {message.nanos} ns is out of range")
    return time_ns


def path_to(path: str) -> bytes:
    """A file's name, surrogate-escaped, as the bytes that it is.  Raises Invalid for other lone surrogates."""
    try:
        return path.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise Invalid(f"{path!r} is no file name") from None


def path_of(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")


def text(shown: str) -> str:
    """What a string field of a message can hold: lone surrogates become replacement signs."""
    try:
        shown.encode()
    except UnicodeEncodeError:
        return shown.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    return shown


def role_to(role: api.Role) -> access_pb2.Role:
    return ROLES[role]


def role_of(value: int) -> api.Role:
    return known(ROLES_OF, value, "role")


def unsaved_to(unsaved: api.Save) -> volume_pb2.Unsaved:
    return UNSAVED[unsaved]


def unsaved_of(value: int) -> api.Save:
    """Unspecified: refuse."""
    return known(UNSAVED_OF, value, "unsaved")


def event_kind_to(kind: api.EventKind) -> event_pb2.EventKind:
    return EVENT_KINDS[kind]


def event_kind_of(value: int) -> api.EventKind:
    return known(EVENT_KINDS_OF, value, "kind of event")


def change_kind_of(value: int) -> api.ChangeKind:
    return known(CHANGE_KINDS_OF, value, "kind of change")


def file_type_of(value: int) -> str:
    return known(FILE_TYPES_OF, value, "type of file")


def operation_state_of(value: int) -> api.OperationState:
    return known(OPERATION_STATES_OF, value, "state of an operation")


def scrub_state_of(value: int) -> api.ScrubState:
    return known(SCRUB_STATES_OF, value, "state of a scrub")


def quota_kind_to(kind: api.QuotaKind) -> volume_pb2.QuotaKind:
    return QUOTA_KINDS[kind]


def quota_kind_of(value: int) -> api.QuotaKind:
    """Unspecified: logical."""
    return known(QUOTA_KINDS_OF, value, "kind of quota")
