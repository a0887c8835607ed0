"""What happens at the limits, through a real mount: as docs/POSIX.md, section "Limits", says.

The quota has a test of its own (test_quota.py).
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from snapfs.errors import Kind, SnapfsError
from snapfs.store import layout
from snapfs.store.disk import Disk
from snapfs.store.index import Index
from snapfs.testing.mounted import MountedStore
from snapfs.types import FILE_BYTES_MAX, INO_BITS, LINKS_MAX, VIEW_BITS

KIB, MIB, TIB = 1 << 10, 1 << 20, 1 << 40
Stores = Callable[..., MountedStore]


def failing(*numbers: int) -> pytest.RaisesExc[OSError]:
    return pytest.raises(OSError, check=lambda error: error.errno in numbers)


class TestNames:
    def test_of_every_byte(self, mounted: MountedStore) -> None:
        """All but NUL and "/", each alone ("." is taken), and all in one name."""
        possible = [byte for byte in range(1, 256) if byte != ord("/")]
        alone = {bytes([byte]) for byte in possible if byte != ord(".")}
        names = sorted(alone | {bytes(possible), bytes(reversed(possible)), b"..."})
        assert len(bytes(possible)) == 254
        volume = os.fsencode(mounted.volume)
        for name in names:
            with open(volume + b"/" + name, "wb") as file:
                file.write(name)
        mounted.snapshot("all")
        mounted.remount()
        for place in (volume, volume + b"/.snap/all"):
            assert sorted(os.listdir(place)) == names
            for name in names:
                with open(place + b"/" + name, "rb") as file:
                    assert file.read() == name
        assert len(mounted.call("diff", volume="data", snapshot="all")) == 0

    def test_of_255_bytes_and_longer(self, volume: Path) -> None:
        longest = "n" * 255
        (volume / longest).mkdir()
        (volume / longest / ("f" * 255)).touch()
        (volume / longest / ("f" * 255)).rename(volume / ("g" * 255))
        for make in (os.mkdir, os.mkfifo, os.stat, os.unlink, os.rmdir):
            with failing(errno.ENAMETOOLONG):
                make(volume / ("n" * 256))
        with failing(errno.ENAMETOOLONG):
            os.rename(volume / ("g" * 255), volume / ("g" * 256))
        with failing(errno.ENAMETOOLONG):
            os.link(volume / ("g" * 255), volume / ("g" * 256))
        assert sorted(os.listdir(volume)) == ["g" * 255, longest]

    def test_paths_of_4095_bytes_and_longer(self, volume: Path) -> None:
        """PATH_MAX counts the NUL at the end; it is the kernel's, for one call."""
        with open_directory(volume) as directory:
            base = f"/proc/self/fd/{directory}/"
            parts = ["d" * 220] * 18
            for depth in range(1, len(parts) + 1):
                os.mkdir(base + "/".join(parts[:depth]))
            inside = base + "/".join(parts) + "/"
            fits = inside + "f" * (4095 - len(inside))
            with open(fits, "w") as file:
                file.write("far")
            assert len(fits) == 4095
            with open(fits) as file:
                assert file.read() == "far"
            for call in (os.stat, os.unlink, os.mkdir):
                with failing(errno.ENAMETOOLONG):
                    call(fits + "f")

    def test_directories_deeper_than_any_path(self, mounted: MountedStore) -> None:
        """They are reached step by step; snapfs itself has no limit of depth."""
        depth, name = 1_500, "deep"
        mounted.snapshot("empty")
        with contextlib.ExitStack() as stack:
            directory = stack.enter_context(open_directory(mounted.volume))
            for _ in range(depth):
                os.mkdir(name, dir_fd=directory)
                with contextlib.ExitStack() as step:
                    directory = step.enter_context(open_directory(name, dir_fd=directory))
                    stack.close()
                    stack.push(step.pop_all())
            os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=directory))
        mounted.snapshot("full")
        changes = mounted.call("diff", volume="data", snapshot="empty", other="full")
        assert max(change.path.count("/") for change in changes) == depth
        assert mounted.call("check_store").findings == []
        mounted.checkout("empty")
        assert os.listdir(mounted.volume) == []
        mounted.call("restore", volume="data", snapshot="full", paths=[name])
        assert os.listdir(mounted.volume) == [name]

    def test_symbolic_links_targets(self, mounted: MountedStore) -> None:
        longest = "t" * 4095
        os.symlink(longest, mounted.volume / "link")
        with failing(errno.ENAMETOOLONG):
            os.symlink(longest + "t", mounted.volume / "longer")
        with failing(errno.ENOENT):
            os.symlink("", mounted.volume / "empty")
        mounted.remount()
        assert os.readlink(mounted.volume / "link") == longest
        assert os.lstat(mounted.volume / "link").st_size == 4095
        with failing(errno.ENAMETOOLONG):
            os.stat(mounted.volume / "link")


@contextlib.contextmanager
def open_directory(path: Path | str, dir_fd: int | None = None) -> Iterator[int]:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY, dir_fd=dir_fd)
    try:
        yield directory
    finally:
        os.close(directory)


class TestFiles:
    def test_16_tib_sparse(self, mounted: MountedStore) -> None:
        path = mounted.volume / "sparse"
        size = 16 * TIB
        with open(path, "w+b") as file:
            os.pwrite(file.fileno(), b"the end", size - 7)
            os.pwrite(file.fileno(), b"middle", size // 2)
            os.fsync(file.fileno())
            assert os.fstat(file.fileno()).st_size == size
            with mmap.mmap(file.fileno(), 64 * KIB, offset=size - 64 * KIB) as memory:
                assert memory[-7:] == b"the end"
                memory[:5] = b"a map"
        mounted.snapshot("whole")
        mounted.remount()
        assert path.stat().st_blocks * 512 <= MIB
        with open(path, "r+b") as file:
            chance = random.Random(16)
            for offset in (0, *(chance.randrange(size // 4096) * 4096 for _ in range(20))):
                assert os.pread(file.fileno(), 4096, offset) in (bytes(4096), b"middle" + bytes(4090))
            assert os.pread(file.fileno(), 10, size // 2 - 2) == b"\0\0middle\0\0"
            assert os.pread(file.fileno(), 5, size - 64 * KIB) == b"a map"
            os.ftruncate(file.fileno(), size // 2 + 3)
            os.ftruncate(file.fileno(), size)
            assert os.pread(file.fileno(), 100, size // 2) == b"mid" + bytes(97)
            assert os.pread(file.fileno(), 100, size - 7) == bytes(7)
        mounted.remount()
        with open(path, "rb") as file:
            assert os.pread(file.fileno(), 100, size // 2) == b"mid" + bytes(97)
        with open(mounted.snap / "whole" / "sparse", "rb") as file:
            assert os.pread(file.fileno(), 100, size - 7) == b"the end"
            assert os.pread(file.fileno(), 7, size // 2) == b"middle\0"
        assert mounted.call("check_store").findings == []

    def test_the_largest(self, mounted: MountedStore) -> None:
        path = mounted.volume / "largest"
        with open(path, "w+b") as file:
            os.pwrite(file.fileno(), b"end", FILE_BYTES_MAX - 3)
            os.fsync(file.fileno())
            for offset, size in ((FILE_BYTES_MAX, 1), (FILE_BYTES_MAX - 1, 4)):  # the kernel's answer; of XFS, too
                with failing(errno.EINVAL):
                    os.pwrite(file.fileno(), b"x" * size, offset)
            os.pwrite(file.fileno(), b"!", FILE_BYTES_MAX - 1)
        mounted.remount()
        assert path.stat().st_size == FILE_BYTES_MAX
        with open(path, "r+b") as file:
            assert os.pread(file.fileno(), 3, FILE_BYTES_MAX - 3) == b"en!"
            os.ftruncate(file.fileno(), 0)
            os.ftruncate(file.fileno(), FILE_BYTES_MAX)
        assert path.stat().st_size == FILE_BYTES_MAX
        assert mounted.call("check_store").findings == []


class TestMany:
    @pytest.mark.soak
    @pytest.mark.timeout(1800)
    def test_links_to_a_file(self, mounted: MountedStore) -> None:
        first = mounted.volume / "first"
        first.write_bytes(b"one")
        for number in range(1, LINKS_MAX):
            os.link(first, mounted.volume / str(number))
        assert first.stat().st_nlink == LINKS_MAX == 65_000
        with failing(errno.EMLINK):
            os.link(first, mounted.volume / "one too many")
        mounted.remount()
        assert (mounted.volume / "64999").stat().st_nlink == LINKS_MAX
        for number in range(LINKS_MAX - 1, 0, -1):
            (mounted.volume / str(number)).unlink()
        assert first.stat().st_nlink == 1
        assert mounted.call("check_store").findings == []

    @pytest.mark.soak
    @pytest.mark.timeout(1800)
    def test_directories_in_a_directory(self, mounted: MountedStore) -> None:
        """Each is a link to its parent."""
        for number in range(LINKS_MAX - 2):
            os.mkdir(mounted.volume / str(number))
        assert mounted.volume.stat().st_nlink == LINKS_MAX
        with failing(errno.EMLINK):
            os.mkdir(mounted.volume / "one too many")
        (mounted.volume / "a file").touch()
        os.rmdir(mounted.volume / "0")
        os.mkdir(mounted.volume / "again")

    @pytest.mark.soak
    @pytest.mark.timeout(1800)
    def test_100_000_entries(self, mounted: MountedStore) -> None:
        """Made, listed, looked up and removed with work of the daemon that grows no faster than their number."""
        count, parts = 100_000, 4
        seconds: dict[str, list[float]] = {"make": [], "remove": []}
        for part in range(parts):
            began = cpu_seconds(mounted.pid)
            for number in range(part * count // parts, (part + 1) * count // parts):
                os.close(os.open(mounted.volume / f"entry-{number}", os.O_CREAT | os.O_WRONLY))
            seconds["make"].append(cpu_seconds(mounted.pid) - began)
        mounted.remount()  # the daemon is another one then
        names = os.listdir(mounted.volume)
        assert sorted(names) == sorted(f"entry-{number}" for number in range(count))
        assert sum(1 for entry in os.scandir(mounted.volume) if entry.is_file()) == count
        mounted.snapshot("all")
        for part in range(parts):
            began = cpu_seconds(mounted.pid)
            for name in names[part * count // parts : (part + 1) * count // parts]:
                os.unlink(mounted.volume / name)
            seconds["remove"].append(cpu_seconds(mounted.pid) - began)
        assert os.listdir(mounted.volume) == []
        assert len(os.listdir(mounted.snap / "all")) == count
        for what, each in seconds.items():
            assert max(each) < 4 * min(each), f"{what}: {each}"

    @pytest.mark.soak
    @pytest.mark.timeout(3000)
    def test_a_million_files_walked(self, stores: Stores) -> None:
        """The daemon's own memory stays below 1 GiB, while the kernel knows all of them."""
        one = stores().mount()
        one.volume.mkdir()
        directories, files = 1_000, 1_000
        for directory in range(directories):
            os.mkdir(one.volume / str(directory))
            with open_directory(one.volume / str(directory)) as inside:
                for file in range(files):
                    os.close(os.open(str(file), os.O_CREAT | os.O_WRONLY, dir_fd=inside))
        one.snapshot("all")
        one.remount()
        found = subprocess.run(["find", one.volume, "-type", "f", "-size", "0"], capture_output=True, check=True)
        assert found.stdout.count(b"\n") == directories * files
        walked = sum(len(files) for _, _, files in os.walk(one.snap / "all"))
        assert walked == directories * files
        anonymous_kib = memory_kib(one.pid, "RssAnon")
        print(f"RssAnon {anonymous_kib} KiB, VmHWM {memory_kib(one.pid, 'VmHWM')} KiB")
        assert anonymous_kib < MIB


def cpu_seconds(pid: int) -> float:
    """Time that a process has worked: unlike the clock's, the same on a busy machine."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_kib(pid: int, what: str) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith(what + ":")))


class TestNumbers:
    """Inode and snapshot numbers are never used again: a store can run out of them."""

    @staticmethod
    def set_counter(store: Path, counter: bytes, value: int) -> None:
        index = Index(store / layout.INDEX, disk=Disk())
        try:
            index.put("meta", counter, value.to_bytes(8, "little"))
            index.commit()
        finally:
            index.close()

    def test_no_inodes(self, stores: Stores) -> None:
        one = stores().mount()
        one.volume.mkdir()
        (one.volume / "early").write_bytes(b"early")
        one.umount()
        self.set_counter(one.store, b"next_ino", (1 << INO_BITS) - 3)
        one.mount()
        for name in "abc":
            (one.volume / name).write_text(name)
        assert os.statvfs(one.volume).f_ffree == 0
        for make in (os.mkdir, os.mkfifo, lambda path: os.symlink("x", path), Path.touch):
            with failing(errno.ENOSPC):
                make(one.volume / "d")
        (one.volume / "a").write_text("written all the same")
        os.link(one.volume / "a", one.volume / "link")
        (one.volume / "b").unlink()
        with failing(errno.ENOSPC):
            (one.volume / "b").touch()
        one.snapshot("full")
        one.remount()
        assert sorted(os.listdir(one.volume)) == ["a", "c", "early", "link"]
        assert (one.volume / "link").read_text() == "written all the same"
        assert (one.snap / "full" / "early").read_bytes() == b"early"
        assert one.call("check_store").findings == []

    def test_no_snapshot_numbers(self, stores: Stores) -> None:
        one = stores().mount()
        one.volume.mkdir()
        one.snapshot("early")
        one.umount()
        self.set_counter(one.store, b"next_epoch", (1 << VIEW_BITS) - 1)
        one.mount()
        (one.volume / "file").write_text("of the last")
        one.snapshot("last")
        with pytest.raises(SnapfsError) as refused:
            one.snapshot("one too many")
        assert refused.value.kind is Kind.NO_SPACE
        assert refused.value.hint
        with failing(errno.ENOSPC):
            os.mkdir(one.root / "another")
        (one.volume / "file").write_text("still writable")
        one.remount()
        assert (one.volume / "file").read_text() == "still writable"
        assert (one.snap / "last" / "file").read_text() == "of the last"
        assert one.call("check_store").findings == []
