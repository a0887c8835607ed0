"""Which commits a repository still reaches: from any branch, tag, stash, reflog or work tree.

Invariants:
  * A commit is said to be unreachable only by a repository that has all of its history, and that answered to the end.
  * git only reads: nothing is fetched, and no hook or helper that the repository names is run.
  * It runs in an environment of its own: a daemon's says nothing of the repositories of those who use it.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pwd
import subprocess
import tempfile
import threading
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from snapfs import errors
from snapfs.git.repository import is_commit_id

SECONDS_MAX: Final = 600.0
"""For one run of git: a walk over a million commits takes some ten seconds."""

_SETTINGS: Final = ("core.fsmonitor=false", "protocol.allow=never")
_running: Final[set[subprocess.Popen[str]]] = set()
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def reachable(repository: str, commits: Collection[str]) -> set[str]:
    """Those of the commits (full IDs) that the repository reaches from a reference (a branch, a tag, ...), from HEAD of
    any of its work trees, or from an entry of a reflog (a stash, what a reset left).  Blocks for as long as git takes.

    Args:
        repository: path of a work tree or of a bare repository.

    Raises:
        NotFound: there is no repository at the path itself.
        Unavailable: it cannot tell: it is shallow, damaged or another user's; it reaches none of the commits, and so
            seems to be another one; git is not there, or too slow.
    """
    wanted = {commit for commit in commits if is_commit_id(commit)}
    try:
        found = _found(_Git(repository), wanted)
    except OSError as error:  # no right to look, a name that is too long, no place for temporary files
        raise errors.Unavailable(f"the repository {repository} cannot be asked: {error.strerror}") from None
    if wanted and not found:
        raise errors.Unavailable(f"the repository {repository} reaches none of the commits: is it another one?")
    return found


def _found(git: _Git, wanted: set[str]) -> set[str]:
    git.check()
    found: set[str] = set()
    if wanted:
        with git.lines("rev-list", "--all", "--reflog") as lines:
            found.update(line for line in lines if line in wanted)
    return found


class _Git:
    """Runs of git in one repository."""

    def __init__(self, repository: str) -> None:
        self._repository = repository
        self._environment = {
            "PATH": _PATH,
            "HOME": _home(),  # the user's settings say which other users' repositories to trust
            "LC_ALL": "C",
            "GIT_OPTIONAL_LOCKS": "0",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_NO_LAZY_FETCH": "1",
            "GIT_GRAFT_FILE": os.devnull,  # else a repository's may cut its history
        }

    def check(self) -> None:
        """It is a repository, at this very path, with all of its history."""
        if not Path(self._repository).is_dir():
            raise errors.NotFound(f"there is no git repository at {self._repository}")
        asked = ("--path-format=absolute", "--is-shallow-repository", "--absolute-git-dir")
        with self.lines("rev-parse", *asked) as lines:
            shallow, directory = next(lines, ""), next(lines, "")
        here = os.path.realpath(self._repository)
        if os.path.realpath(directory) != here:  # not bare: then it is the root of a work tree
            with self.lines("rev-parse", "--path-format=absolute", "--show-toplevel") as lines:
                top = next(lines, "")
            if os.path.realpath(top) != here:
                raise errors.NotFound(f"there is no git repository at {self._repository}, only one around it")
        if shallow != "false":
            raise errors.Unavailable(f"the repository {self._repository} is shallow: it has not all of its history")

    @contextlib.contextmanager
    def lines(self, *arguments: str) -> Iterator[Iterator[str]]:
        """What git prints.  The end is reached only if git ended well.

        Raises:
            Unavailable: it did not.
        """
        settings = [word for setting in _SETTINGS for word in ("-c", setting)]
        with tempfile.TemporaryFile("w+", errors="replace") as complaints:
            try:
                git = subprocess.Popen(
                    # -C, not cwd: that is gone to while Python's lock is held, and may be on the mount that we serve
                    ["git", "-C", self._repository, "--no-replace-objects", *settings, *arguments],
                    env=self._environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=complaints,
                    encoding="utf-8",
                    errors="surrogateescape",
                )
            except FileNotFoundError:
                raise errors.Unavailable("git is not installed", hint="install git") from None
            except OSError as error:
                raise errors.Unavailable(f"git cannot be run in {self._repository}: {error.strerror}") from None
            assert git.stdout is not None
            _running.add(git)
            timer = threading.Timer(SECONDS_MAX, git.kill)
            timer.start()
            try:
                yield (line.rstrip("\n") for line in git.stdout)
                for _ in git.stdout:
                    pass
                status = git.wait()
            finally:
                timer.cancel()
                git.kill()
                git.wait()
                _running.discard(git)
                git.stdout.close()
            if status:
                complaints.seek(0)
                raise errors.Unavailable(f"git {arguments[0]} in {self._repository}: {_reason(complaints.read(4096))}")


@atexit.register
def _end() -> None:
    """Nobody waits any more: who asked may have been given up."""
    for git in _running.copy():
        git.kill()


def _home() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        return "/"


def _reason(complaints: str) -> str:
    for line in complaints.splitlines():
        if line.startswith(("fatal: ", "error: ")):
            return line.partition(": ")[2]
    return "it failed, or took too long"
