"""The index of a store as processes read it that do not write to it: beside a daemon, or without one.

Invariants:
  * What is read is one commit, kept by a place in LMDB's table of readers for as long as a ``Reader`` is open: that
    keeps space from reuse, so it is closed at once.
  * The file may be replaced by a smaller copy (``store.shrinking``), or a repaired one: ``in_place`` tells.  Nothing
    is written any more to a file that was replaced, so what is read there is an old commit, whole; but nobody knows of
    who reads it, and what it says of segments may be out of date.
  * A process has a file open once: LMDB's locks are the process's, and closing one of two would drop those of both.
  * Nothing of it crosses a fork (``close`` before).
  * Where the file system is read-only nobody can say that he reads.  So nobody may write then: the writer's lock is
    shared for as long as it is open.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path
from typing import Any, Final

import lmdb

from snapfs.errors import Busy, Corrupt, IOFailure, NotPermitted, Unavailable
from snapfs.store import hidden, layout, verify
from snapfs.store.disk import from_os, open_file
from snapfs.store.index import MAP_BYTES, READERS_MAX, TABLES, VERIFY_PAGES_MAX
from snapfs.store.reading import Reader

Identity = tuple[int, int]
"""(device, inode) of the file."""

_TRIES: Final = 20
_TRY_SECONDS: Final = 0.005
"""Between two tries to open what somebody replaces, or commits to, at that moment."""
_QUIET_TRIES: Final = 2
"""Where nobody writes: somebody may just have begun."""


class ForeignIndex:
    """
    Attributes:
        identity: of the file that is open.
    """

    def __init__(self, store: Path, *, trusted: Identity | None = None) -> None:
        """
        Args:
            trusted: a file that needs no looking over: whoever says so has done it.

        Raises:
            Corrupt: it is damaged or missing.
            NotPermitted: it is another user's.
            Busy: it cannot be read safely, as a process writes to it and the file system is read-only here.
            IOFailure, Unavailable: it cannot be opened, which says nothing of it.
        """
        self._file = store / layout.INDEX / verify.DATA_FILE
        self._shared_fd = _share(store)
        try:
            for number in range(_TRIES):
                try:
                    self._open(store, trusted)
                    return
                except Corrupt:  # or it was looked at between two writes of a commit, or replaced meanwhile
                    if number == _TRIES - 1 or (number >= _QUIET_TRIES and not _is_written(store)):
                        raise
                    time.sleep(_TRY_SECONDS)
        except BaseException:
            self._unshare()
            raise

    def _open(self, store: Path, trusted: Identity | None) -> None:
        pages = verify.check_file(self._file)
        self.identity = _identity(self._file)
        look_over = pages <= VERIFY_PAGES_MAX and self.identity != trusted and not _is_written(store)
        if look_over:
            verify.check_structure(self._file)
        self._env, self._tables = _open(self._file.parent)
        try:
            if not self.in_place():
                raise Corrupt(f"{self._file}: the index is replaced again and again")
            if look_over:
                with self.reader() as reader:
                    found = hidden.hidden(reader)
                if found:
                    raise Corrupt(f"{self._file}: the index is damaged ({found[0]})", hint=verify.HINT)
        except BaseException:
            self._env.close()
            raise

    def in_place(self) -> bool:
        """Whether the file that is open is still the store's index."""
        try:
            return _identity(self._file) == self.identity
        except Corrupt:
            return False

    def reader(self) -> Reader:
        """The last commit.  Close it at once.

        Raises:
            Unavailable: too many read at this moment.
        """
        for _ in range(_TRIES):
            with contextlib.suppress(Unavailable):
                return Reader(self._env, self._tables)
            self._env.reader_check()
            time.sleep(_TRY_SECONDS)
        return Reader(self._env, self._tables)

    def close(self) -> None:
        """No ``Reader`` is open."""
        self._env.close()
        self._unshare()

    def _unshare(self) -> None:
        if self._shared_fd >= 0:
            os.close(self._shared_fd)
            self._shared_fd = -1


def _identity(file: Path) -> Identity:
    try:
        found = os.stat(file)
    except OSError as error:
        raise Corrupt(f"{file}: the index is missing", hint=verify.HINT) from error
    return found.st_dev, found.st_ino


def _is_written(store: Path) -> bool:
    """Whether a process has the store open to write: it has looked the index over, and looking at a file that changes
    would find damage where there is none."""
    holder = layout.read_holder(store)
    if holder is None:
        return False
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:  # it is dead, or in another container
        return _is_locked(store)
    except OSError:
        return True
    return True


def _is_locked(store: Path) -> bool:
    try:
        fd = open_file(store / layout.LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def _share(store: Path) -> int:
    """A descriptor that keeps writers away, on a read-only file system; -1 on others.

    Raises:
        Busy: somebody writes.
    """
    try:
        if not os.statvfs(store).f_flag & os.ST_RDONLY:
            return -1
        fd = open_file(store / layout.LOCK, os.O_RDONLY)
    except FileNotFoundError:  # nobody ever wrote
        return -1
    except OSError as error:
        raise from_os(error, str(store)) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        raise Busy(
            f"{store}: a process writes to the store, and its file system is read-only here",
            hint="readers must be able to write to index/lock.mdb, so that the writer knows of them",
        ) from error
    return fd


def _open(path: Path) -> tuple[Any, dict[str, Any]]:
    """LMDB's environment and its tables.  Raises as ``ForeignIndex``."""
    try:
        env = lmdb.open(
            os.fsencode(path), map_size=MAP_BYTES, max_dbs=len(TABLES), max_readers=READERS_MAX, mode=0o600,
            create=False, subdir=True, readahead=False, readonly=True,
        )  # fmt: skip
    except (lmdb.ReadonlyError, lmdb.LockError) as error:
        raise NotPermitted(
            f"{path}: the index cannot be opened ({error})", hint="who reads must be able to write to lock.mdb there"
        ) from error
    except (lmdb.CorruptedError, lmdb.InvalidError, lmdb.VersionMismatchError, lmdb.PanicError) as error:
        raise Corrupt(f"{path}: the index cannot be opened ({error})", hint=verify.HINT) from error
    except lmdb.Error as error:
        if "already open" in str(error):
            raise Busy(f"{path}: this process has the store open already", hint="read it through that") from error
        raise IOFailure(f"{path}: the index cannot be opened ({error})") from error
    try:
        return env, {name: env.open_db(name.encode(), create=False) for name in TABLES}
    except lmdb.Error as error:
        env.close()
        raise Corrupt(f"{path}: the index cannot be opened ({error})", hint=verify.HINT) from error
