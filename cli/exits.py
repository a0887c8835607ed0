"""Exit codes: one total map from the kind of an error, told in ``snap --help``."""

from __future__ import annotations

import errno
from typing import Final

from snapfs.errors import Kind

OK: Final = 0
FOUND: Final = 1
"""fsck, scrub, verify or audit --verify found damage; import could not read everything, or export not write it."""
USAGE: Final = 2
INTERNAL: Final = 70
"""A bug of ours: EX_SOFTWARE of sysexits."""
INTERRUPTED: Final = 130
BROKEN_PIPE: Final = 141
"""Both as a shell tells of SIGINT and SIGPIPE."""

BY_KIND: Final[dict[Kind, int]] = {
    Kind.INVALID: USAGE,
    Kind.NAME_TOO_LONG: USAGE,
    Kind.NOT_A_DIRECTORY: USAGE,
    Kind.IS_A_DIRECTORY: USAGE,
    Kind.CROSS_VOLUME: USAGE,
    Kind.NOT_FOUND: 3,
    Kind.NO_ATTRIBUTE: 3,
    Kind.STALE: 3,
    Kind.CONFLICT: 4,
    Kind.ALREADY_EXISTS: 4,
    Kind.NOT_EMPTY: 4,
    Kind.BUSY: 5,
    Kind.UNAVAILABLE: 5,
    Kind.CORRUPT: 6,
    Kind.NO_SPACE: 7,
    Kind.TOO_LARGE: 7,
    Kind.TOO_MANY_LINKS: 7,
    Kind.NOT_PERMITTED: 8,
    Kind.UNAUTHENTICATED: 8,
    Kind.READ_ONLY: 8,
    Kind.UNSUPPORTED: 9,
    Kind.CANCELLED: INTERRUPTED,
    Kind.IO: 10,
    Kind.QUOTA_EXCEEDED: 7,
}

HELP: Final = """\b
Exit codes:
  0   done
  1   damage found (fsck, scrub, verify, audit --verify); not everything imported or exported
  2   wrong usage: bad name, option or combination
  3   not found: store, volume, snapshot, file, commit
  4   the state forbids it: unsaved changes, name taken, not empty, held, locked
  5   busy or unavailable: store in use, no daemon answer, no /dev/fuse, no git
  6   corrupt store
  7   no space, quota full, or a limit reached
  8   not permitted, no valid token, or read-only
  9   a format or protocol of another version
  10  the disk failed
  70  a bug in snapfs
  130 interrupted
  141 nobody reads the output any more
"""


def of_os_error(error: OSError) -> int:
    """Exit code of an error of the host system that no layer below has explained."""
    if isinstance(error, PermissionError):
        return BY_KIND[Kind.NOT_PERMITTED]
    if isinstance(error, FileNotFoundError):
        return BY_KIND[Kind.NOT_FOUND]
    if error.errno == errno.ENOSPC:
        return BY_KIND[Kind.NO_SPACE]
    if error.errno == errno.EDQUOT:
        return BY_KIND[Kind.QUOTA_EXCEEDED]
    return BY_KIND[Kind.IO]
