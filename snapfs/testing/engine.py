"""The engine as a subject of the oracle: each operation is one trio run on a lake that stays open between them."""

from __future__ import annotations

import pathlib
import stat
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import trio

from snapfs import api
from snapfs.format.records import SnapshotRecord
from snapfs.format.seals import content_digest
from snapfs.service import Service
from snapfs.store.disk import Disk
from snapfs.testing.sealing import elements, replayed
from snapfs.testing.trees import DIRECTORY, FIFO, FILE, SYMLINK, Path, Shown, Tree
from snapfs.types import Epoch, Ino
from snapfs.versions.epochs import View
from snapfs.versions.lthash import LtHash
from snapfs.volume.lake import Lake
from snapfs.volume.limits import DEFAULT, Limits, Pace

T = TypeVar("T")

KINDS: Final = {
    stat.S_IFREG: FILE, stat.S_IFDIR: DIRECTORY, stat.S_IFLNK: SYMLINK, stat.S_IFIFO: FIFO
}  # fmt: skip
_MODES: Final = {FILE: stat.S_IFREG, FIFO: stat.S_IFIFO}


def nothing_open(_: Ino) -> bool:
    return False


def text(path: Path) -> str:
    """As the service takes paths."""
    return b"/".join(path).decode(errors="surrogateescape")


class EngineSubject:
    xattrs = True

    def __init__(
        self, path: pathlib.Path, disk: Disk | None = None, limits: Limits = DEFAULT, *, trash_hours: float = 0.0
    ) -> None:  # fmt: skip
        self.path = path
        self.trash_hours = trash_hours
        """0, not the default: what is deleted goes at once."""
        self.limits = limits
        """Count from the next ``reopen`` or ``crash`` on."""
        self._disk = disk
        if not path.exists():
            Lake.create(path)
        self._open()

    def _open(self) -> None:
        self.lake = Lake.open(self.path, disk=self._disk, limits=self.limits)
        self.lake.trash.follow(Pace(trash_hours=self.trash_hours))
        self.service = Service(self.lake)

    def run(self, function: Callable[[], Awaitable[T]]) -> T:
        return trio.run(function)

    def _head(self, volume: str) -> tuple[View, Ino]:
        found = self.lake.volumes.get(volume)
        return found.head, found.root

    def _resolve(self, volume: str, path: Path) -> tuple[View, Ino]:
        view, ino = self._head(volume)
        for name in path:
            ino = self.lake.files.lookup(view, ino, name).ino
        return view, ino

    # -- files

    def make(self, volume: str, path: Path, kind: str, mode: int, target: bytes = b"") -> None:
        view, parent = self._resolve(volume, path[:-1])
        files, name = self.lake.files, path[-1]
        if kind == DIRECTORY:
            files.mkdir(view, parent, name, mode=mode, uid=0, gid=0)
        elif kind == SYMLINK:
            files.symlink(view, parent, name, target, uid=0, gid=0)
        else:
            files.mknod(view, parent, name, mode=_MODES[kind] | mode, uid=0, gid=0)

    def link(self, volume: str, path: Path, new: Path) -> None:
        view, ino = self._resolve(volume, path)
        if stat.S_ISDIR(self.lake.files.getattr(view, ino).mode):
            parent = ino  # refused for this, wherever the link should be
        else:
            _, parent = self._resolve(volume, new[:-1])
        self.lake.files.link(view, ino, parent, new[-1])

    def unlink(self, volume: str, path: Path) -> None:
        view, parent = self._resolve(volume, path[:-1])
        self.lake.files.unlink(view, parent, path[-1], is_open=nothing_open)

    def rmdir(self, volume: str, path: Path) -> None:
        view, parent = self._resolve(volume, path[:-1])
        self.lake.files.rmdir(view, parent, path[-1])

    def rename(self, volume: str, path: Path, new: Path, *, noreplace: bool, exchange: bool) -> None:
        view, parent = self._resolve(volume, path[:-1])
        self.lake.files.lookup(view, parent, path[-1])
        _, goal = self._resolve(volume, new[:-1])
        self.lake.files.rename(
            view, parent, path[-1], goal, new[-1], noreplace=noreplace, exchange=exchange, is_open=nothing_open
        )

    def write(self, volume: str, path: Path, offset: int, data: bytes) -> None:
        view, ino = self._resolve(volume, path)
        self.run(lambda: self.lake.files.write(view, ino, offset, data))

    def truncate(self, volume: str, path: Path, size: int) -> None:
        self.lake.files.setattr(*self._resolve(volume, path), size=size)

    def set_mtime(self, volume: str, path: Path, mtime_ns: int) -> None:
        self.lake.files.setattr(*self._resolve(volume, path), mtime_ns=mtime_ns)

    def chmod(self, volume: str, path: Path, mode: int) -> None:
        self.lake.files.setattr(*self._resolve(volume, path), mode=mode)

    def setxattr(self, volume: str, path: Path, name: bytes, value: bytes, *, create: bool, replace: bool) -> None:
        self.lake.files.setxattr(*self._resolve(volume, path), name, value, create=create, replace=replace)

    def removexattr(self, volume: str, path: Path, name: bytes) -> None:
        self.lake.files.removexattr(*self._resolve(volume, path), name)

    # -- versions

    def create_volume(self, name: str) -> None:
        self.run(lambda: self.service.create_volume(name=name))

    def remove_volume(self, name: str, *, snapshots: bool) -> None:
        self.run(lambda: self.service.delete_volume(name=name, force=snapshots))

    def snapshot(self, volume: str, name: str) -> None:
        self.run(lambda: self.service.create_snapshot(volume=volume, name=name))

    def remove_snapshot(self, volume: str, name: str) -> None:
        self.run(lambda: self.service.delete_snapshot(volume=volume, snapshot=name))

    def rename_snapshot(self, volume: str, name: str, new: str) -> None:
        self.run(lambda: self.service.rename_snapshot(volume=volume, snapshot=name, name=new))

    def tag(self, volume: str, name: str, tag: str, *, move: bool) -> None:
        self.run(lambda: self.service.tag_snapshot(volume=volume, snapshot=name, tag=tag, move=move))

    def remove_tag(self, volume: str, tag: str) -> None:
        self.run(lambda: self.service.delete_tag(volume=volume, tag=tag))

    def listed(self, volume: str) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        token = ""
        while True:
            page = self.list_page(volume, token)
            found |= {snapshot.name: snapshot.tags for snapshot in page.snapshots}
            token = page.next_page_token
            if not token:
                return found

    def list_page(self, volume: str, token: str) -> api.SnapshotPage:
        """Small pages, so that there are several."""
        return self.run(lambda: self.service.list_snapshots(volume=volume, page_size=2, page_token=token))

    def clone(self, volume: str, name: str, new: str) -> None:
        self.run(lambda: self.service.clone(volume=volume, snapshot=name, name=new))

    def restore(self, volume: str, name: str, path: Path) -> None:
        self.run(lambda: self.service.restore(volume=volume, snapshot=name, paths=[text(path)]))

    def checkout(self, volume: str, name: str, unsaved: api.Save) -> str:
        done = self.run(lambda: self.service.checkout(volume=volume, snapshot=name, unsaved=unsaved))
        return done.saved.name if done.saved else ""

    def status(self, volume: str) -> list[api.Change]:
        async def collect() -> list[api.Change]:
            return [change async for change in self.service.status(volume=volume)]

        return self.run(collect)

    def diff(self, volume: str, snapshot: str, other: str) -> list[api.Change]:
        async def collect() -> list[api.Change]:
            return [change async for change in self.service.diff(volume=volume, snapshot=snapshot, other=other)]

        return self.run(collect)

    # -- looking

    def tree(self, volume: str, snapshot: str = "") -> Tree:
        view, root = self._head(volume)
        if snapshot:
            record = self.lake.snapshots.resolve(self.lake.volumes.get(volume), snapshot)
            view, root = self.lake.snapshots.view(record), record.root
        return self.run(lambda: read_tree(self.lake, view, root))

    def flush(self) -> None:
        self.run(self.lake.sync)

    def reclaim(self) -> None:
        async def reclaim() -> None:
            await self.lake.sync()
            await self.lake.settle()

        self.run(reclaim)

    def compact(self) -> None:
        """Reclaim, and copy what is left of segments that hold dead bytes."""

        async def compact() -> None:
            await self.lake.sync()
            await self.lake.settle()
            await self.lake.compact()

        self.run(compact)

    def seal(self) -> None:
        self.run(self.lake.seal_all)

    def seals(self) -> dict[Epoch, tuple[bytes, bytes]]:
        """(digest, content) of each snapshot that is sealed."""
        sealed = filter(None, (self.lake.sealer.get(record.epoch) for record in self.records()))
        return {seal.epoch: (seal.digest, seal.content) for seal in sealed}

    def check_seals(self) -> None:
        """Each seal's content, and what it lists, are what the snapshot shows."""
        for record in self.records():
            seal = self.lake.sealer.get(record.epoch)
            if seal is not None:
                shown = elements(self.lake.index, self.lake.snapshots.view(record))
                content = LtHash()
                for element in shown:
                    content.add(element)
                assert content_digest(content.state()) == seal.content, f"{record.name}: sealed with other content"
                assert replayed(self.lake, seal) == set(shown), f"{record.name}: its seal lists something else"

    def records(self) -> list[SnapshotRecord]:
        return [record for volume in self.lake.volumes.all() for record in self.lake.snapshots.all(volume)]

    def reopen(self) -> None:
        self.flush()
        self.crash()

    def crash(self) -> None:
        """Leave without a last sync, as a process that dies does."""
        self.lake.close()
        self._open()

    def fsck(self) -> list[str]:
        report = self.run(self.service.check_store)
        return [f"{finding.code}: {finding.message}" for finding in report.findings]

    def stored_bytes(self) -> int:
        space = self.lake.core.blocks.space
        return space.stored_bytes + space.seal_bytes

    def close(self) -> None:
        self.lake.close()


async def read_tree(lake: Lake, view: View, root: Ino) -> Tree:
    """All that a view shows; link counts are checked on the way."""
    files = lake.files
    inos: dict[Path, Ino] = {(): root}
    paths: dict[Ino, list[Path]] = {root: [()]}
    stack: list[Path] = [()]
    while stack:
        path = stack.pop()
        for _, name, ino, type_bits in list(files.readdir(view, inos[path], 0)):
            inos[*path, name] = ino
            paths.setdefault(ino, []).append((*path, name))
            assert files.lookup(view, inos[path], name).ino == ino
            if type_bits == stat.S_IFDIR:
                stack.append((*path, name))
                assert files.parent_of(view, ino) == inos[path]
    tree = {}
    for path, ino in inos.items():
        inode = files.getattr(view, ino)
        kind = KINDS[stat.S_IFMT(inode.mode)]
        content = b""
        if kind == FILE:
            content = bytes(await files.read(view, ino, 0, inode.size + 1))
            assert len(content) == inode.size
        elif kind == SYMLINK:
            content = files.readlink(view, ino)
        xattrs = sorted((name, files.getxattr(view, ino, name)) for name in files.listxattr(view, ino))
        if kind == DIRECTORY:
            subdirectories = sum(1 for _, _, _, mode in files.readdir(view, ino, 0) if mode == stat.S_IFDIR)
            assert inode.nlink == 2 + subdirectories
        else:
            assert inode.nlink == len(paths[ino])
        tree[path] = Shown(
            kind=kind,
            mode=stat.S_IMODE(inode.mode),
            mtime_ns=0 if kind == DIRECTORY else inode.mtime_ns,
            content=content,
            xattrs=tuple(xattrs),
            links=tuple(sorted(paths[ino])),
        )
    return tree
