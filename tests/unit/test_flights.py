"""Flights: what comes of reads that nobody waits for is what pread(2) gives."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import random
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from snapfs.store import flights
from snapfs.store.flights import READS_MAX, STAGING_BYTES, STAGINGS_MAX, Flight, Read, submit
from snapfs.types import PAGE_BYTES

FILE_PAGES = 700
TAIL_BYTES = 1234


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who reads what was just written waits for it to be written, and this machine may be busy."""
    monkeypatch.setattr(flights._slow, "count", 0)
    monkeypatch.setattr(flights, "SENDING_SECONDS_MAX", 30)


@pytest.fixture(autouse=True)
def _afresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flights, "_all", [])
    monkeypatch.setattr(flights, "_idle", [])


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[list[int]]:
    """Two files that end within a page."""
    descriptors = []
    for number in range(2):
        path = tmp_path / str(number)
        path.write_bytes(random.Random(number).randbytes(FILE_PAGES * PAGE_BYTES + TAIL_BYTES))
        descriptors.append(os.open(path, os.O_RDWR))
    flight = submit([(descriptors[0], 0, PAGE_BYTES)])
    if flight is None:
        pytest.skip("a file system, or a kernel, without such reads")
    flight.finish()
    yield descriptors
    for descriptor in descriptors:
        os.close(descriptor)


def landed(reads: list[Read]) -> Flight:
    flight = submit(reads)
    assert flight is not None
    while not flight.done():
        assert select.select([flight.fd], [], [], 30)[0]
    return flight


def check(reads: list[Read]) -> None:
    flight, at = landed(reads), 0
    for (fd, offset, size), count in zip(reads, flight.counts, strict=True):
        assert flight.bytes[at : at + count] == os.pread(fd, size, offset)
        at += size
    flight.finish()


@pytest.mark.parametrize("seed", range(20))
def test_they_are_what_pread_gives(opened: list[int], seed: int) -> None:
    """Also at the end of the file and behind it, of files that were just written."""
    rng = random.Random(seed)
    os.pwrite(opened[0], rng.randbytes(100_000), rng.randrange(FILE_PAGES * PAGE_BYTES))
    reads: list[Read] = []
    room = STAGING_BYTES // PAGE_BYTES
    for _ in range(rng.choice([1, 2, 30, READS_MAX])):
        pages = rng.randint(1, rng.choice([1, 4, 300]))
        if pages > room:
            break
        room -= pages
        reads.append((rng.choice(opened), rng.randrange(FILE_PAGES + 3) * PAGE_BYTES, pages * PAGE_BYTES))
    check(reads)


def test_several_are_on_their_way_at_a_time(opened: list[int]) -> None:
    sent = [submit([(opened[0], number * PAGE_BYTES, 64 * PAGE_BYTES)]) for number in range(10)]
    for number, flight in enumerate(sent):
        assert flight is not None
        while not flight.done():
            assert select.select([flight.fd], [], [], 30)[0]
        assert flight.bytes[: 64 * PAGE_BYTES] == os.pread(opened[0], 64 * PAGE_BYTES, number * PAGE_BYTES)
    for flight in sent:
        assert flight is not None
        flight.finish()
    again = [submit([(opened[0], 0, PAGE_BYTES)]) for _ in sent]
    assert len(flights._all) == 10, "none is let go of: the kernel takes long for that"
    for flight in again:
        assert flight is not None
        flight.finish()
    assert sum(staging.kept for staging in flights._idle) == 4
    assert all(staging.kept or not any(staging.bytes) for staging in flights._idle), "the others give memory back"


def test_no_more_at_a_time(opened: list[int]) -> None:
    reads = [(opened[0], 0, PAGE_BYTES)]
    sent = [submit(reads) for _ in range(STAGINGS_MAX + 1)]
    assert [flight is None for flight in sent] == [False] * STAGINGS_MAX + [True]
    for flight in sent[:STAGINGS_MAX]:
        assert flight is not None
        flight.finish()
    check(reads)


def test_the_buffer_is_nobody_elses_until_all_has_come(opened: list[int]) -> None:
    """Whoever gives up waits for the disk: what it writes would be in the way of the next."""
    one = submit([(opened[0], 0, STAGING_BYTES)])
    other = submit([(opened[1], 0, STAGING_BYTES)])
    assert one is not None
    assert other is not None
    one.finish()
    assert sum(one.counts) == STAGING_BYTES
    again = landed([(opened[0], PAGE_BYTES, PAGE_BYTES)])
    other.finish()
    assert again.bytes[:PAGE_BYTES] == os.pread(opened[0], PAGE_BYTES, PAGE_BYTES)
    again.finish()
    assert len(flights._idle) == 2


def test_a_process_that_forks_has_its_own(opened: list[int]) -> None:
    check([(opened[0], 0, PAGE_BYTES)])
    pid = os.fork()
    if not pid:
        try:
            check([(opened[1], PAGE_BYTES, 3 * PAGE_BYTES)])
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    check([(opened[0], 0, PAGE_BYTES)])


def test_what_cannot_be_sent(opened: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of files that cannot be opened so, by machines and kernels that do not know it, where the host waits."""
    reads = [(opened[0], 0, PAGE_BYTES)]
    pipe = os.pipe()
    assert submit([(pipe[0], 0, PAGE_BYTES)]) is None
    for end in pipe:
        os.close(end)
    check(reads)
    with monkeypatch.context() as patch:
        patch.setattr(platform, "machine", lambda: "abacus")
        assert submit(reads) is None
    with monkeypatch.context() as patch:
        patch.setattr(flights, "_all", [])
        patch.setattr(flights, "_idle", [])
        patch.setattr(flights.Staging, "call", lambda *_: -errno.ENOSYS)
        assert submit(reads) is None
    check(reads)
    with monkeypatch.context() as patch:
        patch.setattr(flights, "SENDING_SECONDS_MAX", -1)
        for _ in range(flights.SLOW_MAX):
            check(reads)
        assert submit(reads) is None
        patch.setattr(flights._slow, "until", 0.0)
        check(reads)  # one, after a while
        assert submit(reads) is None
    monkeypatch.setattr(flights._slow, "until", 0.0)
    for _ in range(3):
        check(reads)


def test_those_beyond_what_the_kernel_takes_come_short(opened: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    real = flights.Staging.call

    def call(self: flights.Staging, which: int, *arguments: object) -> int:
        if which == flights._SUBMIT:
            arguments = (arguments[0], ctypes.c_long(2), *arguments[2:])
        return real(self, which, *arguments)

    monkeypatch.setattr(flights.Staging, "call", call)
    flight = landed([(opened[0], number * PAGE_BYTES, PAGE_BYTES) for number in range(5)])
    assert flight.counts == [PAGE_BYTES, PAGE_BYTES, 0, 0, 0]
    flight.finish()


def test_a_process_ends_quietly(opened: list[int]) -> None:
    code = f"from snapfs.store import flights; flight = flights.submit([(0, 0, {PAGE_BYTES})]); flight.finish()"
    with open(f"/proc/self/fd/{opened[0]}", "rb") as file:
        done = subprocess.run([sys.executable, "-c", code], stdin=file, capture_output=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
