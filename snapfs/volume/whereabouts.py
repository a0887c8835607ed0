"""How people call a file: ``volume[@snapshot]:path``, found from the inode up.  For errors and logs."""

from __future__ import annotations

import os
from typing import Final

from snapfs.errors import SnapfsError
from snapfs.format import keys, records
from snapfs.types import Ino
from snapfs.versions.epochs import View
from snapfs.volume.core import Core

_DEPTH_MAX: Final = 2048
"""More directories than any path that can be opened has."""


def of_inode(core: Core, view: View, ino: Ino) -> str:
    """One of the file's paths, or ``inode N`` when what leads there is damaged too."""
    try:
        path = _path(core, view, ino)
        volume = core.index.get("volumes", keys.u64(view.volume_id))
        name = records.decode_volume(volume).name if volume else str(view.volume_id)
        snapshot = None if view.writable else core.index.get("snapshots", keys.u64(view.epoch))
        if snapshot:
            name += f"@{records.decode_snapshot(snapshot).name}"
    except SnapfsError:
        return f"inode {ino}"
    return f"inode {ino}" if path is None else f"{name}:{os.fsdecode(path)!a} (inode {ino})"


def _path(core: Core, view: View, ino: Ino) -> bytes | None:
    """None if the file was unlinked, or no parent leads to the root."""
    names: list[bytes] = []
    while len(names) < _DEPTH_MAX:
        link = next(core.tree.scan(view, keys.head(ino, keys.PARENT)), None)
        if link is None:  # the root has none, nor has an unlinked file
            return b"/".join(reversed(names)) if names else None
        parent, name = keys.split_hashed(link[0])
        names.append(name)
        ino = Ino(parent)
    return None
