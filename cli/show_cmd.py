"""``snap show``."""

from __future__ import annotations

import click

from . import addresses, output
from .options import common


@click.command("show")
@click.argument("snapshot", metavar="VOLUME@SNAPSHOT")
@common
def command(snapshot: str, store: str, as_json: bool) -> None:
    """Show all that is recorded of a snapshot.

    \b
    Examples:
      snap show digits@cleaned
      snap show digits@4f2a9c1 --json
    """
    from .session import opened

    address = addresses.parse(snapshot)
    with opened(store) as (place, calls):
        volume, name = place.snapshot(calls, address)
        found = calls.get_snapshot(volume=volume, snapshot=name)
    if as_json:
        output.document(found)
        return
    facts = [
        ("snapshot", output.address(found.volume, found.name)),
        ("created", output.when(found.created_ns)),
        ("parent", output.quote(found.parent)),
        ("tags", ", ".join(map(output.quote, found.tags))),
        ("head", "stands on it" if found.current else ""),
        ("held by", ", ".join(map(output.quote, found.holds))),
        ("locked until", output.when(found.locked_until_ns) if found.locked_until_ns else ""),
        ("seal", found.seal or "not sealed yet"),
        ("message", output.one_line(found.message)),
        *((f"meta {output.quote(key)}", output.one_line(value)) for key, value in found.meta.items()),
    ]
    if found.git is not None:
        facts += [
            ("commit", found.git.commit),
            ("branch", output.quote(found.git.branch) or "(detached)"),
            ("subject", output.one_line(found.git.subject)),
            ("author", output.one_line(found.git.author)),
            ("remote", output.one_line(found.git.remote)),
            ("dirty", "the work tree had uncommitted changes" if found.git.dirty else ""),
        ]
    width = max(len(label) for label, _ in facts)
    for label, value in facts:
        if value:
            output.line(f"{label.ljust(width)}  {value}")
