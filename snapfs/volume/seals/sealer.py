"""Seals snapshots in the background: each gets a digest of what it contains, and a list of what changed, written into
the segments (see ``format.seals``).

Invariants:
  * Table ``unsealed`` is the queue: whatever changes a snapshot's record, or takes its epoch or its seal's base out of
    the tree, puts an entry in the same transaction; the entry goes with the step that puts the new seal.  So a crash
    at any moment loses nothing and leaves nothing half done.
  * A digest, once given, stays.  Sealed anew, a snapshot must have the content it was sealed with.
  * A seal's base is a sealed ancestor whose view is whole: not one whose versions are moving to a child.
  * A seal whose snapshot is gone stays as long as another has it as its base; then its blocks are released.  When its
    epoch has left the tree, those others are given another base.
  * Everything of a view is read from an LMDB reader, and the paths are those of the reader's moment.
  * One seal at a time (``_lock``), in short turns on the trio thread.  No snapshot waits for a seal; a flush waits for
    one small append.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Final

import msgspec
import trio

from snapfs.errors import Corrupt, IOFailure, NoSpace, SnapfsError
from snapfs.format import keys, records, seals
from snapfs.format.records import SnapshotRecord
from snapfs.format.seals import SealBody, SealRecord, SealRoot
from snapfs.format.segments import SEAL_PART, SEAL_ROOT
from snapfs.store.blocks import Draft
from snapfs.store.index import items, items_backward
from snapfs.types import BLOCK_BYTES_MAX, BlockId, Epoch
from snapfs.versions.epochs import ROOT
from snapfs.versions.lthash import LtHash
from snapfs.volume.core import Core
from snapfs.volume.seals.content import Delta, parts
from snapfs.volume.seals.moment import Source
from snapfs.volume.snapshots import Snapshots
from snapfs.volume.turns import Turns
from snapfs.volume.volumes import Volumes
from snapfs.volume.writeback import Writeback

APPEND_PARTS: Final = 4
"""Parts appended at a time (1 MiB before compression): a flush that waits, waits for no more (a few ms)."""

ROOM_BYTES: Final = 16 * 1024 * 1024
"""Space that must be free, beyond what is spoken for, before a seal is begun: seals can wait, files cannot."""

COMMIT_SECONDS: Final = 0.25
BUSY_COMMIT_SECONDS: Final = 2.0
"""How long a snapshot's seal waits for somebody else's commit: at rest, and while requests come, which all wait
for a commit."""

BATCH_SECONDS: Final = 2.0
"""A reader is kept no longer than this and one seal: it keeps space from being reused."""


class _Delta(msgspec.Struct):
    """What was found and appended of a seal that is being made."""

    base: Epoch
    state: bytes
    parts: list[Draft]


class Sealer:
    def __init__(
        self, core: Core, writeback: Writeback, volumes: Volumes, snapshots: Snapshots,
        store_uuid: bytes, commit: Callable[[], Awaitable[None]], turns: Turns,
    ) -> None:  # fmt: skip
        self._core = core
        self._index = core.index
        self._writeback = writeback
        self._volumes = volumes
        self._snapshots = snapshots
        self._uuid = store_uuid
        self._commit = commit
        self._lock = trio.Lock()
        self._turns = turns
        self._dependents: dict[Epoch, set[Epoch]] | None = None
        """Seals by their base; None until they are needed."""
        self._refused: set[Epoch] = set()
        """What cannot be sealed as long as the store is open: its records are damaged."""
        self._last: tuple[Epoch, bytes] = (ROOT, b"")
        """Sealed last, with its state: often the base of the next."""
        self._work = trio.Event()
        self._asked: trio.Event | None = None
        self._offered: Source | None = None
        core.index.after_publish.append(self._published)

    def get(self, epoch: Epoch) -> SealRecord | None:
        payload = self._index.get("seals", keys.u64(epoch))
        return None if payload is None else seals.decode_record(payload)

    def queue(self, *, backward: bool = False) -> Iterator[Epoch]:
        """Snapshots, also deleted ones, whose seals are to be written, or to go.  Not across a commit or mutation."""
        for key, _ in (items_backward if backward else items)(self._index, "unsealed"):
            epoch = Epoch(keys.from_u64(key))
            if epoch not in self._refused or not self._exists(epoch):
                yield epoch

    def _exists(self, epoch: Epoch) -> bool:
        try:
            return self._index.get("snapshots", keys.u64(epoch)) is not None
        except Corrupt:  # it is damaged, but there
            return True

    @property
    def pending(self) -> bool:
        return next(self.queue(), None) is not None

    # -- when

    def _published(self) -> None:
        """A commit is done, and nothing has changed since: a moment at which a reader sees what memory knows."""
        with contextlib.suppress(SnapfsError):  # the commit has been done, whatever can be read
            if self._asked is not None:
                self._offered = Source(self._core)
                self._asked.set()
                self._asked = None
            elif not self._work.is_set() and self.pending:
                self._work.set()

    async def run(self) -> None:
        """Seal whatever is to be sealed, for ever."""
        self._work.set()
        while True:
            await self._work.wait()
            try:
                async with self._lock, self._moment() as source:
                    await self._batch(source)
                if not self.pending:
                    self._work = trio.Event()
            except SnapfsError as error:  # the disk is full, or refuses: later, then
                self._core.events.warn(f"snapshots could not be sealed: {error.message}")
                await trio.sleep(_RETRY_SECONDS)

    async def run_now(self) -> None:
        """Seal all that is to be sealed, durably.

        Raises:
            NoSpace, IOFailure: some of it is not.
        """
        await self._commit()  # also for whoever has the lock and waits for one
        with self._turns.hurrying():
            async with self._lock:
                await self._run_now()
        await self._commit()

    async def _run_now(self) -> None:
        while self.pending:
            await self._commit()
            self._index.commit()  # no await from here on to the reader
            with Source(self._core).reading() as source:
                await self._batch(source)

    @contextlib.asynccontextmanager
    async def _moment(self) -> AsyncIterator[Source]:
        """A state to read: now, or right after the next commit, which is ours if nobody else has one soon."""
        if self._index.dirty:
            asked = self._asked = trio.Event()
            try:
                with trio.move_on_after(BUSY_COMMIT_SECONDS if self._turns.gives_way else COMMIT_SECONDS):
                    await asked.wait()
                if not asked.is_set():
                    await self._commit()
                    await asked.wait()
            except BaseException:
                self._asked = None
                if self._offered is not None:
                    self._offered.reader.close()
                    self._offered = None
                raise
            offered, self._offered = self._offered, None
            assert offered is not None
        else:
            offered = Source(self._core)
        with offered.reading() as source:
            yield source

    # -- what

    async def _batch(self, source: Source) -> None:
        """Handle some of the queue: what goes, children first; then what is sealed, parents first."""
        until = time.monotonic() + BATCH_SECONDS
        await self._know_dependents()
        first = list(itertools.islice(self.queue(), _BATCH))
        there = [epoch for epoch in first if self._exists(epoch)]
        last = itertools.islice(self.queue(backward=True), _BATCH)
        gone = [epoch for epoch in last if not self._exists(epoch)] or sorted({*first} - {*there}, reverse=True)
        for epoch in [*gone, *there]:
            if time.monotonic() > until:
                return
            try:
                await self._handle(source, epoch)
            except Corrupt as error:
                self._refused.add(epoch)
                if not self._exists(epoch):  # what is left of it is fsck's
                    self._index.delete("unsealed", keys.u64(epoch))
                self._core.events.warn(f"a snapshot (epoch {epoch}) cannot be sealed: {error.message}")
            await self._turn()

    async def _turn(self) -> None:
        if self._turns.due:
            await self._turns.rest()

    async def _know_dependents(self) -> None:
        if self._dependents is not None:
            return
        found: dict[Epoch, set[Epoch]] = {}
        start: bytes | None = b""
        while start is not None:
            start = self._know_some(found, start)
            await self._turn()
        self._dependents = found

    def _know_some(self, found: dict[Epoch, set[Epoch]], start: bytes) -> bytes | None:
        """Some more of the table, from a key on; the key to go on from, None at its end."""
        for number, (key, payload) in enumerate(items(self._index, "seals", start=start)):
            if number == _SEALS_A_TURN:
                return key
            with contextlib.suppress(Corrupt):
                seal = seals.decode_record(payload)
                found.setdefault(seal.base, set()).add(seal.epoch)
        return None

    async def _handle(self, source: Source, epoch: Epoch) -> None:
        record, seal = self._snapshots.get(epoch), self.get(epoch)
        if record is None:
            await self._retire(epoch, seal)
        elif source.reader.get("snapshots", keys.u64(epoch)) is None:
            pass  # made since: the reader sees the epoch as a head's, if at all, and what it held then
        elif seal is None or (seal.base != ROOT and seal.base not in self._core.epochs):
            await self._seal(source, record, seal)
        else:
            try:
                await self._write(record, seal, None)
            except Corrupt:  # the seal itself is damaged: the snapshot need not be
                await self._seal(source, record, seal)

    async def _retire(self, epoch: Epoch, seal: SealRecord | None) -> None:
        """The snapshot was deleted.  If others go on building on its seal, that says so."""
        needed = any(epoch in self._core.epochs or not self._exists(dependent) for dependent in self._of(epoch))
        if seal is not None and needed and not seal.gone:
            with contextlib.suppress(Corrupt):
                await self._write(None, seal, None)
        # No await from here on: an epoch that leaves the tree later is queued again, one that left is seen here.
        if epoch not in self._core.epochs:
            for dependent in filter(self._exists, self._of(epoch)):
                self._index.put("unsealed", keys.u64(dependent), records.PRESENT)
        self._index.delete("unsealed", keys.u64(epoch))
        self._release_unused(epoch)

    def _of(self, base: Epoch) -> set[Epoch]:
        return (self._dependents or {}).get(base, set())

    # -- sealing

    async def _seal(self, source: Source, record: SnapshotRecord, seal: SealRecord | None) -> None:
        """Find what changed since the nearest sealed ancestor, and write it down."""
        whole = (e for e in source.epochs.ancestors(record.epoch) if source.epochs.whole(e) and e in self._core.epochs)
        base = parent = next(filter(None, map(self.get, whole)), None)
        state = bytes(seals.STATE_BYTES)
        if base is not None:
            try:
                state = await self._state(base)
            except Corrupt as error:  # then this one starts from nothing
                self._core.events.warn(f"the seal of a snapshot (epoch {base.epoch}) is damaged: {error.message}")
                base = None
        with self._core.blocks.pinned():  # until they are published, blocks are drafts
            delta = await self._find(source, record, base, state)
            content = seals.content_digest(delta.state)
            if seal is None:
                before = parent.digest if parent is not None else seals.NO_PARENT
                seal = SealRecord(
                    epoch=record.epoch, base=ROOT, parent=before, parent_epoch=parent.epoch if parent else ROOT,
                    digest=seals.seal_digest(before, content, record), content=content,
                    sequence=0, root=_NO_BLOCK, body=[], parts=[],
                )  # fmt: skip
            elif seal.content != content:
                raise Corrupt(
                    f"snapshot {record.name!r} shows something else than what it was sealed with",
                    hint="run: snap verify, snap fsck",
                )
            await self._write(record, seal, delta)

    async def _append(self, pieces: list[bytes], kind: int) -> list[Draft]:
        with self._core.blocks.placing():
            return [self._core.blocks.draft(placed) for placed in await self._writeback.append(pieces, kind)]

    async def _find(
        self, source: Source, record: SnapshotRecord, base: SealRecord | None, state: bytes
    ) -> _Delta:  # fmt: skip
        self._check_room()
        epoch, content = record.epoch, LtHash(state)
        view = source.epochs.view(epoch, record.volume)
        below = base.epoch if base is not None else ROOT
        between = [epoch]
        for ancestor in source.epochs.ancestors(epoch):
            if ancestor == below:
                break
            between.append(ancestor)
        base_view = source.epochs.view(below, record.volume) if base is not None else None
        entries = Delta(source.elements, base_view, view, between, content)
        pieces: list[bytes] = []
        drafts: list[Draft] = []
        for part in parts(entries, BLOCK_BYTES_MAX):
            if part is not None:
                pieces.append(part)
            if len(pieces) >= APPEND_PARTS:
                drafts += await self._append(pieces, SEAL_PART)
                pieces = []
                self._check_room()
            elif self._turns.due:
                await self._turns.rest()
        if pieces:
            drafts += await self._append(pieces, SEAL_PART)
        return _Delta(base=below, state=content.state(), parts=drafts)

    def _check_room(self) -> None:
        free_bytes = self._core.disk.free_bytes(self._core.path)[0]
        if free_bytes < self._core.pending_bytes() + ROOM_BYTES:
            raise NoSpace(f"{self._core.path}: too little is free", hint="free space there, or delete snapshots")

    # -- reading

    async def fetch(self, block: BlockId) -> bytes:
        """Raises:
        Corrupt: it is not there, damaged, or cannot be read.
        """
        blocks = self._core.blocks
        try:
            with blocks.pinned():
                file, entry = blocks.locate(block)
                return await trio.to_thread.run_sync(blocks.fetch, block, file, entry) or b""
        except IOFailure as error:
            raise Corrupt(error.message, hint="run: snap fsck") from error

    async def body(self, seal: SealRecord) -> SealBody:
        """Raises:
        Corrupt: it is damaged.
        """
        return seals.decode_body(b"".join([await self.fetch(block) for block in seal.body]))

    async def root(self, seal: SealRecord) -> SealRoot:
        """Raises:
        Corrupt: its root is damaged, or another's.
        """
        root = seals.decode_root(await self.fetch(seal.root))
        if root.epoch != seal.epoch or root.content != seal.content or seals.content_digest(root.state) != seal.content:
            raise Corrupt(f"the seal of epoch {seal.epoch} is another's", hint="run: snap fsck")
        return root

    async def _state(self, seal: SealRecord) -> bytes:
        if self._last[0] != seal.epoch:
            self._last = (seal.epoch, (await self.root(seal)).state)
        return self._last[1]

    # -- writing

    async def _write(self, record: SnapshotRecord | None, seal: SealRecord, delta: _Delta | None) -> None:
        """Body and root as the record is now, with the delta that was found (None: the one the seal has)."""
        base, state = (delta.base, delta.state) if delta else (seal.base, await self._state(seal))
        hashes = [part.hash for part in delta.parts] if delta else self._hashes(seal)
        volume = self._volumes.any_by_id(record.volume) if record is not None else None
        facts = volume.facts() if volume is not None else None
        with self._core.blocks.pinned():
            pieces = seals.cut(seals.encode_body(SealBody(record=record, volume=facts, parts=hashes)))
            body = await self._append(pieces, SEAL_PART)
            root = SealRoot(
                store=self._uuid, sequence=self._next_sequence(), epoch=seal.epoch, base=base,
                parent=seal.parent, parent_epoch=seal.parent_epoch, digest=seal.digest,
                content=seal.content, state=state, body=[draft.hash for draft in body],
            )  # fmt: skip
            last = await self._append([seals.encode_root(root)], SEAL_ROOT)
            self._publish(record, seal, root, delta, [*body, *last])
        self._last = (seal.epoch, state)

    def _hashes(self, seal: SealRecord) -> list[bytes]:
        return [self._core.blocks.entry(self._index, part).hash for part in seal.parts]

    def _next_sequence(self) -> int:
        sequence = int.from_bytes(self._index.get("meta", b"next_seal") or b"\1", "little")
        self._index.put("meta", b"next_seal", (sequence + 1).to_bytes(8, "little"))
        return sequence

    def _publish(
        self, record: SnapshotRecord | None, old: SealRecord, root: SealRoot, delta: _Delta | None, drafts: list[Draft]
    ) -> None:
        """In one step: the new blocks are taken, with their references, the seal is put, what it was is let go."""
        unchanged = self._snapshots.get(old.epoch) == record  # may fail; nothing may from here on
        blocks = self._core.blocks
        made = [blocks.take(draft) for draft in drafts]
        parts_made = [blocks.take(draft) for draft in delta.parts] if delta else old.parts
        seal = msgspec.structs.replace(
            old, base=root.base, sequence=root.sequence, gone=record is None,
            root=made[-1], body=made[:-1], parts=parts_made,
        )  # fmt: skip
        self._count(seal, old)
        self._index.put("seals", keys.u64(seal.epoch), seals.encode_record(seal))
        if unchanged:  # else it has changed meanwhile: once more
            self._index.delete("unsealed", keys.u64(seal.epoch))
        assert self._dependents is not None
        self._dependents.setdefault(seal.base, set()).add(seal.epoch)
        if old.base != seal.base:
            self._of(old.base).discard(seal.epoch)
            with contextlib.suppress(Corrupt):  # that seal is damaged: fsck's
                self._release_unused(old.base)

    def _count(self, seal: SealRecord | None, old: SealRecord) -> None:
        """References that the one has and the other had."""
        before = set(old.blocks()) if old.root else set()
        after = set(seal.blocks()) if seal else set()
        for block in sorted(after - before):
            self._core.blocks.adjust(block, +1)
        for block in sorted(before - after):
            with contextlib.suppress(Corrupt):  # a damaged seal must be replaceable; fsck counts references
                self._core.blocks.adjust(block, -1)

    def _release_unused(self, epoch: Epoch) -> None:
        """Let go of a seal that neither a snapshot nor another seal needs; and of those it was the last to need."""
        while epoch != ROOT and not self._of(epoch) and not self._exists(epoch):
            seal = self.get(epoch)
            if seal is None:
                return
            self._count(None, seal)
            self._index.delete("seals", keys.u64(epoch))
            if self._dependents is not None:
                self._dependents.pop(epoch, None)
            self._of(seal.base).discard(epoch)
            epoch = seal.base


_NO_BLOCK: Final = BlockId(0)
_SEALS_A_TURN: Final = 16
_BATCH: Final = 500
_RETRY_SECONDS: Final = 5.0
