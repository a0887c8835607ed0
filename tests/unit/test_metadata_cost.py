"""How often metadata operations go to the index, and that what they leave out was not needed."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest

from snapfs.errors import NotFound, ReadOnly
from snapfs.format import keys
from snapfs.format.records import Inode
from snapfs.store.blocks import digest
from snapfs.store.index import Index, items
from snapfs.testing.engine import EngineSubject
from snapfs.types import Ino
from snapfs.versions.keyspace import Keyspace
from snapfs.volume.files import Files
from snapfs.volume.volumes import Volume


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Calls of the index's doors since it was last cleared."""
    found: Counter[str] = Counter()
    for owner, name in (
        (Index, "put"), (Index, "put_new"), (Index, "delete"), (Keyspace, "find"), (Keyspace, "find_below"),
    ):  # fmt: skip
        monkeypatch.setattr(owner, name, _counted(owner, name, found))
    return found


def _counted(owner: type, name: str, found: Counter[str]) -> object:
    method = getattr(owner, name)

    def call(*arguments: object, **named: object) -> object:
        found[name] += 1
        return method(*arguments, **named)

    return call


@pytest.fixture
def place(engine: EngineSubject) -> tuple[Files, Volume]:
    volume = engine.lake.volumes.get("data")
    return engine.lake.files, volume


def _closed(_: Ino) -> bool:
    return False


def _make(files: Files, volume: Volume, name: bytes) -> Inode:
    return files.mknod(volume.head, volume.root, name, mode=0o100644, uid=0, gid=0)


def test_what_was_read_is_not_read_again(place: tuple[Files, Volume], calls: Counter[str]) -> None:
    files, volume = place
    inode = _make(files, volume, b"new")
    calls.clear()
    assert files.getattr(volume.head, inode.ino) == inode
    assert calls == {}
    assert files.lookup(volume.head, volume.root, b"new") == inode
    with pytest.raises(NotFound):
        files.lookup(volume.head, volume.root, b"absent")
    assert calls == {"find": 2}  # the two entries


def test_changes_of_a_new_head_look_for_nothing_older(place: tuple[Files, Volume], calls: Counter[str]) -> None:
    files, volume = place
    _make(files, volume, b"one")
    calls.clear()
    files.rename(volume.head, volume.root, b"one", volume.root, b"two", is_open=_closed)
    assert calls == {"find": 2, "delete": 2, "put_new": 2, "put": 2}  # the two attributes are there to be replaced
    calls.clear()
    files.unlink(volume.head, volume.root, b"two", is_open=_closed)
    assert calls == {"find": 1, "delete": 3, "put": 1}


def test_setting_what_is_so_already_writes_nothing(place: tuple[Files, Volume], calls: Counter[str]) -> None:
    files, volume = place
    inode = _make(files, volume, b"new")
    calls.clear()
    same = files.setattr(volume.head, inode.ino, mtime_ns=inode.mtime_ns, ctime_ns=inode.ctime_ns)
    assert same == inode
    assert calls == {}
    changed = files.setattr(volume.head, inode.ino, mtime_ns=inode.mtime_ns + 1, ctime_ns=inode.ctime_ns)
    assert changed.mtime_ns == inode.mtime_ns + 1
    assert calls == {"put": 1}


def test_times_alone_are_set_as_with_anything_else(
    place: tuple[Files, Volume], engine: EngineSubject, calls: Counter[str]
) -> None:
    files, volume = place
    head = volume.head
    one, two = _make(files, volume, b"one"), _make(files, volume, b"two")
    record = engine.lake.snapshots.freeze(volume, name="before")
    for mtime_ns, ctime_ns in ((7, 8), (7, 9), (6, 9), (7, 8), (7, 8)):
        plain = files.setattr(head, one.ino, mtime_ns=mtime_ns, ctime_ns=ctime_ns)
        quick = files.set_times(head, two.ino, mtime_ns=mtime_ns, ctime_ns=ctime_ns)
        assert quick == msgspec.structs.replace(plain, ino=two.ino, btime_ns=two.btime_ns, atime_ns=two.atime_ns)
        assert files.getattr(head, two.ino) == quick
    calls.clear()
    assert files.set_times(head, two.ino, mtime_ns=7, ctime_ns=8) == quick
    assert calls == {}  # the kernel sends times that it had from us
    with pytest.raises(NotFound):
        files.set_times(head, Ino(1 << 40), mtime_ns=1, ctime_ns=1)
    with pytest.raises(ReadOnly):
        files.set_times(engine.lake.snapshots.view(record), two.ino, mtime_ns=1, ctime_ns=1)


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_what_an_epoch_has_of_an_inode(place: tuple[Files, Volume], engine: EngineSubject, limit: int) -> None:
    files, volume = place
    tree, head = engine.lake.core.tree, volume.head
    inodes = [_make(files, volume, name) for name in (b"one", b"two", b"three")]
    engine.lake.snapshots.freeze(volume, name="before")
    for name in (b"user.a", b"user.b"):
        files.setxattr(head, inodes[1].ino, name, b"1")
    for epoch in engine.lake.core.epochs.all():
        for inode in inodes:
            prefix = keys.u64(inode.ino)
            plain = [subject for subject in tree.changes(epoch, prefix) if keys.split(subject)[1] != keys.INODE]
            assert tree.own(epoch, prefix, limit) == plain[:limit]
            assert tree.own(epoch, keys.extents(inode.ino, 0), limit) == []


@pytest.mark.parametrize("frozen", [False, True])
def test_an_unlinked_file_leaves_nothing_in_its_epoch(
    place: tuple[Files, Volume], engine: EngineSubject, frozen: bool
) -> None:
    files, volume = place
    head = volume.head
    inode = _make(files, volume, b"new")
    if frozen:
        engine.lake.snapshots.freeze(volume, name="before")
    files.setxattr(head, inode.ino, b"user.a", b"1")
    files.unlink(head, volume.root, b"new", is_open=_closed)
    engine.run(engine.lake.settle_accounts)
    own = [key[8:] for key, _ in items(engine.lake.index, "changes", keys.u64(head.epoch) + keys.u64(inode.ino))]
    assert own == ([keys.inode(inode.ino)] if frozen else [])  # its tombstone hides all that is older


def test_what_an_operation_returns_is_what_it_took(place: tuple[Files, Volume]) -> None:
    files, volume = place
    head, root = volume.head, volume.root
    one, two = _make(files, volume, b"one"), _make(files, volume, b"two")
    assert files.rename(head, root, b"one", root, b"three", is_open=_closed) is None
    assert files.rename(head, root, b"three", root, b"two", is_open=_closed) == two
    files.link(head, one.ino, root, b"link")
    assert files.unlink(head, root, b"link", is_open=_closed) == files.getattr(head, one.ino)
    left = files.unlink(head, root, b"two", is_open=lambda _: True)
    assert left == files.getattr(head, one.ino)
    assert left.nlink == 0
    files.drop(head, one.ino)
    made = files.mkdir(head, root, b"d", mode=0o755, uid=0, gid=0)
    assert files.rmdir(head, root, b"d") == made


def test_a_file_goes_without_its_blocks(
    place: tuple[Files, Volume], engine: EngineSubject, calls: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its extents and their blocks are the background's, but where much waits for it already."""
    files, volume = place
    index, blocks = engine.lake.index, engine.lake.core.blocks
    monkeypatch.setattr("snapfs.volume.core.REAP_WAITING_MAX", 2)
    for number in range(4):
        _make(files, volume, b"%d" % number)
        engine.write("data", (b"%d" % number,), 0, b"%d" % number * 5000)
    engine.flush()
    used_bytes = volume.usage.used_bytes
    for number in range(3):
        files.getattr(volume.head, volume.root)
        files.lookup(volume.head, volume.root, b"%d" % number)
        calls.clear()
        files.unlink(volume.head, volume.root, b"%d" % number, is_open=_closed)
        if number < 2:  # as of an empty one, a look for older extents, a row of ``reap``
            assert calls == {"find": 1, "find_below": 1, "delete": 3, "put": 2}
        assert volume.usage.used_bytes == used_bytes - (number + 1) * 5000, "known at once"
    assert index.count("reap") == 2, "what came third was dropped by who removed it"
    assert blocks.known(digest(b"2" * 5000)) == 0
    assert engine.fsck() == []
    engine.reclaim()
    assert index.count("reap") == 0
    assert index.count("blocks") == 1
    assert engine.fsck() == []


@pytest.mark.parametrize("truncates", [True, False])
def test_what_died_before_a_snapshot_is_dropped_after_it(
    place: tuple[Files, Volume], engine: EngineSubject, truncates: bool
) -> None:
    files, volume = place
    path, index = (b"f",), engine.lake.index
    engine.write("data", path, 0, b"1" * 5000)
    engine.flush()
    if truncates:
        engine.truncate("data", path, 0)
    else:
        engine.unlink("data", path)
        _make(files, volume, b"f")
    engine.snapshot("data", "one")
    engine.chmod("data", path, 0o600)  # a version of the attributes in the new head
    engine.write("data", path, 0, b"2" * 100)
    engine.flush()
    assert index.count("reap") == 1
    assert engine.fsck() == []
    engine.run(engine.lake.settle_accounts)
    assert index.count("reap") == 0
    assert engine.fsck() == []
    assert engine.tree("data", "one")[path].content == b""
    assert engine.tree("data")[path].content == b"2" * 100
