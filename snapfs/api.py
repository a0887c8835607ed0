"""What a user can ask for and gets back: plain records, the same in-process and over a socket.

``msgspec`` turns them into JSON (the daemon's channel and the CLI's ``--json``) and checks types when
they come in.  Times are nanoseconds since 1970 (``*_ns``), sizes are bytes (``*_bytes``).
"""

from __future__ import annotations

import enum

import msgspec


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """Base of all API records."""


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


class CheckReport(Record, frozen=True, kw_only=True):
    findings: list[Finding]
    inodes: int
    blocks: int
    snapshots: int
    data_read_bytes: int


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
    index_bytes: int
    disk_bytes: int
    """What the store's files occupy on the host file system."""
    mountpoint: str = ""
    pid: int = 0
    """Of the daemon; 0 when the store was opened directly."""


class Carried(Record, frozen=True, kw_only=True):
    """Answer to carrying snapshots from rewritten commits to their new IDs."""

    carried: list[Snapshot]
    missing: list[str]
    """Old commit IDs that have no snapshot."""
