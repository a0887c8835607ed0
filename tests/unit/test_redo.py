"""The redo log: which records count, and when there can be none."""

from __future__ import annotations

import errno
from collections import deque
from pathlib import Path

import msgspec
import pytest

from snapfs.errors import IOFailure
from snapfs.format import segments as fmt
from snapfs.store import redo
from snapfs.store.disk import Disk
from snapfs.store.index import Index
from snapfs.store.redo import PUTS_MAX, Piece, Put, Record, Redo
from snapfs.store.segments import NOTED_BYTES_MAX, NOTED_MAX, Segments
from snapfs.testing.faulty import FaultyDisk
from snapfs.types import SegmentId

NAME = bytes(range(16))
LOG_BYTES = 8192
RECORDS: list[tuple[list[Put], list[Piece]]] = [
    ([("tree", b"key", b"value"), ("dedup", b"gone", None)], [(1, 64, b"block" * 100)]),
    ([("meta", b"k", b"")], []),
    ([("tree", b"key", b"another")], [(1, 564, b"more"), (2, 64, b"")]),
]


def log_of(path: Path, name: bytes = NAME, disk: Disk | None = None) -> Redo:
    log = Redo(disk or Disk(), path, LOG_BYTES)
    log.begin(name)
    return log


def write(log: Redo, puts: list[Put], pieces: list[Piece]) -> bool:
    log.pending = deque(puts, PUTS_MAX + 1)
    act = log.take(pieces)
    return act is not None and act()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    log = log_of(tmp_path / redo.FILE)
    for puts, pieces in RECORDS:
        assert write(log, puts, pieces)
    log.close()
    return tmp_path / redo.FILE


def test_records_are_read_as_they_were_written(path: Path) -> None:
    assert log_of(path).records() == [Record(*record) for record in RECORDS]


def test_a_record_that_is_cut_or_changed_ends_the_log(path: Path) -> None:
    """At each byte of what is written: those before it count, and no other."""
    whole = path.read_bytes()
    ends = [at for at in range(len(whole)) if whole.startswith(b"REDO", at)]
    used = len(whole.rstrip(b"\0"))
    assert len(ends) == len(RECORDS)
    assert used > ends[-1]
    for at in range(used):
        before = sum(end <= at for end in ends) - 1
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert len(log_of(path).records()) == before
        path.write_bytes(whole[:at])
        assert len(log_of(path).records()) == before


def test_records_of_another_commit_do_not_count(path: Path) -> None:
    """Neither all of them, nor those that are left behind newer ones."""
    other = bytes(16)
    assert log_of(path, other).records() == []
    log = log_of(path, other)
    assert write(log, *RECORDS[0])  # as long as the first
    assert log.records() == [Record(*RECORDS[0])]
    log.begin(NAME)
    assert log.records() == []  # the first of these is gone
    log.close()


def test_without_a_named_commit_there_is_no_record(tmp_path: Path) -> None:
    log = log_of(tmp_path / redo.FILE, b"")
    assert log.pending is None
    assert log.take([]) is None
    assert log.records() == []


def test_too_much_for_a_record_is_none(tmp_path: Path) -> None:
    log = log_of(tmp_path / redo.FILE)
    assert log.pending is not None
    for number in range(PUTS_MAX + 5):
        log.pending.append(("tree", b"%d" % number, b""))
    assert log.take([]) is None
    assert len(log.pending) == PUTS_MAX + 1
    log.begin(bytes(16))
    assert len(log.pending) == 0


def test_a_full_log_takes_no_record_and_keeps_what_is_pending(tmp_path: Path) -> None:
    log = log_of(tmp_path / redo.FILE)
    count = 0
    while write(log, [("tree", b"k", bytes(500))], []):
        count += 1
    assert LOG_BYTES // 700 < count < LOG_BYTES // 500
    assert list(log.pending or ()) == [("tree", b"k", bytes(500))]
    assert len(log.records()) == count
    assert (tmp_path / redo.FILE).stat().st_size == LOG_BYTES
    log.begin(bytes(16))
    assert write(log, *RECORDS[0])
    log.close()


@pytest.mark.parametrize("what", ["redo.create", "redo.zeros", "redo.directory", "redo.append", "redo.sync"])
def test_a_log_that_failed_is_not_used_again(tmp_path: Path, what: str) -> None:
    disk = FaultyDisk()
    log = log_of(tmp_path / redo.FILE, disk=disk)
    disk.failing[what] = errno.EIO
    assert not write(log, *RECORDS[0])
    disk.failing.clear()
    assert log.records() == []  # also where its bytes had come to the file
    log.begin(bytes(16))
    assert log.pending is None
    assert log.written == []
    log.close()


@pytest.mark.parametrize("what", ["redo.sync_zeros", "redo.directory"])
def test_a_log_that_could_not_be_made_takes_no_room(tmp_path: Path, what: str) -> None:
    disk = FaultyDisk()
    disk.failing[what] = errno.ENOSPC
    assert not write(log_of(tmp_path / redo.FILE, disk=disk), *RECORDS[0])
    assert (tmp_path / redo.FILE).stat().st_size == 0


def test_what_is_written_counts_as_written_only_on_top_of_its_commit(tmp_path: Path) -> None:
    log = log_of(tmp_path / redo.FILE)
    assert write(log, *RECORDS[0])
    assert log.written == RECORDS[0][0]
    log.pending = deque(RECORDS[1][0])
    act = log.take([])
    log.begin(bytes(16))  # a commit while the worker thread writes
    assert act is not None
    assert act()
    assert log.written == []
    log.close()


def test_what_is_no_file_in_the_place_of_the_log_is_told(tmp_path: Path) -> None:
    (tmp_path / redo.FILE).mkdir()
    with pytest.raises(IOFailure):  # not Corrupt: then a repair would make a new index, in vain
        log_of(tmp_path / redo.FILE).records()


@pytest.mark.parametrize(
    "content",
    [
        {"no": "record"}, [[("no table", b"k", b"v")], []], [[("tree", b"", b"v")], []],
        [[("tree", bytes(512), b"v")], []], [[("tree", bytes(512), None)], []], [[], [(1, -1, b"x")]],
        [[], [(1, 1 << 63, b"x")]], [[], [(-1, 0, b"x")]],
    ],
)  # fmt: skip
def test_what_nobody_writes_ends_the_log_though_its_digest_is_right(tmp_path: Path, content: object) -> None:
    log = log_of(tmp_path / redo.FILE)
    assert write(log, *RECORDS[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(redo, "_encode", lambda _: msgspec.msgpack.encode(content))
        assert write(log, *RECORDS[1])
    assert log.records() == [Record(*RECORDS[0])]
    log.close()


def test_pieces_are_restored_where_their_segment_is_left(tmp_path: Path) -> None:
    file = tmp_path / f"{1:016d}.seg"
    file.write_bytes(b"0123456789")
    redo.restore(Disk(), tmp_path, [(1, 2, b"ab"), (2, 0, b"lost"), (1, 9, b"cd"), (1, 3, b"x")])
    assert file.read_bytes() == b"01ax45678cd"
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


# -- what segments note for it


def block(size: int) -> tuple[fmt.Head, bytes]:
    return fmt.Head(size, size, 0, 0, bytes(32)), bytes(size)


@pytest.fixture
def segments(tmp_path: Path) -> Segments:
    made = Segments(tmp_path, bytes(16), Disk(), newest=SegmentId(0), end=0)
    made.append([block(10)])
    assert made.take_noted() is None  # the segment is new
    made.sync()
    return made


def test_appends_are_noted_until_they_are_taken_or_synced(segments: Segments) -> None:
    places = segments.append([block(10)]) + segments.append([block(20)])
    noted = segments.take_noted()
    assert noted is not None
    content = segments.file_path(places[0][0]).read_bytes()
    assert [(segment, offset) for segment, offset, _ in noted] == places
    assert all(content[offset : offset + len(data)] == data for _, offset, data in noted)
    assert sum(len(data) for *_, data in noted) == len(content) - places[0][1]
    assert segments.take_noted() == []
    segments.append([block(10)])
    segments.sync()
    assert segments.take_noted() == []


def test_what_is_not_noted_has_to_be_synced(segments: Segments) -> None:
    """Long appends, many, what is erased, and what was taken in vain."""
    current = segments.current
    for act in (
        lambda: segments.append([block(NOTED_BYTES_MAX)]),
        lambda: [segments.append([block(10)]) for _ in range(NOTED_MAX + 1)],
        lambda: segments.give_back(current, [64], []),
        lambda: segments.wipe(current, [(64, 72)]),
        segments.forget_noted,
    ):
        act()
        assert segments.take_noted() is None
        segments.append([block(10)])
        assert segments.take_noted() is None
        segments.sync()
        assert segments.take_noted() == []


def test_an_index_that_was_just_opened_commits_first(tmp_path: Path) -> None:
    """It may be put back from a copy: behind the log's first record there may be others that bear its name."""
    directory = tmp_path / "index"
    directory.mkdir()
    index = Index(directory, create=True)
    index.put("meta", b"key", b"1")
    index.commit()
    assert index.record([]) is not None
    index.close()
    index = Index(directory)
    index.put("meta", b"key", b"2")
    assert index.record([]) is None
    index.commit()
    assert index.record([]) is not None
    index.close()
