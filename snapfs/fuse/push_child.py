"""The process that fetches the kernel's dirty pages for the daemon: ``python -m snapfs.fuse.push_child MOUNTPOINT``.

syncfs(2) and fsync(2) on the mount wait, uninterruptibly, for answers of the daemon.  A thread of the daemon
that waits so would keep a killed daemon, and with it /dev/fuse, from ever closing: everybody on the mount would hang.
This process has no /dev/fuse: when the daemon dies the kernel ends the connection, and with it the wait.

A line of JSON in: {"device": st_dev of the mount, "files": [[node, path below the mount point], ...]}; a line out:
{"moved": whether another file system is at the mount point}.  It ends with its input.  Standard library only: it
starts with the mount.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import sys
from typing import Final

_libc: Final = ctypes.CDLL(None, use_errno=True)
_ANSWERS: Final = 1
"""Standard output, unbuffered: nothing is left to be written at the end."""
_FILE_HANDLE_BYTES: Final = 12
_FILEID_INO64_GEN: Final = 0x81


class _FileHandle(ctypes.Structure):
    """``struct file_handle`` of open_by_handle_at(2), as the kernel's FUSE module fills it: node, generation."""

    _fields_ = (
        ("handle_bytes", ctypes.c_uint),
        ("handle_type", ctypes.c_int),
        ("node_high", ctypes.c_uint32),
        ("node_low", ctypes.c_uint32),
        ("generation", ctypes.c_uint32),
    )


def _open_by_handle(root: int, node: int) -> int | None:
    """A descriptor, or None without the capability (CAP_DAC_READ_SEARCH).  Raises OSError."""
    handle = _FileHandle(_FILE_HANDLE_BYTES, _FILEID_INO64_GEN, node >> 32, node & 0xFFFFFFFF, 0)
    opened: int = _libc.open_by_handle_at(root, ctypes.byref(handle), os.O_RDONLY | os.O_CLOEXEC)
    if opened >= 0:
        return opened
    number = ctypes.get_errno()
    if number in (errno.EPERM, errno.EOPNOTSUPP):
        return None
    raise OSError(number, os.strerror(number))


def _fetch(root: int, node: int, path: str) -> None:
    """fsync one file; one that cannot be opened any more has no pages that count, and an error of writing
    belongs to who wrote."""
    try:
        opened = _open_by_handle(root, node)
        if opened is None:
            opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=root)
    except OSError:
        return
    try:
        if os.fstat(opened).st_ino == node:
            os.fsync(opened)
    except OSError:
        pass
    finally:
        os.close(opened)


def push(mountpoint: str, device: int, files: list[tuple[int, str]]) -> bool:
    """syncfs(2) starts all writing and sends times, but need not wait for the answers to writes; fsync(2) of each
    written file does.  False: another file system is at the mount point."""
    try:
        root = os.open(mountpoint, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        if os.fstat(root).st_dev != device:
            return False
        _libc.syncfs(root)
        for node, path in files:
            _fetch(root, node, path)
        return True
    except OSError:
        return False
    finally:
        os.close(root)


def main() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        pushed = push(sys.argv[1], request["device"], request["files"])
        try:
            os.write(_ANSWERS, json.dumps({"moved": not pushed}).encode() + b"\n")
        except BrokenPipeError:  # the daemon was killed
            return


if __name__ == "__main__":
    main()
