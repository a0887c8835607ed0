"""The store's directory: what is where, what marks it as a store, who may write to it.

Invariants:
  * ``FORMAT`` is written last by ``create``: a directory without it is no store.
  * ``lock`` is held (flock, exclusive) by the one process that writes; its content tells who that is.
"""

from __future__ import annotations

import fcntl
import os
import uuid
from pathlib import Path
from typing import Final
from zlib import crc32

import msgspec

from snapfs.errors import AlreadyExists, Busy, Corrupt, Invalid, NotFound, NotPermitted, Unsupported
from snapfs.store.disk import Disk, from_os, open_file, read_start

FORMAT_VERSION: Final = 5
MARKER: Final = "FORMAT"
INDEX: Final = "index"
SEGMENTS: Final = "segments"
LOCK: Final = "lock"
INDEX_BESIDE: Final = "index.new"
INDEX_KEPT: Final = "index.damaged-"
_MARKER_BYTES_MAX: Final = 4096
_LOCK_BYTES_MAX: Final = 64 * 1024
"""Far more than the longest path of a mount, escaped."""


class Marker(msgspec.Struct, frozen=True, kw_only=True):
    """Content of FORMAT, as JSON."""

    format: str
    version: int
    uuid: str
    created_ns: int
    checksum: str = ""
    """CRC-32 of what stands before it, as 8 hexadecimal digits."""

    def computed_checksum(self) -> str:
        return f"{crc32(f'{self.format}/{self.version}/{self.uuid}/{self.created_ns}'.encode()):08x}"


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """Content of lock, as JSON: who writes to the store."""

    pid: int
    mountpoint: str = ""


def create(path: Path, disk: Disk, now_ns: int) -> Marker:
    """Lay out an empty store in a missing or empty directory; the caller makes the index before ``mark``.

    Raises:
        AlreadyExists: the directory is a store.
        Invalid: it is not a directory, or holds something else, or its parent is missing.
        NotPermitted: it belongs to another user.
    """
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        entries = {entry.name for entry in path.iterdir()}
    except FileNotFoundError as error:
        raise Invalid(f"{path}: its parent directory does not exist", hint="make it first") from error
    except (FileExistsError, NotADirectoryError) as error:
        raise Invalid(f"{path}: not a directory") from error
    except PermissionError as error:
        raise NotPermitted(f"{path}: permission denied", hint="are you its owner?") from error
    if MARKER in entries:
        raise AlreadyExists(f"{path}: is a snapfs store already")
    if entries - {INDEX, SEGMENTS, LOCK, MARKER + ".new"}:
        raise Invalid(f"{path}: the directory is not empty", hint="name a new or an empty directory")
    for name in (INDEX, SEGMENTS):
        (path / name).mkdir(mode=0o700, exist_ok=True)
    return Marker(format="snapfs", version=FORMAT_VERSION, uuid=str(uuid.uuid4()), created_ns=now_ns)


def old_indexes(path: Path) -> list[Path]:
    """Damaged indexes that are kept: what they say of the segments may still be wanted.  The user removes them."""
    return [place for place in (*path.glob(f"{INDEX_KEPT}*"), path / INDEX_BESIDE) if place.exists()]


def mark(path: Path, marker: Marker, disk: Disk) -> None:
    marker = msgspec.structs.replace(marker, checksum=marker.computed_checksum())
    disk.write_file("marker", path / MARKER, msgspec.json.encode(marker) + b"\n")


def read_marker(path: Path) -> Marker:
    """Raises:
    NotFound: no such directory.
    Invalid: it is not a store.
    NotPermitted: it belongs to another user.
    Unsupported: a format this program does not know.
    Corrupt: the marker is unreadable.
    """
    try:
        data = read_start(path / MARKER, _MARKER_BYTES_MAX)
    except (FileNotFoundError, NotADirectoryError) as error:
        if not path.exists():
            raise NotFound(f"{path}: no such store", hint=f"make one with: snap init {path}") from error
        raise Invalid(
            f"{path}: not a snapfs store (no {MARKER} file)", hint="name the store's directory"
        ) from error
    except PermissionError as error:
        raise NotPermitted(f"{path}: permission denied", hint="are you its owner?") from error
    except OSError as error:
        raise from_os(error, str(path / MARKER)) from error
    try:
        marker = msgspec.json.decode(data, type=Marker)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Corrupt(f"{path / MARKER}: damaged ({error})", hint="run: snap fsck --repair") from error
    if marker.format != "snapfs":
        raise Invalid(f"{path}: not a snapfs store (format {marker.format!r})")
    if marker.version != FORMAT_VERSION:
        raise Unsupported(
            f"{path}: store format {marker.version}, this snapfs knows {FORMAT_VERSION}",
            hint="use a snapfs of the version that made or last wrote the store",
        )
    if marker.checksum != marker.computed_checksum():
        raise Corrupt(f"{path / MARKER}: damaged (its checksum does not match)", hint="run: snap fsck --repair")
    return marker


class Lock:
    """The writer's exclusive lock, held until ``release`` or the process's end."""

    def __init__(self, path: Path, mountpoint: str = "") -> None:
        """Raises:
        Busy: another process holds it; the message names its pid.
        NotPermitted: it belongs to another user.
        Corrupt: something else is in its place.
        """
        try:
            fd = open_file(path / LOCK, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise from_os(error, str(path / LOCK)) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(fd)
            holder = read_holder(path)
            who = f"process {holder.pid}" if holder else "another process"
            where = f", mounted at {holder.mountpoint}" if holder and holder.mountpoint else ""
            raise Busy(
                f"{path}: the store is in use by {who}{where}", hint="wait for it, or unmount it"
            ) from error
        self._fd = fd
        shown = os.fsencode(mountpoint).decode(errors="replace")
        content = msgspec.json.encode(Holder(pid=os.getpid(), mountpoint=shown)) + b"\n"
        os.ftruncate(fd, 0)
        os.pwrite(fd, content, 0)

    def release(self) -> None:
        if self._fd >= 0:
            os.ftruncate(self._fd, 0)
            os.close(self._fd)
            self._fd = -1


def read_holder(path: Path) -> Holder | None:
    """Who wrote the lock file last; None if nobody did or it was released."""
    try:
        return msgspec.json.decode(read_start(path / LOCK, _LOCK_BYTES_MAX), type=Holder)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
