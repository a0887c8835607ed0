"""Repair of accounts and places: both are made anew from what they derive from.

Invariants:
  * References are right before: a block of files with references gets an account, all others have none.
  * What was still to be accounted, and what went elsewhere, is in the new accounts: they name living epochs only.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import msgspec

from snapfs.format import accounts, keys, records
from snapfs.format import segments as fmt
from snapfs.format.accounts import Changes, Sums
from snapfs.format.records import Block
from snapfs.store.index import Index
from snapfs.types import Epoch
from snapfs.volume.accounts.recount import Recount
from snapfs.volume.check.accounts import AccountChecks
from snapfs.volume.check.base import DECODERS, Findings, decoded, sound, values
from snapfs.volume.check.blocks import place_key
from snapfs.volume.check.tables import counter
from snapfs.volume.check.tree import Counts
from snapfs.volume.repair.base import Bench, quiet

_TABLES: Final = ("accounts", "account_ids", "aliases", "unaccounted")
_BATCH: Final = 1000


def repair_accounts(bench: Bench) -> None:
    """If anything is wrong with any account, all are counted anew."""
    index = bench.index
    wrong = [message for table in _TABLES for _, message in bench.bad(table, DECODERS[table])] or _findings(bench)
    if wrong:
        bench.act("account", f"which snapshots show which blocks is counted again: {wrong[0]}")
        recount(index, bench.shape.parent)
    elif counter(index, "next_account", 1) < 0:
        bench.act("counter", "the next account gets its number again")
        newest = max((keys.from_u64(key) for key, _ in values(index, "accounts", quiet)), default=0)
        index.put("meta", b"next_account", (newest + 1).to_bytes(8, "little"))
    if bench.total:  # what was mended may have hidden what a shared epoch holds
        for epoch in bench.shape.shared:
            payload = records.encode_epoch(bench.shape.parent[epoch], bench.shape.volume_of[epoch], records.DYING)
            index.put("epochs", keys.u64(epoch), payload)
        bench.look_again()


def _findings(bench: Bench) -> list[str]:
    findings = Findings()
    blocks_max = max((number for number, _ in bench.blocks()), default=0)
    accounts_max = max((keys.from_u64(key) for key, _ in values(bench.index, "accounts", quiet)), default=0)
    limit = _SPARE_NUMBERS + blocks_max
    checks = AccountChecks(bench.index, bench.shape, findings, blocks_max, min(accounts_max, limit))
    for _ in checks.walk():
        pass
    for block, entry in bench.blocks():
        checks.block(block, entry)
    for _ in checks.finish():
        pass
    return [finding.message for finding in findings.listed]


_SPARE_NUMBERS: Final = 1 << 20


def recount(index: Index, parents: Mapping[Epoch, Epoch], pause: Callable[[], None] = lambda: None) -> None:
    """Make all accounts anew.

    Args:
        parents: of all epochs.
        pause: called where the index may be committed.
    """
    for table in _TABLES:
        _clear(index, table, pause)
    limit = min(max(counter(index, "next_block", 1), 1), _SPARE_NUMBERS + _NUMBERS_A_BLOCK * index.count("blocks"))
    made = _Accounts(limit)
    for counted in Recount(index, parents).run():
        if counted is not None:
            made.add(*counted)
    numbers: dict[int, int] = {}
    """Of the table, by ours."""
    sums: dict[int, Sums] = {}
    for key, entry in _entries(index, pause):
        found = made.of_block[keys.from_u64(key)] if entry.kind == fmt.DATA and entry.refs else 0
        number = numbers.setdefault(found, len(numbers) + 1) if found else 0
        if entry.account != number:
            index.put("blocks", key, records.encode_block(msgspec.structs.replace(entry, account=number)))
        if number:
            stored_bytes = 0 if entry.lost else fmt.record_bytes(entry.stored_bytes)
            before = sums.get(number, _NO_SUMS)
            sums[number] = Sums(
                before.stored_bytes + stored_bytes,
                before.raw_bytes + (0 if entry.lost else entry.raw_bytes),
                before.blocks + 1,
            )
    for found, number in numbers.items():
        changes = accounts.encode_changes(made.changes(found))
        index.put("accounts", keys.u64(number), accounts.encode_account(sums[number], changes))
        index.put("account_ids", accounts.account_id(changes), keys.u64(number))
        pause()
    index.put("meta", b"next_account", (len(numbers) + 1).to_bytes(8, "little"))


_NO_SUMS: Final = Sums(0, 0, 0)
_NUMBERS_A_BLOCK: Final = 64


class _Accounts:
    """Changes of blocks while they are counted: blocks with the same ones share them."""

    def __init__(self, blocks_max: int) -> None:
        self.of_block = Counts(blocks_max)
        """The number of its account; 0: it has none yet."""
        self._all: list[Changes] = [(), ()]
        self._number: dict[Changes, int] = {(): 1}
        self._next: dict[tuple[int, Epoch, tuple[Epoch, ...]], int] = {}
        """Where an account leads with one more record."""

    def add(self, block: int, born: Epoch, deaths: tuple[Epoch, ...]) -> None:
        step = (self.of_block[block], born, deaths)
        number = self._next.get(step)
        if number is None:
            changes = accounts.collected([*self._all[step[0]], (born, 1), *((death, -1) for death in deaths)])
            number = self._number.setdefault(changes, len(self._all))
            if number == len(self._all):
                self._all.append(changes)
            self._next[step] = number
        self.of_block.put(block, number)

    def changes(self, number: int) -> Changes:
        return self._all[number]


def _clear(index: Index, table: str, pause: Callable[[], None]) -> None:
    while True:
        found: list[bytes] = []
        cursor = index.cursor(table)
        there = cursor.first()
        while there and len(found) < _BATCH:
            found.append(bytes(cursor.key()))
            there = cursor.next()
        if not found:
            return
        for key in found:
            index.delete(table, key)
        pause()


def _entries(index: Index, pause: Callable[[], None]) -> Iterator[tuple[bytes, Block]]:
    """Sound entries of ``blocks``; the index may be changed between two of them."""
    key = b""
    while True:
        found = list(itertools.islice(decoded(index, "blocks", quiet, DECODERS["blocks"], key), _BATCH))
        if not found:
            return
        yield from found
        key = found[-1][0]
        pause()


def repair_places(bench: Bench) -> None:
    """Each block is found by its place; segments that count as emptied are there."""
    index = bench.index
    for table in ("places", "emptied"):
        for key, _ in bench.bad(table, DECODERS[table]):
            bench.act("record", f"table {table}: the damaged entry {key.hex()} is removed")
            index.delete(table, key)
    stale = []
    for key, block in decoded(index, "places", quiet, DECODERS["places"]):
        entry = sound(index, "blocks", keys.u64(block), records.decode_block)
        if entry is None or entry.lost or place_key(entry) != key:
            stale.append((key, block))
    for key, block in stale:
        bench.act("place", f"a place of block {block} goes where it is not")
        index.delete("places", key)
    for block, entry in list(bench.blocks()):
        if not entry.lost and sound(index, "places", place_key(entry), keys.from_u64) != block:
            bench.act("place", f"block {block} is found by its place again")
            index.put("places", place_key(entry), keys.u64(block))
    seen: set[int] = set()
    for key, _ in list(decoded(index, "emptied", quiet, DECODERS["emptied"])):
        segment = keys.from_u64(key, 8)
        if segment in seen or sound(index, "segments", keys.u64(segment), bool) is None:
            bench.act("emptied", f"segment {segment} does not count as emptied: it is not there, or does so twice")
            index.delete("emptied", key)
        seen.add(segment)
