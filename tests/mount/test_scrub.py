"""Scrub by a real daemon, and by a command without one: it goes on after kill -9, finds damage beside writers."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from snapfs import api
from snapfs.api import EventKind, ScrubState
from snapfs.testing.mounted import MountedStore

SNAP = Path(sys.executable).with_name("snap")
WAIT_SECONDS = 30.0
DATA_BYTES = 6_000_000
SLOW = 2_000_000
"""Bytes a second: the data takes seconds."""
CRAWLING = 64 * 1024
FAST = 1 << 40


@pytest.fixture
def one(stores: Callable[..., MountedStore]) -> MountedStore:
    """A mounted store with data that does not compress; its daemon may complain."""
    store = stores().mount()
    store.volume.mkdir()
    (store.volume / "f").write_bytes(random.Random(1).randbytes(DATA_BYTES))
    store.snapshot("one")
    return store


def until(ask: Callable[[], api.ScrubStatus], holds: Callable[[api.ScrubStatus], object]) -> api.ScrubStatus:
    deadline = time.monotonic() + WAIT_SECONDS
    while not holds(status := ask()):
        assert time.monotonic() < deadline, status
        time.sleep(0.02)
    return status


def ended(one: MountedStore) -> api.ScrubStatus:
    with one.connect() as calls:
        return until(calls.get_scrub, lambda status: status.state is not ScrubState.RUNNING)


def damage(store: Path, content: bytes) -> None:
    """Flip a bit of the stored content."""
    for path in sorted((store / "segments").iterdir()):
        place = path.read_bytes().find(content)
        if place >= 0:
            with path.open("r+b") as file:
                file.seek(place + len(content) // 2)
                file.write(bytes([content[len(content) // 2] ^ 1]))
                os.fsync(file.fileno())
            return
    raise AssertionError("the content is in no segment")


def snap(*arguments: str, code: int = 0) -> str:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("GIT_", "SNAPFS_"))}
    done = subprocess.run(
        [SNAP, *arguments], env=kept, capture_output=True, text=True, timeout=WAIT_SECONDS, check=False
    )
    assert done.returncode == code, (arguments, done.stdout, done.stderr)
    return done.stdout


def test_it_goes_on_after_kill_9(one: MountedStore) -> None:
    with one.connect() as calls:
        calls.start_scrub(bytes_per_second=SLOW)
        until(calls.get_scrub, lambda status: status.data_read_bytes > DATA_BYTES // 4)
        before = calls.start_scrub(bytes_per_second=CRAWLING)  # so that it is not at its end however slow the rest is
        calls.create_snapshot(volume="data", name="two")  # commits, and where the scrub is with it
    one.kill()
    one.mount()
    with one.connect() as calls:
        after = calls.get_scrub()
        assert (after.state, after.start_ns) == (ScrubState.RUNNING, before.start_ns)  # by itself
        assert before.data_read_bytes <= after.data_read_bytes
        assert before.done <= after.done < after.total
        calls.start_scrub(bytes_per_second=FAST)
    status = ended(one)
    assert (status.state, status.start_ns, status.found) == (ScrubState.FINISHED, before.start_ns, 0)
    assert status.done == status.total
    assert DATA_BYTES < status.data_read_bytes < DATA_BYTES * 1.1  # all of it, and nothing twice


@contextmanager
def writing(volume: Path) -> Iterator[None]:
    """Files come, change and go meanwhile."""
    stop, failed = threading.Event(), []

    def write() -> None:
        rng = random.Random(2)
        try:
            for number in range(1_000_000):
                if stop.is_set():
                    return
                path = volume / f"w{number % 7}"
                path.write_bytes(rng.randbytes(rng.randrange(1, 200_000)))
                if number % 3 == 2:
                    path.unlink()
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert failed == []


def test_damage_is_found_while_files_are_written(one: MountedStore) -> None:
    content = random.Random(1).randbytes(DATA_BYTES)
    damage(one.store, content[DATA_BYTES // 2 : DATA_BYTES // 2 + 64])
    with writing(one.volume), one.connect() as calls:
        until(lambda: calls.start_scrub(bytes_per_second=SLOW * 4), lambda status: status.done > 0)
        until(calls.get_scrub, lambda status: status.state is not ScrubState.RUNNING)
    status = ended(one)
    assert (status.state, status.found) == (ScrubState.FINISHED, 1)
    (finding,) = status.findings
    assert finding.code == "block-hash"
    events = one.call("watch_events", after=0, until_now=True, kinds=[EventKind.DAMAGE_FOUND])
    (event,) = events
    assert event.message == f"{finding.code}: {finding.message}"
    assert [line for line in one.log().splitlines() if " ERROR " in line and finding.message in line]
    metrics = one.call("get_metrics")
    assert "snapfs_damage_found_total 1.0" in metrics
    assert "snapfs_scrub_findings 1.0" in metrics
    assert "1 findings" in snap("info", "--store", str(one.store))
    assert json.loads(snap("info", "--json", "--store", str(one.store)))["scrub"]["found"] == 1
    assert "1 findings" in snap("daemon", "status", "--store", str(one.store))
    shown = snap("scrub", "--status", "--store", str(one.store), code=1).splitlines()
    assert shown[1] == f"{finding.code}: {finding.message}"
    one.remount()
    with one.connect() as calls:
        assert calls.get_scrub().findings == [finding]


def test_the_command_with_a_daemon(one: MountedStore) -> None:
    store = ("--store", str(one.store))
    assert snap("scrub", "--status", *store).startswith("none yet; next ")
    assert snap("scrub", "--rate", "64K", *store).startswith("running, ")
    assert snap("scrub", "--pause", *store).startswith("paused, ")
    assert json.loads(snap("scrub", "--cancel", "--json", *store))["state"] == "cancelled"
    snap("scrub", "--cancel", *store, code=4)
    status = json.loads(snap("scrub", "--wait", "--rate", "1G", "--json", *store))
    assert (status["state"], status["found"]) == ("finished", 0)
    assert status["data_read_bytes"] > DATA_BYTES
    assert status["next_ns"] > status["end_ns"]
    snap("config", "set", "scrub.every_days", "0", *store)
    assert json.loads(snap("scrub", "--status", "--json", *store))["next_ns"] == 0


def test_the_command_without_a_daemon(one: MountedStore) -> None:
    store = ("--store", str(one.store))
    one.umount()
    left: dict[str, Any] = {"done": 0}
    for more in range(1, 10):  # the index is looked over first: how much is read of it is not known here
        if not left["done"]:
            left = _interrupted(store, more * DATA_BYTES // 4)
    assert 0 < left["done"] < left["total"]
    done = json.loads(snap("scrub", "--rate", "1G", "--json", *store))
    assert (done["state"], done["start_ns"], done["found"]) == ("finished", left["start_ns"], 0)
    assert DATA_BYTES < done["data_read_bytes"] < DATA_BYTES * 1.1
    content = random.Random(1).randbytes(DATA_BYTES)
    damage(one.store, content[1000:1064])
    found = json.loads(snap("scrub", "--json", *store, code=1))
    assert [finding["code"] for finding in found["findings"]] == ["block-hash"]


def _interrupted(store: tuple[str, ...], count_bytes: int) -> dict[str, Any]:
    """Begin a scrub, or go on with one, and interrupt it when so much was read; its status."""
    running = subprocess.Popen([SNAP, "scrub", "--rate", str(SLOW // 2), *store], stderr=subprocess.PIPE, text=True)
    try:
        wait_for_reads(running.pid, count_bytes)
        running.send_signal(signal.SIGINT)
        _, complaint = running.communicate(timeout=WAIT_SECONDS)
    finally:
        running.kill()
        running.wait()
    assert (running.returncode, complaint.strip()) == (130, "snap: interrupted")
    left: dict[str, Any] = json.loads(snap("scrub", "--status", "--json", *store))
    assert left["state"] == "paused"
    return left


def wait_for_reads(pid: int, count_bytes: int) -> None:
    """Until the process has read so much since it opened the index."""
    deadline = time.monotonic() + WAIT_SECONDS
    opened_at = None
    while opened_at is None or _read_bytes(pid) < opened_at + count_bytes:
        if opened_at is None and "data.mdb" in Path(f"/proc/{pid}/maps").read_text():
            opened_at = _read_bytes(pid)
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _read_bytes(pid: int) -> int:
    """By read(2) and its kin."""
    return int(Path(f"/proc/{pid}/io").read_text().split()[1])
