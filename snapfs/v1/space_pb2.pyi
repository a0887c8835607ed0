import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from snapfs.v1 import operation_pb2 as _operation_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Usage(_message.Message):
    __slots__ = ("volume", "snapshot", "create_time", "trashed", "logical_bytes", "referenced_bytes", "exclusive_bytes")
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    TRASHED_FIELD_NUMBER: _ClassVar[int]
    LOGICAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    REFERENCED_BYTES_FIELD_NUMBER: _ClassVar[int]
    EXCLUSIVE_BYTES_FIELD_NUMBER: _ClassVar[int]
    volume: str
    snapshot: str
    create_time: _timestamp_pb2.Timestamp
    trashed: bool
    logical_bytes: int
    referenced_bytes: int
    exclusive_bytes: int
    def __init__(self, volume: _Optional[str] = ..., snapshot: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., trashed: _Optional[bool] = ..., logical_bytes: _Optional[int] = ..., referenced_bytes: _Optional[int] = ..., exclusive_bytes: _Optional[int] = ...) -> None: ...

class VolumeUsage(_message.Message):
    __slots__ = ("volume", "trashed", "logical_bytes", "referenced_bytes", "exclusive_bytes", "snapshots_bytes", "snapshots", "head")
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    TRASHED_FIELD_NUMBER: _ClassVar[int]
    LOGICAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    REFERENCED_BYTES_FIELD_NUMBER: _ClassVar[int]
    EXCLUSIVE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOTS_BYTES_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOTS_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    volume: str
    trashed: bool
    logical_bytes: int
    referenced_bytes: int
    exclusive_bytes: int
    snapshots_bytes: int
    snapshots: int
    head: Usage
    def __init__(self, volume: _Optional[str] = ..., trashed: _Optional[bool] = ..., logical_bytes: _Optional[int] = ..., referenced_bytes: _Optional[int] = ..., exclusive_bytes: _Optional[int] = ..., snapshots_bytes: _Optional[int] = ..., snapshots: _Optional[int] = ..., head: _Optional[_Union[Usage, _Mapping]] = ...) -> None: ...

class GetUsageRequest(_message.Message):
    __slots__ = ("volume", "snapshots")
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOTS_FIELD_NUMBER: _ClassVar[int]
    volume: str
    snapshots: bool
    def __init__(self, volume: _Optional[str] = ..., snapshots: _Optional[bool] = ...) -> None: ...

class GetUsageResponse(_message.Message):
    __slots__ = ("volume", "usages")
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    USAGES_FIELD_NUMBER: _ClassVar[int]
    volume: VolumeUsage
    usages: _containers.RepeatedCompositeFieldContainer[Usage]
    def __init__(self, volume: _Optional[_Union[VolumeUsage, _Mapping]] = ..., usages: _Optional[_Iterable[_Union[Usage, _Mapping]]] = ...) -> None: ...

class WhatIf(_message.Message):
    __slots__ = ("targets", "freed_bytes", "protected")
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    FREED_BYTES_FIELD_NUMBER: _ClassVar[int]
    PROTECTED_FIELD_NUMBER: _ClassVar[int]
    targets: _containers.RepeatedScalarFieldContainer[str]
    freed_bytes: int
    protected: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, targets: _Optional[_Iterable[str]] = ..., freed_bytes: _Optional[int] = ..., protected: _Optional[_Iterable[str]] = ...) -> None: ...

class WhatIfRequest(_message.Message):
    __slots__ = ("targets",)
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    targets: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, targets: _Optional[_Iterable[str]] = ...) -> None: ...

class WhatIfResponse(_message.Message):
    __slots__ = ("what_if",)
    WHAT_IF_FIELD_NUMBER: _ClassVar[int]
    what_if: WhatIf
    def __init__(self, what_if: _Optional[_Union[WhatIf, _Mapping]] = ...) -> None: ...

class CheapestRequest(_message.Message):
    __slots__ = ("volume", "free_bytes")
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    volume: str
    free_bytes: int
    def __init__(self, volume: _Optional[str] = ..., free_bytes: _Optional[int] = ...) -> None: ...

class CheapestResponse(_message.Message):
    __slots__ = ("what_if",)
    WHAT_IF_FIELD_NUMBER: _ClassVar[int]
    what_if: WhatIf
    def __init__(self, what_if: _Optional[_Union[WhatIf, _Mapping]] = ...) -> None: ...

class Space(_message.Message):
    __slots__ = ("live_bytes", "snapshots_bytes", "trash_bytes", "deleting_bytes", "waiting_bytes", "seal_bytes", "index_bytes", "overhead_bytes", "disk_bytes", "free_bytes", "logical_bytes", "raw_bytes", "stored_bytes", "oldest_reader_seconds")
    LIVE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOTS_BYTES_FIELD_NUMBER: _ClassVar[int]
    TRASH_BYTES_FIELD_NUMBER: _ClassVar[int]
    DELETING_BYTES_FIELD_NUMBER: _ClassVar[int]
    WAITING_BYTES_FIELD_NUMBER: _ClassVar[int]
    SEAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    INDEX_BYTES_FIELD_NUMBER: _ClassVar[int]
    OVERHEAD_BYTES_FIELD_NUMBER: _ClassVar[int]
    DISK_BYTES_FIELD_NUMBER: _ClassVar[int]
    FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    LOGICAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    RAW_BYTES_FIELD_NUMBER: _ClassVar[int]
    STORED_BYTES_FIELD_NUMBER: _ClassVar[int]
    OLDEST_READER_SECONDS_FIELD_NUMBER: _ClassVar[int]
    live_bytes: int
    snapshots_bytes: int
    trash_bytes: int
    deleting_bytes: int
    waiting_bytes: int
    seal_bytes: int
    index_bytes: int
    overhead_bytes: int
    disk_bytes: int
    free_bytes: int
    logical_bytes: int
    raw_bytes: int
    stored_bytes: int
    oldest_reader_seconds: float
    def __init__(self, live_bytes: _Optional[int] = ..., snapshots_bytes: _Optional[int] = ..., trash_bytes: _Optional[int] = ..., deleting_bytes: _Optional[int] = ..., waiting_bytes: _Optional[int] = ..., seal_bytes: _Optional[int] = ..., index_bytes: _Optional[int] = ..., overhead_bytes: _Optional[int] = ..., disk_bytes: _Optional[int] = ..., free_bytes: _Optional[int] = ..., logical_bytes: _Optional[int] = ..., raw_bytes: _Optional[int] = ..., stored_bytes: _Optional[int] = ..., oldest_reader_seconds: _Optional[float] = ...) -> None: ...

class GetSpaceRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetSpaceResponse(_message.Message):
    __slots__ = ("space",)
    SPACE_FIELD_NUMBER: _ClassVar[int]
    space: Space
    def __init__(self, space: _Optional[_Union[Space, _Mapping]] = ...) -> None: ...

class StartOptimizeRequest(_message.Message):
    __slots__ = ("volume", "paths", "bytes_per_second", "request_id")
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    PATHS_FIELD_NUMBER: _ClassVar[int]
    BYTES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    volume: str
    paths: _containers.RepeatedScalarFieldContainer[bytes]
    bytes_per_second: int
    request_id: str
    def __init__(self, volume: _Optional[str] = ..., paths: _Optional[_Iterable[bytes]] = ..., bytes_per_second: _Optional[int] = ..., request_id: _Optional[str] = ...) -> None: ...

class StartOptimizeResponse(_message.Message):
    __slots__ = ("operation",)
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    operation: _operation_pb2.Operation
    def __init__(self, operation: _Optional[_Union[_operation_pb2.Operation, _Mapping]] = ...) -> None: ...
