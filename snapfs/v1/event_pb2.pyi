import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EventKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EVENT_KIND_UNSPECIFIED: _ClassVar[EventKind]
    EVENT_KIND_VOLUME_CREATED: _ClassVar[EventKind]
    EVENT_KIND_VOLUME_DELETED: _ClassVar[EventKind]
    EVENT_KIND_SNAPSHOT_CREATED: _ClassVar[EventKind]
    EVENT_KIND_SNAPSHOT_RENAMED: _ClassVar[EventKind]
    EVENT_KIND_SNAPSHOT_DELETED: _ClassVar[EventKind]
    EVENT_KIND_TAG_SET: _ClassVar[EventKind]
    EVENT_KIND_TAG_DELETED: _ClassVar[EventKind]
    EVENT_KIND_CHECKOUT: _ClassVar[EventKind]
    EVENT_KIND_RESTORE: _ClassVar[EventKind]
    EVENT_KIND_WARNING: _ClassVar[EventKind]
    EVENT_KIND_VOLUME_UPDATED: _ClassVar[EventKind]
    EVENT_KIND_DAMAGE_FOUND: _ClassVar[EventKind]
    EVENT_KIND_SNAPSHOT_UPDATED: _ClassVar[EventKind]
    EVENT_KIND_SNAPSHOT_RESTORED: _ClassVar[EventKind]
    EVENT_KIND_VOLUME_RESTORED: _ClassVar[EventKind]
EVENT_KIND_UNSPECIFIED: EventKind
EVENT_KIND_VOLUME_CREATED: EventKind
EVENT_KIND_VOLUME_DELETED: EventKind
EVENT_KIND_SNAPSHOT_CREATED: EventKind
EVENT_KIND_SNAPSHOT_RENAMED: EventKind
EVENT_KIND_SNAPSHOT_DELETED: EventKind
EVENT_KIND_TAG_SET: EventKind
EVENT_KIND_TAG_DELETED: EventKind
EVENT_KIND_CHECKOUT: EventKind
EVENT_KIND_RESTORE: EventKind
EVENT_KIND_WARNING: EventKind
EVENT_KIND_VOLUME_UPDATED: EventKind
EVENT_KIND_DAMAGE_FOUND: EventKind
EVENT_KIND_SNAPSHOT_UPDATED: EventKind
EVENT_KIND_SNAPSHOT_RESTORED: EventKind
EVENT_KIND_VOLUME_RESTORED: EventKind

class Event(_message.Message):
    __slots__ = ("sequence", "time", "kind", "volume", "snapshot", "commit", "message")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    time: _timestamp_pb2.Timestamp
    kind: EventKind
    volume: str
    snapshot: str
    commit: str
    message: str
    def __init__(self, sequence: _Optional[int] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., kind: _Optional[_Union[EventKind, str]] = ..., volume: _Optional[str] = ..., snapshot: _Optional[str] = ..., commit: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class WatchEventsRequest(_message.Message):
    __slots__ = ("after", "volume", "kinds", "until_now")
    AFTER_FIELD_NUMBER: _ClassVar[int]
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    KINDS_FIELD_NUMBER: _ClassVar[int]
    UNTIL_NOW_FIELD_NUMBER: _ClassVar[int]
    after: int
    volume: str
    kinds: _containers.RepeatedScalarFieldContainer[EventKind]
    until_now: bool
    def __init__(self, after: _Optional[int] = ..., volume: _Optional[str] = ..., kinds: _Optional[_Iterable[_Union[EventKind, str]]] = ..., until_now: _Optional[bool] = ...) -> None: ...

class WatchEventsResponse(_message.Message):
    __slots__ = ("events", "sequence")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[Event]
    sequence: int
    def __init__(self, events: _Optional[_Iterable[_Union[Event, _Mapping]]] = ..., sequence: _Optional[int] = ...) -> None: ...
