"""Random system calls on the mount and in a plain directory: everything visible is the same.

What is not compared, as correct file systems differ in it: sizes and order of directories, blocks, access times that
nobody set, and the exact time of day (only whether something is of now, and that ctime moves when it should and never
goes back).  What FUSE in the kernel cannot do is left out: O_TMPFILE and fallocate(2) other than by the C library.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import mmap
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from snapfs.testing.calls import ROOT, SLOTS, Calls, Look, User

QUICK = settings(
    deadline=None, max_examples=30, stateful_step_count=50, print_blob=True, suppress_health_check=list(HealthCheck)
)
SOAK = settings(QUICK, max_examples=2_000, stateful_step_count=100)
TICK_NS = 20_000_000
"""File systems may take their times from the kernel's last timer tick: 10 ms at most."""
SNAPSHOTS_MAX = 2

NAMES = st.sampled_from([b"a", b"b", b"c", b"\xff\n"])
PATHS = st.one_of(
    NAMES,
    st.lists(NAMES, min_size=1, max_size=3).map(b"/".join),
    st.sampled_from([b"", b".", b"a/..", b"b/", b"x" * 255, b"x" * 256]),
)
PLACES = st.one_of(NAMES, NAMES, st.tuples(st.just(b"b"), NAMES).map(b"/".join), PATHS)
USERS = (
    st.sampled_from([ROOT, ROOT, ROOT, User(1234, 1234), User(1235, 1234), User(1236, 1236)])
    if os.getuid() == 0
    else st.just(ROOT)  # ourselves, whoever that is
)
IDS = st.sampled_from([-1, 0, 1234, 1235, 1236])
MODES = st.one_of(st.sampled_from([0o777, 0o644, 0o600, 0o2775, 0o1777, 0o4755, 0o6711, 0]), st.integers(0, 0o7777))
SIZES = st.one_of(st.integers(0, 300), st.integers(4000, 9000), st.sampled_from([4096, 65_536, 200_000, 1 << 20]))
OFFSETS = st.one_of(st.just(0), st.integers(0, 20_000), st.sampled_from([4096, 65_536, 300_000, 1 << 21]))
DATA = st.builds(lambda byte, size: bytes([byte]) * size, st.integers(1, 255), SIZES)
NUMBERS = st.integers(0, SLOTS - 1)
FLAGS = st.builds(
    lambda access, more: access | sum(more),
    st.sampled_from([os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR]),
    st.sets(
        st.sampled_from([os.O_CREAT, os.O_CREAT, os.O_EXCL, os.O_TRUNC, os.O_APPEND, os.O_NOFOLLOW, os.O_DIRECTORY])
    ),
)
TIMES = st.none() | st.tuples(st.integers(-(10**18), 10**18), st.integers(-(10**18), 10**18).filter(bool))
XATTRS = st.sampled_from([b"user.one", b"user.two", b"user." + b"n" * 250, b"user." + b"n" * 251, b"nospace", b"user."])
TARGETS = st.one_of(PATHS.filter(bool), st.sampled_from([b"z" * 255, b"../b", b"b/a"]))


def calls(table: dict[str, tuple[st.SearchStrategy[Any], ...]]) -> st.SearchStrategy[tuple[str, tuple[Any, ...]]]:
    return st.one_of([st.tuples(st.just(name), st.tuples(*arguments)) for name, arguments in table.items()])


NAMING = calls(
    {
        "mkdir": (PLACES, MODES),
        "mkfifo": (PLACES, MODES),
        "rmdir": (PLACES,),
        "unlink": (PLACES,),
        "symlink": (TARGETS, PLACES),
        "readlink": (PLACES,),
        "link": (PLACES, PLACES, st.booleans()),
        "rename": (PLACES, PLACES, st.sampled_from([0, 0, 0, 1, 2, 3])),
        "entries": (PLACES,),
    }
)
ATTRIBUTES = calls(
    {
        "access": (PLACES, st.integers(0, 7)),
        "stat": (PLACES,),
        "chmod": (PLACES, MODES),
        "chown": (PLACES, IDS, IDS, st.booleans()),
        "utime": (PLACES, TIMES, st.booleans()),
        "truncate": (PLACES, SIZES),
        "setxattr": (PLACES, XATTRS, st.binary(max_size=40), st.sampled_from([0, 0, 1, 2]), st.booleans()),
        "getxattr": (PLACES, XATTRS, st.booleans()),
        "removexattr": (PLACES, XATTRS, st.booleans()),
    }
)
FILES = calls(
    {
        "read": (NUMBERS, SIZES),
        "pread": (NUMBERS, SIZES, OFFSETS),
        "write": (NUMBERS, DATA),
        "pwrite": (NUMBERS, DATA, OFFSETS),
        "seek": (NUMBERS, st.one_of(OFFSETS, st.integers(-5000, 5000)), st.sampled_from([0, 1, 2])),
        "ftruncate": (NUMBERS, SIZES),
        "fstat": (NUMBERS,),
        "fsync": (NUMBERS, st.booleans()),
        "fchmod": (NUMBERS, MODES),
        "fchown": (NUMBERS, IDS, IDS),
        "allocate": (NUMBERS, st.sampled_from([0, 0, 1, -1]), st.integers(0, 20_000)),
        "copy_range": (NUMBERS, NUMBERS, SIZES, st.integers(0, 20_000), st.integers(0, 20_000)),
        "sendfile": (NUMBERS, NUMBERS, SIZES, st.integers(0, 20_000)),
        "duplicate": (NUMBERS, NUMBERS),
        "close_file": (NUMBERS,),
    }
)
LOCKS = calls(
    {
        "flock": (NUMBERS, st.sampled_from([fcntl.LOCK_EX, fcntl.LOCK_SH, fcntl.LOCK_UN])),
        "lock": (
            NUMBERS,
            st.sampled_from([fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK]),
            st.integers(0, 9),
            st.integers(0, 9),
        ),
        "locked": (NUMBERS, st.sampled_from([fcntl.F_RDLCK, fcntl.F_WRLCK]), st.integers(0, 9), st.integers(0, 9)),
    }
)
MAPS = calls(
    {
        "map": (
            NUMBERS,
            NUMBERS,
            st.sampled_from([1, 4096, 10_000, 65_536]),
            st.sampled_from([mmap.MAP_SHARED, mmap.MAP_SHARED, mmap.MAP_PRIVATE]),
            st.sampled_from([mmap.PROT_READ | mmap.PROT_WRITE, mmap.PROT_READ]),
        ),
        "map_write": (NUMBERS, st.integers(0, 20_000), st.binary(min_size=1, max_size=40)),
        "map_read": (NUMBERS, st.integers(0, 20_000), st.integers(1, 5000)),
        "map_flush": (NUMBERS,),
        "unmap": (NUMBERS,),
    }
)


class Differential(RuleBasedStateMachine):
    """Of one mounted store and one directory; each example has a volume and a directory below it of its own."""

    mounted: Any
    plain: Path
    examples: Iterator[int]

    @initialize(watched=st.booleans())
    def begin(self, watched: bool) -> None:
        self.agree = True
        self.watched = watched
        """Every step is looked at: else what kernel and daemon know may drift apart unseen, until the end."""
        self.snapshots: dict[str, dict[bytes, Look]] = {}
        self.name = f"v{next(self.examples)}"
        now_ns = time.time_ns() - TICK_NS
        self.ours, self.theirs = (
            self._directory(place / self.name, now_ns) for place in (self.mounted.root, self.plain)
        )
        self.both(ROOT, "open", 0, b"a", os.O_RDWR | os.O_CREAT, 0o666)
        self.both(ROOT, "write", 0, b"begin" * 2000)
        self.both(ROOT, "mkdir", b"b", 0o777)
        self.both(ROOT, "open", 1, b"b/a", os.O_RDWR | os.O_CREAT, 0o666)

    @staticmethod
    def _directory(path: Path, since_ns: int) -> Calls:
        path.mkdir()
        path.chmod(0o777)
        return Calls(os.fsencode(path), xattrs=True, since_ns=since_ns)

    def both(self, user: User, call: str, *arguments: Any) -> None:
        self.agree = False
        before = [side.ctimes() for side in (self.ours, self.theirs)] if self.watched else []
        began_ns = time.time_ns() - TICK_NS
        expected = self.theirs.ask(user, call, *arguments)
        found = self.ours.ask(user, call, *arguments)
        assert found == expected, f"{call}{arguments} as {user}"
        if self.watched:
            self._check_ctimes(call, before, began_ns)
        self.agree = True

    def _check_ctimes(self, call: str, before: list[dict[bytes, int]], began_ns: int) -> None:
        ours, theirs = self.ours.ctimes(), self.theirs.ctimes()
        assert ours.keys() == theirs.keys()
        for path in ours.keys() & before[0].keys():
            assert ours[path] >= before[0][path] or call == "rename", path
            if theirs[path] != before[1].get(path):
                assert ours[path] >= began_ns, path
            elif call != "rename":
                assert ours[path] == before[0][path], path

    @rule(user=USERS, call=NAMING)
    def names(self, user: User, call: tuple[str, tuple[Any, ...]]) -> None:
        self.both(user, call[0], *call[1])

    @rule(user=USERS, call=ATTRIBUTES)
    def attributes(self, user: User, call: tuple[str, tuple[Any, ...]]) -> None:
        self.both(user, call[0], *call[1])

    @rule(user=USERS, number=NUMBERS, path=PLACES, flags=FLAGS, mode=MODES)
    def open(self, user: User, number: int, path: bytes, flags: int, mode: int) -> None:
        self.both(user, "open", number, path, flags, mode)

    @rule(user=USERS, call=FILES)
    def files(self, user: User, call: tuple[str, tuple[Any, ...]]) -> None:
        self.both(user, call[0], *call[1])

    @rule(call=LOCKS)
    def locks(self, call: tuple[str, tuple[Any, ...]]) -> None:
        self.both(ROOT, call[0], *call[1])

    @rule(call=MAPS)
    def maps(self, call: tuple[str, tuple[Any, ...]]) -> None:
        self.both(ROOT, call[0], *call[1])

    @rule(path=st.sampled_from([b"", b"b", b"c"]), between=st.lists(st.tuples(USERS, NAMING), min_size=1, max_size=3))
    def list_while(self, path: bytes, between: list[tuple[User, tuple[str, tuple[Any, ...]]]]) -> None:
        """The order of entries differs, and so does when the calls take place: only names elsewhere are compared."""
        self.both(ROOT, "list_while", path, [(user, *call) for user, call in between])

    @rule(times=st.tuples(st.just(1), st.integers(1, 10**9)))
    def age(self, times: tuple[int, int]) -> None:
        """From here on a new mtime shows."""
        for path in self.theirs.look():
            self.both(ROOT, "utime", path, times, False)

    @rule()
    def look(self) -> None:
        self.agree = False
        assert self.ours.look() == self.theirs.look()
        self.agree = True

    @precondition(lambda self: len(self.snapshots) < SNAPSHOTS_MAX)
    @rule()
    def snapshot(self) -> None:
        name = f"s{len(self.snapshots)}"
        self.mounted.call("create_snapshot", volume=self.name, name=name)
        self.snapshots[name] = self.theirs.look()

    def teardown(self) -> None:
        if not hasattr(self, "theirs"):
            return
        try:
            if self.agree:
                assert self.ours.look() == self.theirs.look()
                for name, look in self.snapshots.items():
                    assert self.ours.look(b".snap/" + name.encode()) == look, name
        finally:
            self.ours.close()
            self.theirs.close()
            self.mounted.call("delete_volume", name=self.name, force=True)
            shutil.rmtree(self.plain / self.name)


@pytest.fixture
def machine(stores: Callable[[], Any], tmp_path: Path) -> Iterator[type[Differential]]:
    one = stores().mount(xattrs=True, allow_other=os.getuid() == 0)
    place = tmp_path / "plain"
    place.mkdir()
    before = os.umask(0o022)

    class Machine(Differential):
        mounted = one
        plain = place
        examples = itertools.count()

    yield Machine
    os.umask(before)
    assert one.call("check_store").findings == []


@pytest.mark.timeout(180)
def test_random_calls(machine: type[Differential]) -> None:
    run_state_machine_as_test(machine, settings=QUICK)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_random_calls_for_long(machine: type[Differential]) -> None:
    run_state_machine_as_test(machine, settings=SOAK)


class TestFound:
    """Differences that were there once."""

    def test_times_never_go_back(self, volume: Path) -> None:
        """A new file's times are the daemon's, those of what is then written to it the kernel's: by the same clock."""
        for number in range(100):
            with open(volume / str(number), "wb", 0) as file:
                made = os.fstat(file.fileno())
                file.write(b"x")
                written = os.fstat(file.fileno())
                assert written.st_ctime_ns >= made.st_ctime_ns
                assert written.st_mtime_ns >= made.st_mtime_ns

    def test_xattrs_have_known_namespaces(self, stores: Callable[[], Any]) -> None:
        one = stores().mount(xattrs=True)
        one.volume.mkdir()
        for name, number in (
            (b"nospace", errno.EOPNOTSUPP),
            (b"other.name", errno.EOPNOTSUPP),
            (b"user.", errno.EINVAL),
        ):
            with pytest.raises(OSError, check=lambda error, number=number: error.errno == number):
                os.setxattr(one.volume, name, b"value")
            with pytest.raises(OSError, check=lambda error, number=number: error.errno == number):
                os.getxattr(one.volume, name)
