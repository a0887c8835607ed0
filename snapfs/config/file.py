"""The text of a configuration file: to settings, and with one of them changed.

Invariants:
  * A file is valid as a whole or not at all: unknown names, wrong types and bad combinations are errors that name the
    line and the setting.
  * Comments and layout survive a change.
"""

from __future__ import annotations

import difflib
import grp
import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from snapfs.config.tables import (
    DEFINITIONS,
    TABLES,
    Config,
    Listen,
    Value,
    as_toml,
    flat,
    from_flat,
    host_port,
    is_loopback,
)
from snapfs.errors import Invalid

_HEADER: Final = re.compile(r"""\s*\[\[?\s*["']?([^\]"']+?)["']?\s*\]""")


class _Wrong(Exception):
    """A setting that is wrong: name, message, hint."""

    def __init__(self, name: str, message: str, hint: str) -> None:
        super().__init__(message)
        self.name = name
        self.message = message
        self.hint = hint


def parse(data: bytes, shown: str) -> tuple[Config, frozenset[str]]:
    """The settings that a file says, and the names of those that are in it.

    Args:
        data: the file's content.
        shown: how errors call the file; empty: they need not, as it is only about to be written.

    Raises:
        Invalid: it is not valid; the message tells the line and the setting.
    """
    try:
        text = data.decode()
        tables = tomllib.loads(text)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise Invalid(f"{shown}, line {line}: not UTF-8") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise Invalid(f"{shown}: {error}", hint="the file is TOML: [table], then name = value") from None
    try:
        values = _checked(tables)
        config = from_flat(values)
        _check_combinations(config)
    except _Wrong as wrong:
        line = _line_of(text, wrong.name)
        where = (f"{shown}, line {line}: " if line else f"{shown}: ") if shown else ""
        raise Invalid(f"{where}{wrong.name}: {wrong.message}", hint=wrong.hint) from None
    return config, frozenset(values)


def _checked(tables: Mapping[str, Any]) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for table, content in tables.items():
        if table not in TABLES:
            kind = "table" if isinstance(content, dict) else "setting"
            raise _Wrong(table, f"no such {kind}", near(table, TABLES, "tables are"))
        if not isinstance(content, dict):
            raise _Wrong(table, "is a table of settings, not a value", f"write [{table}], and settings below it")
        for key, value in content.items():
            name = f"{table}.{key}"
            if name not in DEFINITIONS:
                names = [known.partition(".")[2] for known in DEFINITIONS if known.startswith(f"{table}.")]
                raise _Wrong(name, "no such setting", near(key, names, f"[{table}] has"))
            values[name] = _value(name, value)
    return values


def _value(name: str, value: Any) -> Value:
    definition = DEFINITIONS[name]
    try:
        checked: Value = msgspec.convert(value, definition.type)
    except msgspec.ValidationError:
        raise _Wrong(name, f"{_shown(value)} cannot be its value", f"it is {definition.expected}") from None
    if checked != checked or checked in (float("inf"), float("-inf")):
        raise _Wrong(name, f"{_shown(value)} cannot be its value", f"it is {definition.expected}")
    return checked


def _shown(value: Any) -> str:
    return as_toml(value) if isinstance(value, bool | int | float | str) else f"a {type(value).__name__}"


def near(name: str, known: Sequence[str], otherwise: str) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else f"{otherwise}: {', '.join(known)}"


def _check_combinations(config: Config) -> None:
    control, listen = config.control, config.listen
    for name in ("control.directory", "listen.certificate", "listen.key", "listen.client_ca"):
        value = flat(config)[name]
        if value and (not str(value).startswith("/") or "\0" in str(value)):
            raise _Wrong(name, f"{_shown(value)} is not an absolute path", "begin it with /")
    if control.group and not control.directory:
        raise _Wrong("control.group", "needs control.directory", "the socket in the store is its owner's alone")
    if control.group:
        try:
            grp.getgrnam(control.group)
        except (KeyError, ValueError):
            raise _Wrong("control.group", f"no group {control.group!r} on this machine", "see: getent group") from None
    if config.metrics.address:
        host = _host("metrics.address", config.metrics.address)
        if not is_loopback(host):
            raise _Wrong(
                "metrics.address", f"{host} is not a loopback address", "use 127.0.0.1: metrics have no access control"
            )
    if listen.address:
        _check_listen(listen)


def _check_listen(listen: Listen) -> None:
    host = _host("listen.address", listen.address)
    if listen.plaintext:
        if not is_loopback(host):
            raise _Wrong("listen.plaintext", f"{host} is not a loopback address", "without TLS use 127.0.0.1")
        if listen.certificate or listen.key or listen.client_ca:
            raise _Wrong("listen.plaintext", "contradicts the certificate", "leave one of the two away")
    elif not (listen.certificate and listen.key):
        raise _Wrong(
            "listen.address", "needs TLS: listen.certificate and listen.key",
            "on a loopback address listen.plaintext = true does without",
        )  # fmt: skip


def _host(name: str, address: str) -> str:
    try:
        return host_port(address)[0]
    except ValueError as error:
        raise _Wrong(name, str(error), "for example 127.0.0.1:7443 or [::1]:7443") from None


def _line_of(text: str, name: str) -> int:
    """The line where a setting or table stands, from 1; 0 if that cannot be told."""
    table, _, key = name.partition(".")
    opened, first = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        header = _HEADER.match(line)
        if header:
            opened = header[1]
        left = "".join(line.partition("=")[0].split()).replace('"', "").replace("'", "")
        inside = header[1] if header else f"{opened}.{left}".lstrip(".")
        if inside == name and (key or header or "=" in line):
            return number
        if not first and (inside == table or inside.startswith(f"{table}.")):
            first = number
    return first


def one_value(name: str, text: str) -> Value:
    """Raises Invalid."""
    definition = DEFINITIONS[name]
    try:
        parsed = tomllib.loads(f"value = {text}")
        if set(parsed) != {"value"}:
            raise _Wrong(name, "more than one value", f"it is {definition.expected}")
        return _value(name, parsed["value"])
    except (tomllib.TOMLDecodeError, RecursionError):
        raise Invalid(f"{name}: {text!r} is not a value of TOML", hint=f"it is {definition.expected}") from None
    except _Wrong as wrong:
        raise Invalid(f"{name}: {wrong.message}", hint=wrong.hint) from None


def edited(data: bytes, name: str, value: Value | None, shown: str) -> bytes:
    """The file with one setting changed, or taken out.

    Raises:
        Invalid: it is not TOML, or has no such setting to be taken out.
    """
    import tomlkit  # here: it takes as long to import as the rest of a command, and few commands change settings
    from tomlkit.exceptions import TOMLKitError

    table, _, key = name.partition(".")
    try:
        document = tomlkit.parse(data)
        if value is not None:
            if table not in document:
                document.add(table, tomlkit.table())
            document[table][key] = value
        elif key and table in document and key in document[table]:
            del document[table][key]
            if not document[table]:
                del document[table]
        elif not key and table in document and table not in TABLES:
            del document[table]
        elif name not in DEFINITIONS:
            raise Invalid(f"no such setting: {name!r}", hint=near(name, list(DEFINITIONS), "settings are"))
        return tomlkit.dumps(document).encode()
    except (TOMLKitError, UnicodeDecodeError, TypeError) as error:
        raise Invalid(f"{shown}: {error}", hint="mend it with an editor") from None
