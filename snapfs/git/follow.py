"""What each hook does: data follows commits.

Facts about git 2.39 that this rests on (seen with tests/acceptance/test_git_life.py):

- An amend calls post-commit (HEAD is the new commit) and then post-rewrite ``amend``.
- A rebase calls post-checkout when it moves HEAD to its base (HEAD's reflog then says ``(start): checkout``),
  post-commit for commits that it makes, and at its end, HEAD being final, post-rewrite ``rebase`` with all
  pairs; the last is left out when it made no commit. ``--abort`` calls nothing.  While it waits for the user,
  ``rebase-merge/stopped-sha`` exists.
- A merge made here calls post-merge with MERGE_HEAD present, a fast-forward without; one concluded by hand
  calls post-commit.
- ``git worktree add`` and ``git clone`` call post-checkout with a null previous ID; ``git reset`` and ``git
  stash`` call nothing.

Hence: a rebase leaves the data where it is until its end (so that an abort is right without a hook), unless
nothing will be rewritten; then it carries the snapshots to the new IDs and follows.  A commit that the user
makes while a rebase waits is snapshotted only if the data stands on that place of the history (see ``snap git
sync``): else it would take another commit's data.

Every function returns quietly or says what happened in one line; errors are for the caller to tell.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, Protocol

from snapfs import api, errors
from snapfs.git import notes
from snapfs.git.repository import Commit, Rebase, Repository, WorkState, is_commit_id, is_null_id

CARRY_BATCH_MAX: Final = 500
"""Commits in one call: keeps each within the channel's message and the store's transaction bounds."""

SHORT_ID_DIGITS: Final = 12

_REBASE_START: Final = re.compile(r"\(start\): ")
_NUMBERED: Final = re.compile(r"([0-9a-f]{40,64})(\.[0-9]+)?")


class Store(Protocol):
    """What following needs of a store, over either transport."""

    def get_volume(self, *, name: str) -> api.Volume: ...

    def get_snapshot(self, *, volume: str, snapshot: str) -> api.Snapshot: ...

    def create_snapshot(self, *, volume: str, git: api.GitCommit | None = None) -> api.Snapshot: ...

    def carry_snapshots(self, *, volume: str, rewritten: Sequence[tuple[str, api.GitCommit]]) -> api.Carried: ...

    def checkout(self, *, volume: str, snapshot: str, unsaved: api.Save, label: str = "") -> api.Checkout: ...

    def diff(self, *, volume: str, snapshot: str, other: str = "") -> Iterator[api.Change]: ...


def short(commit: str) -> str:
    return commit[:SHORT_ID_DIGITS]


def commit_of(address: str) -> str:
    """Commit ID in a snapshot's name or ``volume@name``; empty if it is not named by one."""
    found = _NUMBERED.fullmatch(address.rpartition("@")[2])
    return found.group(1) if found and is_commit_id(found.group(1)) else ""


class Follower:
    """Binds one repository to one volume.

    Args:
        say: takes one line for the user.
    """

    def __init__(self, repository: Repository, store: Store, volume: str, say: Callable[[str], None]) -> None:
        self._repository = repository
        self._store = store
        self._volume = volume
        self._say = say

    # -- hooks -------------------------------------------------------------------------------------

    def post_commit(self) -> None:
        """Snapshot the data under the new commit's ID."""
        moves = self._repository.head_moves()
        rebase = self._repository.rebase()
        if rebase is not None:
            self._commit_in_rebase(rebase, moves)
            return
        created = self._snapshot(moves[0])
        self._warn_of_foreign_base(created, moves)

    def post_checkout(self, previous: str, new: str, branch_flag: str) -> None:
        """Bring the data to the commit's snapshot, unsaved data snapshotted first."""
        if branch_flag != "1" or previous == new or is_null_id(previous) or is_null_id(new):
            return
        if not (is_commit_id(previous) and is_commit_id(new)):  # by hand: not to become an option of git
            raise errors.Invalid("post-checkout takes two commit IDs and a flag")
        rebase = self._repository.rebase()
        if rebase is None or not rebase.stopped:
            started = _REBASE_START.search(self._repository.head_moves()[0].reflog)
            if (rebase is not None or started) and self._repository.replays_commits(previous, new):
                return
        self._follow(new, label=short(previous))

    def post_merge(self, squash_flag: str) -> None:
        """Snapshot a merge made here; follow a fast-forward."""
        if squash_flag == "1":
            return  # nothing was committed
        moves = self._repository.head_moves()
        rebase = self._repository.rebase()
        if rebase is not None and (self._repository.merging() or not rebase.stopped):
            self._commit_in_rebase(rebase, moves)
        elif self._repository.merging():
            self._snapshot(moves[0])
        else:
            self._follow(moves[0].id, label=short(moves[1].id) if len(moves) > 1 else "")

    def post_rewrite(self, command: str, pairs: Sequence[tuple[str, str]]) -> None:
        """Carry snapshots to rewritten commits; after a rebase, bring the data to HEAD's."""
        rebase = self._repository.rebase()
        if command == "amend":
            if rebase is None:
                self._carry(pairs)  # post-commit made the snapshot, unless it failed
            return
        _, missing = self._carry(pairs)
        head = self._repository.head_moves()[0].id
        if missing:
            self._say(
                f"{len(missing)} of the rewritten commits had no snapshot in {self._volume}: "
                + short(missing[0])
                + ("" if len(missing) == 1 else " and others")
            )
        if head not in missing:
            self._follow_rewritten(head)

    # -- on demand ---------------------------------------------------------------------------------

    def sync(self, *, unsaved: api.Save) -> api.Checkout:
        """Bring the data to HEAD's snapshot now.

        Raises:
            NotFound: HEAD has no snapshot.
            Conflict: there are unsaved changes and ``unsaved`` refuses them.
        """
        moves = self._repository.head_moves()
        head = moves[0].id
        rebase = self._repository.rebase()
        if rebase is not None:
            self._carry([pair for pair in self._repository.rewritten(rebase, head) if pair[1] == head])
        base = commit_of(self._base())
        return self._store.checkout(volume=self._volume, snapshot=head, unsaved=unsaved, label=short(base))

    # -- steps -------------------------------------------------------------------------------------

    def _snapshot(self, commit: Commit) -> api.Snapshot:
        facts = self._repository.facts(commit)
        made = self._store.create_snapshot(volume=self._volume, git=facts)
        name = made.name.replace(commit.id, short(commit.id))
        self._say(f"{self._volume}@{name} holds this commit's data{'' if made.created else ' already'}")
        if notes.wanted(self._repository):
            self._note(commit, made)
        return made

    def _note(self, commit: Commit, made: api.Snapshot) -> None:
        """Note the seals of the commit, if it comes in time, and of its parents, if those came too late."""
        try:
            for parent in commit.parents:
                if not notes.of_volume(self._repository, parent, self._volume) and self._has(parent):
                    notes.note(self._repository, self._store.get_snapshot(volume=self._volume, snapshot=parent))
            notes.note(self._repository, notes.awaited(self._store, made, notes.HOOK_SECONDS))
        except errors.SnapfsError as error:  # the snapshot is there: that is what counts
            self._say(f"the seal was not noted: {error.message} (snap git note --all-missing)")

    def _base(self) -> str:
        """``volume@snapshot`` on which the head stands; empty if on none."""
        return self._store.get_volume(name=self._volume).parent

    def _commit_in_rebase(self, rebase: Rebase, moves: list[Commit]) -> None:
        if not rebase.stopped:
            return  # git's own commit: post-rewrite will carry its snapshot
        base = commit_of(self._base())
        before = moves[1].id if len(moves) > 1 else ""
        if base and base in (before, rebase.stopped, *moves[0].parents):
            self._snapshot(moves[0])
        else:
            self._say(
                f"no snapshot for {short(moves[0].id)} during the rebase: the data is that of another commit"
                " (snap git sync brings it to HEAD)"
            )

    def _warn_of_foreign_base(self, created: api.Snapshot, moves: list[Commit]) -> None:
        """After ``git reset`` or an aborted rebase the data may stand elsewhere than the history: tell."""
        base = commit_of(created.parent)
        commit, *before = moves
        related = {commit.id, *commit.parents, *(move.id for move in before)}
        if not base or base in related or not commit.parents:
            return
        try:
            if self._differ(base, commit.parents[0]):
                self._say(
                    f"note: this data grew from {short(base)}, not from the parent {short(commit.parents[0])}"
                    " (after git reset, snap git sync brings the data along)"
                )
        except errors.NotFound:
            return  # the parent never had a snapshot

    def _differ(self, snapshot: str, other: str) -> bool:
        return any(True for _ in self._store.diff(volume=self._volume, snapshot=snapshot, other=other))

    def _follow(self, commit: str, *, label: str) -> None:
        try:
            done = self._store.checkout(volume=self._volume, snapshot=commit, unsaved=api.Save.SAVE, label=label)
        except errors.NotFound as error:
            self._say(f"{error.message}; the data of {self._volume} is left as it is")
            return
        self._tell(done, commit)

    def _tell(self, done: api.Checkout, commit: str) -> None:
        saved = f"; what was unsaved is in {self._volume}@{done.saved.name}" if done.saved is not None else ""
        if done.moved or saved:
            self._say(f"{self._volume} is now at {short(commit)}{saved}")

    def _follow_rewritten(self, head: str) -> None:
        """As ``_follow``, but unsaved changes on data that the rewriting did not change stay where they
        are."""
        base = self._base().rpartition("@")[2]
        try:
            done = self._store.checkout(volume=self._volume, snapshot=head, unsaved=api.Save.REFUSE)
        except errors.Conflict:
            if not base or self._differ(base, head):
                self._follow(head, label=short(commit_of(base)))
            return
        except errors.NotFound as error:
            self._say(f"{error.message}; the data of {self._volume} is left as it is")
            return
        self._tell(done, head)

    def _carry(self, pairs: Iterable[tuple[str, str]]) -> tuple[list[str], list[str]]:
        """(new commits that got a snapshot, new commits that had nothing to get)."""
        changed = [(old, new) for old, new in pairs if old != new and is_commit_id(old) and is_commit_id(new)]
        if not changed:
            return [], []
        commits = self._repository.commits(new for _, new in changed)
        work = WorkState(self._repository.work_state.branch, dirty=False)
        rewritten = [(old, self._repository.facts(commits[new], work=work)) for old, new in changed if new in commits]
        carried: list[str] = []
        for part in _batches(rewritten):
            answer = self._store.carry_snapshots(volume=self._volume, rewritten=part)
            carried += [snapshot.git.commit for snapshot in answer.carried if snapshot.git is not None]
        known = set(carried)
        wanted = dict.fromkeys(new for _, new in changed)
        return carried, [new for new in wanted if new not in known and not self._has(new)]

    def _has(self, commit: str) -> bool:
        try:
            self._store.get_snapshot(volume=self._volume, snapshot=commit)
        except errors.NotFound:
            return False
        return True


def _batches(
    rewritten: list[tuple[str, api.GitCommit]],
) -> Iterator[list[tuple[str, api.GitCommit]]]:
    """Parts of bounded size that never divide the old commits of one new one: the last of them counts."""
    part: list[tuple[str, api.GitCommit]] = []
    for entry in rewritten:
        if len(part) >= CARRY_BATCH_MAX and entry[1].commit != part[-1][1].commit:
            yield part
            part = []
        part.append(entry)
    if part:
        yield part


def read_pairs(text: str) -> list[tuple[str, str]]:
    """post-rewrite's input: ``old new [extra]`` a line."""
    rows = (line.split() for line in text.splitlines())
    return [(row[0], row[1]) for row in rows if len(row) >= 2]
