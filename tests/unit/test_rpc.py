"""The private channel: a synchronous client against the real server, on a service of this test."""

from __future__ import annotations

import os
import socket
import stat
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from snapfs import api, errors
from snapfs.rpc import client as channel
from snapfs.rpc import server, wire
from snapfs.rpc.methods import methods_of


class Service:
    """Answers in every way that a service may."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self.ended = threading.Event()

    async def add(self, *, one: int, other: int = 1) -> int:
        return one + other

    async def swap(self, *, pairs: Sequence[tuple[str, api.GitCommit]]) -> list[str]:
        return [f"{old} {new.commit}" for old, new in pairs]

    async def choose(self, *, unsaved: api.Save = api.Save.REFUSE, meta: dict[str, str] | None = None) -> str:
        return f"{unsaved.value} {meta}"

    async def nothing(self) -> None:
        return None

    async def refuse(self) -> int:
        raise errors.Conflict("not now", hint="later")

    async def break_down(self) -> int:
        raise ZeroDivisionError("a bug")

    async def huge(self) -> str:
        return "x" * (wire.MESSAGE_BYTES_MAX + 1)

    async def echo(self, *, name: str) -> str:
        return name

    async def wait(self) -> int:
        try:
            await trio.sleep_forever()
        finally:
            self.cancelled.set()
        return 0

    async def count(self, *, count: int) -> AsyncIterator[api.Change]:
        try:
            for number in range(count):
                await trio.lowlevel.checkpoint()
                yield api.Change(kind=api.ChangeKind.ADDED, path=f"{number}-\udcff\n", new_bytes=number)
            if count == 3:
                raise errors.Corrupt("broken off")
        finally:
            self.ended.set()

    async def check(self, *, progress: Callable[[int, int], None] | None = None, fail: bool = False) -> int:
        for step in range(3):
            if progress is not None:
                progress(step, 3)
            await trio.sleep(0.15)
        if fail:
            raise errors.Corrupt("found it")
        return 3

    def _private(self) -> None:
        raise AssertionError


@contextmanager
def serving(directory: Path) -> Iterator[Service]:
    service = Service()
    started = threading.Event()
    scopes: list[trio.CancelScope] = []
    tokens: list[trio.lowlevel.TrioToken] = []

    async def main() -> None:
        with trio.CancelScope() as scope:
            scopes.append(scope)
            tokens.append(trio.lowlevel.current_trio_token())
            async with trio.open_nursery() as nursery:
                await nursery.start(server.serve, service, directory)
                started.set()

    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    assert started.wait(10)
    try:
        yield service
    finally:
        tokens[0].run_sync_soon(scopes[0].cancel)
        thread.join(10)
        assert not thread.is_alive()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with serving(tmp_path / "control") as made:
        yield made


@pytest.fixture
def client(service: Service, tmp_path: Path) -> Iterator[channel.Client]:
    connected = channel.connect(tmp_path / "control")
    assert connected is not None
    yield connected
    connected.close()


def test_results_and_defaults(client: channel.Client) -> None:
    assert client.pid == os.getpid()
    assert client.call("add", int, one=4) == 5
    assert client.call("add", int, one=4, other=3) == 7
    client.call("nothing", type(None))
    assert client.call("choose", str, unsaved=api.Save.SAVE, meta={"a": "b"}) == "save {'a': 'b'}"
    assert client.call("choose", str) == "refuse None"
    pairs = [("old", api.GitCommit(commit="new"))]
    assert client.call("swap", list[str], pairs=pairs) == ["old new"]


def test_names_that_are_not_utf8_survive(client: channel.Client) -> None:
    for name in ("a\udcffb", "new\nline", "\u202e", "é", "\x00"):
        assert client.call("echo", str, name=name) == name


def test_errors_keep_kind_message_and_hint_and_the_connection(client: channel.Client) -> None:
    with pytest.raises(errors.Conflict) as caught:
        client.call("refuse", int)
    assert (caught.value.message, caught.value.hint) == ("not now", "later")
    assert client.call("add", int, one=1) == 2


@pytest.mark.parametrize(
    ("method", "params", "error"),
    [
        ("missing", {}, errors.Unsupported),
        ("_private", {}, errors.Unsupported),
        ("__init__", {}, errors.Unsupported),
        ("add", {}, errors.Invalid),
        ("add", {"one": "x"}, errors.Invalid),
        ("add", {"one": 1, "two": 2}, errors.Invalid),
        ("choose", {"unsaved": "maybe"}, errors.Invalid),
        ("huge", {}, errors.TooLarge),
    ],
)
def test_wrong_calls_are_refused(
    client: channel.Client, method: str, params: dict[str, object], error: type[errors.SnapfsError]
) -> None:
    with pytest.raises(error):
        client.call(method, int, **params)
    assert client.call("add", int, one=1) == 2


def test_a_bug_is_an_error_not_the_end(client: channel.Client, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(errors.IOFailure, match="ZeroDivisionError"):
        client.call("break_down", int)
    assert client.call("add", int, one=1) == 2
    assert "a call failed unexpectedly" in caplog.text


def test_streams(client: channel.Client, service: Service) -> None:
    items = list(client.stream("count", api.Change, count=2000))
    assert [item.new_bytes for item in items] == list(range(2000))
    assert items[7].path == "7-\udcff\n"
    assert list(client.stream("count", api.Change, count=0)) == []
    broken = client.stream("count", api.Change, count=3)
    assert [next(broken).new_bytes for _ in range(3)] == [0, 1, 2]
    with pytest.raises(errors.Corrupt, match="broken off"):
        next(broken)
    assert client.call("add", int, one=1) == 2


def test_a_stream_left_early_ends_at_the_server_too(client: channel.Client, service: Service) -> None:
    stream = client.stream("count", api.Change, count=10_000_000)
    next(stream)
    stream.close()
    assert service.ended.wait(10)
    with pytest.raises(errors.Unavailable):
        client.call("add", int, one=1)


def test_progress(client: channel.Client) -> None:
    seen: list[tuple[int, int]] = []
    assert client.call("check", int, progress=lambda done, total: seen.append((done, total))) == 3
    assert seen
    assert all(total == 3 for _, total in seen)
    with pytest.raises(errors.Corrupt, match="found it"):
        client.call("check", int, fail=True)
    assert client.call("check", int) == 3


def test_a_client_that_dies_cancels_its_call(service: Service, tmp_path: Path) -> None:
    connected = channel.connect(tmp_path / "control", deadline=time.monotonic() + 0.3)
    assert connected is not None
    with pytest.raises(errors.Unavailable, match="in time"):
        connected.call("wait", int)
    assert not service.cancelled.is_set()
    connected.close()
    assert service.cancelled.wait(10)


def test_access_is_the_owners_alone(service: Service, tmp_path: Path) -> None:
    assert stat.S_IMODE((tmp_path / "control").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "control/socket").lstat().st_mode) == 0o600


def test_no_daemon_is_none(tmp_path: Path) -> None:
    assert channel.connect(tmp_path / "control") is None
    (tmp_path / "control").write_text("")
    assert channel.connect(tmp_path / "control") is None


def test_a_dead_daemons_socket_is_replaced_and_removed_at_the_end(tmp_path: Path) -> None:
    directory = tmp_path / "control"
    directory.mkdir()
    dead = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    dead.bind(str(directory / "socket"))
    dead.close()
    assert channel.connect(directory) is None
    with serving(directory):
        alive = channel.connect(directory)
        assert alive is not None
        alive.close()
    assert not (directory / "socket").exists()


def test_a_file_in_the_sockets_place_is_not_removed(tmp_path: Path) -> None:
    directory = tmp_path / "control"
    directory.mkdir()
    (directory / "socket").write_text("precious")
    with pytest.raises(errors.Invalid, match="in the way"):
        trio.run(server.serve, Service(), directory)
    assert (directory / "socket").read_text() == "precious"


def test_paths_longer_than_a_socket_address(tmp_path: Path) -> None:
    directory = tmp_path / ("d" * 100) / ("e" * 100)
    directory.mkdir(parents=True)
    with serving(directory):
        connected = channel.connect(directory)
        assert connected is not None
        assert connected.call("add", int, one=1) == 2
        connected.close()


def raw(directory: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(10)
    connection.connect(str(directory / "socket"))
    return connection


@pytest.mark.parametrize("first", [b"not json\n", b"[]\n", b'{"protocol": "x"}\n', b"\xff\xfe\n", b"\n"])
def test_garbage_is_refused_and_harms_nobody_else(service: Service, tmp_path: Path, first: bytes) -> None:
    with raw(tmp_path / "control") as connection:
        connection.sendall(first)
        assert b'"error"' in connection.recv(65536)
        assert connection.recv(65536) == b""
    connected = channel.connect(tmp_path / "control")
    assert connected is not None
    assert connected.call("add", int, one=1) == 2
    connected.close()


def test_garbage_after_the_greeting(service: Service, tmp_path: Path) -> None:
    with raw(tmp_path / "control") as connection:
        connection.sendall(wire.encode(wire.Hello(protocol=wire.PROTOCOL_VERSION)))
        assert b"protocol" in connection.recv(65536)
        connection.sendall(b'{"method": 7}\n')
        assert b"malformed" in connection.recv(65536)


def test_a_message_without_end_is_cut(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MESSAGE_BYTES_MAX", 100_000)
    with raw(tmp_path / "control") as connection, pytest.raises(OSError):
        connection.sendall(b"x" * 50_000_000)


def test_another_protocol_is_told(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with raw(tmp_path / "control") as connection:
        connection.sendall(b'{"protocol": 999}\n')
        assert b'"protocol":1' in connection.recv(65536)
        assert connection.recv(65536) == b""
    ours, theirs = socket.socketpair()
    theirs.sendall(b'{"protocol": 2, "pid": 7}\n')
    with pytest.raises(errors.Unsupported, match="pid 7"):
        channel.Client(ours)
    theirs.close()


def test_too_many_clients_are_told(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clients = [channel.connect(tmp_path / "control") for _ in range(server.CLIENTS_MAX)]
    with pytest.raises((errors.Busy, errors.Unavailable)):
        channel.connect(tmp_path / "control")
    for connected in clients:
        assert connected is not None
        connected.close()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            again = channel.connect(tmp_path / "control")
        except errors.SnapfsError:
            continue
        assert again is not None
        again.close()
        return
    pytest.fail("places were not given back")


def test_a_daemon_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "HELLO_SECONDS_MAX", 0.2)
    directory = tmp_path / "control"
    directory.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as deaf:
        deaf.bind(str(directory / "socket"))
        deaf.listen(5)
        with pytest.raises(errors.Unavailable, match="in time"):
            channel.connect(directory)


def test_methods_of_a_service() -> None:
    methods = methods_of(Service)
    assert "_private" not in methods
    assert methods["count"].stream
    assert methods["count"].result is api.Change
    assert methods["check"].progress
    assert methods["add"].result is int


@pytest.mark.parametrize("kind", list(errors.Kind))
def test_every_kind_survives_the_wire(kind: errors.Kind) -> None:
    error = errors.by_kind()[kind]("message", hint="hint")
    again = wire.decode(wire.encode(wire.Failure.of(error)), wire.Failure).exception()
    assert (type(again), again.message, again.hint) == (type(error), "message", "hint")


def test_a_kind_of_the_future_is_still_an_error() -> None:
    assert isinstance(wire.Failure(kind="new", message="m").exception(), errors.IOFailure)
