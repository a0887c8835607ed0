"""Extent arithmetic, and runs of dirty bytes, against plain byte arrays."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapfs.extents import HOLE, Extent, plan_read, plan_truncate, plan_write
from snapfs.types import PAGE_BYTES, BlockId
from snapfs.volume import runs as dirty
from snapfs.volume.runs import RUN_BYTES_MAX, Runs

BLOCK_BYTES = 40
SPAN = 120

Content = list[tuple[int, int] | None]
"""Of each byte of a file: (block, offset in it), or None in a hole."""


def content(extents: list[Extent]) -> Content:
    shown: Content = [None] * (SPAN * 2)
    for extent in extents:
        for place in range(extent.length):
            assert shown[extent.offset + place] is None, "extents overlap"
            shown[extent.offset + place] = (extent.block, extent.block_offset + place)
    return shown


@st.composite
def files(draw: st.DrawFn, first_block: int = 1, start: int = 0, end: int = SPAN) -> list[Extent]:
    """Extents inside [start, end), with holes between some."""
    found = []
    at = start
    block = first_block
    while at < end and draw(st.booleans()):
        at += draw(st.integers(0, 10))
        length = draw(st.integers(1, BLOCK_BYTES))
        if at + length > end:
            break
        found.append(Extent(at, length, BlockId(block), draw(st.integers(0, 5))))
        at += length
        block += 1
    return found


def carried_out(old: list[Extent], plan) -> list[Extent]:
    table = {extent.offset: extent for extent in old}
    for offset in plan.deletes:
        del table[offset]
    for extent in plan.puts:
        table[extent.offset] = extent
    assert not {extent.offset for extent in plan.puts} & set(plan.deletes)
    covered = sum(e.length for e in table.values()) - sum(e.length for e in old)
    assert covered == plan.covered_bytes
    return sorted(table.values())


@given(old=files(), start=st.integers(0, SPAN), length=st.integers(1, SPAN), data=st.data())
def test_write(old: list[Extent], start: int, length: int, data: st.DataObject) -> None:
    end = start + length
    new = data.draw(files(first_block=100, start=start, end=end))
    touched = [extent for extent in old if extent.end > start and extent.offset < end]
    for given_old in (touched, old):
        plan = plan_write(given_old, new, start, end)
        expected = content(old)
        expected[start:end] = content(new)[start:end]
        assert content(carried_out(old, plan)) == expected


@given(old=files(), size=st.integers(0, SPAN + 10))
def test_truncate(old: list[Extent], size: int) -> None:
    after = carried_out(old, plan_truncate([e for e in old if e.end > size], size))
    expected = content(old)
    expected[size:] = [None] * (SPAN * 2 - size)
    assert content(after) == expected


@given(old=files(), offset=st.integers(0, SPAN), size=st.integers(1, SPAN))
def test_read(old: list[Extent], offset: int, size: int) -> None:
    pieces = list(plan_read(old, offset, size))
    assert sum(piece.length for piece in pieces) == size
    at = offset
    shown = content(old)
    for piece in pieces:
        assert piece.offset == at
        assert piece.length > 0
        for place in range(piece.length):
            expected = None if piece.block == HOLE else (piece.block, piece.block_offset + place)
            assert shown[at + place] == expected
        at += piece.length


def check_runs(runs: Runs, model: bytearray, known: bytearray) -> None:
    end = 0
    for offset, data in zip(runs.offsets, runs.data, strict=True):
        assert offset >= end
        assert data
        end = offset + len(data)
    assert runs.end == end == known.rfind(1) + 1
    assert bool(runs) == (end > 0)
    assert runs.total_bytes == sum(map(len, runs.data)) == known.count(1)
    shown, there = bytearray(len(model)), bytearray(len(model))
    before = -1
    for offset, pieces in runs.joined():
        assert offset > before  # what touches is one
        at = offset
        for number, data in enumerate(pieces):
            assert number == 0 or at % dirty.PAGE_BYTES == 0
            assert number == 0 or max(len(data), len(pieces[number - 1])) >= dirty.KEPT_BYTES_MIN
            shown[at : at + len(data)] = data
            there[at : at + len(data)] = b"\1" * len(data)
            at += len(data)
        before = at
    assert (shown, there) == (model, known)


PLACES = st.tuples(st.integers(0, 90), st.integers(0, 30))


@given(
    st.lists(
        st.tuples(st.sampled_from(["write", "write", "append", "under", "truncate", "pieces"]), PLACES), max_size=30
    ),
    st.sampled_from([1, 12, 1000]),
    st.sampled_from([1, 8]),
)
def test_runs(steps: list[tuple[str, tuple[int, int]]], kept: int, page: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dirty, "KEPT_BYTES_MIN", kept)
        patch.setattr(dirty, "PAGE_BYTES", page)
        play_runs(steps)


def play_runs(steps: list[tuple[str, tuple[int, int]]]) -> None:
    runs, model, known = Runs(), bytearray(400), bytearray(400)
    for number, (step, (offset, size)) in enumerate(steps):
        data = bytes([number % 250 + 1]) * size
        if step == "append":
            offset = min(runs.end, 300)
        if step in ("write", "append"):
            runs.write(offset, data)
            model[offset : offset + size] = data
            known[offset : offset + size] = b"\1" * size
        elif step == "under":
            runs.write_under(offset, data)
            for place in range(offset, offset + size):
                if not known[place]:
                    model[place], known[place] = data[0], 1
        elif step == "truncate":
            runs.truncate(offset)
            model[offset:], known[offset:] = bytes(400 - offset), bytes(400 - offset)
        else:
            for at, piece in runs.pieces(offset, offset + size):
                assert offset <= at
                assert at + len(piece) <= offset + size
                assert model[at : at + len(piece)] == piece
            assert sum(len(p) for _, p in runs.pieces(offset, offset + size)) == known[offset : offset + size].count(1)
        check_runs(runs, model, known)


def test_runs_stop_growing() -> None:
    runs, data = Runs(), random.randbytes(64 << 10)
    for number in range(100):
        runs.write(number << 16, data)
    assert max(map(len, runs.data)) == RUN_BYTES_MAX
    ((offset, pieces),) = runs.joined()
    assert (offset, b"".join(pieces)) == (0, data * 100)


def test_large_writes_are_not_copied() -> None:
    runs, large, small = Runs(), [random.randbytes(1 << 20) for _ in range(3)], b"x" * PAGE_BYTES
    for number, data in enumerate(large):
        runs.write(number << 20, data)
    assert [id(data) for data in runs.data] == [id(data) for data in large]
    assert [id(data) for data in runs.joined()[0][1]] == [id(data) for data in large]
    was = bytes(bytearray(large[1]))
    runs.write((1 << 20) + PAGE_BYTES, small)
    assert large[1] == was  # it may be somebody else's, too
    ((_, pieces),) = runs.joined()
    model = bytearray(b"".join(large))
    model[(1 << 20) + PAGE_BYTES : (1 << 20) + 2 * PAGE_BYTES] = small
    assert b"".join(pieces) == model
    assert [id(pieces[0]), id(pieces[2])] == [id(large[0]), id(large[2])]
