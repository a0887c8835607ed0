"""What goes over the channel: one JSON document a line, the same for server and client.

Invariants:

- The client speaks first (``Hello``), the server answers with its own; then one call at a time: a ``Call``,
  answered by any number of ``item`` and ``progress`` replies and exactly one ``result``, ``end`` or
  ``error``.
- A line never holds a raw newline (JSON escapes it) and is at most ``MESSAGE_BYTES_MAX`` long.
- File names that are not UTF-8 travel as lone surrogates (``\\udcff``), which msgspec refuses and ``json``
  carries: hence the fallback in both directions.

No trio here: the client's import cost is felt at every command.
"""

from __future__ import annotations

import enum
from typing import Any, Final, TypeVar

import msgspec

from snapfs import errors

PROTOCOL_VERSION: Final = 1

DIRECTORY_NAME: Final = "control"
"""Directory of the socket inside the store; its mode, 0700, is the access control."""

SOCKET_NAME: Final = "socket"

SOCKET_PATH_BYTES_MAX: Final = 107
"""Longest path of a unix socket: ``sun_path`` is 108 bytes with its final zero."""

MESSAGE_BYTES_MAX: Final = 16 * 1024 * 1024
"""Longest line: far above any call of the CLI, far below what would hurt the daemon."""

T = TypeVar("T")


class ReplyKind(enum.StrEnum):
    RESULT = "result"
    ITEM = "item"
    PROGRESS = "progress"
    END = "end"
    ERROR = "error"


class Hello(msgspec.Struct, frozen=True, kw_only=True):
    """First line in each direction."""

    protocol: int
    pid: int = 0
    """Of the server; 0 from the client."""


class Call(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    method: str
    params: dict[str, Any] = {}


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    kind: ReplyKind
    value: Any = None


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Value of an ``error`` reply."""

    kind: str
    message: str
    hint: str = ""

    @classmethod
    def of(cls, error: errors.SnapfsError) -> Failure:
        return cls(kind=str(error.kind), message=error.message, hint=error.hint)

    def exception(self) -> errors.SnapfsError:
        """The error again; a kind of a newer server becomes the nearest that this program knows."""
        known = errors.by_kind()
        try:
            cls = known[errors.Kind(self.kind)]
        except (ValueError, KeyError):
            cls = errors.IOFailure
        return cls(self.message, hint=self.hint)


def encode(message: object) -> bytes:
    """One line, newline included."""
    try:
        return msgspec.json.encode(message) + b"\n"
    except UnicodeEncodeError:
        import json  # only names that are not UTF-8 need it

        return json.dumps(msgspec.to_builtins(message), separators=(",", ":")).encode("ascii") + b"\n"


def decode(line: bytes, kind: type[T]) -> T:
    """A line as a record.

    Raises:
        Invalid: not JSON, or not of this shape.
    """
    try:
        try:
            return msgspec.json.decode(line, type=kind)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            import json  # only names that are not UTF-8 need it

            return msgspec.convert(json.loads(line), kind)
    except (msgspec.ValidationError, ValueError, RecursionError) as error:
        raise errors.Invalid(f"malformed message on the channel: {error}") from None
