"""``snap log``."""

from __future__ import annotations

import click

from . import addresses, output
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
    from .list_cmd import print_snapshots
    from .session import opened

    address = addresses.parse_volume_or_snapshot(start)
    with opened(store) as (place, calls):
        volume, snapshot = place.snapshot(calls, address)
        ancestry = list(calls.list_ancestry(volume=volume, snapshot=snapshot))
    if as_json:
        output.document(ancestry)
    else:
        print_snapshots(ancestry)
