"""``snap init``."""

from __future__ import annotations

from pathlib import Path

import click

from . import output
from .options import json_option


@click.command("init")
@click.argument("store")
@json_option
def command(store: str, as_json: bool) -> None:
    """Make a new store in STORE, a missing or empty directory.

    \b
    Examples:
      snap init /data/store
      snap init --json ./store
    """
    from snapfs.errors import Invalid
    from snapfs.volume.lake import Lake

    if not store:
        raise Invalid("the store's path is empty")
    path = Path(store).absolute()
    Lake.create(path)
    if as_json:
        output.document({"store": str(path)})
    else:
        output.line(f"made the store {output.quote(str(path))}")
