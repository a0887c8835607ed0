"""Seals in git: a commit's note says what its snapshots' digests are.

The note is in refs/notes/snapfs; each line ``snapfs-seal: VOLUME@NAME DIGEST`` speaks of one snapshot, and other lines
are left as they are.  Who has the commit's note and trusts it can prove a snapshot without trusting the store: so a
line, once written, is never replaced here.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from typing import Final, NamedTuple, Protocol

from snapfs import api, errors
from snapfs.git.repository import Repository

REF: Final = "snapfs"
SETTING: Final = "snapfs.notes"

HOOK_SECONDS: Final = 2.0
"""A commit waits no longer for its snapshot's seal; the next one's hook notes it then."""
COMMAND_SECONDS: Final = 60.0

_POLL_SECONDS: Final = 0.02
_LINE: Final = re.compile(r"snapfs-seal: (?P<volume>[^@\n]+)@(?P<name>[^\n]+) (?P<digest>[0-9a-f]{64})")


class Store(Protocol):
    """What noting needs of a store."""

    def get_snapshot(self, *, volume: str, snapshot: str) -> api.Snapshot: ...


class Noted(NamedTuple):
    """One line of a note."""

    volume: str
    name: str
    """Of the snapshot, when it was noted."""
    digest: str
    """Hexadecimal."""


def wanted(repository: Repository) -> bool:
    """Whether the hooks are to note seals (git config snapfs.notes)."""
    return repository.config.get(SETTING, "").lower() in ("true", "yes", "on", "1")


def parse(text: str) -> list[Noted]:
    """What a note says of seals."""
    found = map(_LINE.fullmatch, map(str.strip, text.splitlines()))
    return [Noted(match["volume"], match["name"], match["digest"]) for match in found if match]


def merged(text: str, noted: Noted) -> str:
    """The note with the line at its end.

    Raises:
        Invalid: the snapshot's name would be read as something else.
    """
    line = f"snapfs-seal: {noted.volume}@{noted.name} {noted.digest}"
    if parse(line) != [noted]:
        raise errors.Invalid(f"snapshot {noted.name!a} cannot be noted: its name is no name", hint="run: snap fsck")
    return text + ("\n" if text and not text.endswith("\n") else "") + line + "\n"


def of_volume(repository: Repository, commit: str, volume: str) -> list[Noted]:
    """What the commit's note says of the volume's snapshots."""
    return [noted for noted in parse(repository.note(REF, commit)) if noted.volume == volume]


def note(repository: Repository, snapshot: api.Snapshot) -> bool:
    """Note a snapshot's seal with its commit; False if the note says so already, or the snapshot has no seal yet.

    Raises:
        Invalid: it belongs to no commit.
        NotFound: the repository does not have the commit.
        Conflict: the note has another seal of it.
        Unavailable: git refuses.
    """
    if snapshot.git is None:
        raise errors.Invalid(f"snapshot {snapshot.name!r} belongs to no commit", hint="notes are of commits")
    if not snapshot.seal:
        return False
    commit = snapshot.git.commit
    text = repository.note(REF, commit)
    said = {one.digest for one in parse(text) if (one.volume, one.name) == (snapshot.volume, snapshot.name)}
    if said and snapshot.seal not in said:  # a seal never changes: the note is what shows that somebody changed it
        raise errors.Conflict(
            f"the note of commit {commit} has another seal of {snapshot.volume}@{snapshot.name}: {min(said)}",
            hint=f"it is not the snapshot that was noted; if that is meant: git notes --ref={REF} edit {commit}",
        )
    if said:
        return False
    repository.set_note(REF, commit, merged(text, Noted(snapshot.volume, snapshot.name, snapshot.seal)))
    return True


def note_missing(repository: Repository, snapshots: Iterable[api.Snapshot]) -> list[api.Snapshot]:
    """Note all that are sealed, have a commit here, and are not noted; which those were.

    Raises:
        Conflict: a note has another seal; all that could be noted was.
    """
    sealed = [snapshot for snapshot in snapshots if snapshot.seal and snapshot.git is not None]
    here = repository.commits(snapshot.git.commit for snapshot in sealed if snapshot.git)
    done: list[api.Snapshot] = []
    conflict: errors.Conflict | None = None
    for snapshot in sealed:
        if snapshot.git is None or snapshot.git.commit not in here:
            continue
        try:
            done += [snapshot] if note(repository, snapshot) else []
        except errors.Conflict as error:
            conflict = conflict or error
    if conflict is not None:
        raise conflict
    return done


def awaited(store: Store, snapshot: api.Snapshot, seconds: float) -> api.Snapshot:
    """The snapshot with its seal, if that comes within the time."""
    deadline = time.monotonic() + seconds
    while not snapshot.seal and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
        snapshot = store.get_snapshot(volume=snapshot.volume, snapshot=snapshot.name)
    return snapshot
