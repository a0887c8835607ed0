"""From errors to what a system call answers.

Invariants:
  * ``ERRNOS`` is total over ``Kind``; a test proves it.
  * ``request`` or ``waiting_request`` wraps every handler: nothing but FUSEError leaves one, as anything else would
    end the mount; how long each took and what it failed with is counted.
"""

from __future__ import annotations

import errno
import functools
import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine
from time import perf_counter
from typing import Any, Concatenate, Final, ParamSpec, Protocol, TypeVar, cast

from pyfuse3 import FUSEError

from snapfs.errnos import ERRNOS as ERRNOS
from snapfs.errors import Kind, NoSpace, SnapfsError
from snapfs.timings import Timings

log = logging.getLogger(__name__)

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


def request(handler: Callable[Concatenate[S, P], R]) -> Handler[S, P, R]:
    """Make a method that never waits a FUSE handler: its errors become errnos, unexpected ones EIO and a log line.  For
    want of space it is tried once more when room was made: a request that is refused has changed nothing."""
    assert not inspect.iscoroutinefunction(handler)
    name = handler.__name__
    answer = cast("Callable[..., R]", handler)

    @functools.wraps(handler)
    async def wrapper(*args: Any) -> R:  # positional, as pyfuse3 calls it: passing on names costs more
        began = perf_counter()
        try:
            try:
                return answer(*args)
            except NoSpace:
                await args[0].make_room()
                return answer(*args)
        except Exception as error:
            raise _failed(args[0].timings, name, error) from None
        finally:
            args[0].timings.by_name[name].add(perf_counter() - began)

    return cast("Handler[S, P, R]", wrapper)


def waiting_request(handler: Handler[S, P, R]) -> Handler[S, P, R]:
    """``request`` for a method that waits: a coroutine more."""
    name = handler.__name__
    answer = cast("Callable[..., Awaitable[R]]", handler)

    @functools.wraps(handler)
    async def wrapper(*args: Any) -> R:
        began = perf_counter()
        try:
            try:
                return await answer(*args)
            except NoSpace:
                await args[0].make_room()
                return await answer(*args)
        except Exception as error:
            raise _failed(args[0].timings, name, error) from None
        finally:
            args[0].timings.by_name[name].add(perf_counter() - began)

    return cast("Handler[S, P, R]", wrapper)


def _failed(timings: Timings, name: str, error: Exception) -> FUSEError:
    failed = _answer(name, error)
    timings.outcomes[name, errno.errorcode.get(failed.errno, str(failed.errno))] += 1
    return failed


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
