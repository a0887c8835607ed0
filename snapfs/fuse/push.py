"""The daemon's end of ``push_child``: one child process for the life of the mount.

Invariants:
  * The child is started before /dev/fuse is opened and inherits nothing but its pipes.
  * One request at a time; a child that has died is started anew by the next one.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import trio

from snapfs.errors import Unavailable
from snapfs.fuse.nodes import Node

_END_SECONDS_MAX: Final = 5.0


class Pusher:
    def __init__(self, mountpoint: Path) -> None:
        self._mountpoint = mountpoint
        self._child: subprocess.Popen[bytes] | None = None
        self._lock = trio.Lock()
        # Not a thread of trio's own pool: those may all wait for requests that wait for this one.
        self._limiter = trio.CapacityLimiter(1)

    @property
    def pid(self) -> int:
        """Of the child; 0 without one."""
        return self._child.pid if self._child else 0

    def start(self) -> None:
        command = [sys.executable, "-P", "-m", "snapfs.fuse.push_child", os.fspath(self._mountpoint)]
        # A session of its own: Ctrl-C is for the daemon, which needs the child to end well.
        self._child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/", start_new_session=True
        )

    async def push(self, device: int, files: list[tuple[Node, bytes]]) -> None:
        """Return when the pages of the files (nodes, paths below the mount point) have reached the daemon.

        Raises:
            Unavailable: the mount is not at its mount point any more.
        """
        request = {"device": device, "files": [(node, os.fsdecode(path)) for node, path in files]}
        line = json.dumps(request).encode() + b"\n"
        async with self._lock:
            if self._child is None or self._child.poll() is not None:
                self.stop()
                self.start()
            answer = await trio.to_thread.run_sync(self._ask, line, limiter=self._limiter)
        if not answer or json.loads(answer)["moved"]:
            raise Unavailable(f"{self._mountpoint} is not the store's mount any more", hint="mount it again")

    def _ask(self, line: bytes) -> bytes:
        """In a worker thread; empty if the child has died."""
        child = self._child
        if child is None or child.stdin is None or child.stdout is None:
            return b""
        try:
            child.stdin.write(line)
            child.stdin.flush()
        except OSError:
            return b""
        return child.stdout.readline()

    def kill(self) -> None:
        """Who waits for the child gets no answer."""
        if self._child is not None:
            self._child.kill()

    def stop(self) -> None:
        """End the child; the mount has ended, so it waits for nothing."""
        child, self._child = self._child, None
        if child is None or child.stdin is None or child.stdout is None:
            return
        with contextlib.suppress(OSError):
            child.stdin.close()
        try:
            child.wait(_END_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            child.kill()
        child.stdout.close()
