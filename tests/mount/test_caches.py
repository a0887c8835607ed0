"""What the kernel caches stays true over checkouts and restores, and warm where nothing changed."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from snapfs import api

PAGE = mmap.PAGESIZE
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]


def failing(number: int) -> pytest.RaisesExc[OSError]:
    return pytest.raises(OSError, check=lambda error: error.errno == number)


def cached_pages(path: Path) -> int:
    """Pages of the file in the page cache."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE) as memory:
        pages = -(-len(memory) // PAGE)
        present = ctypes.create_string_buffer(pages)
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        assert _libc.mincore(address, len(memory), present) == 0
        return sum(byte & 1 for byte in present.raw)


@contextlib.contextmanager
def held_open(path: Path, flags: int = os.O_RDONLY) -> Iterator[int]:
    """A descriptor that goes stale: even closing it then may fail."""
    file = os.open(path, flags, 0o600)
    try:
        yield file
    finally:
        with contextlib.suppress(OSError):
            os.close(file)


def is_stale(file: int) -> bool:
    """Whether reading an open file fails (of an empty one the kernel reads nothing: so its size)."""
    try:
        os.pread(file, 100, 0)
        os.fstat(file)
    except OSError as error:
        return error.errno in (errno.ESTALE, errno.EIO)
    return False


def attributes(path: Path) -> tuple[int, ...]:
    """But for the inode number: a replaced file gets another one."""
    status = path.stat()
    return status.st_mode, status.st_nlink, status.st_uid, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def contents(sizes: tuple[int, ...]) -> list[bytes]:
    return [random.Random(size).randbytes(size) for size in sizes]


@pytest.mark.parametrize(
    "sizes",
    [(5, 26), (26, 5), (10_000, 3_000_000), (3_000_000, 10_000), (0, 70_000), (70_000, 0), (9000, 9001)],
)
class TestContent:
    def test_new_state_by_name(self, mounted, sizes: tuple[int, int]) -> None:
        file = mounted.volume / "file"
        for turn, content in enumerate(contents(sizes)):
            file.write_bytes(content)
            mounted.snapshot(f"s{turn}")
        for turn in (0, 1, 0):
            mounted.checkout(f"s{turn}")
            assert file.stat().st_size == sizes[turn]
            assert file.read_bytes() == contents(sizes)[turn]

    def test_an_open_file_reads_no_old_data(self, mounted, sizes: tuple[int, int]) -> None:
        file = mounted.volume / "file"
        for turn, content in enumerate(contents(sizes)):
            file.write_bytes(content)
            mounted.snapshot(f"s{turn}")
        with held_open(file) as held:
            os.read(held, 100)
            mounted.checkout("s0")
            assert is_stale(held)
            assert file.read_bytes() == contents(sizes)[0]
            assert is_stale(held)

    def test_writes_to_an_open_file_fail(self, mounted, sizes: tuple[int, int]) -> None:
        file = mounted.volume / "file"
        for turn, content in enumerate(contents(sizes)):
            file.write_bytes(content)
            mounted.snapshot(f"s{turn}")
        held = os.open(file, os.O_RDWR)
        mounted.checkout("s0")
        failures = []
        for step in (lambda: os.pwrite(held, b"lost", 0), lambda: os.fsync(held), lambda: os.close(held)):
            try:
                step()
            except OSError as error:
                failures.append(error.errno)
        assert failures
        assert set(failures) <= {errno.ESTALE, errno.EIO}
        assert file.read_bytes() == contents(sizes)[0]


class TestMaps:
    def test_a_map_gets_sigbus_instead_of_old_data(self, mounted) -> None:
        file = mounted.volume / "file"
        file.write_bytes(b"a" * 10 * PAGE)
        mounted.snapshot("a")
        file.write_bytes(b"b" * 10 * PAGE)
        mounted.snapshot("b")
        code = (
            "import mmap, sys\n"
            "file = open(sys.argv[1], 'rb')\n"
            "memory = mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ)\n"
            "assert memory[:] == b'b' * len(memory)\n"
            "print('mapped', flush=True)\n"
            "sys.stdin.readline()\n"
            "print(memory[:10], flush=True)\n"
        )
        with subprocess.Popen(
            [sys.executable, "-I", "-c", code, file], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as reader:
            assert reader.stdout is not None
            assert reader.stdout.readline() == "mapped\n"
            mounted.checkout("a")
            assert file.read_bytes() == b"a" * 10 * PAGE
            out, _ = reader.communicate("go\n", timeout=10)
            assert out == ""
            assert reader.returncode == -signal.SIGBUS
        with open(file, "rb") as again, mmap.mmap(again.fileno(), 0, prot=mmap.PROT_READ) as memory:
            assert memory[:3] == b"aaa"


class TestNames:
    def test_absent_and_present_names_are_forgotten(self, mounted) -> None:
        volume = mounted.volume
        (volume / "dir").mkdir()
        (volume / "dir" / "old").write_bytes(b"old")
        mounted.snapshot("a")
        (volume / "dir" / "old").unlink()
        (volume / "dir" / "new").write_bytes(b"new")
        (volume / "dir" / "deep").mkdir()
        (volume / "dir" / "deep" / "file").write_bytes(b"deep")
        mounted.snapshot("b")
        for turn in range(3):
            assert not (volume / "dir" / "old").exists(), turn
            assert (volume / "dir" / "new").read_bytes() == b"new"
            assert (volume / "dir" / "deep" / "file").read_bytes() == b"deep"
            assert sorted(os.listdir(volume / "dir")) == ["deep", "new"]
            mounted.checkout("a")
            assert not (volume / "dir" / "new").exists()
            assert not (volume / "dir" / "deep").exists()
            assert (volume / "dir" / "old").read_bytes() == b"old"
            assert os.listdir(volume / "dir") == ["old"]
            mounted.checkout("b")

    def test_moves_and_links(self, mounted) -> None:
        volume = mounted.volume
        (volume / "a").mkdir()
        (volume / "a" / "file").write_bytes(b"1")
        os.link(volume / "a" / "file", volume / "hard")
        (volume / "soft").symlink_to("a/file")
        mounted.snapshot("a")
        (volume / "a").rename(volume / "b")
        (volume / "hard").write_bytes(b"22")
        (volume / "soft").unlink()
        (volume / "soft").symlink_to("b/file")
        mounted.snapshot("b")
        for _ in range(2):
            assert (volume / "soft").read_bytes() == b"22"
            assert (volume / "b" / "file").read_bytes() == b"22"
            assert (volume / "b" / "file").stat().st_nlink == 2
            mounted.checkout("a")
            assert (volume / "soft").read_bytes() == b"1"
            assert (volume / "a" / "file").read_bytes() == (volume / "hard").read_bytes() == b"1"
            assert not (volume / "b").exists()
            mounted.checkout("b")

    def test_attributes(self, mounted) -> None:
        volume = mounted.volume
        for name in ("dir", "other"):
            (volume / name).mkdir()
        (volume / "file").touch()
        os.utime(volume / "file", ns=(5, 5))
        mounted.snapshot("a")
        before = {name: attributes(volume / name) for name in ("dir", "other", "file")}
        (volume / "dir").chmod(0o700)
        (volume / "file").chmod(0o600)
        os.utime(volume / "file", ns=(6, 6))
        mounted.snapshot("b")
        mounted.checkout("a")
        after = {name: attributes(volume / name) for name in ("dir", "other", "file")}
        assert before == after

    def test_a_removed_current_directory(self, mounted) -> None:
        mounted.snapshot("a")
        (mounted.volume / "dir").mkdir()
        inside = os.open(mounted.volume / "dir", os.O_RDONLY)
        try:
            mounted.checkout("a")
            with pytest.raises(OSError):
                os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=inside)
        finally:
            os.close(inside)
        assert os.listdir(mounted.volume) == []

    def test_a_directory_that_stays_can_be_held(self, mounted) -> None:
        (mounted.volume / "dir").mkdir()
        (mounted.volume / "dir" / "file").write_bytes(b"1")
        mounted.snapshot("a")
        (mounted.volume / "dir" / "file").write_bytes(b"22")
        (mounted.volume / "dir" / "new").touch()
        inside = os.open(mounted.volume / "dir", os.O_RDONLY)
        try:
            mounted.checkout("a")
            assert os.listdir(inside) == ["file"]
            with open(os.open("file", os.O_RDONLY, dir_fd=inside), "rb") as file:
                assert file.read() == b"1"
        finally:
            os.close(inside)


class TestUnlinked:
    def test_an_unlinked_open_file_is_stale_and_leaves_nothing(self, mounted) -> None:
        mounted.snapshot("a")
        with held_open(mounted.volume / "file", os.O_CREAT | os.O_RDWR) as held:
            os.write(held, b"x" * 100_000)
            os.fsync(held)
            (mounted.volume / "file").unlink()
            (mounted.volume / "other").touch()
            mounted.checkout("a")
            assert is_stale(held)
        assert os.listdir(mounted.volume) == []

    def test_a_file_that_comes_back(self, mounted) -> None:
        (mounted.volume / "file").write_bytes(b"here")
        mounted.snapshot("a")
        with held_open(mounted.volume / "file"):
            (mounted.volume / "file").unlink()
            mounted.checkout("a")
            assert (mounted.volume / "file").read_bytes() == b"here"
        assert (mounted.volume / "file").read_bytes() == b"here"
        mounted.remount()
        assert (mounted.volume / "file").read_bytes() == b"here"


class TestMany:
    """Names of many files are dropped by their nodes, in a few calls; of what is held they are dropped one by one."""

    def test_what_is_held_and_what_is_not(self, mounted) -> None:
        volume, files = mounted.volume, 120
        for directory in ("left", "right"):
            (volume / directory).mkdir()
        paths = [volume / ("left" if number % 3 else "right") / f"{number:03d}" for number in range(files)]
        for number, path in enumerate(paths):
            path.write_bytes(b"old %d" % number)
        for number in range(5):
            os.link(paths[number], volume / f"hard{number}")
        (volume / "same").write_bytes(b"s" * 16 * PAGE)
        mounted.snapshot("old")
        expected = [self._state(volume)]
        for number, path in enumerate(paths):
            path.write_bytes(b"newer and longer %d" % number)
        paths[60].rename(volume / "right" / "moved")
        paths[61].unlink()
        (volume / "left" / "added").write_bytes(b"added")
        mounted.snapshot("new")
        expected.append(self._state(volume))
        with contextlib.ExitStack() as held:
            reading = held.enter_context(held_open(paths[0]))
            writing = held.enter_context(held_open(paths[1], os.O_RDWR))
            os.pread(reading, 10, 0)
            pinned = held.enter_context(held_open(paths[2], os.O_PATH))
            watch = _libc.inotify_init1(os.O_CLOEXEC)
            held.callback(os.close, watch)
            assert _libc.inotify_add_watch(watch, os.fsencode(paths[3]), 0x2) > 0
            inside = held.enter_context(held_open(volume / "left"))
            for turn in (0, 1, 0):
                cached = cached_pages(volume / "same")
                mounted.checkout(("old", "new")[turn])
                assert cached_pages(volume / "same") == cached
                assert self._state(volume) == expected[turn]
                assert is_stale(reading)
                assert is_stale(writing)
                names = {name for name in expected[turn] if name.startswith("left/")}
                assert {f"left/{name}" for name in os.listdir(inside)} == names
            status = os.fstat(pinned)
            assert status.st_ino != paths[2].stat().st_ino
        assert self._state(volume) == expected[0]

    @staticmethod
    def _state(volume: Path) -> dict[str, tuple[bytes, tuple[int, ...]]]:
        """Bytes, size and times of every file, by path; twice, as the second comes from the kernel's caches."""
        found = []
        for _ in range(2):
            paths = [path for path in volume.rglob("*") if path.is_file()]
            found.append({str(path.relative_to(volume)): (path.read_bytes(), attributes(path)) for path in paths})
        assert found[0] == found[1]
        return found[0]


class TestWarmth:
    def test_unchanged_files_keep_their_pages(self, mounted) -> None:
        volume = mounted.volume
        (volume / "same").write_bytes(b"s" * 64 * PAGE)
        (volume / "changed").write_bytes(b"c" * 64 * PAGE)
        mounted.snapshot("a")
        (volume / "changed").write_bytes(b"d" * 64 * PAGE)
        mounted.snapshot("b")
        for name in ("same", "changed"):
            (volume / name).read_bytes()
            assert cached_pages(volume / name) == 64
        with open(volume / "same", "rb", 0) as held:
            mounted.checkout("a")
            assert cached_pages(volume / "same") == 64
            assert cached_pages(volume / "changed") == 0
            assert held.read() == b"s" * 64 * PAGE
        assert (volume / "changed").read_bytes() == b"c" * 64 * PAGE

    def test_opening_again_keeps_pages(self, mounted) -> None:
        (mounted.volume / "file").write_bytes(b"s" * 64 * PAGE)
        for _ in range(3):
            assert (mounted.volume / "file").read_bytes() == b"s" * 64 * PAGE
            assert cached_pages(mounted.volume / "file") == 64


class TestRestore:
    def test_restored_files_are_seen(self, mounted) -> None:
        volume = mounted.volume
        (volume / "dir").mkdir()
        (volume / "dir" / "gone").write_bytes(b"gone")
        (volume / "changed").write_bytes(b"old")
        mounted.snapshot("a")
        (volume / "dir" / "gone").unlink()
        (volume / "dir").rmdir()
        (volume / "changed").write_bytes(b"newer and longer")
        assert not (volume / "dir").exists()
        with held_open(volume / "changed"):
            mounted.call("restore", volume="data", snapshot="a", paths=["dir", "changed"])
            assert (volume / "dir" / "gone").read_bytes() == b"gone"
            assert (volume / "changed").read_bytes() == b"old"

    @pytest.mark.parametrize("verb", ["restore", "import_tree"])
    def test_what_is_replaced_cannot_be_opened_again(self, mounted, tmp_path: Path, verb: str) -> None:
        """Not even by who holds its path, and though the kernel has its pages."""
        file = mounted.volume / "file"
        file.write_bytes(b"old")
        mounted.snapshot("a")
        file.write_bytes(b"newer and longer")
        (tmp_path / "tree").mkdir()
        (tmp_path / "tree" / "file").write_bytes(b"old")
        held = os.open(file, os.O_PATH)
        try:
            assert file.read_bytes() == b"newer and longer"
            if verb == "restore":
                mounted.call("restore", volume="data", snapshot="a", paths=["file"])
            else:
                mounted.call("import_tree", source=str(tmp_path / "tree"), volume="data")
            assert file.read_bytes() == b"old"
            with failing(errno.ESTALE):
                os.open(f"/proc/self/fd/{held}", os.O_RDONLY)
            assert os.fstat(held).st_nlink == 0
        finally:
            os.close(held)
        assert file.read_bytes() == b"old"


def test_readers_see_one_state_or_the_other(mounted) -> None:
    """While checkouts go to and fro, every whole read of a file is of one snapshot."""
    volume = mounted.volume
    wanted = {}
    for turn, size in enumerate((50_000, 150_000)):
        for number in range(5):
            wanted[turn, number] = random.Random(turn * 100 + number).randbytes(size + number)
            (volume / f"file-{number}").write_bytes(wanted[turn, number])
        mounted.snapshot(f"s{turn}")
    done = threading.Event()
    wrong: list[str] = []
    reads = [0]

    def read() -> None:
        while not done.is_set():
            for number in range(5):
                try:
                    data = (volume / f"file-{number}").read_bytes()
                except OSError as error:
                    if error.errno not in (errno.ESTALE, errno.EIO):
                        wrong.append(str(error))
                    continue
                reads[0] += 1
                if data not in (wanted[0, number], wanted[1, number]):
                    wrong.append(f"file-{number}: {len(data)} bytes")

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for turn in range(30):
        mounted.checkout(f"s{turn % 2}")
        for number in range(5):
            assert (volume / f"file-{number}").stat().st_size == len(wanted[turn % 2, number])
    done.set()
    for thread in threads:
        thread.join()
    assert not wrong
    assert reads[0] > 0


def test_writes_on_an_old_handle_never_get_into_the_new_state(mounted) -> None:
    file = mounted.volume / "file"
    file.write_bytes(b"s" * 300_000)
    mounted.snapshot("s")
    for _ in range(10):
        held = os.open(file, os.O_RDWR)
        started = threading.Event()

        def write(held: int = held, started: threading.Event = started) -> None:
            with contextlib.suppress(OSError):
                for turn in range(100_000):
                    os.pwrite(held, b"w" * 5_000, turn * 4_099 % 400_000)
                    if turn % 7 == 0:
                        os.fsync(held)
                    started.set()

        writer = threading.Thread(target=write)
        writer.start()
        started.wait()
        mounted.checkout("s")
        assert file.read_bytes() == b"s" * 300_000
        writer.join()
        with contextlib.suppress(OSError):
            os.close(held)
        assert file.read_bytes() == b"s" * 300_000


def test_nothing_hangs_while_checkouts_go_on_under_load(mounted) -> None:
    volume = mounted.volume
    for turn in range(2):
        for number in range(6):
            place = volume / f"dir-{number}"
            place.mkdir(exist_ok=True)
            for name in range(5):
                (place / f"{name}-{turn}").write_bytes(os.urandom(20_000))
            (place / "same").write_bytes(b"%d" % turn * (turn + 1) * 10_000)
        mounted.snapshot(f"s{turn}")
    done = threading.Event()
    unexpected: list[str] = []
    expected = {errno.ENOENT, errno.ESTALE, errno.EIO, errno.EEXIST, errno.ENOTEMPTY}

    def work(seed: int) -> None:
        chance = random.Random(seed)
        while not done.is_set():
            place = volume / f"dir-{chance.randrange(6)}"
            path, other = (place / f"{chance.randrange(5)}-{chance.randrange(2)}" for _ in range(2))
            steps = (
                lambda path=path: path.read_bytes(),
                lambda path=path: path.write_bytes(os.urandom(chance.randrange(30_000))),
                lambda path=path, other=other: path.rename(other),
                lambda path=path: path.unlink(),
                lambda place=place: os.listdir(place),
                lambda place=place: (place / "same").stat(),
                lambda path=path: os.truncate(path, chance.randrange(40_000)),
            )
            try:
                chance.choice(steps)()
            except OSError as error:
                if error.errno not in expected:
                    unexpected.append(str(error))

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for worker in workers:
        worker.start()
    for turn in range(40):
        mounted.checkout(f"s{turn % 2}")
    done.set()
    for worker in workers:
        worker.join()
    assert not unexpected
    mounted.checkout("s1", api.Save.DISCARD)
    for number in range(6):
        assert (volume / f"dir-{number}" / "same").read_bytes() == b"1" * 20_000
        assert len(os.listdir(volume / f"dir-{number}")) == 11
