"""As much of HTTP/2 (RFC 9113) as one gRPC call at a time on a unix socket takes.

Invariants:

- One call at a time; a connection on which a call did not end in order is of no use any more and says so (``usable``).
  So to cancel a call is to close its connection.
- Every wait ends: at the caller's deadline, when the daemon closes the socket (which it does when it dies), or, of a
  daemon that is stopped, when it answers no probe.
- What is read before somebody asks for it is bounded by the windows granted: a slow reader slows the daemon down.
- A stream that is ``attended`` lasts while its reader is busy: what comes is taken in, and probes are answered.
- What the daemon sends is bounded: frames, headers, messages.  What breaks the protocol is ``Broken``.

gRPC's own library takes 27 ms to import and 12 to connect, the library `h2` 16 to import: more than all the rest of a
command.  `h2` is the other side in the tests.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterable, Iterator
from typing import Final

from snapfs.client import hpack
from snapfs.client.limits import KEEPALIVE_MILLISECONDS, KEEPALIVE_TIMEOUT_MILLISECONDS, RESPONSE_BYTES_MAX

WINDOW_BYTES: Final = 4 * 1024 * 1024
"""What the daemon may send ahead."""
FRAME_BYTES_MAX: Final = 1024 * 1024
"""Of one frame to us."""
HEADERS_BYTES_MAX: Final = 16 * 1024
"""Of one answer: twice what the daemon sends at most."""

ATTEND_SECONDS: Final = 1.0
"""So often it is looked at what comes while a stream's reader is busy."""
_AHEAD_BYTES_MAX: Final = WINDOW_BYTES + FRAME_BYTES_MAX

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_INITIAL_WINDOW_BYTES: Final = 65_535
_WINDOW_BYTES_MAX: Final = (1 << 31) - 1
_INITIAL_FRAME_BYTES_MAX: Final = 16_384
_FRAME_HEAD_BYTES: Final = 9
_MESSAGE_HEAD_BYTES: Final = 5
_READ_BYTES: Final = 256 * 1024

_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
_ACK = _END_STREAM = 1
_END_HEADERS, _PADDED, _PRIORITY = 4, 8, 32
_SET_TABLE_BYTES, _SET_PUSH, _SET_WINDOW, _SET_FRAME_BYTES, _SET_HEADERS_BYTES = 1, 2, 4, 5, 6
_OUR_SETTINGS: Final = (
    (_SET_TABLE_BYTES, 0),
    (_SET_PUSH, 0),
    (_SET_WINDOW, WINDOW_BYTES),
    (_SET_FRAME_BYTES, FRAME_BYTES_MAX),
    (_SET_HEADERS_BYTES, HEADERS_BYTES_MAX),
)

Frame = tuple[int, int, int, bytes]
"""Type, flags, stream, payload."""
Metadata = dict[bytes, bytes]


class Broken(Exception):
    """The connection is of no use any more.

    Attributes:
        silent: nothing comes from the other side.
    """

    def __init__(self, details: str, *, silent: bool = False) -> None:
        super().__init__(details)
        self.silent = silent


class Reset(Exception):
    """The daemon gave the call up without a status.

    Attributes:
        code: HTTP/2's number of the reason.
    """

    def __init__(self, code: int) -> None:
        super().__init__(f"stream reset with error {code}")
        self.code = code


class TooLong(Exception):
    """A message of more than RESPONSE_BYTES_MAX."""


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _number(payload: bytes | bytearray) -> int:
    """Of 31 bits."""
    return int.from_bytes(payload[:4], "big") & 0x7FFF_FFFF


class Connection:
    """A client's side of one connection.

    Args:
        connected: owned from here on; what opens the connection is sent at once.

    Attributes:
        metadata: what came with the last answer, before and after its messages; all of it when these have ended.
    """

    def __init__(self, connected: socket.socket) -> None:
        self.metadata: Metadata = {}
        self._socket = connected
        self._buffer = bytearray()
        self._probed = False
        self._ready = False
        self._closed = False
        self._leaving = False
        self._stream = 0
        self._open = False
        self._early: Frame | None = None
        self._send_window = _INITIAL_WINDOW_BYTES
        self._stream_send_window = self._initial_send_window = _INITIAL_WINDOW_BYTES
        self._frame_bytes_max = _INITIAL_FRAME_BYTES_MAX
        self._taken = self._stream_taken = 0
        settings = b"".join(key.to_bytes(2, "big") + value.to_bytes(4, "big") for key, value in _OUR_SETTINGS)
        credit = (WINDOW_BYTES - _INITIAL_WINDOW_BYTES).to_bytes(4, "big")
        self._send(_PREFACE + _frame(_SETTINGS, 0, 0, settings) + _frame(_WINDOW_UPDATE, 0, 0, credit), None)

    @property
    def usable(self) -> bool:
        """For a further call, as far as what has come tells."""
        if self._closed or self._open or self._leaving:
            return False
        try:
            if not self._take_ahead():
                return False
            while len(self._buffer) >= _FRAME_HEAD_BYTES and len(self._buffer) >= self._whole():
                self._next(None)
        except (OSError, Broken):
            return False
        return not self._leaving

    def close(self) -> None:
        """Cancels the call, also under another thread that waits for it."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(OSError):  # the other side was first
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    # -- the call

    def open(self, end: float) -> None:
        """Wait until the other side has shown that it lives and speaks HTTP/2.

        Raises:
            TimeoutError: not before ``end`` (``time.monotonic()``).
            Broken: it closed the connection, or speaks something else.
        """
        while not self._ready:
            self._next(end)

    def request(self, headers: Iterable[hpack.Header], message: bytes, end: float | None) -> None:
        """Send a call with its one message.

        Raises:
            TimeoutError, Broken, Reset.
        """
        self._stream += 2 if self._stream else 1
        self._open, self._stream_taken = True, 0
        self._stream_send_window = self._initial_send_window
        block = hpack.encode(headers)
        part, rest = block[: self._frame_bytes_max], block[self._frame_bytes_max :]
        out = bytearray(_frame(_HEADERS, 0 if rest else _END_HEADERS, self._stream, part))
        while rest:
            part, rest = rest[: self._frame_bytes_max], rest[self._frame_bytes_max :]
            out += _frame(_CONTINUATION, 0 if rest else _END_HEADERS, self._stream, part)
        body = memoryview(b"\x00" + len(message).to_bytes(4, "big") + message)
        while True:
            size = min(len(body), self._send_window, self._stream_send_window, self._frame_bytes_max)
            if size > 0:
                self._send_window -= size
                self._stream_send_window -= size
                last = size == len(body)
                out += _frame(_DATA, _END_STREAM if last else 0, self._stream, bytes(body[:size]))
                if last:
                    self._send(bytes(out), end)
                    return
                body = body[size:]
                continue
            self._send(bytes(out), end)
            out.clear()
            if (frame := self._next(end)) is not None:
                # an answer before the question is complete: nobody reads the rest of that
                self._early, self._leaving = frame, True
                return

    def messages(self, end: float | None) -> Iterator[bytes]:
        """The messages of the answer as they come.

        Raises:
            TimeoutError: not before ``end``.
            Broken: the connection is lost.
            Reset: the daemon gave up.
            TooLong: a message is.
        """
        self.metadata = {}
        parts = bytearray()
        headers_bytes = 0
        while self._open:
            frame, self._early = self._early or self._next(end), None
            if frame is None:
                continue
            kind, flags, _, payload = frame
            if kind == _RST_STREAM:
                raise Reset(_number(payload))
            if kind == _HEADERS:
                block = self._whole_block(frame, end)
                headers_bytes += len(block)
                if headers_bytes > HEADERS_BYTES_MAX:
                    raise Broken("headers that go wrong")
                try:
                    self.metadata.update(hpack.decode(block))
                except hpack.Malformed as error:
                    raise Broken(str(error)) from None
            elif kind == _DATA:
                self._grant(len(payload), ended=bool(flags & _END_STREAM))
                parts += _unpadded(flags, payload)
                yield from _whole_messages(parts)
            if flags & _END_STREAM and kind in (_HEADERS, _DATA):
                self._open = False
        if parts:
            raise Broken("the answer ends in the middle of a message")

    def attended(self, messages: Iterable[bytes]) -> Iterator[bytes]:
        """Those of ``messages``, for a reader who may take long over one: ``snap diff | less``."""
        import threading

        # Reentrant: who left them alone may be found to be garbage by either thread.
        turn, ended = threading.RLock(), threading.Event()

        def attend() -> None:
            while not ended.wait(ATTEND_SECONDS):
                if turn.acquire(blocking=False):
                    try:
                        if ended.is_set() or not self._take_in():
                            return
                    finally:
                        turn.release()

        with contextlib.suppress(RuntimeError):  # no thread is to be had: then one who takes long is given up
            threading.Thread(target=attend, name="attend", daemon=True).start()
        turn.acquire()
        try:
            for message in messages:
                try:
                    turn.release()
                    yield message
                finally:
                    turn.acquire()
        finally:
            ended.set()
            turn.release()

    def _take_in(self) -> bool:
        """Add what has come to the buffer, answer the probes in it; False if the connection is lost."""
        buffer, at = self._buffer, 0
        try:
            self._take_ahead()
            while (end := at + _FRAME_HEAD_BYTES + int.from_bytes(buffer[at : at + 3], "big")) <= len(buffer):
                if buffer[at + 3] == _PING and not buffer[at + 4] & _ACK:
                    self._send(_frame(_PING, _ACK, 0, bytes(buffer[at + _FRAME_HEAD_BYTES : end])), None)
                    buffer[at + 4] |= _ACK  # no second time
                at = end
        except (OSError, Broken):
            return False
        return True

    def _take_ahead(self) -> bool:
        """Add what has come to the buffer, as far as the windows go.  False: the connection was closed, or more comes.

        Raises:
            OSError: it is lost.
        """
        self._socket.settimeout(0)
        try:
            while len(self._buffer) < _AHEAD_BYTES_MAX and (data := self._socket.recv(_READ_BYTES)):
                self._buffer += data
        except BlockingIOError:
            return True
        return False

    def _whole_block(self, frame: Frame, end: float | None) -> bytes:
        _, flags, _, payload = frame
        block = _unpadded(flags, payload)
        if flags & _PRIORITY:
            block = block[5:]
        while not flags & _END_HEADERS:
            kind, flags, stream, payload = self._read(end)
            block += payload
            if kind != _CONTINUATION or stream != self._stream or len(block) > HEADERS_BYTES_MAX:
                raise Broken("headers that go wrong")
        return block

    def _grant(self, size: int, *, ended: bool) -> None:
        """Of what has come: let as much follow."""
        self._taken += size
        self._stream_taken += size
        out = b""
        if self._taken >= WINDOW_BYTES // 2:
            out += _frame(_WINDOW_UPDATE, 0, 0, self._taken.to_bytes(4, "big"))
            self._taken = 0
        if self._stream_taken >= WINDOW_BYTES // 2 and not ended:
            out += _frame(_WINDOW_UPDATE, 0, self._stream, self._stream_taken.to_bytes(4, "big"))
            self._stream_taken = 0
        if out:
            self._send(out, None)

    # -- frames

    def _next(self, end: float | None) -> Frame | None:
        """The next frame, if it is of the call; what concerns the connection is done here."""
        kind, flags, stream, payload = self._read(end)
        if kind == _SETTINGS and not flags & _ACK:
            self._set(payload)
            self._send(_frame(_SETTINGS, _ACK, 0), end)
            self._ready = True
        elif not self._ready:
            raise Broken("it does not begin as HTTP/2 does")
        elif kind == _PING and not flags & _ACK:
            self._send(_frame(_PING, _ACK, 0, payload), end)
        elif kind == _GOAWAY:
            self._leaving = True
            if self._open and _number(payload) < self._stream:
                raise Broken("the daemon takes no more calls")
        elif kind == _WINDOW_UPDATE:
            if stream == 0:
                self._send_window = min(self._send_window + _number(payload), _WINDOW_BYTES_MAX)
            elif stream == self._stream:
                self._stream_send_window = min(self._stream_send_window + _number(payload), _WINDOW_BYTES_MAX)
        elif stream == self._stream and self._open:
            return kind, flags, stream, payload
        return None

    def _set(self, payload: bytes) -> None:
        for at in range(0, len(payload) - 5, 6):
            key, value = int.from_bytes(payload[at : at + 2], "big"), int.from_bytes(payload[at + 2 : at + 6], "big")
            if key == _SET_WINDOW:
                self._stream_send_window += value - self._initial_send_window
                self._initial_send_window = value
            elif key == _SET_FRAME_BYTES:
                self._frame_bytes_max = min(max(value, _INITIAL_FRAME_BYTES_MAX), FRAME_BYTES_MAX)

    def _read(self, end: float | None) -> Frame:
        buffer = self._buffer
        while len(buffer) < _FRAME_HEAD_BYTES:
            self._receive(end)
        whole = self._whole()
        while len(buffer) < whole:
            self._receive(end)
        frame = (buffer[3], buffer[4], _number(buffer[5:9]), bytes(buffer[_FRAME_HEAD_BYTES:whole]))
        del buffer[:whole]
        return frame

    def _whole(self) -> int:
        """Bytes of the frame that the buffer begins with."""
        size = int.from_bytes(self._buffer[:3], "big")
        if size > FRAME_BYTES_MAX:
            raise Broken("a frame is too large")
        return _FRAME_HEAD_BYTES + size

    def _receive(self, end: float | None) -> None:
        """Add what comes to the buffer; probe the other side when nothing does."""
        while True:
            patience = (KEEPALIVE_TIMEOUT_MILLISECONDS if self._probed else KEEPALIVE_MILLISECONDS) / 1000
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError
            try:
                self._socket.settimeout(patience if left is None else min(left, patience))
                data = self._socket.recv(_READ_BYTES)
            except TimeoutError:
                if left is not None and left <= patience:
                    raise
                if self._probed:
                    raise Broken("nothing comes from the daemon", silent=True) from None
                self._probed = True
                self._send(_frame(_PING, 0, 0, bytes(8)), end)
                continue
            except OSError as error:
                raise Broken(error.strerror or str(error)) from None
            if not data:
                raise Broken("Socket closed")
            self._probed = False
            self._buffer += data
            return

    def _send(self, data: bytes, end: float | None) -> None:
        patience = (KEEPALIVE_MILLISECONDS + KEEPALIVE_TIMEOUT_MILLISECONDS) / 1000
        left = None if end is None else end - time.monotonic()
        if left is not None and left <= 0:
            raise TimeoutError
        try:
            self._socket.settimeout(patience if left is None else min(left, patience))
            self._socket.sendall(data)
        except TimeoutError:
            if left is not None and left <= patience:
                raise
            raise Broken("the daemon takes nothing", silent=True) from None
        except OSError as error:
            raise Broken(error.strerror or str(error)) from None


def _unpadded(flags: int, payload: bytes) -> bytes:
    if not flags & _PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise Broken("a frame with more padding than bytes")
    return payload[1 : len(payload) - payload[0]]


def _whole_messages(parts: bytearray) -> Iterator[bytes]:
    """Take the messages out that are complete."""
    while len(parts) >= _MESSAGE_HEAD_BYTES:
        if parts[0]:
            raise Broken("a compressed message, which was not asked for")
        size = int.from_bytes(parts[1:_MESSAGE_HEAD_BYTES], "big")
        if size > RESPONSE_BYTES_MAX:
            raise TooLong(f"Received message larger than max ({size} vs. {RESPONSE_BYTES_MAX})")
        whole = _MESSAGE_HEAD_BYTES + size
        if len(parts) < whole:
            return
        message = bytes(parts[_MESSAGE_HEAD_BYTES:whole])
        del parts[:whole]
        yield message
