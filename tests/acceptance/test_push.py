"""Pushing to a bare repository snapshots the data; clones that pull see it.

The daemon and the git server are on one machine, the hook speaks to the daemon's address: its unix socket, and its TLS
port with a token in a file.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from snapfs.testing.served import ServedStore

pytestmark = pytest.mark.timeout(180)


@dataclass
class Server:
    """A bare repository, and a clone whose user only pushes."""

    lake: ServedStore
    bare: Path
    clone: Path

    def git(self, *arguments: str, cwd: Path | None = None) -> str:
        return self.lake.run("git", *arguments, cwd=cwd or self.clone).strip()

    def commit(self, text: str) -> str:
        """Change the code and commit it."""
        (self.clone / "code.py").write_text(text)
        self.git("add", "code.py")
        self.git("commit", "-q", "-m", text)
        return self.git("rev-parse", "HEAD")

    def push(self, *arguments: str) -> list[str]:
        """What the hook told whoever pushed."""
        done = self.lake.done("git", "push", *(arguments or ("-q", "origin", "HEAD")), cwd=self.clone)
        assert done.returncode == 0, done.stderr
        lines = [line.strip() for line in done.stderr.splitlines()]
        return [line.removeprefix("remote: ") for line in lines if line.startswith("remote: snapfs: ")]

    def install(self, *options: str, code: int = 0) -> str:
        return self.lake.run(
            "snap", "git", "install", "--server", "--volume", "digits", *options, cwd=self.bare, code=code
        )

    def names(self) -> list[str]:
        return [snapshot["name"] for snapshot in self.lake.json("list", "digits")]


@pytest.fixture
def server(served: ServedStore, tmp_path: Path) -> Server:
    bare, clone = tmp_path / "digits.git", tmp_path / "work"
    served.run("git", "init", "-q", "--bare", "-b", "main", bare)
    served.run("git", "clone", "-q", bare, clone)
    made = Server(served, bare, clone)
    made.git("checkout", "-q", "-b", "main")
    return made


def over_tls(server: Server) -> list[str]:
    secret = server.bare.parent / "token"
    if not secret.exists():
        secret.touch(mode=0o600)
        secret.write_text(server.lake.token(server.bare.parent.name, "operator", "digits") + "\n")
    return ["--address", server.lake.address, "--token-file", str(secret), "--ca", str(server.lake.ca)]


WAYS: dict[str, Callable[[Server], list[str]]] = {
    "store": lambda server: ["--store", str(server.lake.store)],
    "unix socket": lambda server: ["--address", f"unix:{server.lake.socket}"],
    "TLS": over_tls,
}


@pytest.mark.parametrize("way", WAYS)
def test_a_push_snapshots_and_a_clone_that_pulls_sees_the_data(server: Server, way: str) -> None:
    lake = server.lake
    server.install(*WAYS[way](server))
    model = lake.data / "model"

    model.write_text(f"first {way}")
    first = server.commit(f"first {way}")
    assert server.push() == [f"snapfs: digits@{first[:12]} holds the data of main"]
    assert lake.json("show", f"digits@{first}")["git"] == {
        "commit": first,
        "branch": "main",
        "subject": f"first {way}",
        "author": "Ada <ada@example.org>",
        "remote": "",
        "dirty": False,
    }

    # somebody else, who lets the volume follow
    other = server.bare.parent / "other"
    lake.run("git", "clone", "-q", server.bare, other)
    lake.run("snap", "git", "install", "--volume", "digits", *WAYS[way](server), cwd=other)
    model.write_text(f"second {way}")
    second = server.commit(f"second {way}")
    assert server.push() == [f"snapfs: digits@{second[:12]} holds the data of main"]
    lake.snap("checkout", f"digits@{first}")
    assert model.read_text() == f"first {way}"

    told = lake.done("git", "pull", "-q", "--ff-only", cwd=other)
    assert told.returncode == 0
    assert model.read_text() == f"second {way}", told.stderr
    lake.run("git", "checkout", "-q", "--detach", first, cwd=other)
    assert model.read_text() == f"first {way}"


def test_tags_and_deleted_branches_make_nothing_and_a_commit_keeps_its_snapshot(server: Server) -> None:
    server.install("--store", str(server.lake.store))
    tip = server.commit("one tip of several branches")
    assert server.push("-q", "origin", "HEAD:main", "HEAD:other") == [
        f"snapfs: digits@{tip[:12]} holds the data of main",
        f"snapfs: digits@{tip[:12]} holds the data of other already",
    ]
    made = server.names()
    (server.lake.data / "later").write_text("than the push")
    server.git("tag", "v1")
    assert server.push("-q", "origin", "v1") == []
    assert server.push("-q", "origin", "--delete", "other") == []
    assert server.push("-q", "origin", "HEAD:again") == [f"snapfs: digits@{tip[:12]} holds the data of again already"]
    assert server.names() == made


def test_a_push_succeeds_whatever_the_daemon_does(server: Server, tmp_path: Path) -> None:
    server.install("--store", str(server.lake.store))
    server.git("config", "--unset", "snapfs.store", cwd=server.bare)
    server.git("config", "snapfs.address", f"unix:{tmp_path}/nobody", cwd=server.bare)
    tip = server.commit("nobody listens")
    (told,) = server.push()
    assert "no daemon listens" in told
    assert server.git("rev-parse", "main", cwd=server.bare) == tip

    server.git("config", "snapfs.address", server.lake.address, cwd=server.bare)
    server.git("config", "snapfs.ca", str(server.lake.ca), cwd=server.bare)
    tip = server.commit("no token")
    (told,) = server.push()
    assert "token" in told
    assert server.git("rev-parse", "main", cwd=server.bare) == tip
    assert tip not in server.names()


def test_installing_is_refused_where_it_could_not_work(server: Server) -> None:
    assert "nowhere" in server.install("--volume", "nowhere", "--store", str(server.lake.store), code=3)
    viewer = server.bare.parent / "token"
    assert "no file" in server.install("--address", server.lake.address, "--token-file", str(viewer), code=3)
    assert not (server.bare / "hooks/post-receive").exists()


def test_a_token_of_the_environment_is_not_stored(server: Server) -> None:
    lake = server.lake
    remote = lake.remote(lake.token("of-the-environment", "operator", "digits"))
    done = lake.done("snap", "git", "install", "--server", "--volume", "digits", cwd=server.bare, extra=remote)
    assert done.returncode == 0, done.stderr
    assert "note: the hooks will need SNAPFS_TOKEN" in done.stderr
    assert remote["SNAPFS_TOKEN"] not in (server.bare / "config").read_text()
    tip = server.commit("token by the environment")
    environment = {"SNAPFS_TOKEN": remote["SNAPFS_TOKEN"]}
    done = lake.done("git", "push", "-q", "origin", "HEAD", cwd=server.clone, extra=environment)
    assert f"snapfs: digits@{tip[:12]} holds the data of main" in done.stderr


def test_creating_for_one_commit_at_once_makes_one_snapshot(server: Server) -> None:
    tip = server.commit("created by several")
    remote = server.lake.remote(server.lake.token("several", "operator", "digits"))
    creates = [
        subprocess.Popen(
            ["snap", "create", "digits", "--git-commit"],
            cwd=server.clone,
            env={**server.lake.environment, **remote},
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(6)
    ]
    told = [process.communicate(timeout=60)[0] for process in creates]
    assert all(process.returncode == 0 for process in creates), told
    assert all(text.startswith(f"digits@{tip}") for text in told)
    assert [name for name in server.names() if name.startswith(tip)] == [tip]
    assert sum("unchanged since" not in text for text in told) == 1, told


def test_the_branch_of_a_detached_head_is_told(server: Server) -> None:
    tip = server.commit("built somewhere")
    server.git("checkout", "-q", "--detach")
    store = {"SNAPFS_STORE": str(server.lake.store)}
    create = ("snap", "create", "digits", "--branch", "feature/x")
    assert "--git-commit" in server.lake.run(*create, cwd=server.clone, code=2, extra=store)
    server.lake.run(*create, "--git-commit", cwd=server.clone, extra=store)
    assert server.lake.json("show", f"digits@{tip}")["git"]["branch"] == "feature/x"


def test_status_and_uninstall_on_a_server(server: Server) -> None:
    run: Callable[..., str] = server.lake.run
    (server.bare / "hooks").mkdir(exist_ok=True)
    own = server.bare / "hooks/post-receive"
    own.write_text('#!/bin/sh\nwhile read old new ref; do echo "theirs: $ref" >&2; done\n')
    own.chmod(0o755)
    server.install("--address", f"unix:{server.lake.socket}")
    tip = server.commit("both hooks")
    done = server.lake.done("git", "push", "-q", "origin", "HEAD", cwd=server.clone)
    assert "remote: theirs: refs/heads/main" in done.stderr
    assert f"remote: snapfs: digits@{tip[:12]}" in done.stderr
    told = run("snap", "git", "status", cwd=server.bare)
    assert f"unix:{server.lake.socket}" in told
    assert "post-receive   installed, with own lines" in told
    assert "post-commit" not in told
    run("snap", "git", "uninstall", cwd=server.bare)
    assert "snapfs" not in own.read_text()
    assert "snapfs" not in (server.bare / "config").read_text()


def test_two_pushes_at_once_of_one_commit_make_one_snapshot(server: Server) -> None:
    server.install("--store", str(server.lake.store))
    tip = server.commit("raced")
    environment = server.lake.environment
    pushes = [
        subprocess.Popen(
            ["git", "push", "-q", "origin", f"HEAD:race-{number}"],
            cwd=server.clone,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    told = [process.communicate(timeout=60)[1] for process in pushes]
    assert all(process.returncode == 0 for process in pushes), told
    assert [name for name in server.names() if name.startswith(tip)] == [tip]
    assert sum("already" not in text for text in told) == 1, told
