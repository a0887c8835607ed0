"""``snap scrub``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import click

from snapfs import api

from . import exits, output
from .fsck_cmd import progress_bar
from .options import common
from .sizes import parse_size

if TYPE_CHECKING:
    from snapfs.client import Client

_LOOK_SECONDS: Final = 0.2


@click.command("scrub")
@click.option("--wait", is_flag=True, help="Return when it has ended.  Without a daemon that is always so.")
@click.option("--rate", default="", metavar="SIZE", help="Read at most so much a second.  [default: as configured]")
@click.option("--status", "act", flag_value="status", help="Show the scrub that runs, or the last one.")
@click.option("--pause", "act", flag_value="pause", help="Halt it; to go on: snap scrub.")
@click.option("--cancel", "act", flag_value="cancel", help="End it; the next one begins anew.")
@common
def command(wait: bool, rate: str, act: str | None, store: str, as_json: bool) -> int:
    """Verify all that is stored, while it is used.

    Begins, or goes on with what was paused or interrupted: the index, value by value, then every block as it lies on
    the disk. The daemon does it in the background, slowly, and by itself every scrub.every_days; without a daemon it
    runs here, and Ctrl-C leaves it to be gone on with. Exit code 1 if something is wrong: then see snap fsck.

    \b
    Examples:
      snap scrub
      snap scrub --wait --rate 500M
      snap scrub --status --json
    """
    from .session import opened

    if act and (wait or rate):
        raise click.UsageError(f"--{act} goes with neither --wait nor --rate")
    bytes_per_second = parse_size(rate) if rate else 0
    if rate and not bytes_per_second:
        raise click.UsageError("--rate must be more than 0")
    with opened(store) as (_, calls):
        if act == "pause":
            status = calls.pause_scrub()
        elif act == "cancel":
            status = calls.cancel_scrub()
        elif act == "status":
            status = calls.get_scrub()
        else:
            here = not calls.get_store().pid
            status = calls.start_scrub(bytes_per_second=bytes_per_second or (_configured(calls) if here else 0))
            if wait or here:
                status = _ended(calls)
    if as_json:
        output.document(status)
    else:
        for line in lines(status):
            output.line(line)
    return exits.FOUND if status.found else exits.OK


def _configured(calls: Client) -> int:
    """What the configuration says of the rate: a daemon knows by itself."""
    found = {setting.name: setting.value for setting in calls.get_settings().settings}
    return int(found["scrub.bytes_per_second"])


def _ended(calls: Client) -> api.ScrubStatus:
    """The scrub, once it does not run any more."""
    with progress_bar() as progress:
        while True:
            status = calls.get_scrub()
            if status.state is not api.ScrubState.RUNNING:
                return status
            if progress is not None and status.done:
                progress(status.done, status.total)
            time.sleep(_LOOK_SECONDS)


def lines(status: api.ScrubStatus) -> list[str]:
    """For people."""
    told = [summary(status), *(f"{one.code}: {output.one_line(one.message)}" for one in status.findings)]
    if status.found > len(status.findings):
        told.append(f"... and {status.found - len(status.findings)} more: see snap fsck")
    return told


def summary(status: api.ScrubStatus) -> str:
    """In one line."""
    state = status.state
    if state is api.ScrubState.NEVER:
        told = "none yet"
    elif state is api.ScrubState.RUNNING or state is api.ScrubState.PAUSED:
        share = f"{100 * status.done // max(status.total, 1)}%, {status.done} of {status.total} blocks"
        told = f"{state}, {share}" if status.done else f"{state}, {status.index_done} values of the index"
    else:
        told = f"{state} {output.when(status.end_ns)}, {status.done} blocks, {output.size(status.data_read_bytes)} read"
    if status.found:
        told += f", {status.found} findings"
    elif state is api.ScrubState.FINISHED:
        told += ", clean"
    return told + (f"; next {output.when(status.next_ns)}" if status.next_ns else "")
