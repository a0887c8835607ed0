"""Random reads and writes of 4 KiB in 1 GB, by fio, with one and four jobs, without and with fsyncs.

One job has a file of 1 GB, each of four has 256 MB in a file of its own: of one file the kernel lets one fsync through
at a time, which is not the file systems' doing.  Reads begin cold and without read-ahead, so each is a request (each
page is read once); writes without fsync go to the page cache where a file system has one, and the fsync at the end
counts.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

from benchmarks import contents, filesystems, harness
from benchmarks.filesystems import FileSystem
from benchmarks.harness import Options, Report
from benchmarks.processes import Memories

FILE_BYTES = 2**30
PAGE_BYTES = 4096
JOBS = (1, 4)
SECONDS_MAX, SECONDS_MAX_SHORT = 5.0, 1.0
"""Of one run of fio, at full size and else; who is slower does fewer operations."""
FSYNC_PART = 0.1
"""Of the pages, that are written where each write is followed by an fsync."""

ONCE = ("bindfs", "ext4")
"""One round of these in a full run: they hold no limit, and an fsync of theirs is another thing."""

AT_LEAST = {"S3QL": 3.0}
"""Times its writes with fsync."""

KINDS = {
    "read, cold": ("randread", ("--fadvise_hint=random",)),
    "write": ("randwrite", ("--end_fsync=1",)),
    "write, each with fsync": ("randwrite", ("--fsync=1",)),
}


def lay_out(root: Path, size: int) -> None:
    """A file for each job; that of the first has room for it alone."""
    noise = contents.Stamped()
    for job in range(max(JOBS)):
        with (root / f"file.{job}").open("wb") as file:
            for piece in noise.pieces(size if job == 0 else size // max(JOBS)):
                file.write(piece)


def fio(root: Path, kind: str, jobs: int, size: int, seconds: float) -> float:
    """Operations a second, of all jobs."""
    pattern, more = KINDS[kind]
    each = size // jobs
    pages = each * FSYNC_PART if "--fsync=1" in more else each
    words = [
        "fio", "--name=random", f"--directory={root}", "--filename_format=file.$jobnum", f"--rw={pattern}",
        f"--bs={PAGE_BYTES}", "--ioengine=psync", f"--numjobs={jobs}", f"--size={each}", f"--io_size={int(pages)}",
        f"--runtime={seconds * 1000:.0f}ms", "--refill_buffers=1", "--randrepeat=0", "--invalidate=0",
        "--group_reporting", "--thread", "--output-format=json", *more,
    ]  # fmt: skip
    answer = harness.run(*words)
    job = json.loads(answer[answer.index("{") :])["jobs"][0]
    done = job["read" if pattern == "randread" else "write"]
    return float(done["total_ios"] / (job["job_runtime"] / jobs / 1000))


def measure(system: FileSystem, size: int, seconds: float, memories: Memories) -> dict[str, float]:
    found = {}
    for jobs in JOBS:
        for kind, (pattern, _) in KINDS.items():
            system.forget_caches(pages=pattern == "randread")
            found[f"{jobs} {kind}"] = fio(system.root, kind, jobs, size, seconds)
    memories.note(system.name, system.daemon_pids)
    return found


def body(report: Report, options: Options, place: Path) -> None:
    if not harness.installed("fio"):
        return
    least = max(JOBS) * 2**20  # each job has whole MiB
    size = max(1, round(FILE_BYTES * options.scale / least)) * least
    report.note(f"{size / 2**20:,.0f} MiB, a file for each job; operations a second, of all jobs")
    if "S3QL" in options.on:
        report.note(filesystems.S3QL_FSYNC)
    memories = Memories()
    with filesystems.all_mounted(report, options.on, place) as systems:
        for system in systems.values():
            lay_out(system.root, size)
        seconds = SECONDS_MAX if options.full else SECONDS_MAX_SHORT
        actions = {name: partial(measure, system, size, seconds, memories) for name, system in systems.items()}
        found = harness.rounds(actions, options.repeats, first_counts=True, once=ONCE if options.full else ())
    for jobs in JOBS:
        for kind in KINDS:
            limits = AT_LEAST if "fsync" in kind else None
            group = "1 job" if jobs == 1 else f"{jobs} jobs"
            report.rates(kind, found[f"{jobs} {kind}"], unit="1/s", at_least=limits, group=group)
    report.memory(memories)


if __name__ == "__main__":
    question = "what do random reads and writes of 4 KiB get, beside other file systems?"
    report = Report("randomio", question)
    sys.exit(harness.main(report, body, repeats=1, scale=0.1, full_repeats=2, subjects=filesystems.NAMES))
