"""What the benchmarks' files hold, and how it is changed.

All of it comes from seeded generators: the same call makes the same bytes for snapfs and for each peer.
"""

from __future__ import annotations

import itertools
import random
import struct
from collections.abc import Iterator
from pathlib import Path

PAGE_BYTES = 4096
INSERTED_BYTES = 1024

STREAM_BYTES = 4 * 1024 * 1024
"""Of one write."""

STAMPED_BYTES = 1024 * 1024
STAMP = struct.Struct("<Q")

ROWS_A_WRITE = 20_000
HEADER = b"id,time,sensor,value,error\n"


def write_noise(path: Path, size: int, seed: int | None = None) -> None:
    """Bytes that nothing compresses, and that no other seed repeats."""
    noise = random.Random(size if seed is None else seed)
    with path.open("wb") as file:
        for offset in range(0, size, STREAM_BYTES):
            file.write(noise.randbytes(min(STREAM_BYTES, size - offset)))


class Stamped:
    """Noise that costs nothing to make: the same megabyte, in which every page gets a number that none had before."""

    def __init__(self, seed: int = 0) -> None:
        self._data = bytearray(random.Random(seed).randbytes(STAMPED_BYTES))
        self._numbers = itertools.count()

    def pieces(self, size: int) -> Iterator[memoryview]:
        """So many bytes; each piece must be used before the next is asked for."""
        for offset in range(0, size, STAMPED_BYTES):
            part = min(STAMPED_BYTES, size - offset)
            for place in range(0, part - STAMP.size + 1, PAGE_BYTES):
                STAMP.pack_into(self._data, place, next(self._numbers))
            yield memoryview(self._data)[:part]


def rows(dice: random.Random, first: int, count: int) -> bytes:
    """Lines of a table, about 50 bytes each."""
    return b"".join(
        b"%d,2026-%02d-%02dT%02d:%02d:%02d,s%03d,%.6f,%.3e\n" % (
            first + number, dice.randint(1, 12), dice.randint(1, 28), number // 3600 % 24, number // 60 % 60,
            number % 60, dice.randrange(400), dice.gauss(20, 5), dice.random() / 1000,
        )
        for number in range(count)
    )  # fmt: skip


def write_csv(path: Path, size: int, seed: int = 1) -> None:
    """A table of at least that many bytes; about the last rows it is a little more."""
    dice, written, row = random.Random(seed), len(HEADER), 0
    with path.open("wb") as file:
        file.write(HEADER)
        while written < size:
            part = rows(dice, row, ROWS_A_WRITE)
            file.write(part)
            row, written = row + ROWS_A_WRITE, written + len(part)


def change_pages(path: Path, pages: list[int], dice: random.Random) -> None:
    """Other bytes in those pages, in place."""
    with path.open("r+b", buffering=0) as file:
        for page in pages:
            file.seek(page * PAGE_BYTES)
            file.write(dice.randbytes(PAGE_BYTES))


def some_pages(path: Path, part: float, dice: random.Random) -> list[int]:
    """That part of a file's pages, in ascending order."""
    pages = path.stat().st_size // PAGE_BYTES
    return sorted(dice.sample(range(pages), max(1, round(pages * part))))


def replace_whole(path: Path, parts: Iterator[bytes]) -> None:
    """As programs save: the new content goes to a file beside, which is then renamed over the old one."""
    beside = path.with_suffix(".new")
    with beside.open("wb") as file:
        for part in parts:
            file.write(part)
    beside.rename(path)


def streamed(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while part := file.read(STREAM_BYTES):
            yield part


def with_pages_changed(path: Path, pages: list[int], dice: random.Random) -> Iterator[bytes]:
    """The file's bytes, with others in those pages (ascending)."""
    wanted = iter([*pages, -1])
    page = next(wanted)
    for number, part in enumerate(streamed(path)):
        first = number * (STREAM_BYTES // PAGE_BYTES)
        changed = bytearray(part)
        while 0 <= page < first + STREAM_BYTES // PAGE_BYTES:
            at = (page - first) * PAGE_BYTES
            changed[at : at + PAGE_BYTES] = dice.randbytes(PAGE_BYTES)
            page = next(wanted)
        yield bytes(changed)


def with_bytes_in_front(path: Path, dice: random.Random) -> Iterator[bytes]:
    yield dice.randbytes(INSERTED_BYTES)
    yield from streamed(path)


def with_rows_inserted(path: Path, count: int, dice: random.Random) -> Iterator[bytes]:
    """The table's bytes with new rows, each between two old ones, anywhere."""
    places = sorted(dice.randrange(path.stat().st_size) for _ in range(count))
    with path.open("rb") as file:
        for place in places:
            if place > file.tell():
                yield file.read(place - file.tell())
            yield file.readline()
            yield rows(dice, 10**8 + place, 1)
        while part := file.read(STREAM_BYTES):
            yield part
