"""A quota through a real mount: who is told what, and when."""

from __future__ import annotations

import errno
import mmap
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from snapfs.errors import QuotaExceeded
from snapfs.testing.mounted import MountedStore

MIB = 1 << 20
SNAP = Path(sys.executable).with_name("snap")


@pytest.fixture
def limited(mounted: MountedStore) -> MountedStore:
    """Of 1 MiB."""
    mounted.call("update_volume", name="data", quota_bytes=MIB)
    return mounted


def used(mounted: MountedStore) -> int:
    return int(mounted.call("get_volume", name="data").used_bytes)


def refusal(act: Callable[[], object]) -> int:
    """The errno, or 0."""
    try:
        act()
    except OSError as error:
        return error.errno or -1
    return 0


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def test_fsync_and_close_tell_of_it(limited: MountedStore) -> None:
    """write(2) is over before the daemon hears of it, and the kernel remembers ENOSPC for close(2), but not EDQUOT."""
    file = os.open(limited.volume / "f", os.O_RDWR | os.O_CREAT)
    assert os.write(file, noise(2 * MIB)) == 2 * MIB
    assert refusal(lambda: os.fsync(file)) == errno.ENOSPC
    os.close(file)
    (limited.volume / "f").unlink()
    file = os.open(limited.volume / "f", os.O_WRONLY | os.O_CREAT)
    os.write(file, noise(2 * MIB))
    assert refusal(lambda: os.close(file)) == errno.ENOSPC
    assert used(limited) <= MIB


def test_what_does_not_wait_is_told_at_once(limited: MountedStore) -> None:
    pages = mmap.mmap(-1, 2 * MIB)
    pages.write(noise(2 * MIB))
    file = os.open(limited.volume / "f", os.O_WRONLY | os.O_CREAT | os.O_DIRECT)
    assert refusal(lambda: os.write(file, pages)) == errno.EDQUOT
    os.close(file)
    (limited.volume / "f").unlink()
    file = os.open(limited.volume / "f", os.O_WRONLY | os.O_CREAT | os.O_SYNC)
    assert refusal(lambda: os.write(file, pages)) == errno.ENOSPC
    os.close(file)
    (limited.volume / "f").unlink()
    file = os.open(limited.volume / "f", os.O_RDWR | os.O_CREAT)
    os.ftruncate(file, 2 * MIB)
    with mmap.mmap(file, 2 * MIB) as mapped:
        mapped.write(noise(2 * MIB))
        assert refusal(mapped.flush) == errno.ENOSPC
    refusal(lambda: os.close(file))


def test_programs_tell_it_to_their_users(limited: MountedStore, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(noise(2 * MIB))
    done = subprocess.run(["cp", tmp_path / "large", limited.volume / "f"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    with pytest.raises(OSError, check=lambda error: error.errno == errno.ENOSPC):
        (limited.volume / "g").write_bytes(noise(2 * MIB))


def test_to_the_last_byte_and_in_place(limited: MountedStore) -> None:
    (limited.volume / "f").write_bytes(noise(MIB))
    assert used(limited) == MIB
    with open(limited.volume / "f", "r+b", buffering=0) as file:
        for turn in range(1, 4):
            file.seek(0)
            file.write(noise(MIB, turn))
            os.fsync(file.fileno())
    assert used(limited) == MIB
    assert (limited.volume / "f").read_bytes() == noise(MIB, 3)
    file = os.open(limited.volume / "g", os.O_WRONLY | os.O_CREAT)
    os.write(file, b"x")
    assert refusal(lambda: os.fsync(file)) == errno.ENOSPC
    os.close(file)
    # what needs no space goes on
    os.truncate(limited.volume / "g", 1 << 40)
    (limited.volume / "d").mkdir()
    (limited.volume / "l").symlink_to("f")
    os.link(limited.volume / "f", limited.volume / "d" / "f")
    (limited.volume / "f").unlink()
    (limited.volume / "d" / "f").unlink()
    (limited.volume / "h").write_bytes(noise(MIB - 1))
    assert used(limited) == MIB - 1


def test_an_open_file_counts_until_it_is_closed(limited: MountedStore) -> None:
    file = os.open(limited.volume / "f", os.O_RDWR | os.O_CREAT)
    os.write(file, noise(MIB))
    os.fsync(file)
    (limited.volume / "f").unlink()
    other = os.open(limited.volume / "g", os.O_WRONLY | os.O_CREAT)
    os.write(other, b"x")
    assert refusal(lambda: os.fsync(other)) == errno.ENOSPC
    os.close(file)
    os.write(other, b"x")
    assert refusal(lambda: os.fsync(other)) == 0
    os.close(other)


def test_it_lasts(limited: MountedStore) -> None:
    (limited.volume / "f").write_bytes(noise(MIB // 2))
    os.sync()
    limited.snapshot("one")
    limited.kill()
    limited.mount()
    volume = limited.call("get_volume", name="data")
    assert (volume.quota_bytes, volume.used_bytes) == (MIB, MIB // 2)
    with pytest.raises(OSError, check=lambda error: error.errno == errno.ENOSPC):
        (limited.volume / "g").write_bytes(noise(MIB))
    (limited.volume / "g").unlink()
    (limited.volume / "g").write_bytes(noise(MIB // 2))
    (limited.volume / "f").unlink()
    (limited.volume / "h").write_bytes(noise(MIB // 4))
    with pytest.raises(QuotaExceeded):
        limited.call("restore", volume="data", snapshot="one", paths=["f"])
    assert sorted(os.listdir(limited.volume)) == ["g", "h"]
    limited.checkout("one")
    limited.call("update_volume", name="data", quota_bytes=1000)
    assert (limited.volume / "f").read_bytes() == noise(MIB // 2)
    report = subprocess.run(
        [SNAP, "fsck", "--store", limited.store], capture_output=True, text=True, env={"PATH": os.environ["PATH"]}
    )
    assert report.returncode == 0, report.stdout + report.stderr


def test_on_the_command_line(limited: MountedStore) -> None:
    def snap(*arguments: str) -> str:
        done = subprocess.run(
            [SNAP, *arguments, "--store", limited.store],
            capture_output=True,
            text=True,
            env={"PATH": os.environ["PATH"]},
        )
        return f"{done.returncode} {done.stdout}{done.stderr}"

    (limited.volume / "f").write_bytes(noise(MIB // 2))
    told = snap("volume", "set", "data", "--quota", "10G")
    assert told.startswith("0 the volume data may hold 10.0 GiB, and holds 512.0 KiB")
    assert "10.0 GiB" in snap("volume", "list")
    assert '"quota_bytes": 10737418240' in snap("volume", "list", "--json")
    assert snap("volume", "set", "data", "--quota", "none").startswith("0 the volume data has no quota")
    assert snap("volume", "set", "data", "--quota", "0").startswith("2 ")
    assert snap("volume", "set", "data", "--quota", "much").startswith("2 ")
    assert snap("volume", "set", "none", "--quota", "1G").startswith("3 ")
    assert snap("volume", "set", "data").startswith("2 ")
