"""The command's side of the channel: synchronous, on a plain socket, without trio.

Invariants: every wait has a deadline when the caller gives one; a stream that is not read to its end closes
the connection (what is left of it could be mistaken for the next answer).
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from snapfs import errors
from snapfs.rpc import wire
from snapfs.rpc.wire import Reply, ReplyKind

T = TypeVar("T")

HELLO_SECONDS_MAX: Final = 10.0
"""A daemon that does not greet within this is stopped or overloaded: say so rather than hang."""

RECEIVE_BYTES: Final = 256 * 1024

Progress = Callable[[int, int], None]


class Client:
    """One connection.

    Args:
        connection: connected stream socket; owned from here on.
        deadline: ``time.monotonic()`` after which every wait fails with Unavailable; None waits for ever.
    """

    def __init__(self, connection: socket.socket, *, deadline: float | None = None) -> None:
        self._socket = connection
        self._deadline = deadline
        self._buffer = bytearray()
        self.pid = 0
        try:
            self._greet()
        except BaseException:
            connection.close()
            raise

    def close(self) -> None:
        self._socket.close()

    def call(self, method: str, result: type[T], *, progress: Progress | None = None, **params: Any) -> T:
        """The result of one call.

        Raises:
            SnapfsError: what the service raised; Unavailable if the daemon went away or is too slow.
        """
        self._send(wire.Call(method=method, params=params))
        while True:
            reply = self._reply()
            if reply.kind is ReplyKind.PROGRESS:
                if progress is not None:
                    done, total = reply.value
                    progress(done, total)
            elif reply.kind is ReplyKind.RESULT:
                return self._convert(reply.value, result)
            else:
                raise errors.Unsupported(f"unexpected {reply.kind} from the daemon")

    def stream(self, method: str, item: type[T], **params: Any) -> Iterator[T]:
        """The items of one streaming call, as they come.  Raises like ``call``."""
        self._send(wire.Call(method=method, params=params))
        finished = False
        try:
            while (reply := self._reply()).kind is ReplyKind.ITEM:
                yield self._convert(reply.value, item)
            finished = reply.kind is ReplyKind.END
        except errors.SnapfsError:
            finished = True  # an error reply is the stream's end
            raise
        finally:
            if not finished:
                self.close()

    def _greet(self) -> None:
        patience = time.monotonic() + HELLO_SECONDS_MAX
        overall = self._deadline
        self._deadline = patience if overall is None else min(patience, overall)
        self._send(wire.Hello(protocol=wire.PROTOCOL_VERSION))
        line = self._line()
        if b'"protocol"' not in line:
            self._check(wire.decode(line, Reply))
        hello = wire.decode(line, wire.Hello)
        self.pid = hello.pid
        if hello.protocol != wire.PROTOCOL_VERSION:
            raise errors.Unsupported(
                f"the daemon (pid {hello.pid}) speaks protocol {hello.protocol}, this program {wire.PROTOCOL_VERSION}",
                hint="unmount and mount again with this version",
            )
        self._deadline = overall

    def _reply(self) -> Reply:
        reply = wire.decode(self._line(), Reply)
        self._check(reply)
        return reply

    def _check(self, reply: Reply) -> None:
        if reply.kind is ReplyKind.ERROR:
            raise self._convert(reply.value, wire.Failure).exception()

    @staticmethod
    def _convert(value: Any, kind: type[T]) -> T:
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            raise errors.Unsupported(f"unexpected answer from the daemon: {error}") from None

    def _arm(self) -> None:
        if self._deadline is None:
            self._socket.settimeout(None)
            return
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)

    def _failed(self, error: OSError) -> errors.Unavailable:
        who = f"the daemon (pid {self.pid})" if self.pid else "the daemon"
        if self.pid == os.getpid():
            who = "the store"  # the same service in a thread of this process
        if isinstance(error, TimeoutError):
            return errors.Unavailable(f"{who} did not answer in time", hint="is it stopped or overloaded?")
        return errors.Unavailable(f"{who} went away", hint="mount the store again")

    def _send(self, message: wire.Hello | wire.Call) -> None:
        data = wire.encode(message)
        if len(data) > wire.MESSAGE_BYTES_MAX:
            raise errors.TooLarge(f"the request has {len(data)} bytes, more than {wire.MESSAGE_BYTES_MAX}")
        try:
            self._arm()
            self._socket.sendall(data)
        except OSError as error:
            raise self._failed(error) from None

    def _line(self) -> bytes:
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if searched > wire.MESSAGE_BYTES_MAX:
                raise errors.Unsupported("the daemon's answer is too long")
            try:
                self._arm()
                data = self._socket.recv(RECEIVE_BYTES)
            except OSError as error:
                raise self._failed(error) from None
            if not data:
                raise self._failed(ConnectionResetError())
            self._buffer += data
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line


def connect(directory: Path, *, deadline: float | None = None) -> Client | None:
    """A greeted connection to the daemon whose socket is in ``directory``; None if no daemon listens there.

    Raises:
        NotPermitted: the directory is another user's.
        Unavailable: it does not answer.
        Unsupported: it speaks another protocol.
    """
    descriptor = -1
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path = str(directory / wire.SOCKET_NAME)
        if len(os.fsencode(path)) > wire.SOCKET_PATH_BYTES_MAX:
            descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            path = f"/proc/self/fd/{descriptor}/{wire.SOCKET_NAME}"
        connection.settimeout(HELLO_SECONDS_MAX)
        connection.connect(path)
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
        connection.close()
        return None
    except PermissionError:
        connection.close()
        raise errors.NotPermitted(f"no permission to use the store's daemon: {directory}") from None
    except (TimeoutError, BlockingIOError):  # the latter: its queue of new clients is full
        connection.close()
        raise errors.Unavailable(f"the daemon of {directory.parent} does not answer") from None
    except BaseException:
        connection.close()
        raise
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    return Client(connection, deadline=deadline)
