"""Command lines that are read without click mean what click makes of them."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snapfs_cli import exits, main, quick, verbs
from snapfs_cli.invocation import Invocation

Call = tuple[str, dict[str, Any], dict[str, Any]]


@contextmanager
def recorded() -> Iterator[list[Call]]:
    """Calls of the verbs' functions instead of their work: name, what the invocation says, parameters."""
    calls: list[Call] = []

    def recorder(name: str) -> Any:
        def record(invocation: Invocation, **parameters: Any) -> None:
            parameters["meta"] = tuple(parameters.get("meta", ()))
            calls.append((name, dict(vars(invocation)), parameters))

        return record

    with ExitStack() as stack:
        for name, *_ in quick.VERBS.values():
            stack.enter_context(mock.patch.object(verbs, name, recorder(name)))
        yield calls


def by_click(arguments: Sequence[str]) -> Call | None:
    with recorded() as calls:
        code = main._through_click(arguments, Invocation(json="--json" in arguments))
    assert (code == exits.OK) >= bool(calls)
    return calls[0] if calls else None


def quickly(arguments: Sequence[str]) -> Call | None:
    with recorded() as calls:
        assert quick.run(arguments, Invocation(json="--json" in arguments)) is bool(calls)
    return calls[0] if calls else None


WORDS = ["v", "v@s", "", "-", "--", "-x", "3", "0", "x=y", "--nonsense", "-h", "--help", "--meta=a=b", "-mnote", "-m=x"]
OPTIONS = sorted({option for _, _, _, own in quick.VERBS.values() for option in own} | set(quick._COMMON))
WORD = st.sampled_from(WORDS) | st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=4)
PART = st.sampled_from(OPTIONS) | WORD | st.builds("{}={}".format, st.sampled_from(OPTIONS), WORD)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(sorted(quick.VERBS)), st.lists(PART, max_size=6))
def test_it_reads_what_click_reads(verb: str, words: list[str]) -> None:
    arguments = [verb, *words]
    read = quickly(arguments)
    if read is not None:
        assert read == by_click(arguments)


PLAIN = [
    ["create"],
    ["create", "v", "--name", "n", "-m", "note", "--meta", "a=b", "--meta", "c=d", "--json"],
    ["create", "--git-commit", "--branch", "main", "--store", "s"],
    ["create", "v", "--git-commit"],
    ["create", "--git-commit", "HEAD~1", "v"],
    ["create", "--git-commit=4f2a", "v", "--address", "unix:s", "--token-file", "t"],
    ["create", "--ca", "c", "--certificate=d", "--key", "-k"],
    ["checkout", "v@s", "--save"],
    ["checkout", "--discard", "--store=s", "@s", "--json"],
    ["checkout", "--", "-s"],
    ["status"],
    ["status", "v", "--json", "--store", "s"],
    ["list", "--all"],
    ["list", "v", "--branch", "b", "--tag", "t", "--meta", "x=y", "--newest", "5"],
]


@pytest.mark.parametrize("arguments", PLAIN)
def test_plain_command_lines_need_no_click(arguments: list[str]) -> None:
    read = quickly(arguments)
    assert read is not None
    assert read == by_click(arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        [], ["show", "v@s"], ["--store", "s", "create"], ["create", "a", "b"], ["checkout"], ["checkout", ""],
        ["create", "--help"], ["create", "-h"], ["create", "--nam", "n"], ["create", "--name"],
        ["list", "--newest", "0"],
        ["list", "--newest", "x"], ["list", "--newest", "\N{SUPERSCRIPT TWO}"], ["list", "--newest", "9" * 5000],
        ["list", "--since", "1d"],
        ["status", "--json=x"], ["create", "-mx"],
    ],
)  # fmt: skip
def test_the_rest_is_clicks(arguments: list[str]) -> None:
    assert quick.parse(arguments) is None


def test_completion_is_clicks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_SNAP_COMPLETE", "bash_complete")
    assert quickly(["status"]) is None


@pytest.mark.parametrize("verb", quick.VERBS)
def test_the_table_is_clicks(verb: str) -> None:
    """Each option is there under the same parameter; but for those that only click reads, there is no other."""
    command: click.Command = importlib.import_module(f"snapfs_cli.{main.VERBS[verb]}").command
    _, positional, needed, own = quick.VERBS[verb]
    table = {option: name for option, (name, _) in (own | quick._COMMON).items()}
    theirs = {option: each.name for each in command.params for option in each.opts if isinstance(each, click.Option)}
    left_out = quick._LEFT_OUT.get(verb, {})
    assert table == {option: name for option, name in theirs.items() if name not in left_out}
    assert {each.name: each.default for each in command.params if each.name in left_out} == left_out
    (argument,) = (each for each in command.params if isinstance(each, click.Argument))
    assert (argument.name, argument.required) == (positional, needed)
