"""Seals: what a snapshot contains, as canonical bytes that depend on nothing but content, and its digest.

A seal lies in the segments as blocks of its own: *parts* that list what changed since another sealed epoch (its base),
a *body* with the snapshot's record, and a small *root* that says the digest and names the body by hash.  From roots,
bodies, parts and data blocks the index can be rebuilt.

Invariants:
  * An entry names an extent's block by its BLAKE3, never by its number: two stores that hold the same records have the
    same entries.
  * A part holds whole entries, in subject order over all parts; an empty payload says that the base shows the subject
    and the sealed view does not.
  * Listed is only what the sealed view shows, or what it no longer shows of the base.  Of an inode that is gone, only
    its attributes are listed; of a fork that is gone, nothing: who applies a delta drops the rest.
  * A digest never changes once it is given: name, tags and the volume's name are no part of it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec
from blake3 import blake3

from snapfs.api import QuotaKind, RetentionPolicy
from snapfs.errors import Corrupt
from snapfs.format.records import HASH_BYTES, SnapshotRecord
from snapfs.types import BLOCK_BYTES_MAX, BlockId, Epoch, VolumeId

SEAL_VERSION: Final = 1
NO_PARENT: Final = bytes(HASH_BYTES)
"""In place of the digest of a parent, for a snapshot that has none."""
STATE_BYTES: Final = 2048
"""Of the multiset hash whose digest is the content."""

_DIGEST_CONTEXT: Final = "snapfs seal v1"
_ENTRY = struct.Struct("<HI")
_EXTENT = struct.Struct("<I32sI")
_FACTS = struct.Struct("<Qq")


# -- entries


def encode_entry(subject: bytes, payload: bytes) -> bytes:
    """One entry of a delta; with a payload it is also an element of the content's multiset."""
    return _ENTRY.pack(len(subject), len(payload)) + subject + payload


def decode_entries(part: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(subject, canonical payload) of each entry.

    Raises:
        Corrupt: the part is no sequence of entries.
    """
    place = 0
    while place < len(part):
        start = place + _ENTRY.size
        if start > len(part):
            raise Corrupt("a seal's part ends inside an entry", hint="run: snap fsck")
        subject_bytes, payload_bytes = _ENTRY.unpack_from(part, place)
        place = start + subject_bytes + payload_bytes
        if place > len(part) or not subject_bytes:
            raise Corrupt("a seal's part ends inside an entry", hint="run: snap fsck")
        yield part[start : start + subject_bytes], part[start + subject_bytes : place]


def encode_extent(length: int, block_hash: bytes, block_offset: int) -> bytes:
    """Canonical payload of an extent; that of any other record is the record's own."""
    return _EXTENT.pack(length, block_hash, block_offset)


def decode_extent(payload: bytes) -> tuple[int, bytes, int]:
    """(length in bytes, BLAKE3 of the block, offset of the first byte in the block).

    Raises:
        Corrupt: not an extent's payload.
    """
    if len(payload) != _EXTENT.size:
        raise Corrupt("an extent in a seal is malformed", hint="run: snap fsck")
    length, block_hash, offset = _EXTENT.unpack(payload)
    return length, block_hash, offset


def cut(data: bytes) -> list[bytes]:
    """Pieces that each fit into a block."""
    return [data[start : start + BLOCK_BYTES_MAX] for start in range(0, len(data), BLOCK_BYTES_MAX)]


# -- body and root


class VolumeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Of the snapshot's volume, when the seal was last written."""

    id: VolumeId
    name: str
    created_ns: int
    quota_bytes: int = 0
    quota_kind: QuotaKind = QuotaKind.LOGICAL
    compression: str = "zstd:1"
    policy: RetentionPolicy | None = None
    origin: Epoch = Epoch(0)
    deleted_ns: int = 0
    """In the trash since; 0: not deleted."""


class SealBody(msgspec.Struct, frozen=True, kw_only=True):
    """MessagePack, cut into blocks as they come."""

    record: SnapshotRecord | None
    """None: the snapshot was deleted, but other seals have this one as their base."""
    volume: VolumeFacts | None
    """None with the record."""
    parts: list[bytes]
    """BLAKE3 of the delta's parts, in order."""


class SealRoot(msgspec.Struct, frozen=True, kw_only=True):
    """MessagePack; one small block."""

    version: int = SEAL_VERSION
    store: bytes
    """UUID (16 bytes)."""
    sequence: int
    """Of two roots of one epoch, the greater one counts."""
    epoch: Epoch
    base: Epoch
    """Sealed epoch that the delta starts from; 0: from nothing."""
    parent: bytes
    """Digest of the seal before it when this was first sealed; ``NO_PARENT`` without one."""
    parent_epoch: Epoch
    digest: bytes
    content: bytes
    """BLAKE3 of the state."""
    state: bytes
    """Of the multiset hash over all that the epoch shows (``versions.lthash``)."""
    body: list[bytes]
    """BLAKE3 of the body's blocks, in order."""


class SealRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A seal in the index (JSON).  Each block that it names holds one reference for it."""

    epoch: Epoch
    base: Epoch
    parent: bytes
    parent_epoch: Epoch
    digest: bytes
    content: bytes
    sequence: int
    gone: bool = False
    """The body says that the snapshot was deleted."""
    root: BlockId
    body: list[BlockId]
    parts: list[BlockId]

    def blocks(self) -> Iterable[BlockId]:
        return [self.root, *self.body, *self.parts]


_root_decoder = msgspec.msgpack.Decoder(SealRoot)
_body_decoder = msgspec.msgpack.Decoder(SealBody)
_record_decoder = msgspec.json.Decoder(SealRecord)


def encode_root(root: SealRoot) -> bytes:
    return msgspec.msgpack.encode(root)


def decode_root(data: bytes) -> SealRoot:
    """Raises:
    Corrupt: no root of a seal, or one of another version.
    """
    try:
        root = _root_decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Corrupt(f"the root of a seal is malformed ({error})", hint="run: snap fsck") from error
    hashes = (root.parent, root.digest, root.content, *root.body)
    if root.version != SEAL_VERSION or len(root.state) != STATE_BYTES or any(len(h) != HASH_BYTES for h in hashes):
        raise Corrupt("the root of a seal is malformed, or of another version", hint="run: snap fsck")
    return root


def encode_body(body: SealBody) -> bytes:
    return msgspec.msgpack.encode(body)


def decode_body(data: bytes) -> SealBody:
    """``data``: the body's blocks, joined.

    Raises:
        Corrupt: no body of a seal.
    """
    try:
        return _body_decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Corrupt(f"the body of a seal is malformed ({error})", hint="run: snap fsck") from error


def encode_record(record: SealRecord) -> bytes:
    return msgspec.json.encode(record)


def decode_record(payload: bytes) -> SealRecord:
    """Raises:
    Corrupt: not the record of a seal.
    """
    try:
        return _record_decoder.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Corrupt(f"the record of a seal is malformed ({error})", hint="run: snap fsck") from error


# -- digests


def content_digest(state: bytes) -> bytes:
    """Of the multiset hash's state (2,048 bytes)."""
    return blake3(state).digest()


def seal_digest(parent: bytes, content: bytes, record: SnapshotRecord) -> bytes:
    """What a snapshot is known by to those who want proof: 32 bytes over its parent's digest, its content, and what of
    its record cannot change."""
    facts: dict[str, object] = {
        "message": record.message,
        "meta": record.meta,
        "git": _filled(msgspec.to_builtins(record.git)) if record.git else {},
    }
    canonical = msgspec.json.encode(_filled(facts), order="sorted")
    hasher = blake3(derive_key_context=_DIGEST_CONTEXT)
    hasher.update(parent + content + _FACTS.pack(record.root, record.created_ns) + canonical)
    return hasher.digest()


def _filled(facts: dict[str, object]) -> dict[str, object]:
    """Without what is empty: a field that later versions add changes no digest of a record that does not have it."""
    return {name: value for name, value in facts.items() if value}
