"""What programs use: one snapshot, read as a file system.

Invariants:
  * Paths go from the snapshot's root; a leading slash says nothing.  Symbolic links are followed inside the snapshot.
  * Errors of paths and reads are OSErrors, with the errno that the mount would answer (EINVAL: a link leads round, or
    out of the snapshot); errors of opening a snapshot are snapfs's own, as in ``snapfs.client``.
  * Safe to use from several threads, across a fork, and pickled: always the same snapshot, whatever is tagged anew.
"""

from __future__ import annotations

import errno
import fnmatch
import functools
import io
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Concatenate, Final, NamedTuple, ParamSpec, TypeVar

from snapfs.api import GitCommit
from snapfs.errnos import ERRNOS
from snapfs.errors import Invalid, SnapfsError, Stale
from snapfs.format.records import Inode, SnapshotRecord
from snapfs.reader import place
from snapfs.reader.contents import CACHE_BYTES_MAX, Contents
from snapfs.reader.files import BUFFER_BYTES, SnapshotFile
from snapfs.reader.tree import Tree, as_bytes, find_snapshot
from snapfs.store.foreign import Identity
from snapfs.store.reading import Reader
from snapfs.types import Epoch
from snapfs.volume.finding import Finding

BATCH_PARTS: Final = 64
"""Files, or parts of files, that are found in one look at the index: about 2 ms."""

AnyPath = str | os.PathLike[str]
P = ParamSpec("P")
R = TypeVar("R")


class Entry(NamedTuple):
    """An entry of a directory."""

    name: str
    mode: int
    """S_IFMT bits: what it is, see module ``stat``."""

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.mode)

    @property
    def is_symlink(self) -> bool:
        return stat.S_ISLNK(self.mode)


def _answering(
    method: Callable[Concatenate[Snapshot, AnyPath, P], R],
) -> Callable[Concatenate[Snapshot, AnyPath, P], R]:
    """A method whose errors are told as those of the file that its first argument names."""

    @functools.wraps(method)
    def wrapper(self: Snapshot, path: AnyPath = "", /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(self, path, *args, **kwargs)
        except SnapfsError as error:
            raise os_error(error, self.address, path) from error

    return wrapper


def os_error(error: SnapfsError, address: str, path: AnyPath) -> OSError:
    """As it is told to a program that reads a file: FileNotFoundError, NotADirectoryError, ..., else OSError."""
    hint = f" ({error.hint})" if error.hint else ""
    return OSError(ERRNOS[error.kind], f"{error.message}{hint}", f"{address}:{os.fspath(path).lstrip('/')}")


class Snapshot:
    """A snapshot that is open for reading.  Make it with ``open_snapshot``; use it in a ``with`` statement, or
    ``close`` it."""

    def __init__(
        self, store: Path, find: Callable[[Reader], SnapshotRecord], cache_bytes: int, trusted: Identity | None
    ):
        self._cache_bytes = cache_bytes
        self._tree: Tree | None = Tree(place.at(store, trusted), find)
        self._bytes: Contents | None = Contents(self._tree, cache_bytes)
        self._address = self._tree.address

    # -- what it is

    @property
    def address(self) -> str:
        """``volume@name``."""
        return self._tree.address if self._tree else self._address

    @property
    def number(self) -> int:
        """The snapshot's permanent number in its store."""
        return self._open_tree.record.epoch

    @property
    def created_ns(self) -> int:
        """When it was made, ns since 1970."""
        return self._open_tree.record.created_ns

    @property
    def commit(self) -> GitCommit | None:
        """The git commit that it belongs to."""
        return self._open_tree.record.git

    @property
    def message(self) -> str:
        return self._open_tree.record.message

    @property
    def meta(self) -> dict[str, str]:
        """The snapshot's own metadata."""
        return dict(self._open_tree.record.meta)

    @property
    def _open_tree(self) -> Tree:
        if self._tree is None:
            raise ValueError(f"snapshot {self._address} is closed")
        return self._tree

    @property
    def _contents(self) -> Contents:
        if self._bytes is None:
            raise ValueError(f"snapshot {self._address} is closed")
        return self._bytes

    def __repr__(self) -> str:
        return f"<{'closed ' if self._tree is None else ''}snapshot {self.address}>"

    def close(self) -> None:
        """What it has open goes with the last snapshot and the last file of the store that this process has open."""
        if self._tree is not None:
            self._address = self._tree.address
            self._tree = self._bytes = None

    def __enter__(self) -> Snapshot:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Callable[..., Snapshot], tuple[Any, ...]]:
        tree = self._open_tree
        store = tree.place
        return _again, (str(store.path), store.uuid, tree.record.epoch, self.address, self._cache_bytes, store.trusted)

    # -- paths

    @_answering
    def stat(self, path: AnyPath = "", /, *, follow_symlinks: bool = True) -> os.stat_result:
        """Attributes, as os.stat; st_dev is 0.

        Raises:
            FileNotFoundError, NotADirectoryError, OSError.
        """
        return _stat_result(self._inode(path, follow=follow_symlinks))

    def exists(self, path: AnyPath = "", /) -> bool:
        """Whether the path leads to something, links followed."""
        return self._mode(path) != 0

    def isfile(self, path: AnyPath, /) -> bool:
        return stat.S_ISREG(self._mode(path))

    def isdir(self, path: AnyPath = "", /) -> bool:
        return stat.S_ISDIR(self._mode(path))

    def islink(self, path: AnyPath, /) -> bool:
        return stat.S_ISLNK(self._mode(path, follow=False))

    def getsize(self, path: AnyPath, /) -> int:
        """Bytes of the file."""
        return self.stat(path).st_size

    @_answering
    def readlink(self, path: AnyPath, /) -> str:
        """Target of a symbolic link."""
        tree = self._open_tree
        return os.fsdecode(tree.look(lambda reader: tree.target(reader, as_bytes(path))))

    @_answering
    def scandir(self, path: AnyPath = "", /) -> list[Entry]:
        """Entries of a directory, sorted by name."""
        found = self._open_tree.entries(as_bytes(path))
        return sorted(Entry(os.fsdecode(name), mode) for name, _, mode in found)

    def listdir(self, path: AnyPath = "", /) -> list[str]:
        """Names in a directory, sorted."""
        return [entry.name for entry in self.scandir(path)]

    def walk(self, top: AnyPath = "") -> Iterator[tuple[str, list[str], list[str]]]:
        """As os.walk: (path of a directory, names of directories in it, names of all else), from the top down; links
        are not followed.  Names are sorted; those that the caller removes from the first list are not gone into."""
        todo = [os.fspath(top).strip("/")]
        while todo:
            here = todo.pop()
            entries = self.scandir(here)
            directories = [entry.name for entry in entries if entry.is_dir]
            yield here, directories, [entry.name for entry in entries if not entry.is_dir]
            todo += [_join(here, name) for name in reversed(directories)]

    def glob(self, pattern: str) -> list[str]:
        """Paths that match, sorted: ``*``, ``?`` and ``[...]`` within a name, ``**`` for any number of directories."""
        return sorted(set(self._glob("", [part for part in pattern.split("/") if part])))

    def _glob(self, here: str, parts: list[str]) -> Iterator[str]:
        if not parts:
            yield here
            return
        first, rest = parts[0], parts[1:]
        if first == "**":
            if not self.isdir(here):
                return
            for directory, _, files in self.walk(here):
                if rest:
                    yield from self._glob(directory, rest)
                else:
                    yield from (_join(directory, name) for name in files)
                    yield directory
        elif not any(sign in first for sign in "*?["):
            path = _join(here, first)
            if self._mode(path, follow=False):
                yield from self._glob(path, rest)
        elif self.isdir(here):
            fits = [entry for entry in self.scandir(here) if fnmatch.fnmatchcase(entry.name, first)]
            for entry in fits:
                if not rest or not entry.is_file:
                    yield from self._glob(_join(here, entry.name), rest)

    def _inode(self, path: AnyPath, *, follow: bool = True) -> Inode:
        tree = self._open_tree
        where = as_bytes(path)
        return tree.look(lambda reader: tree.inode(reader, where, follow=follow))

    def _mode(self, path: AnyPath, *, follow: bool = True) -> int:
        """0: there is nothing."""
        try:
            return self.stat(path, follow_symlinks=follow).st_mode
        except (FileNotFoundError, NotADirectoryError):
            return 0
        except OSError as error:
            if isinstance(error.__cause__, Invalid):  # a link that leads nowhere
                return 0
            raise

    # -- bytes

    @_answering
    def read_bytes(self, path: AnyPath, /) -> bytes:
        """All bytes of a file.

        Raises:
            FileNotFoundError, IsADirectoryError, ...
            OSError: EIO if they are damaged, ESTALE if the snapshot was deleted.
        """
        return self._contents.read(as_bytes(path), 0, sys.maxsize)

    @_answering
    def read_range(self, path: AnyPath, offset: int, size: int, /) -> bytes:
        """At most ``size`` bytes from ``offset`` on: fewer at the end of the file, none behind it.  Raises as
        ``read_bytes``; ValueError for negative numbers."""
        if offset < 0 or size < 0:
            raise ValueError("offset and size are not negative")
        return self._contents.read(as_bytes(path), offset, size)

    def read_text(self, path: AnyPath, encoding: str = "utf-8") -> str:
        return self.read_bytes(path).decode(encoding)

    def read_many(self, paths: Iterable[AnyPath]) -> list[bytes]:
        """All bytes of each file, in the order of the paths.  Quicker than one by one: the index is looked at once for
        64 of them.  Raises as ``read_bytes``."""
        return self._read_parts([(path, 0, sys.maxsize) for path in paths])

    def read_ranges(self, parts: Iterable[tuple[AnyPath, int, int]]) -> list[bytes]:
        """As ``read_range`` of each (path, offset, size), in their order; quicker than one by one, as ``read_many``."""
        wanted = list(parts)
        if any(offset < 0 or size < 0 for _, offset, size in wanted):
            raise ValueError("offset and size are not negative")
        return self._read_parts(wanted)

    def _read_parts(self, parts: list[tuple[AnyPath, int, int]]) -> list[bytes]:
        found: list[bytes] = []
        for start in range(0, len(parts), BATCH_PARTS):
            some = parts[start : start + BATCH_PARTS]
            try:
                found += self._contents.read_parts([(as_bytes(path), offset, size) for path, offset, size in some])
            except SnapfsError:  # of one of them, which then says so
                found += [self.read_range(*part) for part in some]
        return found

    def open(
        self, path: AnyPath, mode: str = "rb", buffering: int = -1, encoding: str | None = None,
        errors: str | None = None, newline: str | None = None,
    ) -> IO[Any]:  # fmt: skip
        """Open a file for reading, as the builtin: ``rb`` (buffered; ``buffering=0``: not), ``r`` or ``rt`` for text.

        Raises:
            ValueError: no such mode.
            OSError: EROFS for a mode that writes; FileNotFoundError, IsADirectoryError, ...
        """
        if set(mode) & set("wax+"):
            raise OSError(errno.EROFS, "snapshots are read-only", f"{self.address}:{os.fspath(path)}")
        if sorted(mode) not in (["b", "r"], ["r"], ["r", "t"]):
            raise ValueError(f"invalid mode: {mode!r}")
        raw = self._open_file(path)
        if "b" in mode and buffering == 0:
            return raw  # type: ignore[return-value]
        buffered = io.BufferedReader(raw, buffering if buffering > 1 else BUFFER_BYTES)
        if "b" in mode:
            return buffered
        return io.TextIOWrapper(buffered, encoding or "utf-8", errors, newline)

    @_answering
    def _open_file(self, path: AnyPath, /) -> SnapshotFile:
        inode = self._contents.regular(as_bytes(path))
        contents = self._contents

        def read(offset: int, size: int) -> bytes:
            try:
                return contents.read_inode(inode, offset, size)
            except SnapfsError as error:
                raise os_error(error, self.address, path) from error

        return SnapshotFile(f"{self.address}:{os.fspath(path)}", inode.size, read)


def open_snapshot(store: str | os.PathLike[str], address: str, *, cache_bytes: int = CACHE_BYTES_MAX) -> Snapshot:
    """A snapshot of a store on this machine, for reading in this process.

    Args:
        store: the store's directory.
        address: ``volume@snapshot``, where the snapshot is named as for ``snap``: name, tag, commit ID or a unique
            prefix of one.  What it means now is opened: a tag that is moved later changes nothing.
        cache_bytes: memory for blocks of which only parts were read.

    Raises:
        NotFound, Invalid, NotPermitted, Unsupported, Corrupt, Busy, Unavailable, IOFailure: (snapfs.errors) no such
            store or snapshot, not ours to read, of another format, damaged...
    """
    return Snapshot(Path(store), lambda reader: find_snapshot(reader, address), cache_bytes, None)


def _again(
    store: str, uuid: str, epoch: Epoch, address: str, cache_bytes: int, trusted: Identity | None
) -> Snapshot:  # fmt: skip
    """The same snapshot, in another process."""

    def find(reader: Reader) -> SnapshotRecord:
        record = Finding(reader).get(epoch)
        if record is None or reader.get("meta", b"uuid") != uuid.encode():
            raise Stale(f"snapshot {address} was deleted, or its store was")
        return record

    return Snapshot(Path(store), find, cache_bytes, trusted)


def _join(directory: str, name: str) -> str:
    return f"{directory}/{name}" if directory else name


def _stat_result(inode: Inode) -> os.stat_result:
    times_ns = inode.atime_ns, inode.mtime_ns, inode.ctime_ns
    values = (inode.mode, inode.ino, 0, inode.nlink, inode.uid, inode.gid, inode.size, *(t // 10**9 for t in times_ns))
    more: dict[str, float] = {"st_blksize": BUFFER_BYTES, "st_blocks": -(-inode.allocated_bytes // 512)}
    for name, time_ns in zip(("st_atime", "st_mtime", "st_ctime"), times_ns, strict=True):
        more[name], more[name + "_ns"] = time_ns / 1e9, time_ns
    more["st_rdev"] = inode.rdev
    return os.stat_result(values, more)
