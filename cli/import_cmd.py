"""``snap import``."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from . import exits, output
from .options import common
from .progress import bytes_bar

if TYPE_CHECKING:
    from snapfs import api


@click.command("import")
@click.argument("directory", metavar="DIR")
@click.argument("target", metavar="VOLUME[/PATH]")
@common
def command(directory: str, target: str, store: str, as_json: bool) -> int:
    """Copy a directory into a volume, much faster than through the mount.

    Keeps all that `cp -a` keeps: modes, owners, times, symbolic and hard links, extended attributes and ACLs, devices,
    holes. The volume, and the directory in it, are made if they are missing; what is there besides stays. What is there
    already (same type, size, time of change, mode and owner) is not read again: run it again to complete an import that
    was interrupted, or to bring in what is new.

    The daemon, or this process if none runs, must be able to read DIR. Exit code 1 if something could not be read.

    \b
    Examples:
      snap import ~/datasets/digits digits
      snap import /mnt/disk/raw digits/tables/raw
    """
    from snapfs.errors import Invalid

    from .session import opened

    volume, _, path = target.partition("/")
    if not volume:
        raise click.UsageError(f"no volume in {target!r}: write VOLUME or VOLUME/PATH")
    with opened(store) as (place, calls):
        if place.local is None:
            raise Invalid("an import reads files of the daemon's machine", hint="run it there")
        with bytes_bar("importing") as show:
            done = calls.import_tree(
                source=os.path.abspath(directory),  # noqa: PTH100 - a symbolic link stays one
                volume=volume, path=path,
                progress=None if show is None else lambda done_bytes, _: show(done_bytes),
            )  # fmt: skip
    if as_json:
        output.document(done)
    else:
        _tell(done)
    return exits.FOUND if done.failures else exits.OK


def _tell(done: api.ImportReport) -> None:
    for line in done.failed:
        print(output.one_line(line), file=sys.stderr)
    more = done.failures - len(done.failed)
    if more:
        print(f"and {more} more", file=sys.stderr)
    unchanged = f"; {done.unchanged} unchanged" if done.unchanged else ""
    failed = f"; {done.failures} FAILED" if done.failures else ""
    output.line(
        f"imported {done.files} files and {done.directories} directories, {output.size(done.total_bytes)}"
        f"{unchanged}{failed}"
    )
