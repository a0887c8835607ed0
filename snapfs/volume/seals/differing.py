"""Which files of a snapshot are not what its seal lists: looked for only when its content is known to differ."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Final

from blake3 import blake3

from snapfs.errors import Corrupt
from snapfs.format import keys, records, seals
from snapfs.format.seals import SealRecord
from snapfs.types import Ino
from snapfs.versions.epochs import View
from snapfs.volume.compare import Side
from snapfs.volume.seals.content import Elements
from snapfs.volume.seals.moment import Pace
from snapfs.volume.seals.sealer import Sealer

RECORDS_MAX: Final = 5_000_000
"""Listed records that are kept at a time (about 150 bytes each); of larger snapshots it cannot be told."""

_INO_BYTES: Final = 8
_DIGEST_BYTES: Final = 16
_WHAT: Final = {
    keys.EXTENT: "content", keys.INODE: "attributes", keys.XATTR: "extended attributes", keys.SYMLINK: "target",
    keys.PARENT: "place", keys.DIRENT: "entries",
}  # fmt: skip


class Differing:
    def __init__(self, sealer: Sealer, elements: Elements, view: View, side: Side, seal: SealRecord) -> None:
        self._sealer = sealer
        self._elements = elements
        self._view = view
        self._side = side
        self._seal = seal
        self._listed: dict[Ino, dict[bytes, bytes]] = {}
        """Digest of each record that the seals list, by inode and subject."""
        self._count = 0
        self._pace = Pace()

    async def find(self) -> AsyncIterator[str]:
        """A line for each inode that differs.

        Raises:
            Corrupt: the lists are damaged, incomplete or too long.
        """
        await self._gather()
        for ino in sorted(self._listed):
            kinds = self._differences(ino)
            if kinds:
                what = ", ".join(_WHAT.get(kind, "records") for kind in sorted(kinds))
                yield f"{self._path(ino)}: not as it was sealed: {what}"
            if self._pace.due:
                await self._pace.rest()

    async def _gather(self) -> None:
        chain = [self._seal]
        while chain[-1].base:
            base = self._sealer.get(chain[-1].base)
            if base is None or base.epoch >= chain[-1].epoch:
                raise Corrupt(f"the seal of epoch {chain[-1].epoch} has lost its base", hint="run: snap fsck")
            chain.append(base)
        for link in reversed(chain):
            for part in link.parts:
                for subject, payload in seals.decode_entries(await self._sealer.fetch(part)):
                    self._apply(subject, payload)
                    if self._pace.due:
                        await self._pace.rest()

    def _apply(self, subject: bytes, payload: bytes) -> None:
        ino, kind = keys.split(subject)
        if not payload and kind == keys.INODE:
            self._count -= len(self._listed.pop(ino, ()))
            return
        listed = self._listed.setdefault(ino, {})
        self._count -= len(listed)
        if payload:
            listed[subject] = blake3(payload).digest(_DIGEST_BYTES)
        else:
            listed.pop(subject, None)
        if kind == keys.INODE:  # extents of an older fork are gone, without being listed
            fork = records.decode_inode(ino, payload).fork
            for other in [s for s in listed if s[_INO_BYTES] == keys.EXTENT and keys.split_extent(s)[0] != fork]:
                del listed[other]
        self._count += len(listed)
        if self._count > RECORDS_MAX:
            raise Corrupt(f"the snapshot has more than {RECORDS_MAX} records")

    def _differences(self, ino: Ino) -> set[int]:
        """Kinds of the inode's records that differ."""
        shown = dict(self._shown(ino))
        return {subject[_INO_BYTES] for subject, _ in shown.items() ^ self._listed[ino].items()}

    def _shown(self, ino: Ino) -> Iterator[tuple[bytes, bytes]]:
        inode = self._elements.inode(self._view, ino)
        if inode is not None:
            for subject, payload in self._elements.of_inode(self._view, inode):
                yield subject, blake3(self._elements.payload(subject, payload)).digest(_DIGEST_BYTES)

    def _path(self, ino: Ino) -> str:
        """Where the snapshot shows it; else the name that it had when it was sealed."""
        found = shown_path(self._side, ino)
        if found is None:
            links = [keys.split_hashed(s) for s in self._listed[ino] if s[_INO_BYTES] == keys.PARENT]
            for parent, name in links:
                above = shown_path(self._side, Ino(parent))
                if above is not None:
                    return f"{above}/{name.decode(errors='backslashreplace')}".removeprefix("//").removeprefix("/")
        return found or f"inode {ino}"


def shown_path(side: Side, ino: Ino) -> str | None:
    """A path of an inode, for people; None if none leads to it."""
    if ino == side.root:
        return "/"
    try:
        path = next(filter(None, map(side.path, sorted(side.links(ino)))), None)
    except Corrupt:
        return None
    return path.decode(errors="backslashreplace") if path is not None else None
