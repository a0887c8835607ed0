"""A hash of a multiset that can be kept up to date: LtHash16.

Bellare and Micciancio, "A new paradigm for collision-free hashing" (1997); Lewi et al., "Securing update propagation
with homomorphic hashing" (2019).  An element's vector is 1,024 lanes of 16 bits, from BLAKE3's extendable output; the
state is the sum of the elements' vectors, lane by lane.  So the hash of a large tree follows from that of its parent
and what changed between, in whatever order and by whatever history.

Invariants:
  * Two multisets with the same elements have the same state; adding and removing undo each other exactly.
  * Sums are kept in fields of 32 bits, even and odd lanes apart, of one large integer each: a field holds 65,536
    lanes, so the sums are reduced before that many vectors have been added.
"""

from __future__ import annotations

from typing import Final

from blake3 import blake3

STATE_BYTES: Final = 2048
LANES: Final = STATE_BYTES // 2

_LOW = int.from_bytes(b"\xff\xff\0\0" * (LANES // 2), "little")
"""The low half of each field."""
_BORROW = int.from_bytes(b"\0\0\1\0" * (LANES // 2), "little")
"""2 to the 16th in each field: what a difference of lanes may borrow."""
_ADDED_MAX: Final = 65_000

_element = blake3(derive_key_context="snapfs seal element v1")


class _Sums:
    """Of vectors, in even and odd lanes."""

    __slots__ = ("_added", "even", "odd")

    def __init__(self) -> None:
        self.even = 0
        self.odd = 0
        self._added = 0

    def add(self, vector: int) -> None:
        self.even += vector & _LOW
        self.odd += (vector >> 16) & _LOW
        self._added += 1
        if self._added == _ADDED_MAX:
            self.reduce()

    def reduce(self) -> None:
        self.even &= _LOW
        self.odd &= _LOW
        self._added = 1


class LtHash:
    """The hash of a multiset of byte strings."""

    __slots__ = ("_came", "_went")

    def __init__(self, state: bytes = bytes(STATE_BYTES)) -> None:
        """``state``: of another one, to go on from (1,024 lanes of 16 bits, little-endian)."""
        self._came = _Sums()
        self._went = _Sums()
        self._came.add(int.from_bytes(state, "little"))

    def add(self, element: bytes) -> None:
        self._came.add(_vector(element))

    def remove(self, element: bytes) -> None:
        self._went.add(_vector(element))

    def state(self) -> bytes:
        """2,048 bytes."""
        for sums in (self._came, self._went):
            sums.reduce()
        even = (self._came.even + _BORROW - self._went.even) & _LOW
        odd = (self._came.odd + _BORROW - self._went.odd) & _LOW
        return (even | odd << 16).to_bytes(STATE_BYTES, "little")


def _vector(element: bytes) -> int:
    hasher = _element.copy()
    hasher.update(element)
    return int.from_bytes(hasher.digest(STATE_BYTES), "little")
