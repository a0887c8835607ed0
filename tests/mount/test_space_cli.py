"""The verbs on space as a user types them beside a real mount: what they print, as JSON too, what they do to the files,
and what is said of bad input."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from snapfs.testing.mounted import MountedStore
from snapfs_cli import main

SNAP = Path(sys.executable).with_name("snap")
WAIT_SECONDS_MAX = 20.0
MIB = 1 << 20


class Shell:
    """Runs the installed command inside the volume."""

    def __init__(self, mounted: MountedStore) -> None:
        self.mounted = mounted
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("GIT_", "SNAPFS_"))}
        self.environment = kept | {
            "GIT_CEILING_DIRECTORIES": str(mounted.store.parent),
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "SNAPFS_STORE": str(mounted.store),
        }

    def run(self, *arguments: str | Path, cwd: Path | None = None, code: int = 0) -> str:
        """stdout; of a failure the one line on stderr."""
        done = subprocess.run(
            [SNAP, *arguments], cwd=cwd or self.mounted.volume, env=self.environment, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == code, (arguments, done.stdout, done.stderr)
        assert done.stderr.count("\n") == (1 if code else 0), done.stderr
        return done.stderr if code else done.stdout

    def json(self, *arguments: str | Path, cwd: Path | None = None) -> Any:
        return json.loads(self.run(*arguments, "--json", cwd=cwd))

    def until(self, met: Callable[[], object]) -> None:
        """Poll for what the background does."""
        deadline = time.monotonic() + WAIT_SECONDS_MAX
        while not met():
            assert time.monotonic() < deadline, "it does not happen"
            time.sleep(0.05)


@pytest.fixture
def shell(mounted: MountedStore) -> Shell:
    return Shell(mounted)


def versions(shell: Shell, *names: str) -> None:
    """A snapshot each, all with one MiB of their own and one that all share."""
    (shell.mounted.volume / "shared").write_bytes(os.urandom(MIB))
    for name in names:
        (shell.mounted.volume / "own").write_bytes(os.urandom(MIB))
        shell.run("create", "--name", name)


def names(shell: Shell) -> list[str]:
    return [one["name"] for one in shell.json("list", "data")]


def test_du_tells_what_goes_and_space_tells_that_it_went(shell: Shell, mounted: MountedStore) -> None:
    versions(shell, "one", "two", "three", "four")
    (volume,) = shell.json("du")
    assert (volume["volume"], volume["snapshots"], volume["logical_bytes"]) == ("data", 4, 2 * MIB)
    usages = {usage["snapshot"]: usage for usage in volume["usages"]}
    assert list(usages) == ["one", "two", "three", "four"]
    for name in ("one", "two", "three"):
        assert usages[name]["logical_bytes"] == 2 * MIB
        assert usages[name]["referenced_bytes"] > 2 * MIB
        assert MIB < usages[name]["exclusive_bytes"] < 1.1 * MIB
    assert usages["four"]["exclusive_bytes"] == 0  # the head shows it, too
    told = shell.run("du")
    first = [line.split()[0] for line in told.splitlines()]
    assert first == ["data", "head", *(f"data@{name}" for name in usages), "together"]
    assert "1.0 MiB" in told
    assert shell.json("du", "@one", "data@two") == [usages["one"], usages["two"]]
    assert shell.run("du", "data@one", "data").count("\n") == 3
    assert "data" in shell.run("du", cwd=mounted.root)

    freed = shell.json("du", "--if-deleted", "data@one", "@two")
    assert freed["targets"] == ["data@one", "data@two"]
    assert freed["freed_bytes"] == usages["one"]["exclusive_bytes"] + usages["two"]["exclusive_bytes"]
    assert str(freed["freed_bytes"]) in shell.run("du", "--if-deleted", "data@one", "data@two")
    assert shell.json("du", "--if-deleted", "data")["freed_bytes"] == volume["exclusive_bytes"]
    cheapest = shell.json("du", "--to-free", "2M")
    assert cheapest["freed_bytes"] >= 2 * MIB
    assert len(cheapest["targets"]) == 2
    assert cheapest["targets"][0] in shell.run("du", "--to-free", "2M", "data")
    assert "would free only" in shell.run("du", "--to-free", "1T", code=4)

    before = shell.json("space")
    parts = ("live", "snapshots", "trash", "deleting", "waiting", "seal", "index", "overhead")
    assert sum(before[f"{part}_bytes"] for part in parts) == before["disk_bytes"]
    assert before["snapshots_bytes"] > 3 * MIB
    assert shell.json("rm", "--purge", "@one", "data@two") == {"removed": ["data@one", "data@two"]}

    def gone() -> bool:
        now = shell.json("space")
        return bool(now["stored_bytes"] == before["stored_bytes"] - freed["freed_bytes"] and not now["waiting_bytes"])

    shell.until(gone)
    told = shell.run("space")
    assert [line.split()[0] for line in told.splitlines() if line][:9] == [
        "live", "snapshots", "trash", "deleting", "waiting", "seals", "index", "overhead", "on",
    ]  # fmt: skip
    assert shell.json("fsck")["findings"] == []


def test_the_trash(shell: Shell, mounted: MountedStore) -> None:
    versions(shell, "one", "two", "three")
    shell.run("tag", "@one", "best")
    assert shell.run("rm", "@one", "data@two") == "removed data@one\nremoved data@two\n"
    assert names(shell) == ["three"]
    assert not (mounted.snap / "one").exists()
    trash = shell.json("trash", "list")
    assert [(one["volume"], one["snapshot"]) for one in trash] == [("data", "one"), ("data", "two")]
    assert all(one["exclusive_bytes"] > MIB for one in trash)
    assert 23 < (trash[0]["expires_ns"] - time.time_ns()) / 3600e9 <= 24
    assert "data@two" in shell.run("trash", "list", "data")
    assert shell.json("space")["trash_bytes"] > 2 * MIB
    assert "(trash)" in shell.run("du", "data")

    assert shell.run("undelete", "@one") == "took back data@one\n"
    assert shell.json("show", "data@best")["name"] == "one"
    assert (mounted.snap / "one/own").read_bytes() != (mounted.volume / "own").read_bytes()
    shell.run("create", "--name", "two")
    assert "two" in shell.run("undelete", "data@two", code=4)
    assert shell.json("undelete", "data@two", "--as", "second")["name"] == "second"
    assert shell.run("trash", "list").count("\n") == 1

    shell.run("rm", "@second", "@one")
    assert shell.json("trash", "empty", "data@one") == {"entries": 1, "kept": 0}
    assert shell.run("trash", "empty") == "1 gone for good\n"
    assert "one" in shell.run("undelete", "@one", code=3)
    shell.until(lambda: not shell.json("space")["trash_bytes"])


def test_a_volume_in_the_trash(shell: Shell, mounted: MountedStore) -> None:
    versions(shell, "one")
    content = (mounted.volume / "own").read_bytes()
    root = mounted.root
    assert "snapshot" in shell.run("volume", "rm", "data", code=4, cwd=root)
    assert shell.json("volume", "rm", "--snapshots", "data", cwd=root) == {"removed": "data"}
    assert list(root.iterdir()) == []
    assert shell.run("trash", "list", cwd=root).splitlines()[1].startswith("data ")
    shell.run("volume", "create", "data", cwd=root)
    assert "data" in shell.run("undelete", "data", code=4, cwd=root)
    assert shell.run("undelete", "data", "--as", "old", cwd=root) == "took back the volume old\n"
    assert (root / "old/own").read_bytes() == content
    assert (root / "old/.snap/one/own").read_bytes() == content
    shell.run("volume", "rm", "--snapshots", "--purge", "old", cwd=root)
    assert shell.json("trash", "list", cwd=root) == []


def test_what_must_stay(shell: Shell, mounted: MountedStore) -> None:
    versions(shell, "one", "two")
    assert shell.json("hold", "data@one", "--name", "paper")["holds"] == ["paper"]
    assert shell.run("hold", "data@one").startswith("data@one is held by ")
    assert "paper" in shell.run("rm", "data@one", code=4)
    assert "paper" in shell.run("rm", "--purge", "data@one", code=4)
    assert "paper" in shell.run("volume", "rm", "--snapshots", "data", code=4)
    assert "held by" in shell.run("list")
    assert "paper" in shell.run("show", "data@one")
    assert shell.json("du", "--if-deleted", "data@one")["protected"][0].startswith("data@one: held by")
    assert "data@one" in shell.run("du", "--if-deleted", "data@one")
    shell.run("release", "data@one")
    assert "nobody" in shell.run("release", "data@one", "--name", "nobody", code=3)
    assert shell.run("release", "data@one", "--name", "paper") == "data@one is not held any more\n"

    locked = shell.json("lock", "data@one", "--for", "1h")
    assert 3590 < locked["locked_until_ns"] / 1e9 - time.time() < 3601
    assert "locked until" in shell.run("show", "data@one")
    assert "locked" in shell.run("rm", "data@one", code=4)
    assert "locked" in shell.run("rm", "--purge", "data@one", code=4)
    shell.run("lock", "data@one", "--for", "30m", code=4)
    assert shell.run("lock", "data@one", "--until", "2h").startswith("data@one is locked until ")
    told = shell.run("rm", "data@one", "data@two", code=4)  # what went is told
    assert "; removed: data@two" in told
    assert names(shell) == ["one"]


def test_policies(shell: Shell, mounted: MountedStore, tmp_path: Path) -> None:
    versions(shell, "one", "two", "three", "four", "five")
    assert "all snapshots stay" in shell.run("policy", "show")
    assert shell.run("policy", "set", "--last", "2", "--daily", "1") == "data  keeps last 2; daily 1\n"
    (shown,) = shell.json("policy", "show", "data")
    assert (shown["volume"], shown["policy"]["last"], shown["policy"]["daily"]) == ("data", 2, 1)
    assert "last 2" in shell.run("volume", "show")
    shell.run("hold", "data@two", "--name", "paper")
    dry = shell.json("policy", "apply", "--dry-run")
    assert (dry["dry_run"], dry["deleted"]) == (True, 0)
    assert [one["snapshot"] for one in dry["decisions"] if not one["keep"]] == ["one", "three"]
    assert dry["freed_bytes"] == shell.json("du", "--if-deleted", "data@one", "data@three")["freed_bytes"]
    told = shell.run("policy", "apply", "--dry-run")
    assert "keep    data@two" in told
    assert "remove  data@one" in told
    assert "2 of 5 snapshots would go" in told
    assert names(shell) == ["one", "two", "three", "four", "five"]
    assert "2 of 5 snapshots went" in shell.run("policy", "apply", "data")
    assert names(shell) == ["two", "four", "five"]
    assert len(shell.json("trash", "list")) == 2
    shell.run("policy", "clear", "data")
    assert shell.json("policy", "show") == [{"volume": "data", "policy": None}]
    once = shell.json("policy", "apply", "--last", "1", "--dry-run")
    assert [one["snapshot"] for one in once["decisions"] if not one["keep"]] == ["four"]


def test_commits_that_a_repository_reaches_stay(shell: Shell, mounted: MountedStore, tmp_path: Path) -> None:
    work = tmp_path / "work"

    def git(*arguments: str) -> str:
        who = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
        command = ["git", "-C", work, *who, *arguments]
        return subprocess.run(command, env=shell.environment, check=True, capture_output=True, text=True).stdout.strip()

    subprocess.run(["git", "init", "--quiet", "-b", "main", work], env=shell.environment, check=True)
    commits = []
    for number in range(3):
        (mounted.volume / "own").write_bytes(os.urandom(1000))
        git("commit", "--quiet", "--allow-empty", "-m", str(number))
        shell.run("create", "data", "--git-commit", cwd=work)
        commits.append(git("rev-parse", "HEAD"))
    git("reset", "--quiet", "--hard", "HEAD~1")
    git("reflog", "expire", "--expire=now", "--all")
    git("update-ref", "-d", "ORIG_HEAD")
    (mounted.volume / "own").write_bytes(b"so that the head stands on something else")
    shell.run("create", "--name", "last")
    told = shell.run("policy", "set", "data", "--reachable", cwd=work)
    assert told == f"data  keeps reachable in {work}\n"
    report = shell.json("policy", "apply", "data")
    assert report["warnings"] == []
    assert names(shell) == [*commits[:2], "last"]


def test_settings_of_a_volume(shell: Shell, mounted: MountedStore) -> None:
    told = shell.run("volume", "set", "data", "--quota", "4M", "--quota-kind", "exclusive", "--compression", "zstd:9")
    assert "may hold 4.0 MiB exclusive" in told
    assert "zstd:9" in told
    volume = shell.json("volume", "show", "data")
    assert (volume["quota_kind"], volume["quota_bytes"], volume["compression"]) == ("exclusive", 4 * MIB, "zstd:9")
    assert "4.0 MiB exclusive" in shell.run("volume", "list")
    shell.run("volume", "set", "data", "--quota", "none", "--compression", "none")
    (mounted.volume / "text").write_bytes(b"a" * MIB)
    shell.run("create", "--name", "one")
    assert shell.json("du", "data@one")[0]["referenced_bytes"] > MIB // 8


def test_optimize(shell: Shell, mounted: MountedStore) -> None:
    with open(mounted.volume / "pieces", "wb") as file:
        for number in range(64):
            os.pwrite(file.fileno(), os.urandom(4096), number * 4096)
            os.fsync(file.fileno())
    content = (mounted.volume / "pieces").read_bytes()
    report = shell.json("optimize", "data", "pieces", "--rate", "100M")
    assert report["files"] == 1
    assert report["extents_after"] < report["extents_before"]
    assert (mounted.volume / "pieces").read_bytes() == content
    assert "files looked at" in shell.run("optimize")
    assert "nowhere" in shell.run("optimize", "data", "nowhere", code=3)


def test_import_and_export(shell: Shell, mounted: MountedStore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    (source / "deep/file").write_bytes(os.urandom(3 * MIB))
    (source / "link").symlink_to("deep/file")
    (source / "empty").touch()
    report = shell.json("import", source, "fresh")
    assert (report["files"], report["failures"]) == (3, 0)
    assert (mounted.root / "fresh/deep/file").read_bytes() == (source / "deep/file").read_bytes()
    assert (mounted.root / "fresh/link").readlink() == Path("deep/file")
    shell.run("import", source, "fresh/below")
    assert (mounted.root / "fresh/below/deep/file").exists()
    shell.run("create", "fresh", "--name", "one")
    shell.run("export", "fresh@one", tmp_path / "out")
    assert (tmp_path / "out/deep/file").read_bytes() == (source / "deep/file").read_bytes()
    shell.run("export", "fresh@one", tmp_path / "out.tar")
    with tarfile.open(tmp_path / "out.tar") as archive:
        assert {member.name for member in archive} >= {"deep/file", "link", "empty"}
    command = [SNAP, "export", "fresh@one", "-"]
    piped = subprocess.run(command, env=shell.environment, capture_output=True, check=True, timeout=60)
    with tarfile.open(fileobj=io.BytesIO(piped.stdout)) as archive:
        found = archive.extractfile("deep/file")
        assert found is not None
        assert found.read() == (source / "deep/file").read_bytes()
    socket = f"unix:{mounted.store}/control/socket"
    assert "machine" in shell.run("import", source, "data", "--address", socket, code=2, cwd=tmp_path)
    again = shell.run("export", "fresh@one", tmp_path / "again", "--address", socket, cwd=tmp_path)
    assert (tmp_path / "again/empty").exists(), again


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["du", "nowhere"], 3),
        (["du", "data@nowhere"], 3),
        (["du", "--if-deleted"], 2),
        (["du", "--if-deleted", "data@nowhere"], 3),
        (["du", "--if-deleted", "--to-free", "1G", "data"], 2),
        (["du", "--to-free", "much"], 2),
        (["du", "--to-free", "0"], 2),
        (["du", "--to-free", "1G", "data@one"], 2),
        (["du", "--to-free", "1G", "nowhere"], 3),
        (["du", "a@b@c"], 2),
        (["rm"], 2),
        (["rm", "data@one", "data@nowhere"], 3),
        (["rm", "data"], 3),
        (["undelete", "data@one"], 3),
        (["undelete", "data@two", "--as", "one"], 4),
        (["undelete", "data@stale"], 3),
        (["undelete", "nowhere"], 3),
        (["undelete", "data@two", "--as", "a/b"], 2),
        (["trash", "empty", "data@stale"], 3),
        (["trash", "empty", "nowhere"], 3),
        (["hold", "data@nowhere"], 3),
        (["hold", "data@one", "--name", "a/b"], 2),
        (["hold", "data@one", "--name", "x" * 300], 2),
        (["release", "data@one", "--name", "nobody"], 3),
        (["lock", "data@one"], 2),
        (["lock", "data@one", "--for", "1h", "--until", "2h"], 2),
        (["lock", "data@one", "--until", "2001-01-01"], 2),
        (["lock", "data@one", "--until", "soon"], 2),
        (["lock", "data@one", "--for", "0d"], 2),
        (["lock", "data@one", "--for", "-1h"], 2),
        (["lock", "data@nowhere", "--for", "1h"], 3),
        (["policy", "set", "data"], 2),
        (["policy", "set", "data", "--last", "0"], 2),
        (["policy", "set", "data", "--last", "some"], 2),
        (["policy", "set", "data", "--last", "9999999999999"], 2),
        (["policy", "set", "data", "--within", "5x"], 2),
        (["policy", "set", "data", "--reachable"], 2),
        (["policy", "set", "data", "--repository", "."], 2),
        (["policy", "set", "nowhere", "--last", "1"], 3),
        (["policy", "show", "nowhere"], 3),
        (["policy", "clear", "nowhere"], 3),
        (["policy", "apply", "nowhere"], 3),
        (["policy", "apply", "data"], 4),
        (["optimize", "nowhere"], 3),
        (["optimize", "data", "--rate", "0"], 2),
        (["optimize", "data", "../x"], 2),
        (["volume", "set", "data"], 2),
        (["volume", "set", "data", "--quota", "10X"], 2),
        (["volume", "set", "data", "--quota-kind", "odd"], 2),
        (["volume", "set", "data", "--compression", "lzma"], 2),
        (["volume", "set", "data", "--compression", "zstd:99"], 2),
        (["volume", "show", "nowhere"], 3),
        (["import", "nowhere", "data"], 3),
        (["import"], 2),
        (["export", "data@nowhere", "out"], 3),
        (["export", "data@one"], 2),
    ],
    ids=lambda value: " ".join(value)[:50] if isinstance(value, list) else None,
)
def test_bad_input(
    space: Shell,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
) -> None:
    """In this process: a start of Python for each would take long."""
    for name in list(os.environ):
        if name.startswith(("GIT_", "SNAPFS_")):
            monkeypatch.delenv(name)
    for name in ("GIT_CEILING_DIRECTORIES", "SNAPFS_STORE"):
        monkeypatch.setenv(name, space.environment[name])
    monkeypatch.chdir(tmp_path)
    got = main.run(arguments)
    out, told = capsys.readouterr()
    assert (got, out) == (code, ""), told
    assert told.startswith("snap: ")
    assert told.count("\n") == 1
    assert "internal error" not in told


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One store for all bad input: nothing of it changes anything."""
    mounted = MountedStore(tmp_path_factory.mktemp("bad")).mount()
    try:
        shell = Shell(mounted)
        shell.run("volume", "create", "data", cwd=mounted.root)
        for name in ("one", "two"):
            shell.run("create", "--name", name)
        shell.run("rm", "data@two")
        before = shell.json("list", "data"), shell.json("volume", "list"), shell.json("trash", "list")
        yield shell
        assert (shell.json("list", "data"), shell.json("volume", "list"), shell.json("trash", "list")) == before
    finally:
        mounted.umount()


def test_progress_on_a_terminal(shell: Shell, mounted: MountedStore) -> None:
    (mounted.volume / "file").write_bytes(os.urandom(MIB))
    master, slave = pty.openpty()
    try:
        command = [SNAP, "optimize", "data"]
        done = subprocess.run(
            command, cwd=mounted.volume, env=shell.environment, stdout=subprocess.PIPE, stderr=slave, timeout=60,
            check=True,
        )  # fmt: skip
        assert b"optimizing" in os.read(master, 10_000)
        assert b"files looked at" in done.stdout
    finally:
        os.close(master)
        os.close(slave)
