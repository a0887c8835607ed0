"""``snap create``."""

from __future__ import annotations

import click

from .options import common, invocation


@click.command("create")
@click.argument("volume", default="")
@click.option("--name", default="", help="The snapshot's name.  [default: the time, or the commit ID]")
@click.option(
    "--git-commit",
    "revision",
    is_flag=False,
    flag_value="HEAD",
    default=None,
    metavar="[REV]",
    help="Name it by the full ID of this git commit (HEAD without REV) and record branch, subject, author, "
    "remote and whether the work tree was dirty.",
)
@click.option("--branch", default="", help="The branch to record with --git-commit, where HEAD is detached.")
@click.option("-m", "--message", default="", help="A note.")
@click.option("--meta", multiple=True, metavar="KEY=VALUE", help="A fact to record; may be repeated.")
@common
def command(
    volume: str,
    name: str,
    revision: str | None,
    branch: str,
    message: str,
    meta: tuple[str, ...],
    store: str,
    as_json: bool,
) -> None:
    """Snapshot VOLUME as it is now.

    Again for the same git commit: unchanged data gives the same snapshot, changed data a further one (the
    bare ID then means the newest).

    \b
    Examples:
      snap create digits --name cleaned -m "outliers removed"
      snap create digits --git-commit
      snap create digits --git-commit=HEAD~1
      snap create digits --git-commit --branch "$BRANCH"
      snap create --meta accuracy=0.97 --meta seed=1
    """
    from .verbs import create

    create(
        invocation(),
        volume=volume,
        name=name,
        revision=revision,
        branch=branch,
        message=message,
        meta=meta,
        store=store,
        as_json=as_json,
    )
