"""The daemon under systemd: what it tells, and the unit file."""

from __future__ import annotations

import configparser
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from snapfs import mounts
from snapfs.testing.mounted import MountedStore

SNAP = str(Path(sys.executable).with_name("snap"))
UNIT = Path(__file__).parents[2] / "integrations" / "systemd" / "snapfs@.service"
SECONDS_MAX = 20.0
EXPOSURE_MAX = 4.5
"""Of 10, as systemd-analyze sees it: mounting for all needs CAP_SYS_ADMIN and the host's mount namespace."""


class Supervised:
    """A daemon in the foreground that is told of a systemd: a datagram socket."""

    def __init__(self, one: MountedStore, prefix: list[str], watchdog_seconds: float = 0.0) -> None:
        self.one = one
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        path = one.store.parent / "notify"
        self.socket.bind(str(path))
        self.socket.settimeout(SECONDS_MAX)
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("SNAPFS_", "WATCHDOG_"))}
        more = {"NOTIFY_SOCKET": str(path)}
        if watchdog_seconds:
            more["WATCHDOG_USEC"] = str(int(watchdog_seconds * 1_000_000))
        self.process = subprocess.Popen(
            [*prefix, SNAP, "mount", "--foreground", one.store, one.root],
            env=kept | more, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def hear(self, skip: str = "WATCHDOG=1") -> str:
        """What it says next."""
        while True:
            said = self.socket.recv(4096).decode().strip()
            if said != skip:
                return said

    def end(self) -> None:
        self.socket.close()
        self.process.terminate()
        try:
            self.process.communicate(timeout=SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()


Start = Callable[..., Supervised]


@pytest.fixture
def start(stores: Callable[..., MountedStore]) -> Iterator[Start]:
    started: list[Supervised] = []

    def begin(*prefix: str, watchdog_seconds: float = 0.0) -> Supervised:
        started.append(Supervised(stores(), list(prefix), watchdog_seconds))
        return started[-1]

    yield begin
    for one in started:
        one.end()


class TestNotify:
    def test_the_whole_life(self, start: Start) -> None:
        daemon = start()
        status = f"STATUS={daemon.one.store} is mounted at {daemon.one.root}"
        assert [daemon.hear() for _ in range(2)] == [status, "READY=1"]
        assert os.listdir(daemon.one.root) == []  # ready means: can be used
        daemon.process.send_signal(signal.SIGHUP)
        assert [daemon.hear() for _ in range(3)] == ["RELOADING=1", status, "READY=1"]
        daemon.process.send_signal(signal.SIGTERM)
        assert [daemon.hear() for _ in range(2)] == ["STATUS=ending", "STOPPING=1"]
        assert daemon.process.wait(SECONDS_MAX) == 0
        assert mounts.at(daemon.one.root) is None

    def test_the_watchdog_is_fed(self, start: Start) -> None:
        daemon = start(watchdog_seconds=0.6)
        while daemon.hear(skip="") != "READY=1":
            pass
        began = time.monotonic()
        for _ in range(6):
            assert daemon.hear(skip="") == "WATCHDOG=1"
        assert 0.5 < time.monotonic() - began < 2.4  # on the average in time, without haste

    def test_no_watchdog(self, start: Start) -> None:
        """Another process's is not ours to feed."""
        daemon = start("env", "WATCHDOG_PID=1", "WATCHDOG_USEC=1000")
        said = [daemon.hear(skip="") for _ in range(2)]
        daemon.process.send_signal(signal.SIGTERM)
        said += [daemon.hear(skip="") for _ in range(2)]
        assert "WATCHDOG=1" not in said

    def test_a_failed_start_is_never_ready(self, start: Start) -> None:
        daemon = start()
        while daemon.hear() != "READY=1":
            pass
        done = subprocess.run(
            [SNAP, "mount", "--foreground", daemon.one.store, daemon.one.root],
            env={**os.environ, "NOTIFY_SOCKET": str(daemon.one.store.parent / "notify")},
            capture_output=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 5
        daemon.socket.setblocking(False)
        with pytest.raises(BlockingIOError):
            daemon.socket.recv(100)
        daemon.socket.settimeout(SECONDS_MAX)


def settings() -> configparser.SectionProxy:
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(UNIT)
    return unit["Service"]


class TestUnit:
    @pytest.fixture
    def unit(self, tmp_path: Path) -> Path:
        """An instance of it, for the command that is installed here."""
        made = tmp_path / "snapfs@lake.service"
        made.write_text(UNIT.read_text().replace("/usr/local/bin/snapfs", SNAP))
        return made

    @pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")
    def test_systemd_takes_it(self, unit: Path) -> None:
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, timeout=30, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")

    @pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")
    def test_it_is_hardened(self, unit: Path) -> None:
        options = ["--offline=yes", f"--threshold={round(EXPOSURE_MAX * 10)}", "--no-pager"]
        analyze = ["systemd-analyze", "security", *options, unit]
        done = subprocess.run(analyze, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def test_what_would_hide_the_mount_is_left_out(self) -> None:
        """Each gives the service a mount namespace of its own."""
        hiding = ("ProtectSystem", "ProtectHome", "PrivateTmp", "PrivateDevices", "PrivateMounts", "ProtectProc")
        assert [name for name in hiding if name in settings()] == []
        readme = UNIT.with_name("README.md").read_text()
        assert [name for name in hiding if name not in readme] == []

    def test_it_waits_longer_than_the_daemon(self) -> None:
        from snapfs.config import Config

        assert float(settings()["TimeoutStopSec"]) > Config().daemon.stop_seconds

    @pytest.mark.skipif(os.getuid() != 0 or shutil.which("setpriv") is None, reason="needs root and setpriv")
    def test_its_capabilities_suffice(self, start: Start) -> None:
        """With a file open for writing, whose pages are fetched by its number."""
        names = settings()["CapabilityBoundingSet"].split()
        kept = ",".join(f"+{name.removeprefix('CAP_').lower()}" for name in names)
        daemon = start("setpriv", f"--bounding-set=-all,{kept}", "--no-new-privs")
        one = daemon.one
        while daemon.hear() != "READY=1":
            pass
        one.volume.mkdir()
        os.chmod(one.volume, 0o700)
        os.chown(one.volume, 4711, 4711)
        with open(one.volume / "file", "wb", buffering=0) as file:
            os.fchmod(file.fileno(), 0o200)
            file.write(b"x" * 100_000)
            one.snapshot("one")
            assert (one.snap / "one" / "file").stat().st_size == 100_000
            assert (one.snap / "one" / "file").read_bytes() == b"x" * 100_000
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(SECONDS_MAX) == 0
