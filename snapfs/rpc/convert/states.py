"""Enum values of events, operations, scrubs and roles, to messages and back.

The tables are total in both directions (a test proves it).
"""

from __future__ import annotations

from typing import Final

from snapfs import api
from snapfs.rpc.convert.values import inverted, known
from snapfs.v1 import access_pb2, event_pb2, operation_pb2, store_pb2

EVENT_KINDS: Final = {
    api.EventKind.VOLUME_CREATED: event_pb2.EVENT_KIND_VOLUME_CREATED,
    api.EventKind.VOLUME_DELETED: event_pb2.EVENT_KIND_VOLUME_DELETED,
    api.EventKind.SNAPSHOT_CREATED: event_pb2.EVENT_KIND_SNAPSHOT_CREATED,
    api.EventKind.SNAPSHOT_RENAMED: event_pb2.EVENT_KIND_SNAPSHOT_RENAMED,
    api.EventKind.SNAPSHOT_DELETED: event_pb2.EVENT_KIND_SNAPSHOT_DELETED,
    api.EventKind.TAG_SET: event_pb2.EVENT_KIND_TAG_SET,
    api.EventKind.TAG_DELETED: event_pb2.EVENT_KIND_TAG_DELETED,
    api.EventKind.CHECKOUT: event_pb2.EVENT_KIND_CHECKOUT,
    api.EventKind.RESTORE: event_pb2.EVENT_KIND_RESTORE,
    api.EventKind.WARNING: event_pb2.EVENT_KIND_WARNING,
    api.EventKind.DAMAGE_FOUND: event_pb2.EVENT_KIND_DAMAGE_FOUND,
    api.EventKind.VOLUME_UPDATED: event_pb2.EVENT_KIND_VOLUME_UPDATED,
    api.EventKind.SNAPSHOT_UPDATED: event_pb2.EVENT_KIND_SNAPSHOT_UPDATED,
    api.EventKind.SNAPSHOT_RESTORED: event_pb2.EVENT_KIND_SNAPSHOT_RESTORED,
    api.EventKind.VOLUME_RESTORED: event_pb2.EVENT_KIND_VOLUME_RESTORED,
}
OPERATION_STATES: Final = {
    api.OperationState.RUNNING: operation_pb2.OPERATION_STATE_RUNNING,
    api.OperationState.SUCCEEDED: operation_pb2.OPERATION_STATE_SUCCEEDED,
    api.OperationState.FAILED: operation_pb2.OPERATION_STATE_FAILED,
    api.OperationState.CANCELLED: operation_pb2.OPERATION_STATE_CANCELLED,
}
SCRUB_STATES: Final = {
    api.ScrubState.NEVER: store_pb2.SCRUB_STATE_NEVER,
    api.ScrubState.RUNNING: store_pb2.SCRUB_STATE_RUNNING,
    api.ScrubState.PAUSED: store_pb2.SCRUB_STATE_PAUSED,
    api.ScrubState.FINISHED: store_pb2.SCRUB_STATE_FINISHED,
    api.ScrubState.CANCELLED: store_pb2.SCRUB_STATE_CANCELLED,
}
ROLES: Final = {
    api.Role.VIEWER: access_pb2.ROLE_VIEWER,
    api.Role.OPERATOR: access_pb2.ROLE_OPERATOR,
    api.Role.ADMIN: access_pb2.ROLE_ADMIN,
}

EVENT_KINDS_OF: Final = inverted(EVENT_KINDS)
OPERATION_STATES_OF: Final = inverted(OPERATION_STATES)
SCRUB_STATES_OF: Final = inverted(SCRUB_STATES)
ROLES_OF: Final = inverted(ROLES)


def role_to(role: api.Role) -> access_pb2.Role:
    return ROLES[role]


def role_of(value: int) -> api.Role:
    return known(ROLES_OF, value, "role")


def event_kind_to(kind: api.EventKind) -> event_pb2.EventKind:
    return EVENT_KINDS[kind]


def event_kind_of(value: int) -> api.EventKind:
    return known(EVENT_KINDS_OF, value, "kind of event")


def operation_state_of(value: int) -> api.OperationState:
    return known(OPERATION_STATES_OF, value, "state of an operation")


def scrub_state_of(value: int) -> api.ScrubState:
    return known(SCRUB_STATES_OF, value, "state of a scrub")
