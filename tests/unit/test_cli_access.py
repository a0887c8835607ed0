"""``snap token`` and ``snap audit`` on a store without a daemon."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import click
import pytest

from snapfs import api
from snapfs.volume.lake import Lake
from snapfs_cli import audit_cmd, exits, main, token_cmd
from snapfs_cli.times import Moment

SECOND = 1_000_000_000
DAY = 86_400 * SECOND


class Shell:
    """Runs command lines in this process, on one store."""

    def __init__(self, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.store = store
        self._capsys = capsys

    def done(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        self._capsys.readouterr()
        code = main.run([*arguments, "--store", str(self.store)])
        out, err = self._capsys.readouterr()
        return code, out, err

    def run(self, *arguments: str) -> str:
        code, out, err = self.done(*arguments)
        assert (code, err) == (exits.OK, "")
        return out

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--json"))

    def fails(self, *arguments: str) -> tuple[int, str]:
        """Exit code and the line on stderr."""
        code, out, err = self.done(*arguments)
        assert out == ""
        assert err.count("\n") == 1
        return code, err


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    for name in list(os.environ):
        if name.startswith(("GIT_", "SNAPFS_")):
            monkeypatch.delenv(name)
    Lake.create(tmp_path / "store")
    monkeypatch.chdir(tmp_path)
    return Shell(tmp_path / "store", capsys)


class TestToken:
    def test_the_secret_alone_is_printed(self, shell: Shell) -> None:
        out = shell.run("token", "create", "ci", "--role", "operator")
        assert re.fullmatch(r"snapfs_[\w-]{43}\n", out)

    def test_as_json(self, shell: Shell) -> None:
        before = time.time_ns()
        made = shell.json(
            "token", "create", "ci", "--role", "viewer", "--volume", "b", "--volume", "a", "--expires", "30d"
        )
        token = made["token"]
        assert made["secret"].startswith("snapfs_")
        assert (token["name"], token["role"], token["volumes"]) == ("ci", "viewer", ["a", "b"])
        assert before + 30 * DAY <= token["expires_ns"] <= time.time_ns() + 30 * DAY
        assert shell.json("token", "list") == [token]

    def test_a_certificate_has_no_secret(self, shell: Shell) -> None:
        out = shell.run("token", "create", "spiffe://example.org/ci", "--role", "viewer", "--for-certificate")
        assert out == "registered the certificate spiffe://example.org/ci\n"
        assert shell.json("token", "list")[0]["certificate"] is True

    def test_a_token_narrows_its_user_here_too(self, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
        shell.run("volume", "create", "digits")
        secret = shell.run("token", "create", "ci", "--role", "operator", "--volume", "digits").strip()
        monkeypatch.setenv("SNAPFS_TOKEN", secret)
        shell.run("create", "digits")
        assert shell.fails("volume", "create", "other")[0] == 8
        assert "takes the role admin" in shell.fails("token", "list")[1]
        monkeypatch.setenv("SNAPFS_TOKEN", secret[:-3] + "AAA")
        assert "not known" in shell.fails("create", "digits")[1]

    def test_list_and_revoke(self, shell: Shell) -> None:
        shell.run("token", "create", "ci", "--role", "operator", "--volume", "digits")
        shell.run("token", "create", "web", "--role", "viewer", "--expires", "2999-12-31")
        assert shell.run("token", "revoke", "ci") == "revoked the token ci\n"
        heading, first, second = shell.run("token", "list").splitlines()
        assert heading.split() == ["NAME", "KIND", "ROLE", "VOLUMES", "CREATED", "STATE"]
        assert first.startswith("ci ")
        assert "digits" in first
        assert "  revoked 20" in first
        assert "  until 2999-12-31 00:00:00" in second
        assert shell.json("token", "revoke", "ci")["revoked_ns"]

    def test_state(self) -> None:
        token = api.Token(name="x", role=api.Role.VIEWER, created_ns=0)
        assert token_cmd.state(token, 5) == "in force"
        token = api.Token(name="x", role=api.Role.VIEWER, created_ns=0, expires_ns=5)
        assert token_cmd.state(token, 4).startswith("until ")
        assert token_cmd.state(token, 5).startswith("expired ")

    @pytest.mark.parametrize(
        ("arguments", "code", "words"),
        [
            (["create", "x"], exits.USAGE, "--role"),
            (["create", "x", "--role", "root"], exits.USAGE, "'root'"),
            (["create", "a/b", "--role", "viewer"], exits.USAGE, "token name"),
            (["create", "x", "--role", "admin", "--volume", "v"], exits.USAGE, "narrowed"),
            (["create", "x", "--role", "viewer", "--expires", "2001-01-01"], exits.USAGE, "expired already"),
            (["create", "x", "--role", "viewer", "--expires", "never"], exits.USAGE, "'never' is no time"),
            (["create", "ci", "--role", "viewer"], 4, "'ci'"),
            (["revoke", "nobody"], 3, "'nobody'"),
        ],
    )
    def test_what_can_be_typed_wrong(self, shell: Shell, arguments: list[str], code: int, words: str) -> None:
        shell.run("token", "create", "ci", "--role", "viewer")
        got, line = shell.fails("token", *arguments)
        assert got == code
        assert words in line


class TestAudit:
    @pytest.fixture
    def used(self, shell: Shell) -> Shell:
        shell.run("volume", "create", "digits")
        shell.run("volume", "list")
        shell.fails("volume", "create", "digits")
        return shell

    def test_for_people(self, used: Shell) -> None:
        first, second = used.run("audit").splitlines()
        assert "  owner  local  OK  CreateVolume {" in first
        assert '"name":"digits"' in first
        assert "  owner  local  ALREADY_EXISTS  CreateVolume {" in second

    def test_as_json(self, used: Shell) -> None:
        entries = used.json("audit")
        assert [(entry["sequence"], entry["caller"], entry["result"]) for entry in entries] == [
            (1, "owner", "OK"),
            (2, "owner", "ALREADY_EXISTS"),
        ]
        assert json.loads(entries[0]["request"])["name"] == "digits"

    def test_filters(self, used: Shell) -> None:
        assert used.run("audit", "--caller", "ci") == ""
        assert len(used.run("audit", "--caller", "owner", "--since", "1h").splitlines()) == 2
        assert used.run("audit", "--since", "2999-01-01") == ""

    def test_verify(self, used: Shell) -> None:
        out = used.run("audit", "--verify")
        assert re.fullmatch(r"2 entries, whole\nhash of the last, 2: [0-9a-f]{64}\n", out)
        log = used.store / "audit" / "audit.jsonl"
        log.write_text(log.read_text().replace("ALREADY_EXISTS", "OK"))
        code, out, err = used.done("audit", "--verify")
        assert (code, err) == (exits.FOUND, "")
        assert out.startswith("audit.jsonl, line 2: entry 2, or the one before it, was changed\n2 entries, damaged\n")
        code, out, _ = used.done("audit", "--verify", "--json")
        assert code == exits.FOUND
        assert json.loads(out)["findings"]

    def test_a_damaged_entry_is_shown(self) -> None:
        damaged = api.AuditEntry(sequence=0, time_ns=0, caller="", peer="", method="", request="", result="DAMAGED")
        assert audit_cmd.line(damaged) == "a damaged entry: see `snap audit --verify`"

    def test_names_cannot_forge_lines(self) -> None:
        entry = api.AuditEntry(
            sequence=1, time_ns=0, caller="a\nb", peer="c\x1bd", method="s/M", request='{"x":"\u202e"}', result="OK"
        )
        assert audit_cmd.line(entry).isprintable()

    def test_what_can_be_typed_wrong(self, used: Shell) -> None:
        assert used.fails("audit", "--verify", "--caller", "ci")[0] == exits.USAGE
        assert used.fails("audit", "--since", "soon")[0] == exits.USAGE
        used.store = used.store.parent / "missing"
        assert used.fails("audit", "--verify")[0] == 3


class TestMoment:
    @pytest.mark.parametrize(
        ("text", "span_ns"), [("90s", 90 * SECOND), ("2m", 120 * SECOND), ("1d", DAY), ("2w", 14 * DAY)]
    )
    def test_spans(self, text: str, span_ns: int) -> None:
        now_ns = time.time_ns()
        for ahead, sign in ((True, 1), (False, -1)):
            moment_ns = Moment(ahead=ahead).convert(text, None, None)
            assert 0 <= moment_ns - (now_ns + sign * span_ns) < 10 * SECOND

    def test_dates(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TZ", "Etc/GMT-3")  # three hours ahead of UTC
        time.tzset()
        try:
            assert Moment().convert("1970-01-02", None, None) == DAY - 3 * 3600 * SECOND
            assert Moment().convert("1970-01-02T00:00:01Z", None, None) == DAY + SECOND
        finally:
            monkeypatch.undo()
            time.tzset()

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "1",
            "d",
            "1y",
            "-1d",
            "1.5d",
            "2026-13-01",
            "tomorrow",
            "1969-01-01",
            "9999-12-31",
            "999999999w",
            "\u0661d",
        ],
    )
    def test_what_is_none(self, text: str) -> None:
        with pytest.raises(click.BadParameter):
            Moment(ahead=True).convert(text, None, None)
