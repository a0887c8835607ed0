"""Acceptance tests run whole programs, as a user would, in a directory of their own.

Nothing that they mount may outlive them: a mount left behind fails its test and is taken away.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from snapfs.testing.served import served

__all__ = ["environment", "served", "stage"]


def mounts_below(directory: Path) -> list[str]:
    """Mount points at or under the directory, innermost first."""
    table = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    points = [line.split(" ")[4] for line in table.splitlines()]
    return sorted((point for point in points if Path(point).is_relative_to(directory)), reverse=True)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Path]:
    """An empty directory; the programs' temporary files belong there too (see ``environment``)."""
    directory = tmp_path.resolve()
    yield directory
    left = mounts_below(directory)
    for point in left:
        subprocess.run(["fusermount3", "-u", "-z", point], check=False)
    assert left == [], "still mounted after the test"


@pytest.fixture
def environment(stage: Path) -> dict[str, str]:
    """Of a user who has just installed snapfs: no settings of git or snapfs from outside."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "SNAPFS_"))}
    return env | {"TMPDIR": str(stage), "HOME": str(stage)}
