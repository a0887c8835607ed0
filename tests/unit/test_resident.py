"""The index's map: its pages are given up, and what it holds stays readable."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from snapfs.store import resident
from snapfs.store.index import Index, items
from snapfs.store.verify import DATA_FILE

RECORDS = 3000
PAYLOAD = bytes(range(256)) * 14  # one to a page: 12 MB


@pytest.fixture
def index(tmp_path: Path) -> Index:
    directory = tmp_path / "index"
    directory.mkdir()
    made = Index(directory, create=True)
    for number in range(RECORDS):
        made.put("meta", b"%06d" % number, PAYLOAD)
    made.commit()
    return made


def mapped_kib(file: Path) -> int:
    """Of the file, resident in this process, as the kernel counts it."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            inside = line.endswith(str(file.resolve()))
        elif inside and line.startswith("Rss:"):
            total += int(line.split()[1])
    return total


def read_all(index: Index) -> int:
    return sum(payload == PAYLOAD for _, payload in items(index, "meta"))


def test_pages_are_given_up_and_read_again(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    file = index.path / DATA_FILE
    assert read_all(index) == RECORDS
    assert mapped_kib(file) > 10_000
    assert resident.mapped_bytes() > 10_000 * 1024
    monkeypatch.setattr(resident, "RESIDENT_BYTES_MAX", 0)
    assert resident.bound(file)
    assert mapped_kib(file) < 1000
    assert read_all(index) == RECORDS
    index.put("meta", b"more", PAYLOAD)
    index.commit()
    assert resident.bound(file)
    assert read_all(index) == RECORDS + 1
    index.close()


def test_little_is_left_alone(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resident, "RESIDENT_BYTES_MAX", 1 << 40)
    assert read_all(index) == RECORDS
    before = mapped_kib(index.path / DATA_FILE)
    assert not resident.bound(index.path / DATA_FILE)
    assert mapped_kib(index.path / DATA_FILE) == before
    index.close()


def test_a_map_that_is_gone_is_not_touched(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resident, "RESIDENT_BYTES_MAX", 0)
    file = index.path / DATA_FILE
    index.close()
    assert not resident.bound(file)


def test_no_descriptor_left(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks now and then is not troubled by it."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    file = index.path / DATA_FILE
    monkeypatch.setattr("builtins.open", refuse)
    assert not resident.bound(file)
