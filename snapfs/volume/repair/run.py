"""``snap fsck --repair``: mends a store in place that nobody has open, after it has said what it will do.

The plan is a rehearsal: all steps run in the index's open transaction, say what they do, and the transaction is
dropped.  Carried out, the same steps run again and are committed; what is outside the index (headers in segments, files
that hold nothing) is written after that.  So the plan is what happens, and a crash on the way leaves the store as it
was, or mended but for what the next repair finds.

Invariants:
  * Nothing that is good is touched: each step changes only what it found wrong.
  * Lost bytes stay an I/O error; they never become zeros or other bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from snapfs.api import CheckReport, Event, EventKind, Finding
from snapfs.errors import Corrupt, SnapfsError
from snapfs.format import keys, records
from snapfs.store import layout, verify
from snapfs.store.disk import Disk
from snapfs.store.index import EngineError, Index, damaged, items_backward
from snapfs.store.pages import odd_pages
from snapfs.volume.check.base import Place
from snapfs.volume.check.run import Check, structure
from snapfs.volume.core import now_ns
from snapfs.volume.repair import blocks as repair_blocks
from snapfs.volume.repair import derived as repair_derived
from snapfs.volume.repair import rebuild
from snapfs.volume.repair.accounts import repair_accounts, repair_places
from snapfs.volume.repair.base import Bench, NeedsRebuild
from snapfs.volume.repair.records import repair_records
from snapfs.volume.repair.shape import repair_shape
from snapfs.volume.repair.views import repair_views

Progress = Callable[[int, int], None]

STEPS: Final[tuple[tuple[str, Callable[[Bench], None]], ...]] = (
    ("blocks", repair_blocks.repair_entries),
    ("epochs, volumes, snapshots", repair_shape),
    ("records", repair_records),
    ("changes", repair_derived.repair_changes),
    ("files", repair_views),
    ("queues", repair_derived.repair_queues),
    ("names", repair_derived.repair_labels),
    ("logs", repair_derived.repair_logs),
    ("seals", repair_derived.repair_seals),
    ("references", lambda bench: repair_blocks.repair_counts(bench, dict(repair_derived.references(bench)))),
    ("places", repair_places),
    ("accounts", repair_accounts),
    ("segments", repair_blocks.repair_segments),
)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a repair will do, or did."""

    actions: list[Finding]
    """One line each, in order."""
    total: int
    """Of them in all; the list may be cut."""
    rebuild: str = ""
    """Why the index cannot be mended in place, but is made anew from the segments; empty: it can."""


class Repair:
    """One store, locked.  Make it with ``repairing``."""

    def __init__(self, path: Path, disk: Disk) -> None:
        self._path = path
        self._disk = disk
        self._marker = rebuild.read_marker(path)
        self._structure: list[str] | None = None
        self._lock: layout.Lock | None = layout.Lock(path)
        self.place = Place(path / layout.SEGMENTS, bytes.fromhex(self._marker.uuid.replace("-", "")), disk)

    def release(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def plan(self, progress: Progress | None = None) -> Plan:
        """What ``carry_out`` would do; changes nothing.

        Raises:
            Corrupt: the index is another store's, or no segment tells which store it is of.
            NotPermitted, IOFailure: the index could not be looked at, which says nothing of it.
        """
        found = self._in_place(progress, commit=False)
        if not found.rebuild:
            return found
        lines = rebuild.plan(self._path, disk=self._disk, salvage=True).lines()
        actions = [Finding(code="rebuild", message=line) for line in lines]
        return Plan(actions=actions, total=len(actions), rebuild=found.rebuild)

    def carry_out(self, progress: Progress | None = None) -> Plan:
        """Do what the plan says; says what was done.

        Raises:
            NoSpace, IOFailure: the disk refused; nothing, or the index alone, was mended.
            Busy: somebody came in between.
        """
        found = self._in_place(progress, commit=True)
        if not found.rebuild:
            return found
        self.release()  # the rebuild takes the lock itself
        report = rebuild.rebuild(self._path, disk=self._disk, salvage=True)
        self._lock = layout.Lock(self._path)
        self._structure = None
        actions = [Finding(code="rebuild", message=line) for line in report.plan.lines()]
        rest = self._in_place(progress, commit=True)
        return Plan(
            actions=[*actions, *rest.actions], total=len(actions) + rest.total, rebuild=found.rebuild or rest.rebuild
        )  # fmt: skip

    def _in_place(self, progress: Progress | None, *, commit: bool) -> Plan:
        problems = self._problems()
        if problems:
            return Plan(actions=[], total=0, rebuild=f"the index is damaged: {problems[0]}")
        try:
            index = Index(self._path / layout.INDEX)
        except Corrupt as error:  # all else says nothing of the index: it is told, not repaired
            return Plan(actions=[], total=0, rebuild=error.message)
        try:
            bench = Bench(index, self.place)
            self._own(bench)
            self._mark(bench)
            for number, (_, step) in enumerate(STEPS):
                if progress is not None:
                    progress(number, len(STEPS))
                step(bench)
            if commit and bench.total:
                _tell(bench)
                index.commit()
                for act in bench.later:
                    act()
            return Plan(actions=bench.actions, total=bench.total)
        except NeedsRebuild as error:
            return Plan(actions=[], total=0, rebuild=str(error))
        except EngineError as error:
            return Plan(actions=[], total=0, rebuild=damaged(error).message)
        finally:
            index.close()

    def _problems(self) -> list[str]:
        """Of the index's structure; looked for once."""
        if self._structure is None:
            self._structure = structure(self._path / layout.INDEX / verify.DATA_FILE)
            if not self._structure and odd_pages(self._path / layout.INDEX):
                self._structure = ["its pages are not as they are written"]
        return self._structure

    def _mark(self, bench: Bench) -> None:
        """The file that marks the directory as a store can be read."""
        try:
            if layout.read_marker(self._path) == self._marker:
                return
        except Corrupt:
            pass
        bench.act("marker", f"the file {layout.MARKER} is written again")
        bench.later.append(lambda: layout.mark(self._path, self._marker, self._disk))

    def _own(self, bench: Bench) -> None:
        """The index says that it is this store's.

        Raises:
            Corrupt: it is another's.
        """
        try:
            stored = bench.index.get("meta", b"uuid")
        except SnapfsError:
            stored = None
        if stored == self._marker.uuid.encode():
            return
        if stored is not None:
            raise Corrupt(
                f"{self._path}: the index belongs to another store ({stored.decode(errors='replace')})",
                hint="put the store's own index directory back",
            )
        bench.act("record", "the index says again that it is this store's")
        bench.index.put("meta", b"uuid", self._marker.uuid.encode())

    def check(self, progress: Progress | None = None) -> CheckReport:
        """As ``snap fsck``, without opening the store.

        What cannot be opened at all is one finding.
        """
        problems = self._problems()
        try:
            index = Index(self._path / layout.INDEX)
        except Corrupt as error:
            return CheckReport(
                findings=[Finding(code="structure", message=problem) for problem in problems or [error.message]],
                inodes=0, blocks=0, snapshots=0, data_read_bytes=0,
            )  # fmt: skip
        try:
            with index.reader() as reader:
                checked = Check(reader, self.place, reader.stat("blocks"), leftovers=True)
                for problem in problems:
                    checked.findings.add("structure", problem)
                for done, total in checked.run():
                    if progress is not None:
                        progress(done, total)
                return checked.report()
        finally:
            index.close()


def _tell(bench: Bench) -> None:
    """The log says that the store was repaired."""
    newest = next(items_backward(bench.index, "events"), None)
    sequence = keys.from_u64(newest[0]) + 1 if newest else 1
    message = f"the store was repaired: {bench.total} actions"
    event = Event(sequence=sequence, time_ns=now_ns(), kind=EventKind.WARNING, message=message)
    bench.index.put("events", keys.u64(sequence), records.encode_json(event))


@contextmanager
def repairing(path: Path, disk: Disk | None = None) -> Iterator[Repair]:
    """The store, locked for a repair.

    Raises:
        Busy: somebody has it open.
        NotFound, Invalid, Unsupported, Corrupt: it is no store that this snapfs knows.
    """
    repair = Repair(path, disk or Disk())
    try:
        yield repair
    finally:
        repair.release()
