"""File systems side by side: snapfs's mount, bindfs, the plain directory, btrfs, S3QL; each behind the same few words.

Rules:
  * All of them keep what they keep in one directory on the same disk (the ext4 that TMPDIR names, as a rule); what a
    file system writes is under the place that it is given, its caches too.
  * ``forget_caches`` is the same for all: everything is written out, then the kernel is told to drop its caches.
    Pages that a process has mapped stay with it (snapfs's index), and so does what a daemon keeps on its heap.
  * Who is not installed, or not permitted, is named and left out; the first that was asked for is always there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks import harness, processes
from benchmarks.harness import VOLUME, Options, Report
from snapfs import mounts

NAMES: Final = ("snapfs", "bindfs", "ext4", "btrfs", "S3QL")

S3QL_FSYNC: Final = (
    "S3QL 6.3 answers an fsync when the bytes are in its cache's file: it syncs neither that nor its database"
)

START_SECONDS_MAX: Final = 60.0
STOP_SECONDS_MAX: Final = 600.0
"""S3QL copies all that it has to its storage first."""
POLL_SECONDS: Final = 0.05

DROP_CACHES: Final = Path("/proc/sys/vm/drop_caches")
NAMES_ONLY, NAMES_AND_PAGES = "2", "3"


class FileSystem:
    """A writable directory on a file system."""

    def __init__(self, name: str, root: Path, daemon_pids: Sequence[int] = ()) -> None:
        self.name = name
        self.root = root
        self.daemon_pids = list(daemon_pids)
        """Processes that serve it; none: the kernel does."""

    def forget_caches(self, *, pages: bool = True) -> None:
        """Write everything out and let the kernel forget names and attributes, and with ``pages`` contents.

        It forgets those of every other file system as well: there is no other way that is the same for all of them.
        """
        self.sync()
        DROP_CACHES.write_text(NAMES_AND_PAGES if pages else NAMES_ONLY)

    def sync(self) -> None:
        """Everything is on the disk afterwards: what the kernel has, then what the daemon has, then what that wrote."""
        os.sync()
        descriptor = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.sync()

    def pinned(self, cpu: int) -> AbstractContextManager[None]:
        """Its daemons on one core."""
        return processes.pinned(self.daemon_pids, cpu)

    def cpu_seconds(self) -> float:
        """Processor time of its daemons so far."""
        return processes.cpu_seconds(self.daemon_pids)


# -- each of them


@contextmanager
def _snapfs(place: Path, compression: str) -> Iterator[FileSystem]:
    store = place / "store"
    harness.snap("init", store)
    with harness.mounted(store) as (mounted,):
        mounted.snap("volume", "create", VOLUME)
        if compression:
            mounted.snap("volume", "set", VOLUME, "--compression", compression)
        yield FileSystem("snapfs", mounted.volume, processes.family(mounted.info().pid))


@contextmanager
def _bindfs(place: Path, _: str) -> Iterator[FileSystem]:
    """Linked to libfuse 2 it would send each write in requests of 4 KiB, were it not for ``big_writes``."""
    below, root = place / "below", place / "root"
    below.mkdir()
    root.mkdir()
    with _served(["bindfs", "-f", "-o", "big_writes", str(below), str(root)], root, lambda: _fusermount(root)) as pid:
        yield FileSystem("bindfs", root, [pid])


@contextmanager
def _ext4(place: Path, _: str) -> Iterator[FileSystem]:
    """The plain directory; on most machines that is ext4, and the name of the row."""
    yield FileSystem("ext4", place)


@contextmanager
def _btrfs(place: Path, _: str) -> Iterator[FileSystem]:
    image, root = place / "image", place / "root"
    root.mkdir()
    with image.open("wb") as file:
        file.truncate(shutil.disk_usage(place).free)  # sparse: only what is used takes room
    harness.run("mkfs.btrfs", "-q", "-m", "single", image)
    harness.run("mount", "-o", "loop,discard", image, root)
    try:
        yield FileSystem("btrfs", root)
    finally:
        harness.run("umount", root)


@contextmanager
def _s3ql(place: Path, compression: str) -> Iterator[FileSystem]:
    """On a directory, not encrypted, and not compressed unless asked for: the fastest that it can be."""
    storage, cache, root = place / "storage", place / "cache", place / "root"
    for directory in (storage, cache, root):
        directory.mkdir()
    authentication = place / "authinfo"
    authentication.touch(0o600)
    common = ["--authfile", str(authentication), "--cachedir", str(cache)]
    url = f"local://{storage}"
    harness.run("mkfs.s3ql", "--quiet", "--plain", *common, url)
    how = ["--fg", "--quiet", "--compress", compression or "none", "--log", str(place / "log")]
    words = ["mount.s3ql", *how, *common, url, str(root)]
    with _served(words, root, lambda: harness.run("umount.s3ql", root)) as pid:
        yield FileSystem("S3QL", root, [pid])


_MAKERS: Final[dict[str, Callable[[Path, str], AbstractContextManager[FileSystem]]]] = {
    "snapfs": _snapfs, "bindfs": _bindfs, "ext4": _ext4, "btrfs": _btrfs, "S3QL": _s3ql,
}  # fmt: skip

_PROGRAMS: Final = {"bindfs": "bindfs", "btrfs": "mkfs.btrfs", "S3QL": "mount.s3ql"}
_ROOT_ONLY: Final = ("btrfs",)


def _fusermount(root: Path) -> None:
    harness.run("fusermount3", "-u", root)


@contextmanager
def _served(words: Sequence[str], root: Path, unmount: Callable[[], object]) -> Iterator[int]:
    """A process that serves ``root`` while it runs, in the foreground; its ID.

    Raises:
        SystemExit: it ended, or was not ready in time.
    """
    quiet = subprocess.DEVNULL  # a Ctrl-C is not for it: it ends when it is unmounted
    with subprocess.Popen(words, stdout=quiet, stderr=quiet, start_new_session=True) as process:
        try:
            deadline = time.monotonic() + START_SECONDS_MAX
            while mounts.at(root.resolve()) is None:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"{words[0]} did not mount {root}")
                time.sleep(POLL_SECONDS)
            os.statvfs(root)
            yield process.pid
        finally:
            if mounts.at(root.resolve()) is not None:
                try:
                    unmount()
                except SystemExit:
                    mounts.unmount(root.resolve(), lazy=True)
            try:
                process.wait(STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                process.kill()


# -- all of them


def may_drop_caches() -> bool:
    return os.access(DROP_CACHES, os.W_OK) and os.geteuid() == 0


def hindrance(name: str) -> str:
    """Why a file system cannot take part here; empty: it can."""
    program = _PROGRAMS.get(name, "")
    if program and not shutil.which(program):
        return f"no {program} here"
    if name in _ROOT_ONLY and os.geteuid() != 0:
        return "only root may mount it"
    return ""


@contextmanager
def mounted(name: str, place: Path, *, compression: str = "") -> Iterator[FileSystem]:
    """An empty one under ``place``, removed afterwards.

    Args:
        name: one of NAMES.
        compression: as snapfs's volumes or S3QL's mount name it; empty: snapfs's default, none for S3QL.
    """
    home = place / f"fs-{name}"
    home.mkdir()
    try:
        with _MAKERS[name](home, compression) as found:
            yield found
    finally:
        with contextlib.suppress(OSError):  # what is still mounted in it, ``scratch`` unmounts and removes
            shutil.rmtree(home)


def able(report: Report, names: Sequence[str]) -> list[str]:
    """Those that can be here, in that order; who cannot is noted in the report.

    Raises:
        SystemExit: the kernel's caches cannot be dropped here, so that nothing would be measured cold.
    """
    if not may_drop_caches():
        raise SystemExit(f"{DROP_CACHES} cannot be written here: this benchmark needs root")
    found = []
    for name in names:
        if why := hindrance(name):
            report.note(f"{name} is left out: {why}")
        else:
            found.append(name)
    return found


@contextmanager
def all_mounted(report: Report, names: Sequence[str], place: Path) -> Iterator[dict[str, FileSystem]]:
    """Those that can be here, by name, in that order, all at once (see ``able``)."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(mounted(name, place)) for name in able(report, names)}


def durations(
    report: Report, options: Options, place: Path, measure: Callable[[FileSystem], dict[str, float]], *, group: str,
    once: Sequence[str],
) -> None:  # fmt: skip
    """Report the seconds of each step on each file system, in turns from the first round on, and the daemons' memory.

    Args:
        measure: seconds of each step; it leaves nothing behind.
        once: who takes part in one round of a full run.
    """
    memories = processes.Memories()

    def measured(system: FileSystem) -> dict[str, float]:
        found = measure(system)
        memories.note(system.name, system.daemon_pids)
        return found

    once = [name for name in once if options.full and name in options.on]
    if once:
        report.note(f"one round of {', '.join(once)}")
    with all_mounted(report, options.on, place) as systems:
        actions = {name: partial(measured, system) for name, system in systems.items()}
        found = harness.rounds(actions, options.repeats, first_counts=True, once=once)
    for kind, series in found.items():
        report.durations(kind, series, unit="s", group=group)
    report.memory(memories)
