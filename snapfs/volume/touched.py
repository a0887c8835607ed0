"""What a checkout or restore changed under the kernel's feet."""

from __future__ import annotations

from collections.abc import Iterable

from snapfs.format import keys
from snapfs.types import Ino


class Touched:
    """Inodes whose attributes or content, and entries (parent, name), that may read differently now."""

    __slots__ = ("entries", "inodes")

    def __init__(self) -> None:
        self.inodes: set[Ino] = set()
        self.entries: list[tuple[Ino, bytes]] = []

    def add(self, subjects: Iterable[bytes]) -> Touched:
        for subject in subjects:
            ino, kind = keys.split(subject)
            if kind == keys.DIRENT:
                self.entries.append((ino, keys.split_hashed(subject)[1]))
            self.inodes.add(ino)
        return self
