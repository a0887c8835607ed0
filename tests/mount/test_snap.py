"""The root of the mount and ``.snap``."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import random
import subprocess
import threading
from concurrent import futures
from pathlib import Path

import pytest

from snapfs import api, client
from snapfs.errors import SnapfsError, Unavailable
from snapfs.types import PAGE_BYTES

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER = "fedcba9876543210fedcba9876543210fedcba98"


def failing(number: int) -> pytest.RaisesExc[OSError]:
    return pytest.raises(OSError, check=lambda error: error.errno == number)


def git(commit: str) -> api.GitCommit:
    return api.GitCommit(commit=commit)


class TestVolumes:
    def test_directories_are_volumes(self, mounted) -> None:
        (mounted.root / "models").mkdir()
        assert sorted(os.listdir(mounted.root)) == ["data", "models"]
        names = [volume.name for volume in mounted.call("list_volumes")]
        assert sorted(names) == ["data", "models"]
        (mounted.root / "models").rmdir()
        assert os.listdir(mounted.root) == ["data"]

    def test_volumes_made_through_the_channel_appear_at_once(self, mounted) -> None:
        assert not (mounted.root / "models").exists()
        mounted.call("create_volume", name="models")
        assert (mounted.root / "models").is_dir()
        (mounted.root / "models" / "file").write_bytes(b"x")
        mounted.remount()
        assert (mounted.root / "models" / "file").read_bytes() == b"x"

    def test_volumes_removed_through_the_channel_are_gone(self, mounted) -> None:
        (mounted.root / "models").mkdir()
        with open(mounted.root / "models" / "file", "wb", 0) as file:
            (mounted.root / "models" / "file").unlink()
            mounted.call("delete_volume", name="models")
            with failing(errno.ESTALE):
                file.write(b"x" * 10_000)
                os.fsync(file.fileno())
            with pytest.raises(OSError, match="Stale file handle"):
                file.close()
        with failing(errno.ENOENT):
            os.listdir(mounted.root / "models")
        assert not (mounted.root / "models").exists()

    def test_nothing_else_lives_there(self, mounted) -> None:
        with failing(errno.EPERM):
            (mounted.root / "file").touch()
        with failing(errno.EPERM):
            (mounted.root / "link").symlink_to("data")
        with failing(errno.EPERM):
            mounted.volume.rename(mounted.root / "other")
        with failing(errno.EPERM):
            mounted.root.chmod(0o700)

    @pytest.mark.parametrize("name", ["a@b", ".snap", "-rf", "a\nb"])
    def test_bad_names(self, mounted, name: str) -> None:
        with failing(errno.EINVAL):
            (mounted.root / name).mkdir()
        with failing(errno.ENOENT):
            os.listdir(mounted.root / "\udcff")

    def test_a_volume_in_use_stays(self, mounted) -> None:
        with failing(errno.EEXIST):
            mounted.volume.mkdir()
        (mounted.volume / "file").touch()
        with failing(errno.ENOTEMPTY):
            mounted.volume.rmdir()
        (mounted.volume / "file").unlink()
        mounted.snapshot("one")
        with failing(errno.EBUSY):
            mounted.volume.rmdir()
        assert os.listdir(mounted.snap) == ["one"]


class TestSnap:
    def test_hidden_but_there(self, mounted) -> None:
        (mounted.volume / "dir").mkdir()
        assert os.listdir(mounted.volume) == ["dir"]
        assert os.listdir(mounted.snap) == []
        assert not (mounted.volume / "dir" / ".snap").exists()
        assert mounted.snap.parent.joinpath(".snap", "..").samefile(mounted.volume)

    def test_a_snapshot_keeps_what_was(self, mounted) -> None:
        (mounted.volume / "dir").mkdir()
        (mounted.volume / "dir" / "file").write_bytes(b"first")
        (mounted.volume / "link").symlink_to("dir/file")
        mounted.snapshot("one")
        (mounted.volume / "dir" / "file").write_bytes(b"second version")
        (mounted.volume / "new").touch()
        (mounted.volume / "link").unlink()
        mounted.snapshot("two")
        assert sorted(os.listdir(mounted.snap)) == ["one", "two"]
        assert sorted(os.listdir(mounted.snap / "one")) == ["dir", "link"]
        assert (mounted.snap / "one" / "link").read_bytes() == b"first"
        assert (mounted.snap / "two" / "dir" / "file").read_bytes() == b"second version"
        assert sorted(os.listdir(mounted.snap / "two")) == ["dir", "new"]
        assert not (mounted.snap / "one" / ".snap").exists()
        one = (mounted.snap / "one" / "dir" / "file").stat()
        assert one.st_ino != (mounted.volume / "dir" / "file").stat().st_ino

    def test_what_was_written_before_is_in_it(self, mounted) -> None:
        """Also what is only in the kernel's cache, of files that are held open."""
        with contextlib.ExitStack() as held:
            files = [held.enter_context(open(mounted.volume / f"file-{number}", "wb", 0)) for number in range(20)]
            for turn in range(3):
                for number, file in enumerate(files):
                    file.write(b"%d-%d;" % (turn, number) * 40_000)
                mounted.snapshot(f"s{turn}")
            for turn in range(3):
                for number in range(20):
                    wanted = b"".join(b"%d-%d;" % (past, number) * 40_000 for past in range(turn + 1))
                    assert (mounted.snap / f"s{turn}" / f"file-{number}").read_bytes() == wanted

    def test_dots(self, mounted) -> None:
        (mounted.volume / "dir").mkdir()
        mounted.snapshot("one")
        listed = subprocess.run(["ls", "-ai", mounted.snap / "one"], capture_output=True, check=True, text=True)
        numbers = {name: int(number) for number, name in (line.split() for line in listed.stdout.splitlines())}
        assert numbers[".."] == mounted.snap.stat().st_ino
        assert (mounted.snap / "one" / "dir" / ".." / "..").samefile(mounted.snap)
        done = subprocess.run(
            ["pwd", "-P"], cwd=mounted.snap / "one" / "dir", capture_output=True, check=True, text=True
        )
        assert done.stdout == f"{mounted.snap}/one/dir\n"

    def test_nothing_changes_it(self, mounted) -> None:
        (mounted.volume / "file").write_bytes(b"x")
        (mounted.volume / "dir").mkdir()
        mounted.snapshot("one")
        old = mounted.snap / "one"
        attempts = (
            lambda: (old / "file").write_bytes(b"y"),
            lambda: os.open(old / "file", os.O_RDONLY | os.O_TRUNC),
            lambda: os.truncate(old / "file", 0),
            lambda: (old / "new").touch(),
            lambda: (old / "new").mkdir(),
            lambda: (old / "new").symlink_to("x"),
            lambda: os.mkfifo(old / "new"),
            lambda: os.link(old / "file", old / "new"),
            lambda: (old / "file").unlink(),
            lambda: (old / "dir").rmdir(),
            lambda: (old / "file").rename(old / "new"),
            lambda: (old / "file").chmod(0o600),
            lambda: os.chown(old / "file", os.getuid(), -1),
            lambda: os.utime(old / "file"),
            lambda: (mounted.snap / "new").mkdir(),
            lambda: (mounted.snap / "new").touch(),
            lambda: old.rmdir(),
            lambda: mounted.snap.chmod(0o700),
        )
        for attempt in attempts:
            with pytest.raises(OSError) as caught:
                attempt()
            # .snap is writable for nobody: who is not root does not even get to its being read-only
            assert caught.value.errno in ({errno.EROFS} if os.getuid() == 0 else {errno.EROFS, errno.EACCES})
        for attempt in (
            lambda: old.rename(mounted.snap / "two"),
            lambda: (old / "file").rename(mounted.volume / "out"),
            lambda: (mounted.volume / "file").rename(old / "in"),
        ):
            with pytest.raises(OSError) as caught:
                attempt()
            assert caught.value.errno in (errno.EROFS, errno.EXDEV, errno.EACCES)
        assert (old / "file").read_bytes() == b"x"

    def test_the_name_is_taken(self, mounted) -> None:
        (mounted.volume / "dir").mkdir()
        with failing(errno.EEXIST):
            mounted.snap.mkdir()
        with failing(errno.EPERM):
            mounted.snap.rmdir()
        with failing(errno.EPERM):
            mounted.snap.rename(mounted.volume / "other")
        with pytest.raises(OSError):
            (mounted.volume / "dir").rename(mounted.snap)
        (mounted.volume / "dir" / ".snap").mkdir()

    def test_commit_prefixes(self, mounted) -> None:
        (mounted.volume / "file").write_bytes(b"1")
        mounted.snapshot("", git=git(COMMIT))
        (mounted.volume / "file").write_bytes(b"2")
        mounted.snapshot("", git=git(OTHER))
        assert sorted(os.listdir(mounted.snap)) == [COMMIT, OTHER]
        assert (mounted.snap / COMMIT[:7] / "file").read_bytes() == b"1"
        assert (mounted.snap / OTHER[:4] / "file").read_bytes() == b"2"
        assert os.readlink(mounted.snap / COMMIT[:7]) == COMMIT
        for missing in (COMMIT[:3], "0000000", COMMIT + "0", "\udcff", "x" * 255):
            assert not (mounted.snap / missing).exists()

    def test_a_bare_commit_is_its_newest_snapshot(self, mounted) -> None:
        for content in (b"1", b"2", b"3"):
            (mounted.volume / "file").write_bytes(content)
            mounted.snapshot("", git=git(COMMIT))
            assert (mounted.snap / COMMIT / "file").read_bytes() == content
            assert (mounted.snap / COMMIT[:8] / "file").read_bytes() == content
        for number, content in enumerate((b"1", b"2", b"3"), start=1):
            assert (mounted.snap / f"{COMMIT}.{number}" / "file").read_bytes() == content
        assert sorted(os.listdir(mounted.snap)) == [COMMIT, f"{COMMIT}.1", f"{COMMIT}.2", f"{COMMIT}.3"]
        assert (mounted.snap / COMMIT / "file").resolve() == mounted.snap / f"{COMMIT}.3" / "file"

    def test_a_tag_is_a_link_to_its_snapshot(self, mounted) -> None:
        for content in (b"1", b"2"):
            (mounted.volume / "file").write_bytes(content)
            mounted.snapshot(f"s{content.decode()}")
        for number, content in ((1, b"1"), (2, b"2")):
            mounted.call("tag_snapshot", volume="data", snapshot=f"s{number}", tag="best", move=True)
            assert os.readlink(mounted.snap / "best") == f"s{number}"
            assert (mounted.snap / "best" / "file").read_bytes() == content
            assert sorted(os.listdir(mounted.snap)) == ["best", "s1", "s2"]
        mounted.call("rename_snapshot", volume="data", snapshot="best", name="named")
        assert os.readlink(mounted.snap / "best") == "named"
        mounted.call("delete_tag", volume="data", tag="best")
        assert not os.path.lexists(mounted.snap / "best")
        mounted.call("tag_snapshot", volume="data", snapshot="named", tag="last")
        mounted.call("delete_snapshot", volume="data", snapshot="last")
        assert os.listdir(mounted.snap) == ["s1"]

    def test_volumes_made_by_mkdir_are_told(self, mounted) -> None:
        (mounted.root / "made").mkdir()
        (mounted.root / "made").rmdir()
        root = os.open(mounted.root, os.O_RDONLY)
        try:
            os.fsync(root)  # durable, and so told
        finally:
            os.close(root)
        told = mounted.call("watch_events", after=0, until_now=True, volume="made")
        assert [event.kind for event in told] == ["volume_created", "volume_deleted"]

    def test_names_come_and_go(self, mounted) -> None:
        (mounted.volume / "file").touch()
        assert not (mounted.snap / "one").exists()
        mounted.snapshot("one")
        assert (mounted.snap / "one" / "file").exists()
        mounted.call("rename_snapshot", volume="data", snapshot="one", name="two")
        assert not (mounted.snap / "one").exists()
        assert (mounted.snap / "two" / "file").exists()
        inside = os.open(mounted.snap / "two", os.O_RDONLY)
        try:
            mounted.call("delete_snapshot", volume="data", snapshot="two")
            assert not (mounted.snap / "two").exists()
            assert os.listdir(mounted.snap) == []
            with failing(errno.ESTALE):
                os.listdir(inside)
        finally:
            os.close(inside)

    def test_many_are_listed(self, mounted) -> None:
        names = [f"s{number:03}" for number in range(300)]
        for name in names:
            mounted.snapshot(name)
        assert sorted(os.listdir(mounted.snap)) == names
        assert sum(len(files) for _, _, files in os.walk(mounted.snap)) == 0

    def test_a_clone_has_its_own(self, mounted) -> None:
        (mounted.volume / "file").write_bytes(b"x")
        mounted.snapshot("one")
        mounted.call("clone", volume="data", snapshot="one", name="copy")
        copy = mounted.root / "copy"
        assert os.listdir(copy / ".snap") == []
        assert (copy / ".snap" / "..").samefile(copy)
        (copy / "file").write_bytes(b"y")
        mounted.call("create_snapshot", volume="copy", name="own")
        assert (copy / ".snap" / "own" / "file").read_bytes() == b"y"
        assert (mounted.snap / "one" / "file").read_bytes() == b"x"
        assert (mounted.volume / "file").read_bytes() == b"x"
        with pytest.raises(SnapfsError):
            mounted.call("get_snapshot", volume="copy", snapshot="one")


def test_each_of_many_snapshots_at_once_has_what_its_maker_wrote(mounted) -> None:
    """They share fetches of the kernel's dirty pages, among clients that give up in the middle of one."""
    makers, turns = 8, 15
    ended = threading.Event()

    def hasty(number: int) -> None:
        seed = random.Random(number)
        while not ended.is_set():
            impatient = client.connect(mounted.store, timeout_seconds=seed.uniform(0.002, 0.05))
            with impatient, contextlib.suppress(Unavailable):
                impatient.create_snapshot(volume="data")

    def make(number: int) -> None:
        """By a mapping, or by writes to a file that stays open."""
        path = mounted.volume / f"{number}"
        with path.open("w+b") as file, mounted.connect() as owner:
            file.truncate(PAGE_BYTES)
            with mmap.mmap(file.fileno(), PAGE_BYTES) as mapped:
                for turn in range(turns):
                    data = b"%08d" % turn
                    if number % 2:
                        mapped[: len(data)] = data
                    else:
                        os.pwrite(file.fileno(), data, 0)
                    owner.create_snapshot(volume="data", name=f"{number}.{turn}")
                    kept = (mounted.snap / f"{number}.{turn}" / path.name).read_bytes()
                    assert kept[: len(data)] == data

    with futures.ThreadPoolExecutor(makers + 4) as pool:
        impatient = [pool.submit(hasty, number) for number in range(4)]
        try:
            list(pool.map(make, range(makers)))
        finally:
            ended.set()
        for one in impatient:
            one.result()


def test_the_table_of_mounts_names_the_store(mounted) -> None:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    (line,) = [line for line in lines if f" {mounted.root} " in line]
    assert f" - fuse.snapfs {mounted.store} " in line
