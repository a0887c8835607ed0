"""kill -9 of the daemon during writes and calls: what was fsynced, snapshotted or told is there, and fsck finds
nothing."""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from snapfs import api
from snapfs.errors import SnapfsError

MountedStore = Any
"""Of the conftest beside."""

WRITERS = 3
CLIENTS = 64


class Load:
    """Threads that write, fsync, replace, remove and snapshot until the mount dies; they note what was acknowledged
    and what was under way."""

    def __init__(self, one: MountedStore, turn: int, *, snapshots: bool = True) -> None:
        self.one = one
        self.turn = turn
        self.synced: dict[str, bytes] = {}
        """Acknowledged by fsync: must be there."""
        self.replaced: dict[str, list[bytes]] = {}
        """Renamed over, directory not yet synced: one of these whole contents."""
        self.snapshots: dict[str, dict[str, bytes]] = {}
        self._threads = [threading.Thread(target=self._safely, args=(self._write, n)) for n in range(WRITERS)]
        self._threads.append(threading.Thread(target=self._safely, args=(self._replace, 0)))
        if snapshots:
            self._threads.append(threading.Thread(target=self._safely, args=(self._snapshot, 0)))

    def run(self, seconds: float) -> None:
        for thread in self._threads:
            thread.start()
        time.sleep(seconds)
        self.one.kill()
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()

    @staticmethod
    def _safely(function: Callable[[int], None], number: int) -> None:
        with contextlib.suppress(OSError, SnapfsError, AssertionError):
            function(number)

    def _write(self, number: int) -> None:
        seed = random.Random(self.turn * 100 + number)
        for count in range(10_000):
            name = f"w{self.turn}-{number}-{count}"
            data = seed.randbytes(seed.choice([100, 10_000, 300_000]))
            file = os.open(self.one.volume / name, os.O_CREAT | os.O_WRONLY, 0o644)
            try:
                place = seed.randrange(len(data))
                os.pwrite(file, data[:place], 0)
                os.pwrite(file, data[place:], place)
                os.fsync(file)
            finally:
                with contextlib.suppress(OSError):
                    os.close(file)
            self.synced[name] = data

    def _replace(self, _: int) -> None:
        """As editors save: write beside, fsync, rename over."""
        seed = random.Random(self.turn)
        name = f"saved-{self.turn}"
        for count in range(10_000):
            data = seed.randbytes(5000)
            beside = self.one.volume / f"{name}.new"
            with open(beside, "wb") as file:
                file.write(data)
                os.fsync(file.fileno())
            self.replaced.setdefault(name, []).append(data)
            os.rename(beside, self.one.volume / name)
            if count % 10 == 9:
                directory = os.open(self.one.volume, os.O_RDONLY)
                try:
                    os.fsync(directory)
                finally:
                    os.close(directory)
                self.replaced[name] = [data]

    def _snapshot(self, _: int) -> None:
        for count in range(10_000):
            known = dict(self.synced)
            name = f"s{self.turn}-{count}"
            self.one.snapshot(name)
            self.snapshots[name] = known
            time.sleep(0.02)


def check(root: Path, known: dict[str, bytes]) -> None:
    for name, data in known.items():
        assert (root / name).read_bytes() == data, name


def kill_and_come_back(one: MountedStore, turn: int, seconds: float) -> Load:
    load = Load(one, turn)
    load.run(seconds)
    one.mount()
    check(one.volume, load.synced)
    for name, contents in load.replaced.items():
        if len(contents) == 1 or (one.volume / name).exists():
            assert (one.volume / name).read_bytes() in contents
    for name, known in load.snapshots.items():
        check(one.volume / ".snap" / name, known)
    report = one.call("check_store")
    assert report.findings == []
    return load


def test_kill(stores: Callable[..., MountedStore]) -> None:
    one = stores().mount()
    one.volume.mkdir()
    loads = [kill_and_come_back(one, turn, 0.3 + 0.15 * turn) for turn in range(5)]
    assert sum(len(load.synced) for load in loads) > 20
    assert sum(len(load.snapshots) for load in loads) > 3
    for load in loads:
        check(one.volume, load.synced)
    for load in loads[:-1]:
        for name in load.snapshots:
            one.call("delete_snapshot", volume="data", snapshot=name)
    check(one.volume, loads[-1].synced)
    assert one.call("check_store").findings == []


class Calls:
    """Clients that create snapshots until the daemon dies; one watches what happens."""

    def __init__(self, one: MountedStore, turn: int) -> None:
        self.one = one
        self.turn = turn
        self.asked: list[str] = []
        """request_id of each call, which is also the snapshot's message."""
        self.made: dict[str, str] = {}
        """Acknowledged: request_id -> name of the snapshot."""
        self.seen: list[api.Event] = []
        self._threads = [threading.Thread(target=self._safely, args=(self._create, n)) for n in range(CLIENTS)]
        self._threads.append(threading.Thread(target=self._safely, args=(self._watch, 0)))

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()

    @staticmethod
    def _safely(function: Callable[[int], None], number: int) -> None:
        with contextlib.suppress(SnapfsError):
            function(number)

    def _create(self, number: int) -> None:
        with self.one.connect() as client:
            for count in range(10_000):
                request_id = f"{self.turn}-{number}-{count}"
                self.asked.append(request_id)
                made = client.create_snapshot(volume="data", message=request_id, request_id=request_id)
                self.made[request_id] = made.name

    def _watch(self, _: int) -> None:
        with self.one.connect() as client:
            for event in client.watch_events(after=0, resume=False):
                self.seen.append(event)

    def check(self) -> None:
        """What was acknowledged is there, what was told is still so, and asking again makes nothing twice."""
        with self.one.connect() as client:
            kept = {snapshot.message: snapshot.name for snapshot in client.list_snapshots(volume="data")}
            assert self.made.items() <= kept.items()
            events = {event.sequence: event for event in client.watch_events(after=0, until_now=True)}
            assert [events[event.sequence] for event in self.seen] == self.seen
            for request_id in self.asked:
                again = client.create_snapshot(volume="data", message=request_id, request_id=request_id)
                assert kept.get(request_id, again.name) == again.name
            messages = [snapshot.message for snapshot in client.list_snapshots(volume="data")]
            assert len(messages) == len(set(messages))
            assert set(self.asked) <= set(messages)


def test_kill_while_clients_call(stores: Callable[..., MountedStore]) -> None:
    one = stores().mount()
    one.volume.mkdir()
    made, seen, unanswered = 0, 0, 0
    for turn in range(3):
        calls, load = Calls(one, turn), Load(one, turn, snapshots=False)
        calls.start()
        load.run(1.0 + 0.3 * turn)
        calls.join()
        one.mount()
        check(one.volume, load.synced)
        calls.check()
        assert one.call("check_store").findings == []
        made, seen = made + len(calls.made), seen + len(calls.seen)
        unanswered += len(calls.asked) - len(calls.made)
    assert "Traceback" not in one.log()  # nor of the child, which outlives the daemon
    assert made > CLIENTS
    assert seen > CLIENTS
    assert unanswered > 0


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_kill_for_long(stores: Callable[..., MountedStore]) -> None:
    one = stores().mount()
    one.volume.mkdir()
    seed = random.Random(7)
    for turn in range(100):
        load = kill_and_come_back(one, turn, seed.uniform(0.05, 1.5))
        for name in list(load.snapshots)[::2]:
            one.call("delete_snapshot", volume="data", snapshot=name)
