"""``snap volume create|list|show|set|rm``."""

from __future__ import annotations

from typing import Final

import click

from snapfs import api, errors

from . import output
from .options import common
from .policy_cmd import summary
from .rm_cmd import keeps_trash
from .sizes import parse_size

_LOGICAL: Final = api.QuotaKind.LOGICAL


@click.group("volume")
def command() -> None:
    """Make, list, set up and remove volumes.

    \b
    Examples:
      snap volume create digits
      snap volume list
      snap volume show digits
      snap volume set digits --quota 10G
      snap volume rm digits
    """


NO_QUOTA: Final = "none"


def _quota(volume: api.Volume) -> str:
    if not volume.quota_bytes:
        return NO_QUOTA
    return output.size(volume.quota_bytes) + ("" if volume.quota_kind is _LOGICAL else f" {volume.quota_kind}")


@command.command("create")
@click.argument("name")
@common
def create(name: str, store: str, as_json: bool) -> None:
    """Make an empty volume; in the mount it is a directory at the top.

    \b
    Examples:
      snap volume create digits
      snap volume create --store /data/store digits
    """
    from .session import opened

    with opened(store) as (_, calls):
        made = calls.create_volume(name=name)
    if as_json:
        output.document(made)
    else:
        output.line(f"made the volume {output.quote(made.name)}")


@command.command("list")
@common
def list_volumes(store: str, as_json: bool) -> None:
    """List the volumes.

    How many snapshots each has, what it holds (as its quota counts), how much it may, how its new data is compressed,
    whether it has a retention policy, and on which snapshot its head stands. More of each: snap volume show.

    \b
    Examples:
      snap volume list
      snap volume list --json
    """
    from .session import opened

    with opened(store) as (_, calls):
        volumes = list(calls.list_volumes())
    if as_json:
        output.document(volumes)
        return
    rows = [
        (
            output.quote(volume.name),
            str(volume.snapshots),
            output.size(volume.used_bytes),
            _quota(volume),
            volume.compression,
            "set" if volume.policy is not None else "none",
            output.when(volume.created_ns),
            output.short_address(volume.parent),
        )
        for volume in volumes
    ]
    columns = ("VOLUME", "SNAPSHOTS", "USED", "QUOTA", "COMPRESSION", "POLICY", "CREATED", "HEAD STANDS ON")
    output.table(columns, rows, right=frozenset({1, 2, 3}))


@command.command("show")
@click.argument("name", default="")
@common
def show(name: str, store: str, as_json: bool) -> None:
    """Show all that is recorded of a volume.

    \b
    Examples:
      snap volume show digits
      snap volume show digits --json
    """
    from .session import opened

    with opened(store) as (place, calls):
        volume = calls.get_volume(name=place.volume(calls, name))
    if as_json:
        output.document(volume)
        return
    facts = [
        ("volume", output.quote(volume.name)),
        ("created", output.when(volume.created_ns)),
        ("snapshots", str(volume.snapshots)),
        ("head on", output.short_address(volume.parent) if volume.parent else ""),
        ("cloned from", output.short_address(volume.origin) if volume.origin else ""),
        ("used", output.size(volume.used_bytes)),
        ("quota", _quota(volume)),
        ("compression", volume.compression),
        ("policy", summary(volume.policy)),
    ]
    for label, value in facts:
        if value:
            output.line(f"{label:<11}  {value}")


@command.command("set")
@click.argument("name")
@click.option(
    "--quota", default=None, metavar="SIZE", help="Most that it may hold: 512M, 10G (powers of 1024), bytes, or none."
)
@click.option(
    "--quota-kind",
    type=click.Choice([kind.value for kind in api.QuotaKind]),
    default=None,
    help="What the quota counts: bytes of the head's files, or stored bytes of the volume alone.",
)
@click.option("--compression", default=None, metavar="HOW", help="Of new data: none, or zstd:LEVEL (1 to 19).")
@common
def set_volume(
    name: str, quota: str | None, quota_kind: str | None, compression: str | None, store: str, as_json: bool
) -> None:
    """Limit what a volume may hold, and say how its data is compressed.

    A logical quota counts the bytes that programs see in its head, without holes, whatever is shared or compressed;
    snapshots are not counted. An exclusive one counts what is stored for this volume alone, its snapshots included:
    what removing it would free. A quota that is less than what is held stops the volume from growing. A checkout is not
    held back by it, a restore is.

    What is stored already stays as it is compressed.

    \b
    Examples:
      snap volume set digits --quota 10G
      snap volume set digits --quota 10G --quota-kind exclusive
      snap volume set digits --quota none
      snap volume set digits --compression zstd:9
    """
    from .session import opened

    if quota is None and quota_kind is None and compression is None:
        raise click.UsageError("say what to set: --quota, --quota-kind or --compression")
    unlimited = quota is not None and quota.lower() == NO_QUOTA
    quota_bytes = None if quota is None else 0 if unlimited else parse_size(quota)
    if quota_bytes == 0 and not unlimited:
        raise errors.Invalid("a quota of 0 would leave no room at all", hint="to have no limit: --quota none")
    with opened(store) as (_, calls):
        changed = calls.update_volume(
            name=name,
            quota_bytes=quota_bytes,
            quota_kind=api.QuotaKind(quota_kind) if quota_kind else None,
            compression=compression,
        )
    if as_json:
        output.document(changed)
        return
    told = f"may hold {_quota(changed)}" if changed.quota_bytes else "has no quota"
    output.line(f"the volume {output.quote(changed.name)} {told}, and holds {output.size(changed.used_bytes)}")
    if compression is not None:
        output.line(f"its new data is compressed with {changed.compression}")


@command.command("rm")
@click.argument("name")
@click.option("--snapshots", is_flag=True, help="Remove its snapshots and unsaved files with it.")
@click.option("--purge", is_flag=True, help="For good, at once, not into the trash.")
@common
def remove(name: str, snapshots: bool, purge: bool, store: str, as_json: bool) -> None:
    """Remove a volume that has no snapshots and no files.

    It goes to the trash, from where snap undelete takes it back with all that it had, until trash.hours have passed.
    With a snapshot that is held or locked it cannot be removed.

    \b
    Examples:
      snap volume rm digits
      snap volume rm --snapshots digits
    """
    from .session import opened

    with opened(store) as (_, calls):
        calls.delete_volume(name=name, force=snapshots, purge=purge)
        hint = output.on_terminal() and not purge and not as_json and keeps_trash(calls)
    if as_json:
        output.document({"removed": name})
    else:
        told = f" (to take it back: snap undelete {output.quote(name)})" if hint else ""
        output.line(f"removed the volume {output.quote(name)}{told}")
