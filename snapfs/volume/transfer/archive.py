"""A snapshot's tree as a POSIX tar archive (pax), made piece by piece.

Invariants:
  * Memory is bounded: a slice of names for each directory on the way down, READ_BYTES of a file, and a path for each
    file with further names that were not met yet.
  * What is read is of one snapshot, which cannot change; after every await it is looked whether it still exists.
  * Directories come before what is in them, and what is in one comes together: who unpacks can set a directory's
    attributes when it is left.

Times have nanoseconds, extended attributes are ``SCHILY.xattr.NAME`` (as GNU tar and libarchive have them), files with
large holes are GNU sparse files, format 1.0.  A tar archive has no sockets: if any are left out, the top directory
comes again at the end, with a comment that says so.
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import AsyncGenerator, Callable, Iterator
from itertools import islice
from typing import Final

import trio

from snapfs.errors import Corrupt, NotFound
from snapfs.format import keys, records
from snapfs.format.records import Inode
from snapfs.types import Ino
from snapfs.versions.epochs import View
from snapfs.volume.core import Core
from snapfs.volume.files import Files
from snapfs.volume.transfer import acl
from snapfs.volume.transfer.target import acl_of

PIECE_BYTES: Final = 256 * 1024
READ_BYTES: Final = 1024 * 1024
NAMES_MAX: Final = 512
"""Of a directory, listed at a time."""

HOLES_BYTES_MIN: Final = 128 * 1024
"""A file with fewer holes is written out: the map costs a block or more."""
SPARSE_STORED_BYTES_MAX: Final = 1 << 33
"""Python's tarfile cannot read the sparse file whose stored size does not fit into the header."""

_TYPES: Final = {
    stat.S_IFREG: tarfile.REGTYPE, stat.S_IFDIR: tarfile.DIRTYPE, stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE, stat.S_IFCHR: tarfile.CHRTYPE, stat.S_IFBLK: tarfile.BLKTYPE,
}  # fmt: skip
_NS: Final = 1_000_000_000
_CHUNK_EXTENTS: Final = 1024
_RECORD_BYTES: Final = 20 * tarfile.BLOCKSIZE


class _Level:
    """A directory on the way down."""

    __slots__ = ("after", "ended", "ino", "names", "path")

    def __init__(self, ino: Ino, path: str) -> None:
        self.ino = ino
        self.path = path
        self.names: list[tuple[bytes, Ino, int]] = []
        self.after = b""
        self.ended = False


class Archive:
    """One archive of one snapshot's tree."""

    def __init__(self, core: Core, files: Files, view: View, check_alive: Callable[[], None]) -> None:
        self._core = core
        self._files = files
        self._view = view
        self._check_alive = check_alive
        self._gathered = bytearray()
        self._written = 0
        self._first: dict[Ino, tuple[str, int]] = {}
        """Of files with several names: (where it is in the archive, names to come)."""
        self._sockets = 0

    async def pieces(self, root: Ino, names: list[bytes]) -> AsyncGenerator[bytes, None]:
        """The archive of what is at a path.

        Raises:
            NotFound; Stale; Corrupt.
        """
        top = self._inode(root)
        for name in names:
            found = self._files.find(self._view, top.ino, name) if stat.S_ISDIR(top.mode) else None
            if found is None:
                raise NotFound(f"the snapshot has no {os.fsdecode(b'/'.join(names))!a}")
            top = found
        levels: list[_Level] = []
        if stat.S_ISDIR(top.mode):
            self._add(self._header(top, "."))
            levels.append(_Level(top.ino, ""))
        else:
            async for piece in self._entry(top, os.fsdecode(names[-1])):
                yield piece
        while levels:
            level = levels[-1]
            if not level.names and not level.ended:
                self._list(level)
            if not level.names:
                levels.pop()
                continue
            name, ino, kind = level.names.pop()
            path = level.path + os.fsdecode(name)
            if kind == stat.S_IFDIR:
                self._add(self._header(self._inode(ino), path))
                levels.append(_Level(ino, path + "/"))
            else:
                async for piece in self._entry(self._inode(ino), path):
                    yield piece
            if len(self._gathered) >= PIECE_BYTES:
                yield self._take()
                await self._pause()
        self._end(top)
        yield self._take()

    async def _pause(self) -> None:
        await trio.lowlevel.checkpoint()
        self._check_alive()

    def _add(self, data: bytes | bytearray) -> None:
        self._gathered += data

    def _take(self) -> bytes:
        piece, self._gathered = bytes(self._gathered), bytearray()
        self._written += len(piece)
        return piece

    def _end(self, top: Inode) -> None:
        if self._sockets:
            told = f"{self._sockets} sockets were left out: a tar archive cannot hold them"
            self._core.events.warn(f"export: {told}")
            if stat.S_ISDIR(top.mode):
                self._add(self._header(top, ".", comment=told))
        self._add(bytes(2 * tarfile.BLOCKSIZE))
        self._add(bytes(-(self._written + len(self._gathered)) % _RECORD_BYTES))

    # -- names

    def _inode(self, ino: Ino) -> Inode:
        return self._files.getattr(self._view, ino)

    def _list(self, level: _Level) -> None:
        prefix = keys.head(level.ino, keys.DIRENT)
        found = list(islice(self._core.tree.scan(self._view, prefix, level.after), NAMES_MAX))
        level.names = [(keys.split_hashed(s)[1], *records.decode_dirent(payload)) for s, _, payload in reversed(found)]
        if found:  # the next name: no key of this one is greater
            level.after = found[-1][0][len(prefix) :] + b"\xff" * (keys.EPOCH_BYTES + 1)
        level.ended = len(found) < NAMES_MAX

    # -- one entry

    async def _entry(self, inode: Inode, path: str) -> AsyncGenerator[bytes, None]:
        """Anything but a directory."""
        if stat.S_ISSOCK(inode.mode):
            self._sockets += 1
            return
        if inode.nlink > 1:
            first = self._further(inode, path)
            if first:
                self._add(self._header(inode, path, link=first))
                return
        if not stat.S_ISREG(inode.mode):
            self._add(self._header(inode, path))
            return
        runs = [(0, inode.size)]
        lead = b""
        if inode.allocated_bytes + HOLES_BYTES_MIN <= inode.size and inode.allocated_bytes < SPARSE_STORED_BYTES_MAX:
            runs = await self._runs(inode)
            lead = _sparse_map(runs, inode.size)
        stored = len(lead) + sum([length for _, length in runs])
        self._add(self._header(inode, path, size=stored, sparse=bool(lead)) + lead)
        for start, length in runs:
            at = start
            while at < start + length:
                data = await self._files.read(self._view, inode.ino, at, min(READ_BYTES, start + length - at))
                if not data:
                    raise Corrupt(f"{path!a} is shorter than its attributes say")
                at += len(data)
                self._add(data)
                if len(self._gathered) >= PIECE_BYTES:
                    yield self._take()
                    await self._pause()
        self._add(bytes(-stored % tarfile.BLOCKSIZE))

    def _further(self, inode: Inode, path: str) -> str:
        """Where the file is in the archive already; empty if it is not."""
        first, left = self._first.get(inode.ino, ("", inode.nlink))
        left -= 1
        if left:
            self._first[inode.ino] = first or path, left
        else:
            self._first.pop(inode.ino, None)
        return first

    def _header(
        self, inode: Inode, path: str, *, size: int = 0, link: str = "", sparse: bool = False, comment: str = ""
    ) -> bytes:
        info = tarfile.TarInfo(path)
        kind = stat.S_IFMT(inode.mode)
        info.type = tarfile.LNKTYPE if link else _TYPES[kind]
        info.mode = stat.S_IMODE(inode.mode)
        info.uid, info.gid, info.size = inode.uid, inode.gid, size
        info.mtime = max(inode.mtime_ns // _NS, 0)
        pax = {"mtime": _seconds(inode.mtime_ns), "atime": _seconds(inode.atime_ns)}
        if link:
            info.linkname = link
        elif kind == stat.S_IFLNK:
            info.linkname = os.fsdecode(self._files.readlink(self._view, inode.ino))
        elif kind in (stat.S_IFCHR, stat.S_IFBLK):
            info.devmajor, info.devminor = os.major(inode.rdev), os.minor(inode.rdev)
        if comment:
            pax["comment"] = comment
        if not link:
            self._add_xattrs(inode, info, pax)
        if sparse:
            directory, _, name = path.rpartition("/")
            info.name = f"{directory}/GNUSparseFile.0/{name}".lstrip("/")
            pax |= {
                "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": path,
                "GNU.sparse.realsize": str(inode.size),
            }  # fmt: skip
        info.pax_headers = pax
        return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")

    def _add_xattrs(self, inode: Inode, info: tarfile.TarInfo, pax: dict[str, str]) -> None:
        for name in self._files.listxattr(self._view, inode.ino):
            if name == acl.ACCESS:
                mode, value = acl_of(self._files, self._view, inode.ino)
                if mode is None:
                    continue
                info.mode = stat.S_IMODE(mode)
            else:
                value = self._files.getxattr(self._view, inode.ino, name)
            pax[f"SCHILY.xattr.{os.fsdecode(name)}"] = os.fsdecode(value)

    # -- holes

    async def _runs(self, inode: Inode) -> list[tuple[int, int]]:
        """(offset, length) of what extents cover, those that touch made one."""
        runs: list[tuple[int, int]] = []
        at = 0
        while True:
            count = 0
            for offset, length in self._extents(inode, at):
                count += 1
                at = offset + 1
                length = min(length, inode.size - offset)
                if runs and sum(runs[-1]) == offset:
                    runs[-1] = runs[-1][0], runs[-1][1] + length
                elif length > 0:
                    runs.append((offset, length))
            if count < _CHUNK_EXTENTS:
                return runs
            await self._pause()

    def _extents(self, inode: Inode, at: int) -> Iterator[tuple[int, int]]:
        prefix = keys.extents(inode.ino, inode.fork)
        for subject, _, payload in islice(self._core.tree.scan(self._view, prefix, keys.u64(at)), _CHUNK_EXTENTS):
            yield keys.split_extent(subject)[1], records.decode_extent(payload)[0]


def _sparse_map(runs: list[tuple[int, int]], size: int) -> bytes:
    """What comes before the runs; the last one, of no bytes, says where the file ends."""
    numbers = [len(runs) + 1, *(number for run in (*runs, (size, 0)) for number in run)]
    text = "".join([f"{number}\n" for number in numbers]).encode()
    return text + bytes(-len(text) % tarfile.BLOCKSIZE)


def _seconds(time_ns: int) -> str:
    """Decimal, exact; the sign is that of the whole."""
    seconds, rest = divmod(abs(time_ns), _NS)
    sign = "-" if time_ns < 0 else ""
    return f"{sign}{seconds}.{rest:09d}".rstrip("0").rstrip(".")
