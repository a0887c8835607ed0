"""The log as a file, ``STORE/daemon.log``, for who reads it: its last records, and those that come.

A record is a line that begins with its time and level (text) or is a JSON object; lines that follow it and begin with
white space belong to it (a traceback).  When the file grew too long it goes on in a new one, and is
``daemon.log.1`` from then on.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final, NamedTuple

from snapfs.errors import IOFailure, NotFound, NotPermitted
from snapfs.store.disk import open_to_read

NAME: Final = "daemon.log"
"""In the store."""
LEVELS: Final = ("debug", "info", "warning", "error", "critical")

_POLL_SECONDS: Final = 0.1
_TEXT: Final = re.compile(r"\d{4}-\d\d-\d\dT\S+ (DEBUG|INFO|WARNING|ERROR|CRITICAL) ")


def set_aside(path: Path) -> Path:
    """What the log is called when it grew too long."""
    return path.with_name(f"{path.name}.1")


def level_of(line: str) -> str:
    """Level of the record that begins with this line; empty if none begins with it."""
    found = _TEXT.match(line)
    if found:
        return found[1].lower()
    if line.startswith("{"):
        try:
            level = json.loads(line)["level"]
        except (ValueError, KeyError, TypeError):
            return ""
        return level if level in LEVELS else ""
    return ""


class _Sieve:
    """Lines of records of a level or above.  A line without a record before it counts as one of the highest level:
    the last words of a process that failed are never left out."""

    def __init__(self, level: str) -> None:
        self._least = LEVELS.index(level)
        self._passes = True
        self.begins = False
        """The line begins a record."""

    def passes(self, line: str) -> bool:
        level = level_of(line)
        self.begins = bool(level) or not line[:1].isspace()
        if level:
            self._passes = LEVELS.index(level) >= self._least
        elif self.begins:
            self._passes = True
        return self._passes


class Position(NamedTuple):
    """A place in the log."""

    file: int
    """Inode."""
    offset_bytes: int


def end(path: Path) -> Position:
    """Where the log ends now.

    Raises:
        NotFound: there is no log.
        NotPermitted, IOFailure: it cannot be looked at.
    """
    with _reading(path):
        found = path.stat()
        return Position(found.st_ino, found.st_size)


def last(path: Path, records_max: int, level: str = "debug", *, until: Position) -> list[str]:
    """The last records of this level or above, oldest first, each with its lines.

    Raises:
        NotFound, NotPermitted, IOFailure: as ``end``.
    """
    kept: deque[str] = deque(maxlen=records_max)
    sieve = _Sieve(level)
    with _reading(path):
        for line in _lines(path, until):
            if not sieve.passes(line):
                continue
            if sieve.begins or not kept:
                kept.append(line)
            else:
                kept[-1] += line
    return list(kept)


def _lines(path: Path, until: Position) -> Iterator[str]:
    """All lines up to there."""
    for each in (set_aside(path), path):
        try:
            file = open_to_read(each)
        except FileNotFoundError:
            continue
        with file:
            is_last = os.fstat(file.fileno()).st_ino == until.file
            for line in file:
                if is_last and file.tell() > until.offset_bytes:
                    return
                yield _text_of(line)
            if is_last:
                return


def follow(path: Path, level: str = "debug", *, after: Position) -> Iterator[str]:
    """Lines of records that were written after there, for ever; also across daemons and over a full log."""
    sieve = _Sieve(level)
    file = _open(path, after)
    part = b""
    try:
        while True:
            replaced = file is None or _replaced(file, path)  # before it is read to its end
            text = file.readline() if file is not None else b""
            if text:
                part += text
                if part.endswith(b"\n"):
                    line, part = _text_of(part), b""
                    if sieve.passes(line):
                        yield line
            elif replaced and (newer := _open(path, None)) is not None:
                if file is not None:
                    file.close()
                file, part = newer, b""
            else:
                time.sleep(_POLL_SECONDS)
    finally:
        if file is not None:
            file.close()


def _open(path: Path, after: Position | None) -> IO[bytes] | None:
    """The log, or what was set aside of it if it was the log then."""
    for each in (path, set_aside(path)) if after else (path,):
        try:
            with _reading(path):
                file = open_to_read(each)
        except NotFound:
            continue
        if after is None:
            return file
        if os.fstat(file.fileno()).st_ino == after.file:
            file.seek(after.offset_bytes)
            return file
        file.close()
    return None


def _replaced(file: IO[bytes], path: Path) -> bool:
    """Whether another file has the name now."""
    try:
        return path.stat().st_ino != os.fstat(file.fileno()).st_ino
    except OSError:
        return False


def _text_of(line: bytes) -> str:
    return line.decode(errors="backslashreplace")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise NotFound(f"there is no log {path}", hint="no daemon has served this store yet") from None
    except PermissionError:
        raise NotPermitted(f"{path} cannot be read") from None
    except OSError as error:
        raise IOFailure(f"{path} cannot be read: {error.strerror}") from None
