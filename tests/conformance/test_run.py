"""The script that drives suites: what it makes of their output, with programs that say what a test wants."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

HERE = Path(__file__).parent
RUN = HERE / "run"
POSIX = HERE.parents[1] / "docs" / "POSIX.md"

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="pjdfstest changes users: only root can run it")


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, RUN, *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=50, env={**os.environ, **environment},
    )  # fmt: skip


def program(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where a suite writes."""
    (tmp_path / "place").mkdir()
    return tmp_path / "place"


@pytest.fixture
def failing_fsx(tmp_path: Path) -> Path:
    """Fails with the second seed."""
    return program(tmp_path / "fsx", 'case "$*" in *"-S 2 "*) echo "READ BAD DATA: offset = 0x1"; exit 110;; esac')


class TestVerdict:
    def test_all_good(self, tmp_path: Path, place: Path) -> None:
        done = run("fsx", place, "--at", program(tmp_path / "fsx", "exit 0"), "--seeds", 2, "plain")
        assert done.returncode == 0
        assert "2 passed, 0 failed" in done.stdout

    def test_a_new_failure(self, failing_fsx: Path, place: Path) -> None:
        done = run("fsx", place, "--at", failing_fsx, "--seeds", 3, "--json", "plain")
        assert done.returncode == 1
        found = json.loads(done.stdout)
        assert (found["passed"], found["failed"]) == (2, 1)
        assert found["new"] == [{"id": "plain-2", "detail": "exit code 110: READ BAD DATA: offset = 0x1"}]

    def test_a_known_failure(self, failing_fsx: Path, place: Path, tmp_path: Path) -> None:
        (tmp_path / "fsx.toml").write_text('[[failure]]\nid = "plain-2"\ncause = "the moon"\n')
        done = run("fsx", place, "--at", failing_fsx, "--known", tmp_path, "plain")
        assert done.returncode == 0
        assert "known    plain-2: the moon" in done.stdout

    def test_a_known_failure_that_passes(self, failing_fsx: Path, place: Path, tmp_path: Path) -> None:
        (tmp_path / "fsx.toml").write_text('[[failure]]\nid = "plain-1"\ncause = "the moon"\n')
        done = run("fsx", place, "--at", failing_fsx, "--known", tmp_path, "--seeds", 1, "plain")
        assert done.returncode == 0
        assert "mended   plain-1" in done.stdout

    def test_a_list_that_is_wrong(self, failing_fsx: Path, place: Path, tmp_path: Path) -> None:
        (tmp_path / "fsx.toml").write_text('[[failure]]\nid = "plain-1"\n')
        done = run("fsx", place, "--at", failing_fsx, "--known", tmp_path)
        assert done.returncode == 2
        assert "has id and cause" in done.stderr

    def test_nothing_was_run(self, tmp_path: Path, place: Path) -> None:
        said = "stress-ng: info:  [1] rename: no, skipping stress test"
        stressor = program(tmp_path / "stress-ng", f"echo '{said}'; exit 3")
        done = run("stress-ng", place, "--at", stressor, "rename")
        assert done.returncode == 1
        assert "rename: no, skipping" in done.stdout

    def test_nothing_is_left(self, failing_fsx: Path, place: Path) -> None:
        run("fsx", place, "--at", failing_fsx)
        assert os.listdir(place) == []


class TestMistakes:
    def test_a_missing_suite(self, place: Path, tmp_path: Path) -> None:
        done = run("fsx", place, PATH=str(tmp_path))
        assert done.returncode == 2
        assert "no fsx in PATH; it is ltp/fsx of the source of xfstests" in done.stderr
        assert "--at PATH" in done.stderr

    def test_a_missing_directory(self, failing_fsx: Path, tmp_path: Path) -> None:
        done = run("fsx", tmp_path / "none", "--at", failing_fsx)
        assert done.returncode == 2
        assert "is not a directory" in done.stderr

    def test_a_test_that_is_not_there(self, failing_fsx: Path, place: Path) -> None:
        done = run("fsx", place, "--at", failing_fsx, "plane")
        assert done.returncode == 2
        assert "fsx has no test plane" in done.stderr

    def test_help_and_lists(self, tmp_path: Path) -> None:
        assert "examples:" in run("--help").stdout
        listed = json.loads(run("--list", "--json", PATH=str(tmp_path)).stdout)
        assert {row["suite"] for row in listed} == {"pjdfstest", "fsx", "fsstress", "fio", "stress-ng", "python"}
        assert all(row["found"] == "" for row in listed if row["suite"] != "python")


class TestReading:
    @as_root
    def test_tap(self, tmp_path: Path, place: Path) -> None:
        suite = tmp_path / "pjdfstest"
        (suite / "tests" / "link").mkdir(parents=True)
        (suite / "tests" / "conf").touch()
        program(suite / "pjdfstest", "")
        lines = [
            "1..4",
            "ok 1",
            "not ok 2 - tried it, expected 0, got X",
            "not ok 3 # TODO none does",
            "ok 4 # SKIP no",
        ]
        (suite / "tests" / "link" / "00.t").write_text("\n".join(f"echo '{line}'" for line in lines))
        (suite / "tests" / "link" / "01.t").write_text("echo 1..2; echo ok 1")
        found = json.loads(run("pjdfstest", place, "--at", suite, "--json").stdout)
        assert (found["passed"], found["failed"], found["skipped"]) == (2, 2, 2)
        assert found["new"] == [
            {"id": "link/00:2", "detail": "tried it, expected 0, got X"},
            {"id": "link/01", "detail": "1 results, not the 2 planned"},
        ]

    def test_a_stressor_that_fails(self, tmp_path: Path, place: Path) -> None:
        stressor = program(tmp_path / "stress-ng", "echo 'stress-ng: fail:  [7] link: wrong count'; exit 2")
        found = json.loads(run("stress-ng", place, "--at", stressor, "--json", "link").stdout)
        assert found["new"] == [{"id": "link", "detail": "link: wrong count"}]

    def test_a_tree_that_cannot_be_walked(self, tmp_path: Path, place: Path) -> None:
        """What fsstress leaves is walked and read: here its tree is gone, though it says that all went well."""
        script = 'while getopts d:n:p:s: option; do [ $option = d ] && rmdir "$OPTARG"; done; exit 0'
        done = run("fsstress", place, "--at", program(tmp_path / "fsstress", script), "--seeds", 1, "--json", "one")
        assert "No such file or directory" in json.loads(done.stdout)["new"][0]["detail"]

    def test_python(self, place: Path, tmp_path: Path) -> None:
        """A module that fails, one that skips itself and one that dies."""
        script = """
case "$*" in
*"import test.test_os"*) exit 0;;
*find_spec*) echo test_os test_glob test_mmap; exit 0;;
*test_glob) exit 0;;
*test_mmap) kill -9 $$;;
esac
while [ "$1" != --junit-xml ]; do shift; done
cat > "$2" <<'END'
<testsuites><testsuite>
<testcase name="test.test_os.A.test_one"/>
<testcase name="test.test_os.A.test_two"><failure>Traceback
AssertionError: 1 != 2
</failure></testcase>
<testcase name="test.test_os.A.test_three"><skipped>not here</skipped></testcase>
<testcase name="test.test_os.A.test_four"/>
</testsuite></testsuites>
END
echo "FAIL: test_four (test.test_os.A.test_four) [with=1]"
exit 2"""
        found = json.loads(run("python", place, "--at", program(tmp_path / "python3", script), "--json").stdout)
        assert found["new"] == [
            {"id": "test_os:A.test_two", "detail": "AssertionError: 1 != 2"},
            {"id": "test_os:A.test_four", "detail": "[with=1]"},
            {"id": "test_mmap", "detail": "signal 9: "},
        ]
        assert [one["id"] for one in found["skipped_tests"]] == ["test_os:A.test_three", "test_glob"]


def test_every_known_failure_is_told_of_in_the_docs() -> None:
    told = POSIX.read_text()
    for file in (HERE / "known").glob("*.toml"):
        for failure in tomllib.loads(file.read_text())["failure"]:
            assert f"`{failure['id']}`" in told, f"{file.name}: {failure['id']}"
