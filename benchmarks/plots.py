"""Draws docs/benchmarks/*.svg, and fills the tables of docs/benchmarks/README.md, from the reports that were saved.

Invariants:
  * Everything that is drawn or told is in the reports; the same reports make the same files, byte by byte.
  * In the page only what stands between ``<!-- table NAME -->`` and ``<!-- end -->`` is replaced: by the picture and
    the tables of a report.
  * A group whose rows begin with numbers ("10,000 files") is a sweep: lines over that number.  Rows that are held
    against others are bars of those ratios; all other rows bars of their values.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.report import Check, Report, Row, percentiles, shown, summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DOCS: Final = Path(__file__).parents[1] / "docs/benchmarks"
DATA: Final = DOCS / "data"
PAGE: Final = "README.md"

COLOURS: Final = {
    "snapfs": "#c1440e", "bindfs": "#4878a8", "ext4": "#7a7a7a", "btrfs": "#5b9a68", "S3QL": "#8d6aa8",
    "DVC": "#b08a2e", "git-lfs": "#3f8f8f", "git-annex": "#b56576", "borg": "#6b705c", "restic": "#9c6644",
    "snapfs .snap": "#e9a178", "reader": "#2a9d8f",
}  # fmt: skip
OTHER_COLOURS: Final = ("#c1440e", "#4878a8", "#7a7a7a", "#5b9a68", "#8d6aa8", "#b08a2e", "#3f8f8f")

WIDTH_INCHES: Final = 9.0
BAR_INCHES: Final = 0.17
PANEL_INCHES: Final = 0.9
SWEEP_INCHES: Final = 2.8
SWEEPS_A_ROW: Final = 3
NOT_DRAWN: Final = ("memory", "processor")
"""Groups that many benchmarks have beside what they are about: their figures are in the tables."""

_NUMBER: Final = re.compile(r"[\d,]*\d")
_MARK: Final = re.compile(r"(<!-- table ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


# -- what is drawn how


def groups(report: Report) -> dict[str, list[Row]]:
    """Rows by their group, in the order in which groups first come."""
    found: dict[str, list[Row]] = {}
    for row in report.rows:
        found.setdefault(row.group, []).append(row)
    return found


def panels(report: Report) -> list[tuple[str, str, list[Row]]]:
    """(title, kind, rows) of what is drawn.  Kinds: "sweep", "faster" and "slower" (ratios of which more, or less, is
    better) and, for values, their unit: one axis can have one of them."""
    everything = groups(report)
    found = {group: rows for group, rows in everything.items() if group not in NOT_DRAWN} or everything
    split: dict[tuple[str, str], list[Row]] = {}
    for group, rows in found.items():
        for row in rows:
            split.setdefault((group, "sweep" if is_sweep(rows) else _kind(row)), []).append(row)
    return [(group, kind, rows) for (group, kind), rows in split.items()]


def _kind(row: Row) -> str:
    if not (checks := ratios(row)):
        return row.unit
    return "faster" if checks[0].at_least else "slower"


def is_sweep(rows: Sequence[Row]) -> bool:
    return len(rows) > 1 and all(_NUMBER.match(row.what) for row in rows)


def place_of(row: Row) -> int:
    """Where a row of a sweep is on its axis."""
    found = _NUMBER.match(row.what)
    assert found is not None
    return int(found[0].replace(",", ""))


def ratios(row: Row) -> list[Check]:
    return [check for check in row.checks if check.to]


def other(row: Row, check: Check) -> str:
    """Whom the first series is compared with."""
    return check.to if check.of == next(iter(row.series)) else check.of


def _colour(name: str, names: Sequence[str]) -> str:
    return COLOURS.get(name) or OTHER_COLOURS[list(names).index(name) % len(OTHER_COLOURS)]


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


# -- drawing


def draw(report: Report, path: Path) -> bool:
    """One picture of a report; False: there is nothing in it to draw."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update(
        {"svg.hashsalt": "snapfs", "svg.fonttype": "none", "font.size": 8, "axes.spines.top": False,
         "axes.spines.right": False, "axes.axisbelow": True, "axes.grid": True, "grid.color": "#dddddd"}
    )  # fmt: skip
    from matplotlib import pyplot

    found = panels(report)
    sweeps = [panel for panel in found if panel[1] == "sweep"]
    bars = [panel for panel in found if panel[1] != "sweep"]
    if not found:
        return False
    heights = [_height(rows) for _, _, rows in bars]
    lines = -(-len(sweeps) // SWEEPS_A_ROW)
    figure = pyplot.figure(figsize=(WIDTH_INCHES, sum(heights) + lines * SWEEP_INCHES), layout="constrained")
    grid = figure.add_gridspec(len(bars) + lines, SWEEPS_A_ROW, height_ratios=heights + [SWEEP_INCHES] * lines)
    for number, (group, kind, rows) in enumerate(bars):
        axes = figure.add_subplot(grid[number, :])
        (_ratio_bars if kind in ("faster", "slower") else _value_bars)(axes, rows)
        axes.set_title(group or report.question, loc="left", fontweight="bold")
    for number, (group, _, rows) in enumerate(sweeps):
        axes = figure.add_subplot(grid[len(bars) + number // SWEEPS_A_ROW, number % SWEEPS_A_ROW])
        _lines(axes, rows)
        axes.set_title(group, loc="left", fontweight="bold")
    _settle(figure)
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    pyplot.close(figure)
    # Spaces at the ends of lines are all that a tidy repository would complain about.
    path.write_text("\n".join(line.rstrip() for line in path.read_text().splitlines()) + "\n")
    return True


def _settle(figure: Figure) -> None:
    """Lay it out, to a thousandth: the solver's last digits differ from run to run."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        left, bottom, width, height = (round(end, 3) for end in axes.get_position().bounds)
        axes.set_position((left, bottom, width, height))


def _height(rows: Sequence[Row]) -> float:
    bars = sum(max(1, len(ratios(row)) or len(row.series)) for row in rows)
    return PANEL_INCHES + bars * BAR_INCHES + len(rows) * BAR_INCHES / 2


def _ratio_bars(axes: Axes, rows: Sequence[Row]) -> None:
    """How many times as fast as each other one the first is, or the ratio to it where that must be small."""
    others = _unique(other(row, check) for row in rows for check in ratios(row))
    place, ticks = 0.0, []
    drawn = set()
    for row in rows:
        first = place
        for check in ratios(row):
            name = other(row, check)
            figure, (low, high) = row.figure(check), row.spread(check)
            label = name if name not in drawn else None
            drawn.add(name)
            axes.barh(place, figure - 1, left=1, height=0.8, color=_colour(name, others), label=label)
            axes.plot([low, high], [place, place], color="black", linewidth=0.8)
            told = f"{figure:.2g}" if figure < 100 else f"{figure:.0f}"
            axes.text(max(figure, high, 1) * 1.04, place, told, va="center", fontsize=6)
            if check.bound is not None:
                axes.plot([check.bound] * 2, [place - 0.45, place + 0.45], color="black", linewidth=1.8)
            place += 1
        ticks.append(((first + place - 1) / 2, row.what))
        place += 0.5
    _name_bars(axes, ticks)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    _plain_ticks(axes, "x")
    faster = f"times as fast as ... is {next(iter(rows[0].series))} (more is better; thick mark: limit)"
    axes.set_xlabel(faster if _kind(rows[0]) == "faster" else "ratio (less is better; thick mark: limit)")
    _legend(axes)


def _value_bars(axes: Axes, rows: Sequence[Row]) -> None:
    """Medians, with the spread, in the rows' unit."""
    names = _unique(name for row in rows for name in row.series)
    place, ticks = 0.0, []
    drawn = set()
    for row in rows:
        first = place
        for name, values in row.series.items():
            middle, (low, high) = statistics.median(values), percentiles(values)
            label = name if name not in drawn else None
            drawn.add(name)
            axes.barh(place, middle, height=0.8, color=_colour(name, names), label=label)
            axes.plot([low, high], [place, place], color="black", linewidth=0.8)
            axes.text(high, place, f" {shown(middle)} {row.unit}", va="center", fontsize=6)
            for check in row.checks:
                if check.of == name and check.bound is not None:
                    axes.plot([check.bound] * 2, [place - 0.45, place + 0.45], color="black", linewidth=1.8)
            place += 1
        ticks.append(((first + place - 1) / 2, row.what))
        place += 0.5
    _name_bars(axes, ticks)
    axes.set_xlabel(f"{rows[0].unit} (thick mark: limit)")
    if len(names) > 1:
        _legend(axes)


def _legend(axes: Axes) -> None:
    axes.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _name_bars(axes: Axes, ticks: Sequence[tuple[float, str]]) -> None:
    axes.set_yticks([place for place, _ in ticks], [_wrapped(name) for _, name in ticks])
    axes.grid(visible=False, axis="y")
    axes.invert_yaxis()


def _wrapped(name: str) -> str:
    return "\n".join(re.findall(r".{1,34}(?:\s|$)", name)).replace(" \n", "\n").strip() or name


def _lines(axes: Axes, rows: Sequence[Row]) -> None:
    """Medians over the number that the rows begin with, both on log axes."""
    rows = sorted(rows, key=place_of)
    names = _unique(name for row in rows for name in row.series)
    for name in names:
        there = [row for row in rows if name in row.series]
        places = [place_of(row) for row in there]
        middles = [statistics.median(row.series[name]) for row in there]
        ends = [percentiles(row.series[name]) for row in there]
        errors = [
            [max(0.0, middle - low) for middle, (low, _) in zip(middles, ends, strict=True)],
            [max(0.0, high - middle) for middle, (_, high) in zip(middles, ends, strict=True)],
        ]
        axes.errorbar(places, middles, errors, marker="o", markersize=3, linewidth=1.2, capsize=2,
                      color=_colour(name, names), label=name)  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    _plain_ticks(axes, "y")
    low, high = axes.get_ylim()
    axes.set_ylim(low / 3, high * 3)  # what is flat must look flat
    axes.set_xlabel(_NUMBER.sub("", rows[0].what, count=1).strip())
    axes.set_ylabel(rows[0].unit)
    if len(names) > 1:
        axes.legend(fontsize=6, frameon=False)


def _plain_ticks(axes: Any, which: str) -> None:
    """0.1, 1, 10 and not powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.set_minor_formatter(FuncFormatter(lambda *_: ""))


# -- tables


def table(report: Report) -> str:
    """What a report says, as Markdown: a table for all rows about the same series, and one for all sweeps over the same
    numbers.  There a sweep is a line, with the row of the same name, of its ends, at the end of it."""
    tables: dict[tuple[str, ...], list[list[str]]] = {}
    found = groups(report)
    ends = {row.what: row for row in found.get("", []) if row.what in found}
    for group, rows in found.items():
        if is_sweep(rows):
            held = ["ratio"] if group in ends else []
            for name in _unique(name for row in rows for name in row.series):
                names, cells = _sweep(rows, name)
                cells += [_against(ends[group])] if held else []
                tables.setdefault(("", *names, *held), []).append([f"{group} ({rows[0].unit})", *cells])
            continue
        for row in rows:
            if row in ends.values():
                continue
            held = ["held against"] if any(check.to or check.bound is not None for check in row.checks) else []
            cells = [f"{summary(values)} {row.unit}" for values in row.series.values()]
            cells += [_against(row)] if held else []
            tables.setdefault(("", *row.series, *held), []).append([row.title, *cells])
    lines = [f"{told}." for told in (report.conditions, *report.notes)]
    for header, body in tables.items():
        lines += ["", f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
        lines += [f"| {' | '.join(cells)} |" for cells in body]
    return "\n".join(lines)


def _sweep(rows: Sequence[Row], name: str) -> tuple[list[str], list[str]]:
    """(numbers, medians of a series) of a sweep, in ascending order."""
    rows = sorted((row for row in rows if name in row.series), key=place_of)
    return [row.what for row in rows], [summary(row.series[name]) for row in rows]


def _against(row: Row) -> str:
    told = []
    for check in row.checks:
        if not (check.to or check.bound is not None):
            continue
        figure = row.figure(check)
        words = f"{other(row, check)} {figure:.2f}" if check.to else shown(figure)
        if check.bound is not None:
            words += f" (limit {check.bound:g})"
        told.append(words if row.met(check) else f"**{words} missed**")
    return ", ".join(told)


def overview(reports: Sequence[Report]) -> str:
    """Limits held and missed, of all."""
    lines = ["| benchmark | limits held | missed |", "|---|---|---|"]
    for report in reports:
        if report.held or report.missed:
            lines.append(f"| [{report.name}](#{report.name}) | {report.held} | {'<br>'.join(report.missed)} |")
    return "\n".join(lines)


def filled(page: str, reports: Sequence[Report]) -> str:
    """The page with each table between its marks; what no report is about stays as it is."""
    tables = {report.name: _picture(report) + table(report) for report in reports} | {"overview": overview(reports)}

    def put(found: re.Match[str]) -> str:
        name = found[2]
        return f"{found[1]}\n{tables[name]}\n\n{found[3]}" if name in tables else found[0]

    return _MARK.sub(put, page)


def _picture(report: Report) -> str:
    question = report.question[:1].upper() + report.question[1:]
    return f"![{question}]({report.name}.svg)\n\n" if panels(report) else ""


def load(data: Path) -> list[Report]:
    """All reports of a directory, by name."""
    return [Report.load(path) for path in sorted(data.glob("*.json"))]


def make(data: Path, docs: Path) -> list[Path]:
    """Draw and fill everything that there is a report for; what was written."""
    reports = load(data)
    written = []
    for report in reports:
        path = docs / f"{report.name}.svg"
        if draw(report, path):
            written.append(path)
    page = docs / PAGE
    if page.exists():
        page.write_text(filled(page.read_text(), reports))
        written.append(page)
    return written


def main() -> int:
    told = "draw plots and fill tables from reports"
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plots", description=told)
    parser.add_argument("data", nargs="?", type=Path, default=DATA, metavar="DIR", help=f"of reports (default: {DATA})")
    parser.add_argument("--to", type=Path, default=DOCS, metavar="DIR", help=f"where to (default: {DOCS})")
    given = parser.parse_args()
    for path in make(given.data, given.to):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
