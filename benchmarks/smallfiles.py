"""Operations on 50,000 small files, in directories of 1,000: snapfs's mount beside other file systems.

One client (client.py) does one kind of operation on all files after the other, first with the scheduler free to put
client and daemon where it likes, then with both on one core, where nothing runs beside another thing.

A few files are worked on before, which does not count.  "Cold" means that the kernel had forgotten all names and
attributes (and contents, before files are read).  Nothing is synced within what is timed, and everything is between
the operations that begin cold.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from benchmarks import client, filesystems, harness, processes
from benchmarks.filesystems import FileSystem
from benchmarks.harness import Options, Report
from benchmarks.processes import Memories

FILES = 50_000
DIRECTORY_FILES = 1000
FILE_BYTES = 1024

AT_LEAST = {"bindfs": 1.0, "S3QL": 5.0}
"""Times the rate of that one."""
LEVEL = {"bindfs": 1.0}
"""Of a request that does nothing: five times S3QL would be more than FUSE gives to anybody."""

KINDS: tuple[tuple[str, str, str, dict[str, float]], ...] = (
    # operation of the client, what it is called, what the kernel forgets before it, what holds it
    ("create", "create", "", AT_LEAST),
    ("stat", "stat, cold", filesystems.NAMES_ONLY, AT_LEAST),
    ("absent", "stat of a name that is not there", "", LEVEL),
    ("write", "open, write 1 KiB, close", "", {}),
    ("read", "open, read, close; cold", filesystems.NAMES_AND_PAGES, AT_LEAST),
    ("read", "open, read, close; again", "", AT_LEAST),
    ("readdir", "readdir with attributes, cold", filesystems.NAMES_ONLY, AT_LEAST),
    ("rename", "rename", "", AT_LEAST),
    ("unlink", "unlink", "", AT_LEAST),
)

PINNED_CPU = 0

WARM_UP_PART = 0.05
ONCE = ("ext4", "btrfs", "S3QL")
"""In a full run, one round of these: the kernel's own hold no limit, S3QL takes as long as all others together."""
SHARE = {"S3QL": 0.2}
"""... and of that so much of the files: rates are compared."""


class Client:
    """A running client.py."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.pid = process.pid
        self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        if not (line := self._process.stdout.readline()):
            raise SystemExit("the client failed")
        return line

    def seconds(self, operation: str) -> float:
        assert self._process.stdin is not None
        self._process.stdin.write(operation + "\n")
        self._process.stdin.flush()
        return float(self._answer())


@contextmanager
def started(root: Path, files: int) -> Iterator[Client]:
    numbers = map(str, (files, DIRECTORY_FILES, FILE_BYTES))
    words = [sys.executable, "-I", "-S", client.__file__, str(root), *numbers]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Client(process)


def measure(system: FileSystem, files: int, cpu: int | None, memories: Memories) -> dict[str, float]:
    """Operations a second of each kind.  ``cpu``: where client and daemon run; None: anywhere."""
    found = {}
    with started(system.root, files) as worker, ExitStack() as stack:
        if cpu is not None:
            stack.enter_context(system.pinned(cpu))
            stack.enter_context(processes.pinned([worker.pid], cpu))
        worker.seconds("mkdir")
        for operation, kind, forgotten, _ in KINDS:
            if forgotten:
                system.forget_caches(pages=forgotten == filesystems.NAMES_AND_PAGES)
            found[kind] = files / worker.seconds(operation)
        worker.seconds("rmdir")
    system.sync()
    memories.note(system.name, system.daemon_pids)
    return found


def report_rates(report: Report, group: str, found: dict[str, dict[str, list[float]]]) -> None:
    for _, kind, _, limits in KINDS:
        report.rates(kind, found[kind], unit="1/s", at_least=limits, group=group)


def compare(
    report: Report, systems: Sequence[FileSystem], options: Options, cpu: int | None, memories: Memories
) -> None:
    files = options.scaled(FILES, 100)
    shares = SHARE if options.full else {}
    for system in systems:
        measure(system, max(1, round(files * WARM_UP_PART)), cpu, memories)
    actions = {
        system.name: partial(measure, system, round(files * shares.get(system.name, 1)), cpu, memories)
        for system in systems
    }
    found = harness.rounds(actions, options.repeats, first_counts=True, once=ONCE if options.full else ())
    report_rates(report, "not pinned" if cpu is None else "on one core", found)


def body(report: Report, options: Options, place: Path) -> None:
    files = options.scaled(FILES, 100)
    report.note(f"{files:,} files, {min(files, DIRECTORY_FILES):,} in a directory; operations a second")
    if options.full:
        told = [f"{name} with {round(files * part):,} files" for name, part in SHARE.items() if name in options.on]
        report.note("; ".join(["one round of ext4, btrfs and S3QL", *told]))
    memories = Memories()
    with filesystems.all_mounted(report, options.on, place) as systems:
        for cpu in (None, PINNED_CPU):
            compare(report, list(systems.values()), options, cpu, memories)
    report.memory(memories)


if __name__ == "__main__":
    question = "what do operations on many small files cost, beside other file systems?"
    report = Report("smallfiles", question)
    sys.exit(harness.main(report, body, repeats=2, scale=0.04, full_repeats=3, subjects=filesystems.NAMES))
