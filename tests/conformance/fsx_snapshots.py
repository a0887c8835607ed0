#!/usr/bin/env python3
"""fsx on a mounted volume, with a snapshot every so many operations.

fsx (of xfstests or the Linux Test Project) verifies what it reads, by read(2) and by mmap, against what it wrote.  This
driver stops it (SIGSTOP) about every ``--every`` operations, wherever it is then, in the midst of an operation too; it
copies the file aside as programs see it, takes a snapshot, and lets fsx go on.  When fsx has ended, the file in each
snapshot is compared with its copy, and the store is checked.

Run it with a Python that has snapfs:

    python tests/conformance/fsx_snapshots.py --fsx ~/xfstests/ltp/fsx /lake/data
    python tests/conformance/fsx_snapshots.py --fsx fsx --seed 1 --seed 2 --operations 250000 /lake/data -- -c 100

Exit status: 0 no mismatch; 1 a mismatch, which is described; 2 it could not run.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from snapfs import client, mounts
from snapfs.client import Client
from snapfs.errors import SnapfsError

_MARKS_PER_SNAPSHOT = 20
"""fsx says nothing of an operation that it skips: so it is asked for its progress more often than is needed."""
_PROGRESS = re.compile(rb"^\s*(\d+)[: ]")
_TAIL_LINES = 30


@dataclass
class Run:
    """One fsx with its seed.

    Attributes:
        copies: operation number -> the file as it was when the snapshot of that number was made.
        mismatches: what went wrong, a line each.
    """

    seed: int
    copies: dict[int, Path] = field(default_factory=dict)
    mismatches: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"fsx-{self.seed}"

    def snapshot(self, operation: int) -> str:
        return f"{self.name}-{operation}"


def wait_stopped(process: subprocess.Popen[bytes]) -> bool:
    """Whether it has stopped; false if it ended instead."""
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    if os.WIFSTOPPED(status):
        return True
    process.returncode = os.waitstatus_to_exitcode(status)
    return False


def drive(run: Run, volume: Path, options: argparse.Namespace, aside: Path, connected: Client) -> None:
    """Run fsx to its end, with snapshots."""
    file = volume / run.name
    logs = aside / run.name
    logs.mkdir()
    marks = max(1, options.every // _MARKS_PER_SNAPSHOT)
    command = [options.fsx, "-S", str(run.seed), "-N", str(options.operations), "-p", str(marks), "-P", str(logs)]
    process = subprocess.Popen(
        [*command, *options.fsx_options, str(file)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    tail: list[bytes] = []
    try:
        assert process.stdout is not None
        due = options.every
        for line in process.stdout:
            tail = [*tail[1 - _TAIL_LINES :], line]
            mark = _PROGRESS.match(line)
            if mark is None or int(mark[1]) < due:
                continue
            operation = int(mark[1])
            process.send_signal(signal.SIGSTOP)
            if not wait_stopped(process):
                break
            copy = run.copies[operation] = logs / str(operation)
            shutil.copyfile(file, copy)
            connected.create_snapshot(volume=volume.name, name=run.snapshot(operation))
            process.send_signal(signal.SIGCONT)
            due = operation // options.every * options.every + options.every
        for line in process.stdout:
            tail = [*tail[1 - _TAIL_LINES :], line]
        status = process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
    if status:
        output = b"".join(tail).decode(errors="replace")
        run.mismatches.append(f"seed {run.seed}: fsx ended with {status}; its last lines:\n{output}")


def compare(run: Run, volume: Path) -> None:
    """Each snapshot's file with its copy."""
    for operation, copy in run.copies.items():
        kept, there = copy.read_bytes(), (volume / ".snap" / run.snapshot(operation) / run.name).read_bytes()
        if kept == there:
            continue
        differ = next(
            (n for n, (a, b) in enumerate(zip(kept, there, strict=False)) if a != b), min(len(kept), len(there))
        )
        run.mismatches.append(
            f"{run.snapshot(operation)}: {len(there)} bytes, the copy has {len(kept)}; they differ from byte {differ}"
        )


def drive_all(options: argparse.Namespace) -> int:
    volume = options.volume.resolve(strict=True)
    mount = mounts.at(volume.parent)
    if mount is None or mount.type != mounts.TYPE:
        raise SnapfsError(f"{volume} is not a volume of a mounted store")
    runs = [Run(seed) for seed in options.seed or [1]]
    with (
        tempfile.TemporaryDirectory(prefix="fsx-", dir=options.aside) as aside,
        client.connect(mount.store) as connected,
    ):
        for run in runs:
            began = time.monotonic()
            drive(run, volume, options, Path(aside), connected)
            compare(run, volume)
            seconds = time.monotonic() - began
            print(
                f"seed {run.seed}: {options.operations} operations, {len(run.copies)} snapshots compared, "
                f"{len(run.mismatches)} mismatches, {seconds:.0f} s",
                flush=True,
            )
        findings = connected.check_store().findings
    problems = [line for run in runs for line in run.mismatches] + [f"{f.code}: {f.message}" for f in findings]
    for line in problems:
        print(line, file=sys.stderr)
    if not all(run.copies for run in runs):
        print("no snapshot was made: too few operations, or an fsx that tells no progress", file=sys.stderr)
        return 2
    return 1 if problems else 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("volume", type=Path, help="a volume's directory in the mount; fsx-SEED is made there")
    parser.add_argument("fsx_options", nargs="*", metavar="-- FSX_OPTION", help="handed to fsx")
    parser.add_argument("--fsx", default=shutil.which("fsx") or "fsx", help="the program (default: from PATH)")
    parser.add_argument("--operations", type=int, default=250_000, help="of each seed (default: %(default)s)")
    parser.add_argument("--every", type=int, default=1_000, help="operations between snapshots (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, action="append", help="may be given several times, one run each (default: 1)"
    )
    parser.add_argument("--aside", type=Path, help="directory for the copies (default: where temporary files go)")
    options = parser.parse_args(arguments)
    try:
        return drive_all(options)
    except SnapfsError as error:
        print(f"fsx_snapshots: {error.message}", *([f"({error.hint})"] if error.hint else []), file=sys.stderr)
    except OSError as error:
        print(f"fsx_snapshots: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
