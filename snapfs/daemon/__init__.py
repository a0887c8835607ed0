"""The daemon: one process that owns a store and serves it, at a mount point and by its API."""

from __future__ import annotations

from snapfs.daemon.control import State, end, look
from snapfs.daemon.process import run, start, stop

__all__ = ["State", "end", "look", "run", "start", "stop"]
