"""Which table of the index a record is of, by its shape alone: for records whose table's name is lost."""

from __future__ import annotations

from typing import Final

from snapfs.format import keys

_KINDS: Final = frozenset((keys.DIRENT, keys.XATTR, keys.EXTENT, keys.SYMLINK, keys.PARENT, keys.INODE))
_INVERTED: Final = b"\xff" * 5
"""An inverted epoch begins so: epochs have 24 bits.  No other key ends like that."""

_BY_SIZES: Final = {
    (8, 90): "blocks", (8, 17): "epochs", (8, 16): "segments", (8, 1): "unsealed", (32, 8): "dedup", (24, 1): "created",
    (21, 1): "reap", (29, 1): "unaccounted", (40, 1): "requests_by_time",
}  # fmt: skip
"""(bytes of the key, of the payload)."""

_BY_FIELD: Final = (
    (b'"head":', "volumes"), (b'"orphans":', "snapshots"), (b'"sequence":', "seals"), (b'"fingerprint":', "requests")
)  # fmt: skip

TOLD: Final = frozenset(("tree", "changes", "events", *_BY_SIZES.values(), *(table for _, table in _BY_FIELD)))
"""Tables that can be told."""


def table_of(key: bytes, payload: bytes) -> str:
    """The table's name; empty if the shape does not tell (names and tags look the same)."""
    size = len(key)
    if size >= keys.HEAD_BYTES + keys.EPOCH_BYTES:
        if key[-8:-3] == _INVERTED and key[8] in _KINDS:
            return "tree"
        if not payload and size >= keys.HEAD_BYTES + keys.EPOCH_BYTES and key[16] in _KINDS:
            return "changes"
    if payload.startswith(b"{") and size in (8, 32):
        if b'"kind":' in payload and b'"sequence":' in payload and b'"digest":' not in payload:
            return "events"
        return next((table for field, table in _BY_FIELD if field in payload), "")
    return _BY_SIZES.get((size, len(payload)), "")
