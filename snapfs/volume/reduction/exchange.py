"""Other extents with the same bytes, put in the place of extents that a head's file has.

Invariants:
  * The new extents were made from the bytes of the old ones.
  * Nothing is exchanged unless the file still has just those extents, and they are the head's own or are replaced by
    the head's own: what a snapshot shows never changes.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from snapfs.errors import NotFound
from snapfs.extents import Extent, plan_write
from snapfs.store.blocks import Placed
from snapfs.types import Epoch, Ino
from snapfs.versions.epochs import View
from snapfs.volume.core import Core
from snapfs.volume.reduction.cutting import Chunk
from snapfs.volume.reduction.reducer import Reducer

Found = list[tuple[Extent, Epoch]]
"""Extents, each with the epoch of its record; without a gap between them."""


def exchange(
    core: Core,
    reducer: Reducer,
    view: View,
    ino: Ino,
    fork: int,
    found: Found,
    chunks: Iterable[Chunk],
    placed: dict[bytes, Placed],
) -> bool:
    """Store the chunks, which are the bytes of the extents found (what no chunk has is zeros), in their place.

    Returns:
        False if the file has changed meanwhile: then nothing happened.

    Raises:
        NoSpace, IOFailure, ReadOnly, Stale.
    """
    core.tree.check_writable(view)
    try:
        inode = core.inode(view, ino)
    except NotFound:
        return False
    start, end = found[0][0].offset, found[-1][0].end
    if inode.fork != fork or core.extents(view, inode, start, end) != found:
        return False
    extents = reducer.extents(view, ino, list(chunks), end, placed)
    plan = plan_write([extent for extent, _ in found], extents, start, end)
    core.apply(view, inode, found, plan)
    if plan.covered_bytes:
        allocated_bytes = inode.allocated_bytes + plan.covered_bytes
        core.put_inode(view, msgspec.structs.replace(inode, allocated_bytes=allocated_bytes))
    return True
