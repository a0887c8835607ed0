"""Figures of a benchmark: rows of named series, what they are held against, a printed table, one form of JSON.

Rules:
  * A row holds every single value that counted, in the unit that is shown; nothing is rounded but in what is printed
    and saved (six digits).
  * Values of the same place in two series were measured in the same round: the spread of a ratio is that of its rounds.
  * A limit holds a ratio of two medians or, where there is no other series, the worst value.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.processes import Memories

FORM: Final = 1
"""Of the JSON; another number when what is there changes its meaning."""

DIGITS: Final = 6

FACTORS: Final = {
    "s": 1, "ms": 1e3, "us": 1e6, "calls": 1, "times": 1, "requests": 1, "files": 1,
    "bytes": 1, "KiB": 2**-10, "MB": 1e-6, "MB/s": 1e-6, "1/s": 1,
}  # fmt: skip
"""From seconds, bytes, bytes a second or a plain number to a unit."""

MEMORY_KINDS: Final = {
    "peak_bytes": "peak of the daemon (VmHWM)",
    "anonymous_bytes": "of it anonymous (RssAnon)",
    "file_bytes": "of it mapped files (RssFile)",
}


@dataclass(frozen=True)
class Check:
    """What a row is held against."""

    of: str
    to: str = ""
    """Series: the ratio is of/to; without it the values of ``of`` count."""
    bound: float | None = None
    """In the row's unit, or a ratio; None: only shown."""
    at_least: bool = False
    """Whether the figure must not be less; else it must not be more."""


@dataclass
class Row:
    """One line of a report: named series of one quantity, and how they relate."""

    what: str
    unit: str
    series: dict[str, list[float]]
    checks: list[Check] = field(default_factory=list)
    group: str = ""
    """Rows of one group belong into one plot."""

    def figure(self, check: Check) -> float:
        """What a limit is held against."""
        values = self.series[check.of]
        if check.to:
            below = statistics.median(self.series[check.to])
            return statistics.median(values) / below if below else float("inf")
        return min(values) if check.at_least else max(values)

    def spread(self, check: Check) -> tuple[float, float]:
        """10th and 90th percentile of the rounds' ratios, or of the values."""
        if not check.to:
            return percentiles(self.series[check.of])
        pairs = zip(self.series[check.of], self.series[check.to], strict=False)
        return percentiles([of / to if to else float("inf") for of, to in pairs])

    def met(self, check: Check) -> bool:
        if check.bound is None:
            return True
        figure = self.figure(check)
        return figure >= check.bound if check.at_least else figure <= check.bound

    @property
    def title(self) -> str:
        return f"{self.group}: {self.what}" if self.group else self.what


@dataclass
class Report:
    """Figures of one benchmark; printed as they come, as lines of a Markdown table."""

    name: str
    question: str
    rows: list[Row] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    """What it ran with: scale, repeats."""
    notes: list[str] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=lambda: machine())
    complete: bool = True
    """Whether the benchmark came to its end."""
    kept: Path | None = field(default=None, compare=False)
    """Where it is saved with each row that comes, so that a run that is broken off leaves what it measured."""

    def start(self) -> None:
        print(f"\n## {self.name}: {self.question}\n\n{self.conditions}\n", flush=True)
        print("| what | median (10th to 90th percentile) | ratio, or largest | limit | |")
        print("|---|---|---|---|---|", flush=True)

    @property
    def conditions(self) -> str:
        """When, on what and how it ran: one line."""
        settings = [f"{name} {_setting(value)}" for name, value in self.settings.items()]
        broken_off = [] if self.complete else ["broken off before its end"]
        return "; ".join([described(self.about), *([", ".join(settings)] if settings else []), *broken_off])

    def compare(
        self, what: str, series: Mapping[str, Sequence[float]], *, unit: str = "ms", limit: float | None = None,
        group: str = "",
    ) -> None:  # fmt: skip
        """Seconds of two variants: the ratio of the second to the first is at most the limit."""
        names = list(series)
        self._add(Row(what, unit, scaled(series, unit), [Check(names[1], names[0], limit)], group))

    def values(
        self, what: str, series: Mapping[str, Sequence[float]], *, unit: str, limit: float | None = None,
        at_least: float | None = None, group: str = "",
    ) -> None:  # fmt: skip
        """Figures whose first series' largest value is at most ``limit``, or smallest ``at_least``, in the unit."""
        first = next(iter(series))
        bound, least = (limit, False) if at_least is None else (at_least, True)
        self._add(Row(what, unit, scaled(series, unit), [Check(first, "", bound, least)], group))

    def rates(
        self, what: str, series: Mapping[str, Sequence[float]], *, unit: str = "1/s",
        at_least: Mapping[str, float] | None = None, group: str = "",
    ) -> None:  # fmt: skip
        """Operations or bytes a second of several subjects.  The first's ratio to each other one is shown, and must be
        at least what ``at_least`` says of that one (who is not there holds nothing)."""
        first, *others = series
        bounds = at_least or {}
        checks = [Check(first, other, bounds.get(other), True) for other in others]
        self._add(Row(what, unit, scaled(series, unit), checks, group))

    def durations(
        self, what: str, series: Mapping[str, Sequence[float]], *, unit: str = "s",
        times_faster: Mapping[str, float] | None = None, group: str = "",
    ) -> None:  # fmt: skip
        """Seconds of several subjects: how many times faster than each other one the first is (their time / its time),
        which must be at least what ``times_faster`` says of that one."""
        first, *others = series
        bounds = times_faster or {}
        checks = [Check(other, first, bounds.get(other), True) for other in others]
        self._add(Row(what, unit, scaled(series, unit), checks, group))

    def memory(self, memories: Memories, *, limit_mb: float | None = None) -> None:
        """What the subjects' daemons had in memory; a limit holds the first's peak (VmHWM)."""
        for kind, what in MEMORY_KINDS.items():
            if series := memories.series(kind):
                self.values(what, series, unit="MB", limit=limit_mb if kind == "peak_bytes" else None, group="memory")

    def note(self, text: str) -> None:
        """What a reader must know of the figures: who was left out, what was not possible."""
        if text not in self.notes:
            self.notes.append(text)
            print(f"({text})", flush=True)

    def _add(self, row: Row) -> None:
        self.rows.append(row)
        if self.kept is not None:
            self.save(self.kept)
        print(f"| {' | '.join(cells(row))} |", flush=True)

    def document(self) -> dict[str, Any]:
        """Everything, each single value included."""
        return {
            "form": FORM, "benchmark": self.name, "question": self.question, "machine": self.about,
            "complete": self.complete, "settings": self.settings, "notes": self.notes,
            "rows": [_row_document(row) for row in self.rows],
        }  # fmt: skip

    def save(self, path: Path) -> None:
        beside = path.with_suffix(".new")
        beside.write_text(json.dumps(self.document(), indent=1) + "\n")
        beside.replace(path)

    @classmethod
    def load(cls, path: Path) -> Report:
        """What ``save`` wrote.

        Raises:
            ValueError: another form.
        """
        document = json.loads(path.read_text())
        if document.get("form") != FORM:
            raise ValueError(f"{path}: not a report of form {FORM}")
        rows = [
            Row(
                row["what"], row["unit"], row["series"],
                [Check(one["of"], one["to"], one["bound"], one["at_least"]) for one in row["checks"]], row["group"],
            )
            for row in document["rows"]
        ]  # fmt: skip
        about, settings, notes = document["machine"], document["settings"], document["notes"]
        return cls(
            document["benchmark"], document["question"], rows, settings, notes, about,
            document.get("complete", True),
        )  # fmt: skip

    @property
    def missed(self) -> list[str]:
        """Each limit that was not held, in words."""
        return [
            f"{row.title}: {_told(row, check)}, limit {_bound(row, check)}"
            for row in self.rows
            for check in row.checks
            if not row.met(check)
        ]

    @property
    def held(self) -> int:
        """Number of limits that were held."""
        return sum(check.bound is not None and row.met(check) for row in self.rows for check in row.checks)

    @property
    def exit_code(self) -> int:
        return 1 if self.missed else 0


# -- words


def cells(row: Row) -> list[str]:
    """What, medians, ratios, limits and verdicts of a row, as cells of a Markdown table."""
    values = "<br>".join(f"{name}: {summary(values)} {row.unit}" for name, values in row.series.items())
    checks = [check for check in row.checks if check.to or check.bound is not None]
    figures = "<br>".join(_told(row, check) for check in checks)
    limits = "<br>".join(_bound(row, check) for check in checks)
    verdicts = "<br>".join("" if one.bound is None else "met" if row.met(one) else "MISSED" for one in checks)
    if all(check.bound is None for check in checks):
        limits = verdicts = ""
    return [row.title, values, figures, limits, verdicts]


def _setting(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _told(row: Row, check: Check) -> str:
    if not check.to:
        return f"{shown(row.figure(check))} {row.unit}"
    rounds = min(len(row.series[check.of]), len(row.series[check.to]))
    spread = " ({:.2f} to {:.2f})".format(*row.spread(check)) if rounds > 1 else ""
    others = f"{check.of} / {check.to} " if len(row.checks) > 1 else ""
    return f"{others}{row.figure(check):.2f}{spread}"


def _bound(row: Row, check: Check) -> str:
    if check.bound is None:
        return ""
    return f"{'at least ' if check.at_least else ''}{check.bound:g}{'' if check.to else ' ' + row.unit}"


def summary(values: Sequence[float]) -> str:
    low, high = percentiles(values)
    spread = f" ({shown(low)} to {shown(high)})" if len(values) > 1 else ""
    return f"{shown(statistics.median(values))}{spread}"


def shown(value: float) -> str:
    """A number with three digits, or with all that are before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def percentiles(values: Sequence[float]) -> tuple[float, float]:
    """The 10th and the 90th."""
    ordered = sorted(values)
    low, high = (ordered[round(part * (len(ordered) - 1))] for part in (0.1, 0.9))
    return low, high


def scaled(series: Mapping[str, Sequence[float]], unit: str) -> dict[str, list[float]]:
    """From seconds, bytes or bytes a second to the unit that is shown."""
    return {name: [value * FACTORS[unit] for value in values] for name, values in series.items()}


def _row_document(row: Row) -> dict[str, Any]:
    checks = [
        {**vars(check), "figure": _digits(row.figure(check)), "spread": [_digits(end) for end in row.spread(check)],
         "met": row.met(check)}
        for check in row.checks
    ]  # fmt: skip
    series = {name: [_digits(value) for value in values] for name, values in row.series.items()}
    return {"group": row.group, "what": row.what, "unit": row.unit, "series": series, "checks": checks}


def _digits(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def machine() -> dict[str, Any]:
    """When and on what."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cores": os.cpu_count(), "architecture": platform.machine(), "memory_bytes": memory,
        "kernel": platform.release(), "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 1),
    }  # fmt: skip


def described(about: Mapping[str, Any]) -> str:
    """A machine in one line."""
    return (
        f"{about['date']}; {about['cores']} cores ({about['architecture']}), {about['memory_bytes'] / 2**30:.0f} GiB, "
        f"Linux {about['kernel']}, Python {about['python']}; load average at the start {about['load']}"
    )
