"""What the benchmarks share: scratch stores, real mounts, turns, the options of each (figures: report.py).

Rules:
  * Every path is under one temporary directory on the disk that TMPDIR names; it is removed, and every mount in
    it unmounted, whatever happens.
  * The store is used as a user does: mounted by ``snap mount``, commands as whole processes.  "Engine" means the
    service's methods called in this process, with no mount.
  * What is compared takes turns (A B B A ...), and the first round does not count.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from benchmarks.report import Report as Report  # the benchmarks know it by this module
from benchmarks.report import described as described
from snapfs import api, mounts
from snapfs.errors import SnapfsError
from snapfs.service import Service
from snapfs.volume.lake import Lake

SNAP: Final = str(Path(sys.executable).parent / "snap")

PEERS: Final = Path(__file__).parents[1] / ".peers/bin"
"""Where `make peers` puts what is in no package of the system; looked at after PATH."""

VOLUME: Final = "data"

DIRECTORY_FILES: Final = 1000
"""Files of one directory in a tree that ``fill`` makes."""

COMMIT_EVERY_FILES: Final = 5000

QUIET_SECONDS: Final = 1.0
"""After building: what the disk still has to write falls on nobody's measurement."""


# -- taking turns


def timed(action: Callable[[], object]) -> float:
    """Seconds it takes."""
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


async def timed_async(action: Callable[[], Awaitable[object]]) -> float:
    begun = time.perf_counter()
    await action()
    return time.perf_counter() - begun


def turns(actions: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Run each action ``repeats`` times, in turns, after one round that does not count.  An action prepares,
    measures its part and returns seconds (or whatever it measures)."""
    found: dict[str, list[float]] = {name: [] for name in actions}
    for number in range(repeats + 1):
        for name in _order(actions, number):
            value = actions[name]()
            if number:
                found[name].append(value)
    return found


async def turns_async(actions: Mapping[str, Callable[[], Awaitable[float]]], repeats: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in actions}
    for number in range(repeats + 1):
        for name in _order(actions, number):
            value = await actions[name]()
            if number:
                found[name].append(value)
    return found


def rounds(
    actions: Mapping[str, Callable[[], Mapping[str, float]]], repeats: int, *, first_counts: bool = False,
    once: Collection[str] = (),
) -> dict[str, dict[str, list[float]]]:  # fmt: skip
    """Like ``turns`` for actions that measure several kinds of things: kind -> subject -> values.

    Args:
        first_counts: for what takes long and starts anew in every round.
        once: who takes part in one round that counts, because all of them would take too long.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for number in range(1 if first_counts else 0, repeats + 1):
        for name in _order(actions, number):
            if number > 1 and name in once:
                continue
            measured = actions[name]()
            for kind, value in measured.items():
                values = found.setdefault(kind, {each: [] for each in actions})[name]
                if number:
                    values.append(value)
    return {kind: {name: values for name, values in series.items() if values} for kind, series in found.items()}


def _order(actions: Mapping[str, object], number: int) -> list[str]:
    names = list(actions)
    return names if number % 2 else names[::-1]


# -- processes


def run(*command: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """Run a command to its end; its standard output.

    Raises:
        SystemExit: it failed; its complaint is shown.
    """
    words = [str(word) for word in command]
    environment = {**os.environ, **(env or {})}
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words[:4])} ... failed ({done.returncode}): {done.stderr.strip()[-500:]}")
    return done.stdout


def snap(*arguments: str | Path, cwd: Path | None = None) -> str:
    return run(SNAP, *arguments, cwd=cwd)


def installation() -> str:
    """How the ``snap`` that is measured was installed: "wheel", as users have it, or "editable" (about 10 ms a command
    go to finding its modules)."""
    beside = [sysconfig.get_path("purelib")]
    for one in importlib.metadata.distributions(name="snapfs", path=beside):
        origin = json.loads(one.read_text("direct_url.json") or "{}")
        return "editable" if origin.get("dir_info", {}).get("editable") else "wheel"
    return "unknown"


def installed(program: str) -> bool:
    """Whether a peer is there; if not, that is said."""
    if shutil.which(program):
        return True
    print(f"(no {program} here: left out)", file=sys.stderr)
    return False


# -- stores


class Mounted:
    """A store and where it is mounted."""

    def __init__(self, store: Path) -> None:
        self.store = store
        self.root = store.with_name(store.name + ".mount")
        self.root.mkdir(exist_ok=True)

    @property
    def volume(self) -> Path:
        return self.root / VOLUME

    def mount(self) -> None:
        snap("mount", self.store, self.root)

    def umount(self) -> None:
        snap("umount", self.root)

    def snap(self, *arguments: str) -> str:
        """A verb on this store."""
        return snap(*arguments, "--store", self.store)

    def info(self) -> api.StoreInfo:
        document = json.loads(self.snap("info", "--json"))  # it also tells how the scrub gets on
        return api.StoreInfo(**{name: document[name] for name in api.StoreInfo.__struct_fields__ if name in document})


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A temporary directory; at the end whatever is mounted in it is unmounted and it is removed."""
    place = Path(tempfile.mkdtemp(prefix="snapfs-bench-"))
    try:
        yield place
    finally:
        for mount in reversed([one for one in mounts.table() if one.mountpoint.is_relative_to(place.resolve())]):
            with contextlib.suppress(SnapfsError, SystemExit):
                if mount.type == mounts.TYPE:
                    snap("umount", mount.mountpoint)
            if mounts.at(mount.mountpoint) is not None:
                mounts.unmount(mount.mountpoint, lazy=True)
        shutil.rmtree(place)


@contextlib.contextmanager
def mounted(*stores: Path) -> Iterator[list[Mounted]]:
    """The stores, mounted."""
    made = [Mounted(store) for store in stores]
    with contextlib.ExitStack() as stack:
        for one in made:
            one.mount()
            stack.callback(one.umount)
        yield made


@contextlib.asynccontextmanager
async def opened(store: Path) -> AsyncIterator[tuple[Lake, Service]]:
    """The store in this process."""
    lake = Lake.open(store)
    try:
        async with lake.running():
            yield lake, Service(lake)
    finally:
        lake.close()


def disk_bytes(path: Path) -> int:
    """What a directory tree occupies on the disk (st_blocks)."""
    total = 0
    for directory, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(directory, name)).st_blocks * 512
    return total


def file_path(number: int) -> str:
    """Path, in a tree that ``fill`` made, of one of its files."""
    return f"{number // DIRECTORY_FILES:04d}/{number:06d}.bin"


def fill(store: Path, *, files: int, payload_bytes: int, size_bytes: int) -> None:
    """Make a store whose volume has files of ``size_bytes``, of which the first ``payload_bytes`` are noise and the
    rest a hole."""
    Lake.create(store)
    trio.run(_fill, store, files, payload_bytes, size_bytes)


async def _fill(store: Path, files: int, payload_bytes: int, size_bytes: int) -> None:
    noise = random.Random(files)
    async with opened(store) as (lake, _):
        volume = lake.volumes.create(VOLUME)
        view, parent = volume.head, volume.root
        for number in range(files):
            directory, name = file_path(number).encode().split(b"/")
            if number % DIRECTORY_FILES == 0:
                parent = lake.files.mkdir(view, volume.root, directory, mode=0o755, uid=0, gid=0).ino
            inode = lake.files.mknod(view, parent, name, mode=0o100644, uid=0, gid=0)
            await lake.files.write(view, inode.ino, 0, noise.randbytes(payload_bytes))
            if size_bytes > payload_bytes:
                lake.files.setattr(view, inode.ino, size=size_bytes)
            if number % COMMIT_EVERY_FILES == 0:
                await lake.sync()


def settle() -> None:
    """Let the disk write what it has, so that it does not fall on a measurement."""
    os.sync()
    time.sleep(QUIET_SECONDS)


# -- one benchmark as a program


FULL: Final = "full"
"""The setting ``run`` of a report that was made with ``--full``."""


@dataclass
class Options:
    """What every benchmark takes."""

    repeats: int
    scale: float
    json: Path | None
    on: tuple[str, ...] = ()
    """Subjects that are compared, of a benchmark that has several; the first is what the others are held against."""
    full: bool = False
    """Whether ``--full`` was asked for: what says nothing about a limit is then measured once."""

    def scaled(self, number: int, least: int = 1) -> int:
        return max(least, round(number * self.scale))


def main(
    report: Report, body: Callable[[Report, Options, Path], None], *, repeats: int, scale: float = 1.0,
    full_repeats: int = 0, full_scale: float = 1.0, subjects: Sequence[str] = (), on: Sequence[str] = (),
    full_on: Sequence[str] = (),
) -> int:  # fmt: skip
    """Run a benchmark; its exit code: 1 if a limit was missed.

    Args:
        scale: of the data, unless another is asked for; 1 is the full size.
        full_repeats: with --full; 0: as without.
        full_scale: with --full, of what would else take too long for a run of all benchmarks.
        subjects: names of what is compared, if some of them can be chosen.
        on: those that are, unless others are asked for; empty: all.
        full_on: with --full; empty: as without.
    """
    parser = argparse.ArgumentParser(description=report.question)
    parser.add_argument("--repeats", type=int, help=f"rounds that count (default: {repeats})")
    told = f"shrink the data by this factor; 1 is the full size (default: {scale:g})"
    parser.add_argument("--scale", type=float, help=told)
    told = f"scale {full_scale:g}, and as many rounds as that is worth"
    parser.add_argument("--full", action="store_true", help=told)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every value to FILE")
    if subjects:
        parser.add_argument("--on", metavar="NAME,...", help=f"some of {', '.join(subjects)}")
    given = parser.parse_args()
    wanted = given.repeats or (full_repeats if given.full and full_repeats else repeats)
    options = Options(wanted, given.scale or (full_scale if given.full else scale), given.json, full=given.full)
    if subjects:
        usual = (full_on if given.full else on) or on or subjects
        options.on = tuple(given.on.split(",") if given.on else usual)
    if options.repeats < 1 or not 0 < options.scale <= 1:
        parser.error("--repeats is at least 1, --scale more than 0 and at most 1")
    if unknown := sorted(set(options.on) - set(subjects)):
        parser.error(f"nothing here is called {unknown[0]!r}: there are {', '.join(subjects)}")
    os.environ["PATH"] += os.pathsep + str(PEERS)
    size = FULL if options.full else "short"
    report.settings = {"run": size, "scale": options.scale, "repeats": options.repeats, "snap": installation()}
    clean_up_when_ended()
    report.start()
    report.kept, report.complete = given.json, False
    begun = time.monotonic()
    with scratch() as place:
        body(report, options, place)
    report.complete = True
    report.settings["minutes"] = round((time.monotonic() - begun) / 60, 1)
    if given.json:
        report.save(given.json)
    return report.exit_code


_ENDING: Final = (signal.SIGINT, signal.SIGTERM)


def clean_up_when_ended() -> None:
    """On SIGINT and SIGTERM, too, what is mounted is unmounted and scratch is removed."""
    for number in _ENDING:
        signal.signal(number, _ended)


def _ended(number: int, _: object) -> None:
    for one in _ENDING:  # the first one is enough: no other may break off the cleaning up
        signal.signal(one, lambda *_: None)  # not SIG_IGN: that is an error if one waits to be handled
    raise SystemExit(128 + number)
