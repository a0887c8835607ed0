"""``snap mount``."""

from __future__ import annotations

import os
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
        daemon.run(
            Path(store),
            Path(mountpoint),
            allow_other=allow_other,
            xattrs=xattrs,
            notify=bool(os.environ.get("NOTIFY_SOCKET")),
            watchdog_seconds=watchdog_seconds(),
        )
        return
    pid = daemon.start(Path(store), Path(mountpoint), allow_other=allow_other, xattrs=xattrs)
    store, mountpoint = str(Path(store).resolve()), str(Path(mountpoint).resolve())
    if as_json:
        output.document({"store": store, "mountpoint": mountpoint, "pid": pid})
    else:
        output.line(f"mounted {output.quote(store)} at {output.quote(mountpoint)} (pid {pid})")


def watchdog_seconds() -> float:
    """How long systemd lets this process be silent; 0: it does not care (sd_watchdog_enabled(3))."""
    said, process = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not said.isdecimal() or process not in ("", str(os.getpid())):
        return 0.0
    return int(said) / 1_000_000
