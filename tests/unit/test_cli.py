"""The command line on a store without a daemon: every verb for people and as JSON, and what can be typed
wrong."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import trio

from snapfs import api, errors
from snapfs.client import Client
from snapfs.types import Ino
from snapfs.volume.lake import Lake
from snapfs_cli import addresses, exits, main, output, session

SNAP = Path(sys.executable).with_name("snap")

Files = dict[str, bytes | None]
"""Content by path; None removes."""


class Shell:
    """Runs command lines in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str], store: Path) -> None:
        self._capsys = capsys
        self.store = store

    def run(self, *arguments: str, code: int = 0) -> str:
        """stdout."""
        self._capsys.readouterr()
        got = main.run(arguments)
        out, err = self._capsys.readouterr()
        assert got == code, (arguments, got, out, err)
        assert "Traceback" not in err
        if code in (0, exits.FOUND):
            assert err == ""
        return out

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--json"))

    def fails(self, *arguments: str, code: int) -> str:
        """The one line on stderr."""
        self._capsys.readouterr()
        got = main.run(arguments)
        out, err = self._capsys.readouterr()
        assert (got, out) == (code, ""), (arguments, got, out, err)
        assert err.endswith("\n")
        assert err.count("\n") == 1
        assert err.startswith("snap: ")
        return err.rstrip("\n")


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings from outside, and a directory that is in no repository."""
    for name in list(os.environ):
        if name.startswith(("GIT_", "SNAPFS_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "Ada")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "ada@example.org")
    place = tmp_path / "elsewhere"
    place.mkdir()
    monkeypatch.chdir(place)


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    """A store with the volume ``data``, named by SNAPFS_STORE."""
    made = Shell(capsys, tmp_path / "store")
    made.run("init", str(made.store))
    monkeypatch.setenv("SNAPFS_STORE", str(made.store))
    made.run("volume", "create", "data")
    return made


def fill(store: Path, volume_name: str, content: Files) -> None:
    """Write files (with one level of directories) into a volume's head, as a mount would."""

    async def work() -> None:
        lake = Lake.open(store)
        try:
            async with lake.running():
                volume = lake.volumes.get(volume_name)
                view, files = volume.head, lake.files
                for path, data in content.items():
                    directory, _, name = path.rpartition("/")
                    parent: Ino = volume.root
                    if directory:
                        try:
                            parent = files.lookup(view, volume.root, os.fsencode(directory)).ino
                        except errors.NotFound:
                            made = files.mkdir(view, volume.root, os.fsencode(directory), mode=0o755, uid=0, gid=0)
                            parent = made.ino
                    raw = os.fsencode(name)
                    if data is None:
                        files.unlink(view, parent, raw, is_open=lambda _: False)
                        continue
                    try:
                        ino = files.lookup(view, parent, raw).ino
                        files.setattr(view, ino, size=0)
                    except errors.NotFound:
                        ino = files.mknod(view, parent, raw, mode=stat.S_IFREG | 0o644, uid=0, gid=0).ino
                    await files.write(view, ino, 0, data)
                await lake.commit()
        finally:
            lake.close()

    trio.run(work)


def contents(store: Path, volume_name: str) -> dict[str, bytes]:
    """All regular files of a volume's head."""
    found: dict[str, bytes] = {}

    async def walk(lake: Lake, view: Any, directory: Ino, prefix: str) -> None:
        for _, name, ino, kind in lake.files.readdir(view, directory, 0):
            path = prefix + os.fsdecode(name)
            if stat.S_ISDIR(kind):
                await walk(lake, view, ino, path + "/")
            else:
                found[path] = await lake.files.read(view, ino, 0, 1 << 20)

    async def work() -> None:
        lake = Lake.open(store)
        try:
            async with lake.running():
                volume = lake.volumes.get(volume_name)
                await walk(lake, volume.head, volume.root, "")
        finally:
            lake.close()

    trio.run(work)
    return found


# -- the program itself -------------------------------------------------------------------------------------


def commands() -> Iterator[tuple[str, click.Command]]:
    root = main.build()
    context = click.Context(root)
    for name in root.list_commands(context):
        command = root.get_command(context, name)
        assert command is not None
        yield name, command
        if isinstance(command, click.Group):
            for sub, inner in command.commands.items():
                yield f"{name} {sub}", inner


@pytest.mark.parametrize("name", [name for name, _ in commands()])
def test_every_command_explains_itself_with_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run([*name.split(), "--help"]) == 0
    told = capsys.readouterr().out
    examples = told.partition("Examples:")[2]
    assert f"snap {name}" in examples or name in ("git sync",)
    assert len(told.partition("Usage:")[2].splitlines()) > 5


@pytest.mark.parametrize(
    "name", [name for name, command in commands() if not isinstance(command, click.Group) and name != "daemon logs"]
)
def test_every_command_takes_json(name: str) -> None:
    command = dict(commands())[name]
    assert any("--json" in parameter.opts for parameter in command.params)


def test_every_kind_has_an_exit_code_that_the_help_tells(capsys: pytest.CaptureFixture[str]) -> None:
    assert set(exits.BY_KIND) == set(errors.Kind)
    assert main.run(["--help"]) == 0
    told = capsys.readouterr().out
    for code in {*exits.BY_KIND.values(), exits.FOUND, exits.INTERNAL, exits.INTERRUPTED}:
        assert code != 0
        assert re.search(rf"^ +{code} ", told, re.MULTILINE), code


def test_the_installed_command(tmp_path: Path) -> None:
    done = subprocess.run([SNAP, "--version"], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"snapfs \d+\.\d+\.\d+\n", done.stdout)
    bare = subprocess.run([SNAP], capture_output=True, text=True, check=False)
    assert bare.returncode == exits.USAGE
    assert "Usage" in bare.stderr
    store = tmp_path / "store"
    subprocess.run([SNAP, "init", store], check=True, capture_output=True)
    pipe = f"'{SNAP}' volume list --store '{store}' | true"
    assert subprocess.run(["sh", "-c", pipe], capture_output=True, check=False).stderr == b""


@pytest.mark.parametrize("arguments", [["volume", "list"], ["fsck"], ["fsck", "--help"]])
def test_a_reader_that_went_away_is_no_damage(arguments: list[str], tmp_path: Path) -> None:
    Lake.create(tmp_path / "store")
    read, write = os.pipe()
    os.close(read)
    try:
        told = subprocess.run(
            [SNAP, "--store", tmp_path / "store", *arguments], stdout=write, stderr=subprocess.PIPE, check=False
        )
    finally:
        os.close(write)
    assert (told.returncode, told.stderr) == (exits.BROKEN_PIPE, b"")


def test_standard_streams_may_be_closed(tmp_path: Path) -> None:
    Lake.create(tmp_path / "store")
    closed = (
        f"'{SNAP}' volume create v --store '{tmp_path}/store' <&- >&-; '{SNAP}' list --store '{tmp_path}/store' >&-"
    )
    done = subprocess.run(["sh", "-c", closed], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (exits.OK, b"")
    quiet = f"'{SNAP}' volume list --store '{tmp_path}/store' <&- 2>&-"
    assert b"v " in subprocess.run(["sh", "-c", quiet], capture_output=True, check=True).stdout


def test_wrong_usage_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["list", "--bogus", "--json"], ["bogus", "--json"], ["list", "--newest", "0", "--json"]):
        assert main.run(arguments) == exits.USAGE
        assert json.loads(capsys.readouterr().err)["error"]["exit_code"] == exits.USAGE


@pytest.mark.parametrize("shell_name", ["bash", "zsh", "fish"])
def test_completion(shell_name: str, shell: Shell) -> None:
    script = shell.run("completion", shell_name)
    assert "_SNAP_COMPLETE" in script
    assert "_SNAPFS_COMPLETE" in script
    assert shell.json("completion", shell_name)["script"].strip() == script.strip()


# -- verbs ------------------------------------------------------------------------------------------------


def test_init(tmp_path: Path, shell: Shell) -> None:
    assert shell.json("init", str(tmp_path / "another")) == {"store": str(tmp_path / "another")}
    (tmp_path / "empty").mkdir()
    shell.run("init", str(tmp_path / "empty"))
    shell.fails("init", str(tmp_path / "empty"), code=4)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("x")
    assert "not empty" in shell.fails("init", str(tmp_path / "full"), code=2)
    (tmp_path / "file").write_text("x")
    assert shell.fails("init", str(tmp_path / "file"), code=2)
    shell.fails("init", "", code=2)


def test_volumes(shell: Shell) -> None:
    assert "made the volume" in shell.run("volume", "create", "more")
    assert shell.json("volume", "create", "third")["name"] == "third"
    assert [volume["name"] for volume in shell.json("volume", "list")] == ["data", "more", "third"]
    assert "third" in shell.run("volume", "list")
    shell.run("volume", "rm", "more")
    assert shell.json("volume", "rm", "third") == {"removed": "third"}
    fill(shell.store, "data", {"a": b"a"})
    shell.fails("volume", "rm", "data", code=4)
    shell.run("create", "--name", "one")
    assert "snapshot" in shell.fails("volume", "rm", "data", code=4)
    shell.run("volume", "rm", "--snapshots", "data")
    assert shell.json("volume", "list") == []


def test_create_list_show_log(shell: Shell) -> None:
    fill(shell.store, "data", {"a": b"a"})
    assert shell.run("create", "--name", "one", "-m", "first words") == "data@one\n"
    fill(shell.store, "data", {"b": b"b"})
    made = shell.json("create", "data", "--meta", "accuracy=0.9", "--meta", "empty=")
    assert re.fullmatch(r"\d{8}T\d{6}Z", made["name"])
    assert made["meta"] == {"accuracy": "0.9", "empty": ""}
    assert made["parent"] == "data@one"
    listed = shell.json("list", "data")
    assert [(entry["name"], entry["current"]) for entry in listed] == [("one", False), (made["name"], True)]
    lines = shell.run("list").splitlines()
    assert "first words" in lines[1]
    assert lines[2].startswith("*")
    told = shell.run("show", "data@one")
    assert "first words" in told
    assert shell.json("show", "@one") == listed[0]
    assert "accuracy" in shell.run("show", made["name"])
    assert [entry["name"] for entry in shell.json("log")] == [made["name"], "one"]
    assert [entry["name"] for entry in shell.json("log", "data@one")] == ["one"]
    assert "data@one" in shell.run("log", "data")


def test_diff_and_status(shell: Shell) -> None:
    fill(shell.store, "data", {"same": b"s", "gone": b"12345", "dir/changed": b"old", "moved": b"m" * 100})
    shell.run("create", "--name", "one")
    assert shell.json("status") == []
    assert "no unsaved changes" in shell.run("status")
    fill(shell.store, "data", {"gone": None, "dir/changed": b"newer", "added\n\u202e\udcff": b"1234567"})
    changes = {change["path"]: change for change in shell.json("status", "data")}
    assert {path: change["kind"] for path, change in changes.items() if change["type"] == "file"} == {
        "gone": "deleted",
        "dir/changed": "modified",
        "added\n\u202e\udcff": "added",
    }
    assert changes["gone"]["old_bytes"] == 5
    assert changes["added\n\u202e\udcff"]["new_bytes"] == 7
    assert (changes["dir/changed"]["old_bytes"], changes["dir/changed"]["new_bytes"]) == (3, 5)
    told = shell.run("status")
    assert 'A  "added\\n\\u202e\\xff"  (7 B)' in told
    assert "D  gone  (5 B)" in told
    assert "M  dir/changed" in told
    assert told.startswith("data: since data@one\n")
    shell.run("create", "--name", "two")
    between = shell.json("diff", "data@one", "data@two")
    assert {change["path"] for change in between} == set(changes)
    assert shell.json("diff", "@two") == []
    assert "no differences" in shell.run("diff", "data@two", "data")
    backwards = {change["path"]: change["kind"] for change in shell.json("diff", "data@two", "data@one")}
    assert backwards["gone"] == "added"


def test_checkout(shell: Shell) -> None:
    fill(shell.store, "data", {"a": b"first"})
    shell.run("create", "--name", "one")
    fill(shell.store, "data", {"a": b"second", "b": b"b"})
    shell.run("create", "--name", "two")
    assert shell.run("checkout", "data@one") == "now at data@one\n"
    assert contents(shell.store, "data") == {"a": b"first"}
    assert shell.json("checkout", "data@one")["moved"] is False
    fill(shell.store, "data", {"c": b"unsaved"})
    assert "--save" in shell.fails("checkout", "@two", code=4)
    assert contents(shell.store, "data") == {"a": b"first", "c": b"unsaved"}
    shell.fails("checkout", "--save", "--discard", "@two", code=2)
    saved = shell.json("checkout", "--save", "@two")["saved"]["name"]
    assert saved.startswith("unsaved-")
    assert contents(shell.store, "data") == {"a": b"second", "b": b"b"}
    shell.run("checkout", f"@{saved}")
    assert contents(shell.store, "data") == {"a": b"first", "c": b"unsaved"}
    fill(shell.store, "data", {"d": b"thrown away"})
    shell.run("checkout", "--discard", "@two")
    assert contents(shell.store, "data") == {"a": b"second", "b": b"b"}
    assert {entry["name"] for entry in shell.json("list")} == {"one", "two", saved}


def test_restore(shell: Shell) -> None:
    fill(shell.store, "data", {"a": b"a", "dir/b": b"bb", "dir/c": b"ccc", "keep": b"old"})
    shell.run("create", "--name", "one")
    fill(shell.store, "data", {"a": None, "dir/b": b"spoilt", "dir/c": None, "keep": b"new"})
    done = shell.json("restore", "data@one", "./a", "dir/../dir/")
    assert (done["files"], done["total_bytes"]) == (3, 6)
    assert contents(shell.store, "data") == {"a": b"a", "dir/b": b"bb", "dir/c": b"ccc", "keep": b"new"}
    assert "restored 4 files" in shell.run("restore", "@one", ".")
    assert contents(shell.store, "data")["keep"] == b"old"
    fill(shell.store, "data", {"dir/new": b"stays"})
    shell.run("restore", "@one", "dir")
    assert contents(shell.store, "data")["dir/new"] == b"stays"
    assert "the snapshot has no 'dir/nope'" in shell.fails("restore", "@one", "dir/nope", code=3)
    shell.fails("restore", "@one", "../x", code=2)
    shell.fails("restore", "@one", "/etc/passwd", code=2)
    shell.fails("restore", "@one", code=2)


def test_clone_rename_rm(shell: Shell) -> None:
    fill(shell.store, "data", {"a": b"a"})
    shell.run("create", "--name", "one")
    assert shell.json("clone", "data@one", "copy")["parent"] == "data@one"
    assert "made the volume" in shell.run("clone", "data@one", "copy2")
    assert contents(shell.store, "copy") == {"a": b"a"}
    shell.fails("clone", "data@one", "copy", code=4)
    assert shell.run("rename", "data@one", "uno") == "data@uno\n"
    assert shell.json("rename", "data@uno", "ein")["name"] == "ein"
    shell.run("create", "data", "--name", "two")
    shell.fails("rename", "data@ein", "two", code=4)
    assert shell.json("rm", "data@ein") == {"removed": ["data@ein"]}
    assert shell.run("rm", "data@two") == "removed data@two\n"
    assert shell.json("list", "--all") == []


def test_info_and_fsck(shell: Shell) -> None:
    fill(shell.store, "data", {"a": b"a" * 100_000})
    shell.run("create", "--name", "one")
    info = shell.json("info")
    assert (info["volumes"], info["snapshots"], info["pid"]) == (1, 1, 0)
    assert Path(info["path"]) == shell.store
    assert "none" in shell.run("info")
    report = shell.json("fsck", str(shell.store))
    assert report["findings"] == []
    assert report["data_read_bytes"] >= 0
    assert shell.run("fsck").startswith("clean; ")


def test_rm_removes_just_what_is_named(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit's bare ID means its newest snapshot, and is the name of its first."""
    subprocess.run(["git", "init", "-q", "."], cwd=tmp_path, check=True)
    identity = ["-c", "user.name=n", "-c", "user.email=a@b"]
    subprocess.run(["git", *identity, "commit", "-q", "--allow-empty", "-m", "m"], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    shell.run("volume", "create", "twice")
    (source := tmp_path / "source").mkdir()
    names = []
    for text in ("one", "two", "three"):
        (source / "f").write_text(text)
        shell.run("import", str(source), "twice")
        names.append(shell.json("create", "twice", "--git-commit")["name"])
    commit = names[0]
    assert names == [commit, f"{commit}.2", f"{commit}.3"]
    for ref, name in ((commit, names[2]), (f"{commit}.1", commit)):
        assert [one["snapshot"] for one in shell.json("du", f"twice@{ref}")] == [name]
    assert shell.json("rm", f"twice@{commit}.1") == {"removed": [f"twice@{commit}"]}
    assert [one["name"] for one in shell.json("list", "twice")] == names[1:]
    assert shell.json("du", f"twice@{commit}")[0]["snapshot"] == names[2]
    shell.run("undelete", f"twice@{commit}")
    assert shell.json("rm", f"twice@{commit}") == {"removed": [f"twice@{commit}.3"]}
    assert [one["name"] for one in shell.json("list", "twice")] == names[:2]


def test_git_commit(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no git repository" in shell.fails("create", "--git-commit", code=3)
    repository = tmp_path / "code"
    repository.mkdir()
    monkeypatch.chdir(repository)

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q", "-b", "main")
    assert "no commit yet" in shell.fails("create", "data", "--git-commit", code=3)
    git("commit", "-q", "--allow-empty", "-m", "first")
    git("commit", "-q", "--allow-empty", "-m", "second")
    fill(shell.store, "data", {"a": b"a"})
    made = shell.json("create", "data", "--git-commit")
    assert made["name"] == git("rev-parse", "HEAD")
    assert (made["git"]["subject"], made["git"]["branch"]) == ("second", "main")
    assert "(unchanged since" in shell.run("create", "data", "--git-commit")
    assert shell.json("create", "--git-commit=HEAD~1", "data")["name"] == git("rev-parse", "HEAD~1")
    assert "volume before" in shell.fails("create", "--git-commit", "data", code=3)
    assert shell.json("show", made["name"][:7])["name"] == made["name"]
    shell.run("git", "install", "--volume", "data")
    monkeypatch.delenv("SNAPFS_STORE")
    assert shell.json("show", made["name"][:7])["name"] == made["name"]
    assert shell.json("git", "status")["volume"] == "data"
    assert "follows this repository" in shell.run("git", "status")
    assert shell.json("git", "sync")["snapshot"]["name"] == made["name"]
    named = shell.json("create", "--git-commit", "--name", "release")
    assert (named["name"], named["git"]["subject"]) == ("release", "second")
    assert shell.json("git", "uninstall")["unbound"] is True
    assert "nothing" in shell.run("git", "uninstall")
    assert "install" in shell.fails("git", "sync", code=3)


# -- what can be wrong
# ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a/b", "a@b", "", "..", ".", "x" * 256, "\udcff\n", ".snap", "a\0b"])
def test_bad_names(shell: Shell, name: str) -> None:
    shell.fails("volume", "create", name, code=2)
    if name:
        shell.fails("create", "data", "--name", name, code=2)
    shell.run("create", "data", "--name", "one")
    shell.fails("clone", "data@one", name, code=2)
    shell.fails("rename", "data@one", name, code=2)


@pytest.mark.parametrize("address", ["", "@", "data@", "a@b@c", "data@a/b"])
@pytest.mark.parametrize("verb", ["show", "checkout", "rm", "diff"])
def test_bad_addresses(shell: Shell, verb: str, address: str) -> None:
    assert "VOLUME@SNAPSHOT" in shell.fails(verb, address, code=2)


def test_unknown_snapshots_suggest_near_ones(shell: Shell) -> None:
    shell.run("create", "data", "--name", "cleaned")
    for verb in (["show"], ["checkout"], ["rm"], ["diff"], ["log"]):
        assert "cleaned" in shell.fails(*verb, "data@claned", code=3)
    assert "data" in shell.fails("show", "dota@cleaned", code=3)
    shell.fails("list", "nope", code=3)
    shell.fails("status", "nope", code=3)
    shell.fails("create", "nope", code=3)
    shell.fails("volume", "rm", "nope", code=3)


def test_ambiguous_prefix(shell: Shell) -> None:
    with session.connected(shell.store) as store:
        for digit in "12":
            store.create_snapshot(volume="data", git=api.GitCommit(commit="abcdef" + digit * 34))
    assert shell.json("show", "@abcdef1")["name"] == "abcdef" + "1" * 34
    assert "ambiguous" in shell.fails("show", "@abcdef", code=2)


def test_bad_stores(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = shell.fails("list", "--store", str(tmp_path / "nope"), code=3)
    assert str(tmp_path / "nope") in missing
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "file").write_text("x")
    shell.fails("list", "--store", str(foreign), code=2)
    assert sorted(os.listdir(foreign)) == ["file"]
    shell.fails("list", "--store", str(foreign / "file"), code=2)
    shell.fails("fsck", str(tmp_path / "nope"), code=3)
    monkeypatch.delenv("SNAPFS_STORE")
    assert "--store" in shell.fails("list", code=2)


def test_store_in_use(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "BUSY_SECONDS_MAX", 0.2)
    lake = Lake.open(shell.store)
    try:
        assert str(os.getpid()) in shell.fails("list", code=5)
    finally:
        lake.close()
    shell.run("list")


def test_a_store_in_use_for_a_moment_is_waited_for(shell: Shell) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(shell.store)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    shell.run("list")
    holder.wait()
    holder.stdout.close()


HOLD = """
import sys, time
from pathlib import Path
from snapfs.volume.lake import Lake
lake = Lake.open(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(0.5)
lake.close()
"""


def test_which_volume(shell: Shell) -> None:
    shell.run("create")
    shell.run("volume", "create", "other")
    assert "data, other" in shell.fails("create", code=2)
    assert "data, other" in shell.fails("show", "@one", code=2)
    assert len(shell.json("list")) == 1
    shell.run("volume", "rm", "other")
    shell.run("volume", "rm", "--snapshots", "data")
    assert "snap volume create" in shell.fails("create", code=3)


@pytest.mark.parametrize(
    "arguments",
    [
        ["nope"],
        ["lst"],
        ["create", "--nope"],
        ["create", "data", "extra"],
        ["create", "--meta", "novalue"],
        ["create", "--meta", "=x"],
        ["create", "--meta", "a=1", "--meta", "a=2"],
        ["volume", "nope"],
        ["git", "nope"],
        ["show"],
        ["mount", "x"],
        ["completion", "tcsh"],
        ["list", "--all", "data"],
    ],
)
def test_wrong_usage(shell: Shell, arguments: list[str]) -> None:
    assert "--help" in shell.fails(*arguments, code=2) or "did you mean" in shell.fails(*arguments, code=2)


@pytest.mark.parametrize("ahead", [[], ["--token-file", "none"]])
@pytest.mark.parametrize("arguments", [["create", "--branch", "b"], ["checkout", "@s", "--save", "--discard"]])
def test_what_cannot_be_meant_names_the_verb(ahead: list[str], arguments: list[str], shell: Shell) -> None:
    assert f"see `snap {arguments[0]} --help`" in shell.fails(*ahead, *arguments, code=2)


def test_more_than_any_list_has(shell: Shell) -> None:
    shell.run("create", "--name", "base")
    assert "@base" in shell.run("list", "--newest", "9" * 30)


def test_errors_as_json(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["show", "data@nope", "--json"]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    error = json.loads(err)["error"]
    assert (error["kind"], error["exit_code"]) == ("not_found", 3)
    assert main.run(["show", "--json", "@"]) == 2
    assert json.loads(capsys.readouterr().err)["error"]["kind"] == "invalid"


def test_a_bug_is_one_line_too(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(Client, "list_volumes", broken)
    assert "internal error" in shell.fails("volume", "list", code=70)
    monkeypatch.setenv("SNAPFS_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        main.run(["volume", "list"])


# -- tags, filters, events ----------------------------------------------------------------------------------


def test_tags(shell: Shell) -> None:
    shell.run("create", "--name", "one")
    fill(shell.store, "data", {"a": b"a"})
    shell.run("create", "--name", "two")
    assert shell.run("tag", "data@one", "best") == "data@best is data@one\n"
    assert shell.json("tag", "@one", "first")["tags"] == ["best", "first"]
    assert shell.json("show", "@best")["name"] == "one"
    assert "best, first" in shell.run("show", "@one")
    assert "[best, first]" in shell.run("list")
    assert "best" in shell.fails("tag", "@two", "best", code=4)
    assert shell.json("tag", "@two", "best", "--move")["name"] == "two"
    assert [entry["name"] for entry in shell.json("list", "--tag", "best")] == ["two"]
    shell.run("checkout", "@best")
    assert shell.json("tag", "--delete", "data@first") == {"removed": "data@first"}
    assert "took away" in shell.run("tag", "--delete", "@best")
    shell.fails("tag", "--delete", "@best", code=3)
    shell.fails("tag", "--delete", "@one", code=3)
    shell.fails("tag", "@one", "two", code=4)
    shell.fails("tag", "@one", "a/b", code=2)
    assert {entry["name"] for entry in shell.json("list")} == {"one", "two"}


def test_list_filters(shell: Shell) -> None:
    names = [f"s{number}" for number in range(6)]
    for number, name in enumerate(names):
        shell.run("create", "--name", name, "--meta", f"parity={number % 2}", "--meta", f"third={number % 3}")

    def listed(*arguments: str) -> list[str]:
        return [entry["name"] for entry in shell.json("list", *arguments)]

    assert listed() == names
    assert listed("--meta", "parity=1") == ["s1", "s3", "s5"]
    assert listed("--meta", "parity=1", "--meta", "third=0") == ["s3"]
    assert listed("--newest", "2") == ["s4", "s5"]
    assert listed("--newest", "2", "--meta", "parity=0") == ["s2", "s4"]
    assert listed("--newest", "100") == names
    assert listed("--since", "1h") == names
    assert listed("--until", "1h") == []
    assert listed("--since", "2099-01-01") == []
    with session.connected(shell.store) as store:
        git = api.GitCommit(commit="ab" * 20, branch="main")
        store.create_snapshot(volume="data", git=git)
    assert listed("--branch", "main") == ["ab" * 20]
    assert listed("--branch", "mai") == []
    for wrong in (["--newest", "0"], ["--since", "yesterday"], ["--meta", "x"]):
        shell.fails("list", *wrong, code=2)


def test_watch_what_happened(shell: Shell) -> None:
    shell.run("create", "--name", "one")
    shell.run("tag", "@one", "best")
    told = [json.loads(line) for line in shell.run("watch", "--until-now", "--json").splitlines()]
    assert [event["kind"] for event in told] == ["volume_created", "snapshot_created", "tag_set"]
    assert [event["sequence"] for event in told] == [1, 2, 3]
    assert shell.run("watch", "--until-now", "--after", "2", "data").count("\n") == 1
    assert "data@one" in shell.run("watch", "--until-now", "--kind", "snapshot_created")
    assert shell.run("watch", "--until-now", "other") == ""
    shell.fails("watch", "--until-now", "--after", "99", code=3)
    shell.fails("watch", "--kind", "nope", code=2)
    shell.fails("watch", "--after", "-1", code=2)
    assert "no daemon" in shell.fails("watch", code=5)


# -- daemons elsewhere --------------------------------------------------------------------------------------


def test_addresses_of_daemons(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = f"unix:{tmp_path}/nobody"
    assert "no daemon listens" in shell.fails("list", "--address", nobody, code=5)
    assert "no daemon listens" in shell.fails("--address", nobody, "list", code=5)
    assert "exclude" in shell.fails("list", "--address", nobody, "--store", str(shell.store), code=2)
    assert "without TLS" in shell.fails("list", "--address", "insecure:192.0.2.1:1", code=2)
    assert "address" in shell.fails("list", "--address", "nonsense", code=2)
    assert "not an address" in shell.fails("audit", "--verify", "--address", nobody, code=2)
    monkeypatch.setenv("SNAPFS_ADDRESS", nobody)  # goes before SNAPFS_STORE
    shell.fails("list", code=5)
    assert shell.json("list", "--store", str(shell.store)) == []


def test_what_a_daemon_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert session.Shown().token() == ""
    (tmp_path / "one").write_text("first\n")
    (tmp_path / "two").write_text("second\n")
    monkeypatch.setenv("SNAPFS_TOKEN_FILE", str(tmp_path / "one"))
    assert session.Shown().token() == "first"
    monkeypatch.setenv("SNAPFS_TOKEN", " direct ")
    assert session.Shown().token() == "direct"
    assert session.Shown(token_file=str(tmp_path / "two")).token() == "second"
    for name in ("CA", "CERTIFICATE", "KEY"):
        monkeypatch.setenv(f"SNAPFS_{name}", f"{name.lower()}.pem")
    assert session.Shown().complete() == session.Shown(ca="ca.pem", certificate="certificate.pem", key="key.pem")
    given = session.Shown(certificate="own.pem", key="own.key")
    assert given.complete() == given._replace(ca="ca.pem")


def test_a_token_counts_without_a_daemon_too(shell: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    secret = shell.json("token", "create", "ci", "--role", "viewer")["secret"]
    monkeypatch.setenv("SNAPFS_TOKEN", secret)
    assert shell.json("list", "data") == []
    assert "viewer" in shell.fails("create", "data", code=8)
    monkeypatch.setenv("SNAPFS_TOKEN", secret[:-1] + ("A" if secret[-1] != "A" else "B"))
    shell.fails("list", "data", code=8)
    monkeypatch.delenv("SNAPFS_TOKEN")
    (tmp_path / "token").write_text(secret)
    shell.fails("create", "data", "--token-file", str(tmp_path / "token"), code=8)
    assert "no file" in shell.fails("list", "--token-file", str(tmp_path / "nope"), code=3)
    callers = [entry["caller"] for entry in shell.json("audit") if entry["method"].endswith("CreateSnapshot")]
    assert callers == ["ci", "ci"]


# -- parts
# ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "inside", "path"),
    [
        ("a/b", "", "a/b"),
        ("./a//b/", "", "a/b"),
        (".", "", ""),
        (".", "dir", "dir"),
        ("..", "dir", ""),
        ("../x", "dir/sub", "dir/x"),
        ("/lake/data/x/./y", "", "x/y"),
        ("/lake/data", "dir", ""),
        ("/lake/data/.snap/old/x", "", "x"),
        (".snap/old/x", "", "x"),
        ("-", "", "-"),
    ],
)
def test_paths(text: str, inside: str, path: str) -> None:
    assert addresses.path_in_volume(text, inside=inside, mounted_root="/lake/data") == path


@pytest.mark.parametrize("text", ["", "..", "a/../..", "../data/x", "/lake", "/lake/datax", "/", "a\0b"])
def test_paths_that_lead_out(text: str) -> None:
    with pytest.raises(errors.Invalid):
        addresses.path_in_volume(text, inside="", mounted_root="/lake/data")


@pytest.mark.parametrize(
    ("name", "quoted"),
    [
        ("plain name.txt", "plain name.txt"),
        ("né", "né"),
        ("a\nb", '"a\\nb"'),
        ("\x1b[31m", '"\\x1b[31m"'),
        ("a\u202eb", '"a\\u202eb"'),
        ("\udcff", '"\\xff"'),
        ("\u200b", '"\\u200b"'),
        ('"', '"\\""'),
        ("a\\b", '"a\\\\b"'),
        ("\x85", '"\\u0085"'),
        ("", ""),
    ],
)
def test_quote(name: str, quoted: str) -> None:
    assert output.quote(name) == quoted


def test_sizes_and_times(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [output.size(n) for n in (0, 1023, 1024, 1536, 1 << 30, 1 << 62)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "1.5 KiB",
        "1.0 GiB",
        "4.0 EiB",
    ]
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    assert output.when(1_000_000_000_123_456_789) == "2001-09-09 01:46:40"


def test_tables_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [("[red]not markup[/red]", "1"), ("b", "22")]
    output.table(("NAME", "SIZE"), rows, right=frozenset({1}))
    told = capsys.readouterr().out.splitlines()
    assert told == [
        "NAME                   SIZE",
        "[red]not markup[/red]     1",
        "b                        22",
    ]
    monkeypatch.setattr(output, "on_terminal", lambda: True)
    output.table(("NAME", "SIZE"), rows, right=frozenset({1}))
    assert "[red]not markup[/red]" in capsys.readouterr().out


def test_a_long_table_on_a_terminal_is_plain_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(output, "on_terminal", lambda: True)
    monkeypatch.setattr(output, "_rich_table", lambda *_: pytest.fail("it takes rich seconds"))
    output.table(("NAME", "SIZE"), [(f"row {number}", "1") for number in range(2000)], right=frozenset({1}))
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 2001
    assert told[2000] == "row 1999     1"
