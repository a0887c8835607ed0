"""The suites that come as packages, on a mount: parts of each here, all of each as a soak."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

RUN = Path(__file__).parent / "run"
_MISSING = 2
"""Exit code of ``run`` if a suite cannot be run here."""
_SECONDS_MAX = 55
_SOAK_SECONDS_MAX = 3000


def conform(suite: str, volume: Path, *arguments: str, seconds_max: float = _SECONDS_MAX) -> dict[str, Any]:
    """Run a suite; whatever fails must be known to."""
    command = [sys.executable, RUN, suite, volume, "--json", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds_max, check=False)
    if done.returncode == _MISSING:
        pytest.skip(done.stderr.strip())
    found: dict[str, Any] = json.loads(done.stdout)
    assert not found["new"]
    assert done.returncode == 0, done.stderr
    return found


@pytest.fixture
def attributed(stores) -> Path:
    """A volume with extended attributes."""
    mounted = stores().mount(xattrs=True)
    mounted.volume.mkdir()
    return mounted.volume


class TestQuick:
    def test_fio(self, volume: Path) -> None:
        jobs = ["randwrite", "randrw", "mmap", "direct", "files", "backlog"]
        assert conform("fio", volume, "--megabytes", "2", *jobs)["passed"] == len(jobs)

    def test_stress_ng(self, attributed: Path) -> None:
        stressors = ["rename", "link", "dentry", "chmod", "seek", "xattr", "flock", "mknod"]
        found = conform("stress-ng", attributed, "--seconds", "1", *stressors)
        assert found["passed"] >= len(stressors) - 1

    def test_python(self, volume: Path) -> None:
        modules = ["test_tempfile", "test_fileio", "test_glob", "test_filecmp", "test_genericpath", "test_mmap"]
        assert conform("python", volume, *modules)["passed"] > 100


@pytest.mark.soak
@pytest.mark.timeout(_SOAK_SECONDS_MAX + 100)
class TestAll:
    def test_fio(self, volume: Path) -> None:
        conform("fio", volume, "--megabytes", "64", seconds_max=_SOAK_SECONDS_MAX)

    def test_stress_ng(self, attributed: Path) -> None:
        conform("stress-ng", attributed, "--seconds", "10", seconds_max=_SOAK_SECONDS_MAX)

    def test_python(self, attributed: Path) -> None:
        assert conform("python", attributed, seconds_max=_SOAK_SECONDS_MAX)["passed"] > 3000
