"""The index's map: its pages are given up, and what it holds stays readable."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from snapfs.store import index as index_module
from snapfs.store import resident
from snapfs.store.index import Index, items
from snapfs.store.verify import DATA_FILE
from snapfs.testing.mapped import mapped_bytes

RECORDS = 3000
PAYLOAD = bytes(range(256)) * 14  # one to a page: 12 MB


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    directory = tmp_path / "index"
    directory.mkdir()
    made = Index(directory, create=True)
    for number in range(RECORDS):
        made.put("meta", b"%06d" % number, PAYLOAD)
    made.commit()
    yield made
    made.close()


def read_all(index: Index) -> int:
    return sum(payload == PAYLOAD for _, payload in items(index, "meta"))


def most(monkeypatch: pytest.MonkeyPatch, bytes_max: int) -> None:
    """Of what all other files have mapped here, and these bytes."""
    monkeypatch.setattr(resident, "RESIDENT_BYTES_MAX", bytes_max)


def test_pages_are_given_up_and_read_again(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    file = index.path / DATA_FILE
    most(monkeypatch, 0)
    bounded = resident.Map(file)
    try:
        assert read_all(index) == RECORDS
        assert mapped_bytes(file) > 10_000_000
        assert bounded.bound()
        assert mapped_bytes(file) < 1_000_000
        assert read_all(index) == RECORDS
        index.put("meta", b"more", PAYLOAD)
        index.commit()
        assert bounded.bound()
        assert mapped_bytes(file) < 1_000_000
        assert read_all(index) == RECORDS + 1
    finally:
        bounded.close()


def test_little_is_left_alone(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    most(monkeypatch, 1 << 40)
    file = index.path / DATA_FILE
    bounded = resident.Map(file)
    try:
        assert read_all(index) == RECORDS
        before = mapped_bytes(file)
        bounded.bound()
        assert mapped_bytes(file) == before
    finally:
        bounded.close()


def test_tells_whether_more_is_mapped(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks looks more often then."""
    most(monkeypatch, 1 << 40)
    bounded = resident.Map(index.path / DATA_FILE)
    try:
        resident._madvise(*resident._find(index.path / DATA_FILE) or (0, 0), 4)
        bounded.bound()
        assert not bounded.bound()
        assert read_all(index) == RECORDS  # 12 MB
        assert bounded.bound()
        assert not bounded.bound()
    finally:
        bounded.close()


def test_what_others_have_mapped_is_not_tried_again(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """The libraries alone are more than this: giving up does not help, so it waits until more is mapped."""
    most(monkeypatch, 1 << 20)
    tried: list[int] = []
    give_up = resident.Map._give_up

    def tell(self: resident.Map) -> None:
        tried.append(1)
        give_up(self)

    monkeypatch.setattr(resident.Map, "_give_up", tell)
    bounded = resident.Map(index.path / DATA_FILE)
    try:
        for _ in range(10):
            bounded.bound()
        assert len(tried) == 1
        read_all(index)
        bounded.bound()
        assert len(tried) == 2
    finally:
        bounded.close()


def test_one_long_step_is_bounded_within(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records at many places, with nobody else having a turn meanwhile."""
    looks: list[bool] = []
    look, give_up = index.map.bound, index.map._give_up
    given: list[int] = []

    def look_on() -> bool:
        index.map._most_bytes = most_bytes  # whatever other tests made this process map
        looks.append(look())
        return looks[-1]

    def give() -> None:
        given.append(mapped_bytes(index.path / DATA_FILE))
        give_up()

    monkeypatch.setattr(index.map, "bound", look_on)
    monkeypatch.setattr(index.map, "_give_up", give)
    places = [b"%06d" % number for number in range(RECORDS)]
    places.sort(key=lambda place: hashlib.sha256(place).digest())
    counted = resident.Counted()
    give_up()
    most_bytes = counted.mapped_bytes() + (4 << 20)  # a third of the index, and more than others come to map
    counted.close()
    for place in places[:2500]:
        index.put("meta", place, PAYLOAD)
    index.delete("meta", places[-1])
    assert len(looks) == 2501 // index_module.LOOK_PUTS
    assert len(given) > 1
    assert given[-1] > 2_000_000
    index.commit()
    assert read_all(index) == RECORDS - 1


def test_a_map_that_is_gone_is_not_touched(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    most(monkeypatch, 0)
    advised: list[int] = []

    def advise(*_: int) -> int:
        advised.append(1)
        return 0

    monkeypatch.setattr(resident, "_madvise", advise)
    file = index.path / DATA_FILE
    bounded = resident.Map(file)
    try:
        bounded.bound()
        assert advised
        advised.clear()
        index.close()
        bounded._most_bytes = 0
        bounded.bound()
        assert not advised
    finally:
        bounded.close()


def test_no_descriptor_left(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks now and then is not troubled by it."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    most(monkeypatch, 0)
    bounded = resident.Map(index.path / DATA_FILE)
    try:
        with monkeypatch.context() as refused:
            refused.setattr("builtins.open", refuse)
            bounded.bound()
    finally:
        bounded.close()
    monkeypatch.setattr(os, "open", refuse)
    blind = resident.Map(index.path / DATA_FILE)
    assert not blind.bound()
    blind.close()


def test_a_closed_index_keeps_no_descriptor(tmp_path: Path) -> None:
    directory = tmp_path / "index"
    directory.mkdir()
    Index(directory, create=True).close()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        Index(directory).close()
    assert len(os.listdir("/proc/self/fd")) == before
