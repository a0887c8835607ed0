"""Where the versions of epochs went that left the tree, so that accounts may go on to name them.

Invariants:
  * An epoch that is being folded is an alias of its only child from the fold's beginning on: dying epochs get no
    further child, so the views below the two are the same.  A leaf becomes one of NOWHERE when it is removed.
  * An alias is dropped only when no account names its epoch.
"""

from __future__ import annotations

from snapfs.errors import Corrupt
from snapfs.format import keys
from snapfs.format.accounts import NOWHERE, Changes, collected, decode_alias, encode_alias
from snapfs.store.index import Index, Reading, items
from snapfs.types import Epoch


def load(source: Reading) -> dict[Epoch, Epoch]:
    """Raises:
    Corrupt: an alias that is no successor (a child's number is the greater one): following it might never end.
    """
    found = {}
    for key, payload in items(source, "aliases"):
        epoch, successor = Epoch(keys.from_u64(key)), decode_alias(payload)
        if successor != NOWHERE and successor <= epoch:
            raise Corrupt(f"epoch {epoch} went to {successor}, which is older", hint="run: snap fsck --repair")
        found[epoch] = successor
    return found


class Aliases:
    def __init__(self, index: Index) -> None:
        self._index = index
        self._successor = load(index)
        self.generation = 0
        """Grows with each alias."""

    def __len__(self) -> int:
        return len(self._successor)

    def __contains__(self, epoch: Epoch) -> bool:
        return epoch in self._successor

    def reload(self) -> None:
        self._successor = load(self._index)
        self.generation += 1

    def all(self) -> dict[Epoch, Epoch]:
        return self._successor

    def put(self, epoch: Epoch, successor: Epoch) -> None:
        self._successor[epoch] = successor
        self.generation += 1
        self._index.put("aliases", keys.u64(epoch), encode_alias(successor))

    def resolve(self, epoch: Epoch) -> Epoch:
        """Where versions of the epoch are now; NOWHERE: it went with all below it."""
        while epoch in self._successor:
            epoch = self._successor[epoch]
        return epoch

    def resolved(self, changes: Changes) -> Changes:
        """The same changes, without aliases."""
        if not any(epoch in self._successor for epoch, _ in changes):
            return changes
        return collected((self.resolve(epoch), change) for epoch, change in changes)

    def drop(self, epochs: list[Epoch]) -> None:
        """No account names them any more.  Aliases of them are led past them first."""
        going = set(epochs)
        for epoch, successor in list(self._successor.items()):
            if epoch not in going and successor in going:
                self.put(epoch, self.resolve(successor))
        for epoch in epochs:
            del self._successor[epoch]
            self._index.delete("aliases", keys.u64(epoch))
