"""``snap status``."""

from __future__ import annotations

import click

from .options import common, invocation


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
    from .verbs import status

    status(invocation(), volume=volume, store=store, as_json=as_json)
