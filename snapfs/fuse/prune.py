"""A notice that libfuse has no function for: FUSE_NOTIFY_PRUNE (Linux 6.18) drops the names of many nodes in one call.

The kernel lets go of every name of a node that nobody uses, and then of the node, with its pages.  What is open, or
pinned otherwise, it keeps, and does not tell; but of each node that went it tells us that it forgot it.

Invariants:
  * Written in worker threads only, as all notices: the kernel may wait for us to answer.
  * The descriptor is the session's own: nothing is written once the session is being closed.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from snapfs.fuse.nodes import Node

FUSE_DEVICE: Final = Path("/dev/fuse")

_PRUNE: Final = 9
"""FUSE_NOTIFY_PRUNE of linux/fuse.h."""
_HEAD: Final = struct.Struct("=IiQIIQ")
"""struct fuse_out_header (bytes in all; the notice, where an answer has its error; 0, where it has its request), then
struct fuse_notify_prune_out (how many nodes; 8 + 4 bytes for later)."""
_PORTION_MAX: Final = 64
"""Nodes a call: more in one gains nothing."""
_PORTIONS_MIN: Final = 16


def session_descriptor() -> int | None:
    """This process's descriptor of /dev/fuse, of which its one session has one; None if it cannot be told."""
    try:
        device = FUSE_DEVICE.stat().st_rdev
        found = [number for number in map(int, os.listdir("/proc/self/fd")) if _is_device(number, device)]
    except OSError:
        return None
    return found[0] if len(found) == 1 else None


def _is_device(descriptor: int, device: int) -> bool:
    try:
        status = os.fstat(descriptor)
    except OSError:  # the one that lists
        return False
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == device


def message(nodes: Sequence[Node]) -> bytes:
    """The notice as it is written to /dev/fuse."""
    numbers = struct.pack(f"={len(nodes)}Q", *nodes)
    return _HEAD.pack(_HEAD.size + len(numbers), _PRUNE, 0, len(nodes), 0, 0) + numbers


def portions(nodes: Sequence[Node]) -> list[Sequence[Node]]:
    """The nodes in portions that several threads take from the list, so small that they end at about the same time."""
    size = max(1, min(_PORTION_MAX, len(nodes) // _PORTIONS_MIN))
    return [nodes[start : start + size] for start in range(0, len(nodes), size)]


class Pruner:
    """Of one session."""

    def __init__(self) -> None:
        self._descriptor: int | None = None

    def begin(self) -> None:
        """The mount is served from now on."""
        self._descriptor = session_descriptor()

    def end(self) -> None:
        """Before the session is closed."""
        self._descriptor = None

    @property
    def works(self) -> bool:
        """Whether the mount is served, by a kernel that knows the notice as far as was seen."""
        return self._descriptor is not None

    def prune(self, shared: list[Sequence[Node]]) -> None:
        """Take portions of nodes from the list and drop their names, until none is left; in a worker thread.  What this
        kernel cannot, or not now, is left undone."""
        descriptor = self._descriptor
        while descriptor is not None:
            try:
                portion = shared.pop()
            except IndexError:
                return
            try:
                os.write(descriptor, message(portion))
            except OSError as error:
                if error.errno != errno.ENOMEM:  # EINVAL: the kernel is older
                    self._descriptor = None
                return
