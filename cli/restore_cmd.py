"""``snap restore``."""

from __future__ import annotations

import click

from . import addresses, output
from .options import common


@click.command("restore")
@click.argument("snapshot", metavar="VOLUME@SNAPSHOT")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@common
def command(snapshot: str, paths: tuple[str, ...], store: str, as_json: bool) -> None:
    """Put files or directories of a snapshot back.

    What the snapshot has there replaces what stands there now; files that a restored directory has got since
    stay.  Paths are relative to the volume's root or, inside the mount, to the current directory.  Blocks are
    shared: it takes no space.

    \b
    Examples:
      snap restore digits@cleaned model.pkl
      snap restore digits@4f2a9c1 tables/raw labels.csv
      cd /lake/digits/tables && snap restore @cleaned .
    """
    from .session import opened

    address = addresses.parse(snapshot)
    with opened(store) as (place, calls):
        volume, name = place.snapshot(calls, address)
        inner = [place.path(path, volume) for path in paths]
        done = calls.restore(volume=volume, snapshot=name, paths=inner)
    if as_json:
        output.document(done)
    else:
        noun = "file" if done.files == 1 else "files"
        output.line(f"restored {done.files} {noun}, {output.size(done.total_bytes)}")
