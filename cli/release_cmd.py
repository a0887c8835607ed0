"""``snap release``."""

from __future__ import annotations

import click

from . import addresses, output
from .hold_cmd import login
from .options import common


@click.command("release")
@click.argument("snapshot", metavar="VOLUME@SNAPSHOT")
@click.option("--name", "hold", default="", metavar="HOLD", help="Who or what needed it.  [default: your login]")
@common
def command(snapshot: str, hold: str, store: str, as_json: bool) -> None:
    """Take a hold off a snapshot.

    Once no hold is left it can be removed, unless it is locked.

    \b
    Examples:
      snap release digits@cleaned
      snap release digits@4f2a9c1 --name paper-2026
    """
    from .session import opened

    address = addresses.parse(snapshot)
    hold = hold or login()
    with opened(store) as (place, calls):
        volume, name = place.snapshot(calls, address)
        changed = calls.release_snapshot(volume=volume, snapshot=name, hold=hold)
    if as_json:
        output.document(changed)
        return
    told = f"held by {', '.join(map(output.quote, changed.holds))}" if changed.holds else "not held any more"
    output.line(f"{output.address(changed.volume, changed.name)} is {told}")
