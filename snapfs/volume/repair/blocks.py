"""Repair of blocks and segments: entries that cannot be read, headers that can be written again, what is lost.

A block's bytes are never made up: what cannot be had is told to be lost and stays an I/O error.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

import msgspec

from snapfs.errors import SnapfsError
from snapfs.format import keys, records
from snapfs.format import segments as fmt
from snapfs.format.records import Block
from snapfs.store.space import Space
from snapfs.types import BlockId, SegmentId
from snapfs.volume.check.base import DECODERS, decoded, sound
from snapfs.volume.check.blocks import SegmentFile, body, header_of, padding_of, segment_file
from snapfs.volume.check.run import leftover_segments
from snapfs.volume.check.tables import counter
from snapfs.volume.repair.base import Bench, quiet

_READ_BYTES: Final = 4 * 1024 * 1024


def repair_entries(bench: Bench) -> None:
    """Entries of blocks that cannot be read, or whose segment is gone."""
    bad = [BlockId(keys.from_u64(key)) for key, _ in bench.bad("blocks", DECODERS["blocks"]) if len(key) == 8]
    if bad:
        names = {BlockId(to): key for key, to in decoded(bench.index, "dedup", quiet, DECODERS["dedup"])}
        places = _unclaimed(bench, {names[block] for block in bad if block in names})
        for block in bad:
            digest = names.get(block, b"")
            if digest in places:
                bench.act("record", f"the entry of block {block} is put back: its bytes are where they were")
                bench.index.put("blocks", keys.u64(block), records.encode_block(places[digest]))
            else:
                bench.act("lost", f"block {block} is lost: nothing says where its bytes are")
                bench.put_lost(block)
    _missing_segments(bench)


def _missing_segments(bench: Bench) -> None:
    on_disk = {int(file.stem) for file in bench.place.path.glob("*.seg") if file.stem.isdigit()}
    gone = [(block, entry) for block, entry in bench.blocks() if not entry.lost and entry.segment not in on_disk]
    for segment in sorted({entry.segment for _, entry in gone}):
        count = sum(1 for _, entry in gone if entry.segment == segment)
        bench.act("lost", f"segment {segment} is missing: its {count} blocks are lost")
    for block, entry in gone:
        bench.put_lost(block, entry.raw_bytes, entry.hash)


def _unclaimed(bench: Bench, wanted: set[bytes]) -> dict[bytes, Block]:
    """Sound records in the segments, by hash, that no entry names."""
    found: dict[bytes, Block] = {}
    if not wanted:
        return found
    claimed = {(entry.segment, entry.offset) for _, entry in bench.blocks()}
    with segment_file(bench.place) as file:
        for path in sorted(bench.place.path.glob("*.seg")):
            segment = SegmentId(int(path.stem))
            for offset, head in _heads(bench, file, segment):
                if head.hash in wanted and head.kind == fmt.DATA and (segment, offset) not in claimed:
                    entry = Block(
                        segment, offset, head.stored_bytes, head.raw_bytes, head.codec, head.kind, head.hash, 0
                    )
                    try:
                        body(file, BlockId(0), entry)
                    except SnapfsError:
                        continue
                    found[head.hash] = entry
    return found


def _heads(bench: Bench, file: SegmentFile, segment: SegmentId) -> Iterator[tuple[int, fmt.Head]]:
    """(offset, header) of all records whose header is sound."""
    size = os.fstat(file.fd(segment)).st_size
    for start in range(0, size, _READ_BYTES):
        data = file.read(segment, _READ_BYTES + fmt.BLOCK_HEADER_BYTES, start)
        at = data.find(fmt.BLOCK_MAGIC)
        while 0 <= at < _READ_BYTES:
            try:
                header = data[at : at + fmt.BLOCK_HEADER_BYTES]
                yield start + at, fmt.decode_block_header(header, bench.place.uuid, segment, start + at)
            except SnapfsError:
                pass
            at = data.find(fmt.BLOCK_MAGIC, at + 1)


# -- bytes in segments


def repair_segments(bench: Bench) -> None:
    """Headers and padding that are wrong are written again; new files share no damaged block; files that hold nothing
    go."""
    place = bench.place
    with segment_file(place) as file:
        for key, (end, _) in decoded(bench.index, "segments", quiet, DECODERS["segments"]):
            _segment(bench, file, SegmentId(keys.from_u64(key)), end)
        for block, entry in bench.blocks():
            if entry.refs and not entry.lost:
                _record(bench, file, block, entry)
    leftovers = leftover_segments(bench.index, place)
    if any(_holds_seals(bench, segment) for segment in leftovers):  # the index may be older than all of them
        return
    for segment in leftovers:
        path = place.path / f"{segment:016d}.seg"
        bench.act("leftover", f"the file of segment {segment} is removed: the index knows no block in it")
        bench.later.append(lambda path=path: place.disk.unlink("repair.remove", path))  # type: ignore[misc]


def _holds_seals(bench: Bench, segment: SegmentId) -> bool:
    """Whether a rebuild of the index would find something in the file."""
    with segment_file(bench.place) as file:
        return any(head.kind == fmt.SEAL_ROOT for _, head in _heads(bench, file, segment))


def _segment(bench: Bench, file: SegmentFile, segment: SegmentId, end: int) -> None:
    """Header and length of a file."""
    wanted = fmt.encode_segment_header(bench.place.uuid, segment)
    try:
        header = file.read(segment, len(wanted), 0)
        size = os.fstat(file.fd(segment)).st_size
    except SnapfsError:
        return  # told with its blocks
    if header != wanted:
        bench.act("segment", f"the header of segment {segment} is written again")
        _write_later(bench, segment, 0, wanted)
    if size < end:
        bench.act("segment", f"segment {segment} is {end} bytes long again: the last {end - size} are lost")
        _write_later(bench, segment, end - 1, b"\0")


def _record(bench: Bench, file: SegmentFile, block: BlockId, entry: Block) -> None:
    try:
        body(file, block, entry)
    except SnapfsError:
        _share_no_more(bench, block, entry)
        return
    if entry.kind == fmt.DATA and sound(bench.index, "dedup", entry.hash, keys.from_u64) is None:
        bench.act("dedup", f"block {block} is found by its hash again")
        bench.index.put("dedup", entry.hash, keys.u64(block))
    wanted = header_of(bench.place, entry)
    start, size = padding_of(entry)
    if file.read(entry.segment, len(wanted), entry.offset) != wanted:
        bench.act("block-header", f"the header of block {block} is written again")
        _write_later(bench, entry.segment, entry.offset, wanted)
    if size and file.read(entry.segment, size, start).strip(b"\0"):
        bench.act("block-header", f"the padding of block {block} is written again")
        _write_later(bench, entry.segment, start, bytes(size))


def _share_no_more(bench: Bench, block: BlockId, entry: Block) -> None:
    """New files must not share a damaged block.  If the same bytes are whole in another one, it has them again."""
    if sound(bench.index, "dedup", entry.hash, keys.from_u64) == block:
        bench.act("dedup", f"block {block} is damaged: no new file will share it")
        bench.index.delete("dedup", entry.hash)


def _write_later(bench: Bench, segment: SegmentId, offset: int, data: bytes) -> None:
    def write() -> None:
        disk, path = bench.place.disk, bench.place.path / f"{segment:016d}.seg"
        fd = disk.open("repair.open", path, os.O_WRONLY | os.O_NOFOLLOW)
        try:
            disk.pwrite("repair.write", fd, [data], offset)
            disk.sync("repair.sync", fd)
        finally:
            os.close(fd)

    bench.later.append(write)


def repair_counts(bench: Bench, references: dict[BlockId, int]) -> None:
    """References, what waits to be reclaimed, what finds blocks, and the counters of space.

    Args:
        references: how many records and seals name each block.
    """
    index = bench.index
    for block in references.keys() - {number for number, _ in bench.blocks()}:
        bench.act("lost", f"block {block} is lost: {references[block]} records name it, and it is not in the index")
        bench.put_lost(block)
    freed: dict[BlockId, bytes] = {}
    for key in _freed(bench):
        block = BlockId(keys.from_u64(key, 8))
        if references.get(block) or block in freed or bench.block(block) is None:
            bench.act("freed", f"block {block} does not wait to be reclaimed")
            index.delete("freed", key)
        else:
            freed[block] = key
    for block, entry in list(bench.blocks()):
        count = references.get(block, 0)
        if entry.refs != count:
            bench.act("refs", f"block {block} counts {count} references, not {entry.refs}")
            index.put("blocks", keys.u64(block), records.encode_block(msgspec.structs.replace(entry, refs=count)))
        if not count and block not in freed:
            bench.act("leak", f"block {block}, which nothing names, is given back")
            index.put("freed", keys.u64(index.txn_number) + keys.u64(block), records.PRESENT)
    _dedup(bench)
    _space(bench)


def _freed(bench: Bench) -> list[bytes]:
    for key, _ in bench.bad("freed", DECODERS["freed"]):
        bench.act("record", f"record {key.hex()} of what waits to be reclaimed is removed")
        bench.index.delete("freed", key)
    return [key for key, _ in decoded(bench.index, "freed", quiet, DECODERS["freed"])]


def _dedup(bench: Bench) -> None:
    index = bench.index
    for key, _ in bench.bad("dedup", DECODERS["dedup"]):
        bench.act("dedup", f"the damaged entry {key.hex()[:12]} of dedup is removed")
        index.delete("dedup", key)
    for key, number in list(decoded(index, "dedup", quiet, DECODERS["dedup"])):
        entry = bench.block(BlockId(number))
        if entry is None or entry.hash != key or entry.kind != fmt.DATA or not entry.refs or entry.lost:
            bench.act("dedup", f"block {number} is not found by a hash any more that is not its own")
            index.delete("dedup", key)


def _space(bench: Bench) -> None:
    index = bench.index
    live: dict[SegmentId, int] = {}
    ends: dict[SegmentId, int] = {}
    space = Space()
    for _, entry in bench.blocks():
        if not entry.lost:
            size = fmt.record_bytes(entry.stored_bytes)
            live[entry.segment] = live.get(entry.segment, 0) + size
            ends[entry.segment] = max(ends.get(entry.segment, 0), entry.offset + size)
            space.count(entry)
    for key, _ in bench.bad("segments", DECODERS["segments"]):
        bench.act("record", f"the record of segment {keys.from_u64(key)} is written again")
        index.delete("segments", key)
    known = dict(decoded(index, "segments", quiet, DECODERS["segments"]))
    for segment in sorted(live.keys() | {SegmentId(keys.from_u64(key)) for key in known}):
        end, counted = known.get(keys.u64(segment), (0, -1))
        path = bench.place.path / f"{segment:016d}.seg"
        if segment not in live and not path.exists():
            bench.act("space", f"segment {segment} is forgotten: it is gone, and nothing was in it")
            index.delete("segments", keys.u64(segment))
            continue
        wanted = (max(end, ends.get(segment, fmt.SEGMENT_HEADER_BYTES)), live.get(segment, 0))
        if (end, counted) != wanted:
            bench.act("space", f"segment {segment} counts {wanted[1]} live bytes to {wanted[0]}")
            index.put("segments", keys.u64(segment), records.encode_segment(*wanted))
    for name, value in space.counters().items():
        if counter(index, name, 0) != value:
            bench.act("space", f"the store counts {value} {name}")
            index.put("meta", name.encode(), value.to_bytes(8, "little"))
