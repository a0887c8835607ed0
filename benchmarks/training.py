"""A PyTorch DataLoader with 1, 2 and 4 workers: over 50,000 small files, and over one large file mapped into memory.

Read through snapfs's mount (the head, and a snapshot under ``.snap``), by a snapshot in-process (``snapfs.reader``, no
daemon in the path), through bindfs, and in the plain directory.  Samples are read in random order, 64 a batch.  The
first epoch begins when the kernel has forgotten all names and contents, and has the start of the workers in it; the
second one follows.  No sample is decoded: what is compared is how long it takes to get the bytes.

PyTorch is no dependency of snapfs: name an interpreter of the same version that has it (``--torch-python``) if this
one has not.  Without any, nothing is measured, and that is said.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import filesystems, harness
from benchmarks.filesystems import FileSystem
from benchmarks.harness import VOLUME, Options, Report

FILES = 50_000
DIRECTORY_FILES = 1000
FILE_BYTES = (2_000, 16_000)
"""Least and most."""
MAP_SAMPLES = 65_536
"""Of 16 KiB: 1 GiB."""
SAMPLE_BYTES = 16 * 1024
"""As in loader.py."""
WORKERS = (1, 2, 4)
SUBJECTS = ("snapfs", "bindfs", "ext4")
READER, PAST = "reader", "snapfs .snap"
SNAPSHOT = "v1"
EPOCHS = {"first epoch (cold)": 0, "second epoch": 1}

Subject = tuple[str, str]
"""(directory or address of a snapshot, store of that snapshot or nothing)"""


class Loader:
    """A running loader.py."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.torch = self._answer()["torch"]

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("the loader failed")
        found: dict[str, Any] = json.loads(line)
        return found

    def seconds(self, **wanted: Any) -> list[float]:
        """Of each epoch."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(wanted) + "\n")
        self._process.stdin.flush()
        found: list[float] = self._answer()["seconds"]
        return found


def has_torch(python: str) -> bool:
    """Whether an interpreter of our version has PyTorch: snapfs's own packages must work in it, too."""
    code = "import sys, torch; print(*sys.version_info[:2])"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return done.returncode == 0 and tuple(map(int, done.stdout.split())) == sys.version_info[:2]


@contextmanager
def loader(python: str) -> Iterator[Loader]:
    here = Path(__file__).parent.parent
    paths = [str(here), *{sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [python, "-m", "benchmarks.loader"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:  # fmt: skip
        try:
            yield Loader(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait()


def fill(root: Path, files: int, samples: int) -> tuple[list[str], int]:
    """Make the data; (names of the small files, how many bytes they have)."""
    noise = random.Random(files)
    names, size = [], 0
    for number in range(files):
        directory = f"{number // DIRECTORY_FILES:04d}"
        if number % DIRECTORY_FILES == 0:
            (root / directory).mkdir()
        names.append(f"{directory}/{number:06d}.bin")
        data = noise.randbytes(noise.randrange(*FILE_BYTES))
        size += len(data)
        (root / names[-1]).write_bytes(data)
    with (root / "tokens.bin").open("wb") as file:
        for _ in range(samples):
            file.write(noise.randbytes(SAMPLE_BYTES))
    return names, size


def body(report: Report, options: Options, place: Path, python: str) -> None:
    if not has_torch(python):
        version = "{}.{}".format(*sys.version_info)
        report.note(f"nothing is measured: {python} is no Python {version} with PyTorch (see --torch-python)")
        return
    files, samples = options.scaled(FILES, 500), options.scaled(MAP_SAMPLES, 500)
    with filesystems.all_mounted(report, options.on, place) as them, loader(python) as running:
        report.settings["torch"] = running.torch
        for system in them.values():
            names, size = fill(system.root, files, samples)
        (place / "names").write_text("\n".join(names) + "\n")
        works: dict[str, dict[str, Any]] = {
            f"{files:,} files": {"kind": "files", "names": str(place / "names"), "samples": files, "bytes": size},
            "one mapped file": {"kind": "map", "names": "", "samples": samples, "bytes": samples * SAMPLE_BYTES},
        }
        subjects = _subjects(them)
        any_of_them = next(iter(them.values()))
        for group, work in works.items():
            for workers in WORKERS:
                acts = {
                    name: partial(_epochs, running, any_of_them, subject, {**work, "workers": workers})
                    for name, subject in subjects.items()
                }
                for epoch, found in harness.rounds(acts, options.repeats, first_counts=True, once=(PAST,)).items():
                    rates = {name: [work["samples"] / value for value in found[name]] for name in subjects}
                    words = f"{epoch}, {workers} worker{'s' if workers > 1 else ''}"
                    report.rates(words, rates, unit="1/s", group=f"{group}: samples a second")


def _subjects(them: dict[str, FileSystem]) -> dict[str, Subject]:
    """What is read, the mount first."""
    found: dict[str, Subject] = {}
    for name, mounted in them.items():
        found[name] = str(mounted.root), ""
        if name == "snapfs":
            store = mounted.root.parent.with_suffix("")
            harness.snap("create", VOLUME, "--name", SNAPSHOT, "--store", store)
            found[PAST] = str(mounted.root / ".snap" / SNAPSHOT), ""
            found[READER] = f"{VOLUME}@{SNAPSHOT}", str(store)
    return found


def _epochs(running: Loader, mounted: FileSystem, subject: Subject, work: dict[str, Any]) -> dict[str, float]:
    """Seconds of each epoch."""
    mounted.forget_caches()
    where, store = subject
    seconds = running.seconds(**work, where=where, store=store, epochs=len(EPOCHS))
    return {name: seconds[number] for name, number in EPOCHS.items()}


def main() -> int:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--torch-python", default=sys.executable)
    given, rest = parser.parse_known_args()
    if "--help" in rest or "-h" in rest:
        print(f"{__doc__}\n--torch-python PATH  an interpreter that has PyTorch (default: this one); and:\n")
    sys.argv[1:] = rest
    report = Report("training", "How fast does a PyTorch DataLoader get its samples?")
    work = partial(body, python=given.torch_python)
    return harness.main(report, work, repeats=1, scale=0.05, full_repeats=2, subjects=SUBJECTS)


if __name__ == "__main__":
    sys.exit(main())
