"""``snap info``."""

from __future__ import annotations

import click

from . import output
from .options import common


@click.command("info")
@common
def command(store: str, as_json: bool) -> None:
    """Show where the store is and what it holds.

    \b
    Examples:
      snap info
      snap info --store /data/store --json
    """
    from .session import opened

    with opened(store) as (_, calls):
        info = calls.get_store()
    if as_json:
        output.document(info)
        return
    facts = [
        ("store", output.quote(info.path)),
        ("uuid", info.uuid),
        ("format", str(info.format)),
        ("mounted at", output.quote(info.mountpoint)),
        ("daemon", f"pid {info.pid}" if info.pid else "none"),
        ("volumes", str(info.volumes)),
        ("snapshots", str(info.snapshots)),
        ("data", f"{output.size(info.logical_bytes)}, stored in {output.size(info.stored_bytes)}"),
        ("index", output.size(info.index_bytes)),
        ("on disk", f"{output.size(info.disk_bytes)}, {output.size(info.free_bytes)} free"),
        ("unflushed", output.size(info.dirty_bytes) if info.dirty_bytes else ""),
        ("version", info.version),
        ("broken", output.one_line(info.failure)),
    ]
    for label, value in facts:
        if value:
            output.line(f"{label:<10}  {value}")
