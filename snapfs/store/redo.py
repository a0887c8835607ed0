"""The redo log: small changes that are durable before the index commits them.

A commit of the index writes some twenty pages here and there, syncs, and writes a page that makes them count.  A record
of the log says the same, what was put and deleted since the record before and the bytes that went to segments, in one
run of bytes, with one sync of a file whose blocks are there already.

Invariants:
  * A record counts only on top of the very commit that it was written after: it bears that commit's *name*, random
    bytes that each commit puts in table ``meta``.  So a commit ends all records before it, whatever becomes of them.
  * Records count in order, from the file's beginning, up to the first that is missing, torn or another's.
  * Records name places and values, not steps: to carry them out again changes nothing.
  * A record holds all that is not durable but for what records before it hold: whoever cannot say so (too much, bytes
    that were not noted) commits instead.
  * A log that failed once is not used again by this process: each fsync is a commit then.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections import deque
from collections.abc import Callable
from pathlib import Path
from struct import Struct
from typing import Annotated, BinaryIO, Final

import msgspec
from blake3 import blake3

from snapfs.errors import Corrupt, IOFailure, SnapfsError
from snapfs.store.disk import Disk, from_os, open_to_read
from snapfs.store.environment import TABLES

log: Final = logging.getLogger(__name__)

FILE: Final = "redo"
LOG_BYTES_MAX: Final = 4 * 1024 * 1024
"""The file: some 600 fsyncs of a page each, about a second's; the next one commits."""
PUTS_MAX: Final = 1000
"""Of one record.  Beyond, a commit costs little more."""
NAME: Final = b"commit"
"""Key in table ``meta`` of the last commit's name."""
_NAME_BYTES: Final = 16
_DIGEST_BYTES: Final = 16
_HEAD: Final = Struct(f"<4sI{_NAME_BYTES}sQ")
"""Magic, bytes of the body, name of the commit, number of the record from 0 on; then the digest of these and the body
(BLAKE3, its first 16 bytes), then the body."""
_MAGIC: Final = b"REDO"

Put = tuple[str, Annotated[bytes, msgspec.Meta(min_length=1, max_length=511)], bytes | None]
"""(table, key, payload); None: the key is deleted.  Keys as long as LMDB takes them."""

Piece = tuple[Annotated[int, msgspec.Meta(ge=0)], Annotated[int, msgspec.Meta(ge=0, le=1 << 62)], bytes]
"""(segment, offset, bytes)."""


class Record(msgspec.Struct, frozen=True, array_like=True, gc=False):
    puts: list[Put]
    pieces: list[Piece]


_decoder: Final = msgspec.msgpack.Decoder(Record)
_encode: Final = msgspec.msgpack.Encoder().encode


class Redo:
    """The log of an index.  One record is written at a time; ``write`` runs in a worker thread, all else does not.

    Attributes:
        pending: what was put since the last record or commit, the last of it if it is more than PUTS_MAX; None: not
            known.
        written: what records have that count on top of the last commit.
    """

    def __init__(self, disk: Disk, path: Path, bytes_max: int = LOG_BYTES_MAX) -> None:
        self._disk = disk
        self._path = path
        self._bytes_max = bytes_max
        self._fd = -1
        self._end = 0
        self._number = 0
        self._name = b""
        self.pending: deque[Put] | None = None
        self.written: list[Put] = []
        self.usable = True

    def begin(self, name: bytes) -> None:
        """The index was committed under this name (none: b"")."""
        self._name = name if len(name) == _NAME_BYTES else b""
        self._end = self._number = 0
        self.pending = deque(maxlen=PUTS_MAX + 1) if self._name and self.usable else None
        self.written = []

    @property
    def name(self) -> bytes:
        return self._name

    def records(self) -> list[Record]:
        """Those that count on top of the last commit.

        Raises:
            IOFailure, NotPermitted, Unavailable: the log cannot be read, or is no file.
        """
        found: list[Record] = []
        if not self._name:
            return found
        try:
            with open_to_read(self._path) as file:
                while file.tell() < LOG_BYTES_MAX and (record := self._next(file, len(found))) is not None:
                    found.append(record)
        except FileNotFoundError:
            pass
        except OSError as error:
            raised = from_os(error, str(self._path))
            if isinstance(raised, Corrupt):  # no file: which says nothing of the index
                raised = IOFailure(raised.message, hint=raised.hint)
            raise raised from error
        return found

    def _next(self, file: BinaryIO, number: int) -> Record | None:
        head, digest = file.read(_HEAD.size), file.read(_DIGEST_BYTES)
        if len(digest) < _DIGEST_BYTES:
            return None
        magic, size, *which = _HEAD.unpack(head)
        if magic != _MAGIC or which != [self._name, number] or size > LOG_BYTES_MAX:
            return None
        body = file.read(size)
        if blake3(head + body).digest(_DIGEST_BYTES) != digest:
            return None
        try:
            record = _decoder.decode(body)
        except msgspec.MsgspecError:  # whoever wrote that was not us
            return None
        return record if all(put[0] in TABLES for put in record.puts) else None

    def take(self, pieces: list[Piece]) -> Callable[[], bool] | None:
        """What is pending, as a record.

        Returns:
            What writes it: durably, or it answers False; None: it cannot be one.
        """
        if self.pending is None or len(self.pending) > PUTS_MAX:
            return None
        puts, written = list(self.pending), self.written
        if not puts and not pieces:
            return lambda: True
        body = _encode(Record(puts, pieces))
        head = _HEAD.pack(_MAGIC, len(body), self._name, self._number)
        data = b"".join((head, blake3(head + body).digest(_DIGEST_BYTES), body))
        at = self._end
        if at + len(data) > self._bytes_max:
            return None
        self._end += len(data)
        self._number += 1
        self.pending.clear()

        def write() -> bool:
            try:
                fd = self._opened()
                self._disk.pwrite("redo.append", fd, [data], at)
                self._disk.sync("redo.sync", fd)
            except SnapfsError as error:
                self._give_up(at, error)
                return False
            written.extend(puts)  # of the commit that it was taken after: another may have come
            return True

        return write

    def _give_up(self, at: int, error: SnapfsError) -> None:
        """A record could not be written.  It may be there all the same: what it says was refused, or is committed next;
        so it is made void, if the disk lets us."""
        log.warning("the redo log cannot be used any more, each fsync is a commit now: %s", error.message)
        self.usable = False
        self.pending = None
        if self._fd >= 0:
            with contextlib.suppress(SnapfsError):
                self._disk.pwrite("redo.void", self._fd, [bytes(_HEAD.size)], at)

    def _opened(self) -> int:
        """The file, all of whose blocks are there, so that a sync need not touch anything else."""
        if self._fd < 0:
            fd = self._disk.open("redo.create", self._path, os.O_WRONLY | os.O_CREAT)
            try:
                if os.fstat(fd).st_size != self._bytes_max:
                    self._disk.truncate("redo.cut", fd, 0)
                    self._disk.pwrite("redo.zeros", fd, [bytes(self._bytes_max)], 0)
                    self._disk.sync("redo.sync_zeros", fd)
                    self._disk.sync_directory("redo.directory", self._path.parent)
            except BaseException:
                with contextlib.suppress(SnapfsError):  # a full disk needs that room
                    self._disk.truncate("redo.cut", fd, 0)
                os.close(fd)
                raise
            self._fd = fd
        return self._fd

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def restore(disk: Disk, segments: Path, pieces: list[Piece]) -> None:
    """Write bytes that may not have come to the disk to their places, durably.  The files were made durable before: if
    one is lost all the same, so are its bytes, as they would be after a commit."""
    for segment, offset, data in pieces:
        path = segments / f"{segment:016d}.seg"
        if not path.exists():
            continue
        fd = disk.open("redo.open", path, os.O_WRONLY)
        try:
            disk.pwrite("redo.restore", fd, [data], offset)
            disk.sync("redo.sync_restored", fd)
        finally:
            os.close(fd)


def new_name() -> bytes:
    return os.urandom(_NAME_BYTES)
