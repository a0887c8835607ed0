"""What may go and what must stay: holds, locks, policies, the trash."""

from __future__ import annotations

from snapfs.api.base import Record


class RetentionPolicy(Record, frozen=True, kw_only=True):
    """Which snapshots of a volume stay.  What no rule keeps goes; 0 and false: the rule keeps nothing.  Always kept:
    what is held, locked, tagged, cloned from, or what a head stands on."""

    last: int = 0
    """The newest N."""
    hourly: int = 0
    """The newest of each of the last N hours that have one; likewise below.  Hours, days, weeks (ISO) and months are
    those of UTC."""
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0
    within_seconds: int = 0
    """Those not older than this."""
    reachable: bool = False
    """Those whose git commit is reachable from any branch, tag, reflog, stash or work tree of a repository that follows
    the volume.  A repository that cannot be asked: all snapshots with a commit stay."""
    repositories: list[str] = []
    """Paths of the repositories to ask, on the daemon's machine."""
    distinct: int = 0
    """The newest N different contents: of snapshots that show the same, the newest counts."""


class Decision(Record, frozen=True, kw_only=True):
    """Of one snapshot, what a policy does with it."""

    volume: str
    snapshot: str
    created_ns: int
    keep: bool
    reasons: list[str]
    """Why it is kept, e.g. ``last``, ``daily``, ``held``, ``locked``, ``tagged``, ``cloned``, ``current``."""


class RetentionReport(Record, frozen=True, kw_only=True):
    decisions: list[Decision]
    """By volume, oldest first."""
    deleted: int
    """0 in a dry run."""
    freed_bytes: int
    """What goes, or would go, frees: now, or when the trash is emptied."""
    dry_run: bool
    warnings: list[str] = []
    """E.g. a repository that could not be asked."""


class TrashEntry(Record, frozen=True, kw_only=True):
    """A deleted snapshot or volume that can still be taken back."""

    volume: str
    snapshot: str = ""
    """Empty: the whole volume."""
    deleted_ns: int
    expires_ns: int
    """When it goes for good."""
    exclusive_bytes: int
    """Freed when it goes."""


class Emptied(Record, frozen=True, kw_only=True):
    """What was taken out of the trash for good."""

    entries: int
    kept: int
    """Held or locked: they stay."""
