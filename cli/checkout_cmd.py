"""``snap checkout``."""

from __future__ import annotations

import click

from . import addresses, output
from .options import common


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
    from snapfs import api

    from .session import opened

    if save and discard:
        raise click.UsageError("--save and --discard exclude each other")
    unsaved = api.Save.SAVE if save else api.Save.DISCARD if discard else api.Save.REFUSE
    address = addresses.parse(snapshot)
    with opened(store) as (place, calls):
        volume, name = place.snapshot(calls, address)
        done = calls.checkout(volume=volume, snapshot=name, unsaved=unsaved)
    print_checkout(done, as_json=as_json)


def print_checkout(done: object, *, as_json: bool) -> None:
    """The answer to a checkout."""
    from snapfs import api

    assert isinstance(done, api.Checkout)
    if as_json:
        output.document(done)
        return
    where = output.address(done.snapshot.volume, done.snapshot.name)
    if done.saved is not None:
        output.line(f"unsaved changes are in {output.address(done.saved.volume, done.saved.name)}")
    output.line(f"now at {where}" if done.moved else f"already at {where}")
