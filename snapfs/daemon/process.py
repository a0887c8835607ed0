"""Starting and stopping the daemon's process, and running it in the foreground.

Invariants:
  * ``start`` returns when the mount can be used, or raises what the daemon said: it says exactly one
    thing, on a pipe.
  * ``stop`` returns when the daemon has committed everything and let go of the store.
  * FUSE and the engine are imported in the daemon's process only: starting and stopping one needs neither.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

import msgspec

from snapfs import mounts
from snapfs.daemon import logfile, places
from snapfs.errors import IOFailure, Kind, NotFound, SnapfsError, Unavailable, by_kind
from snapfs.store import layout

if TYPE_CHECKING:
    from snapfs.daemon.supervisor import Supervisor

STOP_SECONDS_MAX: Final = 600
"""For the last commit: bounded dirty memory to a slow disk takes seconds."""
_POLL_SECONDS: Final = 0.005


class Report(msgspec.Struct):
    """What the daemon says once: its pid when it serves, else the error."""

    pid: int = 0
    kind: Kind = Kind.IO
    message: str = ""
    hint: str = ""


def run(
    store: Path,
    mountpoint: Path,
    *,
    allow_other: bool = False,
    xattrs: bool = False,
    notify: bool = False,
    watchdog_seconds: float = 0.0,
) -> None:
    """Serve the store at the mount point until it is unmounted or SIGINT or SIGTERM comes; logs to standard error as
    well.  SIGHUP reloads the configuration; on a terminal it ends, too.

    Args:
        notify: tell systemd (sd_notify) how it goes.
        watchdog_seconds: longest silence that systemd allows; 0: any.

    Raises:
        SnapfsError: bad places, a store in use or damaged, no FUSE, a failing disk.
    """
    from snapfs.daemon.supervisor import Supervisor

    supervisor = Supervisor(listens=notify, watchdog_seconds=watchdog_seconds)
    with _first_error():  # absolute: the kernel's table of mounts tells commands the store's path
        _serve(store.absolute(), mountpoint, allow_other=allow_other, xattrs=xattrs, supervisor=supervisor)


def start(store: Path, mountpoint: Path, *, allow_other: bool = False, xattrs: bool = False) -> int:
    """Leave a daemon behind that serves the store at the mount point; its pid.

    Raises:
        SnapfsError: what the daemon met with; nothing is left behind then.
    """
    options = [*(["--allow-other"] if allow_other else []), *(["--xattrs"] if xattrs else [])]
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as reports, tempfile.TemporaryFile() as complaints:
        try:
            # -P: a directory `snapfs` in the current directory is not the program
            command = [sys.executable, "-P", "-m", "snapfs.daemon", "--report-fd", str(writing), *options]
            daemon = subprocess.Popen(
                [*command, "--", str(store.absolute()), str(mountpoint.absolute())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=complaints,
                pass_fds=[writing],
                start_new_session=True,
                cwd="/",
            )
        finally:
            os.close(writing)
        try:
            said = reports.read()
        except BaseException:
            daemon.send_signal(signal.SIGTERM)
            daemon.wait()
            raise
        if not said:
            raise _died(daemon.wait(), complaints)
    report = msgspec.convert(json.loads(said), Report)
    if not report.pid:
        daemon.wait()
        raise by_kind()[report.kind](report.message, hint=report.hint)
    daemon.returncode = 0  # it outlives this process: nobody waits for it here
    return report.pid


def _died(status: int, complaints: IO[bytes]) -> SnapfsError:
    complaints.seek(0)
    lines = complaints.read().decode(errors="replace").strip().splitlines()
    return Unavailable(f"the daemon ended with status {status}: {lines[-1] if lines else 'it said nothing'}")


def stop(mountpoint: Path) -> None:
    """Unmount, and wait until everything is durable and the store free.

    Raises:
        NotFound: no mount of ours is there.
        Busy: it is in use; it stays mounted.
        SnapfsError: it cannot be unmounted.
    """
    place = Path(os.path.realpath(mountpoint))
    mount = mounts.at(place)
    if mount is None or mount.type != mounts.TYPE:
        around = mounts.containing(place)
        inside = around is not None and around.type == mounts.TYPE
        hint = f"the mount point is {around.mountpoint}" if around is not None and inside else ""
        raise NotFound(f"{place} is not the mount point of a store", hint=hint)
    if not places.clear_if_abandoned(mount):
        mounts.unmount(place)
    _wait_for_lock(mount.store)


def _wait_for_lock(store: Path) -> None:
    """Until no daemon holds the store.  Raises Unavailable after ``STOP_SECONDS_MAX``."""
    try:
        lock = os.open(store / layout.LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # the store was moved or removed, or is not ours: nothing to wait for
        return
    deadline = time.monotonic() + STOP_SECONDS_MAX
    try:
        while time.monotonic() < deadline:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return
            time.sleep(_POLL_SECONDS)
    finally:
        os.close(lock)
    raise Unavailable(
        f"unmounted, but the daemon of {store} is still writing", hint=f"see {store / logfile.NAME}"
    )


def background(store: Path, mountpoint: Path, *, report_fd: int, allow_other: bool, xattrs: bool) -> int:
    """The daemon's own process: like ``run``, but reports on a pipe; its exit status."""
    from snapfs.daemon.logs import log_failure

    os.set_inheritable(report_fd, False)
    try:
        with _first_error():
            _serve(store, mountpoint, allow_other=allow_other, xattrs=xattrs, report_fd=report_fd)
    except SnapfsError as error:
        log_failure(error)
        _report(report_fd, Report(kind=error.kind, message=error.message, hint=error.hint))
        return 1
    except Exception as error:
        log_failure(error)
        hint = f"see {store / logfile.NAME}"
        _report(report_fd, Report(message=f"the daemon failed: {error!r}", hint=hint))
        return 1
    return 0


def _serve(
    store: Path,
    mountpoint: Path,
    *,
    allow_other: bool,
    xattrs: bool,
    report_fd: int | None = None,
    supervisor: Supervisor | None = None,
) -> None:
    from snapfs.config import Config
    from snapfs.daemon import logs
    from snapfs.daemon import supervisor as systemd
    from snapfs.daemon.memory import Heap
    from snapfs.daemon.serving import Process, serve  # here: see the module's invariants
    from snapfs.fuse.session import Options

    Heap().keep_together()
    output = logs.Output()
    logs.configure(Config().log, output)  # until the store's own is read

    def ready() -> None:
        gc.freeze()  # what is there now stays: a full collection went through all of it, for tens of milliseconds
        if report_fd is not None:
            _report(report_fd, Report(pid=os.getpid()))

    process = Process(
        configure=lambda config: logs.configure(config.log, output),
        opened=lambda: output.keep(store / logfile.NAME, instead=report_fd is not None),
        ready=ready,
        supervisor=supervisor or systemd.Supervisor(),
        hangup_ends=report_fd is None and sys.stderr.isatty(),
    )
    serve(store, mountpoint, Options(allow_other=allow_other, xattrs=xattrs), process)


def _report(report_fd: int, report: Report) -> None:
    """The first report counts; later ones have no reader any more."""
    with contextlib.suppress(OSError):
        # in ASCII: a path in a message need not be Unicode
        os.write(report_fd, json.dumps(msgspec.to_builtins(report)).encode("ascii"))
        os.close(report_fd)


@contextlib.contextmanager
def _first_error() -> Iterator[None]:
    """Of a group of errors (tasks fail together) the first that says something to a user."""
    try:
        yield
    except BaseExceptionGroup as group:
        meant, other = group.split(SnapfsError)
        if meant is None or (other is not None and other.split(Exception)[1] is not None):
            raise
        if other is not None:
            from snapfs.daemon.logs import log_failure

            log_failure(other)
        raise _leaf(meant) from None
    except OSError as error:
        raise IOFailure(f"the store's disk refused: {error}") from error


def _leaf(group: BaseExceptionGroup[SnapfsError]) -> SnapfsError:
    first = group.exceptions[0]
    return _leaf(first) if isinstance(first, BaseExceptionGroup) else first
