"""Names and texts that are made to mislead: no command writes a control or direction-changing character of theirs to a
terminal, in what it tells or in its errors; JSON has them as they are."""

from __future__ import annotations

import json
import os
import subprocess
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import structlog

from snapfs.config.tables import Log
from snapfs.daemon import logs
from snapfs.testing.engine import EngineSubject
from snapfs_cli import main

ESCAPE = "\x1b[2J\x1b]0;owned\x07"
HOSTILE = (
    f"red{ESCAPE}",
    "new\nline",
    "carriage\rreturn",
    "back\b\bspace",
    "bi\u202edi\u2066\u2069",
    "zero\u200bwidth",
    "c1\x9bm",
    "line\u2028separator",
    "\udcff\udcfe not UTF-8",
    "tab\ttab",
    "del\x7f",
    'quo"te',
    "back\\slash",
    "-leading",
    "%s {0} $(id) `id`",
)
SAFE_CONTROLS = {"\n"}


def unsafe(text: str) -> set[str]:
    """Characters that no terminal should be sent."""
    return {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")} - SAFE_CONTROLS


class Terminal:
    def __init__(self, capsys: pytest.CaptureFixture[str], store: Path) -> None:
        self._capsys = capsys
        self.store = store

    def __call__(self, *arguments: str) -> str:
        """stdout; it and stderr hold nothing that could mislead, and no traceback."""
        self._capsys.readouterr()
        code = main.run(arguments)
        out, err = self._capsys.readouterr()
        told = ascii((arguments, code, out, err))
        assert code in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10), told
        if "--json" not in arguments:
            assert not unsafe(out), told
        assert not unsafe(err), told
        assert "Traceback" not in err, told
        assert err.count("\n") <= 1, told
        return out

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "--json"))


@pytest.fixture
def snap(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A store whose head and snapshots have such names, in a directory of such a name."""
    for name in list(os.environ):
        if name.startswith(("GIT_", "SNAPFS_")):
            monkeypatch.delenv(name)
    place = tmp_path / f"place{ESCAPE}\u202e\nx"
    place.mkdir()
    monkeypatch.chdir(place)
    store = place / "sto\x1bre"
    engine = EngineSubject(store)
    engine.create_volume("data")
    engine.snapshot("data", "empty")
    for name in HOSTILE:
        engine.make("data", (os.fsencode(name),), "file", 0o644)
        engine.write("data", (os.fsencode(name),), 0, b"x")
    engine.make("data", (b"ordinary",), "file", 0o644)
    engine.snapshot("data", "full")
    for name in HOSTILE[::2]:
        engine.unlink("data", (os.fsencode(name),))
    for name in HOSTILE[1::2]:
        engine.rename("data", (os.fsencode(name),), (os.fsencode(name[::-1]),), noreplace=False, exchange=False)
    engine.make("data", (b"d",), "directory", 0o755)
    engine.flush()
    engine.close()
    monkeypatch.setenv("SNAPFS_STORE", str(store))
    return Terminal(capsys, store)


def test_what_changed(snap: Terminal) -> None:
    assert "\\x1b" in snap("status")
    assert "\\x1b" in snap("diff", "data@empty", "data@full")
    snap("diff", "data@full")
    found = {change["path"] for change in snap.json("diff", "data@empty", "data@full")}
    assert set(HOSTILE) <= found


@pytest.mark.parametrize(
    "text", [f"x{ESCAPE}\n\r\b", "bi\u202edi\u200b\u2028\x9bm", "\udcff\udcfe", '-%s{0} $(id)"\\'], ids=ascii
)
def test_whatever_is_asked_for(snap: Terminal, text: str) -> None:
    snap("restore", "data@full", text)
    snap("restore", "data@full", f"none/{text}")
    for arguments in (
        ("create", "data", "--name", text),
        ("create", "data", "-m", text),
        ("create", "data", "--meta", f"key={text}"),
        ("create", "data", "--meta", f"{text}=value"),
        ("create", text),
        ("show", f"data@{text}"),
        ("show", text),
        ("list", text),
        ("log", text),
        ("status", text),
        ("diff", text),
        ("checkout", f"data@{text}"),
        ("clone", "data@full", text),
        ("tag", "data@full", text),
        ("tag", "data@full", f"x{text}"),
        ("rename", "data@full", text),
        ("rm", f"data@{text}"),
        ("volume", "create", text),
        ("volume", "rm", text),
        ("volume", "set", text, "--quota", text),
        ("volume", "set", "data", "--quota", text),
        ("token", "create", text),
        ("token", "create", "name", "--volume", text),
        ("token", "revoke", text),
        ("config", "set", text, "1"),
        ("config", "set", "log.level", text),
        ("config", "set", "control.directory", text),
        ("config", "unset", text),
        ("watch", text, "--until-now", "--after", "0"),
        ("umount", text),
        ("mount", text, text),
        ("init", text),
        ("fsck", "--store", text),
        ("info", "--store", text),
        ("info", "--address", text),
        ("list", "--address", "localhost:1", "--token-file", text),
        (text,),
        ("list", f"--{text}"),
        ("restore", "data@full", "--to", text),
        ("git", "status"),
        ("git", "sync"),
        ("list", "--tag", text),
        ("list", "--meta", f"{text}={text}"),
        ("create", "data", "--git-commit", text),
        ("git", "install", "--volume", text),
        ("daemon", "status", text),
        ("daemon", "stop", text),
        ("daemon", "logs", text),
        ("audit", "--since", text),
        ("list", "--branch", text),
        ("list", "--since", text),
    ):
        if "\0" not in text:
            snap(*arguments)
    for arguments in (
        ("list",),
        ("log",),
        ("show", "data@full"),
        ("audit",),
        ("watch", "--until-now", "--after", "0"),
        ("token", "list"),
        ("volume", "list"),
        ("info",),
        ("config", "show"),
        ("fsck",),
        ("daemon", "status"),
    ):
        snap(*arguments)
        told = snap(*arguments, "--json")
        for document in told.splitlines() if arguments[0] == "watch" else [told]:
            json.loads(document or "null")


def test_texts_of_snapshots(snap: Terminal) -> None:
    message = f"first{ESCAPE}\u202e\nsecond"
    snap("create", "data", "--name", "s", "-m", message, "--meta", f"key=value{ESCAPE}\u202e")
    for arguments in (("show", "data@s"), ("list",), ("log",), ("watch", "--until-now", "--after", "0"), ("audit",)):
        assert ESCAPE not in snap(*arguments)
    found = snap.json("show", "data@s")
    assert found["message"] == message
    assert found["meta"] == {"key": f"value{ESCAPE}\u202e"}


def test_a_repository_of_such_a_name(snap: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its path, branch, subject and author are all told."""
    repository = Path("repo\x1b[31m\u202e")
    repository.mkdir()
    monkeypatch.chdir(repository)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    author = "na\x1bme\u202e"
    for arguments in (
        ["init", "-q", "-b", "branch\u202e"],
        [
            "-c",
            f"user.name={author}",
            "-c",
            "user.email=a@b\x1b",
            "commit",
            "-q",
            "--allow-empty",
            "-m",
            f"subject{ESCAPE}\u202e",
        ],
    ):
        subprocess.run(["git", *arguments], check=True)
    snap("git", "install", "--volume", "data")
    snap("git", "status")
    snap("create", "data", "--git-commit")
    for arguments in (
        ("list",),
        ("log",),
        ("show", "data@HEAD"),
        ("git", "sync"),
        ("git", "status"),
        ("git", "uninstall"),
    ):
        snap(*arguments)
    git = next(found["git"] for found in snap.json("list") if found["git"])
    assert "\u202e" in git["branch"]
    assert "\x1b" in git["subject"]


@pytest.mark.parametrize("form", ["text", "json"])
def test_logs(form: Any, capfd: pytest.CaptureFixture[str]) -> None:
    printed = [text for text in HOSTILE if text.isprintable() or text.encode(errors="ignore").decode() == text]
    output = logs.Output()
    try:
        logs.configure(Log(format=form), output)
        log = structlog.stdlib.get_logger("test")
        for text in printed:
            log.warning(text, name=text)
            try:
                raise ValueError(text)
            except ValueError:
                log.exception(text, other=text)
    finally:
        import logging

        logging.getLogger().removeHandler(output)
        structlog.reset_defaults()
    told = capfd.readouterr().err
    assert told.count("WARNING" if form == "text" else '"warning"') == len(printed)
    assert not unsafe(told)
