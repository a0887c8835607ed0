"""Limits of an open store that its owner may set."""

from __future__ import annotations

from typing import Final

import msgspec

from snapfs.store.blocks import CACHE_BYTES_MAX
from snapfs.store.redo import LOG_BYTES_MAX
from snapfs.store.segments import SEGMENT_BYTES_MAX


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """All greater than 0."""

    commit_seconds: float = 5.0
    """At most this much unsynced work is lost in a crash; as ext4's default."""
    dirty_bytes_max: int = 64 * 1024 * 1024
    """Writers wait while more than this is in memory and not yet in a segment."""
    cache_bytes_max: int = CACHE_BYTES_MAX
    """Raw blocks kept in memory."""
    segment_bytes_max: int = SEGMENT_BYTES_MAX
    """A segment that has so much is closed, and the next one begun."""
    redo_bytes_max: int = LOG_BYTES_MAX
    """The redo log: so much of fsyncs goes there before a commit."""


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How background work goes on."""

    scrub_bytes_per_second: int = 100 * 1024 * 1024
    """Greater than 0."""
    scrub_every_days: float = 30.0
    """From the end of one scrub to the beginning of the next; 0: only when asked for."""
    trash_hours: float = 24.0
    """How long what was deleted can be taken back; 0: not at all."""
    retention_every_hours: float = 1.0
    """From one time that the volumes' policies are applied to the next; 0: only when asked for."""
    compact_percent: float = 25.0
    """A segment that holds more dead bytes than this, of what it occupies, is copied and dropped; 0: never."""


DEFAULT_PACE: Final = Pace()
DEFAULT: Final = Limits()
