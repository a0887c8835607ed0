"""``snap watch``."""

from __future__ import annotations

import click

from snapfs import api

from . import exits, output
from .options import common


@click.command("watch")
@click.argument("volume", default="")
@click.option(
    "--after",
    type=click.IntRange(min=0),
    default=None,
    metavar="N",
    help="Begin with the event after number N; 0: with the oldest that is kept.  [default: with the next]",
)
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    type=click.Choice([kind.value for kind in api.EventKind]),
    help="Only events of this kind; repeat for more.",
)
@click.option("--until-now", is_flag=True, help="End after the last event that exists.")
@common
def command(volume: str, after: int | None, kinds: tuple[str, ...], until_now: bool, store: str, as_json: bool) -> int:
    """Tell what happens in the store as it happens.

    Of VOLUME only, if it is named.  Goes on after a restart of the daemon without losing an event or telling one
    twice; ends with an error if the daemon stays away for a minute.  With --json each event is one line of JSON; its
    sequence is what --after takes.

    \b
    Examples:
      snap watch
      snap watch digits --kind snapshot_created --json
      snap watch --after 0 --until-now
    """
    from .session import opened

    with opened(store, waits=not until_now) as (_, calls):
        events = calls.watch_events(
            after=0 if until_now and after is None else after,
            volume=volume,
            kinds=[api.EventKind(kind) for kind in kinds],
            until_now=until_now,
        )
        try:
            for event in events:
                if as_json:
                    output.json_line(event)
                else:
                    output.line(line(event), flush=True)
        except KeyboardInterrupt:
            return exits.INTERRUPTED  # the usual end: nothing to say
    return exits.OK


def line(event: api.Event) -> str:
    """One event for people."""
    where = output.quote(event.volume)
    if event.snapshot:
        where = output.short_address(f"{event.volume}@{event.snapshot}")
    told = f"{event.sequence}  {output.when(event.time_ns)}  {event.kind}"
    return "  ".join(part for part in (told, where, output.one_line(event.message)) if part)
