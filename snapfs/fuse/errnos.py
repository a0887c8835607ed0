"""From errors to what a system call answers.

Invariants:
  * ``ERRNOS`` is total over ``Kind``; a test proves it.
  * ``request`` wraps every handler: nothing but FUSEError leaves one, as anything else would end the mount; how long
    each took and what it failed with is counted.
"""

from __future__ import annotations

import errno
import functools
import logging
from collections.abc import Callable, Coroutine
from time import perf_counter
from typing import Any, Concatenate, Final, ParamSpec, Protocol, TypeVar

from pyfuse3 import FUSEError

from snapfs.errors import Kind, NoSpace, SnapfsError
from snapfs.timings import Timings

log = logging.getLogger(__name__)

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

_LOGGED: Final = frozenset({Kind.CORRUPT, Kind.IO, Kind.UNAVAILABLE})
"""What an administrator must hear about: the caller sees a bare EIO."""

P = ParamSpec("P")
R = TypeVar("R")


class Handlers(Protocol):
    """Whoever has handlers."""

    timings: Timings

    async def make_room(self) -> None:
        """Give back at once what was deleted."""


S = TypeVar("S", bound=Handlers)
Handler = Callable[Concatenate[S, P], Coroutine[Any, Any, R]]


def request(handler: Handler[S, P, R]) -> Handler[S, P, R]:
    """Make a method a FUSE handler: its errors become errnos, unexpected ones EIO and a log line.  For want of
    space it is tried once more when room was made: a request that is refused has changed nothing."""

    name = handler.__name__

    @functools.wraps(handler)
    async def wrapper(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        began = perf_counter()
        try:
            try:
                return await handler(self, *args, **kwargs)
            except NoSpace:
                await self.make_room()
                return await handler(self, *args, **kwargs)
        except Exception as error:
            failed = _answer(name, error)
            self.timings.outcomes[name, errno.errorcode.get(failed.errno, str(failed.errno))] += 1
            raise failed from None
        finally:
            self.timings.add(name, perf_counter() - began)

    return wrapper


def _answer(name: str, error: Exception) -> FUSEError:
    """What the kernel is told; logged if an administrator must hear of it."""
    if isinstance(error, FUSEError):
        return error
    if isinstance(error, SnapfsError):
        if error.kind in _LOGGED:
            log.error("%s: %s", name, error.message)
        return FUSEError(ERRNOS[error.kind])
    log.error("%s failed", name, exc_info=error)
    return FUSEError(errno.EIO)
