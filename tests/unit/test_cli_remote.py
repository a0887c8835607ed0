"""The command line with a daemon elsewhere: over TLS, by address, with tokens and certificates."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trustme

from snapfs import api
from snapfs.rpc.endpoints import TcpEndpoint
from snapfs.testing.api_server import ApiServer
from snapfs_cli import exits, main

SNAP = Path(sys.executable).with_name("snap")


class Remote:
    """A server with a TLS port and one for clients with certificates, and what its clients need."""

    def __init__(self, place: Path) -> None:
        self.place = place
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(place / "ca.pem"))
        trustme.CA().cert_pem.write_to_path(str(place / "other.pem"))
        for name, issued in (
            ("server", authority.issue_cert("localhost", "127.0.0.1")),
            ("client", authority.issue_cert("build.example.org")),
        ):
            issued.cert_chain_pems[0].write_to_path(str(place / f"{name}.pem"))
            issued.private_key_pem.write_to_path(str(place / f"{name}.key"))
        tls = TcpEndpoint(address="127.0.0.1:0", certificate=place / "server.pem", key=place / "server.key")
        mutual = msgspec.structs.replace(tls, client_ca=place / "ca.pem")
        self.server = ApiServer(place / "store", [tls, mutual])
        _, self.tls, self.mutual = self.server.addresses
        with self.server.connect() as owner:
            for volume in ("data", "other"):
                owner.create_volume(name=volume)
            owner.create_snapshot(volume="data", name="one")
            for role in api.Role:
                (place / role).write_text(owner.create_token(name=f"a-{role}", role=role).secret)
            narrow = owner.create_token(name="narrow", role=api.Role.OPERATOR, volumes=["data"])
            (place / "narrow").write_text(narrow.secret)
            owner.create_token(name="build.example.org", role=api.Role.OPERATOR, certificate=True)


@pytest.fixture(scope="module")
def remote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Remote]:
    made = Remote(tmp_path_factory.mktemp("remote"))
    yield made
    made.server.stop()


class Shell:
    """Runs command lines in this process; as the operator unless told otherwise."""

    def __init__(self, remote: Remote, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.remote = remote
        self._capsys = capsys
        self._set = monkeypatch.setenv
        for name in list(os.environ):
            if name.startswith(("GIT_", "SNAPFS_")):
                monkeypatch.delenv(name)
        self._set("SNAPFS_ADDRESS", remote.tls)
        self._set("SNAPFS_CA", str(remote.place / "ca.pem"))
        self.become("operator")

    def become(self, name: str) -> None:
        self._set("SNAPFS_TOKEN", (self.remote.place / name).read_text())

    def run(self, *arguments: str, code: int = 0) -> str:
        """stdout; of a failure the one line on stderr."""
        self._capsys.readouterr()
        got = main.run(arguments)
        out, err = self._capsys.readouterr()
        assert got == code, (arguments, got, out, err)
        assert err.count("\n") == (1 if code else 0), err
        return err if code else out

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--json"))


@pytest.fixture
def shell(remote: Remote, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Shell:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    return Shell(remote, capsys, monkeypatch)


def test_verbs(shell: Shell) -> None:
    assert shell.run("create", "data", "--name", "two", "-m", "from afar") == "data@two\n"
    assert shell.json("show", "data@two")["message"] == "from afar"
    assert [entry["name"] for entry in shell.json("list", "data", "--newest", "1")] == ["two"]
    assert shell.run("tag", "data@two", "best") == "data@best is data@two\n"
    assert shell.json("log", "data@best")[0]["name"] == "two"
    assert shell.json("diff", "data@one", "data@two") == []
    assert shell.run("status", "data") == "data: since data@two\nno unsaved changes\n"
    assert shell.json("checkout", "data@one")["moved"] is True
    assert shell.json("clone", "data@two", "copy")["parent"] == "data@two"
    assert shell.json("fsck")["findings"] == []
    assert shell.json("info")["path"] == str(shell.remote.place / "store")
    kinds = [json.loads(line)["kind"] for line in shell.run("watch", "--until-now", "--json", "copy").splitlines()]
    assert kinds == ["volume_created"]
    shell.run("rename", "data@two", "second")
    shell.run("rm", "data@second")
    shell.run("volume", "rm", "copy")
    assert [entry["name"] for entry in shell.json("list", "data")] == ["one"]


def test_the_volume_must_be_told(shell: Shell) -> None:
    assert "data, other" in shell.run("create", code=exits.USAGE)
    shell.become("narrow")
    assert shell.run("create", "--name", "mine") == "data@mine\n"  # the only one that it may see
    shell.run("rm", "@mine")


@pytest.mark.parametrize(
    ("who", "arguments", "code"),
    [
        ("viewer", ["list"], 0),
        ("viewer", ["create", "data"], 8),
        ("operator", ["token", "list"], 8),
        ("admin", ["token", "list"], 0),
        ("admin", ["audit"], 0),
        ("narrow", ["list", "data"], 0),
        ("narrow", ["list", "other"], 8),
        ("narrow", ["volume", "create", "third"], 8),
        ("narrow", ["clone", "data@one", "third"], 8),
        ("narrow", ["info"], 8),
        ("narrow", ["watch", "--until-now"], 0),
        ("viewer", ["du"], 0),
        ("viewer", ["space"], 0),
        ("viewer", ["trash", "list"], 0),
        ("viewer", ["hold", "data@one"], 8),
        ("viewer", ["rm", "data@one"], 8),
        ("viewer", ["policy", "apply", "data", "--last", "1"], 8),
        ("operator", ["rm", "--purge", "data@one"], 8),
        ("operator", ["volume", "rm", "--purge", "other"], 8),
        ("operator", ["lock", "data@one", "--for", "1h"], 8),
        ("operator", ["trash", "empty"], 8),
        ("operator", ["policy", "set", "data", "--last", "9"], 0),
        ("operator", ["policy", "set", "data", "--reachable", "--repository", "/x"], 8),
        ("narrow", ["du", "data"], 0),
        ("narrow", ["du", "other"], 8),
        ("narrow", ["space"], 8),
        ("narrow", ["du", "--to-free", "1G"], 8),
    ],
)
def test_roles(shell: Shell, who: str, arguments: list[str], code: int) -> None:
    shell.become(who)
    shell.run(*arguments, code=code)


def test_who_is_not_known(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNAPFS_TOKEN", "snapfs_wrong")
    assert "token" in shell.run("list", code=8)
    monkeypatch.setenv("SNAPFS_TOKEN", "not\x7fone")
    shell.run("list", code=2)
    monkeypatch.delenv("SNAPFS_TOKEN")
    assert "SNAPFS_TOKEN" in shell.run("list", code=8)
    secret = str(shell.remote.place / "viewer")
    assert shell.json("list", "other", "--token-file", secret) == []
    assert shell.json("--token-file", secret, "list", "other") == []
    monkeypatch.setenv("SNAPFS_TOKEN_FILE", secret)
    assert shell.json("list", "other") == []


def test_certificates(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    place = shell.remote.place
    assert "not trusted" in shell.run("list", "--ca", str(place / "other.pem"), code=5)
    monkeypatch.delenv("SNAPFS_CA")
    assert "not trusted" in shell.run("list", code=5)
    assert shell.json("list", "other", "--ca", str(place / "ca.pem")) == []
    assert "missing.pem" in shell.run("list", "--ca", str(place / "missing.pem"), code=3)
    monkeypatch.delenv("SNAPFS_TOKEN")
    monkeypatch.setenv("SNAPFS_ADDRESS", shell.remote.mutual)
    monkeypatch.setenv("SNAPFS_CA", str(place / "ca.pem"))
    assert "a client's certificate" in shell.run("list", code=5)
    own = ["--certificate", str(place / "client.pem"), "--key", str(place / "client.key")]
    assert shell.run("create", "data", "--name", "certified", *own) == "data@certified\n"
    monkeypatch.setenv("SNAPFS_CERTIFICATE", str(place / "client.pem"))
    assert "go together" in shell.run("list", code=2)
    monkeypatch.setenv("SNAPFS_KEY", str(place / "client.key"))
    shell.run("rm", "data@certified")


def test_git_names_the_daemon(shell: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    remote = shell.remote
    for name in ("ADDRESS", "TOKEN", "CA"):
        monkeypatch.delenv(f"SNAPFS_{name}")
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    for key, value in {
        "address": remote.tls,
        "volume": "data",
        "tokenfile": str(remote.place / "operator"),
        "ca": str(remote.place / "ca.pem"),
    }.items():
        subprocess.run(["git", "-C", tmp_path, "config", f"snapfs.{key}", value], check=True)
    assert shell.run("create", "--name", "bound") == "data@bound\n"
    assert [entry["name"] for entry in shell.json("list")] == ["one", "bound"]
    assert shell.run("rm", "@bound", "--address", remote.tls) == "removed data@bound\n"
    shell.run("list", "--address", remote.mutual, code=5)  # another daemon: git says nothing of it


def test_fsck_that_is_interrupted_is_cancelled(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    server = remote.server

    async def endless(*, progress: Callable[[int, int], None]) -> None:
        progress(1, 2)
        await trio.sleep_forever()

    monkeypatch.setattr(server.service, "check_store", endless)
    before = server.tasks()
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("GIT_", "SNAPFS_"))}
    checking = subprocess.Popen(
        [SNAP, "fsck", "--address", f"unix:{server.addresses[0]}"], env=environment, stderr=subprocess.PIPE, text=True
    )
    try:
        server.wait_for(lambda: server.tasks() >= before + 2)  # the check, and who watches it
        checking.send_signal(signal.SIGINT)
        _, told = checking.communicate(timeout=20)
        assert (checking.returncode, told.strip()) == (exits.INTERRUPTED, "snap: interrupted")
    finally:
        checking.kill()
        checking.communicate()
    with server.connect() as owner:
        server.wait_for(lambda: owner.list_operations()[0].state is api.OperationState.CANCELLED)
