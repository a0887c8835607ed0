"""Reads of the disk that nobody waits for: several by one system call, past the page cache (Linux AIO).

Invariants:
  * From ``submit`` until ``done`` says so, or ``finish`` has returned, the disk may write into the buffer.
  * One flight at a time in a buffer.  None is shared with another process, also one that forks.
  * Where the kernel or the machine has no such reads, or very many are on their way, there are no flights, and no
    errors: whoever asks reads otherwise.  So it is where the host reads while it is asked to (a file system that
    encrypts, say).
  * What is ready is told by a descriptor (``fd``) that any event loop can wait for.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import platform
import struct
import sys
import time
from collections.abc import Callable, Sequence
from typing import Final

STAGING_BYTES: Final = 2 * 1024 * 1024

READS_MAX: Final = 128
"""On their way at a time, of one flight: those of the kernel's largest request, if its blocks lie scattered."""

SENDING_SECONDS_MAX: Final = 0.002
SLOW_MAX: Final = 8
"""Flights that took longer to send, more than took less: none is sent for a while, then one, to see."""
SLOW_SECONDS: Final = 30.0
"""A machine that is busy, or a file that grows, delays sending too, and that ends."""

STAGINGS_MAX: Final = 16
"""Of a process; more flights at a time are not sent.  None is let go of while the process lives: the kernel takes 30 to
40 ms to take back what its reads are sent with."""

_KEPT_MAX: Final = 4
"""That keep their memory when nobody uses them: as many as read at a time, mostly."""

_CALLS: Final = {"x86_64": (206, 208, 209), "aarch64": (0, 4, 2), "riscv64": (0, 4, 2)}
"""Numbers of io_setup, io_getevents, io_submit."""

_IOCB: Final = struct.Struct("<QIIHhIQQqQII")
_EVENT: Final = struct.Struct("<QQqq")
_SETUP, _EVENTS, _SUBMIT = range(3)
_PREAD: Final = 0
_RESFD: Final = 1

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def fresh_buffer() -> mmap.mmap:
    """``STAGING_BYTES``, of one large page if the host has that: each page costs time for each read."""
    mapped = mmap.mmap(-1, STAGING_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without large pages
        mapped.madvise(mmap.MADV_HUGEPAGE)
    return mapped


class Staging:
    """A buffer at a page's beginning, as O_DIRECT wants it, and what its reads are sent with."""

    def __init__(self, *, kept: bool) -> None:
        """Raises:
        OSError: no more descriptors, or too many ask this kernel for reads.
        """
        self.eventfd = -1
        self._numbers = [ctypes.c_long(number) for number in _CALLS[platform.machine()]]
        self._mapped = fresh_buffer()
        self.pid = os.getpid()
        self.kept = kept
        self.bytes = memoryview(self._mapped)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._mapped))
        self.iocbs = ctypes.create_string_buffer(_IOCB.size * READS_MAX)
        first = ctypes.addressof(self.iocbs)
        self.pointers = (ctypes.c_uint64 * READS_MAX)(*range(first, first + _IOCB.size * READS_MAX, _IOCB.size))
        self.events = ctypes.create_string_buffer(_EVENT.size * READS_MAX)
        self.eventfd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.context = ctypes.c_ulong(0)
        if self.call(_SETUP, ctypes.c_uint(READS_MAX), ctypes.byref(self.context)) < 0:
            raise OSError(ctypes.get_errno(), "io_setup")

    def call(self, which: int, *arguments: object) -> int:
        """Negative: it failed, as ``ctypes.get_errno`` tells."""
        return int(_libc.syscall(self._numbers[which], *arguments))

    def rest(self) -> None:
        """Nobody uses it now."""
        if not self.kept:
            self._mapped.madvise(mmap.MADV_DONTNEED)
        _idle.insert(len(_idle) if self.kept else 0, self)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        # where it could not be made, or in a process that forked, or at the end, when the module is empty already
        if self.eventfd >= 0:
            close(self.eventfd)


_all: Final[list[Staging]] = []
"""Of this process; where the kernel failed the disk may write into one at any time."""

_idle: Final[list[Staging]] = []
"""Nobody uses them now; those that keep their memory are taken first."""


def _take_staging() -> Staging | None:
    if _all and _all[0].pid != os.getpid():
        _all.clear()
        _idle.clear()
    if _idle:
        return _idle.pop()
    if len(_all) >= STAGINGS_MAX:
        return None
    try:
        staging = Staging(kept=len(_all) < _KEPT_MAX)
    except OSError:
        return None
    _all.append(staging)
    return staging


Read = tuple[int, int, int]
"""(descriptor, offset, bytes); the latter two of whole pages."""


class Flight:
    """Reads that were sent together.  On one thread."""

    def __init__(self, staging: Staging, reads: Sequence[Read]) -> None:
        self._staging: Staging | None = staging
        self._reads = reads
        self._waiting = 0
        self.counts = [0] * len(reads)
        """Bytes that came of each: fewer at the end of the file, and where the disk could not read."""

    @property
    def fd(self) -> int:
        """To be waited for before ``done`` is asked again."""
        assert self._staging is not None
        return self._staging.eventfd

    @property
    def bytes(self) -> memoryview:
        """All of the reads, one after the other.  Not after ``finish``."""
        return self._staging.bytes if self._staging is not None else memoryview(b"")

    def send(self) -> bool:
        """False: none of them could be sent.  Those that could not, among others, have come short."""
        staging, at = self._staging, 0
        assert staging is not None
        direct: dict[int, int] = {}
        try:
            for number, (fd, offset, size) in enumerate(self._reads):
                if fd not in direct:
                    direct[fd] = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
                _IOCB.pack_into(
                    staging.iocbs, number * _IOCB.size,
                    number, 0, 0, _PREAD, 0, direct[fd], staging.address + at, size, offset, 0, _RESFD, staging.eventfd,
                )  # fmt: skip
                at += size
            sent = staging.call(_SUBMIT, staging.context, ctypes.c_long(len(self._reads)), staging.pointers)
        except OSError:
            return False
        finally:
            for opened in direct.values():  # the reads hold the file themselves
                os.close(opened)
        self._waiting = max(0, sent)
        return sent > 0

    def done(self) -> bool:
        """Whether all have come.  Does not wait."""
        assert self._staging is not None
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._staging.eventfd)
            self._take(0)
        return not self._waiting

    def finish(self) -> None:
        """Wait for what is on its way yet; the buffer is given back."""
        while self._waiting:
            self._take(self._waiting)
        staging, self._staging = self._staging, None
        if staging is not None:
            staging.rest()

    def _take(self, least: int) -> None:
        """What has come, and wait until it is so many."""
        staging = self._staging
        assert staging is not None
        most = ctypes.c_long(READS_MAX)
        found = staging.call(_EVENTS, staging.context, ctypes.c_long(least), most, staging.events, None)
        if found < 0 and ctypes.get_errno() != errno.EINTR:  # nobody will tell when the buffer is free
            self._staging, self._waiting = None, 0
        for place in range(max(0, found)):
            number, _, count, _ = _EVENT.unpack_from(staging.events, place * _EVENT.size)
            self.counts[number] = max(0, count)
        self._waiting -= max(0, found)


class _Slow:
    """How many flights took long to send, less those since that did not."""

    def __init__(self) -> None:
        self.count = 0
        self.until = 0.0

    @property
    def rests(self) -> bool:
        return self.count >= SLOW_MAX and time.perf_counter() < self.until

    def note(self, seconds: float) -> None:
        if seconds > SENDING_SECONDS_MAX:
            self.count, self.until = min(self.count + 1, SLOW_MAX), time.perf_counter() + SLOW_SECONDS
        else:
            self.count = max(0, self.count - 1)


_slow: Final = _Slow()


def submit(reads: Sequence[Read]) -> Flight | None:
    """Send reads on their way: ``READS_MAX`` of them at most, ``STAGING_BYTES`` together.  None: that cannot be done
    here."""
    if sys.byteorder != "little" or platform.machine() not in _CALLS or _slow.rests:
        return None
    staging = _take_staging()
    if staging is None:
        return None
    flight = Flight(staging, reads)
    began = time.perf_counter()
    if flight.send():
        _slow.note(time.perf_counter() - began)
        return flight
    flight.finish()
    return None
