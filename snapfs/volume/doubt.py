"""An index that may be damaged: looked over before anybody is shown anything of it, or beside the mount if it is large.

Invariants:
  * Damage that reads would not meet (see ``store.hidden``) is found before a small store is used at all.
  * A large one is served at once: a child looks it over beside the mount, as soon as nobody is at work, at most
    PUT_OFF_SECONDS later.  If it finds something, the store takes no more changes, and says why: nothing more is built
    on what is wrong.
"""

from __future__ import annotations

import contextlib
import logging
import subprocess
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from snapfs.errors import Corrupt, SnapfsError
from snapfs.store import hidden, verify
from snapfs.store.index import Index
from snapfs.volume.events import EventLog
from snapfs.volume.turns import Turns

PUT_OFF_SECONDS: Final = 5.0
"""Whoever mounts a store begins to use it: a core that the child takes is one of two, maybe."""
QUIET_SECONDS: Final = 0.5

log = logging.getLogger(__name__)


def check_records(index: Index) -> None:
    """Before a small index is used.

    Raises:
        Corrupt: it has records that cannot be found any more.
    """
    if index.verified:
        _refuse(index, hidden.hidden(index))


def _refuse(index: Index, found: list[str]) -> None:
    if found:
        more = f", and {len(found) - 1} more" if len(found) > 1 else ""
        raise Corrupt(f"{index.path}: the index is damaged ({found[0]}{more})", hint=verify.HINT)


async def look_over_when_quiet(
    index: Index, events: EventLog, commit: Callable[[], Awaitable[None]], turns: Turns
) -> None:  # fmt: skip
    """``look_over``, after the first moment that no requests come for."""
    if index.verified:
        return
    until = trio.current_time() + PUT_OFF_SECONDS
    await trio.sleep(QUIET_SECONDS)
    while turns.busy and trio.current_time() < until:  # noqa: ASYNC110 - nobody tells when requests cease
        await trio.sleep(QUIET_SECONDS)
    await look_over(index, events, commit)


async def look_over(index: Index, events: EventLog, commit: Callable[[], Awaitable[None]]) -> None:
    """Beside the mount, once: an index that was too large to be looked at before it was used."""
    if index.verified:
        return
    try:
        with index.reader():  # what the child reads is not used again meanwhile
            done = await trio.run_process(
                hidden.command(index.path),
                stdin=subprocess.DEVNULL,
                capture_stdout=True,
                check=False,
                process_group=verify.APART,
            )
        _refuse(index, verify.answer(done.returncode, done.stdout))
        index.verified = True
    except Corrupt as error:
        events.warn(error.message)
        with contextlib.suppress(SnapfsError):
            await commit()
        index.fail(error)
    except (OSError, SnapfsError) as error:  # no child could be started, or the store takes no changes already
        log.warning("the index was not looked over: %s", error)
