"""What the daemon logs: form, bounds, and reading it."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import Queue

import pytest
import structlog

from snapfs.config.tables import Log
from snapfs.daemon import logfile, logs
from snapfs.errors import NotFound

SECONDS_MAX = 10.0
EVIL = "new\nline\x1b[2J\u202edrawkcab\udcff"


@pytest.fixture
def output() -> Iterator[logs.Output]:
    """To be a handler of the root logger."""
    root = logging.getLogger()
    level = root.level
    made = logs.Output()
    try:
        yield made
    finally:
        root.removeHandler(made)
        made.close()
        root.setLevel(level)
        structlog.reset_defaults()


def configure(config: Log, output: logs.Output) -> None:
    """Nobody else gets the records: pytest-xdist cannot send what is no Unicode.  (pytest puts its own handlers in for
    each test.)"""
    logging.getLogger().handlers.clear()
    logs.configure(config, output)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / logfile.NAME


def fail() -> None:
    raise ValueError(f"a {EVIL} b")


class TestForm:
    def test_text(self, output: logs.Output, path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        configure(Log(), output)
        output.keep(path, instead=False)
        logging.getLogger("snapfs.one").warning("%s is %d", "it", 3)
        structlog.stdlib.get_logger("snapfs.two").info("an event", path="/a b", count=3, empty="")
        lines = path.read_text().splitlines()
        assert [line.split(" ", 1)[1] for line in lines] == [
            "WARNING snapfs.one: it is 3",
            'INFO snapfs.two: an event path="/a b" count=3 empty=""',
        ]
        assert [logfile.level_of(line) for line in lines] == ["warning", "info"]
        assert capfd.readouterr().err == path.read_text()  # in the foreground both

    def test_json(self, output: logs.Output, path: Path) -> None:
        configure(Log(format="json"), output)
        output.keep(path, instead=False)
        logging.getLogger("snapfs.one").warning("%s is %d", EVIL, 3)
        structlog.stdlib.get_logger("snapfs.two").info(EVIL, path=Path("/a"), level_bytes=3)
        one, two = (json.loads(line) for line in path.read_text().splitlines())
        assert (one["level"], one["logger"], one["event"]) == ("warning", "snapfs.one", f"{EVIL} is 3")
        assert (two["event"], two["path"], two["level_bytes"]) == (EVIL, "/a", 3)
        assert two["time"].endswith("Z")

    @pytest.mark.parametrize("form", ["text", "json"])
    def test_no_name_forges_a_record(self, output: logs.Output, path: Path, form: str) -> None:
        configure(Log(format=form), output)
        output.keep(path, instead=False)
        logging.getLogger("snapfs").error("it is %s", EVIL)
        structlog.stdlib.get_logger("snapfs").error(EVIL, name_of=EVIL)
        try:
            fail()
        except ValueError:
            logging.getLogger("snapfs").exception("failed at %s", EVIL)
        text = path.read_text()
        records = [line for line in text.splitlines() if not line.startswith("    ")]
        assert len(records) == 3
        assert all(logfile.level_of(line) == "error" for line in records)
        assert not set(text) & {"\x1b", "\u202e", "\udcff"}
        assert "in fail" in text  # the traceback

    def test_a_message_that_does_not_fit(self, output: logs.Output, path: Path) -> None:
        configure(Log(), output)
        output.keep(path, instead=False)
        args: tuple[object, ...] = ("no number",)
        output.handle(logging.LogRecord("snapfs", logging.ERROR, __file__, 1, "%d files", args, None))
        assert "cannot be logged" in path.read_text()

    def test_level(self, output: logs.Output, path: Path) -> None:
        configure(Log(level="error"), output)
        output.keep(path, instead=False)
        logging.getLogger("snapfs").warning("quiet")
        structlog.stdlib.get_logger("snapfs").warning("quiet")
        configure(Log(level="debug"), output)
        logging.getLogger("snapfs").debug("loud")
        structlog.stdlib.get_logger("snapfs").debug("loud")
        assert "quiet" not in path.read_text()
        assert path.read_text().count("DEBUG snapfs: loud") == 2

    def test_it_is_bounded(self, output: logs.Output, path: Path) -> None:
        bytes_max = 64 * 1024
        configure(Log(bytes_max=bytes_max), output)
        output.keep(path, instead=False)
        for number in range(3000):
            logging.getLogger("snapfs").warning("record %d %s", number, "x" * 50)
        assert path.stat().st_size <= bytes_max
        assert logfile.set_aside(path).stat().st_size <= bytes_max + 200
        assert sorted(each.name for each in path.parent.iterdir()) == ["daemon.log", "daemon.log.1"]
        numbers = [int(line.split()[4]) for line in logfile.last(path, 10_000, until=logfile.end(path))]
        assert numbers == list(range(numbers[0], 3000))
        assert len(numbers) > 500


def write(path: Path, *records: str) -> None:
    with path.open("a") as file:
        file.write("".join(f"2026-11-21T05:00:00.000000Z {record}\n" for record in records))


class TestReading:
    def test_last(self, path: Path) -> None:
        write(logfile.set_aside(path), "INFO a: oldest")
        write(path, "INFO a: one", "ERROR a: two\n    Traceback\n    more", "DEBUG a: three")
        end = logfile.end(path)
        write(path, "INFO a: too late")

        def last(records_max: int, level: str = "debug") -> list[str]:
            return [text.split("Z ")[1] for text in logfile.last(path, records_max, level, until=end)]

        assert last(2) == ["ERROR a: two\n    Traceback\n    more\n", "DEBUG a: three\n"]
        assert [text.split()[2] for text in last(9)] == ["oldest", "one", "two", "three"]
        assert last(9, "info")[-1].startswith("ERROR")
        assert last(9, "warning") == ["ERROR a: two\n    Traceback\n    more\n"]
        assert last(0) == []

    def test_json_lines(self, path: Path) -> None:
        path.write_text('{"level": "info", "event": "a"}\n{"level": "error"}\n{broken\n[1]\n')
        found = logfile.last(path, 9, "error", until=logfile.end(path))
        assert found == ['{"level": "error"}\n', "{broken\n", "[1]\n"]  # what is no record is never left out

    def test_bytes_that_are_no_text(self, path: Path) -> None:
        path.write_bytes(b"\xff\n")
        assert logfile.last(path, 9, until=logfile.end(path)) == ["\\xff\n"]

    def test_no_log(self, path: Path) -> None:
        with pytest.raises(NotFound, match=r"daemon\.log"):
            logfile.end(path)

    def test_follow(self, path: Path) -> None:
        """From where it was looked at, over a new file, to what a next daemon writes."""
        write(path, "INFO a: before")
        end = logfile.end(path)
        write(path, "ERROR a: one")
        lines: Queue[str] = Queue()

        def collect() -> None:
            for line in logfile.follow(path, "warning", after=end):
                lines.put(line.split("a: ")[1].strip())
                if "last" in line:
                    return

        thread = threading.Thread(target=collect, daemon=True)
        thread.start()
        assert lines.get(timeout=SECONDS_MAX) == "one"
        write(path, "INFO a: not this", "WARNING a: two")
        assert lines.get(timeout=SECONDS_MAX) == "two"
        write(path, "ERROR a: three")
        path.replace(logfile.set_aside(path))
        write(path, "ERROR a: four", "ERROR a: last")
        assert [lines.get(timeout=SECONDS_MAX) for _ in range(3)] == ["three", "four", "last"]
        thread.join(SECONDS_MAX)
        assert not thread.is_alive()

    def test_follow_what_was_set_aside_meanwhile(self, path: Path) -> None:
        write(path, "INFO a: before")
        end = logfile.end(path)
        write(path, "INFO a: one")
        path.replace(logfile.set_aside(path))
        write(path, "INFO a: two")
        following = logfile.follow(path, after=end)
        assert [next(following).split("a: ")[1] for _ in range(2)] == ["one\n", "two\n"]


def test_unexpected_errors_are_logged_with_their_traceback(
    output: logs.Output, path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    configure(Log(), output)
    output.keep(path, instead=False)
    try:
        fail()
    except ValueError as error:
        logs.log_failure(error)
    logs.log_failure(NotFound("no such thing", hint="look elsewhere"))
    first, *_, last = path.read_text().splitlines()
    assert "the daemon failed" in first
    assert last.endswith('ERROR snapfs.daemon: no such thing hint="look elsewhere"')
    assert sys.exc_info() == (None, None, None)
