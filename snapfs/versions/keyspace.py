"""The versioned keyspace: get, scan, put and delete of subjects in a view.

Of each subject a view sees the version whose epoch is the nearest one on its path.  ``get`` seeks to
(subject, epoch of the view): LMDB returns the newest version not after it; if that is not on the path, it
*skip-seeks*: jumps to the greatest epoch of the path below and seeks again.  The cost does not grow with the
number of snapshots.

Invariants:
  * Every version at epoch E has an entry E || subject in ``changes``, and the reverse.
  * A tombstone stands only where an older version would otherwise show through.
  * What a view sees of a subject depends on the subject's versions and the view's path alone, and a path loses an epoch
    only when that holds no version.  So what was read of an inode's attributes in a view (``seen``) stays right until
    somebody writes a version of them, at any epoch, and until the transaction ends; all of which happens here.
  * Records of an inode whose attributes are a tombstone, and extents of a fork that is not the inode's, are
    invisible to whoever goes through the attributes first, as all callers do.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import Final

from snapfs.errors import ReadOnly, Stale
from snapfs.format import keys, records
from snapfs.format.keys import EPOCH_BYTES, INVERT
from snapfs.format.records import Inode, unseal
from snapfs.store.index import Cursor, EngineError, Index, Reading, damaged
from snapfs.types import Epoch
from snapfs.versions.epochs import ROOT, View

_STEPS: Final = 3
"""Older versions that a scan steps over before it seeks past the rest: a step costs a third of a seek."""

Version = tuple[bytes, Epoch, bytes]
"""(subject, epoch, payload)."""

SEEN_MAX: Final = 4096
"""Inodes whose attributes are remembered: about a megabyte."""

_U64: Final = Struct(">Q")
_pack_u64: Final = _U64.pack
_unpack_u64_from: Final = _U64.unpack_from

Seen = tuple[Epoch, Epoch, Inode]
"""What a view sees of an inode's attributes: (last epoch of the view's path, epoch of the version, attributes)."""


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
        cursor = self._cursor or self._seeker()
        path = view.path
        epoch, members = path.last, path.chain.members
        wanted = subject + path.inverted
        try:
            while cursor.set_range(wanted):
                key = cursor.key()
                if key == wanted:  # mostly
                    return epoch, unseal(key, cursor.value())
                if len(key) != len(wanted) or not key.startswith(subject):
                    return None
                found = Epoch(INVERT - _unpack_u64_from(key, len(subject))[0])
                if found in members:  # and on the path, as it is not after the path's last
                    return found, unseal(key, cursor.value())
                epoch = path.below(found)
                if epoch == ROOT:
                    return None
                wanted = subject + _pack_u64(INVERT - epoch)
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
                subject = key[:-EPOCH_BYTES]
                if not key.startswith(prefix) or (end is not None and subject >= end):
                    return
                epoch = keys.epoch_of(key)
                if epoch not in path:
                    lower = path.below(epoch) if epoch <= path.last else path.last
                    found = self._skip(cursor, subject, lower)
                    continue
                payload = unseal(key, cursor.value())
                if payload:
                    yield subject, epoch, payload
                found = self._past(cursor, subject)
        except EngineError as error:
            raise damaged(error) from error

    def last_before(self, view: View, prefix: bytes, start: bytes, stop: bytes) -> Version | None:
        """The last of the versions that ``scan`` would give."""
        first = prefix + start
        try:
            cursor = self._cursor or self._seeker()
            found = cursor.prev() if cursor.set_range(prefix + stop) else cursor.last()
            while found:
                key = cursor.key()
                if key < first or not key.startswith(prefix):
                    return None
                subject = key[:-EPOCH_BYTES]
                version = self.find(view, subject)
                if version is not None and version[1]:
                    return subject, *version
                found = cursor.set_range(subject) and cursor.prev()
        except EngineError as error:
            raise damaged(error) from error
        return None

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
        """Subjects with the prefix, from prefix + start on, that have a version at the epoch, in order.  Do not change
        the tree while the iterator is in use."""
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

    def changed_inodes(self, epoch: Epoch) -> Iterator[bytes]:
        """Of each inode with a version at the epoch the subjects of its directory entries, then one of its others if it
        has any: a seek an inode, however many extents it has.  As for ``changes`` otherwise."""
        head = keys.u64(epoch)
        try:
            cursor = self._source.cursor("changes")
            found = cursor.set_range(head)
            while found:
                key = cursor.key()
                if not key.startswith(head):
                    return
                yield key[EPOCH_BYTES:]
                if key[_INO_END : _INO_END + 1] == _ENTRY:  # which sort first
                    found = cursor.next()
                else:
                    found = cursor.set_range(key[:_INO_END] + _PAST_KINDS)
        except EngineError as error:
            raise damaged(error) from error

    def at(self, epoch: Epoch, subject: bytes) -> bytes | None:
        """Payload of exactly this version; a tombstone is empty; None: no such version."""
        return self._source.get("tree", keys.versioned(subject, epoch))


_PAST: Final = b"\xff" * EPOCH_BYTES
"""As an inverted epoch: that of ROOT, older than every version."""

_INO_END: Final = EPOCH_BYTES + 8
"""Of a key of ``changes``."""
_ATTRIBUTES: Final = bytes((keys.INODE,))
"""A subject's rest behind the inode, of its attributes."""
_ENTRY: Final = bytes((keys.DIRENT,))
_PAST_KINDS: Final = b"\xff"
"""Behind the inode: after all of its subjects."""


class Keyspace(Snapshotted):
    """Reads and writes through the open transaction."""

    def __init__(self, index: Index) -> None:
        super().__init__(index)
        self._index = index
        self._changes_cursor: Cursor | None = None
        self.seen: dict[bytes, Seen] = {}
        """By subject."""
        index.after_commit.append(self._forget)

    def _forget(self) -> None:
        """The transaction ended, perhaps with what was written in it undone."""
        self._cursor = self._changes_cursor = None
        self.seen.clear()

    def remember(self, subject: bytes, seen: Seen) -> None:
        """What ``find`` and decoding tell of an inode's attributes now."""
        if len(self.seen) >= SEEN_MAX:
            self.seen.clear()
        self.seen[subject] = seen

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
        self.seen.pop(subject, None)
        path = view.path
        key = subject + path.inverted
        if not self._index.put_new("tree", key, payload, "changes", path.number + subject):
            self._index.put("tree", key, payload)

    def put_at(self, epoch: Epoch, subject: bytes, payload: bytes) -> None:
        self.seen.pop(subject, None)
        key = keys.versioned(subject, epoch)
        if not self._index.put_new("tree", key, payload, "changes", _pack_u64(epoch) + subject):
            self._index.put("tree", key, payload)

    def replace(self, view: View, subject: bytes, payload: bytes) -> None:
        """As ``put``, where the head's own epoch surely has a version of the subject."""
        self.seen.pop(subject, None)
        self._index.put("tree", subject + view.path.inverted, payload)

    def add(self, view: View, subject: bytes, payload: bytes) -> bool:
        """As ``put``, unless the head's own epoch has a version of the subject; whether it had none."""
        self.seen.pop(subject, None)
        path = view.path
        return self._index.put_new("tree", subject + path.inverted, payload, "changes", path.number + subject)

    def delete(self, view: View, subject: bytes, seen_at: Epoch | None = None) -> None:
        """The view's head sees no such subject any more.

        Args:
            seen_at: epoch of the version that it sees until now, if that is known.
        """
        path = view.path
        if seen_at is None or seen_at == path.last:
            older = path.chain.order[0] != path.last and self.shows_through(view, subject)
        else:
            older = True
        if older:
            self.put(view, subject, records.TOMBSTONE)
        else:
            self.seen.pop(subject, None)
            self._index.delete("tree", subject + path.inverted, "changes", path.number + subject)

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
        self.seen.pop(subject, None)
        return self._index.delete("tree", keys.versioned(subject, epoch), "changes", _pack_u64(epoch) + subject)

    def own(self, epoch: Epoch, prefix: bytes, limit: int) -> list[bytes]:
        """Subjects with the prefix, which names an inode, that have a version at the epoch, beside its attributes; in
        order, at most so many."""
        first = _pack_u64(epoch) + prefix
        found: list[bytes] = []
        try:
            cursor = self._changes_cursor
            if cursor is None:
                cursor = self._changes_cursor = self._source.cursor("changes")
            more = cursor.set_range(first)
            while more and len(found) < limit:
                key: bytes = cursor.key()
                if not key.startswith(first) or key[_INO_END:] == _ATTRIBUTES:  # which sort last
                    break
                found.append(key[EPOCH_BYTES:])
                more = cursor.next()
        except EngineError as error:
            raise damaged(error) from error
        return found
