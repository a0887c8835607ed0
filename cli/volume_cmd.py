"""``snap volume create|list|set|rm``."""

from __future__ import annotations

from typing import Final

import click

from snapfs import errors

from . import output
from .options import common
from .sizes import parse_size


@click.group("volume")
def command() -> None:
    """Make, list, limit and remove volumes.

    \b
    Examples:
      snap volume create digits
      snap volume list
      snap volume set digits --quota 10G
      snap volume rm digits
    """


NO_QUOTA: Final = "none"


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

    How many snapshots each has, what the files in its head hold, how much they may, and on which snapshot the head
    stands.

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
            output.size(volume.quota_bytes) if volume.quota_bytes else NO_QUOTA,
            output.when(volume.created_ns),
            output.short_address(volume.parent),
        )
        for volume in volumes
    ]
    columns = ("VOLUME", "SNAPSHOTS", "USED", "QUOTA", "CREATED", "HEAD STANDS ON")
    output.table(columns, rows, right=frozenset({1, 2, 3}))


@command.command("set")
@click.argument("name")
@click.option(
    "--quota",
    required=True,
    metavar="SIZE",
    help="Most that the files in the head may hold: 512M, 10G, 2T (powers of 1024), bytes, or none.",
)
@common
def set_volume(name: str, quota: str, store: str, as_json: bool) -> None:
    """Limit what the files of a volume may hold.

    Counted are the bytes that programs see in its head, without holes, whatever is shared or compressed; snapshots are
    not.  A quota that is less than what is held stops the files from growing.  A checkout is not held back by it, a
    restore is.

    \b
    Examples:
      snap volume set digits --quota 10G
      snap volume set digits --quota none
    """
    from .session import opened

    quota_bytes = 0 if quota.lower() == NO_QUOTA else parse_size(quota)
    if not quota_bytes and quota.lower() != NO_QUOTA:
        raise errors.Invalid("a quota of 0 would leave no room at all", hint="to have no limit: --quota none")
    with opened(store) as (_, calls):
        changed = calls.update_volume(name=name, quota_bytes=quota_bytes)
    if as_json:
        output.document(changed)
        return
    told = f"may hold {output.size(quota_bytes)}" if quota_bytes else "has no quota"
    output.line(f"the volume {output.quote(changed.name)} {told}, and holds {output.size(changed.used_bytes)}")


@command.command("rm")
@click.argument("name")
@click.option("--snapshots", is_flag=True, help="Remove its snapshots and unsaved files with it.")
@common
def remove(name: str, snapshots: bool, store: str, as_json: bool) -> None:
    """Remove a volume that has no snapshots and no files.

    \b
    Examples:
      snap volume rm digits
      snap volume rm --snapshots digits
    """
    from .session import opened

    with opened(store) as (_, calls):
        calls.delete_volume(name=name, force=snapshots)
    if as_json:
        output.document({"removed": name})
    else:
        output.line(f"removed the volume {output.quote(name)}")
