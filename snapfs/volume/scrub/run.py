"""Scrub: everything that is stored is verified while it is used, slowly, from time to time.

First the structure of the index's file, by a child (``store.verify``), then its values one by one (``scrub_index``);
then the segments' headers, and every block that was there when it began, as they lie on the disk (``store.medium``).

Invariants:
  * At most one runs.  Where it is, and what it found, is written with each commit: after a crash it goes on from there,
    and what it found is neither lost nor told twice.
  * Its memory does not grow with the store.
  * A block is called damaged only if it was so twice, and is still referenced after that: one that goes while it is
    read is none of its business (and is never referenced again, so it had not gone when it was read).
  * Requests come first: it takes short turns, and rests while requests are dense, but never for long.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import trio

from snapfs.api import EventKind, Finding, ScrubState, ScrubStatus
from snapfs.errors import Conflict, Corrupt, Invalid, SnapfsError
from snapfs.format import keys, records
from snapfs.format.records import Block
from snapfs.format.segments import record_bytes
from snapfs.store import verify
from snapfs.store.index import TABLES, Index
from snapfs.store.layout import INDEX
from snapfs.store.medium import Medium
from snapfs.store.walk import last_key, values
from snapfs.types import BlockId, SegmentId
from snapfs.volume.core import Core, now_ns
from snapfs.volume.limits import DEFAULT_PACE, Pace
from snapfs.volume.scrub.index import check_some

FINDINGS_MAX: Final = 100
"""Kept and told one by one; more are only counted: ``snap fsck`` lists them."""

SLICE_SECONDS: Final = 0.0005
"""Of the trio thread at a time, for the index; as long again it rests."""

BATCH_BYTES: Final = 1024 * 1024
BATCH_BLOCKS_MAX: Final = 64
"""Read and hashed between two looks around."""
BATCHES_PER_SECOND_MIN: Final = 4
"""A slow scrub reads little at a time rather than seldom."""
LOOKED_MAX: Final = 500
"""Entries passed over at a time."""

DENSE_REQUESTS_PER_SECOND: Final = 200
DENSE_SHARE: Final = 0.25
"""Above this many, or when they take more of the time (of a slow disk that is few), somebody works with the mount: it
rests ..."""
REST_SECONDS_MAX: Final = 0.25
"""... but so long only, for each batch: a store that is never idle is scrubbed too, by some 4 MiB a second."""
SAMPLE_SECONDS: Final = 0.02
SLACK_SECONDS: Final = 0.1
"""A late turn is made up for, up to this."""

DAY_NS: Final = 24 * 3600 * 1_000_000_000
_LOOK_SECONDS_MAX: Final = 600.0
"""How late a scrub that is due may begin, whatever happens to the host's clock."""
_AGAIN_SECONDS: Final = 60.0
"""After something that has nothing to do with what is checked went wrong."""

_KEY: Final = b"scrub"
_STRUCTURE: Final = "index file"
_SEGMENTS: Final = "segment files"
_BLOCKS: Final = "block records"
"""In place of tables: the index as a file; what is read from the disk, by the keys of ``segments`` and ``blocks``."""
_ORDER: Final = (_STRUCTURE, *TABLES, _SEGMENTS, _BLOCKS)

log = logging.getLogger(__name__)


class Job(msgspec.Struct, kw_only=True):
    """One scrub, as the index keeps it (JSON, in table ``meta``)."""

    state: ScrubState = ScrubState.NEVER
    start_ns: int = 0
    end_ns: int = 0
    bytes_per_second: int = 0
    """As asked for; 0: as the store's pace says."""
    table: str = _ORDER[0]
    position: bytes = b""
    """Last key of the table that was looked at."""
    newest_block: BlockId = BlockId(0)
    """Blocks that came later are not looked at."""
    index_done: int = 0
    done: int = 0
    total: int = 0
    data_read_bytes: int = 0
    found: int = 0
    findings: list[Finding] = []

    def status(self) -> ScrubStatus:
        return ScrubStatus(
            state=self.state, start_ns=self.start_ns, end_ns=self.end_ns, index_done=self.index_done, done=self.done,
            total=self.total, data_read_bytes=self.data_read_bytes, found=self.found, findings=list(self.findings),
        )  # fmt: skip


class Throttle:
    """Keeps what is read below a rate.  Pure: the caller has the clock and sleeps."""

    def __init__(self) -> None:
        self._free_at = 0.0

    def spend(self, count_bytes: int, bytes_per_second: int, now: float) -> float:
        """Seconds to wait after so many bytes were read."""
        self._free_at = max(self._free_at, now - SLACK_SECONDS) + count_bytes / bytes_per_second
        return max(self._free_at - now, 0.0)


class Scrub:
    """
    Args:
        created_ns: when the store was made: the first scrub is due by that.
        commit: makes what was found durable.
    """

    def __init__(self, core: Core, medium: Medium, created_ns: int, commit: Callable[[], Awaitable[None]]) -> None:
        self._core = core
        self._medium = medium
        self._created_ns = created_ns
        self._commit = commit
        self._job = _stored(core.index)
        self._changed = False
        self._asked = False
        """For a scrub in this process."""
        self._automatic = False
        self.pace = DEFAULT_PACE
        self.requests: Callable[[], tuple[int, float]] = lambda: (0, 0.0)
        """Of those that come first: how many there were so far, and the seconds that they took."""
        self._wake = trio.Event()
        self._throttle = Throttle()
        self._sampled = (0.0, 0, 0.0)
        self._dense = False
        self.damage_found = 0
        """Findings since the store was opened."""
        core.index.before_commit.append(self._before_commit)

    def _before_commit(self) -> None:
        core = self._core
        # not on a full disk: where a scrub is must not be what makes a commit fail
        if self._changed and core.disk.free_bytes(core.path)[0] >= core.pending_bytes():
            self._changed = False
            core.index.put("meta", _KEY, msgspec.json.encode(self._job))

    # -- asked from outside

    def serve(self, requests: Callable[[], tuple[int, float]]) -> None:
        """From now on scrubs begin by themselves when they are due, and one that was under way goes on.

        Args:
            requests: of those that come first, how many there were so far, and the seconds that they took.
        """
        self.requests = requests
        self._automatic = True
        self._wake.set()

    def follow(self, pace: Pace) -> None:
        self.pace = pace
        self._wake.set()

    def status(self) -> ScrubStatus:
        """The scrub that runs, or the last one; one that nobody goes on with is paused."""
        now = self._job.status()
        if now.state is ScrubState.RUNNING and not self._active:
            return msgspec.structs.replace(now, state=ScrubState.PAUSED)
        due_ns = self._due_ns()
        idle = now.state not in (ScrubState.RUNNING, ScrubState.PAUSED)
        return msgspec.structs.replace(now, next_ns=due_ns) if idle and self._automatic else now

    def start(self, bytes_per_second: int = 0) -> None:
        """Begin, or go on with what was paused; one that runs goes on.

        Args:
            bytes_per_second: from now on; 0: as before, or as the store's pace says.

        Raises:
            Invalid: a negative number.
            IOFailure: the store takes no more changes.
        """
        if bytes_per_second < 0:
            raise Invalid("a rate cannot be negative")
        self._core.index.check()
        if self._job.state not in (ScrubState.RUNNING, ScrubState.PAUSED):
            self._begin()
        self._job.state = ScrubState.RUNNING
        self._job.bytes_per_second = bytes_per_second or self._job.bytes_per_second
        self._changed = self._asked = True
        self._wake.set()

    def pause(self) -> None:
        """Raises Conflict: none runs."""
        self._end_with(ScrubState.PAUSED, (ScrubState.RUNNING, ScrubState.PAUSED), "there is no scrub to pause")

    def cancel(self) -> None:
        """Raises Conflict: none runs or is paused."""
        self._end_with(ScrubState.CANCELLED, (ScrubState.RUNNING, ScrubState.PAUSED), "there is no scrub to cancel")
        self._job.end_ns = now_ns()

    def _end_with(self, state: ScrubState, only: tuple[ScrubState, ...], refusal: str) -> None:
        self._core.index.check()
        if self._job.state not in only:
            raise Conflict(refusal, hint="see: snap scrub --status")
        self._job.state = state
        self._changed = True
        self._wake.set()

    # -- when

    @property
    def _active(self) -> bool:
        asked = self._automatic or self._asked
        return asked and self._job.state is ScrubState.RUNNING and self._core.index.failure is None

    def _due_ns(self) -> int:
        """When the next one begins by itself; 0: never."""
        if not self.pace.scrub_every_days:
            return 0
        last_ns = self._job.end_ns or self._job.start_ns or self._created_ns
        return last_ns + int(self.pace.scrub_every_days * DAY_NS)

    def _begin(self) -> None:
        index = self._core.index
        newest = last_key(index, "blocks")
        self._job = Job(
            state=ScrubState.RUNNING,
            start_ns=now_ns(),
            newest_block=BlockId(keys.from_u64(newest)) if newest else BlockId(0),
            total=index.count("blocks"),
        )
        self._changed = True
        log.info("a scrub has begun: %d blocks", self._job.total)

    async def run(self) -> None:
        """Scrub when that was asked for, or is due."""
        while True:
            try:
                if self._active:
                    await self._step(self._job)
                else:
                    await self._idle()
            except (SnapfsError, OSError) as error:  # nothing of what is checked: that is found, not raised
                log.warning("the scrub waits: %s", error)
                await trio.sleep(_AGAIN_SECONDS)
            except Exception:  # the mount must not end for it
                log.exception("the scrub failed unexpectedly, and is paused")
                self._job.state = ScrubState.PAUSED

    async def _idle(self) -> None:
        self._wake = trio.Event()
        if not self._automatic:
            await self._wake.wait()
            return
        due_ns = self._due_ns()
        waits = self._job.state is ScrubState.PAUSED or not due_ns or self._core.index.failure is not None
        left = _LOOK_SECONDS_MAX if waits else (due_ns - now_ns()) / 1e9
        if left <= 0:
            self._begin()
            return
        with trio.move_on_after(min(left, _LOOK_SECONDS_MAX)):
            await self._wake.wait()

    # -- the work

    async def _step(self, job: Job) -> None:
        """One batch.  The job may be paused, or replaced by another, while it waits."""
        try:
            await self._check_some(job)
        except Corrupt as error:  # what is left of a table is out of reach
            self._tell(job, Finding(code="structure", message=error.message))
            await self._finish(job)

    async def _check_some(self, job: Job) -> None:
        if job.table == _STRUCTURE:
            await self._check_structure(job)
        elif job.table == _SEGMENTS:
            await self._check_segments(job)
            await self._give_way(REST_SECONDS_MAX)
        elif job.table == _BLOCKS:
            rate = job.bytes_per_second or self.pace.scrub_bytes_per_second
            read_bytes = await self._check_blocks(job, min(BATCH_BYTES, rate // BATCHES_PER_SECOND_MIN))
            with trio.move_on_after(self._throttle.spend(read_bytes, rate, trio.current_time())):
                await self._paused_or_replaced(job)
            await self._give_way(REST_SECONDS_MAX)
        else:
            began = time.perf_counter()
            self._check_index(job)
            await trio.sleep(time.perf_counter() - began)
            await self._give_way(SAMPLE_SECONDS)

    async def _paused_or_replaced(self, job: Job) -> None:
        while job is self._job and job.state is ScrubState.RUNNING:
            self._wake = trio.Event()
            await self._wake.wait()

    async def _check_structure(self, job: Job) -> None:
        """Of the index as of the last commit.  One that is damaged is not walked: LMDB trusts what it maps."""
        index = self._core.index
        with index.reader():  # which keeps what the child reads from being used again
            looked = await trio.run_process(
                verify.command(self._core.path / INDEX / verify.DATA_FILE),
                capture_stdout=True,
                check=False,
                process_group=verify.APART,
            )
        found = verify.answer(looked.returncode, looked.stdout)
        for line in found:
            self._tell(job, Finding(code="structure", message=line))
        self._move(job, b"", ended=True)
        if found:
            job.table, job.newest_block = _BLOCKS, BlockId(0)
            await self._finish(job)

    def _check_index(self, job: Job) -> None:
        """A slice of a table."""
        part = check_some(self._core.index, job.table, job.position, SLICE_SECONDS)
        for finding in part.findings:
            self._tell(job, finding)
        job.index_done += part.done
        self._move(job, part.position, ended=part.ended)

    def _move(self, job: Job, position: bytes, *, ended: bool) -> None:
        """On to the next key, or to what comes after the table."""
        job.position = position
        if ended and job.table != _ORDER[-1]:
            job.table, job.position = _ORDER[_ORDER.index(job.table) + 1], b""
        self._changed = True

    async def _check_segments(self, job: Job) -> None:
        """Some segments' own headers."""
        segments = itertools.islice(values(self._core.index, "segments", job.position), BATCH_BLOCKS_MAX)
        found_keys = [key for key, _ in segments]
        numbers = [SegmentId(keys.from_u64(key)) for key in found_keys]
        findings = await trio.to_thread.run_sync(lambda: [self._medium.check_segment(number) for number in numbers])
        for key, finding in zip(found_keys, findings, strict=True):
            if finding is not None and self._core.index.get("segments", key) is not None:  # not dropped meanwhile
                self._tell(job, finding)
        self._move(job, found_keys[-1] if found_keys else b"", ended=len(found_keys) < BATCH_BLOCKS_MAX)

    async def _check_blocks(self, job: Job, size_max: int) -> int:
        """A batch of about so many bytes, of one block at least; bytes read."""
        wanted, position, looked, ended = self._next_blocks(job, size_max)
        found = await trio.to_thread.run_sync(self._medium.check, wanted) if wanted else {}
        confirmed = [await self._confirmed(block, entry) for block, entry in wanted if block in found]
        for finding in confirmed:
            if finding is not None:
                self._tell(job, finding)
        read_bytes = sum(record_bytes(entry.stored_bytes) for _, entry in wanted if not entry.lost)
        job.done += looked
        job.data_read_bytes += read_bytes
        self._move(job, position, ended=ended)
        if ended:
            await self._finish(job)
        return read_bytes

    def _next_blocks(self, job: Job, size_max: int) -> tuple[list[tuple[BlockId, Block]], bytes, int, bool]:
        """(blocks to read, position after them, entries looked at, whether there are no more)."""
        wanted: list[tuple[BlockId, Block]] = []
        position, looked, size = job.position, 0, 0
        for key, value in values(self._core.index, "blocks", job.position):
            if keys.from_u64(key) > job.newest_block:
                return wanted, position, looked, True
            position, looked = key, looked + 1
            try:
                entry = records.decode_block(records.unseal(key, value))
            except Corrupt:
                continue  # told when the index was checked
            if entry.refs:
                wanted.append((BlockId(keys.from_u64(key)), entry))
                size += record_bytes(entry.stored_bytes)
            if size >= size_max or len(wanted) >= BATCH_BLOCKS_MAX or looked >= LOOKED_MAX:
                return wanted, position, looked, False
        return wanted, position, looked, True

    async def _confirmed(self, block: BlockId, entry: Block) -> Finding | None:
        """What is wrong with a block that was found damaged, if it still counts."""
        again = await trio.to_thread.run_sync(self._medium.check, [(block, entry)])
        payload = self._core.index.get("blocks", keys.u64(block))
        now = records.decode_block(payload) if payload is not None else None
        if now is None or not now.refs:  # its space may have been given back by then
            return None
        if (now.segment, now.offset) != (entry.segment, entry.offset):  # it was copied elsewhere
            return await self._confirmed(block, now)
        return again.get(block)

    async def _finish(self, job: Job) -> None:
        """Unless it was paused or cancelled meanwhile: then it is at its end when it goes on."""
        if job.state is not ScrubState.RUNNING:
            return
        job.state, job.end_ns, job.total = ScrubState.FINISHED, now_ns(), job.done
        self._changed = True
        level = logging.ERROR if job.found else logging.INFO
        log.log(level, "a scrub has ended: %d findings in %d blocks", job.found, job.done)
        await self._commit()

    def _tell(self, job: Job, finding: Finding) -> None:
        job.found += 1
        self.damage_found += 1
        self._changed = True
        if job.found > FINDINGS_MAX:
            if job.found == FINDINGS_MAX + 1:
                log.error("the scrub found more than %d things wrong: see snap fsck", FINDINGS_MAX)
            return
        job.findings.append(finding)
        log.error("the scrub found damage: %s: %s", finding.code, finding.message)
        self._core.events.append(EventKind.DAMAGE_FOUND, message=f"{finding.code}: {finding.message}")

    # -- others come first

    async def _give_way(self, seconds_max: float) -> None:
        """Rest while requests are dense, but not for long."""
        end = trio.current_time() + seconds_max
        while self._is_dense() and trio.current_time() < end:  # noqa: ASYNC110 - a rest, not a wait
            await trio.sleep(SAMPLE_SECONDS)

    def _is_dense(self) -> bool:
        now = trio.current_time()
        last, count_before, seconds_before = self._sampled
        passed = now - last
        if passed >= SAMPLE_SECONDS:
            count, seconds = self.requests()
            many = count - count_before > DENSE_REQUESTS_PER_SECOND * passed
            self._dense = many or seconds - seconds_before > DENSE_SHARE * passed
            self._sampled = now, count, seconds
        return self._dense


def _stored(index: Index) -> Job:
    """What is known of the last one.  What cannot be read is forgotten: it must not keep a store from being opened."""
    try:
        payload = index.get("meta", _KEY)
        job = msgspec.json.decode(payload, type=Job) if payload else Job()
    except (Corrupt, msgspec.MsgspecError):
        return Job()
    return job if job.table in _ORDER else Job()
