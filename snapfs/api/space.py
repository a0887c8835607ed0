"""What takes space, what would be freed: answers to ``snap du``, ``snap space``, ``snap optimize``, import and export.

*Stored* bytes are those of block records in the segments, after deduplication and compression; *logical* bytes are
those that files' extents cover.
"""

from __future__ import annotations

from snapfs.api.base import Record


class Usage(Record, frozen=True, kw_only=True):
    """What one head or snapshot holds (``snap du``)."""

    volume: str
    snapshot: str = ""
    """Empty: the volume's head."""
    created_ns: int = 0
    """Of the snapshot."""
    trashed: bool = False
    logical_bytes: int
    """What its files' extents cover; holes do not count."""
    referenced_bytes: int
    """Stored bytes of all blocks that it shows, each counted once, shared or not."""
    exclusive_bytes: int
    """Stored bytes of blocks that nothing else shows: freed if only this goes."""


class VolumeUsage(Record, frozen=True, kw_only=True):
    """What one volume holds, its head and all its snapshots together."""

    volume: str
    trashed: bool = False
    logical_bytes: int
    """Of its head."""
    referenced_bytes: int
    """Stored bytes of all blocks that the head or any of its snapshots shows."""
    exclusive_bytes: int
    """Freed if the whole volume goes."""
    snapshots_bytes: int
    """Freed if all its snapshots go and its head stays."""
    snapshots: int
    head: Usage
    usages: list[Usage] = []
    """Of its snapshots, oldest first, if asked for."""


class WhatIf(Record, frozen=True, kw_only=True):
    """What would be freed if just these went, together."""

    targets: list[str]
    """``volume@snapshot``, or ``volume`` for a whole volume with all its snapshots."""
    freed_bytes: int
    """Exact: stored bytes of blocks that nothing else shows."""
    protected: list[str] = []
    """Those of the targets that cannot be deleted now, each with its reason after ``: ``."""


class Space(Record, frozen=True, kw_only=True):
    """Why the store holds what it holds.  The parts from ``live_bytes`` to ``overhead_bytes`` add up to
    ``disk_bytes``."""

    live_bytes: int
    """Stored bytes of blocks that a head shows."""
    snapshots_bytes: int
    """... that no head but some snapshot shows."""
    trash_bytes: int
    """... that only what is in the trash shows."""
    deleting_bytes: int
    """... that nothing shows any more: being given back in the background."""
    waiting_bytes: int
    """Blocks without references that wait for a commit or a reader of an older state."""
    seal_bytes: int
    index_bytes: int
    """What the index occupies on the host."""
    overhead_bytes: int
    """The rest of what the segments occupy: partial pages, padding, holes that were not punched."""
    disk_bytes: int
    """What the store's files occupy on the host file system."""
    free_bytes: int
    """Free on the host file system."""
    logical_bytes: int
    """Extents of all heads together."""
    raw_bytes: int
    """All blocks before compression."""
    stored_bytes: int
    """All blocks of files, compressed."""
    oldest_reader_seconds: float = 0.0
    """For how long the oldest reader has kept space from being given back; 0: there is none."""


class OptimizeReport(Record, frozen=True, kw_only=True):
    """What ``snap optimize`` did."""

    files: int
    """Looked at."""
    rewritten: int
    """Whose data was cut anew."""
    read_bytes: int
    written_bytes: int
    extents_before: int
    extents_after: int


class ImportReport(Record, frozen=True, kw_only=True):
    """What ``snap import`` did."""

    files: int
    """Imported now."""
    directories: int
    unchanged: int
    """Were there already, with the same type, size, and times."""
    total_bytes: int
    """Read and stored (before deduplication)."""
    failed: list[str] = []
    """Paths that could not be read, each with its reason after ``: ``; at most 100."""
    failures: int = 0
