"""Limits of an open store that its owner may set."""

from __future__ import annotations

from typing import Final

import msgspec

from snapfs.store.blocks import CACHE_BYTES_MAX


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """All greater than 0."""

    commit_seconds: float = 5.0
    """At most this much unsynced work is lost in a crash; as ext4's default."""
    dirty_bytes_max: int = 128 * 1024 * 1024
    """Writers wait while more than this is in memory and not yet in a segment."""
    cache_bytes_max: int = CACHE_BYTES_MAX
    """Raw blocks kept in memory."""


DEFAULT: Final = Limits()
