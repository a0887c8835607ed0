"""``snap tag``."""

from __future__ import annotations

import click

from . import addresses, output
from .options import common


@click.command("tag")
@click.argument("snapshot", metavar="VOLUME@SNAPSHOT")
@click.argument("tag", metavar="[TAG]", default="")
@click.option("--move", is_flag=True, help="Take TAG from the snapshot that has it.")
@click.option("--delete", is_flag=True, help="Take a tag away instead; the snapshot stays.")
@common
def command(snapshot: str, tag: str, move: bool, delete: bool, store: str, as_json: bool) -> None:
    """Give a snapshot a further name.

    A tag can be used wherever a snapshot's name can, and is a name in .snap.

    \b
    Examples:
      snap tag digits@4f2a9c1 release-1
      snap tag digits@cleaned latest --move
      snap tag --delete digits@release-1
    """
    from .session import opened

    if delete and (tag or move):
        raise click.UsageError("--delete takes VOLUME@TAG alone")
    if not delete and not tag:
        raise click.UsageError("name the TAG")
    address = addresses.parse(snapshot)
    with opened(store) as (place, calls):
        volume, name = place.snapshot(calls, address)
        if delete:
            calls.delete_tag(volume=volume, tag=name)
            tagged = None
        else:
            tagged = calls.tag_snapshot(volume=volume, snapshot=name, tag=tag, move=move)
    if tagged is None:
        if as_json:
            output.document({"removed": f"{volume}@{name}"})
        else:
            output.line(f"took away the tag {output.address(volume, name)}")
    elif as_json:
        output.document(tagged)
    else:
        output.line(f"{output.address(volume, tag)} is {output.short_address(f'{tagged.volume}@{tagged.name}')}")
