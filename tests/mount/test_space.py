"""df, du and quotas on stored bytes, through a real mount."""

from __future__ import annotations

import errno
import os
import random
import time
from pathlib import Path

import pytest

from snapfs import api
from snapfs.testing.mounted import MountedStore

MIB = 1 << 20
DEADLINE_SECONDS = 20.0


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def store_file(file: Path, data: bytes) -> None:
    with file.open("wb") as written:
        written.write(data)
        os.fsync(written.fileno())


def occupied_bytes(store: Path) -> int:
    files = [*(store / "segments").glob("*.seg"), *(store / "index").iterdir()]
    return sum(file.stat().st_blocks * 512 for file in files)


def used_by_df(mounted: MountedStore) -> int:
    """Once it does not change any more: it is measured once a second."""
    until, status = time.monotonic() + DEADLINE_SECONDS, os.statvfs(mounted.volume)
    while time.monotonic() < until:
        used = (status.f_blocks - status.f_bfree) * status.f_frsize
        if abs(used - occupied_bytes(mounted.store)) < 64 * 1024:
            return used
        time.sleep(0.1)
        status = os.statvfs(mounted.volume)
    raise AssertionError(f"df says {used} bytes, the files occupy {occupied_bytes(mounted.store)}")


def test_df_tells_what_the_store_occupies(mounted: MountedStore) -> None:
    before = used_by_df(mounted)
    store_file(mounted.volume / "f", noise(8 * MIB))
    assert used_by_df(mounted) >= before + 8 * MIB
    status, host = os.statvfs(mounted.volume), os.statvfs(mounted.store)
    assert status.f_bavail <= status.f_bfree < status.f_blocks
    host_free = host.f_bavail * host.f_frsize
    assert abs(status.f_bfree * status.f_frsize - host_free) < 256 * MIB  # others use the host, too


def test_du_and_space_see_what_programs_have_just_written(mounted: MountedStore) -> None:
    (mounted.volume / "f").write_bytes(noise(MIB))  # neither synced nor flushed: the kernel may have all of it
    usage = mounted.call("get_usage", volume="data")[0]
    assert usage.logical_bytes == MIB
    assert MIB < usage.exclusive_bytes < 1.1 * MIB
    mounted.call("create_snapshot", volume="data", name="one")
    (mounted.volume / "f").unlink()
    assert mounted.call("what_if", targets=["data@one"]).freed_bytes == usage.exclusive_bytes
    space = mounted.call("get_space")
    assert (space.live_bytes, space.snapshots_bytes) == (0, usage.exclusive_bytes)


def test_a_quota_on_stored_bytes_counts_what_snapshots_keep(mounted: MountedStore) -> None:
    mounted.call("update_volume", name="data", quota_bytes=5 * MIB, quota_kind=api.QuotaKind.EXCLUSIVE)
    store_file(mounted.volume / "f", noise(MIB))
    mounted.call("create_snapshot", volume="data", name="one")
    store_file(mounted.volume / "f", noise(MIB, 2))
    store_file(mounted.volume / "text", b"all the same, " * MIB)  # 14 MiB that take next to nothing
    assert 2 * MIB < mounted.call("get_volume", name="data").used_bytes < 3 * MIB
    with pytest.raises(OSError, match=r"space|quota") as refused:
        store_file(mounted.volume / "g", noise(4 * MIB, 3))
    assert refused.value.errno in (errno.EDQUOT, errno.ENOSPC)
    (mounted.volume / "g").unlink()
    mounted.call("delete_snapshot", volume="data", snapshot="one", purge=True)
    store_file(mounted.volume / "g", noise(2 * MIB, 4))
