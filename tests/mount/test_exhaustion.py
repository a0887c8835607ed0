"""The host has nothing left, neither space nor descriptors: what is refused says so, nothing acknowledged is lost, and
all goes on once there is some again."""

from __future__ import annotations

import errno
import itertools
import os
import random
import resource
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from snapfs import client
from snapfs.errors import NoSpace, SnapfsError
from snapfs.testing.mounted import MountedStore

KIB, MIB = 1 << 10, 1 << 20
SMALL_BYTES = 48 * MIB
WAIT_SECONDS_MAX = 20.0
Stores = Callable[..., MountedStore]

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root may mount")


def failing(*numbers: int) -> pytest.RaisesExc[OSError]:
    return pytest.raises(OSError, check=lambda error: error.errno in numbers)


def expect(error: OSError, *numbers: int) -> None:
    if error.errno not in numbers:
        raise error


def eventually(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while not (held := holds()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return held


class TestDescriptors:
    def test_the_daemon_has_none_left(self, stores: Stores) -> None:
        """What needs one fails; nothing else does, and nothing is lost."""
        one = stores().mount()
        one.volume.mkdir()
        chance = random.Random(5)
        before = {f"before-{number}": chance.randbytes(100_000) for number in range(5)}
        for name, data in before.items():
            write_synced(one.volume / name, data)
        one.remount()  # with no segment open to read
        soft, hard = resource.prlimit(one.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(one.pid, resource.RLIMIT_NOFILE, (3, hard))
        done, refused = {}, 0
        for number in range(20):
            name, data = f"during-{number}", chance.randbytes(50_000)
            try:
                write_synced(one.volume / name, data)
                done[name] = data
            except OSError as error:
                expect(error, errno.EIO, errno.EMFILE, errno.ENFILE)
                refused += 1
        for name in before:
            try:
                assert (one.volume / name).read_bytes() == before[name]
            except OSError as error:
                expect(error, errno.EIO, errno.EMFILE, errno.ENFILE)
                refused += 1
        assert refused > 0
        with pytest.raises(SnapfsError), client.connect(one.store, timeout_seconds=1) as connected:
            connected.create_snapshot(volume="data", name="no connection")
        assert len(os.listdir(one.volume)) >= 5 + len(done)  # the mount itself needs none
        resource.prlimit(one.pid, resource.RLIMIT_NOFILE, (soft, hard))
        assert eventually(lambda: can(lambda: one.snapshot("again")))
        for place in (one.volume, one.snap / "again"):
            for name, data in (before | done).items():
                assert (place / name).read_bytes() == data
        assert one.call("check_store").findings == []
        one.remount()
        for name, data in (before | done).items():
            assert (one.volume / name).read_bytes() == data
        assert "Traceback" not in one.log()


def can(action: Callable[[], object]) -> bool:
    try:
        action()
    except (OSError, SnapfsError):
        return False
    return True


def write_synced(path: Path, data: bytes) -> None:
    """Acknowledged when it returns."""
    with open(path, "wb", 0) as file:
        assert file.write(data) == len(data)
        os.fsync(file.fileno())


class Small:
    """A store on a small file system of its own, which a hog can fill."""

    def __init__(self, place: Path, store: MountedStore) -> None:
        self.place = place
        self.one = store
        self._hog = place / "hog"

    def fill(self, left_bytes: int = 0) -> None:
        """Another program takes what is free."""
        status = os.statvfs(self.place)
        size = status.f_bavail * status.f_frsize - left_bytes
        with open(self._hog, "wb") as file:
            while size > 0:
                try:
                    os.posix_fallocate(file.fileno(), 0, size)
                    break
                except OSError as error:
                    expect(error, errno.ENOSPC)
                    size -= 64 * KIB  # the file's own bookkeeping

    def free(self) -> None:
        self._hog.unlink(missing_ok=True)


@pytest.fixture
def small(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Small]:
    place = tmp_path / "small"
    place.mkdir()
    if request.param == "tmpfs":
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SMALL_BYTES}", "none", place], check=True)
    else:
        with open(tmp_path / "image", "wb") as image:
            image.truncate(SMALL_BYTES)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", tmp_path / "image"], check=True)
        if subprocess.run(["mount", "-o", "loop", tmp_path / "image", place], check=False).returncode:
            pytest.skip("no loop devices here")
    try:
        one = MountedStore(place)
        try:
            one.mount()
            one.volume.mkdir()
            yield Small(place, one)
        finally:
            one.close()
    finally:
        subprocess.run(["umount", "-l", place], check=True)


@needs_root
class TestDiskFull:
    @pytest.mark.parametrize("small", ["ext4"], indirect=True)
    def test_until_nothing_fits(self, small: Small) -> None:
        """Written until refused; what was acknowledged stays; what is deleted gives room again."""
        one, chance = small.one, random.Random(9)
        kept: dict[str, bytes] = {}
        refused = 0
        for number in itertools.count():
            name, data = f"file-{number}", chance.randbytes(MIB)
            try:
                write_synced(one.volume / name, data)
                kept[name] = data
            except OSError as error:
                expect(error, errno.ENOSPC)
                refused += 1
                if refused == 3:
                    break
        assert len(kept) > 10
        with failing(errno.ENOSPC):
            for number in range(100_000):
                os.symlink("t" * 4000, one.volume / f"link-{number}")
        assert os.statvfs(one.volume).f_bavail == 0
        for name, data in kept.items():
            assert (one.volume / name).read_bytes() == data
        for name in list(kept)[::2]:
            (one.volume / name).unlink()
            del kept[name]
        more = {f"more-{number}": chance.randbytes(MIB) for number in range(5)}
        for name, data in more.items():
            assert eventually(lambda name=name, data=data: can(lambda: write_synced(one.volume / name, data)))
        one.snapshot("after")
        one.kill()
        one.mount()
        for place in (one.volume, one.snap / "after"):
            for name, data in (kept | more).items():
                assert (place / name).read_bytes() == data
        assert one.call("check_store").findings == []

    @pytest.mark.parametrize(
        ("small", "left_bytes"),
        [("tmpfs", 0), ("ext4", 0), ("ext4", 2 * MIB), ("ext4", 12 * MIB)],
        indirect=["small"],
    )
    def test_at_every_step(self, small: Small, left_bytes: int) -> None:
        """Another program fills the disk before each step in turn: the step is done, or says that there is no space
        and is possible once there is some again."""
        one = small.one
        content = random.Random(3).randbytes(300_000)
        steps = Steps(one, content)
        refused = 0
        for step in steps.all():
            small.fill(left_bytes)
            try:
                step()
            except OSError as error:
                expect(error, errno.ENOSPC)
            except NoSpace:
                pass
            else:
                small.free()
                continue
            refused += 1
            small.free()
            assert eventually(lambda step=step: can(step))
        assert refused > 2 or left_bytes > 8 * MIB
        steps.check()
        one.kill()
        one.mount()
        steps.check()
        assert one.call("check_store").findings == []


class Steps:
    """A workload; each step can be repeated after it was refused."""

    def __init__(self, one: MountedStore, content: bytes) -> None:
        self.one = one
        self.volume = one.volume
        self.content = content

    def all(self) -> list[Callable[[], object]]:
        v = self.volume
        return [
            lambda: os.mkdir(v / "d"),
            lambda: write_synced(v / "d" / "file", self.content),
            lambda: os.symlink("file", v / "d" / "symlink"),
            lambda: os.link(v / "d" / "file", v / "d" / "link"),
            lambda: self.one.snapshot("first"),
            lambda: self._overwrite(100_000, b"x" * 50_000),
            lambda: os.truncate(v / "d" / "file", 250_000),
            lambda: os.rename(v / "d" / "link", v / "moved"),
            lambda: os.chmod(v / "moved", stat.S_IRUSR | stat.S_IWUSR),
            lambda: self.one.snapshot("second"),
            lambda: write_synced(v / "more", self.content[::-1] * 3),
            lambda: self.one.call("clone", volume="data", snapshot="first", name="clone"),
            lambda: os.unlink(v / "more"),
            lambda: self.one.call("delete_snapshot", volume="data", snapshot="second"),
            lambda: write_synced(self.one.root / "clone" / "new", b"new"),
        ]

    def _overwrite(self, offset: int, data: bytes) -> None:
        with open(self.volume / "d" / "file", "r+b", 0) as file:
            file.seek(offset)
            file.write(data)
            os.fsync(file.fileno())

    def check(self) -> None:
        v, now = self.volume, self.content[:100_000] + b"x" * 50_000 + self.content[150_000:250_000]
        assert sorted(os.listdir(v)) == ["d", "moved"]
        assert sorted(os.listdir(v / "d")) == ["file", "symlink"]
        assert (v / "moved").read_bytes() == (v / "d" / "symlink").read_bytes() == now
        assert (v / "moved").stat().st_nlink == 2
        assert stat.S_IMODE((v / "moved").stat().st_mode) == 0o600
        for place in (self.one.snap / "first", self.one.root / "clone"):
            assert (place / "d" / "file").read_bytes() == self.content
            assert (place / "d" / "link").stat().st_nlink == 2
        assert os.listdir(self.one.snap) == ["first"]
        assert (self.one.root / "clone" / "new").read_bytes() == b"new"
