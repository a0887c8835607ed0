"""Retention policies: which snapshots of a volume stay, as a pure function of facts.

Each rule keeps snapshots, and what no rule keeps goes.  The rules are those of ``restic forget`` (without its oldest
ones): periods count that have a snapshot, not those of the calendar, so a volume that rests for a year loses nothing.

Invariants:
  * What is protected (held, locked, tagged, cloned, current) is kept by every policy, and takes no place of a rule:
    rules count all snapshots, protected or not, as if there were no protection.
  * A newer snapshot never makes a rule keep more old ones.
  * What is not known is kept: a commit that no repository could be asked about, a policy without rules is refused.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import PurePosixPath
from typing import Final

import msgspec

from snapfs.api import RetentionPolicy
from snapfs.errors import Invalid
from snapfs.types import Epoch

COUNT_MAX: Final = 1_000_000
SECONDS_MAX: Final = 1000 * 366 * 24 * 3600
REPOSITORIES_MAX: Final = 100

_HOUR_NS: Final = 3600 * 10**9
_DAY_NS: Final = 24 * _HOUR_NS
_MONDAY: Final = 3
"""Days from the Monday before 1970-01-01, a Thursday, to that day."""

_EPOCH = datetime.date(1970, 1, 1)

REACHABLE: Final = "reachable"
UNKNOWN: Final = "reachability unknown"


class Facts(msgspec.Struct, frozen=True):
    """What a policy looks at of one snapshot."""

    epoch: Epoch
    name: str
    created_ns: int
    commit: str = ""
    """Full ID; empty: it belongs to none."""
    content: bytes = b""
    """Digest of what it shows; empty: not known yet."""
    protected: tuple[str, ...] = ()
    """Why no policy may delete it."""


class Verdict(msgspec.Struct, frozen=True):
    """What a policy does with one snapshot."""

    facts: Facts
    reasons: tuple[str, ...]
    """Why it is kept, what protects it first; empty: it goes."""

    @property
    def keep(self) -> bool:
        return bool(self.reasons)


def evaluate(
    policy: RetentionPolicy, snapshots: Sequence[Facts], *, now_ns: int, reachable: Callable[[str], bool | None]
) -> list[Verdict]:
    """What the policy does with each of a volume's snapshots, oldest first.

    Args:
        snapshots: all of the volume's, in any order.
        reachable: of a commit's ID, whether it is reachable; None: that is not known.
    """
    newest_first = sorted(snapshots, key=lambda facts: (facts.created_ns, facts.epoch), reverse=True)
    reasons: dict[Epoch, list[str]] = {facts.epoch: list(facts.protected) for facts in newest_first}

    def keep(reason: str, kept: Iterable[Facts]) -> None:
        for facts in kept:
            reasons[facts.epoch].append(reason)

    keep("last", newest_first[: policy.last])
    for name, period in PERIODS.items():
        keep(name, _newest_of_each(newest_first, getattr(policy, name), period))
    if policy.within_seconds:
        since_ns = now_ns - policy.within_seconds * 10**9
        keep("within", (facts for facts in newest_first if facts.created_ns >= since_ns))
    if policy.reachable:
        known = {facts.epoch: reachable(facts.commit) for facts in newest_first if facts.commit}
        keep(REACHABLE, (facts for facts in newest_first if known.get(facts.epoch) is True))
        keep(UNKNOWN, (facts for facts in newest_first if facts.epoch in known and known[facts.epoch] is None))
    keep("distinct", _distinct(newest_first, policy.distinct))
    return [Verdict(facts, tuple(reasons[facts.epoch])) for facts in reversed(newest_first)]


def _newest_of_each(newest_first: Sequence[Facts], limit: int, period: Callable[[int], int]) -> Iterable[Facts]:
    """The newest of each of the newest ``limit`` periods that have one."""
    last = None
    for facts in newest_first:
        if not limit:
            return
        if (number := period(facts.created_ns)) != last:
            last = number
            limit -= 1
            yield facts


def _distinct(newest_first: Sequence[Facts], limit: int) -> Iterable[Facts]:
    """The newest of each of the newest ``limit`` contents, and those whose content is not known: they may be alike, so
    none of them takes the place of one that is known."""
    if not limit:
        return
    seen: set[bytes] = set()
    for facts in newest_first:
        if not facts.content:
            yield facts
        elif len(seen) < limit and facts.content not in seen:
            seen.add(facts.content)
            yield facts


def _date(time_ns: int) -> datetime.date:
    return _EPOCH + datetime.timedelta(days=min(time_ns // _DAY_NS, (datetime.date.max - _EPOCH).days))


PERIODS: Final[dict[str, Callable[[int], int]]] = {
    "hourly": lambda time_ns: time_ns // _HOUR_NS,
    "daily": lambda time_ns: time_ns // _DAY_NS,
    "weekly": lambda time_ns: (time_ns // _DAY_NS + _MONDAY) // 7,
    "monthly": lambda time_ns: _date(time_ns).year * 12 + _date(time_ns).month,
    "yearly": lambda time_ns: _date(time_ns).year,
}
"""Number of the period (of UTC, weeks from Monday on) that a time is in, by the rule's name."""

_COUNTS: Final = ("last", *PERIODS, "distinct")


def check_policy(policy: RetentionPolicy) -> RetentionPolicy:
    """Raises:
    Invalid: a policy that keeps nothing, a number out of range, a repository without an absolute path or for nothing.
    """
    for name in _COUNTS:
        if not 0 <= getattr(policy, name) <= COUNT_MAX:
            raise Invalid(f"a policy's {name} is a number from 0 to {COUNT_MAX}, not {getattr(policy, name)}")
    if not 0 <= policy.within_seconds <= SECONDS_MAX:
        raise Invalid(f"a policy keeps what is not older than at most 1,000 years, not {policy.within_seconds} seconds")
    if not (any(getattr(policy, name) for name in _COUNTS) or policy.within_seconds or policy.reachable):
        raise Invalid("the policy keeps nothing", hint="give at least one rule; to delete snapshots: snap rm")
    if policy.reachable != bool(policy.repositories):
        raise Invalid(
            "which commits are reachable is asked of repositories: name at least one"
            if policy.reachable
            else "repositories are asked only for what is reachable",
            hint="--reachable --repository PATH",
        )
    if len(policy.repositories) > REPOSITORIES_MAX:
        raise Invalid(f"a policy names at most {REPOSITORIES_MAX} repositories")
    for path in policy.repositories:
        if not PurePosixPath(path).is_absolute() or "\0" in path:
            raise Invalid(f"the path of a repository is absolute, on the daemon's machine: {path!a}")
    return policy


def in_words(policy: RetentionPolicy | None) -> str:
    """For events."""
    if policy is None:
        return "no retention policy"
    rules = [f"{name} {getattr(policy, name)}" for name in _COUNTS if getattr(policy, name)]
    rules += [f"within {policy.within_seconds} s"] if policy.within_seconds else []
    rules += [REACHABLE] if policy.reachable else []
    return f"retention policy: {', '.join(rules)}"


def commits_of(snapshots: Collection[Facts]) -> set[str]:
    """Commits to ask about."""
    return {facts.commit for facts in snapshots if facts.commit}
