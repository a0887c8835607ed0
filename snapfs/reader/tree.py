"""A snapshot's tree: from paths to inodes, from inodes to where their bytes are.

Invariants:
  * Everything here happens inside one look, which has first seen that the snapshot is still there.
  * A snapshot never changes, so what was once found out (inodes of paths, extents) holds as long as it exists.
    Only places of blocks may change: they are hints, until a hash has confirmed them.
  * The view's path may name epochs that have left the tree since: no version is stamped with them any more.
"""

from __future__ import annotations

import os
import stat
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Final, Generic, NamedTuple, TypeVar

from snapfs.errors import Corrupt, Invalid, NotADirectory, NotFound, Stale
from snapfs.extents import HOLE, Extent, plan_read
from snapfs.format import keys, records
from snapfs.format.records import Block, Inode, SnapshotRecord, VolumeRecord
from snapfs.reader.place import Moment, Place
from snapfs.store.reading import Reader, items
from snapfs.types import BLOCK_BYTES_MAX, NAME_BYTES_MAX, BlockId, Epoch, Ino
from snapfs.versions.epochs import ROOT, Chain, Path, View
from snapfs.versions.keyspace import Snapshotted
from snapfs.volume.finding import Finding
from snapfs.volume.suggest import nearest

WINDOW_BYTES: Final = 16 * 1024 * 1024
"""Extents are looked up, and remembered, for so much of a file at a time."""

INODES_MAX: Final = 65_536
EXTENTS_MAX: Final = 131_072
"""Remembered of one snapshot: a small file with its path takes about 1 KB, so 64 MB at most."""

LISTED_A_LOOK: Final = 2000
"""Entries of a directory in one look (some milliseconds)."""

SYMLINKS_MAX: Final = 40
"""Followed on the way to one file: Linux's limit."""

T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")


class Layout(NamedTuple):
    """Where a part of a file is: from ``window`` times WINDOW_BYTES on."""

    extents: list[Extent]
    blocks: dict[BlockId, Block]


class Step(NamedTuple):
    """A directory on the way to a file."""

    ino: Ino
    kind: int
    """S_IFMT bits."""


class Known(Generic[K, V]):
    """What was found out, the oldest forgotten first.  Changed in a look only."""

    def __init__(self, weight_max: int, weight: Callable[[V], int] = lambda _: 1) -> None:
        self._found: OrderedDict[K, V] = OrderedDict()
        self._weight = 0
        self._weight_max = weight_max
        self._weigh = weight
        self.get = self._found.get

    def put(self, key: K, value: V) -> None:
        self.forget(key)
        self._found[key] = value
        self._weight += self._weigh(value)
        while self._weight > self._weight_max and len(self._found) > 1:
            self._weight -= self._weigh(self._found.popitem(last=False)[1])

    def forget(self, key: K) -> None:
        old = self._found.pop(key, None)
        if old is not None:
            self._weight -= self._weigh(old)


def _weight(layout: Layout) -> int:
    return len(layout.extents) + 1


class Tree:
    """
    Attributes:
        record: of the snapshot, as it was when somebody looked last.
        volume: of its volume, likewise.
    """

    def __init__(self, place: Place, find: Callable[[Reader], SnapshotRecord]) -> None:
        """
        Args:
            find: the snapshot.

        Raises:
            NotFound, Invalid: as ``find``.
        """
        self.place = place
        self._seed = place.seed
        self._inodes: Known[bytes, Inode] = Known(INODES_MAX)
        self._steps: Known[tuple[Ino, bytes], Step] = Known(INODES_MAX)
        self._layouts: Known[tuple[Ino, int], Layout] = Known(EXTENTS_MAX, _weight)
        self._moment: Moment = (-1, -1)
        self._payloads: tuple[bytes | None, bytes | None] = None, None

        def begin(reader: Reader, moment: Moment) -> None:
            self.record = find(reader)
            self._check(reader, moment)

        place.look(begin)

    def look(self, act: Callable[[Reader], T]) -> T:
        """What ``act`` makes of the snapshot.

        Raises:
            Stale: it was deleted.
            Corrupt, IOFailure, ...: as ``Place.look``.
        """

        def checked(reader: Reader, moment: Moment) -> T:
            if moment != self._moment:
                self._check(reader, moment)
            return act(reader)

        return self.place.look(checked)

    def _check(self, reader: Reader, moment: Moment) -> None:
        """The commit is another one: the snapshot must still be there."""
        epoch = self.record.epoch
        found = reader.get("snapshots", keys.u64(epoch)), reader.get("volumes", keys.u64(self.record.volume))
        if found != self._payloads:
            record = records.decode_snapshot(found[0]) if found[0] else None
            volume = records.decode_volume(found[1]) if found[1] else None
            if record is None or volume is None or record.deleted_ns or volume.deleted_ns:
                self._moment = (-1, -1)
                raise Stale(f"snapshot {self.record.name!r} was deleted")
            self.record, self.volume = record, volume
            self._payloads = found
        if moment[0] != self._moment[0]:
            self.view = View(self.record.volume, path_of(reader, epoch), writable=False)
        self._moment = moment

    @property
    def address(self) -> str:
        return f"{self.volume.name}@{self.record.name}"

    # -- paths

    def inode(self, reader: Reader, path: bytes, *, follow: bool = True) -> Inode:
        """Of what the path leads to, from the snapshot's root on.

        Raises:
            NotFound, NotADirectory.
            Invalid: symbolic links that go round in a circle, or out of the snapshot.
        """
        found = self._inodes.get(path) if follow else None
        if found is None:
            tree = Snapshotted(reader)
            ino = self._walk(tree, path, follow=follow)
            payload = tree.get(self.view, keys.inode(ino))
            if payload is None:
                raise Corrupt(f"inode {ino} is missing")
            found = records.decode_inode(ino, payload)
            if follow:
                self._inodes.put(path, found)
        return found

    def _walk(self, tree: Snapshotted, path: bytes, *, follow: bool) -> Ino:
        trail = [Step(self.record.root, stat.S_IFDIR)]
        todo = path.split(b"/")[::-1]
        links = 0
        while todo:
            name = todo.pop()
            here = trail[-1]
            if name in (b"", b"."):
                if here.kind != stat.S_IFDIR:
                    raise NotADirectory("not a directory")
                continue
            if name == b"..":
                if len(trail) == 1:
                    raise Invalid("the path leads out of the snapshot")
                trail.pop()
                continue
            step = self._child(tree, here, name)
            if step.kind == stat.S_IFLNK and (todo or follow):
                links += 1
                target = tree.get(self.view, keys.symlink(step.ino)) or b""
                if links > SYMLINKS_MAX:
                    raise Invalid("too many symbolic links")
                if target.startswith(b"/") or not target:
                    raise Invalid("a symbolic link leads out of the snapshot")
                todo += target.split(b"/")[::-1]
            else:
                trail.append(step)
        return trail[-1].ino

    def _child(self, tree: Snapshotted, parent: Step, name: bytes) -> Step:
        step = self._steps.get((parent.ino, name))
        if step is None:
            if parent.kind != stat.S_IFDIR:
                raise NotADirectory("not a directory")
            payload = tree.get(self.view, keys.dirent(parent.ino, name, self._seed)) if _is_name(name) else None
            if payload is None:
                raise NotFound("no such file or directory")
            step = Step(*records.decode_dirent(payload))
            if step.kind == stat.S_IFDIR:  # others are remembered by their paths
                self._steps.put((parent.ino, name), step)
        return step

    def target(self, reader: Reader, path: bytes) -> bytes:
        """Of a symbolic link.

        Raises:
            Invalid: it is none.
        """
        inode = self.inode(reader, path, follow=False)
        target = Snapshotted(reader).get(self.view, keys.symlink(inode.ino))
        if target is None or not stat.S_ISLNK(inode.mode):
            raise Invalid("not a symbolic link")
        return target

    def entries(self, path: bytes) -> Iterator[tuple[bytes, Ino, int]]:
        """(name, inode, S_IFMT bits) of a directory's entries, in several looks.

        Raises:
            NotFound, NotADirectory, Stale.
        """
        rest: bytes | None = b""
        while rest is not None:
            part, rest = self.look(lambda reader, start=rest: self._some(reader, path, start))  # type: ignore[misc]
            yield from part

    def _some(self, reader: Reader, path: bytes, start: bytes) -> tuple[list[tuple[bytes, Ino, int]], bytes | None]:
        inode = self.inode(reader, path)
        if not stat.S_ISDIR(inode.mode):
            raise NotADirectory("not a directory")
        prefix = keys.head(inode.ino, keys.DIRENT)
        versions, rest = Snapshotted(reader).scan_some(self.view, prefix, start, LISTED_A_LOOK)
        found = [
            (keys.split_hashed(subject)[1], *records.decode_dirent(payload)) for subject, _, payload in versions
        ]  # fmt: skip
        return found, rest

    # -- bytes

    def layout(self, reader: Reader, inode: Inode, window: int) -> Layout:
        """Extents of the file in a window, and where their blocks are."""
        key = inode.ino, window
        layout = self._layouts.get(key)
        if layout is None:
            layout = self._look_up(reader, inode, window * WINDOW_BYTES)
            self._layouts.put(key, layout)
        return layout

    def _look_up(self, reader: Reader, inode: Inode, start: int) -> Layout:
        prefix = keys.extents(inode.ino, inode.fork)
        first, stop = keys.u64(max(0, start - BLOCK_BYTES_MAX + 1)), keys.u64(start + WINDOW_BYTES)
        extents: list[Extent] = []
        blocks: dict[BlockId, Block] = {}
        for subject, _, payload in Snapshotted(reader).scan(self.view, prefix, first, stop):
            extent = Extent(keys.split_extent(subject)[1], *records.decode_extent(payload))
            if extent.end > start:
                extents.append(extent)
                if extent.block not in blocks:
                    found = reader.get("blocks", keys.u64(extent.block))
                    if found is None:
                        raise Corrupt(f"block {extent.block} is not in the index")
                    blocks[extent.block] = records.decode_block(found)
        return Layout(extents, blocks)

    def pieces(self, reader: Reader, inode: Inode, offset: int, size: int) -> list[tuple[Extent, Block | None]]:
        """What [offset, offset + size) consists of, in order; None: a hole."""
        if offset == 0 and size <= WINDOW_BYTES:
            layout = self.layout(reader, inode, 0)
            if len(layout.extents) == 1 and layout.extents[0][:2] == (0, size):  # as most small files are
                return [(layout.extents[0], layout.blocks[layout.extents[0].block])]
        found: list[tuple[Extent, Block | None]] = []
        end = offset + size
        for window in range(offset // WINDOW_BYTES, (end - 1) // WINDOW_BYTES + 1):
            start = max(offset, window * WINDOW_BYTES)
            stop = min(end, (window + 1) * WINDOW_BYTES)
            extents, blocks = self.layout(reader, inode, window)
            for piece in plan_read(_near(extents, start, stop), start, stop - start):
                found.append((piece, None if piece.block == HOLE else blocks[piece.block]))
        return found

    def forget(self, inode: Inode, offset: int, size: int) -> None:
        """In a look: blocks of the file are not where they were, so they are looked up again."""
        for window in range(offset // WINDOW_BYTES, (offset + size - 1) // WINDOW_BYTES + 1):
            self._layouts.forget((inode.ino, window))


def _near(extents: list[Extent], start: int, stop: int) -> list[Extent]:
    """Those that may overlap [start, stop), found by halving: a window may have thousands."""
    low, high = 0, len(extents)
    if high < _FEW:
        return extents
    while low < high:
        middle = (low + high) // 2
        if extents[middle].end <= start:
            low = middle + 1
        else:
            high = middle
    first = low
    high = len(extents)
    while low < high:
        middle = (low + high) // 2
        if extents[middle].offset < stop:
            low = middle + 1
        else:
            high = middle
    return extents[first:low]


_FEW: Final = 16


def _is_name(name: bytes) -> bool:
    return len(name) <= NAME_BYTES_MAX and b"\0" not in name


def path_of(reader: Reader, epoch: Epoch) -> Path:
    """The epochs that a view of this one sees.

    Raises:
        Corrupt: one of them is missing, or not older than its child.
    """
    found = [epoch]
    while True:
        payload = reader.get("epochs", keys.u64(found[-1]))
        if payload is None:
            raise Corrupt(f"epoch {found[-1]} is missing")
        parent = records.decode_epoch(payload)[0]
        if parent == ROOT:
            return Path(Chain(found[::-1]), epoch)
        if parent >= found[-1]:
            raise Corrupt(f"epoch {found[-1]} descends from {parent}, which is not older")
        found.append(parent)


def find_snapshot(reader: Reader, address: str) -> SnapshotRecord:
    """The snapshot that ``volume@name`` names: by name, tag, commit ID or unique prefix of one.

    Raises:
        NotFound: no such volume or snapshot; the hint names near ones.
        Invalid: no address of a snapshot, or the prefix fits several commits.
    """
    name, sign, ref = address.partition("@")
    if not sign or not name or not ref:
        raise Invalid(f"{address!a} names no snapshot", hint="write VOLUME@SNAPSHOT: digits@v1")
    volumes = {volume.name: volume for volume in volumes_of(reader)}
    if name not in volumes:
        raise NotFound(f"volume {name!r} does not exist", hint=nearest(name, volumes, "volumes"))
    return Finding(reader).resolve(volumes[name], ref)


def volumes_of(reader: Reader) -> list[VolumeRecord]:
    """Those that are not in the trash."""
    found = [records.decode_volume(payload) for _, payload in items(reader, "volumes")]
    return [volume for volume in found if not volume.deleted_ns]


def as_bytes(path: str | os.PathLike[str]) -> bytes:
    return os.fsencode(path).lstrip(b"/")
