"""The demo is the first thing that anybody runs: it has to hold, to be quick, and to leave nothing behind."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[2] / "docs" / "examples" / "digits" / "demo.py"
SECONDS_MAX = 120
"""What the demo promises."""


@pytest.mark.timeout(SECONDS_MAX + 30)
def test_demo_holds_and_cleans_up(stage: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, str(DEMO)],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAILED" not in done.stdout
    assert len(re.findall(r"^  \[ok\] ", done.stdout, re.MULTILINE)) >= 10
    table = re.findall(r"^  ([0-9a-f]{8})  digits@\1  (0\.\d{4})", done.stdout, re.MULTILINE)
    assert len(table) == 2
    assert list(stage.glob("snapfs-demo-*")) == []


def test_demo_that_fails_says_so_and_cleans_up(stage: Path, environment: dict[str, str]) -> None:
    """Without git the story cannot go on once the lake is mounted."""
    only_snap = stage / "bin"
    only_snap.mkdir()
    for command in ("mkdir", "fusermount3", "umount"):
        found = next(path for path in (Path("/usr/bin") / command, Path("/bin") / command) if path.exists())
        (only_snap / command).symlink_to(found)
    done = subprocess.run(
        [sys.executable, str(DEMO)],
        env=environment | {"PATH": str(only_snap)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "demo: `git init" in done.stderr
    assert list(stage.glob("snapfs-demo-*")) == []
