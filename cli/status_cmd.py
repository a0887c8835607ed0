"""``snap status``."""

from __future__ import annotations

import click

from . import output
from .diff_cmd import print_changes
from .options import common


@click.command("status")
@click.argument("volume", default="")
@common
def command(volume: str, store: str, as_json: bool) -> None:
    """Show what changed since the last snapshot.

    That is: since the one on which the head of VOLUME stands.

    \b
    Examples:
      snap status
      snap status digits
      snap status digits --json
    """
    from .session import opened

    with opened(store) as (place, calls):
        chosen = place.volume(calls, volume)
        if not as_json:
            parent = calls.get_volume(name=chosen).parent
            base = f"since {output.short_address(parent)}" if parent else "no snapshot yet"
            output.line(f"{output.quote(chosen)}: {base}")
        print_changes(calls.status(volume=chosen), as_json=as_json, nothing="no unsaved changes")
