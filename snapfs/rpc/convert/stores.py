"""Events, operations, the store, settings and access, to messages and back."""

from __future__ import annotations

from snapfs import api
from snapfs.rpc.convert.space import import_report_of, import_report_to, optimize_report_of, optimize_report_to
from snapfs.rpc.convert.states import (
    EVENT_KINDS,
    OPERATION_STATES,
    ROLES,
    SCRUB_STATES,
    event_kind_of,
    operation_state_of,
    role_of,
    scrub_state_of,
)
from snapfs.rpc.convert.trees import snapshot_of, snapshot_to
from snapfs.rpc.convert.values import optional_time_to, path_of, path_to, text, time_of, time_to
from snapfs.v1 import access_pb2, event_pb2, operation_pb2, store_pb2

# -- events


def event_to(record: api.Event) -> event_pb2.Event:
    return event_pb2.Event(
        sequence=record.sequence,
        time=time_to(record.time_ns),
        kind=EVENT_KINDS[record.kind],
        volume=record.volume,
        snapshot=record.snapshot,
        commit=record.commit,
        message=text(record.message),
    )


def event_of(message: event_pb2.Event) -> api.Event:
    return api.Event(
        sequence=message.sequence,
        time_ns=time_of(message.time),
        kind=event_kind_of(message.kind),
        volume=message.volume,
        snapshot=message.snapshot,
        commit=message.commit,
        message=message.message,
    )


def events_to(record: api.Events) -> event_pb2.WatchEventsResponse:
    return event_pb2.WatchEventsResponse(events=[event_to(event) for event in record.events], sequence=record.sequence)


def events_of(message: event_pb2.WatchEventsResponse) -> api.Events:
    return api.Events(events=[event_of(event) for event in message.events], sequence=message.sequence)


# -- operations


def _finding_to(record: api.Finding) -> operation_pb2.Finding:
    return operation_pb2.Finding(code=record.code, message=text(record.message))


def _finding_of(message: operation_pb2.Finding) -> api.Finding:
    return api.Finding(code=message.code, message=message.message)


def _damage_to(record: api.Damage) -> operation_pb2.Damage:
    return operation_pb2.Damage(
        volume=record.volume,
        path=path_to(record.path),
        head=record.head,
        snapshots=record.snapshots,
        good=record.good,
        blocks=record.blocks,
    )


def _damage_of(message: operation_pb2.Damage) -> api.Damage:
    return api.Damage(
        volume=message.volume,
        path=path_of(message.path),
        head=message.head,
        snapshots=list(message.snapshots),
        good=list(message.good),
        blocks=list(message.blocks),
    )


def report_to(record: api.CheckReport) -> operation_pb2.CheckReport:
    return operation_pb2.CheckReport(
        findings=[_finding_to(one) for one in record.findings],
        inodes=record.inodes,
        blocks=record.blocks,
        snapshots=record.snapshots,
        data_read_bytes=record.data_read_bytes,
        damage=[_damage_to(one) for one in record.damage],
    )


def report_of(message: operation_pb2.CheckReport) -> api.CheckReport:
    return api.CheckReport(
        findings=[_finding_of(one) for one in message.findings],
        inodes=message.inodes,
        blocks=message.blocks,
        snapshots=message.snapshots,
        data_read_bytes=message.data_read_bytes,
        damage=[_damage_of(one) for one in message.damage],
    )


def verify_report_to(record: api.VerifyReport) -> operation_pb2.VerifyReport:
    return operation_pb2.VerifyReport(
        snapshot=snapshot_to(record.snapshot),
        digest=record.digest,
        findings=[_finding_to(one) for one in record.findings],
        files=record.files,
        data_read_bytes=record.data_read_bytes,
        chained=record.chained,
    )


def verify_report_of(message: operation_pb2.VerifyReport) -> api.VerifyReport:
    return api.VerifyReport(
        snapshot=snapshot_of(message.snapshot),
        digest=message.digest,
        findings=[_finding_of(one) for one in message.findings],
        files=message.files,
        data_read_bytes=message.data_read_bytes,
        chained=message.chained,
    )


def operation_to(record: api.Operation) -> operation_pb2.Operation:
    error = record.error
    return operation_pb2.Operation(
        id=record.id,
        kind=record.kind,
        state=OPERATION_STATES[record.state],
        done=record.done,
        total=record.total,
        start_time=optional_time_to(record.start_ns),
        end_time=optional_time_to(record.end_ns),
        error=operation_pb2.OperationError(
            reason=error.kind.upper(), message=text(error.message), hint=text(error.hint)
        )
        if error
        else None,
        check=report_to(record.check) if record.check else None,
        verify=verify_report_to(record.verify) if record.verify else None,
        optimize=optimize_report_to(record.optimize) if record.optimize else None,
        imported=import_report_to(record.imported) if record.imported else None,
    )


def operation_of(message: operation_pb2.Operation) -> api.Operation:
    error = message.error
    return api.Operation(
        id=message.id,
        kind=message.kind,
        state=operation_state_of(message.state),
        done=message.done,
        total=message.total,
        start_ns=time_of(message.start_time),
        end_ns=time_of(message.end_time),
        error=api.OperationError(kind=error.reason.lower(), message=error.message, hint=error.hint)
        if message.HasField("error")
        else None,
        check=report_of(message.check) if message.HasField("check") else None,
        verify=verify_report_of(message.verify) if message.HasField("verify") else None,
        optimize=optimize_report_of(message.optimize) if message.HasField("optimize") else None,
        imported=import_report_of(message.imported) if message.HasField("imported") else None,
    )


# -- the store


def store_to(record: api.StoreInfo) -> store_pb2.GetStoreResponse:
    return store_pb2.GetStoreResponse(
        path=text(record.path),
        uuid=record.uuid,
        format=record.format,
        volumes=record.volumes,
        snapshots=record.snapshots,
        stored_bytes=record.stored_bytes,
        seal_bytes=record.seal_bytes,
        logical_bytes=record.logical_bytes,
        index_bytes=record.index_bytes,
        disk_bytes=record.disk_bytes,
        free_bytes=record.free_bytes,
        mountpoint=text(record.mountpoint),
        pid=record.pid,
        version=record.version,
        uptime_seconds=record.uptime_seconds,
        dirty_bytes=record.dirty_bytes,
        failure=text(record.failure),
    )


def store_of(message: store_pb2.GetStoreResponse) -> api.StoreInfo:
    return api.StoreInfo(
        path=message.path,
        uuid=message.uuid,
        format=message.format,
        volumes=message.volumes,
        snapshots=message.snapshots,
        stored_bytes=message.stored_bytes,
        seal_bytes=message.seal_bytes,
        logical_bytes=message.logical_bytes,
        index_bytes=message.index_bytes,
        disk_bytes=message.disk_bytes,
        free_bytes=message.free_bytes,
        mountpoint=message.mountpoint,
        pid=message.pid,
        version=message.version,
        uptime_seconds=message.uptime_seconds,
        dirty_bytes=message.dirty_bytes,
        failure=message.failure,
    )


def scrub_to(record: api.ScrubStatus) -> store_pb2.Scrub:
    return store_pb2.Scrub(
        state=SCRUB_STATES[record.state],
        start_time=optional_time_to(record.start_ns),
        end_time=optional_time_to(record.end_ns),
        index_done=record.index_done,
        done=record.done,
        total=record.total,
        data_read_bytes=record.data_read_bytes,
        found=record.found,
        findings=[_finding_to(one) for one in record.findings],
        next_time=optional_time_to(record.next_ns),
    )


def scrub_of(message: store_pb2.Scrub) -> api.ScrubStatus:
    return api.ScrubStatus(
        state=scrub_state_of(message.state),
        start_ns=time_of(message.start_time),
        end_ns=time_of(message.end_time),
        index_done=message.index_done,
        done=message.done,
        total=message.total,
        data_read_bytes=message.data_read_bytes,
        found=message.found,
        findings=[_finding_of(one) for one in message.findings],
        next_ns=time_of(message.next_time),
    )


def setting_to(record: api.Setting) -> store_pb2.Setting:
    return store_pb2.Setting(
        name=record.name,
        value=record.value,
        default_value=record.default_value,
        description=record.description,
        configured=record.configured,
        needs_restart=record.needs_restart,
    )


def setting_of(message: store_pb2.Setting) -> api.Setting:
    return api.Setting(
        name=message.name,
        value=message.value,
        default_value=message.default_value,
        description=message.description,
        configured=message.configured,
        needs_restart=message.needs_restart,
    )


def settings_to(record: api.Settings) -> store_pb2.GetSettingsResponse:
    return store_pb2.GetSettingsResponse(
        settings=[setting_to(setting) for setting in record.settings], path=text(record.path)
    )


def settings_of(message: store_pb2.GetSettingsResponse) -> api.Settings:
    return api.Settings(settings=[setting_of(setting) for setting in message.settings], path=message.path)


def reloaded_to(record: api.Reloaded) -> store_pb2.ReloadSettingsResponse:
    return store_pb2.ReloadSettingsResponse(applied=record.applied, waiting=record.waiting)


def reloaded_of(message: store_pb2.ReloadSettingsResponse) -> api.Reloaded:
    return api.Reloaded(applied=list(message.applied), waiting=list(message.waiting))


# -- access


def caller_to(record: api.Caller) -> access_pb2.GetCallerResponse:
    return access_pb2.GetCallerResponse(name=record.name, role=ROLES[record.role], volumes=record.volumes)


def caller_of(message: access_pb2.GetCallerResponse) -> api.Caller:
    return api.Caller(name=message.name, role=role_of(message.role), volumes=list(message.volumes))


def token_to(record: api.Token) -> access_pb2.Token:
    return access_pb2.Token(
        name=record.name,
        role=ROLES[record.role],
        volumes=record.volumes,
        create_time=time_to(record.created_ns),
        expire_time=optional_time_to(record.expires_ns),
        revoke_time=optional_time_to(record.revoked_ns),
        certificate=record.certificate,
    )


def token_of(message: access_pb2.Token) -> api.Token:
    return api.Token(
        name=message.name,
        role=role_of(message.role),
        volumes=list(message.volumes),
        created_ns=time_of(message.create_time),
        expires_ns=time_of(message.expire_time),
        revoked_ns=time_of(message.revoke_time),
        certificate=message.certificate,
    )


def new_token_to(record: api.NewToken) -> access_pb2.CreateTokenResponse:
    return access_pb2.CreateTokenResponse(token=token_to(record.token), secret=record.secret)


def new_token_of(message: access_pb2.CreateTokenResponse) -> api.NewToken:
    return api.NewToken(token=token_of(message.token), secret=message.secret)


def audit_entry_to(record: api.AuditEntry) -> access_pb2.AuditEntry:
    return access_pb2.AuditEntry(
        sequence=record.sequence,
        time=time_to(record.time_ns),
        caller=record.caller,
        peer=text(record.peer),
        method=record.method,
        request=record.request,
        result=record.result,
    )


def audit_entry_of(message: access_pb2.AuditEntry) -> api.AuditEntry:
    return api.AuditEntry(
        sequence=message.sequence,
        time_ns=time_of(message.time),
        caller=message.caller,
        peer=message.peer,
        method=message.method,
        request=message.request,
        result=message.result,
    )
