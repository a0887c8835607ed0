import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from snapfs.v1 import snapshot_pb2 as _snapshot_pb2
from snapfs.v1 import volume_pb2 as _volume_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class HoldSnapshotRequest(_message.Message):
    __slots__ = ("volume", "snapshot", "hold")
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    HOLD_FIELD_NUMBER: _ClassVar[int]
    volume: str
    snapshot: str
    hold: str
    def __init__(self, volume: _Optional[str] = ..., snapshot: _Optional[str] = ..., hold: _Optional[str] = ...) -> None: ...

class HoldSnapshotResponse(_message.Message):
    __slots__ = ("snapshot",)
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    snapshot: _snapshot_pb2.Snapshot
    def __init__(self, snapshot: _Optional[_Union[_snapshot_pb2.Snapshot, _Mapping]] = ...) -> None: ...

class ReleaseSnapshotRequest(_message.Message):
    __slots__ = ("volume", "snapshot", "hold")
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    HOLD_FIELD_NUMBER: _ClassVar[int]
    volume: str
    snapshot: str
    hold: str
    def __init__(self, volume: _Optional[str] = ..., snapshot: _Optional[str] = ..., hold: _Optional[str] = ...) -> None: ...

class ReleaseSnapshotResponse(_message.Message):
    __slots__ = ("snapshot",)
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    snapshot: _snapshot_pb2.Snapshot
    def __init__(self, snapshot: _Optional[_Union[_snapshot_pb2.Snapshot, _Mapping]] = ...) -> None: ...

class LockSnapshotRequest(_message.Message):
    __slots__ = ("volume", "snapshot", "until_time")
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    UNTIL_TIME_FIELD_NUMBER: _ClassVar[int]
    volume: str
    snapshot: str
    until_time: _timestamp_pb2.Timestamp
    def __init__(self, volume: _Optional[str] = ..., snapshot: _Optional[str] = ..., until_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class LockSnapshotResponse(_message.Message):
    __slots__ = ("snapshot",)
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    snapshot: _snapshot_pb2.Snapshot
    def __init__(self, snapshot: _Optional[_Union[_snapshot_pb2.Snapshot, _Mapping]] = ...) -> None: ...

class SetPolicyRequest(_message.Message):
    __slots__ = ("volume", "policy")
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    volume: str
    policy: _volume_pb2.RetentionPolicy
    def __init__(self, volume: _Optional[str] = ..., policy: _Optional[_Union[_volume_pb2.RetentionPolicy, _Mapping]] = ...) -> None: ...

class SetPolicyResponse(_message.Message):
    __slots__ = ("volume",)
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    volume: _volume_pb2.Volume
    def __init__(self, volume: _Optional[_Union[_volume_pb2.Volume, _Mapping]] = ...) -> None: ...

class ApplyPolicyRequest(_message.Message):
    __slots__ = ("volume", "policy", "dry_run")
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    volume: str
    policy: _volume_pb2.RetentionPolicy
    dry_run: bool
    def __init__(self, volume: _Optional[str] = ..., policy: _Optional[_Union[_volume_pb2.RetentionPolicy, _Mapping]] = ..., dry_run: _Optional[bool] = ...) -> None: ...

class Decision(_message.Message):
    __slots__ = ("volume", "snapshot", "create_time", "keep", "reasons")
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    KEEP_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    volume: str
    snapshot: str
    create_time: _timestamp_pb2.Timestamp
    keep: bool
    reasons: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, volume: _Optional[str] = ..., snapshot: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., keep: _Optional[bool] = ..., reasons: _Optional[_Iterable[str]] = ...) -> None: ...

class RetentionReport(_message.Message):
    __slots__ = ("deleted", "freed_bytes", "dry_run", "warnings")
    DELETED_FIELD_NUMBER: _ClassVar[int]
    FREED_BYTES_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    deleted: int
    freed_bytes: int
    dry_run: bool
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, deleted: _Optional[int] = ..., freed_bytes: _Optional[int] = ..., dry_run: _Optional[bool] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class ApplyPolicyResponse(_message.Message):
    __slots__ = ("report", "decisions")
    REPORT_FIELD_NUMBER: _ClassVar[int]
    DECISIONS_FIELD_NUMBER: _ClassVar[int]
    report: RetentionReport
    decisions: _containers.RepeatedCompositeFieldContainer[Decision]
    def __init__(self, report: _Optional[_Union[RetentionReport, _Mapping]] = ..., decisions: _Optional[_Iterable[_Union[Decision, _Mapping]]] = ...) -> None: ...

class TrashEntry(_message.Message):
    __slots__ = ("volume", "snapshot", "delete_time", "expire_time", "exclusive_bytes")
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    DELETE_TIME_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    EXCLUSIVE_BYTES_FIELD_NUMBER: _ClassVar[int]
    volume: str
    snapshot: str
    delete_time: _timestamp_pb2.Timestamp
    expire_time: _timestamp_pb2.Timestamp
    exclusive_bytes: int
    def __init__(self, volume: _Optional[str] = ..., snapshot: _Optional[str] = ..., delete_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., exclusive_bytes: _Optional[int] = ...) -> None: ...

class ListTrashRequest(_message.Message):
    __slots__ = ("volume",)
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    volume: str
    def __init__(self, volume: _Optional[str] = ...) -> None: ...

class ListTrashResponse(_message.Message):
    __slots__ = ("entries",)
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[TrashEntry]
    def __init__(self, entries: _Optional[_Iterable[_Union[TrashEntry, _Mapping]]] = ...) -> None: ...

class EmptyTrashRequest(_message.Message):
    __slots__ = ("volume", "snapshot")
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    volume: str
    snapshot: str
    def __init__(self, volume: _Optional[str] = ..., snapshot: _Optional[str] = ...) -> None: ...

class EmptyTrashResponse(_message.Message):
    __slots__ = ("entries", "kept")
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    entries: int
    kept: int
    def __init__(self, entries: _Optional[int] = ..., kept: _Optional[int] = ...) -> None: ...

class UndeleteSnapshotRequest(_message.Message):
    __slots__ = ("volume", "snapshot", "name")
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    volume: str
    snapshot: str
    name: str
    def __init__(self, volume: _Optional[str] = ..., snapshot: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class UndeleteSnapshotResponse(_message.Message):
    __slots__ = ("snapshot",)
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    snapshot: _snapshot_pb2.Snapshot
    def __init__(self, snapshot: _Optional[_Union[_snapshot_pb2.Snapshot, _Mapping]] = ...) -> None: ...

class UndeleteVolumeRequest(_message.Message):
    __slots__ = ("volume", "name")
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    volume: str
    name: str
    def __init__(self, volume: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class UndeleteVolumeResponse(_message.Message):
    __slots__ = ("volume",)
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    volume: _volume_pb2.Volume
    def __init__(self, volume: _Optional[_Union[_volume_pb2.Volume, _Mapping]] = ...) -> None: ...
