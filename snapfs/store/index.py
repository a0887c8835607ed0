"""The index: LMDB's tables behind one write transaction that stays open (the only importer of lmdb).

Invariants:
  * All reads and writes of the running file system go through the open transaction, on one thread: there is
    no second cache of dirty metadata.  ``commit`` is the only publish point; ``reader`` sees the last commit.
  * Counters and whatever else lives in memory between commits is written by ``before_commit`` hooks.
  * A commit that fails poisons the index: LMDB has dropped the transaction, so what was acknowledged since
    the last commit is gone, and nothing more may be acknowledged on top of that.
  * Bytes of a truncated file must not be mapped (SIGBUS): its size is checked before LMDB opens it.

Tables (every value sealed by format.records; keys big-endian):
  tree        subject || inverted epoch -> record                       the versioned keyspace
  changes     epoch || subject -> nothing                               what each epoch wrote
  epochs      epoch -> parent, volume, state
  volumes     volume -> VolumeRecord
  snapshots   epoch -> SnapshotRecord
  names       volume || name -> epoch                                   a volume's snapshots by name
  commits     volume || commit ID || NUL || epoch -> nothing            ... and by git commit
  tags        volume || tag -> epoch                                    ... and by tag
  created     volume || time || epoch -> nothing                        ... and in the order that they were made in
  blocks      block -> Block
  dedup       BLAKE3 -> block                                           blocks that may be referenced again
  freed       LMDB txn || block -> nothing                              unreferenced since that transaction
  segments    segment -> end, live bytes
  orphans     volume || inode -> nothing                                unlinked, still open
  reap        epoch || inode || fork -> nothing                         records no view can see any more
  events      sequence -> api.Event                                     what happened, the newest ones
  requests    BLAKE3 -> RequestRecord                                   what requests with a key have made
  requests_by_time  time || BLAKE3 -> nothing                           ... oldest first, to forget them
  seals       epoch -> SealRecord                                       digests of snapshots, and their parts
  unsealed    epoch -> nothing                                          snapshots to seal, or to seal anew
  meta        name -> number or text                                    counters, format, uuid
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Protocol

import lmdb

from snapfs.errors import Corrupt, IOFailure, SnapfsError
from snapfs.format import records
from snapfs.types import PAGE_BYTES

TABLES: Final = (
    "tree", "changes", "epochs", "volumes", "snapshots", "names", "commits",
    "tags", "created", "blocks", "dedup", "freed", "segments", "orphans", "reap",
    "events", "requests", "requests_by_time", "seals", "unsealed", "meta",
)  # fmt: skip

MAP_BYTES: Final = 1 << 42
"""Size of the sparse map (4 TiB): far beyond any real index, so that a put never fails for want of map."""

READERS_MAX: Final = 510
GROWTH_BYTES: Final = 1 << 29
"""More than the pages one transaction may hold dirty (LMDB spills at 131,072 pages)."""

_META_MAGIC: Final = 0xBEEFC0DE
_META = struct.Struct("<IIQQ")
_LAST_PAGE_OFFSET: Final = 24 + 2 * 48
_LMDB_HEADER_BYTES: Final = 16
_READER_LINE = re.compile(r"^\s*\d+\s+\S+\s+(\d+)\s*$", re.MULTILINE)

Cursor = Any
"""An lmdb.Cursor (the library has no type hints)."""


class Reading(Protocol):
    """What can be read: the open transaction, or a consistent state of the past."""

    def get(self, table: str, key: bytes) -> bytes | None: ...
    def cursor(self, table: str) -> Cursor: ...


def items(source: Reading, table: str, prefix: bytes = b"", start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
    """(key, payload) of all keys with the prefix, from prefix + start on.  Not across a commit or mutation."""
    cursor = source.cursor(table)
    found = cursor.set_range(prefix + start) if prefix or start else cursor.first()
    while found:
        key, value = cursor.item()
        if not key.startswith(prefix):
            return
        yield key, records.unseal(key, value)
        found = cursor.next()


def items_backward(
    source: Reading, table: str, prefix: bytes = b"", before: bytes | None = None
) -> Iterator[tuple[bytes, bytes]]:
    """As ``items`` in descending order, from the greatest key that is less than prefix + before on (None: from the
    greatest with the prefix)."""
    cursor = source.cursor(table)
    stop = _after(prefix) if before is None else prefix + before
    found = cursor.prev() if stop and cursor.set_range(stop) else cursor.last()
    while found:
        key, value = cursor.item()
        if not key.startswith(prefix):
            return
        yield key, records.unseal(key, value)
        found = cursor.prev()


def _after(prefix: bytes) -> bytes:
    """The least key that is greater than all with the prefix; empty if there is none."""
    kept = prefix.rstrip(b"\xff")
    return kept[:-1] + bytes([kept[-1] + 1]) if kept else b""


class Reader:
    """A consistent state: that of the last commit when it was made.  Close it soon: it keeps space from reuse."""

    def __init__(self, env: Any, tables: dict[str, Any]) -> None:
        self._tables = tables
        self._txn = env.begin(write=False)

    def get(self, table: str, key: bytes) -> bytes | None:
        value = self._txn.get(key, db=self._tables[table])
        return None if value is None else records.unseal(key, value)

    def cursor(self, table: str) -> Cursor:
        return self._txn.cursor(db=self._tables[table])

    def stat(self, table: str) -> int:
        """Entries in the table."""
        return int(self._txn.stat(self._tables[table])["entries"])

    def close(self) -> None:
        self._txn.abort()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class _Ended:
    """In place of a transaction that LMDB dropped with a failed commit: every use fails as the index does."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def abort(self) -> None:
        """Nothing is left to abort."""

    def __getattr__(self, name: str) -> Any:
        self._index.check()
        raise AttributeError(name)


class Index:
    """The open index of a store."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        """Raises:
        Corrupt: the file is truncated or LMDB refuses it.
        """
        if not create:
            check_file(path / "data.mdb")
        try:
            self._env = lmdb.open(
                os.fsencode(path), map_size=MAP_BYTES, max_dbs=len(TABLES), max_readers=READERS_MAX,
                mode=0o600, create=create, subdir=True, readahead=False,
            )  # fmt: skip
            self._tables = {name: self._env.open_db(name.encode(), create=create) for name in TABLES}
        except lmdb.Error as error:
            raise Corrupt(f"{path}: the index cannot be opened ({error})", hint="run: snap fsck") from error
        self._file = path / "data.mdb"
        self._file_bytes = 0
        self._txn: Any = None
        self._failed: SnapfsError | None = None
        self.dirty = False
        self.puts = 0
        """Since the last commit, a long one counted by its pages: bounds what the commit will write."""
        self.before_commit: list[Callable[[], None]] = []
        self.after_commit: list[Callable[[], None]] = []
        """After any end of a transaction, also one that was not published: its cursors are dead."""
        self.after_publish: list[Callable[[], None]] = []
        """After a commit: what it published is durable."""
        self.after_failure: list[Callable[[], None]] = []
        """Once, when the index stops to take changes."""
        self._begin()

    def _begin(self) -> None:
        self._txn = self._env.begin(write=True)
        self.dirty = False
        self.puts = 0

    @property
    def txn_number(self) -> int:
        """Number that the open transaction will have when it commits."""
        return int(self._txn.id())

    def check(self) -> None:
        """Raises:
        IOFailure: an earlier commit failed.
        """
        if self._failed is not None:
            raise self._failed

    def fail(self, error: SnapfsError) -> SnapfsError:
        """Take no more changes: what was acknowledged cannot be made durable.  Returns what to raise from now on."""
        if self._failed is None:
            self._failed = IOFailure(
                f"the store takes no more changes: {error.message}",
                hint="mend the disk, then unmount and mount again; run: snap fsck",
            )
            for hook in self.after_failure:
                hook()
        return self._failed

    @property
    def failure(self) -> SnapfsError | None:
        """Why the index takes no more changes; None while it does."""
        return self._failed

    def get(self, table: str, key: bytes) -> bytes | None:
        value = self._txn.get(key, db=self._tables[table])
        return None if value is None else records.unseal(key, value)

    def put(self, table: str, key: bytes, payload: bytes) -> None:
        self.dirty = True
        self.puts += _pages(payload)
        self._txn.put(key, records.seal(key, payload), db=self._tables[table])

    def put_new(self, table: str, key: bytes, payload: bytes) -> bool:
        """Put unless the key exists; whether it did not."""
        self.dirty = True
        self.puts += _pages(payload)
        return bool(self._txn.put(key, records.seal(key, payload), db=self._tables[table], overwrite=False))

    def delete(self, table: str, key: bytes) -> bool:
        """Whether the key was there."""
        self.dirty = True
        self.puts += 1
        return bool(self._txn.delete(key, db=self._tables[table]))

    def cursor(self, table: str) -> Cursor:
        """Valid until the next commit."""
        return self._txn.cursor(db=self._tables[table])

    def count(self, table: str) -> int:
        """Entries in the table; as of the last commit when the index has failed."""
        if self._failed is None:
            return int(self._txn.stat(self._tables[table])["entries"])
        with Reader(self._env, self._tables) as reader:
            return reader.stat(table)

    def reader(self) -> Reader:
        self.check()
        return Reader(self._env, self._tables)

    def commit(self) -> None:
        """Publish, durably.

        Raises:
            IOFailure, NoSpace: the disk refused; the index takes no more writes until it is opened anew.
        """
        self.check()
        try:
            for hook in self.before_commit:
                hook()
        except IOFailure as error:  # a sync that failed once must not be tried again as if nothing had happened
            raise self.fail(error) from error
        if not self.dirty:
            return
        try:
            self._grow_file()
            self._txn.commit()
            self._begin()
        except (lmdb.Error, OSError) as error:
            self._txn = _Ended(self)  # nothing of it is published
            for hook in self.after_commit:
                hook()
            raise self.fail(IOFailure(f"the index could not be committed ({error})")) from error
        for hook in (*self.after_commit, *self.after_publish):
            hook()

    def _grow_file(self) -> None:
        """Keep the (sparse) file ahead of LMDB's last page.

        LMDB counts pages that a transaction took and gave back without writing them, so its file may end
        before its own last page; then a truncated file could not be told from a sound one.
        """
        needed = self.used_bytes() + GROWTH_BYTES
        if self._file_bytes < needed:
            self._file_bytes = max(self._file.stat().st_size, needed + GROWTH_BYTES)
            os.truncate(self._file, self._file_bytes)

    def oldest_reader(self) -> int | None:
        """Transaction that the oldest open reader of any process sees; None without readers."""
        self._env.reader_check()
        numbers = [int(n) for n in _READER_LINE.findall(self._env.readers())]
        return min(numbers, default=None)

    def used_bytes(self) -> int:
        info = self._env.info()
        return (int(info["last_pgno"]) + 1) * int(self._env.stat()["psize"])

    def close(self) -> None:
        """Drops what is not committed."""
        if self._txn is not None:
            self._txn.abort()
            self._txn = None
        self._env.close()


def _pages(payload: bytes) -> int:
    """That putting it dirties, about (LMDB keeps a long value in pages of its own)."""
    return 1 + len(payload) // PAGE_BYTES


def check_file(path: Path) -> None:
    """Refuse a data file that ends before LMDB's own last page: mapping it would be a SIGBUS later.

    Raises:
        Corrupt: truncated, or not a data file of LMDB 0.9.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            first = file.read(4096)
            page_bytes = 0
            last_page = -1
            if len(first) >= _LMDB_HEADER_BYTES + _LAST_PAGE_OFFSET + 16:
                page_bytes = struct.unpack_from("<I", first, _LMDB_HEADER_BYTES + 24)[0]
            if page_bytes in (4096, 8192, 16384, 32768, 65536):
                for number in (0, 1):
                    file.seek(number * page_bytes + _LMDB_HEADER_BYTES)
                    meta = file.read(_LAST_PAGE_OFFSET + 16)
                    if len(meta) == _LAST_PAGE_OFFSET + 16 and _META.unpack_from(meta)[0] == _META_MAGIC:
                        last_page = max(last_page, struct.unpack_from("<Q", meta, _LAST_PAGE_OFFSET)[0])
    except FileNotFoundError as error:
        raise Corrupt(f"{path}: the index is missing", hint="restore the store's directory") from error
    if last_page < 0:
        raise Corrupt(f"{path}: not an index that this snapfs can read")
    if size < (last_page + 1) * page_bytes:
        raise Corrupt(
            f"{path}: truncated ({size} bytes of at least {(last_page + 1) * page_bytes})",
            hint="restore the file from a copy",
        )
