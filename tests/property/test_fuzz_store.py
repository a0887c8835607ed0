"""A store made by somebody who means harm: whatever its bytes are, reading them gives a record or Corrupt, never
another error, and never asks for more memory than a block or a request needs."""

from __future__ import annotations

import os
import subprocess
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from snapfs.access import Access, journal
from snapfs.access.audit import Audit
from snapfs.config import Settings
from snapfs.errors import Corrupt, SnapfsError
from snapfs.format import keys, records, segments
from snapfs.store import layout
from snapfs.store.blocks import digest, unpack
from snapfs.testing.engine import EngineSubject
from snapfs.types import BLOCK_BYTES_MAX, BlockId, Ino, SegmentId
from snapfs.volume.lake import Lake

QUICK = settings(max_examples=100, derandomize=True, deadline=None)
LONG = settings(max_examples=200_000, deadline=None)
ON_DISK = settings(
    max_examples=40, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

DECODERS: dict[str, Callable[[bytes], object]] = {
    "inode": lambda payload: records.decode_inode(Ino(1), payload),
    "dirent": records.decode_dirent,
    "extent": records.decode_extent,
    "epoch": records.decode_epoch,
    "block": records.decode_block,
    "segment": records.decode_segment,
    "volume": records.decode_volume,
    "snapshot": records.decode_snapshot,
    "request": records.decode_request,
    "event": records.decode_event,
    "value": lambda value: records.unseal(b"key", value),
    "key: number": keys.from_u64,
    "key: second number": lambda key: keys.from_u64(key, 8),
    "key: subject": keys.split,
    "key: entry": keys.split_hashed,
    "key: xattr": keys.split_xattr,
    "key: extent": keys.split_extent,
    "key: epoch": keys.epoch_of,
    "block header": lambda data: segments.decode_block_header(data, bytes(16), SegmentId(1), 64),
    "segment header": lambda data: segments.check_segment_header(data, bytes(16), SegmentId(1)),
}

_SIZES = (1, 4, 8, 9, 13, 16, 17, 21, 28, 40, 48, 52, 60, 64, 66, 70, 76, 84, 92)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=5,
)
_FIELDS = {
    name
    for kind in (records.VolumeRecord, records.SnapshotRecord, records.RequestRecord)
    for name in kind.__struct_fields__
} | {"sequence", "time_ns", "kind"}
_RECORDS = st.dictionaries(
    st.sampled_from(sorted(_FIELDS)),
    _JSON | st.integers(-(1 << 70), 1 << 70) | st.sampled_from(["checkout", "AAAA"]),
    max_size=12,
)


def _json(value: object) -> bytes:
    try:
        return msgspec.json.encode(value)
    except (UnicodeEncodeError, OverflowError):
        return b"{}"


BYTES = st.one_of(
    st.binary(max_size=200),
    st.sampled_from(_SIZES).flatmap(lambda size: st.binary(min_size=size, max_size=size)),
    st.sampled_from(_SIZES).map(lambda size: b"\xff" * size),
    _RECORDS.map(_json),
    st.sampled_from(
        [b"[" * 100_000, b'{"a":' * 50_000, b'{"id":' + b"9" * 5000 + b"}", b'{"name":"\\ud800"}', b'"\xff"']
    ),
)


def refusal(act: Callable[[], object]) -> SnapfsError | None:
    """What it refuses with: an error of ours, on one line."""
    error: SnapfsError | None = None
    try:
        act()
    except SnapfsError as caught:
        error = caught
    assert error is None or (error.message and len(error.message.splitlines()) == 1)
    return error


def _check(decode: Callable[[bytes], object], data: bytes) -> None:
    said = refusal(lambda: decode(data))
    assert said is None or isinstance(said, Corrupt)


@pytest.mark.parametrize("name", DECODERS)
def test_decoding(name: str) -> None:
    QUICK(given(BYTES)(lambda data: _check(DECODERS[name], data)))()


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", DECODERS)
def test_decoding_for_long(name: str) -> None:
    LONG(given(BYTES)(lambda data: _check(DECODERS[name], data)))()


# -- blocks


def _entry(raw_bytes: int, codec: int, hash: bytes, stored_bytes: int = 100) -> records.Block:
    return records.Block(SegmentId(1), 64, stored_bytes, raw_bytes, codec, segments.DATA, hash, 1)


@QUICK
@given(
    stored=st.binary(max_size=300)
    | st.binary(max_size=100).map(lambda rest: zstandard.compress(bytes(5000))[:18] + rest),
    raw_bytes=st.integers(0, BLOCK_BYTES_MAX),
    codec=st.integers(0, 255),
)
def test_unpacking(stored: bytes, raw_bytes: int, codec: int) -> None:
    _check(lambda data: unpack(BlockId(1), _entry(raw_bytes, codec, digest(stored)), data), stored)


@pytest.mark.parametrize("claimed_bytes", [1 << 40, 1 << 33, BLOCK_BYTES_MAX + 1, (1 << 63) + 5])
def test_a_frame_that_claims_to_be_huge_takes_no_memory(claimed_bytes: int) -> None:
    frame = b"\x28\xb5\x2f\xfd" + b"\xe0" + claimed_bytes.to_bytes(8, "little") + b"\x03\x00\x00" + b"x"
    assert zstandard.frame_content_size(frame) in (claimed_bytes, -1)
    tracemalloc.start()
    try:
        with pytest.raises(Corrupt):
            unpack(BlockId(1), _entry(4096, records.CODEC_ZSTD, bytes(32)), frame)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_bomb_takes_no_memory() -> None:
    """256 MiB of zeros in a few KiB, behind an entry that says 4 KiB; and without the size in the frame."""
    data = bytes(256 << 20)
    for stored in (zstandard.compress(data), zstandard.ZstdCompressor(write_content_size=False).compress(data)):
        assert len(stored) < 64 << 10
        tracemalloc.start()
        try:
            with pytest.raises(Corrupt):
                unpack(BlockId(1), _entry(4096, records.CODEC_ZSTD, digest(data)), stored)
            assert tracemalloc.get_traced_memory()[1] < 1 << 20
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize(("stored_bytes", "raw_bytes"), [(1 << 31, 100), (100, 1 << 31), (BLOCK_BYTES_MAX + 1, 1)])
def test_a_block_that_is_too_large_is_none(stored_bytes: int, raw_bytes: int) -> None:
    with pytest.raises(Corrupt):
        records.decode_block(records.encode_block(_entry(raw_bytes, records.CODEC_RAW, bytes(32), stored_bytes)))
    head = segments.Head(stored_bytes, raw_bytes, records.CODEC_RAW, segments.DATA, bytes(32))
    with pytest.raises(Corrupt):
        segments.decode_block_header(
            segments.encode_block_header(head, bytes(16), SegmentId(1), 64), bytes(16), SegmentId(1), 64
        )


# -- files of the store


@pytest.fixture(scope="module")
def whole() -> Iterator[Path]:
    """A store with something of everything."""
    with tempfile.TemporaryDirectory(prefix="snapfs-fuzz-") as directory:
        store = Path(directory) / "store"
        engine = EngineSubject(store)
        engine.create_volume("data")
        engine.make("data", (b"f",), "file", 0o644)
        engine.write("data", (b"f",), 0, os.urandom(100_000))
        engine.snapshot("data", "one")
        engine.close()
        yield store


def _copy(store: Path, place: Path) -> None:
    """With its holes, which are nearly all of the index."""
    subprocess.run(["cp", "-a", "--sparse=always", store, place], check=True)


def _opened(store: Path) -> None:
    lake = Lake.open(store)
    try:
        for volume in lake.volumes.all():
            list(lake.files.readdir(volume.head, volume.root, 0))
    finally:
        lake.close()


SMALL_FILES: dict[str, Callable[[Path], object]] = {
    "FORMAT": lambda store: layout.read_marker(store),
    "lock": lambda store: layout.read_holder(store),
    "config.toml": lambda store: Settings(store).config,
    "access/tokens.json": lambda store: Access(store).list_tokens(),
    "index/committed": _opened,
}
CONTENT = st.one_of(
    st.binary(max_size=300),
    st.text(max_size=100).map(lambda text: text.encode(errors="replace")),
    _RECORDS.map(_json),
    st.sampled_from(
        [
            b"",
            b"\0" * 5000,
            b"[log]\nlevel = 5\n",
            b"[store]\ncommit_seconds = nan\n",
            b"[a]\n" * 3,
            b'{"format":"snapfs"}',
            b"[" * 50_000,
            b'{"tokens": [{}]}',
            b'{"pid": -1}',
            b'{"pid": 99999999999999999999}',
            b"\xff\xfe",
            b"x = " + b"[" * 5000,
            b"[daemon]\nstop_seconds = " + b"9" * 5000,
        ]
    ),
)


@pytest.mark.parametrize("name", SMALL_FILES)
def test_small_files(name: str, whole: Path, tmp_path: Path) -> None:
    """What is wrong in them is told as an error of ours, on one line."""
    store = tmp_path / "store"
    _copy(whole, store)
    (store / name).parent.mkdir(exist_ok=True)

    def check(content: bytes) -> None:
        (store / name).write_bytes(content)
        refusal(lambda: SMALL_FILES[name](store))

    ON_DISK(given(CONTENT)(check))()


@ON_DISK
@given(content=CONTENT | st.lists(CONTENT, max_size=5).map(b"\n".join))
def test_the_audit_log(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    """It can be read, verified and written on, or says why not."""
    place = tmp_path_factory.mktemp("place")
    (place / "audit").mkdir()
    (place / "audit" / "audit.jsonl").write_bytes(content)
    log = Audit(place, now_ns=lambda: 1)
    for act in (
        log.page,
        lambda: journal.verify(place),
        log.check,
        lambda: log.write(caller="c", peer="p", method="m", request="{}", result="OK"),
        log.page,
        log.close,
    ):
        refusal(act)


# -- links that were planted


LINKED = (
    "lock",
    "index/data.mdb",
    "index/lock.mdb",
    "segments/0000000000000001.seg",
    "segments/0000000000000002.seg",
    "FORMAT.new",
)


@pytest.mark.parametrize("name", LINKED)
def test_nothing_is_written_through_a_planted_link(name: str, whole: Path, tmp_path: Path) -> None:
    store, victim = tmp_path / "store", tmp_path / "victim"
    _copy(whole, store)
    (store / name).unlink(missing_ok=True)
    victim.write_bytes(b"precious")
    (store / name).symlink_to(victim)

    def write() -> None:
        engine = EngineSubject(store)
        try:
            engine.write("data", (b"f",), 0, os.urandom(100_000))
            engine.flush()
        finally:
            engine.lake.close()

    said = refusal(write)
    assert said is None or "link" in said.message or "in the place of the index" in said.message, said
    assert victim.read_bytes() == b"precious"
