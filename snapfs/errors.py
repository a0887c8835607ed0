"""One tree of errors, grouped by what a caller would do about them.

Every adapter owns one total mapping of ``Kind`` (errno in ``fuse.errnos``, exit code in ``cli``), and
a test proves each of them total.  A message is one line, says what is wrong, and, in ``hint``, what
would be right.  Kinds are append-only: their names are part of the API.
"""

from __future__ import annotations

import enum
from typing import ClassVar


class Kind(enum.StrEnum):
    """What a caller can tell apart."""

    NOT_FOUND = "not_found"
    ALREADY_EXISTS = "already_exists"
    NOT_A_DIRECTORY = "not_a_directory"
    IS_A_DIRECTORY = "is_a_directory"
    NOT_EMPTY = "not_empty"
    NAME_TOO_LONG = "name_too_long"
    INVALID = "invalid"
    NOT_PERMITTED = "not_permitted"
    UNAUTHENTICATED = "unauthenticated"
    READ_ONLY = "read_only"
    CROSS_VOLUME = "cross_volume"
    TOO_MANY_LINKS = "too_many_links"
    TOO_LARGE = "too_large"
    NO_SPACE = "no_space"
    NO_ATTRIBUTE = "no_attribute"
    STALE = "stale"
    CONFLICT = "conflict"
    BUSY = "busy"
    UNAVAILABLE = "unavailable"
    UNSUPPORTED = "unsupported"
    CANCELLED = "cancelled"
    CORRUPT = "corrupt"
    IO = "io"
    QUOTA_EXCEEDED = "quota_exceeded"


class SnapfsError(Exception):
    """Base of all errors that snapfs raises on purpose.

    Args:
        message: one line, what is wrong.
        hint: one line, what to do about it; may be empty.
    """

    kind: ClassVar[Kind]

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class NotFound(SnapfsError):
    kind = Kind.NOT_FOUND


class AlreadyExists(SnapfsError):
    kind = Kind.ALREADY_EXISTS


class NotADirectory(SnapfsError):
    kind = Kind.NOT_A_DIRECTORY


class IsADirectory(SnapfsError):
    kind = Kind.IS_A_DIRECTORY


class NotEmpty(SnapfsError):
    kind = Kind.NOT_EMPTY


class NameTooLong(SnapfsError):
    kind = Kind.NAME_TOO_LONG


class Invalid(SnapfsError):
    """A bad name, number, reference or combination: the caller must ask for something else."""

    kind = Kind.INVALID


class NotPermitted(SnapfsError):
    kind = Kind.NOT_PERMITTED


class Unauthenticated(SnapfsError):
    """A caller that is not known: no token, a wrong one, one that expired or was revoked."""

    kind = Kind.UNAUTHENTICATED


class ReadOnly(SnapfsError):
    """A write to a snapshot."""

    kind = Kind.READ_ONLY


class CrossVolume(SnapfsError):
    """A link or rename between two volumes."""

    kind = Kind.CROSS_VOLUME


class TooManyLinks(SnapfsError):
    kind = Kind.TOO_MANY_LINKS


class TooLarge(SnapfsError):
    kind = Kind.TOO_LARGE


class NoSpace(SnapfsError):
    kind = Kind.NO_SPACE


class QuotaExceeded(SnapfsError):
    """A volume's files would hold more than its quota allows."""

    kind = Kind.QUOTA_EXCEEDED


class NoAttribute(SnapfsError):
    kind = Kind.NO_ATTRIBUTE


class Stale(SnapfsError):
    """A handle or view whose file or snapshot is gone."""

    kind = Kind.STALE


class Conflict(SnapfsError):
    """The state forbids it now: unsaved changes, a volume that has snapshots."""

    kind = Kind.CONFLICT


class Busy(SnapfsError):
    """Somebody else holds it: the store's lock, a mount."""

    kind = Kind.BUSY


class Unavailable(SnapfsError):
    """Something that is needed is not there: /dev/fuse, git, a daemon that answers."""

    kind = Kind.UNAVAILABLE


class Unsupported(SnapfsError):
    """A format or protocol version that this program does not know."""

    kind = Kind.UNSUPPORTED


class Cancelled(SnapfsError):
    """Somebody asked for it to stop."""

    kind = Kind.CANCELLED


class Corrupt(SnapfsError):
    """Bytes on disk are not what was written.  ``snap fsck`` tells what else is damaged, and what can be done."""

    kind = Kind.CORRUPT

    def __init__(self, message: str, *, hint: str = "run: snap fsck") -> None:
        super().__init__(message, hint=hint)


class IOFailure(SnapfsError):
    """The disk below refused: EIO on a write or sync."""

    kind = Kind.IO


def by_kind() -> dict[Kind, type[SnapfsError]]:
    """Class of each kind, to rebuild an error that came over a wire."""
    return {cls.kind: cls for cls in SnapfsError.__subclasses__()}
