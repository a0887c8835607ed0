"""POSIX ACLs as Linux keeps them in the attribute ``system.posix_acl_access``.  Pure.

The mount does not act on ACLs.  Of a file with one, the mode's group bits are the mask: more than the owning group may
have.  So an import keeps the ACL and gives the file the *narrowed* mode; an export gives both back as they were, unless
the mode was changed since: then the ACL says what does not hold any more, and is left out.
"""

from __future__ import annotations

import struct
from typing import Final

ACCESS: Final = b"system.posix_acl_access"
DEFAULT: Final = b"system.posix_acl_default"

_VERSION = struct.Struct("<I")
_ENTRY = struct.Struct("<HHI")
_USER_OBJ: Final = 0x01
_GROUP_OBJ: Final = 0x04
_MASK: Final = 0x10
_OTHER: Final = 0x20
_READ_WRITE_EXECUTE: Final = 7


def _permissions(acl: bytes) -> dict[int, int] | None:
    """Of the entries that there is one of, by tag; None if it is damaged."""
    if len(acl) < _VERSION.size or (len(acl) - _VERSION.size) % _ENTRY.size or _VERSION.unpack_from(acl)[0] != 2:
        return None
    single = (_USER_OBJ, _GROUP_OBJ, _MASK, _OTHER)
    found = {tag: bits & _READ_WRITE_EXECUTE for tag, bits, _ in _ENTRY.iter_unpack(acl[_VERSION.size :])}
    found = {tag: bits for tag, bits in found.items() if tag in single}
    return found if {_USER_OBJ, _GROUP_OBJ, _OTHER} <= found.keys() else None


def narrowed(mode: int, acl: bytes) -> int:
    """The mode with no more for the owning group than the ACL gives it."""
    found = _permissions(acl)
    if found is None or _MASK not in found:
        return mode
    return mode & ~0o070 | (found[_GROUP_OBJ] & found[_MASK]) << 3


def original(mode: int, acl: bytes) -> int | None:
    """The mode that a file with this ACL had, whose narrowed mode is given; None: it does not go with the ACL."""
    found = _permissions(acl)
    if found is None:
        return None
    full = mode & ~0o777 | found[_USER_OBJ] << 6 | found.get(_MASK, found[_GROUP_OBJ]) << 3 | found[_OTHER]
    return full if narrowed(full, acl) == mode else None
