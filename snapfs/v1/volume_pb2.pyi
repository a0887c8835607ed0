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

class QuotaKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    QUOTA_KIND_UNSPECIFIED: _ClassVar[QuotaKind]
    QUOTA_KIND_LOGICAL: _ClassVar[QuotaKind]
    QUOTA_KIND_EXCLUSIVE: _ClassVar[QuotaKind]

class Unsaved(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    UNSAVED_UNSPECIFIED: _ClassVar[Unsaved]
    UNSAVED_REFUSE: _ClassVar[Unsaved]
    UNSAVED_SAVE: _ClassVar[Unsaved]
    UNSAVED_DISCARD: _ClassVar[Unsaved]
QUOTA_KIND_UNSPECIFIED: QuotaKind
QUOTA_KIND_LOGICAL: QuotaKind
QUOTA_KIND_EXCLUSIVE: QuotaKind
UNSAVED_UNSPECIFIED: Unsaved
UNSAVED_REFUSE: Unsaved
UNSAVED_SAVE: Unsaved
UNSAVED_DISCARD: Unsaved

class RetentionPolicy(_message.Message):
    __slots__ = ("last", "hourly", "daily", "weekly", "monthly", "yearly", "within_seconds", "reachable", "repositories", "distinct")
    LAST_FIELD_NUMBER: _ClassVar[int]
    HOURLY_FIELD_NUMBER: _ClassVar[int]
    DAILY_FIELD_NUMBER: _ClassVar[int]
    WEEKLY_FIELD_NUMBER: _ClassVar[int]
    MONTHLY_FIELD_NUMBER: _ClassVar[int]
    YEARLY_FIELD_NUMBER: _ClassVar[int]
    WITHIN_SECONDS_FIELD_NUMBER: _ClassVar[int]
    REACHABLE_FIELD_NUMBER: _ClassVar[int]
    REPOSITORIES_FIELD_NUMBER: _ClassVar[int]
    DISTINCT_FIELD_NUMBER: _ClassVar[int]
    last: int
    hourly: int
    daily: int
    weekly: int
    monthly: int
    yearly: int
    within_seconds: int
    reachable: bool
    repositories: _containers.RepeatedScalarFieldContainer[str]
    distinct: int
    def __init__(self, last: _Optional[int] = ..., hourly: _Optional[int] = ..., daily: _Optional[int] = ..., weekly: _Optional[int] = ..., monthly: _Optional[int] = ..., yearly: _Optional[int] = ..., within_seconds: _Optional[int] = ..., reachable: _Optional[bool] = ..., repositories: _Optional[_Iterable[str]] = ..., distinct: _Optional[int] = ...) -> None: ...

class Volume(_message.Message):
    __slots__ = ("name", "snapshots", "create_time", "parent", "quota_bytes", "used_bytes", "quota_kind", "compression", "policy", "origin")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOTS_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    QUOTA_BYTES_FIELD_NUMBER: _ClassVar[int]
    USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    QUOTA_KIND_FIELD_NUMBER: _ClassVar[int]
    COMPRESSION_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    name: str
    snapshots: int
    create_time: _timestamp_pb2.Timestamp
    parent: str
    quota_bytes: int
    used_bytes: int
    quota_kind: QuotaKind
    compression: str
    policy: RetentionPolicy
    origin: str
    def __init__(self, name: _Optional[str] = ..., snapshots: _Optional[int] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., parent: _Optional[str] = ..., quota_bytes: _Optional[int] = ..., used_bytes: _Optional[int] = ..., quota_kind: _Optional[_Union[QuotaKind, str]] = ..., compression: _Optional[str] = ..., policy: _Optional[_Union[RetentionPolicy, _Mapping]] = ..., origin: _Optional[str] = ...) -> None: ...

class CreateVolumeRequest(_message.Message):
    __slots__ = ("name", "request_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    request_id: str
    def __init__(self, name: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class CreateVolumeResponse(_message.Message):
    __slots__ = ("volume",)
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    volume: Volume
    def __init__(self, volume: _Optional[_Union[Volume, _Mapping]] = ...) -> None: ...

class GetVolumeRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetVolumeResponse(_message.Message):
    __slots__ = ("volume",)
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    volume: Volume
    def __init__(self, volume: _Optional[_Union[Volume, _Mapping]] = ...) -> None: ...

class ListVolumesRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListVolumesResponse(_message.Message):
    __slots__ = ("volumes", "next_page_token")
    VOLUMES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    volumes: _containers.RepeatedCompositeFieldContainer[Volume]
    next_page_token: str
    def __init__(self, volumes: _Optional[_Iterable[_Union[Volume, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class UpdateVolumeRequest(_message.Message):
    __slots__ = ("name", "quota_bytes", "quota_kind", "compression")
    NAME_FIELD_NUMBER: _ClassVar[int]
    QUOTA_BYTES_FIELD_NUMBER: _ClassVar[int]
    QUOTA_KIND_FIELD_NUMBER: _ClassVar[int]
    COMPRESSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    quota_bytes: int
    quota_kind: QuotaKind
    compression: str
    def __init__(self, name: _Optional[str] = ..., quota_bytes: _Optional[int] = ..., quota_kind: _Optional[_Union[QuotaKind, str]] = ..., compression: _Optional[str] = ...) -> None: ...

class UpdateVolumeResponse(_message.Message):
    __slots__ = ("volume",)
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    volume: Volume
    def __init__(self, volume: _Optional[_Union[Volume, _Mapping]] = ...) -> None: ...

class DeleteVolumeRequest(_message.Message):
    __slots__ = ("name", "force", "purge")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    PURGE_FIELD_NUMBER: _ClassVar[int]
    name: str
    force: bool
    purge: bool
    def __init__(self, name: _Optional[str] = ..., force: _Optional[bool] = ..., purge: _Optional[bool] = ...) -> None: ...

class DeleteVolumeResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CloneRequest(_message.Message):
    __slots__ = ("volume", "snapshot", "name", "request_id")
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    volume: str
    snapshot: str
    name: str
    request_id: str
    def __init__(self, volume: _Optional[str] = ..., snapshot: _Optional[str] = ..., name: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class CloneResponse(_message.Message):
    __slots__ = ("volume",)
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    volume: Volume
    def __init__(self, volume: _Optional[_Union[Volume, _Mapping]] = ...) -> None: ...

class CheckoutRequest(_message.Message):
    __slots__ = ("volume", "snapshot", "unsaved", "label")
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    UNSAVED_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    volume: str
    snapshot: str
    unsaved: Unsaved
    label: str
    def __init__(self, volume: _Optional[str] = ..., snapshot: _Optional[str] = ..., unsaved: _Optional[_Union[Unsaved, str]] = ..., label: _Optional[str] = ...) -> None: ...

class CheckoutResponse(_message.Message):
    __slots__ = ("snapshot", "saved", "moved")
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    SAVED_FIELD_NUMBER: _ClassVar[int]
    MOVED_FIELD_NUMBER: _ClassVar[int]
    snapshot: _snapshot_pb2.Snapshot
    saved: _snapshot_pb2.Snapshot
    moved: bool
    def __init__(self, snapshot: _Optional[_Union[_snapshot_pb2.Snapshot, _Mapping]] = ..., saved: _Optional[_Union[_snapshot_pb2.Snapshot, _Mapping]] = ..., moved: _Optional[bool] = ...) -> None: ...

class RestoreRequest(_message.Message):
    __slots__ = ("volume", "snapshot", "paths")
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    PATHS_FIELD_NUMBER: _ClassVar[int]
    volume: str
    snapshot: str
    paths: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, volume: _Optional[str] = ..., snapshot: _Optional[str] = ..., paths: _Optional[_Iterable[bytes]] = ...) -> None: ...

class RestoreResponse(_message.Message):
    __slots__ = ("paths", "files", "total_bytes")
    PATHS_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    paths: _containers.RepeatedScalarFieldContainer[bytes]
    files: int
    total_bytes: int
    def __init__(self, paths: _Optional[_Iterable[bytes]] = ..., files: _Optional[int] = ..., total_bytes: _Optional[int] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ("volume",)
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    volume: str
    def __init__(self, volume: _Optional[str] = ...) -> None: ...

class StatusResponse(_message.Message):
    __slots__ = ("changes",)
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    changes: _containers.RepeatedCompositeFieldContainer[_snapshot_pb2.Change]
    def __init__(self, changes: _Optional[_Iterable[_Union[_snapshot_pb2.Change, _Mapping]]] = ...) -> None: ...
