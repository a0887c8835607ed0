"""``snap trash list|empty``."""

from __future__ import annotations

import click

from . import addresses, output
from .options import common


@click.group("trash")
def command() -> None:
    """See what was removed and can be taken back, or let it go for good.

    Removed snapshots and volumes stay there for trash.hours (24, unless configured).

    \b
    Examples:
      snap trash list
      snap undelete digits@cleaned
      snap trash empty
    """


@command.command("list")
@click.argument("volume", default="")
@common
def list_trash(volume: str, store: str, as_json: bool) -> None:
    """List what is in the trash: of VOLUME, else of all.

    With how much space each alone keeps from coming back.

    \b
    Examples:
      snap trash list
      snap trash list digits --json
    """
    from .session import opened

    with opened(store) as (_, calls):
        entries = calls.list_trash(volume=volume)
    if as_json:
        output.document(entries)
        return
    rows = [
        (
            output.short_address(addresses.target(addresses.Address(entry.volume, entry.snapshot))),
            output.when(entry.deleted_ns),
            output.when(entry.expires_ns),
            output.size(entry.exclusive_bytes),
        )
        for entry in entries
    ]
    output.table(("REMOVED", "AT", "GOES FOR GOOD", "FREES"), rows, right=frozenset({3}))


@command.command("empty")
@click.argument("what", metavar="[VOLUME[@SNAPSHOT]]", default="")
@common
def empty(what: str, store: str, as_json: bool) -> None:
    """Let go for good what is in the trash: all of it, or what is named.

    The space comes back in the background. What is held or locked stays.

    \b
    Examples:
      snap trash empty
      snap trash empty digits@cleaned
    """
    from .session import opened

    address = addresses.parse_volume_or_snapshot(what) if what else addresses.Address("", "")
    with opened(store) as (place, calls):
        if address.snapshot:
            address = place.snapshot(calls, address)
        done = calls.empty_trash(volume=address.volume, snapshot=address.snapshot)
    if as_json:
        output.document(done)
        return
    kept = f"; {done.kept} held or locked, kept" if done.kept else ""
    output.line(f"{done.entries} gone for good{kept}")
