"""A real mount as a subject of the oracle: files by system calls, versions through the daemon's API."""

from __future__ import annotations

import ctypes
import errno
import os
import pathlib
import stat
import time
from collections.abc import Callable
from typing import Final

from snapfs import api
from snapfs.client import Client
from snapfs.testing.engine import KINDS, text
from snapfs.testing.trees import DIRECTORY, FIFO, FILE, SYMLINK, Path, Shown, Tree

_NOREPLACE: Final = 1
_EXCHANGE: Final = 2
_AT_FDCWD: Final = -100
_SECONDS_MAX: Final = 20.0

_libc = ctypes.CDLL(None, use_errno=True)


def rename_with_flags(path: bytes, new: bytes, flags: int) -> None:
    """renameat2(2)."""
    if _libc.renameat2(_AT_FDCWD, path, _AT_FDCWD, new, flags) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


class MountSubject:
    """A mounted store.

    Args:
        root: the mount point.
        connect: makes a connection to the daemon.
        remount: unmounts and mounts again.
        xattrs: the mount has them.
    """

    def __init__(
        self, root: pathlib.Path, connect: Callable[[], Client], remount: Callable[[], None], *, xattrs: bool
    ) -> None:
        self._root = os.fsencode(root)
        self._connect = connect
        self._remount = remount
        self.xattrs = xattrs

    def _path(self, volume: str, path: Path, snapshot: str = "") -> bytes:
        inside = [b".snap", snapshot.encode()] if snapshot else []
        return b"/".join([self._root, volume.encode(), *inside, *path])

    # -- files

    def make(self, volume: str, path: Path, kind: str, mode: int, target: bytes = b"") -> None:
        name = self._path(volume, path)
        if kind == SYMLINK:
            os.symlink(target, name)
            return
        if kind == DIRECTORY:
            os.mkdir(name)
        elif kind == FIFO:
            os.mkfifo(name)
        else:
            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        os.chmod(name, mode)  # whatever the umask is

    def link(self, volume: str, path: Path, new: Path) -> None:
        os.link(self._path(volume, path), self._path(volume, new), follow_symlinks=False)

    def unlink(self, volume: str, path: Path) -> None:
        os.unlink(self._path(volume, path))

    def rmdir(self, volume: str, path: Path) -> None:
        os.rmdir(self._path(volume, path))

    def rename(self, volume: str, path: Path, new: Path, *, noreplace: bool, exchange: bool) -> None:
        flags = (_NOREPLACE if noreplace else 0) | (_EXCHANGE if exchange else 0)
        rename_with_flags(self._path(volume, path), self._path(volume, new), flags)

    def _open(self, volume: str, path: Path) -> int:
        """A regular file, to write to; a fifo must not block us."""
        file = os.open(self._path(volume, path), os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            raise OSError(errno.EINVAL, "not a regular file")
        return file

    def write(self, volume: str, path: Path, offset: int, data: bytes) -> None:
        file = self._open(volume, path)
        try:
            done = 0
            while done < len(data):
                done += os.pwrite(file, data[done:], offset + done)
        finally:
            os.close(file)

    def truncate(self, volume: str, path: Path, size: int) -> None:
        file = self._open(volume, path)
        try:
            os.ftruncate(file, size)
        finally:
            os.close(file)

    def set_mtime(self, volume: str, path: Path, mtime_ns: int) -> None:
        os.utime(self._path(volume, path), ns=(mtime_ns, mtime_ns), follow_symlinks=False)

    def chmod(self, volume: str, path: Path, mode: int) -> None:
        os.chmod(self._path(volume, path), mode)

    def setxattr(self, volume: str, path: Path, name: bytes, value: bytes, *, create: bool, replace: bool) -> None:
        flags = (os.XATTR_CREATE if create else 0) | (os.XATTR_REPLACE if replace else 0)
        os.setxattr(self._path(volume, path), name, value, flags, follow_symlinks=False)

    def removexattr(self, volume: str, path: Path, name: bytes) -> None:
        os.removexattr(self._path(volume, path), name, follow_symlinks=False)

    # -- versions

    def create_volume(self, name: str) -> None:
        os.mkdir(self._path(name, ()), 0o755)

    def remove_volume(self, name: str, *, snapshots: bool) -> None:
        with self._connect() as client:
            client.delete_volume(name=name, force=snapshots, purge=True)

    def remove_all(self) -> None:
        with self._connect() as client:
            for volume in client.list_volumes():
                client.delete_volume(name=volume.name, force=True, purge=True)

    def snapshot(self, volume: str, name: str) -> None:
        with self._connect() as client:
            client.create_snapshot(volume=volume, name=name)

    def remove_snapshot(self, volume: str, name: str) -> None:
        with self._connect() as client:
            client.delete_snapshot(volume=volume, snapshot=name, purge=True)

    def rename_snapshot(self, volume: str, name: str, new: str) -> None:
        with self._connect() as client:
            client.rename_snapshot(volume=volume, snapshot=name, name=new)

    def tag(self, volume: str, name: str, tag: str, *, move: bool) -> None:
        with self._connect() as client:
            client.tag_snapshot(volume=volume, snapshot=name, tag=tag, move=move)

    def remove_tag(self, volume: str, tag: str) -> None:
        with self._connect() as client:
            client.delete_tag(volume=volume, tag=tag)

    def listed(self, volume: str) -> dict[str, list[str]]:
        with self._connect() as client:
            return {snapshot.name: snapshot.tags for snapshot in client.list_snapshots(volume=volume)}

    def clone(self, volume: str, name: str, new: str) -> None:
        with self._connect() as client:
            client.clone(volume=volume, snapshot=name, name=new)

    def restore(self, volume: str, name: str, path: Path) -> None:
        with self._connect() as client:
            client.restore(volume=volume, snapshot=name, paths=[text(path)])

    def checkout(self, volume: str, name: str, unsaved: api.Save) -> str:
        with self._connect() as client:
            done = client.checkout(volume=volume, snapshot=name, unsaved=unsaved)
        return done.saved.name if done.saved else ""

    def status(self, volume: str) -> list[api.Change]:
        with self._connect() as client:
            return list(client.status(volume=volume))

    def diff(self, volume: str, snapshot: str, other: str) -> list[api.Change]:
        with self._connect() as client:
            return list(client.diff(volume=volume, snapshot=snapshot, other=other))

    # -- looking

    def tree(self, volume: str, snapshot: str = "") -> Tree:
        root = self._path(volume, (), snapshot)
        found: dict[Path, os.stat_result] = {(): os.lstat(root)}
        stack: list[Path] = [()]
        while stack:
            path = stack.pop()
            for name in os.listdir(b"/".join([root, *path])):
                status = found[*path, name] = os.lstat(b"/".join([root, *path, name]))
                if stat.S_ISDIR(status.st_mode):
                    stack.append((*path, name))
        links: dict[int, list[Path]] = {}
        for path, status in found.items():
            links.setdefault(status.st_ino, []).append(path)
        return {
            path: self._shown(b"/".join([root, *path]), status, links[status.st_ino]) for path, status in found.items()
        }

    def _shown(self, name: bytes, status: os.stat_result, links: list[Path]) -> Shown:
        kind, content = KINDS[stat.S_IFMT(status.st_mode)], b""
        if kind == FILE:
            with open(name, "rb") as file:
                content = file.read()
            assert len(content) == status.st_size
        elif kind == SYMLINK:
            content = os.readlink(name)
        if kind != DIRECTORY:
            assert status.st_nlink == len(links)
        names = sorted(map(os.fsencode, os.listxattr(name, follow_symlinks=False))) if self.xattrs else []
        return Shown(
            kind=kind,
            mode=stat.S_IMODE(status.st_mode),
            mtime_ns=0 if kind == DIRECTORY else status.st_mtime_ns,
            content=content,
            xattrs=tuple((x, os.getxattr(name, x, follow_symlinks=False)) for x in names),
            links=tuple(sorted(links)),
        )

    def flush(self) -> None:
        directory = os.open(self._root, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def reclaim(self) -> None:
        """The daemon does it by itself."""

    def reopen(self) -> None:
        self._remount()

    def fsck(self) -> list[str]:
        with self._connect() as client:
            report = client.check_store()
        return [f"{finding.code}: {finding.message}" for finding in report.findings]

    def stored_bytes(self) -> int:
        """Once reclaiming, in the background, has come to an end: waits for 0."""
        deadline = time.monotonic() + _SECONDS_MAX
        with self._connect() as client:
            while True:
                store = client.get_store()
                held = store.stored_bytes + store.seal_bytes
                if not held or time.monotonic() > deadline:
                    return held
                time.sleep(0.01)

    def close(self) -> None:
        """Others clean the mount up."""
