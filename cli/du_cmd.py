"""``snap du``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import click

from . import addresses, output
from .options import common
from .sizes import parse_size

if TYPE_CHECKING:
    from snapfs import api
    from snapfs.client import Client

_TRASHED: Final = " (trash)"
_SIZES: Final = ("LOGICAL", "REFERENCED", "EXCLUSIVE")


@click.command("du")
@click.argument("targets", metavar="[VOLUME|VOLUME@SNAPSHOT]...", nargs=-1)
@click.option("--if-deleted", is_flag=True, help="Tell what would be freed if just these went, together.")
@click.option("--to-free", default="", metavar="SIZE", help="Find the fewest snapshots that free so much.")
@common
def command(targets: tuple[str, ...], if_deleted: bool, to_free: str, store: str, as_json: bool) -> None:
    """Tell what volumes and snapshots hold, and what removing them would free.

    LOGICAL is what their files hold, without holes; REFERENCED what is stored for them, shared or not, after
    deduplication and compression; EXCLUSIVE what is stored for them alone: freed if only this goes. What several free
    together is mostly more than the sum, and exactly told by --if-deleted. Without arguments: the volume that the
    current directory or git tells, else all. What is in the trash counts until it goes for good.

    \b
    Examples:
      snap du
      snap du digits
      snap du --if-deleted digits@one digits@two digits@three
      snap du --to-free 10G digits
    """
    from .session import opened

    if if_deleted and to_free:
        raise click.UsageError("--if-deleted and --to-free exclude each other")
    if if_deleted and not targets:
        raise click.UsageError("--if-deleted wants to know of what")
    free_bytes = parse_size(to_free) if to_free else 0
    if to_free and not free_bytes:
        raise click.UsageError("--to-free must be more than 0")
    wanted = [addresses.parse_volume_or_snapshot(target) for target in targets]
    if to_free and (len(wanted) > 1 or any(address.snapshot for address in wanted)):
        raise click.UsageError("--to-free takes one volume, or none for all")
    with opened(store) as (place, calls):
        if to_free:
            volume = wanted[0].volume if wanted else place.implied_volume()
            _tell_cheapest(calls.cheapest(volume=volume, free_bytes=free_bytes), as_json)
            return
        known = [place.snapshot(calls, address) if address.snapshot else address for address in wanted]
        if if_deleted:
            _tell_freed(calls.what_if(targets=[addresses.target(address) for address in known]), as_json)
            return
        implied = place.implied_volume()
        if not known and implied:
            known = [addresses.Address(implied, "")]
        if not known:
            found: list[api.VolumeUsage | api.Usage] = list(calls.get_usage(snapshots=as_json))
        else:
            found = [_of(calls, address, detailed=as_json or len(known) == 1) for address in known]
    if as_json:
        output.document(found)
    else:
        _tell(found, detailed=bool(known))


def _of(calls: Client, address: addresses.Address, *, detailed: bool) -> api.VolumeUsage | api.Usage:
    """What a volume or snapshot holds; of several with one name the one that is not in the trash.

    Args:
        detailed: of a volume, with what its snapshots hold.
    """
    from snapfs.errors import NotFound

    found = calls.get_usage(volume=address.volume, snapshots=detailed or bool(address.snapshot))
    if not found:
        raise NotFound(f"there is no volume {address.volume!r}")
    volume = min(found, key=lambda one: one.trashed)
    if not address.snapshot:
        return volume
    usages = sorted((usage for one in found for usage in one.usages), key=lambda usage: usage.trashed)
    try:  # a tag or commit ID, perhaps
        name = calls.get_snapshot(volume=address.volume, snapshot=address.snapshot).name
    except NotFound:
        name = address.snapshot  # in the trash
        if all(usage.snapshot != name for usage in usages):
            raise
    named = [usage for usage in usages if usage.snapshot == name]
    if not named:
        raise NotFound(f"there is no snapshot {addresses.target(address)!r} any more")
    return named[0]


def _tell(found: Sequence[api.VolumeUsage | api.Usage], *, detailed: bool) -> None:
    from snapfs import api

    if detailed and len(found) == 1 and isinstance(found[0], api.VolumeUsage):
        _tell_volume(found[0])
        return
    snapshots = [one for one in found if isinstance(one, api.Usage)]
    if len(snapshots) == len(found) and snapshots:
        rows = [(_name(one.volume, one.snapshot, one.trashed), *_sizes(one)) for one in snapshots]
        output.table(("SNAPSHOT", *_SIZES), rows, right=frozenset({1, 2, 3}))
        return
    told = [
        (_name(one.volume, "", one.trashed), str(one.snapshots), *_sizes(one), output.size(one.snapshots_bytes))
        if isinstance(one, api.VolumeUsage)
        else (_name(one.volume, one.snapshot, one.trashed), "", *_sizes(one), "")
        for one in found
    ]
    output.table(("VOLUME", "SNAPSHOTS", *_SIZES, "IN SNAPSHOTS"), told, right=frozenset({1, 2, 3, 4, 5}))


def _tell_volume(volume: api.VolumeUsage) -> None:
    """A row for the head and each snapshot, and what they hold together."""
    rows = [("head", "", *_sizes(volume.head))]
    rows += [
        (_name(one.volume, one.snapshot, one.trashed), output.when(one.created_ns), *_sizes(one))
        for one in volume.usages
    ]
    told = output.quote(volume.volume) + (_TRASHED if volume.trashed else "")
    output.table((told, "CREATED", *_SIZES), rows, right=frozenset({2, 3, 4}))
    output.line(
        f"together {output.size(volume.referenced_bytes)}; {output.size(volume.snapshots_bytes)} would be freed with "
        f"all snapshots, {output.size(volume.exclusive_bytes)} with the volume"
    )


def _name(volume: str, snapshot: str, trashed: bool) -> str:
    named = addresses.target(addresses.Address(volume, snapshot))
    return output.short_address(named) + (_TRASHED if trashed else "")


def _sizes(one: api.VolumeUsage | api.Usage) -> tuple[str, str, str]:
    return output.size(one.logical_bytes), output.size(one.referenced_bytes), output.size(one.exclusive_bytes)


def _tell_freed(told: api.WhatIf, as_json: bool) -> None:
    if as_json:
        output.document(told)
        return
    output.line(f"{output.size(told.freed_bytes)} ({told.freed_bytes} bytes) would be freed")
    for one in told.protected:
        output.line(f"cannot be removed now: {output.one_line(one)}")


def _tell_cheapest(told: api.WhatIf, as_json: bool) -> None:
    if as_json:
        output.document(told)
        return
    for target in told.targets:
        output.line(output.quote(target))
    output.line(f"{output.size(told.freed_bytes)} ({told.freed_bytes} bytes) would be freed with these: snap rm")
