"""Who may call what: one table for every method that a server of ours answers.

Invariants:

- ``METHODS`` names every RPC of ``snapfs.v1`` and of the health and reflection services; a method that it does not
  name is refused.  Tests prove it total and that every field it names exists.
- ``authorize`` looks at the caller and the request only: it tells nobody whether a volume exists.
- A caller narrowed to volumes reaches these and nothing that tells of others.  What lists things of many volumes is
  FILTERED: its handler shows the caller's volumes only.

No trio, no grpc here: commands without a daemon need it too.
"""

from __future__ import annotations

import enum
import functools
from typing import Final

import msgspec
from google.protobuf.message import Message

from snapfs import errors
from snapfs.access import OWNER
from snapfs.api import Caller, Role


class Reach(enum.Enum):
    """What of a store a method tells or touches."""

    VOLUMES = enum.auto()
    """The volumes that the request names."""
    FILTERED = enum.auto()
    """The volumes that the caller may touch; the handler leaves the others out."""
    STORE = enum.auto()
    """The store as a whole: not for callers narrowed to volumes."""
    NOTHING = enum.auto()
    """Nothing of a volume."""


class Method(msgspec.Struct, frozen=True, kw_only=True):
    """What a call of an RPC takes."""

    role: Role | None
    """The least role; None: anybody, also who is not known."""
    reach: Reach
    mutating: bool = False
    """Changes something: goes into the audit log."""
    volumes: tuple[str, ...] = ()
    """Fields of the request that name volumes.  An empty one stands, but for the first of a method that is not
    FILTERED, for no further volume."""
    addresses: str = ""
    """Field of the request that lists ``volume`` or ``volume@snapshot``."""
    role_with: tuple[tuple[str, Role], ...] = ()
    """(field, role): the least role of a request in which that field is set; ``a.b`` is field b of the message a."""
    owner: bool = False
    """Only for the store's owner: it acts on the machine with the daemon's rights."""


ANYBODY: Final = None
_RANK: Final = {role: rank for rank, role in enumerate((Role.VIEWER, Role.OPERATOR, Role.ADMIN))}


def _named(role: Role, *volumes: str, role_with: tuple[tuple[str, Role], ...] = ()) -> Method:
    return Method(
        role=role, reach=Reach.VOLUMES, volumes=volumes, mutating=role is not Role.VIEWER, role_with=role_with
    )


def _filtered(*volumes: str) -> Method:
    return Method(role=Role.VIEWER, reach=Reach.FILTERED, volumes=volumes)


def _store(role: Role, *, mutating: bool = False) -> Method:
    return Method(role=role, reach=Reach.STORE, mutating=mutating)


_PURGING: Final = (("purge", Role.ADMIN),)
"""What is in the trash an operator can take back; what is purged nobody can."""
_ASKING_GIT: Final = (("policy.repositories", Role.ADMIN),)
"""The daemon runs git in what the request names."""

METHODS: Final[dict[str, Method]] = {
    "snapfs.v1.VolumeService/CreateVolume": _named(Role.OPERATOR, "name"),
    "snapfs.v1.VolumeService/GetVolume": _named(Role.VIEWER, "name"),
    "snapfs.v1.VolumeService/ListVolumes": _filtered(),
    "snapfs.v1.VolumeService/UpdateVolume": _named(Role.OPERATOR, "name"),
    "snapfs.v1.VolumeService/DeleteVolume": _named(Role.OPERATOR, "name", role_with=_PURGING),
    "snapfs.v1.VolumeService/Clone": _named(Role.OPERATOR, "volume", "name"),
    "snapfs.v1.VolumeService/Checkout": _named(Role.OPERATOR, "volume"),
    "snapfs.v1.VolumeService/Restore": _named(Role.OPERATOR, "volume"),
    "snapfs.v1.VolumeService/Status": _named(Role.VIEWER, "volume"),
    "snapfs.v1.SnapshotService/CreateSnapshot": _named(Role.OPERATOR, "volume"),
    "snapfs.v1.SnapshotService/GetSnapshot": _named(Role.VIEWER, "volume"),
    "snapfs.v1.SnapshotService/ListSnapshots": _filtered("volume"),
    # across clones: a caller must be allowed where it begins, and sees what it may on the way
    "snapfs.v1.SnapshotService/ListAncestry": _filtered("volume"),
    "snapfs.v1.SnapshotService/RenameSnapshot": _named(Role.OPERATOR, "volume"),
    "snapfs.v1.SnapshotService/DeleteSnapshot": _named(Role.OPERATOR, "volume", role_with=_PURGING),
    "snapfs.v1.SnapshotService/TagSnapshot": _named(Role.OPERATOR, "volume"),
    "snapfs.v1.SnapshotService/DeleteTag": _named(Role.OPERATOR, "volume"),
    "snapfs.v1.SnapshotService/CarrySnapshots": _named(Role.OPERATOR, "volume"),
    "snapfs.v1.SnapshotService/Diff": _named(Role.VIEWER, "volume", "other_volume"),
    # space is shared by all volumes: numbers of the store, and what a check finds, tell of each of them
    "snapfs.v1.StoreService/GetStore": _store(Role.VIEWER),
    "snapfs.v1.StoreService/CheckStore": _store(Role.OPERATOR, mutating=True),
    # an operation: who may touch some volumes only could not follow it
    "snapfs.v1.StoreService/VerifySnapshot": Method(
        role=Role.OPERATOR, reach=Reach.STORE, mutating=True, volumes=("volume",)
    ),
    "snapfs.v1.StoreService/StartScrub": _store(Role.OPERATOR, mutating=True),
    "snapfs.v1.StoreService/GetScrub": _store(Role.VIEWER),
    "snapfs.v1.StoreService/PauseScrub": _store(Role.OPERATOR, mutating=True),
    "snapfs.v1.StoreService/CancelScrub": _store(Role.OPERATOR, mutating=True),
    "snapfs.v1.StoreService/GetMetrics": _store(Role.VIEWER),
    "snapfs.v1.StoreService/GetSettings": _store(Role.VIEWER),
    "snapfs.v1.StoreService/UpdateSetting": _store(Role.ADMIN, mutating=True),
    "snapfs.v1.StoreService/ReloadSettings": _store(Role.ADMIN, mutating=True),
    "snapfs.v1.OperationService/GetOperation": _store(Role.VIEWER),
    "snapfs.v1.OperationService/ListOperations": _store(Role.VIEWER),
    "snapfs.v1.OperationService/CancelOperation": _store(Role.OPERATOR, mutating=True),
    "snapfs.v1.OperationService/WatchOperation": Method(
        role=Role.VIEWER, reach=Reach.STORE, role_with=(("cancel_when_abandoned", Role.OPERATOR),)
    ),
    "snapfs.v1.SpaceService/GetUsage": _filtered("volume"),
    "snapfs.v1.SpaceService/WhatIf": Method(role=Role.VIEWER, reach=Reach.VOLUMES, addresses="targets"),
    "snapfs.v1.SpaceService/Cheapest": _named(Role.VIEWER, "volume"),
    "snapfs.v1.SpaceService/GetSpace": _store(Role.VIEWER),
    "snapfs.v1.SpaceService/StartOptimize": Method(
        role=Role.OPERATOR, reach=Reach.STORE, mutating=True, volumes=("volume",)
    ),
    "snapfs.v1.RetentionService/HoldSnapshot": _named(Role.OPERATOR, "volume"),
    "snapfs.v1.RetentionService/ReleaseSnapshot": _named(Role.OPERATOR, "volume"),
    # nobody can take a lock away
    "snapfs.v1.RetentionService/LockSnapshot": _named(Role.ADMIN, "volume"),
    "snapfs.v1.RetentionService/SetPolicy": _named(Role.OPERATOR, "volume", role_with=_ASKING_GIT),
    "snapfs.v1.RetentionService/ApplyPolicy": _named(Role.OPERATOR, "volume", role_with=_ASKING_GIT),
    "snapfs.v1.RetentionService/ListTrash": _filtered("volume"),
    "snapfs.v1.RetentionService/EmptyTrash": _named(Role.ADMIN, "volume"),
    "snapfs.v1.RetentionService/UndeleteSnapshot": _named(Role.OPERATOR, "volume"),
    "snapfs.v1.RetentionService/UndeleteVolume": _named(Role.OPERATOR, "volume", "name"),
    "snapfs.v1.TransferService/StartImport": Method(
        role=Role.ADMIN, reach=Reach.STORE, mutating=True, volumes=("volume",), owner=True
    ),
    "snapfs.v1.TransferService/ExportSnapshot": _named(Role.VIEWER, "volume"),
    "snapfs.v1.EventService/WatchEvents": _filtered("volume"),
    "snapfs.v1.AccessService/GetCaller": Method(role=Role.VIEWER, reach=Reach.NOTHING),
    "snapfs.v1.AccessService/CreateToken": _store(Role.ADMIN, mutating=True),
    "snapfs.v1.AccessService/ListTokens": _store(Role.ADMIN),
    "snapfs.v1.AccessService/RevokeToken": _store(Role.ADMIN, mutating=True),
    "snapfs.v1.AccessService/ListAuditEntries": _store(Role.ADMIN),
    "grpc.health.v1.Health/Check": Method(role=ANYBODY, reach=Reach.NOTHING),
    "grpc.health.v1.Health/List": Method(role=ANYBODY, reach=Reach.NOTHING),
    "grpc.health.v1.Health/Watch": Method(role=ANYBODY, reach=Reach.NOTHING),
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Method(role=Role.VIEWER, reach=Reach.NOTHING),
}
"""By ``package.Service/Method``."""


def find(method: str) -> Method:
    """Raises:
    Unsupported: no such method.
    """
    known = METHODS.get(method)
    if known is None:
        raise errors.Unsupported(f"no method {_one_line(method)}", hint="the daemon is of another version")
    return known


def _one_line(text: str) -> str:
    """Of a stranger's text."""
    return text if text.isprintable() else repr(text)


def authorize(method: str, request: Message, caller: Caller) -> None:
    """Let a known caller pass, or refuse it.

    Raises:
        NotPermitted: its role is too low, or it may not touch the volume.
        Unsupported: no such method.
    """
    rule = find(method)
    short = method.rpartition("/")[2]
    for role in (rule.role, *(role for field, role in rule.role_with if _given(request, field))):
        if role is not None and _RANK[caller.role] < _RANK[role]:
            raise errors.NotPermitted(
                f"{short} takes the role {role}; {caller.name} is {caller.role}", hint=f"use a token of an {role}"
            )
    if rule.owner and caller != OWNER:
        raise errors.NotPermitted(
            f"{short} is for the store's owner only; this is {caller.name}", hint="run it as who owns the store, there"
        )
    if caller.volumes:
        _authorize_volumes(rule, short, request, caller)


def _given(request: Message, field: str) -> bool:
    return bool(functools.reduce(getattr, field.split("."), request))


def _named_volumes(rule: Method, request: Message) -> list[str]:
    """By the request; an empty one must not be."""
    named = [getattr(request, field) for field in rule.volumes]
    if rule.addresses:
        named += [address.partition("@")[0] for address in getattr(request, rule.addresses)] or [""]
    least = 0 if rule.reach is Reach.FILTERED else 1
    return [volume for place, volume in enumerate(named) if volume or place < least or rule.addresses]


def _authorize_volumes(rule: Method, short: str, request: Message, caller: Caller) -> None:
    if rule.reach is Reach.STORE:
        raise errors.NotPermitted(
            f"{short} concerns the whole store; {caller.name} may touch some volumes only",
            hint="use a token that is not narrowed to volumes",
        )
    for volume in _named_volumes(rule, request):
        if not volume:
            raise errors.NotPermitted(
                f"{short} without a volume concerns all; {caller.name} may touch some only", hint="name a volume"
            )
        if volume not in caller.volumes:
            raise errors.NotPermitted(
                f"{caller.name} may not touch the volume {volume!r}",
                hint="use a token that is for this volume: see `snap token create --volume`",
            )


def visible(caller: Caller) -> frozenset[str] | None:
    """Names of the volumes that a FILTERED method shows the caller; None: all."""
    return frozenset(caller.volumes) if caller.volumes else None
