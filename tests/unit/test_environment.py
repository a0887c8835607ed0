"""An index is read ahead when it is opened."""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from pathlib import Path

import pytest

from snapfs.format import keys
from snapfs.store import environment, resident, verify
from snapfs.store.disk import Disk
from snapfs.store.index import VERIFY_PAGES_MAX, Index
from snapfs.testing.mapped import mapped_bytes
from snapfs.types import PAGE_BYTES

VALUE_BYTES = 100_000
WAIT_SECONDS = 10


@pytest.fixture
def cold(tmp_path: Path) -> Path:
    """The file of an index that is too large to be looked at before it is used, and in no cache."""
    index = Index(tmp_path, create=True)
    for number in range(VERIFY_PAGES_MAX * PAGE_BYTES // VALUE_BYTES + 1):
        index.put("tree", keys.u64(number), os.urandom(VALUE_BYTES))
    index.commit()
    index.close()
    file = tmp_path / verify.DATA_FILE
    fd = os.open(file, os.O_RDWR)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)
    if cached_pages(file, VERIFY_PAGES_MAX) > VERIFY_PAGES_MAX // 10:
        pytest.skip("this file system is its own cache")
    return file


def cached_pages(file: Path, pages: int) -> int:
    """How many of the first pages are in the kernel's cache (mincore(2): any read would read ahead)."""
    states = ctypes.create_string_buffer(pages)
    with open(file, "r+b") as opened, mmap.mmap(opened.fileno(), pages * PAGE_BYTES) as mapped:
        first = ctypes.c_char.from_buffer(mapped)
        place = ctypes.c_void_p(ctypes.addressof(first))
        failed = ctypes.CDLL(None).mincore(place, ctypes.c_size_t(len(mapped)), states)
        del first
    assert not failed
    return sum(state & 1 for state in states.raw)


def test_an_index_is_read_ahead_when_it_is_opened(cold: Path) -> None:
    index = Index(cold.parent)
    index.close()
    until = time.monotonic() + WAIT_SECONDS
    while cached_pages(cold, VERIFY_PAGES_MAX) < VERIFY_PAGES_MAX and time.monotonic() < until:
        time.sleep(0.01)
    assert cached_pages(cold, VERIFY_PAGES_MAX) == VERIFY_PAGES_MAX


def test_a_large_index_is_not(cold: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "PREFETCH_BYTES_MAX", VERIFY_PAGES_MAX * PAGE_BYTES)
    index = Index(cold.parent)
    index.close()
    assert cached_pages(cold, VERIFY_PAGES_MAX) < VERIFY_PAGES_MAX // 2


def test_a_file_that_cannot_be_read_ahead_is_no_error(tmp_path: Path) -> None:
    assert not environment.prefetch(Disk(), tmp_path / "missing", PAGE_BYTES)


class Cached(Disk):
    """The kernel says that it has all of it."""

    def is_cached(self, fd: int, offset: int, size: int) -> bool:
        return True


def test_an_index_that_is_in_the_cache_is_mapped_when_it_is_opened(cold: Path) -> None:
    index = Index(cold.parent, disk=Cached())
    try:
        assert mapped_bytes(cold) >= VERIFY_PAGES_MAX * PAGE_BYTES
    finally:
        index.close()


def test_one_that_is_too_large_is_not(cold: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resident, "POPULATED_BYTES_MAX", VERIFY_PAGES_MAX * PAGE_BYTES)
    index = Index(cold.parent, disk=Cached())
    try:
        assert mapped_bytes(cold) < VERIFY_PAGES_MAX * PAGE_BYTES // 2
    finally:
        index.close()
