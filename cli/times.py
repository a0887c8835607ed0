"""Points and spans of time on the command line: ``30d`` (from now on, or ago), or a date, with or without a time."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import click

_SPAN: Final = re.compile(r"([0-9]{1,9})(s|m|h|d|w)")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_NS: Final = 1_000_000_000
_LAST: Final = datetime(9999, 12, 31, tzinfo=UTC)
"""The API's times end with this year."""


if TYPE_CHECKING:
    _ParamType = click.ParamType[int]
else:
    _ParamType = click.ParamType  # older clicks cannot be subscripted at run time


class Moment(_ParamType):
    """Nanoseconds since 1970 of ``30d``, ``2026-12-31`` or ``2026-12-31T18:00`` (local time unless it says else).

    Args:
        ahead: a span lies ahead; else it is so long ago.
    """

    name = "time"

    def __init__(self, *, ahead: bool = False) -> None:
        self._ahead = ahead

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):  # a default
            return value
        now_ns = time.time_ns()
        if match := _SPAN.fullmatch(value):
            span_ns = int(match[1]) * _SECONDS[match[2]] * _NS
            moment_ns = now_ns + span_ns if self._ahead else now_ns - span_ns
        else:
            try:
                moment_ns = int(datetime.fromisoformat(value).timestamp()) * _NS
            except (ValueError, OverflowError, OSError):
                self.fail(f"{value!r} is no time; say 30d, 12h, 2026-12-31 or 2026-12-31T18:00", param, ctx)
        if not 0 < moment_ns < int(_LAST.timestamp()) * _NS:
            self.fail(f"{value!r} lies before 1970 or after the year 9998", param, ctx)
        return moment_ns


class Span(_ParamType):
    """Seconds of ``12h`` or ``30d``."""

    name = "span"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):  # a default
            return value
        match = _SPAN.fullmatch(value)
        if match is None or not int(match[1]):
            self.fail(f"{value!r} is no span of time; say 45m, 12h, 30d or 8w", param, ctx)
        return int(match[1]) * _SECONDS[match[2]]


def span(seconds: int) -> str:
    """``30d``: the largest unit that it is a multiple of."""
    for unit in ("d", "h", "m"):
        if seconds and seconds % _SECONDS[unit] == 0:
            return f"{seconds // _SECONDS[unit]}{unit}"
    return f"{seconds}s"
