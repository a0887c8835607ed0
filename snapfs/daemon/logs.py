"""What the daemon logs, and where to: structlog's records and those of the standard library, in one form.

Invariants:
  * A record is one line, but for a traceback, whose lines are indented: no name in a message can forge a record or
    move a terminal's cursor.
  * The log never ends the daemon: what cannot be written is dropped.
  * The file is bounded (``log.bytes_max``, and once more as much set aside).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
from pathlib import Path
from typing import Any, Final

import structlog
from structlog.typing import EventDict, WrappedLogger

from snapfs.config.tables import Log
from snapfs.daemon import logfile
from snapfs.errors import SnapfsError
from snapfs.store.disk import open_file

_PLAIN: Final = re.compile(r'[^\s"=]+')


class Output(logging.Handler):
    """Standard error first; from ``keep`` on a file too, or instead.

    Thread-safe, as all handlers are.
    """

    def __init__(self) -> None:
        super().__init__()
        self._file = -1
        self._path: Path | None = None
        self._instead = False
        self._bytes_max = Log().bytes_max

    def limit(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max

    def keep(self, path: Path, *, instead: bool) -> None:
        """Write to this file from now on.

        Args:
            instead: standard output and error of the whole process go there.
        """
        with self.lock or contextlib.nullcontext():
            self._path, self._instead = path, instead
            self._open()

    def _open(self) -> None:
        assert self._path is not None
        opened = open_file(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        if self._file >= 0:
            os.close(self._file)
        self._file = opened
        if self._instead:
            os.dup2(opened, 1)
            os.dup2(opened, 2)

    def close(self) -> None:
        super().close()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def emit(self, record: logging.LogRecord) -> None:
        try:
            data = self.format(record).encode(errors="backslashreplace") + b"\n"
        except Exception as error:  # a message that does not fit its arguments
            data = f"{record.name}: {record.msg!r} cannot be logged: {error!r}\n".encode(errors="backslashreplace")
        with contextlib.suppress(OSError):
            if not (self._instead and self._file >= 0):
                os.write(2, data)
        with contextlib.suppress(OSError):
            if self._file >= 0:
                os.write(self._file, data)
                self._turn()

    def _turn(self) -> None:
        """Begin a new file if this one is too long."""
        if self._path is not None and os.fstat(self._file).st_size > self._bytes_max:
            self._path.replace(logfile.set_aside(self._path))
            self._open()


def configure(config: Log, output: Output) -> None:
    """Log as the configuration says; may be called again."""
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    output.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                as_json if config.format == "json" else as_text,
            ],
        )
    )
    output.limit(config.bytes_max)
    root = logging.getLogger()
    root.addHandler(output)  # once, however often
    root.setLevel(config.level.upper())


def log_failure(error: BaseException) -> None:
    """The last record of a daemon that failed: our own errors speak for themselves, others with a traceback."""
    log = structlog.stdlib.get_logger("snapfs.daemon")
    if isinstance(error, SnapfsError):
        log.error(error.message, **({"hint": error.hint} if error.hint else {}))
    else:
        log.error("the daemon failed", exc_info=error)


def escaped(text: str) -> str:
    """The text on one line, with control, invisible and direction-changing characters as backslash sequences."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def as_text(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    """``TIME LEVEL LOGGER: event key=value``, a traceback below."""
    moment, level, name, what, trace = _heads(event)
    values = "".join(f" {key}={_quoted(value)}" for key, value in event.items())
    lines = "".join(f"\n    {escaped(line)}" for line in trace.splitlines())
    return f"{moment} {level.upper()} {name}: {escaped(what)}{values}{lines}"


def as_json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    """One JSON object with ``time``, ``level``, ``logger``, ``event`` and the values; a traceback is ``exception``."""
    moment, level, name, what, trace = _heads(event)
    head = {"time": moment, "level": level, "logger": name, "event": what}
    return json.dumps({**head, **event, **({"exception": trace} if trace else {})}, default=str)


def _heads(event: EventDict) -> tuple[str, str, str, str, str]:
    """Take out what every record has: time, level, logger, event, traceback."""
    heads = [str(event.pop(key, "")) for key in ("time", "level", "logger", "event", "exception")]
    return heads[0], heads[1], heads[2], heads[3], heads[4]


def _quoted(value: Any) -> str:
    text = escaped(str(value))
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)
