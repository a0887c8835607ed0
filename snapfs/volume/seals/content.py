"""What a view contains, as elements of a multiset; what changed of it since another view, as the entries of a seal.

Invariants:
  * An element is a record that the view shows: an inode's attributes while it is alive; all else only of an inode that
    is alive; of extents, only those of the inode's fork.
  * ``Delta`` and ``walk`` agree: base's elements, less what went, plus what came, are the view's elements.
  * Everything is read from one reader, in small steps: whoever iterates lets others run between them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Final

from snapfs.errors import Corrupt
from snapfs.format import keys, records, seals
from snapfs.format.records import Inode
from snapfs.store.index import Reading
from snapfs.types import Epoch, Ino
from snapfs.versions.difference import changed_subjects
from snapfs.versions.epochs import View
from snapfs.versions.keyspace import Snapshotted
from snapfs.versions.lthash import LtHash

_INO_BYTES: Final = 8
_GONE: Final = -1
"""As a fork: of an inode that is not alive."""


class Elements:
    """Records of a reader's state, in their canonical form."""

    def __init__(self, source: Reading) -> None:
        self._source = source
        self.tree = Snapshotted(source)

    def payload(self, subject: bytes, payload: bytes) -> bytes:
        """Canonical payload of a record.

        Raises:
            Corrupt: an extent names a block that is not there.
        """
        if subject[_INO_BYTES] != keys.EXTENT:
            return payload
        length, block, offset = records.decode_extent(payload)
        entry = self._source.get("blocks", keys.u64(block))
        if entry is None:
            raise Corrupt(f"block {block} is not in the index", hint="run: snap fsck")
        return seals.encode_extent(length, records.decode_block(entry).hash, offset)

    def entry(self, subject: bytes, payload: bytes) -> bytes:
        return seals.encode_entry(subject, self.payload(subject, payload))

    def of_inode(self, view: View, inode: Inode) -> Iterator[tuple[bytes, bytes]]:
        """(subject, payload) of all records that the view shows of a living inode, in order."""
        for subject, _, payload in self.tree.scan(view, keys.u64(inode.ino)):
            if subject[_INO_BYTES] != keys.EXTENT or keys.split_extent(subject)[0] == inode.fork:
                yield subject, payload

    def inode(self, view: View, ino: Ino) -> Inode | None:
        payload = self.tree.get(view, keys.inode(ino))
        return records.decode_inode(ino, payload) if payload else None


class Delta:
    """What changed from one view (None: from nothing) to another, and what that makes of the base's multiset."""

    def __init__(
        self, elements: Elements, base: View | None, view: View, between: list[Epoch], content: LtHash
    ) -> None:
        """``between``: epochs of the view's path that are not on the base's.  ``content``: the base's multiset; the
        view's when the delta has been iterated."""
        self._elements = elements
        self._tree = elements.tree
        self._base = base
        self._view = view
        self._between = between
        self._content = content

    def __iter__(self) -> Iterator[bytes | None]:
        """Entries in subject order; None now and then between them."""
        subjects = changed_subjects(self._tree, self._between)
        for key, group in itertools.groupby(subjects, key=_ino_key):
            ino = Ino(keys.from_u64(key))
            old = self._elements.inode(self._base, ino) if self._base else None
            new = self._elements.inode(self._view, ino)
            if new is None:
                yield from self._gone(old)
                for _ in group:  # records of a dead inode: nobody sees them
                    yield None
            else:
                if old is not None and old.fork != new.fork:
                    yield from self._fork_gone(old)
                yield from self._changed(old, new, group)

    def _gone(self, old: Inode | None) -> Iterator[bytes | None]:
        if old is None or self._base is None:
            return
        for subject, payload in self._elements.of_inode(self._base, old):
            self._content.remove(self._elements.entry(subject, payload))
            yield None
        yield seals.encode_entry(keys.inode(old.ino), records.TOMBSTONE)

    def _fork_gone(self, old: Inode) -> Iterator[None]:
        assert self._base is not None
        for subject, _, payload in self._tree.scan(self._base, keys.extents(old.ino, old.fork)):
            self._content.remove(self._elements.entry(subject, payload))
            yield None

    def _changed(self, old: Inode | None, new: Inode, subjects: Iterable[bytes]) -> Iterator[bytes | None]:
        old_fork = old.fork if old is not None else _GONE
        for subject in subjects:
            before = after = None
            if subject[_INO_BYTES] == keys.EXTENT:
                fork = keys.split_extent(subject)[0]
                if fork != new.fork:
                    yield None
                    continue
                same_fork = fork == old_fork
            else:
                same_fork = old is not None
            if same_fork and self._base is not None:
                before = self._tree.get(self._base, subject)
            after = self._tree.get(self._view, subject)
            if before == after:
                yield None
                continue
            came = self._elements.payload(subject, after) if after else b""
            went = self._elements.payload(subject, before) if before else b""
            if came == went:  # the same bytes in another block
                yield None
                continue
            if went:
                self._content.remove(seals.encode_entry(subject, went))
            entry = seals.encode_entry(subject, came)
            if came:
                self._content.add(entry)
            yield entry


def _ino_key(subject: bytes) -> bytes:
    return subject[:_INO_BYTES]


def parts(entries: Iterable[bytes | None], part_bytes_max: int) -> Iterator[bytes | None]:
    """Entries joined into parts; None now and then between them."""
    gathered: list[bytes] = []
    size = 0
    for entry in entries:
        if entry is None:
            yield None
            continue
        if size + len(entry) > part_bytes_max:
            yield b"".join(gathered)
            gathered, size = [], 0
        gathered.append(entry)
        size += len(entry)
        yield None
    if gathered:
        yield b"".join(gathered)
