"""``snap checkout``."""

from __future__ import annotations

import click

from .options import common, invocation


@click.command("checkout")
@click.argument("snapshot", metavar="VOLUME@SNAPSHOT")
@click.option("--save", is_flag=True, help="Snapshot unsaved changes first, as unsaved-TIME.")
@click.option("--discard", is_flag=True, help="Throw unsaved changes away.")
@common
def command(snapshot: str, save: bool, discard: bool, store: str, as_json: bool) -> None:
    """Make the volume's head what the snapshot is.

    Unsaved changes are refused unless --save or --discard says what to do with them.  No snapshot is ever
    lost by it.

    \b
    Examples:
      snap checkout digits@cleaned
      snap checkout --save digits@4f2a9c1
      snap checkout --discard @cleaned
    """
    from .verbs import checkout

    checkout(invocation(), snapshot=snapshot, save=save, discard=discard, store=store, as_json=as_json)
