"""A damaged index: what heads had since their last snapshot, volumes without one and snapshots that were not yet sealed
come back, but for what lay in the damaged pages; and nothing else is shown in its place."""

from __future__ import annotations

import random
import shutil
import stat
from pathlib import Path

import pytest

from snapfs import api
from snapfs.api import CheckReport
from snapfs.errors import Corrupt
from snapfs.format import keys
from snapfs.format import segments as fmt
from snapfs.store import layout, verify
from snapfs.store.index import TABLES, items
from snapfs.store.pages import DamagedIndex
from snapfs.store.scan import segment_file, segment_files
from snapfs.testing.corrupting import Expected, build, copy
from snapfs.testing.engine import EngineSubject
from snapfs.testing.trees import DIRECTORY, FILE, Tree
from snapfs.types import PAGE_BYTES, SegmentId
from snapfs.volume.repair.run import Plan, repairing

INDEX = "index/data.mdb"
UNSEALED = {("data", "late"), ("data", "later")}


def fill(path: Path) -> Expected:
    """Heads with files that no snapshot has, a volume without one, a clone, snapshots that wait to be sealed."""
    build(path)
    rng = random.Random(3)
    engine = EngineSubject(path)
    try:
        engine.create_volume("lone")
        engine.make("lone", (b"dir",), DIRECTORY, 0o755)
        for number in range(30):
            name = (b"dir", b"file-%d" % number)
            engine.make("lone", name, FILE, 0o600)
            engine.write("lone", name, 0, rng.randbytes(2000))
        engine.write("data", (b"text",), 500, b"changed")
        engine.snapshot("data", "late")
        engine.unlink("data", (b"link",))
        engine.rename("data", (b"d1", b"hard"), (b"d2", b"moved"), noreplace=True, exchange=False)
        engine.snapshot("data", "later")
        engine.clone("data", "late", "twig")
        engine.truncate("data", (b"large",), 150_000)
        engine.write("data", (b"large",), 70_000, rng.randbytes(4096))
        engine.truncate("data", (b"text",), 0)
        engine.write("data", (b"text",), 0, b"anew")
        engine.setxattr("data", (b"text",), b"user.new", b"value", create=False, replace=False)
        engine.write("twig", (b"large",), 0, b"twig")
        engine.make("models", (b"fresh",), FILE, 0o600)
        engine.write("models", (b"fresh",), 10, rng.randbytes(5000))
        for _ in range(2):  # the last two commits show the same: one of them is lost with a meta page
            engine.set_mtime("lone", (b"dir", b"file-0"), 12345)
            engine.flush()
        assert engine.fsck() == []
        return shown(engine)
    finally:
        engine.close()


def shown(engine: EngineSubject) -> Expected:
    found: Expected = {}
    for volume in engine.lake.volumes.all():
        found[volume.name, ""] = engine.tree(volume.name)
        for record in engine.lake.snapshots.all(volume):
            found[volume.name, record.name] = engine.tree(volume.name, record.name)
    return found


def overwrite(store: Path, page: int, data: bytes) -> None:
    with (store / INDEX).open("r+b") as file:
        file.seek(page * PAGE_BYTES)
        file.write(data)


def noise(store: Path, *pages: int, seed: int = 1) -> None:
    rng = random.Random(seed)
    for page in pages:
        overwrite(store, page, rng.randbytes(PAGE_BYTES))


def repair(store: Path) -> tuple[Plan, CheckReport]:
    """As it was planned; and what fsck says afterwards."""
    with repairing(store) as one:
        planned, done = one.plan(), one.carry_out()
        assert planned.rebuild
        assert [a for a in done.actions if a.code == "rebuild"] == planned.actions
        return done, one.check()


def lines(plan: Plan) -> str:
    return "\n".join(action.message for action in plan.actions if action.code == "rebuild")


def leaves(store: Path, table: str, start: bytes = b"", stop: bytes | None = None) -> list[int]:
    index = DamagedIndex(store / layout.INDEX)
    try:
        assert not index.notes
        return list(index.leaves(table, start, stop))
    finally:
        index.close()


def structure_pages(store: Path) -> dict[str, int]:
    """Pages that hold no records: where trees begin, the list of tables, that of free pages, the newer meta page."""
    index = DamagedIndex(store / layout.INDEX)
    roots = {table: index.root(table) for table in ("tree", "changes")}
    index.close()
    assert all(root not in leaves(store, table) for table, root in roots.items())
    newest = verify.sound_metas(store / INDEX)[0]
    return roots | {"list": newest.tables_root, "free": newest.free_root, "meta": newest.transaction % 2}


# -- nothing that heads or snapshots show is lost


@pytest.mark.parametrize("what", ["tree", "changes", "list", "free", "meta"])
def test_a_page_that_holds_no_records(store: Path, expected: Expected, what: str) -> None:
    noise(store, structure_pages(store)[what])
    _, report = repair(store)
    assert report.findings == []
    engine = EngineSubject(store)
    assert shown(engine) == expected
    engine.seal()
    engine.check_seals()
    assert engine.fsck() == []
    engine.close()


EMPTY = {"freed", "orphans", "reap", "requests", "requests_by_time", "unsealed", "emptied", "trash", "unaccounted"}
REDUNDANT = sorted(set(TABLES) - EMPTY - {"tree"})


@pytest.mark.parametrize("table", REDUNDANT)
def test_all_of_a_table(store: Path, expected: Expected, table: str) -> None:
    """What a table says besides the tree can be had from others."""
    noise(store, *leaves(store, table))
    done, report = repair(store)
    assert report.findings == []
    assert "head of data: " in lines(done)
    assert "could not be read" not in lines(done)
    engine = EngineSubject(store)
    assert shown(engine) == expected
    engine.close()


def test_numbers_go_on(store: Path, expected: Expected) -> None:
    """New volumes, snapshots and files do not take numbers that salvaged ones have; events go on."""
    before = EngineSubject(store)
    events = before.lake.core.events.durable
    before.close()
    noise(store, structure_pages(store)["tree"])
    repair(store)
    engine = EngineSubject(store)
    assert engine.lake.core.events.durable > events
    for volume in ("lone", "data", "twig"):
        engine.make(volume, (b"after",), FILE, 0o644)
        engine.write(volume, (b"after",), 0, b"after")
        engine.snapshot(volume, "after")
    engine.clone("lone", "after", "other")
    engine.reclaim()
    assert engine.fsck() == []
    engine.check_seals()
    now = shown(engine)
    assert all(now[address] == expected[address] for address in expected if address[1])
    for (volume, snapshot), tree in expected.items():
        if not snapshot:
            assert all(now[volume, ""][path] == one for path, one in tree.items() if path)
    for volume in [volume.name for volume in engine.lake.volumes.all()]:
        engine.remove_volume(volume, snapshots=True)
    engine.reclaim()
    assert engine.stored_bytes() == 0
    assert engine.fsck() == []
    engine.close()


# -- records are lost


def read(engine: EngineSubject, volume: str, snapshot: str, tree: Tree, traceless: bool) -> tuple[int, int]:
    """(files read, files that cannot be): what can be read of a file is what was stored.

    Args:
        traceless: records may be lost without a trace: a name may be back that was removed, but no file's older
            bytes.
    """
    lake = engine.lake
    found = lake.volumes.get(volume)
    view, root = found.head, found.root
    if snapshot:
        record = lake.snapshots.resolve(found, snapshot)
        view, root = lake.snapshots.view(record), record.root
    good = bad = 0
    stack: list[tuple[tuple[bytes, ...], int]] = [((), root)]
    while stack:
        path, ino = stack.pop()
        for _, name, child, kind in list(lake.files.readdir(view, ino, 0)):  # type: ignore[arg-type]
            where = (*path, name)
            if where[0].startswith(b"lost+found"):
                continue
            assert where in tree or traceless, f"{volume}@{snapshot}: {where!r} was not there"
            if kind == stat.S_IFDIR:
                stack.append((where, child))
            elif kind == stat.S_IFREG:
                try:
                    size = lake.files.getattr(view, child).size
                    content = engine.run(lambda v=view, i=child, s=size: lake.files.read(v, i, 0, s + 1))  # type: ignore[misc]
                except Corrupt:
                    bad += 1
                    continue
                if where not in tree:  # a link that was removed, to a file that is there
                    assert content in {one.content for one in tree.values()}, f"{volume}@{snapshot}: {where!r} is old"
                    continue
                assert content == tree[where].content, f"{volume}@{snapshot}: {where!r} shows something else"
                good += 1
    return good, bad


def check_losses(store: Path, expected: Expected, done: Plan, report: CheckReport) -> tuple[int, int]:
    """Sealed snapshots are whole; the rest is there, or cannot be read, or is not there."""
    traceless = "others may be lost" in lines(done)
    assert {finding.code for finding in report.findings} <= {"block-lost"}
    engine = EngineSubject(store)
    try:
        good = bad = 0
        there = {volume.name: set(engine.listed(volume.name)) for volume in engine.lake.volumes.all()}
        for (volume, snapshot), tree in expected.items():
            told = [line for line in lines(done).splitlines() if line.startswith(f"head of {volume}: ")]
            if snapshot and (volume, snapshot) not in UNSEALED:
                assert engine.tree(volume, snapshot) == tree
            elif not snapshot and volume in there and there[volume] and "back" not in "".join(told):  # and it says so
                assert engine.tree(volume) in [expected[address] for address in expected if address[0] == volume]
            elif volume in there and (not snapshot or snapshot in there[volume]):
                read_good, read_bad = read(engine, volume, snapshot, tree, traceless)
                good, bad = good + read_good, bad + read_bad
        return good, bad
    finally:
        engine.close()


def test_a_leaf_of_the_tree(store: Path, expected: Expected) -> None:
    """What lay in it is lost, and said to be; all other files are whole, and none shows what it was before."""
    files = sum(one.kind == FILE for (_, name), tree in expected.items() if not name for one in tree.values())
    for page in leaves(store, "tree")[::3]:
        goal = store.with_name(f"copy-{page}")
        copy(store, goal)
        noise(goal, page)
        done, report = repair(goal)
        good, bad = check_losses(goal, expected, done, report)
        assert good > files // 2
        assert not bad or "records could not be read" in lines(done)
        engine = EngineSubject(goal)
        assert {volume for volume, _ in expected} == {volume.name for volume in engine.lake.volumes.all()}
        for volume in [volume.name for volume in engine.lake.volumes.all()]:
            engine.remove_volume(volume, snapshots=True)
        engine.reclaim()
        assert engine.fsck() == []
        engine.close()
        shutil.rmtree(goal)


def damaged_at_random(store: Path, expected: Expected, seed: int) -> None:
    rng = random.Random(seed)
    pages = max(meta.last_page for meta in verify.sound_metas(store / INDEX)) + 1
    goal = store.with_name(f"copy-{seed}")
    copy(store, goal)
    noise(goal, *rng.sample(range(2, pages), rng.randrange(1, 4)), seed=seed)
    with repairing(goal) as one:
        done, report = one.carry_out(), one.check()
    check_losses(goal, expected, done, report)
    shutil.rmtree(goal)


def test_pages_at_random(store: Path, expected: Expected) -> None:
    for seed in range(5):
        damaged_at_random(store, expected, seed)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_many_pages_at_random(store: Path, expected: Expected) -> None:
    for seed in range(5, 1000):
        damaged_at_random(store, expected, seed)


def test_records_lost_without_a_trace(store: Path, expected: Expected) -> None:
    """A leaf of the tree and the list of changes, both: no file is read whose newest records may be missing."""
    engine = EngineSubject(store)
    volume = engine.lake.volumes.get("data")
    ino = engine.lake.files.lookup(volume.head, volume.root, b"text").ino
    engine.close()
    noise(store, *leaves(store, "tree", keys.u64(ino), keys.u64(ino + 1)), *leaves(store, "changes"))
    done, report = repair(store)
    assert "others may be lost" in lines(done)
    _, bad = check_losses(store, expected, done, report)
    assert bad
    engine = EngineSubject(store)
    volume = engine.lake.volumes.get("data")
    with pytest.raises(Corrupt):
        engine.run(lambda: engine.lake.files.read(volume.head, ino, 0, 10))
    engine.close()


def test_a_block_that_no_segment_holds(store: Path, expected: Expected) -> None:
    """A file of a head whose bytes are gone cannot be read; it never has others."""
    uuid = bytes.fromhex(layout.read_marker(store).uuid.replace("-", ""))
    content = expected["models", ""][(b"fresh",)].content[10:]
    cut = 0
    for number in segment_files(store / layout.SEGMENTS):
        file = segment_file(store / layout.SEGMENTS, number)
        at = file.read_bytes().find(content[:2000])
        if at > 0:
            fmt.decode_block_header(file.read_bytes()[at - fmt.BLOCK_HEADER_BYTES : at], uuid, number,
                                    at - fmt.BLOCK_HEADER_BYTES)  # fmt: skip
            with file.open("r+b") as opened:
                opened.seek(at - fmt.BLOCK_HEADER_BYTES)
                opened.write(bytes(fmt.BLOCK_HEADER_BYTES))
            cut += 1
    assert cut == 1
    noise(store, structure_pages(store)["tree"])
    _, report = repair(store)
    assert {finding.code for finding in report.findings} == {"block-lost"}
    engine = EngineSubject(store)
    assert engine.tree("lone") == expected["lone", ""]
    with pytest.raises(Corrupt):
        engine.tree("models")
    engine.close()


# -- an old index, an index of which nothing is left


def test_an_old_index_does_not_replace_what_is_newer(store: Path, expected: Expected) -> None:
    old = store.with_name("old")
    copy(store / layout.INDEX, old)
    engine = EngineSubject(store)
    engine.checkout("models", "epoch-1", api.Save.DISCARD)
    engine.make("models", (b"other",), FILE, 0o644)
    engine.snapshot("models", "other")
    engine.snapshot("data", "newest")
    engine.write("data", (b"text",), 0, b"newer")
    engine.reclaim()
    engine.snapshot("data", "last")
    engine.reclaim()
    last, other = engine.tree("data", "last"), engine.tree("models")
    engine.close()
    (old / verify.WITNESS).unlink()
    shutil.copy(store / layout.INDEX / verify.WITNESS, old / verify.WITNESS)
    shutil.rmtree(store / layout.INDEX)
    copy(old, store / layout.INDEX)
    done, report = repair(store)
    codes = {finding.code for finding in report.findings}
    assert codes <= {"block-lost", "block-hash"}  # of what was discarded: its space was given back
    engine = EngineSubject(store)
    assert engine.tree("models") == other
    salvaged = [name for name in engine.listed("models") if name.startswith("salvaged-")]
    assert len(salvaged) == 1
    engine.remove_snapshot("models", salvaged[0])
    engine.reclaim()
    assert engine.fsck() == []
    assert engine.tree("data") == last
    assert engine.tree("data", "last") == last
    assert engine.tree("lone") == expected["lone", ""]
    assert "head of lone" in lines(done)
    engine.close()


def test_a_head_whose_place_nothing_tells(store: Path, expected: Expected) -> None:
    """It is told to be lost; no place is guessed."""
    noise(store, *leaves(store, "epochs"), *leaves(store, "events"))
    done, report = repair(store)
    assert report.findings == []
    assert "data: nothing says what its " in lines(done)
    check_losses(store, expected, done, report)
    engine = EngineSubject(store)
    assert engine.tree("models") == expected["models", "epoch-2"]
    engine.close()


def test_a_truncated_index(store: Path, expected: Expected) -> None:
    size = (max(meta.last_page for meta in verify.sound_metas(store / INDEX)) + 1) * PAGE_BYTES
    for part in (9, 6, 3, 0):
        goal = store.with_name(f"copy-{part}")
        copy(store, goal)
        with (goal / INDEX).open("r+b") as file:
            file.truncate(size * part // 10)
        done, report = repair(goal)
        check_losses(goal, expected, done, report)
        shutil.rmtree(goal)


def test_nothing_is_left(store: Path, expected: Expected) -> None:
    """Only what was sealed comes back."""
    noise(store, 0, 1)
    done, report = repair(store)
    assert report.findings == []
    assert "volumes without a snapshot" in lines(done)
    engine = EngineSubject(store)
    assert {volume.name for volume in engine.lake.volumes.all()} == {"data", "models", "copy"}
    assert engine.tree("models") == expected["models", "epoch-2"]
    engine.close()


# -- what nobody names any more


def test_no_segment_goes_while_the_old_index_is_kept(store: Path) -> None:
    noise(store, structure_pages(store)["tree"])
    repair(store)
    unknown = segment_file(store / layout.SEGMENTS, SegmentId(max(segment_files(store / layout.SEGMENTS)) + 1))
    unknown.write_bytes(b"what only the old index knows")

    def write_some() -> None:
        engine = EngineSubject(store)
        engine.write("lone", (b"dir", b"file-1"), 0, random.Random(unknown.exists()).randbytes(1000))
        engine.reclaim()
        assert engine.fsck() == []
        engine.close()

    write_some()
    write_some()
    assert unknown.exists()
    for kept in layout.old_indexes(store):
        shutil.rmtree(kept)
    write_some()
    assert not unknown.exists()


def test_what_is_read_is_what_lmdb_reads(store: Path) -> None:
    engine = EngineSubject(store)
    index = DamagedIndex(store / layout.INDEX)
    with engine.lake.index.reader() as reader:
        for table in TABLES:
            assert dict(index.records(table)) == dict(items(reader, table))
            assert index.gaps(table) == []
    assert index.odd == 0
    index.close()
    engine.close()
