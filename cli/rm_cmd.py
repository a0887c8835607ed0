"""``snap rm``."""

from __future__ import annotations

import click

from . import addresses, output
from .options import common


@click.command("rm")
@click.argument("snapshot", metavar="VOLUME@SNAPSHOT")
@common
def command(snapshot: str, store: str, as_json: bool) -> None:
    """Remove a snapshot.

    The space that it alone holds comes back in the background.  Its tags go with it (to take away a tag alone:
    snap tag --delete).

    \b
    Examples:
      snap rm digits@unsaved-20260102T030405Z
      snap rm @4f2a9c1
    """
    from .session import opened

    address = addresses.parse(snapshot)
    with opened(store) as (place, calls):
        volume, name = place.snapshot(calls, address)
        found = calls.get_snapshot(volume=volume, snapshot=name)
        calls.delete_snapshot(volume=volume, snapshot=found.name)
    if as_json:
        output.document({"removed": f"{found.volume}@{found.name}"})
    else:
        output.line(f"removed {output.address(found.volume, found.name)}")
