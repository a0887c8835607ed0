"""``snap clone``."""

from __future__ import annotations

import click

from . import addresses, output
from .options import common


@click.command("clone")
@click.argument("snapshot", metavar="VOLUME@SNAPSHOT")
@click.argument("new", metavar="NEW")
@common
def command(snapshot: str, new: str, store: str, as_json: bool) -> None:
    """Make a new volume from a snapshot.

    It shares every block with it, and each goes its own way.

    \b
    Examples:
      snap clone digits@cleaned experiment
      snap clone @4f2a9c1 bisect --json
    """
    from .session import opened

    address = addresses.parse(snapshot)
    with opened(store) as (place, calls):
        volume, name = place.snapshot(calls, address)
        made = calls.clone(volume=volume, snapshot=name, name=new)
    if as_json:
        output.document(made)
    else:
        output.line(f"made the volume {output.quote(made.name)} from {output.quote(made.parent)}")
