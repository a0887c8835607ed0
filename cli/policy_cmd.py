"""``snap policy show|set|clear|apply``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from snapfs import api

from . import output
from .options import common
from .times import Span, span

if TYPE_CHECKING:
    from .session import Place

F = TypeVar("F", bound=Callable[..., Any])

_COUNTED: Final = ("last", "hourly", "daily", "weekly", "monthly", "yearly", "distinct")
_NO_POLICY: Final = "none: all snapshots stay"


def _rules(function: F) -> F:
    """Options that make a policy."""
    counts = click.IntRange(min=1)

    def count(name: str, text: str) -> Callable[[Any], Any]:
        return click.option(f"--{name}", type=counts, default=None, metavar="N", help=text)

    options: list[Callable[[Any], Any]] = [
        count("last", "Keep the newest N."),
        count("hourly", "Keep the newest of each of the last N hours that have one."),
        count("daily", "Likewise of days."),
        count("weekly", "... of weeks."),
        count("monthly", "... of months."),
        count("yearly", "... of years (all by UTC)."),
        click.option("--within", type=Span(), default=0, metavar="DURATION", help="Keep those not older: 12h, 30d."),
        click.option(
            "--reachable",
            is_flag=True,
            help="Keep those of commits that a branch, tag, stash, reflog or work tree of the repository reaches.",
        ),
        click.option(
            "--repository",
            "repositories",
            multiple=True,
            metavar="PATH",
            help="A git repository that --reachable asks, where the store is; repeat for more.  "
            "[default: that around the current directory]",
        ),
        count("distinct", "Keep the newest N different contents."),
    ]
    decorated: F = function
    for option in reversed(options):
        decorated = option(decorated)
    return decorated


def _policy(
    place: Place, within: int, reachable: bool, repositories: tuple[str, ...], **counts: int | None
) -> api.RetentionPolicy | None:
    """What the options say; None: nothing.  Raises UsageError."""
    if repositories and not reachable:
        raise click.UsageError("--repository goes with --reachable")
    if not within and not reachable and not any(counts.values()):
        return None
    local = not place.address
    if reachable and not repositories:
        top = place.repository.top if local and place.repository is not None else None
        if top is None:
            raise click.UsageError("--reachable wants to know which --repository to ask")
        repositories = (str(top),)
    named = [str(Path(path).absolute()) if local else path for path in repositories]
    given = {name: count for name, count in counts.items() if count}
    return api.RetentionPolicy(within_seconds=within, reachable=reachable, repositories=named, **given)


def summary(policy: api.RetentionPolicy | None) -> str:
    """In one line."""
    if policy is None:
        return _NO_POLICY
    told = [f"{name} {getattr(policy, name)}" for name in _COUNTED if getattr(policy, name)]
    if policy.within_seconds:
        told.append(f"within {span(policy.within_seconds)}")
    if policy.reachable:
        told.append(f"reachable in {', '.join(map(output.quote, policy.repositories)) or 'no repository'}")
    return "keeps " + ("; ".join(told) or "only what nothing may remove")


@click.group("policy")
def command() -> None:
    """Say which snapshots of a volume stay, and remove the others.

    The daemon applies the policies every retention.every_hours. A snapshot that any rule keeps stays; and always what
    is held, locked, tagged or cloned from, and what a head stands on. What goes, goes to the trash first.

    \b
    Examples:
      snap policy set digits --last 10 --daily 14 --monthly 12
      snap policy set digits --within 30d --reachable
      snap policy apply digits --dry-run
    """


@command.command("show")
@click.argument("volume", default="")
@common
def show(volume: str, store: str, as_json: bool) -> None:
    """Show the policy of VOLUME; else of the one that the current directory or git tells, else of all.

    \b
    Examples:
      snap policy show
      snap policy show digits --json
    """
    from .session import opened

    with opened(store) as (place, calls):
        name = volume or place.implied_volume()
        volumes = [calls.get_volume(name=name)] if name else list(calls.list_volumes())
    if as_json:
        output.document([{"volume": one.name, "policy": one.policy} for one in volumes])
        return
    for one in volumes:
        output.line(f"{output.quote(one.name)}  {summary(one.policy)}")


@command.command("set")
@click.argument("volume", default="")
@_rules
@common
def set_policy(volume: str, store: str, as_json: bool, **rules: Any) -> None:
    """Give a volume a policy, in place of what it had.

    Nothing is removed by this: see first what would go, with snap policy apply --dry-run.

    \b
    Examples:
      snap policy set digits --last 10 --daily 14 --monthly 12
      snap policy set digits --within 30d --reachable --repository ~/project
      snap policy set digits --distinct 20
    """
    from .session import opened

    with opened(store) as (place, calls):
        policy = _policy(place, **rules)
        if policy is None:
            raise click.UsageError("say which snapshots stay, e.g. --last 10 (to keep all: snap policy clear)")
        changed = calls.set_policy(volume=place.volume(calls, volume), policy=policy)
    if as_json:
        output.document(changed)
    else:
        output.line(f"{output.quote(changed.name)}  {summary(changed.policy)}")


@command.command("clear")
@click.argument("volume", default="")
@common
def clear(volume: str, store: str, as_json: bool) -> None:
    """Take a volume's policy away: all its snapshots stay.

    \b
    Examples:
      snap policy clear digits
    """
    from .session import opened

    with opened(store) as (place, calls):
        changed = calls.set_policy(volume=place.volume(calls, volume), policy=None)
    if as_json:
        output.document(changed)
    else:
        output.line(f"{output.quote(changed.name)}  {summary(changed.policy)}")


@command.command("apply")
@click.argument("volume", default="")
@click.option("--dry-run", is_flag=True, help="Remove nothing; show what would go, what stays and why.")
@_rules
@common
def apply(volume: str, dry_run: bool, store: str, as_json: bool, **rules: Any) -> None:
    """Remove the snapshots of VOLUME that its policy does not keep; without VOLUME, of the one that the current
    directory or git tells, else of all that have a policy.

    With rules, these are applied instead of the volume's own.

    \b
    Examples:
      snap policy apply digits --dry-run
      snap policy apply digits
      snap policy apply digits --last 3 --dry-run
    """
    from .session import opened

    with opened(store) as (place, calls):
        policy = _policy(place, **rules)
        name = volume or place.implied_volume()
        if policy is not None and not name:
            name = place.volume(calls)
        report = calls.apply_policy(volume=name, policy=policy, dry_run=dry_run)
    if as_json:
        output.document(report)
    else:
        _tell(report)


def _tell(report: api.RetentionReport) -> None:
    """What goes; in a dry run what stays, too."""
    for warning in report.warnings:
        print(f"snap: warning: {output.one_line(warning)}", file=sys.stderr)
    going = [decision for decision in report.decisions if not decision.keep]
    rows = [
        (
            "keep" if one.keep else "remove",
            output.short_address(f"{one.volume}@{one.snapshot}"),
            output.when(one.created_ns),
            output.one_line(", ".join(one.reasons)),
        )
        for one in (report.decisions if report.dry_run else going)
    ]
    if rows:
        output.table(("", "SNAPSHOT", "CREATED", "WHY"), rows)
    count = len(going) if report.dry_run else report.deleted
    what = "would go" if report.dry_run else "went"
    output.line(
        f"{count} of {len(report.decisions)} snapshots {what}; {output.size(report.freed_bytes)} freed by that, "
        "once they leave the trash"
    )
