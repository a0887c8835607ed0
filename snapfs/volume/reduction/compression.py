"""How a volume's blocks are compressed, and when it is not worth trying.

Invariants:
  * A volume's compression is ``none`` or ``zstd:LEVEL`` (1 to 19); inside it is a level, 0 for none.
  * Whether a chunk is compressed decides how many bytes are stored, never what is read back.
"""

from __future__ import annotations

from typing import Final

from snapfs.errors import Invalid

NONE: Final = "none"
DEFAULT: Final = "zstd:1"
_ZSTD: Final = "zstd:"
LEVEL_MAX: Final = 19
"""Levels above ask for hundreds of MiB of memory, and blocks are too small to gain by them."""

_FAILURES_FREE: Final = 3
"""Chunks in a row that did not shrink before chunks are passed over."""
_PASSED_MAX: Final = 63


def level_of(text: str) -> int:
    """zstd level of a volume's compression; 0: none.

    Raises:
        Invalid: it is neither ``none`` nor ``zstd:1`` to ``zstd:19``.
    """
    if text == NONE:
        return 0
    number = text.removeprefix(_ZSTD)
    if text.startswith(_ZSTD) and number.isascii() and number.isdigit() and 1 <= int(number[:4]) <= LEVEL_MAX:
        return int(number)
    raise Invalid(f"{text!a} is no compression", hint=f"give none, or zstd:1 (fast) to zstd:{LEVEL_MAX} (small)")


def check_compression(text: str) -> str:
    """The compression as it is recorded.

    Raises:
        Invalid: there is no such one.
    """
    level = level_of(text)
    return f"{_ZSTD}{level}" if level else NONE


class Trials:
    """Of one file: after a few chunks that did not shrink only every 2nd, 4th ... 64th is tried."""

    __slots__ = ("_failures", "_passed")

    def __init__(self) -> None:
        self._failures = 0
        self._passed = 0
        """Chunks still to be passed over."""

    def due(self) -> bool:
        """Whether the next chunk is to be tried."""
        if self._passed:
            self._passed -= 1
            return False
        return True

    def tell(self, shrank: bool) -> None:
        """What came of a chunk that was tried."""
        self._failures = 0 if shrank else self._failures + 1
        excess = self._failures - _FAILURES_FREE
        self._passed = min((2 << excess) - 1, _PASSED_MAX) if 0 <= excess < 16 else _PASSED_MAX if excess > 0 else 0
