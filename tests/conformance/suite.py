"""What all suites have in common, and how a program of theirs is run.

Invariants:
  * What a suite runs is ended with it: each child has a session of its own, killed as a group.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from outcomes import Outcome, Status

DETAIL_CHARACTERS_MAX = 200


class Missing(Exception):
    """The suite is not here or cannot run here; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much of a suite without an end of its own is run."""

    operations: int
    """Of fsx and fsstress, for each seed."""
    seeds: int
    seconds: int
    """For each stressor of stress-ng."""
    megabytes: int
    """For each job of fio."""
    jobs: int
    """Files of pjdfstest at a time."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A program that has ended."""

    code: int | None
    """None: it was ended, after too long a time."""
    output: str
    """Standard output and standard error."""

    @property
    def last_line(self) -> str:
        lines = [line.strip() for line in self.output.splitlines() if line.strip()]
        return short(lines[-1]) if lines else ""

    def outcome(self, test: str) -> Outcome:
        """Of a test that passes when its program exits with 0."""
        if self.code == 0:
            return Outcome(test, Status.PASSED)
        return Outcome(test, Status.FAILED, self.reason())

    def reason(self) -> str:
        if self.code is None:
            return "did not end in time"
        return f"{'signal' if self.code < 0 else 'exit code'} {abs(self.code)}: {self.last_line}"


def short(text: str) -> str:
    printable = "".join(character if character.isprintable() else "?" for character in text)
    return printable if len(printable) <= DETAIL_CHARACTERS_MAX else printable[: DETAIL_CHARACTERS_MAX - 3] + "..."


def execute(place: Path, seconds_max: float, *command: str | Path, environment: dict[str, str] | None = None) -> Ended:
    """Run a program in a directory, and end it and its children after some time."""
    child = subprocess.Popen(
        command, cwd=place, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip
    code: int | None
    try:
        output, _ = child.communicate(timeout=seconds_max)
        code = child.returncode
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        output, _ = child.communicate()
        code = None
    except BaseException:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        raise
    return Ended(code, output.decode(errors="replace"))


class Suite:
    """One suite.

    Attributes:
        program: the program, or the directory, that it is run from.
    """

    name: ClassVar[str]
    what: ClassVar[str]
    """What it tests."""
    where: ClassVar[str]
    """Where it can be had."""
    command: ClassVar[str]
    """Name of the program in PATH."""
    as_root: ClassVar[bool] = False

    def __init__(self, at: Path | None) -> None:
        """Raises Missing."""
        self.program = self.find(at)

    def find(self, at: Path | None) -> Path:
        """The program at a path or, if None, in PATH.

        Raises:
            Missing: there is none that can be run.
        """
        found = shutil.which(at if at is not None else self.command)
        if found is None and at is not None:
            found = shutil.which(at / self.command)
        if found is None:
            place = "in PATH" if at is None else f"at {at}"
            raise Missing(f"no {self.command} {place}; {self.where}, then give --at PATH")
        return Path(found).absolute()

    def tests(self) -> list[str]:
        """What can be chosen from."""
        raise NotImplementedError

    def chosen(self, wanted: list[str]) -> list[str]:
        """Those of ``tests`` that start with one of the words; all if there is none.

        Raises:
            Missing: a word that no test starts with.
        """
        tests = self.tests()
        for word in wanted:
            if not any(test.startswith(word) for test in tests):
                raise Missing(f"{self.name} has no test {word}; --list {self.name} names them")
        exact = set(wanted) & set(tests)
        words = tuple(word for word in wanted if word not in exact)
        return [test for test in tests if not wanted or test in exact or (words and test.startswith(words))]

    def run(self, place: Path, wanted: list[str], bounds: Bounds) -> Iterator[Outcome]:
        """Run the tests chosen, in an empty directory."""
        raise NotImplementedError
