import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from snapfs.v1 import snapshot_pb2 as _snapshot_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class OperationState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OPERATION_STATE_UNSPECIFIED: _ClassVar[OperationState]
    OPERATION_STATE_RUNNING: _ClassVar[OperationState]
    OPERATION_STATE_SUCCEEDED: _ClassVar[OperationState]
    OPERATION_STATE_FAILED: _ClassVar[OperationState]
    OPERATION_STATE_CANCELLED: _ClassVar[OperationState]
OPERATION_STATE_UNSPECIFIED: OperationState
OPERATION_STATE_RUNNING: OperationState
OPERATION_STATE_SUCCEEDED: OperationState
OPERATION_STATE_FAILED: OperationState
OPERATION_STATE_CANCELLED: OperationState

class Operation(_message.Message):
    __slots__ = ("id", "kind", "state", "done", "total", "start_time", "end_time", "error", "check", "verify", "optimize", "imported")
    ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    CHECK_FIELD_NUMBER: _ClassVar[int]
    VERIFY_FIELD_NUMBER: _ClassVar[int]
    OPTIMIZE_FIELD_NUMBER: _ClassVar[int]
    IMPORTED_FIELD_NUMBER: _ClassVar[int]
    id: str
    kind: str
    state: OperationState
    done: int
    total: int
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    error: OperationError
    check: CheckReport
    verify: VerifyReport
    optimize: OptimizeReport
    imported: ImportReport
    def __init__(self, id: _Optional[str] = ..., kind: _Optional[str] = ..., state: _Optional[_Union[OperationState, str]] = ..., done: _Optional[int] = ..., total: _Optional[int] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., error: _Optional[_Union[OperationError, _Mapping]] = ..., check: _Optional[_Union[CheckReport, _Mapping]] = ..., verify: _Optional[_Union[VerifyReport, _Mapping]] = ..., optimize: _Optional[_Union[OptimizeReport, _Mapping]] = ..., imported: _Optional[_Union[ImportReport, _Mapping]] = ...) -> None: ...

class OperationError(_message.Message):
    __slots__ = ("reason", "message", "hint")
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    HINT_FIELD_NUMBER: _ClassVar[int]
    reason: str
    message: str
    hint: str
    def __init__(self, reason: _Optional[str] = ..., message: _Optional[str] = ..., hint: _Optional[str] = ...) -> None: ...

class CheckReport(_message.Message):
    __slots__ = ("findings", "inodes", "blocks", "snapshots", "data_read_bytes", "damage")
    FINDINGS_FIELD_NUMBER: _ClassVar[int]
    INODES_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOTS_FIELD_NUMBER: _ClassVar[int]
    DATA_READ_BYTES_FIELD_NUMBER: _ClassVar[int]
    DAMAGE_FIELD_NUMBER: _ClassVar[int]
    findings: _containers.RepeatedCompositeFieldContainer[Finding]
    inodes: int
    blocks: int
    snapshots: int
    data_read_bytes: int
    damage: _containers.RepeatedCompositeFieldContainer[Damage]
    def __init__(self, findings: _Optional[_Iterable[_Union[Finding, _Mapping]]] = ..., inodes: _Optional[int] = ..., blocks: _Optional[int] = ..., snapshots: _Optional[int] = ..., data_read_bytes: _Optional[int] = ..., damage: _Optional[_Iterable[_Union[Damage, _Mapping]]] = ...) -> None: ...

class Damage(_message.Message):
    __slots__ = ("volume", "path", "head", "snapshots", "good", "blocks")
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOTS_FIELD_NUMBER: _ClassVar[int]
    GOOD_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    volume: str
    path: bytes
    head: bool
    snapshots: _containers.RepeatedScalarFieldContainer[str]
    good: _containers.RepeatedScalarFieldContainer[str]
    blocks: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, volume: _Optional[str] = ..., path: _Optional[bytes] = ..., head: _Optional[bool] = ..., snapshots: _Optional[_Iterable[str]] = ..., good: _Optional[_Iterable[str]] = ..., blocks: _Optional[_Iterable[int]] = ...) -> None: ...

class VerifyReport(_message.Message):
    __slots__ = ("snapshot", "digest", "findings", "files", "data_read_bytes", "chained")
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    FINDINGS_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    DATA_READ_BYTES_FIELD_NUMBER: _ClassVar[int]
    CHAINED_FIELD_NUMBER: _ClassVar[int]
    snapshot: _snapshot_pb2.Snapshot
    digest: str
    findings: _containers.RepeatedCompositeFieldContainer[Finding]
    files: int
    data_read_bytes: int
    chained: bool
    def __init__(self, snapshot: _Optional[_Union[_snapshot_pb2.Snapshot, _Mapping]] = ..., digest: _Optional[str] = ..., findings: _Optional[_Iterable[_Union[Finding, _Mapping]]] = ..., files: _Optional[int] = ..., data_read_bytes: _Optional[int] = ..., chained: _Optional[bool] = ...) -> None: ...

class OptimizeReport(_message.Message):
    __slots__ = ("files", "rewritten", "read_bytes", "written_bytes", "extents_before", "extents_after")
    FILES_FIELD_NUMBER: _ClassVar[int]
    REWRITTEN_FIELD_NUMBER: _ClassVar[int]
    READ_BYTES_FIELD_NUMBER: _ClassVar[int]
    WRITTEN_BYTES_FIELD_NUMBER: _ClassVar[int]
    EXTENTS_BEFORE_FIELD_NUMBER: _ClassVar[int]
    EXTENTS_AFTER_FIELD_NUMBER: _ClassVar[int]
    files: int
    rewritten: int
    read_bytes: int
    written_bytes: int
    extents_before: int
    extents_after: int
    def __init__(self, files: _Optional[int] = ..., rewritten: _Optional[int] = ..., read_bytes: _Optional[int] = ..., written_bytes: _Optional[int] = ..., extents_before: _Optional[int] = ..., extents_after: _Optional[int] = ...) -> None: ...

class ImportReport(_message.Message):
    __slots__ = ("files", "directories", "unchanged", "total_bytes", "failed", "failures")
    FILES_FIELD_NUMBER: _ClassVar[int]
    DIRECTORIES_FIELD_NUMBER: _ClassVar[int]
    UNCHANGED_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    files: int
    directories: int
    unchanged: int
    total_bytes: int
    failed: _containers.RepeatedScalarFieldContainer[bytes]
    failures: int
    def __init__(self, files: _Optional[int] = ..., directories: _Optional[int] = ..., unchanged: _Optional[int] = ..., total_bytes: _Optional[int] = ..., failed: _Optional[_Iterable[bytes]] = ..., failures: _Optional[int] = ...) -> None: ...

class Finding(_message.Message):
    __slots__ = ("code", "message")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    code: str
    message: str
    def __init__(self, code: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class GetOperationRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class GetOperationResponse(_message.Message):
    __slots__ = ("operation",)
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    operation: Operation
    def __init__(self, operation: _Optional[_Union[Operation, _Mapping]] = ...) -> None: ...

class ListOperationsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListOperationsResponse(_message.Message):
    __slots__ = ("operations",)
    OPERATIONS_FIELD_NUMBER: _ClassVar[int]
    operations: _containers.RepeatedCompositeFieldContainer[Operation]
    def __init__(self, operations: _Optional[_Iterable[_Union[Operation, _Mapping]]] = ...) -> None: ...

class CancelOperationRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class CancelOperationResponse(_message.Message):
    __slots__ = ("operation",)
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    operation: Operation
    def __init__(self, operation: _Optional[_Union[Operation, _Mapping]] = ...) -> None: ...

class WatchOperationRequest(_message.Message):
    __slots__ = ("id", "cancel_when_abandoned")
    ID_FIELD_NUMBER: _ClassVar[int]
    CANCEL_WHEN_ABANDONED_FIELD_NUMBER: _ClassVar[int]
    id: str
    cancel_when_abandoned: bool
    def __init__(self, id: _Optional[str] = ..., cancel_when_abandoned: _Optional[bool] = ...) -> None: ...

class WatchOperationResponse(_message.Message):
    __slots__ = ("operation",)
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    operation: Operation
    def __init__(self, operation: _Optional[_Union[Operation, _Mapping]] = ...) -> None: ...
