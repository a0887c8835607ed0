"""The audit log: every call that changed something or tried to, in ``STORE/audit/audit.jsonl``.

Invariants:

- Append-only: one JSON object a line, written with one ``write`` to a file opened with O_APPEND (0600, in a directory
  of 0700); nothing of ours deletes entries.  Past ``FILE_BYTES_MAX`` the file is renamed to
  ``audit-<sequence of its first entry>.jsonl`` and the next begins.
- Sequences grow by one.  Each line ends in ``chain``: the BLAKE3 hash of the line before's chain and of the line
  itself without it, so that a line that was changed, added or taken out shows (``verify``).  Who may write to the
  file can make all of the chain anew, or cut off its end: only a ``Head`` that was noted elsewhere shows that.
- An entry is written when its call has ended, with the result.  An entry that cannot be written (a full disk) waits
  in memory, and ``check`` refuses further calls until it is written.  ``WAITING_MAX`` is more than the calls that can
  run when the disk begins to refuse; what comes then is refused calls, and of them some are left out.
- In a crash of the machine at most the entries of the last ``SYNC_SECONDS`` are lost; what a crash left of a line
  is cut off when the log is opened next.
- Unknown callers cannot fill the disk: of their refused calls ``STRANGERS_MAX`` at once and then one a second are
  entered; how many are left out, the daemon's log tells.

Only the one process that holds the store's lock writes; ``page`` and ``verify`` read beside it.  Thread-safe.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

import trio

from snapfs import errors
from snapfs.access import journal
from snapfs.access.journal import Head
from snapfs.api import AuditEntry
from snapfs.store.disk import from_os, open_file
from snapfs.volume.stirring import Stirring

FILE_BYTES_MAX: Final = 64 << 20
SYNC_SECONDS: Final = 1.0
STRANGERS_MAX: Final = 100
WAITING_MAX: Final = 1000
REQUEST_BYTES_MAX: Final = 4096
"""Of a request's text; the rest is cut off."""

_NAME_BYTES_MAX: Final = 512
"""Of the other texts, which come from us or have limits of their own: keeps a line below what ``journal`` reads."""

_CREDENTIALS: Final = re.compile(r"://(?:[^/\s\"\\]|\\.)+(?:@|\.\.\.(?=\"))")
"""In a URL, e.g. of a git remote, within JSON.  A password may have an ``@``, or a quote, which JSON escapes; of a long
text the end may be cut off."""

_log = logging.getLogger(__name__)


class _Call(NamedTuple):
    """An entry that has no place in the chain yet."""

    time_ns: int
    caller: str
    peer: str
    method: str
    request: str
    result: str


class Audit:
    """The audit log of one store; its file is opened when it is first needed.

    Args:
        store: the store's directory.
        now_ns: the clock, nanoseconds since 1970.
        file_bytes_max: size past which a new file is begun.
    """

    def __init__(self, store: Path, *, now_ns: Callable[[], int], file_bytes_max: int = FILE_BYTES_MAX) -> None:
        self._directory = store / journal.DIRECTORY
        self._now_ns = now_ns
        self._file_bytes_max = file_bytes_max
        self._lock = threading.Lock()
        self._fd = -1
        self._size = 0
        self._head = Head()
        """Of the last line that was written or is in ``_rest``; means something while the file is open."""
        self._first = 0
        """Sequence of the file's first entry; 0 while it has none."""
        self._rest = b""
        """Of a line, what the disk has not taken yet."""
        self._waiting: deque[_Call] = deque()
        self._unsynced = False
        self._token: trio.lowlevel.TrioToken | None = None
        """Of the loop that syncs."""
        self._failure = ""
        """Why entries may be lost: a sync failed, and the kernel drops what it could not write."""
        self._strangers = float(STRANGERS_MAX)
        self._strangers_ns = 0
        self._left_out = 0

    # -- writing

    def check(self) -> None:
        """Before a mutating call: can the log be written?

        Raises:
            NoSpace, IOFailure: an earlier entry still cannot be, or the file cannot be opened.
        """
        with self._lock:
            if self._failure:
                raise errors.IOFailure(
                    f"the audit log cannot be written: {self._failure}",
                    hint="mend the disk, then start the daemon again",
                )
            try:
                self._drain()
            except OSError as error:
                raise from_os(error, "the audit log cannot be written") from error

    def write(self, *, caller: str, peer: str, method: str, request: str, result: str) -> None:
        """Enter a call that has ended or was refused; does not wait for the disk.  Raises nothing.

        Args:
            caller: empty for one that is not known.
            request: in JSON; credentials in URLs are left out here.
            result: ``OK``, or the kind of the error.
        """
        now = self._now_ns()
        with self._lock:
            if (not caller and not self._admits_stranger(now)) or len(self._waiting) >= WAITING_MAX:
                self._left_out += 1
                return
            if self._left_out:
                _log.warning("%d calls that were refused are not in the audit log", self._left_out)
                self._left_out = 0
            self._waiting.append(_Call(now, caller, peer, method, request, result))
            try:
                self._drain()
            except OSError as error:
                _log.error("the audit log cannot be written: %s", error.strerror or error)

    def _admits_stranger(self, now: int) -> bool:
        refill = max(0, now - self._strangers_ns) / 1e9
        self._strangers = min(float(STRANGERS_MAX), self._strangers + refill)
        self._strangers_ns = now
        admitted = self._strangers >= 1
        self._strangers -= admitted
        return admitted

    def _drain(self) -> None:
        """Write what waits; what the disk refuses goes on waiting, to the byte.

        Raises:
            OSError: as the disk.
        """
        self._open()
        while True:
            while self._rest:
                written = os.write(self._fd, self._rest)
                self._rest = self._rest[written:]
                self._size += written
                if not self._unsynced:
                    self._unsynced = True
                    self._stir()
            if not self._waiting:
                return
            if self._size >= self._file_bytes_max:
                self._rotate()
            self._rest, self._head = journal.encode(_entry(self._head.sequence + 1, self._waiting[0]), self._head)
            self._waiting.popleft()
            self._first = self._first or self._head.sequence

    def _stir(self) -> None:
        """Of a refused call the loop knows nothing: its entry comes from another thread."""
        if self._token is not None:
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(lambda: None)

    def _rotate(self) -> None:
        os.fdatasync(self._fd)
        self._set_aside(self._first)
        os.close(self._fd)
        self._fd = -1
        self._open()

    # -- the file

    def _open(self) -> None:
        """Open the file, cut off what a crash left of a line, and find where the chain stands.

        Raises:
            OSError: as the disk.
        """
        if self._fd >= 0:
            return
        self._directory.mkdir(mode=0o700, exist_ok=True)
        self._directory.chmod(0o700)
        path = self._directory / journal.CURRENT
        end = journal.end_of(path)
        if end.torn_bytes:
            _log.warning("%s: a crash left %d bytes of an entry; they are cut off", path, end.torn_bytes)
            os.truncate(path, end.size)
        if end.damaged:
            # what is there stays for `verify` to show; the chain goes on from the last line that is good
            _log.error("%s: the last entry is damaged; a new file is begun", path)
            self._set_aside(end.first_sequence)
            end = journal.End()
        head = end.head or journal.last_head(self._directory)
        fd = open_file(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            if not end.size:
                _sync_directory(self._directory)
        except BaseException:
            os.close(fd)
            raise
        self._fd, self._size, self._first, self._head = fd, end.size, end.first_sequence, head

    def _set_aside(self, first_sequence: int) -> None:
        """Give the file its final name; nothing is ever written over."""
        while (path := self._directory / journal.rotated_name(first_sequence)).exists():
            first_sequence += 1
        (self._directory / journal.CURRENT).rename(path)

    def sync(self) -> None:
        """Make durable what was written.  Raises nothing: a failure is told to the log, and by ``check``."""
        with self._lock:
            if self._fd < 0 or not self._unsynced:
                return
            self._unsynced = False
            fd = os.dup(self._fd)
        try:
            os.fdatasync(fd)
        except OSError as error:
            self._failure = error.strerror or str(error)
            _log.error("the audit log cannot be synced: %s", self._failure)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Sync and close; a later ``write`` opens the file again."""
        with self._lock:
            if self._waiting or self._rest:
                try:
                    self._drain()
                except OSError as error:
                    count = len(self._waiting) + bool(self._rest)
                    _log.error("%d entries of the audit log are lost: %s", count, error.strerror or error)
                    self._waiting.clear()
                    self._rest = b""
        self.sync()
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Sync in the background while inside; close at the end."""
        self._token = trio.lowlevel.current_trio_token()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._sync_always)
                yield
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self.close)

    async def _sync_always(self) -> None:
        stirring = Stirring()
        while True:
            if not self._unsynced:
                await stirring.wait()
            await trio.sleep(SYNC_SECONDS)
            if self._unsynced:
                await trio.to_thread.run_sync(self.sync)

    # -- reading

    def page(
        self, *, from_ns: int = 0, caller: str = "", page_size: int = 0, page_token: str = ""
    ) -> journal.AuditPage:
        """As ``journal.page``, of all that was written so far."""
        return journal.page(self._directory, from_ns=from_ns, caller=caller, page_size=page_size, page_token=page_token)


def _entry(sequence: int, call: _Call) -> AuditEntry:
    return AuditEntry(
        sequence=sequence,
        time_ns=call.time_ns,
        caller=journal.cut(call.caller, _NAME_BYTES_MAX),
        peer=journal.cut(call.peer, _NAME_BYTES_MAX),
        method=journal.cut(call.method, _NAME_BYTES_MAX),
        request=journal.cut(_CREDENTIALS.sub("://", call.request), REQUEST_BYTES_MAX),
        result=journal.cut(call.result, _NAME_BYTES_MAX),
    )


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
