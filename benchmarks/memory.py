"""What the daemon has in memory after a walk over 1,000,000 files, and after 50 GB were streamed through its mount.

The walk is ``find`` with the attributes of each file, and ``ls -lR``. Streamed are files of noise, each written,
synced, and read back from the daemon (what the kernel has cached of it is dropped before), of which at most a few are
there at a time. Counted is all that is resident: the heap, and the pages of mapped files, which the kernel could take
back at any time.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from benchmarks import contents, harness
from benchmarks.harness import Mounted, Options, Report
from benchmarks.processes import Memories, Memory

FILES = 1_000_000
PAYLOAD_BYTES = 64

STREAMED_BYTES = 50 * 10**9
"""Half of it written, half read."""
FILE_BYTES_MAX = 10**9
KEPT_FILES = 2
HELD_BYTES_MAX = 4 * 10**9
PIECE_BYTES = 1 << 20

LIMIT_MB = 400

GIVEN_BACK_SECONDS_MAX = 300.0
POLL_SECONDS = 0.5


def note(report: Report, memories: Memories, mounted: Mounted, when: str) -> None:
    pid = mounted.info().pid
    now = Memory()
    now.note([pid])
    memories.note("snapfs", [pid])
    resident = {"snapfs": [now.anonymous_bytes + now.file_bytes]}
    report.values(f"resident {when}", resident, unit="MB", limit=LIMIT_MB, group="after")
    report.values(f"of it anonymous, {when}", {"snapfs": [now.anonymous_bytes]}, unit="MB", group="after")


def walk(report: Report, mounted: Mounted, files: int) -> None:
    """All of the tree, with attributes, twice."""
    for what, words in (("find -printf %s", ("find", ".", "-printf", "%s\n")), ("ls -lR", ("ls", "-lR"))):
        begun = time.perf_counter()
        seen = harness.run(*words, cwd=mounted.volume)
        report.rates(what, {"snapfs": [files / (time.perf_counter() - begun)]}, unit="1/s", group="walk")
        assert seen.count("\n") > files


def stream(mounted: Mounted, total_bytes: int) -> None:
    file_bytes = min(FILE_BYTES_MAX, total_bytes // (2 * KEPT_FILES))
    noise = contents.Stamped()
    kept: list[Path] = []
    for number in range(total_bytes // (2 * file_bytes)):
        path = mounted.volume / f"stream{number}"
        with path.open("wb", buffering=0) as file:
            for piece in noise.pieces(file_bytes):
                file.write(piece)
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        with path.open("rb", buffering=0) as file:
            while file.read(PIECE_BYTES):
                pass
        kept.append(path)
        if len(kept) == KEPT_FILES:
            kept.pop(0).unlink()
            wait_for_room(mounted)
    for path in kept:
        path.unlink()


def wait_for_room(mounted: Mounted) -> None:
    """Until enough of what was deleted is given back: the disk need not hold all that is streamed."""
    deadline = time.monotonic() + GIVEN_BACK_SECONDS_MAX
    while harness.disk_bytes(mounted.store) > HELD_BYTES_MAX:
        if time.monotonic() > deadline:
            raise SystemExit(f"deleted files still take {harness.disk_bytes(mounted.store) / 1e9:.1f} GB")
        time.sleep(POLL_SECONDS)


def body(report: Report, options: Options, place: Path) -> None:
    files, streamed = options.scaled(FILES, 100), options.scaled(STREAMED_BYTES, 8 * PIECE_BYTES)
    store = place / "store"
    harness.fill(store, files=files, payload_bytes=PAYLOAD_BYTES, size_bytes=PAYLOAD_BYTES)
    memories = Memories()
    with harness.mounted(store) as (mounted,):
        note(report, memories, mounted, "mounted")
        walk(report, mounted, files)
        note(report, memories, mounted, f"after walking {files:,} files")
        begun = time.perf_counter()
        stream(mounted, streamed)
        rate = {"snapfs": [streamed / (time.perf_counter() - begun)]}
        report.rates("written and read", rate, unit="MB/s", group="streaming")
        note(report, memories, mounted, f"after streaming {streamed / 1e9:g} GB")
    report.memory(memories, limit_mb=LIMIT_MB)


if __name__ == "__main__":
    question = f"does the daemon stay under {LIMIT_MB} MB, however much goes through it?"
    sys.exit(harness.main(Report("memory", question), body, repeats=1, scale=0.02))
