"""The command ``tests/conformance/run``: which suite, where, and what came of it.

Invariants:
  * Nothing but what Python brings is imported: it runs on any machine that has a suite.
  * All files of a run are in one directory of its own below the mount point, removed at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from drivers import SUITES
from outcomes import KNOWN, Outcome, Status, Verdict, judge, known_failures
from suite import Bounds, Missing, Suite

EXAMPLES = """\
examples:
  tests/conformance/run --list
  tests/conformance/run --list stress-ng
  snap mount --allow-other /data/store /lake && mkdir /lake/data
  tests/conformance/run pjdfstest /lake/data --at ~/pjdfstest rename unlink/00
  tests/conformance/run fsx /lake/data --at ~/xfstests/ltp/fsx --operations 100000 --seeds 8
  tests/conformance/run fio /lake/data randwrite
  tests/conformance/run stress-ng /lake/data --seconds 5 rename link
  tests/conformance/run python /lake/data test_os test_mmap

Exit code: 0 if nothing failed but what is known to (known/SUITE.toml, docs/POSIX.md), 1 if something else did or
nothing was run, 2 if the suite is missing or cannot run here."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tests/conformance/run",
        description="Run a suite of POSIX tests, which you have, on a mounted file system.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("suite", nargs="?", choices=sorted(SUITES), metavar="SUITE", help="; ".join(sorted(SUITES)))
    parser.add_argument("mountpoint", nargs="?", type=Path, metavar="MOUNTPOINT", help="a directory to write in")
    parser.add_argument("tests", nargs="*", metavar="TEST", help="names of tests, or what they start with; all if none")
    parser.add_argument("--list", action="store_true", help="the suites, or the tests of SUITE, and stop")
    parser.add_argument("--at", type=Path, metavar="PATH", help="the suite's program or directory; else as in PATH")
    parser.add_argument("--known", type=Path, default=KNOWN, metavar="DIR", help="lists of known failures, SUITE.toml")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--quiet", action="store_true", help="only failures and the count")
    parser.add_argument("--operations", type=int, default=10_000, metavar="N", help="of fsx and fsstress, each seed")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="of fsx and fsstress: 1 to N")
    parser.add_argument("--seconds", type=int, default=2, metavar="N", help="for each stressor of stress-ng")
    parser.add_argument("--megabytes", type=int, default=16, metavar="N", help="for each job of fio")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="files of pjdfstest at a time")
    return parser


def main(arguments: list[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_intermixed_args(arguments)
    bounds = Bounds(options.operations, options.seeds, options.seconds, options.megabytes, options.jobs)
    if min(bounds.operations, bounds.seeds, bounds.seconds, bounds.megabytes, bounds.jobs) < 1:
        parser.error("a number must be 1 or more")
    if options.suite is None:
        if not options.list:
            parser.error("which suite? --list names them")
        return _list_suites(as_json=options.json)
    try:
        suite = SUITES[options.suite](options.at)
        if options.list:
            print("\n".join(suite.tests()))
            return 0
        if options.mountpoint is None:
            parser.error("where? give a directory on the mount")
        return _run(suite, options, bounds)
    except (Missing, ValueError) as error:
        print(f"run: {error}", file=sys.stderr)
        return 2


def _list_suites(*, as_json: bool) -> int:
    rows = []
    for name, kind in sorted(SUITES.items()):
        try:
            found = str(kind(None).program)
        except Missing:
            found = ""
        rows.append({"suite": name, "what": kind.what, "found": found, "from": kind.where})
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        for row in rows:
            print(f"{row['suite']:10}  {row['what']}\n{'':10}  {row['found'] or 'missing: ' + row['from']}")
    return 0


def _run(suite: Suite, options: argparse.Namespace, bounds: Bounds) -> int:
    mountpoint: Path = options.mountpoint
    known = known_failures(suite.name, options.known)
    if not mountpoint.is_dir():
        raise Missing(f"{mountpoint} is not a directory")
    if suite.as_root and os.geteuid() != 0:
        raise Missing(f"{suite.name} changes users: run it as root, on a mount with --allow-other")
    try:
        place = Path(tempfile.mkdtemp(prefix=f"{suite.name}-", dir=mountpoint.resolve()))
    except OSError as error:
        raise Missing(f"cannot write in {mountpoint}: {error.strerror}; a store's root holds volumes only") from None
    place.chmod(0o755)
    began = time.monotonic()
    outcomes = []
    try:
        for outcome in suite.run(place, options.tests, bounds):
            outcomes.append(outcome)
            if not options.json and not (options.quiet and outcome.status is not Status.FAILED):
                print(_line(outcome), flush=True)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    verdict = judge(outcomes, known)
    seconds = time.monotonic() - began
    print(json.dumps(_document(suite, verdict, seconds), indent=2) if options.json else _summary(verdict, seconds))
    return 0 if verdict.good else 1


def _line(outcome: Outcome) -> str:
    return f"{outcome.status:7}  {outcome.id}" + (f"  ({outcome.detail})" if outcome.detail else "")


def _summary(verdict: Verdict, seconds: float) -> str:
    lines = [f"known    {outcome.id}: {known.cause}" for outcome, known in verdict.known]
    lines += [f"mended   {known.pattern}: it passes now, take it out of known/" for known in verdict.mended]
    lines += [f"new      {_line(outcome)}" for outcome in verdict.new]
    counts = ", ".join(f"{verdict.count(status)} {status}" for status in Status)
    lines.append(f"{counts}; {len(verdict.known)} of the failures known, {len(verdict.new)} new; {seconds:.0f} s")
    return "\n".join(lines)


def _document(suite: Suite, verdict: Verdict, seconds: float) -> dict[str, object]:
    return {
        "suite": suite.name,
        "seconds": round(seconds, 1),
        **{str(status): verdict.count(status) for status in Status},
        "known": [{"id": outcome.id, "cause": known.cause} for outcome, known in verdict.known],
        "mended": [known.pattern for known in verdict.mended],
        "new": [{"id": outcome.id, "detail": outcome.detail} for outcome in verdict.new],
        "skipped_tests": [
            {"id": outcome.id, "detail": outcome.detail}
            for outcome in verdict.outcomes
            if outcome.status is Status.SKIPPED
        ],
    }
