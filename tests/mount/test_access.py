"""Who may call what, over real connections: a server with a unix socket, a TLS port and a TLS port for clients with
certificates, on a store that is not mounted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trustme
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from snapfs import api, client
from snapfs.access import OWNER, SOCKET, Access, journal
from snapfs.api import Caller, Role
from snapfs.errors import Kind, NotPermitted, SnapfsError, Unauthenticated, Unavailable
from snapfs.rpc import calls, status
from snapfs.rpc.dispatch import SERVICES
from snapfs.rpc.endpoints import TcpEndpoint
from snapfs.rpc.library import grpc
from snapfs.rpc.methods import METHODS, Reach
from snapfs.testing.api_server import ApiServer
from snapfs.v1 import snapshot_pb2

SECONDS_MAX = 30
DAY_NS = 86_400 * 1_000_000_000

SERVICE_DESCRIPTORS = [
    *SERVICES.values(),
    *health_pb2.DESCRIPTOR.services_by_name.values(),
    *reflection_pb2.DESCRIPTOR.services_by_name.values(),
]
REQUESTS = {
    f"{service.full_name}/{method.name}": GetMessageClass(method.input_type)
    for service in SERVICE_DESCRIPTORS
    for method in service.methods
}


@dataclass
class Served:
    """A server, and what its clients need."""

    api: ApiServer
    place: Path
    secrets: dict[str, str] = field(default_factory=dict)

    @property
    def tls(self) -> str:
        return self.api.addresses[1]

    def client(self, way: str, *, secret: str = "", certificate: str = "") -> client.Client:
        unix, tls, mutual = self.api.addresses
        return client.connect(
            {"unix": f"unix:{unix}", "tls": tls, "mutual": mutual}[way],
            token=secret,
            ca=None if way == "unix" else self.place / "ca.pem",
            certificate=self.place / f"{certificate}.pem" if certificate else None,
            key=self.place / f"{certificate}.key" if certificate else None,
            timeout_seconds=SECONDS_MAX,
        )

    def channel(self, way: str, certificate: str) -> grpc.Channel:
        if way == "unix":
            return self.api.channel()
        pair = [(self.place / f"{certificate}{end}").read_bytes() if certificate else None for end in (".key", ".pem")]
        credentials = grpc.ssl_channel_credentials((self.place / "ca.pem").read_bytes(), *pair)
        return grpc.secure_channel(self.api.addresses[1 if way == "tls" else 2], credentials)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    place = tmp_path_factory.mktemp("access")
    issue_certificates(place)
    tls = TcpEndpoint(address="127.0.0.1:0", certificate=place / "server.pem", key=place / "server.key")
    mutual = msgspec.structs.replace(tls, client_ca=place / "ca.pem")
    server = ApiServer(place / "store", [tls, mutual])
    try:
        with server.connect() as owner:
            for name in ("digits", "other"):
                owner.create_volume(name=name)
                owner.create_snapshot(volume=name, name="one")
            for _ in range(50):  # a log of some length, whichever tests this worker has
                owner.tag_snapshot(volume="other", snapshot="one", tag="busy")
                owner.delete_tag(volume="other", tag="busy")
            yield Served(server, place, make_tokens(owner, server.store))
    finally:
        server.stop()
    verified = journal.verify(server.store)
    assert verified.findings == []
    assert verified.entries > 100


def issue_certificates(place: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(place / "ca.pem"))
    for name, certificate in (
        ("server", authority.issue_cert("localhost", "127.0.0.1")),
        ("known", authority.issue_cert("build.example.org")),
        ("unknown", authority.issue_cert("other.example.org")),
    ):
        certificate.cert_chain_pems[0].write_to_path(str(place / f"{name}.pem"))
        certificate.private_key_pem.write_to_path(str(place / f"{name}.key"))


def make_tokens(owner: client.Client, store: Path) -> dict[str, str]:
    """Secrets by name."""
    secrets: dict[str, str] = {role: owner.create_token(name=f"a-{role}", role=role).secret for role in Role}
    for volume in ("digits", "other"):
        name = f"only-{volume}"
        secrets[name] = owner.create_token(name=name, role=Role.OPERATOR, volumes=[volume]).secret
    secrets["revoked"] = owner.create_token(name="revoked", role=Role.ADMIN).secret
    owner.revoke_token(name="revoked")
    owner.create_token(name="build.example.org", role=Role.OPERATOR, certificate=True)
    yesterday_ns = time.time_ns() - DAY_NS
    past = Access(store, now_ns=lambda: yesterday_ns)
    secrets["expired"] = past.create_token(name="expired", role=Role.ADMIN, expires_ns=yesterday_ns + 1).secret
    secrets["wrong"] = secrets[Role.ADMIN][:-4] + "AAAA"
    secrets["owner"] = (store / "control" / "owner").read_text().strip()
    return secrets


NARROW = Caller(name="only-digits", role=Role.OPERATOR, volumes=["digits"])
ELSEWHERE = Caller(name="only-other", role=Role.OPERATOR, volumes=["other"])
BUILD = Caller(name="build.example.org", role=Role.OPERATOR)
TOKENS: dict[str, Caller | None] = {
    **{role.value: Caller(name=f"a-{role}", role=role) for role in Role},
    "only-digits": NARROW,
    "only-other": ELSEWHERE,
    "expired": None,
    "revoked": None,
    "wrong": None,
}
CALLERS: list[tuple[str, str, str, Caller | None]] = [
    *((way, name, "", caller) for way in ("unix", "tls") for name, caller in TOKENS.items()),
    ("unix", "", "", SOCKET),
    ("unix", "owner", "", OWNER),
    ("tls", "", "", None),
    ("tls", "owner", "", None),
    ("mutual", "", "known", BUILD),
    ("mutual", "", "unknown", None),
    ("mutual", "viewer", "unknown", TOKENS["viewer"]),
    ("mutual", "wrong", "known", None),
]
"""(way, token, certificate, who that is; None: nobody)."""


def request_of(method: str) -> Message:
    """One that reaches the handler and does no harm: it names the volume ``digits`` and a snapshot that is none."""
    kind = REQUESTS[method]
    fields: dict[str, Any] = dict.fromkeys(METHODS[method].volumes, "digits")
    known = set(kind.DESCRIPTOR.fields_by_name)
    if METHODS[method].addresses:
        fields[METHODS[method].addresses] = ["digits@missing"]
    fields |= {name: "missing" for name in ("snapshot", "id", "tag") if name in known}
    fields |= {"until_now": True} if "until_now" in known else {}
    fields |= {"list_services": ""} if "list_services" in known else {}
    return kind(**fields)


def allowed(method: str, caller: Caller | None) -> str:
    """OK if the table lets the caller pass with ``request_of``, else the code of the refusal."""
    rule = METHODS[method]
    if rule.role is None:
        return "OK"
    if caller is None:
        return "UNAUTHENTICATED"
    roles = list(Role)
    enough = roles.index(caller.role) >= roles.index(rule.role) and (not rule.owner or caller == OWNER)
    within = (
        not caller.volumes
        or {
            Reach.STORE: False,
            Reach.NOTHING: True,
            Reach.VOLUMES: "digits" in caller.volumes,
            Reach.FILTERED: "digits" in caller.volumes or not rule.volumes,
        }[rule.reach]
    )
    return "OK" if enough and within else "PERMISSION_DENIED"


REFUSALS = ("UNAUTHENTICATED", "PERMISSION_DENIED", "UNIMPLEMENTED", "UNAVAILABLE")


def outcome(channel: grpc.Channel, method: str, secret: str) -> str:
    """OK if the call reached its handler, whatever that said, else the code of the refusal."""
    call = channel.stream_stream(f"/{method}", request_serializer=lambda request: request.SerializeToString())
    metadata = [(status.API_KEY, status.API_NUMBER)] + ([("authorization", f"Bearer {secret}")] if secret else [])
    answers = call(iter([request_of(method)]), metadata=metadata, timeout=SECONDS_MAX)
    try:
        for _ in answers:  # one is enough: watching a service's health does not end
            break
        return "OK"
    except grpc.RpcError as error:
        code: str = error.code().name
        busy = status.error_of(error).kind is Kind.BUSY  # as many checks of the store as can be run already
        return code if code in REFUSALS and not busy else "OK"
    finally:
        answers.cancel()


@pytest.mark.parametrize(("way", "token", "certificate", "caller"), CALLERS)
def test_every_method_as_every_caller(
    served: Served, way: str, token: str, certificate: str, caller: Caller | None
) -> None:
    with served.channel(way, certificate) as channel:
        found = {method: outcome(channel, method, served.secrets.get(token, "")) for method in METHODS}
    assert found == {method: allowed(method, caller) for method in METHODS}


def entries_of(served: Served, after: int, count: int) -> list[api.AuditEntry]:
    """That many entries after that sequence; an entry comes when the answer has gone."""
    deadline = time.monotonic() + SECONDS_MAX
    with served.client("unix", secret=served.secrets["owner"]) as owner:
        while True:
            found = [entry for entry in owner.list_audit_entries() if entry.sequence > after]
            if len(found) >= count or time.monotonic() > deadline:
                return found


@pytest.mark.parametrize(
    ("way", "token", "caller"), [("tls", "viewer", "a-viewer"), ("unix", "", "socket"), ("tls", "admin", "a-admin")]
)
def test_every_mutating_call_is_in_the_audit_log(served: Served, way: str, token: str, caller: str) -> None:
    mutating = [method for method, rule in METHODS.items() if rule.mutating]
    before = journal.verify(served.api.store).head.sequence
    with served.channel(way, "") as channel:
        outcomes = {method: outcome(channel, method, served.secrets.get(token, "")) for method in METHODS}
    entries = entries_of(served, before, len(mutating))
    assert [entry.method for entry in entries] == mutating
    for entry in entries:
        assert entry.caller == caller
        assert entry.peer == "unix" if way == "unix" else entry.peer.startswith("127.0.0.1:")
        assert (entry.result == "NOT_PERMITTED") == (outcomes[entry.method] == "PERMISSION_DENIED")
        assert ("digits" in entry.request) == bool(METHODS[entry.method].volumes)


def test_refused_strangers_are_in_the_audit_log(served: Served) -> None:
    """Unless they come too fast, as those of other tests did."""
    before = journal.verify(served.api.store).head.sequence
    deadline = time.monotonic() + SECONDS_MAX
    entries: list[api.AuditEntry] = []
    with served.client("tls", secret=served.secrets["wrong"]) as stranger:
        while not entries:
            assert time.monotonic() < deadline
            with pytest.raises(Unauthenticated):
                stranger.delete_volume(name="digits")
            entries = entries_of(served, before, 0)
    assert (entries[0].caller, entries[0].result) == ("", "UNAUTHENTICATED")
    assert entries[0].method == "snapfs.v1.VolumeService/DeleteVolume"


def test_callers_are_who_they_are(served: Served) -> None:
    for way, token, certificate, caller in CALLERS:
        with served.client(way, secret=served.secrets.get(token, ""), certificate=certificate) as one:
            if caller is None:
                with pytest.raises(Unauthenticated):
                    one.get_caller()
            else:
                assert one.get_caller() == caller


@pytest.mark.parametrize(
    ("token", "message"),
    [
        ("wrong", "the token is not known"),
        ("expired", "the token 'expired' has expired"),
        ("revoked", "the token 'revoked' was revoked"),
        ("", "a token is needed"),
    ],
)
def test_refusals_say_why(served: Served, token: str, message: str) -> None:
    with served.client("tls", secret=served.secrets.get(token, "")) as one:
        with pytest.raises(Unauthenticated) as caught:
            list(one.list_volumes())
        assert caught.value.message == message
        assert caught.value.hint


def test_a_port_for_certificates_takes_no_others(served: Served) -> None:
    with served.client("mutual", secret=served.secrets["admin"]) as one, pytest.raises(Unavailable):
        one.get_caller()


@pytest.mark.parametrize("authorization", ["", "Bearer", "Bearer ", "Basic YTpi", "snapfs_x"])
def test_what_is_no_token_is_not_taken_for_none(served: Served, authorization: str) -> None:
    """On the unix socket, where none is needed."""
    with served.channel("unix", "") as channel:
        call = channel.unary_unary("/snapfs.v1.AccessService/GetCaller")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"", metadata=[("authorization", authorization)], timeout=SECONDS_MAX)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_a_narrowed_caller_sees_its_volumes_only(served: Served) -> None:
    with served.client("tls", secret=served.secrets["admin"]) as admin:
        admin.clone(volume="other", snapshot="one", name="offspring")
        made = admin.create_token(name="of-offspring", role=Role.OPERATOR, volumes=["offspring"])
        admin.create_snapshot(volume="offspring", name="two")
        assert volumes_of(admin.list_ancestry(volume="offspring")) == {"offspring", "other"}
    with served.client("tls", secret=made.secret) as one:
        assert [volume.name for volume in one.list_volumes()] == ["offspring"]
        assert volumes_of(one.list_snapshots()) == {"offspring"}
        assert volumes_of(one.list_ancestry(volume="offspring")) == {"offspring"}
        events = list(one.watch_events(after=0, until_now=True))
        assert {event.volume for event in events} == {"offspring"}
        for name in ("digits", "missing"):  # whether it exists is not told
            with pytest.raises(NotPermitted, match=f"of-offspring may not touch the volume '{name}'"):
                one.get_volume(name=name)
        with pytest.raises(NotPermitted):
            one.clone(volume="offspring", snapshot="two", name="escaped")
        with pytest.raises(NotPermitted):
            list(one.diff(volume="offspring", snapshot="two", other_volume="other", other="one"))


def test_nothing_tells_a_narrowed_caller_of_other_volumes(served: Served) -> None:
    """Whatever it calls: answers, errors, hints, events, tokens of pages."""
    with served.client("tls", secret=served.secrets["admin"]) as admin:
        admin.create_volume(name="concealed")
        for name in ("hush-1", "hush-2"):
            admin.create_snapshot(volume="concealed", name=name)
        admin.clone(volume="concealed", snapshot="hush-2", name="revealed")
        secret = admin.create_token(name="of-revealed", role=Role.OPERATOR, volumes=["revealed"]).secret
        assert admin.get_volume(name="revealed").parent == "concealed@hush-2"
        assert admin.create_snapshot(volume="revealed", name="first").parent == "concealed@hush-2"
    with served.client("tls", secret=secret) as one:  # as if the others were not there: no empty or further pages
        assert one.get_snapshot(volume="revealed", snapshot="first").parent == ""
        assert [found.name for found in one.list_ancestry(volume="revealed", page_size=1)] == ["first"]
    with served.channel("tls", "") as channel:
        name = "snapfs.v1.SnapshotService/ListAncestry"
        call = channel.unary_unary(f"/{name}", request_serializer=REQUESTS[name].SerializeToString)
        answer = snapshot_pb2.ListAncestryResponse.FromString(
            call(REQUESTS[name](volume="revealed", page_size=1), metadata=[("authorization", f"Bearer {secret}")])
        )
        assert answer.next_page_token == ""
    heard: list[bytes] = []
    with served.channel("tls", "") as channel:
        for method in sorted(METHODS, key=lambda method: "/Delete" in method):
            for snapshot in ("hush-2", "missing", "first"):
                heard += everything_heard(channel, method, secret, snapshot)
    assert any(b"revealed" in data for data in heard)
    assert [data for data in heard if b"concealed" in data or b"hush" in data.replace(b"'hush-2'", b"")] == []


def everything_heard(channel: grpc.Channel, method: str, secret: str, snapshot: str) -> list[bytes]:
    """All that the server says to a call on the volume ``revealed``."""
    kind = REQUESTS[method]
    fields: dict[str, Any] = dict.fromkeys(METHODS[method].volumes, "revealed")
    known = set(kind.DESCRIPTOR.fields_by_name)
    if METHODS[method].addresses:
        fields[METHODS[method].addresses] = [f"revealed@{snapshot}", "revealed"]
    fields |= {name: snapshot for name in ("snapshot", "id", "tag") if name in known}
    fields |= {"until_now": True, "after": 0} if "until_now" in known else {}
    call = channel.stream_stream(f"/{method}", request_serializer=lambda request: request.SerializeToString())
    answers = call(iter([kind(**fields)]), metadata=[("authorization", f"Bearer {secret}")], timeout=SECONDS_MAX)
    heard: list[bytes] = []
    try:
        for answer in answers:
            heard.append(answer)
            if method.startswith("grpc."):  # watching a service's health does not end
                answers.cancel()
    except grpc.RpcError as error:
        heard.append((error.details() or "").encode())
        heard += [value if isinstance(value, bytes) else value.encode() for _, value in error.trailing_metadata() or ()]
    return heard


def volumes_of(snapshots: Iterable[api.Snapshot]) -> set[str]:
    return {snapshot.volume for snapshot in snapshots}


def test_a_revoked_token_is_refused_on_an_open_connection(served: Served) -> None:
    with served.client("tls", secret=served.secrets["admin"]) as admin:
        made = admin.create_token(name="short-lived", role=Role.VIEWER)
        with served.client("tls", secret=made.secret) as one:
            assert one.get_caller().name == "short-lived"
            admin.revoke_token(name="short-lived")
            with pytest.raises(Unauthenticated, match="revoked"):
                one.get_caller()
        tokens = {token.name: token for token in admin.list_tokens()}
    assert tokens["short-lived"].revoked_ns
    assert tokens["build.example.org"].certificate


def test_a_stream_ends_when_its_token_does(served: Served) -> None:
    with served.client("tls", secret=served.secrets["admin"]) as admin, ThreadPoolExecutor() as pool:
        revoked = admin.create_token(name="watching", role=Role.VIEWER)
        expired = admin.create_token(
            name="watching-briefly", role=Role.VIEWER, expires_ns=time.time_ns() + 1_000_000_000
        )
        kept = admin.create_token(name="watching-on", role=Role.VIEWER)
        clients = [served.client("tls", secret=made.secret) for made in (revoked, expired, kept)]
        began = [threading.Event() for _ in clients]

        def watch(one: client.Client, event: threading.Event) -> list[api.EventKind]:
            found = []
            for told in one.watch_events(after=0, volume="digits"):
                event.set()
                found.append(told.kind)
                if told.message == "enough":
                    break
            return found

        try:
            watching = [pool.submit(watch, one, event) for one, event in zip(clients, began, strict=True)]
            assert all(event.wait(SECONDS_MAX) for event in began)
            admin.revoke_token(name="watching")
            for future, words in zip(watching, ("was revoked", "has expired"), strict=False):
                with pytest.raises(Unauthenticated, match=words):
                    future.result(calls.RECHECK_SECONDS * 5)
        finally:
            admin.tag_snapshot(volume="digits", snapshot="one", tag="enough")
            for one in clients[:2]:
                one.close()
        assert watching[2].result(SECONDS_MAX)
        clients[2].close()


def test_a_viewer_may_watch_an_operation_but_not_cancel_it(served: Served) -> None:
    name = "snapfs.v1.OperationService/WatchOperation"
    kind = REQUESTS[name]
    with served.channel("tls", "") as channel:
        call = channel.unary_stream(f"/{name}", request_serializer=kind.SerializeToString)
        metadata = [("authorization", f"Bearer {served.secrets['viewer']}")]
        for request, code in (
            (kind(id="missing"), grpc.StatusCode.NOT_FOUND),
            (kind(id="missing", cancel_when_abandoned=True), grpc.StatusCode.PERMISSION_DENIED),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                list(call(request, metadata=metadata, timeout=SECONDS_MAX))
            assert caught.value.code() is code


def test_an_audit_log_that_cannot_be_written_refuses_changes(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with served.client("unix") as one:
        with monkeypatch.context() as patch:
            patch.setattr("snapfs.access.audit.Audit._drain", refuse)
            with pytest.raises(SnapfsError, match="audit log cannot be written"):
                one.create_snapshot(volume="digits", name="unrecorded")
            assert [volume.name for volume in one.list_volumes()]
        names = {snapshot.name for snapshot in one.list_snapshots(volume="digits")}
    assert "unrecorded" not in names


def snap(served: Served, *arguments: str, token: str = "admin", code: int = 0) -> str:
    """What the command says, over TLS as that caller."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("GIT_", "SNAPFS_"))}
    settings = {
        "SNAPFS_ADDRESS": served.tls,
        "SNAPFS_CA": str(served.place / "ca.pem"),
        "SNAPFS_TOKEN": served.secrets.get(token, token),
    }
    done = subprocess.run(
        [sys.executable, "-m", "snapfs_cli.main", *arguments],
        cwd=served.place,
        env=kept | settings,
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )
    assert done.returncode == code, (done.stdout, done.stderr)
    return done.stderr if code else done.stdout


def test_the_command_line_manages_a_daemon_far_away(served: Served) -> None:
    secret = snap(served, "token", "create", "far", "--role", "operator", "--volume", "digits").strip()
    assert [volume["name"] for volume in json.loads(snap(served, "volume", "list", "--json", token=secret))] == [
        "digits"
    ]
    assert "far may not touch the volume 'other'" in snap(served, "create", "other", token=secret, code=8)
    entries = json.loads(snap(served, "audit", "--caller", "far", "--json"))
    assert [(entry["method"], entry["result"]) for entry in entries] == [
        ("snapfs.v1.SnapshotService/CreateSnapshot", "NOT_PERMITTED")
    ]
    snap(served, "token", "revoke", "far")
    assert "the token 'far' was revoked" in snap(served, "volume", "list", token=secret, code=8)
    assert "takes the role admin" in snap(served, "token", "list", token="operator", code=8)
    assert "the store itself" in snap(served, "audit", "--verify", code=2)
