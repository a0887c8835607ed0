"""``snap fsck``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from . import exits, output
from .options import common


@contextmanager
def progress_bar() -> Iterator[Callable[[int, int], None] | None]:
    """Draws on a terminal; None elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("checking", total=None)

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield show


@click.command("fsck")
@click.argument("path", metavar="[STORE]", default="")
@common
@click.pass_context
def command(context: click.Context, path: str, store: str, as_json: bool) -> int:
    """Check the whole store.

    Every invariant, and every block against its hash.  Changes nothing.  Exit code 1 if something is wrong.
    Works beside a running daemon.

    \b
    Examples:
      snap fsck /data/store
      snap fsck /data/store --json
    """
    from .session import opened

    if path and store and context.get_parameter_source("store") is click.core.ParameterSource.COMMANDLINE:
        raise click.UsageError("name the store once")
    with opened(path or store) as (_, calls), progress_bar() as progress:
        report = calls.check_store(progress=progress)
    if as_json:
        output.document(report)
    else:
        for finding in report.findings:
            output.line(f"{finding.code}: {output.one_line(finding.message)}")
        verdict = f"damaged: {len(report.findings)} findings" if report.findings else "clean"
        output.line(
            f"{verdict}; {report.inodes} inodes, {report.blocks} blocks, {report.snapshots} snapshots, "
            f"{output.size(report.data_read_bytes)} read"
        )
    return exits.FOUND if report.findings else exits.OK
