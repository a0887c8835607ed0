"""``snap space``."""

from __future__ import annotations

import click

from . import output
from .options import common


@click.command("space")
@common
def command(store: str, as_json: bool) -> None:
    """Tell why the store takes the space that it takes.

    From figures that are kept up to date; nothing is walked. What each volume and snapshot holds: snap du.

    \b
    Examples:
      snap space
      snap space --json
    """
    from .session import opened

    with opened(store) as (_, calls):
        space = calls.get_space()
    if as_json:
        output.document(space)
        return
    waits = "waits for a commit, or for who still reads an older state"
    if space.oldest_reader_seconds:
        waits += f" (the oldest for {space.oldest_reader_seconds:.0f} s)"
    parts = [
        ("live", space.live_bytes, "what the files of the volumes show now"),
        ("snapshots", space.snapshots_bytes, "what only snapshots show: snap du --to-free SIZE"),
        ("trash", space.trash_bytes, "what only the trash still shows: snap trash list"),
        ("deleting", space.deleting_bytes, "what nothing shows any more; comes back in the background"),
        ("waiting", space.waiting_bytes, waits),
        ("seals", space.seal_bytes, "digests of the snapshots, and what rebuilds a lost index"),
        ("index", space.index_bytes, "names, attributes, extents"),
        ("overhead", space.overhead_bytes, "partial pages, and gaps not given back yet"),
    ]
    width = max(len(output.size(count)) for _, count, _ in [*parts, ("", space.disk_bytes, "")])
    for label, count, meaning in parts:
        output.line(f"{label:<10}  {output.size(count):>{width}}  {meaning}")
    output.line(f"{'on disk':<10}  {output.size(space.disk_bytes):>{width}}  {output.size(space.free_bytes)} free")
    output.line("")
    output.line(
        f"the volumes' files hold {output.size(space.logical_bytes)}; with all snapshots, each block once: "
        f"{output.size(space.raw_bytes)}, compressed to {output.size(space.stored_bytes)}"
    )
