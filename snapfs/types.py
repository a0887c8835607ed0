"""Ids and limits that every layer shares.  Pure: no I/O, no imports from snapfs.

Ids are NewTypes so that mypy tells an inode from an epoch.  Limits are named with their unit last
and their reason beside them.
"""

from __future__ import annotations

from typing import Final, NewType

Ino = NewType("Ino", int)
"""Inode number: unique in the store, never reused."""

Epoch = NewType("Epoch", int)
"""Number that stamps every change; a child's is greater than its parent's; 0 means "none"."""

VolumeId = NewType("VolumeId", int)
"""Number of a volume, from the same sequence as epochs, so that (volume or snapshot) numbers never clash."""

BlockId = NewType("BlockId", int)
"""Number of a stored block, never reused; 0 means "none"."""

SegmentId = NewType("SegmentId", int)
"""Number of a segment file, never reused."""

NAME_BYTES_MAX: Final = 255
"""Longest file, volume or snapshot name: what Linux allows for one path component."""

PATH_BYTES_MAX: Final = 4096
"""Longest path or symlink target: Linux's PATH_MAX."""

LINKS_MAX: Final = 65_000
"""Hard links to one inode: what ext4 allows."""

XATTR_BYTES_MAX: Final = 65_536
"""Largest value of one extended attribute: the kernel's XATTR_SIZE_MAX."""

FILE_BYTES_MAX: Final = (1 << 63) - 1
"""Largest file (8 EiB less one byte): the kernel's own limit, so that it refuses what is beyond at once; with a smaller
one it would take such a write into its cache, and the error would come late."""

PAGE_BYTES: Final = 4096
"""The kernel's page: the unit in which FUSE writes reach us and in which space is counted."""

BLOCK_BYTES_MAX: Final = 256 * 1024
"""Largest block before compression: the upper bound of content-defined chunking."""

INO_BITS: Final = 40
"""Bits of an inode number, so that a view number and an inode fit into one 64-bit FUSE node."""

VIEW_BITS: Final = 24
"""Bits of a volume or epoch number, for the same reason: 16 million snapshots in a store's life."""

CONTROL_DIRECTORY: Final = "control"
"""Inside a store: what concerns its daemon."""
SOCKET_NAME: Final = "socket"
"""In it: the daemon's socket, or a link to it."""
OWNER_NAME: Final = "owner"
"""In it: the secret of whoever can read the store, new at each start of the daemon."""
