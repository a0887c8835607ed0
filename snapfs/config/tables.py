"""All settings: each is defined once, as a field of a table, with its type, bounds, default and description."""

from __future__ import annotations

import ipaddress
import json
import re
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import msgspec

from snapfs.volume.limits import DEFAULT, DEFAULT_PACE, Limits, Pace

MIB: Final = 1024 * 1024
_PORT_MAX: Final = 65535
_HOST_PORT: Final = re.compile(r"(?:\[([0-9A-Fa-f:.%]+)\]|([A-Za-z0-9._-]+)):([0-9]{1,5})")

Value = bool | int | float | str


def _live(description: str, *, ge: float | None = None, le: float | None = None) -> msgspec.Meta:
    """A setting that a running daemon follows."""
    return msgspec.Meta(description=description, extra={"needs_restart": False}, ge=ge, le=le)


def _fixed(description: str, *, ge: float | None = None, le: float | None = None) -> msgspec.Meta:
    """A setting that is read when the daemon starts."""
    return msgspec.Meta(description=description, extra={"needs_restart": True}, ge=ge, le=le)


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """Base of the tables."""


class Control(Table, frozen=True, kw_only=True):
    directory: Annotated[str, _fixed("Further directory for the daemon's socket, absolute; made if missing.")] = ""
    group: Annotated[str, _fixed("Group whose members may use the socket in control.directory.")] = ""


class Listen(Table, frozen=True, kw_only=True):
    address: Annotated[str, _fixed("HOST:PORT to serve the API on by TCP; empty: not at all.")] = ""
    certificate: Annotated[str, _fixed("File of the server's certificate chain (PEM), absolute.")] = ""
    key: Annotated[str, _fixed("File of the certificate's private key (PEM), absolute.")] = ""
    client_ca: Annotated[str, _fixed("File of the authorities of client certificates (PEM), absolute.")] = ""
    plaintext: Annotated[bool, _fixed("TCP without TLS; for loopback addresses only.")] = False


class Metrics(Table, frozen=True, kw_only=True):
    address: Annotated[str, _live("HOST:PORT of Prometheus metrics by HTTP, loopback only; empty: off.")] = ""


class Log(Table, frozen=True, kw_only=True):
    level: Annotated[
        Literal["debug", "info", "warning", "error"], _live("Least level of what is logged.")
    ] = "info"  # fmt: skip
    format: Annotated[Literal["text", "json"], _live("Lines of text, or one JSON object a line.")] = "text"
    bytes_max: Annotated[int, _live("A longer daemon.log is set aside as daemon.log.1.", ge=64 * 1024)] = 8 * MIB


class Daemon(Table, frozen=True, kw_only=True):
    stop_seconds: Annotated[
        float, _live("The daemon ends within this time, even if data is lost by that.", ge=1, le=3600)
    ] = 60.0


class Mount(Table, frozen=True, kw_only=True):
    allow_other: Annotated[bool, _fixed("Users other than the one who mounts may use the mount.")] = False
    xattrs: Annotated[bool, _fixed("Extended attributes; small writes become slower.")] = False
    polling: Annotated[bool, _live("Requests are awaited past the scheduler while they come fast.")] = True
    awake: Annotated[bool, _live("Idle processor cores are kept awake while requests come fast.")] = True


class Store(Table, frozen=True, kw_only=True):
    commit_seconds: Annotated[
        float, _fixed("At most this much work that nobody synced is lost in a crash.", ge=0.1, le=300)
    ] = DEFAULT.commit_seconds
    dirty_bytes_max: Annotated[
        int, _fixed("Writers wait while more than this is in memory and not yet stored.", ge=4 * MIB)
    ] = DEFAULT.dirty_bytes_max
    cache_bytes_max: Annotated[int, _fixed("Memory for blocks that were read.", ge=MIB)] = DEFAULT.cache_bytes_max


class Scrub(Table, frozen=True, kw_only=True):
    bytes_per_second: Annotated[int, _live("Most that a scrub reads.", ge=64 * 1024)] = (
        DEFAULT_PACE.scrub_bytes_per_second
    )
    every_days: Annotated[
        float, _live("The store is scrubbed so long after the last time; 0: only when asked for.", ge=0, le=3650)
    ] = DEFAULT_PACE.scrub_every_days


class Trash(Table, frozen=True, kw_only=True):
    hours: Annotated[
        float, _live("How long what was deleted can be taken back; 0: not at all.", ge=0, le=87600)
    ] = DEFAULT_PACE.trash_hours


class Retention(Table, frozen=True, kw_only=True):
    every_hours: Annotated[
        float, _live("Volumes' retention policies are applied so often; 0: only when asked for.", ge=0, le=8760)
    ] = DEFAULT_PACE.retention_every_hours


class Space(Table, frozen=True, kw_only=True):
    compact_percent: Annotated[
        float, _live("A segment with more dead bytes than this is copied and dropped; 0: never.", ge=0, le=100)
    ] = DEFAULT_PACE.compact_percent


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """All settings."""

    control: Control = Control()
    listen: Listen = Listen()
    metrics: Metrics = Metrics()
    log: Log = Log()
    daemon: Daemon = Daemon()
    mount: Mount = Mount()
    store: Store = Store()
    scrub: Scrub = Scrub()
    trash: Trash = Trash()
    retention: Retention = Retention()
    space: Space = Space()

    def limits(self) -> Limits:
        return Limits(**msgspec.structs.asdict(self.store))

    def pace(self) -> Pace:
        return Pace(
            scrub_bytes_per_second=self.scrub.bytes_per_second, scrub_every_days=self.scrub.every_days,
            trash_hours=self.trash.hours, retention_every_hours=self.retention.every_hours,
            compact_percent=self.space.compact_percent,
        )  # fmt: skip


class Definition(msgspec.Struct, frozen=True):
    """What is fixed about a setting."""

    name: str
    type: Any
    default: Value
    description: str
    needs_restart: bool
    expected: str
    """In words, for the hint of an error."""


def _definitions() -> dict[str, Definition]:
    found = {}
    for table, kind in typing.get_type_hints(Config).items():
        for key, hint in typing.get_type_hints(kind, include_extras=True).items():
            bare, meta = typing.get_args(hint)
            name = f"{table}.{key}"
            found[name] = Definition(
                name=name,
                type=hint,
                default=getattr(kind(), key),
                description=meta.description,
                needs_restart=meta.extra["needs_restart"],
                expected=_expected(bare, meta),
            )
    return found


def _expected(bare: Any, meta: msgspec.Meta) -> str:
    if typing.get_origin(bare) is Literal:
        return "one of " + ", ".join(map(as_toml, typing.get_args(bare)))
    words = {bool: "true or false", int: "a whole number", float: "a number", str: 'text in double quotes, "..."'}
    bounds = [f"at least {meta.ge}"] if meta.ge is not None else []
    bounds += [f"at most {meta.le}"] if meta.le is not None else []
    return " ".join([words[bare], *([", ".join(bounds)] if bounds else [])])


def as_toml(value: Value) -> str:
    """A value as TOML writes it."""
    if isinstance(value, str):
        # A JSON string is a basic string of TOML, but for one character.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value).lower() if isinstance(value, bool) else str(value)


DEFINITIONS: Final = _definitions()
"""Of all settings, by name (``table.name``)."""

TABLES: Final = tuple(typing.get_type_hints(Config))


def host_port(address: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT``; an IPv6 address is in square brackets.

    Raises:
        ValueError: it is not of that form.
    """
    found = _HOST_PORT.fullmatch(address)
    if not found or not 0 < int(found[3]) <= _PORT_MAX:
        raise ValueError(f"{address!r} is not HOST:PORT")
    return found[1] or found[2], int(found[3])


def is_loopback(host: str) -> bool:
    """Whether a host that is named so can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def flat(config: Config) -> dict[str, Value]:
    """The settings by name."""
    return {
        f"{table}.{key}": value
        for table in TABLES
        for key, value in msgspec.structs.asdict(getattr(config, table)).items()
    }


def from_flat(values: Mapping[str, Value]) -> Config:
    """From valid values; those that are missing have their defaults."""
    tables: dict[str, dict[str, Value]] = {}
    for name, value in values.items():
        table, _, key = name.partition(".")
        tables.setdefault(table, {})[key] = value
    return msgspec.convert(tables, Config)
