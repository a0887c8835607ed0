"""Twenty versions of a dataset, 1 % of its pages changed in place in each; beside btrfs, borg, restic, DVC, git-lfs.

Ten files of noise, 1 GB together; of each file 1 % of its 4 KiB pages is written anew, in place, before each version
but the first.  What all versions take is st_blocks of the store's directory (of btrfs what its file system has in
use), without the files themselves where they are kept beside; in MB of 1,000,000 bytes.  Nothing is compressed.
"""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

from benchmarks import contents, harness
from benchmarks.contents import PAGE_BYTES
from benchmarks.harness import Options, Report
from benchmarks.peers import COPYING, Subject, peers, snapfs

FILES = 10
FILE_BYTES = 100_000_000
VERSIONS = 20
CHANGED_PART = 0.01

FACTOR_MAX = 1.10
"""What the store holds, over the first version and the bytes that were changed."""

PEERS = ("btrfs", "borg", "restic", "DVC", "git-lfs")


def play(subject: Subject, file_bytes: int) -> tuple[float, list[float]]:
    """Make all versions; (bytes held, seconds of each save)."""
    dice = random.Random(3)
    files = [subject.files / f"{number}.bin" for number in range(FILES)]
    took: list[float] = []
    for version in range(VERSIONS):
        for number, path in enumerate(files):
            if version:
                contents.change_pages(path, contents.some_pages(path, CHANGED_PART, dice), dice)
            else:
                contents.write_noise(path, file_bytes, number)
        begun = time.perf_counter()
        subject.save()
        took.append(time.perf_counter() - begun)
    subject.settle()
    return subject.held_bytes(), took


def body(report: Report, options: Options, place: Path) -> None:
    file_bytes = options.scaled(FILE_BYTES, 2_000_000) // PAGE_BYTES * PAGE_BYTES
    first = FILES * file_bytes
    changed = (VERSIONS - 1) * FILES * max(1, round(file_bytes // PAGE_BYTES * CHANGED_PART)) * PAGE_BYTES
    what = f"{VERSIONS} versions of {first / 1e6:,.0f} MB, {changed / 1e6:,.0f} MB changed"

    def tell(name: str, subject: Subject, limit: float | None = None) -> None:
        held, took = play(subject, file_bytes)
        report.values(f"{name}: {what}", {"held": [held]}, unit="MB", limit=limit)
        over = {"held / (first + changed)": [held / (first + changed)]}
        report.values(f"{name}: over what has to be held", over, unit="times", limit=limit and FACTOR_MAX)
        report.values(f"{name}: time to save a version", {"process": took}, unit="s")

    with snapfs(place, "none") as store:
        tell("snapfs", store, FACTOR_MAX * (first + changed) / 1e6)
    stored = lambda name: (VERSIONS + 1) * first if name in COPYING else 2 * (first + changed)  # noqa: E731
    for name, subject in peers(report, PEERS, place, stored_bytes=stored, compression="none"):
        tell(name, subject)


if __name__ == "__main__":
    question = "what do twenty versions take, of which each changes one page in a hundred?"
    sys.exit(harness.main(Report("versions", question), body, repeats=1, scale=0.02, full_scale=0.1))
