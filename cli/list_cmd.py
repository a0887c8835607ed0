"""``snap list``."""

from __future__ import annotations

import click

from .options import common, invocation
from .times import Moment


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
    from .verbs import list_snapshots

    list_snapshots(
        invocation(),
        volume=volume,
        all_volumes=all_volumes,
        branch=branch,
        tag=tag,
        meta=meta,
        from_ns=from_ns,
        before_ns=before_ns,
        newest=newest,
        store=store,
        as_json=as_json,
    )
