"""Every kind of damage to a store is found by fsck under its code, mended by a repair, and what was good stays good."""

from __future__ import annotations

import os
import random
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from snapfs.api import GitCommit
from snapfs.errors import Busy, IOFailure, SnapfsError
from snapfs.format import keys, records, seals
from snapfs.format import segments as fmt
from snapfs.format.accounts import Changes, Sums, decode_account, encode_account, encode_alias, encode_changes
from snapfs.store.index import Index, items
from snapfs.testing.engine import EngineSubject
from snapfs.types import BlockId, Epoch, Ino
from snapfs.volume.check.base import Shape
from snapfs.volume.limits import DEFAULT
from snapfs.volume.repair import rebuild
from snapfs.volume.repair.base import quiet
from snapfs.volume.repair.run import repairing

Views = dict[tuple[str, str], dict[str, Any]]
"""(volume, snapshot or empty) -> path -> what is there."""

UNREADABLE = "unreadable"


def built(path: Path) -> None:
    """Two volumes with snapshots, tags, commits, all kinds of files, deleted and rewritten ones."""
    engine = EngineSubject(path)
    engine.create_volume("data")
    make = engine.make
    for name in (b"d", b"e"):
        make("data", (name,), "directory", 0o755)
    make("data", (b"d", b"sub"), "directory", 0o750)
    for number in range(4):
        make("data", (b"d", b"f%d" % number), "file", 0o640 + number)
        engine.write("data", (b"d", b"f%d" % number), 0, random.Random(number).randbytes(3000 + number))
    make("data", (b"big",), "file", 0o600)
    engine.write("data", (b"big",), 0, random.Random(9).randbytes(600_000))
    engine.write("data", (b"big",), 5_000_000, b"after a hole" * 100)
    engine.link("data", (b"d", b"f0"), (b"e", b"hard"))
    make("data", (b"link",), "symlink", 0o777, b"d/f1")
    make("data", (b"pipe",), "fifo", 0o600)
    engine.setxattr("data", (b"big",), b"user.k", b"value", create=False, replace=False)
    engine.snapshot("data", "one")
    engine.tag("data", "one", "v1", move=False)
    engine.write("data", (b"d", b"f1"), 100, b"changed")
    engine.unlink("data", (b"d", b"f2"))
    engine.rename("data", (b"d", b"f3"), (b"e", b"moved"), noreplace=False, exchange=False)
    git = GitCommit(commit="a" * 40, branch="main")
    engine.run(lambda: engine.service.create_snapshot(volume="data", name="two", git=git))
    engine.clone("data", "one", "copy")
    engine.write("copy", (b"d", b"f1"), 0, b"copied")
    engine.write("data", (b"d", b"f0"), 0, b"newest")
    make("data", (b"fresh",), "file", 0o644)
    engine.write("data", (b"fresh",), 0, b"never in a snapshot" * 50)
    engine.flush()
    engine.run(engine.lake.seal_all)
    assert engine.fsck() == []
    engine.close()


async def _read(engine: EngineSubject, view: Any, ino: Ino, size: int) -> Any:
    try:
        return await engine.lake.files.read(view, ino, 0, size)
    except SnapfsError:
        return UNREADABLE


def everything(path: Path) -> Views:
    """All that all views show; what cannot be read is said to be so."""
    engine = EngineSubject(path)
    found: Views = {}
    try:
        for volume in engine.lake.volumes.all():
            shown = [("", volume.head, volume.root)]
            for record in engine.lake.snapshots.all(volume):
                shown.append((record.name, engine.lake.snapshots.view(record), record.root))
            for name, view, root in shown:
                found[volume.name, name] = _tree(engine, view, root)
    finally:
        engine.close()
    return found


def _tree(engine: EngineSubject, view: Any, root: Ino) -> dict[str, Any]:
    files, found, stack = engine.lake.files, {}, [("", root)]
    while stack:
        path, ino = stack.pop()
        inode = files.getattr(view, ino)
        content: Any = None
        if stat.S_ISREG(inode.mode):
            content = engine.run(lambda ino=ino, size=inode.size: _read(engine, view, ino, size))
        elif stat.S_ISLNK(inode.mode):
            content = files.readlink(view, ino)
        elif stat.S_ISDIR(inode.mode):
            stack += [(f"{path}/{name.decode()}", child) for _, name, child, _ in files.readdir(view, ino, 0)]
        xattrs = [(name, files.getxattr(view, ino, name)) for name in files.listxattr(view, ino)]
        found[path] = (inode.mode, inode.uid, inode.size, inode.nlink, content, xattrs)
    return found


class Surgeon:
    """Changes a store's index and segments as no program would."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.index = Index(path / "index")
        self.shape = Shape(self.index, quiet)

    def spoil(self, table: str, key: bytes) -> None:
        """The value has a wrong checksum."""
        value = bytearray(self.index._txn.get(key, db=self.index._tables[table]))
        value[-1] ^= 1
        self.index._txn.put(key, bytes(value), db=self.index._tables[table])
        self.index.dirty = True

    def move(self, table: str, key: bytes, at: int) -> None:
        """A byte of the key is another one."""
        moved, value = bytearray(key), self.index._txn.get(key, db=self.index._tables[table])
        moved[at] ^= 0x40
        self.index._txn.delete(key, db=self.index._tables[table])
        self.index._txn.put(bytes(moved), value, db=self.index._tables[table])
        self.index.dirty = True

    def seal(self, name: str) -> seals.SealRecord:
        return seals.decode_record(self.index.get("seals", keys.u64(self.snapshot(name).epoch)) or b"")

    def spoil_block(self, block: BlockId) -> None:
        """Its bytes in the segment are others."""
        entry = records.decode_block(self.index.get("blocks", keys.u64(block)) or b"")
        self.overwrite(entry, fmt.BLOCK_HEADER_BYTES, b"????")

    def first(self, table: str) -> tuple[bytes, bytes]:
        return next(items(self.index, table))

    def head(self, volume: str = "data") -> Epoch:
        return next(record.head for record in self.shape.volumes.values() if record.name == volume)

    def snapshot(self, name: str) -> records.SnapshotRecord:
        return next(record for record in self.shape.snapshots.values() if record.name == name)

    def root(self) -> Ino:
        return self.snapshot("one").root

    def entry(self, name: bytes) -> tuple[bytes, Ino]:
        """(key, inode) of the newest entry with the name."""
        for key, payload in items(self.index, "tree"):
            if keys.split(key)[1] == keys.DIRENT and payload and keys.split_hashed(key[:-8])[1] == name:
                return key, records.decode_dirent(payload)[0]
        raise AssertionError(name)

    def of(self, name: bytes, kind: int, epoch: Epoch | None = None) -> bytes:
        """Key of a record of the file's inode: the newest, or that of an epoch."""
        prefix = keys.head(self.entry(name)[1], kind)
        for key, _ in items(self.index, "tree", prefix):
            if epoch is None or keys.epoch_of(key) == epoch:
                return key
        raise AssertionError(name)

    def put(self, key: bytes, payload: bytes) -> None:
        self.index.put("tree", key, payload)

    def forget(self, key: bytes) -> None:
        """A record and its entry in ``changes``."""
        self.index.delete("tree", key)
        self.index.delete("changes", keys.u64(keys.epoch_of(key)) + key[:-8])

    def block(self, name: bytes) -> tuple[BlockId, records.Block]:
        key = self.of(name, keys.EXTENT)
        payload = self.index.get("tree", key)
        assert payload
        block = records.decode_extent(payload)[1]
        entry = self.index.get("blocks", keys.u64(block))
        assert entry
        return block, records.decode_block(entry)

    def overwrite(self, entry: records.Block, offset: int, data: bytes) -> None:
        with (self.path / "segments" / f"{entry.segment:016d}.seg").open("r+b") as file:
            file.seek(entry.offset + offset)
            file.write(data)

    def inode(self, name: bytes, **changes: int) -> None:
        key = self.of(name, keys.INODE)
        payload = self.index.get("tree", key)
        assert payload
        inode = records.decode_inode(keys.split(key)[0], payload)
        self.put(key, records.encode_inode(msgspec.structs.replace(inode, **changes)))


class Damage(NamedTuple):
    code: str
    make: Callable[[Surgeon], object]
    hit: frozenset[str] = frozenset()
    """Paths that may show something else afterwards, in any view."""
    stays: frozenset[str] = frozenset()
    """Codes that a check still tells after the repair: what is lost."""
    changed: Callable[[Views], bool] = lambda views: True
    """What must hold afterwards besides."""


def _block_record(surgeon: Surgeon, **changes: Any) -> None:
    block, entry = surgeon.block(b"big")
    surgeon.index.put("blocks", keys.u64(block), records.encode_block(msgspec.structs.replace(entry, **changes)))


def _account(surgeon: Surgeon, sums: Sums | None = None, changes: Changes | None = None) -> None:
    """That of ``big`` says something else."""
    key = keys.u64(surgeon.block(b"big")[1].account)
    old_sums, old_changes = decode_account(surgeon.index.get("accounts", key) or b"")
    encoded = encode_changes(old_changes if changes is None else changes)
    surgeon.index.put("accounts", key, encode_account(old_sums if sums is None else sums, encoded))


def _volume(surgeon: Surgeon, **changes: Any) -> None:
    record = next(record for record in surgeon.shape.volumes.values() if record.name == "data")
    surgeon.index.put("volumes", keys.u64(record.id), records.encode_json(msgspec.structs.replace(record, **changes)))


def _rename_entry(surgeon: Surgeon) -> None:
    key, _ = surgeon.entry(b"fresh")
    payload = surgeon.index.get("tree", key)
    assert payload
    surgeon.forget(key)
    wrong = key[:9] + keys.u64(77) + key[17:]
    surgeon.put(wrong, payload)
    surgeon.index.put("changes", keys.u64(keys.epoch_of(wrong)) + wrong[:-8], b"")


def _extra_extent(surgeon: Surgeon, offset: int) -> None:
    block, _ = surgeon.block(b"big")
    key = keys.versioned(keys.extent(surgeon.entry(b"big")[1], 0, offset), surgeon.head())
    surgeon.put(key, records.encode_extent(1000, block, 0))
    surgeon.index.put("changes", keys.u64(surgeon.head()) + key[:-8], b"")


def _add_entry(surgeon: Surgeon, name: bytes, ino: Ino, mode: int) -> None:
    subject = keys.dirent(surgeon.root(), name, int.from_bytes(bytes.fromhex(_uuid(surgeon))[:8], "little"))
    surgeon.put(keys.versioned(subject, surgeon.head()), records.encode_dirent(ino, mode))
    surgeon.index.put("changes", keys.u64(surgeon.head()) + subject, b"")


def _uuid(surgeon: Surgeon) -> str:
    return (surgeon.index.get("meta", b"uuid") or b"").decode().replace("-", "")


def _spoil_first(table: str) -> Callable[[Surgeon], object]:
    return lambda surgeon: surgeon.spoil(table, surgeon.first(table)[0])


def _delete_first(table: str) -> Callable[[Surgeon], object]:
    return lambda surgeon: surgeon.index.delete(table, surgeon.first(table)[0])


def _number(name: bytes, value: int) -> Callable[[Surgeon], object]:
    return lambda surgeon: surgeon.index.put("meta", name, value.to_bytes(8, "little"))


def _spoil_of(name: bytes, kind: int) -> Callable[[Surgeon], object]:
    return lambda surgeon: surgeon.spoil("tree", surgeon.of(name, kind))


def _unseal_and_spoil(surgeon: Surgeon, name: bytes, kind: int) -> None:
    """Nothing but what is beside it says what the record was."""
    for key, _ in list(items(surgeon.index, "seals")):
        surgeon.index.delete("seals", key)
    surgeon.spoil("tree", surgeon.of(name, kind))


BIG, FRESH = frozenset({"/big"}), frozenset({"/fresh"})
DAMAGES: dict[str, Damage] = {
    # blocks and segments
    "refs-too-many": Damage("refs", lambda s: _block_record(s, refs=77)),
    "refs-none": Damage("refs", lambda s: _block_record(s, refs=0)),
    "block-entry-spoiled": Damage("record", lambda s: s.spoil("blocks", keys.u64(s.block(b"big")[0]))),
    "block-entry-missing": Damage(
        "block-lost",
        lambda s: s.index.delete("blocks", keys.u64(s.block(b"fresh")[0])),
        FRESH,
        frozenset({"block-lost"}),
    ),
    "block-bytes": Damage(
        "block-hash", lambda s: s.overwrite(s.block(b"fresh")[1], 60, b"????"), FRESH, frozenset({"block-hash"})
    ),
    "block-header": Damage("block-header", lambda s: s.overwrite(s.block(b"big")[1], 8, b"????")),
    "segment-header": Damage(
        "segment", lambda s: s.overwrite(msgspec.structs.replace(s.block(b"big")[1], offset=0), 3, b"?")
    ),
    "segment-count": Damage("space", lambda s: s.index.put("segments", keys.u64(1), records.encode_segment(1, 1))),
    "segment-record": Damage("space", lambda s: s.index.delete("segments", keys.u64(1))),
    "stored-bytes": Damage("space", _number(b"stored_bytes", 5)),
    "next-ino": Damage("counter", _number(b"next_ino", 2)),
    "next-block": Damage("counter", _number(b"next_block", 2)),
    "next-epoch": Damage("counter", _number(b"next_epoch", 2)),
    "freed-live": Damage(
        "freed", lambda s: s.index.put("freed", keys.u64(1) + keys.u64(s.block(b"big")[0]), records.PRESENT)
    ),
    "dedup-wrong": Damage("dedup", lambda s: s.index.put("dedup", s.first("dedup")[0], keys.u64(999))),
    "dedup-missing": Damage("dedup", lambda s: s.index.delete("dedup", s.block(b"fresh")[1].hash)),
    "dedup-spoiled": Damage("record", _spoil_first("dedup")),
    "leftover": Damage("leftover", lambda s: (s.path / "segments" / f"{99:016d}.seg").write_bytes(b"nothing")),
    # the versioned tree
    "changes-missing": Damage("changes", _delete_first("changes")),
    "changes-stale": Damage("changes", lambda s: s.index.put("changes", keys.u64(1) + keys.inode(Ino(500)), b"")),
    "record-of-no-epoch": Damage(
        "version-epoch", lambda s: s.put(keys.versioned(keys.xattr(Ino(1), b"x"), 999), b"\1")
    ),
    "entry-spoiled": Damage("record", lambda s: s.spoil("tree", s.entry(b"fresh")[0])),
    "entry-forgotten": Damage("unreached", lambda s: s.forget(s.entry(b"fresh")[0])),
    "entry-of-nothing": Damage("inode", lambda s: _add_entry(s, b"ghost", Ino(12345), stat.S_IFREG)),
    "entry-in-a-wrong-place": Damage("entry-hash", _rename_entry),
    "entry-of-another-type": Damage(
        "entry-type",
        lambda s: s.put(s.entry(b"fresh")[0], records.encode_dirent(s.entry(b"fresh")[1], stat.S_IFDIR)),
    ),
    "directory-twice": Damage("directory-links", lambda s: _add_entry(s, b"again", s.entry(b"e")[1], stat.S_IFDIR)),
    "parent-link-spoiled": Damage("record", _spoil_of(b"fresh", keys.PARENT)),
    "parent-link-forgotten": Damage("parent-link", lambda s: s.forget(s.of(b"fresh", keys.PARENT))),
    "both-links-forgotten": Damage(
        "unreached",
        lambda s: (s.forget(s.of(b"fresh", keys.PARENT)), s.forget(s.entry(b"fresh")[0])),
        frozenset({"", "/fresh"}),
        changed=lambda views: any(path.startswith("/lost+found/#") for path in views["data", ""]),
    ),
    "nlink": Damage("nlink", lambda s: s.inode(b"fresh", nlink=7)),
    "allocated": Damage("allocated", lambda s: s.inode(b"fresh", allocated_bytes=7)),
    "size-short": Damage("size", lambda s: s.inode(b"big", size=1000), BIG),
    "mode": Damage("attributes", lambda s: s.inode(b"fresh", mode=0o050644), FRESH),
    "extent-overlap": Damage("extent-overlap", lambda s: _extra_extent(s, 10), BIG),
    "attributes-spoiled": Damage("record", lambda s: _unseal_and_spoil(s, b"fresh", keys.INODE), FRESH),
    "extent-spoiled": Damage(
        "record",
        lambda s: _unseal_and_spoil(s, b"fresh", keys.EXTENT),
        FRESH,
        frozenset({"block-lost"}),
        lambda views: views["data", ""]["/fresh"][4] == UNREADABLE,
    ),
    "attributes-over-older-spoiled": Damage(  # it may have been truncated: the older version's bytes may not show
        "record",
        lambda s: _unseal_and_spoil(s, b"f0", keys.INODE),
        frozenset({"/d/f0", "/e/hard"}),
        frozenset({"block-lost"}),
        lambda views: views["data", ""]["/d/f0"][4] == UNREADABLE,
    ),
    "target-spoiled": Damage("record", lambda s: _unseal_and_spoil(s, b"link", keys.SYMLINK), frozenset({"/link"})),
    "xattr-spoiled": Damage("record", lambda s: _unseal_and_spoil(s, b"big", keys.XATTR), BIG),
    "sealed-extent-spoiled": Damage("record", lambda s: s.spoil("tree", s.of(b"big", keys.EXTENT))),
    "sealed-attributes-spoiled": Damage("record", _spoil_of(b"moved", keys.INODE)),
    "sealed-target-spoiled": Damage("record", _spoil_of(b"link", keys.SYMLINK)),
    "sealed-xattr-spoiled": Damage("record", _spoil_of(b"big", keys.XATTR)),
    # epochs, volumes, snapshots
    "epoch-state": Damage(
        "epoch-state",
        lambda s: s.index.put(
            "epochs",
            keys.u64(s.snapshot("one").epoch),
            records.encode_epoch(Epoch(0), s.snapshot("one").volume, records.DYING),
        ),
    ),
    "head-epoch-spoiled": Damage("record", lambda s: s.spoil("epochs", keys.u64(s.head()))),
    "clone-epoch-spoiled": Damage("record", lambda s: s.spoil("epochs", keys.u64(s.head("copy")))),
    "head-without-parent": Damage(
        "epoch-parent",
        lambda s: s.index.put(
            "epochs",
            keys.u64(s.head()),
            records.encode_epoch(Epoch(900), s.snapshot("one").volume, records.LIVE),
        ),
    ),
    "sealed-epoch-spoiled": Damage("record", lambda s: s.spoil("epochs", keys.u64(s.snapshot("two").epoch))),
    "head-dangling": Damage("volume-head", lambda s: _volume(s, head=Epoch(999))),
    "used": Damage("used", lambda s: _volume(s, used_bytes=1)),
    "volume-spoiled": Damage("record", lambda s: s.spoil("volumes", keys.u64(s.snapshot("one").volume))),
    "snapshot-spoiled": Damage("record", lambda s: s.spoil("snapshots", keys.u64(s.snapshot("two").epoch))),
    "snapshot-unsealed-spoiled": Damage(
        "record",
        lambda s: (
            s.spoil("snapshots", keys.u64(s.snapshot("two").epoch)),
            s.index.delete("seals", keys.u64(s.snapshot("two").epoch)),
        ),
    ),
    "name-missing": Damage("snapshot-name", _delete_first("names")),
    "name-stale": Damage(
        "snapshot-name", lambda s: s.index.put("names", s.first("names")[0][:8] + b"ghost", keys.u64(9))
    ),
    "time-spoiled": Damage("record", _spoil_first("created")),
    "commit-missing": Damage("snapshot-commit", _delete_first("commits")),
    "tag-missing": Damage("tag", _delete_first("tags")),
    # the rest
    "event-spoiled": Damage("record", lambda s: s.spoil("events", keys.u64(2))),
    "event-missing": Damage("event", lambda s: s.index.delete("events", keys.u64(2))),
    "request-stale": Damage("request", lambda s: s.index.put("requests_by_time", bytes(40), records.PRESENT)),
    "orphan-that-has-a-name": Damage(
        "orphan",
        lambda s: s.index.put(
            "orphans", keys.u64(s.snapshot("one").volume) + keys.u64(s.entry(b"fresh")[1]), records.PRESENT
        ),
    ),
    "reap-of-no-epoch": Damage(
        "reap", lambda s: s.index.put("reap", keys.extents(Ino(5), 0) + keys.u64(999), records.PRESENT)
    ),
    "seal-missing": Damage("seal", lambda s: s.index.delete("seals", keys.u64(s.snapshot("two").epoch))),
    "seal-spoiled": Damage("record", _spoil_first("seals")),
    "seal-root": Damage("block-hash", lambda s: s.spoil_block(s.seal("one").root), stays=frozenset({"block-hash"})),
    "seal-part": Damage(
        "block-hash",
        lambda s: s.spoil_block(s.seal("one").parts[0]),
        stays=frozenset({"block-hash", "block-lost"}),  # until the seal is written again
    ),
    # accounts, places
    "account-spoiled": Damage("record", _spoil_first("accounts")),
    "account-gone": Damage("account", _delete_first("accounts")),
    "account-sums": Damage("account", lambda s: _account(s, sums=Sums(1, 2, 3))),
    "account-changes": Damage("account", lambda s: _account(s, changes=((s.head(), 1),))),
    "account-of-no-epoch": Damage("account", lambda s: _account(s, changes=((Epoch(999), 1),))),
    "account-of-a-block": Damage("account", lambda s: _block_record(s, account=2 + s.block(b"big")[1].account)),
    "no-account-of-a-block": Damage("account", lambda s: _block_record(s, account=0)),
    "account-id-spoiled": Damage("record", _spoil_first("account_ids")),
    "account-id-wrong": Damage("account", lambda s: s.index.put("account_ids", b"?" * 16, keys.u64(1))),
    "account-counter": Damage("counter", _number(b"next_account", 1)),
    "account-counter-spoiled": Damage("record", lambda s: s.spoil("meta", b"next_account")),
    "alias-back": Damage("record", lambda s: s.index.put("aliases", keys.u64(9), encode_alias(Epoch(3)))),
    "alias-of-a-head": Damage("alias", lambda s: s.index.put("aliases", keys.u64(s.head()), encode_alias(Epoch(0)))),
    "alias-to-nothing": Damage("alias", lambda s: s.index.put("aliases", keys.u64(7), encode_alias(Epoch(999)))),
    "unaccounted-malformed": Damage("record", lambda s: s.index.put("unaccounted", b"?" * 29, records.PRESENT)),
    "unaccounted-of-no-epoch": Damage(
        "account",
        lambda s: s.index.put("unaccounted", keys.u64(999) + keys.extent(Ino(5), 0, 0), records.PRESENT),
    ),
    "place-spoiled": Damage("record", _spoil_first("places")),
    "place-gone": Damage("place", _delete_first("places")),
    "place-of-nothing": Damage("place", lambda s: s.index.put("places", keys.u64(1) + keys.u64(8), keys.u64(1))),
    "emptied-of-nothing": Damage(
        "emptied", lambda s: s.index.put("emptied", keys.u64(1) + keys.u64(99), records.PRESENT)
    ),
    "trash-of-nothing": Damage("trash", lambda s: s.index.put("trash", keys.u64(5) + keys.u64(99), records.PRESENT)),
    "trash-malformed": Damage("record", lambda s: s.index.put("trash", b"?", records.PRESENT)),
    # keys: what lies under another one would be a hole in a file, or nothing at all
    "extent-moved": Damage("record", lambda s: s.move("tree", s.of(b"big", keys.EXTENT), 14)),
    "fresh-extent-moved": Damage("record", lambda s: s.move("tree", s.of(b"fresh", keys.EXTENT), 0)),
    "attributes-moved": Damage("record", lambda s: s.move("tree", s.of(b"fresh", keys.INODE), 3)),
    "entry-moved": Damage("record", lambda s: s.move("tree", s.entry(b"fresh")[0], 12)),
    "extent-gone": Damage(
        "changes",
        lambda s: s.index.delete("tree", s.of(b"fresh", keys.EXTENT)),
        FRESH,
        frozenset({"block-lost"}),
        lambda views: views["data", ""]["/fresh"][4] == UNREADABLE,
    ),
    "sealed-extent-gone": Damage("changes", lambda s: s.index.delete("tree", s.of(b"big", keys.EXTENT))),
    "volume-moved": Damage("record", lambda s: s.move("volumes", keys.u64(s.snapshot("one").volume), 2)),
    "volume-gone": Damage("snapshot-volume", lambda s: s.index.delete("volumes", keys.u64(s.snapshot("one").volume))),
    "head-epoch-moved": Damage("record", lambda s: s.move("epochs", keys.u64(s.head()), 5)),
    "uuid": Damage("record", lambda s: s.spoil("meta", b"uuid")),
}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Views]:
    path = tmp_path_factory.mktemp("repair") / "store"
    built(path)
    return path, everything(path)


@pytest.fixture
def store(template: tuple[Path, Views], tmp_path: Path) -> Path:
    path = tmp_path / "store"
    subprocess.run(["cp", "-a", "--sparse=always", template[0], path], check=True)
    return path


def codes(path: Path) -> set[str]:
    with repairing(path) as repair:
        return {finding.code for finding in repair.check().findings}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_found_and_mended(name: str, store: Path, template: tuple[Path, Views]) -> None:
    damage = DAMAGES[name]
    surgeon = Surgeon(store)
    damage.make(surgeon)
    surgeon.index.commit()
    surgeon.index.close()
    with repairing(store) as repair:
        before = repair.check()
        assert damage.code in {finding.code for finding in before.findings}
        plan = repair.plan()
        assert plan.actions
        assert not plan.rebuild
        assert repair.check() == before  # a plan changes nothing
        assert repair.carry_out() == plan
        after = repair.check()
        assert {finding.code for finding in after.findings} <= damage.stays, after.findings
        assert repair.plan().total == 0
    shown, whole = everything(store), template[1]
    assert shown.keys() == whole.keys()
    for view, tree in whole.items():
        for path, there in tree.items():
            if path not in damage.hit:
                assert shown[view].get(path) == there, (view, path)
    assert damage.changed(shown)


def test_a_store_in_use_is_left_alone(store: Path) -> None:
    engine = EngineSubject(store)
    with pytest.raises(Busy, match="in use"), repairing(store):
        pass
    engine.close()


def test_a_sound_store_needs_nothing(store: Path) -> None:
    before = (store / "index" / "data.mdb").stat()
    with repairing(store) as repair:
        assert repair.plan().total == repair.carry_out().total == 0
        assert repair.check().findings == []
    assert (store / "index" / "data.mdb").stat().st_mtime_ns == before.st_mtime_ns


def test_a_file_that_was_just_removed_stays_so(tmp_path: Path) -> None:
    """What it had waits to be dropped, so it must not come back as one that cannot be read: it would lose that, too,
    and be zeros."""
    path = tmp_path / "store"
    engine = EngineSubject(path)
    engine.create_volume("data")
    for number in range(2):
        for name in (b"gone", b"kept"):
            if not number:
                engine.make("data", (name,), "file", 0o644)
            engine.write("data", (name,), 0, random.Random(number).randbytes(100_000))
        engine.flush()
        if not number:
            engine.snapshot("data", "old")
    head, root = engine._head("data")
    ino = engine.lake.files.lookup(head, root, b"gone").ino
    engine.unlink("data", (b"gone",))
    engine.run(engine.lake.commit)
    assert engine.lake.index.count("reap") == 1
    before = [engine.tree("data"), engine.tree("data", "old")]
    engine.lake.index.put_unreadable("tree", keys.versioned(keys.inode(ino), head.epoch))
    engine.lake.index.commit()
    engine.close()
    with repairing(path) as repair:
        repair.carry_out()
    engine = EngineSubject(path)
    assert [engine.tree("data"), engine.tree("data", "old")] == before
    engine.reclaim()
    assert [engine.tree("data"), engine.tree("data", "old")] == before
    assert engine.fsck() == []
    engine.close()


@pytest.mark.parametrize("name", ["seal-root", "seal-part"])
def test_a_damaged_seal_is_written_again(name: str, store: Path) -> None:
    engine = EngineSubject(store)
    digests = engine.seals()
    engine.close()
    surgeon = Surgeon(store)
    DAMAGES[name].make(surgeon)
    surgeon.index.close()
    assert rebuild.plan(store).lost
    with repairing(store) as repair:
        repair.carry_out()
    engine = EngineSubject(store)
    engine.run(engine.lake.seal_all)
    assert engine.seals() == digests
    assert engine.fsck() == []
    engine.close()
    assert rebuild.plan(store).lost == []


def test_an_index_older_than_its_segments_loses_none(store: Path) -> None:
    """What only newer seals know of is not removed with the files that hold no seal."""
    old = store.parent / "old"
    shutil.copytree(store / "index", old)
    engine = EngineSubject(store, limits=msgspec.structs.replace(DEFAULT, segment_bytes_max=100_000))
    engine.make("data", (b"late",), "file", 0o600)
    engine.write("data", (b"late",), 0, random.Random(8).randbytes(400_000))
    engine.flush()
    engine.snapshot("data", "late")
    engine.run(engine.lake.seal_all)
    engine.close()
    files = sorted((store / "segments").iterdir())
    assert len(files) > 3
    shutil.rmtree(store / "index")
    old.rename(store / "index")
    with repairing(store) as repair:
        repair.carry_out()
    assert sorted((store / "segments").iterdir()) == files
    assert "data@late" in rebuild.plan(store).snapshots


@pytest.mark.parametrize("how", ["kill -KILL $$", "kill -TERM $$", "exit 1"])
def test_a_look_at_the_index_that_is_cut_short_condemns_nothing(
    how: str, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snapfs.volume.check.run._PAGES_HERE_MAX", 1)
    monkeypatch.setattr("snapfs.store.verify.command", lambda file: ["sh", "-c", how])
    with repairing(store) as repair:
        with pytest.raises(IOFailure, match="could not be looked over"):
            repair.plan()
        with pytest.raises(IOFailure, match="could not be looked over"):
            repair.carry_out()
    assert (store / "index").exists()
    assert not list(store.glob("index.*"))


@pytest.mark.skipif(os.getuid() != 0, reason="needs to be two users")
def test_an_index_that_may_not_be_read_is_not_made_anew(store: Path) -> None:
    for place in (store, *store.rglob("*")):
        os.chown(place, 65534, 65534)
    os.chown(store / "index" / "data.mdb", 0, 0)
    store.parent.chmod(0o711)
    code = (
        "import os\nfrom pathlib import Path\nfrom snapfs.errors import NotPermitted\n"
        "from snapfs.volume.repair.run import repairing\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "with repairing(Path('store')) as repair:\n"
        "    try: print(repair.plan())\n"
        "    except NotPermitted as error: print('refused')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=store.parent, capture_output=True, text=True, check=False)
    assert done.stdout == "refused\n", done.stderr


def test_an_epoch_that_nothing_places_needs_a_rebuild(store: Path, template: tuple[Path, Views]) -> None:
    surgeon = Surgeon(store)
    _volume(surgeon, used_bytes=1)
    surgeon.spoil("epochs", keys.u64(surgeon.head()))
    surgeon.index.commit()
    surgeon.index.close()
    with repairing(store) as repair:
        plan = repair.plan()
        assert "nothing says where it belongs" in plan.rebuild
        assert any("2 snapshots" in action.message for action in plan.actions)
        repair.carry_out()
        assert repair.check().findings == []
    shown = everything(store)
    for view in (("data", "one"), ("data", "two")):
        assert shown[view] == template[1][view]


def test_damage_names_the_files_and_the_good_copies(store: Path) -> None:
    """A block that one snapshot and a clone show, and a version that only the head has."""
    surgeon = Surgeon(store)
    _, entry = surgeon.block(b"big")
    surgeon.overwrite(entry, fmt.BLOCK_HEADER_BYTES, b"????")
    _, entry = surgeon.block(b"fresh")
    surgeon.overwrite(entry, fmt.BLOCK_HEADER_BYTES, b"????")
    surgeon.index.close()
    engine = EngineSubject(store)
    for name in (b"fresh", b"big"):
        engine.truncate("data", (name,), 0)
        engine.write("data", (name,), 0, b"good again")
        engine.snapshot("data", f"good-{name.decode()}")
    engine.write("data", (b"fresh",), 0, b"and later")
    report = engine.run(engine.service.check_store)
    engine.close()
    shown = {(damage.volume, damage.path): damage for damage in report.damage}
    assert set(shown) == {("data", "big"), ("copy", "big")}
    damage = shown["data", "big"]
    assert not damage.head
    assert damage.snapshots == ["one", "two", "good-fresh"]
    assert damage.good == ["good-big"]
    assert damage.blocks
    assert shown["copy", "big"].head
    assert shown["copy", "big"].good == []


def test_a_lost_file_can_be_removed_and_its_space_comes_back(store: Path) -> None:
    surgeon = Surgeon(store)
    surgeon.index.delete("blocks", keys.u64(surgeon.block(b"fresh")[0]))
    surgeon.index.commit()
    surgeon.index.close()
    with repairing(store) as repair:
        repair.carry_out()
        assert [damage.path for damage in repair.check().damage] == ["fresh"]
    engine = EngineSubject(store)
    engine.unlink("data", (b"fresh",))
    engine.reclaim()
    assert engine.fsck() == []
    engine.close()
