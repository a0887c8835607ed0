"""Import of a directory of the host into a head: what reads and packs in worker threads, and what changes the tree.

Invariants:
  * Worker threads list, read, cut, hash and compress, several at once; appending is one's at a time, between two
    flushes; the tree is changed on trio's thread, in steps of STEP_SECONDS, so that the mount goes on answering.
  * At most IN_FLIGHT_MAX parts of files are in memory, WINDOW_BYTES each, about.
  * Directories wait on a stack: what waits grows with the depth of the source, not with its size.
  * What the head has already, unchanged, is not read: so an import that was interrupted goes on when it is run again.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import trio

from snapfs import api
from snapfs.errors import SnapfsError
from snapfs.format.records import Inode
from snapfs.store.blocks import Placed
from snapfs.types import Ino
from snapfs.versions.epochs import View
from snapfs.volume.core import Core
from snapfs.volume.reduction.cutting import Chunk
from snapfs.volume.transfer import reading
from snapfs.volume.transfer.listing import Listed, list_some
from snapfs.volume.transfer.placing import IN_FLIGHT_MAX, Placing
from snapfs.volume.transfer.reading import CHANGING, SMALL_BYTES_MAX, TRIES_MAX, Content, Stream, read_all
from snapfs.volume.transfer.target import Target
from snapfs.volume.transfer.walk import Changed, Directory, Item, Listing, Source
from snapfs.volume.writeback import Writeback

STEP_SECONDS: Final = 0.001
BATCH_BYTES: Final = 1024 * 1024
BATCH_FILES_MAX: Final = 256
LISTED_TOGETHER_MAX: Final = 32
"""Small directories that one visit of a thread lists."""
FAILURES_TOLD_MAX: Final = 100
_ENTRIES_A_STEP: Final = 128
_DIRECTORIES_A_STEP: Final = 32
_WORKERS_MIN: Final = 3
_WORKERS_MAX: Final = 8

T = TypeVar("T")
Forbidden = Callable[[os.stat_result], str]
"""Why something must not be imported; empty if it may."""


class _Linked:
    """A file of the source with several names."""

    __slots__ = ("ino", "left", "waiting")

    def __init__(self, names: int) -> None:
        self.ino: Ino | None = None
        """In the head; None while it is being read."""
        self.waiting: list[tuple[Directory, bytes]] = []
        self.left = names
        """Names that were not met yet."""


class Import:
    """One import.

    Args:
        tell: makes the kernel forget what ``target`` touched.
        forbidden: looks at everything that is met.
        progress: is told how many bytes were read or found unchanged, from time to time.
    """

    def __init__(
        self,
        core: Core,
        writeback: Writeback,
        head: View,
        source: Source,
        target: Target,
        *,
        tell: Callable[[], Awaitable[None]],
        forbidden: Forbidden,
        progress: Callable[[int], None],
    ) -> None:
        self._source = source
        self._target = target
        self._tell = tell
        self._forbidden = forbidden
        self._progress = progress
        workers = max(_WORKERS_MIN, min(_WORKERS_MAX, os.cpu_count() or 1))
        self._workers = workers
        self._threads = trio.CapacityLimiter(workers)
        self._room = trio.Semaphore(IN_FLIGHT_MAX)
        self._jobs: list[Callable[[], Awaitable[None]]] = []
        self._directories: list[Directory | Listing] = []
        self._busy = 0
        self._changed = trio.Event()
        self._batch: list[Item] = []
        self._batch_bytes = 0
        self._links: dict[tuple[int, int], _Linked] = {}
        self._turn = trio.Lock()
        """Of whoever puts many files: between two steps, of whatever part, others on this thread have their turn."""
        self._placing = Placing(core, writeback, head, self._threads)
        self._failure: BaseException | None = None
        self.files = 0
        self.directories = 0
        self.unchanged = 0
        self.total_bytes = 0
        self.failures = 0
        self.failed: list[str] = []
        self._done_bytes = 0

    def report(self) -> api.ImportReport:
        return api.ImportReport(
            files=self.files, directories=self.directories, unchanged=self.unchanged, total_bytes=self.total_bytes,
            failed=sorted(self.failed), failures=self.failures,
        )  # fmt: skip

    def _fail(self, path: str, why: object) -> None:
        self.failures += 1
        if len(self.failed) < FAILURES_TOLD_MAX:
            self.failed.append(f"{path}: {why}")

    async def run(self, ino: Ino) -> None:
        """Import all of the source into that directory of the head.

        Raises:
            QuotaExceeded, NoSpace, IOFailure, Stale: what is there stays.
        """
        self._directories.append(self._source.directory(ino))
        async with trio.open_nursery() as nursery:
            for _ in range(self._workers):
                nursery.start_soon(self._work, nursery.cancel_scope)
        if self._failure is not None:
            raise self._failure
        self._progress(self._done_bytes)

    async def _thread(self, function: Callable[..., T], *args: object) -> T:
        return await trio.to_thread.run_sync(function, *args, limiter=self._threads)

    # -- who does what

    async def _work(self, scope: trio.CancelScope) -> None:
        while (job := await self._next()) is not None:
            self._busy += 1
            try:
                await job()
            except SnapfsError as error:
                self._failure = self._failure or error
                scope.cancel()
            finally:
                self._busy -= 1
                self._wake()
            self._progress(self._done_bytes)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _next(self) -> Callable[[], Awaitable[None]] | None:
        """What to do next; None when all is done."""
        while True:
            if self._jobs:
                return self._jobs.pop()
            if self._directories:
                chosen = self._directories[-LISTED_TOGETHER_MAX:]
                del self._directories[-LISTED_TOGETHER_MAX:]
                chosen.reverse()
                return lambda: self._list(chosen)
            if not self._busy:
                if not self._batch:
                    self._wake()
                    return None
                self._end_batch()
                continue
            await self._changed.wait()

    def _add(self, job: Callable[[], Awaitable[None]]) -> None:
        self._jobs.append(job)
        self._wake()

    # -- directories

    async def _list(self, chosen: list[Directory | Listing]) -> None:
        found, left = await self._thread(list_some, self._source, chosen)
        left.reverse()
        self._directories += left
        while found:  # the first last: it is to be entered next
            await self._plan(found.pop())

    async def _plan(self, listed: Listed) -> None:
        """Make a slice's directories, and choose what is to be read."""
        directory, target = listed.directory, self._target
        if listed.problem:
            self._fail(directory.path() or ".", listed.problem)
            return
        for name, error in listed.failed:
            self._fail(directory.path(name), error.strerror or error)
        if listed.stat is not None and (listed.xattrs or not directory.fresh):
            target.like(directory.ino, listed.stat, reading.mode_of(listed.stat, listed.xattrs))
            target.set_xattrs(directory.ino, listed.xattrs)
        known = target.check(directory)
        inner: list[tuple[bytes, os.stat_result]] = []
        for place, (name, found) in enumerate(listed.entries):
            why = self._forbidden(found)
            if why or (name == b".snap" and directory.ino == target.root):
                self._fail(directory.path(name), why or "a volume's root has a '.snap' already")
            elif stat.S_ISDIR(found.st_mode):
                inner.append((name, found))
            else:
                self._choose(directory, name, found, known)
            if place % _ENTRIES_A_STEP == _ENTRIES_A_STEP - 1:
                await trio.lowlevel.checkpoint()
                known = target.check(directory)
        if listed.listing is not None:
            self._directories.append(listed.listing)
        made: list[Directory] = []
        for start in range(0, len(inner), _DIRECTORIES_A_STEP):
            some, failed = target.make_directories(directory, inner[start : start + _DIRECTORIES_A_STEP])
            made += some
            for name, problem in failed:
                self._fail(directory.path(name), problem)
            await trio.lowlevel.checkpoint()
        self.directories += sum([child.fresh != 0 for child in made])
        made.reverse()
        self._directories += made
        self._wake()
        await self._tell()

    def _choose(self, directory: Directory, name: bytes, found: os.stat_result, known: bool) -> None:
        there = self._target.unchanged(directory, name, found)
        key = (found.st_dev, found.st_ino) if found.st_nlink > 1 else None
        if key is not None:
            linked = self._links.get(key)
            if linked is not None:
                self._further(key, linked, Item(directory, name, found), there, known)
                return
            linked = self._links[key] = _Linked(found.st_nlink - 1)
            linked.ino = there.ino if there is not None else None
        if there is not None:
            self._pass_over(found)
            return
        item = Item(directory, name, found, key)
        if stat.S_ISREG(found.st_mode) and found.st_size > SMALL_BYTES_MAX:
            self._add(lambda: self._stream(item))
            return
        self._batch.append(item)
        self._batch_bytes += found.st_size
        if self._batch_bytes >= BATCH_BYTES or len(self._batch) >= BATCH_FILES_MAX:
            self._end_batch()

    def _end_batch(self) -> None:
        batch, self._batch, self._batch_bytes = self._batch, [], 0
        self._add(lambda: self._read(batch))

    def _pass_over(self, found: os.stat_result) -> None:
        self.unchanged += 1
        self._done_bytes += found.st_size

    def _further(self, key: tuple[int, int], linked: _Linked, item: Item, there: Inode | None, known: bool) -> None:
        """A further name of a file that was met before."""
        linked.left -= 1
        if linked.ino is None:
            linked.waiting.append((item.directory, item.name))
            return
        if there is not None and there.ino == linked.ino:
            self._pass_over(item.stat)
        else:
            self._link(linked.ino, item.directory, item.name, known)
        if linked.left <= 0:
            del self._links[key]

    def _link(self, ino: Ino, directory: Directory, name: bytes, known: bool) -> None:
        if self._target.link(directory, name, ino, known=known):
            self.files += 1
        else:
            self._fail(directory.path(name), "a link to the file cannot be made: something is in its way")

    def _linked(self, item: Item, ino: Ino | None, problem: str = "") -> None:
        """A file is in the head (None: it is not), so its other names can be made."""
        linked = self._links.get(item.key) if item.key is not None else None
        if linked is None or item.key is None:
            return
        linked.ino = ino
        for directory, name in linked.waiting:
            if ino is None:
                self._fail(directory.path(name), problem)
            else:
                self._link(ino, directory, name, self._target.check(directory))
        linked.waiting.clear()
        if linked.left <= 0 or ino is None:
            del self._links[item.key]

    # -- files that are read at once

    async def _read(self, items: list[Item]) -> None:
        async with self._room:
            contents = await self._thread(read_all, self._source, items)
            chunks = [chunk for content in contents for chunk in content.chunks]
            async with self._placing.of(chunks) as placed:
                at = 0
                while at < len(contents):
                    async with self._turn:
                        at = self._put_some(contents, at, placed)
                        await self._tell()
                        await trio.lowlevel.checkpoint()
                    if at < len(contents) and not self._target.ready(contents[at].chunks, placed):
                        await self._placing.place(contents[at].chunks, placed)

    def _put_some(self, contents: list[Content], at: int, placed: dict[bytes, Placed]) -> int:
        """Put files into the head for a while, or up to one that is not ready; where to go on."""
        target = self._target
        end = time.perf_counter() + STEP_SECONDS
        checked: dict[Directory, bool] = {}
        while at < len(contents) and time.perf_counter() < end:
            content = contents[at]
            item = content.item
            if content.chunks and not target.ready(content.chunks, placed):
                break
            at += 1
            if content.problem:
                self._fail(item.path, content.problem)
            if content.missing:
                self._linked(item, None, content.problem)
                continue
            known = checked.get(item.directory)
            if known is None:
                known = checked[item.directory] = target.check(item.directory)
            self._stored(item, content, target.put(item.directory, item.name, content, placed, known=known))
        return at

    def _stored(self, item: Item, content: Content, ino: Ino | None) -> None:
        if ino is None:
            problem = "a directory is in its way"
            self._fail(item.path, problem)
            self._linked(item, None, problem)
            return
        self.files += 1
        self._done_bytes += content.size
        self.total_bytes += content.size if stat.S_ISREG(content.mode) else 0
        self._linked(item, ino)

    # -- large files

    async def _stream(self, item: Item) -> None:
        problem = CHANGING
        for left in reversed(range(TRIES_MAX)):
            try:
                stream = await self._thread(Stream, self._source, item)
                ino = self._target.begin(stream.stat)
                try:
                    await self._store(stream, ino)
                    changed = await self._thread(stream.changed)
                except BaseException:
                    self._target.abandon(ino)
                    raise
            except Changed:
                continue
            except OSError as error:
                problem = error.strerror or str(error)
                break
            if changed and left:
                self._target.abandon(ino)
                continue
            self._finish(item, stream, ino, changed)
            await self._tell()
            return
        self._fail(item.path, problem)
        self._linked(item, None, problem)

    def _finish(self, item: Item, stream: Stream, ino: Ino, changed: bool) -> None:
        size = stream.end if changed else stream.stat.st_size
        mode = reading.mode_of(stream.stat, stream.xattrs)
        content = Content(item, stream.stat, mode, size, xattrs=stream.xattrs)
        if changed:
            self._fail(item.path, CHANGING)
        known = self._target.check(item.directory)
        kept = self._target.finish(item.directory, item.name, ino, content, known=known)
        self._done_bytes -= size  # counted window by window
        self._stored(item, content, ino if kept else None)

    async def _store(self, stream: Stream, ino: Ino) -> None:
        """Read all of the file; while a part is packed and stored, the next is read."""
        failure: list[SnapfsError] = []

        async def store(chunks: list[Chunk], scope: trio.CancelScope) -> None:
            try:
                await self._store_part(chunks, ino)
            except SnapfsError as error:
                failure.append(error)
                scope.cancel()
            finally:
                self._room.release()

        problem: OSError | None = None
        async with trio.open_nursery() as nursery:
            while True:
                await self._room.acquire()
                try:
                    chunks = await self._thread(stream.window)
                except OSError as error:
                    problem, chunks = error, None
                if not chunks:
                    self._room.release()
                if chunks is None:
                    break
                if chunks:
                    nursery.start_soon(store, chunks, nursery.cancel_scope)
        if failure:
            raise failure[0]
        if problem is not None:
            raise problem

    async def _store_part(self, chunks: list[Chunk], ino: Ino) -> None:
        async with self._placing.of(chunks) as placed:
            while not self._target.ready(chunks, placed):
                await self._placing.place(chunks, placed)
            self._target.extend(ino, chunks, placed)
        self._done_bytes += sum([len(chunk.data) for chunk in chunks])
        self._progress(self._done_bytes)
        await trio.lowlevel.checkpoint()
