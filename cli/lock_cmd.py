"""``snap lock``."""

from __future__ import annotations

import time
from typing import Final

import click

from . import addresses, output
from .options import common
from .times import Moment, Span

_SECOND_NS: Final = 1_000_000_000


@click.command("lock")
@click.argument("snapshot", metavar="VOLUME@SNAPSHOT")
@click.option("--until", "until_ns", type=Moment(ahead=True), default=0, metavar="TIME", help="E.g. 2027-01-31 or 30d.")
@click.option("--for", "seconds", type=Span(), default=0, metavar="DURATION", help="E.g. 12h or 30d, from now on.")
@common
def command(snapshot: str, until_ns: int, seconds: int, store: str, as_json: bool) -> None:
    """Keep a snapshot from being removed before a time.

    Nobody can take a lock away or make it end earlier, only later. (Who can set the clock of the machine can wait
    faster.)

    \b
    Examples:
      snap lock digits@audited --for 365d
      snap lock digits@audited --until 2030-01-01
    """
    from .session import opened

    if bool(until_ns) == bool(seconds):
        raise click.UsageError("say either --until TIME or --for DURATION")
    address = addresses.parse(snapshot)
    with opened(store) as (place, calls):
        volume, name = place.snapshot(calls, address)
        end_ns = until_ns or time.time_ns() + seconds * _SECOND_NS
        locked = calls.lock_snapshot(volume=volume, snapshot=name, until_ns=end_ns)
    if as_json:
        output.document(locked)
    else:
        where = output.address(locked.volume, locked.name)
        output.line(f"{where} is locked until {output.when(locked.locked_until_ns)}")
