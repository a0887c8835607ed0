"""``snap create``."""

from __future__ import annotations

import click

from . import output
from .options import common, pairs


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
    from snapfs import api
    from snapfs.errors import NotFound

    from .session import opened

    facts: api.GitCommit | None = None
    recorded = pairs("--meta", meta)
    if branch and revision is None:
        raise click.UsageError("--branch goes with --git-commit")
    with opened(store) as (place, calls):
        if revision is not None:
            if place.repository is None:
                raise NotFound("no git repository around the current directory", hint="--git-commit needs one")
            facts = place.repository.facts_of(revision, branch=branch)
        chosen = place.volume(calls, volume)
        made = calls.create_snapshot(volume=chosen, name=name, message=message, meta=recorded, git=facts)
    if as_json:
        output.document(made)
    else:
        remark = "" if made.created else f" (unchanged since {output.when(made.created_ns)})"
        output.line(output.address(made.volume, made.name) + remark)
