"""Seals as they lie in the segments, found without an index: which snapshots can be had back whole.

Invariants:
  * A seal is *whole* if its root, body and every part are there and match the hashes that name them, its digest is that
    of what it says, and the seal that it builds on is whole.  Nothing is made of one that is not.
  * Of several roots of one epoch the one with the greatest sequence counts; an older one only where that is damaged.
  * Parts are read again when they are needed: nothing of a snapshot's size is kept in memory.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from snapfs.errors import SnapfsError
from snapfs.format import seals
from snapfs.format import segments as fmt
from snapfs.format.seals import SealBody, SealRoot
from snapfs.store.disk import Disk
from snapfs.store.scan import Found, SegmentScan, segment_files
from snapfs.types import Epoch, SegmentId
from snapfs.versions.epochs import ROOT

Progress = Callable[[int, int], None]
"""Is told (bytes done, bytes in all)."""


class Seal(msgspec.Struct):
    """One whole seal: where it lies, and what it says."""

    root: SealRoot
    """Without its state, which is large."""
    body: SealBody
    at: Found
    body_at: list[Found]
    parts_at: list[Found]

    @property
    def address(self) -> str:
        return _address(self.body)


class Lost(msgspec.Struct, frozen=True):
    """A snapshot whose seal is there, but not whole."""

    epoch: Epoch
    address: str
    """VOLUME@NAME as far as it is known."""
    why: str


class Scan:
    """All segments of a store."""

    def __init__(self, path: Path, store_uuid: bytes, disk: Disk) -> None:
        """``path``: of the segments."""
        self._path = path
        self.uuid = store_uuid
        self._disk = disk
        self._roots: dict[Epoch, list[tuple[int, Found]]] = {}
        self._parts: dict[bytes, list[Found]] = {}
        self._open: SegmentScan | None = None
        self.bad_headers: list[SegmentId] = []
        """Segments whose own header is damaged; their records may be sound all the same."""
        self.unread: list[SegmentId] = []
        """Segments that could not be read to their end."""
        self.skipped_bytes = 0
        """Bytes between records that belong to none: damage, or what a crash left."""
        self.seal_places: list[Found] = []
        """Every record of a seal."""
        self.ends: dict[SegmentId, int] = {}
        """Size of each file."""
        self.numbers_max = 0
        """The greatest number of an epoch or volume that any root names, whole or not."""
        self.sequence_max = 0
        self.seals: dict[Epoch, Seal] = {}
        """The whole ones, ascending."""
        self.lost: list[Lost] = []

    # -- reading

    def run(self, data: Callable[[Found], None] | None = None, progress: Progress | None = None) -> None:
        """Read all headers, then judge the seals.  ``data`` is told of each block of files' bytes."""
        numbers = segment_files(self._path)
        sizes = {number: _size(self._path, number) for number in numbers}
        total, done = sum(sizes.values()), 0
        for number in numbers:
            try:
                self._segment(number, data, functools.partial(_tell, progress, done, total))
            except SnapfsError:
                self.unread.append(number)
                self.ends.setdefault(number, sizes[number])
            done += sizes[number]
        if progress:
            progress(total, total)
        self._judge()
        self.close()

    def _segment(self, number: SegmentId, data: Callable[[Found], None] | None, tell: Callable[[int], None]) -> None:
        with SegmentScan(self._path, number, self.uuid, self._disk) as scan:
            self.ends[number] = scan.size
            try:
                if not scan.header_sound():
                    self.bad_headers.append(number)
                for count, found in enumerate(scan.records()):
                    if found is not None:
                        self._take(found, data)
                        if count % _TELL_EVERY == 0:
                            tell(found.offset)
            finally:
                self.skipped_bytes += scan.skipped_bytes

    def _take(self, found: Found, data: Callable[[Found], None] | None) -> None:
        if found.head.kind == fmt.DATA:
            if data is not None:
                data(found)
            return
        self.seal_places.append(found)
        if found.head.kind == fmt.SEAL_PART:
            self._parts.setdefault(found.head.hash, []).append(found)
            return
        root = self._root(found)
        if root is None:
            return
        self._roots.setdefault(root.epoch, []).append((root.sequence, found))
        self.numbers_max = max(self.numbers_max, root.epoch, root.base, root.parent_epoch)
        self.sequence_max = max(self.sequence_max, root.sequence)

    def body_of(self, found: Found) -> bytes | None:
        """Raw bytes of a record; None if they are damaged or cannot be read."""
        try:
            if self._open is None or self._open.segment != found.segment:
                self.close()
                self._open = SegmentScan(self._path, found.segment, self.uuid, self._disk)
            return self._open.body(found)
        except SnapfsError:
            return None

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None

    def _root(self, found: Found) -> SealRoot | None:
        data = self.body_of(found)
        try:
            root = seals.decode_root(data) if data is not None else None
        except SnapfsError:
            return None
        if root is None or root.store != self.uuid or root.base >= root.epoch:
            return None
        return root

    # -- judging

    def _judge(self) -> None:
        for epoch in sorted(self._roots):
            candidates = sorted(self._roots[epoch], key=lambda one: (one[0], one[1].segment, one[1].offset))
            address, why = "", ""
            for _, found in reversed(candidates):
                seal, address_here, why_here = self._whole(found)
                if seal is not None:
                    self.seals[epoch] = seal
                    break
                address, why = address or address_here, why or why_here
            else:
                self.lost.append(Lost(epoch, address or f"snapshot {epoch}", why))
        self._forget_unneeded()

    def _whole(self, found: Found) -> tuple[Seal | None, str, str]:
        """(the seal, or None; its address as far as known; why it is not whole)."""
        root = self._root(found)
        if root is None:
            return None, "", "its root is damaged"
        pieces = [self._piece(digest) for digest in root.body]
        if None in pieces:
            return None, "", "its record is damaged"
        try:
            body = seals.decode_body(b"".join(data for _, data in pieces))  # type: ignore[misc]
        except SnapfsError:
            return None, "", "its record is damaged"
        address = _address(body)
        if seals.content_digest(root.state) != root.content or (
            body.record is not None
            and (
                body.record.epoch != root.epoch
                or seals.seal_digest(root.parent, root.content, body.record) != root.digest
            )
        ):
            return None, address, "its digest is not that of its content"
        if root.base != ROOT and root.base not in self.seals:
            return None, address, "what it builds on is damaged"
        parts_at = []
        for digest in body.parts:
            piece = self._piece(digest)
            if piece is None or not _entries_sound(piece[1]):
                return None, address, "the list of what it contains is damaged"
            parts_at.append(piece[0])
        kept = msgspec.structs.replace(root, state=b"")
        seal = Seal(kept, body, found, [at for at, _ in pieces], parts_at)  # type: ignore[misc]
        return seal, address, ""

    def _piece(self, digest: bytes) -> tuple[Found, bytes] | None:
        for found in self._parts.get(digest, ()):
            data = self.body_of(found)
            if data is not None:
                return found, data
        return None

    def _forget_unneeded(self) -> None:
        """Seals of deleted snapshots that no other builds on."""
        needed: set[Epoch] = set()
        for epoch, seal in sorted(self.seals.items(), reverse=True):
            if seal.body.record is not None or epoch in needed:
                needed.add(epoch)
                needed.add(seal.root.base)
        self.seals = {epoch: seal for epoch, seal in self.seals.items() if epoch in needed}

    def entries(self, seal: Seal) -> Iterator[list[tuple[bytes, bytes]]]:
        """(subject, canonical payload) of what a seal lists, a part at a time.

        Raises:
            SnapfsError: a part has become unreadable since it was judged.
        """
        for found in seal.parts_at:
            data = self.body_of(found)
            yield list(seals.decode_entries(data or _TRUNCATED))


def _tell(progress: Progress | None, base: int, total: int, offset: int) -> None:
    if progress:
        progress(base + offset, total)


def _entries_sound(part: bytes) -> bool:
    try:
        for _ in seals.decode_entries(part):
            pass
    except SnapfsError:
        return False
    return True


def _address(body: SealBody) -> str:
    if body.record is None:
        return ""
    volume = body.volume.name if body.volume else str(body.record.volume)
    return f"{volume}@{body.record.name}"


def _size(path: Path, number: SegmentId) -> int:
    try:
        return (path / f"{number:016d}.seg").stat().st_size
    except OSError:
        return 0


_TELL_EVERY: Final = 256
_TRUNCATED: Final = b"\0"
"""No list of entries: decoding it raises."""
