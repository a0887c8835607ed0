"""Proof of a snapshot: all that it shows, read and hashed anew, against what it was sealed with.

It reads a consistent state (an LMDB reader) beside a busy file system, and changes nothing.  Each block is read once,
however many files name it.  Memory does not grow with the snapshot, but for two bits an inode and a block; only when
something differs are the seals' lists gathered, to tell which files.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from typing import Final

import trio

from snapfs import api
from snapfs.api import Finding
from snapfs.errors import Corrupt, SnapfsError, Stale
from snapfs.format import keys, records, seals
from snapfs.format.records import Block, SnapshotRecord
from snapfs.format.seals import SealRecord
from snapfs.store.index import Reader
from snapfs.store.segments import _File
from snapfs.types import BlockId, Ino
from snapfs.versions.epochs import View
from snapfs.versions.lthash import LtHash
from snapfs.volume.compare import Side, detached
from snapfs.volume.describe import Describe
from snapfs.volume.lake import Lake
from snapfs.volume.seals.content import Elements
from snapfs.volume.seals.differing import Differing, shown_path
from snapfs.volume.seals.moment import Pace
from snapfs.volume.volumes import Volume

FINDINGS_MAX: Final = 1000

_READ_BLOCKS: Final = 64
"""Blocks read by one call of a worker thread (16 MiB at most)."""
_PROGRESS_SECONDS: Final = 0.1

Progress = Callable[[int, int], None]
"""Is told (bytes of files done, bytes in all)."""


async def verify(lake: Lake, record: SnapshotRecord, progress: Progress | None = None) -> api.VerifyReport:
    """Prove that a snapshot shows what it was sealed with; one that is not sealed yet is sealed first.

    Raises:
        Stale: it was removed meanwhile.
        NoSpace, IOFailure: it could not be sealed.
    """
    if lake.sealer.get(record.epoch) is None:
        await lake.seal_all()
    await lake.commit()
    # From here to the view no await: the reader's state and the path must be of one moment.
    lake.index.commit()
    current, volume = lake.snapshots.alive(record.epoch), lake.volumes.by_id(record.volume)
    if current is None or volume is None:
        raise Stale(f"snapshot {record.name!r} was removed meanwhile")
    view = detached(lake.snapshots.view(current))
    with lake.index.reader() as reader:
        proof = _Proof(lake, reader, current, view)
        await proof.run(progress or _nobody)
        return proof.report(volume)


def _nobody(done: int, total: int) -> None:
    """Wants to know."""


class _Set:
    """Numbers, a bit each."""

    def __init__(self) -> None:
        self._bits = bytearray()

    def add(self, number: int) -> bool:
        """Whether it was not there."""
        place, bit = number >> 3, 1 << (number & 7)
        if place >= len(self._bits):
            self._bits.extend(bytes(place + 1 - len(self._bits) + len(self._bits) // 8))
        new = not self._bits[place] & bit
        self._bits[place] |= bit
        return new


class _Proof:
    def __init__(self, lake: Lake, reader: Reader, record: SnapshotRecord, view: View) -> None:
        self._lake = lake
        self._reader = reader
        self._record = record
        self._view = view
        self._elements = Elements(reader)
        self._side = Side(lake.core, self._elements.tree, view, record.root)
        self._seal: SealRecord | None = None
        self._pace = Pace()
        self._content = LtHash()
        self._inodes = _Set()
        self._blocks = _Set()
        self._unread: list[tuple[BlockId, Ino]] = []
        self._findings: list[Finding] = []
        self._files = 0
        self._data_read_bytes = 0
        self._done_bytes = 0
        self._told = 0.0
        self._chained = False

    def report(self, volume: Volume) -> api.VerifyReport:
        describe = Describe(self._lake.core, self._lake.volumes, self._lake.snapshots)
        return api.VerifyReport(
            snapshot=describe.snapshot(volume, self._record),
            digest=self._seal.digest.hex() if self._seal else "",
            findings=self._findings,
            files=self._files,
            data_read_bytes=self._data_read_bytes,
            chained=self._chained,
        )

    def _found(self, code: str, message: str) -> None:
        if len(self._findings) < FINDINGS_MAX:
            self._findings.append(Finding(code=code, message=message))

    async def run(self, progress: Progress) -> None:
        payload = self._reader.get("seals", keys.u64(self._record.epoch))
        if payload is None:
            self._found("unsealed", "the snapshot could not be sealed: its records are damaged; run: snap fsck")
        else:
            self._seal = seals.decode_record(payload)
        await self._walk(progress)
        if self._seal is not None:
            self._check_digest(self._seal)
            await self._check_blocks(self._seal)
            if seals.content_digest(self._content.state()) != self._seal.content:
                await self._tell_files(self._seal)
        progress(self._record.used_bytes, self._record.used_bytes)

    # -- the tree

    async def _walk(self, progress: Progress) -> None:
        self._inodes.add(self._record.root)
        stack = [self._record.root, *filter(self._inodes.add, self._record.orphans)]
        while stack:
            await self._take(stack.pop(), stack, progress)
        await self._read(progress)

    async def _take(self, ino: Ino, later: list[Ino], progress: Progress, *, inside: bool = False) -> None:
        """Take an inode into account, and all files in it; its directories are left to the caller, and all that a
        made-up store has inside a file (``inside``: of a directory)."""
        try:
            for entry in self._inode(ino):
                if entry is not None and (inside or stat.S_ISDIR(entry[1])):
                    later.append(entry[0])
                elif entry is not None:
                    await self._take(entry[0], later, progress, inside=True)
                if len(self._unread) >= _READ_BLOCKS:
                    await self._read(progress)
                elif self._pace.due:
                    await self._pace.rest()
        except Corrupt as error:
            self._found("record", f"{self._path(ino)}: {error.message}")

    def _inode(self, ino: Ino) -> Iterator[tuple[Ino, int] | None]:
        """Take an inode's own records into account.  Yields (inode, S_IFMT bits) of its entries that were not met yet,
        and None between other records."""
        inode = self._elements.inode(self._view, ino)
        if inode is None:
            self._found("inode", f"an entry leads to inode {ino}, which does not exist")
            return
        for subject, payload in self._elements.of_inode(self._view, inode):
            self._content.add(self._elements.entry(subject, payload))
            kind = subject[_KIND_AT]
            if kind == keys.DIRENT:
                child, mode = records.decode_dirent(payload)
                if self._inodes.add(child):
                    yield child, mode
            elif kind == keys.EXTENT:
                block = records.decode_extent(payload)[1]
                if self._blocks.add(block):
                    self._unread.append((block, ino))
            yield None
        self._files += stat.S_ISREG(inode.mode)
        self._done_bytes += inode.allocated_bytes

    async def _read(self, progress: Progress) -> None:
        """Read what was gathered, and check it."""
        blocks, segments = self._lake.core.blocks, self._lake.core.blocks.segments
        unread, self._unread = self._unread, []
        work: list[tuple[BlockId, Ino, Block]] = []
        for block, ino in unread:
            try:
                work.append((block, ino, blocks.entry(self._reader, block)))
            except SnapfsError as error:
                self._found("data", f"{self._path(ino)}: {error.message}")
        files: list[_File | None] = []
        for _, _, entry in work:
            try:
                files.append(segments.open(entry.segment))
            except SnapfsError:
                files.append(None)

        def read() -> list[tuple[Ino, str]]:
            bad = []
            for (block, ino, entry), file in zip(work, files, strict=True):
                try:
                    if file is None:
                        bad.append((ino, f"segment {entry.segment} cannot be opened"))
                    else:
                        blocks.fetch(block, file, entry)
                except SnapfsError as error:
                    bad.append((ino, error.message))
            return bad

        for ino, message in await trio.to_thread.run_sync(read):
            self._found("data", f"{self._path(ino)}: {message}")
        self._data_read_bytes += sum(entry.stored_bytes for _, _, entry in work)
        if trio.current_time() - self._told > _PROGRESS_SECONDS:
            self._told = trio.current_time()
            progress(min(self._done_bytes, self._record.used_bytes), self._record.used_bytes)

    def _path(self, ino: Ino) -> str:
        return shown_path(self._side, ino) or f"inode {ino}"

    # -- the seal

    def _check_digest(self, seal: SealRecord) -> None:
        if seals.seal_digest(seal.parent, seal.content, self._record) != seal.digest:
            self._found("digest", "the snapshot's record (time, message, metadata or commit) is not what was sealed")
        parent = self._lake.sealer.get(seal.parent_epoch)
        if parent is None:
            return
        if parent.digest != seal.parent:
            self._found("chain", f"its parent (epoch {seal.parent_epoch}) has another digest than it was sealed with")
        self._chained = self._lake.snapshots.get(seal.parent_epoch) is not None

    async def _check_blocks(self, seal: SealRecord) -> None:
        """What lies in the segments is what the index says."""
        sealer = self._lake.sealer
        try:
            root, body = await sealer.root(seal), await sealer.body(seal)
            if (root.base, root.digest, root.parent) != (seal.base, seal.digest, seal.parent):
                self._found("seal", "its seal in the segments is another one than in the index")
            if body.parts != [self._lake.core.blocks.entry(self._reader, part).hash for part in seal.parts]:
                self._found("seal", "its seal in the segments lists other parts than in the index")
            if body.record is None or seals.seal_digest(seal.parent, seal.content, body.record) != seal.digest:
                self._found("seal", "its seal in the segments has another record than what was sealed")
            for part in seal.parts:
                await sealer.fetch(part)
        except Corrupt as error:
            self._found("seal", f"its seal in the segments is damaged: {error.message}")

    async def _tell_files(self, seal: SealRecord) -> None:
        before = len(self._findings)
        differing = Differing(self._lake.sealer, self._elements, self._view, self._side, seal)
        try:
            async for message in differing.find():
                self._found("content", message)
        except Corrupt as error:
            self._found("content", f"which files differ cannot be told: {error.message}")
        if len(self._findings) == before:
            self._found("content", "the snapshot shows something else than what was sealed")


_KIND_AT: Final = 8
