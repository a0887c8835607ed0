"""Keys of the versioned tree: ``subject || inverted epoch``.

Invariants:
  * A subject is ``inode (u64 BE) || kind (u8) || sub-key``; a key ends in the epoch, inverted (u64 BE), so that
    of one subject the newest version comes first.
  * No subject is a prefix of another one's key: sub-keys have a fixed length or end in NUL, which no name holds.
  * An inode's attributes sort last (INODE is the greatest kind): whoever walks an inode's records meets its
    extents before the attributes that tell which of them are alive.
"""

from __future__ import annotations

import struct
from typing import Final

from xxhash import xxh3_64_intdigest

from snapfs.errors import Corrupt
from snapfs.types import Epoch, Ino

DIRENT: Final = 1
XATTR: Final = 2
EXTENT: Final = 3
SYMLINK: Final = 4
PARENT: Final = 5
INODE: Final = 9

_HEAD = struct.Struct(">QB")
_HASHED = struct.Struct(">QBQ")
_EXTENT = struct.Struct(">QBIQ")
_U64 = struct.Struct(">Q")
_pack_u64 = _U64.pack
_pack_hashed = _HASHED.pack
_pack_head = _HEAD.pack

INVERT: Final = (1 << 64) - 1
"""An epoch is inverted by taking it from this."""
EPOCH_BYTES: Final = 8
HEAD_BYTES: Final = _HEAD.size
"""Bytes of inode and kind, before the sub-key."""

COOKIE_MIN: Final = 3
"""Smallest readdir cookie of an entry: 0 to 2 stand for the start, "." and ".."."""


def u64(number: int) -> bytes:
    """Key of a table that is ordered by number."""
    return _pack_u64(number)


def _damaged(key: bytes) -> Corrupt:
    return Corrupt(f"a key of the index is damaged: {key[:64].hex()}", hint="run: snap fsck")


def from_u64(key: bytes, offset: int = 0) -> int:
    try:
        return int(_U64.unpack_from(key, offset)[0])
    except struct.error:
        raise _damaged(key) from None


def name_cookie(name: bytes, seed: int) -> int:
    """63-bit hash of a name, seeded by the store: its place in the directory and its readdir cookie."""
    cookie = xxh3_64_intdigest(name, seed) >> 1
    return cookie if cookie > COOKIE_MIN else COOKIE_MIN


def head(ino: Ino, kind: int) -> bytes:
    """Prefix of all subjects of this kind; the whole subject for INODE and SYMLINK."""
    return _HEAD.pack(ino, kind)


def inode(ino: Ino) -> bytes:
    return _pack_head(ino, INODE)


def symlink(ino: Ino) -> bytes:
    return _HEAD.pack(ino, SYMLINK)


def dirent(parent: Ino, name: bytes, seed: int) -> bytes:
    return b"%b%b\0" % (_pack_hashed(parent, DIRENT, name_cookie(name, seed)), name)


def dirent_from(parent: Ino, cookie: int) -> bytes:
    """Where the entries of a directory from this cookie on begin."""
    return _HASHED.pack(parent, DIRENT, cookie)


def xattr(ino: Ino, name: bytes) -> bytes:
    return _HEAD.pack(ino, XATTR) + name + b"\0"


def parent(ino: Ino, directory: Ino, name: bytes) -> bytes:
    return b"%b%b\0" % (_pack_hashed(ino, PARENT, directory), name)


def extent(ino: Ino, fork: int, offset: int) -> bytes:
    return _EXTENT.pack(ino, EXTENT, fork, offset)


def extents(ino: Ino, fork: int) -> bytes:
    """Prefix of the extents of one fork of a file's data."""
    return _EXTENT.pack(ino, EXTENT, fork, 0)[:-EPOCH_BYTES]


def split(subject: bytes) -> tuple[Ino, int]:
    """(inode, kind) of a subject."""
    try:
        ino, kind = _HEAD.unpack_from(subject)
    except struct.error:
        raise _damaged(subject) from None
    return Ino(ino), kind


def split_hashed(subject: bytes) -> tuple[int, bytes]:
    """(cookie, name) of a directory entry, (parent inode, name) of a parent link."""
    try:
        return _HASHED.unpack_from(subject)[2], subject[_HASHED.size : -1]
    except struct.error:
        raise _damaged(subject) from None


def split_xattr(subject: bytes) -> bytes:
    return subject[_HEAD.size : -1]


def split_extent(subject: bytes) -> tuple[int, int]:
    """(fork, offset)."""
    try:
        _, _, fork, offset = _EXTENT.unpack_from(subject)
    except struct.error:
        raise _damaged(subject) from None
    return fork, offset


def offset_of(subject: bytes) -> int:
    """File offset of an extent."""
    try:
        return int(_U64.unpack_from(subject, _EXTENT.size - _U64.size)[0])
    except struct.error:
        raise _damaged(subject) from None


def versioned(subject: bytes, epoch: int) -> bytes:
    return subject + _pack_u64(INVERT - epoch)


def epoch_of(key: bytes) -> Epoch:
    try:
        return Epoch(INVERT - _U64.unpack_from(key, len(key) - EPOCH_BYTES)[0])
    except struct.error:
        raise _damaged(key) from None
