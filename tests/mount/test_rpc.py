"""The API of a real daemon, beside a mount that is used: many callers, callers that die, and the end."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path

import pytest

from snapfs import api, client, daemon, errors
from snapfs.testing.mounted import MountedStore

SECONDS_MAX = 30.0

PROGRAM = """
import sys, time
from snapfs import client
with client.connect(sys.argv[1]) as store:
    {}
"""
CREATES = (
    "[print(store.create_snapshot(volume='data', name=f'{sys.argv[2]}.{n}').name, flush=True) for n in range(99999)]"
)
READS = "changes = store.diff(volume='data', snapshot='empty'); print(next(changes).kind, flush=True); time.sleep(600)"
WATCHES = "[print(event.kind, flush=True) for event in store.watch_events(after=0)]"


@contextmanager
def program(mounted: MountedStore, code: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A client's process that has said something."""
    command = [sys.executable, "-c", PROGRAM.format(code), str(mounted.store), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None
            assert running.stdout.readline()
            yield running
        finally:
            running.kill()


def wait_for(done: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS_MAX
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


@contextmanager
def load(volume: Path) -> Iterator[None]:
    """Files are made, written, read, renamed and removed meanwhile; what is read must be what was written."""
    ended = threading.Event()

    def work() -> int:
        turn = 0
        while not ended.is_set():
            turn += 1
            path, data = volume / f"file{turn % 50}", os.urandom(1 + turn % 5000)
            path.with_name("new").write_bytes(data)
            path.with_name("new").rename(path)
            assert path.read_bytes() == data
            if turn % 7 == 0:
                path.unlink()
        return turn

    with futures.ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        try:
            yield
        finally:
            ended.set()
        assert working.result(SECONDS_MAX) > 10


def test_many_clients_beside_a_busy_mount(mounted: MountedStore) -> None:
    def work(number: int) -> None:
        with mounted.connect() as owner:
            for turn in range(4):
                name = f"{number}.{turn}"
                owner.create_snapshot(volume="data", name=name)
                assert owner.get_snapshot(volume="data", snapshot=name).name == name
                list(owner.diff(volume="data", snapshot=name))
                assert name in os.listdir(mounted.snap)
                owner.delete_snapshot(volume="data", snapshot=name)

    with load(mounted.volume), futures.ThreadPoolExecutor(32) as pool:
        list(pool.map(work, range(32)))
    assert mounted.call("check_store").findings == []


def test_clients_that_die_leave_nothing_behind(mounted: MountedStore) -> None:
    mounted.snapshot("empty")
    for number in range(3000):
        (mounted.volume / f"{'name' * 40}{number}").touch()
    with load(mounted.volume):
        for turn in range(3):
            for code in (CREATES, READS, WATCHES):
                with program(mounted, code, f"{turn}") as running:
                    running.kill()
    entries = mounted.call("list_audit_entries")
    made = {snapshot.name for snapshot in mounted.call("list_snapshots")}
    told = {entry.result for entry in entries if entry.method.endswith("CreateSnapshot")}
    assert told <= {"OK", "CANCELLED"}
    assert len(made) >= 4
    mounted.snapshot("after")
    assert set(os.listdir(mounted.snap)) == {*made, "after"}
    assert mounted.call("check_store").findings == []
    began = time.monotonic()
    mounted.umount()
    assert time.monotonic() - began < 5
    mounted.mount()


def test_a_volume_whose_deletion_nobody_waited_for(mounted: MountedStore) -> None:
    """However far the call got when it was cancelled: the kernel and the store agree."""
    with mounted.connect() as owner:
        for number in range(40):
            name = f"v{number}"
            owner.create_volume(name=name)
            assert (mounted.root / name).is_dir()  # now the kernel knows the name
            hasty = client.connect(mounted.store, timeout_seconds=0.0005 * (1 + number % 10))
            with hasty, contextlib.suppress(errors.Unavailable):
                hasty.delete_volume(name=name)

        def agree() -> bool:
            known = {volume.name for volume in owner.list_volumes()}
            names = [f"v{number}" for number in range(40)]
            listed = {entry.name for entry in mounted.root.iterdir()}
            return listed == known and all((mounted.root / name).exists() == (name in known) for name in names)

        wait_for(agree)  # the last call may still be under way


def test_a_watcher_does_not_delay_the_end(mounted: MountedStore) -> None:
    mounted.snapshot("one")  # commits, so that there is an event to begin with
    with program(mounted, WATCHES), mounted.connect() as owner:
        watcher = owner.watch_event_batches()
        next(watcher)
        began = time.monotonic()
        daemon.stop(mounted.root)
        assert time.monotonic() - began < 5
        with pytest.raises(errors.Unavailable, match="is ending"):
            next(watcher)
        assert not (mounted.store / "control/socket").exists()
        assert not (mounted.store / "control/owner").exists()
        mounted.mount()
        assert owner.get_store().pid == mounted.pid


def test_the_threads_of_calls_are_bounded(mounted: MountedStore) -> None:
    with mounted.connect() as owner, futures.ThreadPoolExecutor(200) as pool:
        before = threads(mounted.pid)
        assert all(pool.map(lambda _: list(owner.list_volumes()), range(2000)))
        assert threads(mounted.pid) - before <= 110


def test_events_tell_what_happens_in_the_mount(mounted: MountedStore) -> None:
    with mounted.connect() as owner:
        after = list(owner.watch_events(until_now=True, after=0))
        watcher = owner.watch_event_batches(after=after[-1].sequence if after else 0)
        next(watcher)
        (mounted.root / "made").mkdir()
        owner.create_snapshot(volume="made", name="one")
        (mounted.volume / "file").touch()
        kinds: list[tuple[api.EventKind, str]] = []
        while len(kinds) < 2:
            kinds.extend((event.kind, event.volume) for event in next(watcher).events if event.volume == "made")
        assert kinds == [(api.EventKind.VOLUME_CREATED, "made"), (api.EventKind.SNAPSHOT_CREATED, "made")]
        watcher.close()  # type: ignore[attr-defined] # it is a generator
