"""fsck of accounts: which views show which block, counted again from the records of the tree.

Each view has a random number of 64 bits.  Of a block the numbers of the views that show its records are summed, modulo
2**64, once for each record; the same sum is taken of its account.  So a block costs 8 bytes of memory, and the two are
equal only if each view shows as many records as the account says.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from typing import Final

from snapfs.errors import Corrupt, SnapfsError
from snapfs.format import accounts, keys
from snapfs.format import segments as fmt
from snapfs.format.records import Block
from snapfs.store.index import Reading
from snapfs.types import BlockId, Epoch
from snapfs.volume.accounts.recount import Recount
from snapfs.volume.accounts.views import resolve
from snapfs.volume.check.base import DECODERS, Findings, Shape, decoded, sound
from snapfs.volume.check.tables import counter
from snapfs.volume.check.tree import Counts

_MASK: Final = (1 << 64) - 1
_KNOWN_MAX: Final = 100_000
"""Accounts remembered."""


class Fingerprints:
    """Sums of the views' numbers, in one state of the tree of epochs."""

    def __init__(self, parents: Mapping[Epoch, Epoch], views: set[Epoch], aliases: Mapping[Epoch, Epoch]) -> None:
        self._aliases = aliases
        self._below = {epoch: secrets.randbits(64) if epoch in views else 0 for epoch in parents}
        """Of each epoch the sum over the views in its subtree."""
        for epoch in sorted(parents, reverse=True):
            parent = parents[epoch]
            if parent in self._below:
                self._below[parent] = (self._below[parent] + self._below[epoch]) & _MASK

    def _of(self, epoch: Epoch) -> int:
        epoch = resolve(self._aliases, epoch)
        if epoch != accounts.NOWHERE and epoch not in self._below:
            raise Corrupt(f"an account names epoch {epoch}, which is not there", hint="run: snap fsck")
        return self._below.get(epoch, 0)

    def of(self, born: Epoch, deaths: tuple[Epoch, ...]) -> int:
        """Of a record.

        Raises:
            Corrupt: an epoch that is not known.
        """
        return self._of(born) - sum(map(self._of, deaths))

    def total(self, changes: accounts.Changes) -> int:
        """Raises as ``of``."""
        return sum(change * self._of(epoch) for epoch, change in changes) & _MASK


class AccountChecks:
    """``walk`` first, then each block, then ``finish``."""

    def __init__(self, source: Reading, shape: Shape, findings: Findings, blocks_max: int, accounts_max: int) -> None:
        """
        Args:
            blocks_max, accounts_max: numbers from here on are looked at one by one, as no such one can be there.
        """
        self._source = source
        self._shape = shape
        self._findings = findings
        self._found = findings.add
        views = {shown.view.epoch for shown in shape.views()}
        aliases = dict(pair for _, pair in decoded(source, "aliases", findings.record, DECODERS["aliases"]))
        self._aliases = aliases
        self._fingerprints = Fingerprints(shape.parent, views, aliases)
        self._sums = Counts(blocks_max)
        """By block: the sum of its records' numbers."""
        self._stored_bytes, self._raw_bytes, self._blocks = (Counts(accounts_max) for _ in range(3))
        """By account: of the blocks that name it."""
        self._of_account: dict[int, int | None] = {}

    def walk(self) -> Iterator[None]:
        """Count all records of extents."""
        sums, of = self._sums, self._fingerprints.of
        for counted in Recount(self._source, self._shape.parent).run():
            if counted is None:
                yield
                continue
            block, epoch, deaths = counted
            sums.put(block, (sums[block] + of(epoch, deaths)) & _MASK)

    def block(self, block: BlockId, entry: Block) -> None:
        number, counted = entry.account, self._sums[block]
        if entry.kind != fmt.DATA or not entry.refs:
            if number:
                self._found("account", f"block {block} has account {number}, but no file's records name it")
            return
        if self._account(number) != counted:
            self._found("account", f"block {block} has account {number}, which does not say what shows it")
        self._blocks.add(number)
        if not entry.lost:
            self._stored_bytes.add(number, fmt.record_bytes(entry.stored_bytes))
            self._raw_bytes.add(number, entry.raw_bytes)

    def _account(self, number: int) -> int | None:
        """The sum of its changes' numbers; None: it cannot be read."""
        if number not in self._of_account:
            if len(self._of_account) >= _KNOWN_MAX:
                self._of_account.clear()
            found = sound(self._source, "accounts", keys.u64(number), accounts.decode_account)
            self._of_account[number] = self._total(found[1]) if found else None
        return self._of_account[number]

    def _total(self, changes: accounts.Changes) -> int | None:
        try:
            return self._fingerprints.total(changes)
        except SnapfsError:
            return None

    def finish(self) -> Iterator[None]:
        source, bad, newest = self._source, self._findings.record, 0
        for count, (key, (sums, changes)) in enumerate(decoded(source, "accounts", bad, DECODERS["accounts"])):
            number = keys.from_u64(key)
            newest = max(newest, number)
            wanted = (self._stored_bytes[number], self._raw_bytes[number], self._blocks[number])
            if tuple(sums) != wanted:
                self._found("account", f"account {number} counts {tuple(sums)} (stored, raw, blocks), has {wanted}")
            if self._total(changes) is None:
                self._found("account", f"account {number} names epochs that are not there")
            if count % _TURN == 0:
                yield
        for key, number in decoded(source, "account_ids", bad, DECODERS["account_ids"]):
            found = sound(source, "accounts", keys.u64(number), accounts.decode_account)
            if found is None or accounts.account_id(accounts.encode_changes(found[1])) != key:
                self._found("account", f"an entry of account_ids leads to account {number}, which says something else")
        if counter(source, "next_account", 1) <= newest:
            self._found("counter", f"the next account would be one that is there ({newest})")
        self._queues()
        yield

    def _queues(self) -> None:
        parent = self._shape.parent
        for epoch, successor in self._aliases.items():
            into = resolve(self._aliases, successor) if successor in self._aliases else successor
            if into != accounts.NOWHERE and into not in parent:
                self._found("alias", f"epoch {epoch} went to epoch {into}, which is not there")
            if epoch in parent and epoch not in self._shape.dying:
                self._found("alias", f"epoch {epoch} is in use, and counts as one that went to {successor}")
        for key, _ in decoded(self._source, "unaccounted", self._findings.record, DECODERS["unaccounted"]):
            if Epoch(keys.from_u64(key)) not in parent:
                self._found("account", f"extents of inode {keys.from_u64(key, 8)} died at an epoch that is not there")


_TURN: Final = 200
