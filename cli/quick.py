"""Plain command lines of the verbs that are run most, read without click: importing it takes longer than their work.

Invariants:

- What is read here means what click makes of it: ``tests/property/test_quick.py`` holds the two against each other, and
  the table against click's options.
- Whatever is not plain (an option that is not in the table, a value that is missing or wrong, an argument too many,
  ``--help``) is left to click, before anything was done: it finds the words for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from .invocation import Invocation

Arguments = dict[str, Any]

COMPLETION_VARIABLE: Final = "_SNAP_COMPLETE"
"""Set by a shell that wants words, not deeds."""

_VALUE, _FLAG, _MANY, _COUNT, _REVISION = range(5)
"""What an option takes: a word; nothing; a word each time; a number of at least 1; a word, or nothing for HEAD."""

_COMMON: Final = {
    "--store": ("store", _VALUE),
    "--json": ("as_json", _FLAG),
    "--address": ("address", _VALUE),
    "--token-file": ("token_file", _VALUE),
    "--ca": ("ca", _VALUE),
    "--certificate": ("certificate", _VALUE),
    "--key": ("key", _VALUE),
}
_OF_INVOCATION: Final = ("address", "token_file", "ca", "certificate", "key")

VERBS: Final[dict[str, tuple[str, str, bool, dict[str, tuple[str, int]]]]] = {
    "create": (
        "create",
        "volume",
        False,
        {
            "--name": ("name", _VALUE),
            "--git-commit": ("revision", _REVISION),
            "--branch": ("branch", _VALUE),
            "-m": ("message", _VALUE),
            "--message": ("message", _VALUE),
            "--meta": ("meta", _MANY),
        },
    ),
    "checkout": ("checkout", "snapshot", True, {"--save": ("save", _FLAG), "--discard": ("discard", _FLAG)}),
    "status": ("status", "volume", False, {}),
    "list": (
        "list_snapshots",
        "volume",
        False,
        {
            "--all": ("all_volumes", _FLAG),
            "--branch": ("branch", _VALUE),
            "--tag": ("tag", _VALUE),
            "--meta": ("meta", _MANY),
            "--newest": ("newest", _COUNT),
        },
    ),
}
"""By verb: its function in ``verbs``, the name of its one argument, whether that must be there, and its options but
those of all verbs: name of the parameter, and what it takes."""

_LEFT_OUT: Final[dict[str, Arguments]] = {"list": {"from_ns": 0, "before_ns": 0}}
"""Parameters whose options only click reads."""

_EMPTY: Final[dict[int, Any]] = {_VALUE: "", _FLAG: False, _MANY: (), _COUNT: None, _REVISION: None}


_DIGITS_MAX: Final = 18
"""Of a number; int() takes no more than some thousand, and click tells it."""


class _NotPlain(Exception):
    """It is for click."""


def run(arguments: Sequence[str], state: Invocation) -> bool:
    """Run a plain command line; False, with nothing done, if it is none.

    Raises:
        SnapfsError, Misuse: as the verb.
    """
    read = parse(arguments)
    if read is None or COMPLETION_VARIABLE in os.environ:
        return False
    from . import verbs

    for name in _OF_INVOCATION:
        setattr(state, name, read.pop(name))
    work: Callable[..., None] = getattr(verbs, VERBS[arguments[0]][0])
    work(state, **read)
    return True


def parse(arguments: Sequence[str]) -> Arguments | None:
    """The parameters of a plain command line; None for any other."""
    if not arguments or arguments[0] not in VERBS:
        return None
    _, positional, needed, own = VERBS[arguments[0]]
    options = {**_COMMON, **own}
    read = {name: _EMPTY[kind] for name, kind in options.values()} | _LEFT_OUT.get(arguments[0], {})
    try:
        words = list(_read(arguments[1:], options, read))
    except _NotPlain:
        return None
    if len(words) > 1 or (needed and not words) or "" in words:
        return None
    read[positional] = words[0] if words else ""
    return read


def _read(words: Sequence[str], options: dict[str, tuple[str, int]], read: Arguments) -> Iterator[str]:
    """Put the options into ``read``; what is no option is the result."""
    at = 0
    while at < len(words):
        word = words[at]
        at += 1
        if word == "--":
            yield from words[at:]
            return
        if not word.startswith("-") or word == "-":
            yield word
            continue
        option, equals, value = word.partition("=") if word.startswith("--") else (word, "", "")
        if option not in options:
            raise _NotPlain
        name, kind = options[option]
        if kind == _FLAG:
            if equals:
                raise _NotPlain
            read[name] = True
            continue
        if kind == _REVISION and not equals and (at == len(words) or _like_an_option(words[at])):
            read[name] = "HEAD"
            continue
        if not equals:
            if at == len(words):
                raise _NotPlain
            value = words[at]
            at += 1
        elif kind == _REVISION and _like_an_option(value):  # click takes it for the next word
            raise _NotPlain
        read[name] = _taken(kind, value, read[name])


def _like_an_option(word: str) -> bool:
    return word.startswith("-") and len(word) > 1


def _taken(kind: int, value: str, before: Any) -> Any:
    if kind == _MANY:
        return (*before, value)
    if kind != _COUNT:
        return value
    if not (value.isascii() and value.isdigit() and len(value) <= _DIGITS_MAX and int(value)):
        raise _NotPlain
    return int(value)
