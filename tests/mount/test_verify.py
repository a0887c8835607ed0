"""Seals and proofs on a real store: made in the background by a daemon, checked by ``snap verify``, noted in git."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from snapfs.format import keys, records
from snapfs.store.index import items
from snapfs.testing.mounted import MountedStore
from snapfs.volume.lake import Lake

SNAP = Path(sys.executable).with_name("snap")
SECONDS_MAX = 30.0


class Work:
    """A repository whose data is in the mounted volume."""

    def __init__(self, mounted: MountedStore, place: Path) -> None:
        self.mounted = mounted
        self.root = place / "work"
        self.root.mkdir()
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("GIT_", "SNAPFS_"))}
        identity = {f"GIT_{who}_{what}": "ada@x" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        self.environment = kept | identity | {"HOME": str(place), "GIT_CONFIG_NOSYSTEM": "1"}
        self.git("init", "-q", "-b", "main")

    def run(self, *command: str | Path, code: int = 0) -> str:
        done = subprocess.run(
            command, cwd=self.root, env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == code, (command, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done.stderr if code not in (0, 1) else done.stdout

    def git(self, *arguments: str) -> str:
        return self.run("git", *arguments).strip()

    def snap(self, *arguments: str, code: int = 0) -> str:
        return self.run(SNAP, *arguments, "--store", str(self.mounted.store), code=code)

    def json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self.snap(*arguments, "--json", code=code))

    def commit(self, subject: str) -> str:
        self.git("commit", "-q", "--allow-empty", "-m", subject)
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def work(mounted: MountedStore, tmp_path: Path) -> Work:
    return Work(mounted, tmp_path)


def sealed(mounted: MountedStore, name: str) -> str:
    """The digest, which comes by itself."""
    deadline = time.monotonic() + SECONDS_MAX
    while time.monotonic() < deadline:
        seal = mounted.call("get_snapshot", volume="data", snapshot=name).seal
        if seal:
            return str(seal)
        time.sleep(0.01)
    raise AssertionError("not sealed in time")


def test_a_daemon_seals_and_proves(mounted: MountedStore, work: Work) -> None:
    (mounted.volume / "a").write_bytes(b"a" * 300_000)
    mounted.snapshot("one")
    (mounted.volume / "b").write_bytes(os.urandom(50_000))
    mounted.snapshot("two")
    one, two = sealed(mounted, "one"), sealed(mounted, "two")
    assert one != two
    report = work.json("verify", "data@two", "--digest", two)
    assert (report["findings"], report["digest"], report["chained"], report["files"]) == ([], two, True, 2)
    assert f"seal {one}" in work.snap("verify", "data@one")
    assert "digest: the seal is not" in work.snap("verify", "data@one", "--digest", two, code=1)
    work.snap("verify", "data@one", "--digest", "short", code=2)
    mounted.remount()
    assert sealed(mounted, "one") == one
    work.snap("rename", "data@one", "uno")
    work.snap("rm", "--purge", "data@uno")
    report = work.json("verify", "data@two")
    assert (report["findings"], report["digest"], report["chained"]) == ([], two, False)


def test_without_a_daemon_a_snapshot_is_sealed_when_it_is_made(mounted: MountedStore, work: Work) -> None:
    (mounted.volume / "a").write_bytes(b"a")
    mounted.umount()
    work.snap("create", "data", "--name", "one")
    seal = work.json("show", "data@one")["seal"]
    assert work.json("verify", "data@one")["digest"] == seal != ""
    mounted.mount()


def test_a_file_changed_in_the_index(mounted: MountedStore, work: Work) -> None:
    """Whoever can write the index can make right checksums, but not the seal; nor, if they seal anew, the note."""
    (mounted.volume / "dir").mkdir()
    for name in ("good", "victim"):
        (mounted.volume / "dir" / name).write_bytes(name.encode() * 100)
    commit = work.commit("one")
    work.snap("create", "data", "--git-commit", "HEAD")
    sealed(mounted, commit)
    assert work.snap("git", "note", f"data@{commit}").startswith(f"data@{commit} ")
    work.snap("verify", f"data@{commit}", "--note")
    mounted.umount()
    tamper(mounted.store)
    shown = work.snap("verify", f"data@{commit}", code=1)
    assert "content: dir/victim: not as it was sealed: content" in shown
    assert "good" not in shown
    seal_anew(mounted.store)
    assert "proven" in work.snap("verify", f"data@{commit}")
    assert "note: the note of commit" in work.snap("verify", f"data@{commit}", "--note", code=1)
    mounted.mount()


def tamper(store: Path) -> None:
    """One file shows the other's content in the snapshot, all checksums right."""
    lake = Lake.open(store)
    try:
        found = [(key, payload) for key, payload in items(lake.index, "tree") if key[8] == keys.EXTENT]
        (_, good), (key, victim) = found[0], found[1]
        length, block, offset = records.decode_extent(good)
        lake.index.put("tree", key, records.encode_extent(records.decode_extent(victim)[0], block, offset))
        lake.core.blocks.adjust(block, +1)
        lake.core.blocks.adjust(records.decode_extent(victim)[1], -1)
        assert length
        lake.index.commit()
    finally:
        lake.close()


def seal_anew(store: Path) -> None:
    """Forget the seals; the next one who opens the store makes new ones."""
    lake = Lake.open(store)
    try:
        for key in [key for key, _ in items(lake.index, "seals")]:
            lake.index.delete("seals", key)
            lake.index.put("unsealed", key, records.PRESENT)
        lake.index.commit()
    finally:
        lake.close()


def test_hooks_note_seals(mounted: MountedStore, work: Work) -> None:
    work.snap("git", "install", "--volume", "data")
    (mounted.volume / "a").write_bytes(b"a")
    before = work.commit("before notes are wanted")
    assert work.git("notes", "--ref=snapfs", "list") == ""
    work.git("config", "snapfs.notes", "true")
    (mounted.volume / "a").write_bytes(b"b")
    commit = work.commit("noted")
    for one in (before, commit):  # what came too late for its own commit is noted with the next
        assert work.git("notes", "--ref=snapfs", "show", one) == f"snapfs-seal: data@{one} {sealed(mounted, one)}"
    assert f"snapfs-seal: data@{commit}" in work.git("log", "--notes=snapfs")
    work.snap("verify", f"data@{commit}", "--note")
    assert "nothing to note" in work.snap("git", "note", "--all-missing")
    work.git("notes", "--ref=snapfs", "add", "-f", "-m", "something else", commit)
    assert "no note" in work.snap("verify", f"data@{commit}", "--note", code=1)
    assert work.json("git", "note", "--all-missing")[0]["snapshot"] == commit
    assert work.git("notes", "--ref=snapfs", "show", commit).startswith("something else\nsnapfs-seal: ")
    work.snap("verify", f"data@{commit}", "--note")


def test_another_commits_snapshot_does_not_pass_for_it(mounted: MountedStore, work: Work) -> None:
    """An index that somebody changed may lead from one commit to the genuine, noted snapshot of another."""
    work.snap("git", "install", "--volume", "data")
    work.git("config", "snapfs.notes", "true")
    (mounted.volume / "a").write_bytes(b"wanted")
    wanted = work.commit("wanted")
    (mounted.volume / "a").write_bytes(b"other")
    other = work.commit("other")
    sealed(mounted, wanted), sealed(mounted, other)
    work.snap("verify", f"data@{wanted[:10]}", "--note")
    mounted.umount()
    lake = Lake.open(mounted.store)
    try:
        found = {key[8:].partition(b"\0")[0].decode(): key for key, _ in items(lake.index, "commits")}
        head = found[wanted][:8] + wanted.encode() + b"\0"
        lake.index.delete("commits", found[wanted])
        lake.index.put("commits", head + found[other].rpartition(other.encode() + b"\0")[2], records.PRESENT)
        lake.index.commit()
    finally:
        lake.close()
    for name in (wanted, wanted[:10]):
        work.snap("verify", f"data@{name}")
        assert f"it is of commit {other}, not of {name}" in work.snap("verify", f"data@{name}", "--note", code=1)
    work.snap("verify", f"data@{other}", "--note")
