"""``snap list``."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Final

import click

from snapfs import api

from . import output
from .options import common, pairs
from .times import Moment

PAGE_SIZE_MAX: Final = 1000
"""What a daemon gives at once."""


def describe(snapshot: api.Snapshot) -> str:
    """Tags, what keeps it, and the message, else the commit's subject."""
    parts = [f"[{', '.join(map(output.quote, snapshot.tags))}]"] if snapshot.tags else []
    if snapshot.holds:
        parts.append(f"(held by {', '.join(map(output.quote, snapshot.holds))})")
    if snapshot.locked_until_ns:
        parts.append(f"(locked until {output.when(snapshot.locked_until_ns)})")
    text = snapshot.message or (snapshot.git.subject if snapshot.git is not None else "")
    return " ".join([*parts, output.one_line(text)])


def print_snapshots(snapshots: Sequence[api.Snapshot]) -> None:
    """A table; ``*`` marks what a head stands on."""
    rows = [
        (
            "*" if snapshot.current else "",
            output.short_address(f"{snapshot.volume}@{snapshot.name}"),
            output.when(snapshot.created_ns),
            output.quote(snapshot.git.branch) if snapshot.git is not None else "",
            describe(snapshot),
        )
        for snapshot in snapshots
    ]
    output.table(("", "SNAPSHOT", "CREATED", "BRANCH", "MESSAGE"), rows)


@click.command("list")
@click.argument("volume", default="")
@click.option("--all", "all_volumes", is_flag=True, help="Of all volumes, also inside a mounted one.")
@click.option("--branch", default="", help="Only of commits on this branch.")
@click.option("--tag", default="", help="Only the one with this tag.")
@click.option("--meta", multiple=True, metavar="KEY=VALUE", help="Only with this fact; repeat for more.")
@click.option("--since", "from_ns", type=Moment(), default=0, metavar="WHEN", help="E.g. 12h, 30d or 2026-12-31.")
@click.option("--until", "before_ns", type=Moment(), default=0, metavar="WHEN", help="Made before this.")
@click.option("--newest", type=click.IntRange(min=1), default=None, metavar="N", help="Only the newest N of them.")
@common
def command(
    volume: str,
    all_volumes: bool,
    branch: str,
    tag: str,
    meta: tuple[str, ...],
    from_ns: int,
    before_ns: int,
    newest: int | None,
    store: str,
    as_json: bool,
) -> None:
    """List the snapshots of VOLUME, oldest first.

    Without VOLUME: of the one that the current directory or git tells, else of all.  A star marks the one on
    which the head stands.

    \b
    Examples:
      snap list digits
      snap list --all
      snap list digits --branch main --meta seed=1 --newest 5
      snap list digits --since 7d --json
    """
    from .session import opened

    if volume and all_volumes:
        raise click.UsageError("--all and a volume exclude each other")
    wanted = api.SnapshotFilter(
        branch=branch,
        tag=tag,
        meta=pairs("--meta", meta),
        created_from_ns=from_ns,
        created_before_ns=before_ns,
    )
    with opened(store) as (place, calls):
        chosen = "" if all_volumes else volume or place.implied_volume()
        found = calls.list_snapshots(
            volume=chosen,
            filter=None if wanted == api.SnapshotFilter() else wanted,
            newest_first=newest is not None,
            page_size=min(newest or 0, PAGE_SIZE_MAX),
        )
        snapshots = list(found) if newest is None else list(islice(found, newest))[::-1]
    if as_json:
        output.document(snapshots)
    else:
        print_snapshots(snapshots)
