"""Starting, stopping and killing the daemon."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from snapfs import daemon, mounts
from snapfs.errors import (
    Busy,
    Invalid,
    NotADirectory,
    NotEmpty,
    NotFound,
    SnapfsError,
    Unavailable,
)
from snapfs.volume.lake import Lake

SECONDS_MAX = 20.0
_PRELUDE = "import sys; from pathlib import Path; from snapfs import daemon, errors\n"


def wait_until(condition) -> None:
    deadline = time.monotonic() + SECONDS_MAX
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class TestStart:
    def test_the_mount_can_be_used_at_once(self, stores) -> None:
        one = stores().mount()
        one.volume.mkdir()
        (one.volume / "file").write_bytes(b"x")
        assert one.call("get_store").pid == one.pid

    def test_it_does_not_hold_its_parent_up(self, stores, tmp_path: Path) -> None:
        """Whoever reads the output of the command sees its end."""
        one = stores()
        code = _PRELUDE + "print(daemon.start(*map(Path, sys.argv[1:])))"
        done = subprocess.run(
            [sys.executable, "-c", code, one.store, one.root], stdout=subprocess.PIPE, timeout=20, check=True
        )
        one.pid = int(done.stdout)
        assert Path(f"/proc/{one.pid}/cwd").readlink() == Path("/")
        one.volume.mkdir()

    def test_relative_paths(self, stores, monkeypatch: pytest.MonkeyPatch) -> None:
        one = stores()
        monkeypatch.chdir(one.store.parent)
        one.pid = daemon.start(Path("store"), Path("lake"))
        one.volume.mkdir()
        daemon.stop(Path("lake"))

    def test_a_package_of_the_same_name_here(self, stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "snapfs.py").write_text("raise SystemExit('not the program')")
        monkeypatch.chdir(tmp_path)
        stores().mount()

    @pytest.mark.parametrize("name", ["with space", "a,b=c", "back\\slash", "ä\udcff", "new\nline", "x" * 200])
    def test_any_path(self, stores, name: str) -> None:
        one = stores(name).mount()
        one.volume.mkdir()
        assert os.listdir(one.root) == ["data"]
        mount = mounts.at(one.root)
        assert mount is not None
        assert mount.store == one.store
        one.snapshot("s")
        one.remount()
        assert os.listdir(one.snap) == ["s"]

    def test_through_a_symlink(self, stores, tmp_path: Path) -> None:
        one = stores()
        (tmp_path / "link").symlink_to(one.root)
        one.pid = daemon.start(one.store, tmp_path / "link")
        one.volume.mkdir()
        daemon.stop(tmp_path / "link")
        assert mounts.at(one.root) is None


class TestRefusals:
    def refused(self, store: Path, mountpoint: Path, kind: type[SnapfsError], *words: str) -> None:
        with pytest.raises(kind) as caught:
            daemon.start(store, mountpoint)
        assert "\n" not in caught.value.message
        for word in words:
            assert word in f"{caught.value.message} {caught.value.hint}"
        assert mounts.at(mountpoint) is None

    def test_missing_mount_point(self, stores) -> None:
        one = stores()
        self.refused(one.store, one.root / "missing", NotFound, "missing", "mkdir")

    def test_a_file_as_mount_point(self, stores) -> None:
        one = stores()
        (one.root / "file").touch()
        self.refused(one.store, one.root / "file", NotADirectory, "file")

    def test_mount_point_not_empty(self, stores) -> None:
        one = stores()
        (one.root / "file").touch()
        self.refused(one.store, one.root, NotEmpty, str(one.root))
        assert (one.root / "file").exists()

    def test_mounted_already(self, stores) -> None:
        one, two = stores("one").mount(), stores("two")
        with pytest.raises(Busy) as caught:
            daemon.start(two.store, one.root)
        assert str(one.store) in caught.value.message
        with pytest.raises(Busy):
            daemon.start(one.store, one.root)
        one.volume.mkdir()

    def test_store_in_use(self, stores) -> None:
        one = stores().mount()
        other = one.store.parent / "other"
        other.mkdir()
        self.refused(one.store, other, Busy, str(one.pid))
        one.volume.mkdir()

    def test_store_in_its_own_mount_point(self, stores) -> None:
        one = stores()
        self.refused(one.store, one.store.parent, NotEmpty)
        inside = one.store / "inside"
        inside.mkdir()
        self.refused(one.store, inside, Invalid, "lies in")

    def test_missing_store(self, stores) -> None:
        one = stores()
        self.refused(one.store / "missing", one.root, NotFound)
        assert not (one.store / "missing").exists()

    def test_foreign_store(self, stores, tmp_path: Path) -> None:
        one = stores()
        foreign = tmp_path / "foreign"
        foreign.mkdir()
        (foreign / "data").write_bytes(b"x")
        with pytest.raises(SnapfsError):
            daemon.start(foreign, one.root)
        assert os.listdir(foreign) == ["data"]

    @pytest.mark.skipif(os.getuid() != 0, reason="unshare needs root")
    def test_no_fuse_device(self, stores) -> None:
        """In a mount namespace of its own, where /dev/fuse is hidden."""
        one = stores()
        code = (
            f"{_PRELUDE}"
            "try: daemon.start(*map(Path, sys.argv[1:]))\n"
            "except errors.SnapfsError as error: print(error.kind, error.message)\n"
        )
        script = (
            'mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3 && mknod -m 666 /dev/urandom c 1 9 && exec "$@"'
        )
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, "-c", code, one.store, one.root],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout.startswith("unavailable /dev/fuse")

    def test_a_failed_start_leaves_nothing(self, stores) -> None:
        one = stores()
        (one.root / "file").touch()
        self.refused(one.store, one.root, NotEmpty)
        (one.root / "file").unlink()
        one.mount()


class TestStop:
    def test_nothing_is_lost(self, stores) -> None:
        one = stores().mount()
        one.volume.mkdir()
        wanted = {f"file-{number}": random.Random(number).randbytes(number * 7000) for number in range(40)}
        for name, data in wanted.items():
            (one.volume / name).write_bytes(data)
        one.umount()
        assert os.listdir(one.root) == []
        one.mount()
        assert {name: (one.volume / name).read_bytes() for name in os.listdir(one.volume)} == wanted

    def test_the_store_is_free_when_it_returns(self, stores) -> None:
        one = stores().mount()
        one.volume.mkdir()
        (one.volume / "file").write_bytes(b"x" * 20_000_000)
        one.umount()
        Lake.open(one.store).close()

    def test_a_mount_in_use_stays(self, stores) -> None:
        one = stores().mount()
        one.volume.mkdir()
        with open(one.volume / "file", "wb") as file:
            with pytest.raises(Busy) as caught:
                daemon.stop(one.root)
            assert str(one.root) in caught.value.message
            file.write(b"goes on")
        assert (one.volume / "file").read_bytes() == b"goes on"

    def test_who_uses_it_is_named(self, stores) -> None:
        one = stores().mount()
        one.volume.mkdir()
        with subprocess.Popen(["sleep", "60"], cwd=one.volume) as user:
            with pytest.raises(Busy) as caught:
                daemon.stop(one.root)
            assert f"sleep (pid {user.pid})" in caught.value.hint
            user.kill()

    def test_not_a_mount(self, stores) -> None:
        one = stores()
        with pytest.raises(NotFound):
            daemon.stop(one.root)
        with pytest.raises(NotFound):
            daemon.stop(one.root / "missing")
        one.mount()
        one.volume.mkdir()
        with pytest.raises(NotFound) as caught:
            daemon.stop(one.volume)
        assert str(one.root) in caught.value.hint

    def test_by_umount_itself(self, stores) -> None:
        one = stores().mount()
        one.volume.mkdir()
        (one.volume / "file").write_bytes(b"x" * 100_000)
        command = ["umount"] if os.getuid() == 0 else ["fusermount3", "-u"]
        subprocess.run([*command, one.root], check=True)
        os.waitpid(one.pid, 0)
        one.mount()
        assert (one.volume / "file").read_bytes() == b"x" * 100_000

    def test_by_an_aborted_connection(self, stores) -> None:
        one = stores().mount()
        one.volume.mkdir()
        (one.volume / "file").write_bytes(b"x" * 100_000)
        mount = mounts.at(one.root)
        assert mount is not None
        knob = Path("/sys/fs/fuse/connections") / mount.device.partition(":")[2] / "abort"
        if not knob.exists():
            pytest.skip("fusectl is not mounted")
        knob.write_text("1")
        assert os.waitstatus_to_exitcode(os.waitpid(one.pid, 0)[1]) == 0
        assert mounts.at(one.root) is None
        assert "failed" not in one.log()
        one.mount()
        assert (one.volume / "file").read_bytes() == b"x" * 100_000

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_by_a_signal(self, stores, number: int) -> None:
        one = stores().mount()
        one.volume.mkdir()
        (one.volume / "file").write_bytes(b"x" * 100_000)
        os.kill(one.pid, number)
        assert os.waitstatus_to_exitcode(os.waitpid(one.pid, 0)[1]) == 0
        assert mounts.at(one.root) is None
        one.mount()
        assert (one.volume / "file").read_bytes() == b"x" * 100_000

    def test_by_a_signal_while_in_use(self, stores) -> None:
        one = stores().mount()
        one.volume.mkdir()
        file = os.open(one.volume / "file", os.O_CREAT | os.O_WRONLY)
        os.write(file, b"x" * 300_000)
        os.kill(one.pid, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(one.pid, 0)[1]) == 0
        assert mounts.at(one.root) is None
        with pytest.raises(OSError):
            os.fsync(file)
        os.close(file)
        one.mount()
        assert (one.volume / "file").read_bytes() == b"x" * 300_000

    def test_in_the_foreground(self, stores) -> None:
        one = stores()
        code = _PRELUDE + "daemon.run(*map(Path, sys.argv[1:]))"
        with subprocess.Popen([sys.executable, "-c", code, one.store, one.root], stderr=subprocess.PIPE) as process:
            wait_until(lambda: mounts.at(one.root) is not None)
            one.volume.mkdir()
            (one.volume / "file").write_bytes(b"x")
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=SECONDS_MAX)
            assert process.returncode == 0, said
        assert b"is mounted" in said
        one.mount()
        assert (one.volume / "file").read_bytes() == b"x"


class TestKill:
    def test_what_was_fsynced_is_there(self, stores) -> None:
        one = stores().mount()
        one.volume.mkdir()
        (one.volume / "dir").mkdir()
        data = random.Random(5).randbytes(500_000)
        for number in range(5):
            with open(one.volume / "dir" / f"file-{number}", "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        one.snapshot("one")
        (one.volume / "late").write_bytes(b"perhaps")
        one.kill()
        with pytest.raises(OSError) as caught:
            os.listdir(one.root)
        assert caught.value.errno == errno.ENOTCONN
        one.mount()
        for tree in (one.volume, one.snap / "one"):
            assert len(os.listdir(tree / "dir")) == 5
            for number in range(5):
                assert (tree / "dir" / f"file-{number}").read_bytes() == data
        assert one.call("check_store").findings == []

    def test_in_the_middle_of_writing(self, stores) -> None:
        one = stores().mount()
        one.volume.mkdir()
        code = (
            "import os, sys\n"
            "os.chdir(sys.argv[1])\n"
            "for number in range(100000):\n"
            "    file = os.open(f'file-{number:06}', os.O_CREAT | os.O_WRONLY)\n"
            "    os.write(file, b'%06d' % number * 3000)\n"
            "    if number % 10 == 9:\n"
            "        os.fsync(file)\n"
            "        os.write(1, b'%d\\n' % number)\n"
            "    os.close(file)\n"
        )
        for _ in range(3):
            with subprocess.Popen(
                [sys.executable, "-I", "-c", code, one.volume], stdout=subprocess.PIPE, stderr=subprocess.PIPE
            ) as writer:
                assert writer.stdout is not None
                for _ in range(5):
                    synced = int(writer.stdout.readline())
                one.kill()
                out, _ = writer.communicate(timeout=SECONDS_MAX)
            synced = int(out.split()[-1]) if out.split() else synced
            one.mount()
            names = sorted(os.listdir(one.volume))
            assert len(names) > synced
            for number in range(9, synced + 1, 10):
                assert (one.volume / f"file-{number:06}").read_bytes() == b"%06d" % number * 3000
            assert one.call("check_store").findings == []
            for name in names:
                (one.volume / name).unlink()

    def test_stop_clears_a_dead_mount(self, stores) -> None:
        one = stores().mount()
        one.volume.mkdir()
        one.kill()
        daemon.stop(one.root)
        assert os.listdir(one.root) == []

    def test_unlinked_open_files_are_reaped(self, stores) -> None:
        one = stores().mount()
        one.volume.mkdir()
        file = os.open(one.volume / "file", os.O_CREAT | os.O_WRONLY)
        os.write(file, b"x" * 1_000_000)
        (one.volume / "file").unlink()
        os.fsync(file)
        one.kill()
        with pytest.raises(OSError):
            os.close(file)
        one.mount()
        assert os.listdir(one.volume) == []
        assert one.call("check_store").findings == []


def test_the_daemons_last_words_are_told(stores, monkeypatch: pytest.MonkeyPatch) -> None:
    one = stores()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(Unavailable, match="status 1"):
        daemon.start(one.store, one.root)
