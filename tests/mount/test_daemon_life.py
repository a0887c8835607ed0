"""The daemon's life: its state, its end within a bound, what it leaves when it is killed, reload, log, metrics."""

from __future__ import annotations

import json
import os
import pty
import random
import signal
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from snapfs import client, daemon, mounts
from snapfs.errors import Invalid, SnapfsError, Unavailable
from snapfs.store.layout import Lock
from snapfs.testing.mounted import MountedStore
from snapfs.testing.served import free_port

SNAP = str(Path(sys.executable).with_name("snap"))
SECONDS_MAX = 20.0


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS_MAX
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def environment(**more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("GIT_", "SNAPFS_", "NOTIFY_"))}
    return {**kept, **more}


def snap(*arguments: str | Path, code: int = 0) -> str:
    """stdout; of a failure stdout and stderr."""
    done = subprocess.run(
        [SNAP, *arguments], env=environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == code, (arguments, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr if code else done.stdout


def snap_json(*arguments: str | Path, code: int = 0) -> Any:
    return json.loads(snap(*arguments, "--json", code=code))


def configure(one: MountedStore, text: str) -> None:
    (one.store / "config.toml").write_text(text)


def reaped(one: MountedStore) -> int:
    """Exit status of the daemon, which must end."""
    ended: list[int] = []

    def look() -> bool:
        pid, status = os.waitpid(one.pid, os.WNOHANG)
        ended.append(status)
        return pid == one.pid

    wait_until(look)
    one.pid = 0
    return os.waitstatus_to_exitcode(ended[-1])


def metrics_of(text: str) -> dict[tuple[str, ...], float]:
    """Value by name and labels' values."""
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def commits(one: MountedStore) -> float:
    return metrics_of(one.call("get_metrics"))["snapfs_commit_duration_seconds_count",]


class TestStatus:
    def test_of_one_that_runs(self, mounted: MountedStore) -> None:
        text = snap("daemon", "status", "--store", mounted.store)
        assert f"pid {mounted.pid}" in text
        assert str(mounted.root) in text
        told = snap_json("daemon", "status", "--store", mounted.root)
        assert (told["running"], told["pid"], told["mountpoint"]) == (True, mounted.pid, str(mounted.root))
        assert told["addresses"] == [f"unix:{mounted.store}/control/socket"]
        assert told["failure"] == ""
        remote = snap_json("daemon", "status", "--address", f"unix:{mounted.store}/control/socket")
        assert remote["pid"] == mounted.pid

    def test_of_none(self, stores: Callable[..., MountedStore]) -> None:
        one = stores()
        assert "no daemon" in snap("daemon", "status", "--store", one.store, code=5)
        assert snap_json("daemon", "status", "--store", one.store, code=5)["running"] is False
        assert "no such store" in snap("daemon", "status", "--store", one.store / "x", code=3)

    def test_of_a_store_that_a_command_uses(self, stores: Callable[..., MountedStore]) -> None:
        one = stores()
        lock = Lock(one.store)
        try:
            assert str(os.getpid()) in snap("daemon", "status", "--store", one.store, code=5)
            assert str(os.getpid()) in snap("daemon", "stop", "--store", one.store, code=5)
        finally:
            lock.release()

    def test_of_one_that_hangs(self, mounted: MountedStore) -> None:
        os.kill(mounted.pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            assert "answer" in snap("daemon", "status", "--store", mounted.store, code=5)
            assert time.monotonic() - began < SECONDS_MAX
        finally:
            os.kill(mounted.pid, signal.SIGCONT)


class TestStop:
    def test_with_busy_files(self, stores: Callable[..., MountedStore]) -> None:
        one = stores().mount()
        one.volume.mkdir()
        with open(one.volume / "file", "wb", buffering=0) as file:
            file.write(b"x" * 300_000)
            assert "stopped" in snap("daemon", "stop", "--store", one.store)
            with pytest.raises(OSError):
                os.fsync(file.fileno())
        assert reaped(one) == 0
        assert mounts.at(one.root) is None
        assert "no daemon" in snap("daemon", "stop", "--store", one.store)
        one.mount()
        assert (one.volume / "file").read_bytes() == b"x" * 300_000

    def test_while_programs_write(self, stores: Callable[..., MountedStore]) -> None:
        """They never stop writing; what they synced before is there."""
        one = stores()
        configure(one, "[daemon]\nstop_seconds = 10\n")
        one.mount()
        one.volume.mkdir()
        code = (
            "import os, sys\n"
            "file = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)\n"
            "os.write(file, b'synced')\n"
            "os.fsync(file)\n"
            "print('synced', flush=True)\n"
            "while True:\n"
            "    for number in range(100):\n"
            "        os.pwrite(file, os.urandom(100000), 6 + number * 100000)\n"
            "    os.fsync(file)\n"  # a write alone ends in the kernel's cache
        )
        writers = [
            subprocess.Popen(
                [sys.executable, "-I", "-c", code, one.volume / f"file-{number}"],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            for number in range(3)
        ]
        try:
            for writer in writers:
                assert writer.stdout is not None
                assert writer.stdout.readline() == b"synced\n"
            os.kill(one.pid, signal.SIGTERM)
            began = time.monotonic()
            assert reaped(one) == 0
            assert time.monotonic() - began < 10
            for writer in writers:
                assert writer.wait(SECONDS_MAX) == 1  # told by fsync
        finally:
            for writer in writers:
                writer.kill()
                writer.communicate()
        assert mounts.at(one.root) is None
        one.mount()
        for number in range(3):
            assert (one.volume / f"file-{number}").read_bytes().startswith(b"synced")
        assert one.call("check_store").findings == []

    def test_what_takes_too_long_is_given_up(self, stores: Callable[..., MountedStore]) -> None:
        """Whoever fetches the kernel's pages does not come back; all else is done still."""
        one = stores()
        configure(one, "[daemon]\nstop_seconds = 3\n")
        one.mount()
        one.volume.mkdir()
        (one.volume / "there").write_bytes(b"x" * 100_000)
        helper = int(Path(f"/proc/{one.pid}/task/{one.pid}/children").read_text().split()[0])
        with open(one.volume / "file", "wb", buffering=0) as file:
            os.fsync(file.fileno())
            os.kill(helper, signal.SIGSTOP)
            os.kill(one.pid, signal.SIGTERM)
            began = time.monotonic()
            assert reaped(one) == 0
            assert time.monotonic() - began < 3
        wait_until(lambda: not Path(f"/proc/{helper}").exists())
        assert mounts.at(one.root) is None
        assert "it is given up" in one.log()
        one.mount()
        assert (one.volume / "there").read_bytes() == b"x" * 100_000

    def test_a_terminal_that_goes_ends_the_one_on_it(self, stores: Callable[..., MountedStore]) -> None:
        one = stores()
        terminal, end = pty.openpty()
        command = ["setsid", "--ctty", SNAP, "mount", "--foreground", one.store, one.root]  # a session on it
        process = subprocess.Popen(command, stdin=end, stdout=end, stderr=end, env=environment())
        os.close(end)
        one.pid = process.pid
        try:
            wait_until(lambda: mounts.at(one.root) is not None and daemon.look(one.store).running)
            one.volume.mkdir()
            wait_until(lambda: "is mounted" in one.log())
        finally:
            os.close(terminal)
        process.returncode = reaped(one)
        assert mounts.at(one.root) is None
        assert "signal=SIGHUP" in one.log()


class TestKilled:
    @pytest.fixture
    def killed(self, stores: Callable[..., MountedStore]) -> MountedStore:
        one = stores().mount()
        one.volume.mkdir()
        one.snapshot("one")
        one.kill()
        assert mounts.is_dead(one.root)
        assert stat.S_ISSOCK((one.store / "control" / "socket").stat().st_mode)
        return one

    def pid(self, one: MountedStore) -> None:
        """The daemon is the command's child, not ours: it is ended by name of its store."""
        one.pid = daemon.look(one.store).pid

    def test_one_command_mounts_again(self, killed: MountedStore) -> None:
        told = snap_json("daemon", "status", "--store", killed.store, code=5)
        assert told["stale"] == [str(killed.root)]
        snap("mount", killed.store, killed.root)
        self.pid(killed)
        assert os.listdir(killed.snap) == ["one"]
        assert killed.call("get_store").snapshots == 1
        assert [mount for mount in mounts.table() if mount.store == killed.store] == [mounts.at(killed.root)]

    def test_at_another_place(self, killed: MountedStore) -> None:
        other = killed.store.parent / "other"
        other.mkdir()
        snap("mount", killed.store, other)
        old, killed.root = killed.root, other
        self.pid(killed)
        assert mounts.at(old) is None
        assert os.listdir(old) == []
        assert "cleared the mount of a daemon that died" in killed.log()

    def test_commands_do_without_it(self, killed: MountedStore) -> None:
        assert "one" in snap("list", "data", "--store", killed.store)

    def test_stop_clears_it(self, killed: MountedStore) -> None:
        assert "no daemon" in snap("daemon", "stop", "--store", killed.store)
        assert mounts.at(killed.root) is None

    def test_the_socket_of_one_that_was_killed_is_told_as_such(self, killed: MountedStore) -> None:
        said = snap("list", "data", "--address", f"unix:{killed.store}/control/socket", code=5)
        assert said.count("\n") == 1
        assert str(killed.store) in said


class TestConfiguration:
    def test_a_bad_file(self, stores: Callable[..., MountedStore]) -> None:
        one = stores()
        configure(one, "[log]\nlevel = 'loud'\n")
        with pytest.raises(Invalid, match=r"config\.toml, line 2: log\.level"):
            one.mount()
        assert mounts.at(one.root) is None
        said = snap("mount", one.store, one.root, code=2)
        assert "line 2" in said
        snap("config", "set", "--store", one.store, "log.level", "debug")
        one.mount()
        assert " DEBUG " in one.log()

    def test_sockets(self, stores: Callable[..., MountedStore], tmp_path: Path) -> None:
        one = stores()
        port = free_port()
        place = tmp_path / "run"
        configure(
            one,
            f'[control]\ndirectory = "{place}"\ngroup = "root"\n'
            f'[listen]\naddress = "127.0.0.1:{port}"\nplaintext = true\n',
        )
        one.mount()
        assert stat.S_IMODE(place.stat().st_mode) == 0o750
        told = snap_json("daemon", "status", "--store", one.store)
        assert told["addresses"] == [
            f"unix:{one.store}/control/socket", f"unix:{place}/socket", f"insecure:127.0.0.1:{port}",
        ]  # fmt: skip
        with client.connect(f"unix:{place}/socket") as calls:
            assert calls.get_store().pid == one.pid
        one.umount()
        assert not (place / "socket").exists()

    def test_of_the_mount_and_the_store(self, stores: Callable[..., MountedStore]) -> None:
        one = stores()
        configure(one, "[mount]\nxattrs = true\n[store]\ncommit_seconds = 0.1\n")
        one.mount()
        one.volume.mkdir()
        os.setxattr(one.volume, "user.a", b"b")
        assert os.getxattr(one.volume, "user.a") == b"b"
        began = time.monotonic()
        for number in range(3):
            before = commits(one)
            (one.volume / f"directory-{number}").mkdir()
            wait_until(lambda before=before: commits(one) > before)
        assert time.monotonic() - began < 5  # what one would take by default
        one.kill()
        one.mount()
        assert len(os.listdir(one.volume)) == 3

    @pytest.mark.parametrize("way", ["signal", "command"])
    def test_reload(self, mounted: MountedStore, way: str) -> None:
        def reload() -> str:
            if way == "command":
                return snap("daemon", "reload", "--store", mounted.store)
            os.kill(mounted.pid, signal.SIGHUP)
            return ""

        configure(mounted, "[log]\nformat = 'json'\n[mount]\nxattrs = true\n")
        said = reload()
        if way == "command":
            assert said == "log.format: in force\nmount.xattrs: takes effect when the daemon starts again\n"
            assert json.loads(snap("daemon", "reload", "--store", mounted.store, "--json"))["applied"] == []
        else:
            wait_until(lambda: '"applied": "log.format"' in mounted.log())
        assert mounted.call("get_settings").settings
        configure(mounted, "")
        reload()

    def test_reload_of_a_bad_file(self, stores: Callable[..., MountedStore]) -> None:
        one = stores().mount()
        configure(one, "[log]\nlevel = 'loud'\n")
        assert "line 2" in snap("daemon", "reload", "--store", one.store, code=2)
        os.kill(one.pid, signal.SIGHUP)
        wait_until(lambda: "stays as it was" in one.log())
        with one.connect() as calls:
            assert {each.value for each in calls.get_settings().settings if each.name == "log.level"} == {'"info"'}
        one.volume.mkdir()

    def test_reload_without_a_daemon(self, stores: Callable[..., MountedStore]) -> None:
        assert "no daemon" in snap("daemon", "reload", "--store", stores().store, code=5)

    def test_commands(self, mounted: MountedStore) -> None:
        store = ("--store", str(mounted.store))
        assert snap("config", "path", *store) == f"{mounted.store}/config.toml\n"
        assert snap("config", "set", "log.level", "debug", *store) == 'log.level = "debug"\n'
        assert "starts again" in snap("config", "set", "mount.xattrs", "true", *store)
        shown = snap("config", "show", *store)
        assert '\nlevel = "debug"\n' in shown
        assert "\n# stop_seconds = 60.0\n" in shown
        settings = {each["name"]: each for each in snap_json("config", "show", *store)["settings"]}
        assert settings["mount.xattrs"]["value"] == "true"
        assert settings["mount.xattrs"]["needs_restart"]
        assert "did you mean log.level" in snap("config", "set", "log.lvel", "debug", *store, code=2)
        assert "one of" in snap("config", "set", "log.level", "loud", *store, code=2)
        assert snap("config", "unset", "log.level", *store) == 'log.level = "info"\n'
        snap("config", "unset", "mount.xattrs", *store)
        assert (mounted.store / "config.toml").read_text().strip() == ""

    def test_an_address_that_is_taken(self, mounted: MountedStore) -> None:
        port = free_port()
        with mounted.connect() as calls:
            calls.update_setting(name="metrics.address", value=f'"127.0.0.1:{port}"')
            with pytest.raises(Unavailable):
                calls.update_setting(name="metrics.address", value=f'"localhost:{port}"')
            calls.update_setting(name="metrics.address", value="")


class TestLog:
    def test_last_and_level(self, mounted: MountedStore) -> None:
        assert "the store is mounted" in snap("daemon", "logs", "--store", mounted.store)
        assert snap("daemon", "logs", "-n", "0", "--store", mounted.store) == ""
        assert snap("daemon", "logs", "--level", "error", "--store", mounted.store) == ""
        assert mounted.log() == snap("daemon", "logs", "-n", "1000", "--store", mounted.store)

    def test_none(self, stores: Callable[..., MountedStore]) -> None:
        assert "no log" in snap("daemon", "logs", "--store", stores().store, code=3)

    def test_follow_over_a_restart(self, mounted: MountedStore) -> None:
        with subprocess.Popen(
            [SNAP, "daemon", "logs", "--follow", "-n", "1", "--store", mounted.store],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(), text=True,
        ) as process:  # fmt: skip
            try:
                assert process.stdout is not None
                assert "is mounted" in process.stdout.readline()
                mounted.remount()
                while f"pid={mounted.pid}" not in process.stdout.readline():
                    pass
                process.send_signal(signal.SIGINT)
                _, said = process.communicate(timeout=SECONDS_MAX)
                assert (process.returncode, said) == (130, "")
            finally:
                process.kill()


class TestMetrics:
    def test_by_http_and_by_call(self, mounted: MountedStore) -> None:
        port = free_port()
        with mounted.connect() as calls:
            calls.update_setting(name="metrics.address", value=f'"127.0.0.1:{port}"')
        with open(mounted.volume / "file", "wb", buffering=0) as file:
            file.write(random.randbytes(1_000_000))
            os.fsync(file.fileno())
            mounted.snapshot("one")
            with pytest.raises(OSError):
                (mounted.snap / "one" / "new").mkdir()
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=SECONDS_MAX) as answer:
                by_http = answer.read().decode()
            by_call = mounted.call("get_metrics")
        for text in (by_http, by_call):
            found = metrics_of(text)
            assert found["snapfs_snapshots",] == 1
            assert found["snapfs_open_files",] == 1
            assert found["snapfs_logical_bytes",] == 1_000_000
            assert found["snapfs_fuse_duration_seconds_count", "write"] >= 1
            assert found["snapfs_fuse_duration_seconds_count", "fsync"] >= 1
            assert found["snapfs_fuse_errors_total", "EROFS", "mkdir"] == 1
            assert found["snapfs_rpc_calls_total", "OK", "snapfs.v1.SnapshotService/CreateSnapshot"] == 1
            assert found["snapfs_commit_duration_seconds_count",] >= 1

    def test_an_address_in_the_file_that_is_taken(self, mounted: MountedStore, stores) -> None:
        port = free_port()
        with mounted.connect() as calls:
            calls.update_setting(name="metrics.address", value=f'"127.0.0.1:{port}"')
        two = stores("two")
        configure(two, f"[metrics]\naddress = '127.0.0.1:{port}'\n")
        with pytest.raises(Unavailable, match="metrics"):
            two.mount()
        assert mounts.at(two.root) is None


@contextmanager
def in_the_foreground(one: MountedStore, *prefix: str, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [*prefix, SNAP, "mount", "--foreground", one.store, one.root],
        env=environment(**more), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.communicate(timeout=SECONDS_MAX)
            except subprocess.TimeoutExpired:
                process.kill()


def test_a_relative_path_in_the_foreground(
    stores: Callable[..., MountedStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = stores()
    monkeypatch.chdir(one.store.parent)
    full, one.store = one.store, Path(one.store.name)
    with in_the_foreground(one):
        wait_until(lambda: daemon.look(full).running and mounts.at(one.root) is not None)
        mount = mounts.at(one.root)
        assert mount is not None
        assert mount.store == full
        wait_until(lambda: (full / "daemon.log").exists() and "is mounted" in one.log())
    one.store = full
    with pytest.raises(SnapfsError):
        one.connect().get_store()
