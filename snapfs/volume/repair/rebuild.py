"""A new index from the segments alone: every snapshot whose seal is whole, with its names, tags and volume.

Invariants:
  * The segments are only read.  The new index is made beside the old one and takes its place in one step; the old one
    is kept as ``index.damaged-<time>``.  A crash leaves the old one where it was, or the new one.
  * A snapshot has its own content or is not there: none is made of a seal that is not whole.  Digests stay.
  * A block that seals name and no segment holds gets an entry as *lost*: reading it fails, fsck names the files.
  * Records that nothing names are forgotten, not overwritten and not given back: who knows the old index may still want
    them.  Only superseded seals are released, so that no later rebuild takes them for the present.
  * Memory is bounded by the number of seals: blocks and records go straight into the new index.

What no seal holds (what heads had since their last snapshot, volumes without a snapshot) comes from the old index, as
far as that can still be read (``salvage``).
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from snapfs.errors import Corrupt, Invalid
from snapfs.format import segments as fmt
from snapfs.store import layout
from snapfs.store.disk import Disk, read_start
from snapfs.store.index import Index
from snapfs.store.pages import DamagedIndex
from snapfs.store.scan import segment_file, segment_files
from snapfs.volume.repair.index_builder import Builder, Plan, Report
from snapfs.volume.repair.old import Old
from snapfs.volume.repair.salvage import Salvage
from snapfs.volume.repair.sealed import Progress, Scan

__all__ = ["BESIDE", "Plan", "Report", "plan", "read_marker", "rebuild"]

BESIDE: Final = layout.INDEX_BESIDE
_BUILDING: Final = "unfinished"
"""In it as long as it is no index yet."""
_UUID_BYTES: Final = 16


def plan(path: Path, progress: Progress | None = None, *, disk: Disk | None = None, salvage: bool = False) -> Plan:
    """Read the segments and say what a rebuild would make; changes nothing.

    Args:
        salvage: as of ``rebuild``.

    Raises:
        NotFound, Invalid, Unsupported: there is no store that this program knows.
        Corrupt: no segment tells which store it is of.
    """
    disk = disk or Disk()
    scan = Scan(path / layout.SEGMENTS, _store_uuid(read_marker(path)), disk)
    scan.run(progress=progress)
    builder = Builder(scan)
    with _salvaging(path, builder, scan, wanted=salvage):
        return builder.plan()


@contextlib.contextmanager
def _salvaging(path: Path, builder: Builder, scan: Scan, *, wanted: bool) -> Iterator[None]:
    """The builder knows what the old index says, as far as that can be read."""
    if not wanted:
        yield
        return
    try:
        old = DamagedIndex(path / layout.INDEX)
    except Corrupt:  # nothing is left of it
        yield
        return
    try:
        builder.old = Old(old, scan)
        yield
    finally:
        old.close()


def rebuild(path: Path, progress: Progress | None = None, *, disk: Disk | None = None, salvage: bool = False) -> Report:
    """Make a new index of the store's segments and put it in the old one's place.

    Args:
        salvage: bring back, too, what the old index has and seals have not, as far as it can be read: heads, volumes
            without a snapshot, snapshots that were not yet sealed.  Records that are known to be lost are left as
            unreadable, for the repair in place to mend.

    Raises:
        Busy: somebody has the store open.
        NotFound, Invalid, Unsupported, Corrupt: as ``plan``.
        NoSpace, IOFailure: nothing has changed.
    """
    disk = disk or Disk()
    marker = read_marker(path)
    lock = layout.Lock(path)
    try:
        _clear_beside(path)
        beside = path / BESIDE
        beside.mkdir(mode=0o700)
        (beside / _BUILDING).touch()
        scan = Scan(path / layout.SEGMENTS, _store_uuid(marker), disk)
        index = Index(beside, create=True, disk=disk)
        try:
            index.put("meta", b"uuid", marker.uuid.encode())
            builder = Builder(scan, index)
            scan.run(builder.take_data, progress)
            with _salvaging(path, builder, scan, wanted=salvage):
                report = builder.build(Salvage(builder, scan).fill)
            index.commit()
        finally:
            index.close()
            scan.close()
        if _marker_damaged(path):
            layout.mark(path, marker, disk)
        return msgspec.structs.replace(report, kept=_swap(path, disk))
    finally:
        lock.release()


def _store_uuid(marker: layout.Marker) -> bytes:
    return bytes.fromhex(marker.uuid.replace("-", ""))


def _marker_damaged(path: Path) -> bool:
    try:
        marker = layout.read_marker(path)
        return len(_store_uuid(marker)) != _UUID_BYTES or _uuid_of_segments(path) not in (None, _store_uuid(marker))
    except (Corrupt, ValueError):
        return True
    except Invalid:  # there is none; but segments say that this was a store
        return _uuid_of_segments(path) is not None


def read_marker(path: Path) -> layout.Marker:
    """The store's marker; where that is damaged, one made of what the segments say.

    Raises:
        NotFound, Invalid, Unsupported, Corrupt.
    """
    if not _marker_damaged(path):
        return layout.read_marker(path)
    found = _uuid_of_segments(path)
    if found is None:
        raise Corrupt(f"{path}: no segment tells which store it is of", hint="restore the store from a copy")
    text = found.hex()
    uuid = "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
    return layout.Marker(format="snapfs", version=layout.FORMAT_VERSION, uuid=uuid, created_ns=time.time_ns())


def _uuid_of_segments(path: Path) -> bytes | None:
    """What most segments' headers say; None without a sound one."""
    said: Counter[bytes] = Counter()
    for number in segment_files(path / layout.SEGMENTS):
        with contextlib.suppress(OSError):
            header = read_start(segment_file(path / layout.SEGMENTS, number), fmt.SEGMENT_HEADER_BYTES)
            uuid = header[8 : 8 + _UUID_BYTES]
            if header == fmt.encode_segment_header(uuid.ljust(_UUID_BYTES, b"\0"), number):
                said[uuid] += 1
    return said.most_common(1)[0][0] if said else None


def _clear_beside(path: Path) -> None:
    """What an earlier rebuild left: one that did not finish, or the old index that it had just replaced."""
    beside = path / BESIDE
    if (beside / _BUILDING).exists() or not beside.exists():
        shutil.rmtree(beside, ignore_errors=True)
    else:
        beside.rename(_kept_name(path))


def _kept_name(path: Path) -> Path:
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    name, number = path / f"{layout.INDEX_KEPT}{stamp}", 1
    while name.exists():
        number += 1
        name = path / f"{layout.INDEX_KEPT}{stamp}.{number}"
    return name


def _swap(path: Path, disk: Disk) -> str:
    """The new index takes the old one's place; returns the name under which that is kept."""
    beside, place = path / BESIDE, path / layout.INDEX
    (beside / _BUILDING).unlink()
    disk.sync_directory("rebuild.directory", beside)
    if not place.exists():
        disk.rename("rebuild.publish", beside, place)
        disk.sync_directory("rebuild.directory", path)
        return ""
    kept = _kept_name(path)
    steps = [("rebuild.keep", beside, kept)]
    if not disk.exchange("rebuild.publish", beside, place):  # a crash in between leaves none: it is rebuilt again
        steps = [("rebuild.keep", place, kept), ("rebuild.publish", beside, place)]
    disk.sync_directory("rebuild.directory", path)
    for what, name, new in steps:
        disk.rename(what, name, new)
        disk.sync_directory("rebuild.directory", path)
    return kept.name
