"""The client: addresses, what it sends, what it tries again, how it resumes, and how it says that nobody answers."""

from __future__ import annotations

import asyncio
import inspect
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import pytest
import trustme
from google.protobuf.message import Message

from snapfs import api, client, errors
from snapfs.client import addresses
from snapfs.client.aio.client import AsyncClient
from snapfs.client.blocking.client import Client
from snapfs.rpc.dispatch import SERVICES, snake_case
from snapfs.rpc.library import grpc
from snapfs.service import Service
from snapfs.v1 import event_pb2, snapshot_pb2, store_pb2, volume_pb2

ROOT = Path(__file__).parents[2]

# -- addresses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ("unix:/run/x/socket", addresses.Target("unix:/run/x/socket", socket=Path("/run/x/socket"))),
        ("unix:///run/x/socket", addresses.Target("unix:/run/x/socket", socket=Path("/run/x/socket"))),
        (
            "lake.example.org:7432",
            addresses.Target("lake.example.org:7432", host_port="lake.example.org:7432", tls=True),
        ),
        ("[::1]:1", addresses.Target("[::1]:1", host_port="[::1]:1", tls=True)),
        ("insecure:localhost:80", addresses.Target("insecure:localhost:80", host_port="localhost:80")),
        ("insecure:127.9.9.9:80", addresses.Target("insecure:127.9.9.9:80", host_port="127.9.9.9:80")),
        ("insecure:[::1]:80", addresses.Target("insecure:[::1]:80", host_port="[::1]:80")),
    ],
)
def test_addresses(address: str, target: addresses.Target) -> None:
    assert addresses.parse(address) == target


def test_a_store_is_an_address(tmp_path: Path) -> None:
    for address in (tmp_path, str(tmp_path), "/data/store"):
        target = addresses.parse(address)
        assert target.socket == Path(address) / "control/socket"
        assert target.owner == Path(address) / "control/owner"


@pytest.mark.parametrize(
    "address",
    [
        "",
        "host",
        "host:",
        "host:x",
        "host:0",
        "host:65536",
        ":80",
        "http:80:80",
        "https://example.org:7432",
        "unix:",
        "unix:a\0b",
        "insecure:",
        "a b:1",
    ],
)
def test_what_is_no_address(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(errors.Invalid, match="address"):
        client.connect(address)


@pytest.mark.parametrize("host", ["example.org", "0.0.0.0", "10.0.0.1", "127.0.0.1.example.org", "[::2]", "128.0.0.1"])
def test_without_tls_only_this_machine(host: str) -> None:
    with pytest.raises(errors.Invalid, match="without TLS"):
        client.connect(f"insecure:{host}:80")


def test_secrets_from_files(tmp_path: Path) -> None:
    file = tmp_path / "token"
    with pytest.raises(errors.NotFound):
        addresses.read_secret(file)
    with pytest.raises(errors.Invalid):
        addresses.read_secret(tmp_path)
    file.write_bytes(b"\n snapfs_abc-_9\r\n")
    assert addresses.read_secret(file) == "snapfs_abc-_9"
    for wrong in (b"", b" \n", b"a b", b"a\x00b", b"\xff", b"x" * 5000, b"two\nlines"):
        file.write_bytes(wrong)
        with pytest.raises(errors.Invalid):
            addresses.read_secret(file)


def test_credentials_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(errors.Invalid, match="go together"):
        client.connect("localhost:1", certificate="x.pem")
    with pytest.raises(errors.NotFound, match=r"missing\.pem"):
        client.connect("localhost:1", ca=tmp_path / "missing.pem")
    with pytest.raises(errors.Invalid, match="no use"):
        client.connect("insecure:localhost:1", ca="x.pem")
    with pytest.raises(errors.Invalid, match="token"):
        client.connect("localhost:1", token="a\nb")


# -- its shape ----------------------------------------------------------------------------------------------


def test_there_is_a_method_for_each_rpc() -> None:
    for service in SERVICES.values():
        for method in service.methods:
            renamed = {"CheckStore": "start_check", "VerifySnapshot": "start_verify"}  # as other long work is called
            name = renamed.get(method.name, snake_case(method.name))
            assert callable(getattr(Client, name)), method.full_name
            assert callable(getattr(AsyncClient, name)), method.full_name


def _methods(cls: type) -> dict[str, Callable[..., Any]]:
    return {name: method for name, method in inspect.getmembers(cls, inspect.isfunction) if not name.startswith("_")}


def test_it_takes_what_the_service_takes() -> None:
    for name, method in _methods(Service).items():
        parameters = inspect.signature(method).parameters
        wanted = set(parameters) - {"self", "once", "visible", "page_token"}
        taken = inspect.signature(getattr(Client, name)).parameters
        assert wanted <= set(taken), name
        for parameter in wanted:
            assert taken[parameter].default == parameters[parameter].default, (name, parameter)


def test_both_clients_are_the_same() -> None:
    blocking, aio = _methods(Client), _methods(AsyncClient)
    assert set(blocking) == set(aio)
    for name, method in blocking.items():
        assert inspect.signature(method).parameters == inspect.signature(aio[name]).parameters, name
        assert not inspect.iscoroutinefunction(method)
        assert inspect.iscoroutinefunction(aio[name]) or inspect.isasyncgenfunction(aio[name])


def test_importing_it_imports_little() -> None:
    heavy = "{'grpc', 'google.protobuf', 'trio', 'lmdb', 'snapfs.service'}"
    program = f"import sys; from snapfs import client; client.connect; print(*({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
    heavy = "{'trio', 'lmdb', 'pyfuse3', 'snapfs.service', 'snapfs.volume', 'snapfs.store'}"
    program = f"import sys; from snapfs import client; client.Client; print(*({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


# -- what it does with answers and failures -----------------------------------------------------------------

Answers = list[Message | errors.SnapfsError]


class Scripted:
    """A transport: each call gets the next answer of a list, raised if it is an error; a stream all up to an error."""

    def __init__(self, *answers: Message | errors.SnapfsError) -> None:
        self.answers: Answers = list(answers)
        self.calls: list[tuple[str, Any, float | None]] = []

    def unary(self, method: str, request: Message, response: type[Any], *, timeout_seconds: float | None) -> Any:
        self.calls.append((method.rpartition("/")[2], request, timeout_seconds))
        answer = self.answers.pop(0)
        if isinstance(answer, errors.SnapfsError):
            raise answer
        assert isinstance(answer, response)
        return answer

    def stream(
        self, method: str, request: Message, response: type[Any], *, timeout_seconds: float | None
    ) -> Iterator[Any]:
        self.calls.append((method.rpartition("/")[2], request, timeout_seconds))
        while self.answers:
            answer = self.answers.pop(0)
            if isinstance(answer, errors.SnapfsError):
                raise answer
            yield answer

    def close(self) -> None:
        self.answers.clear()


GONE = errors.Unavailable("gone")
MADE = snapshot_pb2.CreateSnapshotResponse(snapshot=snapshot_pb2.Snapshot(volume="v", name="s", created=True))


def test_a_create_is_made_again_under_one_key() -> None:
    transport = Scripted(GONE, GONE, MADE)
    assert Client(transport).create_snapshot(volume="v").name == "s"
    keys = [request.request_id for _, request, _ in transport.calls]
    assert len(keys) == 3
    assert len(set(keys)) == 1
    assert len(keys[0]) >= 32
    other = Scripted(MADE)
    Client(other).create_snapshot(volume="v")
    assert other.calls[0][1].request_id != keys[0]
    own = Scripted(MADE)
    Client(own).create_snapshot(volume="v", request_id="mine")
    assert own.calls[0][1].request_id == "mine"


def test_a_create_is_not_made_again_for_ever() -> None:
    transport = Scripted(GONE, GONE, GONE, GONE)
    with pytest.raises(errors.Unavailable):
        Client(transport).create_snapshot(volume="v")
    assert len(transport.calls) == 3
    transport = Scripted(GONE, MADE)
    with pytest.raises(errors.Unavailable):  # no time left after the pause
        Client(transport, timeout_seconds=0.05).create_snapshot(volume="v")
    transport = Scripted(errors.Conflict("no"), MADE)
    with pytest.raises(errors.Conflict):
        Client(transport).clone(volume="v", snapshot="s", name="w")


def test_other_changes_are_made_once() -> None:
    for act in (
        lambda one: one.delete_volume(name="v"),
        lambda one: one.tag_snapshot(volume="v", snapshot="s", tag="t"),
        lambda one: one.checkout(volume="v", snapshot="s"),
        lambda one: one.create_token(name="t", role=api.Role.VIEWER),
    ):
        transport = Scripted(GONE, GONE)
        with pytest.raises(errors.Unavailable):
            act(Client(transport))
        assert len(transport.calls) == 1


def test_deadlines() -> None:
    transport = Scripted(store_pb2.GetStoreResponse(), store_pb2.GetStoreResponse())
    Client(transport, timeout_seconds=7).get_store()
    assert transport.calls[0][2] == 7
    Client(transport, timeout_seconds=7, deadline=time.monotonic() + 3).get_store()
    left = transport.calls[1][2]
    assert left is not None
    assert 2 < left <= 3
    with pytest.raises(errors.Unavailable, match="in time"):
        Client(transport, deadline=time.monotonic() - 1).get_store()


def test_pages_are_one_list() -> None:
    pages = [
        volume_pb2.ListVolumesResponse(volumes=[volume_pb2.Volume(name=name)], next_page_token=token)
        for name, token in (("a", "1"), ("b", "2"), ("c", ""))
    ]
    transport = Scripted(*pages)
    assert [volume.name for volume in Client(transport).list_volumes(page_size=1)] == ["a", "b", "c"]
    assert [(request.page_token, request.page_size) for _, request, _ in transport.calls] == [
        ("", 1),
        ("1", 1),
        ("2", 1),
    ]
    lazy = Scripted(*pages)
    assert next(Client(lazy).list_volumes()).name == "a"
    assert len(lazy.calls) == 1


def test_what_no_message_can_hold() -> None:
    transport = Scripted()
    one = Client(transport)
    for act in (
        lambda: one.get_volume(name="\udcff"),
        lambda: one.create_snapshot(volume="v", meta={"\udcff": "x"}),
        lambda: one.create_snapshot(volume="v", git=api.GitCommit(commit="0" * 40, author="\udcff")),
        lambda: list(one.list_snapshots(page_size=1 << 40)),
        lambda: list(one.list_snapshots(filter=api.SnapshotFilter(created_from_ns=1 << 80))),
        lambda: list(one.watch_events(after=-1)),
        lambda: one.restore(volume="v", snapshot="s", paths=["\ud800"]),
    ):
        with pytest.raises(errors.Invalid):
            act()
    assert not transport.calls


def _events(*sequences: int) -> event_pb2.WatchEventsResponse:
    events = [event_pb2.Event(sequence=n, kind=event_pb2.EVENT_KIND_CHECKOUT) for n in sequences]
    return event_pb2.WatchEventsResponse(events=events, sequence=sequences[-1])


def test_watching_goes_on_where_it_was() -> None:
    nothing = event_pb2.WatchEventsResponse(sequence=4)
    transport = Scripted(nothing, GONE, GONE, _events(5, 6), _events(7), errors.Cancelled("ending"), _events(8))
    assert [event.sequence for event in Client(transport).watch_events()] == [5, 6, 7, 8]
    begun = [request.after if request.HasField("after") else None for _, request, _ in transport.calls]
    assert begun == [None, 4, 4, 7]


def test_watching_does_not_wait_for_who_was_never_there() -> None:
    transport = Scripted(GONE, _events(1))
    with pytest.raises(errors.Unavailable):
        list(Client(transport).watch_events())
    assert len(transport.calls) == 1


def test_a_closed_client_says_so() -> None:
    one = Client(Scripted(_events(1)))
    one.close()
    for call in (one.get_store, lambda: list(one.watch_events()), lambda: one.create_volume(name="v")):
        with pytest.raises(errors.Invalid, match="closed"):
            call()


def test_watching_gives_up() -> None:
    with pytest.raises(errors.Unavailable):
        list(Client(Scripted(_events(1), GONE, _events(2))).watch_events(resume=False))
    watcher = Client(Scripted(_events(1), *[GONE] * 100)).watch_events(resume_seconds_max=0.5)
    assert next(watcher).sequence == 1
    started = time.monotonic()
    with pytest.raises(errors.Unavailable):
        next(watcher)
    assert time.monotonic() - started < 5
    with pytest.raises(errors.Stale):
        list(Client(Scripted(_events(1), GONE, errors.Stale("dropped"))).watch_events())


# -- over gRPC ----------------------------------------------------------------------------------------------


class Daemon(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Answers GetStore, and remembers the metadata that came with it."""

    def __init__(self) -> None:
        self.metadata: dict[str, str] = {}

    def service(self, details: Any) -> Any:
        self.metadata = dict(details.invocation_metadata)

        def answer(request: bytes, context: Any) -> bytes:
            return store_pb2.GetStoreResponse(pid=os.getpid()).SerializeToString()

        if details.method == "/snapfs.v1.StoreService/GetStore":
            return grpc.unary_unary_rpc_method_handler(answer)
        return None


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[Any], Any]], Daemon]]:
    """Starts servers; what it is given adds the port."""
    servers = []

    def start(add: Callable[[Any], Any]) -> Daemon:
        daemon = Daemon()
        server = grpc.server(futures.ThreadPoolExecutor(4), handlers=[daemon])
        servers.append(server)
        add(server)
        server.start()
        return daemon

    yield start
    for server in servers:
        server.stop(0).wait()


@pytest.mark.parametrize("name", ["plain", "with space %41?#", "é" * 60, "long" * 40])
def test_sockets_of_any_path(name: str, tmp_path: Path, serve: Callable[..., Daemon]) -> None:
    control = tmp_path / name / "control"
    control.mkdir(parents=True)
    handle = os.open(control, os.O_PATH | os.O_DIRECTORY)
    try:
        assert not addresses.listens(control / "socket")
        daemon = serve(lambda server: server.add_insecure_port(f"unix:/proc/self/fd/{handle}/socket"))
        assert addresses.listens(control / "socket")
        for address in (tmp_path / name, f"unix:{control}/socket"):
            with client.connect(address) as one:
                assert one.get_store().pid == os.getpid()
        assert daemon.metadata["snapfs-api"] == "1"
        assert "authorization" not in daemon.metadata
    finally:
        os.close(handle)


def test_what_a_daemon_is_shown(tmp_path: Path, serve: Callable[..., Daemon]) -> None:
    control = tmp_path / "control"
    control.mkdir()
    daemon = serve(lambda server: server.add_insecure_port(f"unix:{control}/socket"))
    with client.connect(tmp_path) as one:
        for secret in ("first", "second"):  # as a daemon that was started again
            (control / "owner").write_text(secret + "\n")
            one.get_store()
            assert daemon.metadata["authorization"] == f"Bearer {secret}"
    with client.connect(tmp_path, token="mine") as one:
        one.get_store()
        assert daemon.metadata["authorization"] == "Bearer mine"


def test_tls(tmp_path: Path, serve: Callable[..., Daemon]) -> None:
    authority, other = trustme.CA(), trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    for name, made in (("ca.pem", authority), ("other.pem", other)):
        made.cert_pem.write_to_path(str(tmp_path / name))
    chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
    credentials = grpc.ssl_server_credentials([(certificate.private_key_pem.bytes(), chain)])
    ports = []
    daemon = serve(lambda server: ports.append(server.add_secure_port("127.0.0.1:0", credentials)))
    serve(lambda server: ports.append(server.add_insecure_port("127.0.0.1:0")))
    with client.connect(f"127.0.0.1:{ports[0]}", ca=tmp_path / "ca.pem", token="t") as one:
        assert one.get_store().pid == os.getpid()
    assert daemon.metadata["authorization"] == "Bearer t"
    with client.connect(f"insecure:127.0.0.1:{ports[1]}") as one:
        assert one.get_store().pid == os.getpid()
    for port, ca, told in (
        (ports[0], tmp_path / "other.pem", "not trusted"),
        (ports[0], None, "not trusted"),
        (ports[1], tmp_path / "ca.pem", "no TLS connection"),
    ):
        with client.connect(f"127.0.0.1:{port}", ca=ca) as one, pytest.raises(errors.Unavailable, match=told):
            one.get_store()
    with client.connect(f"insecure:127.0.0.1:{ports[0]}") as one, pytest.raises(errors.Unavailable) as plain:
        one.get_store()
    assert "closed the connection" in plain.value.message
    assert "without `insecure:`" in plain.value.hint


def test_nobody_there(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        for address in (tmp_path / "none", f"unix:{tmp_path}/none", f"insecure:127.0.0.1:{port}", f"127.0.0.1:{port}"):
            with client.connect(address) as one, pytest.raises(errors.Unavailable, match="no daemon listens"):
                one.get_store()
    with client.connect("nowhere.invalid:1") as one, pytest.raises(errors.Unavailable, match="no such host"):
        one.get_store()


def test_a_socket_that_nobody_answers(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(path))
        mute.listen()
        one = client.connect(f"unix:{path}", timeout_seconds=0.3)
        with one, pytest.raises(errors.Unavailable, match="in time"):
            one.get_store()
    assert not addresses.listens(path)


def test_a_method_that_the_daemon_does_not_know(tmp_path: Path, serve: Callable[..., Daemon]) -> None:
    serve(lambda server: server.add_insecure_port(f"unix:{tmp_path}/socket"))
    with client.connect(f"unix:{tmp_path}/socket") as one, pytest.raises(errors.Unsupported, match="does not know"):
        one.get_volume(name="v")


def test_asyncio(tmp_path: Path, serve: Callable[..., Daemon]) -> None:
    serve(lambda server: server.add_insecure_port(f"unix:{tmp_path}/socket"))

    async def work() -> list[int]:
        async with client.aconnect(f"unix:{tmp_path}/socket") as one:
            found = await asyncio.gather(*(one.get_store() for _ in range(10)))
            with pytest.raises(errors.Unsupported):
                await one.get_volume(name="v")
            with pytest.raises(errors.Unsupported):
                async for _ in one.status(volume="v"):
                    pass
        return [store.pid for store in found]

    assert asyncio.run(work()) == [os.getpid()] * 10
