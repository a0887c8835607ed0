"""``snap undelete``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from . import addresses, output
from .options import common

if TYPE_CHECKING:
    from snapfs import api


@click.command("undelete")
@click.argument("what", metavar="VOLUME[@SNAPSHOT]")
@click.option("--as", "name", default="", metavar="NAME", help="Its name from now on.  [default: as it was]")
@common
def command(what: str, name: str, store: str, as_json: bool) -> None:
    """Take a removed snapshot or volume out of the trash.

    A snapshot's tags come back where nothing else has them by now, a volume with all that it had. What is in the trash:
    snap trash list.

    \b
    Examples:
      snap undelete digits@cleaned
      snap undelete digits --as digits-old
    """
    from .session import opened

    address = addresses.parse_volume_or_snapshot(what)
    with opened(store) as (place, calls):
        back: api.Volume | api.Snapshot
        if address.snapshot:
            volume, snapshot = place.snapshot(calls, address)
            back = calls.undelete_snapshot(volume=volume, snapshot=snapshot, name=name)
            told = output.address(back.volume, back.name)
        else:
            back = calls.undelete_volume(volume=address.volume, name=name)
            told = f"the volume {output.quote(back.name)}"
    if as_json:
        output.document(back)
    else:
        output.line(f"took back {told}")
