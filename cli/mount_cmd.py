"""``snap mount``."""

from __future__ import annotations

from pathlib import Path

import click

from . import output
from .options import json_option


@click.command("mount")
@click.argument("store")
@click.argument("mountpoint")
@click.option("--foreground", is_flag=True, help="Stay, and serve until unmounted or interrupted.")
@click.option("--allow-other", is_flag=True, help="Let other users in, as the files' permissions say.")
@click.option("--xattrs", is_flag=True, help="Support extended attributes; small writes become slower.")
@json_option
def command(store: str, mountpoint: str, foreground: bool, allow_other: bool, xattrs: bool, as_json: bool) -> None:
    """Mount STORE at MOUNTPOINT, an empty directory.

    Returns when the mount is usable and leaves a daemon that serves it.

    \b
    Examples:
      snap mount /data/store /lake
      snap mount --foreground /data/store /lake
      snap mount --xattrs --allow-other /data/store /lake
    """
    from snapfs import daemon

    if foreground:
        daemon.run(Path(store), Path(mountpoint), allow_other=allow_other, xattrs=xattrs)
        return
    pid = daemon.start(Path(store), Path(mountpoint), allow_other=allow_other, xattrs=xattrs)
    store, mountpoint = str(Path(store).resolve()), str(Path(mountpoint).resolve())
    if as_json:
        output.document({"store": store, "mountpoint": mountpoint, "pid": pid})
    else:
        output.line(f"mounted {output.quote(store)} at {output.quote(mountpoint)} (pid {pid})")
