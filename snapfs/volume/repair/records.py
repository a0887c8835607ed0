"""Repair of single records of the tree that cannot be read.

Of a sealed epoch a record is put back from the seal, whose bytes are checked by hash.  Else it is put together from
what other records say (an entry and its parent link say the same thing), or told to be lost: lost bytes of a file stay
an I/O error, they never become zeros or older bytes.
"""

from __future__ import annotations

import stat
from typing import Final

from snapfs.errors import SnapfsError
from snapfs.format import keys, records, seals
from snapfs.format.records import Inode
from snapfs.format.seals import SealRecord
from snapfs.types import BLOCK_BYTES_MAX, BlockId, Epoch, Ino
from snapfs.versions.epochs import ROOT, View
from snapfs.volume.check.base import DECODERS, MALFORMED, decode_version, decoded, sound, split_version, values
from snapfs.volume.core import ALL_FORKS, now_ns
from snapfs.volume.repair.base import Bench, NeedsRebuild, quiet, replaced, unreadable

BAD_MAX: Final = 10_000
"""More bad records than this: the index as a whole is not to be trusted."""

LOST_TARGET: Final = b"target-lost-by-damage"
"""Of a symbolic link whose target cannot be read."""

_ORDER: Final = {keys.PARENT: 0, keys.DIRENT: 1, keys.INODE: 2}
"""Links first: they tell what the others were.  Extents last: they need the attributes."""


def repair_records(bench: Bench) -> None:
    """Raises:
    NeedsRebuild: the table cannot be read to its end, or too much of it is bad.
    """
    _Records(bench).run()


class _Records:
    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._tree = bench.tree
        self._seals: dict[Epoch, SealRecord] = {}
        for _, seal in decoded(bench.index, "seals", quiet, DECODERS["seals"]):
            self._seals[seal.epoch] = seal
        self._bad: set[bytes] = set()
        self._missing: list[bytes] = []
        """Keys that ``changes`` names, and that are not in the tree: lost with what was damaged."""

    def run(self) -> None:
        bad = self._find()
        self._bad = set(bad)
        by_epoch: dict[Epoch, list[bytes]] = {}
        for key in bad:
            by_epoch.setdefault(keys.epoch_of(key), []).append(key)
        left: list[bytes] = []
        for epoch in sorted(by_epoch):
            left += self._from_seal(epoch, by_epoch[epoch])
        owners = self._links_to([key for key in left if keys.split(key)[1] == keys.DIRENT])
        for key in sorted(left, key=lambda key: (_ORDER.get(keys.split(key)[1], 3), keys.epoch_of(key))):
            if self._still_bad(key):
                self._mend(key, owners)
                self._bad.discard(key)

    def _find(self) -> list[bytes]:
        """Bad keys that belong to an epoch; all others go at once."""
        bench, found = self._bench, []
        drop: list[tuple[bytes, str]] = []

        def bad(table: str, key: bytes, message: str) -> None:
            if not key:
                raise NeedsRebuild(message)
            found.append(key)

        for key, payload in values(bench.index, "tree", bad):
            try:
                subject, epoch = split_version(key)
                if epoch not in bench.shape.parent:
                    drop.append((key, "it belongs to no epoch"))
                else:
                    decode_version(subject, payload)
            except MALFORMED:
                found.append(key)
            if len(found) > BAD_MAX:
                raise NeedsRebuild(f"more than {BAD_MAX} records are bad")
        self._missing = self._not_there()
        found = self._moved(found) + self._missing
        for key in list(found):
            try:
                subject, epoch = split_version(key)
                fits = keys.split(subject)[1] in _KINDS and epoch in bench.shape.parent and _well_formed(subject)
            except MALFORMED:
                fits = False
            if not fits:
                found.remove(key)
                drop.append((key, "it is nothing that can be read"))
        for key, why in drop:
            bench.act("record", f"record {key.hex()} is removed: {why}")
            bench.index.delete("tree", key)
            bench.index.delete("changes", key[-8:] + key[:-8])
            if len(key) > keys.EPOCH_BYTES:
                bench.index.delete("changes", keys.u64(keys.epoch_of(key)) + key[: -keys.EPOCH_BYTES])
        return found

    def _not_there(self) -> list[bytes]:
        """Keys that ``changes`` names and the tree does not have."""
        index, found = self._bench.index, []
        for key, _ in values(index, "changes", quiet):
            if len(key) < keys.HEAD_BYTES + keys.EPOCH_BYTES or keys.from_u64(key) not in self._bench.shape.parent:
                continue
            at = keys.versioned(key[keys.EPOCH_BYTES :], Epoch(keys.from_u64(key)))
            try:
                there = index.get("tree", at) is not None
            except SnapfsError:
                there = True
            if not there and keys.split(at)[1] in _KINDS and _well_formed(key[keys.EPOCH_BYTES :]):
                found.append(at)
            if len(found) > BAD_MAX:
                raise NeedsRebuild(f"more than {BAD_MAX} records are not there")
        return found

    def _named(self, key: bytes) -> bool:
        change = keys.u64(keys.epoch_of(key)) + key[: -keys.EPOCH_BYTES]
        return sound(self._bench.index, "changes", change, lambda _: True) is not None

    def _moved(self, bad: list[bytes]) -> list[bytes]:
        """Put back records of which the key alone was damaged: their checksum fits a key that is missing.

        Returns:
            The other bad keys.
        """
        bench, left = self._bench, []
        for key in bad:
            cursor = bench.index.cursor("tree")
            value = bytes(cursor.value()) if cursor.set_key(key) else b""
            at = next((at for at in self._missing if len(at) == len(key) and _fits(at, value)), None)
            if at is None:
                left.append(key)
                continue
            subject, epoch = split_version(at)
            bench.act("record", f"{_called(subject)} in epoch {epoch} is put back: its key alone was damaged")
            bench.index.delete("tree", key)
            bench.index.put("tree", at, records.unseal(at, value))
            self._missing.remove(at)
            if self._named(key):  # it lay in another's place
                self._missing.append(key)
        return left

    def _still_bad(self, key: bytes) -> bool:
        try:
            payload = self._bench.index.get("tree", key)
            if payload is None:
                return key in self._missing
            decode_version(key[: -keys.EPOCH_BYTES], payload)
        except MALFORMED:
            return True
        return False

    # -- from seals

    def _from_seal(self, epoch: Epoch, bad: list[bytes]) -> list[bytes]:
        """Put back what the epoch's seal says; the keys that are left."""
        bench, seal = self._bench, self._seals.get(epoch)
        if seal is None:
            return bad
        wanted = {key[: -keys.EPOCH_BYTES]: key for key in bad}
        listed: dict[bytes, bytes] = {}
        for block in seal.parts:
            part = bench.bytes_of(block)
            if part is None:
                return bad
            try:
                listed |= {subject: payload for subject, payload in seals.decode_entries(part) if subject in wanted}
            except SnapfsError:
                return bad
        view = bench.view(epoch)
        base = bench.view(seal.base) if seal.base in bench.shape.parent else None
        left = []
        for subject, key in wanted.items():
            try:
                self._put_back(view, base if seal.base != ROOT else None, subject, key, listed)
            except MALFORMED:  # what it builds on is bad itself
                left.append(key)
        return left

    def _put_back(self, view: View, base: View | None, subject: bytes, key: bytes, listed: dict[bytes, bytes]) -> None:
        bench = self._bench
        if subject in listed:
            payload = listed[subject]
            if payload and keys.split(subject)[1] == keys.EXTENT:
                payload = self._local(payload)
        else:  # as the base shows it, or nothing that anybody sees
            payload = (self._tree.get(base, subject) or b"") if base is not None else b""
        bench.act("record", f"{_called(subject)} in epoch {view.epoch} is put back from the seal")
        bench.drop_version(key)
        if payload != (self._tree.get(view, subject) or b""):
            self._tree.put(view, subject, payload)

    def _local(self, canonical: bytes) -> bytes:
        """An extent's payload with the number of its block here."""
        length, digest, offset = seals.decode_extent(canonical)
        found = sound(self._bench.index, "dedup", digest, keys.from_u64)
        if found is None:
            found = next((number for number, entry in self._bench.blocks() if entry.hash == digest), None)
        if found is None:
            found = self._bench.lost_block(offset + length, digest)
        return records.encode_extent(length, BlockId(found), offset)

    # -- from what is beside them

    def _links_to(self, bad: list[bytes]) -> dict[bytes, set[Ino]]:
        """Inodes with a parent link for each of these entries, by the entry's key."""
        wanted: dict[tuple[Ino, bytes], list[bytes]] = {}
        for key in bad:
            directory = keys.split(key)[0]
            wanted.setdefault((directory, keys.split_hashed(key[: -keys.EPOCH_BYTES])[1]), []).append(key)
        found: dict[bytes, set[Ino]] = {key: set() for key in bad}
        if not bad:
            return found
        for key, payload in values(self._bench.index, "tree", quiet):
            ino, kind = keys.split(key)
            if kind == keys.PARENT and payload:
                parent, name = keys.split_hashed(key[: -keys.EPOCH_BYTES])
                for entry in wanted.get((Ino(parent), name), ()):
                    found[entry].add(ino)
        return found

    def _mend(self, key: bytes, owners: dict[bytes, set[Ino]]) -> None:
        subject, epoch = split_version(key)
        kind = keys.split(subject)[1]
        view = self._bench.view(epoch)
        if kind == keys.DIRENT:
            self._entry(view, subject, key, owners[key])
        elif kind == keys.PARENT:
            self._link(view, subject, key)
        elif kind == keys.INODE:
            self._attributes(view, keys.split(subject)[0], key)
        elif kind == keys.EXTENT:
            self._extent(view, subject, key)
        elif kind == keys.SYMLINK and self._bench.inode(view, keys.split(subject)[0]) is not None:
            self._bench.act("record", f"{_called(subject)} is lost; it becomes {LOST_TARGET.decode()!r}")
            self._tree.put(view, subject, LOST_TARGET)
        else:
            self._bench.act("record", f"{_called(subject)} is lost")
            self._bench.drop_version(key)
            self._tree.delete(view, subject)

    def _entry(self, view: View, subject: bytes, key: bytes, owners: set[Ino]) -> None:
        directory, name = keys.split(subject)[0], keys.split_hashed(subject)[1]
        found = [ino for ino in sorted(owners) if self._shows_link(view, ino, directory, name)]
        if len(found) != 1:
            self._bench.act("record", f"the entry {name!r} of directory {directory} is removed: nothing links back")
            self._bench.drop_version(key)
            self._tree.delete(view, subject)
            return
        self._bench.act("record", f"the entry {name!r} of directory {directory} is put back: inode {found[0]} has it")
        inode = self._bench.inode(view, found[0])
        mode = inode.mode if inode is not None else self._type_below(view, found[0])
        self._tree.put(view, subject, records.encode_dirent(found[0], mode))

    def _shows_link(self, view: View, ino: Ino, directory: Ino, name: bytes) -> bool:
        try:
            if self._tree.get(view, keys.parent(ino, directory, name)) is None:
                return False
            return self._tree.get(view, keys.inode(ino)) is not None
        except MALFORMED:
            return True

    def _type_below(self, view: View, ino: Ino) -> int:
        """Type of an inode whose attributes are bad, by what belongs to it."""
        if next(self._bench.reading.scan(view, keys.head(ino, keys.DIRENT)), None) is not None:
            return stat.S_IFDIR
        if sound(self._bench.index, "tree", keys.versioned(keys.symlink(ino), view.epoch), bool):
            return stat.S_IFLNK
        return stat.S_IFREG

    def _link(self, view: View, subject: bytes, key: bytes) -> None:
        ino = keys.split(subject)[0]
        directory, name = keys.split_hashed(subject)
        entry = keys.dirent(Ino(directory), name, self._bench.place.seed)
        try:
            found = self._tree.get(view, entry)
            leads = found is not None and records.decode_dirent(found)[0] == ino
        except MALFORMED:  # both are bad: that it was written in one step with the entry is all that is known
            leads = True
        if leads:
            self._bench.act("record", f"the link of inode {ino} to its entry {name!r} is put back")
            self._tree.put(view, subject, records.PRESENT)
        else:
            self._bench.act("record", f"the link of inode {ino} to an entry {name!r} is removed: there is none")
            self._bench.drop_version(key)
            self._tree.delete(view, subject)

    def _attributes(self, view: View, ino: Ino, key: bytes) -> None:
        bench, tree = self._bench, self._tree
        try:
            below = tree.find_below(view, keys.inode(ino), view.epoch)
            older = records.decode_inode(ino, below) if below else None
        except MALFORMED:
            older = None
        links = [keys.split_hashed(subject) for subject, _, _ in bench.reading.scan(view, keys.head(ino, keys.PARENT))]
        roots = {volume.root for volume in bench.shape.volumes.values()}
        roots |= {record.root for record in bench.shape.snapshots.values()}
        dead = sound(bench.index, "reap", keys.extents(ino, ALL_FORKS) + keys.u64(view.epoch), bool)
        if dead or (not links and ino not in roots):
            why = "what it had is about to be dropped" if dead else "no entry leads to it"
            bench.act("record", f"inode {ino} is taken for removed: {why}")
            bench.drop_version(key)
            tree.delete(view, keys.inode(ino))
            return
        kind = stat.S_IFDIR if ino in roots else self._kind(view, ino, links)
        if kind == stat.S_IFREG and older is not None:
            self._lose(view, older)
            return
        made = self._guess(view, ino, kind, older, Ino(links[0][0]) if links else None)
        what = "those of an older version" if older else "its owner is its directory's"
        bench.act("record", f"attributes of inode {ino} are put together again ({what}); check its mode and size")
        bench.put_inode(view, made)

    def _kind(self, view: View, ino: Ino, links: list[tuple[int, bytes]]) -> int:
        for directory, name in links:
            try:
                entry = self._tree.get(view, keys.dirent(Ino(directory), name, self._bench.place.seed))
            except MALFORMED:
                continue
            if entry is not None and records.decode_dirent(entry)[0] == ino:
                return records.decode_dirent(entry)[1]
        return self._type_below(view, ino)

    def _guess(self, view: View, ino: Ino, kind: int, older: Inode | None, directory: Ino | None) -> Inode:
        """Attributes by what belongs to the inode.  Link counts are set right later."""
        bench, now = self._bench, now_ns()
        if older is None:
            above = bench.inode(view, directory) if directory is not None else None
            uid, gid = (above.uid, above.gid) if above is not None else (0, 0)
            mode = kind | (0o700 if kind == stat.S_IFDIR else 0o600)
            older = Inode(ino, mode, 1, uid, gid, 0, 0, 0, now, now, now, now)
        made = replaced(older, mode=kind | stat.S_IMODE(older.mode))
        if kind == stat.S_IFREG:  # never with an older version, so what is there was all written here
            ends = self._ends(view, ino)
            fork = max(ends, default=0)
            end, held = ends.get(fork, (0, 0))
            made = replaced(made, fork=fork, size=end, allocated_bytes=held)
        elif kind == stat.S_IFLNK:
            target = self._target(view, ino)
            made = replaced(made, size=len(target))
        return made

    def _ends(self, view: View, ino: Ino) -> dict[int, tuple[int, int]]:
        """(where the bytes end, how many there are) by fork."""
        ends: dict[int, tuple[int, int]] = {}
        for subject, _, payload in self._bench.reading.scan(view, keys.head(ino, keys.EXTENT)):
            fork, offset = keys.split_extent(subject)
            length = records.decode_extent(payload)[0]
            end, held = ends.get(fork, (0, 0))
            ends[fork] = max(end, offset + length), held + length
        return ends

    def _lose(self, view: View, older: Inode) -> None:
        """A file that this epoch changed, nobody knows how: it may have been truncated, so neither the older version's
        bytes nor those that are here are surely its own."""
        bench, ends = self._bench, self._ends(view, older.ino)
        fork = max([*ends, older.fork]) + 1
        size = max([older.size, *(end for end, _ in ends.values())])
        made, extents = unreadable(older, fork, size, bench.lost_block(BLOCK_BYTES_MAX))
        for subject, payload in extents:
            self._tree.put(view, subject, payload)
        for dead in ends:
            bench.index.put("reap", keys.extents(older.ino, dead) + keys.u64(view.epoch), records.PRESENT)
        bench.act("lost", f"attributes of inode {older.ino} are lost, so which bytes are its, too: reading it fails")
        bench.put_inode(view, made)

    def _target(self, view: View, ino: Ino) -> bytes:
        try:
            return self._tree.get(view, keys.symlink(ino)) or b""
        except MALFORMED:
            return LOST_TARGET

    def _extent(self, view: View, subject: bytes, key: bytes) -> None:
        """Bytes that nobody knows the place of: they stay unreadable."""
        bench, ino = self._bench, keys.split(subject)[0]
        fork, offset = keys.split_extent(subject)
        inode = bench.inode(view, ino)
        bench.drop_version(key)
        if inode is None or inode.fork != fork or offset >= inode.size:
            bench.act("record", f"{_called(subject)} is removed: nobody sees it")
            return
        held, following = 0, inode.size
        for other, _, payload in bench.reading.scan(view, keys.extents(ino, fork)):
            at = keys.split_extent(other)[1]
            if at != offset:
                held += records.decode_extent(payload)[0]
                following = min(following, at) if at > offset else following
        room = min(following - offset, inode.size - offset, BLOCK_BYTES_MAX)
        missing = inode.allocated_bytes - held
        if missing <= 0:
            bench.act("record", f"{_called(subject)} is taken for removed: the file's other bytes are all of it")
            self._tree.delete(view, subject)
            return
        length = missing if missing <= room else room
        bench.act("lost", f"{_called(subject)} is lost: reading {length} bytes there fails")
        block = bench.lost_block(length)
        self._tree.put(view, subject, records.encode_extent(length, block, 0))


_KINDS: Final = frozenset((keys.DIRENT, keys.PARENT, keys.XATTR, keys.EXTENT, keys.SYMLINK, keys.INODE))


def _fits(key: bytes, value: bytes) -> bool:
    """Whether the value was stored under the key."""
    try:
        decode_version(split_version(key)[0], records.unseal(key, value))
    except MALFORMED:
        return False
    return True


def _well_formed(subject: bytes) -> bool:
    try:
        decode_version(subject, records.TOMBSTONE)
    except MALFORMED:
        return False
    return True


def _called(subject: bytes) -> str:
    ino, kind = keys.split(subject)
    if kind == keys.EXTENT:
        return f"inode {ino}: what it has at byte {keys.split_extent(subject)[1]}"
    if kind == keys.XATTR:
        return f"inode {ino}: its attribute {keys.split_xattr(subject)!r}"
    if kind in (keys.DIRENT, keys.PARENT):
        what = "entry" if kind == keys.DIRENT else "link to the entry"
        return f"inode {ino}: its {what} {keys.split_hashed(subject)[1]!r}"
    return f"inode {ino}: its {'target' if kind == keys.SYMLINK else 'attributes'}"
