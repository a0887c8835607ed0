"""``snap volume create|list|rm``."""

from __future__ import annotations

import click

from . import output
from .options import common


@click.group("volume")
def command() -> None:
    """Make, list and remove volumes.

    \b
    Examples:
      snap volume create digits
      snap volume list
      snap volume rm digits
    """


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

    How many snapshots each has, and on which its head stands.

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
            output.when(volume.created_ns),
            output.short_address(volume.parent),
        )
        for volume in volumes
    ]
    output.table(("VOLUME", "SNAPSHOTS", "CREATED", "HEAD STANDS ON"), rows, right=frozenset({1}))


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
