"""The command line's way to a daemon without gRPC's library: the libraries hpack, h2 and grpc are the oracles."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import grpc
import h2.config
import h2.connection
import h2.events
import h2.settings
import hpack as library
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapfs import errors
from snapfs.client import addresses, hpack, http2, local
from snapfs.client.blocking.client import Client
from snapfs.client.channel import GrpcTransport
from snapfs.client.credentials import Credentials
from snapfs.client.local import LocalTransport
from snapfs.rpc import status
from snapfs.v1 import store_pb2

# -- headers

HEADERS = st.lists(
    st.tuples(
        st.sampled_from([b"grpc-status", b"content-type", b":status", b"x"]) | st.binary(min_size=1, max_size=20),
        st.sampled_from([b"200", b"", b"application/grpc"]) | st.binary(max_size=400),
    ),
    max_size=8,
)


@given(HEADERS, st.booleans())
def test_headers_of_the_library_are_read(headers: list[tuple[bytes, bytes]], huffman: bool) -> None:
    encoder = library.Encoder()
    encoder.header_table_size = 0
    assert list(hpack.decode(encoder.encode(headers, huffman=huffman))) == headers


@given(HEADERS)
def test_the_library_reads_our_headers(headers: list[tuple[bytes, bytes]]) -> None:
    decoder = library.Decoder(max_header_list_size=1 << 20)
    assert [tuple(header) for header in decoder.decode(hpack.encode(headers), raw=True)] == headers


@given(st.binary(max_size=60))
def test_what_are_no_headers_is_refused_where_the_library_does(block: bytes) -> None:
    decoder = library.Decoder(max_header_list_size=1 << 20)
    decoder.max_allowed_table_size = 0
    decoder.header_table_size = 0
    try:
        wanted = [tuple(header) for header in decoder.decode(block, raw=True)]
    except (library.HPACKError, UnicodeDecodeError):
        wanted = None
    try:
        got = list(hpack.decode(block))
    except hpack.Malformed:
        return  # we may refuse more: a size update late in a block, say
    assert wanted is None or got == wanted


@pytest.mark.parametrize(
    "block", [b"\xbe", b"\x7f\xff\xff\xff\xff\xff\xff", b"\x00\x85ab", b"\x00\x01a\x81\x00", b"\x3f\x01"]
)
def test_bad_headers(block: bytes) -> None:
    with pytest.raises(hpack.Malformed):
        list(hpack.decode(block))


# -- frames, with h2 on the other side

H2 = h2.connection.H2Connection


class Peer:
    """A server that speaks HTTP/2 by the library; ``answer`` is given its connection and each event."""

    def __init__(self, path: Path, answer: Callable[[H2, h2.events.Event], None]) -> None:
        self._answer = answer
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self.connections = 0
        self.received = bytearray()
        self.pings = 0
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connected, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._threads.append(threading.Thread(target=self._serve, args=(connected,)))
            self._threads[-1].start()

    def _serve(self, connected: socket.socket) -> None:
        peer = H2(h2.config.H2Configuration(client_side=False, header_encoding="ascii"))
        peer.initiate_connection()
        with connected, suppress(ConnectionError):  # who hangs up with something unread resets
            connected.sendall(peer.data_to_send())
            while data := connected.recv(65536):
                for event in peer.receive_data(data):
                    if isinstance(event, h2.events.DataReceived):
                        self.received += event.data
                        peer.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    self.pings += isinstance(event, h2.events.PingReceived)
                    self._answer(peer, event)
                try:
                    connected.sendall(peer.data_to_send())
                except OSError:
                    return

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()


Start = Callable[[Callable[[H2, h2.events.Event], None]], tuple[Peer, LocalTransport]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    made: list[Any] = []

    def begin(answer: Callable[[H2, h2.events.Event], None]) -> tuple[Peer, LocalTransport]:
        peer = Peer(tmp_path / "socket", answer)
        transport = LocalTransport(addresses.parse(f"unix:{tmp_path}/socket"), Credentials())
        made.extend([transport, peer])
        return peer, transport

    yield begin
    for one in made:
        one.close()


HEAD = [(":status", "200"), ("content-type", "application/grpc")]
METHOD = "snapfs.v1.StoreService/GetStore"
REQUEST = store_pb2.GetStoreRequest()
RESPONSE = store_pb2.GetStoreResponse


def framed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


def asked(transport: LocalTransport, seconds: float | None = 20) -> Any:
    return transport.unary(METHOD, REQUEST, RESPONSE, timeout_seconds=seconds)


def test_an_answer_in_awkward_pieces(start: Start) -> None:
    wanted = RESPONSE(path="p" * 300, pid=7)
    data = framed(wanted.SerializeToString())

    def answer(peer: H2, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.StreamEnded):
            peer.ping(b"12345678")
            peer.send_headers(event.stream_id, [*HEAD, ("x-long", "y" * 500)])
            for at in range(0, len(data), 7):
                peer.send_data(event.stream_id, data[at : at + 7], pad_length=at % 5)
            peer.update_settings({})
            peer.send_headers(event.stream_id, [("grpc-status", "0")], end_stream=True)

    peer, transport = start(answer)
    assert [asked(transport) for _ in range(3)] == [wanted] * 3
    assert peer.connections == 1


def test_a_question_larger_than_the_window(start: Start) -> None:
    sent = store_pb2.UpdateSettingRequest(name="n", value="v" * 300_000)

    def answer(peer: H2, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.StreamEnded):
            peer.send_headers(event.stream_id, HEAD)
            peer.send_data(event.stream_id, framed(RESPONSE(pid=1).SerializeToString()))
            peer.send_headers(event.stream_id, [("grpc-status", "0")], end_stream=True)

    peer, transport = start(answer)
    assert transport.unary(METHOD, sent, RESPONSE, timeout_seconds=20).pid == 1
    assert bytes(peer.received) == framed(sent.SerializeToString())


@pytest.mark.parametrize(
    "said", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00\x00\x01\x00\x00\x00\x00\x00\x01x", b"\xff" * 20]
)
@pytest.mark.parametrize("ahead", [False, True])
def test_what_is_no_http2(said: bytes, ahead: bool, tmp_path: Path) -> None:
    def serve() -> None:
        while True:
            try:
                connected, _ = listener.accept()
            except OSError:
                return
            with connected, suppress(OSError):
                connected.sendall(said)

    with socket.socket(socket.AF_UNIX) as listener, futures.ThreadPoolExecutor(1) as pool:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        serving = pool.submit(serve)
        try:
            with closing(LocalTransport(addresses.parse(f"unix:{tmp_path}/socket"), Credentials())) as transport:
                if ahead:
                    assert transport.reach()
                with pytest.raises(errors.Unavailable, match="closed the connection"):
                    asked(transport)
        finally:
            listener.shutdown(socket.SHUT_RDWR)
        serving.result(10)


def test_a_daemon_that_answers_no_probe_is_given_up(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http2, "KEEPALIVE_MILLISECONDS", 50)
    alive = [True]

    def answer(peer: H2, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.PingReceived):
            if peer_.pings < 4:
                return  # the library answers it
            alive[0] = False
            peer.data_to_send()  # lost

    peer_, transport = start(answer)
    monkeypatch.setattr(http2, "KEEPALIVE_TIMEOUT_MILLISECONDS", 500)
    with pytest.raises(errors.Unavailable, match="did not answer in time"):
        asked(transport, None)
    assert peer_.pings == 4


@pytest.mark.parametrize(("code", "kind"), [(7, errors.Unavailable), (8, errors.Cancelled), (2, errors.IOFailure)])
def test_a_reset(start: Start, code: int, kind: type[errors.SnapfsError]) -> None:
    def answer(peer: H2, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.StreamEnded):
            peer.reset_stream(event.stream_id, code)

    _, transport = start(answer)
    with pytest.raises(kind):
        asked(transport)


def test_an_answer_before_the_question_is_complete(start: Start) -> None:
    """As a daemon that refuses the call without reading it."""
    sent = store_pb2.UpdateSettingRequest(name="n", value="v" * 300_000)
    refusal = [(":status", "200"), ("grpc-status", "8"), ("grpc-message", "too much")]

    def answer(peer: H2, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived):
            peer.update_settings({h2.settings.SettingCodes.MAX_FRAME_SIZE: (1 << 24) - 1})
            peer.send_headers(event.stream_id, refusal, end_stream=True)

    peer, transport = start(answer)
    for connections in (1, 2):
        with pytest.raises(errors.Busy, match="too much"):
            transport.unary(METHOD, sent, RESPONSE, timeout_seconds=20)
        assert peer.connections == connections  # the other one still has the half of a question


def test_a_stream_whose_reader_is_busy_is_taken_in_and_its_probes_are_answered(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http2, "ATTEND_SECONDS", 0.01)
    large = RESPONSE(path="p" * 2_000_000)  # more than a socket holds
    answered = threading.Semaphore(0)

    def answer(peer: H2, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.PingAckReceived):
            answered.release()
            if event.ping_data == b"between.":
                peer.send_headers(1, [("grpc-status", "0")], end_stream=True)
        if isinstance(event, h2.events.StreamEnded):
            peer.send_headers(event.stream_id, HEAD)
            peer.send_data(event.stream_id, framed(RESPONSE(pid=1).SerializeToString()))
            data, size = framed(large.SerializeToString()), peer.max_outbound_frame_size
            for at in range(0, len(data), size):
                peer.send_data(event.stream_id, data[at : at + size])
            peer.ping(b"between.")

    _, transport = start(answer)
    answers = transport.stream(METHOD, REQUEST, RESPONSE, timeout_seconds=None)
    assert next(answers).pid == 1
    assert answered.acquire(timeout=10)  # behind all that came
    assert list(answers) == [large]
    assert not answered.acquire(blocking=False)  # once
    asked_again = transport.stream(METHOD, REQUEST, RESPONSE, timeout_seconds=None)
    next(asked_again)
    asked_again.close()  # type: ignore[attr-defined] # a generator
    for thread in threading.enumerate():
        if thread.name == "attend":
            thread.join(10)
            assert not thread.is_alive()


@pytest.mark.parametrize("blocks", [1, 3])
def test_headers_without_end(start: Start, blocks: int) -> None:
    def answer(peer: H2, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.StreamEnded):
            headers = b"".join(bytes((0, 3)) + b"%03d" % at + b"\x7e" + bytes(126) for at in range(400 // blocks))
            peer.clear_outbound_data_buffer()
            for _ in range(blocks):
                flags, stream = bytes((1, 4)), event.stream_id.to_bytes(4, "big")
                peer._data_to_send += len(headers).to_bytes(3, "big") + flags + stream + headers

    _, transport = start(answer)
    with pytest.raises(errors.Unavailable, match="headers"):
        asked(transport)


def test_closing_cancels_what_waits(start: Start) -> None:
    came = threading.Event()

    def answer(peer: H2, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.StreamEnded):
            came.set()

    _, transport = start(answer)
    with futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(asked, transport, None)
        assert came.wait(10)
        transport.close()
        assert isinstance(waiting.exception(10), errors.Cancelled)


# -- the same as gRPC's

BIG = 5 * 1024 * 1024


class Daemon(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Does as the method's name says."""

    def __init__(self) -> None:
        self.metadata: dict[str, str] = {}
        self.seconds_left = 0.0
        self.cancelled = threading.Event()
        self.sent = 0

    def service(self, details: Any) -> Any:
        self.metadata = dict(details.invocation_metadata)
        name = details.method.rpartition("/")[2]
        if name == "Unknown":
            return None
        if name in ("Many", "Endless"):
            return grpc.unary_stream_rpc_method_handler(getattr(self, name.lower()))
        return grpc.unary_unary_rpc_method_handler(getattr(self, name.lower()))

    def get(self, request: bytes, context: Any) -> bytes:
        self.seconds_left = context.time_remaining() or 0.0
        context.set_trailing_metadata(((status.VERSION_KEY, "1"),))
        return RESPONSE(pid=os.getpid(), path=RESPONSE.FromString(request).path).SerializeToString()

    def refuse(self, request: bytes, context: Any) -> bytes:
        code, details, metadata = status.status_of(errors.Conflict("ünsaved\nchanges %", hint="💾 save them"))
        context.set_trailing_metadata(metadata)
        context.abort(code, details)

    def fail(self, request: bytes, context: Any) -> bytes:
        context.set_trailing_metadata(((status.VERSION_KEY, "9.9"),))
        context.abort(grpc.StatusCode[RESPONSE.FromString(request).path], "told ü %")

    def nonsense(self, request: bytes, context: Any) -> bytes:
        return b"\xff\xff\xff"

    def large(self, request: bytes, context: Any) -> bytes:
        return RESPONSE(path="x" * (65 * 1024 * 1024)).SerializeToString()

    def wait(self, request: bytes, context: Any) -> bytes:
        if not context.add_callback(self.cancelled.set):  # it has ended already
            self.cancelled.set()
        self.cancelled.wait(20)
        return b""

    def many(self, request: bytes, context: Any) -> Iterator[bytes]:
        for at in range(7):
            yield RESPONSE(pid=at, path="y" * BIG).SerializeToString()

    def endless(self, request: bytes, context: Any) -> Iterator[bytes]:
        context.add_callback(self.cancelled.set)
        while context.is_active():
            self.sent += 1
            yield RESPONSE(path="z" * 1024 * 1024).SerializeToString()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    control = tmp_path / "control"
    control.mkdir()
    made = Daemon()
    options = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))
    server = grpc.server(futures.ThreadPoolExecutor(8), handlers=[made], options=options)
    server.add_insecure_port(f"unix:{control}/socket")
    server.start()
    yield made
    server.stop(0).wait()


Transport = LocalTransport | GrpcTransport


@pytest.fixture(params=[LocalTransport, GrpcTransport])
def transport(request: pytest.FixtureRequest, tmp_path: Path, daemon: Daemon) -> Iterator[Transport]:
    with closing(request.param(addresses.parse(tmp_path), Credentials())) as made:
        yield made


def call(transport: Transport, name: str, path: str = "", seconds: float | None = 20) -> Any:
    request = RESPONSE(path=path)
    return transport.unary(f"test.Service/{name}", request, RESPONSE, timeout_seconds=seconds)


def failure(transport: Transport, name: str, path: str = "", seconds: float | None = 20) -> errors.SnapfsError:
    with pytest.raises(errors.SnapfsError) as caught:
        call(transport, name, path, seconds)
    return caught.value


def test_a_call(transport: Transport, daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "control/owner").write_text("secret\n")
    assert call(transport, "Get", "x" * 3_000_000).path == "x" * 3_000_000
    assert daemon.metadata["snapfs-api"] == "1"
    assert daemon.metadata["authorization"] == "Bearer secret"
    assert 15 < daemon.seconds_left <= 20
    assert call(transport, "Get", seconds=None).pid == os.getpid()


def test_a_stream(transport: Transport, daemon: Daemon) -> None:
    answers = transport.stream("test.Service/Many", RESPONSE(), RESPONSE, timeout_seconds=None)
    assert [(answer.pid, len(answer.path)) for answer in answers] == [(at, BIG) for at in range(7)]


def test_a_stream_that_is_left_is_cancelled(transport: Transport, daemon: Daemon) -> None:
    answers = transport.stream("test.Service/Endless", RESPONSE(), RESPONSE, timeout_seconds=None)
    next(answers)
    answers.close()  # type: ignore[attr-defined] # a generator
    assert daemon.cancelled.wait(10)


def test_who_reads_slowly_is_sent_no_more_than_windows_hold(tmp_path: Path, daemon: Daemon) -> None:
    with closing(LocalTransport(addresses.parse(tmp_path), Credentials())) as transport:
        answers = transport.stream("test.Service/Endless", RESPONSE(), RESPONSE, timeout_seconds=None)
        for _ in range(50):
            next(answers)
        seen, since = -1, time.monotonic()
        while time.monotonic() - since < 0.3:
            if daemon.sent != seen:
                seen, since = daemon.sent, time.monotonic()
        assert seen < 50 + 2 * http2.WINDOW_BYTES // (1024 * 1024) + 10
        answers.close()  # type: ignore[attr-defined] # a generator


def test_a_deadline(transport: Transport, daemon: Daemon) -> None:
    told = failure(transport, "Wait", seconds=0.5)
    assert (type(told), told.message) == (errors.Unavailable, "the daemon did not answer in time")
    assert daemon.cancelled.wait(10)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("Refuse", ""),
        ("Unknown", ""),
        ("Nonsense", ""),
        ("Large", ""),
        *(("Fail", code.name) for code in grpc.StatusCode if code is not grpc.StatusCode.OK),
    ],
)
def test_what_goes_wrong_is_told_in_the_same_words(name: str, path: str, tmp_path: Path, daemon: Daemon) -> None:
    told = []
    for kind in (LocalTransport, GrpcTransport):
        with closing(kind(addresses.parse(tmp_path), Credentials())) as transport:
            error = failure(transport, name, path)
            message = error.message.replace("CLIENT: ", "").replace("Stream removed (", "").replace("))", ")")
            if (name, path) == ("Fail", "UNAVAILABLE"):
                message = message.replace(f"the daemon at the store {tmp_path}", "the daemon")
            told.append((type(error), message, error.hint))
    assert told[0] == told[1]


@pytest.mark.parametrize("kind", [LocalTransport, GrpcTransport])
def test_nobody_there(kind: type[Transport], tmp_path: Path) -> None:
    with closing(kind(addresses.parse(f"unix:{tmp_path}/none"), Credentials())) as transport:
        assert failure(transport, "Get").message == f"no daemon listens at unix:{tmp_path}/none"


def test_a_daemon_that_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "CONNECT_MILLISECONDS_MAX", 100)
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(tmp_path / "socket"))
        mute.listen()
        with closing(LocalTransport(addresses.parse(f"unix:{tmp_path}/socket"), Credentials())) as transport:
            assert "did not answer in time" in failure(transport, "Get", seconds=None).message
            connected, _ = mute.accept()
            with connected:  # it was asked for nothing
                sent = b"".join(iter(lambda: connected.recv(4096), b""))
                assert b"test.Service" not in sent


def test_a_daemon_that_says_nothing_is_waited_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = []

    def mute(_: http2.Connection, end: float) -> None:
        waits.append(end - time.monotonic())
        raise TimeoutError

    monkeypatch.setattr(http2.Connection, "open", mute)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        transport = LocalTransport(addresses.parse(f"unix:{tmp_path}/socket"), Credentials())
        with Client(transport) as one, pytest.raises(errors.Unavailable, match="did not answer in time"):
            one.create_volume(name="v")  # tries again
    assert [wait > 1 for wait in waits] == [True, False, False]


def test_a_path_too_long_for_a_socket(tmp_path: Path) -> None:
    path = tmp_path / ("s" * 200)
    with closing(LocalTransport(addresses.parse(f"unix:{path}"), Credentials())) as transport:
        assert failure(transport, "Get").message == f"cannot reach the daemon at {path}: AF_UNIX path too long"


def test_a_daemon_that_dies_ends_what_waits(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        with closing(LocalTransport(addresses.parse(f"unix:{tmp_path}/socket"), Credentials())) as transport:
            assert transport.reach()
            connected, _ = listener.accept()
            peer = H2(h2.config.H2Configuration(client_side=False))
            peer.initiate_connection()
            connected.sendall(peer.data_to_send())

            def die() -> None:
                while b"test.Service" not in connected.recv(65536):
                    pass
                connected.close()

            with futures.ThreadPoolExecutor(1) as pool:
                dead = pool.submit(die)
                told = failure(transport, "Get", seconds=None)
                dead.result(10)
            assert isinstance(told, errors.Unavailable)
            assert "cannot be reached" in told.message


def test_a_daemon_that_was_started_again_is_found(tmp_path: Path) -> None:
    with closing(LocalTransport(addresses.parse(f"unix:{tmp_path}/socket"), Credentials())) as transport:
        for _ in range(2):
            server = grpc.server(futures.ThreadPoolExecutor(2), handlers=[Daemon()])
            server.add_insecure_port(f"unix:{tmp_path}/socket")
            server.start()
            assert call(transport, "Get").pid == os.getpid()
            server.stop(0).wait()


def test_threads_share_it(tmp_path: Path, daemon: Daemon) -> None:
    with closing(LocalTransport(addresses.parse(tmp_path), Credentials())) as transport:
        with futures.ThreadPoolExecutor(6) as pool:
            found = list(pool.map(lambda number: call(transport, "Get", str(number)).path, range(200)))
        assert found == [str(number) for number in range(200)]


def test_certificates_have_no_use(tmp_path: Path) -> None:
    with pytest.raises(errors.Invalid, match="without TLS"):
        LocalTransport(addresses.parse(tmp_path), Credentials(ca="ca.pem"))


def test_a_client_over_it(tmp_path: Path) -> None:
    transport = LocalTransport(addresses.parse(tmp_path), Credentials())
    with Client(transport) as one, pytest.raises(errors.Unavailable, match="no daemon listens"):
        one.get_store()
