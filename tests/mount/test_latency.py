"""Cores kept awake by the daemon of a real mount, as the system sees it."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from snapfs.fuse.latency import DEVICE
from snapfs.testing.mounted import MountedStore

SECONDS_MAX = 30.0
BURST_SECONDS = 0.1
"""Of requests; many times what makes cores be held."""
_names = itertools.count()
"""The kernel may know that one is absent."""

pytestmark = pytest.mark.skipif(not os.access(DEVICE, os.R_OK | os.W_OK), reason=f"{DEVICE} may not be opened")


def holds(pid: int) -> bool:
    """Whether a process asks for a latency."""
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            found.append(os.readlink(entry))
    return str(DEVICE) in found


def family(pid: int) -> Iterator[int]:
    """A process and its children."""
    yield pid
    for thread in Path(f"/proc/{pid}/task").iterdir():
        for child in (thread / "children").read_text().split():
            yield from family(int(child))


@contextmanager
def effective() -> Iterator[Callable[[], int]]:
    """The latency in us that the cores may have."""
    file = os.open(DEVICE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield lambda: int.from_bytes(os.pread(file, 4, 0), "little")
    finally:
        os.close(file)


def ask(volume: Path, seen: Callable[[], bool]) -> bool:
    """Requests in quick succession until that is so, for ``BURST_SECONDS``; looked at between two of them."""
    until = time.monotonic() + BURST_SECONDS
    while time.monotonic() < until:
        for _ in range(100):
            assert not (volume / str(next(_names))).exists()
        if seen():
            return True
    return False


def within(seconds_max: float, true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + seconds_max
    while not true():
        assert time.monotonic() < deadline


def counted(mounted: MountedStore, name: str) -> float:
    for metric in text_string_to_metric_families(mounted.call("get_metrics")):
        for sample in metric.samples:
            if sample.name == f"snapfs_polling_{name}_total":
                return sample.value
    raise AssertionError(name)


def test_held_while_requests_come(mounted: MountedStore) -> None:
    with effective() as latency:

        def held() -> bool:
            """All of it at one time: what begins and ends with a hold that is there."""
            if not holds(mounted.pid):
                return False
            value, inherited = latency(), [pid for pid in family(mounted.pid) if pid != mounted.pid and holds(pid)]
            return holds(mounted.pid) and value == 0 and not inherited

        within(SECONDS_MAX, lambda: ask(mounted.volume, held))
    within(SECONDS_MAX, lambda: not holds(mounted.pid))
    assert counted(mounted, "holds") > 0
    assert counted(mounted, "held_seconds") > 0


def test_an_idle_daemon_holds_nothing(mounted: MountedStore) -> None:
    within(SECONDS_MAX, lambda: ask(mounted.volume, lambda: holds(mounted.pid)))
    within(SECONDS_MAX, lambda: not holds(mounted.pid))
    before = counted(mounted, "holds")
    until = time.monotonic() + BURST_SECONDS
    while time.monotonic() < until:
        assert not holds(mounted.pid)
    assert counted(mounted, "holds") == before


def test_switched_while_it_runs(mounted: MountedStore) -> None:
    with mounted.connect() as connected:
        for awake in (False, True, False):
            connected.update_setting(name="mount.awake", value=str(awake).lower())
            before = counted(mounted, "holds")
            if awake:
                within(SECONDS_MAX, lambda: ask(mounted.volume, lambda: holds(mounted.pid)))
            else:
                assert not ask(mounted.volume, lambda: holds(mounted.pid))
            assert (counted(mounted, "holds") > before) == awake
