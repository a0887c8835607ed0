"""What the verbs do that are run most; how their command lines are read is in ``*_cmd`` and in ``quick``.

No click here, and nothing heavy before the daemon is asked.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Final

from . import addresses, output
from .invocation import Invocation, Misuse, pairs
from .session import opened_terse

if TYPE_CHECKING:
    from types import ModuleType

    from google.protobuf.timestamp_pb2 import Timestamp

    from snapfs import api
    from snapfs.git.repository import Facts
    from snapfs.v1 import snapshot_pb2, volume_pb2

PAGE_SIZE_MAX: Final = 1000
"""What a daemon gives at once."""


def create(
    invocation: Invocation,
    *,
    volume: str,
    name: str,
    revision: str | None,
    branch: str,
    message: str,
    meta: Sequence[str],
    store: str,
    as_json: bool,
) -> None:
    """``snap create``."""
    facts: Facts | None = None
    recorded = pairs("--meta", meta)
    if branch and revision is None:
        raise Misuse("--branch goes with --git-commit")
    with opened_terse(store, invocation) as (place, calls):
        if revision is not None:
            if place.repository is None:
                from snapfs.errors import NotFound

                raise NotFound("no git repository around the current directory", hint="--git-commit needs one")
            facts = place.repository.facts_of(revision, branch=branch)
        chosen = place.volume(calls, volume)
        made = calls.create_snapshot(volume=chosen, name=name, message=message, meta=recorded, git=facts)
    if as_json:
        output.document(_convert().snapshot_of(made))
    else:
        remark = "" if made.created else f" (unchanged since {_when(made.create_time)})"
        output.line(output.address(made.volume, made.name) + remark)


def checkout(invocation: Invocation, *, snapshot: str, save: bool, discard: bool, store: str, as_json: bool) -> None:
    """``snap checkout``."""
    if save and discard:
        raise Misuse("--save and --discard exclude each other")
    address = addresses.parse(snapshot)
    with opened_terse(store, invocation) as (place, calls):
        from .terse import UNSAVED

        volume, name = place.snapshot(calls, address)
        unsaved = UNSAVED["save" if save else "discard" if discard else "refuse"]
        done = calls.checkout(volume=volume, snapshot=name, unsaved=unsaved)
    if as_json:
        output.document(_convert().checkout_of(done))
    else:
        print_checkout(done, done.saved if done.HasField("saved") else None)


def print_checkout(
    done: api.Checkout | volume_pb2.CheckoutResponse, saved: api.Snapshot | snapshot_pb2.Snapshot | None
) -> None:
    """The answer to a checkout, for people."""
    where = output.address(done.snapshot.volume, done.snapshot.name)
    if saved is not None:
        output.line(f"unsaved changes are in {output.address(saved.volume, saved.name)}")
    output.line(f"now at {where}" if done.moved else f"already at {where}")


def status(invocation: Invocation, *, volume: str, store: str, as_json: bool) -> None:
    """``snap status``."""
    with opened_terse(store, invocation) as (place, calls):
        from .changes import print_changes

        chosen = place.volume(calls, volume)
        if not as_json:
            parent = calls.get_volume(name=chosen).parent
            base = f"since {output.short_address(parent)}" if parent else "no snapshot yet"
            output.line(f"{output.quote(chosen)}: {base}")
        print_changes(calls.status(volume=chosen), as_json=as_json, nothing="no unsaved changes")


def list_snapshots(
    invocation: Invocation,
    *,
    volume: str,
    all_volumes: bool,
    branch: str,
    tag: str,
    meta: Sequence[str],
    from_ns: int,
    before_ns: int,
    newest: int | None,
    store: str,
    as_json: bool,
) -> None:
    """``snap list``."""
    if volume and all_volumes:
        raise Misuse("--all and a volume exclude each other")
    asked: dict[str, str | int | dict[str, str]] = {
        "branch": branch,
        "tag": tag,
        "meta": pairs("--meta", meta),
        "created_from_ns": from_ns,
        "created_before_ns": before_ns,
    }
    with opened_terse(store, invocation) as (place, calls):
        chosen = "" if all_volumes else volume or place.implied_volume()
        found = calls.list_snapshots(
            volume=chosen,
            filter={name: value for name, value in asked.items() if value},
            newest_first=newest is not None,
            page_size=min(newest or 0, PAGE_SIZE_MAX),
        )
        snapshots = list(found) if newest is None else list(islice(found, min(newest, sys.maxsize)))[::-1]
    print_snapshots(snapshots, as_json=as_json)


def print_snapshots(snapshots: Sequence[snapshot_pb2.Snapshot], *, as_json: bool) -> None:
    """A table; ``*`` marks what a head stands on."""
    if as_json:
        output.document(_convert().snapshots_of(snapshots))
        return
    rows = [
        (
            "*" if snapshot.current else "",
            output.short_address(f"{snapshot.volume}@{snapshot.name}"),
            _when(snapshot.create_time),
            output.quote(snapshot.git.branch),
            _describe(snapshot),
        )
        for snapshot in snapshots
    ]
    output.table(("", "SNAPSHOT", "CREATED", "BRANCH", "MESSAGE"), rows)


def _describe(snapshot: snapshot_pb2.Snapshot) -> str:
    """Tags, what keeps it, and the message, else the commit's subject."""
    parts = [f"[{', '.join(map(output.quote, snapshot.tags))}]"] if snapshot.tags else []
    if snapshot.holds:
        parts.append(f"(held by {', '.join(map(output.quote, snapshot.holds))})")
    if snapshot.HasField("lock_time"):
        parts.append(f"(locked until {_when(snapshot.lock_time)})")
    return " ".join([*parts, output.one_line(snapshot.message or snapshot.git.subject)])


def _when(time: Timestamp) -> str:
    return output.when(time.seconds * 1_000_000_000)


def _convert() -> ModuleType:
    """For ``--json``: it imports the records."""
    from snapfs.rpc import convert

    return convert
