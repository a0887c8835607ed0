"""Who should not: other users, programs with privileges, writers to snapshots, names that are made to mislead."""

from __future__ import annotations

import array
import ctypes
import errno
import fcntl
import itertools
import json
import mmap
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from snapfs import mounts
from snapfs.testing.mounted import MountedStore

PROGRAM = Path(__file__).with_name("user_program.py")
ROOT_ONLY = pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
USER = 54321
"""Has no files and no processes on any sane machine."""

FS_IOC_SETFLAGS = 0x40086602
FS_IMMUTABLE_FL = 0x10
MS_BIND, MS_REMOUNT, MNT_DETACH = 4096, 32, 2

_libc = ctypes.CDLL(None, use_errno=True)


class User:
    """Another user (or root, as a process of its own), in a directory; every operation of ``user_program``."""

    def __init__(self, directory: Path, uid: int, gid: int, *groups: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(PROGRAM), str(uid), str(gid), *map(str, groups)],
            cwd=directory, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __call__(self, name: str, *arguments: Any) -> Any:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps([name, *arguments]) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.communicate(timeout=10)


@pytest.fixture
def user() -> Iterator[Callable[..., User]]:
    """Makes users that end with the test."""
    made: list[User] = []

    def make(directory: Path, uid: int = USER, gid: int = USER, *groups: int) -> User:
        made.append(User(directory, uid, gid, *groups))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def shared(stores: Callable[..., MountedStore]) -> MountedStore:
    """Mounted for all users; ``data`` is for all to write in."""
    one = stores().mount(allow_other=True)
    one.volume.mkdir()
    one.volume.chmod(0o777)
    return one


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A directory of the machine's own file system, for all to write in."""
    directory = tmp_path / "plain"
    directory.mkdir()
    directory.chmod(0o777)
    return directory


def both(user: Callable[..., User], directories: tuple[Path, Path], *who: int) -> Callable[..., tuple[Any, Any]]:
    """Asks the same of a user in two directories."""
    ours, theirs = (user(directory, *who) for directory in directories)
    return lambda *call: (ours(*call), theirs(*call))


# -- privileges of a file that is changed

CHANGES = (
    ("write", "f"), ("write_nothing", "f"), ("append", "f"), ("write_direct", "f"), ("open_truncating", "f"),
    ("open_reading_truncating", "f"), ("truncate", "f"), ("truncate_up", "f"), ("truncate_to_its_size", "f"),
    ("ftruncate", "f"), ("write_mapped", "f"), ("copy_range", "f", "source"), ("send", "f", "source"),
    ("splice", "f", "source"), ("chown", "f", -1, -1), ("chown", "f", -1, USER), ("chown", "f", USER + 1, -1),
    ("chown_to_its_owner", "f"), ("chmod", "f", 0o6777), ("utime", "f"), ("link", "f", "g"), ("rename", "f", "f"),
)  # fmt: skip
PRIVILEGED_MODES = (0o4755, 0o2755, 0o6777)
OWNERS = ((USER, USER), (USER, 0), (0, USER))


def _fresh(directory: Path, mode: int, owner: tuple[int, int], capability: bytes = b"") -> None:
    for name in ("f", "g", "source"):
        (directory / name).unlink(missing_ok=True)
    for name in ("f", "source"):
        (directory / name).write_bytes(bytes(8192))
        (directory / name).chmod(0o644)
    os.chown(directory / "f", *owner)
    (directory / "f").chmod(mode)
    if capability:
        os.setxattr(directory / "f", "security.capability", capability)


@ROOT_ONLY
@pytest.mark.parametrize("uid", [USER, 0])
def test_setuid_and_setgid_go_as_they_do_on_the_machines_own_file_system(
    shared: MountedStore, plain: Path, user: Callable[..., User], uid: int
) -> None:
    ask = both(user, (shared.volume, plain), uid, uid)
    cleared = 0
    for change, mode, owner in itertools.product(CHANGES, PRIVILEGED_MODES, OWNERS):
        for directory in (shared.volume, plain):
            _fresh(directory, mode, owner)
        ours, theirs = ask(*change)
        assert ours == theirs, (change, oct(mode), owner)
        ours, theirs = (stat.S_IMODE((directory / "f").stat().st_mode) for directory in (shared.volume, plain))
        assert ours == theirs, (change, oct(mode), owner, oct(ours), oct(theirs))
        cleared += ours != mode
    assert cleared > 10


@ROOT_ONLY
def test_what_was_cleared_stays_so(shared: MountedStore, user: Callable[..., User]) -> None:
    one = user(shared.volume)
    for name in ("write", "open_truncating", "truncate", "copy_range", "chown_to_its_owner"):
        _fresh(shared.volume, 0o6777, (USER, USER))
        (shared.volume / "f").rename(shared.volume / name)
        one(name, name, *(["source"] if name == "copy_range" else []))
    one.close()
    shared.remount()
    for name in ("write", "open_truncating", "truncate", "copy_range", "chown_to_its_owner"):
        assert stat.S_IMODE((shared.volume / name).stat().st_mode) == 0o777, name


@ROOT_ONLY
@pytest.mark.parametrize("uid", [USER, 0])
def test_capabilities_go_as_they_do_on_the_machines_own_file_system(
    stores: Callable[..., MountedStore], plain: Path, user: Callable[..., User], uid: int
) -> None:
    mounted = stores().mount(allow_other=True, xattrs=True)
    mounted.volume.mkdir()
    mounted.volume.chmod(0o777)
    capability = bytes.fromhex("0100000200040000000000000000000000000000")  # version 2, cap_net_bind_service
    ask = both(user, (mounted.volume, plain), uid, uid)
    gone = 0
    for change in CHANGES:
        found = []
        for directory in (mounted.volume, plain):
            try:
                _fresh(directory, 0o777, (USER, USER), capability)
            except OSError as error:
                pytest.skip(f"capabilities cannot be set in {directory}: {error.strerror}")
        ours, theirs = ask(*change)
        assert ours == theirs, change
        for directory in (mounted.volume, plain):
            found.append("security.capability" in os.listxattr(directory / "f"))
        assert found[0] == found[1], (change, found)
        gone += not found[0]
    assert gone > 10


# -- the mount


def _options(root: Path) -> set[str]:
    """Of a mount: its own and its file system's."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, after = line.split(" - ")
        if before.split()[4] == str(root):
            return {*before.split()[5].split(","), *after.split()[2].split(",")}
    raise AssertionError(f"{root} is not mounted")


@pytest.mark.parametrize("allow_other", [False, pytest.param(True, marks=ROOT_ONLY)])
def test_options_of_the_mount(stores: Callable[..., MountedStore], allow_other: bool) -> None:
    mounted = stores().mount(allow_other=allow_other)
    options = _options(mounted.root)
    assert {"nosuid", "nodev", "default_permissions"} <= options
    assert ("allow_other" in options) == allow_other


@ROOT_ONLY
def test_a_setuid_program_gains_nothing(shared: MountedStore, user: Callable[..., User]) -> None:
    program = shutil.which("id")
    assert program
    shutil.copy(program, shared.volume / "id")
    (shared.volume / "id").chmod(0o6755)
    assert user(shared.volume)("run", "./id", "-u") == str(USER)
    assert user(shared.volume)("run", "./id", "-g") == str(USER)


@ROOT_ONLY
def test_a_device_cannot_be_opened(mounted: MountedStore) -> None:
    for name, kind, number in (("c", stat.S_IFCHR, (1, 3)), ("b", stat.S_IFBLK, (7, 0))):
        os.mknod(mounted.volume / name, kind | 0o666, os.makedev(*number))
        with pytest.raises(PermissionError):
            os.open(mounted.volume / name, os.O_RDONLY)
    mounted.snapshot("one")
    with pytest.raises(PermissionError):
        os.open(mounted.snap / "one" / "c", os.O_RDONLY)


@ROOT_ONLY
def test_others_are_kept_out_unless_they_are_let_in(mounted: MountedStore, user: Callable[..., User]) -> None:
    (mounted.volume / "f").write_bytes(b"x")
    mounted.volume.chmod(0o777)
    stranger = user(mounted.volume)
    for call in (("read", "f"), ("create", "new"), ("names", "."), ("mode", "f"), ("unlink", "f")):
        assert stranger(*call) == "EACCES", call


# -- permissions

ASKED = (
    ("read", "d/f"), ("write", "d/f"), ("append", "d/f"), ("open_truncating", "d/f"), ("truncate", "d/f"),
    ("names", "d"), ("access", "d/f", os.X_OK), ("access", "d", os.W_OK), ("create", "d/new"), ("mkdir", "d/sub"),
    ("link", "d/f", "d/link"), ("rename", "d/f", "d/moved"), ("unlink", "d/f"), ("rmdir", "d"),
    ("chmod", "d/f", 0o777), ("chown", "d/f", USER, -1), ("chown", "d/f", -1, 0), ("utime", "d/f"), ("touch", "d/f"),
    ("run", "d/f"),
)  # fmt: skip


def _arrange(directory: Path, above: int, mode: int, owner: tuple[int, int]) -> None:
    shutil.rmtree(directory / "d", ignore_errors=True)
    (directory / "d").mkdir()
    (directory / "d" / "f").write_bytes(b"#!/bin/true\n")
    os.chown(directory / "d", *owner)
    os.chown(directory / "d" / "f", *owner)
    (directory / "d" / "f").chmod(mode)
    (directory / "d").chmod(above)


@ROOT_ONLY
@pytest.mark.parametrize("above", [0o750, 0o733, 0o1777, 0o2775, 0o000])
def test_permissions_are_those_of_the_machines_own_file_system(
    shared: MountedStore, plain: Path, user: Callable[..., User], above: int
) -> None:
    for who in ((USER, USER), (USER, USER + 1, USER)):
        ask = both(user, (shared.volume, plain), *who)
        for mode, owner in itertools.product((0o600, 0o640, 0o666, 0o755, 0o007), ((0, 0), (USER, 0), (0, USER))):
            for call in ASKED:
                if call[0] in ("unlink", "rename", "truncate", "write", "chmod") or call is ASKED[0]:
                    for directory in (shared.volume, plain):
                        _arrange(directory, above, mode, owner)
                ours, theirs = ask(*call)
                assert ours == theirs, (call, oct(above), oct(mode), owner, who)


@ROOT_ONLY
def test_sticky_directories_and_links_to_what_is_not_ones_own(
    shared: MountedStore, plain: Path, user: Callable[..., User]
) -> None:
    ask = both(user, (shared.volume, plain), USER, USER)
    calls = (
        ("unlink", "d/theirs"), ("rename", "d/theirs", "d/x"), ("rename", "d/mine", "d/theirs"), ("rmdir", "d/sub"),
        ("link", "d/theirs", "d/link"), ("link", "d/special", "d/link"), ("open_creating", "d/theirs"),
        ("read", "d/way"), ("write", "d/way"), ("unlink", "d/mine"),
    )  # fmt: skip
    for directory in (shared.volume, plain):
        (directory / "d").mkdir()
        (directory / "d").chmod(0o1777)
        (directory / "d" / "sub").mkdir()
        (directory / "d" / "theirs").write_bytes(b"x")
        (directory / "d" / "special").write_bytes(b"x")
        (directory / "d" / "special").chmod(0o4755)
        (directory / "d" / "mine").write_bytes(b"x")
        os.chown(directory / "d" / "mine", USER, USER)
        (directory / "d" / "way").symlink_to("theirs")
        os.chown(directory / "d" / "way", USER + 1, USER + 1, follow_symlinks=False)
    for call in calls:
        ours, theirs = ask(*call)
        assert ours == theirs, call
    assert user(shared.volume)("unlink", "d/theirs") == "EPERM"


@ROOT_ONLY
def test_permissions_hold_inside_snapshots(shared: MountedStore, user: Callable[..., User]) -> None:
    """As they were: what was for all to read when the snapshot was made still is, there."""
    (shared.volume / "secret").write_bytes(b"s")
    (shared.volume / "secret").chmod(0o600)
    (shared.volume / "later").write_bytes(b"l")
    shared.snapshot("one")
    (shared.volume / "later").chmod(0o600)
    stranger = user(shared.volume)
    assert stranger("read", ".snap/one/secret") == "EACCES"
    assert stranger("read", "later") == "EACCES"
    assert stranger("read", ".snap/one/later") == "l"


# -- snapshots


def _changes(top: Path, elsewhere: Path) -> dict[str, Callable[[], object]]:
    """All ways to change what is below ``top``, or its files, by path."""
    file, directory = top / "f", top / "d"

    def opened(flags: int) -> Callable[[], object]:
        return lambda: os.close(os.open(file, flags, 0o600))

    def by_another_name() -> None:
        own = os.open(file, os.O_RDONLY)
        try:
            os.close(os.open(f"/proc/self/fd/{own}", os.O_RDWR))
        finally:
            os.close(own)

    def through_a_path_handle() -> None:
        own = os.open(file, os.O_PATH)
        try:
            os.chmod(f"/proc/self/fd/{own}", 0o777)
        finally:
            os.close(own)

    def mapped() -> None:
        own = os.open(file, os.O_RDONLY)
        try:
            with mmap.mmap(own, 1, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE) as pages:
                pages[0] = 0
        finally:
            os.close(own)

    def handle(act: Callable[[int], object]) -> Callable[[], object]:
        def run() -> None:
            own = os.open(file, os.O_RDONLY)
            try:
                act(own)
            finally:
                os.close(own)

        return run

    return {
        **{f"open {flags:o}": opened(flags) for flags in (
            os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC, os.O_WRONLY | os.O_TRUNC, os.O_WRONLY | os.O_APPEND,
            os.O_WRONLY | os.O_DIRECT,
        )},
        "create": lambda: os.close(os.open(top / "new", os.O_WRONLY | os.O_CREAT, 0o600)),
        "create below": lambda: os.close(os.open(directory / "new", os.O_WRONLY | os.O_CREAT, 0o600)),
        "tmpfile": lambda: os.close(os.open(directory, os.O_WRONLY | os.O_TMPFILE, 0o600)),
        "truncate": lambda: os.truncate(file, 0),
        "truncate up": lambda: os.truncate(file, 1 << 20),
        "chmod": lambda: file.chmod(0o777),
        "chmod directory": lambda: directory.chmod(0o777),
        "chmod top": lambda: top.chmod(0o777),
        "chown": lambda: os.chown(file, os.getuid(), os.getgid()),
        "lchown": lambda: os.chown(top / "l", os.getuid(), os.getgid(), follow_symlinks=False),
        "utime": lambda: os.utime(file, (1, 1)),
        "utime of a link": lambda: os.utime(top / "l", (1, 1), follow_symlinks=False),
        "unlink": lambda: os.unlink(file),
        "rmdir": lambda: os.rmdir(top / "empty"),
        "rename": lambda: os.rename(file, top / "moved"),
        "rename out": lambda: os.rename(file, elsewhere / "moved"),
        "rename in": lambda: os.rename(elsewhere / "own", top / "moved"),
        "rename over": lambda: os.rename(elsewhere / "own", file),
        "link": lambda: os.link(file, top / "link"),
        "link out": lambda: os.link(file, elsewhere / "link"),
        "link in": lambda: os.link(elsewhere / "own", top / "link"),
        "symlink": lambda: os.symlink("x", top / "link"),
        "mkdir": lambda: os.mkdir(top / "new"),
        "mknod": lambda: os.mknod(top / "new", stat.S_IFREG | 0o600),
        "mkfifo": lambda: os.mkfifo(top / "new"),
        "setxattr": lambda: os.setxattr(file, "user.x", b"1"),
        "removexattr": lambda: os.removexattr(file, "user.a"),
        "/proc/self/fd": by_another_name,
        "chmod of /proc/self/fd": through_a_path_handle,
        "mmap": mapped,
        "write to a reader": handle(lambda own: os.write(own, b"x")),
        "pwrite": handle(lambda own: os.pwrite(own, b"x", 0)),
        "ftruncate": handle(lambda own: os.ftruncate(own, 0)),
        "fallocate": handle(lambda own: os.posix_fallocate(own, 0, 1 << 20)),
        "fchmod": handle(lambda own: os.fchmod(own, 0o777)),
        "fchown": handle(lambda own: os.fchown(own, os.getuid(), os.getgid())),
        "futimens": handle(lambda own: os.utime(own, (1, 1))),
        "fsetxattr": handle(lambda own: os.setxattr(own, "user.x", b"1")),
        "chattr": handle(lambda own: fcntl.ioctl(own, FS_IOC_SETFLAGS, array.array("l", [FS_IMMUTABLE_FL]))),
    }  # fmt: skip


REFUSALS = {
    errno.EROFS, errno.EACCES, errno.EPERM, errno.EXDEV, errno.EBADF, errno.EINVAL, errno.ENOTTY, errno.EOPNOTSUPP,
    errno.EEXIST, errno.EISDIR,
}  # fmt: skip


def _seen(top: Path) -> dict[str, tuple[object, ...]]:
    """All that can be seen of a tree, but for access times."""
    found: dict[str, tuple[object, ...]] = {}
    for path in (top, *sorted(top.rglob("*"))):
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        xattrs = [(name, os.getxattr(path, name, follow_symlinks=False)) for name in _names(path)]
        found[str(path.relative_to(top))] = (
            status.st_mode, status.st_uid, status.st_gid, status.st_nlink, status.st_size, status.st_mtime_ns,
            status.st_ctime_ns, content, xattrs,
        )  # fmt: skip
    return found


def _names(path: Path) -> list[str]:
    return sorted(os.listxattr(path, follow_symlinks=False))


@pytest.fixture
def frozen(stores: Callable[..., MountedStore]) -> Iterator[MountedStore]:
    """With the snapshot ``one``, and the head changed since in one file."""
    mounted = stores().mount(xattrs=True)
    mounted.volume.mkdir()
    (mounted.volume / "f").write_bytes(b"content")
    os.setxattr(mounted.volume / "f", "user.a", b"1")
    (mounted.volume / "d").mkdir()
    (mounted.volume / "empty").mkdir()
    (mounted.volume / "d" / "g").write_bytes(bytes(300_000))
    (mounted.volume / "l").symlink_to("f")
    mounted.snapshot("one")
    (mounted.volume / "own").write_bytes(b"own")
    before = _seen(mounted.snap / "one")
    yield mounted
    assert _seen(mounted.snap / "one") == before
    mounted.remount()
    assert _seen(mounted.snap / "one") == before


def _refused(changes: dict[str, Callable[[], object]]) -> None:
    for name, change in changes.items():
        refused: OSError | None = None
        try:
            change()
        except OSError as error:
            refused = error
        assert refused is not None, f"{name} is not refused"
        assert refused.errno in REFUSALS, (name, refused)


def test_a_snapshot_cannot_be_written(frozen: MountedStore) -> None:
    _refused(_changes(frozen.snap / "one", frozen.volume))


def test_nor_by_way_of_snap_itself(frozen: MountedStore) -> None:
    snap, own = frozen.snap, frozen.volume / "own"
    _refused(
        {
            "mkdir": lambda: os.mkdir(snap / "two"),
            "create": lambda: (snap / "two").touch(),
            "symlink": lambda: os.symlink("one", snap / "two"),
            "rmdir": lambda: os.rmdir(snap / "one"),
            "unlink": lambda: os.unlink(snap / "one"),
            "rename": lambda: os.rename(snap / "one", snap / "two"),
            "rename away": lambda: os.rename(snap, frozen.volume / "snap"),
            "rename over": lambda: os.rename(own, snap / "one"),
            "rename over it": lambda: os.rename(frozen.volume / "empty", snap),
            "remove": lambda: os.rmdir(snap),
            "chmod": lambda: snap.chmod(0o777),
            "chown": lambda: os.chown(snap, 1, 1),
            "utime": lambda: os.utime(snap),
            "link": lambda: os.link(own, snap / "two"),
        }
    )
    assert os.listdir(snap) == ["one"]


def test_what_was_open_before_the_snapshot_writes_to_the_head_only(frozen: MountedStore) -> None:
    file = os.open(frozen.volume / "d" / "g", os.O_RDWR)
    try:
        with mmap.mmap(file, 300_000) as pages:
            frozen.snapshot("two")
            os.pwrite(file, b"written", 0)
            os.ftruncate(file, 200_000)
            pages[100_000] = 65
            pages.flush()
            os.fchmod(file, 0o600)
    finally:
        os.close(file)
    assert (frozen.snap / "two" / "d" / "g").read_bytes() == bytes(300_000)
    assert (frozen.snap / "two" / "d" / "g").stat().st_mode & 0o777 == 0o644
    assert (frozen.volume / "d" / "g").read_bytes()[:7] == b"written"


def test_a_private_mapping_of_a_snapshot_changes_nothing(frozen: MountedStore) -> None:
    file = os.open(frozen.snap / "one" / "f", os.O_RDONLY)
    with mmap.mmap(file, 7, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as pages:
        os.close(file)
        pages[0] = 65
        assert pages[:] == b"Aontent"
    assert (frozen.snap / "one" / "f").read_bytes() == b"content"


@ROOT_ONLY
def test_a_snapshot_cannot_be_written_through_a_bind_mount(frozen: MountedStore, tmp_path: Path) -> None:
    place = tmp_path / "bound"
    place.mkdir()
    if _libc.mount(os.fsencode(frozen.snap / "one"), os.fsencode(place), None, MS_BIND, None):
        pytest.skip(f"bind mounts are not possible: {os.strerror(ctypes.get_errno())}")
    try:
        assert mounts.at(place) is not None
        assert (place / "f").read_bytes() == b"content"
        _refused(_changes(place, frozen.volume))
    finally:
        assert _libc.umount2(os.fsencode(place), MNT_DETACH) == 0


@ROOT_ONLY
def test_nor_by_another_user(shared: MountedStore, user: Callable[..., User]) -> None:
    (shared.volume / "f").write_bytes(b"x")
    (shared.volume / "f").chmod(0o666)
    os.chown(shared.volume / "f", USER, USER)
    shared.snapshot("one")
    owner = user(shared.volume)
    for call in (
        ("write", "f"), ("open_truncating", "f"), ("truncate", "f"), ("chmod", "f", 0o777), ("chown", "f", -1, -1),
        ("utime", "f"), ("unlink", "f"), ("rename", "f", "g"), ("link", "f", "g"), ("create", "g"), ("mkdir", "g"),
    ):  # fmt: skip
        arguments = [f".snap/one/{word}" if isinstance(word, str) else word for word in call[1:]]
        assert owner(call[0], *arguments) in ("EROFS", "EPERM", "EACCES"), call
    assert owner("read", ".snap/one/f") == "x"
