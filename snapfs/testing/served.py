"""A store served over TLS by a real daemon, and programs that use it from outside: class and fixture.

Invariants: programs run as a user would run them, in an environment without settings from outside; nothing outlives the
fixture, and afterwards fsck must find the store sound.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import trustme

from snapfs import mounts

SCRIPTS = Path(sysconfig.get_path("scripts"))
PROGRAM_SECONDS_MAX = 60.0
PORTS_TRIED_MAX = 5


def clean_environment(home: Path) -> dict[str, str]:
    """Of a user who has a name for git and whose programs are those of this installation."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("GIT_", "SNAPFS_"))}
    identity = {
        f"GIT_{who}_{what}": value
        for who in ("AUTHOR", "COMMITTER")
        for what, value in (("NAME", "Ada"), ("EMAIL", "ada@example.org"))
    }
    path = f"{SCRIPTS}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return kept | identity | {"HOME": str(home), "TMPDIR": str(home), "GIT_CONFIG_NOSYSTEM": "1", "PATH": path}


def free_port() -> int:
    """One that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class ServedStore:
    """A store with the volume ``digits``.

    Attributes:
        store, point: its path, and where it is mounted.
        address: of its TLS port; ``ca``: the certificate of that port's authority.
        socket: of its unix socket.
        environment: for programs.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self.store = place / "store"
        self.point = place / "lake"
        self.socket = self.store / "control" / "socket"
        self.ca = place / "ca.pem"
        self.environment = clean_environment(place)
        self.address = ""
        self.data = self.point / "digits"

    def start(self) -> None:
        self.run("snap", "init", str(self.store))
        authority = trustme.CA()
        issued = authority.issue_cert("127.0.0.1", "localhost")
        authority.cert_pem.write_to_path(str(self.ca))
        issued.cert_chain_pems[0].write_to_path(str(self.place / "daemon.pem"))
        issued.private_key_pem.write_to_path(str(self.place / "daemon.key"))
        (self.place / "daemon.key").chmod(0o600)
        self.point.mkdir()
        self._mount()
        self.data.mkdir()

    def _mount(self) -> None:
        """At a port that may be taken by somebody else in the very moment: then at another."""
        for _ in range(PORTS_TRIED_MAX):
            self.address = f"127.0.0.1:{free_port()}"
            (self.store / "config.toml").write_text(
                "[listen]\n"
                f'address = "{self.address}"\n'
                f'certificate = "{self.place}/daemon.pem"\n'
                f'key = "{self.place}/daemon.key"\n'
            )
            done = self.done("snap", "mount", str(self.store), str(self.point))
            if done.returncode == 0:
                return
            assert self.address in done.stderr, done.stderr
        raise AssertionError("no port is free")

    def stop(self) -> None:
        """Also after a test that failed half-way."""
        if mounts.at(self.point) is None:
            return
        ended = self.done("snap", "umount", str(self.point))
        if mounts.at(self.point) is not None:
            mounts.unmount(self.point, lazy=True)
        assert ended.returncode == 0, ended.stderr
        report = json.loads(self.run("snap", "fsck", "--json", str(self.store)))
        assert report["findings"] == []

    def run(
        self,
        *command: str | Path,
        cwd: Path | None = None,
        code: int = 0,
        given: str = "",
        extra: Mapping[str, str] | None = None,
    ) -> str:
        """A program's stdout; its exit code must be ``code``, and if that is not 0 the result is its stderr."""
        done = self.done(*command, cwd=cwd, given=given, extra=extra)
        assert done.returncode == code, (command, done.stdout, done.stderr)
        return done.stderr if code else done.stdout

    def done(
        self, *command: str | Path, cwd: Path | None = None, given: str = "", extra: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """A program that has ended; ``extra`` goes into its environment."""
        done = subprocess.run(
            command,
            cwd=cwd or self.place,
            env={**self.environment, **(extra or {})},
            input=given,
            capture_output=True,
            text=True,
            timeout=PROGRAM_SECONDS_MAX,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def snap(self, *arguments: str, code: int = 0) -> str:
        """``snap`` as the store's owner."""
        return self.run("snap", *arguments, code=code, extra={"SNAPFS_STORE": str(self.store)})

    def json(self, *arguments: str) -> Any:
        return json.loads(self.snap(*arguments, "--json"))

    def token(self, name: str, role: str, *volumes: str) -> str:
        """The secret of a new token."""
        narrowed = [word for volume in volumes for word in ("--volume", volume)]
        return self.snap("token", "create", name, "--role", role, *narrowed).strip()

    def remote(self, token: str) -> Mapping[str, str]:
        """What lets a program reach the TLS port."""
        return {"SNAPFS_ADDRESS": self.address, "SNAPFS_TOKEN": token, "SNAPFS_CA": str(self.ca)}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedStore]:
    """One for all tests of a module."""
    one = ServedStore(tmp_path_factory.mktemp("served").resolve())
    try:
        one.start()
        yield one
    finally:
        one.stop()
