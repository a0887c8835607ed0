"""The state machine that drives a store and the oracle through the same operations (needs hypothesis).

A subclass says what ``subject`` is and how exactly its errors must agree.  Every head and snapshot is compared
at the end, and by a rule now and then; then the store is checked, emptied, and must hold no byte any more.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, multiple, precondition, rule

from snapfs import api
from snapfs.errors import Conflict, Invalid, NotADirectory, SnapfsError
from snapfs.testing import trees
from snapfs.testing.changes import check_changes
from snapfs.testing.oracle import Frozen, Oracle, nearest
from snapfs.testing.subject import Subject
from snapfs.testing.trees import DIRECTORY, FIFO, FILE, SYMLINK, Node, Path

NAMES = st.sampled_from([b"a", b"b", b"c", b"\xff\n"])
Place = tuple[int, bytes]
PLACES = st.tuples(st.integers(0), NAMES)
DEPTH_MAX = 4
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(tuple)
KINDS = st.sampled_from([FILE, FILE, FILE, DIRECTORY, DIRECTORY, SYMLINK, FIFO])
SIZES = st.one_of(st.integers(1, 300), st.integers(4000, 9000), st.integers(60_000, 140_000), st.just(700_000))
OFFSETS = st.one_of(st.just(0), st.integers(0, 20_000), st.sampled_from([4096, 65_536, 262_144, 1 << 20]))
XATTRS = st.sampled_from([b"user.one", b"user.two"])


def some_bytes(seed: int, size: int) -> bytes:
    """Few seeds, so that contents meet again; half of them compress well."""
    data = random.Random(seed).randbytes(size if seed % 2 else min(size, 100))
    return (data * (size // len(data) + 1))[:size]


class StoreMachine(RuleBasedStateMachine):
    subject: Subject
    volumes = Bundle("volumes")
    snapshots = Bundle("snapshots")

    def make_subject(self) -> Subject:
        raise NotImplementedError

    def same_error(self, expected: SnapfsError, found: Exception) -> bool:
        """Whether the subject refused for the right reason."""
        return type(found) is type(expected)

    def __init__(self) -> None:
        super().__init__()
        self.oracle = Oracle()
        self.subject = self.make_subject()
        self.saved = 0

    def both(self, method: str, *args: Any, **kwargs: Any) -> bool:
        """Ask both; whether they did it.  They must agree on that."""
        expected: SnapfsError | None = None
        try:
            getattr(self.oracle, method)(*args, **kwargs)
        except SnapfsError as error:
            expected = error
        try:
            getattr(self.subject, method)(*args, **kwargs)
        except (SnapfsError, OSError) as error:
            if expected is None or not self.same_error(expected, error):
                raise
        else:
            assert expected is None, f"{method}{args} should fail with {expected!r}"
        return expected is None

    def content(self, method: str, volume: str, path: Path, *args: Any, **kwargs: Any) -> None:
        """An operation that sets a file's mtime, which is then set to what the model knows."""
        if volume in self.oracle.volumes and self.both(method, volume, path, *args, **kwargs):
            self.both("set_mtime", volume, path, self.oracle.tick())

    # -- volumes

    @initialize(target=volumes)
    def first(self) -> str:
        if "data" in self.oracle.volumes:
            return "data"
        self.both("create_volume", "data")
        for path in ((b"a",), (b"b",), (b"a", b"c")):
            self.content("make", "data", path, DIRECTORY, 0o755)
            self.content("make", "data", (*path, b"x"), FILE, 0o644)
            self.content("write", "data", (*path, b"x"), 0, some_bytes(len(path), 5000))
        return "data"

    @initialize(target=snapshots)
    def first_snapshot(self) -> tuple[str, str]:
        if "data" not in self.oracle.volumes:
            self.first()
        self.both("snapshot", "data", "zero")
        return "data", "zero"

    @rule(target=volumes, name=st.sampled_from(["data", "more"]))
    def create_volume(self, name: str) -> str | Any:
        return name if self.both("create_volume", name) else multiple()

    @rule(target=volumes, snapshot=snapshots, new=st.sampled_from(["clone", "again"]))
    def clone(self, snapshot: tuple[str, str], new: str) -> str | Any:
        return new if self.both("clone", *snapshot, new) else multiple()

    @precondition(lambda self: len(self.oracle.volumes) > 1)
    @rule(name=volumes, snapshots=st.booleans())
    def remove_volume(self, name: str, snapshots: bool) -> None:
        self.both("remove_volume", name, snapshots=snapshots)

    # -- files

    @rule(volume=volumes, place=PLACES, kind=KINDS, mode=st.sampled_from([0o755, 0o600]))
    def make(self, volume: str, place: Place, kind: str, mode: int) -> None:
        path = self._place(volume, place)
        mode = 0o777 if kind == SYMLINK else mode
        self.content("make", volume, path, kind, mode, b"to/" + path[-1] if kind == SYMLINK else b"")

    @rule(volume=volumes, place=PLACES)
    def make_directory(self, volume: str, place: Place) -> None:
        self.content("make", volume, self._place(volume, place), DIRECTORY, 0o755)

    @rule(volume=volumes, place=PLACES, seed=st.integers(0, 5), size=SIZES)
    def new_file(self, volume: str, place: Place, seed: int, size: int) -> None:
        path = self._place(volume, place)
        self.content("make", volume, path, FILE, 0o644)
        self.content("write", volume, path, 0, some_bytes(seed, size))

    @rule(volume=volumes, pick=st.integers(0), offset=OFFSETS, seed=st.integers(0, 5), size=SIZES)
    def write(self, volume: str, pick: int, offset: int, seed: int, size: int) -> None:
        path = self._existing(volume, pick, FILE)
        if path:
            self.content("write", volume, path, offset, some_bytes(seed, size))

    @rule(volume=volumes, pick=st.integers(0), places=st.lists(OFFSETS, min_size=2, max_size=4), seed=st.integers(0, 3))
    def write_several(self, volume: str, pick: int, places: list[int], seed: int) -> None:
        """Several runs that one flush stores, with contents that the file may have elsewhere."""
        path = self._existing(volume, pick, FILE)
        if path:
            for number, offset in enumerate(places):
                self.content("write", volume, path, offset, some_bytes(seed + number, 5000))

    @rule(volume=volumes, pick=st.integers(0), size=st.one_of(st.just(0), OFFSETS))
    def truncate(self, volume: str, pick: int, size: int) -> None:
        path = self._existing(volume, pick, FILE)
        if path:
            self.content("truncate", volume, path, size)

    @rule(volume=volumes, pick=st.integers(0), place=PLACES)
    def link(self, volume: str, pick: int, place: Place) -> None:
        path = self._existing(volume, pick)
        if path:
            self.both("link", volume, path, self._place(volume, place))

    @rule(volume=volumes, pick=st.integers(0))
    def remove(self, volume: str, pick: int) -> None:
        path = self._existing(volume, pick)
        if path:
            directory = self.oracle.resolve(volume, path).kind == DIRECTORY
            self.both("rmdir" if directory else "unlink", volume, path)

    @rule(volume=volumes, pick=st.integers(0))
    def remove_tree(self, volume: str, pick: int) -> None:
        path = self._existing(volume, pick, DIRECTORY)
        if path:
            below = [(path + rest, node.kind) for rest, node in self.oracle.resolve(volume, path).walk()]
            for found, kind in reversed(below):
                self.both("rmdir" if kind == DIRECTORY else "unlink", volume, found)

    @rule(volume=volumes, pick=st.integers(0), place=PLACES, flag=st.sampled_from(["", "", "noreplace"]))
    def rename(self, volume: str, pick: int, place: Place, flag: str) -> None:
        path = self._existing(volume, pick)
        if path:
            new = self._place(volume, place)
            self.both("rename", volume, path, new, noreplace=flag == "noreplace", exchange=False)

    @rule(volume=volumes, one=st.integers(0), other=st.integers(0), exchange=st.booleans())
    def rename_over(self, volume: str, one: int, other: int, exchange: bool) -> None:
        path, new = self._existing(volume, one), self._existing(volume, other)
        if path and new:
            self.both("rename", volume, path, new, noreplace=False, exchange=exchange)

    @rule(volume=volumes, one=st.integers(0), other=st.integers(0))
    def exchange_directories(self, volume: str, one: int, other: int) -> None:
        path, new = self._existing(volume, one, DIRECTORY), self._existing(volume, other, DIRECTORY)
        if path and new:
            self.both("rename", volume, path, new, noreplace=False, exchange=True)

    @rule(
        volume=volumes, path=PATHS, new=PATHS,
        method=st.sampled_from(["link", "rename", "unlink", "rmdir", "write", "truncate"]),
    )  # fmt: skip
    def anywhere(self, volume: str, path: Path, new: Path, method: str) -> None:
        """Mostly refused."""
        if volume not in self.oracle.volumes:
            return
        if method == "rename":
            self.both("rename", volume, path, new, noreplace=False, exchange=False)
        elif method == "link":
            self.both("link", volume, path, new)
        elif method == "write":
            self.content("write", volume, path, 0, b"xyz")
        elif method == "truncate":
            self.content("truncate", volume, path, 2)
        else:
            self.both(method, volume, path)

    @rule(volume=volumes, pick=st.integers(0), mode=st.sampled_from([0o600, 0o755, 0o1777]))
    def chmod(self, volume: str, pick: int, mode: int) -> None:
        path = self._existing(volume, pick)
        if path and self.oracle.resolve(volume, path).kind != SYMLINK:
            self.both("chmod", volume, path, mode)

    @rule(volume=volumes, pick=st.integers(0), name=XATTRS, size=st.integers(0, 300), flag=st.integers(0, 2))
    def setxattr(self, volume: str, pick: int, name: bytes, size: int, flag: int) -> None:
        path = self._existing(volume, pick, FILE) if self.subject.xattrs else None
        if path:
            self.both("setxattr", volume, path, name, bytes(size), create=flag == 1, replace=flag == 2)

    @rule(volume=volumes, pick=st.integers(0), name=XATTRS)
    def removexattr(self, volume: str, pick: int, name: bytes) -> None:
        path = self._existing(volume, pick, FILE) if self.subject.xattrs else None
        if path:
            self.both("removexattr", volume, path, name)

    def _place(self, volume: str, place: Place) -> Path:
        """A name in a directory that exists, if the volume does."""
        pick, name = place
        if volume not in self.oracle.volumes:
            return (name,)
        walk = self.oracle.volumes[volume].root.walk()
        directories = [path for path, node in walk if node.kind == DIRECTORY and len(path) < DEPTH_MAX]
        return (*directories[pick % len(directories)], name)

    def _existing(self, volume: str, pick: int, kind: str = "") -> Path | None:
        if volume not in self.oracle.volumes:
            return None
        nodes = self.oracle.volumes[volume].root.walk()
        paths = [path for path, node in nodes if path and kind in ("", node.kind)]
        return paths[pick % len(paths)] if paths else None

    # -- versions

    @rule(target=snapshots, volume=volumes, name=st.sampled_from(["one", "two", "three", "four"]))
    def snapshot(self, volume: str, name: str) -> tuple[str, str] | Any:
        return (volume, name) if self.both("snapshot", volume, name) else multiple()

    @rule(snapshot=consumes(snapshots))
    def remove_snapshot(self, snapshot: tuple[str, str]) -> None:
        self.both("remove_snapshot", *snapshot)

    @rule(target=snapshots, snapshot=snapshots, new=st.sampled_from(["one", "five"]))
    def rename_snapshot(self, snapshot: tuple[str, str], new: str) -> tuple[str, str] | Any:
        return (snapshot[0], new) if self.both("rename_snapshot", *snapshot, new) else multiple()

    @rule(target=snapshots, snapshot=snapshots, tag=st.sampled_from(["one", "five", "v1", "v2"]), move=st.booleans())
    def tag(self, snapshot: tuple[str, str], tag: str, move: bool) -> tuple[str, str] | Any:
        """From now on other rules may name the snapshot by its tag."""
        return (snapshot[0], tag) if self.both("tag", *snapshot, tag, move=move) else multiple()

    @rule(volume=volumes, tag=st.sampled_from(["one", "v1", "v2"]))
    def remove_tag(self, volume: str, tag: str) -> None:
        self.both("remove_tag", volume, tag)

    @rule(volume=volumes)
    def listed(self, volume: str) -> None:
        if volume in self.oracle.volumes:
            assert self.subject.listed(volume) == self.oracle.listed(volume)

    @rule(target=snapshots, snapshot=snapshots, unsaved=st.sampled_from(api.Save))
    def checkout(self, snapshot: tuple[str, str], unsaved: api.Save) -> tuple[str, str] | Any:
        volume, name = snapshot
        try:
            self.oracle.find(volume, name)
        except SnapfsError as error:
            self._refused(error, lambda: self.subject.checkout(volume, name, unsaved))
            return multiple()
        dirty = self.oracle.unsaved(volume)
        try:
            frozen = Frozen("", copy.deepcopy(self.oracle.volumes[volume].root), self.oracle.volumes[volume].parent)
            self.oracle.checkout(volume, name, discard=unsaved is not api.Save.REFUSE)
        except Conflict as error:
            self._refused(error, lambda: self.subject.checkout(volume, name, unsaved))
            return multiple()
        saved = self.subject.checkout(volume, name, unsaved)
        assert bool(saved) == (dirty and unsaved is api.Save.SAVE)
        if not saved:
            return multiple()
        frozen.name = saved
        self.oracle.volumes[volume].snapshots[saved] = frozen
        return volume, saved

    def _refused(self, expected: SnapfsError, action: Callable[[], object]) -> None:
        try:
            action()
        except (SnapfsError, OSError) as error:
            if not self.same_error(expected, error):
                raise
        else:
            raise AssertionError(f"should fail with {expected!r}")

    @rule(snapshot=snapshots, path=st.one_of(st.just(()), PATHS), pick=st.none() | st.integers(0))
    def restore(self, snapshot: tuple[str, str], path: Path, pick: int | None) -> None:
        volume, name = snapshot
        if pick is not None:
            try:
                paths = [path for path, _ in self.oracle.find(volume, name).root.walk()]
            except SnapfsError:
                return
            path = paths[pick % len(paths)]
        trial = copy.deepcopy(self.oracle)
        try:
            trial.restore(volume, name, path)
        except (Invalid, NotADirectory):
            if self._node_in(trial.find(volume, name).root, path):
                return  # how much is restored before it is refused is not said
        except SnapfsError:
            pass
        self.both("restore", volume, name, path)

    @staticmethod
    def _node_in(root: Node, path: Path) -> bool:
        return any(found == path for found, _ in root.walk())

    # -- differences

    @rule(volume=volumes)
    def status(self, volume: str) -> None:
        if volume in self.oracle.volumes:
            self.check_status(volume)

    def check_status(self, volume: str) -> None:
        owner = self.oracle.volumes[volume]
        base = nearest(owner.parent)
        check_changes(self.subject.status(volume), base.root if base else None, owner.root)

    @rule(one=snapshots, other=snapshots)
    def diff(self, one: tuple[str, str], other: tuple[str, str]) -> None:
        volume, old = one
        found = self.oracle.volumes.get(volume)
        if found and found.taken(old) and found.taken(other[1]):
            self.check_diff(volume, old, other[1])

    def check_diff(self, volume: str, old: str, new: str) -> None:
        changes = self.subject.diff(volume, old, new)
        check_changes(changes, self.oracle.find(volume, old).root, self.oracle.find(volume, new).root)

    def compare_differences(self) -> None:
        for name, volume in self.oracle.volumes.items():
            self.check_status(name)
            for one in volume.snapshots:
                for other in volume.snapshots:
                    self.check_diff(name, one, other)

    # -- the store's life

    @rule()
    def flush(self) -> None:
        self.subject.flush()

    @rule()
    def reclaim(self) -> None:
        self.subject.reclaim()

    @rule()
    def reopen(self) -> None:
        self.subject.reopen()

    @precondition(lambda self: bool(self.oracle.volumes))
    @rule()
    def compare(self) -> None:
        for name, volume in self.oracle.volumes.items():
            wrong = trees.differences(trees.shown(volume.root), self.subject.tree(name))
            assert not wrong, "\n".join([f"head of {name}:", *wrong])
            assert self.subject.listed(name) == self.oracle.listed(name)
            for snapshot, frozen in volume.snapshots.items():
                wrong = trees.differences(trees.shown(frozen.root), self.subject.tree(name, snapshot))
                assert not wrong, "\n".join([f"{name}@{snapshot}:", *wrong])

    @rule()
    def fsck(self) -> None:
        findings = self.subject.fsck()
        assert not findings, "\n".join(findings)

    def teardown(self) -> None:
        try:
            if self.oracle.volumes:
                self.compare()
                self.compare_differences()
                self.fsck()
                for name in list(self.oracle.volumes):
                    self.both("remove_volume", name, snapshots=True)
                self.subject.reclaim()
                assert self.subject.stored_bytes() == 0
                self.fsck()
        finally:
            self.subject.close()
