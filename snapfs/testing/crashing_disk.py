"""A disk that numbers and notes all that is asked of it, and can fail at one of the numbers.

What it notes is enough to build, for every number, the files as they may be found after a crash there
(``snapfs.testing.crashing_media``), without running the program again.
"""

from __future__ import annotations

import dataclasses
import enum
import errno
import os
import struct
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from snapfs.store.disk import Bytes, Disk, from_os
from snapfs.store.flights import Flight, Read
from snapfs.store.verify import WITNESS
from snapfs.types import PAGE_BYTES

INDEX_FILE: Final = "index/data.mdb"
WITNESS_FILE: Final = f"index/{WITNESS}"


REDO_SYNC: Final = "redo.sync"
RECORDING: Final = ("redo.append", REDO_SYNC)
"""What makes a record of the redo log durable; between the two it may be there or not."""


class Kind(enum.Enum):
    OPEN = enum.auto()
    READ = enum.auto()
    CREATE = enum.auto()
    WRITE = enum.auto()
    TRUNCATE = enum.auto()
    ALLOCATE = enum.auto()
    PUNCH = enum.auto()
    SYNC = enum.auto()
    SYNC_DIRECTORY = enum.auto()
    UNLINK = enum.auto()
    RENAME = enum.auto()
    COMMIT = enum.auto()
    EXCHANGE = enum.auto()
    """Of the whole index with another of the same records."""


CHANGING: Final = frozenset(Kind) - {Kind.OPEN, Kind.READ}


@dataclass(frozen=True)
class Operation:
    name: str
    kind: Kind
    path: str
    """Relative to the store."""
    offset: int = 0
    data: bytes = b""
    size: int = 0
    """Of what is punched, or the new size of a file."""
    new: str = ""
    """Renamed to."""
    pages: dict[int, bytes] = field(default_factory=dict)
    """Of LMDB's file, that a commit changed; 0 and 1 are the meta pages."""
    truncates: bool = False
    """On opening it."""
    failed: bool = False
    """The program was told that it failed."""
    done: int = -1
    """Of a failed one: bytes that were written all the same; for other kinds 1: it was carried out.  -1: all."""


class Moment(enum.Enum):
    """When an operation fails."""

    BEFORE = enum.auto()
    HALF = enum.auto()
    """Half of the bytes are written; as BEFORE for what writes none."""
    AFTER = enum.auto()
    """It is carried out, and reported as failed."""


@dataclass
class Fault:
    at: int
    """Number of the first operation that fails, from 0 on."""
    code: int
    moment: Moment = Moment.BEFORE
    lasting: bool = False
    """All later ones fail too, else only the one.  With ENOSPC only what takes space fails."""


TAKES_SPACE: Final = frozenset(
    {Kind.CREATE, Kind.WRITE, Kind.SYNC_DIRECTORY, Kind.COMMIT, Kind.TRUNCATE, Kind.ALLOCATE}
)


class CrashingDisk(Disk):
    """Thread-safe: operations happen one after the other.

    Attributes:
        log: all operations, by number.
        commits: how many commits of the index, and records of its log, were carried out.
        met: whether the fault was met.
    """

    def __init__(self, store: Path, fault: Fault | None = None) -> None:
        self._store = store
        self.fault = fault
        self.suspended = False
        """No operation fails or is noted."""
        self.log: list[Operation] = []
        self.commits = 0
        self.met = False
        self._lock = threading.RLock()
        self._paths: dict[int, str] = {}
        self._image = b""

    def attach(self) -> None:
        """Take the index as it is for what later commits change."""
        self._image = read_index(self._store / INDEX_FILE)

    def _relative(self, path: Path) -> str:
        return os.path.relpath(path, self._store)

    def _run(self, operation: Operation, act: Callable[[], None], half: Callable[[], int] | None = None) -> None:
        with self._lock:
            if self.suspended:
                act()
                return
            fault = self.fault
            number = len(self.log)
            fails = fault is not None and (number == fault.at or (fault.lasting and number > fault.at))
            if fault is not None and fails and fault.code == errno.ENOSPC and number != fault.at:
                fails = operation.kind in TAKES_SPACE
            if fault is None or not fails:
                act()
                self.log.append(operation)
                return
            self.met = True
            done = 0
            if fault.moment is Moment.AFTER:
                act()
                done = 1 if half is None else len(operation.data)
            elif fault.moment is Moment.HALF and half is not None:
                done = half()
            self.log.append(_failed(operation, done))
            raise from_os(OSError(fault.code, os.strerror(fault.code)), operation.name)

    # -- as Disk

    def open(self, what: str, path: Path, flags: int, mode: int = 0o600) -> int:
        opened: list[int] = []
        kind = Kind.CREATE if flags & os.O_CREAT else Kind.OPEN
        operation = Operation(what, kind, self._relative(path), truncates=bool(flags & os.O_TRUNC))
        try:
            self._run(operation, lambda: opened.append(Disk.open(self, what, path, flags, mode)))
        except BaseException:
            for fd in opened:
                os.close(fd)
            raise
        self._paths[opened[0]] = self._relative(path)
        return opened[0]

    def pwrite(self, what: str, fd: int, parts: Sequence[Bytes], offset: int) -> None:
        data = b"".join(parts)

        def half() -> int:
            Disk.pwrite(self, what, fd, [data[: len(data) // 2]], offset)
            return len(data) // 2

        operation = Operation(what, Kind.WRITE, self._paths[fd], offset, data)
        self._run(operation, lambda: Disk.pwrite(self, what, fd, [data], offset), half)

    def pread(self, what: str, fd: int, size: int, offset: int) -> bytes:
        read: list[bytes] = []
        operation = Operation(what, Kind.READ, self._paths[fd])
        self._run(operation, lambda: read.append(Disk.pread(self, what, fd, size, offset)))
        return read[0]

    def preadv(self, what: str, fd: int, buffers: Sequence[bytearray | memoryview], offset: int) -> int:
        read: list[int] = []
        operation = Operation(what, Kind.READ, self._paths[fd])
        self._run(operation, lambda: read.append(Disk.preadv(self, what, fd, buffers, offset)))
        return read[0]

    def preadv_cached(self, fd: int, buffers: Sequence[bytearray | memoryview], offset: int) -> int:
        return 0

    def pread_direct(self, what: str, fd: int, buffer: memoryview, offset: int) -> int:
        return 0

    def submit_direct(self, what: str, reads: Sequence[Read]) -> Flight | None:
        return None

    def sync(self, what: str, fd: int) -> None:
        self._run(Operation(what, Kind.SYNC, self._paths[fd]), lambda: Disk.sync(self, what, fd))
        if what == REDO_SYNC and not self.suspended:
            self.commits += 1

    def sync_directory(self, what: str, path: Path) -> None:
        operation = Operation(what, Kind.SYNC_DIRECTORY, self._relative(path))
        self._run(operation, lambda: Disk.sync_directory(self, what, path))

    def truncate(self, what: str, fd: int, size: int) -> None:
        operation = Operation(what, Kind.TRUNCATE, self._paths[fd], size=size)
        self._run(operation, lambda: Disk.truncate(self, what, fd, size))

    def punch(self, what: str, fd: int, offset: int, length: int) -> bool:
        punched: list[bool] = []
        operation = Operation(what, Kind.PUNCH, self._paths[fd], offset, size=length)
        self._run(operation, lambda: punched.append(Disk.punch(self, what, fd, offset, length)))
        return punched[0]

    def unlink(self, what: str, path: Path) -> None:
        self._run(Operation(what, Kind.UNLINK, self._relative(path)), lambda: Disk.unlink(self, what, path))

    def rename(self, what: str, path: Path, new: Path) -> None:
        operation = Operation(what, Kind.RENAME, self._relative(path), new=self._relative(new))
        self._run(operation, lambda: Disk.rename(self, what, path, new))

    def grow(self, what: str, path: Path, size: int) -> None:
        operation = Operation(what, Kind.TRUNCATE, self._relative(path), size=size)
        self._run(operation, lambda: Disk.grow(self, what, path, size))

    def allocate(self, what: str, path: Path, offset: int, length: int) -> None:
        operation = Operation(what, Kind.ALLOCATE, self._relative(path), offset, size=length)
        self._run(operation, lambda: Disk.allocate(self, what, path, offset, length))

    def perform(self, what: str, action: Callable[[], None]) -> None:
        """LMDB's commit: noted with the pages that it changed.  A copy of its file changes nothing."""
        if what == "index.copy":
            self._run(Operation(what, Kind.ALLOCATE, INDEX_FILE), action)
            return
        pages: dict[int, bytes] = {}

        def act() -> None:
            action()
            if not self.suspended:
                image = read_index(self._store / INDEX_FILE)
                pages.update(changed_pages(self._image, image))
                self._image = image
                self.commits += 1

        self._run(Operation(what, Kind.COMMIT, INDEX_FILE, pages=pages), act)

    def exchange(self, what: str, one: Path, other: Path) -> bool:
        pages: dict[int, bytes] = {}

        def act() -> None:
            if not Disk.exchange(self, what, one, other):
                raise OSError(f"{one} and {other} cannot change places")
            if not self.suspended:
                self._image = read_index(self._store / INDEX_FILE)
                pages.update(changed_pages(b"", self._image))

        witness = (one / WITNESS).read_bytes()
        self._run(Operation(what, Kind.EXCHANGE, INDEX_FILE, data=witness, pages=pages), act)
        return True


def _failed(operation: Operation, done: int) -> Operation:
    return dataclasses.replace(operation, failed=True, done=done)


_META: Final = struct.Struct("<IIQQ")
_LAST_PAGE: Final = struct.Struct("<QQ")
_META_AT: Final = 16
_LAST_PAGE_AT: Final = 16 + 24 + 2 * 48


def read_index(path: Path) -> bytes:
    """LMDB's file up to the last page that either of its meta pages counts; the file may be sparse beyond."""
    with path.open("rb") as file:
        head = file.read(2 * PAGE_BYTES)
        last = max(_LAST_PAGE.unpack_from(head, n * PAGE_BYTES + _LAST_PAGE_AT)[0] for n in (0, 1))
        file.seek(0)
        return file.read((last + 1) * PAGE_BYTES)


def changed_pages(old: bytes, new: bytes) -> dict[int, bytes]:
    pages = {}
    for start in range(0, len(new), PAGE_BYTES):
        page = new[start : start + PAGE_BYTES]
        if page != old[start : start + PAGE_BYTES]:
            pages[start // PAGE_BYTES] = page
    return pages
