"""Options that many verbs share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from .invocation import Invocation

F = TypeVar("F", bound=Callable[..., Any])


def invocation() -> Invocation:
    """Of the command that runs."""
    return click.get_current_context().find_object(Invocation) or Invocation()


def _remember_json(context: click.Context, _parameter: click.Parameter, value: bool) -> bool:
    context.ensure_object(Invocation).json |= value
    return value


def _store_or_group(context: click.Context, _parameter: click.Parameter, value: str) -> str:
    return value or context.ensure_object(Invocation).store


def _remember(context: click.Context, parameter: click.Parameter, value: str) -> None:
    if value:
        assert parameter.name is not None
        setattr(context.ensure_object(Invocation), parameter.name, value)


json_option = click.option("--json", "as_json", is_flag=True, callback=_remember_json, help="Print one JSON document.")

store_option = click.option(
    "--store",
    default="",
    metavar="STORE",
    callback=_store_or_group,
    help="The store, or the point where it is mounted.  [default: the mount around the current directory, "
    "SNAPFS_STORE, or git's snapfs.store]",
)


def _connection_option(name: str, metavar: str, text: str, variable: str) -> Callable[[F], F]:
    told = f"{text}  [default: {variable}]"
    return click.option(name, default="", metavar=metavar, callback=_remember, expose_value=False, help=told)


address_option = _connection_option(
    "--address",
    "ADDRESS",
    "Of a daemon, instead of a store: HOST:PORT, unix:SOCKET or insecure:127.0.0.1:PORT.",
    "SNAPFS_ADDRESS, or git's snapfs.address",
)
token_option = _connection_option(
    "--token-file", "FILE", "Holds the token to show the daemon.", "SNAPFS_TOKEN, or SNAPFS_TOKEN_FILE"
)
ca_option = _connection_option("--ca", "FILE", "Certificates that the daemon's must descend from.", "SNAPFS_CA")
certificate_option = _connection_option(
    "--certificate", "FILE", "A certificate to show the daemon.", "SNAPFS_CERTIFICATE"
)
key_option = _connection_option("--key", "FILE", "Its private key.", "SNAPFS_KEY")


def connection(function: F) -> F:
    """``--address`` and what a daemon there asks for."""
    for option in (key_option, certificate_option, ca_option, token_option, address_option):
        function = option(function)
    return function


def common(function: F) -> F:
    """``--store``, ``--address`` and its kin, and ``--json``."""
    decorated: F = store_option(connection(json_option(function)))
    return decorated
