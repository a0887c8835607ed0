"""Processes that a benchmark watches: the memory and the processor time that they took, the cores that they may use."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Memory:
    """Bytes, the most of each kind that was seen; of several processes the sum."""

    peak_bytes: float = 0.0
    """VmHWM, the kernel's own record: resident at any time, the file pages of a memory-mapped index included."""
    anonymous_bytes: float = 0.0
    """RssAnon: the heap.  Not shared with anybody, not given back under pressure."""
    file_bytes: float = 0.0
    """RssFile: pages of mapped files, which the kernel takes back when it needs them."""

    def note(self, pids: Iterable[int]) -> None:
        """Look now, and keep what is more than before."""
        found = {"VmHWM": 0.0, "RssAnon": 0.0, "RssFile": 0.0}
        for pid in pids:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                    name, _, value = line.partition(":")
                    if name in found:
                        found[name] += int(value.split()[0]) * 1024
        self.peak_bytes = max(self.peak_bytes, found["VmHWM"])
        self.anonymous_bytes = max(self.anonymous_bytes, found["RssAnon"])
        self.file_bytes = max(self.file_bytes, found["RssFile"])


@dataclass
class Memories:
    """Of several subjects, by name."""

    of: dict[str, Memory] = field(default_factory=dict)

    def note(self, name: str, pids: Iterable[int]) -> None:
        if pids := list(pids):
            self.of.setdefault(name, Memory()).note(pids)

    def series(self, kind: str) -> dict[str, list[float]]:
        """For a row: one value each.  ``kind``: a field of Memory."""
        return {name: [getattr(self.of[name], kind)] for name in sorted(self.of, key=lambda name: name != "snapfs")}


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found = [pid]
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            for child in (thread / "children").read_text().split():
                found += family(int(child))
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """Of all their threads since they began, user and system."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


@contextlib.contextmanager
def pinned(pids: Iterable[int], cpu: int) -> Iterator[None]:
    """Processes, with every thread that they have, on one core; afterwards where they were.

    A thread that one of them starts meanwhile is put where they were, too.
    """
    before = {pid: os.sched_getaffinity(pid) for pid in pids}
    for pid in before:
        _set(pid, {cpu})
    try:
        yield
    finally:
        for pid, cores in before.items():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                _set(pid, cores)


def _set(pid: int, cores: set[int]) -> None:
    for thread in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread), cores)
