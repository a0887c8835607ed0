"""What a system call answers for each kind of error: of the mount, and of a snapshot that is read in-process.

Invariant: ``ERRNOS`` is total over ``Kind``; a test proves it.
"""

from __future__ import annotations

import errno
from typing import Final

from snapfs.errors import Kind

ERRNOS: Final[dict[Kind, int]] = {
    Kind.NOT_FOUND: errno.ENOENT,
    Kind.ALREADY_EXISTS: errno.EEXIST,
    Kind.NOT_A_DIRECTORY: errno.ENOTDIR,
    Kind.IS_A_DIRECTORY: errno.EISDIR,
    Kind.NOT_EMPTY: errno.ENOTEMPTY,
    Kind.NAME_TOO_LONG: errno.ENAMETOOLONG,
    Kind.INVALID: errno.EINVAL,
    Kind.NOT_PERMITTED: errno.EPERM,
    Kind.UNAUTHENTICATED: errno.EACCES,
    Kind.READ_ONLY: errno.EROFS,
    Kind.CROSS_VOLUME: errno.EXDEV,
    Kind.TOO_MANY_LINKS: errno.EMLINK,
    Kind.TOO_LARGE: errno.EFBIG,
    Kind.NO_SPACE: errno.ENOSPC,
    Kind.NO_ATTRIBUTE: errno.ENODATA,
    Kind.STALE: errno.ESTALE,
    Kind.CONFLICT: errno.EBUSY,
    Kind.BUSY: errno.EBUSY,
    Kind.UNAVAILABLE: errno.EIO,
    Kind.UNSUPPORTED: errno.EOPNOTSUPP,
    Kind.CANCELLED: errno.EINTR,
    Kind.CORRUPT: errno.EIO,
    Kind.IO: errno.EIO,
    Kind.QUOTA_EXCEEDED: errno.EDQUOT,
}
