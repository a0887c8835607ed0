"""``snap hold``."""

from __future__ import annotations

import os
import pwd

import click

from . import addresses, output
from .options import common


@click.command("hold")
@click.argument("snapshot", metavar="VOLUME@SNAPSHOT")
@click.option("--name", "hold", default="", metavar="HOLD", help="Who or what needs it.  [default: your login]")
@common
def command(snapshot: str, hold: str, store: str, as_json: bool) -> None:
    """Keep a snapshot from being removed until it is released.

    Neither snap rm nor a policy removes a snapshot that has a hold. It may have several: all must be released.

    \b
    Examples:
      snap hold digits@cleaned
      snap hold digits@4f2a9c1 --name paper-2026
    """
    from .session import opened

    address = addresses.parse(snapshot)
    hold = hold or login()
    with opened(store) as (place, calls):
        volume, name = place.snapshot(calls, address)
        changed = calls.hold_snapshot(volume=volume, snapshot=name, hold=hold)
    if as_json:
        output.document(changed)
        return
    told = f"held by {', '.join(map(output.quote, changed.holds))}"
    output.line(f"{output.address(changed.volume, changed.name)} is {told}")


def login() -> str:
    """Of who runs this; the number if it has no name."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
