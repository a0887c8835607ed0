"""The book: which views show which blocks, kept up with every change (``format.accounts`` says what an account is).

Invariants:
  * A block with references by extents names an account; seals' blocks and blocks without references name none (0).
    The account's changes are those of the block's records; its sums are those of the blocks that name it.
  * A record counts from the epoch on that it was stored at, and no more from where an epoch hides it.  Whose record it
    is that is hidden does not matter; no path hides one twice, so that sums are counts.  A record that no view sees
    goes without a change.
  * What ``unaccounted`` names, and what ``reap`` does, still counts: both are worked off before an epoch is folded, and
    by who needs exact figures.
  * Rows are cached; changed ones are written before a commit, when they leave the cache, and by ``flush``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Final

from snapfs.format import keys
from snapfs.format import segments as fmt
from snapfs.format.accounts import (
    NO_CHANGES,
    NOWHERE,
    Changes,
    Sums,
    account_id,
    decode_account,
    encode_account,
    encode_changes,
    with_change,
)
from snapfs.format.records import Block
from snapfs.store.blocks import Blocks
from snapfs.store.index import Index, items
from snapfs.types import BlockId, Epoch, Ino
from snapfs.versions.epochs import Epochs
from snapfs.volume.accounts.aliases import Aliases

WEIGHT_MAX: Final = 400_000
"""Numbers that cached rows may hold together: about 30 MB."""

MEMO_MAX: Final = 20_000
"""Transitions remembered: a file's blocks mostly share an account, and take the same way."""

ALIASES_MAX: Final = 256
ROWS_PER_ALIAS: Final = 16
"""Aliases are swept away when they are more than ALIASES_MAX, and than one per so many rows: a sweep reads them all."""

Row = tuple[int, int, int, Changes]
"""(stored bytes, raw bytes, blocks, changes) of an account."""

Home = tuple[Ino, int]
"""(inode, file offset where the block's first byte would be)."""


class _Row:
    __slots__ = ("blocks", "changes", "looked_at", "named", "number", "raw_bytes", "stored", "stored_bytes")

    def __init__(self, number: int, sums: Sums, changes: Changes, *, stored: bool) -> None:
        self.number = number
        self.stored_bytes, self.raw_bytes, self.blocks = sums
        self.changes = changes
        self.stored = stored
        """It is in the table."""
        self.named = stored
        """Table ``account_ids`` leads to it, or to another with the same changes."""
        self.looked_at = -1
        """Generation of the aliases when it was seen to name none."""

    @property
    def weight(self) -> int:
        return 16 + 2 * len(self.changes)

    def count(self, blocks: int, stored_bytes: int, raw_bytes: int) -> None:
        """So much more (negative: less) has this account.  Sums that are wrong stand in nobody's way: they do not go
        below 0, and fsck counts anew."""
        self.stored_bytes += stored_bytes
        self.raw_bytes += raw_bytes
        self.blocks += blocks
        if self.stored_bytes < 0 or self.raw_bytes < 0 or self.blocks < 0:
            self.stored_bytes, self.raw_bytes, self.blocks = (
                max(0, number) for number in (self.stored_bytes, self.raw_bytes, self.blocks)
            )


class Book:
    def __init__(self, index: Index, blocks: Blocks, epochs: Epochs) -> None:
        self._index = index
        self._blocks = blocks
        self._epochs = epochs
        self._aliases = Aliases(index)
        self.moved: list[Callable[[Changes, int], None]] = []
        """Called with an account's changes and by how many stored bytes (negative: less) it has more of."""
        self._rows: OrderedDict[int, _Row] = OrderedDict()
        self._numbers: dict[Changes, int] = {}
        """Of the rows that are cached."""
        self._dirty: dict[int, _Row] = {}
        """Of these, those that differ from the table."""
        self._weight = 0
        self._memo: dict[tuple[int, Epoch, int], int] = {}
        """(account, epoch, change there) -> the account that comes of it."""
        self._swept: tuple[int, int, list[Epoch]] | None = None
        """(next number, end, aliases to drop) of the sweep that is under way."""
        self._next = self._written_next = self._load_next()
        index.before_commit.append(self.flush)
        index.after_failure.append(self._reload)

    def _load_next(self) -> int:
        return int.from_bytes(self._index.get("meta", b"next_account") or b"\1", "little")

    def _reload(self) -> None:
        """The index shows its last commit again, and so must what is in memory."""
        self._aliases.reload()
        self._rows.clear()
        self._dirty.clear()
        self._numbers.clear()
        self._memo.clear()
        self._weight = 0
        self._swept = None
        self._next = self._written_next = self._load_next()

    # -- reading

    def rows(self) -> Iterator[Row]:
        """All accounts of the open transaction, as far as it was flushed.  Their changes may name ``aliases``."""
        for _, payload in items(self._index, "accounts"):
            sums, changes = decode_account(payload)
            yield sums.stored_bytes, sums.raw_bytes, sums.blocks, changes

    def aliases(self) -> dict[Epoch, Epoch]:
        """Epoch that left (or is leaving) the tree -> where its versions went; NOWHERE: it went with all below it."""
        return dict(self._aliases.all())

    def resolve(self, epoch: Epoch) -> Epoch:
        return self._aliases.resolve(epoch)

    def changes(self, number: int) -> Changes:
        """Of the account with that number, without aliases; 0: none."""
        row = self._row(number) if number else None
        self._trim()
        return self._resolved(row) if row else NO_CHANGES

    def _resolved(self, row: _Row) -> Changes:
        if row.looked_at == self._aliases.generation:
            return row.changes
        changes = self._aliases.resolved(row.changes)
        if changes == row.changes:
            row.looked_at = self._aliases.generation
        return changes

    # -- events

    def change(self, block: BlockId, epoch: Epoch, *, born: int = 0, hidden: int = 0, home: Home | None = None) -> None:
        """What one step at an epoch changes for a block.

        Args:
            born: records that the epoch gets that name the block, less those of its own that go.
            hidden: older records that its parent's view shows and that the epoch hides; none is told twice.

        Raises:
            Corrupt: more records go than name the block.
        """
        entry = self._blocks.entry(self._index, block)
        if not entry.refs + born:
            number = 0
        elif born == hidden and entry.account:
            number = entry.account
        else:
            number = self._after(entry.account, epoch, born - hidden)
        self._move(block, entry, number, born, home)

    def drop_unseen(self, block: BlockId) -> None:
        """A record that no view shows goes.

        Raises as ``change``.
        """
        entry = self._blocks.entry(self._index, block)
        self._move(block, entry, entry.account if entry.refs > 1 else 0, -1, None)

    def _after(self, account: int, epoch: Epoch, change: int) -> int:
        """The account that comes of a change at the epoch; of none for a block that had no account, a first one."""
        event = (account, epoch, change)
        number = self._memo.get(event)
        if number is None or (number not in self._rows and self._row(number) is None):
            number = self._number(with_change(self.changes(account), self.resolve(epoch), change))
            if len(self._memo) >= MEMO_MAX:
                self._memo.clear()
            self._memo[event] = number
        return number

    def _move(self, block: BlockId, entry: Block, number: int, delta: int, home: Home | None) -> None:
        """The block has that account from now on, and so many references more."""
        if number == entry.account and not delta and home is None:
            return
        self._blocks.adjust(block, delta, account=number, home=home, entry=entry)
        if number == entry.account:
            return
        stored_bytes = 0 if entry.lost else fmt.record_bytes(entry.stored_bytes)
        raw_bytes = 0 if entry.lost else entry.raw_bytes
        for account, sign in ((entry.account, -1), (number, +1)):
            row = self._row(account) if account else None
            if row is not None:
                row.count(sign, sign * stored_bytes, sign * raw_bytes)
                self._dirty[account] = row
                for hook in self.moved:
                    hook(row.changes, sign * stored_bytes)
        if self._weight > WEIGHT_MAX:
            self._trim()

    # -- the tree of epochs

    def fold_begins(self, epoch: Epoch, child: Epoch) -> None:
        """The epoch's versions move to its only child."""
        if epoch not in self._aliases:
            self._aliases.put(epoch, child)
            self._memo.clear()

    def removed(self, epoch: Epoch) -> None:
        """The epoch leaves the tree; without ``fold_begins``, with all that it held."""
        if epoch not in self._aliases:
            self._aliases.put(epoch, NOWHERE)
        self._memo.clear()

    def sweep(self, limit: int) -> bool:
        """Some rows of a sweep: accounts that name aliases name what these stand for, and the aliases go.

        Args:
            limit: rows to look at.

        Returns:
            Whether there was anything to do.
        """
        if self._swept is None:
            if not self.sweep_due():
                return False
            self.flush()  # from here on a new account names no alias that there is now
            gone = [epoch for epoch in self._aliases.all() if epoch not in self._epochs]
            self._swept = 1, self._next, gone
        number, end, gone = self._swept
        found = []
        for key, _ in items(self._index, "accounts", start=keys.u64(number)):
            found.append(keys.from_u64(key))
            if len(found) == limit or found[-1] >= end:
                break
        for number in found:
            row = self._row(number)
            changes = self._resolved(row) if row else NO_CHANGES
            if row and changes != row.changes:
                self._rename(row, changes)
                self._write(row)
        if len(found) == limit and found[-1] < end:
            self._swept = found[-1] + 1, end, gone
        else:
            self._aliases.drop(gone)
            self._swept = None
            self._memo.clear()
        self._trim()
        return True

    def sweep_due(self) -> bool:
        """Whether there are so many aliases that it pays to read all accounts (or that has begun)."""
        due = max(ALIASES_MAX, self._index.count("accounts") // ROWS_PER_ALIAS)
        return self._swept is not None or (
            len(self._aliases) > due and sum(epoch not in self._epochs for epoch in self._aliases.all()) > due // 2
        )

    def _rename(self, row: _Row, changes: Changes) -> None:
        """The account goes on under the same number with changes that say the same.  Another may have these too."""
        self._forget_id(row)
        self._weight -= row.weight
        row.changes, row.named = changes, False
        self._dirty[row.number] = row
        self._weight += row.weight
        if self._find(changes) is None:
            self._numbers[changes] = row.number

    # -- rows

    def _row(self, number: int) -> _Row | None:
        """The account's row; None if it is gone."""
        row = self._rows.get(number)
        if row is not None:
            self._rows.move_to_end(number)
            return row
        payload = self._index.get("accounts", keys.u64(number))
        if payload is None:
            return None
        row = _Row(number, *decode_account(payload), stored=True)
        self._cache(row)
        return row

    def _cache(self, row: _Row) -> None:
        self._rows[row.number] = row
        self._numbers.setdefault(row.changes, row.number)
        self._weight += row.weight

    def _number(self, changes: Changes) -> int:
        """Number of the account with these changes, which may be new."""
        number = self._find(changes)
        if number is None:
            number = self._next
            self._next += 1
            self._dirty[number] = row = _Row(number, Sums(0, 0, 0), changes, stored=False)
            self._cache(row)
        return number

    def _find(self, changes: Changes) -> int | None:
        number = self._numbers.get(changes)
        if number is None:
            payload = self._index.get("account_ids", account_id(encode_changes(changes)))
            found = self._row(keys.from_u64(payload)) if payload else None
            number = found.number if found and found.changes == changes else None
        return number

    def _trim(self) -> None:
        while self._weight > WEIGHT_MAX and len(self._rows) > 1:
            row = next(iter(self._rows.values()))
            self._write(row)
            self._uncache(row)

    def _uncache(self, row: _Row) -> None:
        if self._rows.pop(row.number, None) is not None:
            self._weight -= row.weight
        if self._numbers.get(row.changes) == row.number:
            del self._numbers[row.changes]

    def _forget_id(self, row: _Row) -> None:
        """Its changes lead to it no more."""
        if self._numbers.get(row.changes) == row.number:
            del self._numbers[row.changes]
        if row.named:
            name = account_id(encode_changes(row.changes))
            payload = self._index.get("account_ids", name)
            if payload is not None and keys.from_u64(payload) == row.number:
                self._index.delete("account_ids", name)

    def _write(self, row: _Row) -> None:
        if self._dirty.pop(row.number, None) is None:
            return
        key = keys.u64(row.number)
        if not row.blocks:
            if row.stored:
                self._forget_id(row)
                self._index.delete("accounts", key)
            self._uncache(row)
            return
        encoded = encode_changes(row.changes)
        self._index.put("accounts", key, encode_account(Sums(row.stored_bytes, row.raw_bytes, row.blocks), encoded))
        if not row.named:
            self._index.put_new("account_ids", account_id(encoded), key)
        row.stored = row.named = True

    def flush(self) -> None:
        """Write what changed into the open transaction."""
        for row in list(self._dirty.values()):
            self._write(row)
        if self._next != self._written_next:
            self._index.put("meta", b"next_account", self._next.to_bytes(8, "little"))
            self._written_next = self._next
