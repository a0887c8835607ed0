"""Whatever is typed after ``snap``: it is done, or refused with one line and a documented exit code; never a
traceback."""

from __future__ import annotations

import contextlib
import io
import os
import re
import tempfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from snapfs.errors import Kind
from snapfs.testing.engine import EngineSubject
from snapfs_cli import exits, main

QUICK = settings(max_examples=80, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
LONG = settings(max_examples=20_000, deadline=None, suppress_health_check=list(HealthCheck))

CODES = {int(code) for code in re.findall(r"^  (\d+) ", exits.HELP, re.MULTILINE)} - {exits.INTERNAL}
APART = {("mount",), ("umount",)}
"""What makes processes or waits for them."""
NEVER = {"--address", "--follow", "--token-file", "--ca", "--certificate", "--key"}
"""What leads to other machines, or never ends."""

TEXTS = st.one_of(
    st.sampled_from(
        [
            "data",
            "data@one",
            "data@",
            "@one",
            "@",
            "one",
            "copy",
            "f",
            "d/g",
            "..",
            ".",
            "/",
            "-",
            "--",
            "",
            "none",
            "HEAD",
            "a" * 40,
            "a" * 5000,
            "0",
            "-1",
            "1",
            "9" * 400,
            "10G",
            "1h",
            "2026-12-31",
            "2026-99-99",
            "key=value",
            "=",
            "log.level",
            "debug",
            "5",
            "viewer",
            "\x1b[2J",
            "\u202e",
            "\udcff",
            "bi\nn",
            "%s",
            "{0}",
            "--json=1",
            "-m",
            "-mx",
        ]
    ),
    st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=12),
)


def leaves(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """(words, command) of all commands that are no groups."""
    if not isinstance(command, click.Group):
        yield path, command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        below = command.get_command(context, name)
        assert below
        yield from leaves(below, (*path, name))


COMMANDS = {path: command for path, command in leaves(main.build()) if path not in APART}
OPTIONS = sorted(
    {name for command in COMMANDS.values() for option in command.params for name in option.opts if name.startswith("-")}
    - NEVER
)


@st.composite
def lines(draw: st.DrawFn) -> list[str]:
    """A command with some of its options, arguments and other words, in any order."""
    path, command = draw(st.sampled_from(sorted(COMMANDS.items())))
    own = [option for option in command.params if not NEVER & set(option.opts)]
    words: list[str] = []
    for parameter in own:
        if isinstance(parameter, click.Argument):
            words += draw(st.lists(TEXTS, min_size=1, max_size=1 if parameter.nargs == 1 else 3))
        elif draw(st.integers(0, 3)) == 0:
            words.append(draw(st.sampled_from(parameter.opts)))
            if not (isinstance(parameter, click.Option) and parameter.is_flag):
                words.append(draw(TEXTS))
    words += draw(st.lists(TEXTS | st.sampled_from(OPTIONS), max_size=2)) if draw(st.integers(0, 2)) == 0 else []
    if draw(st.integers(0, 2)) == 0:
        words = draw(st.permutations(words))
    if path == ("watch",):
        words.append("--until-now")
    return [*path, *words]


class Shell:
    def __init__(self, store: Path) -> None:
        engine = EngineSubject(store)
        engine.create_volume("data")
        engine.make("data", (b"f",), "file", 0o644)
        engine.make("data", (b"d",), "directory", 0o755)
        engine.make("data", (b"d", b"g"), "file", 0o644)
        engine.snapshot("data", "one")
        engine.close()

    def run(self, arguments: list[str]) -> None:
        if arguments[:1] == ["watch"] and "--" in arguments:
            return  # what comes after it is no option: it would wait
        if {"import", "export"} & set(arguments) and any(word.startswith("/") for word in arguments):
            return  # not from or into the root of this machine
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main.run(arguments)
        told = ascii((arguments, code, out.getvalue()[-500:], err.getvalue()[-500:]))
        assert code in CODES, told
        assert "Traceback" not in out.getvalue() + err.getvalue(), told
        assert "internal error" not in err.getvalue(), told
        if code not in (exits.OK, exits.FOUND) and not (code == exits.BY_KIND[Kind.UNAVAILABLE] and out.getvalue()):
            assert err.getvalue().endswith("\n"), told
            assert err.getvalue().count("\n") == 1 or "Usage:" in err.getvalue(), told
        assert not any(unicodedata.category(c) in ("Cc", "Cf", "Cs") for c in err.getvalue().replace("\n", "")), told


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    for name in list(os.environ):
        if name.startswith(("GIT_", "SNAPFS_")):
            monkeypatch.delenv(name)
    with tempfile.TemporaryDirectory(prefix="snapfs-fuzz-") as directory:
        monkeypatch.setenv("SNAPFS_STORE", f"{directory}/store")
        monkeypatch.setenv("HOME", directory)
        (Path(directory) / "here").mkdir()
        monkeypatch.chdir(Path(directory) / "here")
        yield Shell(Path(directory) / "store")


def test_any_command_line(shell: Shell) -> None:
    QUICK(given(lines())(shell.run))()


def test_any_words(shell: Shell) -> None:
    words = st.lists(TEXTS | st.sampled_from(OPTIONS) | st.sampled_from([path[0] for path in COMMANDS]), max_size=6)
    QUICK(given(words.filter(lambda line: not {"watch", "mount", "umount"} & set(line)))(shell.run))()


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_any_command_line_for_long(shell: Shell) -> None:
    LONG(given(lines())(shell.run))()
