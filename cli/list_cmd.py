"""``snap list``."""

from __future__ import annotations

import click

from snapfs import api

from . import output
from .options import common


def describe(snapshot: api.Snapshot) -> str:
    """Message, else the commit's subject."""
    return output.one_line(snapshot.message or (snapshot.git.subject if snapshot.git is not None else ""))


def print_snapshots(snapshots: list[api.Snapshot]) -> None:
    """A table; ``*`` marks what a head stands on."""
    rows = [
        (
            "*" if snapshot.current else "",
            output.short_address(f"{snapshot.volume}@{snapshot.name}"),
            output.when(snapshot.created_ns),
            output.quote(snapshot.git.branch) if snapshot.git is not None else "",
            describe(snapshot),
        )
        for snapshot in snapshots
    ]
    output.table(("", "SNAPSHOT", "CREATED", "BRANCH", "MESSAGE"), rows)


@click.command("list")
@click.argument("volume", default="")
@click.option("--all", "all_volumes", is_flag=True, help="Of all volumes, also inside a mounted one.")
@common
def command(volume: str, all_volumes: bool, store: str, as_json: bool) -> None:
    """List the snapshots of VOLUME, oldest first.

    Without VOLUME: of the one that the current directory or git tells, else of all.  A star marks the one on
    which the head stands.

    \b
    Examples:
      snap list digits
      snap list --all
      snap list digits --json
    """
    from .session import opened

    if volume and all_volumes:
        raise click.UsageError("--all and a volume exclude each other")
    with opened(store) as (place, calls):
        chosen = "" if all_volumes else volume or place.implied_volume()
        snapshots = calls.list_snapshots(volume=chosen)
    if as_json:
        output.document(snapshots)
    else:
        print_snapshots(snapshots)
