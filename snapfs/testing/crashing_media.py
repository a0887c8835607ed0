"""What a disk may hold after a crash, from the operations that were asked of it before.

Invariants:
  * After a kill it holds what was written, up to the kill, the last write perhaps only half.
  * After a power loss it holds what was synced.  Of what was not, each page may be old, new or torn (each sector old
    or new; beyond the synced end anything), each size old, new or between, each name there or not.
  * A sync that failed made nothing durable, and no later one makes up for it: the kernel takes the pages for clean.
  * LMDB's order is trusted: a commit writes pages that the last one does not use, syncs, then writes one meta page.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from snapfs.testing.crashing_disk import INDEX_FILE, REDO_SYNC, WITNESS_FILE, Kind, Operation, read_index
from snapfs.types import PAGE_BYTES

SECTOR_BYTES: Final = 512
METAS: Final = 2


@dataclass(eq=False)
class File:
    content: bytearray = field(default_factory=bytearray)
    """As a program reads it."""
    durable: bytearray = field(default_factory=bytearray)
    unsynced: set[int] = field(default_factory=set)
    """Pages that a sync would make durable."""
    doubtful: set[int] = field(default_factory=set)
    """Pages that a failed sync left to chance."""

    def write(self, offset: int, data: bytes) -> None:
        if not data:
            return
        self.content.extend(bytes(max(0, offset + len(data) - len(self.content))))
        self.content[offset : offset + len(data)] = data
        self._touch(offset, offset + len(data))

    def _touch(self, start: int, end: int) -> None:
        pages = range(start // PAGE_BYTES, -(-end // PAGE_BYTES))
        self.unsynced.update(pages)
        self.doubtful.difference_update(pages)

    def truncate(self, size: int) -> None:
        old = len(self.content)
        del self.content[size:]
        self.content.extend(bytes(size - len(self.content)))
        self._touch(min(old, size), max(old, size))

    def punch(self, offset: int, size: int) -> None:
        end = min(offset + size, len(self.content))
        self.content[offset:end] = bytes(max(0, end - offset))
        self._touch(offset, end)

    def sync(self) -> None:
        size = len(self.content)
        del self.durable[size:]
        self.durable.extend(bytes(size - len(self.durable)))
        for page in self.unsynced:
            start = page * PAGE_BYTES
            self.durable[start : start + PAGE_BYTES] = self.content[start : start + PAGE_BYTES]
        self.unsynced.clear()

    def sync_failed(self) -> None:
        self.doubtful |= self.unsynced
        self.unsynced.clear()

    def after_power_loss(self, chance: random.Random) -> bytes:
        open_pages = self.unsynced | self.doubtful
        sizes = [len(self.durable), len(self.content)]
        between = range(min(sizes) // PAGE_BYTES + 1, max(sizes) // PAGE_BYTES + 1)
        size = chance.choice([*sizes, chance.choice(between) * PAGE_BYTES] if between else sizes)
        image = bytearray(self.durable[:size])
        image.extend(bytes(size - len(image)))
        for page in open_pages:
            fate = chance.random()
            for start in range(page * PAGE_BYTES, min((page + 1) * PAGE_BYTES, size), SECTOR_BYTES):
                end = min(start + SECTOR_BYTES, size)
                new = bytes(self.content[start:end]).ljust(end - start, b"\0")
                if fate < 0.4 or (fate > 0.7 and chance.random() < 0.5):
                    image[start:end] = new
                elif fate > 0.9 and start >= len(self.durable):
                    image[start:end] = chance.randbytes(end - start)
        return bytes(image)


class Media:
    """Replays operations; ``kill`` and ``power_loss`` write what may be found into an empty directory."""

    def __init__(self, store: Path) -> None:
        """As the store's files are now, all of it durable."""
        self.files = {
            str(path.relative_to(store)): _synced(path.read_bytes())
            for path in store.rglob("*")
            if path.is_file() and path.name not in ("data.mdb", "lock.mdb", "lock")
        }
        self._durable_files = dict(self.files)
        self._changes: list[tuple[str, File | None]] = []
        """Of names, since their directory was synced: name -> the file, or none."""
        self._doubtful_changes: list[tuple[str, File | None]] = []
        """Those that a failed sync left to chance."""
        self._index = bytearray(read_index(store / INDEX_FILE))
        self._index_bytes = self._index_synced_bytes = (store / INDEX_FILE).stat().st_size
        self._before: tuple[bytearray, File] | None = None
        """The index that it was exchanged for, with what was noted beside it, until that is durable."""
        self.commits = 0

    # -- replay

    def apply(self, operation: Operation, done: int | None = None) -> None:
        """``done``: as in ``Operation``."""
        if done is None:
            done = operation.done
        if done == 0 and operation.kind not in (Kind.SYNC, Kind.SYNC_DIRECTORY):
            return
        if operation.path == INDEX_FILE:
            self._apply_index(operation)
        elif operation.kind in (Kind.CREATE, Kind.UNLINK, Kind.RENAME):
            self._apply_name(operation)
        elif operation.kind is Kind.SYNC_DIRECTORY:
            if operation.failed:
                self._doubtful_changes += self._changes
                self._changes = []
            else:
                self._sync_directory(operation.path)
                if operation.path == ".":
                    self._before = None
        elif operation.kind not in (Kind.OPEN, Kind.READ, Kind.ALLOCATE):
            self._apply_content(self.files[operation.path], operation, done)
            self.commits += operation.name == REDO_SYNC and not operation.failed

    @staticmethod
    def _apply_content(file: File, operation: Operation, done: int) -> None:
        if operation.kind is Kind.WRITE:
            file.write(operation.offset, operation.data if done < 0 else operation.data[:done])
        elif operation.kind is Kind.TRUNCATE:
            file.truncate(operation.size)
        elif operation.kind is Kind.PUNCH:
            file.punch(operation.offset, operation.size)
        elif operation.failed:
            file.sync_failed()
        else:
            file.sync()

    def _apply_index(self, operation: Operation) -> None:
        if operation.kind is Kind.TRUNCATE:
            self._index_bytes = operation.size
        if operation.kind is Kind.EXCHANGE:
            self._before = self._index, self.files[WITNESS_FILE]
            self._index = bytearray()
            self.files[WITNESS_FILE] = self._durable_files[WITNESS_FILE] = File()
            self.files[WITNESS_FILE].write(0, operation.data)
        elif operation.kind is not Kind.COMMIT:
            return
        for page, data in operation.pages.items():
            self._put_page(self._index, page, data)
        self._index_bytes = max(self._index_bytes, len(self._index))
        self._index_synced_bytes = self._index_bytes
        self.commits += operation.kind is Kind.COMMIT

    @staticmethod
    def _put_page(image: bytearray, page: int, data: bytes) -> None:
        image.extend(bytes(max(0, (page + 1) * PAGE_BYTES - len(image))))
        image[page * PAGE_BYTES : (page + 1) * PAGE_BYTES] = data

    def _apply_name(self, operation: Operation) -> None:
        path = operation.path
        if operation.kind is Kind.CREATE:
            file = self.files.get(path)
            if file is None:
                file = self.files[path] = File()
                self._changes.append((path, file))
            if operation.truncates:
                file.truncate(0)
        elif operation.kind is Kind.UNLINK:
            if self.files.pop(path, None) is not None:
                self._changes.append((path, None))
        else:
            file = self.files.pop(path)
            self.files[operation.new] = file
            self._changes += [(operation.new, file), (path, None)]

    def _sync_directory(self, directory: str) -> None:
        left = []
        for path, file in self._changes:
            if (str(Path(path).parent)) != directory:
                left.append((path, file))
            else:
                _set(self._durable_files, path, file)
                self._doubtful_changes = [change for change in self._doubtful_changes if change[0] != path]
        self._changes = left

    # -- what may be found

    def kill(self, target: Path, under_way: Operation | None, chance: random.Random) -> None:
        """``under_way``: LMDB's commit, or nothing."""
        files = {path: bytes(file.content) for path, file in self.files.items()}
        image = self._torn_index(under_way, chance, torn=False)
        _write(target, files, image, self._index_bytes)

    def power_loss(self, target: Path, under_way: Operation | None, chance: random.Random) -> None:
        names = dict(self._durable_files)
        skipped = set()
        for path, file in (*self._doubtful_changes, *self._changes):
            if path in skipped or chance.random() < 0.5:
                skipped.add(path)
            else:
                _set(names, path, file)
        files = {path: file.after_power_loss(chance) for path, file in names.items()}
        image = self._torn_index(under_way, chance, torn=True)
        if self._before is not None and chance.random() < 0.5:
            image, noted = self._before
            files[WITNESS_FILE] = noted.after_power_loss(chance)
        _write(target, files, image, chance.choice([self._index_bytes, self._index_synced_bytes]))

    def _torn_index(self, under_way: Operation | None, chance: random.Random, *, torn: bool) -> bytearray:
        """With some of the pages of a commit that was not finished: never its meta page, for then it was."""
        image = bytearray(self._index)
        for page, data in (under_way.pages if under_way else {}).items():
            if page < METAS or chance.random() < 0.4:
                continue
            old = bytes(image[page * PAGE_BYTES : (page + 1) * PAGE_BYTES]).ljust(PAGE_BYTES, b"\0")
            if torn and chance.random() < 0.4:
                cut = chance.randrange(0, PAGE_BYTES, SECTOR_BYTES)
                data = data[:cut] + old[cut:] if chance.random() < 0.5 else old[:cut] + data[cut:]
            self._put_page(image, page, data)
        return image

    def differs(self, store: Path) -> list[str]:
        """What is not as in a real store's directory, so that the replay itself can be checked."""
        real = Media(store)
        wrong = sorted(path for path in real.files.keys() ^ self.files.keys())
        for path in real.files.keys() & self.files.keys():
            if real.files[path].content != self.files[path].content:
                wrong.append(path)
        return wrong + ([INDEX_FILE] if real._index != self._index else [])


def _set(files: dict[str, File], path: str, file: File | None) -> None:
    if file is None:
        files.pop(path, None)
    else:
        files[path] = file


def _synced(content: bytes) -> File:
    return File(bytearray(content), bytearray(content))


def _write(target: Path, files: dict[str, bytes], image: bytearray, index_bytes: int) -> None:
    for directory in ("index", "segments"):
        (target / directory).mkdir(parents=True, exist_ok=True)
    for path, data in files.items():
        (target / path).write_bytes(data)
    with (target / INDEX_FILE).open("wb") as file:
        file.write(image)
        file.truncate(max(index_bytes, len(image)))
