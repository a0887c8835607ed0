"""How snapshots are found: by name, tag and git commit.  Of the open store, or of what another process reads.

Invariants:
  * (volume, name) -> epoch and (volume, tag) -> epoch are unique, and no name of a volume is a tag of it too.
  * ``commits`` has an entry for each snapshot with a git commit; a snapshot's record names its tags, and ``tags`` has
    an entry for each.
  * A snapshot in the trash has its record only, and an entry in ``trash``: none of these finds it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, Protocol

from snapfs.errors import Corrupt, Invalid, NotFound
from snapfs.format import keys, records
from snapfs.format.records import SnapshotRecord
from snapfs.store.reading import Reading, items
from snapfs.types import Epoch, VolumeId
from snapfs.volume.suggest import nearest

COMMIT_PREFIX_MIN: Final = 4
"""As git's own minimum for abbreviated commit IDs."""

COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
COMMIT_PREFIX = re.compile(rf"[0-9a-f]{{{COMMIT_PREFIX_MIN},64}}")
NUMBERED = re.compile(r"(?P<commit>[0-9a-f]{4,64})\.(?P<number>[1-9][0-9]*)")
_KEY_NAME_BYTES: Final = 300
"""More than any name has, less than LMDB's longest key."""


class Named(Protocol):
    """A volume, or its record."""

    @property
    def id(self) -> VolumeId: ...
    @property
    def name(self) -> str: ...


class Finding:
    """
    Args:
        source: the index, or a reader of it.
    """

    def __init__(self, source: Reading) -> None:
        self._source = source

    def get(self, epoch: Epoch) -> SnapshotRecord | None:
        """Also of one in the trash."""
        payload = self._source.get("snapshots", keys.u64(epoch))
        return None if payload is None else records.decode_snapshot(payload)

    def _must(self, epoch: Epoch) -> SnapshotRecord:
        record = self.get(epoch)
        if record is None:
            raise Corrupt(f"snapshot {epoch} has a name but no record", hint="run: snap fsck")
        return record

    def names(self, volume: Named) -> list[str]:
        return self._labels("names", volume)

    def tags(self, volume: Named) -> list[str]:
        return self._labels("tags", volume)

    def _labels(self, table: str, volume: Named) -> list[str]:
        prefix = keys.u64(volume.id)
        return [key[len(prefix) :].decode() for key, _ in items(self._source, table, prefix)]

    def resolve(self, volume: Named, ref: str) -> SnapshotRecord:
        """Find by name, tag, commit ID (the newest snapshot of it) or unique commit prefix; ``<commit>.<n>`` is the
        n-th snapshot of a commit.

        Raises:
            NotFound: the hint names near ones.
            Invalid: the prefix fits several commits.
        """
        record = self.find(volume, ref)
        if record is None:
            hint = nearest(ref, [*self.tags(volume), *self.names(volume)], "snapshots")
            raise NotFound(f"volume {volume.name!r} has no snapshot {ref!r}", hint=hint)
        return record

    def find(self, volume: Named, ref: str) -> SnapshotRecord | None:
        if not COMMIT.fullmatch(ref):
            epoch = self._labelled("names", volume, ref) or self._labelled("tags", volume, ref)
            if epoch is not None:
                return self._must(epoch)
        if COMMIT_PREFIX.fullmatch(ref):
            epochs = self._of_commit(volume, ref)
            return self._must(epochs[-1]) if epochs else None
        numbered = NUMBERED.fullmatch(ref)
        if numbered:
            epochs = self._of_commit(volume, numbered["commit"])
            number = int(numbered["number"])
            wanted = [numbered["commit"], ref] if number == 1 else [ref]
            for record in map(self._must, epochs):
                if record.git and record.name.removeprefix(record.git.commit) in ("", f".{number}"):
                    short = numbered["commit"] + record.name.removeprefix(record.git.commit)
                    if short in wanted:
                        return record
        return None

    def tagged(self, volume: Named, tag: str) -> SnapshotRecord | None:
        """The snapshot that has the tag."""
        epoch = self._labelled("tags", volume, tag)
        return None if epoch is None else self._must(epoch)

    def is_name(self, volume: Named, name: str) -> bool:
        """Whether a snapshot has just this name; no tag, no commit is looked for."""
        return self._labelled("names", volume, name) is not None

    def _labelled(self, table: str, volume: Named, label: str) -> Epoch | None:
        found = self._source.get(table, self._label_key(volume, label))
        return None if found is None else Epoch(keys.from_u64(found))

    def _of_commit(self, volume: Named, prefix: str) -> list[Epoch]:
        """Snapshots of the one commit with the prefix, oldest first."""
        commits: dict[str, list[Epoch]] = {}
        for commit, epoch in self.of_commits(volume, prefix):
            commits.setdefault(commit, []).append(epoch)
            if len(commits) > 1 and not COMMIT.fullmatch(prefix):
                shown = ", ".join(c[:12] for c in commits)
                raise Invalid(f"commit prefix {prefix!r} is ambiguous", hint=f"it fits {shown}: give more digits")
        return sorted(commits.popitem()[1]) if commits else []

    def of_commits(self, volume: Named, prefix: str) -> Iterator[tuple[str, Epoch]]:
        """(commit ID, epoch) of the snapshots whose commit begins so."""
        head = keys.u64(volume.id)
        for key, _ in items(self._source, "commits", head + prefix.encode()):
            commit, _, number = key[len(head) :].partition(b"\0")
            yield commit.decode(), Epoch(keys.from_u64(number))

    @staticmethod
    def _label_key(volume: Named, name: str) -> bytes:
        # A name that is not UTF-8 (a byte name from a mount) cannot exist: look up what it would be.
        return keys.u64(volume.id) + name.encode(errors="surrogateescape")[:_KEY_NAME_BYTES]
