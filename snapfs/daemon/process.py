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
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

import msgspec

from snapfs import mounts
from snapfs.daemon import places
from snapfs.errors import IOFailure, Kind, NotFound, SnapfsError, Unavailable, by_kind
from snapfs.rpc import wire
from snapfs.store import layout

log = logging.getLogger(__name__)

LOG_NAME: Final = "daemon.log"
LOG_BYTES_MAX: Final = 8 * 1024 * 1024
"""A longer log is set aside (as daemon.log.1) when the daemon starts."""
STOP_SECONDS_MAX: Final = 600
"""For the last commit: bounded dirty memory to a slow disk takes seconds."""
_POLL_SECONDS: Final = 0.005


class Report(msgspec.Struct):
    """What the daemon says once: its pid when it serves, else the error."""

    pid: int = 0
    kind: Kind = Kind.IO
    message: str = ""
    hint: str = ""


def run(store: Path, mountpoint: Path, *, allow_other: bool = False, xattrs: bool = False) -> None:
    """Serve the store at the mount point until it is unmounted or SIGINT, SIGTERM or SIGHUP comes.

    Raises:
        SnapfsError: bad places, a store in use or damaged, no FUSE, a failing disk.
    """
    _configure_log()
    with _first_error():
        _serve(store, mountpoint, allow_other=allow_other, xattrs=xattrs, report_fd=None)


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
    report = wire.decode(said, Report)
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
        f"unmounted, but the daemon of {store} is still writing", hint=f"see {store / LOG_NAME}"
    )


def background(store: Path, mountpoint: Path, *, report_fd: int, allow_other: bool, xattrs: bool) -> int:
    """The daemon's own process: like ``run``, but reports on a pipe; its exit status."""
    os.set_inheritable(report_fd, False)
    _configure_log()
    try:
        with _first_error():
            _serve(store, mountpoint, allow_other=allow_other, xattrs=xattrs, report_fd=report_fd)
    except SnapfsError as error:
        log.error("%s", error.message)
        _report(report_fd, Report(kind=error.kind, message=error.message, hint=error.hint))
        return 1
    except Exception as error:
        log.exception("the daemon failed")
        _report(report_fd, Report(message=f"the daemon failed: {error!r}", hint=f"see {store / LOG_NAME}"))
        return 1
    return 0


def _serve(store: Path, mountpoint: Path, *, allow_other: bool, xattrs: bool, report_fd: int | None) -> None:
    from snapfs.daemon.serving import serve  # here: see the module's invariants
    from snapfs.fuse.session import Options

    def opened() -> None:
        if report_fd is not None:
            _log_to(store / LOG_NAME)

    def ready() -> None:
        if report_fd is not None:
            _report(report_fd, Report(pid=os.getpid()))

    serve(store, mountpoint, Options(allow_other=allow_other, xattrs=xattrs), opened=opened, ready=ready)


def _report(report_fd: int, report: Report) -> None:
    """The first report counts; later ones have no reader any more."""
    with contextlib.suppress(OSError):
        os.write(report_fd, wire.encode(report))
        os.close(report_fd)


def _configure_log() -> None:
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )


def _log_to(path: Path) -> None:
    """Standard output and error go to the log from now on."""
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > LOG_BYTES_MAX:
            path.replace(path.with_name(f"{path.name}.1"))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


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
            log.error("besides", exc_info=other)
        raise _leaf(meant) from None
    except OSError as error:
        raise IOFailure(f"the store's disk refused: {error}") from error


def _leaf(group: BaseExceptionGroup[SnapfsError]) -> SnapfsError:
    first = group.exceptions[0]
    return _leaf(first) if isinstance(first, BaseExceptionGroup) else first
