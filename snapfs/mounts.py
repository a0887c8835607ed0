"""The kernel's table of mounts, and unmounting: what the daemon and the command line share about mount
points.

Invariants:
  * Only ``is_dead`` asks a mount anything: a mount whose daemon hangs blocks nothing else here.
  * No environment, no shell; ``fusermount3`` is the only program run, and only by who is not root.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from pathlib import Path
from typing import Final, NamedTuple

from snapfs.errors import Busy, IOFailure, NotFound, NotPermitted, Unavailable

TYPE: Final = "fuse.snapfs"
"""File system type of our mounts, as the kernel lists it."""

_MNT_FORCE: Final = 1
_MNT_DETACH: Final = 2
_UMOUNT_NOFOLLOW: Final = 8
_FUSERMOUNT_SECONDS: Final = 30
_HOLDERS_SHOWN: Final = 3

_ESCAPE: Final = re.compile(rb"\\([0-7]{3})")


class Mount(NamedTuple):
    """One line of the table."""

    mountpoint: Path
    store: Path
    """The source of the mount; for a mount of ours the store's path."""
    type: str
    device: str
    """``major:minor``."""


def _umount2(mountpoint: Path, flags: int) -> int:
    """umount(2); 0, or its errno."""
    import ctypes  # commands look at mounts and hardly ever unmount one

    libc = ctypes.CDLL(None, use_errno=True)
    return ctypes.get_errno() if libc.umount2(os.fsencode(mountpoint), flags) else 0


def _unescape(field: bytes) -> str:
    return os.fsdecode(_ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), field))


def parse(mountinfo: bytes) -> list[Mount]:
    """Mounts in /proc/PID/mountinfo's format, in the order they were mounted."""
    mounts = []
    for line in mountinfo.splitlines():
        fields = line.split(b" ")
        dash = fields.index(b"-")
        mounts.append(
            Mount(
                mountpoint=Path(_unescape(fields[4])),
                store=Path(_unescape(fields[dash + 2])),
                type=_unescape(fields[dash + 1]),
                device=fields[2].decode(),
            )
        )
    return mounts


def table() -> list[Mount]:
    """All mounts that this process sees."""
    return parse(Path("/proc/self/mountinfo").read_bytes())


def at(mountpoint: Path) -> Mount | None:
    """The topmost mount at exactly this path (absolute, no symlinks)."""
    found = [mount for mount in table() if mount.mountpoint == mountpoint]
    return found[-1] if found else None


def containing(path: Path) -> Mount | None:
    """The mount that the path (absolute, no symlinks) is on."""
    found: Mount | None = None
    for mount in table():
        if path.is_relative_to(mount.mountpoint) and (
            found is None or len(mount.mountpoint.parts) >= len(found.mountpoint.parts)
        ):
            found = mount
    return found


def abort(mount: Mount) -> None:
    """End the connection to the daemon of a mount of ours: whoever waits for an answer gets an error.

    For a daemon that was killed but cannot end, as one of its threads waits for the kernel, which waits for the
    daemon.  A mount that has gone meanwhile is left alone, and so is who has its number now.
    """
    if mount not in table():
        return
    number = _umount2(mount.mountpoint, _MNT_FORCE | _UMOUNT_NOFOLLOW)
    if number == 0:
        return
    if number != errno.EPERM:  # in use: the connection has ended all the same; or just gone
        return
    # Not root: the owner of a mount may end its connection here (where fusectl is mounted).
    with contextlib.suppress(OSError):
        (Path("/sys/fs/fuse/connections") / mount.device.partition(":")[2] / "abort").write_text("1")


def is_dead(mountpoint: Path) -> bool:
    """Whether the daemon behind a mount of ours has died (every access answers ENOTCONN)."""
    try:
        os.statvfs(mountpoint)  # unlike stat(2) never answered from the kernel's cache
    except OSError as error:
        return error.errno == errno.ENOTCONN
    return False


def unmount(mountpoint: Path, *, lazy: bool = False) -> None:
    """umount(2); ``lazy`` takes it out of the tree at once, even while it is in use.

    Raises:
        Busy: in use (never when lazy); the hint names users.
        NotFound: nothing is mounted there.
        NotPermitted, Unavailable, IOFailure: as the kernel or fusermount3 says.
    """
    number = _umount2(mountpoint, _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazy else 0))
    if number == 0:
        return
    if number == errno.EPERM:
        _fusermount(mountpoint, lazy=lazy)
    elif number == errno.EBUSY:
        raise _busy(mountpoint)
    elif number in (errno.EINVAL, errno.ENOENT):
        raise NotFound(f"nothing is mounted at {mountpoint}")
    else:
        raise IOFailure(f"cannot unmount {mountpoint}: {os.strerror(number)}")


def _fusermount(mountpoint: Path, *, lazy: bool) -> None:
    import subprocess

    command = ["fusermount3", "-u", *(["-z"] if lazy else []), "--", str(mountpoint)]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_FUSERMOUNT_SECONDS, check=False
        )
    except FileNotFoundError:
        raise Unavailable(
            "fusermount3 is not installed", hint="apt install fuse3, or run it as root"
        ) from None
    except subprocess.TimeoutExpired:
        raise IOFailure(f"fusermount3 did not unmount {mountpoint} in {_FUSERMOUNT_SECONDS} s") from None
    if done.returncode == 0:
        return
    complaint = done.stderr.decode(errors="replace").strip().splitlines()
    text = complaint[-1] if complaint else f"exit status {done.returncode}"
    if "busy" in text.lower():
        raise _busy(mountpoint)
    if at(mountpoint) is None:
        raise NotFound(f"nothing is mounted at {mountpoint}")
    raise NotPermitted(f"cannot unmount {mountpoint}: {text}")


def _busy(mountpoint: Path) -> Busy:
    users = holders(mountpoint)
    shown = ", ".join(f"{name} (pid {pid})" for pid, name in users[:_HOLDERS_SHOWN])
    more = f" and {len(users) - _HOLDERS_SHOWN} more" if len(users) > _HOLDERS_SHOWN else ""
    hint = f"used by {shown}{more}" if users else "close the files and leave the directories in it"
    return Busy(f"{mountpoint} is in use", hint=hint)


def holders(mountpoint: Path) -> list[tuple[int, str]]:
    """(pid, command) of processes with a directory or file of the mount open, as far as we may look."""
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue
        try:
            links = [process / "cwd", process / "root", *(process / "fd").iterdir()]
            if any(_points_into(link, mountpoint) for link in links):
                found.append((int(process.name), (process / "comm").read_text(errors="replace").strip()))
        except OSError:  # ended, or not ours to look at
            continue
    return found


def _points_into(link: Path, mountpoint: Path) -> bool:
    try:
        target = os.fspath(link.readlink())
    except OSError:
        return False
    return target == str(mountpoint) or target.startswith(f"{mountpoint}/")
