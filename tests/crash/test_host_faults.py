"""Faults of a real file system below a real daemon: one that is full, one whose disk breaks so that fsync fails."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from snapfs.errors import IOFailure
from snapfs.testing import workloads
from snapfs.testing.crashing import Run, Workload, verify
from snapfs.testing.mounted import MountedStore

MIB = 1024 * 1024
TMPFS_BYTES = 64 * MIB
WRITERS = 4
SECONDS_MAX = 20.0

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts file systems")


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout


@contextlib.contextmanager
def mounted_at(place: Path, *command: str | Path) -> Iterator[Path]:
    place.mkdir()
    run(*command, place)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=False)


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of TMPFS_BYTES."""
    with mounted_at(tmp_path / "memory", "mount", "-t", "tmpfs", "-o", f"size={TMPFS_BYTES}", "none") as place:
        yield place


class Filler:
    """A file that takes all the room there is."""

    def __init__(self, place: Path) -> None:
        self._path = place / "filler"

    def fill(self, left_bytes: int = 0) -> None:
        stat = os.statvfs(self._path.parent)
        size = stat.f_bavail * stat.f_frsize - left_bytes
        if size > 0:
            with self._path.open("wb", buffering=0) as file, contextlib.suppress(OSError):  # others take room, too
                os.posix_fallocate(file.fileno(), 0, size)

    def flood(self) -> None:
        """``fill`` against others who write."""
        with self._path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(64 * 1024))

    def free(self) -> None:
        self._path.unlink(missing_ok=True)


class FullRun(Run):
    """Before each step the disk is filled; a step that is refused is done once there is room again."""

    filler: Filler
    left_bytes = 0
    refused = 0

    def both(self, method: str, *args: Any, **kwargs: Any) -> bool:
        self.disk.met = True
        self.filler.fill(self.left_bytes)
        self.subject.lake.core.forget_free_space()
        try:
            if super().both(method, *args, **kwargs):
                return True
        finally:
            self.filler.free()
            self.subject.lake.core.forget_free_space()
        self.refused += 1
        return super().both(method, *args, **kwargs)


EVERY_STEP = [(workload, left_bytes) for workload in workloads.NAMED for left_bytes in (0, 20_000, 9 * MIB)]


def test_a_disk_that_is_full_at_every_step(memory: Path) -> None:
    full_at_every_step(workloads.versions, 0, memory)


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("workload", "left_bytes"), EVERY_STEP, ids=lambda v: getattr(v, "__name__", f"{v}_left"))
def test_disks_that_are_full_at_every_step(workload: Workload, left_bytes: int, memory: Path) -> None:
    full_at_every_step(workload, left_bytes, memory)


def full_at_every_step(workload: Workload, left_bytes: int, memory: Path) -> None:
    """Whatever fills it, up to the last byte: nothing acknowledged is lost, the store keeps working."""
    one = FullRun(memory)
    one.filler, one.left_bytes = Filler(memory), left_bytes
    try:
        workload(one)
        assert one.subject.lake.index.failure is None
        assert one.refused > 5 or left_bytes > 8 * MIB
        one.both("flush")
    finally:
        one.close()
    verify(one.store, [one.states[-1]], deep=True)


class Disk:
    """An ext4 file system in a file that cannot get all the room that it believes to have: when its host is full, what
    the kernel writes back fails, as on a disk that breaks."""

    def __init__(self, memory: Path, place: Path) -> None:
        self.filler = Filler(memory)
        self.place = place
        self._image = memory / "image"
        with self._image.open("wb") as file:
            file.truncate(4 * TMPFS_BYTES)
        run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", self._image)
        place.mkdir()
        self.mount()

    def mount(self) -> None:
        run("mount", "-o", "loop", self._image, self.place)

    def umount(self) -> None:
        while subprocess.run(["umount", self.place], check=False, capture_output=True).returncode == 0:
            pass


@pytest.fixture
def breaking(memory: Path, tmp_path: Path) -> Iterator[Disk]:
    if subprocess.run(["losetup", "--find"], check=False, capture_output=True).returncode:
        pytest.skip("no loop devices")
    disk = Disk(memory, tmp_path / "breaking")
    try:
        yield disk
    finally:
        disk.filler.free()
        subprocess.run(["umount", "-l", disk.place], check=False, capture_output=True)


def writer(volume: Path, number: int, synced: dict[str, bytes], errors: list[int]) -> None:
    for count in range(10_000):
        data = os.urandom(100_000)
        name = f"{number}-{count}"
        try:
            with open(volume / name, "wb", buffering=0) as file:
                file.write(data)
                os.fsync(file.fileno())
        except OSError as error:
            errors.append(error.errno or 0)
            return
        synced[name] = data


def test_when_the_disk_breaks_every_sync_fails_and_the_store_is_read_only(breaking: Disk) -> None:
    one = MountedStore(breaking.place)
    synced: dict[str, bytes] = {}
    errors: list[int] = []
    try:
        one.mount()
        one.volume.mkdir()
        one.snapshot("before")
        threads = [threading.Thread(target=writer, args=(one.volume, n, synced, errors)) for n in range(WRITERS)]
        for thread in threads:
            thread.start()
        wait_for(lambda: len(synced) > 2 * WRITERS)
        breaking.filler.flood()
        for thread in threads:
            thread.join(SECONDS_MAX)
            assert not thread.is_alive()
        assert set(errors) == {errno.EIO}
        assert len(errors) == WRITERS  # each of those who waited, and nobody was told that it is durable
        breaking.filler.free()  # it works again; that changes nothing
        refuses(one)
        info = one.call("get_store")
        assert "takes no more changes" in info.failure
        assert [snapshot.name for snapshot in one.call("list_snapshots", volume="data")] == ["before"]
        shown = {path.name for path in one.volume.iterdir()}
        assert synced.keys() <= shown
    finally:
        one.close()
    breaking.umount()
    breaking.mount()
    one = MountedStore(breaking.place)
    try:
        one.mount()
        for name, data in synced.items():
            assert (one.volume / name).read_bytes() == data
        one.snapshot("after")
        assert one.call("check_store").findings == []
    finally:
        one.close()


def refuses(one: MountedStore) -> None:
    for change in (
        lambda: (one.volume / "new").write_bytes(b"x"),
        lambda: (one.volume / "directory").mkdir(),
        lambda: one.snapshot("no"),
        lambda: one.call("create_volume", name="no"),
    ):
        with pytest.raises((OSError, IOFailure)) as caught:  # the API perhaps for its audit log, which is there, too
            change()
        if isinstance(caught.value, OSError):
            assert caught.value.errno in (errno.EIO, errno.EROFS)


def wait_for(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS_MAX
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.005)
