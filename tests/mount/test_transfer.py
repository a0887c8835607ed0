"""Import and export of a mounted store: what programs see of it, at once and after a crash; the commands."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from snapfs import api, client
from snapfs.errors import Conflict, Invalid, NotPermitted, SnapfsError
from snapfs.testing import host_trees
from snapfs.testing.engine import EngineSubject
from snapfs.testing.mounted import MountedStore

PRIVILEGED = os.geteuid() == 0
WAIT_SECONDS_MAX = 40.0
NOBODY = 65534


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Path]:
    root = tmp_path / "source"
    host_trees.make_tree(root, privileged=PRIVILEGED)
    yield root
    for path in root.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o700)


def snap(store: MountedStore, *arguments: object, code: int = 0) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "snapfs_cli.main", *map(str, arguments)]
    environment = {**os.environ, "SNAPFS_STORE": str(store.store)}
    done = subprocess.run(command, env=environment, capture_output=True, check=False, timeout=50)
    assert done.returncode == code, done.stderr.decode()
    assert b"Traceback" not in done.stderr
    return done


def many(root: Path, files: int, size: int = 3000) -> None:
    noise = random.Random(files)
    for number in range(files):
        directory = root / f"d{number // 50}"
        if number % 50 == 0:
            directory.mkdir(parents=True)
        (directory / f"f{number}").write_bytes(noise.randbytes(size))


def wait_for(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def clean(store: MountedStore) -> None:
    assert store.call("check_store").findings == []


# -- what is seen


def test_as_cp_does(stores: Callable[..., MountedStore], source: Path, tmp_path: Path) -> None:
    """What is seen in the volume is what there is, and an export has all that ``cp -a`` has."""
    store = stores().mount(xattrs=True)
    report = store.call("import_tree", source=str(source), volume="data")
    assert report.failed == []
    before = host_trees.see(source, holes=False)
    for path in (b"acl", b"a", b"a/b"):  # the mount does not act on ACLs, and gives the owning group no more for it
        if path in before and PRIVILEGED:
            before[path] = host_trees.without_acls(before[path])
    assert host_trees.differences(host_trees.see(store.volume, holes=False), before) == []
    store.snapshot("s")
    copy, out = tmp_path / "copy", tmp_path / "out"
    subprocess.run(["cp", "-a", source, copy], check=True, timeout=50)
    (copy / "socket").unlink()
    done = snap(store, "export", "data@s", out, "--filter", "fully_trusted", code=1)
    assert done.stderr == b"1 sockets were left out: a tar archive cannot hold them\n"
    seen, wanted = host_trees.see(out), host_trees.see(copy)
    wanted[b""] = (*wanted[b""][:4], seen[b""][4], *wanted[b""][5:])  # unlinking the socket has changed the time
    assert host_trees.differences(seen, wanted) == []
    assert os.stat(out).st_mtime_ns == os.stat(source).st_mtime_ns
    clean(store)


def test_a_kernel_that_knew_better(mounted: MountedStore, tmp_path: Path) -> None:
    """Names that were not there, listings, times and old content that the kernel has cached."""
    root = tmp_path / "source"
    (root / "d").mkdir(parents=True)
    (root / "d" / "f").write_bytes(b"first")
    (root / "top").write_bytes(b"top")
    (mounted.volume / "d").mkdir()
    for path in ("top", "d/f", "e"):
        assert not (mounted.volume / path).exists()
    assert os.listdir(mounted.volume / "d") == []
    mounted.call("import_tree", source=str(root), volume="data")
    assert (mounted.volume / "d" / "f").read_bytes() == b"first"
    assert (mounted.volume / "top").read_bytes() == b"top"
    assert os.listdir(mounted.volume / "d") == ["f"]
    assert (mounted.volume / "d").stat().st_mtime_ns == (root / "d").stat().st_mtime_ns

    with (mounted.volume / "d" / "f").open("rb") as old:
        (root / "d" / "f").write_bytes(b"second")
        (root / "e").mkdir()
        (root / "e" / "g").write_bytes(b"g")
        mounted.call("import_tree", source=str(root), volume="data")
        assert (mounted.volume / "d" / "f").read_bytes() == b"second"
        assert (mounted.volume / "e" / "g").read_bytes() == b"g"
        assert mounted.volume.stat().st_nlink == 4
        assert old.read() == b"first"
    assert sorted(os.listdir(mounted.volume)) == ["d", "e", "top"]
    clean(mounted)


def test_programs_go_on(mounted: MountedStore, tmp_path: Path) -> None:
    """Others make, read, rename and remove files in what is being imported, and snapshots are taken."""
    root = tmp_path / "source"
    many(root, 1000)
    (mounted.volume / "d3").mkdir()
    ended = threading.Event()
    failures: list[BaseException] = []

    def work() -> None:
        count = 0
        try:
            while not ended.is_set():
                count += 1
                for name in ("d3", f"d{count % 20}"):
                    with contextlib.suppress(FileNotFoundError):
                        path = mounted.volume / name / f"own{count}"
                        path.write_bytes(b"own")
                        assert path.read_bytes() == b"own"
                        path.rename(path.with_name(f"moved{count}"))
                        list(os.scandir(path.parent))
                        if count % 2:
                            path.with_name(f"moved{count}").unlink()
                if count % 25 == 1:
                    mounted.snapshot(f"s{count}")
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        report = mounted.call("import_tree", source=str(root), volume="data")
    finally:
        ended.set()
        thread.join()
    assert failures == []
    assert report.failed == []
    assert report.files == 1000
    for path in root.rglob("f*"):
        assert (mounted.volume / path.relative_to(root)).read_bytes() == path.read_bytes()
    clean(mounted)


# -- interrupted


def test_killed_and_run_again(stores: Callable[..., MountedStore], tmp_path: Path) -> None:
    """kill -9 amid an import: nothing is half there, and the next run completes it without reading what is there."""
    root = tmp_path / "source"
    many(root, 1500, 5000)
    (root / "large").write_bytes(random.Random(1).randbytes(30_000_000))
    store = stores().mount()

    def bring() -> None:
        with contextlib.suppress(SnapfsError), client.connect(store.store) as calls:
            calls.import_tree(source=str(root), volume="data")

    thread = threading.Thread(target=bring)
    thread.start()
    try:
        wait_for(lambda: len(list(store.volume.glob("d*/f*"))) > 500)
        with store.connect() as calls:  # some of it is durable now
            calls.create_snapshot(volume="data", name="amid")
    finally:
        store.kill()
        thread.join()
    store.close()
    store.mount()
    clean(store)
    durable = list(store.volume.glob("d*/f*"))
    assert len(durable) > 400
    for path in durable:
        assert path.read_bytes() == (root / path.relative_to(store.volume)).read_bytes()
    large = store.volume / "large"
    assert not large.exists() or large.stat().st_size == 30_000_000
    report = store.call("import_tree", source=str(root), volume="data")
    assert report.failed == []
    assert report.files + report.unchanged == 1501
    assert report.unchanged >= len(durable)
    assert host_trees.differences(host_trees.see(store.volume, xattrs=False), host_trees.see(root, xattrs=False)) == []
    clean(store)


def test_cancelled(mounted: MountedStore, tmp_path: Path) -> None:
    root = tmp_path / "source"
    root.mkdir()
    (root / "large").write_bytes(random.Random(2).randbytes(100_000_000))
    many(root, 2000)
    with mounted.connect() as calls:
        started = calls.start_import(source=str(root), volume="data")
        wait_for(lambda: calls.get_operation(id=started.id).done > 1_000_000)
        calls.cancel_operation(id=started.id)
        wait_for(lambda: calls.get_operation(id=started.id).state.value != "running")
    report = mounted.call("import_tree", source=str(root), volume="data")
    assert report.files + report.unchanged == 2001
    clean(mounted)


# -- refused


def test_its_own_mount_is_refused(mounted: MountedStore, tmp_path: Path) -> None:
    (mounted.volume / "d").mkdir()
    for place in (mounted.root, mounted.volume, mounted.volume / "d"):
        with pytest.raises(Invalid, match="own mount"):
            mounted.call("import_tree", source=str(place), volume="other")
    (tmp_path / "link").symlink_to(mounted.volume)
    with pytest.raises(Invalid, match="own mount"):
        mounted.call("import_tree", source=str(tmp_path / "link"), volume="other")
    (tmp_path / "one" / "file").write_bytes(b"beside")
    report = mounted.call("import_tree", source=str(tmp_path), volume="other")
    assert report.failed == ["one/lake: it is the store's own mount", "one/store: it is the store itself"]
    assert (mounted.root / "other" / "one" / "file").read_bytes() == b"beside"


def test_unreadable_files_are_told() -> None:
    place = Path(tempfile.mkdtemp())
    try:
        place.chmod(0o755)
        root = place / "source"
        (root / "closed").mkdir(parents=True)
        (root / "closed" / "f").write_bytes(b"x")
        (root / "open").write_bytes(b"for all")
        (root / "secret").write_bytes(b"secret")
        (root / "large secret").write_bytes(b"secret" * 400_000)
        for name in ("closed", "secret", "large secret"):
            (root / name).chmod(0)
        if PRIVILEGED:
            os.chown(place, NOBODY, NOBODY)
            os.seteuid(NOBODY)
        try:
            engine = EngineSubject(place / "store")
            report = engine.run(lambda: engine.service.import_tree(source=str(root), volume="data"))
            assert report.failed == [
                "closed: Permission denied", "large secret: Permission denied", "secret: Permission denied",
            ]  # fmt: skip
            assert (report.files, report.directories) == (1, 1)
            assert engine.fsck() == []
            engine.close()
        finally:
            if PRIVILEGED:
                os.seteuid(0)
    finally:
        shutil.rmtree(place, ignore_errors=not PRIVILEGED)


# -- commands


def test_commands(mounted: MountedStore, tmp_path: Path) -> None:
    root = tmp_path / "source"
    many(root, 120)
    told = snap(mounted, "import", root, "digits/raw").stdout.decode()
    assert told.startswith("imported 120 files and 3 directories, ")
    assert "; 120 unchanged" in snap(mounted, "import", root, "digits/raw").stdout.decode()
    snap(mounted, "create", "digits", "--name", "v1")
    out = tmp_path / "out"
    assert snap(mounted, "export", "digits@v1", out).stdout == b"exported 120 files and 4 directories\n"
    assert host_trees.differences(host_trees.see(out / "raw"), host_trees.see(root)) == []
    snap(mounted, "export", "digits@v1", out, code=4)
    (out / "raw" / "d0" / "f0").write_bytes(b"changed")
    snap(mounted, "export", "digits@v1", out, "--force")
    assert host_trees.differences(host_trees.see(out / "raw"), host_trees.see(root)) == []

    file = tmp_path / "v1.tar"
    snap(mounted, "export", "digits@v1", file)
    assert snap(mounted, "export", "digits@v1", "-").stdout == file.read_bytes()
    with tarfile.open(file) as tar:
        assert len(tar.getnames()) == 125
    snap(mounted, "export", "digits@v1", file, code=4)
    snap(mounted, "export", "digits@none", tmp_path / "none.tar", code=3)
    snap(mounted, "export", "digits@none", tmp_path / "none", code=3)
    assert not (tmp_path / "none").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "out", "source", "v1.tar"]

    snap(mounted, "import", tmp_path / "missing", "digits", code=3)
    snap(mounted, "import", root, "/raw", code=2)
    snap(mounted, "export", "digits@v1", "x.tar", "--filter", "data", code=2)


def test_an_archive_that_breaks_off(mounted: MountedStore, tmp_path: Path) -> None:
    """Nothing is left under its name, nor beside it."""
    root = tmp_path / "source"
    root.mkdir()
    (root / "f").write_bytes(random.Random(3).randbytes(80_000_000))
    mounted.call("import_tree", source=str(root), volume="data")
    mounted.snapshot("s")
    goal = tmp_path / "goal"
    goal.mkdir()
    command = [sys.executable, "-m", "snapfs_cli.main", "export", "data@s", str(goal / "s.tar")]
    environment = {**os.environ, "SNAPFS_STORE": str(mounted.store)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as process:
        try:
            wait_for(lambda: any(path.stat().st_size > 1_000_000 for path in goal.iterdir()))
        finally:
            process.send_signal(signal.SIGTERM)
        process.communicate(timeout=WAIT_SECONDS_MAX)
    assert os.listdir(goal) == [] or (goal / "s.tar").stat().st_size > 80_000_000


def test_without_a_daemon(stores: Callable[..., MountedStore], tmp_path: Path) -> None:
    store = stores()
    root = tmp_path / "source"
    many(root, 60)
    snap(store, "import", root, "digits")
    snap(store, "create", "digits", "--name", "v1")
    snap(store, "export", "digits@v1", tmp_path / "out")
    assert host_trees.differences(host_trees.see(tmp_path / "out"), host_trees.see(root)) == []
    assert snap(store, "fsck").stdout.startswith(b"clean")


def test_only_the_owner_imports(mounted: MountedStore, tmp_path: Path) -> None:
    with mounted.connect() as calls:
        secret = calls.create_token(name="admin", role=api.Role.ADMIN).secret
    with client.connect(mounted.store, token=secret) as calls, pytest.raises((NotPermitted, Conflict)):
        calls.import_tree(source=str(tmp_path), volume="data")
