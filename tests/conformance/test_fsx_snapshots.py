"""The driver of fsx with snapshots: run with a small program in place of fsx, and it finds what differs."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from snapfs.testing.mounted import MountedStore

PROGRAM = """#!{python} -I
import argparse, os, random
parser = argparse.ArgumentParser()
for name, kind in (("-S", int), ("-N", int), ("-p", int), ("-P", str)):
    parser.add_argument(name, type=kind)
parser.add_argument("--fail", action="store_true")
parser.add_argument("file")
options = parser.parse_args()
chance = random.Random(options.S)
file = os.open(options.file, os.O_RDWR | os.O_CREAT)
for number in range(1, options.N + 1):
    if number % options.p == 0:
        print(f"{{number}} write", flush=True)
    os.pwrite(file, chance.randbytes(chance.randrange(1, 5000)), chance.randrange(60_000))
    if number % 7 == 0:
        os.ftruncate(file, chance.randrange(60_000))
print("READ BAD DATA" if options.fail else "All operations completed")
raise SystemExit(options.fail)
"""


@pytest.fixture
def driver() -> ModuleType:
    path = Path(__file__).with_name("fsx_snapshots.py")
    spec = importlib.util.spec_from_file_location("fsx_snapshots", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["fsx_snapshots"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "fsx"
    path.write_text(PROGRAM.format(python=sys.executable))
    path.chmod(0o755)
    return path


def test_snapshots_hold_what_was_there(
    driver: ModuleType, program: Path, mounted: MountedStore, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--operations", "2000", "--every", "200", "--seed", "1", "--seed", "2", str(mounted.volume)]
    assert driver.main(["--fsx", str(program), *arguments]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in said] == ["seed 1", "seed 2"]
    assert all("0 mismatches" in line for line in said)
    assert len(mounted.call("list_snapshots", volume="data")) > 10


def test_what_fsx_found_is_told(
    driver: ModuleType, program: Path, mounted: MountedStore, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--operations", "500", "--every", "100", str(mounted.volume), "--", "--fail"]
    assert driver.main(["--fsx", str(program), *arguments]) == 1
    assert "READ BAD DATA" in capsys.readouterr().err


def test_a_snapshot_that_differs_is_told(driver: ModuleType, mounted: MountedStore, tmp_path: Path) -> None:
    (mounted.volume / "fsx-1").write_bytes(b"as it was")
    mounted.snapshot("fsx-1-100")
    (tmp_path / "100").write_bytes(b"as it wasn't")
    run = driver.Run(1, copies={100: tmp_path / "100"})
    driver.compare(run, mounted.volume)
    assert run.mismatches == ["fsx-1-100: 9 bytes, the copy has 12; they differ from byte 9"]


def test_what_is_missing_is_told(driver: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert driver.main([str(tmp_path)]) == 2
    assert "is not a volume of a mounted store" in capsys.readouterr().err
