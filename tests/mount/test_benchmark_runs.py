"""Benchmarks of versions and of memory run, at a tiny size: what they measure is not the question here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import mllife, peers
from benchmarks.peers import Returning
from benchmarks.report import Report

ROOT = Path(__file__).parents[2]

MISSED = 1
"""The exit code if a limit was missed: at this size, beside other tests, that says nothing."""


def rows(name: str, scale: float, tmp_path: Path, *more: str) -> dict[str, list[str]]:
    """Title of each row that it tells, and the names of its series."""
    found = tmp_path / "found.json"
    words = ["--scale", str(scale), "--repeats", "1", "--json", str(found), *more]
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", *words], cwd=ROOT, env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode in (0, MISSED), done.stderr
    assert "Traceback" not in done.stderr
    assert not [left for left in tmp_path.iterdir() if left != found], "nothing is left behind"
    return {f"{row['group']}: {row['what']}": list(row["series"]) for row in json.loads(found.read_text())["rows"]}


def test_memory(tmp_path: Path) -> None:
    found = rows("memory", 0.0001, tmp_path)
    assert "after: resident after walking 100 files" in found
    assert "memory: peak of the daemon (VmHWM)" in found


@pytest.mark.soak
def test_sweeps(tmp_path: Path) -> None:
    found = rows("sweeps", 0.0001, tmp_path)
    for verb in ("snapshot", "clone", "checkout", "diff", "delete", "give back"):
        assert found[f": {verb}, 1 file changed"] == ["100 files", "1,000 files"]
        assert f"{verb}, 1,000 files: 1000 changed" in found
    assert ": checkout: command" in found


@pytest.mark.soak
def test_history(tmp_path: Path) -> None:
    found = rows("history", 0.001, tmp_path)
    assert found[": look 1000 names up: engine"] == ["1 snapshots", "10 snapshots"]
    assert ": snap list of 10 snapshots, JSON, by the daemon" in found


@pytest.mark.soak
def test_mllife(tmp_path: Path) -> None:
    """It checks itself that a version brings back what was saved."""
    found = rows("mllife", 0.001, tmp_path, "--on", "snapfs")
    assert found["first version (100 files, 0.028 GB): save it"] == ["snapfs"]
    for change in mllife.CHANGES:
        for step in (mllife.SAVE, mllife.BACK, mllife.READ):
            assert found[f"{change} (100 files, 0.028 GB): {step}"] == ["snapfs"]


def versioned(subject: Returning) -> None:
    """Two versions of a file that is changed in place, and back."""
    path = subject.files / "000" / "data.bin"
    path.parent.mkdir()
    path.write_bytes(b"first" * 1000)
    first = subject.save()
    with path.open("r+b") as file:
        file.write(b"other")
    second = subject.save()
    assert first != second
    subject.go(first)
    assert path.read_bytes() == b"first" * 1000
    subject.go(second)
    assert path.read_bytes() == b"other" + b"first" * 999
    assert subject.held_bytes() > 0


@pytest.mark.parametrize("name", ["git-lfs", "git-annex", "DVC"])
def test_a_peer_keeps_versions(name: str, tmp_path: Path) -> None:
    if why := peers.hindrance(name, tmp_path, 10_000):
        pytest.skip(why)
    with peers.peer(name, tmp_path, stored_bytes=10_000) as subject:
        assert isinstance(subject, Returning)
        versioned(subject)
    assert list(tmp_path.iterdir()) == []


def test_snapfs_keeps_versions(tmp_path: Path) -> None:
    with peers.snapfs(tmp_path) as subject:
        versioned(subject)


def test_who_cannot_take_part_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = Report("trial", "?")
    monkeypatch.setitem(peers.PROGRAMS, "DVC", "no-such-program")
    monkeypatch.setitem(peers.PROGRAMS, "borg", "true")
    assert list(peers.peers(report, ["DVC", "borg"], tmp_path, stored_bytes=lambda _: 2**60)) == []
    assert report.notes[0] == "DVC is left out: no no-such-program here"
    assert report.notes[1].startswith("borg is left out: 1268213655.1 GB are needed")
