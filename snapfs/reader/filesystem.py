"""Snapshots as a file system of fsspec, for pandas, pyarrow, datasets and all else that takes its addresses.

| address | options |
|---|---|
| ``snapfs:///data/store/digits@v1/images/7.png`` | none: what stands before the first name with an ``@`` is the store |
| ``snapfs://digits@v1/images/7.png`` | ``store="/data/store"`` |

Invariants:
  * Inside the file system a path is ``volume@snapshot/path``.  Each snapshot is opened once, when it is first used, and
    stays what it was: a tag that is moved later changes nothing.
  * Read-only; whatever else fsspec offers fails with EROFS.
"""

from __future__ import annotations

import datetime
import errno
import os
import stat
from typing import Any, Final

from fsspec import AbstractFileSystem

from snapfs.errors import SnapfsError
from snapfs.reader.snapshot import Snapshot, open_snapshot, os_error

PROTOCOL: Final = "snapfs"
_KINDS: Final = {stat.S_IFDIR: "directory", stat.S_IFREG: "file", stat.S_IFLNK: "link"}


class SnapfsFileSystem(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no type hints
    """
    Args:
        store: the store's directory.
    """

    protocol = PROTOCOL
    root_marker = ""
    cachable = True

    def __init__(self, store: str | os.PathLike[str] = "", **options: Any) -> None:
        super().__init__(store=str(store), **options)
        if not str(store):
            raise ValueError("which store? Write snapfs:///STORE/volume@snapshot/..., or give the option store=")
        self.store = str(store)
        self._snapshots: dict[str, Snapshot] = {}

    # -- addresses

    @classmethod
    def _split(cls, path: str) -> tuple[str, str]:
        """(store, ``volume@snapshot/path``) of an address; no store if it names none."""
        path = path.removeprefix(f"{PROTOCOL}://")
        parts = path.split("/")
        first = next((number for number, part in enumerate(parts) if "@" in part), 0)
        return "/".join(parts[:first]), "/".join(parts[first:]).strip("/")

    @classmethod
    def _strip_protocol(cls, path: str | os.PathLike[str] | list[str]) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(one) for one in path]
        return cls._split(os.fspath(path))[1]

    @classmethod
    def _get_kwargs_from_urls(cls, path: str) -> dict[str, str]:
        store = cls._split(path)[0]
        return {"store": store} if store else {}

    def _find(self, path: str) -> tuple[Snapshot, str]:
        """The snapshot, and the path in it.

        Raises:
            FileNotFoundError: the path names no snapshot, or none that there is.
            OSError: it cannot be opened.
        """
        address, _, inside = self._strip_protocol(path).partition("/")
        snapshot = self._snapshots.get(address)
        if snapshot is None:
            if "@" not in address:
                raise FileNotFoundError(errno.ENOENT, "no snapshot: write volume@snapshot/path", path)
            try:
                snapshot = self._snapshots[address] = open_snapshot(self.store, address)
            except SnapfsError as error:
                raise os_error(error, address, inside) from error
        return snapshot, inside

    # -- reading

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """``name``, ``type``, ``size`` (bytes), ``mtime`` (seconds since 1970), ``mode``, ``ino``, ``nlink``,
        ``islink``; links are followed, unless they lead nowhere, or back to a directory that they are in: else
        ``walk`` and ``find``, which go into directories, would hardly end."""
        snapshot, inside = self._find(path)
        found = snapshot.stat(inside, follow_symlinks=False)
        is_link = stat.S_ISLNK(found.st_mode)
        if is_link and snapshot.exists(inside):
            target = snapshot.stat(inside)
            if not (stat.S_ISDIR(target.st_mode) and target.st_ino in _directories(snapshot, inside)):
                found = target
        return {
            "name": self._strip_protocol(path), "type": _KINDS.get(stat.S_IFMT(found.st_mode), "other"),
            "size": found.st_size if stat.S_ISREG(found.st_mode) else 0, "mtime": found.st_mtime,
            "mode": found.st_mode, "ino": found.st_ino, "nlink": found.st_nlink, "islink": is_link,
        }  # fmt: skip

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """Of a directory; of a file just itself."""
        snapshot, inside = self._find(path)
        place = self._strip_protocol(path)
        if not snapshot.isdir(inside):
            return [self.info(path)] if detail else [place]
        names = [f"{place}/{name}" for name in snapshot.listdir(inside)]
        return [self.info(name) for name in names] if detail else names

    def _open(self, path: str, mode: str = "rb", **_: Any) -> Any:
        snapshot, inside = self._find(path)
        file: Any = snapshot.open(inside, mode)
        file.size = file.raw.size  # what fsspec's own files have: read_block asks for it
        return file

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        """Bytes from ``start`` to before ``end``; negative ones count from the end of the file."""
        snapshot, inside = self._find(path)
        if start is None and end is None:
            return snapshot.read_bytes(inside)
        size = snapshot.getsize(inside)
        first, stop, _step = slice(start, end).indices(size)
        return snapshot.read_range(inside, first, max(0, stop - first))

    def cat_ranges(
        self, paths: list[str], starts: Any, ends: Any, max_gap: int | None = None, on_error: str = "return", **_: Any
    ) -> list[Any]:
        """As ``cat_file`` of each; an error takes the place of its bytes, or is raised with ``on_error="raise"``."""
        count = len(paths)
        firsts = starts if isinstance(starts, (list, tuple)) else [starts] * count
        lasts = ends if isinstance(ends, (list, tuple)) else [ends] * count
        found: list[Any] = []
        for path, first, last in zip(paths, firsts, lasts, strict=True):
            try:
                found.append(self.cat_file(path, first, last))
            except OSError as error:
                if on_error == "raise":
                    raise
                found.append(error)
        return found

    def modified(self, path: str) -> datetime.datetime:
        """When its content changed last, with a time zone."""
        return datetime.datetime.fromtimestamp(self.info(path)["mtime"], tz=datetime.UTC)

    def ukey(self, path: str) -> str:
        """A file of a snapshot never changes."""
        snapshot, inside = self._find(path)
        return f"{snapshot.number}:{snapshot.stat(inside).st_ino}"

    # -- nothing is written

    def _refuse(self, path: Any, *_: Any, **__: Any) -> Any:
        raise OSError(errno.EROFS, "snapshots are read-only", str(path))

    mkdir = makedirs = rmdir = rm = rm_file = _rm = cp_file = mv = touch = pipe_file = _refuse


def _directories(snapshot: Snapshot, path: str) -> set[int]:
    """Inodes of those that a path leads through, the root first."""
    parts = path.split("/")
    return {snapshot.stat("/".join(parts[:count])).st_ino for count in range(len(parts))}
