"""Run all benchmarks, each in a process of its own; the exit code is 1 if any limit was missed, 2 if one failed."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from benchmarks import harness, plots
from benchmarks.report import Report

NAMES = (
    "smallfiles", "streaming", "randomio", "sweeps", "history", "memory", "mllife", "training", "sourcetree", "gitwork",
    "difference", "growth", "rewriting", "versions", "deletion", "importing", "hook", "control",
)  # fmt: skip

RESULTS = Path(__file__).parent / "results"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(NAMES)} (default: all)")
    told = "full sizes: takes more than an hour and 40 GB (default: about 10 minutes)"
    parser.add_argument("--full", action="store_true", help=told)
    told = "leave out those whose values of such a run are kept already"
    parser.add_argument("--resume", action="store_true", help=told)
    told = "for `training`: an interpreter that has PyTorch"
    parser.add_argument("--torch-python", metavar="PATH", help=told)
    told = "shrink the data by this factor; 1 is the full size (default: each benchmark's own)"
    parser.add_argument("--scale", help=told)
    told = f"where each one's values are kept, as DIR/NAME.json (default: {RESULTS})"
    parser.add_argument("--json", metavar="DIR", type=Path, default=RESULTS, help=told)
    parser.add_argument("--plots", action="store_true", help="draw what is kept, into DIR")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(NAMES))
    if unknown:
        parser.error(f"no benchmark {unknown[0]!r}: there are {', '.join(NAMES)}")
    options.json.mkdir(parents=True, exist_ok=True)
    harness.clean_up_when_ended()
    more = ["--full"] if options.full else []
    more += ["--scale", options.scale] if options.scale else []
    chosen = options.names or NAMES
    torch = ["--torch-python", options.torch_python] if options.torch_python else []
    failed = []
    for name in chosen:
        if options.resume and is_there(options.json / f"{name}.json", full=options.full):
            print(f"(the values of {name} are kept already)", flush=True)
        elif not run(name, options.json, more + (torch if name == "training" else [])):
            failed.append(name)
    reports = [Report.load(path) for name in chosen if (path := options.json / f"{name}.json").exists()]
    if options.plots:
        plots.make(options.json, options.json)
    return summarize(reports, failed)


def run(name: str, results: Path, more: list[str]) -> bool:
    """Whether it came to its end; if not, what it had measured is kept.

    Who ends this process ends that one first, which cleans up: it is waited for.
    """
    kept = results / f"{name}.json"
    kept.unlink(missing_ok=True)
    words = [sys.executable, "-m", f"benchmarks.{name}", "--json", str(kept), *more]
    process = subprocess.Popen(words)
    try:
        process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    return is_there(kept)


def is_there(kept: Path, *, full: bool | None = None) -> bool:
    """Whether the values of a whole run are kept; ``full``: of that size."""
    if not kept.exists():
        return False
    report = Report.load(kept)
    return report.complete and (full is None or (report.settings.get("run") == harness.FULL) == full)


def summarize(reports: list[Report], failed: list[str]) -> int:
    """Tell what was held and missed; the exit code."""
    print("\n## Limits\n")
    for report in reports:
        for words in report.missed:
            print(f"MISSED  {report.name}: {words}")
    for name in failed:
        print(f"FAILED  {name}: it did not come to its end")
    missed = sum(len(report.missed) for report in reports)
    print(f"{sum(report.held for report in reports)} limits held, {missed} missed, {len(failed)} benchmarks failed")
    return 2 if failed else 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
