"""Retention policies as a pure function."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapfs.api import RetentionPolicy
from snapfs.errors import Invalid
from snapfs.types import Epoch
from snapfs.volume.retention import COUNT_MAX, PERIODS, Facts, Verdict, check_policy, commits_of, evaluate, in_words

HOUR_NS = 3600 * 10**9
DAY_NS = 24 * HOUR_NS
START_NS = int(datetime.datetime(2026, 3, 2, tzinfo=datetime.UTC).timestamp()) * 10**9
"""A Monday."""
REPOSITORY = "/srv/code"


def at(*times_ns: int) -> list[Facts]:
    return [
        Facts(epoch=Epoch(number), name=f"s{number}", created_ns=START_NS + time_ns)
        for number, time_ns in enumerate(times_ns, 1)
    ]


def kept(
    policy: RetentionPolicy,
    snapshots: list[Facts],
    *,
    now_ns: int = START_NS + 400 * DAY_NS,
    commits: dict[str, bool] | None = None,
) -> dict[str, tuple[str, ...]]:
    verdicts = evaluate(policy, snapshots, now_ns=now_ns, reachable=(commits or {}).get)
    assert [verdict.facts.epoch for verdict in verdicts] == [
        facts.epoch for facts in sorted(snapshots, key=lambda facts: (facts.created_ns, facts.epoch))
    ]
    return {verdict.facts.name: verdict.reasons for verdict in verdicts if verdict.keep}


class TestRules:
    def test_last(self) -> None:
        assert kept(RetentionPolicy(last=2), at(0, 1, 2, 3)) == {"s3": ("last",), "s4": ("last",)}
        assert len(kept(RetentionPolicy(last=9), at(0, 1, 2, 3))) == 4

    def test_snapshots_of_one_time_go_by_their_numbers(self) -> None:
        assert list(kept(RetentionPolicy(last=1), at(5, 5, 5))) == ["s3"]

    def test_hours_that_have_none_do_not_count(self) -> None:
        snapshots = at(0, 1, 10 * HOUR_NS, 11 * HOUR_NS - 1, 300 * HOUR_NS)
        assert list(kept(RetentionPolicy(hourly=2), snapshots)) == ["s4", "s5"]
        assert list(kept(RetentionPolicy(hourly=3), snapshots)) == ["s2", "s4", "s5"]

    def test_days_begin_at_midnight_utc(self) -> None:
        snapshots = at(DAY_NS - 1, DAY_NS, DAY_NS + 5)
        assert list(kept(RetentionPolicy(daily=5), snapshots)) == ["s1", "s3"]

    def test_weeks_begin_on_mondays(self) -> None:
        snapshots = at(-1, 0, 6 * DAY_NS, 7 * DAY_NS - 1, 7 * DAY_NS)
        assert list(kept(RetentionPolicy(weekly=9), snapshots)) == ["s1", "s4", "s5"]

    def test_months_and_years(self) -> None:
        snapshots = at(-3 * DAY_NS, -2 * DAY_NS, 0, 29 * DAY_NS, 30 * DAY_NS, 330 * DAY_NS)
        assert list(kept(RetentionPolicy(monthly=9), snapshots)) == ["s2", "s4", "s5", "s6"]
        assert list(kept(RetentionPolicy(yearly=9), snapshots)) == ["s5", "s6"]

    @given(st.integers(0, (1 << 63) - 1))
    def test_periods_are_those_of_the_calendar(self, time_ns: int) -> None:
        moment = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=time_ns // 10**9)
        year, week, _ = moment.isocalendar()
        monday = datetime.datetime.fromisocalendar(year, week, 1)
        since_monday_ns = (moment - monday) // datetime.timedelta(microseconds=1) * 1000 + time_ns % 10**9
        weekly = PERIODS["weekly"]
        assert weekly(time_ns) == weekly(max(0, time_ns - since_monday_ns))
        assert weekly(time_ns - since_monday_ns + 7 * DAY_NS) == weekly(time_ns) + 1
        assert PERIODS["yearly"](time_ns) == moment.year
        assert PERIODS["monthly"](time_ns) == moment.year * 12 + moment.month

    def test_within(self) -> None:
        policy = RetentionPolicy(within_seconds=10)
        snapshots = at(0, 1, 2)
        assert list(kept(policy, snapshots, now_ns=START_NS + 10 * 10**9 + 1)) == ["s2", "s3"]

    def test_within_keeps_what_is_of_the_future(self) -> None:
        assert list(kept(RetentionPolicy(within_seconds=1), at(DAY_NS), now_ns=START_NS)) == ["s1"]

    def test_rules_add_up(self) -> None:
        snapshots = at(0, DAY_NS, 2 * DAY_NS, 3 * DAY_NS)
        assert kept(RetentionPolicy(last=1, daily=2), snapshots) == {"s3": ("daily",), "s4": ("last", "daily")}

    def test_distinct(self) -> None:
        contents = [b"a", b"b", b"a", b"a", b""]
        snapshots = [
            Facts(epoch=facts.epoch, name=facts.name, created_ns=facts.created_ns, content=content)
            for facts, content in zip(at(0, 1, 2, 3, 4), contents, strict=True)
        ]
        assert list(kept(RetentionPolicy(distinct=1), snapshots)) == ["s4", "s5"]  # what is not known takes no place
        assert list(kept(RetentionPolicy(distinct=2), snapshots)) == ["s2", "s4", "s5"]
        assert list(kept(RetentionPolicy(last=1), snapshots)) == ["s5"]

    def test_reachable(self) -> None:
        policy = RetentionPolicy(reachable=True, repositories=[REPOSITORY])
        snapshots = [
            Facts(epoch=facts.epoch, name=facts.name, created_ns=facts.created_ns, commit=commit)
            for facts, commit in zip(at(0, 1, 2, 3), ["a", "b", "", "c"], strict=True)
        ]
        assert commits_of(snapshots) == {"a", "b", "c"}
        found = kept(policy, snapshots, commits={"a": True, "b": False})
        assert found == {"s1": ("reachable",), "s4": ("reachability unknown",)}

    def test_what_is_protected_stays_and_takes_no_place(self) -> None:
        oldest, newest = at(0, 1, 2)[:2], at(0, 1, 2)[2]
        held = Facts(epoch=newest.epoch, name=newest.name, created_ns=newest.created_ns, protected=("held", "tagged"))
        assert kept(RetentionPolicy(last=2), [*oldest, held]) == {"s2": ("last",), "s3": ("held", "tagged", "last")}


class TestCheck:
    @pytest.mark.parametrize(
        "policy",
        [
            RetentionPolicy(),
            RetentionPolicy(last=-1),
            RetentionPolicy(last=1, daily=COUNT_MAX + 1),
            RetentionPolicy(within_seconds=-5),
            RetentionPolicy(within_seconds=1 << 62),
            RetentionPolicy(reachable=True),
            RetentionPolicy(last=1, repositories=[REPOSITORY]),
            RetentionPolicy(reachable=True, repositories=["code"]),
            RetentionPolicy(reachable=True, repositories=["/srv/\0"]),
            RetentionPolicy(reachable=True, repositories=[REPOSITORY] * 101),
        ],
    )
    def test_refused(self, policy: RetentionPolicy) -> None:
        with pytest.raises(Invalid):
            check_policy(policy)

    def test_in_words(self) -> None:
        policy = check_policy(RetentionPolicy(last=3, weekly=4, reachable=True, repositories=[REPOSITORY]))
        assert in_words(policy) == "retention policy: last 3, weekly 4, reachable"
        assert in_words(None) == "no retention policy"


# -- for any history

_policies = st.builds(
    RetentionPolicy,
    last=st.integers(0, 5), hourly=st.integers(0, 5), daily=st.integers(0, 5), weekly=st.integers(0, 3),
    monthly=st.integers(0, 3), yearly=st.integers(0, 2), distinct=st.integers(0, 4),
    within_seconds=st.integers(0, 10**7), reachable=st.booleans(),
)  # fmt: skip
_times = st.one_of(st.integers(0, 60).map(lambda day: day * DAY_NS), st.integers(0, 400 * DAY_NS))


@st.composite
def _histories(draw: st.DrawFn) -> list[Facts]:
    return [
        Facts(
            epoch=Epoch(number),
            name=f"s{number}",
            created_ns=START_NS + draw(_times),
            commit=draw(st.sampled_from(["", "a", "b", "c"])),
            content=draw(st.sampled_from([b"", b"1", b"2", b"3"])),
            protected=draw(st.sampled_from([(), (), (), ("held",), ("locked", "tagged")])),
        )
        for number in range(1, draw(st.integers(1, 25)))
    ]


_known = st.dictionaries(st.sampled_from(["a", "b", "c"]), st.booleans())


def _verdicts(policy: RetentionPolicy, history: list[Facts], known: dict[str, bool]) -> list[Verdict]:
    return evaluate(policy, history, now_ns=START_NS + 400 * DAY_NS, reachable=known.get)


@given(_policies, _histories(), _known)
def test_what_is_protected_is_never_deleted(
    policy: RetentionPolicy, history: list[Facts], known: dict[str, bool]
) -> None:
    for verdict in _verdicts(policy, history, known):
        assert verdict.keep or not verdict.facts.protected
        assert verdict.reasons[: len(verdict.facts.protected)] == verdict.facts.protected


@given(_policies, _histories(), _known)
def test_each_rule_keeps_as_many_as_it_says(
    policy: RetentionPolicy, history: list[Facts], known: dict[str, bool]
) -> None:
    verdicts = _verdicts(policy, history, known)
    by_reason = {
        name: [verdict.facts for verdict in verdicts if name in verdict.reasons]
        for name in ("last", "distinct", "within", *PERIODS)
    }
    assert len(by_reason["last"]) == min(policy.last, len(history))
    for name, period in PERIODS.items():
        wanted = sorted({period(facts.created_ns) for facts in history}, reverse=True)[: getattr(policy, name)]
        assert sorted((period(facts.created_ns) for facts in by_reason[name]), reverse=True) == wanted
        for facts in by_reason[name]:
            same = [other for other in history if period(other.created_ns) == period(facts.created_ns)]
            assert facts == max(same, key=lambda other: (other.created_ns, other.epoch))
    contents = {facts.content for facts in history if facts.content}
    unknown = sum(not facts.content for facts in history)
    assert len(by_reason["distinct"]) == min(policy.distinct, len(contents)) + (unknown if policy.distinct else 0)
    for facts in history:
        unasked = policy.reachable and facts.commit and known.get(facts.commit) is not False
        if unasked:
            assert next(verdict for verdict in verdicts if verdict.facts == facts).keep


@given(_policies, _histories(), _known)
def test_applied_again_nothing_more_goes(policy: RetentionPolicy, history: list[Facts], known: dict[str, bool]) -> None:
    left = [verdict.facts for verdict in _verdicts(policy, history, known) if verdict.keep]
    assert all(verdict.keep for verdict in _verdicts(policy, left, known))


@given(_policies, _histories(), _known, st.integers(0, 10 * DAY_NS))
def test_a_newer_snapshot_keeps_no_older_one_alive(
    policy: RetentionPolicy, history: list[Facts], known: dict[str, bool], later_ns: int
) -> None:
    before = {verdict.facts for verdict in _verdicts(policy, history, known) if verdict.keep}
    newest_ns = max((facts.created_ns for facts in history), default=START_NS)
    newer = Facts(epoch=Epoch(1000), name="newer", created_ns=newest_ns + later_ns)
    after = {verdict.facts for verdict in _verdicts(policy, [*history, newer], known) if verdict.keep}
    assert after - {newer} <= before
