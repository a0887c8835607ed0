"""Keys keep their order and records their content; a flipped bit never goes unseen."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapfs.api import GitCommit
from snapfs.errors import Corrupt
from snapfs.format import keys, records, segments
from snapfs.format.records import Block, Inode, SnapshotRecord, VolumeRecord
from snapfs.types import BLOCK_BYTES_MAX, FILE_BYTES_MAX, BlockId, Epoch, Ino, SegmentId, VolumeId

U32 = st.integers(0, (1 << 32) - 1)
U64 = st.integers(0, (1 << 64) - 1)
SIZES = st.integers(0, FILE_BYTES_MAX)
BLOCK_SIZES = st.integers(0, BLOCK_BYTES_MAX)
I64 = st.integers(-(1 << 63), (1 << 63) - 1)
INOS = st.integers(1, (1 << 40) - 1).map(Ino)
EPOCHS = st.integers(1, (1 << 24) - 1).map(Epoch)
NAMES = st.binary(min_size=1, max_size=255).filter(lambda name: b"\0" not in name and b"/" not in name)


@st.composite
def subjects(draw: st.DrawFn) -> bytes:
    ino = draw(st.integers(1, 3).map(Ino))
    name = draw(NAMES)
    return draw(
        st.sampled_from(
            [
                keys.inode(ino), keys.symlink(ino), keys.dirent(ino, name, 7), keys.xattr(ino, name),
                keys.parent(ino, Ino(draw(st.integers(1, 3))), name),
                keys.extent(ino, draw(st.integers(0, 2)), draw(st.integers(0, 1 << 60))),
            ]
        )
    )  # fmt: skip


@given(subjects(), subjects(), EPOCHS, EPOCHS)
def test_no_subject_is_a_prefix_of_anothers_key(a: bytes, b: bytes, one: Epoch, two: Epoch) -> None:
    if a != b:
        assert not keys.versioned(b, two).startswith(a)
        assert (keys.versioned(a, one) < keys.versioned(b, two)) == (a < b)
    else:
        assert (keys.versioned(a, one) < keys.versioned(a, two)) == (one > two)
    assert keys.epoch_of(keys.versioned(a, one)) == one


@given(INOS, INOS, NAMES, st.integers(0, 99), st.integers(0, 1 << 60))
def test_keys_tell_what_they_are_made_of(ino: Ino, other: Ino, name: bytes, fork: int, offset: int) -> None:
    entry = keys.dirent(ino, name, 5)
    assert keys.split(entry) == (ino, keys.DIRENT)
    assert keys.split_hashed(entry) == (keys.name_cookie(name, 5), name)
    assert keys.COOKIE_MIN <= keys.name_cookie(name, 5) < 1 << 63
    assert keys.dirent_from(ino, keys.name_cookie(name, 5)) <= entry
    assert keys.split_hashed(keys.parent(ino, other, name)) == (other, name)
    assert keys.split_xattr(keys.xattr(ino, name)) == name
    extent = keys.extent(ino, fork, offset)
    assert keys.split_extent(extent) == (fork, offset)
    assert extent.startswith(keys.extents(ino, fork))


@given(st.builds(Inode, INOS, U32, U32, U32, U32, U64, SIZES, SIZES, I64, I64, I64, I64, U32))
def test_inode(inode: Inode) -> None:
    assert records.decode_inode(inode.ino, records.encode_inode(inode)) == inode


@given(INOS, st.integers(1, 15), BLOCK_SIZES, U64.map(BlockId), BLOCK_SIZES, EPOCHS, st.booleans())
def test_small_records(
    ino: Ino, kind: int, length: int, block: BlockId, offset: int, epoch: Epoch, dying: bool
) -> None:
    assert records.decode_dirent(records.encode_dirent(ino, kind << 12 | 0o644)) == (ino, kind << 12)
    assert records.decode_extent(records.encode_extent(length, block, offset)) == (length, block, offset)
    state = records.DYING if dying else records.LIVE
    assert records.decode_epoch(records.encode_epoch(epoch, VolumeId(3), state)) == (epoch, 3, state)
    assert records.decode_segment(records.encode_segment(length, length // 2)) == (length, length // 2)
    entry = Block(SegmentId(2), block, length, offset, records.CODEC_ZSTD, segments.SEAL_PART, bytes(32), 9)
    assert records.decode_block(records.encode_block(entry)) == entry


def test_json_records() -> None:
    git = GitCommit(commit="a" * 40, branch="main", subject="é", author="A <a@b>", remote="r", dirty=True)
    snapshot = SnapshotRecord(
        epoch=Epoch(5), volume=VolumeId(1), name="n", root=Ino(1), created_ns=7, message="m", meta={"k": "v"}, git=git
    )
    assert records.decode_snapshot(records.encode_json(snapshot)) == snapshot
    volume = VolumeRecord(id=VolumeId(1), name="é", root=Ino(1), head=Epoch(2), created_ns=3)
    assert records.decode_volume(records.encode_json(volume)) == volume


@given(st.binary(min_size=1, max_size=20), st.binary(max_size=60))
def test_every_flipped_byte_is_seen(key: bytes, payload: bytes) -> None:
    value = records.seal(key, payload)
    assert records.unseal(key, value) == payload
    for place in range(len(value)):
        damaged = bytearray(value)
        damaged[place] ^= 0x41
        with pytest.raises(Corrupt):
            records.unseal(key, bytes(damaged))
    for length in range(len(value)):
        with pytest.raises(Corrupt):
            records.unseal(key, value[:length])
    with pytest.raises(Corrupt):
        records.unseal(key + b"x", value)


def test_segment_headers() -> None:
    header = segments.encode_segment_header(bytes(16), SegmentId(4))
    segments.check_segment_header(header, bytes(16), SegmentId(4))
    with pytest.raises(Corrupt):
        segments.check_segment_header(header, bytes(16), SegmentId(5))
    with pytest.raises(Corrupt):
        segments.check_segment_header(header, b"x" * 16, SegmentId(4))
    head = segments.Head(10, 20, records.CODEC_RAW, segments.DATA, b"h" * 32)
    place = bytes(16), SegmentId(4), 64
    block = segments.encode_block_header(head, *place)
    assert segments.decode_block_header(block, *place) == head
    for elsewhere in ((b"x" * 16, SegmentId(4), 64), (bytes(16), SegmentId(5), 64), (bytes(16), SegmentId(4), 72)):
        with pytest.raises(Corrupt):
            segments.decode_block_header(block, *elsewhere)
    for position in range(len(block)):
        damaged = bytearray(block)
        damaged[position] ^= 1
        with pytest.raises(Corrupt):
            segments.decode_block_header(bytes(damaged), *place)
    assert segments.record_bytes(1) % segments.ALIGN_BYTES == 0
