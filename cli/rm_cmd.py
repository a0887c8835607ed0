"""``snap rm``."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import click

from . import addresses, output
from .options import common

if TYPE_CHECKING:
    from snapfs import api
    from snapfs.client import Client

    from .session import Place

_AT_ONCE: Final = 16


@click.command("rm")
@click.argument("snapshots", metavar="VOLUME@SNAPSHOT...", nargs=-1, required=True)
@click.option("--purge", is_flag=True, help="For good, at once, not into the trash.")
@common
def command(snapshots: tuple[str, ...], purge: bool, store: str, as_json: bool) -> None:
    """Remove snapshots.

    They go to the trash, from where snap undelete takes them back until trash.hours have passed; then the space that
    they alone hold comes back in the background. Their tags go with them (to take away a tag alone: snap tag --delete).
    What is held or locked cannot be removed. If one does not exist, none is removed.

    \b
    Examples:
      snap rm digits@unsaved-20260102T030405Z
      snap rm @4f2a9c1 @77aa01b
      snap rm --purge digits@secrets
    """
    from .session import opened

    wanted = [addresses.parse(snapshot) for snapshot in snapshots]
    with opened(store) as (place, calls):
        found = _found(place, calls, wanted)
        _remove(calls, found, purge)
        hint = output.on_terminal() and not purge and not as_json and keeps_trash(calls)
    if as_json:
        output.document({"removed": [f"{one.volume}@{one.name}" for one in found]})
        return
    for one in found:
        address = output.address(one.volume, one.name)
        output.line(f"removed {address}" + (f" (to take it back: snap undelete {address})" if hint else ""))


def _found(place: Place, calls: Client, wanted: Sequence[addresses.Address]) -> list[api.Snapshot]:
    """Each once, in the order asked for."""
    found: dict[tuple[str, str], api.Snapshot] = {}
    for address in wanted:
        volume, name = place.snapshot(calls, address)
        one = calls.get_snapshot(volume=volume, snapshot=name)
        found[one.volume, one.name] = one
    return list(found.values())


def _exact(one: api.Snapshot) -> str:
    """What means just this one: a commit's bare ID, which its first snapshot has as its name, means its newest."""
    return f"{one.name}.1" if one.git is not None and one.git.commit == one.name else one.name


def _remove(calls: Client, found: Sequence[api.Snapshot], purge: bool) -> None:
    """A few at a time: they share commits.  Raises what kept the first from going, with those that went."""
    from snapfs.errors import SnapfsError

    def remove(one: api.Snapshot) -> SnapfsError | None:
        try:
            calls.delete_snapshot(volume=one.volume, snapshot=_exact(one), purge=purge)
        except SnapfsError as error:
            return error
        return None

    with ThreadPoolExecutor(min(len(found), _AT_ONCE)) as pool:
        outcomes = list(pool.map(remove, found))
    wrong = [error for error in outcomes if error is not None]
    if not wrong:
        return
    told = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
    gone = [output.address(one.volume, one.name) for one, error in zip(found, outcomes, strict=True) if error is None]
    if gone:
        told += f"; removed: {', '.join(gone)}"
    raise type(wrong[0])(wrong[0].message + told, hint=wrong[0].hint)


def keeps_trash(calls: Client) -> bool:
    """Whether what is deleted can be taken back; False too if that is not ours to know."""
    from snapfs.errors import NotPermitted

    try:
        settings = {setting.name: setting.value for setting in calls.get_settings().settings}
    except NotPermitted:
        return False
    return float(settings.get("trash.hours", "0")) > 0
