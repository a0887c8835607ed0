"""``snap config show|set|unset|path``."""

from __future__ import annotations

import click

from snapfs import api

from . import output
from .options import common, json_option, store_option


@click.group("config")
def command() -> None:
    """See and change how a store is served: STORE/config.toml.

    The file is TOML: [table], then name = value. Changing it with an editor is as good; then: snap daemon reload.

    \b
    Examples:
      snap config show
      snap config set log.level debug
      snap config set metrics.address 127.0.0.1:9464
      snap config unset log.level
    """


@command.command("show")
@common
def show(store: str, as_json: bool) -> None:
    """Show all settings with their values and what they are for.

    \b
    Examples:
      snap config show
      snap config show --json
    """
    from .session import opened

    with opened(store) as (_, calls):
        settings = calls.get_settings()
    if as_json:
        output.document(settings)
        return
    output.line(f"# {output.quote(settings.path)}")
    table = ""
    for setting in settings.settings:
        name, _, key = setting.name.partition(".")
        if name != table:
            table = name
            output.line(f"\n[{table}]")
        notes = [setting.description]
        notes += [f"Default: {setting.default_value}."] if setting.value != setting.default_value else []
        notes += ["Read at the start."] if setting.needs_restart else []
        output.line(f"# {output.one_line(' '.join(notes))}")
        output.line(f"{'' if setting.configured else '# '}{key} = {output.one_line(setting.value)}")


@command.command("set")
@click.argument("name")
@click.argument("value")
@common
def set_setting(name: str, value: str, store: str, as_json: bool) -> None:
    """Change one setting in the file, and in the daemon if one runs.

    VALUE is TOML; quotes around text may be left away.

    \b
    Examples:
      snap config set log.level debug
      snap config set daemon.stop_seconds 30
      snap config set listen.certificate /etc/snapfs/lake.pem
    """
    from .session import opened

    with opened(store) as (_, calls):
        changed = calls.update_setting(name=name, value=_as_toml(name, value))
        daemon = calls.get_store().pid
    _tell(changed, waits=bool(daemon) and changed.needs_restart, as_json=as_json)


def _as_toml(name: str, text: str) -> str:
    """Text for a setting that takes text needs no quotes of its own."""
    from snapfs.config import DEFINITIONS, as_toml

    takes_text = name in DEFINITIONS and isinstance(DEFINITIONS[name].default, str)
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"
    return as_toml(text) if takes_text and not quoted else text


@command.command("unset")
@click.argument("name")
@common
def unset(name: str, store: str, as_json: bool) -> None:
    """Take a setting out of the file: back to its default.

    \b
    Examples:
      snap config unset log.level
    """
    from .session import opened

    with opened(store) as (_, calls):
        changed = calls.update_setting(name=name, value="")
        daemon = calls.get_store().pid
    _tell(changed, waits=bool(daemon) and changed.needs_restart, as_json=as_json)


def _tell(setting: api.Setting, *, waits: bool, as_json: bool) -> None:
    if as_json:
        output.document(setting)
        return
    value = f"{setting.name} = {setting.value}" if setting.value else f"{setting.name} is not set"
    output.line(output.one_line(value) + (" (takes effect when the daemon starts again)" if waits else ""))


@command.command("path")
@store_option
@json_option
def path(store: str, as_json: bool) -> None:
    """Print where the file is; it need not exist.

    \b
    Examples:
      $EDITOR "$(snap config path)"
    """
    from snapfs.config import FILE_NAME
    from snapfs.store import layout

    from .session import here

    place, _ = here(store)
    layout.read_marker(place.store)
    file = str(place.store / FILE_NAME)
    if as_json:
        output.document({"path": file})
    else:
        output.line(file)
