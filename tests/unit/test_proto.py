"""The API's definition: in the style that buf lints, and what is generated from it is current."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parents[2]
BUF = Path(sysconfig.get_path("scripts"), "buf")


def run(*command: str | Path, home: Path) -> tuple[int, str]:
    """Exit code and all output."""
    environment = {"HOME": str(home), "PATH": "/usr/bin:/bin"}  # buf caches below HOME
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_what_is_generated_is_current(tmp_path: Path) -> None:
    assert run(sys.executable, "scripts/generate.py", "--check", home=tmp_path) == (0, "")


def test_buf_finds_nothing(tmp_path: Path) -> None:
    assert run(BUF, "lint", "proto", home=tmp_path) == (0, "")
    assert run(BUF, "format", "--diff", "--exit-code", "proto", home=tmp_path) == (0, "")


def test_buf_would_find_something(tmp_path: Path) -> None:
    """The rules are in force: those on style, and ours that services, methods and enums are commented."""
    source = ROOT / "proto/snapfs/v1/event.proto"
    (tmp_path / "buf.yaml").write_bytes((ROOT / "proto/buf.yaml").read_bytes())
    bad = tmp_path / "snapfs/v1/event.proto"
    bad.parent.mkdir(parents=True)
    lines = [line for line in source.read_text().splitlines() if not line.lstrip().startswith("//")]
    bad.write_text("\n".join(lines).replace("WatchEventsRequest", "watchRequest"))
    code, told = run(BUF, "lint", tmp_path, home=tmp_path)
    assert code != 0
    assert "watchRequest" in told
    assert "non-empty comment" in told
