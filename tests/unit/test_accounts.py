"""Accounts: what each event does to them, and what is put off.  ``check_accounts`` counts anew, view by view."""

from __future__ import annotations

import random

import pytest

from snapfs import api
from snapfs.errors import Corrupt, IOFailure
from snapfs.format import keys, records
from snapfs.format.accounts import (
    Changes,
    Sums,
    account_id,
    collected,
    decode_account,
    encode_account,
    encode_changes,
    with_change,
)
from snapfs.store.blocks import digest
from snapfs.store.index import items
from snapfs.testing.engine import EngineSubject
from snapfs.testing.recounting import check_accounts
from snapfs.testing.trees import FILE
from snapfs.types import PAGE_BYTES, Epoch
from snapfs.volume import core, reclaim
from snapfs.volume.accounts import aliases, book, unaccounted

F = (b"f",)


def page(number: int) -> bytes:
    return random.Random(number).randbytes(PAGE_BYTES)


def write(engine: EngineSubject, number: int, at: int = 0, volume: str = "data", name: bytes = b"f") -> None:
    """One page with content of its own, stored."""
    engine.write(volume, (name,), at * PAGE_BYTES, page(number))
    engine.flush()


def head(engine: EngineSubject, volume: str = "data") -> Epoch:
    return engine.lake.volumes.get(volume).head.epoch


def changes(engine: EngineSubject, number: int) -> Changes | None:
    """Of the block with that page; None: there is none, or without references."""
    blocks = engine.lake.core.blocks
    block = blocks.known(digest(page(number)))
    return engine.lake.accounts.changes(blocks.entry(engine.lake.index, block).account) if block else None


def settle(engine: EngineSubject) -> None:
    engine.run(engine.lake.settle_accounts)
    check_accounts(engine.lake, exact=True)


def is_dying(engine: EngineSubject, epoch: Epoch) -> bool:
    return epoch in engine.lake.core.epochs.dying


class TestFormat:
    def test_there_and_back(self) -> None:
        made = collected([(Epoch(7), 2), (Epoch(3), 1), (Epoch(7), -3), (Epoch(0), 5), (Epoch(9), 0)])
        assert made == ((3, 1), (7, -1))
        sums = Sums(1, 2, 3)
        assert decode_account(encode_account(sums, encode_changes(made))) == (sums, made)
        assert decode_account(encode_account(sums, b"")) == (sums, ())
        assert account_id(encode_changes(made)) != account_id(encode_changes(made[:1]))

    @pytest.mark.parametrize(
        "wrong", [((5, 1), (5, 2)), ((5, 1), (4, 1)), ((0, 1),), ((5, 0),)], ids=["twice", "order", "nowhere", "zero"]
    )
    def test_changes_that_cannot_be(self, wrong: tuple[tuple[int, int], ...]) -> None:
        with pytest.raises(Corrupt):
            decode_account(encode_account(Sums(0, 0, 0), encode_changes(wrong)))  # type: ignore[arg-type]

    @pytest.mark.parametrize("payload", [b"", b"x" * 23, b"x" * 25, b"x" * 35])
    def test_bytes_that_are_no_account(self, payload: bytes) -> None:
        with pytest.raises(Corrupt):
            decode_account(payload)


    def test_one_more_change(self) -> None:
        chance = random.Random(1)
        made: Changes = ()
        for _ in range(300):
            one = (Epoch(chance.randrange(1, 9)), chance.choice([-2, -1, 0, 1, 2]))
            wanted = collected([*made, one])
            made = with_change(made, *one)
            assert made == wanted


class TestEvents:
    def test_a_block_is_born_and_hidden(self, engine: EngineSubject) -> None:
        first = head(engine)
        write(engine, 1)
        assert changes(engine, 1) == ((first, 1),)
        engine.snapshot("data", "one")
        second = head(engine)
        write(engine, 2)
        assert changes(engine, 1) == ((first, 1), (second, -1))
        assert changes(engine, 2) == ((second, 1),)
        settle(engine)

    def test_an_own_block_that_is_overwritten_goes(self, engine: EngineSubject) -> None:
        write(engine, 1)
        write(engine, 2)
        assert changes(engine, 1) is None
        settle(engine)

    def test_equal_content_counts_each_record(self, engine: EngineSubject) -> None:
        first = head(engine)
        write(engine, 1)
        write(engine, 1, at=2)
        assert changes(engine, 1) == ((first, 2),)
        engine.snapshot("data", "one")
        engine.make("data", (b"g",), FILE, 0o644)
        write(engine, 1, name=b"g")
        assert changes(engine, 1) == ((first, 2), (head(engine), 1))
        settle(engine)

    def test_the_same_content_again_changes_no_account(self, engine: EngineSubject) -> None:
        """A file written anew by a program that keeps its content."""
        first = head(engine)
        write(engine, 1)
        engine.snapshot("data", "one")
        engine.make("data", (b"new",), FILE, 0o644)
        write(engine, 1, name=b"new")
        engine.rename("data", (b"new",), F, noreplace=False, exchange=False)
        assert changes(engine, 1) == ((first, 1),)
        settle(engine)

    def test_unlink_and_truncation(self, engine: EngineSubject) -> None:
        first = head(engine)
        write(engine, 1)
        write(engine, 2, at=1)
        engine.snapshot("data", "one")
        engine.truncate("data", F, PAGE_BYTES)
        assert changes(engine, 2) == ((first, 1), (head(engine), -1))
        assert changes(engine, 1) == ((first, 1),)
        engine.truncate("data", F, 0)
        assert changes(engine, 1) == ((first, 1), (head(engine), -1))
        write(engine, 3)
        engine.unlink("data", F)
        assert changes(engine, 3) == ((head(engine), 1),), "dropped later"
        engine.run(engine.lake.settle_accounts)
        assert changes(engine, 3) is None
        assert changes(engine, 1) == changes(engine, 2)
        settle(engine)

    def test_equal_accounts_are_one_row(self, engine: EngineSubject) -> None:
        for number in range(20):
            write(engine, number, at=number)
        engine.lake.accounts.flush()
        ((stored_bytes, raw_bytes, blocks, told),) = engine.lake.accounts.rows()
        assert (raw_bytes, blocks, told) == (20 * PAGE_BYTES, 20, ((head(engine), 1),))
        assert stored_bytes == engine.lake.core.blocks.space.stored_bytes

    def test_restore_clone_checkout(self, engine: EngineSubject) -> None:
        first = head(engine)
        write(engine, 1)
        engine.snapshot("data", "one")
        engine.unlink("data", F)
        gone = head(engine)
        engine.restore("data", "one", F)
        assert changes(engine, 1) == ((first, 1),)  # a record less, a record more
        engine.clone("data", "one", "clone")
        write(engine, 2, volume="clone")
        assert changes(engine, 1) == ((first, 1), (head(engine, "clone"), -1))
        engine.unlink("data", F)
        engine.run(engine.lake.settle_accounts)
        assert changes(engine, 1) == ((first, 1), (gone, -1), (head(engine, "clone"), -1))
        engine.checkout("data", "one", api.Save.DISCARD)
        settle(engine)
        engine.reclaim()
        assert changes(engine, 1) == ((first, 1), (head(engine, "clone"), -1))
        settle(engine)

    def test_where_a_block_is_at_home(self, engine: EngineSubject) -> None:
        view, ino = engine._resolve("data", F)
        data = page(1) * 40
        engine.write("data", F, 8 * PAGE_BYTES, data)
        engine.flush()
        for _, payload in items(engine.lake.index, "blocks"):
            entry = records.decode_block(payload)
            found = engine.lake.core.extents(
                view, engine.lake.core.inode(view, ino), entry.home_offset, entry.home_offset + 1
            )
            assert entry.home_ino == ino
            assert engine.lake.core.blocks.entry(engine.lake.index, found[0][0].block) == entry

    def test_hooks_are_told_what_moves(self, engine: EngineSubject) -> None:
        moved: dict[Changes, int] = {}

        def count(which: Changes, stored_bytes: int) -> None:
            moved[which] = moved.get(which, 0) + stored_bytes

        engine.lake.accounts.moved.append(count)
        for number in range(4):
            write(engine, number)
            engine.snapshot("data", f"s{number}")
        engine.lake.accounts.flush()
        assert {which: size for which, size in moved.items() if size} == {
            row[3]: row[0] for row in engine.lake.accounts.rows()
        }

    def test_a_failed_commit_takes_the_book_back(self, engine: EngineSubject) -> None:
        write(engine, 1)
        before = changes(engine, 1)
        engine.snapshot("data", "one")
        engine.write("data", F, 0, page(2))
        engine.run(engine.lake.writeback.flush)
        assert changes(engine, 1) != before
        engine.lake.index.fail(IOFailure("broken"))
        assert changes(engine, 1) == before
        assert changes(engine, 2) is None
        engine.crash()
        settle(engine)


class TestCache:
    def test_rows_that_leave_the_cache_are_written(
        self, engine: EngineSubject, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(book, "WEIGHT_MAX", 20)
        for number in range(6):
            write(engine, number, at=number)
            write(engine, 100 + number, at=number)
            engine.snapshot("data", f"s{number}")
            check_accounts(engine.lake, exact=True)
        assert len(engine.lake.accounts._rows) == 1

    def test_accounts_without_blocks_leave_no_row(self, engine: EngineSubject) -> None:
        for number in range(4):
            write(engine, number)
            engine.snapshot("data", f"s{number}")
        engine.unlink("data", F)
        for number in range(4):
            engine.remove_snapshot("data", f"s{number}")
        engine.reclaim()
        assert engine.lake.index.count("accounts") == engine.lake.index.count("account_ids") == 0


class TestPutOff:
    """Many extents that are hidden in one step are accounted later."""

    @pytest.fixture(autouse=True)
    def low_limits(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(core, "REAP_NOW_MAX", 2)
        monkeypatch.setattr(reclaim, "BATCH", 3)

    def prepare(self, engine: EngineSubject) -> Epoch:
        """A file of 10 pages in a snapshot; pages 0 to 4 written again in the head since."""
        for number in range(10):
            engine.write("data", F, number * PAGE_BYTES, page(number))
            engine.flush()
        first = head(engine)
        engine.snapshot("data", "one")
        for number in range(5):
            write(engine, 100 + number, at=number)
        return first

    @pytest.mark.parametrize("how", ["unlink", "truncate"])
    def test_step_by_step(self, engine: EngineSubject, how: str) -> None:
        first = self.prepare(engine)
        if how == "unlink":
            engine.unlink("data", F)
        else:
            engine.truncate("data", F, 0)
        index = engine.lake.index
        told = [changes(engine, number) for number in range(10)]
        assert told == [((first, 1), (head(engine), -1))] * 5 + [((first, 1),)] * 5
        assert index.count("unaccounted") == index.count("reap") == 1
        steps = 0
        while index.count("unaccounted"):
            check_accounts(engine.lake, exact=False)
            row = unaccounted.first(index)
            assert row is not None
            assert row.offset == 3 * steps * PAGE_BYTES
            engine.lake.reclaim.step()
            steps += 1
            assert index.count("reap"), "what the head itself had says what was accounted before"
        assert steps == 4
        assert [changes(engine, number) for number in range(10)] == [((first, 1), (head(engine), -1))] * 10
        settle(engine)
        assert changes(engine, 100) is None

    def test_a_crash_between(self, engine: EngineSubject) -> None:
        self.prepare(engine)
        engine.unlink("data", F)
        engine.flush()
        engine.lake.reclaim.step()
        engine.flush()
        engine.lake.reclaim.step()
        engine.crash()
        check_accounts(engine.lake, exact=False)
        settle(engine)

    def test_truncated_then_unlinked(self, engine: EngineSubject) -> None:
        """The second step must not drop records that the first one still needs."""
        self.prepare(engine)
        engine.truncate("data", F, 0)
        write(engine, 200)
        engine.unlink("data", F)
        settle(engine)

    def test_snapshots_and_clones_meanwhile(self, engine: EngineSubject) -> None:
        self.prepare(engine)
        engine.unlink("data", F)
        engine.snapshot("data", "two")
        engine.clone("data", "one", "clone")
        write(engine, 300, at=7, volume="clone")
        check_accounts(engine.lake, exact=False)
        settle(engine)
        engine.remove_snapshot("data", "one")
        engine.remove_snapshot("data", "two")
        engine.reclaim()
        settle(engine)

    def test_a_head_that_is_discarded_meanwhile(self, engine: EngineSubject) -> None:
        first = self.prepare(engine)
        engine.unlink("data", F)
        engine.checkout("data", "one", api.Save.DISCARD)
        engine.reclaim()
        assert [changes(engine, number) for number in range(10)] == [((first, 1),)] * 10
        settle(engine)

    def test_a_file_of_the_head_alone_is_not_put_off(self, engine: EngineSubject) -> None:
        engine.snapshot("data", "one")
        engine.make("data", (b"g",), FILE, 0o644)
        for number in range(10):
            write(engine, number, at=number, name=b"g")
        engine.unlink("data", (b"g",))
        assert engine.lake.index.count("unaccounted") == 0


class TestAliases:
    def test_accounts_go_on_to_name_what_was_folded(self, engine: EngineSubject) -> None:
        first = head(engine)
        write(engine, 1)
        engine.snapshot("data", "one")
        second = head(engine)
        write(engine, 2, at=1)
        engine.snapshot("data", "two")
        engine.remove_snapshot("data", "one")
        engine.reclaim()
        assert first not in engine.lake.core.epochs
        assert engine.lake.accounts.aliases() == {first: second}
        assert changes(engine, 1) == ((second, 1),)
        rows = {row[3] for row in engine.lake.accounts.rows()}
        assert ((first, 1),) in rows
        engine.reopen()
        assert changes(engine, 1) == ((second, 1),)
        settle(engine)

    def test_what_went_with_its_branch(self, engine: EngineSubject) -> None:
        first = head(engine)
        write(engine, 1)
        engine.snapshot("data", "one")
        engine.clone("data", "one", "clone")
        branch = head(engine, "clone")
        write(engine, 2, volume="clone")
        assert changes(engine, 1) == ((first, 1), (branch, -1))
        engine.remove_volume("clone", snapshots=True)
        engine.reclaim()
        assert engine.lake.accounts.resolve(branch) == 0
        assert changes(engine, 1) == ((first, 1),)
        settle(engine)

    def test_a_sweep(self, engine: EngineSubject, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(book, "ALIASES_MAX", 8)
        monkeypatch.setattr(reclaim, "BATCH", 2)
        for number in range(12):
            write(engine, number, at=number)
            engine.snapshot("data", f"s{number}")
        keep = engine.lake.snapshots.resolve(engine.lake.volumes.get("data"), "s11").epoch
        for number in range(11):
            engine.remove_snapshot("data", f"s{number}")
        lake = engine.lake
        while lake.core.epochs.reclaimable():
            lake.reclaim.step()
        assert len(lake.accounts.aliases()) == 11
        lake.reclaim.step()  # the sweep begins
        write(engine, 50, at=50)
        check_accounts(lake, exact=True)
        while lake.reclaim.step():
            check_accounts(lake, exact=True)
        lake.accounts.flush()
        assert lake.accounts.aliases() == {}
        assert lake.index.count("aliases") == 0
        assert {row[3] for row in lake.accounts.rows()} == {((keep, 1),), ((head(engine), 1),)}
        write(engine, 51, at=51)  # equal to one of several that are equal now
        settle(engine)

    def test_an_alias_that_leads_back_is_damage(self, engine: EngineSubject) -> None:
        engine.lake.index.put("aliases", keys.u64(9), (5).to_bytes(8, "little"))
        with pytest.raises(Corrupt, match="older"):
            aliases.load(engine.lake.index)
        engine.lake.index.delete("aliases", keys.u64(9))


class TestShared:
    """A deleted snapshot with two clones: its epoch stays, and holds only what one of them needs."""

    def prepare(self, engine: EngineSubject) -> Epoch:
        for number in range(4):
            write(engine, number, at=number)
        engine.snapshot("data", "one")
        epoch = engine.lake.snapshots.resolve(engine.lake.volumes.get("data"), "one").epoch
        engine.clone("data", "one", "a")
        engine.clone("data", "one", "b")
        engine.unlink("data", F)
        return epoch

    def stored(self, engine: EngineSubject) -> set[int]:
        return {number for number in range(4) if changes(engine, number) is not None}

    def test_what_all_hide_goes_at_once(self, engine: EngineSubject) -> None:
        epoch = self.prepare(engine)
        engine.remove_snapshot("data", "one")
        engine.reclaim()
        assert is_dying(engine, epoch)
        assert self.stored(engine) == {0, 1, 2, 3}
        assert not engine.lake.reclaim.step()
        write(engine, 10, volume="a")
        assert self.stored(engine) == {0, 1, 2, 3}
        write(engine, 11, volume="b")
        assert self.stored(engine) == {1, 2, 3}
        engine.truncate("a", F, 0)
        engine.unlink("b", F)
        assert self.stored(engine) == set()
        settle(engine)
        engine.reclaim()
        assert is_dying(engine, epoch)
        assert not engine.lake.reclaim.step()
        for volume in ("a", "data"):
            engine.remove_volume(volume, snapshots=True)
        engine.reclaim()
        assert epoch not in engine.lake.core.epochs
        settle(engine)

    def test_what_was_hidden_before_goes_when_it_is_deleted(self, engine: EngineSubject) -> None:
        self.prepare(engine)
        write(engine, 10, volume="a", at=2)
        write(engine, 11, volume="b", at=2)
        engine.remove_snapshot("data", "one")
        assert self.stored(engine) == {0, 1, 2, 3}
        engine.reclaim()
        assert self.stored(engine) == {0, 1, 3}
        settle(engine)

    def test_below_a_dying_child(self, engine: EngineSubject) -> None:
        """The snapshot is a grandparent of heads by way of another deleted one."""
        self.prepare(engine)
        engine.snapshot("a", "two")
        engine.clone("a", "two", "c")
        engine.remove_snapshot("data", "one")
        engine.remove_snapshot("a", "two")
        engine.reclaim()
        for volume in ("a", "b"):
            write(engine, 10, volume=volume)
        assert self.stored(engine) == {0, 1, 2, 3}
        write(engine, 10, volume="c")
        assert self.stored(engine) == {1, 2, 3}
        settle(engine)
        engine.reclaim()
        settle(engine)

    def test_a_child_that_is_deleted_needs_nothing_any_more(self, engine: EngineSubject) -> None:
        self.prepare(engine)
        for volume in ("a", "b"):
            engine.snapshot(volume, "s")
            write(engine, 10, volume=volume)
        engine.remove_snapshot("data", "one")
        engine.reclaim()
        engine.remove_snapshot("a", "s")
        engine.reclaim()
        assert self.stored(engine) == {0, 1, 2, 3}
        engine.remove_snapshot("b", "s")
        engine.reclaim()
        assert self.stored(engine) == {1, 2, 3}
        settle(engine)

    def test_its_state_is_remembered(self, engine: EngineSubject) -> None:
        epoch = self.prepare(engine)

        def state() -> int:
            payload = engine.lake.index.get("epochs", keys.u64(epoch))
            assert payload is not None
            return records.decode_epoch(payload)[2]

        engine.remove_snapshot("data", "one")
        assert state() == records.DYING
        engine.reclaim()
        assert state() == records.SHARED
        engine.reopen()
        assert not engine.lake.reclaim.step()
        for volume in ("b", "data"):
            engine.remove_volume(volume, snapshots=True)
        assert state() == records.DYING
        engine.reopen()
        engine.reclaim()
        assert epoch not in engine.lake.core.epochs
        assert self.stored(engine) == {0, 1, 2, 3}
        settle(engine)

    def test_while_others_wait_to_be_accounted(self, engine: EngineSubject, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(core, "REAP_NOW_MAX", 1)
        self.prepare(engine)
        engine.remove_snapshot("data", "one")
        engine.reclaim()
        engine.unlink("a", F)
        write(engine, 10, volume="b")
        assert self.stored(engine) == {0, 1, 2, 3}
        check_accounts(engine.lake, exact=False)
        engine.reclaim()
        assert self.stored(engine) == {1, 2, 3}
        settle(engine)

    def test_attributes_stay_for_what_belongs_to_them(self, engine: EngineSubject) -> None:
        """Both children have attributes of their own; one is a tombstone, which must go on to hide the extents."""
        self.prepare(engine)
        engine.chmod("a", F, 0o600)
        engine.unlink("b", F)
        engine.snapshot("b", "s")
        engine.make("b", (b"other",), FILE, 0o644)
        engine.remove_snapshot("data", "one")
        engine.remove_snapshot("b", "s")
        engine.reclaim()
        settle(engine)
        engine.remove_volume("a", snapshots=True)
        engine.reclaim()
        assert self.stored(engine) == set()
        settle(engine)


def test_many_shared_epochs_are_reclaimed_in_the_right_order(engine: EngineSubject) -> None:
    """Snapshots and clones in a chain, deleted in random order, with a recount after each."""
    chance = random.Random(5)
    volumes, made = ["data"], []
    for number in range(8):
        volume = chance.choice(volumes)
        write(engine, number, at=number % 3, volume=volume)
        engine.snapshot(volume, f"s{number}")
        made.append((volume, f"s{number}"))
        engine.clone(*chance.choice(made), f"v{number}")
        volumes.append(f"v{number}")
        write(engine, 100 + number, at=chance.randrange(3), volume=volumes[-1])
    chance.shuffle(made)
    for address in made:
        engine.remove_snapshot(*address)
        engine.reclaim()
        check_accounts(engine.lake, exact=True)
    for volume in volumes[1:]:
        engine.remove_volume(volume, snapshots=True)
    engine.reclaim()
    check_accounts(engine.lake, exact=True)
    assert len(engine.lake.core.epochs.all()) == 1
