"""The index: LMDB's tables behind one write transaction that stays open (the only importer of lmdb).

Invariants:
  * All reads and writes of the running file system go through the open transaction, on one thread: there is
    no second cache of dirty metadata.  ``commit`` is the only publish point; ``reader`` sees the last commit.
  * Counters and whatever else lives in memory between commits is written by ``before_commit`` hooks.
  * A commit or a sync that fails poisons the index: what was acknowledged since the last commit is gone, and nothing
    more may be acknowledged on top of that.  Reads then show what is durable (the last commit, with the records of the
    log on top), as they will when it is opened anew.
  * Whatever changes a table notes it for the redo log (``_changed``), or takes the note away: then nothing but a
    commit makes it durable.  Who changes one by a cursor leaves it as it was in the end (``store.ordering``).
  * Opening an index to write first commits what the log has on top of the last commit.
  * LMDB trusts the file that it maps (a truncated one is a SIGBUS), so the file is looked at first (``store.verify``):
    its size and meta pages always, all its pages if they are few; others by a child process, beside the mount.
  * What LMDB finds wrong with the file is ``Corrupt``, never an error of its own.

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
  places      segment || offset -> block                                where each block's record is
  segments    segment -> end, live bytes
  emptied     LMDB txn || segment -> nothing                            whose blocks were moved elsewhere in it
  accounts    number -> Account                                         bytes by which views show them
  account_ids digest of an account's elements -> number
  aliases     epoch -> epoch                                            where versions of an epoch that left went
  unaccounted epoch || inode || kind || fork || offset -> nothing       extents that the epoch hides, to be accounted
  trash       deleted_ns || epoch or volume -> nothing                  what can still be taken back, oldest first
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

import contextlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import lmdb

from snapfs.errors import Corrupt, IOFailure, NoSpace, SnapfsError
from snapfs.format.records import seal, seal_nothing, unseal
from snapfs.store import redo, verify
from snapfs.store.copying import copy_index
from snapfs.store.disk import Disk
from snapfs.store.environment import MAP_BYTES as MAP_BYTES
from snapfs.store.environment import READERS_MAX as READERS_MAX
from snapfs.store.environment import TABLES as TABLES
from snapfs.store.environment import open_environment, prefetch
from snapfs.store.reading import Cursor as Cursor
from snapfs.store.reading import EngineError as EngineError
from snapfs.store.reading import Reader as Reader
from snapfs.store.reading import Reading as Reading
from snapfs.store.reading import damaged as damaged
from snapfs.store.reading import items as items
from snapfs.store.reading import items_backward as items_backward
from snapfs.store.resident import Map
from snapfs.store.room import Room
from snapfs.types import PAGE_BYTES

VERIFY_PAGES_MAX: Final = 2048
"""An index of so few pages (8 MiB) is verified whole before it is used: at most about 0.2 s."""

LOOK_PUTS: Final = 512
"""After so many it is looked how much is mapped: of one step that puts, or deletes, thousands of records each may map
64 KiB more."""

_READER_LINE = re.compile(r"^\s*\d+\s+\S+\s+(\d+)\s*$", re.MULTILINE)


class _Ended:
    """In place of a transaction, when not even one that reads can begin: every use fails as the index does."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def abort(self) -> None:
        """Nothing is left to abort."""

    def __getattr__(self, name: str) -> Any:
        self._index.check()
        raise AttributeError(name)


class Index:
    """The open index of a store."""

    def __init__(
        self, path: Path, *, create: bool = False, disk: Disk | None = None, redo_bytes_max: int = redo.LOG_BYTES_MAX
    ) -> None:  # fmt: skip
        """Raises:
        Corrupt: the file is damaged or missing.
        NotPermitted, IOFailure: it cannot be opened, which says nothing of it.
        """
        self._disk = disk or Disk()
        self._file = path / verify.DATA_FILE
        self.verified = create or verify.check_file(self._file) <= VERIFY_PAGES_MAX
        """Whether all its pages were looked at before it was mapped."""
        if self.verified and not create:
            verify.check_structure(self._file)
        self._env, self._tables = open_environment(path, create=create)
        self.map = Map(self._file)
        used_bytes = self.used_bytes()
        if not self.verified and prefetch(self._disk, self._file, used_bytes):  # else it was read just now
            self.map.populate(used_bytes)
        self._witness = path / verify.WITNESS
        self._room = Room(self._disk, self._file)
        self._txn: Any = None
        self._writers: dict[str, Cursor] = {}
        """Of the open transaction, by table: a put by a cursor takes a third of one by the transaction, which opens and
        closes one."""
        self._failed: SnapfsError | None = None
        self.dirty = False
        self.puts = 0
        """Since the last commit, a long one counted by its pages: bounds what the commit will write."""
        self._look_at = LOOK_PUTS
        """As many puts: then it is looked how much is mapped."""
        self.before_commit: list[Callable[[], None]] = []
        self.after_commit: list[Callable[[], None]] = []
        """After any end of a transaction, also one that was not published: its cursors are dead."""
        self.after_publish: list[Callable[[], None]] = []
        """After a commit: what it published is durable."""
        self.after_failure: list[Callable[[], None]] = []
        """Once, when the index stops to take changes; it shows again what is durable."""
        self.before_publish: list[Callable[[], None]] = []
        """What else a commit needs that a record of the log does not."""
        self.redo = redo.Redo(self._disk, path.parent / redo.FILE, redo_bytes_max)
        self._begin()
        if not create:
            try:
                self._carry_on()
            except BaseException:
                self.close()
                raise

    def _begin(self) -> None:
        self._txn = self._env.begin(write=True)
        self._writers = {}
        self.dirty = False
        self.puts = 0
        self._look_at = LOOK_PUTS
        self.redo.begin(self._name())

    def _name(self) -> bytes:
        """Of the last commit; none where that cannot be read."""
        with contextlib.suppress(Corrupt):
            return self.get("meta", redo.NAME) or b""
        return b""

    def _carry_on(self) -> None:
        """Commit what the log has beyond the last commit.

        Raises:
            NoSpace, IOFailure: the disk refused; it can be tried again.
        """
        segments = self.path.parent / "segments"
        for record in self.redo.records():
            redo.restore(self._disk, segments, record.pieces)
            self._apply(record.puts)
            self.dirty = True
            self.puts += len(record.puts)
        self.redo.pending = None  # unless this commits: behind the first record may be others of this name, of an index
        self.commit()  # that was put back from a copy since

    def _apply(self, puts: list[redo.Put]) -> None:
        try:
            for table, key, payload in puts:
                if payload is None:
                    self._txn.delete(key, db=self._tables[table])
                else:
                    self._txn.put(key, seal(key, payload), db=self._tables[table])
        except lmdb.Error as error:
            raise damaged(error) from error

    @property
    def path(self) -> Path:
        """Its directory."""
        return self._file.parent

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
            self._fall_back()
            for hook in (*self.after_commit, *self.after_failure):
                hook()
        return self._failed

    def _fall_back(self) -> None:
        """Drop the open transaction; from now on read what is durable."""
        with contextlib.suppress(lmdb.Error):
            self._txn.abort()
        try:
            self._txn = self._env.begin(write=bool(self.redo.written))
            if self._name() == self.redo.name:
                self._apply(self.redo.written)
        except (lmdb.Error, SnapfsError):
            self._txn = _Ended(self)
        self.dirty = False

    @property
    def failure(self) -> SnapfsError | None:
        """Why the index takes no more changes; None while it does."""
        return self._failed

    def get(self, table: str, key: bytes) -> bytes | None:
        try:
            value = self._txn.get(key, None, self._tables[table])
        except lmdb.Error as error:
            raise damaged(error) from error
        return None if value is None else unseal(key, value)

    def _writer(self, table: str) -> Cursor:
        cursor = self._writers[table] = self._txn.cursor(db=self._tables[table])
        return cursor

    # Every change of the file system passes here several times: no calls that can be done without.

    def _changed(self, table: str, key: bytes, payload: bytes | None) -> None:
        """A record was put, or (None) deleted."""
        puts = self.puts + (1 + len(payload) // PAGE_BYTES if payload else 1)  # a long one has pages of its own
        self.puts = puts
        if (pending := self.redo.pending) is not None:
            pending.append((table, key, payload))
        if puts >= self._look_at:
            self._look_at = puts + LOOK_PUTS
            self.map.bound()

    def put(self, table: str, key: bytes, payload: bytes) -> None:
        if self._failed is not None:
            raise self._failed
        self.dirty = True
        try:
            (self._writers.get(table) or self._writer(table)).put(key, seal(key, payload))
        except lmdb.Error as error:  # the transaction cannot be committed any more
            raise self.fail(damaged(error)) from error
        self._changed(table, key, payload)

    def put_unreadable(self, table: str, key: bytes) -> None:
        """Note that there was a record here, which is lost: whoever reads it is told that it is damaged."""
        self.check()
        self.dirty = True
        self.puts += 1
        self.redo.pending = None
        self._txn.put(key, b"", db=self._tables[table])

    def put_new(self, table: str, key: bytes, payload: bytes, listed: str = "", entry: bytes = b"") -> bool:
        """Put unless the key exists; whether it did not.  Then the entry, without a payload, is put in table
        ``listed``, too."""
        if self._failed is not None:
            raise self._failed
        self.dirty = True
        try:
            added: bool = (self._writers.get(table) or self._writer(table)).put(key, seal(key, payload), True, False)
            if added and listed:
                (self._writers.get(listed) or self._writer(listed)).put(entry, seal_nothing(entry))
        except lmdb.Error as error:
            raise self.fail(damaged(error)) from error
        if added:
            self._changed(table, key, payload)
            if listed:
                self._changed(listed, entry, b"")
        return added

    def delete(self, table: str, key: bytes, listed: str = "", entry: bytes = b"") -> bool:
        """Whether the key was there.  The entry goes from table ``listed``, too, if one is named."""
        if self._failed is not None:
            raise self._failed
        self.dirty = True
        try:
            cursor = self._writers.get(table) or self._writer(table)
            deleted: bool = cursor.set_key(key) and cursor.delete()
            if listed:
                cursor = self._writers.get(listed) or self._writer(listed)
                if cursor.set_key(entry):
                    cursor.delete()
        except lmdb.Error as error:
            raise self.fail(damaged(error)) from error
        self._changed(table, key, None)
        if listed:
            self._changed(listed, entry, None)
        return deleted

    def cursor(self, table: str) -> Cursor:
        """Valid until the next commit."""
        return self._txn.cursor(db=self._tables[table])

    def count(self, table: str) -> int:
        """Entries in the table."""
        return int(self._txn.stat(self._tables[table])["entries"])

    def reader(self) -> Reader:
        self.check()
        return Reader(self._env, self._tables)

    def record(self, pieces: list[redo.Piece]) -> Callable[[], bool] | None:
        """What changed since the last record or commit, for the log, with bytes of segments that are not synced.  As
        ``Redo.take``."""
        self.check()
        self._call(self.before_commit)
        return self.redo.take(pieces) if self.reserve() else None

    def _call(self, hooks: list[Callable[[], None]]) -> None:
        try:
            for hook in hooks:
                hook()
        except IOFailure as error:  # a sync that failed once must not be tried again as if nothing had happened
            raise self.fail(error) from error

    def commit(self) -> None:
        """Publish, durably.

        Raises:
            NoSpace: the disk has no room for it.  Nothing is lost: it can be tried again.
            IOFailure: the disk refused; the index takes no more writes until it is opened anew.
        """
        self.check()
        self._call([*self.before_commit, *self.before_publish])
        if not self.dirty:
            return
        if not self.reserve() and not self._room.is_enough(self.used_bytes(), self.puts):
            raise NoSpace(
                "the index cannot be committed: the disk is full", hint="free space there; nothing is lost yet"
            )
        try:
            self.put("meta", redo.NAME, redo.new_name())
            self._room.grow(self.used_bytes())
            self._disk.perform("index.commit", self._txn.commit)
            self._begin()
        except (lmdb.Error, OSError, SnapfsError) as error:
            raise self.fail(IOFailure(f"the index could not be committed ({error})")) from error
        self._note()
        self._room.trim(self.used_bytes())
        for hook in (*self.after_commit, *self.after_publish):
            hook()

    def _note(self) -> None:
        """Say beside the file what its last commit is.  Not synced, and a disk that refuses changes nothing: what is
        noted is behind then."""
        content = verify.witness(int(self._env.info()["last_txnid"]))
        with contextlib.suppress(SnapfsError):
            fd = self._disk.open("index.note", self._witness, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW)
            try:
                self._disk.pwrite("index.note", fd, [content], 0)
            finally:
                os.close(fd)

    def reserve(self) -> bool:
        """As ``Room.reserve``, for the next commit."""
        return self._room.reserve(self.used_bytes(), self.puts)

    def oldest_reader(self) -> int | None:
        """Transaction that the oldest open reader of any process sees; None without readers."""
        self._env.reader_check()
        numbers = [int(n) for n in _READER_LINE.findall(self._env.readers())]
        return min(numbers, default=None)

    def used_bytes(self) -> int:
        info = self._env.info()
        return (int(info["last_pgno"]) + 1) * int(self._env.stat()["psize"])

    def filling(self) -> tuple[int, int]:
        """(bytes of pages that hold something, bytes of all pages) of the file."""
        page_bytes = int(self._env.stat()["psize"])
        stats = [self._txn.stat(table) for table in self._tables.values()]
        pages = sum(stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"] for stat in stats)
        return pages * page_bytes, self.used_bytes()

    def copy(self, directory: Path) -> None:
        """The last commit, durably, as an index in an empty directory whose pages are full: LMDB leaves each half empty
        where keys come in order.  What waits for one of our transactions waits for none there.  Worker thread.

        Raises:
            IOFailure: it cannot be written there.
        """
        copy_index(self._env, self._tables, directory)

    def exchange(self, act: Callable[[], bool]) -> bool:
        """Go on with the same records in another file, if ``act`` put one in the place.  The transaction holds nothing.

        Raises:
            IOFailure: the index takes no more changes.
        """
        self.check()
        self._txn.abort()
        self._env.close()
        try:
            done = act()
            self._env, self._tables = open_environment(self.path)
            self._begin()
        except SnapfsError as error:
            with contextlib.suppress(SnapfsError):
                self._env, self._tables = open_environment(self.path)
            raise self.fail(error) from error
        self._room = Room(self._disk, self._file)
        self.redo.pending = None  # the copy bears the same name: the next one is another's
        with contextlib.suppress(SnapfsError):
            self.reserve()
        for hook in self.after_commit:
            hook()
        return done

    def close(self) -> None:
        """Drops what is not committed."""
        if self._txn is not None:
            self._txn.abort()
            self._txn = None
        self._env.close()
        self.redo.close()
        self.map.close()
