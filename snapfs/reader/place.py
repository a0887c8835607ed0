"""A store as this process reads it: short looks at its index, and its segment files.

Invariants:
  * One ``Place`` for a store in a process, whoever uses it: LMDB must not have a file open twice.
  * One look at a time, under ``lock``; so changes all that threads share.  Nobody holds it when the process forks.
  * A look is short (no file is read in it): it keeps no space from reuse.
  * After a look nothing keeps blocks where they were: who reads them finds by their hash whether they are still there,
    and looks again if not.
  * Files of segments that were dropped are let go within IN_PLACE_SECONDS, or with the next look.
  * The index is closed while the process forks: neither parent nor child uses what the other has open.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from snapfs.errors import NotFound, Stale
from snapfs.store import layout
from snapfs.store.disk import from_os, open_file
from snapfs.store.foreign import ForeignIndex, Identity
from snapfs.store.reading import Reader
from snapfs.types import SegmentId

OPEN_FILES_MAX: Final = 64
"""Segments open at a time: others in the process need descriptors, too."""

IN_PLACE_SECONDS: Final = 0.1
"""How often it is looked whether files were replaced or dropped: a stat(2) costs more than the look itself."""

T = TypeVar("T")
Moment = tuple[int, int]
"""(which index, which commit): what is read is the same as long as it is."""


class SegmentFile:
    """A descriptor that closes when the last user, perhaps another thread, lets go of it."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)


class Place:
    """Get it by ``at``."""

    def __init__(self, path: Path, trusted: Identity | None) -> None:
        self.path = path
        self.uuid = layout.read_marker(path).uuid
        self.lock = threading.RLock()
        self._trusted = trusted
        self._index: ForeignIndex | None = None
        self._opened = 0
        self._in_place_until = 0.0
        self._files: OrderedDict[SegmentId, SegmentFile] = OrderedDict()

    @property
    def seed(self) -> int:
        """Of the hashes of names."""
        return int.from_bytes(bytes.fromhex(self.uuid.replace("-", ""))[:8], "little")

    @property
    def trusted(self) -> Identity | None:
        """The index that was looked over, for whoever opens the store after us."""
        return self._trusted

    def look(self, act: Callable[[Reader, Moment], T]) -> T:
        """What ``act`` makes of the last commit.  It does not wait for anything.

        Raises:
            Stale: another store is in the place of this one.
            Corrupt, NotPermitted, Busy, IOFailure, Unavailable: the index cannot be opened.
        """
        with self.lock:
            index = self._index
            if index is None or (time.monotonic() > self._in_place_until and not self._is_in_place(index)):
                index = self._open()
            with index.reader() as reader:
                return act(reader, (self._opened, reader.number))

    def doubt(self) -> None:
        """Something is not where the index says: look whether it is still the store's."""
        self._in_place_until = 0.0

    def _is_in_place(self, index: ForeignIndex) -> bool:
        self._in_place_until = time.monotonic() + IN_PLACE_SECONDS
        for segment, file in list(self._files.items()):
            if os.fstat(file.fd).st_nlink == 0:  # dropped; as long as it is open it takes its space
                del self._files[segment]
        return index.in_place()

    def _open(self) -> ForeignIndex:
        self._close()
        if layout.read_marker(self.path).uuid != self.uuid:
            raise Stale(f"{self.path}: another store is in its place")
        index = ForeignIndex(self.path, trusted=self._trusted)
        self._opened += 1
        self._index, self._trusted = index, index.identity
        self._in_place_until = time.monotonic() + IN_PLACE_SECONDS
        return index

    def _close(self) -> None:
        if self._index is not None:
            self._index.close()
            self._index = None

    def __del__(self) -> None:
        if hasattr(self, "_index"):
            self._close()

    # -- segments

    def file(self, segment: SegmentId) -> SegmentFile:
        """Raises:
        NotFound: it was dropped.
        IOFailure, NotPermitted, Unavailable: it cannot be opened.
        """
        file = self._files.get(segment)
        if file is not None:
            return file
        with self.lock:
            file = self._files.get(segment)
            if file is None:
                path = self.path / layout.SEGMENTS / f"{segment:016d}.seg"
                try:
                    file = SegmentFile(open_file(path, os.O_RDONLY))
                except FileNotFoundError:
                    raise NotFound(f"segment {segment} does not exist") from None
                except OSError as error:
                    raise from_os(error, str(path)) from error
                self._files[segment] = file
                while len(self._files) > OPEN_FILES_MAX:
                    self._files.popitem(last=False)
            return file

    def forget_file(self, segment: SegmentId) -> None:
        """What was opened may not be the segment any more."""
        with self.lock:
            self._files.pop(segment, None)

    # -- forks

    def before_fork(self) -> None:
        self.lock.acquire()
        self._close()

    def after_fork(self) -> None:
        self.lock.release()


_places: weakref.WeakValueDictionary[tuple[int, int], Place] = weakref.WeakValueDictionary()
_places_lock = threading.RLock()
_forking: list[Place] = []


def at(store: Path, trusted: Identity | None = None) -> Place:
    """The place of a store in this process.

    Args:
        trusted: an index that another process has looked over already.

    Raises:
        NotFound, Invalid, NotPermitted, Unsupported, Corrupt: there is no store that can be read.
    """
    store = store.absolute()
    with _places_lock:
        try:
            found = store.stat()
        except OSError:
            return Place(store, trusted)  # which says why not
        key = (found.st_dev, found.st_ino)
        place = _places.get(key)
        if place is None:
            place = _places[key] = Place(store, trusted)
        return place


def _before_fork() -> None:
    _places_lock.acquire()
    _forking.extend(_places.values())
    for place in _forking:
        place.before_fork()


def _after_fork() -> None:
    while _forking:
        _forking.pop().after_fork()
    _places_lock.release()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
