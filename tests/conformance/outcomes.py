"""What a suite says of one test, and which failures are known.

Invariants:
  * A test has one id, the same in every run, so that known failures can be named.
  * A known failure has a cause; ``docs/POSIX.md`` tells of each.
"""

from __future__ import annotations

import enum
import fnmatch
import tomllib
from dataclasses import dataclass
from pathlib import Path

KNOWN = Path(__file__).parent / "known"


class Status(enum.StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One test as it ended."""

    id: str
    status: Status
    detail: str = ""
    """Why it failed or was skipped, in one line."""


@dataclass(frozen=True, slots=True)
class KnownFailure:
    """A test that fails on snapfs, or several by a pattern (``*`` and ``?``)."""

    pattern: str
    cause: str
    always: bool
    """False of one that depends on timing or on the machine: it may pass."""


def known_failures(suite: str, directory: Path) -> list[KnownFailure]:
    """Those of ``directory/SUITE.toml``; none if there is no such file.

    Raises:
        ValueError: the file is not of the form that it should be.
    """
    file = directory / f"{suite}.toml"
    if not file.exists():
        return []
    found = []
    for entry in tomllib.loads(file.read_text()).get("failure", []):
        unknown = entry.keys() - {"id", "cause", "always"}
        if unknown or not entry.get("id") or not entry.get("cause"):
            raise ValueError(f"{file}: a [[failure]] has id and cause, and may have always: {entry}")
        found.append(KnownFailure(entry["id"], entry["cause"], entry.get("always", True)))
    return found


@dataclass(frozen=True, slots=True)
class Verdict:
    """All outcomes of a run, set against what is known."""

    outcomes: list[Outcome]
    new: list[Outcome]
    """Failures that nobody knows of."""
    known: list[tuple[Outcome, KnownFailure]]
    mended: list[KnownFailure]
    """Known failures all of whose tests passed: to be taken out of the list."""

    def count(self, status: Status) -> int:
        return sum(outcome.status is status for outcome in self.outcomes)

    @property
    def good(self) -> bool:
        """Something was run, and nothing failed that is not known to."""
        return not self.new and any(outcome.status is not Status.SKIPPED for outcome in self.outcomes)


def judge(outcomes: list[Outcome], known: list[KnownFailure]) -> Verdict:
    """Set what happened against what is known."""
    new, expected, seen, failed = [], [], set(), set()
    for outcome in outcomes:
        match = next((one for one in known if fnmatch.fnmatchcase(outcome.id, one.pattern)), None)
        if match is not None and outcome.status is not Status.SKIPPED:
            seen.add(match)
        if outcome.status is not Status.FAILED:
            continue
        if match is None:
            new.append(outcome)
        else:
            expected.append((outcome, match))
            failed.add(match)
    mended = [one for one in known if one in seen and one not in failed and one.always]
    return Verdict(outcomes, new, expected, mended)
