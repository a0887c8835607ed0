"""Times, names, text, and the enum values of volumes, snapshots and changes, to messages and back.

The tables of enum values are total in both directions (a test proves it).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from snapfs import api
from snapfs.errors import Invalid, Unsupported
from snapfs.v1 import snapshot_pb2, volume_pb2

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
QUOTA_KINDS: Final = {
    api.QuotaKind.LOGICAL: volume_pb2.QUOTA_KIND_LOGICAL,
    api.QuotaKind.EXCLUSIVE: volume_pb2.QUOTA_KIND_EXCLUSIVE,
}


def inverted(table: Mapping[R, int]) -> dict[int, R]:
    """Ours by the number that messages hold."""
    return {int(value): key for key, value in table.items()}


CHANGE_KINDS_OF: Final = inverted(CHANGE_KINDS)
FILE_TYPES_OF: Final = inverted(FILE_TYPES)
UNSAVED_OF: Final = {int(volume_pb2.UNSAVED_UNSPECIFIED): api.Save.REFUSE, **inverted(UNSAVED)}
QUOTA_KINDS_OF: Final = {int(volume_pb2.QUOTA_KIND_UNSPECIFIED): api.QuotaKind.LOGICAL, **inverted(QUOTA_KINDS)}


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


def unsaved_to(unsaved: api.Save) -> volume_pb2.Unsaved:
    return UNSAVED[unsaved]


def unsaved_of(value: int) -> api.Save:
    """Unspecified: refuse."""
    return known(UNSAVED_OF, value, "unsaved")


def change_kind_of(value: int) -> api.ChangeKind:
    return known(CHANGE_KINDS_OF, value, "kind of change")


def file_type_of(value: int) -> str:
    return known(FILE_TYPES_OF, value, "type of file")


def quota_kind_to(kind: api.QuotaKind) -> volume_pb2.QuotaKind:
    return QUOTA_KINDS[kind]


def quota_kind_of(value: int) -> api.QuotaKind:
    """Unspecified: logical."""
    return known(QUOTA_KINDS_OF, value, "kind of quota")
