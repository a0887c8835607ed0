"""Seals: canonical bytes, the multiset hash, what is sealed and when, and what a proof finds."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

import msgspec
import pytest
import trio
from blake3 import blake3

from snapfs import api
from snapfs.api import GitCommit
from snapfs.errors import Corrupt, IOFailure
from snapfs.format import keys, records, seals
from snapfs.format.records import SnapshotRecord
from snapfs.format.segments import BLOCK_HEADER_BYTES, DATA, SEAL_PART, SEAL_ROOT, SEGMENT_HEADER_BYTES
from snapfs.store.index import items
from snapfs.testing.engine import EngineSubject
from snapfs.testing.sealing import multiset_state
from snapfs.types import BlockId, Epoch, Ino, VolumeId
from snapfs.versions.lthash import LtHash
from snapfs.volume.seals import moment
from snapfs.volume.seals import sealer as sealing
from snapfs.volume.seals.verify import verify

RECORD = SnapshotRecord(
    epoch=Epoch(7), volume=VolumeId(1), name="one", root=Ino(1), created_ns=1_700_000_000_000_000_000,
    message="über", meta={"b": "2", "a": "1"}, git=GitCommit(commit="ab" * 20, branch="main"),
)  # fmt: skip


class TestMultisetHash:
    def test_it_is_the_sum_of_vectors(self) -> None:
        elements = [random.Random(number).randbytes(number % 90) for number in range(50)]
        content = LtHash()
        for element in elements:
            content.add(element)
        assert content.state() == multiset_state(elements)

    def test_order_and_history_leave_no_trace(self) -> None:
        elements = [b"%d" % number for number in range(40)]
        one, other = LtHash(), LtHash()
        for element in elements[10:]:
            one.add(element)
        for element in elements:
            other.remove(element)
        other = LtHash(other.state())
        for element in [*elements[10:], *reversed(elements)]:
            other.add(element)
        assert one.state() == other.state()
        for element in elements[10:]:
            one.remove(element)
        assert one.state() == bytes(2048)

    def test_sums_do_not_overflow(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("snapfs.versions.lthash._ADDED_MAX", 3)
        content = LtHash()
        for number in range(20):
            content.add(b"%d" % number)
            content.remove(b"%d" % (number // 2))
        assert content.state() == _less(range(20), [number // 2 for number in range(20)])

    def test_the_same_element_twice_counts_twice(self) -> None:
        once, twice = LtHash(), LtHash()
        once.add(b"x")
        twice.add(b"x")
        twice.add(b"x")
        assert once.state() != twice.state()
        assert twice.state() == multiset_state([b"x", b"x"])


def _less(came, went) -> bytes:
    lanes = [struct.unpack("<1024H", multiset_state(b"%d" % number for number in side)) for side in (came, went)]
    return struct.pack("<1024H", *((a - b) % 65536 for a, b in zip(*lanes, strict=True)))


class TestBytes:
    def test_entries(self) -> None:
        entries = [(keys.inode(Ino(1)), b"attributes"), (keys.extent(Ino(2), 0, 0), b""), (b"s" * 300, b"p" * 70_000)]
        part = b"".join(seals.encode_entry(*entry) for entry in entries)
        assert list(seals.decode_entries(part)) == entries
        for end in (3, 10, len(part) - 1):
            with pytest.raises(Corrupt):
                list(seals.decode_entries(part[:end]))
        with pytest.raises(Corrupt):
            list(seals.decode_entries(bytes(6)))  # an empty subject would never end

    def test_an_extent(self) -> None:
        payload = seals.encode_extent(5, b"h" * 32, 9)
        assert seals.decode_extent(payload) == (5, b"h" * 32, 9)
        assert payload == b"\x05\0\0\0" + b"h" * 32 + b"\x09\0\0\0"
        with pytest.raises(Corrupt):
            seals.decode_extent(payload[:-1])

    def test_root_and_body(self) -> None:
        root = seals.SealRoot(
            store=bytes(16), sequence=3, epoch=Epoch(7), base=Epoch(5), parent=b"p" * 32, parent_epoch=Epoch(5),
            digest=b"d" * 32, content=b"c" * 32, state=bytes(2048), body=[b"b" * 32],
        )  # fmt: skip
        assert seals.decode_root(seals.encode_root(root)) == root
        for wrong in ({"version": 2}, {"state": b""}, {"body": [b"short"]}, {"digest": b""}):
            with pytest.raises(Corrupt):
                seals.decode_root(seals.encode_root(msgspec.structs.replace(root, **wrong)))
        for junk in (b"", b"\xc1", b"{}", seals.encode_root(root)[:-1]):
            with pytest.raises(Corrupt):
                seals.decode_root(junk)
        facts = seals.VolumeFacts(id=VolumeId(1), name="data", created_ns=1)
        body = seals.SealBody(record=RECORD, volume=facts, parts=[b"p" * 32])
        assert seals.decode_body(seals.encode_body(body)) == body
        with pytest.raises(Corrupt):
            seals.decode_body(b"\x80")

    def test_the_index_record(self) -> None:
        record = seals.SealRecord(
            epoch=Epoch(7), base=Epoch(0), parent=seals.NO_PARENT, parent_epoch=Epoch(0), digest=b"d" * 32,
            content=b"c" * 32, sequence=1, root=BlockId(3), body=[BlockId(2)], parts=[BlockId(1)],
        )  # fmt: skip
        assert seals.decode_record(seals.encode_record(record)) == record
        assert sorted(record.blocks()) == [1, 2, 3]
        with pytest.raises(Corrupt):
            seals.decode_record(b"{}")

    def test_a_digest_is_for_ever(self) -> None:
        """Golden: a digest that somebody wrote down must be found again by every later version."""
        digest = seals.seal_digest(b"p" * 32, b"c" * 32, RECORD)
        canonical = (
            '{"git":{"branch":"main","commit":"' + "ab" * 20 + '"},"message":"über","meta":{"a":"1","b":"2"}}'
        ).encode()
        hasher = blake3(derive_key_context="snapfs seal v1")
        hasher.update(b"p" * 32 + b"c" * 32 + struct.pack("<Qq", 1, RECORD.created_ns) + canonical)
        assert digest == hasher.digest()
        assert digest.hex() == GOLDEN_DIGEST
        state = multiset_state([seals.encode_entry(keys.inode(Ino(1)), b"attributes")])
        assert seals.content_digest(state).hex() == GOLDEN_CONTENT

    @pytest.mark.parametrize("field", ["name", "tags", "orphans", "used_bytes", "epoch", "volume"])
    def test_what_may_change_is_no_part_of_it(self, field: str) -> None:
        value = {"name": "two", "tags": ["v1"], "orphans": [Ino(5)]}.get(field, 99)
        other = msgspec.structs.replace(RECORD, **{field: value})
        assert seals.seal_digest(bytes(32), bytes(32), other) == seals.seal_digest(bytes(32), bytes(32), RECORD)

    @pytest.mark.parametrize(
        "change", [{"root": Ino(2)}, {"created_ns": 5}, {"message": ""}, {"meta": {}}, {"git": None}]
    )
    def test_what_must_not_change_is(self, change: dict[str, object]) -> None:
        other = msgspec.structs.replace(RECORD, **change)
        assert seals.seal_digest(bytes(32), bytes(32), other) != seals.seal_digest(bytes(32), bytes(32), RECORD)


DEEP = 1200
"""More calls than Python nests."""

GOLDEN_DIGEST = "7d61cec4f90306a1c3135addd5346239985141976185948c5ca901977ea1c80d"
GOLDEN_CONTENT = "e63a3f267fe889b27a29737162df741b2c52fe226a5b82e92f679c1d21bba757"


def count(engine: EngineSubject, kind: int) -> int:
    """Blocks of a kind that are referenced."""
    found = [records.decode_block(payload) for _, payload in items(engine.lake.index, "blocks")]
    return sum(1 for entry in found if entry.kind == kind and entry.refs)


def damage(engine: EngineSubject, table: str, epoch: int) -> None:
    """A record whose checksum is wrong."""
    index = engine.lake.index
    index._txn.put(keys.u64(epoch), b"damaged", db=index._tables[table])
    index.dirty = True


def sealed(engine: EngineSubject, name: str) -> seals.SealRecord:
    record = engine.lake.snapshots.resolve(engine.lake.volumes.get("data"), name)
    found = engine.lake.sealer.get(record.epoch)
    assert found is not None
    return found


def fill(engine: EngineSubject, files: int = 8) -> None:
    for number in range(files):
        engine.make("data", (b"%d" % number,), "file", 0o644)
        engine.write("data", (b"%d" % number,), 0, random.Random(number).randbytes(20_000 + number))


class TestSealing:
    def test_the_same_content_has_the_same_digest_of_content(self, engine: EngineSubject) -> None:
        fill(engine)
        engine.snapshot("data", "one")
        engine.chmod("data", (b"3",), 0o600)
        engine.clone("data", "one", "copy")
        engine.snapshot("copy", "same")
        engine.snapshot("data", "other")
        engine.seal()
        engine.check_seals()
        contents = {name: seal[1] for name, seal in _by_name(engine).items()}
        assert contents["one"] == contents["same"] != contents["other"]
        assert len({seal[0] for seal in _by_name(engine).values()}) == 3
        engine.remove_volume("copy", snapshots=True)

    def test_cost_is_the_change(self, engine: EngineSubject) -> None:
        """A snapshot of a large volume with one change lists that change, not the volume."""
        for number in range(300):
            engine.make("data", (b"n%d" % number,), "file", 0o644)
        engine.snapshot("data", "large")
        engine.seal()
        engine.chmod("data", (b"n5",), 0o600)
        engine.snapshot("data", "small")
        engine.seal()
        large, small = (_entries(engine, sealed(engine, name)) for name in ("large", "small"))
        assert len(large) > 900
        assert len(small) == 1
        assert small[0][0][8] == keys.INODE

    def test_a_removed_file_is_one_entry(self, engine: EngineSubject) -> None:
        fill(engine, 2)
        engine.snapshot("data", "one")
        engine.unlink("data", (b"1",))
        engine.truncate("data", (b"0",), 0)
        engine.snapshot("data", "two")
        engine.seal()
        engine.check_seals()
        gone = [subject for subject, payload in _entries(engine, sealed(engine, "two")) if not payload]
        assert sorted(subject[8] for subject in gone) == [keys.DIRENT, keys.INODE]

    def test_renames_and_tags_keep_the_digest(self, engine: EngineSubject) -> None:
        fill(engine)
        engine.snapshot("data", "one")
        engine.seal()
        before = sealed(engine, "one")
        engine.rename_snapshot("data", "one", "two")
        engine.tag("data", "two", "v1", move=False)
        engine.seal()
        after = sealed(engine, "two")
        assert (after.digest, after.content, after.parts) == (before.digest, before.content, before.parts)
        assert after.sequence > before.sequence
        body = engine.run(lambda: engine.lake.sealer.body(after))
        assert body.record is not None
        assert (body.record.name, body.record.tags) == ("two", ["v1"])
        engine.reclaim()
        assert (count(engine, SEAL_ROOT), count(engine, SEAL_PART)) == (1, len(after.parts) + len(after.body))

    def test_a_deleted_base_is_replaced(self, engine: EngineSubject) -> None:
        fill(engine)
        for name in ("one", "two", "three"):
            engine.write("data", (b"0",), 0, name.encode())
            engine.snapshot("data", name)
        engine.seal()
        digests = engine.seals()
        three, one = sealed(engine, "three"), sealed(engine, "one")
        assert three.base == three.parent_epoch == sealed(engine, "two").epoch
        engine.remove_snapshot("data", "two")
        engine.reclaim()
        after = sealed(engine, "three")
        assert (after.base, after.parent, after.digest) == (one.epoch, three.parent, three.digest)
        assert count(engine, SEAL_ROOT) == 2
        engine.check_seals()
        assert engine.seals().items() <= digests.items()
        engine.remove_snapshot("data", "one")
        engine.reclaim()
        assert sealed(engine, "three").base == 0
        engine.check_seals()

    def test_a_deleted_base_of_several_stays_as_gone(self, engine: EngineSubject) -> None:
        """While its versions are shared by two lines of descent, both build on its seal."""
        fill(engine)
        engine.snapshot("data", "one")
        engine.clone("data", "one", "copy")
        for volume in ("data", "copy"):
            engine.write(volume, (b"0",), 0, volume.encode())
            engine.snapshot(volume, "next")
        engine.seal()
        one = sealed(engine, "one")
        engine.remove_snapshot("data", "one")
        engine.reclaim()
        kept = engine.lake.sealer.get(one.epoch)
        assert kept is not None
        assert kept.gone
        assert engine.run(lambda: engine.lake.sealer.body(kept)).record is None
        engine.check_seals()
        engine.remove_volume("copy", snapshots=True)
        engine.reclaim()
        assert engine.lake.sealer.get(one.epoch) is None
        assert sealed(engine, "next").base == 0
        engine.check_seals()

    def test_a_base_whose_epoch_goes_while_its_seal_is_written(
        self, engine: EngineSubject, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Who folds and who seals are woken by the same commit."""
        fill(engine)
        for name in ("one", "two", "three"):
            engine.write("data", (b"0",), 0, name.encode())
            engine.snapshot("data", name)
        engine.seal()
        one, two = sealed(engine, "one"), sealed(engine, "two")
        engine.remove_snapshot("data", "two")
        append = engine.lake.writeback.append

        async def append_late(pieces: list[bytes], kind: int):
            placed = await append(pieces, kind)
            while engine.lake.reclaim.step():
                pass
            assert two.epoch not in engine.lake.core.epochs
            return placed

        monkeypatch.setattr(engine.lake.writeback, "append", append_late)
        engine.reclaim()
        assert sealed(engine, "three").base == one.epoch
        assert engine.lake.sealer.get(two.epoch) is None
        engine.check_seals()

    def test_what_only_the_deleted_build_on_says_so(self, engine: EngineSubject) -> None:
        """Else a rebuild of the index would bring a deleted snapshot back."""
        fill(engine)
        for name in ("one", "two"):
            engine.write("data", (b"0",), 0, name.encode())
            engine.snapshot("data", name)
        engine.clone("data", "two", "copy")
        for volume in ("data", "copy"):
            engine.write(volume, (b"0",), 0, volume.encode())
            engine.snapshot(volume, "next")
        engine.seal()
        one = sealed(engine, "one")
        engine.remove_snapshot("data", "two")
        engine.reclaim()
        engine.remove_snapshot("data", "one")
        engine.run(engine.lake.reclaim_all)
        assert one.epoch not in engine.lake.core.epochs
        engine.reclaim()
        kept = engine.lake.sealer.get(one.epoch)
        assert kept is not None
        assert kept.gone
        assert engine.run(lambda: engine.lake.sealer.body(kept)).record is None
        engine.check_seals()
        engine.remove_volume("copy", snapshots=True)
        engine.reclaim()
        assert engine.lake.index.count("seals") == 1

    def test_a_damaged_seal_spoils_no_other(self, engine: EngineSubject) -> None:
        """That of a base that is replaced: the new seal's blocks are not given back."""
        fill(engine)
        for name in ("one", "two", "three"):
            engine.write("data", (b"0",), 0, name.encode())
            engine.snapshot("data", name)
        engine.seal()
        two, before = sealed(engine, "two"), engine.seals()
        engine.remove_snapshot("data", "two")
        engine.run(engine.lake.reclaim_all)
        three = sealed(engine, "three").epoch
        engine.lake.index.delete("unsealed", keys.u64(two.epoch))
        engine.lake.index.put("unsealed", keys.u64(three), records.PRESENT)
        damage(engine, "seals", two.epoch)
        engine.seal()
        engine.lake.index.put("seals", keys.u64(two.epoch), seals.encode_record(two))
        engine.lake.index.put("unsealed", keys.u64(two.epoch), records.PRESENT)
        engine.reclaim()
        assert engine.fsck() == []
        assert engine.seals() == {epoch: seal for epoch, seal in before.items() if epoch != two.epoch}
        engine.check_seals()

    def test_a_damaged_snapshot_holds_no_other_up(self, engine: EngineSubject) -> None:
        for name in ("one", "two"):
            engine.snapshot("data", name)
        one = engine.lake.snapshots.resolve(engine.lake.volumes.get("data"), "one")
        damage(engine, "snapshots", one.epoch)
        engine.seal()
        assert sealed(engine, "two").base == 0
        engine.lake.index.put("snapshots", keys.u64(one.epoch), records.encode_json(one))
        engine.reopen()
        engine.seal()
        assert len(engine.seals()) == 2

    def test_nothing_is_left_of_deleted_seals(self, engine: EngineSubject) -> None:
        fill(engine)
        for name in ("one", "two"):
            engine.snapshot("data", name)
            engine.seal()
        roots = [_place(engine, sealed(engine, name).root) for name in ("one", "two")]
        engine.remove_volume("data", snapshots=True)
        engine.reclaim()
        assert engine.stored_bytes() == 0
        assert engine.lake.index.count("seals") == engine.lake.index.count("unsealed") == 0
        for path, offset in roots:
            assert not path.exists() or not any(path.read_bytes()[offset : offset + BLOCK_HEADER_BYTES])

    def test_snapshots_are_sealed_in_the_background(self, engine: EngineSubject) -> None:
        async def work() -> None:
            async with engine.lake.running():
                for name in ("one", "two"):
                    await engine.service.create_snapshot(volume="data", name=name)
                with trio.fail_after(30):
                    while engine.lake.index.count("unsealed"):
                        await trio.sleep(0.01)

        engine.run(work)
        assert len(engine.seals()) == 2
        engine.check_seals()

    def test_the_end_waits_for_seals(self, engine: EngineSubject) -> None:
        async def work() -> None:
            async with engine.lake.running():
                await engine.service.create_snapshot(volume="data", name="one")

        engine.run(work)
        engine.crash()  # what is sealed is durable
        assert len(engine.seals()) == 1

    def test_a_crash_resumes(self, engine: EngineSubject, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whatever step it stops at: the queue has it, and no digest depends on it."""
        fill(engine)
        engine.snapshot("data", "one")
        engine.write("data", (b"0",), 0, b"other")
        engine.snapshot("data", "two")
        engine.seal()
        expected = engine.seals()
        for step in range(7):
            for name in ("one", "two"):
                engine.tag("data", name, f"{name}{step}", move=False)
            engine.flush()
            calls = _stop_at(monkeypatch, engine, step)
            with pytest.raises(_Stopped):
                engine.seal()
            assert calls
            monkeypatch.undo()
            engine.crash()
            assert engine.fsck() == []
            engine.seal()
            assert engine.seals() == expected
            engine.check_seals()

    def test_a_crash_amid_a_long_list_leaks_nothing(
        self, engine: EngineSubject, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What was appended of it lies before what others appended and made durable."""
        fill(engine, 60)
        engine.snapshot("data", "one")
        monkeypatch.setattr(sealing, "APPEND_PARTS", 1)
        monkeypatch.setattr(sealing, "BLOCK_BYTES_MAX", 4096)
        append, calls = engine.lake.writeback.append, []

        async def append_or_stop(pieces: list[bytes], kind: int):
            calls.append(kind)
            if len(calls) == 4:
                view, ino = engine._resolve("data", (b"0",))
                await engine.lake.files.write(view, ino, 0, random.randbytes(5000))
                await engine.lake.sync()
                raise _Stopped
            return await append(pieces, kind)

        monkeypatch.setattr(engine.lake.writeback, "append", append_or_stop)
        with pytest.raises(_Stopped):
            engine.seal()
        monkeypatch.undo()
        engine.crash()
        for _, payload in items(engine.lake.index, "segments"):
            end, live = records.decode_segment(payload)
            assert end == SEGMENT_HEADER_BYTES + live
        assert engine.fsck() == []
        engine.reclaim()
        engine.check_seals()

    def test_an_unreadable_base_is_done_without(self, engine: EngineSubject, monkeypatch: pytest.MonkeyPatch) -> None:
        """A bad sector under one seal must not keep all later ones waiting."""
        fill(engine)
        engine.snapshot("data", "one")
        engine.seal()
        one, fetch = sealed(engine, "one"), engine.lake.core.blocks.fetch

        def fetch_or_fail(block: BlockId, *args, **kwargs):
            if block == one.root:
                raise IOFailure("segment.read: Input/output error")
            return fetch(block, *args, **kwargs)

        monkeypatch.setattr(engine.lake.core.blocks, "fetch", fetch_or_fail)
        monkeypatch.setattr(engine.lake.sealer, "_last", (0, b""))
        engine.snapshot("data", "two")
        engine.seal()
        assert sealed(engine, "two").base == 0
        assert [finding.code for finding in proven(engine, "one").findings] == ["seal"]
        monkeypatch.undo()
        engine.check_seals()

    def test_a_changed_record_meanwhile_is_sealed_again(
        self, engine: EngineSubject, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        engine.snapshot("data", "one")
        renamed = []
        append = engine.lake.writeback.append

        async def append_late(pieces: list[bytes], kind: int):
            placed = await append(pieces, kind)
            if kind == SEAL_ROOT and not renamed:
                renamed.append(await engine.service.rename_snapshot(volume="data", snapshot="one", name="two"))
            return placed

        monkeypatch.setattr(engine.lake.writeback, "append", append_late)
        engine.seal()
        seal = sealed(engine, "two")
        body = engine.run(lambda: engine.lake.sealer.body(seal))
        assert body.record is not None
        assert body.record.name == "two"

    def test_a_snapshot_made_after_the_moment_that_is_read(
        self, engine: EngineSubject, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its epoch is there, as the head's, and may hold less than the snapshot."""
        fill(engine)
        engine.snapshot("data", "one")
        engine.write("data", (b"0",), 0, b"before")
        engine.flush()
        sealer, made = engine.lake.sealer, []
        know = sealer._know_dependents

        async def know_late() -> None:
            await know()
            if not made:
                view, ino = engine._resolve("data", (b"0",))
                await engine.lake.files.write(view, ino, 10, b"after")
                made.append(await engine.service.create_snapshot(volume="data", name="two"))

        monkeypatch.setattr(sealer, "_know_dependents", know_late)
        engine.seal()
        assert len(engine.seals()) == 2
        engine.check_seals()

    def test_a_snapshot_that_goes_while_it_is_sealed(
        self, engine: EngineSubject, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fill(engine)
        engine.snapshot("data", "one")
        gone = []
        append = engine.lake.writeback.append

        async def append_late(pieces: list[bytes], kind: int):
            placed = await append(pieces, kind)
            if not gone:
                gone.append(True)
                await engine.service.delete_snapshot(volume="data", snapshot="one")
            return placed

        monkeypatch.setattr(engine.lake.writeback, "append", append_late)
        engine.reclaim()
        assert engine.lake.index.count("seals") == engine.lake.index.count("unsealed") == 0
        assert count(engine, SEAL_ROOT) == count(engine, SEAL_PART) == 0

    @pytest.mark.parametrize("seed", range(3))
    def test_beside_everything_else(self, engine: EngineSubject, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
        """Snapshots come, go and are renamed while the background seals, folds and reclaims."""
        monkeypatch.setattr(moment, "TURN_SECONDS", 0.0)  # a pause after every record
        choose = random.Random(seed)
        fill(engine, 4)
        names: list[tuple[str, str]] = []

        async def step(number: int) -> None:
            service, volume = engine.service, choose.choice(engine.lake.volumes.names())
            act = choose.randrange(7) if names else 6
            owner, name = choose.choice(names) if names else ("", "")
            if act == 0:
                await service.delete_snapshot(volume=owner, snapshot=name)
                names.remove((owner, name))
            elif act == 1:
                await service.tag_snapshot(volume=owner, snapshot=name, tag=f"t{number}")
            elif act == 2 and len(engine.lake.volumes.names()) < 4:
                await service.clone(volume=owner, snapshot=name, name=f"clone{number}")
            elif act == 3 and volume != "data":
                await service.delete_volume(name=volume, force=True)
                names[:] = [known for known in names if known[0] != volume]
            elif act == 4:
                await service.checkout(volume=owner, snapshot=name, unsaved=api.Save.DISCARD)
            else:
                view, root = engine._head(volume)
                ino = engine.lake.files.lookup(view, root, b"%d" % choose.randrange(4)).ino
                await engine.lake.files.write(view, ino, choose.randrange(9000), choose.randbytes(3000))
                await service.create_snapshot(volume=volume, name=f"s{number}")
                names.append((volume, f"s{number}"))

        async def work() -> None:
            async with engine.lake.running():
                for number in range(60):
                    await step(number)
                    for _ in range(choose.randrange(30)):
                        await trio.lowlevel.checkpoint()

        engine.run(work)
        engine.reclaim()
        assert len(engine.seals()) == len(engine.records())
        engine.check_seals()
        for name in engine.lake.volumes.names():
            engine.remove_volume(name, snapshots=True)
        engine.reclaim()
        assert engine.stored_bytes() == 0
        assert engine.lake.index.count("seals") == 0

    def test_a_full_disk_only_puts_it_off(self, engine: EngineSubject, monkeypatch: pytest.MonkeyPatch) -> None:
        fill(engine)
        engine.snapshot("data", "one")
        monkeypatch.setattr(sealing, "ROOM_BYTES", 1 << 62)
        with pytest.raises(api_error("no_space")):
            engine.seal()
        assert engine.fsck() == []
        monkeypatch.undo()
        engine.seal()
        assert len(engine.seals()) == 1


class _Stopped(BaseException):
    """The process is gone."""


def _stop_at(monkeypatch: pytest.MonkeyPatch, engine: EngineSubject, step: int) -> list[int]:
    """Stop at one of the steps that sealing two snapshots takes: appends, entries, references, commits."""
    left = [step]
    calls: list[int] = []

    def counted(function):
        def call(*args, **kwargs):
            calls.append(1)
            if left[0] == 0:
                raise _Stopped
            left[0] -= 1
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(engine.lake.core.blocks, "pack", counted(engine.lake.core.blocks.pack))
    monkeypatch.setattr(engine.lake.core.blocks, "add", counted(engine.lake.core.blocks.add))
    return calls


def api_error(kind: str):
    from snapfs import errors

    return next(c for c in vars(errors).values() if isinstance(c, type) and getattr(c, "kind", None) == kind)


def _by_name(engine: EngineSubject) -> dict[str, tuple[bytes, bytes]]:
    found = engine.seals()
    return {record.name: found[record.epoch] for record in engine.records()}


def _entries(engine: EngineSubject, seal: seals.SealRecord) -> list[tuple[bytes, bytes]]:
    async def read() -> list[tuple[bytes, bytes]]:
        return [e for part in seal.parts for e in seals.decode_entries(await engine.lake.sealer.fetch(part))]

    return engine.run(read)


def _place(engine: EngineSubject, block: BlockId):
    _, entry = engine.lake.core.blocks.locate(block)
    return engine.lake.core.blocks.segments.file_path(entry.segment), entry.offset


# -- proofs


def proven(engine: EngineSubject, name: str) -> api.VerifyReport:
    record = engine.lake.snapshots.resolve(engine.lake.volumes.get("data"), name)
    return engine.run(lambda: verify(engine.lake, record))


def versions(engine: EngineSubject, kind: int, epoch: int) -> list[tuple[bytes, bytes]]:
    """(key, payload) of the records of a kind that an epoch wrote."""
    found = items(engine.lake.index, "tree")
    return [(key, payload) for key, payload in found if key[8] == kind and keys.epoch_of(key) == epoch and payload]


@pytest.fixture
def tampered(engine: EngineSubject):
    """A store with the sealed snapshots one and two; what is done to it is undone for the fixture's own fsck."""
    fill(engine)
    engine.setxattr("data", (b"1",), b"user.x", b"1", create=False, replace=False)
    engine.snapshot("data", "one")
    engine.write("data", (b"0",), 0, b"changed")
    engine.snapshot("data", "two")
    engine.seal()
    undo: list[tuple[str, bytes, bytes]] = []

    def put(table: str, key: bytes, payload: bytes) -> None:
        undo.append((table, key, engine.lake.index.get(table, key) or b""))
        engine.lake.index.put(table, key, payload)

    yield engine, put
    for table, key, payload in reversed(undo):
        engine.lake.index.put(table, key, payload)


Tampered = tuple[EngineSubject, Callable[[str, bytes, bytes], None]]


class TestProof:
    def test_of_what_is_sound(self, engine: EngineSubject) -> None:
        fill(engine)
        engine.snapshot("data", "one")
        engine.write("data", (b"0",), 0, b"changed")
        engine.snapshot("data", "two")
        told: list[tuple[int, int]] = []
        record = engine.lake.snapshots.resolve(engine.lake.volumes.get("data"), "two")
        report = engine.run(lambda: verify(engine.lake, record, lambda done, total: told.append((done, total))))
        assert report.findings == []
        assert report.chained
        assert report.files == 9
        assert report.data_read_bytes > 8 * 20_000
        assert report.digest == report.snapshot.seal == sealed(engine, "two").digest.hex()
        assert told[-1][0] == told[-1][1] > 0
        first = proven(engine, "one")
        assert (first.findings, first.chained) == ([], False)
        engine.remove_snapshot("data", "one")
        engine.reclaim()
        after = proven(engine, "two")
        assert (after.findings, after.chained, after.digest) == ([], False, report.digest)

    def test_names_the_file_with_other_content(self, tampered: Tampered) -> None:
        engine, put = tampered
        epoch = sealed(engine, "one").epoch
        number = engine.lake.files.lookup(*engine._head("data"), b"1").ino
        extents = versions(engine, keys.EXTENT, epoch)
        key = next(key for key, _ in extents if keys.from_u64(key) == number)
        put("tree", key, next(payload for key, payload in extents if keys.from_u64(key) != number))
        findings = proven(engine, "one").findings
        assert [finding.message for finding in findings] == ["1: not as it was sealed: content"]
        assert proven(engine, "two").findings != []  # it shows the same file

    @pytest.mark.parametrize(
        ("kind", "text"),
        [(keys.INODE, "1: {}attributes"), (keys.XATTR, "1: {}extended attributes"), (keys.DIRENT, "/: {}entries")],
    )
    def test_names_what_else_was_changed(self, tampered: Tampered, kind: int, text: str) -> None:
        engine, put = tampered
        number = engine.lake.files.lookup(*engine._head("data"), b"1").ino
        for key, payload in versions(engine, kind, sealed(engine, "one").epoch):
            if kind == keys.DIRENT and keys.split_hashed(key[:-8])[1] == b"1":
                put("tree", key, records.encode_dirent(records.decode_dirent(payload)[0], 0o010000))
            elif kind != keys.DIRENT and keys.from_u64(key) == number:
                put("tree", key, payload[:-1] + b"\x09" if kind == keys.XATTR else b"\1" + payload[1:])
        messages = [finding.message for finding in proven(engine, "one").findings]
        assert text.format("not as it was sealed: ") in messages

    def test_a_file_that_was_slipped_in(self, tampered: Tampered) -> None:
        engine, _ = tampered
        epoch = sealed(engine, "one").epoch
        root = engine._head("data")[1]
        entry = versions(engine, keys.DIRENT, epoch)[0][1]
        key = keys.versioned(keys.dirent(root, b"planted", engine.lake.core.seed), epoch)
        engine.lake.index.put("tree", key, entry)
        messages = [finding.message for finding in proven(engine, "one").findings]
        engine.lake.index.delete("tree", key)
        assert messages == ["/: not as it was sealed: entries"]

    def test_directories_that_are_called_files(self, tampered: Tampered) -> None:
        """A made-up store has them nested as deep as it likes."""
        engine, put = tampered
        head, parent = engine._head("data")
        for _ in range(DEEP):
            parent = engine.lake.files.mkdir(head, parent, b"d", mode=0o755, uid=0, gid=0).ino
        engine.snapshot("data", "deep")
        engine.seal()
        for key, payload in versions(engine, keys.DIRENT, sealed(engine, "deep").epoch):
            put("tree", key, records.encode_dirent(records.decode_dirent(payload)[0], 0o100000))
        assert {finding.code for finding in proven(engine, "deep").findings} == {"content"}

    def test_another_record(self, tampered: Tampered) -> None:
        engine, put = tampered
        record = engine.lake.snapshots.resolve(engine.lake.volumes.get("data"), "one")
        forged = msgspec.structs.replace(record, message="by somebody else")
        put("snapshots", keys.u64(record.epoch), records.encode_json(forged))
        assert [finding.code for finding in proven(engine, "one").findings] == ["digest"]
        assert proven(engine, "two").findings == []

    def test_another_seal(self, tampered: Tampered) -> None:
        """Digests that were made anew to fit disagree with the segments, and with the next one's chain."""
        engine, put = tampered
        seal = sealed(engine, "one")
        forged = msgspec.structs.replace(seal, digest=b"x" * 32)
        put("seals", keys.u64(seal.epoch), seals.encode_record(forged))
        assert [finding.code for finding in proven(engine, "one").findings] == ["digest", "seal", "seal"]
        assert [finding.code for finding in proven(engine, "two").findings] == ["chain"]

    @pytest.mark.parametrize("kind", [DATA, SEAL_PART, SEAL_ROOT])
    def test_damaged_bytes(self, tampered: Tampered, kind: int) -> None:
        engine, _ = tampered
        seal = sealed(engine, "one")
        block = {SEAL_ROOT: seal.root, SEAL_PART: seal.parts[0]}.get(kind)
        if block is None:
            extent = next(p for _, p in versions(engine, keys.EXTENT, seal.epoch))
            block = records.decode_extent(extent)[1]
        path, offset = _place(engine, block)
        with path.open("r+b") as file:
            file.seek(offset + 60)
            byte = file.read(1)
            file.seek(offset + 60)
            file.write(bytes([byte[0] ^ 1]))
            file.flush()
            findings = proven(engine, "one").findings
            file.seek(offset + 60)
            file.write(byte)
        assert [finding.code for finding in findings] == ["data" if kind == DATA else "seal"]
        assert "does not match its hash" in findings[0].message
        assert proven(engine, "one").findings == []
