"""The versioned keyspace: get, scan, put and delete of subjects in a view.

Of each subject a view sees the version whose epoch is the nearest one on its path.  ``get`` seeks to
(subject, epoch of the view): LMDB returns the newest version not after it; if that is not on the path, it
*skip-seeks*: jumps to the greatest epoch of the path below and seeks again.  The cost does not grow with the
number of snapshots.

Invariants:
  * Every version at epoch E has an entry E || subject in ``changes``, and the reverse.
  * A tombstone stands only where an older version would otherwise show through.
  * Records of an inode whose attributes are a tombstone, and extents of a fork that is not the inode's, are
    invisible to whoever goes through the attributes first, as all callers do.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from snapfs.errors import ReadOnly, Stale
from snapfs.format import keys, records
from snapfs.store.index import Cursor, EngineError, Index, Reading, damaged
from snapfs.types import Epoch
from snapfs.versions.epochs import ROOT, View

_STEPS: Final = 3
"""Older versions that a scan steps over before it seeks past the rest: a step costs a third of a seek."""

Version = tuple[bytes, Epoch, bytes]
"""(subject, epoch, payload)."""


class Snapshotted:
    """Reads of any source: the open transaction or a reader."""

    def __init__(self, source: Reading) -> None:
        self._source = source
        self._cursor: Cursor | None = None

    def _seeker(self) -> Cursor:
        if self._cursor is None:
            self._cursor = self._source.cursor("tree")
        return self._cursor

    def find(self, view: View, subject: bytes) -> tuple[Epoch, bytes] | None:
        """(epoch, payload) of the version that the view sees; a tombstone has an empty payload.  None: no version."""
        cursor = self._seeker()
        epoch = view.path.last
        length = len(subject) + keys.EPOCH_BYTES
        try:
            while cursor.set_range(keys.versioned(subject, epoch)):
                key = cursor.key()
                if len(key) != length or not key.startswith(subject):
                    return None
                found = keys.epoch_of(key)
                if found in view.path:
                    return found, records.unseal(key, cursor.value())
                epoch = view.path.below(found)
                if epoch == ROOT:
                    return None
        except EngineError as error:
            raise damaged(error) from error
        return None

    def get(self, view: View, subject: bytes) -> bytes | None:
        """Payload that the view sees, or None."""
        found = self.find(view, subject)
        return found[1] or None if found else None

    def scan(self, view: View, prefix: bytes, start: bytes = b"", stop: bytes | None = None) -> Iterator[Version]:
        """Versions that the view sees of the subjects with the prefix, in order, from prefix + start on and
        before prefix + stop.  Do not change the tree while the iterator is in use."""
        path = view.path
        end = None if stop is None else prefix + stop
        try:
            cursor = self._source.cursor("tree")
            found = cursor.set_range(prefix + start)
            while found:
                key = cursor.key()
                subject = key[: -keys.EPOCH_BYTES]
                if not key.startswith(prefix) or (end is not None and subject >= end):
                    return
                epoch = keys.epoch_of(key)
                if epoch not in path:
                    lower = path.below(epoch) if epoch <= path.last else path.last
                    found = self._skip(cursor, subject, lower)
                    continue
                payload = records.unseal(key, cursor.value())
                if payload:
                    yield subject, epoch, payload
                found = self._past(cursor, subject)
        except EngineError as error:
            raise damaged(error) from error

    @staticmethod
    def _skip(cursor: Cursor, subject: bytes, epoch: Epoch) -> bool:
        """To the subject's newest version not after the epoch, or to the next subject (ROOT: surely the next)."""
        return bool(cursor.set_range(keys.versioned(subject, epoch)))

    @staticmethod
    def _past(cursor: Cursor, subject: bytes) -> bool:
        """To the next subject."""
        length = len(subject) + keys.EPOCH_BYTES
        for _ in range(_STEPS):
            if not cursor.next():
                return False
            key = cursor.key()
            if len(key) != length or not key.startswith(subject):
                return True
        return bool(cursor.set_range(subject + _PAST))

    def scan_some(self, view: View, prefix: bytes, start: bytes, limit: int) -> tuple[list[Version], bytes | None]:
        """As ``scan``, but looks at no more than so many subjects, also where the view shows none of them.

        Returns:
            (versions, prefix's rest from which to go on; None: that was all).
        """
        found: list[Version] = []
        try:
            cursor = self._source.cursor("tree")
            more = cursor.set_range(prefix + start)
            for _ in range(limit):
                key = cursor.key() if more else b""
                if not more or not key.startswith(prefix):
                    return found, None
                subject = key[: -keys.EPOCH_BYTES]
                if keys.epoch_of(key) in view.path:  # the newest of all is seen, as mostly
                    version = keys.epoch_of(key), records.unseal(key, cursor.value())
                else:
                    version = self.find(view, subject) or (ROOT, b"")
                if version[1]:
                    found.append((subject, *version))
                more = self._past(cursor, subject)
            key = cursor.key() if more else b""
        except EngineError as error:
            raise damaged(error) from error
        return found, key[len(prefix) : -keys.EPOCH_BYTES] if key.startswith(prefix) and more else None

    def changes(self, epoch: Epoch, prefix: bytes = b"", start: bytes = b"") -> Iterator[bytes]:
        """Subjects with the prefix, from prefix + start on, that have a version at the epoch, in order."""
        head = keys.u64(epoch)
        try:
            cursor = self._source.cursor("changes")
            found = cursor.set_range(head + prefix + start)
            while found:
                key = cursor.key()
                if not key.startswith(head + prefix):
                    return
                yield key[len(head) :]
                found = cursor.next()
        except EngineError as error:
            raise damaged(error) from error

    def at(self, epoch: Epoch, subject: bytes) -> bytes | None:
        """Payload of exactly this version; a tombstone is empty; None: no such version."""
        return self._source.get("tree", keys.versioned(subject, epoch))


_PAST: Final = b"\xff" * keys.EPOCH_BYTES
"""As an inverted epoch: that of ROOT, older than every version."""


class Keyspace(Snapshotted):
    """Reads and writes through the open transaction."""

    def __init__(self, index: Index) -> None:
        super().__init__(index)
        self._index = index
        index.after_commit.append(self._forget_cursor)

    def _forget_cursor(self) -> None:
        self._cursor = None

    def check_writable(self, view: View) -> None:
        """Raises:
        ReadOnly, Stale: the view takes no writes.
        IOFailure: an earlier commit failed.
        """
        if not view.writable:
            raise ReadOnly("snapshots are read-only", hint="clone the snapshot, or check it out")
        if view.gone:
            raise Stale("the volume was removed")
        self._index.check()

    def put(self, view: View, subject: bytes, payload: bytes) -> None:
        """The view's head sees the payload from now on."""
        self.put_at(view.path.last, subject, payload)

    def put_at(self, epoch: Epoch, subject: bytes, payload: bytes) -> None:
        if not self._add_at(epoch, subject, payload):
            self._index.put("tree", keys.versioned(subject, epoch), payload)

    def add(self, view: View, subject: bytes, payload: bytes) -> bool:
        """As ``put``, unless the head's own epoch has a version of the subject; whether it had none."""
        return self._add_at(view.path.last, subject, payload)

    def _add_at(self, epoch: Epoch, subject: bytes, payload: bytes) -> bool:
        added = self._index.put_new("tree", keys.versioned(subject, epoch), payload)
        if added:
            self._index.put("changes", keys.u64(epoch) + subject, b"")
        return added

    def delete(self, view: View, subject: bytes) -> None:
        """The view's head sees no such subject any more."""
        epoch = view.path.last
        if self.shows_through(view, subject):
            self.put_at(epoch, subject, records.TOMBSTONE)
        else:
            self.drop_at(epoch, subject)

    def shows_through(self, view: View, subject: bytes) -> bool:
        """Whether an older version, before the view's own epoch, is there to be seen."""
        return bool(self.find_below(view, subject, view.path.last))

    def find_below(self, view: View, subject: bytes, epoch: Epoch) -> bytes | None:
        """What the view would see of the subject without its epochs from this one on."""
        lower = view.path.below(epoch)
        if lower == ROOT:
            return None
        cursor = self._seeker()
        length = len(subject) + keys.EPOCH_BYTES
        try:
            while lower != ROOT and cursor.set_range(keys.versioned(subject, lower)):
                key = cursor.key()
                if len(key) != length or not key.startswith(subject):
                    return None
                found = keys.epoch_of(key)
                if found in view.path:
                    return records.unseal(key, cursor.value()) or None
                lower = view.path.below(found)
        except EngineError as error:
            raise damaged(error) from error
        return None

    def drop_at(self, epoch: Epoch, subject: bytes) -> bool:
        """Remove exactly this version; whether it was there."""
        self._index.delete("changes", keys.u64(epoch) + subject)
        return self._index.delete("tree", keys.versioned(subject, epoch))
