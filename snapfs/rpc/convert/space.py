"""Space, retention, import and export, to messages and back."""

from __future__ import annotations

from collections.abc import Iterable

from snapfs import api
from snapfs.rpc.convert.values import optional_time_to, path_of, path_to, text, time_of, time_to
from snapfs.v1 import operation_pb2, retention_pb2, space_pb2

# -- space


def usage_to(record: api.Usage) -> space_pb2.Usage:
    return space_pb2.Usage(
        volume=record.volume,
        snapshot=record.snapshot,
        create_time=optional_time_to(record.created_ns),
        trashed=record.trashed,
        logical_bytes=record.logical_bytes,
        referenced_bytes=record.referenced_bytes,
        exclusive_bytes=record.exclusive_bytes,
    )


def usage_of(message: space_pb2.Usage) -> api.Usage:
    return api.Usage(
        volume=message.volume,
        snapshot=message.snapshot,
        created_ns=time_of(message.create_time),
        trashed=message.trashed,
        logical_bytes=message.logical_bytes,
        referenced_bytes=message.referenced_bytes,
        exclusive_bytes=message.exclusive_bytes,
    )


def volume_usage_to(record: api.VolumeUsage) -> space_pb2.VolumeUsage:
    """Without what its snapshots hold, which is told apart."""
    return space_pb2.VolumeUsage(
        volume=record.volume,
        trashed=record.trashed,
        logical_bytes=record.logical_bytes,
        referenced_bytes=record.referenced_bytes,
        exclusive_bytes=record.exclusive_bytes,
        snapshots_bytes=record.snapshots_bytes,
        snapshots=record.snapshots,
        head=usage_to(record.head),
    )


def volume_usage_of(message: space_pb2.VolumeUsage, usages: Iterable[api.Usage] = ()) -> api.VolumeUsage:
    return api.VolumeUsage(
        volume=message.volume,
        trashed=message.trashed,
        logical_bytes=message.logical_bytes,
        referenced_bytes=message.referenced_bytes,
        exclusive_bytes=message.exclusive_bytes,
        snapshots_bytes=message.snapshots_bytes,
        snapshots=message.snapshots,
        head=usage_of(message.head),
        usages=list(usages),
    )


def what_if_to(record: api.WhatIf) -> space_pb2.WhatIf:
    return space_pb2.WhatIf(targets=record.targets, freed_bytes=record.freed_bytes, protected=record.protected)


def what_if_of(message: space_pb2.WhatIf) -> api.WhatIf:
    return api.WhatIf(targets=list(message.targets), freed_bytes=message.freed_bytes, protected=list(message.protected))


def space_to(record: api.Space) -> space_pb2.Space:
    return space_pb2.Space(
        live_bytes=record.live_bytes,
        snapshots_bytes=record.snapshots_bytes,
        trash_bytes=record.trash_bytes,
        deleting_bytes=record.deleting_bytes,
        waiting_bytes=record.waiting_bytes,
        seal_bytes=record.seal_bytes,
        index_bytes=record.index_bytes,
        overhead_bytes=record.overhead_bytes,
        disk_bytes=record.disk_bytes,
        free_bytes=record.free_bytes,
        logical_bytes=record.logical_bytes,
        raw_bytes=record.raw_bytes,
        stored_bytes=record.stored_bytes,
        oldest_reader_seconds=record.oldest_reader_seconds,
    )


def space_of(message: space_pb2.Space) -> api.Space:
    return api.Space(
        live_bytes=message.live_bytes,
        snapshots_bytes=message.snapshots_bytes,
        trash_bytes=message.trash_bytes,
        deleting_bytes=message.deleting_bytes,
        waiting_bytes=message.waiting_bytes,
        seal_bytes=message.seal_bytes,
        index_bytes=message.index_bytes,
        overhead_bytes=message.overhead_bytes,
        disk_bytes=message.disk_bytes,
        free_bytes=message.free_bytes,
        logical_bytes=message.logical_bytes,
        raw_bytes=message.raw_bytes,
        stored_bytes=message.stored_bytes,
        oldest_reader_seconds=message.oldest_reader_seconds,
    )


# -- reports of operations


def optimize_report_to(record: api.OptimizeReport) -> operation_pb2.OptimizeReport:
    return operation_pb2.OptimizeReport(
        files=record.files,
        rewritten=record.rewritten,
        read_bytes=record.read_bytes,
        written_bytes=record.written_bytes,
        extents_before=record.extents_before,
        extents_after=record.extents_after,
    )


def optimize_report_of(message: operation_pb2.OptimizeReport) -> api.OptimizeReport:
    return api.OptimizeReport(
        files=message.files,
        rewritten=message.rewritten,
        read_bytes=message.read_bytes,
        written_bytes=message.written_bytes,
        extents_before=message.extents_before,
        extents_after=message.extents_after,
    )


def import_report_to(record: api.ImportReport) -> operation_pb2.ImportReport:
    return operation_pb2.ImportReport(
        files=record.files,
        directories=record.directories,
        unchanged=record.unchanged,
        total_bytes=record.total_bytes,
        failed=[path_to(one) for one in record.failed],
        failures=record.failures,
    )


def import_report_of(message: operation_pb2.ImportReport) -> api.ImportReport:
    return api.ImportReport(
        files=message.files,
        directories=message.directories,
        unchanged=message.unchanged,
        total_bytes=message.total_bytes,
        failed=[path_of(one) for one in message.failed],
        failures=message.failures,
    )


# -- retention


def decision_to(record: api.Decision) -> retention_pb2.Decision:
    return retention_pb2.Decision(
        volume=record.volume,
        snapshot=record.snapshot,
        create_time=time_to(record.created_ns),
        keep=record.keep,
        reasons=record.reasons,
    )


def decision_of(message: retention_pb2.Decision) -> api.Decision:
    return api.Decision(
        volume=message.volume,
        snapshot=message.snapshot,
        created_ns=time_of(message.create_time),
        keep=message.keep,
        reasons=list(message.reasons),
    )


def retention_report_to(record: api.RetentionReport) -> retention_pb2.RetentionReport:
    """Without the decisions, which are told apart."""
    return retention_pb2.RetentionReport(
        deleted=record.deleted,
        freed_bytes=record.freed_bytes,
        dry_run=record.dry_run,
        warnings=[text(one) for one in record.warnings],
    )


def retention_report_of(
    message: retention_pb2.RetentionReport, decisions: Iterable[api.Decision] = ()
) -> api.RetentionReport:
    return api.RetentionReport(
        decisions=list(decisions),
        deleted=message.deleted,
        freed_bytes=message.freed_bytes,
        dry_run=message.dry_run,
        warnings=list(message.warnings),
    )


def trash_entry_to(record: api.TrashEntry) -> retention_pb2.TrashEntry:
    return retention_pb2.TrashEntry(
        volume=record.volume,
        snapshot=record.snapshot,
        delete_time=time_to(record.deleted_ns),
        expire_time=time_to(record.expires_ns),
        exclusive_bytes=record.exclusive_bytes,
    )


def trash_entry_of(message: retention_pb2.TrashEntry) -> api.TrashEntry:
    return api.TrashEntry(
        volume=message.volume,
        snapshot=message.snapshot,
        deleted_ns=time_of(message.delete_time),
        expires_ns=time_of(message.expire_time),
        exclusive_bytes=message.exclusive_bytes,
    )


def emptied_to(record: api.Emptied) -> retention_pb2.EmptyTrashResponse:
    return retention_pb2.EmptyTrashResponse(entries=record.entries, kept=record.kept)


def emptied_of(message: retention_pb2.EmptyTrashResponse) -> api.Emptied:
    return api.Emptied(entries=message.entries, kept=message.kept)
