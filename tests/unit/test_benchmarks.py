"""What the benchmarks say follows from what they measured: arithmetic, limits, turns, saved reports, plots, tables."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import __main__ as everything
from benchmarks import harness, plots, processes, randomio, smallfiles
from benchmarks.report import Check, Report, Row
from snapfs import mounts

ROOT = Path(__file__).parents[2]


def filled_report() -> Report:
    """One of each kind of row, a limit held and one missed among them."""
    report = Report("trial", "does it add up?", settings={"scale": 1.0, "repeats": 3})
    series = {"snapfs": [80.0, 100.0, 120.0], "bindfs": [100.0, 100.0, 100.0], "S3QL": [10.0, 10.0, 40.0]}
    report.rates("create", series, at_least={"bindfs": 1.0, "S3QL": 20.0, "absent": 9.0}, group="not pinned")
    report.durations("save", {"snapfs": [0.5], "DVC": [30.0]}, unit="s", times_faster={"DVC": 50})
    report.compare("many", {"100": [0.001, 0.003], "1,000": [0.002, 0.002]}, limit=1.5)
    report.values("memory", {"snapfs": [399e6]}, unit="MB", limit=400)
    for files in (100, 10_000):
        report.values(f"{files:,} files", {"snapfs": [files / 1e4]}, unit="ms", group="snapshot")
    report.note("somebody is left out")
    return report


class TestFigures:
    def test_a_ratio_is_that_of_medians_and_its_spread_that_of_rounds(self) -> None:
        row = Row("x", "1/s", {"a": [1.0, 4.0, 9.0], "b": [2.0, 2.0, 3.0]})
        check = Check("a", "b")
        assert row.figure(check) == 2.0
        assert row.spread(check) == (0.5, 3.0)

    @pytest.mark.parametrize(("bound", "at_least", "met"), [(2, False, True), (1.9, False, False), (2, True, True),
                                                             (2.1, True, False), (None, True, True)])  # fmt: skip
    def test_limits_hold_from_both_sides(self, bound: float | None, at_least: bool, met: bool) -> None:
        assert Row("x", "s", {"a": [4.0], "b": [2.0]}).met(Check("a", "b", bound, at_least)) is met

    def test_without_another_series_the_worst_value_counts(self) -> None:
        row = Row("x", "s", {"a": [1.0, 2.0, 3.0]})
        assert row.figure(Check("a", "", 2)) == 3.0
        assert row.figure(Check("a", "", 2, at_least=True)) == 1.0

    def test_missed_limits_decide_the_exit_code(self) -> None:
        report = filled_report()
        assert report.missed == ["not pinned: create: snapfs / S3QL 10.00 (3.00 to 10.00), limit at least 20"]
        assert report.held == 4  # bindfs, DVC, the ratio, the memory: who is not there holds nothing
        assert report.exit_code == 1

    def test_units_scale_once(self) -> None:
        report = filled_report()
        assert report.rows[2].series == {"100": [1.0, 3.0], "1,000": [2.0, 2.0]}
        assert report.rows[3].series == {"snapfs": [399.0]}


class TestSavedReports:
    def test_what_is_saved_is_loaded(self, tmp_path: Path) -> None:
        report = filled_report()
        report.save(tmp_path / "trial.json")
        loaded = Report.load(tmp_path / "trial.json")
        assert loaded == report
        assert loaded.missed == report.missed

    def test_another_form_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "trial.json"
        filled_report().save(path)
        document = json.loads(path.read_text())
        path.write_text(json.dumps(document | {"form": 99}))
        with pytest.raises(ValueError, match="form"):
            Report.load(path)


class TestRunsThatAreBrokenOff:
    def test_each_row_is_kept_as_it_comes(self, tmp_path: Path) -> None:
        path = tmp_path / "trial.json"
        report = Report("trial", "?", complete=False, kept=path)
        for number in (1, 2):
            report.values(f"value {number}", {"snapfs": [1.0]}, unit="s")
            loaded = Report.load(path)
            assert len(loaded.rows) == number
            assert not loaded.complete
            assert "broken off before its end" in loaded.conditions
        assert list(tmp_path.iterdir()) == [path]

    def test_only_a_whole_run_of_the_size_counts_as_kept(self, tmp_path: Path) -> None:
        path = tmp_path / "trial.json"
        assert not everything.is_there(path)
        for complete, run, there in ((False, "full", (False, False, False)), (True, "full", (True, True, False)),
                                     (True, "short", (True, False, True))):  # fmt: skip
            Report("trial", "?", settings={"run": run}, complete=complete).save(path)
            assert (everything.is_there(path), everything.is_there(path, full=True),
                    everything.is_there(path, full=False)) == there  # fmt: skip

    def test_going_on_leaves_out_what_is_kept(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        begun: list[str] = []

        def run(name: str, results: Path, _: list[str]) -> bool:
            begun.append(name)
            Report(name, "?", settings={"run": "short"}).save(results / f"{name}.json")
            return True

        monkeypatch.setattr(everything, "run", run)
        Report("hook", "?", settings={"run": "short"}).save(tmp_path / "hook.json")
        Report("control", "?", settings={"run": "short"}, complete=False).save(tmp_path / "control.json")
        monkeypatch.setattr("sys.argv", ["benchmarks", "hook", "control", "--json", str(tmp_path), "--resume"])
        assert everything.main() == 0
        assert begun == ["control"]

    def test_settings_are_told_whatever_they_are(self) -> None:
        report = Report("trial", "?", settings={"scale": 0.02, "repeats": 1, "torch": "2.1+cpu"})
        assert report.conditions.endswith("scale 0.02, repeats 1, torch 2.1+cpu")


class TestTurns:
    def test_who_is_slow_takes_part_in_one_round_that_counts(self) -> None:
        asked: list[str] = []

        def action(name: str) -> dict[str, float]:
            asked.append(name)
            return {"kind": 1.0}

        found = harness.rounds({"a": lambda: action("a"), "b": lambda: action("b")}, 2, first_counts=True, once=("b",))
        assert asked == ["a", "b", "a"]
        assert found == {"kind": {"a": [1.0, 1.0], "b": [1.0]}}

    def test_subjects_take_turns_and_the_first_round_does_not_count(self) -> None:
        asked: list[str] = []

        def action(name: str) -> dict[str, float]:
            asked.append(name)
            return {"kind": float(len(asked))}

        found = harness.rounds({"a": lambda: action("a"), "b": lambda: action("b")}, 2)
        assert asked == ["b", "a", "a", "b", "b", "a"]
        assert found == {"kind": {"a": [3.0, 6.0], "b": [4.0, 5.0]}}

    def test_what_takes_long_counts_from_the_first_round_on(self) -> None:
        found = harness.rounds({"a": lambda: {"kind": 7.0}}, 1, first_counts=True)
        assert found == {"kind": {"a": [7.0]}}


class TestPlots:
    def test_the_same_reports_draw_the_same_bytes(self, tmp_path: Path) -> None:
        pytest.importorskip("matplotlib")
        report = filled_report()
        assert plots.draw(report, tmp_path / "a.svg")
        assert plots.draw(report, tmp_path / "b.svg")
        drawn = (tmp_path / "a.svg").read_text()
        assert drawn == (tmp_path / "b.svg").read_text()
        assert all(name in drawn for name in ("bindfs", "S3QL", "DVC", "snapshot", "create"))
        assert "absent" not in drawn

    def test_an_axis_has_one_kind_of_figure(self) -> None:
        found = {(title, kind): [row.what for row in rows] for title, kind, rows in plots.panels(filled_report())}
        assert found == {
            ("not pinned", "faster"): ["create"], ("", "faster"): ["save"], ("", "slower"): ["many"],
            ("", "MB"): ["memory"], ("snapshot", "sweep"): ["100 files", "10,000 files"],
        }  # fmt: skip

    def test_rows_that_begin_with_numbers_are_a_sweep(self) -> None:
        found = plots.groups(filled_report())
        assert [group for group, rows in found.items() if plots.is_sweep(rows)] == ["snapshot"]
        assert [plots.place_of(row) for row in found["snapshot"]] == [100, 10_000]

    def test_only_what_is_between_marks_is_replaced(self) -> None:
        page = "before\n<!-- table trial -->\nold\n<!-- end -->\nafter\n<!-- table other -->\nkept\n<!-- end -->\n"
        once = plots.filled(page, [filled_report()])
        assert once.startswith("before\n<!-- table trial -->\n")
        assert once.endswith("<!-- end -->\nafter\n<!-- table other -->\nkept\n<!-- end -->\n")
        assert "old" not in once
        assert "**S3QL 10.00 (limit 20) missed**" in once
        assert plots.filled(once, [filled_report()]) == once

    def test_a_sweep_is_a_line_with_what_its_ends_are_held_against(self) -> None:
        report = Report("sweeps", "?")
        for files in (100, 10):
            report.values(f"{files} files", {"snapfs": [files / 1e3]}, unit="ms", group="clone")
        report.compare("clone", {"10 files": [0.01], "100 files": [0.1]}, limit=1.3)
        assert plots.table(report).splitlines()[-3:] == [
            "|  | 10 files | 100 files | ratio |", "|---|---|---|---|",
            "| clone (ms) | 10 | 100 | **100 files 10.00 (limit 1.3) missed** |",
        ]  # fmt: skip

    def test_the_overview_names_what_was_missed(self) -> None:
        assert "| [trial](#trial) | 4 | not pinned: create" in plots.overview([filled_report()])


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process


class TestProcesses:
    def test_the_most_memory_is_kept(self) -> None:
        memory = processes.Memory()
        memory.note([os.getpid()])
        assert memory.peak_bytes >= memory.anonymous_bytes > 2**20
        before = processes.Memory(2**50, 2**50, 2**50)
        before.note([os.getpid()])
        assert before == processes.Memory(2**50, 2**50, 2**50)

    def test_who_has_ended_has_no_memory(self) -> None:
        with subprocess.Popen(["true"]) as process:
            pass
        memory = processes.Memory()
        memory.note([process.pid])
        assert memory.peak_bytes == 0

    def test_a_family_has_grandchildren(self) -> None:
        words = ["sh", "-c", "sh -c 'echo $$; read line; :'; :"]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            inner = int(process.stdout.readline())
            assert processes.family(process.pid) == [process.pid, inner]
            process.communicate(b"\n")
        assert processes.family(process.pid) == [process.pid]

    def test_pinning_ends(self, sleeper: subprocess.Popen[bytes]) -> None:
        before = os.sched_getaffinity(sleeper.pid)
        with processes.pinned([sleeper.pid], min(before)):
            assert os.sched_getaffinity(sleeper.pid) == {min(before)}
        assert os.sched_getaffinity(sleeper.pid) == before


class TestClient:
    def test_every_operation_on_every_file(self, tmp_path: Path) -> None:
        with smallfiles.started(tmp_path, 12) as client:
            for operation in ("mkdir", "create", "write", "stat", "absent", "read", "readdir"):
                assert client.seconds(operation) > 0
            files = [path for path in tmp_path.rglob("*") if path.is_file()]
            assert [path.stat().st_size for path in files] == [smallfiles.FILE_BYTES] * 12
            for operation in ("rename", "unlink", "rmdir"):
                client.seconds(operation)
        assert list(tmp_path.iterdir()) == []

    def test_wrong_content_ends_it(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        with smallfiles.started(tmp_path, 3) as client:
            client.seconds("mkdir")
            client.seconds("create")
            with pytest.raises(SystemExit, match="client failed"):
                client.seconds("read")
        assert "has 0 bytes" in capfd.readouterr().err


class TestAll:
    def test_each_benchmark_is_there_and_described(self) -> None:
        described = (ROOT / "benchmarks/README.md").read_text()
        for name in everything.NAMES:
            assert (ROOT / f"benchmarks/{name}.py").exists()
            assert f"| `{name}` |" in described

    def test_the_summary_tells_what_was_missed_and_what_failed(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert everything.summarize([filled_report()], []) == 1
        assert everything.summarize([filled_report()], ["hook"]) == 2
        told = capsys.readouterr().out
        assert "MISSED  trial: not pinned: create" in told
        assert "FAILED  hook" in told
        assert everything.summarize([], []) == 0


def test_a_workload_runs_on_a_real_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small, and with a plain file in the place of the switch that empties the caches of the whole machine."""
    dropped = tmp_path / "drop_caches"
    monkeypatch.setattr("benchmarks.filesystems.DROP_CACHES", dropped)
    monkeypatch.setattr("benchmarks.filesystems.may_drop_caches", lambda: True)
    report = Report("smallfiles", "?")
    options = harness.Options(repeats=1, scale=0.0001, json=None, on=("snapfs",))
    with harness.scratch() as place:
        smallfiles.body(report, options, place)
    assert not [mount for mount in mounts.table() if mount.mountpoint.is_relative_to(place.resolve())]
    assert not place.exists()
    assert dropped.read_text() == "2"  # the last operation that began cold: names only
    for group in ("not pinned", "on one core"):
        rows = [row for row in report.rows if row.group == group]
        assert [row.what for row in rows] == [kind for _, kind, _, _ in smallfiles.KINDS]
        assert all(row.series["snapfs"][0] > 0 for row in rows)
    peak, anonymous, _ = (row.series["snapfs"][0] for row in report.rows if row.group == "memory")
    assert peak >= anonymous > 1


class TestEnding:
    """Nothing that is mounted is left behind: what is begun is cleaned up, in peace."""

    def test_a_second_signal_does_not_break_off_the_cleaning_up(self, tmp_path: Path) -> None:
        code = (
            "import os, signal\n"
            "from benchmarks import harness\n"
            "from benchmarks.report import Report\n"
            "def body(*_):\n"
            "    try:\n"
            "        print('begun', flush=True)\n"
            "        while True: signal.pause()\n"
            "    finally:\n"
            "        for number in (signal.SIGTERM, signal.SIGINT): os.kill(os.getpid(), number)\n"
            "        print('cleaned up', flush=True)\n"
            "harness.main(Report('trial', '?'), body, repeats=1)\n"
        )
        for number in (signal.SIGINT, signal.SIGTERM):
            words = [sys.executable, "-c", code]
            environment = {**os.environ, "TMPDIR": str(tmp_path)}
            with subprocess.Popen(words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
                assert process.stdout is not None
                assert any(line == "begun\n" for line in process.stdout)
                process.send_signal(number)
                assert process.stdout.read() == "cleaned up\n"
            assert process.returncode == 128 + number
            assert not list(tmp_path.iterdir())

    def test_who_runs_all_of_them_waits_for_the_one_that_runs(self, tmp_path: Path) -> None:
        """Also if the signal came to itself alone, and cleaning up takes longer than anybody waits unasked."""
        stub = tmp_path / "stub"
        stub.write_text(f"#!{sys.executable}\nimport signal, sys\n" + (
            "signal.signal(signal.SIGTERM, lambda *_: print('ended', flush=True))\n"
            "print('begun', flush=True)\n"
            "sys.stdin.readline()\n"
            "print('cleaned up', flush=True)\n"
        ))  # fmt: skip
        stub.chmod(0o755)
        code = (
            "import sys\nfrom benchmarks import __main__ as everything\n"
            f"sys.executable = {str(stub)!r}\nsys.argv[1:] = ['control', '--json', {str(tmp_path)!r}]\n"
            "sys.exit(everything.main())\n"
        )
        for number in (signal.SIGINT, signal.SIGTERM):
            with subprocess.Popen(
                [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            ) as process:
                assert process.stdin is not None
                assert process.stdout is not None
                assert process.stdout.readline() == "begun\n"
                process.send_signal(number)
                assert process.stdout.readline() == "ended\n"
                process.stdin.write("\n")
                process.stdin.flush()
                assert process.stdout.read() == "cleaned up\n"
            assert process.returncode == 128 + number


def test_each_job_of_fio_has_a_file_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one file the kernel lets one fsync through at a time."""
    said: list[str] = []

    def run(*words: str) -> str:
        said.extend(words)
        return json.dumps({"jobs": [{"write": {"total_ios": 100}, "job_runtime": 2000}]})

    randomio.lay_out(tmp_path, 4 << 20)
    monkeypatch.setattr(harness, "run", run)
    assert randomio.fio(tmp_path, "write, each with fsync", 4, 4 << 20, 1.0) == 200
    assert {f"--directory={tmp_path}", "--filename_format=file.$jobnum", "--numjobs=4", "--fsync=1"} <= set(said)
    size = int(next(word for word in said if word.startswith("--size=")).removeprefix("--size="))
    assert len(list(tmp_path.iterdir())) == 4
    assert all((tmp_path / f"file.{job}").stat().st_size >= size for job in range(4))
