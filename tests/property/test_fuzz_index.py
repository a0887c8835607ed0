"""A store whose index somebody changed with care, checksums and all: whatever is asked of it, the answer is a typed
error or some content; it always ends, and takes no more memory than the store's size can explain."""

from __future__ import annotations

import os
import subprocess
import tempfile
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from snapfs import api
from snapfs.errors import Corrupt, SnapfsError
from snapfs.format import keys, records
from snapfs.service import Service
from snapfs.store import layout
from snapfs.store.index import Index, items
from snapfs.testing.engine import EngineSubject
from snapfs.volume.lake import Lake

QUICK = settings(max_examples=25, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
LONG = settings(max_examples=5_000, deadline=None, suppress_health_check=list(HealthCheck))

MEMORY_BYTES_MAX = 64 << 20
FILES_MAX = 200
"""Looked at in a walk: a directory may have been put into itself."""

TABLES = (
    "tree", "tree", "tree", "tree", "epochs", "volumes", "snapshots", "names", "tags", "created", "blocks", "blocks",
    "dedup", "freed", "segments", "orphans", "reap", "events", "requests", "meta", "changes",
)  # fmt: skip
NUMBERS = st.sampled_from([0, 1, 2, 3, 4, 5, 6, 7, 255, 1 << 16, 1 << 31, 1 << 40, (1 << 63) - 1, (1 << 64) - 1])


@st.composite
def changes(draw: st.DrawFn) -> list[tuple[str, int, Callable[[bytes, bytes], tuple[bytes, bytes | None]]]]:
    """(table, which of its entries, what becomes of key and payload; None: removed)."""
    found = []
    for _ in range(draw(st.integers(1, 3))):
        table, place = draw(st.sampled_from(TABLES)), draw(st.integers(0, 60))
        how = draw(st.integers(0, 6))
        offset, number, junk = draw(st.integers(0, 90)), draw(NUMBERS), draw(st.binary(max_size=80))
        size = draw(st.sampled_from([1, 4, 8]))

        def spoil(data: bytes, offset: int = offset, number: int = number, size: int = size) -> bytes:
            """With a number in it changed, in either order of bytes."""
            at = offset % max(1, len(data) - size + 1)
            order = "big" if offset % 2 else "little"
            return data[:at] + (number % (1 << 8 * size)).to_bytes(size, order) + data[at + size :]  # type: ignore[arg-type]

        def change(
            key: bytes, payload: bytes, how: int = how, junk: bytes = junk, spoil: Callable[[bytes], bytes] = spoil
        ) -> tuple[bytes, bytes | None]:
            if how == 0:
                return key, None
            if how == 1:
                return key, junk or b"\0"
            if how == 2:
                return spoil(key), payload
            if how == 3:
                return key, payload[: len(payload) // 2] or b"\1"
            return key, spoil(payload)

        found.append((table, place, change))
    return found


@pytest.fixture(scope="module")
def whole() -> Iterator[Path]:
    """A store with something of everything."""
    with tempfile.TemporaryDirectory(prefix="snapfs-fuzz-") as directory:
        store = Path(directory) / "store"
        engine = EngineSubject(store)
        engine.create_volume("data")
        for name in (b"f", b"g", b"h"):
            engine.make("data", (name,), "file", 0o644)
            engine.write("data", (name,), 0, os.urandom(70_000) + bytes(10_000))
        engine.make("data", (b"d",), "directory", 0o755)
        engine.make("data", (b"d", b"e"), "directory", 0o755)
        engine.make("data", (b"d", b"e", b"x"), "file", 0o644)
        engine.make("data", (b"l",), "symlink", 0o777, b"f")
        engine.setxattr("data", (b"f",), b"user.x", b"y", create=False, replace=False)
        engine.snapshot("data", "one")
        engine.write("data", (b"f",), 1000, b"changed")
        engine.unlink("data", (b"g",))
        engine.snapshot("data", "two")
        engine.tag("data", "two", "best", move=False)
        engine.clone("data", "one", "copy")
        engine.write("data", (b"h",), 0, b"unsaved")
        engine.remove_snapshot("data", "one")
        engine.flush()
        engine.close()
        yield store


def _spoiled(
    whole: Path, place: Path, wanted: list[tuple[str, int, Callable[..., tuple[bytes, bytes | None]]]]
) -> Path:
    store = place / "store"
    subprocess.run(["rm", "-rf", store], check=True)
    subprocess.run(["cp", "-a", "--sparse=always", whole, store], check=True)
    index = Index(store / layout.INDEX)
    for table, which, change in wanted:
        entries = list(items(index, table))
        if entries:
            key, payload = entries[which % len(entries)]
            new, content = change(key, payload)
            index.delete(table, key)
            if content is not None and 0 < len(new) <= 500:
                index.put(table, new, content)
    index.commit()
    index.close()
    return store


async def _refusing(act: Callable[[], Awaitable[object]]) -> None:
    """Whether it is done or refused: it is nothing else, and it ends."""
    try:
        with trio.fail_after(30):
            await act()
    except SnapfsError:
        pass


async def _walk(lake: Lake, volume: str, snapshot: str) -> None:
    owner = lake.volumes.get(volume)
    view, ino = owner.head, owner.root
    if snapshot:
        record = lake.snapshots.resolve(owner, snapshot)
        view, ino = lake.snapshots.view(record), record.root
    stack, seen = [ino], 0
    while stack and seen < FILES_MAX:
        directory = stack.pop()
        for _, name, child, _ in lake.files.readdir(view, directory, 0):
            seen += 1
            stack.append(child)

            async def look(child: object = child, name: bytes = name, directory: object = directory) -> None:
                lake.files.lookup(view, directory, name)  # type: ignore[arg-type]
                await lake.files.read(view, child, 0, 100_000)  # type: ignore[arg-type]

            await _refusing(look)
            if seen >= FILES_MAX:
                return


async def _everything(store: Path) -> None:
    lake = Lake.open(store)
    try:
        service = Service(lake)

        async def stream(volume: str) -> None:
            async for _ in service.status(volume=volume):
                pass

        async def difference() -> None:
            async for _ in service.diff(volume="data", snapshot="two", other_volume="copy"):
                pass

        discard = api.Save.DISCARD
        for act in (
            lambda: service.check_store(),
            lambda: service.list_volumes(),
            lambda: service.list_snapshots(volume="data"),
            lambda: service.list_ancestry(volume="copy"),
            lambda: service.get_store(),
            lambda: _walk(lake, "data", ""),
            lambda: _walk(lake, "data", "two"),
            lambda: _walk(lake, "copy", ""),
            lambda: stream("data"),
            lambda: stream("copy"),
            difference,
            lambda: service.restore(volume="data", snapshot="two", paths=["f", "d"]),
            lambda: service.restore(volume="copy", snapshot="", paths=["f"]),
            lambda: service.create_snapshot(volume="data", name="three"),
            lambda: service.checkout(volume="data", snapshot="two", unsaved=discard),
            lambda: service.clone(volume="data", snapshot="best", name="more"),
            lambda: service.delete_volume(name="copy", force=True),
            lambda: service.delete_snapshot(volume="data", snapshot="two"),
            lambda: lake.reclaim_all(),
            lambda: lake.sync(),
        ):
            await _refusing(act)
    finally:
        lake.close()


def _check(whole: Path, place: Path, wanted: list[tuple[str, int, Callable[..., tuple[bytes, bytes | None]]]]) -> None:
    store = _spoiled(whole, place, wanted)
    tracemalloc.start()
    try:
        trio.run(_refusing, lambda: _everything(store))
        assert tracemalloc.get_traced_memory()[1] < MEMORY_BYTES_MAX
    finally:
        tracemalloc.stop()


def test_any_change(whole: Path, tmp_path: Path) -> None:
    QUICK(given(changes())(lambda wanted: _check(whole, tmp_path, wanted)))()


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_any_change_for_long(whole: Path, tmp_path: Path) -> None:
    LONG(given(changes())(lambda wanted: _check(whole, tmp_path, wanted)))()


def test_what_is_not_changed_is_sound(whole: Path, tmp_path: Path) -> None:
    """So the others begin with a store in which all can be done."""
    store = _spoiled(whole, tmp_path, [])
    engine = EngineSubject(store)
    assert engine.fsck() == []

    engine.close()
    trio.run(_everything, store)


def test_a_directory_in_itself(whole: Path, tmp_path: Path) -> None:
    """Restoring it would never end."""
    store = _spoiled(whole, tmp_path, [])
    lake = Lake.open(store)
    try:
        volume = lake.volumes.get("data")
        record = lake.snapshots.resolve(volume, "two")
        view = lake.snapshots.view(record)
        above = lake.files.lookup(view, record.root, b"d")
        below = lake.files.lookup(view, above.ino, b"e")
        entry = keys.dirent(below.ino, b"again", lake.core.seed)
        lake.core.tree.put_at(record.epoch, entry, records.encode_dirent(above.ino, above.mode))
        service = Service(lake)

        async def restore() -> None:
            await service.restore(volume="data", snapshot="two", paths=["d"])

        with pytest.raises(Corrupt, match="two places"):
            trio.run(restore)
    finally:
        lake.close()
