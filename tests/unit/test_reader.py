"""A snapshot read in-process: as the file system that it is, by several processes, while the store changes under it."""

from __future__ import annotations

import errno
import io
import json
import multiprocessing
import multiprocessing.synchronize
import os
import pickle
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import msgspec
import pytest

from snapfs import reader
from snapfs.errors import Busy, Corrupt, Invalid, NotFound, Unsupported
from snapfs.reader import Snapshot, tree
from snapfs.reader.contents import Contents
from snapfs.reader.filesystem import SnapfsFileSystem
from snapfs.reader.place import Place
from snapfs.store import layout
from snapfs.store.reading import Reader
from snapfs.testing import upheaval
from snapfs.testing.engine import EngineSubject

ROUNDS = 6
SOAK_ROUNDS = 60
PROCESSES = 3
END_SECONDS_MAX = 50


class Kept:
    """A store with the snapshot ``data@keep``, and what its files hold."""

    def __init__(self, store: Path) -> None:
        self.store = store
        self.contents = upheaval.build(store)

    def open(self, address: str = "data@keep") -> Snapshot:
        return reader.open_snapshot(self.store, address)

    def change(self, act: Callable[[EngineSubject], None]) -> None:
        """By a process of its own, as this one may be reading."""
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                subject = EngineSubject(self.store)
                act(subject)
                subject.close()
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0

    def check(self, snapshot: Snapshot) -> int:
        """How many bytes were compared."""
        found = {name: snapshot.read_bytes(name) for name in self.contents}
        assert found == self.contents
        assert dict(zip(self.contents, snapshot.read_many(self.contents), strict=True)) == self.contents
        return sum(map(len, found.values()))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """Not to be changed."""
    return Kept(tmp_path_factory.mktemp("reader") / "store")


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path / "store")


@pytest.fixture
def snapshot(built: Kept) -> Iterator[Snapshot]:
    with built.open() as found:
        yield found


class TestFiles:
    def test_all_bytes_are_those_that_were_written(self, built: Kept, snapshot: Snapshot) -> None:
        assert built.check(snapshot) == sum(map(len, built.contents.values()))

    def test_any_part_of_a_file_can_be_read(self, built: Kept, snapshot: Snapshot) -> None:
        for name in ("text", "hole", max(built.contents, key=lambda name: len(built.contents[name]))):
            whole = built.contents[name]
            for offset in (0, 1, 65_000, len(whole) - 1, len(whole), len(whole) + 5):
                for size in (0, 1, 70_000, 1 << 40):
                    assert snapshot.read_range(name, offset, size) == whole[offset : offset + size]
        parts = [(name, offset, 1000) for name in built.contents for offset in (0, 999, 10**6)]
        assert snapshot.read_ranges(parts) == [built.contents[name][at : at + size] for name, at, size in parts]
        for act in (lambda: snapshot.read_range("text", -1, 1), lambda: snapshot.read_ranges([("text", 0, -1)])):
            with pytest.raises(ValueError):
                act()

    def test_parts_across_windows(self, built: Kept, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
        """Windows smaller than an extent, so that each extent lies in several."""
        for module in (tree, sys.modules[Contents.__module__]):
            monkeypatch.setattr(module, "WINDOW_BYTES", 10_000)
        monkeypatch.setattr("snapfs.reader.contents.SMALL_BYTES_MAX", 50_000)
        built.check(snapshot)
        assert snapshot.read_range("hole", 5_000, 90_000) == built.contents["hole"][5_000:95_000]

    def test_an_open_file_is_a_file(self, built: Kept, snapshot: Snapshot) -> None:
        whole = built.contents["text"]
        with snapshot.open("text") as file:
            assert isinstance(file, io.BufferedReader)
            assert file.readable()
            assert file.seekable()
            assert not file.writable()
            assert file.read(10) == whole[:10]
            assert file.seek(-10, io.SEEK_END) == len(whole) - 10
            assert file.read() == whole[-10:]
            assert file.read(1) == b""
            assert file.seek(5) == 5
            assert file.seek(3, io.SEEK_CUR) == 8
            buffer = bytearray(70_000)
            assert file.readinto(buffer) == len(buffer)
            assert buffer == whole[8 : 8 + len(buffer)]
        with pytest.raises(ValueError):
            file.read(1)
        with snapshot.open("text", buffering=0) as raw:
            assert raw.read() == whole
            with pytest.raises(ValueError):
                raw.seek(-1)
        with snapshot.open("text", "rt") as text:
            assert text.readline() == whole.decode().partition("\n")[0] + "\n"
        for mode in ("w", "r+b", "ab", "x"):
            with pytest.raises(OSError, match="read-only") as refused:
                snapshot.open("text", mode)
            assert refused.value.errno == errno.EROFS
        with pytest.raises(ValueError):
            snapshot.open("text", "q")

    def test_names_are_listed_and_found(self, built: Kept, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tree, "LISTED_A_LOOK", 7)  # a directory takes several looks
        top = {name for name in built.contents if "/" not in name}
        assert snapshot.listdir() == sorted({*top, "sub", "link", "directory", "out", "loop"})
        walked = {f"{here}/{name}".lstrip("/") for here, _, names in snapshot.walk() for name in names}
        assert walked == {*built.contents, "link", "directory", "out", "loop"}
        assert snapshot.glob("sub/*") == sorted(name for name in built.contents if name.startswith("sub/"))
        assert snapshot.glob("**/1?") == sorted(
            n for n in built.contents if len(n.split("/")[-1]) == 2 and "1" in n[-2]
        )
        assert snapshot.glob("directory/[13]") == ["directory/1", "directory/3"]
        assert snapshot.glob("nothing/*") == snapshot.glob("text/*") == snapshot.glob("nix") == []
        assert snapshot.glob("**") == sorted({"", "sub", *walked})
        assert {entry.name for entry in snapshot.scandir() if entry.is_symlink} == {"link", "directory", "out", "loop"}
        assert [entry.name for entry in snapshot.scandir() if entry.is_dir] == ["sub"]

    def test_attributes(self, built: Kept, snapshot: Snapshot) -> None:
        found = snapshot.stat("hole")
        assert stat.S_ISREG(found.st_mode)
        assert stat.S_IMODE(found.st_mode) == 0o600
        assert found.st_size == snapshot.getsize("hole") == len(built.contents["hole"])
        assert found.st_blocks == 1
        assert found.st_mtime_ns // 10**9 == int(found.st_mtime)
        assert snapshot.isdir()
        assert snapshot.isdir("sub")
        assert snapshot.isdir("directory/")
        assert snapshot.isfile("text")
        assert not snapshot.isfile("sub")
        assert not snapshot.isfile("nothing")
        assert snapshot.islink("link")
        assert not snapshot.islink("text")
        assert snapshot.exists("/sub/../sub/./1")
        assert not snapshot.exists("out")
        assert not snapshot.exists("loop")
        assert snapshot.address == "data@keep"
        assert snapshot.number > 0
        assert "data@keep" in repr(snapshot)

    def test_links_are_followed_inside_the_snapshot(self, built: Kept, snapshot: Snapshot) -> None:
        assert snapshot.readlink("link") == "sub/1"
        assert snapshot.read_bytes("link") == snapshot.read_bytes("directory/1") == built.contents["sub/1"]
        assert stat.S_ISLNK(snapshot.stat("link", follow_symlinks=False).st_mode)
        for path, kind, number in [
            ("nothing", FileNotFoundError, errno.ENOENT), ("text/x", NotADirectoryError, errno.ENOTDIR),
            ("text/", NotADirectoryError, errno.ENOTDIR), ("sub", IsADirectoryError, errno.EISDIR),
            ("out", OSError, errno.EINVAL), ("loop", OSError, errno.EINVAL), ("../x", OSError, errno.EINVAL),
            ("n" * 300, FileNotFoundError, errno.ENOENT), ("a\0b", FileNotFoundError, errno.ENOENT),
        ]:  # fmt: skip
            with pytest.raises(kind) as refused:
                snapshot.read_bytes(path)
            assert refused.value.errno == number
            assert refused.value.filename == f"data@keep:{path}"
        with pytest.raises(OSError, match="not a symbolic link"):
            snapshot.readlink("text")
        with pytest.raises(FileNotFoundError, match="nothing"):
            snapshot.read_many(["text", "nothing"])

    def test_patterns_pass_over_what_is_no_directory(self, built: Kept, snapshot: Snapshot) -> None:
        """Files, links to files, links that lead nowhere, round or out."""
        assert snapshot.glob("text/**") == snapshot.glob("loop/**/x") == snapshot.glob("out/**") == []
        assert "directory/1" in snapshot.glob("*/**")
        assert set(snapshot.glob("*/**/1")) == {"sub/1", "directory/1"}

    def test_what_was_found_is_not_looked_up_again(self, built: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
        with built.open() as fresh:
            built.check(fresh)
            asked: list[str] = []

            def refuse(self: Reader, table: str, *_: object) -> None:
                asked.append(table)
                raise AssertionError(table)

            for name in ("get", "cursor"):
                monkeypatch.setattr(Reader, name, refuse)
            built.check(fresh)
            assert asked == []

    def test_memory_is_bounded(self, built: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tree, "INODES_MAX", 10)
        monkeypatch.setattr(tree, "EXTENTS_MAX", 10)
        with reader.open_snapshot(built.store, "data@keep", cache_bytes=1000) as small:
            built.check(small)
            for offset in range(0, len(built.contents["text"]), 1000):
                assert small.read_range("text", offset, 1000) == built.contents["text"][offset : offset + 1000]
            known, contents = small._open_tree, small._contents
            assert len(known._inodes._found) <= 10
            assert len(known._layouts._found) <= 10
            assert contents._cache_bytes == sum(map(len, contents._cache.values())) <= 1000


class TestOpening:
    def test_snapshots_are_named_as_for_the_command(self, kept: Kept) -> None:
        kept.change(lambda subject: subject.tag("data", "keep", "best", move=False))
        with kept.open("data@best") as tagged:
            kept.check(tagged)
            kept.change(lambda subject: _snapshot_and_tag(subject))
            kept.check(tagged)  # the tag has moved; what is open has not
            assert tagged.address == "data@keep"
            assert kept.open("data@best").listdir() != tagged.listdir()
        with pytest.raises(NotFound) as unknown:
            kept.open("data@keap")
        assert "keep" in unknown.value.hint
        with pytest.raises(NotFound, match="volume"):
            kept.open("date@keep")
        for address in ("data", "@keep", "data@"):
            with pytest.raises(Invalid):
                kept.open(address)

    def test_what_is_no_store_is_refused(self, kept: Kept, tmp_path: Path) -> None:
        with pytest.raises(NotFound):
            reader.open_snapshot(tmp_path / "nothing", "data@keep")
        with pytest.raises(Invalid):
            reader.open_snapshot(tmp_path, "data@keep")
        marker = layout.read_marker(kept.store)
        newer = msgspec.structs.replace(marker, version=layout.FORMAT_VERSION + 1)
        (kept.store / layout.MARKER).write_bytes(msgspec.json.encode(newer))
        with pytest.raises(Unsupported):
            kept.open()

    def test_a_process_that_has_the_store_open_itself(self, kept: Kept) -> None:
        subject = EngineSubject(kept.store)
        try:
            with pytest.raises(Busy):
                kept.open()
        finally:
            subject.close()
        with kept.open() as snapshot:
            kept.check(snapshot)

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
    def test_a_read_only_file_system(self, kept: Kept) -> None:
        """Nobody can be told there that somebody reads: so nobody writes meanwhile, and a writer keeps readers off."""
        code = """if True:
            import sys
            from snapfs import errors, reader
            from snapfs.testing.engine import EngineSubject
            from pathlib import Path
            inside, outside = map(Path, sys.argv[1:])
            with reader.open_snapshot(inside, "data@keep") as snapshot:
                assert snapshot.read_bytes("link") == snapshot.read_bytes("sub/1")
                try:
                    EngineSubject(outside)
                    sys.exit("a writer came in")
                except errors.Busy:
                    pass
            subject = EngineSubject(outside)
            try:
                reader.open_snapshot(inside, "data@keep")
                sys.exit("a reader came in")
            except errors.Busy:
                subject.close()
            """
        inside = kept.store.with_name("inside")
        inside.mkdir()
        script = 'mount --bind "$1" "$2" && mount -o remount,ro,bind "$2" && exec "$3" -c "$4" "$2" "$1"'
        words = ["unshare", "-m", "sh", "-c", script, "sh", str(kept.store), str(inside), sys.executable, code]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def test_a_damaged_index_is_refused(self, kept: Kept) -> None:
        file = kept.store / "index" / "data.mdb"
        os.truncate(file, 20_000)
        with pytest.raises(Corrupt):
            kept.open()

    def test_closed_is_closed(self, kept: Kept) -> None:
        descriptors = len(os.listdir("/proc/self/fd"))
        first, second = kept.open(), kept.open()
        kept.check(first)
        first.close()
        with pytest.raises(ValueError, match="closed"):
            first.read_bytes("text")
        kept.check(second)
        second.close()
        assert len(os.listdir("/proc/self/fd")) == descriptors


def _snapshot_and_tag(subject: EngineSubject) -> None:
    subject.unlink("data", (b"text",))
    subject.snapshot("data", "next")
    subject.tag("data", "next", "best", move=True)


class TestDamage:
    def test_damaged_bytes_are_an_error_that_names_the_file(self, kept: Kept) -> None:
        for segment in (kept.store / "segments").glob("*.seg"):
            data = segment.read_bytes()
            third = len(data) // 3
            segment.write_bytes(data[:third] + bytes(5000) + data[third + 5000 :])
        bad: dict[str, OSError] = {}
        with kept.open() as snapshot:
            for name, content in kept.contents.items():
                try:
                    found = snapshot.read_bytes(name)
                except OSError as error:
                    bad[name] = error
                else:
                    assert found == content
            with pytest.raises(OSError, match="hash"):
                snapshot.read_many(kept.contents)
        assert bad
        assert {(error.errno, error.filename) for error in bad.values()} == {
            (errno.EIO, f"data@keep:{name}") for name in bad
        }
        assert all(isinstance(error.__cause__, Corrupt) for error in bad.values())

    def test_a_segment_that_is_lost(self, kept: Kept) -> None:
        for segment in (kept.store / "segments").glob("*.seg"):
            segment.unlink()
        with kept.open() as snapshot:
            assert snapshot.listdir("sub")
            with pytest.raises(OSError, match="segment") as lost:
                snapshot.read_bytes("text")
            assert lost.value.errno == errno.EIO


class TestWhileItChanges:
    def test_a_store_turned_over_beside_the_reader(self, kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
        """Another process deletes snapshots, moves every block, drops segments, replaces the index, again and again."""
        again = []
        look_again = Contents._again

        def counted(self: Contents, *args: object) -> list[bytes]:
            again.append(args)
            return look_again(self, *args)  # type: ignore[arg-type]

        monkeypatch.setattr(Contents, "_again", counted)
        with kept.open() as snapshot:
            place = snapshot._open_tree.place
            kept.check(snapshot)
            command = [sys.executable, "-m", "snapfs.testing.upheaval", str(kept.store), str(ROUNDS)]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
                try:
                    while child.poll() is None:
                        kept.check(snapshot)
                    assert child.stdout is not None
                    states = [json.loads(line) for line in child.stdout]
                finally:
                    child.kill()
            assert child.returncode == 0
            assert len(states) == ROUNDS
            place.doubt()  # as after a while
            kept.check(snapshot)
            indexes = {state["index"] for state in states}
            assert all(set(one["segments"]).isdisjoint(states[-1]["segments"]) for one in states[:-1])
            assert len(again) > 0  # bytes were looked for where they had been
            assert len(indexes) > 1
            assert place._opened > 1
            opened = [os.fstat(file.fd) for file in place._files.values()]
            assert all(status.st_nlink for status in opened)  # nothing keeps dropped segments on the disk
        kept.change(lambda subject: _sound(subject))

    @pytest.mark.soak
    @pytest.mark.timeout(600)
    def test_many_turns_beside_several_readers(self, kept: Kept) -> None:
        context = multiprocessing.get_context("fork")
        done = context.Event()
        with kept.open() as snapshot:
            readers = [context.Process(target=_check_until, args=(kept, snapshot, done)) for _ in range(PROCESSES)]
            for one in readers:
                one.start()
            try:
                command = [sys.executable, "-m", "snapfs.testing.upheaval", str(kept.store), str(SOAK_ROUNDS)]
                done_well = subprocess.run(command, capture_output=True, check=False).returncode == 0
            finally:
                done.set()
                for one in readers:
                    one.join(END_SECONDS_MAX)
            assert done_well
            assert [one.exitcode for one in readers] == [0] * PROCESSES
            kept.check(snapshot)
        kept.change(_sound)

    def test_it_keeps_no_space_from_reuse(self, kept: Kept) -> None:
        """A snapshot that is open, but not read at this moment, is no reader to the one who writes."""

        def alone(subject: EngineSubject) -> None:
            subject.snapshot("data", "another")
            assert subject.lake.index.oldest_reader() is None

        with kept.open() as snapshot, snapshot.open("text") as file:
            file.read(10)
            kept.change(alone)
            kept.check(snapshot)

    def test_a_deleted_snapshot_says_so(self, kept: Kept) -> None:
        with kept.open() as snapshot, snapshot.open("text", buffering=0) as file:
            file.read(10)
            kept.check(snapshot)
            pickled = pickle.dumps(snapshot)
            kept.change(lambda subject: subject.remove_snapshot("data", "keep"))
            for act in (
                lambda: snapshot.read_bytes("text"),
                lambda: snapshot.listdir(),
                lambda: file.seek(0) or file.read(),
            ):
                with pytest.raises(OSError, match="deleted") as gone:
                    act()
                assert gone.value.errno == errno.ESTALE
            with pytest.raises(Exception, match="deleted"):
                pickle.loads(pickled)

    def test_one_in_the_trash_is_gone_until_it_is_taken_back(self, kept: Kept) -> None:
        def delete(subject: EngineSubject) -> None:
            subject.trash_hours = 1.0
            subject.reopen()
            subject.remove_volume("data", snapshots=True)

        with kept.open() as snapshot:
            kept.change(delete)
            with pytest.raises(OSError, match="deleted"):
                snapshot.read_bytes("text")

    def test_what_others_do_with_its_names_does_not_matter(self, kept: Kept) -> None:
        with kept.open() as snapshot:
            kept.change(lambda subject: subject.rename_snapshot("data", "keep", "renamed"))
            kept.check(snapshot)
            assert snapshot.address == "data@renamed"

    def test_a_writer_that_is_killed_leaves_both_going_on(self, kept: Kept) -> None:
        """Its lock on the index is taken over, though LMDB's file of locks is in use all the time."""
        with kept.open() as snapshot:
            kept.check(snapshot)
            command = [sys.executable, "-m", "snapfs.testing.upheaval", str(kept.store), "1000"]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
                try:
                    assert child.stdout is not None
                    for _ in range(2):
                        assert json.loads(child.stdout.readline())
                    kept.check(snapshot)
                finally:
                    child.kill()
            kept.check(snapshot)
            kept.change(_sound)
            kept.check(snapshot)

    def test_a_reader_that_is_killed_amid_a_look_is_forgotten(self, kept: Kept) -> None:
        pid = os.fork()
        if pid == 0:
            kept.open()._open_tree.look(lambda _: os.kill(os.getpid(), signal.SIGKILL))
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL

        def alone(subject: EngineSubject) -> None:
            assert subject.lake.index.oldest_reader() is None

        kept.change(alone)


def _sound(subject: EngineSubject) -> None:
    found = subject.fsck()
    if found:
        raise AssertionError(found)


def _check(kept: Kept, snapshot: Snapshot, found: multiprocessing.SimpleQueue[int]) -> None:
    found.put(kept.check(snapshot))


def _check_until(kept: Kept, snapshot: Snapshot, done: multiprocessing.synchronize.Event) -> None:
    while not done.is_set():
        kept.check(snapshot)


class TestSeveralProcesses:
    @pytest.mark.parametrize("method", ["fork", "spawn"])
    def test_workers_get_the_snapshot_and_open_it_themselves(self, built: Kept, method: str) -> None:
        """As a DataLoader hands its data set to its workers, while the parent goes on reading."""
        context = multiprocessing.get_context(method)
        with built.open() as snapshot:
            built.check(snapshot)
            found = context.SimpleQueue()
            workers = [context.Process(target=_check, args=(built, snapshot, found)) for _ in range(PROCESSES)]
            for worker in workers:
                worker.start()
            for _ in range(3):
                built.check(snapshot)
            for worker in workers:
                worker.join(END_SECONDS_MAX)
            assert [worker.exitcode for worker in workers] == [0] * PROCESSES
            assert {found.get() for _ in workers} == {sum(map(len, built.contents.values()))}

    def test_a_fork_while_other_threads_read(self, built: Kept) -> None:
        """The index is open in neither process when the fork comes, and nobody holds a lock that the child needs."""
        stop = threading.Event()
        with reader.open_snapshot(built.store, "data@keep", cache_bytes=1) as snapshot:

            def read() -> None:
                while not stop.is_set():
                    snapshot.read_many(list(built.contents)[:10])
                    snapshot.read_range("text", 5, 10)  # a block is kept, and another one forgotten

            threads = [threading.Thread(target=read) for _ in range(2)]
            for thread in threads:
                thread.start()
            try:
                for _ in range(10):
                    pid = os.fork()
                    if pid == 0:
                        code = 1
                        try:
                            built.check(snapshot)
                            assert snapshot.read_range("text", 70, 10) == built.contents["text"][70:80]
                            code = 0
                        finally:
                            os._exit(code)
                    assert os.waitpid(pid, 0)[1] == 0
            finally:
                stop.set()
                for thread in threads:
                    thread.join()
            built.check(snapshot)

    def test_threads_share_a_snapshot(self, built: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tree, "INODES_MAX", 5)
        with built.open() as snapshot:
            results: list[int] = []
            threads = [threading.Thread(target=lambda: results.append(built.check(snapshot))) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert results == [sum(map(len, built.contents.values()))] * 4

    def test_one_place_for_a_store_in_a_process(self, built: Kept, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(built.store)
        with built.open() as one, reader.open_snapshot(tmp_path / "link", "data@keep") as other:
            assert one._open_tree.place is other._open_tree.place
            built.check(other)

    def test_a_pickled_snapshot_is_the_same_one(self, built: Kept) -> None:
        with built.open() as snapshot:
            again = pickle.loads(pickle.dumps(snapshot))
            assert again.number == snapshot.number
            assert again is not snapshot
            built.check(again)

    def test_another_store_in_the_place(self, kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("snapfs.reader.place.IN_PLACE_SECONDS", 0.0)
        with kept.open() as snapshot:
            kept.check(snapshot)
            kept.store.rename(kept.store.with_name("moved"))
            Kept(kept.store)
            with pytest.raises(OSError, match="another store") as gone:
                snapshot.read_bytes("text")
            assert gone.value.errno == errno.ESTALE
            assert isinstance(snapshot._open_tree.place, Place)


class TestFsspec:
    @pytest.fixture(autouse=True)
    def registered(self) -> None:
        fsspec.register_implementation("snapfs", SnapfsFileSystem, clobber=True)

    def test_by_address(self, built: Kept) -> None:
        with fsspec.open(f"snapfs://{built.store}/data@keep/text") as file:
            assert file.read() == built.contents["text"]
        with fsspec.open(f"snapfs://{built.store}/data@keep/text", "rt") as text:
            assert text.readline() == "a line of a text that can be compressed\n"
        with fsspec.open("snapfs://data@keep/link", store=str(built.store)) as file:
            assert file.read() == built.contents["sub/1"]

    def test_as_a_file_system(self, built: Kept) -> None:
        files = fsspec.filesystem("snapfs", store=str(built.store))
        assert files.find("data@keep/sub") == sorted(f"data@keep/{name}" for name in built.contents if "sub" in name)
        assert files.glob("data@keep/sub/1*") == [
            f"data@keep/{n}" for n in sorted(built.contents) if n.startswith("sub/1")
        ]
        assert files.isdir("data@keep/directory")
        assert files.isfile("data@keep/link")
        assert not files.exists("data@keep/nix")
        assert {found["name"] for found in files.ls("data@keep")} >= {
            "data@keep/out",
            "data@keep/sub",
            "data@keep/text",
        }
        assert files.info("data@keep/text")["size"] == len(built.contents["text"])
        assert files.cat_file("data@keep/text", 10, -10) == built.contents["text"][10:-10]
        assert files.cat(["data@keep/text", "data@keep/hole"])["data@keep/hole"] == built.contents["hole"]
        assert files.cat_ranges(["data@keep/text"] * 2, [0, 5], [3, 9]) == [b"a l", b"e of"]
        assert pickle.loads(pickle.dumps(files)).ukey("data@keep/text") == files.ukey("data@keep/text")
        assert files.modified("data@keep/text").tzinfo is not None
        for refused in (lambda: files.rm("data@keep/text"), lambda: files.open("data@keep/text", "wb")):
            with pytest.raises(OSError, match="read-only"):
                refused()
        with pytest.raises(FileNotFoundError):
            files.ls("data")
        assert files.read_block("data@keep/text", 2, 4) == b"line"
        with pytest.raises(ValueError):
            fsspec.filesystem("snapfs")

    def test_a_snapshot_that_is_not_there_is_a_file_not_found(self, built: Kept) -> None:
        files = fsspec.filesystem("snapfs", store=str(built.store))
        for address in ("data@nix/text", "nix@keep/text"):
            with pytest.raises(FileNotFoundError, match=r"snapshot 'nix'|volume 'nix'"):
                files.info(address)
            assert not files.isdir(address)
            assert files.find(address) == []
        good, bad = files.cat_ranges(["data@keep/text", "data@nix/text"], 0, 3)
        assert good == built.contents["text"][:3]
        assert isinstance(bad, FileNotFoundError)
        with pytest.raises(FileNotFoundError):
            files.cat_ranges(["data@nix/text"], 0, 3, on_error="raise")

    def test_links_that_lead_back_are_not_gone_into(self, kept: Kept) -> None:
        """Else two of them are walked 2 ** 40 times."""

        def link(subject: EngineSubject) -> None:
            for name, target in [(b"back", b"."), (b"again", b"../sub"), (b"up", b"..")]:
                subject.make("data", (b"sub", name), "symlink", 0o777, target)
            subject.snapshot("data", "linked")

        kept.change(link)
        files = fsspec.filesystem("snapfs", store=str(kept.store))
        found = files.find("data@linked")
        assert len(found) == len(set(found))
        names = ("sub/1", "sub/back", "sub/again", "sub/up", "directory/1")
        assert {f"data@linked/{name}" for name in names} <= set(found)
        assert files.info("data@linked/sub/back")["type"] == "link"
        assert files.info("data@linked/directory")["type"] == "directory"
