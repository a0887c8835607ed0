"""``snap diff``."""

from __future__ import annotations

import click

from . import addresses
from .options import common


@click.command("diff")
@click.argument("older", metavar="VOLUME@A")
@click.argument("newer", metavar="[VOLUME[@B]]", default="")
@common
def command(older: str, newer: str, store: str, as_json: bool) -> None:
    """Show what changed between two snapshots.

    From A to B; without B to the head.

    One path a line: A added, D deleted, M modified, R renamed, and sizes.  The cost is that of the changes,
    whatever the volume's size.

    \b
    Examples:
      snap diff digits@cleaned
      snap diff digits@4f2a9c1 digits@cleaned
      snap diff digits@cleaned other-volume
      snap diff @cleaned --json
    """
    from .changes import print_changes
    from .session import opened_terse

    first = addresses.parse(older)
    second = addresses.parse_volume_or_snapshot(newer)
    with opened_terse(store) as (place, calls):
        volume, snapshot = place.snapshot(calls, first)
        changes = calls.diff(volume=volume, snapshot=snapshot, other_volume=second.volume, other=second.snapshot)
        print_changes(changes, as_json=as_json, nothing="no differences")
