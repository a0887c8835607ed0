"""``snap fsck``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from . import exits, output
from .options import common

if TYPE_CHECKING:
    from snapfs import api
    from snapfs.volume.repair.run import Plan

_NAMES_SHOWN_MAX: Final = 5
_DIGITS_SHOWN: Final = 12
_ACTIONS_SHOWN_MAX: Final = 50


@contextmanager
def progress_bar(what: str = "checking") -> Iterator[Callable[[int, int], None] | None]:
    """Draws on a terminal; None elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total or None)

        yield show


@click.command("fsck")
@click.argument("path", metavar="[STORE]", default="")
@click.option("--repair", is_flag=True, help="Mend what can be mended, after saying what will be done.")
@click.option("--dry-run", is_flag=True, help="With --repair: say it, and do nothing.")
@click.option("--yes", is_flag=True, help="With --repair: do not ask.")
@common
@click.pass_context
def command(
    context: click.Context, path: str, repair: bool, dry_run: bool, yes: bool, store: str, as_json: bool
) -> int:
    """Check the whole store, and mend it.

    Checks every invariant, and every block against its hash; lists the files that are damaged and the snapshots that
    have them whole. Changes nothing. Works beside a running daemon. Exit code 1 if something is wrong.

    With --repair the store must not be mounted. Sound files and snapshots are not touched; bytes that are lost stay an
    I/O error. Exit code 1 if something is still wrong.

    \b
    Examples:
      snap fsck /data/store
      snap fsck /data/store --json
      snap fsck /data/store --repair --dry-run
      snap fsck /data/store --repair --yes
    """
    if path and store and context.get_parameter_source("store") is click.core.ParameterSource.COMMANDLINE:
        raise click.UsageError("name the store once")
    if (dry_run or yes) and not repair:
        raise click.UsageError(f"{'--dry-run' if dry_run else '--yes'} goes with --repair")
    if repair:
        return _repair(path or store, dry_run, yes, as_json)
    report = _check(path or store)
    if as_json:
        output.document(report)
    else:
        _tell(report)
    return exits.FOUND if report.findings else exits.OK


def _check(store: str) -> api.CheckReport:
    from snapfs.errors import Corrupt

    from .session import here, opened

    try:
        with opened(store) as (_, calls), progress_bar() as progress:
            return calls.check_store(progress=progress)
    except Corrupt:  # it cannot even be opened: look at it as it lies there
        place, _ = here(store)
        if place.local is None:
            raise
    from snapfs.volume.repair.run import repairing

    with repairing(place.local) as found, progress_bar() as progress:
        return found.check(progress)


def _tell(report: api.CheckReport) -> None:
    for finding in report.findings:
        output.line(f"{finding.code}: {output.one_line(finding.message)}")
    for damage in report.damage:
        output.line(_damaged(damage))
    verdict = f"damaged: {len(report.findings)} findings" if report.findings else "clean"
    output.line(
        f"{verdict}; {report.inodes} inodes, {report.blocks} blocks, {report.snapshots} snapshots, "
        f"{output.size(report.data_read_bytes)} read"
    )


def _damaged(damage: api.Damage) -> str:
    """One file: where it is damaged, where it is whole, and how to have it back."""
    where = (["head"] if damage.head else []) + [_short(name) for name in damage.snapshots]
    told = f"{output.quote(f'{damage.volume}/{damage.path}')}: damaged in {_few(where)}"
    if not damage.good:
        return f"{told}; no snapshot has it whole"
    told += f"; good in {_few([_short(name) for name in damage.good])}"
    if damage.head:
        source = f"{damage.volume}@{damage.good[0]}"
        told += f": snap restore {shlex.quote(source)} {output.quote(shlex.quote(damage.path))}"
    return told


def _short(name: str) -> str:
    is_commit = len(name) in (40, 64) and set(name) <= set("0123456789abcdef")
    return output.quote(name[:_DIGITS_SHOWN] if is_commit else name)


def _few(names: list[str]) -> str:
    more = len(names) - _NAMES_SHOWN_MAX
    return ", ".join(names[:_NAMES_SHOWN_MAX]) + (f" and {more} more" if more > 0 else "")


# -- repair


def _repair(given: str, dry_run: bool, yes: bool, as_json: bool) -> int:
    from snapfs.errors import Busy, Invalid
    from snapfs.store.layout import read_holder
    from snapfs.volume.repair.run import repairing

    from .session import here

    place, _ = here(given)
    if place.local is None:
        raise Invalid("a repair needs the store itself", hint="run it where the store is: snap fsck STORE --repair")
    try:
        with repairing(place.local) as store:
            with progress_bar("planning") as progress:
                plan = store.plan(progress)
            if not as_json:
                _tell_plan(plan, "will be done" if not dry_run else "would be done")
            if dry_run or not plan.total:
                return _end(plan, None if dry_run else _checked(store), as_json)
            if not yes and not _agreed(as_json):
                output.line("nothing was done")
                return exits.FOUND
            with progress_bar("repairing") as progress:
                done = store.carry_out(progress)
            return _end(done, _checked(store), as_json)
    except Busy as error:
        holder = read_holder(Path(place.local))
        hint = f"first: snap umount {shlex.quote(holder.mountpoint)}" if holder and holder.mountpoint else error.hint
        raise Busy(error.message, hint=hint) from error


def _agreed(as_json: bool) -> bool:
    """Raises:
    Invalid: nobody is there to be asked.
    """
    from snapfs.errors import Invalid

    if as_json or not sys.stdin.isatty():
        raise Invalid("nobody can be asked whether to repair", hint="to do it without asking: --yes")
    return click.confirm("Do it?", err=True)


def _checked(store: Any) -> api.CheckReport:
    with progress_bar() as progress:
        report: api.CheckReport = store.check(progress)
        return report


def _tell_plan(plan: Plan, what: str) -> None:
    if not plan.total:
        output.line("nothing to repair" if not plan.rebuild else output.one_line(plan.rebuild))
        return
    if plan.rebuild:
        output.line(f"it cannot be mended in place: {output.one_line(plan.rebuild)}")
    output.line(f"this {what}:")
    for action in plan.actions[:_ACTIONS_SHOWN_MAX]:
        output.line(f"  {action.code}: {output.one_line(action.message)}")
    if plan.total > _ACTIONS_SHOWN_MAX:
        output.line(f"  and {plan.total - _ACTIONS_SHOWN_MAX} more (all of them: --json)", flush=True)


def _end(plan: Plan, report: api.CheckReport | None, as_json: bool) -> int:
    if as_json:
        output.document({"rebuild": plan.rebuild, "actions": plan.actions, "total": plan.total, "report": report})
    elif report is not None:
        if plan.total:
            output.line(f"done: {plan.total} repairs")
        _tell(report)
    wrong = plan.total if report is None else len(report.findings)
    return exits.FOUND if wrong else exits.OK
