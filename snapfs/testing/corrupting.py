"""Damages files of a store at random, and finds out what becomes of it.

A verdict is *found* (a typed error when it is opened or read, or a finding of fsck), *harmless* (all reads as before
and fsck finds nothing), or *bad*: something else was shown than what was stored, or the program failed in another way.
Each store is looked at in a process of its own, so that a signal is a verdict too.
"""

from __future__ import annotations

import os
import pickle
import random
import resource
import signal
import stat
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path as FilePath
from typing import Any, Final

import msgspec

from snapfs.api import GitCommit
from snapfs.errors import SnapfsError
from snapfs.store import layout
from snapfs.testing.engine import KINDS, EngineSubject
from snapfs.testing.trees import DIRECTORY, FILE, SYMLINK, Path, Shown, Tree
from snapfs.types import PAGE_BYTES, Ino
from snapfs.versions.epochs import View
from snapfs.volume.lake import Lake
from snapfs.volume.limits import DEFAULT
from snapfs.volume.repair import rebuild

FOUND, HARMLESS, BAD = "found", "harmless", "bad"
EXAMINE_SECONDS_MAX: Final = 60
_SEGMENT_BYTES: Final = 200_000
"""Small ones, so that there are several."""
REBUILD_EVERY: Final = 4
INDEX_FILE: Final = "index/data.mdb"


class Verdict(msgspec.Struct, frozen=True):
    what: str
    """FOUND, HARMLESS or BAD."""
    how: str
    """Where it showed first."""


Expected = dict[tuple[str, str], Tree]
"""Trees by (volume, snapshot; empty for the head)."""


# -- a store worth damaging


def build(path: FilePath, seed: int = 1) -> Expected:
    """Make a store of all that the format has; what its heads and snapshots show."""
    rng = random.Random(seed)
    engine = EngineSubject(path)
    try:
        engine.limits = msgspec.structs.replace(DEFAULT, segment_bytes_max=_SEGMENT_BYTES)
        engine.reopen()
        _fill(engine, rng)
        engine.reclaim()
        engine.write("data", (b"new", b"unsaved"), 0, rng.randbytes(70_000))
        engine.flush()
        expected: Expected = {}
        for volume in engine.lake.volumes.all():
            expected[volume.name, ""] = engine.tree(volume.name)
            for record in engine.lake.snapshots.all(volume):
                expected[volume.name, record.name] = engine.tree(volume.name, record.name)
        assert engine.fsck() == []
        return expected
    finally:
        engine.close()


def _fill(engine: EngineSubject, rng: random.Random) -> None:
    engine.create_volume("data")
    engine.create_volume("models")
    for number in range(12):
        directory = b"d%d" % (number % 3)
        if number < 3:
            engine.make("data", (directory,), DIRECTORY, 0o755)
        for size in (rng.randrange(1, 100), rng.randrange(1000, 30_000)):
            name = (directory, b"file-%d-%d" % (number, size))
            engine.make("data", name, FILE, 0o644)
            engine.write("data", name, 0, rng.randbytes(size))
    engine.make("data", (b"large",), FILE, 0o600)
    engine.write("data", (b"large",), 0, rng.randbytes(300_000))
    engine.make("data", (b"text",), FILE, 0o644)
    engine.write("data", (b"text",), 0, b"the same line again and again\n" * 5000)
    engine.make("data", (b"link",), SYMLINK, 0o777, b"d0/" + b"x" * 60)
    engine.setxattr("data", (b"large",), b"user.long", rng.randbytes(5000), create=False, replace=False)
    engine.link("data", (b"text",), (b"d1", b"hard"))
    engine.snapshot("data", "first")
    engine.tag("data", "first", "v1", move=False)
    engine.write("data", (b"large",), 200_000, rng.randbytes(4096))
    engine.truncate("data", (b"text",), 1000)
    engine.make("data", (b"sparse",), FILE, 0o644)
    engine.write("data", (b"sparse",), 10_000_000, b"end")
    engine.snapshot("data", "second")
    engine.clone("data", "first", "copy")
    engine.write("copy", (b"large",), 0, rng.randbytes(100_000))
    engine.unlink("copy", (b"link",))
    engine.snapshot("copy", "changed")
    engine.make("data", (b"gone",), FILE, 0o644)
    engine.write("data", (b"gone",), 0, rng.randbytes(150_000))
    engine.snapshot("data", "deleted")
    engine.unlink("data", (b"gone",))
    commit = GitCommit(commit="0123456789abcdef0123456789abcdef01234567", branch="main", subject="a commit")
    engine.run(lambda: engine.service.create_snapshot(volume="data", git=commit, message="of a commit"))
    engine.remove_snapshot("data", "deleted")
    engine.make("models", (b"weights",), FILE, 0o644)
    engine.write("models", (b"weights",), 0, rng.randbytes(400_000))
    engine.snapshot("models", "epoch-1")
    engine.write("models", (b"weights",), 100_000, rng.randbytes(100_000))
    engine.snapshot("models", "epoch-2")
    engine.make("data", (b"new",), DIRECTORY, 0o755)
    engine.make("data", (b"new", b"unsaved"), FILE, 0o644)


def copy(store: FilePath, goal: FilePath) -> None:
    """A copy that keeps holes."""
    subprocess.run(["cp", "-a", "--reflink=auto", "--sparse=always", store, goal], check=True)


# -- damage

Damage = Callable[[random.Random, bytearray], None]


def _byte(rng: random.Random, data: bytearray) -> None:
    data[rng.randrange(len(data))] ^= rng.randrange(1, 256)


def _bit(rng: random.Random, data: bytearray) -> None:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _range(rng: random.Random, data: bytearray) -> tuple[int, int]:
    size = min(len(data), rng.choice([2, 16, 100, 512, PAGE_BYTES, 2 * PAGE_BYTES]))
    start = rng.randrange(len(data) - size + 1)
    if size >= PAGE_BYTES:
        start -= start % PAGE_BYTES
    return start, start + size


def _zero(rng: random.Random, data: bytearray) -> None:
    start, end = _range(rng, data)
    data[start:end] = bytes(end - start)


def _noise(rng: random.Random, data: bytearray) -> None:
    start, end = _range(rng, data)
    data[start:end] = rng.randbytes(end - start)


def _swap(rng: random.Random, data: bytearray) -> None:
    pages = len(data) // PAGE_BYTES
    if pages < 2:
        return
    one, other = (page * PAGE_BYTES for page in rng.sample(range(pages), 2))
    first = bytes(data[one : one + PAGE_BYTES])
    data[one : one + PAGE_BYTES] = data[other : other + PAGE_BYTES]
    data[other : other + PAGE_BYTES] = first


def _truncate(rng: random.Random, data: bytearray) -> None:
    del data[rng.randrange(len(data)) :]


IN_PLACE: Final[dict[str, Damage]] = {
    "byte": _byte, "bit": _bit, "zeros": _zero, "noise": _noise, "pages swapped": _swap, "truncated": _truncate
}  # fmt: skip
MISSING: Final = "missing"


def damage(store: FilePath, seed: int) -> tuple[str, str]:
    """Damage one file of a store, by the seed; returns (file's name in the store, kind of damage)."""
    rng = random.Random(seed)
    names = sorted(file.name for file in (store / layout.SEGMENTS).glob("*.seg"))
    name = rng.choices(
        [INDEX_FILE, f"{layout.SEGMENTS}/{rng.choice(names)}", layout.MARKER, "index/committed"], [50, 45, 4, 1]
    )[0]
    kind = rng.choices([*IN_PLACE, MISSING], [24, 24, 15, 15, 12, 8, 2])[0]
    file = store / name
    if kind == MISSING:
        file.unlink()
        return name, kind
    size = file.stat().st_size
    used = min(size, _data_end(file))
    with file.open("r+b") as opened:
        old = opened.read(used)
        for _ in range(1000):
            new = bytearray(old)
            IN_PLACE[kind](rng, new)
            if new != old:
                break
            if kind == "pages swapped" and used < 2 * PAGE_BYTES:
                kind = "byte"
        opened.seek(0)
        opened.write(new)
        if len(new) < used:
            opened.truncate(len(new))
    return name, kind


def _data_end(file: FilePath) -> int:
    """Where the last data of a file ends, which may be followed by a hole."""
    fd = os.open(file, os.O_RDONLY)
    try:
        end = place = 0
        size = os.fstat(fd).st_size
        while place < size:
            try:
                start = os.lseek(fd, place, os.SEEK_DATA)
            except OSError:
                break
            end = place = os.lseek(fd, start, os.SEEK_HOLE)
        return end
    finally:
        os.close(fd)


# -- what becomes of it


class Look:
    """Reads everything of a store that may be damaged; what is shown must be what was stored."""

    def __init__(self, expected: Expected) -> None:
        self._expected = expected
        self.found: list[str] = []
        self.wrong: list[str] = []

    async def everything(self, lake: Lake, wanted: set[tuple[str, str]] | None = None) -> None:
        """All volumes and snapshots (of ``wanted``, if given)."""
        shown: set[tuple[str, str]] = set()
        complete = True
        for volume in lake.volumes.all():
            shown.add((volume.name, ""))
            await self._tree(lake, (volume.name, ""), volume.head, volume.root)
            try:
                records = lake.snapshots.all(volume)
                names = {record.name for record in records} | {""}
                for record in records:
                    shown.add((volume.name, record.name))
                    if lake.snapshots.resolve(volume, record.name).epoch != record.epoch:
                        self.wrong.append(f"{volume.name}@{record.name} is another one by its name")
                    await self._tree(lake, (volume.name, record.name), lake.snapshots.view(record), record.root)
                if set(lake.snapshots.names(volume)) | {""} != names:
                    self.wrong.append(f"{volume.name}: names and snapshots differ")
            except SnapfsError as error:
                complete = False
                self.found.append(error.message)
        expected = self._expected.keys() if wanted is None else wanted
        if complete:
            self.wrong += [f"{address} is not there" for address in sorted(expected - shown)]
        self.wrong += [f"{address} should not be there" for address in sorted(shown - self._expected.keys())]

    async def _tree(self, lake: Lake, address: tuple[str, str], view: View, root: Ino) -> None:
        expected = self._expected.get(address)
        if expected is None:
            return
        inos: dict[Path, Ino] = {(): root}
        stack: list[Path] = [()]
        torn: set[Path] = set()
        while stack:
            path = stack.pop()
            try:
                for _, name, ino, type_bits in list(lake.files.readdir(view, inos[path], 0)):
                    inos[*path, name] = ino
                    if type_bits == stat.S_IFDIR:
                        stack.append((*path, name))
            except SnapfsError as error:
                self.found.append(error.message)
                torn.add(path)
        for path in expected.keys() - inos.keys():
            if not any(path[: len(above)] == above for above in torn):
                self.wrong.append(f"{address}: {path} is not there")
        links: dict[Ino, list[Path]] = {}
        for path, ino in inos.items():
            links.setdefault(ino, []).append(path)
        for path, ino in inos.items():
            if path not in expected:
                self.wrong.append(f"{address}: {path} should not be there")
                continue
            try:
                one = await _shown(lake, view, ino, tuple(sorted(links[ino])))
            except SnapfsError as error:
                self.found.append(error.message)
                continue
            wanted = expected[path]
            if torn:
                one = _with_links(one, wanted)
            if one != wanted:
                self.wrong.append(f"{address}: {path} shows something else")


def _with_links(one: Shown, wanted: Shown) -> Shown:
    """With the links that are wanted: not all of them could be read."""
    return Shown(one.kind, one.mode, one.mtime_ns, one.content, one.xattrs, wanted.links)


async def _shown(lake: Lake, view: View, ino: Ino, links: tuple[Path, ...]) -> Shown:
    files = lake.files
    inode = files.getattr(view, ino)
    kind = KINDS[stat.S_IFMT(inode.mode)]
    content = b""
    if kind == FILE:
        content = bytes(await files.read(view, ino, 0, inode.size + 1))
    elif kind == SYMLINK:
        content = files.readlink(view, ino)
    xattrs = sorted((name, files.getxattr(view, ino, name)) for name in files.listxattr(view, ino))
    return Shown(
        kind=kind, mode=stat.S_IMODE(inode.mode), mtime_ns=0 if kind == DIRECTORY else inode.mtime_ns,
        content=content, xattrs=tuple(xattrs), links=links,
    )  # fmt: skip


def look(store: FilePath, expected: Expected) -> Verdict:
    """Open, read everything, fsck."""
    try:
        engine = EngineSubject(store)
    except SnapfsError as error:
        return Verdict(FOUND, f"open: {error.message}")
    eyes = Look(expected)
    try:
        engine.run(lambda: eyes.everything(engine.lake))
        report = engine.run(engine.service.check_store)
    except SnapfsError as error:
        eyes.found.append(error.message)
        report = None
    finally:
        engine.close()
    if eyes.wrong:
        return Verdict(BAD, eyes.wrong[0])
    if report is not None and not report.findings:
        return Verdict(BAD, f"fsck misses: {eyes.found[0]}") if eyes.found else Verdict(HARMLESS, "")
    if eyes.found:
        return Verdict(FOUND, f"read: {eyes.found[0]}")
    return Verdict(FOUND, f"fsck: {report.findings[0].code}" if report else "fsck")


def look_after_rebuild(store: FilePath, expected: Expected) -> Verdict:
    """Rebuild the index, then look: what comes back is as it was, but for blocks that are damaged themselves."""
    try:
        report = rebuild.rebuild(store)
    except SnapfsError as error:
        return Verdict(FOUND, f"rebuild: {error.message}")
    wanted = {tuple(address.split("@", 1)) for address in report.plan.snapshots}
    shown: Expected = {address: tree for address, tree in expected.items() if address[1]}
    for volume, name in report.plan.heads.items():
        shown[volume, ""] = expected[volume, name]
        wanted.add((volume, ""))
    eyes = Look(shown)
    engine = EngineSubject(store)
    try:
        engine.run(lambda: eyes.everything(engine.lake, wanted))  # type: ignore[arg-type]
        findings = engine.fsck()
    finally:
        engine.close()
    if eyes.wrong:
        return Verdict(BAD, eyes.wrong[0])
    missing = sorted(address for address in expected if address[1] and address not in wanted)
    how = f"{len(missing)} lost {missing}, {len(report.plan.lost)} known, reads {eyes.found[:1]}, fsck {findings[:1]}"
    whole = not missing and not eyes.found and not findings
    return Verdict(HARMLESS if whole else FOUND, "" if whole else how)


def examine(store: FilePath, expected: Expected, looking: Callable[[FilePath, Expected], Verdict] = look) -> Verdict:
    """``looking`` at the store, in a process of its own."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            signal.alarm(EXAMINE_SECONDS_MAX)
            try:
                verdict = looking(store, expected)
            except BaseException:
                verdict = Verdict(BAD, traceback.format_exc())
            with os.fdopen(writing, "wb") as file:
                file.write(msgspec.json.encode(verdict))
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        said = file.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return Verdict(BAD, f"ended by signal {os.WTERMSIG(status)}")
    return msgspec.json.decode(said, type=Verdict)


def main() -> int:
    """``python -m snapfs.testing.corrupting DIRECTORY FIRST COUNT``: damage copies, and print what becomes of them."""
    place, first, count = FilePath(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    store, kept = place / "store", place / "expected"
    if not store.exists():
        kept.write_bytes(pickle.dumps(build(store)))
    expected: Any = pickle.loads(kept.read_bytes())
    for seed in range(first, first + count):
        for looking in (look, look_after_rebuild)[: 2 if seed % REBUILD_EVERY == 0 else 1]:
            goal = place / f"copy-{seed}"
            copy(store, goal)
            name, kind = damage(goal, seed)
            verdict = examine(goal, expected, looking)
            print(seed, looking.__name__, name.split("/")[0], kind, verdict.what, verdict.how, sep="\t", flush=True)
            subprocess.run(["rm", "-r", goal], check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
