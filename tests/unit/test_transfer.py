"""Import and export: nothing is lost on the way in or out, nothing is reached outside of what was named, and what was
interrupted is completed by running it again."""

from __future__ import annotations

import contextlib
import io
import os
import random
import socket
import stat
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from snapfs import api
from snapfs.errors import (
    Invalid,
    NoSpace,
    NotADirectory,
    NotFound,
    QuotaExceeded,
    SnapfsError,
    Stale,
)
from snapfs.format import keys
from snapfs.store.disk import Disk
from snapfs.store.index import items
from snapfs.testing import host_trees
from snapfs.testing.engine import EngineSubject
from snapfs.types import Ino
from snapfs.volume.transfer import acl, importer, listing, reading, walk
from snapfs_cli.unpacking import Received, Unpacking

PRIVILEGED = os.geteuid() == 0
PAGE = 4096


def bring(engine: EngineSubject, source: Path, volume: str = "data", path: str = "") -> api.ImportReport:
    return engine.run(lambda: engine.service.import_tree(source=str(source), volume=volume, path=path))


def take(engine: EngineSubject, volume: str = "data", snapshot: str = "s", path: str = "") -> bytes:
    async def gather() -> bytes:
        pieces = [piece async for piece in engine.service.export_snapshot(volume=volume, snapshot=snapshot, path=path)]
        return b"".join(pieces)

    return engine.run(gather)


def freeze(engine: EngineSubject, name: str = "s", volume: str = "data") -> None:
    engine.run(lambda: engine.service.create_snapshot(volume=volume, name=name))


def unpack(archive: bytes, goal: Path, filter: str = "fully_trusted") -> Unpacking:
    goal.mkdir(exist_ok=True)
    unpacking = Unpacking(goal, filter)
    unpacking.run(Received(iter([archive[at : at + 10_007] for at in range(0, len(archive), 10_007)])))
    return unpacking


def read(engine: EngineSubject, path: str, volume: str = "data") -> bytes:
    view, ino = engine._resolve(volume, tuple(os.fsencode(path).split(b"/")))
    size = engine.lake.files.getattr(view, ino).size
    return engine.run(lambda: engine.lake.files.read(view, ino, 0, size))


def attributes(engine: EngineSubject, path: str, volume: str = "data") -> tuple[object, ...]:
    view, ino = engine._resolve(volume, tuple(os.fsencode(name) for name in path.split("/") if name))
    inode = engine.lake.files.getattr(view, ino)
    return inode.mode, inode.uid, inode.gid, inode.mtime_ns, inode.nlink


def orphans(engine: EngineSubject) -> int:
    return len(list(items(engine.lake.index, "orphans")))


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Path]:
    root = tmp_path / "source"
    host_trees.make_tree(root, privileged=PRIVILEGED, sockets=False)
    yield root
    for path in root.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o700)


# -- all of it


def test_there_and_back(engine: EngineSubject, source: Path, tmp_path: Path) -> None:
    before = host_trees.see(source)
    report = bring(engine, source, "fresh")
    assert report.failed == []
    assert report.unchanged == 0
    freeze(engine, volume="fresh")
    unpacking = unpack(take(engine, "fresh"), tmp_path / "out")
    assert unpacking.problems == []
    assert host_trees.differences(host_trees.see(tmp_path / "out"), before) == []
    assert report.files == unpacking.files == sum(not value[0].startswith("0o4") for value in before.values())  # type: ignore[attr-defined]
    assert report.directories == unpacking.directories


def test_again_nothing_is_read(engine: EngineSubject, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = bring(engine, source)

    def never(*_: object) -> None:
        raise AssertionError("something was read")

    monkeypatch.setattr(importer, "read_all", never)
    monkeypatch.setattr(importer, "Stream", never)
    again = bring(engine, source)
    assert (again.files, again.directories, again.total_bytes, again.failed) == (0, 0, 0, [])
    assert again.unchanged == first.files


def test_blocks_are_those_of_a_write(engine: EngineSubject, tmp_path: Path) -> None:
    """So importing what was written through the mount stores nothing, and the reverse."""
    root = tmp_path / "source"
    root.mkdir()
    noise = random.Random(1).randbytes(9_000_000)
    (root / "large").write_bytes(noise)
    (root / "small").write_bytes(noise[:5000])
    (root / "zeros").write_bytes(noise[:50_000] + bytes(70_000) + noise[50_000:90_000])
    for path in root.iterdir():
        name = os.fsencode(path.name)
        engine.make("data", (b"w-" + name,), "file", 0o644)
        data = path.read_bytes()
        for at in range(0, len(data), 128 * 1024):
            engine.write("data", (b"w-" + name,), at, data[at : at + 128 * 1024])
    engine.flush()
    stored = engine.lake.core.blocks.space.stored_bytes
    bring(engine, root)
    assert engine.lake.core.blocks.space.stored_bytes == stored
    for path in root.iterdir():
        assert read(engine, path.name) == path.read_bytes()
        view, ino = engine._resolve("data", (os.fsencode(path.name),))
        written = engine._resolve("data", (b"w-" + os.fsencode(path.name),))
        get = engine.lake.files.getattr
        assert get(view, ino).allocated_bytes == get(*written).allocated_bytes


def test_copies_are_stored_once(engine: EngineSubject, tmp_path: Path) -> None:
    root = tmp_path / "source"
    root.mkdir()
    data = random.Random(2).randbytes(20_000)
    for number in range(300):
        directory = root / f"{number % 7}"
        directory.mkdir(exist_ok=True)
        (directory / f"{number}").write_bytes(data)
    bring(engine, root)
    assert engine.lake.core.blocks.space.raw_bytes <= 2 * len(data)


def test_into_a_directory(engine: EngineSubject, source: Path) -> None:
    bring(engine, source, path="in/here")
    assert read(engine, "in/here/small") == b"hello\n"
    assert attributes(engine, "in/here")[3] == 1_234_567_890_000_000_001
    assert read(engine, "in/here/a/b/deep/linked") == b"hello\n"
    with pytest.raises(NotADirectory):
        bring(engine, source, path="f/below")
    with pytest.raises(Invalid):
        bring(engine, source, path="../out")


# -- what is there already


def test_changes_come_in(engine: EngineSubject, source: Path) -> None:
    bring(engine, source)
    (source / "small").write_bytes(b"other\n")  # of the same size, under both names
    (source / "new").write_bytes(b"new")
    (source / "text").chmod(0o640)
    engine.make("data", (b"own",), "file", 0o600)
    report = bring(engine, source)
    assert report.failed == []
    assert read(engine, "small") == read(engine, "a/b/deep/linked") == b"other\n"
    assert attributes(engine, "small")[4] == 2
    assert read(engine, "new") == b"new"
    assert attributes(engine, "text")[0] == stat.S_IFREG | 0o640
    assert attributes(engine, "own")[0] == stat.S_IFREG | 0o600
    assert report.files == 4


def test_the_same_bytes_with_another_time(engine: EngineSubject, tmp_path: Path) -> None:
    """The new file has the blocks of the one that it replaces, whose references go in the same step."""
    root = tmp_path / "source"
    root.mkdir()
    (root / "f").write_bytes(b"x" * 3000)
    (root / "g").write_bytes(random.Random(3).randbytes(2_000_000))
    bring(engine, root)
    stored = engine.lake.core.blocks.space.stored_bytes
    for path in root.iterdir():
        os.utime(path, ns=(1, 2))
    assert bring(engine, root).files == 2
    assert engine.lake.core.blocks.space.stored_bytes == stored
    assert read(engine, "g") == (root / "g").read_bytes()


def test_links_are_made_and_undone(engine: EngineSubject, tmp_path: Path) -> None:
    root = tmp_path / "source"
    (root / "d").mkdir(parents=True)
    (root / "one").write_bytes(b"1")
    os.link(root / "one", root / "d" / "two")
    bring(engine, root)
    assert attributes(engine, "one")[4] == 2
    times = (root / "one").stat().st_mtime_ns
    (root / "one").unlink()
    (root / "one").write_bytes(b"1")
    os.utime(root / "one", ns=(times, times))
    bring(engine, root)
    assert attributes(engine, "one")[4] == attributes(engine, "d/two")[4] == 1
    (root / "one").unlink()
    os.link(root / "d" / "two", root / "one")
    bring(engine, root)
    assert attributes(engine, "one")[4] == 2


def test_what_is_in_the_way(engine: EngineSubject, tmp_path: Path) -> None:
    root = tmp_path / "source"
    (root / "was a file").mkdir(parents=True)
    (root / "was a file" / "x").write_bytes(b"x")
    (root / "is a directory").write_bytes(b"y")
    (root / "big in the way").write_bytes(bytes(range(256)) * 8192)
    engine.make("data", (b"was a file",), "file", 0o644)
    engine.make("data", (b"is a directory",), "directory", 0o755)
    engine.make("data", (b"big in the way",), "directory", 0o755)
    report = bring(engine, root)
    assert report.failures == 2
    assert all("a directory is in its way" in line for line in report.failed)
    assert read(engine, "was a file/x") == b"x"
    assert stat.S_ISDIR(attributes(engine, "is a directory")[0])  # type: ignore[arg-type]
    assert orphans(engine) == 0


def test_somebody_else_makes_names(engine: EngineSubject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that a program makes in a directory that the import has just made is replaced, not lost sight of."""
    root = tmp_path / "source"
    (root / "d").mkdir(parents=True)
    for number in range(20):
        (root / "d" / f"{number}").write_bytes(b"%d" % number)
    original = reading.read_all

    def read_all(*given: object) -> object:
        def meddle() -> None:
            with contextlib.suppress(SnapfsError):
                for number in range(0, 20, 3):
                    engine.make("data", (b"d", b"%d" % number), "file", 0o600)
                freeze_now()

        def freeze_now() -> None:
            volume = engine.lake.volumes.get("data")
            engine.lake.snapshots.freeze(volume, name="between")

        trio.from_thread.run_sync(meddle)
        return original(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(importer, "read_all", read_all)
    assert bring(engine, root).failed == []
    assert [read(engine, f"d/{number}") for number in range(20)] == [b"%d" % number for number in range(20)]


# -- hostile sources


def test_symbolic_links_are_never_followed(engine: EngineSubject, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_bytes(b"secret")
    root = tmp_path / "source"
    root.mkdir()
    (root / "d").symlink_to(secret)
    (root / "f").symlink_to(secret / "key")
    report = bring(engine, root)
    assert report.files == 2
    assert report.directories == 0
    view, ino = engine._resolve("data", (b"d",))
    assert engine.lake.files.readlink(view, ino) == os.fsencode(secret)


@pytest.mark.parametrize("large", [False, True])
def test_a_file_becomes_a_link_while_it_is_read(
    engine: EngineSubject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: bool
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret" * 400_000)
    root = tmp_path / "source"
    (root / "d").mkdir(parents=True)
    (root / "d" / "f").write_bytes(b"public" * (400_000 if large else 1))
    original = walk.Source.open_file

    def open_file(self: walk.Source, item: walk.Item) -> int:
        path = root / "d" / "f"
        if not path.is_symlink():
            path.unlink()
            path.symlink_to(secret)
        return original(self, item)

    monkeypatch.setattr(walk.Source, "open_file", open_file)
    report = bring(engine, root)
    if large:
        assert report.failed == [f"d/f: {reading.CHANGING}"]
    else:  # it is read again, as what it is now
        assert report.failed == []
        assert attributes(engine, "d/f")[0] == stat.S_IFLNK | 0o777
    assert orphans(engine) == 0


def test_a_directory_is_replaced_by_a_link(
    engine: EngineSubject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_bytes(b"secret")
    root = tmp_path / "source"
    (root / "d").mkdir(parents=True)
    original = walk.Source.list

    def list_it(self: walk.Source, directory: walk.Directory) -> walk.Listing:
        if directory.parent is not None and not (root / "d").is_symlink():
            (root / "d").rmdir()
            (root / "d").symlink_to(secret)
        return original(self, directory)

    monkeypatch.setattr(walk.Source, "list", list_it)
    report = bring(engine, root)
    assert report.failures == 1
    assert report.failed[0].startswith("d: ")
    with pytest.raises(NotFound):
        read(engine, "d/key")


@pytest.mark.parametrize("size", [100, 3_000_000])
def test_a_file_that_changes_is_read_again(
    engine: EngineSubject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    root = tmp_path / "source"
    root.mkdir()
    path = root / "f"
    path.write_bytes(b"a" * size)
    original = reading.same
    asked = 0

    def same(before: os.stat_result, after: os.stat_result) -> bool:
        nonlocal asked
        asked += 1
        if asked > 1:
            return original(before, after)
        path.write_bytes(b"b" * (size + 1))
        os.utime(path, ns=(5, 5))
        return original(before, path.stat())

    monkeypatch.setattr(reading, "same", same)
    report = bring(engine, root)
    assert report.failed == []
    assert asked > 1
    assert read(engine, "f") == b"b" * (size + 1)
    assert attributes(engine, "f")[3] == 5
    assert orphans(engine) == 0


@pytest.mark.parametrize("size", [100, 3_000_000])
def test_a_file_that_never_stops_changing_is_told(
    engine: EngineSubject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    root = tmp_path / "source"
    root.mkdir()
    (root / "f").write_bytes(b"a" * size)
    monkeypatch.setattr(reading, "same", lambda *_: False)
    report = bring(engine, root)
    assert report.failed == [f"f: {reading.CHANGING}"]
    assert read(engine, "f") == b"a" * size
    assert orphans(engine) == 0


def test_odd_files_do_not_hang(engine: EngineSubject, tmp_path: Path) -> None:
    root = tmp_path / "source"
    root.mkdir()
    os.mkfifo(root / "fifo")
    with contextlib.chdir(root), socket.socket(socket.AF_UNIX) as made:
        made.bind("socket")
    assert bring(engine, root).files == 2
    assert stat.S_ISSOCK(attributes(engine, "socket")[0])  # type: ignore[arg-type]


def test_the_store_itself_is_refused(engine: EngineSubject, tmp_path: Path) -> None:
    for place in (engine.path, engine.path / "segments"):
        with pytest.raises(Invalid, match="the store itself"):
            bring(engine, place)
    report = bring(engine, tmp_path, path="all")
    assert report.failed == ["store: it is the store itself"]


def test_sources_that_cannot_be(engine: EngineSubject, tmp_path: Path) -> None:
    with pytest.raises(Invalid):
        bring(engine, Path("relative"))
    with pytest.raises(NotFound):
        bring(engine, tmp_path / "missing")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectory):
        bring(engine, tmp_path / "file")
    assert [volume.name for volume in engine.lake.volumes.all()] == ["data"]


def test_snap_is_taken(engine: EngineSubject, tmp_path: Path) -> None:
    root = tmp_path / "source"
    (root / ".snap").mkdir(parents=True)
    (root / "d" / ".snap").mkdir(parents=True)
    report = bring(engine, root)
    assert report.failures == 1
    assert report.failed[0].startswith(".snap: ")
    assert report.directories == 2


def test_a_directory_with_many_entries(engine: EngineSubject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "SLICE_MAX", 10)
    monkeypatch.setattr(listing, "SLICE_MAX", 10)
    monkeypatch.setattr(walk, "OPEN_MAX", 2)
    root = tmp_path / "source"
    for number in range(57):
        (root / f"d{number}" / "e" / "f").mkdir(parents=True)
        (root / f"d{number}" / "e" / "f" / "g").write_bytes(b"%d" % number)
        (root / f"{number}").write_bytes(b"x")
    assert bring(engine, root).files == 114
    assert read(engine, "d56/e/f/g") == b"56"
    assert attributes(engine, "")[4] == 2 + 57


# -- no room


@pytest.mark.parametrize("large", [False, True])
def test_a_quota_ends_it(engine: EngineSubject, tmp_path: Path, large: bool) -> None:
    root = tmp_path / "source"
    root.mkdir()
    noise = random.Random(4)
    for number in range(8):
        (root / f"{number}").write_bytes(noise.randbytes(3_000_000 if large else 30_000))
    limit = 7_000_000 if large else 100_000
    engine.run(lambda: engine.service.update_volume(name="data", quota_bytes=limit))
    with pytest.raises(QuotaExceeded):
        bring(engine, root)
    used = engine.run(lambda: engine.service.get_volume(name="data")).used_bytes
    assert 0 < used <= limit
    assert orphans(engine) == 0
    engine.run(lambda: engine.service.update_volume(name="data", quota_bytes=0))
    report = bring(engine, root)
    assert report.failed == []
    assert report.unchanged + report.files == 8
    assert report.unchanged > 0


class FullDisk(Disk):
    free = 1 << 40

    def free_bytes(self, path: Path) -> tuple[int, int]:
        return self.free, 1 << 41


def test_a_full_disk_ends_it(tmp_path: Path) -> None:
    disk = FullDisk()
    engine = EngineSubject(tmp_path / "store", disk=disk)
    engine.create_volume("data")
    root = tmp_path / "source"
    root.mkdir()
    (root / "f").write_bytes(random.Random(5).randbytes(100_000))
    engine.lake.core.forget_free_space()
    disk.free = 1 << 20
    with pytest.raises(NoSpace):
        bring(engine, root)
    disk.free = 1 << 40
    engine.lake.core.forget_free_space()
    assert bring(engine, root).files == 1
    assert engine.fsck() == []
    engine.close()


def test_a_checkout_amid_an_import_ends_it(
    engine: EngineSubject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    freeze(engine, "before")
    root = tmp_path / "source"
    (root / "d").mkdir(parents=True)
    (root / "d" / "f").write_bytes(random.Random(6).randbytes(9_000_000))
    original = reading.Stream.window

    def window(self: reading.Stream) -> object:
        chunks = original(self)
        if self.end > 5_000_000:
            trio.from_thread.run(
                lambda: engine.service.checkout(volume="data", snapshot="before", unsaved=api.Save.DISCARD)
            )
        return chunks

    monkeypatch.setattr(reading.Stream, "window", window)
    with pytest.raises(Stale):
        bring(engine, root)
    assert orphans(engine) == 0
    monkeypatch.undo()
    assert bring(engine, root).files == 1


def test_a_volume_that_is_removed_amid_an_import(
    engine: EngineSubject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "source"
    root.mkdir()
    for number in range(600):
        (root / f"{number}").write_bytes(b"%d" % number)
    (root / "large").write_bytes(random.Random(9).randbytes(9_000_000))
    original = reading.Stream.window

    def window(self: reading.Stream) -> object:
        chunks = original(self)
        with contextlib.suppress(NotFound):
            trio.from_thread.run(lambda: engine.service.delete_volume(name="other", force=True, purge=True))
        return chunks

    monkeypatch.setattr(reading.Stream, "window", window)
    with pytest.raises(Stale):
        bring(engine, root, "other")
    assert orphans(engine) == 0


# -- access control lists


def test_the_owning_group_gets_no_more_than_its_acl_says(engine: EngineSubject, tmp_path: Path) -> None:
    if not PRIVILEGED:
        pytest.skip("sets ACLs of other users")
    root = tmp_path / "source"
    root.mkdir()
    (root / "f").write_bytes(b"x")
    os.setxattr(root / "f", "system.posix_acl_access", host_trees.EXAMPLE_ACL)
    assert stat.S_IMODE((root / "f").stat().st_mode) == 0o670
    bring(engine, root)
    assert attributes(engine, "f")[0] == stat.S_IFREG | 0o640
    assert bring(engine, root).unchanged == 1
    freeze(engine)
    unpack(take(engine), tmp_path / "out")
    assert os.getxattr(tmp_path / "out" / "f", "system.posix_acl_access") == host_trees.EXAMPLE_ACL
    engine.lake.files.setattr(*engine._resolve("data", (b"f",)), mode=0o600)  # so the ACL does not hold any more
    freeze(engine, "later")
    unpack(take(engine, snapshot="later"), tmp_path / "later")
    assert stat.S_IMODE((tmp_path / "later" / "f").stat().st_mode) == 0o600
    assert os.listxattr(tmp_path / "later" / "f") == []


def test_damaged_acls() -> None:
    for broken in (b"", b"\2\0\0\0", host_trees.EXAMPLE_ACL[:-1], b"\3" + host_trees.EXAMPLE_ACL[1:]):
        assert acl.narrowed(0o100664, broken) == 0o100664
        assert acl.original(0o100664, broken) is None


# -- archives


def test_a_part_of_a_snapshot(engine: EngineSubject, source: Path) -> None:
    bring(engine, source)
    freeze(engine)
    with tarfile.open(fileobj=io.BytesIO(take(engine, path="a/b"))) as tar:
        assert tar.getnames() == [
            ".",
            "deep",
            *sorted(["deep/again", "deep/linked", "deep/out"], key=tar.getnames().index),
        ]
    with tarfile.open(fileobj=io.BytesIO(take(engine, path="small"))) as tar:
        assert tar.getnames() == ["small"]
    with pytest.raises(NotFound):
        take(engine, path="small/x")
    with pytest.raises(NotFound):
        take(engine, snapshot="none")


def test_tar_reads_it(engine: EngineSubject, source: Path, tmp_path: Path) -> None:
    """GNU tar understands the archive: names, times, links, holes, attributes."""
    if not PRIVILEGED:
        pytest.skip("GNU tar sets owners as root only")
    bring(engine, source, "fresh")
    freeze(engine, volume="fresh")
    (tmp_path / "s.tar").write_bytes(take(engine, "fresh"))
    (tmp_path / "out").mkdir()
    command = ["tar", "-xpf", tmp_path / "s.tar", "-C", tmp_path / "out", "--xattrs", "--xattrs-include=*"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 0, done.stderr
    assert host_trees.differences(host_trees.see(tmp_path / "out"), host_trees.see(source)) == []


def test_sockets_are_told(engine: EngineSubject, tmp_path: Path) -> None:
    root = tmp_path / "source"
    root.mkdir()
    (root / "f").touch()
    with contextlib.chdir(root), socket.socket(socket.AF_UNIX) as made:
        made.bind("socket")
    bring(engine, root, "fresh")
    freeze(engine, volume="fresh")
    unpacking = unpack(take(engine, "fresh"), tmp_path / "out")
    assert unpacking.problems == ["1 sockets were left out: a tar archive cannot hold them"]
    assert os.listdir(tmp_path / "out") == ["f"]


def test_a_large_file_with_many_holes(engine: EngineSubject, tmp_path: Path) -> None:
    root = tmp_path / "source"
    root.mkdir()
    with (root / "f").open("wb") as file:
        for number in range(1500):
            file.seek(number * 32768)
            file.write(b"%d" % number * 100)
        file.truncate(1 << 40)
    bring(engine, root, "fresh")
    freeze(engine, volume="fresh")
    archive = take(engine, "fresh")
    assert len(archive) < 10_000_000
    unpack(archive, tmp_path / "out")
    with (tmp_path / "out" / "f").open("rb") as file, (root / "f").open("rb") as other:
        assert file.read(1500 * 32768) == other.read(1500 * 32768)
        assert file.seek(0, os.SEEK_END) == 1 << 40


def member(name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", **given: object) -> Callable[..., None]:
    def add(tar: tarfile.TarFile) -> None:
        info = tarfile.TarInfo(name)
        info.type, info.size, info.mode = kind, len(data), 0o644 if kind != tarfile.DIRTYPE else 0o755
        for key, value in given.items():
            setattr(info, key, value)
        tar.addfile(info, io.BytesIO(data))

    return add


def archive_of(*members: Callable[[tarfile.TarFile], None]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for add in members:
            add(tar)
    return file.getvalue()


HOSTILE = {
    "dots": [member("../evil", data=b"x")],
    "dots inside": [member("a/../../evil", data=b"x")],
    "through a link": [member("a", tarfile.SYMTYPE, linkname="{outside}"), member("a/evil", data=b"x")],
    "through a link to above": [member("a", tarfile.SYMTYPE, linkname=".."), member("a/evil", data=b"x")],
    "into a linked directory": [member("a", tarfile.SYMTYPE, linkname="{outside}"), member("a/b", tarfile.DIRTYPE)],
    "a hard link to outside": [member("evil", tarfile.LNKTYPE, linkname="../outside/there")],
    "a hard link through a link": [
        member("a", tarfile.SYMTYPE, linkname="{outside}"), member("evil", tarfile.LNKTYPE, linkname="a/there"),
        member("evil", data=b"x"),
    ],
    "over a link": [member("a", tarfile.SYMTYPE, linkname="{outside}/there"), member("a", data=b"x")],
    "attributes of a link": [
        member("a", tarfile.SYMTYPE, linkname="{outside}/there", mode=0o777, uid=1, pax_headers={"mtime": "5"}),
    ],
    "a directory over a link": [
        member("a", tarfile.SYMTYPE, linkname="{outside}"), member("a", tarfile.DIRTYPE), member("a/evil", data=b"x"),
    ],
    "odd numbers": [
        member("a", data=b"x", pax_headers={"mtime": "1e999999999", "atime": "nan", "SCHILY.xattr.user.": "x"}),
        member("b", data=b"x", pax_headers={"mtime": "-inf", "SCHILY.xattr.user.a\0b": "y"}),
    ],
}  # fmt: skip


@pytest.mark.parametrize("filter", ["data", "tar", "fully_trusted"])
@pytest.mark.parametrize("case", HOSTILE)
def test_nothing_is_written_outside(tmp_path: Path, case: str, filter: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "there").write_bytes(b"old")
    before = host_trees.see(outside)
    above = os.listdir(tmp_path)

    def fill(add: Callable[[tarfile.TarFile], None]) -> Callable[[tarfile.TarFile], None]:
        def filled(tar: tarfile.TarFile) -> None:
            original = tar.addfile

            def addfile(info: tarfile.TarInfo, data: object = None) -> None:
                info.linkname = info.linkname.replace("{outside}", str(outside))
                original(info, data)  # type: ignore[arg-type]

            tar.addfile = addfile  # type: ignore[method-assign]
            try:
                add(tar)
            finally:
                tar.addfile = original  # type: ignore[method-assign]

        return filled

    archive = archive_of(*map(fill, HOSTILE[case]))
    with contextlib.suppress(Invalid):
        unpack(archive, tmp_path / "out", filter)
    assert host_trees.differences(host_trees.see(outside), before) == []
    assert sorted(os.listdir(tmp_path)) == sorted([*above, "out"])
    assert (outside / "there").stat().st_nlink == 1


def test_filters(tmp_path: Path) -> None:
    def attributed(**given: object) -> Callable[..., None]:
        return member("f", data=b"x", mode=0o6777, pax_headers={"SCHILY.xattr.user.a": "1", **given})

    archive = archive_of(attributed(), member("away", tarfile.SYMTYPE, linkname="/etc"))
    for filter, mode in (("tar", 0o755), ("data", 0o755), ("fully_trusted", 0o6777)):
        unpacking = unpack(archive, tmp_path / filter, filter)
        assert stat.S_IMODE((tmp_path / filter / "f").stat().st_mode) == mode
        assert os.getxattr(tmp_path / filter / "f", "user.a") == b"1"
        assert (tmp_path / filter / "away").is_symlink() == (filter != "data")
        assert len(unpacking.problems) == (filter == "data")


@pytest.mark.parametrize("filter", ["tar", "fully_trusted"])
def test_over_an_earlier_one(tmp_path: Path, filter: str) -> None:
    """A link that is there already, and leads out, is replaced, not followed."""
    (tmp_path / "outside").mkdir()
    for goal in (tmp_path / "outside", tmp_path / "outside" / "f"):
        unpacking = unpack(
            archive_of(member("a", tarfile.SYMTYPE, linkname=str(goal)), member("b", data=b"x")),
            tmp_path / "out",
            filter,
        )
        assert unpacking.problems == []
        assert (tmp_path / "out" / "a").readlink() == goal
    unpack(archive_of(member("a", data=b"new")), tmp_path / "out", filter)
    assert (tmp_path / "out" / "a").read_bytes() == b"new"
    assert list((tmp_path / "outside").iterdir()) == []


@pytest.mark.parametrize("given", [
    {"name": "a", "kind": tarfile.SYMTYPE, "pax_headers": {"linkpath": "a\0b"}},
    {"name": "a", "kind": tarfile.LNKTYPE, "pax_headers": {"linkpath": "a\0b"}},
    {"name": "GNUSparseFile.0/a", "data": b"1\n99999999999999999999999\n1\n".ljust(513, b"\0"), "pax_headers": {
        "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "a", "GNU.sparse.realsize": "5",
    }},
])  # fmt: skip
def test_what_cannot_be_is_told(tmp_path: Path, given: dict[str, Any]) -> None:
    with pytest.raises(Invalid, match="damaged"):
        unpack(archive_of(member(**given)), tmp_path / "out")


def test_a_damaged_archive(tmp_path: Path) -> None:
    archive = archive_of(member("f", data=bytes(5000)))
    with pytest.raises(Invalid):
        unpack(archive[:2000], tmp_path / "out")
    with pytest.raises(Invalid):
        unpack(b"no archive" * 500, tmp_path / "out")


def test_removed_while_it_is_exported(engine: EngineSubject, tmp_path: Path) -> None:
    root = tmp_path / "source"
    root.mkdir()
    (root / "f").write_bytes(random.Random(8).randbytes(3_000_000))
    bring(engine, root)
    freeze(engine)

    async def export() -> None:
        async for _ in engine.service.export_snapshot(volume="data", snapshot="s"):
            with contextlib.suppress(NotFound):
                await engine.service.delete_snapshot(volume="data", snapshot="s", purge=True)

    with pytest.raises(Stale):
        engine.run(export)


def test_keys_go_on_after_a_name() -> None:
    """How a listing goes on: behind all versions of one name, before the next."""
    one, other = (keys.dirent(Ino(7), name, 0) for name in (b"a", b"ab"))
    assert keys.versioned(one, 0) < one + b"\xff" * 9
    assert not other.startswith(one)


@pytest.mark.parametrize("hole", [0, 200_000])
def test_a_host_that_gives_less_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hole: int) -> None:
    data = random.Random(1).randbytes(50_000)
    with (tmp_path / "f").open("w+b") as file:
        file.seek(hole)
        file.write(data)
        file.flush()
        plain = os.pread
        monkeypatch.setattr(os, "pread", lambda fd, size, at: plain(fd, min(size, 1000), at))
        pieces = reading._pieces(file.fileno(), os.fstat(file.fileno()))
    found = bytearray(hole + len(data))
    for start, piece in pieces:
        found[start : start + len(piece)] = piece
    assert bytes(found) == bytes(hole) + data
