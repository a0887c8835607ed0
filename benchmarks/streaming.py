"""A file of 4 GB, written and read from its beginning to its end, in calls of 1 MiB and of 4 KiB.

Each turn has a file system of its own, new and empty, so that no turn pays for the file of another; a small file goes
before all, which does not count.  A write ends with the fsync.  Cold: the kernel had forgotten everything; warm: the
file once more, opened anew, from the page cache where a file system leaves it there.  The bytes are noise of which no
16 KiB come twice, so that neither compression nor deduplication helps; and once more a table as text, as snapfs stores
it by default (compressed).
"""

from __future__ import annotations

import itertools
import os
import random
import struct
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks import contents, filesystems, harness
from benchmarks.harness import Options, Report
from benchmarks.processes import Memories

FILE_BYTES = 4_000_000_000
LARGE, SMALL = 1024 * 1024, 4096
"""Bytes of one call."""

SOURCE_BYTES = 32 * 1024 * 1024
STAMP_EVERY_BYTES = 16 * 1024

WRITE, COLD, WARM = "write and fsync", "read, cold", "read, warm"

AT_LEAST = {
    LARGE: {WRITE: {"bindfs": 0.7}, COLD: {"bindfs": 0.8}, WARM: {"ext4": 0.95}},
    SMALL: {WRITE: {"bindfs": 0.5}},
}
"""Times the rate of that one."""

WARM_UP_BYTES = 512 * 1024 * 1024
ONCE = ("btrfs", "S3QL")
"""One round of these in a full run: they hold no limit here."""
SUBJECTS = ("snapfs", "bindfs", "ext4", "btrfs")
"""Unless others are asked for."""


def source(text: bool) -> bytearray:
    """What is written, over and over."""
    if not text:
        return bytearray(random.Random(8).randbytes(SOURCE_BYTES))
    table = contents.rows(random.Random(8), 0, SOURCE_BYTES // 40)
    return bytearray(table * (SOURCE_BYTES // len(table) + 1))[:SOURCE_BYTES]


def pieces(data: bytearray, call_bytes: int, calls: int) -> Iterator[memoryview]:
    """The source in pieces; each time that it comes round, every 16 KiB of it differ from all before."""
    view, stamps = memoryview(data), itertools.count()
    for number in range(calls):
        start = number * call_bytes % SOURCE_BYTES
        if start % STAMP_EVERY_BYTES == 0:
            for place in range(start, start + call_bytes, STAMP_EVERY_BYTES):
                struct.pack_into("16s", data, place, b"%016d" % next(stamps))
        yield view[start : start + call_bytes]


def write(path: Path, data: bytearray, call_bytes: int, calls: int) -> float:
    """Seconds, of the calls themselves and of the fsync."""
    with path.open("xb", buffering=0) as file:
        descriptor = file.fileno()
        begun = time.perf_counter()
        for piece in pieces(data, call_bytes, calls):
            if os.write(descriptor, piece) != call_bytes:
                raise SystemExit(f"{path}: a short write")
        os.fsync(descriptor)
        return time.perf_counter() - begun


def read(path: Path, call_bytes: int, calls: int) -> float:
    """Seconds of reading all of it into one buffer."""
    buffer = bytearray(call_bytes)
    with path.open("rb", buffering=0) as file:
        descriptor = file.fileno()
        begun = time.perf_counter()
        for _ in range(calls):
            if os.readv(descriptor, [buffer]) != call_bytes:
                raise SystemExit(f"{path}: a short read")
        return time.perf_counter() - begun


def measure(
    name: str, place: Path, data: bytearray, call_bytes: int, size: int, memories: Memories
) -> dict[str, float]:
    """Bytes a second of each kind, and processor seconds of the daemon for a gigabyte."""
    calls = size // call_bytes
    total = calls * call_bytes
    found = {}
    with filesystems.mounted(name, place) as system:
        system.sync()
        path, before = system.root / "file", system.cpu_seconds()
        found[WRITE] = total / write(path, data, call_bytes, calls)
        written = system.cpu_seconds()
        system.forget_caches()
        found[COLD] = total / read(path, call_bytes, calls)
        found[WARM] = total / read(path, call_bytes, calls)
        found["processor, write"] = (written - before) * 1e9 / total
        found["processor, read"] = (system.cpu_seconds() - written) * 1e9 / total
        memories.note(name, system.daemon_pids)
    return found


def compare(
    report: Report, names: list[str], place: Path, options: Options, call_bytes: int, text: bool, memories: Memories
) -> None:
    size = options.scaled(FILE_BYTES, LARGE)
    data = source(text)
    actions = {name: partial(measure, name, place, data, call_bytes, size, memories) for name in names}
    # 4 KiB a call take bindfs minutes, and text holds no limit: fewer rounds.
    repeats = max(1, options.repeats // 2) if text or call_bytes == SMALL else options.repeats
    found = harness.rounds(actions, repeats, first_counts=True, once=ONCE if options.full else ())
    group = f"{'text' if text else 'noise'}, {call_bytes // 1024:,} KiB a call"
    limits = {} if text else AT_LEAST[call_bytes]
    for kind in (WRITE, COLD, WARM):
        report.rates(kind, found[kind], unit="MB/s", at_least=limits.get(kind), group=group)
    for kind in ("processor, write", "processor, read"):
        served = {name: values for name, values in found[kind].items() if name not in ("ext4", "btrfs")}
        if served:
            what = f"{kind.removeprefix('processor, ')}, {group}: of the daemon for 1 GB"
            report.values(what, served, unit="s", group="processor")


def body(report: Report, options: Options, place: Path) -> None:
    report.note(f"a file of {options.scaled(FILE_BYTES, LARGE) / 1e6:,.0f} MB")
    if (fewer := max(1, options.repeats // 2)) < options.repeats:
        report.note(f"rounds of 4 KiB a call, and of text: {fewer}{'; of btrfs: 1' if options.full else ''}")
    if "S3QL" in options.on:
        report.note(filesystems.S3QL_FSYNC)
    memories = Memories()
    names = filesystems.able(report, options.on)
    for name in names:
        measure(name, place, source(False), LARGE, options.scaled(WARM_UP_BYTES, LARGE), Memories())
    for call_bytes, text in ((LARGE, False), (SMALL, False), (LARGE, True)):
        compare(report, names, place, options, call_bytes, text, memories)
    report.memory(memories)


if __name__ == "__main__":
    question = "how fast is a large file written and read, beside other file systems?"
    report = Report("streaming", question)
    names = filesystems.NAMES
    sys.exit(harness.main(report, body, repeats=2, scale=0.064, full_repeats=3, subjects=names, on=SUBJECTS))
