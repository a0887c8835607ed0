"""The records of an index whose file is damaged, read page by page without LMDB.

Invariants:
  * A record counts only if its own checksum holds, and only from a page of the last commit: one that the tree reaches
    at the place where its keys belong, or one that is neither reached nor free (in a sound file there is none such) and
    whose keys all lie where something is missing.  So no record of an older commit is taken for a present one.
  * What may be missing is known: ``gaps`` of a table are the ranges of keys where pages could not be read.  No gaps:
    the table was read whole.
  * Nothing is mapped, and memory is bounded by the number of pages: a byte each.
"""

from __future__ import annotations

import functools
import itertools
import struct
from bisect import bisect_right
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from snapfs.errors import Corrupt
from snapfs.format import records
from snapfs.format.shapes import TOLD, table_of
from snapfs.store import verify
from snapfs.store.disk import open_to_read
from snapfs.store.index import TABLES

_BRANCH: Final = 1
_LEAF: Final = 2
_OVERFLOW: Final = 4
_BIG: Final = 1
_TREE: Final = 2
_NONE: Final = (1 << 64) - 1
_HEADER = struct.Struct("<Q2xHHH")
_NODE = struct.Struct("<HHHH")
_U64 = struct.Struct("<Q")
_PAGES = struct.Struct("<I")
_TABLE = struct.Struct("<IHHQQQQQ")
_DEPTH_MAX: Final = 32
_CACHED_PAGES: Final = 512
_FREE_TABLE: Final = ""


class Gap(msgspec.Struct, frozen=True):
    """Keys from ``low`` on and before ``high`` (None: to the end) may be missing."""

    low: bytes
    high: bytes | None

    def holds(self, low: bytes, high: bytes) -> bool:
        """Whether all keys from ``low`` to ``high``, both included, are in it."""
        return self.low <= low and (self.high is None or high < self.high)


class _Node(msgspec.Struct):
    key: bytes
    flags: int
    value: bytes
    """As it is stored, sealed; of a branch nothing."""
    child: int = 0


class _Table(msgspec.Struct):
    root: int = _NONE
    depth: int = 0
    entries: int = -1
    """As the file counts them; -1: unknown."""
    gaps: list[Gap] = []
    adopted: list[tuple[bytes, int]] = []
    """(first key, page) of leaves that nothing sound leads to, ascending."""


class DamagedIndex:
    """Open it, look at ``gaps``, read.

    Attributes:
        transaction: the commit that is read.
        notes: what had to be put up with, a line each.
        odd: pages that are not as LMDB writes them, though perhaps in order: keys may lie where no search finds them,
            sizes may be wrong that the next change goes by.
    """

    def __init__(self, directory: Path) -> None:
        """Raises:
        Corrupt: nothing says where its records begin.
        """
        path = directory / verify.DATA_FILE
        self.notes: list[str] = []
        self.odd = 0
        try:
            metas = verify.sound_metas(path)
            self._file = open_to_read(path)
        except OSError as error:
            raise Corrupt(f"the old index cannot be read ({error.strerror})", hint=verify.HINT) from error
        if not metas:
            self._file.close()
            raise Corrupt("both pages are damaged that say where the old index begins", hint=verify.HINT)
        meta = metas[0]
        self.transaction = meta.transaction
        if len(metas) == 1 or self.transaction < verify.read_witness(directory):
            self.notes.append("the old index is read as of the last commit that is named in a sound page")
        self._size = meta.page_bytes
        self._pages = min(meta.last_page + 1, path.stat().st_size // self._size)
        self._reached = bytearray(self._pages)
        self._free = bytearray(self._pages)
        self._bad: set[int] = set()
        self._tables = {name: _Table() for name in TABLES}
        self._parsed = functools.lru_cache(_CACHED_PAGES)(self._parse_known)
        self._load(meta)

    def close(self) -> None:
        self._parsed.cache_clear()
        self._file.close()

    def gaps(self, table: str) -> list[Gap]:
        return self._tables[table].gaps

    # -- reading

    def records(self, table: str, start: bytes = b"", stop: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """(key, payload) of the sound records from ``start`` on and before ``stop``; in order of their keys, but for
        those of leaves that nothing leads to, which come last."""
        for page in self.leaves(table, start, stop):
            yield from self._sound(page, start, stop)

    def _sound(self, page: int, start: bytes, stop: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        for node in self._parsed(page):
            if node.key >= start and (stop is None or node.key < stop):
                payload = _payload(node)
                if payload is not None:
                    yield node.key, payload

    def get(self, table: str, key: bytes) -> bytes | None:
        """Payload of the key's record; None if there is none, or none that is sound."""
        return next((payload for _, payload in self.records(table, key, key + b"\0")), None)

    def root(self, table: str) -> int:
        """Page where the table's tree begins; 0 if it has none, or none is known."""
        return self._tables[table].root if self._tables[table].root != _NONE else 0

    def leaves(self, table: str, start: bytes = b"", stop: bytes | None = None) -> Iterator[int]:
        """Pages that may hold records with such keys."""
        known = self._tables[table]
        stack = [page for page in (self.root(table),) if page and self._usable(page)]
        while stack:
            page = stack.pop()
            nodes = self._parsed(page)
            if not nodes or not nodes[0].child:
                yield page
                continue
            bounds = [b"", *(node.key for node in nodes[1:])]
            first = max(0, bisect_right(bounds, start) - 1)
            last = len(nodes) if stop is None else max(first + 1, bisect_right(bounds, stop))
            stack += [node.child for node in nodes[first:last][::-1] if self._usable(node.child)]
        for _, page in known.adopted:
            yield page

    def _usable(self, page: int) -> bool:
        return page < self._pages and self._reached[page] == 1 and page not in self._bad

    # -- pages

    def _read(self, page: int, count: int = 1) -> bytes:
        if page < 2 or page + count > self._pages:
            return b""
        self._file.seek(page * self._size)
        return self._file.read(count * self._size)

    def _parse_known(self, page: int) -> list[_Node]:
        return self._parse(page)[0]

    def _parse(
        self, page: int, touch: Callable[[int, int], None] | None = None, *, native: bool = False
    ) -> tuple[list[_Node], bool]:
        """(nodes of a page, whether it is sound as a page).  ``touch`` is told of (first, number) of pages that long
        values take.  ``native``: its keys are numbers as the machine has them, little-endian."""
        data = self._read(page)
        if len(data) < self._size:
            return [], False
        number, flags, lower, upper = _HEADER.unpack_from(data)
        if number != page or flags not in (_BRANCH, _LEAF) or not _HEADER.size <= lower <= upper <= self._size:
            return [], False
        nodes: list[_Node] = []
        taken, sound = 0, True
        for place in range(_HEADER.size, lower - 1, 2):
            at = int.from_bytes(data[place : place + 2], "little")
            if at < upper or at + _NODE.size > self._size:
                sound = False
                continue
            low, high, node_flags, key_size = _NODE.unpack_from(data, at)
            key = data[at + _NODE.size : at + _NODE.size + key_size]
            end = at + _NODE.size + key_size
            if flags == _BRANCH:
                nodes.append(_Node(key, 0, b"", low | high << 16 | node_flags << 32))
            else:
                size = low | high << 16
                big = bool(node_flags & _BIG)
                value = self._long(data, end, size, touch) if big else data[end : end + size]
                end += 8 if big else size
                sound = sound and len(value) == size
                nodes.append(_Node(key, node_flags, value))
            sound = sound and end <= self._size
            taken += end - at + ((end - at) & 1)
        sorted_by = [node.key[::-1] if native else node.key for node in nodes]
        if flags == _BRANCH and nodes:
            del sorted_by[0]  # it is empty
            sound = sound and all(node.child >= 2 for node in nodes)
        ordered = all(one < other for one, other in itertools.pairwise(sorted_by))
        sound = sound and bool(nodes) and ordered and taken == self._size - upper
        return (nodes, sound) if flags == _LEAF or sound else ([], False)

    def _long(self, data: bytes, at: int, size: int, touch: Callable[[int, int], None] | None) -> bytes:
        """A value that has pages of its own."""
        if at + 8 > len(data):
            return b""
        first = _U64.unpack_from(data, at)[0]
        count = (_HEADER.size - 1 + size) // self._size + 1
        found = self._read(first, count)
        if len(found) < count * self._size or _HEADER.unpack_from(found)[:2] != (first, _OVERFLOW):
            return b""
        if touch is not None:
            kept = int(_PAGES.unpack_from(found, _HEADER.size - _PAGES.size)[0])  # more, if it was longer before
            touch(first, kept if count < kept <= self._pages - first else count)
        return found[_HEADER.size : _HEADER.size + size]

    # -- the first look

    def _load(self, meta: verify.Meta) -> None:
        free = _Table(root=meta.free_root)
        known = _Table(root=meta.tables_root, depth=1)
        freed = list(self._look(free, _FREE_TABLE))
        listed = self._list_free(freed) and not free.gaps
        nodes = list(self._look(known, _FREE_TABLE))
        if known.gaps:
            self._bad.add(known.root)
        for node in nodes if not known.gaps else ():
            name = node.key.decode(errors="replace")
            if name in self._tables and node.flags == _TREE and len(node.value) == _TABLE.size:
                _, flags, depth, _, _, _, entries, root = _TABLE.unpack(node.value)
                if flags == 0 and depth <= _DEPTH_MAX:
                    self._tables[name] = _Table(root, depth, entries)
        lost = [table for table in self._tables.values() if table.entries < 0]
        for name, table in self._tables.items():
            if table.entries < 0:
                table.gaps = [Gap(b"", None)]
                continue
            found = sum(1 for _ in self._look(table, name))
            if found != table.entries and not table.gaps:
                table.gaps = [Gap(b"", None)]
        unclear = any(map(_both, self._reached, self._free))
        if unclear:
            self._bad |= {page for page in range(self._pages) if self._reached[page] and self._free[page]}
            for table in self._tables.values():
                table.gaps = [Gap(b"", None)]
            self.notes.append("pages of the old index are in use and free: these are not read")
        elif listed and any(table.gaps for table in self._tables.values()):
            self._adopt(bool(lost))
        broken = sorted(name for name, table in self._tables.items() if table.gaps)
        if broken:
            self.notes.append(f"tables of the old index that cannot be read whole: {', '.join(broken)}")

    def _look(self, table: _Table, name: str) -> Iterator[_Node]:
        """Nodes of all sound leaves of a table's tree; notes what is reached and where something is missing."""
        stack: list[tuple[int, bytes, bytes | None, int]] = []
        if table.root != _NONE:
            stack.append((table.root, b"", None, 1))
        ordered = bool(name != _FREE_TABLE or table.depth)  # keys of free pages are native numbers
        while stack:
            page, low, high, level = stack.pop()
            if page >= self._pages or page < 2 or self._reached[page] or level > _DEPTH_MAX:
                table.gaps.append(Gap(low, high))
                continue
            long: list[tuple[int, int]] = []
            nodes, sound = self._parse(
                page, lambda first, count, long=long: long.append((first, count)), native=not ordered  # type: ignore[misc]
            )  # fmt: skip
            branch = bool(nodes) and bool(nodes[0].child)
            if nodes and ordered and not _inside(nodes[1:] if branch else nodes, low, high):
                first, last = nodes[1 if branch and len(nodes) > 1 else 0].key, nodes[-1].key
                self.odd += 1
                table.gaps.append(Gap(min(low, first), None if high is None else max(high, last + b"\0")))
                continue  # where it leads to is wrong, or what it says; if it is in use, it is found again
            self._reached[page] = 1
            if not nodes:
                self._bad.add(page)
            if not sound:
                self.odd += 1
                table.gaps.append(Gap(low, high))
            for start, count in long:
                self._reached[start : start + count] = b"\1" * count
            if branch:
                bounds = [low, *(node.key for node in nodes[1:]), high]
                stack += [
                    (node.child, bounds[place] or b"", bounds[place + 1], level + 1) for place, node in enumerate(nodes)
                ][::-1]
                continue
            whole = name == _FREE_TABLE or all(_payload(node) is not None for node in nodes)
            if not whole and sound:
                table.gaps.append(Gap(low, high))
            for node in nodes:
                if name == _FREE_TABLE or _payload(node) is not None:
                    yield node

    def _list_free(self, freed: list[_Node]) -> bool:
        """Note the free pages; whether their list makes sense."""
        for node in freed:
            numbers = [number for (number,) in _U64.iter_unpack(node.value[: len(node.value) // 8 * 8])]
            if not numbers or numbers[0] != len(numbers) - 1:
                return False
            for page in numbers[1:]:
                if page < 2 or (page < self._pages and self._free[page]):
                    return False
                if page < self._pages:
                    self._free[page] = 1
        return True

    def _adopt(self, tables_lost: bool) -> None:
        """Leaves in use that nothing leads to, into the tables whose gaps they fill.  What is then complete has no gap
        any more."""
        for page in range(2, self._pages):
            if self._reached[page] or self._free[page]:
                continue
            long: list[tuple[int, int]] = []
            nodes, sound = self._parse(page, lambda first, count, long=long: long.append((first, count)))  # type: ignore[misc]
            if sound and nodes[0].child:
                self._reached[page] = 1
                continue
            names = {table_of(node.key, payload) for node in nodes if (payload := _payload(node)) is not None}
            whole = sound and len(names) == 1 and all(_payload(node) is not None for node in nodes)
            table = self._tables.get(names.pop()) if whole else None
            if table is not None and any(gap.holds(nodes[0].key, nodes[-1].key) for gap in table.gaps):
                table.adopted.append((nodes[0].key, page))
            for start, count in long:
                self._reached[start : start + count] = b"\1" * count
            self._reached[page] = 2 if whole else 0
        unknown = any(not self._reached[page] and not self._free[page] for page in range(2, self._pages))
        only_list = tables_lost and len(self._bad) == 1 and not unknown
        """Nothing is damaged but the one page that lists the tables."""
        for name, table in self._tables.items():
            table.adopted.sort()
            counted = table.entries >= 0 and sum(1 for _ in self.records(name)) == table.entries
            if counted or (only_list and name in TOLD):
                table.gaps = []


def odd_pages(directory: Path) -> int:
    """How many pages of an index are not as LMDB writes them."""
    index = DamagedIndex(directory)
    index.close()
    return index.odd


def _both(reached: int, free: int) -> bool:
    return bool(reached and free)


def _inside(nodes: list[_Node], low: bytes, high: bytes | None) -> bool:
    return not nodes or (nodes[0].key >= low and (high is None or nodes[-1].key < high))


def _payload(node: _Node) -> bytes | None:
    """What a sound record says."""
    if node.flags & ~_BIG:
        return None
    try:
        return records.unseal(node.key, node.value)
    except Corrupt:
        return None
