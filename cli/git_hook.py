"""What git's hooks run: ``snap git hook NAME ARGUMENTS``.

Invariants: the exit code is always 0; at most a few lines are written, all to stderr; it ends within
``SECONDS_MAX``, even if the store hangs: the store is crash-safe, so leaving at once loses nothing that was
promised. No click here: a hook is felt at every commit.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from types import FrameType
from typing import Final

from snapfs import errors
from snapfs.git.follow import Follower, read_pairs
from snapfs.git.receive import read_updates, snapshot_pushed
from snapfs.git.repository import Repository

from .git_binding import bound, checked
from .output import one_line
from .session import current_directory

DEADLINE_SECONDS: Final = 30.0
"""For the answer of the store."""

SECONDS_MAX: Final = 45.0
"""For everything; then the process ends wherever it is."""

INPUT_BYTES_MAX: Final = 16 * 1024 * 1024

ARGUMENT_COUNTS: Final = {
    "post-commit": 0,
    "post-checkout": 3,
    "post-merge": 1,
    "post-rewrite": 1,
    "post-receive": 0,
}


def say(text: str) -> None:
    with contextlib.suppress(OSError):  # git's stderr may be closed: nobody to tell
        print(f"snapfs: {one_line(text)}", file=sys.stderr, flush=True)


def _give_up(_signal: int, _frame: FrameType | None) -> None:
    say(f"gave up after {SECONDS_MAX:.0f} s; the data may not follow this commit (see: snap git status)")
    os._exit(0)


def run_hook(arguments: list[str]) -> int:
    """Run one hook; always 0."""
    signal.signal(signal.SIGALRM, _give_up)
    signal.setitimer(signal.ITIMER_REAL, SECONDS_MAX)
    try:
        _follow(arguments)
    except errors.SnapfsError as error:
        say(error.message + (f" ({error.hint})" if error.hint else ""))
    except KeyboardInterrupt:
        say("interrupted; the data may not follow this commit (snap git sync)")
    except Exception as error:
        say(f"internal error: {type(error).__name__}: {error}")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return 0


def _follow(arguments: list[str]) -> None:
    name, *rest = arguments or [""]
    if ARGUMENT_COUNTS.get(name) is None or len(rest) < ARGUMENT_COUNTS[name]:
        raise errors.Invalid(f"not a hook of snapfs: {' '.join(arguments)!r}")
    directory = current_directory()
    if directory is None:
        return  # the hook of a work tree that is gone
    repository = Repository(directory, os.environ)
    binding = checked(repository.binding)
    given = _input() if name in ("post-rewrite", "post-receive") else ""
    with bound(binding, deadline=time.monotonic() + DEADLINE_SECONDS) as calls:
        if name == "post-receive":
            snapshot_pushed(repository, calls, binding.volume, read_updates(given), say)
            return
        follower = Follower(repository, calls, binding.volume, say)
        if name == "post-commit":
            follower.post_commit()
        elif name == "post-checkout":
            follower.post_checkout(rest[0], rest[1], rest[2])
        elif name == "post-merge":
            follower.post_merge(rest[0])
        else:
            follower.post_rewrite(rest[0], read_pairs(given))


def _input() -> str:
    return sys.stdin.buffer.read(INPUT_BYTES_MAX).decode("utf-8", "replace")
