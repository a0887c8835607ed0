"""Inodes as the kernel wants them, and for how long it may believe us.

Only this process changes the tree, and it tells the kernel what a checkout or restore replaced: so what is
in a tree may be cached for as long as the kernel likes.  Volumes and ``.snap`` change through the daemon's
channel too.
"""

from __future__ import annotations

import os
import stat
from typing import Final

import msgspec
from pyfuse3 import EntryAttributes, SetattrFields, StatvfsData

from snapfs.format.records import Inode
from snapfs.fuse.nodes import Node
from snapfs.types import NAME_BYTES_MAX, PAGE_BYTES
from snapfs.volume.core import now_ns
from snapfs.volume.files import Space

CACHED_SECONDS: Final = 86_400
"""For names (also absent ones) and attributes inside a tree."""
VOLUME_SECONDS: Final = 1
"""For the names of volumes: another process may remove one through the daemon's channel."""
UNCACHED_SECONDS: Final = 0
"""For names in ``.snap``."""
_STAT_BLOCK_BYTES: Final = 512
"""Unit of st_blocks."""


def of_inode(node: Node, inode: Inode, entry_seconds: int = CACHED_SECONDS) -> EntryAttributes:
    """Attributes of an object in a tree.  Of an empty one some are zero already, and the block size is a page."""
    entry = EntryAttributes()
    entry.st_ino = node
    entry.entry_timeout = entry_seconds
    entry.attr_timeout = CACHED_SECONDS
    entry.st_mode = inode.mode
    entry.st_nlink = inode.nlink
    entry.st_uid = inode.uid
    entry.st_gid = inode.gid
    if inode.rdev:
        entry.st_rdev = inode.rdev
    if inode.size:
        entry.st_size = inode.size
    if inode.allocated_bytes:
        entry.st_blocks = -(-inode.allocated_bytes // _STAT_BLOCK_BYTES)
    entry.st_atime_ns = inode.atime_ns
    entry.st_mtime_ns = inode.mtime_ns
    entry.st_ctime_ns = inode.ctime_ns
    return entry


def unprivileged(mode: int) -> int | None:
    """The mode's permissions without what a write by others takes away, by the kernel's rule for FUSE: setuid, and
    setgid where the group may execute; None if that changes nothing."""
    dropped = stat.S_ISUID | (stat.S_ISGID if mode & stat.S_IXGRP else 0)
    return stat.S_IMODE(mode) & ~dropped if mode & dropped else None


def of_virtual(node: Node, mode: int, *, size: int = 0, nlink: int = 1, time_ns: int, seconds: int) -> EntryAttributes:
    """Attributes of an object that is in no tree; it belongs to who mounted."""
    entry = EntryAttributes()
    entry.st_ino = node
    entry.entry_timeout = seconds
    entry.attr_timeout = seconds
    entry.st_mode = mode
    entry.st_nlink = nlink
    entry.st_uid = os.getuid()
    entry.st_gid = os.getgid()
    entry.st_size = size
    entry.st_blksize = PAGE_BYTES
    entry.st_atime_ns = entry.st_mtime_ns = entry.st_ctime_ns = time_ns
    return entry


def changed(inode: Inode, attr: EntryAttributes, fields: SetattrFields) -> Inode:
    """An inode with what setattr changes of it, but for the size."""
    changes = {"ctime_ns": attr.st_ctime_ns if fields.update_ctime else now_ns()}
    if fields.update_mtime:
        changes["mtime_ns"] = attr.st_mtime_ns
    if fields.update_atime:
        changes["atime_ns"] = attr.st_atime_ns
    if fields.update_mode:
        changes["mode"] = stat.S_IFMT(inode.mode) | stat.S_IMODE(attr.st_mode)
    if fields.update_uid:
        changes["uid"] = attr.st_uid
    if fields.update_gid:
        changes["gid"] = attr.st_gid
    return msgspec.structs.replace(inode, **changes)


def of_dot(node: Node) -> EntryAttributes:
    """What readdir needs of ``.`` and ``..``."""
    entry = EntryAttributes()
    entry.st_ino = node
    entry.st_mode = stat.S_IFDIR
    return entry


def _absent() -> EntryAttributes:
    entry = EntryAttributes()
    entry.entry_timeout = CACHED_SECONDS
    return entry


ABSENT: Final = _absent()
"""A name that does not exist, to be remembered as such."""


def of_space(space: Space) -> StatvfsData:
    data = StatvfsData()
    data.f_bsize = data.f_frsize = PAGE_BYTES
    data.f_blocks = space.total_bytes // PAGE_BYTES
    data.f_bfree = space.free_bytes // PAGE_BYTES
    data.f_bavail = space.available_bytes // PAGE_BYTES
    data.f_files = space.inodes
    data.f_ffree = data.f_favail = space.inodes_free
    data.f_namemax = NAME_BYTES_MAX
    return data
