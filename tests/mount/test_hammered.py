"""The request loop under programs that never rest, beside all else that the daemon has to do meanwhile."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from snapfs.client import Client
from snapfs.testing.mounted import MountedStore

SECONDS_MAX = 30.0
COMMIT_SECONDS = 0.2
IDLE_WINDOW_SECONDS = 0.5
IDLE_SHARE_MAX = 0.1
"""Of a core.  Looking without end would be all of it."""

PROGRAM = """
import os, random, sys
chance = random.Random(int(sys.argv[2]))
home = os.path.join(sys.argv[1], sys.argv[2] + "-" + str(os.getpid()))
os.mkdir(home)
known = {}
print("begun", flush=True)
while True:
    path = os.path.join(home, str(chance.randrange(50)))
    kind = chance.randrange(8)
    if kind == 0:
        data = chance.randbytes(chance.choice((0, 10, 5000, 200_000)))
        with open(path, "wb") as file:
            file.write(data)
            if chance.randrange(20) == 0:
                os.fsync(file.fileno())
        known[path] = data
    elif kind == 1 and path in known:
        os.unlink(path)
        del known[path]
    elif kind == 2 and path in known:
        os.rename(path, path + "r")
        os.rename(path + "r", path)
    elif kind == 3:
        assert sorted(os.listdir(home)) == sorted(map(os.path.basename, known))
    elif path in known:
        assert os.stat(path).st_size == len(known[path])
        with open(path, "rb") as file:
            assert file.read() == known[path]
    else:
        assert not os.path.exists(path)
"""


@contextmanager
def programs(place: Path, count: int) -> Iterator[list[subprocess.Popen[str]]]:
    """They run inside, each in a directory of its own, and check what they find; none may have ended by itself."""
    running: list[subprocess.Popen[str]] = []
    with contextlib.ExitStack() as stack:
        for number in range(count):
            command = [sys.executable, "-c", PROGRAM, str(place), str(number)]
            program = stack.enter_context(
                subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            )
            stack.callback(program.kill)
            running.append(program)
        for program in running:
            assert program.stdout is not None
            assert program.stdout.readline() == "begun\n"
        yield running
        for program in running:
            program.kill()
            said = program.communicate()[1]
            assert program.returncode == -signal.SIGKILL, said


def counted(connected: Client) -> dict[str, float]:
    families = text_string_to_metric_families(connected.get_metrics())
    return {sample.name: sample.value for family in families for sample in family.samples if not sample.labels}


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_for_rest(pid: int) -> None:
    """Until the daemon uses no CPU worth mentioning."""
    deadline = time.monotonic() + SECONDS_MAX
    used = IDLE_WINDOW_SECONDS
    while used > IDLE_SHARE_MAX * IDLE_WINDOW_SECONDS:
        assert time.monotonic() < deadline, f"the idle daemon uses {used / IDLE_WINDOW_SECONDS:.0%} of a core"
        before = cpu_seconds(pid)
        time.sleep(IDLE_WINDOW_SECONDS)  # the window that is looked at
        used = cpu_seconds(pid) - before


def hammer(one: MountedStore, count: int, seconds: float, name: str) -> None:
    """Programs at work, calls at the same time, and commits by the timer."""
    with one.connect() as connected, programs(one.volume, count):
        began = time.monotonic()
        before = counted(connected)
        commits = before["snapfs_commit_duration_seconds_count"]
        calls = 0
        while time.monotonic() < began + seconds:
            waited = time.monotonic()
            while counted(connected)["snapfs_commit_duration_seconds_count"] == commits:
                assert time.monotonic() < waited + SECONDS_MAX, "the timer of commits does not fire"
            connected.create_snapshot(volume="data", name=f"{name}-{calls}")
            commits = counted(connected)["snapfs_commit_duration_seconds_count"]
            calls += 1
        after = counted(connected)
        assert after["snapfs_polling_found_total"] > before["snapfs_polling_found_total"]
        assert after["snapfs_polling_passes_total"] > before["snapfs_polling_passes_total"]
    for number in range(calls):
        assert (one.snap / f"{name}-{number}").is_dir()


def configured(one: MountedStore) -> MountedStore:
    (one.store / "config.toml").write_text(f"[store]\ncommit_seconds = {COMMIT_SECONDS}\n")
    one.mount()
    one.volume.mkdir()
    return one


@pytest.mark.parametrize("count", [1, 8])
def test_hammered(stores: Callable[..., MountedStore], count: int) -> None:
    one = configured(stores())
    hammer(one, count, 1.0, "one")
    wait_for_rest(one.pid)
    one.umount()


def test_ended_while_hammered(stores: Callable[..., MountedStore]) -> None:
    one = configured(stores())
    with contextlib.suppress(AssertionError), programs(one.volume, 4):  # they fail when the mount is gone
        os.kill(one.pid, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(one.pid, 0)[1]) == 0
        one.pid = 0
    assert one.pid == 0
    one.mount()
    assert len(os.listdir(one.volume)) == 4


def test_switched_while_it_runs(stores: Callable[..., MountedStore]) -> None:
    one = configured(stores())
    with one.connect() as connected:
        for polling in (False, True, False):
            connected.update_setting(name="mount.polling", value=str(polling).lower())
            before = counted(connected)
            for number in range(300):
                (one.volume / f"{polling}-{number}").touch(exist_ok=True)
            after = counted(connected)
            found, slept = (
                after[f"snapfs_polling_{name}_total"] - before[f"snapfs_polling_{name}_total"]
                for name in ("found", "sleeps")
            )
            assert (found > 0) == polling
            if not polling:
                assert slept >= 300


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_for_minutes(stores: Callable[..., MountedStore]) -> None:
    """With unmounting, ending and killing between."""
    one = configured(stores())
    for turn in range(24):
        hammer(one, 1 + turn % 8, 8.0, f"turn{turn}")
        wait_for_rest(one.pid)
        if turn % 3 == 0:
            one.kill()
            one.mount()
        else:
            one.remount()
    assert "Traceback" not in one.log()
