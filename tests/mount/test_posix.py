"""POSIX through a real mount."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import random
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4
AT_FDCWD = -100
_libc = ctypes.CDLL(None, use_errno=True)


def renameat2(old: Path, new: Path, flags: int) -> None:
    if _libc.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def syncfs(directory: Path) -> None:
    """syncfs(2): also tells of an earlier failure to write anything of the file system that nobody was told of."""
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if _libc.syncfs(opened):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(opened)


def failing(number: int) -> pytest.RaisesExc[OSError]:
    return pytest.raises(OSError, check=lambda error: error.errno == number)


class TestFiles:
    def test_what_is_written_is_read(self, volume: Path) -> None:
        data = random.Random(1).randbytes(3_000_001)
        (volume / "file").write_bytes(data)
        assert (volume / "file").read_bytes() == data
        assert (volume / "file").stat().st_size == len(data)

    def test_it_is_there_after_a_remount(self, mounted, volume: Path) -> None:
        data = random.Random(2).randbytes(700_000)
        (volume / "file").write_bytes(data)
        (volume / "file").chmod(0o640)
        os.utime(volume / "file", ns=(1_000_000_001, 1_234_567_890_123_456_789))
        before = (volume / "file").stat()
        mounted.remount()
        after = (volume / "file").stat()
        assert (volume / "file").read_bytes() == data
        assert (before.st_ino, before.st_mode, before.st_size) == (after.st_ino, after.st_mode, after.st_size)
        assert (after.st_atime_ns, after.st_mtime_ns) == (1_000_000_001, 1_234_567_890_123_456_789)

    def test_every_write_has_a_time(self, mounted, volume: Path) -> None:
        """Also when the kernel has it only in its cache at first."""
        (volume / "file").write_bytes(b"old")
        os.utime(volume / "file", ns=(1, 1))
        earliest = time.time_ns() - 50_000_000
        with open(volume / "file", "r+b") as file:
            file.write(b"new")
        mtime_ns = (volume / "file").stat().st_mtime_ns
        assert mtime_ns >= earliest
        mounted.remount()
        assert (volume / "file").stat().st_mtime_ns == mtime_ns

    def test_random_writes_and_truncations_agree_with_a_plain_file(self, volume: Path, tmp_path: Path) -> None:
        chance = random.Random(3)
        with open(volume / "f", "w+b", 0) as ours, open(tmp_path / "f", "w+b", 0) as plain:
            for _ in range(300):
                if chance.random() < 0.2:
                    size = chance.randrange(400_000)
                    ours.truncate(size)
                    plain.truncate(size)
                else:
                    offset, data = chance.randrange(300_000), chance.randbytes(chance.randrange(1, 9000))
                    assert os.pwrite(ours.fileno(), data, offset) == len(data)
                    os.pwrite(plain.fileno(), data, offset)
                if chance.random() < 0.05:
                    os.fsync(ours.fileno())
            assert os.fstat(ours.fileno()).st_size == os.fstat(plain.fileno()).st_size
        assert (volume / "f").read_bytes() == (tmp_path / "f").read_bytes()

    def test_append(self, volume: Path) -> None:
        files = [os.open(volume / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600) for _ in range(3)]
        for turn in range(30):
            os.write(files[turn % 3], b"%02d\n" % turn)
        for file in files:
            os.close(file)
        assert (volume / "log").read_bytes() == b"".join(b"%02d\n" % turn for turn in range(30))

    def test_small_writes_to_a_write_only_file(self, mounted, volume: Path) -> None:
        """The kernel reads around them, on the same handle."""
        (volume / "file").write_bytes(b"x" * 10_000)
        mounted.remount()
        file = os.open(volume / "file", os.O_WRONLY)
        os.pwrite(file, b"yy", 5_000)
        os.close(file)
        assert (volume / "file").read_bytes() == b"x" * 5_000 + b"yy" + b"x" * 4_998

    def test_sparse(self, mounted, volume: Path) -> None:
        with open(volume / "sparse", "wb") as file:
            file.seek(10 << 30)
            file.write(b"end")
        status = (volume / "sparse").stat()
        assert status.st_size == (10 << 30) + 3
        with open(volume / "sparse", "rb") as file:
            assert file.read(4096) == bytes(4096)
            file.seek(-3, os.SEEK_END)
            assert file.read() == b"end"
        mounted.remount()
        assert (volume / "sparse").stat().st_blocks * 512 < 1 << 20

    def test_open_truncates(self, mounted, volume: Path) -> None:
        (volume / "file").write_bytes(b"much" * 5000)
        os.utime(volume / "file", ns=(1, 1))
        os.close(os.open(volume / "file", os.O_WRONLY | os.O_TRUNC))
        assert (volume / "file").stat().st_size == 0
        assert (volume / "file").stat().st_mtime_ns > 1
        mounted.remount()
        assert (volume / "file").read_bytes() == b""

    def test_direct_io(self, volume: Path) -> None:
        data = mmap.mmap(-1, 65536)
        data.write(random.Random(4).randbytes(65536))
        file = os.open(volume / "direct", os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o600)
        try:
            assert os.pwrite(file, data, 0) == 65536
            back = mmap.mmap(-1, 65536)
            assert os.preadv(file, [back], 0) == 65536
            assert back[:] == data[:]
        finally:
            os.close(file)
        assert (volume / "direct").read_bytes() == data[:]

    def test_writers_from_many_threads(self, volume: Path) -> None:
        def work(number: int) -> None:
            for turn in range(20):
                (volume / f"{number}-{turn}").write_bytes(b"%d" % number * 5000)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(os.listdir(volume)) == 160
        for number in range(8):
            assert (volume / f"{number}-19").read_bytes() == b"%d" % number * 5000


class TestUnlinkedFiles:
    def test_an_open_one_lives_on(self, volume: Path) -> None:
        with open(volume / "file", "w+b", 0) as file:
            file.write(b"still here")
            (volume / "file").unlink()
            assert not (volume / "file").exists()
            assert os.fstat(file.fileno()).st_nlink == 0
            file.write(b", and growing")
            os.fsync(file.fileno())
            file.seek(0)
            assert file.read() == b"still here, and growing"

    def test_a_replaced_one_lives_on(self, volume: Path) -> None:
        (volume / "old").write_bytes(b"old")
        (volume / "new").write_bytes(b"new")
        with open(volume / "old", "rb") as file:
            (volume / "new").rename(volume / "old")
            assert file.read() == b"old"
        assert (volume / "old").read_bytes() == b"new"

    def test_its_space_comes_back(self, mounted, volume: Path) -> None:
        ours = 50
        for turn in range(ours):
            with open(volume / "file", "wb") as file:
                file.write(random.Random(turn).randbytes(200_000))
                os.fsync(file.fileno())
                (volume / "file").unlink()
        os.sync()
        mounted.remount()
        assert os.listdir(volume) == []


    def test_syncfs_has_nothing_to_complain_of(self, volume: Path) -> None:
        """The kernel sets the time of the unlink on the file that is gone."""
        (volume / "closed").write_bytes(b"x")
        (volume / "closed").unlink()
        syncfs(volume)
        (volume / "old").write_bytes(b"old")
        (volume / "new").write_bytes(b"new")
        (volume / "new").rename(volume / "old")
        syncfs(volume)
        (volume / "named").write_bytes(b"x")
        path = os.open(volume / "named", os.O_PATH)
        (volume / "named").unlink()
        syncfs(volume)
        assert os.fstat(path).st_nlink == 0
        os.close(path)
        syncfs(volume)


    def test_it_is_seen_by_who_refers_to_it(self, volume: Path) -> None:
        """Without having it open: by O_PATH."""
        (volume / "file").write_bytes(b"12345")
        path = os.open(volume / "file", os.O_PATH)
        try:
            (volume / "file").unlink()
            status = os.fstat(path)
            assert (status.st_nlink, status.st_size, stat.S_ISREG(status.st_mode)) == (0, 5, True)
            os.chmod(f"/proc/self/fd/{path}", 0o600)
            assert stat.S_IMODE(os.fstat(path).st_mode) == 0o600
            (volume / "file").write_bytes(b"another")
            assert os.fstat(path).st_size == 5
        finally:
            os.close(path)

    def test_an_open_one_is_seen_when_it_is_closed(self, volume: Path) -> None:
        file = os.open(volume / "file", os.O_CREAT | os.O_WRONLY, 0o600)
        path = os.open(volume / "file", os.O_PATH)
        try:
            (volume / "file").unlink()
            os.write(file, b"123")
            os.close(file)
            assert (os.fstat(path).st_nlink, os.fstat(path).st_size) == (0, 3)
        finally:
            os.close(path)

    @pytest.mark.parametrize("how", ["rmdir", "rename"])
    def test_a_removed_directory_is_seen_from_inside(self, volume: Path, how: str) -> None:
        (volume / "a").mkdir(0o750)
        opened = os.open(volume / "a", os.O_RDONLY | os.O_DIRECTORY)
        try:
            if how == "rmdir":
                (volume / "a").rmdir()
            else:
                (volume / "b").mkdir()
                (volume / "b").rename(volume / "a")
            status = os.fstat(opened)
            assert (status.st_nlink, stat.S_ISDIR(status.st_mode), stat.S_IMODE(status.st_mode)) == (0, True, 0o750)
            os.fchmod(opened, 0o700)
            assert stat.S_IMODE(os.fstat(opened).st_mode) == 0o700
            with failing(errno.ENOENT):
                os.mkdir("inside", dir_fd=opened)
        finally:
            os.close(opened)


    def test_a_checkout_brings_them_back(self, mounted, volume: Path) -> None:
        """While somebody still refers to what was removed: the kernel holds that for dead."""
        (volume / "a").mkdir()
        (volume / "a" / "file").write_bytes(b"old")
        mounted.snapshot("one")
        kept = [os.open(volume / name, os.O_PATH) for name in ("a", "a/file")]
        try:
            (volume / "a" / "file").unlink()
            (volume / "a").rmdir()
            mounted.checkout("one")
            assert (volume / "a" / "file").read_bytes() == b"old"
            (volume / "a" / "new").write_bytes(b"new")
            (volume / "a" / "below").mkdir()
            assert sorted(os.listdir(volume / "a")) == ["below", "file", "new"]
            assert (volume / "a" / "below" / "..").samefile(volume / "a")
            assert os.fstat(kept[0]).st_nlink == 0
            (volume / "a" / "file").write_bytes(b"newer")
            mounted.checkout("one")
            assert os.listdir(volume / "a") == ["file"]
            assert (volume / "a" / "file").read_bytes() == b"old"
        finally:
            for opened in kept:
                os.close(opened)


class TestNames:
    @pytest.mark.parametrize(
        "name",
        [
            b"a b",
            b"new\nline",
            b"\xff\xfe\x80",
            b"\xc3\xa4",
            b"x" * 255,
            b"-rf",
            b"$(x)",
            b"\\",
            b"a,b=c",
            b" ",
        ],
    )
    def test_any_bytes(self, mounted, volume: Path, name: bytes) -> None:
        path = os.path.join(os.fsencode(volume), name)
        with open(path, "wb") as file:
            file.write(name)
        assert os.listdir(os.fsencode(volume)) == [name]
        mounted.remount()
        with open(path, "rb") as file:
            assert file.read() == name

    def test_too_long(self, volume: Path) -> None:
        with failing(errno.ENAMETOOLONG):
            (volume / ("x" * 256)).touch()

    def test_a_missing_name_may_appear(self, volume: Path) -> None:
        assert not (volume / "later").exists()
        (volume / "later").touch()
        assert (volume / "later").exists()


class TestDirectories:
    def test_many_entries_are_listed_once(self, volume: Path) -> None:
        names = {f"file-{number}" for number in range(3000)}
        for name in names:
            os.close(os.open(volume / name, os.O_CREAT | os.O_WRONLY, 0o600))
        assert sorted(os.listdir(volume)) == sorted(names)

    def test_a_listing_survives_removals(self, volume: Path) -> None:
        for number in range(2000):
            os.close(os.open(volume / str(number), os.O_CREAT | os.O_WRONLY, 0o600))
        with os.scandir(volume) as entries:
            for entry in entries:
                os.unlink(entry.path)
        assert os.listdir(volume) == []

    def test_dots(self, volume: Path) -> None:
        (volume / "a" / "b").mkdir(parents=True)
        listed = subprocess.run(["ls", "-ai", volume / "a"], capture_output=True, check=True, text=True).stdout
        numbers = {name: int(number) for number, name in (line.split() for line in listed.splitlines())}
        assert numbers["."] == (volume / "a").stat().st_ino
        assert numbers[".."] == volume.stat().st_ino
        assert numbers["b"] == (volume / "a" / "b").stat().st_ino
        assert (volume / "a" / "b" / ".." / ".." / "..").samefile(volume.parent)
        assert (volume / ".." / "..").samefile(volume.parent.parent)

    def test_link_counts(self, volume: Path) -> None:
        assert volume.stat().st_nlink == 2
        (volume / "a").mkdir()
        (volume / "b").mkdir()
        assert volume.stat().st_nlink == 4
        (volume / "a").rename(volume / "b" / "a")
        assert (volume.stat().st_nlink, (volume / "b").stat().st_nlink) == (3, 3)

    def test_removal(self, volume: Path) -> None:
        (volume / "a").mkdir()
        (volume / "a" / "file").touch()
        with failing(errno.ENOTEMPTY):
            (volume / "a").rmdir()
        with failing(errno.EISDIR):
            (volume / "a").unlink()
        with failing(errno.ENOTDIR):
            (volume / "a" / "file").rmdir()
        (volume / "a" / "file").unlink()
        (volume / "a").rmdir()
        assert os.listdir(volume) == []

    def test_a_removed_directory_that_is_in_use(self, volume: Path) -> None:
        (volume / "a").mkdir()
        inside = os.open(volume / "a", os.O_RDONLY)
        try:
            (volume / "a").rmdir()
            with failing(errno.ENOENT):
                os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=inside)
        finally:
            os.close(inside)


class TestLinks:
    def test_hard_links(self, mounted, volume: Path) -> None:
        (volume / "one").write_bytes(b"content")
        os.link(volume / "one", volume / "two")
        assert (volume / "one").stat().st_nlink == 2
        assert os.path.samefile(volume / "one", volume / "two")
        with open(volume / "two", "ab") as file:
            file.write(b" and more")
        assert (volume / "one").read_bytes() == b"content and more"
        mounted.remount()
        (volume / "one").unlink()
        assert (volume / "two").stat().st_nlink == 1
        assert (volume / "two").read_bytes() == b"content and more"

    def test_symlinks(self, mounted, volume: Path) -> None:
        (volume / "dir").mkdir()
        target = b"dir/\xff missing"
        os.symlink(target, os.fsencode(volume / "link"))
        assert os.readlink(os.fsencode(volume / "link")) == target
        assert (volume / "link").lstat().st_size == len(target)
        (volume / "here").symlink_to("dir")
        (volume / "here" / "file").touch()
        mounted.remount()
        assert os.listdir(volume / "dir") == ["file"]
        assert os.readlink(os.fsencode(volume / "link")) == target

    def test_no_links_to_directories(self, volume: Path) -> None:
        (volume / "dir").mkdir()
        with failing(errno.EPERM):
            os.link(volume / "dir", volume / "other")


class TestRename:
    def test_replaces(self, volume: Path) -> None:
        (volume / "a").write_bytes(b"a")
        (volume / "b").write_bytes(b"b")
        (volume / "a").rename(volume / "b")
        assert os.listdir(volume) == ["b"]
        assert (volume / "b").read_bytes() == b"a"

    def test_noreplace(self, volume: Path) -> None:
        (volume / "a").write_bytes(b"a")
        (volume / "b").write_bytes(b"b")
        with failing(errno.EEXIST):
            renameat2(volume / "a", volume / "b", RENAME_NOREPLACE)
        renameat2(volume / "a", volume / "c", RENAME_NOREPLACE)
        assert sorted(os.listdir(volume)) == ["b", "c"]

    def test_exchange(self, mounted, volume: Path) -> None:
        (volume / "file").write_bytes(b"a")
        (volume / "dir" / "inner").mkdir(parents=True)
        renameat2(volume / "file", volume / "dir", RENAME_EXCHANGE)
        for _ in range(2):
            assert (volume / "dir").read_bytes() == b"a"
            assert os.listdir(volume / "file") == ["inner"]
            mounted.remount()
        with failing(errno.ENOENT):
            renameat2(volume / "file", volume / "missing", RENAME_EXCHANGE)

    def test_whiteout_is_refused(self, volume: Path) -> None:
        (volume / "a").touch()
        with failing(errno.EINVAL):
            renameat2(volume / "a", volume / "b", RENAME_WHITEOUT)

    def test_not_into_itself(self, volume: Path) -> None:
        (volume / "a" / "b").mkdir(parents=True)
        with failing(errno.EINVAL):
            (volume / "a").rename(volume / "a" / "b" / "c")

    def test_not_to_another_volume(self, mounted, volume: Path) -> None:
        (mounted.root / "other").mkdir()
        (volume / "a").touch()
        with failing(errno.EXDEV):
            (volume / "a").rename(mounted.root / "other" / "a")
        with failing(errno.EXDEV):
            os.link(volume / "a", mounted.root / "other" / "a")


class TestAttributes:
    def test_mode_and_umask(self, volume: Path) -> None:
        before = os.umask(0o027)
        try:
            (volume / "file").touch(0o666)
            (volume / "dir").mkdir(0o777)
        finally:
            os.umask(before)
        assert stat.S_IMODE((volume / "file").stat().st_mode) == 0o640
        assert stat.S_IMODE((volume / "dir").stat().st_mode) == 0o750
        (volume / "file").chmod(0o4751)
        assert stat.S_IMODE((volume / "file").stat().st_mode) == 0o4751

    def test_times_to_the_nanosecond(self, mounted, volume: Path) -> None:
        (volume / "file").touch()
        (volume / "dir").mkdir()
        (volume / "link").symlink_to("x")
        for name in ("file", "dir", "link"):
            os.utime(volume / name, ns=(123_456_789_012_345_678, -1_000_000_001), follow_symlinks=False)
        mounted.remount()
        for name in ("file", "dir", "link"):
            status = (volume / name).lstat()
            assert (status.st_atime_ns, status.st_mtime_ns) == (123_456_789_012_345_678, -1_000_000_001)

    def test_a_directory_notices_changes(self, volume: Path) -> None:
        os.utime(volume, ns=(0, 0))
        (volume / "file").touch()
        assert volume.stat().st_mtime_ns > 0

    def test_ctime_moves_on(self, mounted, volume: Path) -> None:
        (volume / "file").touch()
        before = (volume / "file").stat().st_ctime_ns
        time.sleep(0.02)
        (volume / "file").chmod(0o600)
        after = (volume / "file").stat().st_ctime_ns
        assert after > before
        mounted.remount()
        assert (volume / "file").stat().st_ctime_ns == after

    @pytest.mark.skipif(os.getuid() != 0, reason="only root may")
    def test_owner(self, mounted, volume: Path) -> None:
        (volume / "file").touch()
        os.chown(volume / "file", 1234, 5678)
        (volume / "dir").mkdir()
        os.chown(volume / "dir", 1, 2)
        (volume / "dir").chmod(0o2775)
        (volume / "dir" / "below").mkdir()
        (volume / "dir" / "file").touch()
        mounted.remount()
        status = (volume / "file").stat()
        assert (status.st_uid, status.st_gid) == (1234, 5678)
        below = (volume / "dir" / "below").stat()
        assert below.st_gid == 2
        assert below.st_mode & stat.S_ISGID
        assert (volume / "dir" / "file").stat().st_gid == 2

    @pytest.mark.skipif(os.getuid() != 0, reason="only root may")
    @pytest.mark.parametrize("how", ["write", "truncate", "chown"])
    def test_setuid_goes_with_a_change(self, stores, how: str) -> None:
        mounted = stores().mount(allow_other=True)
        mounted.volume.mkdir(0o777)
        file = mounted.volume / "program"
        file.write_bytes(b"code")
        file.chmod(0o6777)
        mounted.volume.chmod(0o777)
        if how == "chown":
            os.chown(file, 1, 1)
        else:
            _as_user(how, file)
        assert not file.stat().st_mode & stat.S_ISUID
        mounted.remount()
        assert not file.stat().st_mode & stat.S_ISUID

    @pytest.mark.skipif(os.getuid() != 0, reason="only root may")
    def test_permissions_hold_for_others(self, stores) -> None:
        mounted = stores().mount(allow_other=True)
        mounted.volume.mkdir(0o755)
        (mounted.volume / "secret").write_bytes(b"x")
        (mounted.volume / "secret").chmod(0o600)
        (mounted.volume / "open").write_bytes(b"y")
        assert _as_user("read", mounted.volume / "open") == "y"
        assert _as_user("read", mounted.volume / "secret") == "EACCES"
        assert _as_user("write", mounted.volume / "open") == "EACCES"

    def test_special_files(self, mounted, volume: Path) -> None:
        os.mkfifo(volume / "fifo", 0o600)
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(volume / "socket"))
        if os.getuid() == 0:
            os.mknod(volume / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
            os.mknod(volume / "disk", stat.S_IFBLK | 0o600, os.makedev(259, 70_000))
        mounted.remount()
        assert stat.S_ISFIFO((volume / "fifo").stat().st_mode)
        assert stat.S_ISSOCK((volume / "socket").stat().st_mode)
        if os.getuid() == 0:
            assert (volume / "null").stat().st_rdev == os.makedev(1, 3)
            assert (volume / "disk").stat().st_rdev == os.makedev(259, 70_000)
            with failing(errno.EACCES):  # nodev
                os.open(volume / "null", os.O_RDONLY)

    def test_a_fifo_carries_bytes(self, volume: Path) -> None:
        os.mkfifo(volume / "fifo")
        with subprocess.Popen(["cat", volume / "fifo"], stdout=subprocess.PIPE) as reader:
            (volume / "fifo").write_bytes(b"through")
            assert reader.communicate(timeout=10)[0] == b"through"

    def test_statfs(self, volume: Path) -> None:
        status = os.statvfs(volume)
        assert status.f_bsize == 4096
        assert 0 < status.f_bavail <= status.f_blocks
        assert status.f_ffree > 0
        assert status.f_namemax == 255
        assert status.f_flag & os.ST_NOSUID
        assert status.f_flag & os.ST_NODEV


def _as_user(what: str, file: Path) -> str:
    """Act as nobody; what was read, or the errno's name."""
    code = (
        "import errno, os, sys\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "what, path = sys.argv[1:]\n"
        "try:\n"
        "    if what == 'read': print(open(path).read(), end='')\n"
        "    elif what == 'write': open(path, 'r+').write('z')\n"
        "    else: os.truncate(path, 1)\n"
        "except OSError as error: print(errno.errorcode[error.errno], end='')\n"
    )
    # The way to the file is root's own: a path of /proc leads there.
    directory = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", code, what, f"/dev/fd/{directory}/{file.name}"],
            pass_fds=[directory], capture_output=True, text=True, check=True,
        )  # fmt: skip
    finally:
        os.close(directory)
    return done.stdout


class TestXattrs:
    def test_off_by_default(self, volume: Path) -> None:
        (volume / "file").touch()
        with failing(errno.EOPNOTSUPP):
            os.setxattr(volume / "file", "user.name", b"value")

    def test_opted_in(self, stores) -> None:
        mounted = stores().mount(xattrs=True)
        mounted.volume.mkdir()
        file = mounted.volume / "file"
        file.write_bytes(b"x")
        os.setxattr(file, "user.name", b"value")
        os.setxattr(file, "user.empty", b"")
        with failing(errno.EEXIST):
            os.setxattr(file, "user.name", b"other", os.XATTR_CREATE)
        with failing(errno.ENODATA):
            os.setxattr(file, "user.missing", b"other", os.XATTR_REPLACE)
        with failing(errno.EOPNOTSUPP):
            os.setxattr(file, "system.posix_acl_access", b"\2\0\0\0")
        mounted.remount()
        assert sorted(os.listxattr(file)) == ["user.empty", "user.name"]
        assert os.getxattr(file, "user.name") == b"value"
        os.removexattr(file, "user.name")
        with failing(errno.ENODATA):
            os.getxattr(file, "user.name")
        assert os.listxattr(mounted.root) == []


class TestMaps:
    def test_shared(self, mounted, volume: Path) -> None:
        with open(volume / "file", "w+b") as file:
            file.truncate(100_000)
            with mmap.mmap(file.fileno(), 100_000) as memory:
                memory[50_000:50_005] = b"hello"
                memory.flush()
                os.lseek(file.fileno(), 50_000, os.SEEK_SET)
                assert os.read(file.fileno(), 5) == b"hello"
                memory[99_999:] = b"!"
        mounted.remount()
        data = (volume / "file").read_bytes()
        assert (data[50_000:50_005], data[-1:], len(data)) == (b"hello", b"!", 100_000)

    def test_an_open_map_after_close(self, mounted, volume: Path) -> None:
        with open(volume / "file", "w+b") as file:
            file.truncate(10_000)
            memory = mmap.mmap(file.fileno(), 10_000)
        memory[:4] = b"late"
        memory.close()
        mounted.remount()
        assert (volume / "file").read_bytes()[:4] == b"late"

    def test_private(self, volume: Path) -> None:
        (volume / "file").write_bytes(b"a" * 5000)
        with open(volume / "file", "rb") as file, mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE) as memory:
            memory[0:1] = b"b"
        assert (volume / "file").read_bytes() == b"a" * 5000
