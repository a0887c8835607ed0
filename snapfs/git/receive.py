"""What post-receive does in a repository that others push to: every branch that was pushed gets a snapshot.

Invariants:

- A commit has one snapshot from here, the first: a push comes later than the commit, and when it is pushed
  once more (to another branch, by force) the data may long be another's.
- Whoever pushed sees one line a branch; git puts ``remote:`` before it.
- A push of many branches at once, a mirror's, is bounded: what gets no snapshot is told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol

from snapfs import api, errors
from snapfs.git.follow import short
from snapfs.git.repository import Repository, WorkState, is_commit_id, is_null_id

BRANCHES_MAX: Final = 100
"""Of one push; the hook has half a minute for all."""

_BRANCH: Final = "refs/heads/"


class Update(NamedTuple):
    """A ref that a push changed."""

    old: str
    new: str
    """IDs; the null ID: it was not there before, it is gone now."""
    ref: str


class Store(Protocol):
    """What receiving needs of a store."""

    def get_snapshot(self, *, volume: str, snapshot: str) -> api.Snapshot: ...

    def create_snapshot(self, *, volume: str, git: api.GitCommit | None = None) -> api.Snapshot: ...


def read_updates(text: str) -> list[Update]:
    """post-receive's input: ``old new ref`` a line."""
    rows = (line.split(" ", 2) for line in text.split("\n"))
    return [Update(*row) for row in rows if len(row) == 3]


def snapshot_pushed(
    repository: Repository, store: Store, volume: str, updates: Sequence[Update], say: Callable[[str], None]
) -> None:
    """Snapshot the volume for the tip of each branch among the updates.

    Args:
        say: takes one line for whoever pushed.

    Raises:
        SnapfsError: the store refuses; branches before that one have their snapshots.
    """
    pushed = [
        update
        for update in updates
        if update.ref.startswith(_BRANCH) and is_commit_id(update.new) and not is_null_id(update.new)
    ]
    commits = repository.commits(update.new for update in pushed[:BRANCHES_MAX])
    for update in pushed[:BRANCHES_MAX]:
        if update.new not in commits:
            continue  # pushed away again meanwhile
        branch = update.ref.removeprefix(_BRANCH)
        try:
            store.get_snapshot(volume=volume, snapshot=update.new)
            remark = " already"
        except errors.NotFound:
            facts = repository.facts(commits[update.new], work=WorkState(branch, dirty=False))
            made = store.create_snapshot(volume=volume, git=facts)
            remark = "" if made.created else " already"
        say(f"{volume}@{short(update.new)} holds the data of {branch}{remark}")
    if len(pushed) > BRANCHES_MAX:
        say(f"{len(pushed) - BRANCHES_MAX} more branches got no snapshot of {volume}: one push, too many at once")
