"""``snap info``."""

from __future__ import annotations

import click
import msgspec

from . import output
from .options import common
from .scrub_cmd import summary


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
        info, scrub = calls.get_store(), calls.get_scrub()
    if as_json:
        output.document({**msgspec.to_builtins(info), "scrub": msgspec.to_builtins(scrub)})
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
        ("seals", output.size(info.seal_bytes)),
        ("index", output.size(info.index_bytes)),
        ("on disk", f"{output.size(info.disk_bytes)}, {output.size(info.free_bytes)} free"),
        ("unflushed", output.size(info.dirty_bytes) if info.dirty_bytes else ""),
        ("scrub", summary(scrub)),
        ("version", info.version),
        ("broken", output.one_line(info.failure)),
    ]
    for label, value in facts:
        if value:
            output.line(f"{label:<10}  {value}")
