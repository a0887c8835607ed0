"""``snap rename``."""

from __future__ import annotations

import click

from . import addresses, output
from .options import common


@click.command("rename")
@click.argument("snapshot", metavar="VOLUME@SNAPSHOT")
@click.argument("new_name", metavar="NEWNAME")
@common
def command(snapshot: str, new_name: str, store: str, as_json: bool) -> None:
    """Give a snapshot another name.

    \b
    Examples:
      snap rename digits@20260102T030405Z first-try
      snap rename @4f2a9c1 release-1
    """
    from .session import opened

    address = addresses.parse(snapshot)
    with opened(store) as (place, calls):
        volume, name = place.snapshot(calls, address)
        renamed = calls.rename_snapshot(volume=volume, snapshot=name, name=new_name)
    if as_json:
        output.document(renamed)
    else:
        output.line(output.address(renamed.volume, renamed.name))
