"""Run all benchmarks, each in a process of its own; the exit code is 1 if any limit was missed."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

NAMES = (
    "hook", "control", "scaling", "history", "difference", "growth", "rewriting", "versions", "deletion", "importing",
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(NAMES)} (default: all)")
    parser.add_argument("--json", metavar="DIR", type=Path, help="also write DIR/NAME.json each")
    told = "shrink the data by this factor; 1 is the full size (default: each benchmark's own)"
    parser.add_argument("--scale", help=told)
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(NAMES))
    if unknown:
        parser.error(f"no benchmark {unknown[0]!r}: there are {', '.join(NAMES)}")
    if options.json:
        options.json.mkdir(parents=True, exist_ok=True)
    worst = 0
    for name in options.names or NAMES:
        extra = ["--json", str(options.json / f"{name}.json")] if options.json else []
        extra += ["--scale", options.scale] if options.scale else []
        command = [sys.executable, "-m", f"benchmarks.{name}", *extra]
        worst = max(worst, abs(subprocess.run(command, check=False).returncode))
    return min(worst, 1)


if __name__ == "__main__":
    sys.exit(main())
