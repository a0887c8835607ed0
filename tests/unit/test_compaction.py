"""Space comes back: pages that the dead share are punched, what is left of segments is copied, the index shrinks."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import random
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from snapfs.errors import SnapfsError
from snapfs.format import keys, records
from snapfs.format import segments as fmt
from snapfs.format.records import Block
from snapfs.store import shrinking
from snapfs.store.blocks import digest, unpack
from snapfs.store.disk import Disk
from snapfs.store.index import Reading, items
from snapfs.store.room import SPARE_BYTES
from snapfs.testing.engine import EngineSubject
from snapfs.testing.faulty import BROKEN, FaultyDisk
from snapfs.types import PAGE_BYTES, BlockId, SegmentId
from snapfs.volume.limits import Limits, Pace

MEGABYTE = 1 << 20
LIMITS = Limits(segment_bytes_max=MEGABYTE)
RECORD_BYTES = fmt.record_bytes(PAGE_BYTES)
SECONDS_MAX = 20


class Store(EngineSubject):
    """Files of one page each, in the volume ``data``; each is a record that shares its pages with its neighbours."""

    def __init__(self, path: Path, disk: Disk | None = None) -> None:
        super().__init__(path, disk, LIMITS)
        self.contents: dict[bytes, bytes] = {}
        self.made = 0
        self.create_volume("data")

    def add(self, count: int) -> list[bytes]:
        names = [b"%d" % (self.made + number) for number in range(count)]
        self.made += count
        head = self.lake.volumes.get("data")

        async def write() -> None:
            for name in names:
                self.contents[name] = random.randbytes(PAGE_BYTES)
                files, mode = self.lake.files, stat.S_IFREG | 0o644
                inode = files.mknod(head.head, head.root, name, mode=mode, uid=0, gid=0)
                await files.write(head.head, inode.ino, 0, self.contents[name])
            await self.lake.sync()

        self.run(write)
        return names

    def remove(self, names: list[bytes]) -> None:
        for name in names:
            self.unlink("data", (name,))
            self.contents.pop(name)
        self.run(self.lake.settle_accounts)  # blocks lose their references
        self.flush()

    def disk_bytes(self) -> int:
        return self.lake.core.blocks.segments.disk_bytes()

    def check(self) -> None:
        """All is there, and consistent."""
        tree = self.tree("data")
        assert {path[0]: shown.content for path, shown in tree.items() if path} == self.contents
        assert self.fsck() == []
        placed = {
            (keys.from_u64(key), keys.from_u64(key, 8), keys.from_u64(block))
            for key, block in items(self.lake.index, "places")
        }
        entries = self.entries(self.lake.index)
        assert placed == {(entry.segment, entry.offset, block) for block, entry in entries.items()}

    @staticmethod
    def entries(source: Reading) -> dict[BlockId, Block]:
        found = ((keys.from_u64(key), records.decode_block(payload)) for key, payload in items(source, "blocks"))
        return {BlockId(block): entry for block, entry in found if not entry.lost}

    def segments(self) -> set[SegmentId]:
        return set(self.lake.core.blocks.known_segments())

    def thinned(self, count: int = 600, left: float = 0.5) -> None:
        """Segments of which about so much is left, page by page."""
        names = self.add(count)
        dice = random.Random(3)
        self.remove([name for name in names if dice.random() > left])
        self.reclaim()


@contextmanager
def opened(path: Path, disk: Disk | None = None) -> Iterator[Store]:
    store = Store(path, disk)
    try:
        yield store
        store.check()
    finally:
        store.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with opened(tmp_path / "store") as made:
        yield made


@pytest.fixture
def disk() -> FaultyDisk:
    return FaultyDisk()


@pytest.fixture
def faulty(tmp_path: Path, disk: FaultyDisk) -> Iterator[Store]:
    with opened(tmp_path / "store", disk) as made:
        yield made


class NoHoles(Disk):
    """Of a host that cannot punch."""

    def __init__(self) -> None:
        self.asked = 0

    def punch(self, what: str, fd: int, offset: int, length: int) -> bool:
        self.asked += what.startswith("segment.")
        return False


class TestPunching:
    def test_neighbours_that_go_one_after_the_other_free_the_pages_they_share(self, store: Store) -> None:
        names = store.add(200)
        full = store.disk_bytes()
        store.remove(names[::2])
        store.reclaim()
        assert full - store.disk_bytes() < 4 * PAGE_BYTES  # each page is needed by a neighbour
        store.remove(names[1:-1:2])
        store.reclaim()
        assert store.disk_bytes() <= 5 * PAGE_BYTES  # header, the last one and what it shares
        store.check()

    def test_neighbours_that_go_together(self, store: Store) -> None:
        names = store.add(200)
        full = store.disk_bytes()
        store.remove(names[20:120])
        store.reclaim()
        assert full - store.disk_bytes() >= 100 * RECORD_BYTES - 2 * PAGE_BYTES

    def test_who_stays_is_whole(self, store: Store) -> None:
        dice = random.Random(1)
        for _ in range(6):
            store.add(60)
            store.remove(dice.sample(sorted(store.contents), 40))
            store.reclaim()
            store.crash()
            store.check()

    def test_blocks_without_an_entry_yet_share_no_page_with_the_dead(self, store: Store) -> None:
        blocks = store.lake.core.blocks
        (name,) = store.add(1)
        data = [random.randbytes(1000) for _ in range(4)]
        with blocks.placing():
            placed = blocks.pack([(digest(one), one) for one in data])
            store.remove([name])
            store.run(lambda: store.lake.upkeep.reclaim())
            file = store.lake.core.blocks.segments.file_path(placed[0].segment).read_bytes()
            for one, place in zip(data, placed, strict=True):
                assert file[place.offset + fmt.BLOCK_HEADER_BYTES :][:1000] == one

    def test_a_host_that_cannot_punch_is_told_of_once(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        disk = NoHoles()
        with opened(tmp_path / "store", disk) as store, caplog.at_level(logging.WARNING):
            for _ in range(3):
                store.remove(store.add(20))
                store.reclaim()
            assert disk.asked == 1
            assert sum("cannot punch" in record.message for record in caplog.records) == 1
            assert store.stored_bytes() == 0


class TestCopying:
    def test_what_is_left_of_segments_takes_no_more_than_it_is(self, store: Store) -> None:
        store.thinned()
        stored, before, old = store.stored_bytes(), store.disk_bytes(), store.segments()
        assert before > 1.3 * stored
        store.compact()
        assert store.disk_bytes() < 1.02 * stored + 4 * PAGE_BYTES
        assert store.stored_bytes() == stored
        assert not old & store.segments()
        assert {int(path.stem) for path in (store.path / "segments").iterdir()} == store.segments()
        store.crash()
        store.check()
        store.compact()
        assert store.lake.upkeep.compaction.copied_bytes == 0  # there is nothing left to do

    def test_where_nothing_can_be_punched(self, tmp_path: Path) -> None:
        with opened(tmp_path / "store", NoHoles()) as store:
            store.thinned(left=0.2)
            assert store.disk_bytes() > 4 * store.stored_bytes()
            store.compact()
            assert store.disk_bytes() < 1.02 * store.stored_bytes() + 4 * PAGE_BYTES

    def test_by_itself(self, store: Store) -> None:
        store.thinned()
        wanted = 1.02 * store.stored_bytes() + 4 * PAGE_BYTES

        async def wait() -> None:
            with trio.fail_after(SECONDS_MAX):
                async with store.lake.running():
                    while store.disk_bytes() > wanted:
                        await trio.sleep(0.02)

        store.run(wait)

    def test_the_owner_decides_what_is_worth_it(self, store: Store) -> None:
        compaction, settled = store.lake.upkeep.compaction, store.lake.upkeep.reclaim
        store.thinned(left=0.88)
        store.run(settled)
        compaction.copied_bytes = 1 << 40  # nothing is paid for by what was deleted
        for percent, worth in ((50.0, False), (0.0, False), (5.0, True)):
            store.lake.follow(Pace(compact_percent=percent))
            assert bool(store.run(compaction.next)) == worth, percent
        store.lake.follow(Pace(compact_percent=50.0))
        compaction.copied_bytes = -MEGABYTE
        assert store.run(compaction.next)

    def test_a_reader_of_an_older_state_reads_on(self, store: Store) -> None:
        store.thinned()
        segments = store.lake.core.blocks.segments
        with store.lake.index.reader() as reader:
            old = store.entries(reader)
            store.compact()
            assert {entry.segment for entry in old.values()}.isdisjoint(
                entry.segment for entry in store.entries(store.lake.index).values()
            )
            for block, entry in old.items():
                with segments.file_path(entry.segment).open("rb") as file:
                    file.seek(entry.offset + fmt.BLOCK_HEADER_BYTES)
                    unpack(block, entry, file.read(entry.stored_bytes))
            store.check()
        store.reclaim()
        assert not {entry.segment for entry in old.values()} & store.segments()
        assert list(items(store.lake.index, "emptied")) == []

    def test_what_goes_beside_an_old_place_takes_no_page_of_it(self, store: Store) -> None:
        """A record that was moved has no row where it was, but a reader of an older state finds it there."""
        names = store.add(100)
        store.remove(names[1::2])
        blocks = store.lake.core.blocks
        (segment,) = store.segments()
        with store.lake.index.reader() as reader:
            old = {block: entry for block, entry in store.entries(reader).items() if entry.refs}
            assert store.run(lambda: store.lake.upkeep.compaction.copy(segment))
            assert store.lake.index.count("freed") == 50
            store.reclaim()
            assert store.lake.index.count("freed") == 0
            for block, entry in old.items():
                with blocks.segments.file_path(entry.segment).open("rb") as file:
                    file.seek(entry.offset + fmt.BLOCK_HEADER_BYTES)
                    unpack(block, entry, file.read(entry.stored_bytes))
        store.reclaim()
        assert segment not in store.segments()

    def test_a_read_under_way_reads_on(self, store: Store) -> None:
        store.thinned()
        blocks = store.lake.core.blocks
        old = store.entries(store.lake.index)
        with blocks.pinned():
            store.compact()
            for block, entry in old.items():
                file = blocks.segments.open(entry.segment)
                assert blocks.fetch(block, file, entry) is not None
        store.reclaim()
        assert not {entry.segment for entry in old.values()} & store.segments()

    def test_a_damaged_record_is_left_where_it_is(self, store: Store) -> None:
        store.thinned()
        entries = sorted(store.entries(store.lake.index).values(), key=lambda entry: (entry.segment, entry.offset))
        bad = next(entry for entry in entries if entry.segment == entries[-1].segment)
        path = store.lake.core.blocks.segments.file_path(bad.segment)
        place = bad.offset + fmt.BLOCK_HEADER_BYTES + 100
        byte = path.read_bytes()[place]
        _poke(path, place, byte ^ 1)
        store.compact()
        assert store.segments() > {bad.segment}  # the others are gone
        assert any(b"cannot be copied" in payload for _, payload in items(store.lake.index, "events"))
        _poke(path, place, byte)
        store.crash()
        store.compact()
        assert bad.segment not in store.segments()

    def test_too_little_room(self, faulty: Store, disk: FaultyDisk) -> None:
        """It stops, and says nothing; when there is room it goes on."""
        faulty.thinned()
        before = faulty.segments()
        disk.free = faulty.lake.core.pending_bytes() + MEGABYTE
        faulty.lake.core.forget_free_space()
        faulty.run(faulty.lake.upkeep.compact)
        assert faulty.segments() == before
        disk.failing["segment.append"] = errno.ENOSPC
        disk.free = 0
        faulty.run(faulty.lake.upkeep.compact)
        faulty.check()
        disk.failing.clear()
        faulty.compact()
        assert not before & faulty.segments()

    def test_little_room_is_used_again_and_again(self, faulty: Store, disk: FaultyDisk) -> None:
        """What was copied is given back before the next is."""
        faulty.thinned()
        disk.free = faulty.lake.core.pending_bytes() + 18 * MEGABYTE
        most = 0
        pread = disk.pread

        def read(what: str, fd: int, size: int, offset: int) -> bytes:
            nonlocal most
            most = max(most, faulty.disk_bytes())
            return pread(what, fd, size, offset)

        disk.pread = read  # type: ignore[method-assign]
        before = faulty.disk_bytes()
        faulty.compact()
        assert most <= before + 2 * MEGABYTE

    @pytest.mark.parametrize("what", ["segment.append", "segment.sync", "segment.compact_read", "segment.drop"])
    def test_it_goes_on_after_a_crash(self, faulty: Store, disk: FaultyDisk, what: str) -> None:
        """Killed in the middle, it is begun again by who opens the store next, whatever the limit."""
        faulty.thinned()
        old = faulty.segments()
        faulty.lake.upkeep._asked = lambda: True  # type: ignore[method-assign]
        faulty.lake.upkeep.compaction._asked = lambda: True
        faulty.run(lambda: faulty.lake.upkeep._compact_one(thorough=True))
        faulty.flush()
        assert len(list(items(faulty.lake.index, "emptied"))) == 1
        calls = disk.calls[what]
        disk.failing[what] = BROKEN
        with contextlib.suppress(SnapfsError):
            faulty.compact()
        assert disk.calls[what] > calls
        disk.failing.clear()
        faulty.crash()
        faulty.check()
        faulty.compact()
        assert not old & faulty.segments()
        assert list(items(faulty.lake.index, "emptied")) == []

    def test_a_deleted_snapshot_is_at_no_old_place(self, store: Store) -> None:
        """A rebuild from the segments must not find it."""
        store.snapshot("data", "one")
        store.seal()
        store.thinned()
        roots = [entry for entry in store.entries(store.lake.index).values() if entry.kind == fmt.SEAL_ROOT]
        assert len(roots) == 1
        with store.lake.index.reader():
            store.compact()
            assert roots[0].segment in store.segments()
        blocks = store.lake.core.blocks
        path = blocks.segments.file_path(roots[0].segment)
        assert path.read_bytes()[roots[0].offset :][:4] == fmt.BLOCK_MAGIC
        store.remove_snapshot("data", "one")
        store.run(store.lake.seal_all)
        kept = path.open("rb")  # the file goes, too
        with kept:
            store.reclaim()
            kept.seek(roots[0].offset)
            assert kept.read(fmt.BLOCK_HEADER_BYTES) == bytes(fmt.BLOCK_HEADER_BYTES)

    def test_pages_that_a_crash_of_the_host_brought_back(self, store: Store) -> None:
        """What was punched need not be durable when the index's commit is."""
        names = store.add(400)
        path = store.lake.core.blocks.segments.file_path(SegmentId(min(store.segments())))
        whole = path.read_bytes()
        store.remove(names[:100])
        store.reclaim()
        thin = path.stat().st_blocks
        with path.open("r+b") as file:
            file.write(whole)
        store.crash()
        store.run(lambda: store.lake.upkeep.compaction.next())
        assert path.stat().st_blocks == thin


def _poke(path: Path, place: int, byte: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        file.write(bytes([byte]))


class TestIndex:
    def shrink(self, store: Store) -> bool:
        return store.run(lambda: store.lake.upkeep.shrink(spare_percent=0, spare_bytes_min=0))

    def grown(self, store: Store) -> int:
        """An index of which most is free; bytes of its pages."""
        store.remove(store.add(1500))
        store.reclaim()
        return store.lake.index.used_bytes()

    def test_free_pages_go(self, store: Store) -> None:
        before = self.grown(store)
        store.add(5)
        assert self.shrink(store)
        assert store.lake.index.used_bytes() < before / 4
        file = store.path / "index" / "data.mdb"
        assert file.stat().st_blocks * 512 <= store.lake.index.used_bytes() + SPARE_BYTES + 4 * PAGE_BYTES
        store.add(5)
        store.check()
        store.crash()
        store.check()
        assert not (store.path / shrinking.COPY).exists()

    def test_what_waits_for_a_transaction_waits_no_more(self, store: Store) -> None:
        self.grown(store)
        names = store.add(10)
        store.remove(names)
        assert len(list(items(store.lake.index, "freed"))) >= 10
        assert self.shrink(store)
        assert {keys.from_u64(key) for key, _ in items(store.lake.index, "freed")} == {0}
        store.reclaim()
        assert store.stored_bytes() == 0

    def test_a_reader_or_a_pin_keeps_it(self, store: Store) -> None:
        self.grown(store)
        with store.lake.index.reader():
            assert not self.shrink(store)
        with store.lake.core.blocks.pinned():
            assert not self.shrink(store)
        assert self.shrink(store)

    def test_who_commits_meanwhile_keeps_it(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        before = self.grown(store)
        make = shrinking.make_copy

        def late(*arguments: object) -> None:
            make(*arguments)  # type: ignore[arg-type]
            trio.from_thread.run(store.lake.volumes_made)  # type: ignore[attr-defined]

        async def made() -> None:
            await store.service.create_volume(name="meanwhile")

        store.lake.volumes_made = made  # type: ignore[attr-defined]
        monkeypatch.setattr(shrinking, "make_copy", late)
        assert not self.shrink(store)
        assert store.lake.index.used_bytes() >= before
        assert store.lake.volumes.names() == ["data", "meanwhile"]
        monkeypatch.undo()
        assert self.shrink(store)
        assert store.lake.volumes.names() == ["data", "meanwhile"]

    def test_what_a_crash_left_beside_is_removed(self, store: Store) -> None:
        (store.path / shrinking.COPY).mkdir()
        (store.path / shrinking.COPY / "data.mdb").write_bytes(b"half")
        store.crash()
        assert not (store.path / shrinking.COPY).exists()

    def test_a_host_that_cannot_exchange_directories(self, faulty: Store, disk: FaultyDisk) -> None:
        before = self.grown(faulty)
        disk.exchange = lambda what, one, other: False  # type: ignore[method-assign]
        assert self.shrink(faulty)
        assert faulty.lake.index.used_bytes() >= before
        assert not (faulty.path / shrinking.COPY).exists()
        faulty.add(3)
        faulty.check()
        faulty.crash()
        faulty.check()

    def test_the_old_index_stays_until_the_exchange_is_durable(self, faulty: Store, disk: FaultyDisk) -> None:
        self.grown(faulty)
        disk.failing["index.directory"] = BROKEN
        with pytest.raises(SnapfsError, match="takes no more changes"):
            self.shrink(faulty)
        assert (faulty.path / shrinking.COPY / "data.mdb").exists()
        disk.failing.clear()
        faulty.crash()
        assert not (faulty.path / shrinking.COPY).exists()
        faulty.check()

    def test_an_exchange_that_fails_makes_the_store_refuse(self, faulty: Store, disk: FaultyDisk) -> None:
        self.grown(faulty)
        names = faulty.add(3)
        disk.failing["index.directory"] = BROKEN
        with pytest.raises(SnapfsError, match="takes no more changes"):
            self.shrink(faulty)
        assert faulty.tree("data")[names[0],].content == faulty.contents[names[0]]
        disk.failing.clear()
        faulty.crash()

    def test_what_was_set_aside_for_a_large_commit_is_given_back(self, store: Store) -> None:
        for number in range(300):
            store.lake.index.put("meta", b"x%d" % number, os.urandom(100_000))
        store.lake.index.commit()
        for number in range(300):
            store.lake.index.delete("meta", b"x%d" % number)
        store.lake.index.commit()
        file = store.path / "index" / "data.mdb"
        assert file.stat().st_blocks * 512 < store.lake.index.used_bytes() + 17 * MEGABYTE
