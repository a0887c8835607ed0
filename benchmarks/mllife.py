"""The life of a dataset: its first version, versions after a change, going back; beside DVC, git-lfs and git-annex.

20,000 files of noise, 5 GB: ten of 100 MB (tables, checkpoints), the others of 200 kB.  Three changes of one part in a
hundred, as they occur: of the files, written whole to a new name and renamed (images replaced, exports made anew); of
the pages of the ten large files, in place (tables and databases mended); of the pages of all files, in place.  After a
change a version is saved, then the one before is taken back, a file that differs is read, and the new one is taken
again.

What was changed lies in the page cache when a version is saved, with snapfs too: the time includes what the kernel
still has to hand over.  snapfs and a peer take turns; what each then holds is checked.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import contents, harness
from benchmarks.contents import PAGE_BYTES
from benchmarks.harness import Options, Report
from benchmarks.peers import Returning, peers, snapfs

FILES = 20_000
FILE_BYTES = 200_000
LARGE_FILES = 10
LARGE_BYTES = 100_000_000
DIRECTORY_FILES = 1000
CHANGED_PART = 0.01

TIMES_FASTER = {"DVC": 50.0, "git-lfs": 50.0}
"""With all files: with fewer the peers have less to do, and every command its start."""
PEERS = ("DVC", "git-lfs", "git-annex")
FILES_MAX = {"git-annex": 2_000}
"""Who has to do with fewer, and is compared with snapfs at that size: with all of them git-annex took more than 27
minutes for a round."""


@dataclass(frozen=True)
class Dataset:
    """What the files are; the large ones have the lowest numbers."""

    files: int
    large_bytes: int

    def __str__(self) -> str:
        return f"{self.files:,} files, {self.total_bytes / 1e9:.2g} GB"

    @property
    def total_bytes(self) -> int:
        return sum(map(self.bytes_of, range(self.files)))

    def bytes_of(self, number: int) -> int:
        return self.large_bytes if number < LARGE_FILES else FILE_BYTES

    def path(self, root: Path, number: int) -> Path:
        return root / f"{number // DIRECTORY_FILES:03d}" / f"{number:06d}.bin"

    def write(self, root: Path) -> None:
        noise = contents.Stamped()
        for number in range(self.files):
            path = self.path(root, number)
            if number % DIRECTORY_FILES == 0:
                path.parent.mkdir()
            with path.open("wb", buffering=0) as file:
                for piece in noise.pieces(self.bytes_of(number)):
                    file.write(piece)

    # -- changes: of each, a file that was changed

    def replace_files(self, root: Path, seed: int) -> Path:
        """As many small files as make one in a hundred of all."""
        dice = random.Random(seed)
        chosen = dice.sample(range(LARGE_FILES, self.files), max(1, round(self.files * CHANGED_PART)))
        for number in sorted(chosen):
            contents.replace_whole(self.path(root, number), iter([dice.randbytes(FILE_BYTES)]))
        return self.path(root, chosen[0])

    def change_large(self, root: Path, seed: int) -> Path:
        return self._change_pages(root, range(LARGE_FILES), seed)

    def change_all(self, root: Path, seed: int) -> Path:
        return self._change_pages(root, range(self.files), seed)

    def _change_pages(self, root: Path, numbers: range, seed: int) -> Path:
        """One page in a hundred of those files."""
        dice = random.Random(seed)
        pages = [(number, page) for number in numbers for page in range(self.bytes_of(number) // PAGE_BYTES)]
        of_file: dict[int, list[int]] = {}
        for number, page in sorted(dice.sample(pages, max(1, round(len(pages) * CHANGED_PART)))):
            of_file.setdefault(number, []).append(page)
        for number, changed in of_file.items():
            contents.change_pages(self.path(root, number), changed, dice)
        return self.path(root, next(iter(of_file)))


CHANGES: dict[str, Callable[[Dataset, Path, int], Path]] = {
    "1 % of the files replaced": Dataset.replace_files,
    "1 % of the pages of the ten large files changed": Dataset.change_large,
    "1 % of the pages of all files changed": Dataset.change_all,
}

FIRST, SAVE, BACK, READ = "first version", "save it", "go back", "then read a changed file"


class Life:
    """Of one dataset, with several that keep versions of it; seconds of each step are in ``times``."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._seed = 0
        self.times: dict[tuple[str, str], dict[str, list[float]]] = {}

    def _timed(self, group: str, what: str, name: str, action: Callable[[], object]) -> None:
        took = harness.timed(action)
        self.times.setdefault((group, what), {}).setdefault(name, []).append(took)

    def begin(self, name: str, subject: Returning) -> str:
        """The first version; its name."""
        versions: list[str] = []
        self._timed(FIRST, "write the files", name, lambda: self._dataset.write(subject.files))
        self._timed(FIRST, SAVE, name, lambda: versions.append(subject.save()))
        return versions[0]

    def _change(self, name: str, subject: Returning, kind: str, before: str) -> str:
        """A change, its version, back to the one before, and forth; the new version's name."""
        changed = CHANGES[kind](self._dataset, subject.files, self._seed)
        new = changed.read_bytes()
        versions: list[str] = []
        self._timed(kind, SAVE, name, lambda: versions.append(subject.save()))
        self._timed(kind, BACK, name, lambda: subject.go(before))
        read: list[bytes] = []
        self._timed(kind, READ, name, lambda: read.append(changed.read_bytes()))
        if read[0] == new:
            raise SystemExit(f"{name}: {changed} is not as it was in {before}")
        subject.go(versions[0])
        if changed.read_bytes() != new:
            raise SystemExit(f"{name}: {changed} is not as it was saved in {versions[0]}")
        return versions[0]

    def go_on(self, subjects: dict[str, Returning], at: dict[str, str], repeats: int) -> None:
        """All changes, in turns; ``at`` follows the versions."""
        for kind in CHANGES:
            for number in range(repeats):
                self._seed += 1
                for name in list(subjects) if number % 2 else list(subjects)[::-1]:
                    at[name] = self._change(name, subjects[name], kind, at[name])

    def tell(self, report: Report) -> None:
        for (group, what), series in self.times.items():
            held = self._dataset.files == FILES and group in CHANGES and what in (SAVE, BACK)
            limits = TIMES_FASTER if held else None
            first = {"snapfs": series["snapfs"], **series}
            unit = "ms" if what == READ else "s"
            report.durations(what, first, unit=unit, times_faster=limits, group=f"{group} ({self._dataset})")


def compare(report: Report, dataset: Dataset, names: list[str], place: Path, repeats: int) -> None:
    """snapfs, and beside it one peer after the other."""
    life = Life(dataset)
    # The work tree, its first version, what git-lfs has in passing; and in the worst case all files once a round, and
    # the large ones, which are a fifth.
    needed = round((3 + 1.25 * repeats) * dataset.total_bytes)
    with snapfs(place) as mine:
        at = {"snapfs": life.begin("snapfs", mine)}
        for name, other in peers(report, names, place, stored_bytes=lambda _: needed):
            assert isinstance(other, Returning)
            at[name] = life.begin(name, other)
            life.go_on({"snapfs": mine, name: other}, at, repeats)
        if len(at) == 1:
            life.go_on({"snapfs": mine}, at, repeats)
    life.tell(report)


def body(report: Report, options: Options, place: Path) -> None:
    files = options.scaled(FILES, 100)
    together: dict[int, list[str]] = {files: []}
    for name in [name for name in PEERS if name in options.on]:
        together.setdefault(min(files, FILES_MAX.get(name, files)), []).append(name)
    for count, names in together.items():
        if count < files:
            report.note(f"{' and '.join(names)}: {count:,} files, as all of them would take too long")
        large = round(options.scaled(LARGE_BYTES, 1_000_000) * count / files)
        compare(report, Dataset(count, large), names, place, options.repeats)


if __name__ == "__main__":
    question = "how much faster than DVC, git-lfs and git-annex is a new version, and going back?"
    program = Report("mllife", question)
    sys.exit(harness.main(program, body, repeats=1, full_repeats=2, scale=0.02, subjects=("snapfs", *PEERS)))
