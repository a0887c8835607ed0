"""Sizes as people write them."""

from __future__ import annotations

import re
from typing import Final

from snapfs import errors

_SIZE: Final = re.compile(r"([0-9]{1,19})(?:([KMGTPE])(?:iB)?|B)?", re.IGNORECASE)
_POWERS: Final = "KMGTPE"


def parse_size(text: str) -> int:
    """Bytes of ``10G``, ``512 MiB``, ``4096``: powers of 1024.

    Raises:
        Invalid.
    """
    found = _SIZE.fullmatch(text.replace(" ", ""))
    if found is None:
        raise errors.Invalid(f"{text!r} is no size", hint="for example: 512M, 10G, 2TiB, or a number of bytes")
    unit = (found[2] or "").upper()
    return int(found[1]) << 10 * (_POWERS.index(unit) + 1 if unit else 0)
