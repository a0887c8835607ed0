"""Volumes, snapshots and changes, to messages and back."""

from __future__ import annotations

from collections.abc import Iterable

from snapfs import api
from snapfs.rpc.convert.values import (
    CHANGE_KINDS,
    FILE_TYPES,
    change_kind_of,
    file_type_of,
    optional_time_to,
    path_of,
    path_to,
    quota_kind_of,
    quota_kind_to,
    text,
    time_of,
    time_to,
)
from snapfs.v1 import snapshot_pb2, volume_pb2

# -- volumes


def volume_to(record: api.Volume) -> volume_pb2.Volume:
    return volume_pb2.Volume(
        name=record.name,
        snapshots=record.snapshots,
        create_time=time_to(record.created_ns),
        parent=record.parent,
        quota_bytes=record.quota_bytes,
        used_bytes=record.used_bytes,
        quota_kind=quota_kind_to(record.quota_kind),
        compression=record.compression,
        policy=policy_to(record.policy) if record.policy else None,
        origin=record.origin,
    )


def volume_of(message: volume_pb2.Volume) -> api.Volume:
    return api.Volume(
        name=message.name,
        snapshots=message.snapshots,
        created_ns=time_of(message.create_time),
        parent=message.parent,
        quota_bytes=message.quota_bytes,
        used_bytes=message.used_bytes,
        quota_kind=quota_kind_of(message.quota_kind),
        compression=message.compression,
        policy=policy_of(message.policy) if message.HasField("policy") else None,
        origin=message.origin,
    )


def policy_to(record: api.RetentionPolicy) -> volume_pb2.RetentionPolicy:
    return volume_pb2.RetentionPolicy(
        last=record.last,
        hourly=record.hourly,
        daily=record.daily,
        weekly=record.weekly,
        monthly=record.monthly,
        yearly=record.yearly,
        within_seconds=record.within_seconds,
        reachable=record.reachable,
        repositories=[text(one) for one in record.repositories],
        distinct=record.distinct,
    )


def policy_of(message: volume_pb2.RetentionPolicy) -> api.RetentionPolicy:
    return api.RetentionPolicy(
        last=message.last,
        hourly=message.hourly,
        daily=message.daily,
        weekly=message.weekly,
        monthly=message.monthly,
        yearly=message.yearly,
        within_seconds=message.within_seconds,
        reachable=message.reachable,
        repositories=list(message.repositories),
        distinct=message.distinct,
    )


def checkout_to(record: api.Checkout) -> volume_pb2.CheckoutResponse:
    return volume_pb2.CheckoutResponse(
        snapshot=snapshot_to(record.snapshot),
        saved=snapshot_to(record.saved) if record.saved else None,
        moved=record.moved,
    )


def checkout_of(message: volume_pb2.CheckoutResponse) -> api.Checkout:
    return api.Checkout(
        snapshot=snapshot_of(message.snapshot),
        saved=snapshot_of(message.saved) if message.HasField("saved") else None,
        moved=message.moved,
    )


def restored_to(record: api.Restored) -> volume_pb2.RestoreResponse:
    return volume_pb2.RestoreResponse(
        paths=[path_to(path) for path in record.paths], files=record.files, total_bytes=record.total_bytes
    )


def restored_of(message: volume_pb2.RestoreResponse) -> api.Restored:
    return api.Restored(
        paths=[path_of(path) for path in message.paths], files=message.files, total_bytes=message.total_bytes
    )


# -- snapshots


def git_to(record: api.GitCommit) -> snapshot_pb2.GitCommit:
    return snapshot_pb2.GitCommit(
        commit=record.commit,
        branch=record.branch,
        subject=record.subject,
        author=record.author,
        remote=record.remote,
        dirty=record.dirty,
    )


def git_of(message: snapshot_pb2.GitCommit) -> api.GitCommit:
    return api.GitCommit(
        commit=message.commit,
        branch=message.branch,
        subject=message.subject,
        author=message.author,
        remote=message.remote,
        dirty=message.dirty,
    )


def snapshot_to(record: api.Snapshot) -> snapshot_pb2.Snapshot:
    return snapshot_pb2.Snapshot(
        volume=record.volume,
        name=record.name,
        create_time=time_to(record.created_ns),
        message=record.message,
        meta=record.meta,
        git=git_to(record.git) if record.git else None,
        parent=record.parent,
        current=record.current,
        created=record.created,
        tags=record.tags,
        seal=record.seal,
        holds=record.holds,
        lock_time=optional_time_to(record.locked_until_ns),
    )


def snapshot_of(message: snapshot_pb2.Snapshot) -> api.Snapshot:
    return api.Snapshot(
        volume=message.volume,
        name=message.name,
        created_ns=time_of(message.create_time),
        message=message.message,
        meta=dict(message.meta),
        git=git_of(message.git) if message.HasField("git") else None,
        parent=message.parent,
        current=message.current,
        created=message.created,
        tags=list(message.tags),
        seal=message.seal,
        holds=list(message.holds),
        locked_until_ns=time_of(message.lock_time),
    )


def filter_to(record: api.SnapshotFilter) -> snapshot_pb2.SnapshotFilter:
    return snapshot_pb2.SnapshotFilter(
        name_prefix=record.name_prefix,
        commit=record.commit,
        branch=record.branch,
        tag=record.tag,
        meta=record.meta,
        created_from=optional_time_to(record.created_from_ns),
        created_before=optional_time_to(record.created_before_ns),
    )


def filter_of(message: snapshot_pb2.SnapshotFilter) -> api.SnapshotFilter:
    return api.SnapshotFilter(
        name_prefix=message.name_prefix,
        commit=message.commit,
        branch=message.branch,
        tag=message.tag,
        meta=dict(message.meta),
        created_from_ns=time_of(message.created_from),
        created_before_ns=time_of(message.created_before),
    )


def snapshots_to(records: Iterable[api.Snapshot]) -> list[snapshot_pb2.Snapshot]:
    return [snapshot_to(record) for record in records]


def snapshots_of(messages: Iterable[snapshot_pb2.Snapshot]) -> list[api.Snapshot]:
    return [snapshot_of(message) for message in messages]


def rewrite_to(old_commit: str, git: api.GitCommit) -> snapshot_pb2.Rewrite:
    return snapshot_pb2.Rewrite(old_commit=old_commit, git=git_to(git))


def rewrite_of(message: snapshot_pb2.Rewrite) -> tuple[str, api.GitCommit]:
    return message.old_commit, git_of(message.git)


def carried_to(record: api.Carried) -> snapshot_pb2.CarrySnapshotsResponse:
    return snapshot_pb2.CarrySnapshotsResponse(carried=snapshots_to(record.carried), missing=record.missing)


def carried_of(message: snapshot_pb2.CarrySnapshotsResponse) -> api.Carried:
    return api.Carried(carried=snapshots_of(message.carried), missing=list(message.missing))


def change_to(record: api.Change) -> snapshot_pb2.Change:
    return snapshot_pb2.Change(
        kind=CHANGE_KINDS[record.kind],
        path=path_to(record.path),
        old_path=path_to(record.old_path),
        type=FILE_TYPES[record.type],
        old_bytes=record.old_bytes,
        new_bytes=record.new_bytes,
        changed_bytes=record.changed_bytes,
        content=record.content,
        metadata=record.metadata,
    )


def change_of(message: snapshot_pb2.Change) -> api.Change:
    return api.Change(
        kind=change_kind_of(message.kind),
        path=path_of(message.path),
        old_path=path_of(message.old_path),
        type=file_type_of(message.type),
        old_bytes=message.old_bytes,
        new_bytes=message.new_bytes,
        changed_bytes=message.changed_bytes,
        content=message.content,
        metadata=message.metadata,
    )
