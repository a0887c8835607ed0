"""``snap log``."""

from __future__ import annotations

import click

from . import addresses
from .options import common


@click.command("log")
@click.argument("start", metavar="[VOLUME[@SNAPSHOT]]", default="")
@common
def command(start: str, store: str, as_json: bool) -> None:
    """Show the ancestry of a snapshot or a volume's head.

    Newest first; across clones: an ancestor may belong to another volume.

    \b
    Examples:
      snap log
      snap log digits
      snap log digits@cleaned --json
    """
    from .session import opened_terse
    from .verbs import print_snapshots

    address = addresses.parse_volume_or_snapshot(start)
    with opened_terse(store) as (place, calls):
        volume, snapshot = place.snapshot(calls, address)
        ancestry = list(calls.list_ancestry(volume=volume, snapshot=snapshot))
    print_snapshots(ancestry, as_json=as_json)
