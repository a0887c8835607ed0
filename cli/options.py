"""Options that many verbs share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


@dataclass
class Invocation:
    """What the whole run needs to know of its options; ``main`` makes it, click carries it as ``obj``."""

    json: bool = False
    """Errors are told as JSON too."""
    store: str = ""
    """From ``snap --store``, before the verb."""


def _remember_json(context: click.Context, _parameter: click.Parameter, value: bool) -> bool:
    context.ensure_object(Invocation).json |= value
    return value


def _store_or_group(context: click.Context, _parameter: click.Parameter, value: str) -> str:
    return value or context.ensure_object(Invocation).store


json_option = click.option("--json", "as_json", is_flag=True, callback=_remember_json, help="Print one JSON document.")

store_option = click.option(
    "--store",
    default="",
    metavar="STORE",
    callback=_store_or_group,
    help="The store, or the point where it is mounted.  [default: the mount around the current directory, "
    "SNAPFS_STORE, or git's snapfs.store]",
)


def common(function: F) -> F:
    """``--store`` and ``--json``."""
    decorated: F = store_option(json_option(function))
    return decorated
