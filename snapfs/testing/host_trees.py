"""Trees of the host with all that a file system can hold, and how two of them differ: what a transfer must keep."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import stat
import struct
from pathlib import Path
from typing import Final

SPARSE_BYTES: Final = 5 * 1024 * 1024

_ACL_ENTRY = struct.Struct("<HHI")


def acl(*entries: tuple[int, int, int]) -> bytes:
    """A POSIX ACL as the kernel takes it, of (tag, permissions, id)."""
    return struct.pack("<I", 2) + b"".join(_ACL_ENTRY.pack(*entry) for entry in entries)


NOBODY: Final = 0xFFFFFFFF
EXAMPLE_ACL: Final = acl((1, 6, NOBODY), (2, 7, 12345), (4, 4, NOBODY), (16, 7, NOBODY), (32, 0, NOBODY))
"""user::rw-, user:12345:rwx, group::r--, mask::rwx, other::---"""


def make_tree(root: Path, *, privileged: bool, sockets: bool = True) -> None:
    """A tree of some of everything, with times in the past.

    Args:
        privileged: also devices, other owners, setuid, ACLs, ``trusted.`` attributes.
    """
    noise = random.Random(7)
    root.mkdir(exist_ok=True)
    inner = root / "a" / "b" / "deep"
    inner.mkdir(parents=True)
    (root / "empty").touch()
    (root / "small").write_bytes(b"hello\n")
    (root / "large").write_bytes(noise.randbytes(3_000_001))
    (inner / "again").write_bytes((root / "large").read_bytes())
    (root / "text").write_bytes(b"a line that comes again\n" * 60_000)
    with (root / "sparse").open("wb") as file:
        file.write(b"head")
        file.seek(SPARSE_BYTES // 2 // 65536 * 65536)
        file.write(noise.randbytes(70_000))
        file.truncate(SPARSE_BYTES)
    with (root / "hole").open("wb") as file:
        file.truncate(1_000_000)
    os.link(root / "small", inner / "linked")
    os.link(root / "large", root / "a" / "large link")
    (root / "link").symlink_to("a/b")
    (root / "dangling").symlink_to("/nowhere/" + "x" * 200)
    (inner / "out").symlink_to("../../../../../etc/passwd")
    os.link(root / "link", root / "link too", follow_symlinks=False)
    os.mkfifo(root / "fifo", 0o640)
    for name in (b"caf\xe9 \xff", "grüße ☃".encode(), b"new\nline", b" ", b"-rf", b"x" * 255, b"back\\slash\"quote'"):
        (root / os.fsdecode(name)).write_bytes(name)
    long = root / ("long" * 30)
    for part in range(3):
        long = long / f"{part}{'d' * 200}"
    long.mkdir(parents=True)
    (long / "file").write_bytes(b"far down")
    os.setxattr(root / "small", "user.note", bytes(range(256)))
    os.setxattr(root / "a", "user.directory", b"yes")
    os.setxattr(root / "text", "user.empty", b"")
    (root / "a" / "b").chmod(0o500)
    (root / "text").chmod(0o604)
    if sockets:
        with contextlib.chdir(root), socket.socket(socket.AF_UNIX) as made:
            made.bind("socket")
    if privileged:
        _privileged(root)
    for place, path in enumerate(sorted(root.rglob("*"), key=lambda path: len(path.parts), reverse=True)):
        stamp = 1_000_000_000_123_456_789 + place * 1_000_000_007
        os.utime(path, ns=(stamp - 5, stamp), follow_symlinks=False)
    os.utime(root / "empty", ns=(-1_500_000_001, -1_500_000_001))  # before 1970
    os.utime(root, ns=(17, 1_234_567_890_000_000_001))


def _privileged(root: Path) -> None:
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(root / "disk", stat.S_IFBLK | 0o600, os.makedev(259, 70000))
    os.chown(root / "text", 12345, 3_000_000)
    os.chown(root / "link", 77, 78, follow_symlinks=False)
    (root / "setuid").write_bytes(b"#!")
    (root / "setuid").chmod(0o6755)
    (root / "sticky").mkdir()
    (root / "sticky").chmod(0o1777)
    os.setxattr(root / "large", "trusted.mark", b"\0\1")
    (root / "acl").write_bytes(b"for some")
    os.setxattr(root / "acl", "system.posix_acl_access", EXAMPLE_ACL)
    os.setxattr(root / "a", "system.posix_acl_default", EXAMPLE_ACL)


Seen = dict[bytes, tuple[object, ...]]


def see(root: Path, *, atimes: bool = False, holes: bool = True, xattrs: bool = True) -> Seen:
    """All that can be seen of each path: type, mode, owner, size, times, content, xattrs, links, holes."""
    found: Seen = {}
    inodes: dict[tuple[int, int], bytes] = {}
    top = os.fsencode(root)
    pending = [top]
    while pending:
        path = pending.pop()
        info = os.lstat(path)
        name = path[len(top) + 1 :]
        content: object = None
        if stat.S_ISREG(info.st_mode):
            content = _content(path, info, holes)
        elif stat.S_ISLNK(info.st_mode):
            content = os.readlink(path)
        elif stat.S_ISDIR(info.st_mode):
            pending += sorted((os.path.join(path, entry) for entry in os.listdir(path)), reverse=True)
        elif not stat.S_ISFIFO(info.st_mode):
            content = info.st_rdev
        names = sorted(os.listxattr(path, follow_symlinks=False)) if xattrs else []
        attributes = [(name, os.getxattr(path, name, follow_symlinks=False)) for name in names]
        first = name
        if not stat.S_ISDIR(info.st_mode):
            first = min(inodes.get((info.st_dev, info.st_ino), name), name)
            inodes[info.st_dev, info.st_ino] = first
        size = info.st_size if not stat.S_ISDIR(info.st_mode) else 0
        found[name] = (
            oct(info.st_mode), info.st_uid, info.st_gid, size, info.st_mtime_ns, info.st_atime_ns if atimes else 0,
            content, attributes, first,
        )  # fmt: skip
    return found


def without_acls(seen: tuple[object, ...]) -> tuple[object, ...]:
    """As of a file system that keeps none."""
    mode, *others = seen
    attributes = others[6]
    assert isinstance(mode, str)
    assert isinstance(attributes, list)
    kept = [(name, value) for name, value in attributes if not name.startswith("system.")]
    if any(name == "system.posix_acl_access" for name, _ in attributes):
        mode = oct(int(mode, 8) & ~0o030)
    return mode, *others[:6], kept, *others[7:]


def _content(path: bytes, info: os.stat_result, holes: bool) -> object:
    fd = os.open(path, os.O_RDONLY)
    try:
        data = os.pread(fd, info.st_size, 0)
    finally:
        os.close(fd)
    return data, holes and info.st_blocks * 512 <= info.st_size // 2


def differences(one: Seen, other: Seen) -> list[str]:
    """What is not the same, a line each."""
    fields = ("mode", "uid", "gid", "size", "mtime", "atime", "content", "xattrs", "links")
    lines = [f"only in one: {path!r}" for path in sorted(one.keys() ^ other.keys())]
    for path in sorted(one.keys() & other.keys()):
        for field, have, want in zip(fields, one[path], other[path], strict=True):
            if have != want:
                lines.append(f"{path!r}: {field}: {str(have)[:200]} is not {str(want)[:200]}")
    return lines
