"""``snap umount``."""

from __future__ import annotations

from pathlib import Path

import click

from . import output
from .options import json_option


@click.command("umount")
@click.argument("mountpoint")
@json_option
def command(mountpoint: str, as_json: bool) -> None:
    """Unmount MOUNTPOINT with everything on disk.

    Returns when the daemon has ended.  Refused while somebody uses the mount.

    \b
    Examples:
      snap umount /lake
    """
    from snapfs import daemon

    daemon.stop(Path(mountpoint))
    mountpoint = str(Path(mountpoint).resolve())
    if as_json:
        output.document({"mountpoint": mountpoint})
    else:
        output.line(f"unmounted {output.quote(mountpoint)}")
