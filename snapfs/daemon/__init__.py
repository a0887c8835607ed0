"""The daemon: one process that owns a store and serves it, at a mount point and on its private channel."""

from __future__ import annotations

from snapfs.daemon.process import run, start, stop

__all__ = ["run", "start", "stop"]
