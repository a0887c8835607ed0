"""The store opened in this process, when no daemon has it: the daemon's own server on a socket pair, in a
thread.

So both transports are one code path.  The thread owns trio, the lake and its lock, and ends when the
client closes its end: everything is committed before ``finish`` returns.
"""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import trio

from snapfs import errors
from snapfs.rpc.client import Client
from snapfs.rpc.server import serve_stream
from snapfs.service import Service
from snapfs.volume.lake import Lake


class InProcess:
    """One store, open until ``finish``.

    Args:
        store: the store's directory.
        deadline: as in ``Client``.

    Raises:
        Busy: somebody else holds the store's lock.
        NotFound, Invalid, Unsupported, Corrupt: as ``Lake.open``.
    """

    def __init__(self, store: Path, *, deadline: float | None = None) -> None:
        self._store = store
        self._failure: BaseException | None = None
        ours, theirs = socket.socketpair()
        # a daemon thread: when the deadline of a hook has passed, leaving must not wait (the store is
        # crash-safe)
        self._thread = threading.Thread(target=self._serve, args=(theirs,), name="store", daemon=True)
        self._thread.start()
        try:
            self.client = Client(ours, deadline=deadline)
        except errors.SnapfsError:
            self.finish_thread(None)
            raise

    def _serve(self, connection: socket.socket) -> None:
        try:
            trio.run(self._main, connection)
        except BaseException as error:
            self._failure = _single(error)
        finally:
            connection.close()

    async def _main(self, connection: socket.socket) -> None:
        lake = Lake.open(self._store)
        try:
            async with lake.running():
                stream = trio.SocketStream(trio.socket.from_stdlib_socket(connection))
                await serve_stream(Service(lake), stream)
        finally:
            lake.close()

    def finish(self, timeout_seconds: float | None = None) -> None:
        """Commit, close, release the lock.

        Args:
            timeout_seconds: wait no longer for it; None waits for ever.

        Raises:
            SnapfsError: the last commit failed, or took longer.
        """
        self.client.close()
        self.finish_thread(timeout_seconds)

    def finish_thread(self, timeout_seconds: float | None) -> None:
        """``finish`` without a client."""
        self._thread.join(timeout_seconds)
        if self._thread.is_alive():
            raise errors.Unavailable(f"closing the store {self._store} takes too long")
        if self._failure is not None:
            raise self._failure


def _single(error: BaseException) -> BaseException:
    """The one error inside nested groups."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
