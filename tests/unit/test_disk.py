"""Large writes go past the page cache, and write the same bytes as small ones."""

from __future__ import annotations

import errno
import fcntl
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snapfs.errors import NoSpace
from snapfs.store import disk as module
from snapfs.store.disk import DIRECT_BYTES_MIN, Disk
from snapfs.types import PAGE_BYTES

NOISE = random.Random(1).randbytes(3 * DIRECT_BYTES_MIN)


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    opened = Disk().open("test", tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield opened
    os.close(opened)


def shown(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


def direct_writes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the writes that go past the page cache, as they come."""
    real, sizes = os.pwrite, []

    def pwrite(fd: int, data: memoryview, offset: int) -> int:
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
            assert offset % PAGE_BYTES == len(data) % PAGE_BYTES == 0
            sizes.append(len(data))
        return real(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    return sizes


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 3 * PAGE_BYTES),
    st.lists(st.integers(0, 700_000), min_size=2, max_size=6),
    st.sampled_from([2 * PAGE_BYTES, 1 << 20]),
)
def test_the_same_bytes(tmp_path_factory: pytest.TempPathFactory, offset: int, sizes: list[int], staging: int) -> None:
    parts = [NOISE[size : 2 * size] for size in [*sizes, DIRECT_BYTES_MIN // 2, DIRECT_BYTES_MIN // 2]]
    wanted = b"before" + bytes(offset) + b"".join(parts)
    path = tmp_path_factory.mktemp("disk") / "file"
    fd = Disk().open("test", path, os.O_RDWR | os.O_CREAT)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "_STAGING_BYTES", staging)
            patch.setattr(module, "_staging", [])
            sizes_direct = direct_writes(patch)
            Disk().pwrite("test", fd, [b"before"], 0)
            flags = fcntl.fcntl(fd, fcntl.F_GETFL)
            Disk().pwrite("test", fd, [part if n % 2 else memoryview(part) for n, part in enumerate(parts)], 6 + offset)
        assert sum(sizes_direct) in (0, (len(wanted) // PAGE_BYTES - -(-(6 + offset) // PAGE_BYTES)) * PAGE_BYTES)
        assert fcntl.fcntl(fd, fcntl.F_GETFL) == flags
        assert shown(fd) == wanted
    finally:
        os.close(fd)


def test_small_writes_stay_in_the_page_cache(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = direct_writes(monkeypatch)
    Disk().pwrite("test", fd, [NOISE[: DIRECT_BYTES_MIN - 1]], 0)
    assert sizes == []


@pytest.mark.parametrize("refused", ["flag", "write", "second write"])
def test_a_host_that_cannot(fd: int, monkeypatch: pytest.MonkeyPatch, refused: str) -> None:
    """Some refuse the flag, some the first such write; whatever was written before is written again."""
    monkeypatch.setattr(module, "_STAGING_BYTES", 1 << 20)
    monkeypatch.setattr(module, "_staging", [])
    real_fcntl, real_pwrite, writes = fcntl.fcntl, os.pwrite, []

    def set_flags(fd: int, command: int, flags: int = 0) -> int:
        if command == fcntl.F_SETFL and flags & os.O_DIRECT and refused == "flag":
            raise OSError(errno.EINVAL, "")
        return real_fcntl(fd, command, flags)

    def pwrite(fd: int, data: memoryview, offset: int) -> int:
        if real_fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
            writes.append(len(data))
            if len(writes) == (2 if refused == "second write" else 1):
                raise OSError(errno.EINVAL, "")
        return real_pwrite(fd, data, offset)

    monkeypatch.setattr(fcntl, "fcntl", set_flags)
    monkeypatch.setattr(os, "pwrite", pwrite)
    Disk().pwrite("test", fd, [b"head", NOISE], 5000)
    assert shown(fd) == bytes(5000) + b"head" + NOISE


def test_a_full_disk_says_so(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def pwrite(fd: int, data: memoryview, offset: int) -> int:
        raise OSError(errno.ENOSPC, "")

    monkeypatch.setattr(os, "pwrite", pwrite)
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    with pytest.raises(NoSpace):
        Disk().pwrite("test", fd, [NOISE], 0)
    assert fcntl.fcntl(fd, fcntl.F_GETFL) == flags
