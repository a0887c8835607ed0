"""Crash safety: a workload stops at each operation that it asks of the disk, and the store is compared with the oracle.

Three ways to stop at operation k:
  * KILL: what was written before is there, of a write perhaps half;
  * POWER: what was not synced before is lost, there or torn;
  * ERROR: the operation fails; the program goes on; then the store is closed, killed, or loses its power.

The first two need no second run: the files are built from what the disk noted (``crashing_media``).  Afterwards the
store must open as of exactly one commit, the last one published.  What was acknowledged as durable must be in it
(checked when it is acknowledged), what is in it must be whole, fsck must find nothing, and no file be left over.
"""

from __future__ import annotations

import contextlib
import copy
import enum
import errno
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from snapfs.errors import NotFound, SnapfsError
from snapfs.format import keys, records
from snapfs.format.segments import record_bytes
from snapfs.store.index import items
from snapfs.testing.crashing_disk import CHANGING, RECORDING, TAKES_SPACE, CrashingDisk, Fault, Kind, Moment, Operation
from snapfs.testing.crashing_media import Media
from snapfs.testing.crashing_oracle import CrashOracle, State, compare
from snapfs.testing.engine import EngineSubject
from snapfs.testing.trees import FILE
from snapfs.volume.lake import Lake
from snapfs.volume.limits import Limits, Pace

LIMITS: Final = Limits(segment_bytes_max=128 * 1024, redo_bytes_max=64 * 1024)
"""Small segments, so that small workloads fill, empty and drop several; and a small log."""

FAILURES_MAX: Final = 4
"""Steps that may fail before a lasting fault is mended."""

Workload = Callable[["Run"], None]


class Way(enum.Enum):
    KILL = "kill"
    POWER = "power"
    ERROR = "error"


class Broken(AssertionError):
    """The store is not as it must be."""


class Ended(Exception):
    """The store takes no more changes: the workload ends."""


class Subject(EngineSubject):
    def fsync(self, volume: str, path: tuple[bytes, ...]) -> None:
        view, ino = self._resolve(volume, path)
        self.run(lambda: self.lake.files.fsync(view, ino))

    def shrink(self) -> None:
        async def shrink() -> None:
            await self.lake.sync()
            await self.lake.upkeep.shrink(spare_percent=0, spare_bytes_min=0)

        self.run(shrink)

    @contextlib.contextmanager
    def _keeping(self) -> Iterator[None]:
        """What is deleted goes to the trash, where nothing expires until ``expire``."""
        self.lake.trash.follow(Pace())
        try:
            yield
        finally:
            self.lake.trash.follow(Pace(trash_hours=0))

    def trash_snapshot(self, volume: str, name: str) -> None:
        with self._keeping():
            self.remove_snapshot(volume, name)

    def trash_volume(self, name: str) -> None:
        with self._keeping():
            self.remove_volume(name, snapshots=True)

    def undelete_snapshot(self, volume: str, name: str) -> None:
        self.run(lambda: self.service.undelete_snapshot(volume=volume, snapshot=name))

    def undelete_volume(self, name: str) -> None:
        self.run(lambda: self.service.undelete_volume(volume=name))

    def expire(self) -> None:
        self.run(self.lake.trash.expire)

    def state(self) -> State:
        entries = self.lake.trash.entries()
        trash = [e.volume.name if e.snapshot is None else f"{e.volume.name}@{e.snapshot.name}" for e in entries]
        state = State({}, {}, {}, sorted(trash))
        for name in self.lake.volumes.names():
            state.heads[name] = self.tree(name)
            state.tags[name] = self.listed(name)
            for snapshot in state.tags[name]:
                state.snapshots[name, snapshot] = self.tree(name, snapshot)
        return state


class Run:
    """A workload on a store and the oracle.

    Attributes:
        states: what the store shows after each commit; the first is before any.
        candidates: once the store takes no more changes, what it may show.
    """

    def __init__(self, place: Path, fault: Fault | None = None) -> None:
        self.store = place / "store"
        Lake.create(self.store)
        self.disk = CrashingDisk(self.store, fault)
        self.subject = Subject(self.store, self.disk, LIMITS)
        self.disk.attach()
        self.disk.log.clear()
        self.media = Media(self.store)
        self.oracle = CrashOracle()
        self.states = [self.oracle.state()]
        self.candidates: list[State] = []
        self.failures = 0

    def content(self, method: str, volume: str, path: tuple[bytes, ...], *args: Any) -> None:
        """An operation that sets a file's mtime, which is then set to what the model knows."""
        if self.both(method, volume, path, *args):
            self.both("set_mtime", volume, path, self.oracle.tick())

    def both(self, method: str, *args: Any, **kwargs: Any) -> bool:
        """A step; whether it was done.

        Raises:
            Broken: it was acknowledged without being durable, or refused half done.
            Ended: the store takes no more changes.
        """
        commits = self.disk.commits
        try:
            getattr(self.subject, method)(*args, **kwargs)
        except SnapfsError as error:
            return self._refused(error, commits, method, args, kwargs)
        _tell(self.oracle, method, args, kwargs)
        self.states += [self.oracle.state()] * (self.disk.commits - commits)
        if method in DURABLE:
            state = self.oracle.state()
            wrong = compare(self.states[-1], state)
            if wrong:
                raise Broken("\n".join([f"{method}{args[:2]} is acknowledged but not committed:", *wrong]))
            self.states[-1] = state  # what was doubtful is so no more
        return True

    def _refused(self, error: SnapfsError, commits: int, method: str, args: Any, kwargs: Any) -> bool:
        trial = copy.deepcopy(self.oracle)
        try:
            _tell(trial, method, args, kwargs)
        except SnapfsError as expected:
            if type(expected) is type(error):
                return False
        if not self.disk.met:
            raise error
        self.failures += 1
        if self.failures == FAILURES_MAX:
            self.disk.fault = None
        self.oracle.failed()
        self.disk.suspended = True
        try:
            found = self.subject.state()
            if self.subject.lake.index.failure is not None:
                self._end(self.disk.commits > commits, trial, found)
            done = bool(compare(self.oracle.visible(), found))
            if done:
                wrong = compare(trial.visible(), found)
                if wrong:
                    raise Broken("\n".join([f"{method}{args[:2]} failed ({error}) and is half done:", *wrong]))
                self.oracle = trial
                self.oracle.failed()
        finally:
            self.disk.suspended = False
        self.states += [self.oracle.state()] * (self.disk.commits - commits)
        return done

    def _end(self, committed: bool, trial: CrashOracle, found: State) -> None:
        """The store takes no more changes; it must show what is published, and refuse."""
        self.candidates = [trial.state(), self.oracle.state()] if committed else [self.states[-1]]
        _one_of(self.candidates, found, "a store that takes no more changes shows what is not published")
        if any(operation.failed and operation.name in RECORDING for operation in self.disk.log):
            self.candidates.append(trial.state())  # the record may be there, and the disk did not let us take it back
        volumes = self.subject.lake.volumes.names()
        for refused in ("flush", *(["create"] if volumes else [])):
            try:
                if refused == "flush":
                    self.subject.flush()
                else:
                    self.subject.make(volumes[0], (b"refused",), FILE, 0o644)
            except SnapfsError:
                continue
            raise Broken(f"a store whose sync failed takes a {refused}")
        raise Ended

    def close(self) -> None:
        """As a process that is killed; what is in memory is gone."""
        self.subject.close()


DURABLE: Final = frozenset({
    "flush", "reclaim", "compact", "shrink", "fsync", "snapshot", "remove_snapshot", "rename_snapshot", "tag",
    "remove_tag", "create_volume", "remove_volume", "clone", "checkout", "restore",
    "trash_snapshot", "trash_volume", "undelete_snapshot", "undelete_volume", "expire",
})  # fmt: skip
"""Steps that return only when what they did is durable."""


def _tell(oracle: CrashOracle, method: str, args: Any, kwargs: Any) -> None:
    try:
        if method == "checkout":
            oracle.checkout(*args[:2], discard=True)  # workloads discard
        else:
            getattr(oracle, method)(*args, **kwargs)
    except KeyError as error:
        raise NotFound(f"no volume {error}") from error


def _one_of(candidates: list[State], found: State, what: str) -> None:
    wrong: list[str] = []
    for candidate in candidates:
        wrong = compare(candidate, found)
        if not wrong:
            return
    raise Broken("\n".join([f"{what}:", *wrong]))


def verify(store: Path, candidates: list[State], *, deep: bool) -> None:
    """The store opens, shows one of the states, is sound, goes on working, and leaks nothing.

    Args:
        deep: also empty it, and see that nothing is left.
    """
    try:
        subject = Subject(store, limits=LIMITS)
    except SnapfsError as error:
        raise Broken(f"does not open: {error}") from error
    try:
        found = subject.state()
        _one_of(candidates, found, "is not as of the last commit")
        _check(subject)
        for name in found.heads:
            subject.make(name, (b"after",), FILE, 0o644)
            subject.write(name, (b"after",), 0, random.Random(len(name)).randbytes(20_000))
        subject.reclaim()
        subject.reclaim()
        left = subject.state()
        for key, tree in found.snapshots.items():
            if left.snapshots[key] != tree:
                raise Broken(f"{key} is another after some writing")
        _check(subject)
        _check_files(subject)
        if deep:
            _check_damage(subject)
            for name in found.heads:
                subject.remove_volume(name, snapshots=True)
            subject.expire()
            subject.reclaim()
            if subject.stored_bytes():
                raise Broken(f"{subject.stored_bytes()} bytes are left of nothing")
            _check(subject)
            _check_files(subject)
            if len(list((store / "segments").iterdir())) > 1:
                raise Broken("empty segments are left")
    except SnapfsError as error:
        raise Broken(f"fails after the crash: {error}") from error
    finally:
        subject.close()


def _check(subject: Subject) -> None:
    findings = subject.fsck()
    if findings:
        raise Broken("\n".join(["fsck:", *findings]))


def _check_damage(subject: Subject) -> None:
    """A byte that changes below a block is found by whoever reads it, and by fsck."""
    index, segments = subject.lake.index, subject.lake.core.blocks.segments
    entries = [records.decode_block(payload) for _, payload in items(index, "blocks")]
    entry = next((entry for entry in reversed(entries) if entry.refs), None)
    if entry is None:
        return
    place = entry.offset + record_bytes(0) + entry.stored_bytes // 2
    fd = os.open(segments.file_path(entry.segment), os.O_RDWR)
    try:
        byte = os.pread(fd, 1, place)
        os.pwrite(fd, bytes([byte[0] ^ 1]), place)
        subject.crash()  # what it has read before is forgotten
        if not subject.fsck():
            raise Broken(f"fsck does not see that byte {place} of segment {entry.segment} is another")
        os.pwrite(fd, byte, place)
    finally:
        os.close(fd)
    subject.crash()


def _check_files(subject: Subject) -> None:
    index = subject.lake.index
    known = {f"{keys.from_u64(key):016d}.seg" for key, _ in items(index, "segments")}
    files = {path.name for path in (subject.path / "segments").iterdir()}
    if files != known:
        raise Broken(f"segments {sorted(files ^ known)} are left over or missing")


# -- crash points


@dataclass
class Recording:
    """A workload that ran without a fault."""

    name: str
    workload: Workload
    log: list[Operation]
    states: list[State]
    points: list[int]
    """Numbers of the operations that change something on the disk."""
    media: Media
    """As it was before the first."""


@dataclass
class Survey:
    """What was tried, and what was wrong."""

    tried: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def note(self, way: Way, name: str, number: int, operation: Operation, error: BaseException) -> None:
        self.wrong.append(f"{way.value} at {name} {number} ({operation.name} {operation.path}): {error}")


def record(workload: Workload, place: Path) -> Recording:
    """Run it once; the replay of what the disk noted must come to the very files that are there."""
    run = Run(place)
    try:
        workload(run)
        media = copy.deepcopy(run.media)
        for operation in run.disk.log:
            media.apply(operation)
        wrong = media.differs(run.store)
        assert not wrong, f"the harness does not see everything: {wrong}"
    finally:
        run.close()
        shutil.rmtree(run.store)
    log = run.disk.log
    points = [number for number, operation in enumerate(log) if operation.kind in CHANGING]
    return Recording(workload.__name__, workload, log, run.states, points, run.media)


def crash(recording: Recording, points: Iterable[int], place: Path, survey: Survey, *, stop: bool = False) -> None:
    """KILL and POWER at each of the points.  ``stop`` at the first thing that is wrong."""
    media = copy.deepcopy(recording.media)
    wanted = set(points)
    for number, operation in enumerate(recording.log):
        if number in wanted:
            for way in (Way.KILL, Way.POWER):
                _crash_at(recording, number, way, media, place, survey)
                if stop and survey.wrong:
                    return
        media.apply(operation)


def _crash_at(recording: Recording, number: int, way: Way, media: Media, place: Path, survey: Survey) -> None:
    operation = recording.log[number]
    chance = random.Random(number * 2 + (way is Way.POWER))
    target = place / "crashed"
    states = recording.states[media.commits : media.commits + 1 + (operation.name in RECORDING)]
    media = copy.deepcopy(media)
    under_way = operation if operation.kind is Kind.COMMIT else None
    if operation.kind is Kind.WRITE:
        media.apply(operation, len(operation.data) // 2 if way is Way.KILL else -1)
    elif way is Way.POWER and operation.kind not in (Kind.SYNC, Kind.SYNC_DIRECTORY, Kind.COMMIT):
        media.apply(operation)
    (media.kill if way is Way.KILL else media.power_loss)(target, under_way, chance)
    survey.tried[way.value] += 1
    try:
        verify(target, states, deep=number % 5 == 0)
    except Exception as error:
        survey.note(way, recording.name, number, operation, error)
    finally:
        shutil.rmtree(target)


def fail(recording: Recording, points: Iterable[int], place: Path, survey: Survey, *, stop: bool = False) -> None:
    """ERROR at each of the points: which error, when, how long, and how it ends, is chosen by the point's number."""
    for number in points:
        operation = recording.log[number]
        chance = random.Random(number)
        full = operation.kind in TAKES_SPACE and chance.random() < 0.5
        fault = Fault(
            at=number, code=errno.ENOSPC if full else errno.EIO, moment=chance.choice(list(Moment)),
            lasting=chance.random() < 0.4,
        )  # fmt: skip
        survey.tried[Way.ERROR.value] += 1
        try:
            _fail_at(recording.workload, fault, place, chance.choice(["close", "kill", "power"]), chance)
        except Exception as error:
            survey.note(Way.ERROR, recording.name, number, operation, error)
            survey.wrong[-1] += f" [{errno.errorcode[fault.code]} {fault.moment.name} lasting={fault.lasting}]"
        if stop and survey.wrong:
            return


def _fail_at(workload: Workload, fault: Fault, place: Path, end: str, chance: random.Random) -> None:
    run = Run(place, fault)
    try:
        try:
            workload(run)
            run.disk.fault = None
            if end == "close":
                run.both("flush")
        except Ended:
            pass
        finally:
            run.close()
        if not run.disk.met:
            raise Broken("the fault was not met")
        candidates = run.candidates or [run.states[-1]]
        if end != "power":
            verify(run.store, candidates, deep=True)
            return
        for operation in run.disk.log:
            run.media.apply(operation)
        run.media.power_loss(place / "crashed", None, chance)
        verify(place / "crashed", candidates, deep=True)
    finally:
        shutil.rmtree(run.store)
        shutil.rmtree(place / "crashed", ignore_errors=True)
