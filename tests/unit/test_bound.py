"""A daemon ends within its time, also one whose loop hangs: real processes, as os._exit ends them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import trio

from snapfs.daemon.bound import STATUS, Bound
from snapfs.daemon.signals import received

SECONDS_MAX = 20.0
STOP_SECONDS = 1.5

_PRELUDE = f"""
import signal, sys, time, trio
from pathlib import Path
from snapfs.config.tables import Log
from snapfs.daemon import logs
from snapfs.daemon.bound import Bound
from snapfs.daemon.signals import received
logs.configure(Log(), logs.Output())
bound = Bound(Path("/nowhere/at/all"), lambda: 4711)
async def serve(hang):
    with received([signal.SIGTERM], lambda number: bound.begin({STOP_SECONDS})) as signals:
        print("ready", flush=True)
        if hang:
            time.sleep(60)  # the loop hangs: no task runs
        print((await signals.receive()).name, flush=True)
"""


def run(code: str) -> tuple[int, float, str]:
    """Exit status, seconds from SIGTERM to the end, and what was said."""
    with subprocess.Popen(
        [sys.executable, "-c", _PRELUDE + code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            said, _ = process.communicate(timeout=SECONDS_MAX)
            return process.returncode, time.monotonic() - began, said
        finally:
            process.kill()


def test_in_time() -> None:
    status, seconds, said = run("trio.run(serve, False)\nbound.met()\n")
    assert (status, said) == (0, "SIGTERM\n")
    assert seconds < STOP_SECONDS


@pytest.mark.parametrize("code", ["trio.run(serve, True)", "trio.run(serve, False)\ntime.sleep(60)"])
def test_not_in_time(code: str) -> None:
    """The loop hangs, or what comes after it does."""
    status, seconds, said = run(code)
    assert status == STATUS
    assert seconds < STOP_SECONDS + 1
    assert "could not end in time" in said
    assert "unflushed_bytes=4711" in said


def test_an_error_ends_the_process_at_once() -> None:
    status, seconds, _ = run("trio.run(serve, False)\nsys.exit(3)\n")
    assert status == 3
    assert seconds < STOP_SECONDS


def test_share(tmp_path: Path) -> None:
    bound = Bound(tmp_path, lambda: 0)
    assert bound.share(0.5) == float("inf")
    bound.begin(100)
    bound.begin(1)  # the first counts
    assert 45 < bound.share(0.5) <= 50
    bound.met()


async def test_signals_come_in_order_and_at_once() -> None:
    seen: list[signal.Signals] = []
    before = signal.getsignal(signal.SIGUSR1)
    with received([signal.SIGUSR1, signal.SIGUSR2], seen.append) as signals:
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGUSR1):
            os.kill(os.getpid(), number)
            deadline = time.monotonic() + SECONDS_MAX
            while seen[-1:] != [number] or len(seen) % 2 != (number == signal.SIGUSR1):
                assert time.monotonic() < deadline
        with trio.fail_after(SECONDS_MAX):
            assert [await signals.receive() for _ in range(3)] == seen
    assert signal.getsignal(signal.SIGUSR1) == before
