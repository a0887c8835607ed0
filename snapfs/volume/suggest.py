"""Near names, for the hint of an error about one that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Final

_NEAR_MAX: Final = 3
_COMPARED_MAX: Final = 2000
"""Names compared at most: an error must not take seconds."""


def nearest(name: str, names: Iterable[str], what: str) -> str:
    """"did you mean ...", or what there is at all."""
    known = list(names)[-_COMPARED_MAX:]
    if not known:
        return f"there are no {what}"
    near = difflib.get_close_matches(name, known, n=_NEAR_MAX, cutoff=0.6)
    if near:
        return "did you mean " + " or ".join(near) + "?"
    shown = ", ".join(known[-_NEAR_MAX:])
    return f"{what}: {shown}" if len(known) <= _NEAR_MAX else f"{what} are, among others: {shown}"
