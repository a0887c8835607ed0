import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from snapfs.v1 import operation_pb2 as _operation_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ScrubState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SCRUB_STATE_UNSPECIFIED: _ClassVar[ScrubState]
    SCRUB_STATE_NEVER: _ClassVar[ScrubState]
    SCRUB_STATE_RUNNING: _ClassVar[ScrubState]
    SCRUB_STATE_PAUSED: _ClassVar[ScrubState]
    SCRUB_STATE_FINISHED: _ClassVar[ScrubState]
    SCRUB_STATE_CANCELLED: _ClassVar[ScrubState]
SCRUB_STATE_UNSPECIFIED: ScrubState
SCRUB_STATE_NEVER: ScrubState
SCRUB_STATE_RUNNING: ScrubState
SCRUB_STATE_PAUSED: ScrubState
SCRUB_STATE_FINISHED: ScrubState
SCRUB_STATE_CANCELLED: ScrubState

class GetStoreRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetStoreResponse(_message.Message):
    __slots__ = ("path", "uuid", "format", "volumes", "snapshots", "stored_bytes", "logical_bytes", "index_bytes", "disk_bytes", "free_bytes", "mountpoint", "pid", "version", "uptime_seconds", "dirty_bytes", "failure", "seal_bytes")
    PATH_FIELD_NUMBER: _ClassVar[int]
    UUID_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    VOLUMES_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOTS_FIELD_NUMBER: _ClassVar[int]
    STORED_BYTES_FIELD_NUMBER: _ClassVar[int]
    LOGICAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    INDEX_BYTES_FIELD_NUMBER: _ClassVar[int]
    DISK_BYTES_FIELD_NUMBER: _ClassVar[int]
    FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MOUNTPOINT_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    UPTIME_SECONDS_FIELD_NUMBER: _ClassVar[int]
    DIRTY_BYTES_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    SEAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    path: str
    uuid: str
    format: int
    volumes: int
    snapshots: int
    stored_bytes: int
    logical_bytes: int
    index_bytes: int
    disk_bytes: int
    free_bytes: int
    mountpoint: str
    pid: int
    version: str
    uptime_seconds: int
    dirty_bytes: int
    failure: str
    seal_bytes: int
    def __init__(self, path: _Optional[str] = ..., uuid: _Optional[str] = ..., format: _Optional[int] = ..., volumes: _Optional[int] = ..., snapshots: _Optional[int] = ..., stored_bytes: _Optional[int] = ..., logical_bytes: _Optional[int] = ..., index_bytes: _Optional[int] = ..., disk_bytes: _Optional[int] = ..., free_bytes: _Optional[int] = ..., mountpoint: _Optional[str] = ..., pid: _Optional[int] = ..., version: _Optional[str] = ..., uptime_seconds: _Optional[int] = ..., dirty_bytes: _Optional[int] = ..., failure: _Optional[str] = ..., seal_bytes: _Optional[int] = ...) -> None: ...

class CheckStoreRequest(_message.Message):
    __slots__ = ("request_id",)
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    def __init__(self, request_id: _Optional[str] = ...) -> None: ...

class CheckStoreResponse(_message.Message):
    __slots__ = ("operation",)
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    operation: _operation_pb2.Operation
    def __init__(self, operation: _Optional[_Union[_operation_pb2.Operation, _Mapping]] = ...) -> None: ...

class VerifySnapshotRequest(_message.Message):
    __slots__ = ("volume", "snapshot", "request_id")
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    volume: str
    snapshot: str
    request_id: str
    def __init__(self, volume: _Optional[str] = ..., snapshot: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class VerifySnapshotResponse(_message.Message):
    __slots__ = ("operation",)
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    operation: _operation_pb2.Operation
    def __init__(self, operation: _Optional[_Union[_operation_pb2.Operation, _Mapping]] = ...) -> None: ...

class Scrub(_message.Message):
    __slots__ = ("state", "start_time", "end_time", "index_done", "done", "total", "data_read_bytes", "found", "findings", "next_time")
    STATE_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    INDEX_DONE_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    DATA_READ_BYTES_FIELD_NUMBER: _ClassVar[int]
    FOUND_FIELD_NUMBER: _ClassVar[int]
    FINDINGS_FIELD_NUMBER: _ClassVar[int]
    NEXT_TIME_FIELD_NUMBER: _ClassVar[int]
    state: ScrubState
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    index_done: int
    done: int
    total: int
    data_read_bytes: int
    found: int
    findings: _containers.RepeatedCompositeFieldContainer[_operation_pb2.Finding]
    next_time: _timestamp_pb2.Timestamp
    def __init__(self, state: _Optional[_Union[ScrubState, str]] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., index_done: _Optional[int] = ..., done: _Optional[int] = ..., total: _Optional[int] = ..., data_read_bytes: _Optional[int] = ..., found: _Optional[int] = ..., findings: _Optional[_Iterable[_Union[_operation_pb2.Finding, _Mapping]]] = ..., next_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class StartScrubRequest(_message.Message):
    __slots__ = ("bytes_per_second",)
    BYTES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    bytes_per_second: int
    def __init__(self, bytes_per_second: _Optional[int] = ...) -> None: ...

class StartScrubResponse(_message.Message):
    __slots__ = ("scrub",)
    SCRUB_FIELD_NUMBER: _ClassVar[int]
    scrub: Scrub
    def __init__(self, scrub: _Optional[_Union[Scrub, _Mapping]] = ...) -> None: ...

class GetScrubRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetScrubResponse(_message.Message):
    __slots__ = ("scrub",)
    SCRUB_FIELD_NUMBER: _ClassVar[int]
    scrub: Scrub
    def __init__(self, scrub: _Optional[_Union[Scrub, _Mapping]] = ...) -> None: ...

class PauseScrubRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PauseScrubResponse(_message.Message):
    __slots__ = ("scrub",)
    SCRUB_FIELD_NUMBER: _ClassVar[int]
    scrub: Scrub
    def __init__(self, scrub: _Optional[_Union[Scrub, _Mapping]] = ...) -> None: ...

class CancelScrubRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CancelScrubResponse(_message.Message):
    __slots__ = ("scrub",)
    SCRUB_FIELD_NUMBER: _ClassVar[int]
    scrub: Scrub
    def __init__(self, scrub: _Optional[_Union[Scrub, _Mapping]] = ...) -> None: ...

class GetMetricsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetMetricsResponse(_message.Message):
    __slots__ = ("text",)
    TEXT_FIELD_NUMBER: _ClassVar[int]
    text: str
    def __init__(self, text: _Optional[str] = ...) -> None: ...

class Setting(_message.Message):
    __slots__ = ("name", "value", "default_value", "description", "configured", "needs_restart")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_VALUE_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    CONFIGURED_FIELD_NUMBER: _ClassVar[int]
    NEEDS_RESTART_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: str
    default_value: str
    description: str
    configured: bool
    needs_restart: bool
    def __init__(self, name: _Optional[str] = ..., value: _Optional[str] = ..., default_value: _Optional[str] = ..., description: _Optional[str] = ..., configured: _Optional[bool] = ..., needs_restart: _Optional[bool] = ...) -> None: ...

class GetSettingsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetSettingsResponse(_message.Message):
    __slots__ = ("settings", "path")
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    settings: _containers.RepeatedCompositeFieldContainer[Setting]
    path: str
    def __init__(self, settings: _Optional[_Iterable[_Union[Setting, _Mapping]]] = ..., path: _Optional[str] = ...) -> None: ...

class UpdateSettingRequest(_message.Message):
    __slots__ = ("name", "value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: str
    def __init__(self, name: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...

class UpdateSettingResponse(_message.Message):
    __slots__ = ("setting",)
    SETTING_FIELD_NUMBER: _ClassVar[int]
    setting: Setting
    def __init__(self, setting: _Optional[_Union[Setting, _Mapping]] = ...) -> None: ...

class ReloadSettingsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ReloadSettingsResponse(_message.Message):
    __slots__ = ("applied", "waiting")
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    applied: _containers.RepeatedScalarFieldContainer[str]
    waiting: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, applied: _Optional[_Iterable[str]] = ..., waiting: _Optional[_Iterable[str]] = ...) -> None: ...
