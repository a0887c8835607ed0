"""What a user can ask for and gets back: plain records, the same in-process and over a socket.

``msgspec`` turns them into the CLI's ``--json``; ``snapfs.rpc.convert`` into the messages of
``proto/snapfs/v1``.  Times are nanoseconds since 1970 (``*_ns``), sizes are bytes (``*_bytes``).
"""

from __future__ import annotations

import enum

from snapfs.api.base import Record
from snapfs.api.retention import Decision, Emptied, RetentionPolicy, RetentionReport, TrashEntry
from snapfs.api.space import ImportReport, OptimizeReport, Space, Usage, VolumeUsage, WhatIf

__all__ = [
    "AuditEntry", "Caller", "Carried", "Change", "ChangeKind", "CheckReport", "Checkout", "Damage", "Decision",
    "Emptied", "Event", "EventKind", "Events", "Finding", "GitCommit", "ImportReport", "NewToken", "Operation",
    "OperationError", "OperationState", "OptimizeReport", "QuotaKind", "Record", "Reloaded", "Restored",
    "RetentionPolicy", "RetentionReport", "Role", "Save", "ScrubState", "ScrubStatus", "Setting", "Settings",
    "Snapshot", "SnapshotFilter", "SnapshotPage", "Space", "StoreInfo", "Token", "TrashEntry", "Usage",
    "VerifyReport", "Volume", "VolumeUsage", "WhatIf",
]  # fmt: skip


class QuotaKind(enum.StrEnum):
    """What a volume's quota limits."""

    LOGICAL = "logical"
    """What the files of the head hold, before deduplication and compression."""
    EXCLUSIVE = "exclusive"
    """Stored bytes that would be freed if the volume went, its snapshots included."""


class GitCommit(Record, frozen=True, kw_only=True):
    """The git commit that a snapshot belongs to."""

    commit: str
    """Full commit ID, 40 or 64 lower-case hex digits."""
    branch: str = ""
    """Short branch name; empty when HEAD is detached."""
    subject: str = ""
    author: str = ""
    """``Name <email>``."""
    remote: str = ""
    """URL of the branch's remote, credentials removed; empty without one."""
    dirty: bool = False
    """The work tree had uncommitted changes to tracked files when the snapshot was made."""


class Volume(Record, frozen=True, kw_only=True):
    name: str
    snapshots: int
    created_ns: int
    parent: str = ""
    """``volume@snapshot`` that the head stands on; empty before the first snapshot."""
    quota_bytes: int = 0
    """Most that the head's files may hold; 0: no limit."""
    used_bytes: int = 0
    """What the quota counts, with what waits to be stored."""
    quota_kind: QuotaKind = QuotaKind.LOGICAL
    compression: str = "zstd:1"
    """How new data is compressed: ``none``, or ``zstd:LEVEL`` with a level of 1 to 19."""
    policy: RetentionPolicy | None = None
    """Which snapshots stay; None: all."""
    origin: str = ""
    """``volume@snapshot`` that it was cloned from, while that exists."""


class Snapshot(Record, frozen=True, kw_only=True):
    volume: str
    name: str
    created_ns: int
    message: str = ""
    meta: dict[str, str] = {}
    git: GitCommit | None = None
    parent: str = ""
    """``volume@snapshot`` of the nearest ancestor that still has a name; empty for a first one."""
    current: bool = False
    """The volume's head stands on it (and may have unsaved changes on top)."""
    created: bool = True
    """False in the answer to a create that found the same commit with the same data."""
    tags: list[str] = []
    """Further names, sorted."""
    seal: str = ""
    """Digest of what it shows and of its history, in hexadecimal; empty until it is sealed, in the background."""
    holds: list[str] = []
    """Who or what needs it, sorted: it cannot be deleted while there is any."""
    locked_until_ns: int = 0
    """It cannot be deleted before; 0: not locked."""


class SnapshotFilter(Record, frozen=True, kw_only=True):
    """All that are given must hold."""

    name_prefix: str = ""
    commit: str = ""
    """Full commit ID or a prefix of at least 4 digits."""
    branch: str = ""
    tag: str = ""
    meta: dict[str, str] = {}
    created_from_ns: int = 0
    created_before_ns: int = 0


class SnapshotPage(Record, frozen=True, kw_only=True):
    snapshots: list[Snapshot]
    next_page_token: str = ""
    """Empty on the last page."""


class ChangeKind(enum.StrEnum):
    ADDED = "added"
    DELETED = "deleted"
    MODIFIED = "modified"
    RENAMED = "renamed"


class Change(Record, frozen=True, kw_only=True):
    kind: ChangeKind
    path: str
    """Path inside the volume, no leading slash, in the newer tree (the older one for DELETED).
    Bytes that are not UTF-8 are surrogate-escaped."""
    old_path: str = ""
    """Only for RENAMED."""
    type: str = "file"
    """file, directory, symlink, fifo, socket, device."""
    old_bytes: int = 0
    """Size in the older tree."""
    new_bytes: int = 0
    changed_bytes: int = 0
    """Bytes of content that differ (written or, for DELETED, gone)."""
    content: bool = False
    """Content (file bytes, link target) differs."""
    metadata: bool = False
    """Mode, owner, mtime or xattrs differ."""


class Save(enum.StrEnum):
    """What a checkout does with unsaved changes."""

    REFUSE = "refuse"
    SAVE = "save"
    DISCARD = "discard"


class Checkout(Record, frozen=True, kw_only=True):
    snapshot: Snapshot
    saved: Snapshot | None = None
    """The snapshot that took the unsaved changes, with Save.SAVE and if there were any."""
    moved: bool = True
    """False when the head already was exactly that snapshot."""


class Restored(Record, frozen=True, kw_only=True):
    paths: list[str]
    """Paths put back, as asked for."""
    files: int
    total_bytes: int


class Finding(Record, frozen=True, kw_only=True):
    """One thing fsck found wrong."""

    code: str
    """Stable short name, e.g. ``block-hash``, ``refs``, ``nlink``."""
    message: str


class Damage(Record, frozen=True, kw_only=True):
    """A file some of whose bytes are lost."""

    volume: str
    path: str
    """Inside the volume, no leading slash.  Bytes that are not UTF-8 are surrogate-escaped."""
    head: bool
    """The head shows it damaged."""
    snapshots: list[str]
    """Names of the volume's snapshots that show it damaged."""
    good: list[str]
    """Names of snapshots that still have it whole, newest first."""
    blocks: list[int]


class CheckReport(Record, frozen=True, kw_only=True):
    findings: list[Finding]
    inodes: int
    blocks: int
    snapshots: int
    data_read_bytes: int
    damage: list[Damage] = []
    """By volume and path."""


class VerifyReport(Record, frozen=True, kw_only=True):
    """Whether a snapshot shows what it was sealed with."""

    snapshot: Snapshot
    digest: str
    """As it was sealed, in hexadecimal."""
    findings: list[Finding]
    """Empty: it is proven."""
    files: int
    data_read_bytes: int
    chained: bool
    """The snapshot before it is still there, with the digest that this one was chained to."""


class ScrubState(enum.StrEnum):
    NEVER = "never"
    RUNNING = "running"
    PAUSED = "paused"
    FINISHED = "finished"
    CANCELLED = "cancelled"


class ScrubStatus(Record, frozen=True, kw_only=True):
    """The scrub that runs, or the last one."""

    state: ScrubState
    start_ns: int = 0
    end_ns: int = 0
    """0 while it runs or waits."""
    index_done: int = 0
    """Values of the index checked: they come first."""
    done: int = 0
    """Blocks checked."""
    total: int = 0
    data_read_bytes: int = 0
    found: int = 0
    """Findings in all; ``findings`` has the first ones."""
    findings: list[Finding] = []
    next_ns: int = 0
    """When the next one begins by itself; 0: never."""


class StoreInfo(Record, frozen=True, kw_only=True):
    path: str
    uuid: str
    format: int
    volumes: int
    snapshots: int
    stored_bytes: int
    """Bytes of live blocks in the segments, after deduplication and compression."""
    logical_bytes: int
    """The same blocks before compression."""
    seal_bytes: int
    """Of the seals of snapshots in the segments."""
    index_bytes: int
    disk_bytes: int
    """What the store's files occupy on the host file system."""
    free_bytes: int = 0
    """Free on the host file system."""
    mountpoint: str = ""
    pid: int = 0
    """Of the daemon; 0 when the store was opened directly."""
    version: str = ""
    """Of snapfs."""
    uptime_seconds: int = 0
    """Of the daemon."""
    dirty_bytes: int = 0
    """Accepted from programs, not yet flushed."""
    failure: str = ""
    """Why the store takes no more changes; empty when it does."""


class Carried(Record, frozen=True, kw_only=True):
    """Answer to carrying snapshots from rewritten commits to their new IDs."""

    carried: list[Snapshot]
    missing: list[str]
    """Old commit IDs that have no snapshot."""


class EventKind(enum.StrEnum):
    VOLUME_CREATED = "volume_created"
    VOLUME_DELETED = "volume_deleted"
    SNAPSHOT_CREATED = "snapshot_created"
    SNAPSHOT_RENAMED = "snapshot_renamed"
    SNAPSHOT_DELETED = "snapshot_deleted"
    TAG_SET = "tag_set"
    TAG_DELETED = "tag_deleted"
    CHECKOUT = "checkout"
    RESTORE = "restore"
    WARNING = "warning"
    DAMAGE_FOUND = "damage_found"
    VOLUME_UPDATED = "volume_updated"
    SNAPSHOT_UPDATED = "snapshot_updated"
    SNAPSHOT_RESTORED = "snapshot_restored"
    VOLUME_RESTORED = "volume_restored"


class Event(Record, frozen=True, kw_only=True):
    sequence: int
    """Grows from event to event, over restarts too."""
    time_ns: int
    kind: EventKind
    volume: str = ""
    """Empty for what concerns the store as a whole."""
    snapshot: str = ""
    commit: str = ""
    message: str = ""
    """The tag, a snapshot's old name, the snapshot a clone starts from, what of a volume changed; for a warning the
    text."""


class Events(Record, frozen=True, kw_only=True):
    """Some events in order."""

    events: list[Event]
    sequence: int
    """All events up to this one were looked at: where to resume, also if none was wanted."""


class OperationState(enum.StrEnum):
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class OperationError(Record, frozen=True, kw_only=True):
    """Why an operation failed."""

    kind: str
    """Value of an ``errors.Kind``."""
    message: str
    hint: str = ""


class Operation(Record, frozen=True, kw_only=True):
    """Long work."""

    id: str
    kind: str
    state: OperationState
    done: int = 0
    total: int = 0
    """0 while it is not known."""
    start_ns: int = 0
    end_ns: int = 0
    """0 while it runs."""
    error: OperationError | None = None
    check: CheckReport | None = None
    """Result of a ``check``."""
    verify: VerifyReport | None = None
    """Result of a ``verify``."""
    optimize: OptimizeReport | None = None
    imported: ImportReport | None = None


class Role(enum.StrEnum):
    """What a caller may do; each may all that those before it may."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


class Caller(Record, frozen=True, kw_only=True):
    """Who a call comes from."""

    name: str
    role: Role
    volumes: list[str] = []
    """May touch these only; empty: all."""


class Token(Record, frozen=True, kw_only=True):
    name: str
    role: Role
    volumes: list[str] = []
    created_ns: int
    expires_ns: int = 0
    """0: never."""
    revoked_ns: int = 0
    """0: not revoked."""
    certificate: bool = False
    """Stands for the client certificate of this name; it has no secret."""


class NewToken(Record, frozen=True, kw_only=True):
    token: Token
    secret: str
    """Told once; empty for a certificate."""


class AuditEntry(Record, frozen=True, kw_only=True):
    """A call that changed something or tried to."""

    sequence: int
    time_ns: int
    caller: str
    """Name of the token or certificate; ``owner`` or ``socket`` on the machine; empty for who was refused."""
    peer: str
    """An address, ``unix``, or ``local`` for a command without a daemon."""
    method: str
    request: str
    """In JSON, without secrets."""
    result: str
    """``OK``, or the kind of the error."""


class Setting(Record, frozen=True, kw_only=True):
    name: str
    """``table.name``, as in the configuration file."""
    value: str
    """As TOML."""
    default_value: str
    description: str
    configured: bool = False
    needs_restart: bool = False


class Settings(Record, frozen=True, kw_only=True):
    settings: list[Setting]
    path: str


class Reloaded(Record, frozen=True, kw_only=True):
    """What a reload of the configuration changed: names of settings."""

    applied: list[str]
    waiting: list[str]
    """Take effect when the daemon starts again."""
