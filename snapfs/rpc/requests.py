"""Requests: whether one is what this version of the API knows, and how the audit log shows it.  Pure.

Protobuf keeps what it does not know; here it is refused, at any depth: a client that asks for something that we would
silently leave out must be told.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeVar

import msgspec
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.protobuf.unknown_fields import UnknownFieldSet

from snapfs.errors import Invalid, TooLarge
from snapfs.rpc import convert

M = TypeVar("M", bound=Message)

TEXT_CHARACTERS_MAX: Final = 1000
ITEMS_MAX: Final = 50
"""Of one text and one list or map in the audit log, which cuts off the rest anyway: a request of megabytes must not
be spelled out for that."""

REPEATED_MAX: Final = 30_000
TEXT_BYTES_MAX: Final = 256 * 1024
"""Of one list or map, and of one text, in any request: what there is to do for each item, or to compare with a text, is
done on the thread that answers the mount.  As many commits as git may rewrite fit into a message anyway."""

_NUMBERS_MAX: Final = 5
"""Of unknown fields, told."""
_UNKNOWN_BYTES_MAX: Final = 64 * 1024

_TEXTS: Final = {FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES}

_HINT: Final = "the client is of another version than the daemon, or wrong"


def parse(data: bytes, kind: type[M]) -> M:
    """Raises Invalid for bytes that are no such message, or text in it that is not UTF-8."""
    try:
        return kind.FromString(data)
    except DecodeError:
        raise Invalid(f"not a valid {kind.DESCRIPTOR.full_name}", hint=_HINT) from None


def check(message: Message, path: str = "") -> None:
    """Raises Invalid: an unknown field or enum value, or a time that is none; TooLarge: a list or text that is too
    long; each named by its path."""
    if not path:
        _check_many_unknown(message)
    unknown = UnknownFieldSet(message)
    if len(unknown):
        places = range(min(len(unknown), _NUMBERS_MAX))
        numbers = ", ".join(sorted({str(unknown[place].field_number) for place in places}))
        where = f" in {path!r}" if path else ""
        raise Invalid(f"{message.DESCRIPTOR.full_name} has no field of number {numbers}{where}", hint=_HINT)
    if isinstance(message, Timestamp):
        try:
            convert.time_of(message)
        except Invalid as error:
            raise Invalid(f"{path!r}: {error.message}") from None
        return
    for field, value in message.ListFields():
        name = f"{path}.{field.name}" if path else field.name
        if field.is_repeated and len(value) > REPEATED_MAX:
            raise TooLarge(f"{name!r} has {len(value)} items, at most {REPEATED_MAX} are possible")
        if field.type in _TEXTS:
            _check_lengths(value, name)
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            _check_messages(field, value, name)
        elif field.type == FieldDescriptor.TYPE_ENUM:
            _check_enum(field, value, name)


def _check_many_unknown(message: Message) -> None:
    """To list a million of them takes long."""
    size = message.ByteSize()
    if size > _UNKNOWN_BYTES_MAX:
        known = type(message)()
        known.CopyFrom(message)
        known.DiscardUnknownFields()
        if size - known.ByteSize() > _UNKNOWN_BYTES_MAX:
            raise Invalid(f"{message.DESCRIPTOR.full_name} has not the fields that were sent", hint=_HINT)


def _check_messages(field: FieldDescriptor, value: object, name: str) -> None:
    entries = field.message_type.GetOptions().map_entry if field.message_type is not None else False
    if entries:  # maps of the API go from text to text: nothing in them can be unknown
        _check_lengths([*value, *value.values()], name)  # type: ignore[attr-defined, misc] # a map
        return
    if isinstance(value, Message):
        check(value, name)
    else:
        for one in value:  # type: ignore[attr-defined] # a repeated field
            check(one, name)


def _check_lengths(value: str | bytes | Iterable[str | bytes], name: str) -> None:
    for text in [value] if isinstance(value, str | bytes) else value:
        if len(text) > TEXT_BYTES_MAX or (isinstance(text, str) and len(text.encode()) > TEXT_BYTES_MAX):
            raise TooLarge(f"{name!r} is longer than {TEXT_BYTES_MAX} bytes")


def _check_enum(field: FieldDescriptor, value: object, name: str) -> None:
    assert field.enum_type is not None
    for number in [value] if isinstance(value, int) else value:  # type: ignore[attr-defined] # a repeated field
        if number not in field.enum_type.values_by_number:
            raise Invalid(f"{name!r}: {field.enum_type.full_name} has no value {number}", hint=_HINT)


def shown(message: Message) -> str:
    """In JSON, for people: long texts and lists are cut.  (No request of the API carries a secret.)"""
    return msgspec.json.encode(_plain(message)).decode()


def _plain(message: Message) -> object:
    if isinstance(message, Timestamp):
        return message.seconds + message.nanos / 1e9
    found: dict[str, object] = {}
    for field, value in message.ListFields():
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            found[field.name] = {str(key): _value(field, value[key]) for key in sorted(value)[:ITEMS_MAX]}
        elif isinstance(value, (Message, str, bytes, int, float)):
            found[field.name] = _value(field, value)
        else:
            found[field.name] = [_value(field, one) for one in value[:ITEMS_MAX]]
            if len(value) > ITEMS_MAX:
                found[field.name + "_more"] = len(value) - ITEMS_MAX
    return found


def _value(field: FieldDescriptor, value: object) -> object:
    if isinstance(value, Message):
        return _plain(value)
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, str):
        return value if len(value) <= TEXT_CHARACTERS_MAX else value[:TEXT_CHARACTERS_MAX] + "..."
    if field.enum_type is not None and isinstance(value, int):
        known = field.enum_type.values_by_number.get(value)
        return known.name if known else value
    return value
