"""fsck: every invariant of a committed store and every byte of every live record, checked by reading all of it, once.

It reads a consistent state (an LMDB reader), so it can run beside a busy file system.  It changes nothing.  A bad
record ends nothing: the check goes on with the next.

Checked: every value's checksum and form; epochs, volumes, snapshots and all that finds them; logs; seals; versions and
``changes``; entries, parent links, link counts, directories, types, targets, extents of each head and snapshot, and
inodes that no entry leads to; references, dedup, space, accounts, places; headers, bytes and padding of every live
block.
At last: which files show what is damaged, and where good copies are (``damage``).
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from uuid import UUID

from snapfs.api import CheckReport, Damage
from snapfs.errors import Corrupt
from snapfs.format import keys
from snapfs.store import verify
from snapfs.store.index import EngineError, Reading, damaged
from snapfs.store.layout import old_indexes
from snapfs.types import SegmentId
from snapfs.volume.check.accounts import AccountChecks
from snapfs.volume.check.base import Findings, Place, Shape, sound
from snapfs.volume.check.blocks import BlockChecks
from snapfs.volume.check.damage import Damages
from snapfs.volume.check.tables import Tables, counter
from snapfs.volume.check.tree import Counts, Trees, Versions


class Check:
    """One check of one consistent state."""

    def __init__(self, source: Reading, place: Place, blocks_total: int, *, leftovers: bool = False) -> None:
        """
        Args:
            blocks_total: entries in table ``blocks``, for progress.
            leftovers: look for segment files that the index does not know.  Who has the store open makes new ones,
                and removes what a crash left (``store.leftovers``).
        """
        self._source = source
        self._place = place
        self._total = blocks_total
        self.findings = Findings()
        self._shape = Shape(source, self.findings.record)
        limit = _SPARE_NUMBERS + _NUMBERS_A_BLOCK * blocks_total
        blocks_max = max(0, min(counter(source, "next_block", 1), limit))
        self._counts = Counts(blocks_max)
        accounts_max = max(0, min(counter(source, "next_account", 1), limit))
        self._accounts = AccountChecks(source, self._shape, self.findings, blocks_max, accounts_max)
        self._trees = Trees(source, self.findings, place.seed)
        self._blocks = BlockChecks(source, place, self.findings, self._counts, self._accounts)
        self._damage: list[Damage] = []
        self._look_for_leftovers = leftovers
        self.reads_blocks = False
        """The steps from here on wait for the disk: better in a worker thread."""

    def report(self) -> CheckReport:
        return CheckReport(
            findings=self.findings.listed,
            inodes=self._trees.inodes,
            blocks=self._blocks.done,
            snapshots=len(self._shape.snapshots),
            data_read_bytes=self._blocks.data_read_bytes,
            damage=self._damage,
        )

    def run(self) -> Iterator[tuple[int, int]]:
        """Check everything; yields (blocks read, blocks in all) now and then, for progress and for others to run."""
        try:
            yield from self._run()
        except EngineError as error:  # pages of the index lead nowhere: what comes after is not checked
            self.findings.add("structure", damaged(error).message)

    def _run(self) -> Iterator[tuple[int, int]]:
        self._own()
        tables = Tables(self._source, self._shape, self.findings)
        versions = Versions(self._source, self._shape, self.findings, self._counts)
        for step in (
            tables.run(), versions.run(), self._accounts.walk(), *map(self._trees.run, self._shape.views())
        ):  # fmt: skip
            for _ in step:
                yield self._progress()
        if counter(self._source, "next_ino", 1) <= versions.ino_max:
            self.findings.add("counter", f"the next inode would be one that is there ({versions.ino_max})")
        for block, count in tables.references.items():
            self._counts.add(block, count)
        self.reads_blocks = True
        for _ in self._blocks.run(tables.seals):
            yield self._progress()
        if self._look_for_leftovers:
            self._leftovers()
        yield from self._damaged()
        yield self._total, self._total

    def _own(self) -> None:
        stored = sound(self._source, "meta", b"uuid", lambda payload: UUID(payload.decode()).bytes)
        if stored != self._place.uuid:
            self.findings.add("record", "the index does not say that it is this store's")

    def _progress(self) -> tuple[int, int]:
        return min(self._blocks.done, self._total), self._total

    def _leftovers(self) -> None:
        for segment in leftover_segments(self._source, self._place):
            self.findings.add("leftover", f"segment {segment} is a file that the index does not know")

    def _damaged(self) -> Iterator[tuple[int, int]]:
        damages = Damages(self._source, self._shape, set(self._blocks.damaged), self.findings, self._place.seed)
        for _ in damages.run():
            yield self._progress()
        self._damage = damages.listed()


def structure(file: Path) -> list[str]:
    """What is wrong with the structure of an index's file; of a large one a child process looks at it.

    Raises:
        NotPermitted, IOFailure: it could not be looked at, which says nothing of it.
    """
    try:
        small = verify.check_file(file) <= _PAGES_HERE_MAX
    except Corrupt as error:
        return [error.message]
    if small:
        return verify.problems(file)
    child = subprocess.run(verify.command(file), stdout=subprocess.PIPE, check=False, process_group=verify.APART)
    return verify.answer(child.returncode, child.stdout)


_NUMBERS_A_BLOCK: Final = 64
_SPARE_NUMBERS: Final = 1 << 20
"""Numbers of blocks that have a place of their own when references are counted: a store's own counter of them may be
made up, and is not to ask for all memory."""

_PAGES_HERE_MAX: Final = 4096
"""Of an index that is looked at in this process: some 60 ms of it."""


def leftover_segments(source: Reading, place: Place) -> list[SegmentId]:
    """Numbers of the segment files that the index does not know, and that none of its blocks is in; none while a
    damaged index is kept, which may know them."""
    if old_indexes(place.path.parent):
        return []
    on_disk = {int(file.stem) for file in place.path.glob("*.seg") if file.stem.isdigit()}
    known = set()
    cursor = source.cursor("segments")
    found = cursor.first()
    while found:
        known.add(keys.from_u64(cursor.key()))
        found = cursor.next()
    return [SegmentId(number) for number in sorted(on_disk - known)]
