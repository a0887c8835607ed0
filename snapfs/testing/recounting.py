"""The accounts of a store compared with a recount, view by view, which knows nothing of how they
are kept.
"""

from __future__ import annotations

from collections import Counter, defaultdict

from snapfs.format import keys, records
from snapfs.format import segments as fmt
from snapfs.format.accounts import account_id, encode_changes
from snapfs.store.index import items
from snapfs.types import BlockId, Epoch, Ino
from snapfs.versions.epochs import View
from snapfs.volume.lake import Lake
from snapfs.volume.scrub.index import check_some

Counts = Counter[Epoch]
"""How many records of a block each view shows."""


def recounted(lake: Lake) -> dict[BlockId, Counts]:
    """Of each block that records of extents name, how many of them each view shows."""
    core = lake.core
    found: dict[BlockId, Counts] = {}
    for key, payload in items(lake.index, "tree"):
        if payload and keys.split(key[: -keys.EPOCH_BYTES])[1] == keys.EXTENT:
            found.setdefault(records.decode_extent(payload)[1], Counter())
    for epoch in core.epochs.all():
        if epoch in core.epochs.dying:
            continue
        view = View(core.epochs.volume(epoch), core.epochs.path(epoch), writable=False)
        forks: dict[Ino, int] = {}
        extents = []
        for subject, _, payload in core.tree.scan(view, b""):
            ino, kind = keys.split(subject)
            if kind == keys.INODE:
                forks[ino] = records.decode_inode(ino, payload).fork
            elif kind == keys.EXTENT:
                extents.append((ino, keys.split_extent(subject)[0], records.decode_extent(payload)[1]))
        for ino, fork, block in extents:
            found[block][epoch] += forks.get(ino) == fork
    return {block: +counts for block, counts in found.items()}


def accounted(lake: Lake) -> dict[BlockId, Counts]:
    """The same as the accounts have it."""
    epochs, book = lake.core.epochs, lake.accounts
    found = {}
    for key, payload in items(lake.index, "blocks"):
        entry = records.decode_block(payload)
        if entry.account:
            counts: Counts = Counter()
            for changed, change in book.changes(entry.account):
                for epoch in epochs.all():
                    if epoch not in epochs.dying and changed in epochs.ancestors(epoch):
                        counts[epoch] += change
            assert all(count >= 0 for count in counts.values())
            found[BlockId(keys.from_u64(key))] = +counts
    return found


def check_accounts(lake: Lake, *, exact: bool) -> None:
    """Compare; while something waits to be accounted (not ``exact``), accounts may only show too much."""
    actual, told = recounted(lake), accounted(lake)
    assert actual.keys() == told.keys()
    for block, counts in actual.items():
        fits = counts == told[block] if exact else counts <= told[block]
        assert fits, f"block {block} is shown {counts} times, accounted {told[block]} times"
    _check_rows(lake)


def _check_rows(lake: Lake) -> None:
    """Sums of the rows, and the way to them.  A scrub finds nothing, also while rows wait to be written."""
    for table in ("accounts", "account_ids", "aliases", "unaccounted", "blocks", "epochs"):
        assert not check_some(lake.index, table, b"", seconds=60).findings
    lake.accounts.flush()
    sums: dict[int, list[int]] = defaultdict(lambda: [0, 0, 0])
    for _, payload in items(lake.index, "blocks"):
        entry = records.decode_block(payload)
        assert (entry.account != 0) == (entry.refs != 0 and entry.kind == fmt.DATA)
        if entry.account:
            size = 0 if entry.lost else fmt.record_bytes(entry.stored_bytes)
            for place, more in enumerate((size, 0 if entry.lost else entry.raw_bytes, 1)):
                sums[entry.account][place] += more
    numbers_ = [keys.from_u64(key) for key, _ in items(lake.index, "accounts")]
    rows = dict(zip(numbers_, lake.accounts.rows(), strict=True))
    assert {number: tuple(found) for number, found in sums.items()} == {n: row[:3] for n, row in rows.items()}
    named = {keys.from_u64(payload): name for name, payload in items(lake.index, "account_ids")}
    for number, name in named.items():  # a sweep may leave accounts with the same elements, of which one has a name
        assert account_id(encode_changes(rows[number][3])) == name
