"""Facts of one git repository, by few and bounded runs of git.

Invariants:

- git runs with an argument list, no shell, no input unless given, a deadline, and no locks of its own.
- Nothing a user or a repository names is taken for an option.
- The environment comes from the caller.  In a hook git describes the repository by GIT_DIR and friends, which
  are kept; what only concerns the command that is running (its index file, prefix, reflog action) is not.
- Answers are text; bytes that are not UTF-8 are replaced.  Object IDs of any length work (SHA-1, SHA-256).
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from snapfs import errors

if TYPE_CHECKING:
    from snapfs import api

GIT_SECONDS_MAX: Final = 15.0
"""For one run of git: a status of a very large work tree takes seconds, a hang is for ever."""

COMMITS_PER_RUN_MAX: Final = 1000

_SECTION: Final = "snapfs."

_CONFIG_PATTERN: Final = r"^(snapfs\..*|branch\..*\.remote|remote\..*\.url|extensions\.worktreeconfig)$"
_FORMAT: Final = "%H%x00%P%x00%an <%ae>%x00%s%x00%gs"
_OF_THE_COMMAND: Final = frozenset(
    {
        "GIT_PREFIX",
        "GIT_REFLOG_ACTION",
        "GIT_CHERRY_PICK_HELP",
        "GIT_LITERAL_PATHSPECS",
        "GIT_QUARANTINE_PATH",
    }
)
_HEX: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_NO_NOTE: Final = 1
"""Exit code of ``git notes show`` for a commit without one; whatever else fails is 128."""


def is_commit_id(text: str) -> bool:
    """A full object ID, lower case."""
    return _HEX.fullmatch(text) is not None


def is_null_id(text: str) -> bool:
    """git's ID of "nothing"."""
    return bool(text) and not text.strip("0")


class Commit(NamedTuple):
    id: str
    parents: list[str]
    author: str
    subject: str
    reflog: str
    """What moved HEAD here, when it was asked of the reflog; else empty."""


class Binding(NamedTuple):
    """Which volume follows a repository, and the way to it; each is a setting of git, ``snapfs.`` and the name
    here without its underscore.  Empty: not set."""

    volume: str = ""
    store: str = ""
    """Path of the store; or else ``address``."""
    address: str = ""
    """Of a daemon, as for ``snap --address``."""
    token_file: str = ""
    ca: str = ""
    certificate: str = ""
    key: str = ""
    """Paths of what a remote daemon asks for and is known by, as for ``snap``'s options of the same names."""

    @property
    def complete(self) -> bool:
        return bool(self.volume and (self.store or self.address))


class Facts(NamedTuple):
    """What a snapshot records of a commit; each as in ``snapfs.api.GitCommit``, which commands need not import."""

    commit: str
    branch: str
    subject: str
    author: str
    remote: str
    dirty: bool


class WorkState(NamedTuple):
    branch: str
    """Empty when HEAD is detached."""
    dirty: bool


class Rebase(NamedTuple):
    """A rebase that is under way."""

    directory: Path
    stopped: str
    """ID of the commit at which it waits for the user (edit, conflict); empty while git itself works."""


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The caller's environment as a run of git beside the running command needs it."""
    kept = {key: value for key, value in environment.items() if key not in _OF_THE_COMMAND}
    index = kept.get("GIT_INDEX_FILE")
    if index is not None and not Path(index).exists():
        del kept["GIT_INDEX_FILE"]  # a partial commit's temporary index is gone when its hook runs
    kept.update(LC_ALL="C", GIT_OPTIONAL_LOCKS="0", GIT_TERMINAL_PROMPT="0", GIT_PAGER="cat")
    return kept


def without_credentials(url: str) -> str:
    """A remote's URL with user and password removed, and no query; an ssh user (``git@``) stays."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url  # a path, or scp-like user@host:path: no place for a password
    end = min((position for c in "/?#" if (position := rest.find(c)) >= 0), default=len(rest))
    authority, path = rest[:end], re.split(r"[?#]", rest[end:])[0]
    user, at, host = authority.rpartition("@")
    if at and scheme.rpartition("::")[2] in ("ssh", "git+ssh", "ssh+git"):
        return f"{scheme}://{user.partition(':')[0]}@{host}{path}"
    return f"{scheme}://{host}{path}"


class Repository:
    """The repository around a directory.

    Args:
        directory: where git runs; in a hook, the hook's working directory.
        environment: see ``clean_environment``.

    Raises:
        NotFound: no repository there.
        Unavailable: git is not installed, or too slow.
    """

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self._directory = directory
        self._environment = clean_environment(environment)
        arguments = ["rev-parse", "--path-format=absolute", "--absolute-git-dir", "--git-common-dir"]
        done = self._run([*arguments, "--show-toplevel"], check=False)
        lines = done.stdout.splitlines()
        if len(lines) < 2:
            reason = _reason(done.stderr)
            if "not a git repository" in reason or not reason:
                raise errors.NotFound(f"no git repository in {directory} or above it")
            raise errors.Unavailable(f"git: {reason}")
        self.git_dir = Path(lines[0])
        """Of this work tree."""
        self.common_dir = Path(lines[1])
        """Shared by all work trees."""
        self.top = Path(lines[2]) if len(lines) > 2 and done.returncode == 0 else None
        """Root of the work tree; None in a bare repository and inside .git."""

    def _run(
        self, arguments: list[str], *, check: bool = True, given: str = "", errors_with: str = "replace"
    ) -> subprocess.CompletedProcess[str]:
        try:
            done = subprocess.run(
                ["git", "-c", "core.fsmonitor=false", *arguments],
                cwd=self._directory,
                env=self._environment,
                input=given,
                capture_output=True,
                encoding="utf-8",
                errors=errors_with,
                timeout=GIT_SECONDS_MAX,
                check=False,
            )
        except FileNotFoundError:
            raise errors.Unavailable("git is not installed", hint="install git") from None
        except subprocess.TimeoutExpired:
            raise errors.Unavailable(f"git {arguments[0]} took more than {GIT_SECONDS_MAX:.0f} s") from None
        except OSError as error:
            raise errors.Unavailable(f"cannot run git: {error.strerror}") from None
        if check and done.returncode != 0:
            raise errors.Unavailable(f"git {arguments[0]}: {_reason(done.stderr) or 'failed'}")
        return done

    # -- configuration -----------------------------------------------------------------------------

    @functools.cached_property
    def config(self) -> dict[str, str]:
        """snapfs's settings and what tells the remote, by key (section and variable in lower case); last one
        wins."""
        done = self._run(["config", "-z", "--get-regexp", _CONFIG_PATTERN], check=False)
        pairs = (entry.partition("\n") for entry in done.stdout.split("\0") if entry)
        return {key: value for key, _, value in pairs}

    @property
    def binding(self) -> Binding:
        """What binds a volume to this repository."""
        return Binding(**{name: self.config.get(_setting(name), "") for name in Binding._fields})

    @property
    def volume(self) -> str:
        """The volume bound to this repository; empty if none is."""
        return self.binding.volume

    @property
    def store(self) -> Path | None:
        """The store bound to this repository; None too if it is behind an address."""
        value = self.binding.store
        return Path(value) if value else None

    def bind(self, binding: Binding) -> None:
        """Write the binding, and remove what it leaves empty: for this work tree alone where git is set up for
        that, else for all."""
        for name, value in binding._asdict().items():
            if value:
                self._run(["config", self._scope(), "--replace-all", _setting(name), value])
            else:
                self._run(["config", self._scope(), "--unset-all", _setting(name)], check=False)
        self._forget_config()

    def unbind(self) -> bool:
        """Remove the binding; False if there was none."""
        found = False
        for name in Binding._fields:
            done = self._run(["config", self._scope(), "--unset-all", _setting(name)], check=False)
            found |= done.returncode == 0
        self._forget_config()
        return found

    def _scope(self) -> str:
        own = self.config.get("extensions.worktreeconfig", "").lower() in ("true", "yes", "on", "1")
        return "--worktree" if own and self.git_dir != self.common_dir else "--local"

    def _forget_config(self) -> None:
        self.__dict__.pop("config", None)

    def hooks_directory(self) -> Path:
        """Where git looks for hooks: core.hooksPath, relative to the work tree, or the repository's own."""
        base = self.top or self.git_dir
        inner = ["-C", str(base)] if "GIT_DIR" not in self._environment else []
        return base / self._run([*inner, "rev-parse", "--git-path", "hooks"]).stdout.rstrip("\n")

    # -- commits -----------------------------------------------------------------------------------

    def resolve(self, revision: str) -> str:
        """Full ID of the commit that ``revision`` names.

        Raises:
            NotFound: it names none.
        """
        if not revision or revision.startswith("-"):
            raise errors.Invalid(f"not a revision: {revision!r}")
        commit = revision
        for peel in ("", "^{commit}"):  # not at once: ``:/text^{commit}`` would search for that text
            arguments = ["rev-parse", "--verify", "--quiet", commit + peel]
            commit = self._run(arguments, check=False).stdout.strip()
            if not is_commit_id(commit):
                break
        if not is_commit_id(commit):
            if revision == "HEAD":
                raise errors.NotFound("the repository has no commit yet", hint="commit first")
            raise errors.NotFound(
                f"git knows no commit {revision!r}", hint="with --git-commit, write the volume before it"
            )
        return commit

    def head_moves(self) -> list[Commit]:
        """The commit at HEAD and, from the reflog, the one before it; at most two, at least one.

        Raises:
            NotFound: no commit yet.
        """
        moves = self._log(["-g", "-2", "HEAD", "--"])
        if not moves:  # no reflog is kept
            moves = self._log(["-1", self.resolve("HEAD"), "--"])
        return moves

    def commits(self, ids: Iterable[str]) -> dict[str, Commit]:
        """Those of the commits that exist, by ID."""
        wanted = [commit for commit in dict.fromkeys(ids) if is_commit_id(commit)]
        found: dict[str, Commit] = {}
        for start in range(0, len(wanted), COMMITS_PER_RUN_MAX):
            part = wanted[start : start + COMMITS_PER_RUN_MAX]
            log = self._log(["--no-walk=unsorted", "--ignore-missing", "--stdin"], given="\n".join(part) + "\n")
            found.update((commit.id, commit) for commit in log)
        return found

    def _log(self, arguments: list[str], *, given: str = "") -> list[Commit]:
        shape = ["log", "-s", "-z", "--no-color", "--no-show-signature", "--encoding=UTF-8"]
        done = self._run([*shape, f"--format=tformat:{_FORMAT}", *arguments], check=False, given=given)
        fields = done.stdout.split("\0")[:-1]
        rows = (fields[start : start + 5] for start in range(0, len(fields) - 4, 5))
        return [
            Commit(id=row[0].strip(), parents=row[1].split(), author=row[2], subject=row[3], reflog=row[4])
            for row in rows
        ]

    @functools.cached_property
    def work_state(self) -> WorkState:
        """Branch and dirtiness of the work tree (tracked files only)."""
        if self.top is None:
            done = self._run(["symbolic-ref", "--quiet", "--short", "HEAD"], check=False)
            return WorkState(done.stdout.strip(), False)
        arguments = ["status", "--porcelain=v2", "--branch", "-z", "--no-ahead-behind"]
        arguments += ["--untracked-files=no", "--ignore-submodules=dirty"]
        entries = self._run(arguments).stdout.split("\0")
        branch = ""
        for entry in entries:
            if entry.startswith("# branch.head "):
                branch = entry.removeprefix("# branch.head ")
        dirty = any(entry and not entry.startswith("#") for entry in entries)
        return WorkState("" if branch == "(detached)" else branch, dirty)

    def facts(self, commit: Commit, *, work: WorkState | None = None) -> api.GitCommit:
        """What a snapshot of ``commit`` records; ``work`` defaults to the present state of the work tree."""
        from snapfs import api

        return api.GitCommit(**self._facts(commit, self.work_state if work is None else work)._asdict())

    def facts_of(self, revision: str = "HEAD", *, branch: str = "") -> Facts:
        """Facts of the commit that ``revision`` names.

        Args:
            branch: to record; empty: the one that is checked out.  The dirty flag is the work tree's either way.

        Raises:
            NotFound: it names none.
        """
        # HEAD is what it nearly always is, and needs no further run of git
        found = self._log(["-1", "HEAD" if revision == "HEAD" else self.resolve(revision), "--"])
        if not found:
            found = self._log(["-1", self.resolve(revision), "--"])  # tells what is wrong
        state = self.work_state
        return self._facts(found[0], state._replace(branch=branch) if branch else state)

    def _facts(self, commit: Commit, state: WorkState) -> Facts:
        remote = self._remote(state.branch)
        return Facts(commit.id, state.branch, commit.subject, commit.author, remote, state.dirty)

    def _remote(self, branch: str) -> str:
        name = self.config.get(f"branch.{branch}.remote", "origin")
        url = self.config.get(f"remote.{name}.url", "")
        if not url:
            urls = [value for key, value in self.config.items() if key.startswith("remote.")]
            url = urls[0] if len(urls) == 1 else ""
        return without_credentials(url)

    # -- notes -------------------------------------------------------------------------------------

    def note(self, name: str, commit: str) -> str:
        """The commit's note in refs/notes/``name``; empty without one.  Bytes that are not UTF-8 are surrogates.

        Raises:
            Unavailable: git cannot read it.
        """
        arguments = ["notes", f"--ref={name}", "show", self.resolve(commit)]
        done = self._run(arguments, check=False, errors_with="surrogateescape")
        if done.returncode not in (0, _NO_NOTE):  # to take it for none would be to write over it
            reason = _reason(done.stderr).encode(errors="replace").decode() or "failed"
            raise errors.Unavailable(f"git notes: {reason}")
        return done.stdout if done.returncode == 0 else ""

    def set_note(self, name: str, commit: str, text: str) -> None:
        """Replace the commit's note.

        Raises:
            Unavailable: git refuses (it wants to know who writes).
        """
        arguments = ["notes", f"--ref={name}", "add", "-f", "-F", "-", self.resolve(commit)]
        self._run(arguments, given=text, errors_with="surrogateescape")

    # -- operations under way ----------------------------------------------------------------------

    def rebase(self) -> Rebase | None:
        """The rebase that is under way in this work tree."""
        for name in ("rebase-merge", "rebase-apply"):
            directory = self.git_dir / name
            if directory.is_dir() and not (directory / "applying").exists():  # that one is `git am`
                return Rebase(directory, _first_line(directory / "stopped-sha"))
        return None

    def merging(self) -> bool:
        """A merge is being made here (as opposed to a fast-forward, which writes no MERGE_HEAD)."""
        return (self.git_dir / "MERGE_HEAD").exists()

    def replays_commits(self, previous: str, new: str) -> bool:
        """Whether a rebase that has just moved HEAD from ``previous`` to ``new`` is going to make commits
        there."""
        todo = self.git_dir / "rebase-merge" / "git-rebase-todo"
        try:
            lines = todo.read_text("utf-8", "replace").splitlines()
        except OSError:  # the backend "apply" keeps no list: what it replays is what is not upstream
            sides = ["--cherry-pick", "--right-only", f"{new}...{previous}", "--"]
            done = self._run(["rev-list", "--count", *sides])
            return done.stdout.strip() != "0"
        words = {line.split(maxsplit=1)[0] for line in lines if line.strip() and not line.startswith("#")}
        return bool(words - {"noop", "drop", "d", "label", "l", "reset", "t", "update-ref", "u"})

    def rewritten(self, rebase: Rebase, head: str) -> list[tuple[str, str]]:
        """(old ID, new ID) of what the rebase has rewritten so far, the stopped commit included."""
        pairs: list[tuple[str, str]] = []
        with contextlib.suppress(OSError):
            for line in (rebase.directory / "rewritten-list").read_text("ascii", "replace").splitlines():
                old, _, new = line.strip().partition(" ")
                pairs.append((old, new))
        with contextlib.suppress(OSError):
            pending = (rebase.directory / "rewritten-pending").read_text("ascii", "replace")
            pairs.extend((old, head) for old in pending.split())
        stopped = self.commits([rebase.stopped]) if is_commit_id(rebase.stopped) else {}
        if stopped and (rebase.directory / "amend").exists():  # "edit": HEAD is already that commit's copy
            pairs.append((rebase.stopped, head))
        return [pair for pair in pairs if pair[0] != pair[1] and all(map(is_commit_id, pair))]


def _setting(name: str) -> str:
    """Key of git's configuration for a field of ``Binding``."""
    return _SECTION + name.replace("_", "")


def _first_line(path: Path) -> str:
    try:
        return path.read_text("ascii", "replace").partition("\n")[0].strip()
    except OSError:
        return ""


def _reason(stderr: str) -> str:
    """The one line of git's complaint that matters."""
    for line in stderr.splitlines():
        if line.startswith(("fatal: ", "error: ")):
            return line.partition(": ")[2]
    return stderr.strip().partition("\n")[0]


def executable_path(name: str, search: str) -> Path | None:
    """First executable file ``name`` on the search path (the value of PATH)."""
    for directory in search.split(os.pathsep):
        candidate = Path(directory or ".") / name
        if candidate.is_file() and os.access(candidate, os.X_OK):
            return candidate.absolute()
    return None
