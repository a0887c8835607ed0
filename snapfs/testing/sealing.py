"""What a view contains, found the slow way: an independent second opinion on seals."""

from __future__ import annotations

import struct
from collections.abc import Iterable

from blake3 import blake3

from snapfs.format import keys, records
from snapfs.format.seals import SealRecord, decode_entries, encode_entry
from snapfs.store.index import Reading
from snapfs.types import Ino
from snapfs.versions.epochs import View
from snapfs.versions.keyspace import Snapshotted
from snapfs.volume.lake import Lake


def multiset_state(elements: Iterable[bytes]) -> bytes:
    """LtHash16, lane by lane: slow."""
    lanes = [0] * 1024
    for element in elements:
        hasher = blake3(derive_key_context="snapfs seal element v1")
        hasher.update(element)
        vector = struct.unpack("<1024H", hasher.digest(length=2048))
        lanes = [(a + b) % 65536 for a, b in zip(lanes, vector, strict=True)]
    return struct.pack("<1024H", *lanes)


def elements(source: Reading, view: View) -> list[bytes]:
    """All that the view shows, by reading every record of the store."""
    shown = {subject: payload for subject, _, payload in Snapshotted(source).scan(view, b"")}
    found = []
    for subject, payload in shown.items():
        ino, kind = keys.split(subject)
        attributes = shown.get(keys.inode(ino))
        if attributes is None:
            continue
        if kind == keys.EXTENT:
            fork, _ = keys.split_extent(subject)
            if records.decode_inode(ino, attributes).fork != fork:
                continue
            length, block, offset = records.decode_extent(payload)
            entry = source.get("blocks", keys.u64(block))
            assert entry is not None
            payload = struct.pack("<I32sI", length, records.decode_block(entry).hash, offset)
        found.append(struct.pack("<HI", len(subject), len(payload)) + subject + payload)
    return found


def replayed(lake: Lake, seal: SealRecord) -> set[bytes]:
    """What the seal's delta makes of what its base's makes, and so on: all that the snapshot contains, as a rebuild of
    the index finds it in the segments."""
    chain = [seal]
    while chain[-1].base:
        base = lake.sealer.get(chain[-1].base)
        assert base is not None, f"the seal of epoch {chain[-1].epoch} has no base"
        chain.append(base)
    content: dict[bytes, bytes] = {}
    for link in reversed(chain):
        for part in link.parts:
            data = lake.core.blocks.fetch(part, *lake.core.blocks.locate(part))
            for subject, payload in decode_entries(data or b""):
                if payload:
                    content[subject] = payload
                else:
                    del content[subject]
    return {
        encode_entry(subject, payload)
        for subject, payload in content.items()
        if (attributes := content.get(subject[:8] + bytes([keys.INODE])))
        and (subject[8] != keys.EXTENT or keys.split_extent(subject)[0] == _fork(attributes))
    }


def _fork(attributes: bytes) -> int:
    return records.decode_inode(Ino(0), attributes).fork
