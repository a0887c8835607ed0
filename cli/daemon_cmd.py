"""``snap daemon status|stop|reload|logs``."""

from __future__ import annotations

import json
import socket
import sys
import time
from pathlib import Path
from typing import Final

import click

from snapfs import api

from . import exits, output
from .options import common, json_option, store_option
from .scrub_cmd import summary

_ANSWER_SECONDS_MAX: Final = 10.0
"""For a daemon to say how it is; one that is well answers at once."""
_PROBE_SECONDS_MAX: Final = 0.5
_QUIET_SECONDS: Final = 1.0
"""A stop that takes longer is told about, on a terminal."""
_RECORDS: Final = 20


@click.group("daemon")
def command() -> None:
    """See and steer the process that serves a store.

    `snap mount` starts it.

    \b
    Examples:
      snap daemon status
      snap daemon stop --store /data/store
      snap daemon logs --follow --level warning
    """


@command.command("status")
@common
def status(store: str, as_json: bool) -> int:
    """Show whether a daemon serves the store, and how it does.

    The exit code is 5 if none runs or it does not answer.

    \b
    Examples:
      snap daemon status
      snap daemon status --store /data/store --json
      snap daemon status --address lake.example.org:7443
    """
    from snapfs import daemon, errors

    from .session import connected, here

    place, shown = here(store)
    if place.local is not None:
        state = daemon.look(place.local)
        if not state.running:
            _tell_none(place.local, state, as_json)
            return exits.BY_KIND[errors.Kind.UNAVAILABLE]
    deadline = time.monotonic() + _ANSWER_SECONDS_MAX
    with connected(place.local, address=place.address, shown=shown, deadline=deadline) as calls:
        info, scrub = calls.get_store(), calls.get_scrub()
        settings = {setting.name: json.loads(setting.value) for setting in calls.get_settings().settings}
    served = _served(place.local, settings) if place.local is not None else [place.address]
    if as_json:
        output.document({"running": True, **_facts(info), "scrub": scrub, "addresses": served})
        return exits.OK
    for label, value in (
        ("daemon", f"running, pid {info.pid}"),
        ("store", output.quote(info.path)),
        ("mounted at", output.quote(info.mountpoint)),
        ("up for", duration(info.uptime_seconds)),
        ("version", info.version),
        ("unflushed", output.size(info.dirty_bytes)),
        ("scrub", summary(scrub)),
        ("broken", output.one_line(info.failure)),
        *(("serves", output.quote(address)) for address in served),
    ):
        if value:
            output.line(f"{label:<10}  {value}")
    return exits.OK


def _tell_none(store: Path, state: object, as_json: bool) -> None:
    from snapfs.daemon import State

    assert isinstance(state, State)
    if as_json:
        output.document({"running": False, "store": str(store), "stale": state.stale})
        return
    output.line(f"no daemon serves {output.quote(str(store))}")
    if state.pid:
        output.line(f"a command uses it: pid {state.pid}")
    for mountpoint in state.stale:
        output.line(f"a daemon that died left a mount at {output.quote(mountpoint)}; snap mount clears it")


def _facts(info: api.StoreInfo) -> dict[str, object]:
    return {
        "pid": info.pid,
        "store": info.path,
        "mountpoint": info.mountpoint,
        "version": info.version,
        "uptime_seconds": info.uptime_seconds,
        "dirty_bytes": info.dirty_bytes,
        "failure": info.failure,
    }


def _served(store: Path, settings: dict[str, object]) -> list[str]:
    """Addresses, of those that are set, where somebody answers."""
    from snapfs.client.addresses import listens
    from snapfs.types import CONTROL_DIRECTORY, SOCKET_NAME

    directories = [store / CONTROL_DIRECTORY]
    if settings["control.directory"]:
        directories.append(Path(str(settings["control.directory"])))
    found = [f"unix:{path}" for path in (each / SOCKET_NAME for each in directories) if listens(path)]
    listen, metrics = str(settings["listen.address"]), str(settings["metrics.address"])
    if listen and _answers(listen):
        found.append(f"insecure:{listen}" if settings["listen.plaintext"] else listen)
    if metrics and _answers(metrics):
        found.append(f"http://{metrics}/metrics")
    return found


def _answers(address: str) -> bool:
    """Whether somebody listens at ``HOST:PORT``."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PROBE_SECONDS_MAX).close()
    except OSError:
        return False
    return True


def duration(seconds: int) -> str:
    """``2 d 3 h``: the two greatest units."""
    parts: list[str] = []
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if seconds >= length or (unit == "s" and not parts):
            parts.append(f"{seconds // length} {unit}")
            seconds %= length
    return " ".join(parts[:2])


@command.command("stop")
@store_option
@json_option
def stop(store: str, as_json: bool) -> None:
    """Unmount and end the daemon, with everything on disk.

    Also while files are open in the mount: who uses them then gets errors. Returns when the daemon has ended,
    which takes daemon.stop_seconds at most. To refuse while the mount is in use: snap umount.

    \b
    Examples:
      snap daemon stop
      snap daemon stop --store /data/store
    """
    from snapfs import daemon

    from .session import here

    place, _ = here(store)
    shown = _Waiting()
    try:
        ran = daemon.end(place.store, progress=shown.tell if sys.stderr.isatty() else None)
    finally:
        shown.clear()
    name = output.quote(str(place.store))
    if as_json:
        output.document({"store": str(place.store), "stopped": ran})
    else:
        output.line(f"stopped the daemon of {name}" if ran else f"no daemon serves {name}")


class _Waiting:
    """A line on the terminal that tells how long a stop takes already."""

    def __init__(self) -> None:
        self._told = -1

    def tell(self, waited_seconds: float) -> None:
        if waited_seconds >= _QUIET_SECONDS and int(waited_seconds) > self._told:
            self._told = int(waited_seconds)
            print(f"\rwaiting for the daemon to write and end: {self._told} s", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        if self._told >= 0:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


@command.command("reload")
@common
def reload(store: str, as_json: bool) -> None:
    """Make the daemon read its configuration again.

    A file that is not valid changes nothing.

    \b
    Examples:
      snap daemon reload
    """
    from snapfs import daemon, errors

    from .session import connected, here

    place, shown = here(store)
    if place.local is not None and not daemon.look(place.local).running:
        raise errors.Unavailable(f"no daemon serves {place.local}", hint="it reads its configuration when it starts")
    with connected(place.local, address=place.address, shown=shown) as calls:
        done = calls.reload_settings()
    if as_json:
        output.document(done)
        return
    for name in done.applied:
        output.line(f"{name}: in force")
    for name in done.waiting:
        output.line(f"{name}: takes effect when the daemon starts again")
    if not done.applied and not done.waiting:
        output.line("nothing has changed")


@command.command("logs")
@click.option("-n", "records_max", type=click.IntRange(0), default=_RECORDS, show_default=True, help="So many records.")
@click.option("--follow", "-f", is_flag=True, help="Go on with what is logged from now on.")
@click.option(
    "--level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="debug",
    show_default=True,
    help="Records of this level or above.",
)
@store_option
def logs(records_max: int, follow: bool, level: str, store: str) -> int:
    """Show what the daemon logged last, oldest first.

    On the daemon's machine only.

    \b
    Examples:
      snap daemon logs -n 100
      snap daemon logs --follow --level warning
    """
    from snapfs.daemon import logfile

    from .session import here

    place, _ = here(store)
    path = place.store / logfile.NAME
    end = logfile.end(path)
    for record in logfile.last(path, records_max, level, until=end):
        print(_shown(record), end="")
    if not follow:
        return exits.OK
    sys.stdout.flush()
    try:
        for line in logfile.follow(path, level, after=end):
            print(_shown(line), end="", flush=True)
    except KeyboardInterrupt:
        pass  # the usual end: nothing to say
    return exits.INTERRUPTED


def _shown(record: str) -> str:
    """A record as it may be sent to a terminal: libraries write to the log, too, and do not escape what they quote."""
    return "\n".join(map(output.one_line, record.split("\n")))
