"""The API server over real sockets, on a store that is not mounted: every RPC, errors, bounds, callers that go away."""

from __future__ import annotations

import resource
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent import futures
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import snapfs
from snapfs import api, client, errors
from snapfs.rpc import bridge, calls, dispatch, methods, server, status
from snapfs.rpc.endpoints import TcpEndpoint
from snapfs.rpc.library import grpc
from snapfs.service import Service
from snapfs.testing.api_server import SECONDS_MAX, ApiServer
from snapfs.testing.engine import EngineSubject
from snapfs.v1 import event_pb2, event_pb2_grpc, snapshot_pb2, snapshot_pb2_grpc, volume_pb2, volume_pb2_grpc
from snapfs.volume.paging import encode_token

COMMIT = "0123456789abcdef" * 2 + "01234567"
GIT = api.GitCommit(commit=COMMIT, branch="main")
HERE = Path(__file__)


@contextmanager
def serving(store: Path, *places: Any) -> Iterator[ApiServer]:
    one = ApiServer(store, places)
    try:
        yield one
    finally:
        one.stop()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[ApiServer]:
    """With the volume ``data``; afterwards no task of a call may be left."""
    with serving(tmp_path / "store", TcpEndpoint(address="127.0.0.1:0", plaintext=True)) as one:
        one.run(lambda: one.service.create_volume(name="data"))
        before = one.tasks()
        yield one
        one.wait_for(lambda: one.tasks() <= before)


def failure(call: Callable[[], object]) -> errors.SnapfsError:
    """Of a bare grpc call."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return status.error_of(caught.value)  # type: ignore[arg-type] # it is a Call too


# -- all of it


def call_everything(served: ApiServer, owner: client.Client) -> None:
    owner.create_volume(name="models")
    assert owner.get_volume(name="models").snapshots == 0
    assert [volume.name for volume in owner.list_volumes(page_size=1)] == ["data", "models"]
    assert owner.update_volume(name="models", quota_bytes=1 << 40).quota_bytes == 1 << 40
    owner.delete_volume(name="models")
    assert [(entry.volume, entry.snapshot) for entry in owner.list_trash()] == [("models", "")]
    assert owner.undelete_volume(volume="models", name="again").quota_bytes == 1 << 40
    owner.delete_volume(name="again", purge=True)
    served.make_files("data", [b"one", b"tw\xff"])
    assert [(c.path, c.kind) for c in owner.status(volume="data")] == [("one", "added"), ("tw\udcff", "added")]
    made = owner.create_snapshot(volume="data", git=GIT, message="m", meta={"k": "v"})
    assert (made.name, made.created, made.git, made.meta) == (COMMIT, True, GIT, {"k": "v"})
    assert owner.create_snapshot(volume="data", git=GIT).created is False
    assert owner.get_snapshot(volume="data", snapshot=COMMIT[:7]).name == COMMIT
    owner.create_snapshot(volume="data", name="two")
    assert [s.name for s in owner.list_snapshots(volume="data", page_size=1)] == [COMMIT, "two"]
    assert [s.name for s in owner.list_snapshots(filter=api.SnapshotFilter(branch="main"))] == [COMMIT]
    assert [s.name for s in owner.list_ancestry(volume="data", page_size=1)] == ["two", COMMIT]
    assert owner.rename_snapshot(volume="data", snapshot="two", name="2").name == "2"
    assert owner.tag_snapshot(volume="data", snapshot="2", tag="best").tags == ["best"]
    owner.delete_tag(volume="data", tag="best")
    other = api.GitCommit(commit="f" * 40)
    carried = owner.carry_snapshots(volume="data", rewritten=[(COMMIT, other), ("a" * 40, other)])
    assert ([s.name for s in carried.carried], carried.missing) == (["f" * 40], ["a" * 40])
    assert list(owner.diff(volume="data", snapshot=COMMIT, other="2")) == []
    assert owner.clone(volume="data", snapshot="2", name="copy").parent == "data@2"
    call_about_space(owner)
    owner.delete_snapshot(volume="data", snapshot="2")
    assert owner.checkout(volume="data", snapshot=COMMIT).snapshot.name == COMMIT
    assert owner.restore(volume="data", snapshot=COMMIT, paths=["tw\udcff"]).paths == ["tw\udcff"]
    assert owner.get_store().volumes == 2
    assert owner.get_metrics() == served.text
    assert "log.level" in [setting.name for setting in owner.get_settings().settings]
    assert owner.update_setting(name="log.level", value='"debug"').value == '"debug"'
    assert owner.reload_settings().waiting == []
    started = owner.start_check()
    *_, last = owner.watch_operation(id=started.id)
    assert last.check is not None
    assert (last.state, last.check.findings) == ("succeeded", [])
    assert owner.get_operation(id=started.id) == last
    assert owner.cancel_operation(id=started.id) == last
    assert owner.list_operations()[0] == last
    served.wait_for(lambda: owner.get_snapshot(volume="data", snapshot=COMMIT).seal)
    *_, proven = owner.watch_operation(id=owner.start_verify(volume="data", snapshot=COMMIT).id)
    assert proven.verify is not None
    assert (proven.kind, proven.verify.snapshot.name, proven.verify.findings) == ("verify", COMMIT, [])
    assert owner.get_scrub().state == "never"
    assert owner.start_scrub(bytes_per_second=1).state == "running"
    assert owner.pause_scrub().state == "paused"
    assert owner.cancel_scrub().state == "cancelled"
    assert next(event.kind for event in owner.watch_events(after=0, until_now=True)) == "volume_created"
    assert owner.get_caller().name == "owner"
    token = owner.create_token(name="ci", role=api.Role.VIEWER, volumes=["data"])
    assert token.secret
    assert owner.revoke_token(name="ci").revoked_ns
    assert [one.name for one in owner.list_tokens()] == ["ci"]
    assert list(owner.list_audit_entries())[-1].method == "snapfs.v1.AccessService/RevokeToken"
    assert owner.health()
    health = health_pb2_grpc.HealthStub(served.channel())
    assert set(health.List(health_pb2.HealthListRequest()).statuses) == {"", *dispatch.SERVICES}
    assert next(health.Watch(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING
    with served.channel() as channel:
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        (answer,) = reflection.ServerReflectionInfo(iter([asked]))
        names = {service.name for service in answer.list_services_response.service}
        assert names == {method.rpartition("/")[0] for method in methods.METHODS}


def call_about_space(owner: client.Client) -> None:
    """``data`` has a snapshot named by its commit, and ``2``."""
    owner.clone(volume="data", snapshot="2", name="spare")
    (spare,) = owner.get_usage(volume="spare", snapshots=False)
    assert (spare.volume, spare.snapshots, spare.exclusive_bytes) == ("spare", 0, 0)
    usages = next(one.usages for one in owner.get_usage() if one.volume == "data")
    assert {COMMIT, "2"} <= {usage.snapshot for usage in usages}
    assert owner.what_if(targets=["data@2"]).freed_bytes == 0
    assert owner.get_space().index_bytes > 0
    assert owner.hold_snapshot(volume="data", snapshot="2", hold="ci").holds == ["ci"]
    assert owner.release_snapshot(volume="data", snapshot="2", hold="ci").holds == []
    until_ns = time.time_ns() + 3600 * 10**9
    assert owner.lock_snapshot(volume="data", snapshot=COMMIT, until_ns=until_ns).locked_until_ns == until_ns
    policy = api.RetentionPolicy(last=1)
    assert owner.set_policy(volume="spare", policy=policy).policy == policy
    owner.create_snapshot(volume="spare", name="first")
    assert [one.keep for one in owner.apply_policy(volume="spare").decisions] == [True]
    assert owner.set_policy(volume="spare", policy=None).policy is None
    *_, imported = owner.watch_operation(id=owner.start_import(source=str(HERE.parent), volume="spare").id)
    assert imported.imported is not None, imported
    assert (imported.kind, imported.imported.failures) == ("import", 0)
    *_, optimized = owner.watch_operation(id=owner.start_optimize(volume="spare", paths=[HERE.name]).id)
    assert optimized.optimize is not None, optimized
    assert (optimized.kind, optimized.optimize.files) == ("optimize", 1)
    owner.create_snapshot(volume="spare", name="full")
    archive = b"".join(owner.export_snapshot(volume="spare", snapshot="full", path=HERE.name))
    assert HERE.read_bytes() in archive
    owner.checkout(volume="spare", snapshot="first")
    assert owner.cheapest(volume="spare", free_bytes=1).targets == ["spare@full"]
    owner.delete_snapshot(volume="spare", snapshot="full")
    assert owner.undelete_snapshot(volume="spare", snapshot="full", name="again").name == "again"
    owner.delete_snapshot(volume="spare", snapshot="again")
    assert owner.empty_trash(volume="spare").entries == 1
    owner.delete_volume(name="spare", force=True, purge=True)


def test_every_rpc(served: ApiServer) -> None:
    with served.connect() as owner:
        call_everything(served, owner)
    served.wait_for(lambda: {method for method, _ in served.ended} == set(methods.METHODS))
    assert {code for _, code in served.ended} <= {"OK", "CANCELLED"}


def test_each_mutating_call_is_in_the_audit_log(served: ApiServer) -> None:
    with served.connect() as owner:
        call_everything(served, owner)
        entries = list(owner.list_audit_entries())
    mutating = {name for name, method in methods.METHODS.items() if method.mutating}
    assert {entry.method for entry in entries} == mutating
    assert {(entry.caller, entry.peer, entry.result) for entry in entries} == {("owner", "unix", "OK")}


def test_results_of_calls_that_failed_are_in_the_audit_log(served: ApiServer) -> None:
    with served.connect() as owner:
        with pytest.raises(errors.NotFound):
            owner.delete_volume(name="nowhere")
        with pytest.raises(errors.AlreadyExists):
            owner.create_volume(name="data")
        tcp = volume_pb2_grpc.VolumeServiceStub(served.channel(1))
        failure(lambda: tcp.CreateVolume(volume_pb2.CreateVolumeRequest(name="x")))
        failure(lambda: tcp.GetVolume(volume_pb2.GetVolumeRequest(name="x")))
        unix = served.channel().unary_unary("/snapfs.v1.VolumeService/CreateVolume")
        failure(lambda: unix(b"\x98\x06\x01"))
        found = [(entry.caller, entry.result, entry.peer.split(":")[0]) for entry in owner.list_audit_entries()]
    assert found == [
        ("owner", "NOT_FOUND", "unix"),
        ("owner", "ALREADY_EXISTS", "unix"),
        ("", "UNAUTHENTICATED", "127.0.0.1"),
        ("socket", "INVALID", "unix"),
    ]


# -- errors


def test_errors_come_back_with_their_hints(served: ApiServer) -> None:
    with served.connect() as owner:
        with pytest.raises(errors.NotFound, match="'dta' does not exist") as caught:
            owner.get_volume(name="dta")
        assert "data" in caught.value.hint
        with pytest.raises(errors.Invalid):
            owner.create_volume(name="a/b")
        with pytest.raises(errors.Stale):
            list(owner.watch_events(after=10_000, until_now=True))


def test_an_unexpected_exception_tells_and_ends_nothing(
    served: ApiServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(**_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(served.service, "get_store", broken)
    with served.connect() as owner:
        with pytest.raises(errors.IOFailure, match="internal error: ZeroDivisionError: a bug"):
            owner.get_store()
        assert owner.get_volume(name="data").name == "data"
    assert "a bug" in caplog.text


def test_an_error_after_some_of_a_stream(served: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    change = api.Change(kind=api.ChangeKind.ADDED, path="x" * 4000)

    async def broken(*, volume: str) -> Any:
        for _ in range(100):
            yield change
        raise errors.Corrupt("block 7 is damaged", hint="restore it")

    monkeypatch.setattr(served.service, "status", broken)
    found = []
    with served.connect() as owner, pytest.raises(errors.Corrupt, match="block 7") as caught:
        found.extend(owner.status(volume="data"))
    assert caught.value.hint == "restore it"
    assert 80 < len(found) <= 100


def test_unknown_methods_versions_and_callers(served: ApiServer) -> None:
    channel = served.channel()
    error = failure(lambda: channel.unary_unary("/snapfs.v1.MoonService/Rise")(b""))
    assert (type(error), error.message) == (errors.Unsupported, "no method snapfs.v1.MoonService/Rise")
    get = volume_pb2_grpc.VolumeServiceStub(channel).ListVolumes
    request = volume_pb2.ListVolumesRequest()
    error = failure(lambda: get(request, metadata=[("snapfs-api", "2")]))
    assert isinstance(error, errors.Unsupported)
    assert "version 2" in error.message
    assert snapfs.__version__ in error.message
    for authorization in ("Basic x", "Bearer", "", "Bearer  "):
        error = failure(lambda text=authorization: get(request, metadata=[("authorization", text)]))  # type: ignore[misc]
        assert isinstance(error, errors.Unauthenticated)
    assert dict(get.with_call(request)[1].initial_metadata())["snapfs-version"] == snapfs.__version__
    served.wait_for(lambda: ("unknown", "UNIMPLEMENTED") in served.ended)


def test_without_a_token_the_network_may_only_ask_for_health(served: ApiServer) -> None:
    channel = served.channel(1)
    health = health_pb2_grpc.HealthStub(channel)
    assert health.Check(health_pb2.HealthCheckRequest(service="snapfs.v1.VolumeService")).status == 1
    assert isinstance(failure(lambda: health.Check(health_pb2.HealthCheckRequest(service="x"))), errors.NotFound)
    reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
    error = failure(lambda: list(reflection.ServerReflectionInfo(iter([]))))
    assert isinstance(error, errors.Unauthenticated)


def test_health_tells_that_the_store_failed(tmp_path: Path) -> None:
    served = ApiServer(tmp_path / "store")
    try:
        with served.connect() as owner, served.channel() as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
            assert owner.health()

            async def fail() -> None:
                served.lake.index.fail(errors.IOFailure("the disk is gone"))

            served.run(fail)
            assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert not owner.health()
            assert "the disk is gone" in owner.get_store().failure
    finally:
        with pytest.raises(errors.IOFailure):
            served.stop()


# -- requests


def test_what_is_unknown_is_refused(served: ApiServer) -> None:
    bare = served.channel().unary_unary("/snapfs.v1.VolumeService/Checkout")
    good = volume_pb2.CheckoutRequest(volume="data", snapshot="x").SerializeToString()
    error = failure(lambda: bare(good + b"\x98\x06\x01"))
    assert (type(error), "number 99" in error.message) == (errors.Invalid, True)
    error = failure(lambda: bare(good + b"\x18\x63"))
    assert (type(error), "'unsaved'" in error.message) == (errors.Invalid, True)
    assert isinstance(failure(lambda: bare(b"\xff")), errors.Invalid)
    assert isinstance(failure(lambda: bare(good)), errors.NotFound)


def test_large_messages(served: ApiServer) -> None:
    with served.connect() as owner:
        with pytest.raises(errors.TooLarge):
            owner.restore(volume="data", snapshot="x", paths=["x" * 1000] * 5000)
        owner.create_snapshot(volume="data", name="big", meta={f"{n}": "x" * 60_000 for n in range(60)})
        for number in range(3):
            owner.create_snapshot(volume="data", name=f"{number}", meta={f"{n}": "x" * 60_000 for n in range(15)})
        assert len(list(owner.list_snapshots(volume="data"))) == 4
    # a page of a size that clients take by default
    stub = snapshot_pb2_grpc.SnapshotServiceStub(served.channel())
    token, pages = "", 0
    while token or not pages:
        page = stub.ListSnapshots(snapshot_pb2.ListSnapshotsRequest(volume="data", page_token=token))
        token, pages = page.next_page_token, pages + 1
    assert pages == 3


def test_a_call_without_a_request(served: ApiServer) -> None:
    bare = served.channel().stream_stream("/snapfs.v1.VolumeService/ListVolumes")
    assert isinstance(failure(lambda: list(bare(iter([])))), errors.Invalid)


def test_a_request_that_does_not_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "REQUEST_SECONDS_MAX", 0.2)
    given_up = threading.Event()

    def never() -> Iterator[bytes]:
        given_up.wait(SECONDS_MAX)
        yield from ()

    with serving(tmp_path / "store") as served:
        bare = served.channel().stream_stream("/snapfs.v1.VolumeService/ListVolumes")
        try:
            error = failure(lambda: list(bare(never())))
        finally:
            given_up.set()
        assert isinstance(error, errors.Cancelled)
        served.wait_for(lambda: served.ended)  # its thread is free


def test_the_same_request_twice_makes_one_thing(served: ApiServer) -> None:
    with served.connect() as owner, futures.ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: owner.create_snapshot(volume="data", request_id="r"), range(8)))
        assert len({snapshot.name for snapshot in made}) == 1
        with pytest.raises(errors.Invalid, match="another request"):
            owner.create_snapshot(volume="data", name="x", request_id="r")
        with pytest.raises(errors.Invalid, match="128 bytes"):
            owner.create_volume(name="x", request_id="r" * 129)
        assert owner.create_volume(name="x", request_id="r").name == "x"  # a key counts for its method only
        assert owner.start_check(request_id="r").id == owner.start_check(request_id="r").id
    with client.connect(f"unix:{served.addresses[0]}") as somebody_else:
        assert somebody_else.create_snapshot(volume="data", name="mine", request_id="r").name == "mine"


def test_tokens_of_pages_that_somebody_made_up(served: ApiServer) -> None:
    stub = volume_pb2_grpc.VolumeServiceStub(served.channel())
    for position in (b"\xff\xfe", b"", b"\0" * 100):
        token = encode_token("volumes", position)
        stub.ListVolumes(volume_pb2.ListVolumesRequest(page_token=token))  # no more than a page that means nothing


def test_pages_of_volumes(served: ApiServer) -> None:
    stub = volume_pb2_grpc.VolumeServiceStub(served.channel())
    for name in "abcefg":
        stub.CreateVolume(volume_pb2.CreateVolumeRequest(name=name))
    first = stub.ListVolumes(volume_pb2.ListVolumesRequest(page_size=3))
    stub.DeleteVolume(volume_pb2.DeleteVolumeRequest(name="c"))
    rest = stub.ListVolumes(volume_pb2.ListVolumesRequest(page_token=first.next_page_token))
    names = [[volume.name for volume in page.volumes] for page in (first, rest)]
    assert names == [["a", "b", "c"], ["data", "e", "f", "g"]]
    assert rest.next_page_token == ""
    for wrong in ({"page_size": -1}, {"page_token": "x"}, {"page_token": first.next_page_token[:-1]}):
        request = volume_pb2.ListVolumesRequest(**wrong)  # type: ignore[arg-type]
        assert isinstance(failure(lambda asked=request: stub.ListVolumes(asked)), errors.Invalid)  # type: ignore[misc]


def test_narrowed_callers_see_their_volumes_only(served: ApiServer) -> None:
    with served.connect() as owner:
        owner.create_volume(name="secret")
        owner.create_snapshot(volume="secret", name="one")
        owner.clone(volume="secret", snapshot="one", name="copy")
        owner.create_snapshot(volume="copy", name="two")
        secret = owner.create_token(name="narrow", role=api.Role.OPERATOR, volumes=["copy", "later"]).secret
    with served.connect(token=secret) as narrow:
        assert [volume.name for volume in narrow.list_volumes()] == ["copy"]
        assert [snapshot.name for snapshot in narrow.list_snapshots()] == ["two"]
        assert [snapshot.name for snapshot in narrow.list_ancestry(volume="copy", page_size=1)] == ["two"]
        assert {event.volume for event in narrow.watch_events(after=0, until_now=True)} == {"copy"}
        for volume in ("secret", "nowhere"):
            with pytest.raises(errors.NotPermitted):
                narrow.get_volume(name=volume)
        with pytest.raises(errors.NotFound) as caught:
            narrow.get_volume(name="later")
        assert "secret" not in caught.value.hint


# -- callers that go away


def noticing(served: ApiServer, monkeypatch: pytest.MonkeyPatch, name: str) -> threading.Event:
    """Set when a call reaches that method of the service."""
    reached = threading.Event()
    method = getattr(served.service, name)

    async def noticed(**arguments: Any) -> Any:
        reached.set()
        return await method(**arguments)

    monkeypatch.setattr(served.service, name, noticed)
    return reached


def endless(served: ApiServer, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """``status`` never ends by itself; set when it was ended."""
    ended = threading.Event()

    async def changes(*, volume: str) -> AsyncIterator[api.Change]:
        try:
            while True:
                yield api.Change(kind=api.ChangeKind.ADDED, path="x" * 4000)
                await trio.lowlevel.checkpoint()
        finally:
            ended.set()

    monkeypatch.setattr(served.service, "status", changes)
    return ended


def nothing_was_made(served: ApiServer) -> None:
    with served.connect() as owner:
        assert list(owner.list_snapshots(volume="data")) == []
        assert [entry.result for entry in owner.list_audit_entries()][-1] == "CANCELLED"
        assert owner.create_snapshot(volume="data", name="gone").name == "gone"


def test_a_deadline_ends_the_work(served: ApiServer) -> None:
    with served.held("data"), served.connect(timeout_seconds=0.2) as hasty:
        with pytest.raises(errors.Unavailable, match="in time"):
            hasty.create_snapshot(volume="data", name="gone")
        served.wait_for(lambda: served.count("CreateSnapshot", "CANCELLED"))
    nothing_was_made(served)


def test_a_cancelled_call_ends_the_work(served: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    reached = noticing(served, monkeypatch, "create_snapshot")
    stub = snapshot_pb2_grpc.SnapshotServiceStub(served.channel())
    with served.held("data"):
        call = stub.CreateSnapshot.future(snapshot_pb2.CreateSnapshotRequest(volume="data", name="gone"))
        assert reached.wait(SECONDS_MAX)
        call.cancel()
        served.wait_for(lambda: served.count("CreateSnapshot", "CANCELLED"))
    nothing_was_made(served)


def test_a_call_that_is_cancelled_in_several_tasks(served: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A nursery tells of its end as a group."""
    reached = threading.Event()

    async def create(**_: object) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(trio.sleep_forever)
            reached.set()

    stub = snapshot_pb2_grpc.SnapshotServiceStub(served.channel())
    with monkeypatch.context() as patch:
        patch.setattr(served.service, "create_snapshot", create)
        call = stub.CreateSnapshot.future(snapshot_pb2.CreateSnapshotRequest(volume="data", name="gone"))
        assert reached.wait(SECONDS_MAX)
        call.cancel()
        served.wait_for(lambda: served.count("CreateSnapshot", "CANCELLED"))
    nothing_was_made(served)


PROGRAM = """
import sys, time
from snapfs import client
with client.connect(sys.argv[1]) as store:
    {}
"""


@contextmanager
def program(served: ApiServer, code: str) -> Iterator[subprocess.Popen[str]]:
    """A client's process that has said something."""
    command = [sys.executable, "-c", PROGRAM.format(code), str(served.store)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None
            assert running.stdout.readline()
            yield running
        finally:
            running.kill()


def test_a_client_that_dies_while_it_creates(served: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    reached = noticing(served, monkeypatch, "create_snapshot")
    create = "print('now', flush=True); store.create_snapshot(volume='data', name='gone')"
    with served.held("data"), program(served, create) as running:
        assert reached.wait(SECONDS_MAX)
        running.kill()
        served.wait_for(lambda: served.count("CreateSnapshot", "CANCELLED"))
    nothing_was_made(served)


def test_a_client_that_dies_while_it_reads(served: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = endless(served, monkeypatch)
    read = "changes = store.status(volume='data'); print(next(changes).kind, flush=True); time.sleep(600)"
    with program(served, read) as running:
        assert not ended.is_set()
        running.kill()
        assert ended.wait(SECONDS_MAX)
    served.wait_for(lambda: served.count("Status", "CANCELLED"))


def test_a_client_that_dies_while_it_watches(served: ApiServer) -> None:
    watch = "[print(event.kind, flush=True) for event in store.watch_events(after=0)]"
    with program(served, watch) as running:
        running.kill()
        served.wait_for(lambda: served.count("WatchEvents", "CANCELLED"))


def test_a_client_that_dies_while_it_checks(served: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(*, progress: Callable[[int, int], None]) -> api.CheckReport:
        progress(1, 2)
        await trio.sleep_forever()
        raise AssertionError

    monkeypatch.setattr(served.service, "check_store", check)
    with program(served, "store.check_store(progress=lambda done, total: print(done, flush=True))") as running:
        running.kill()
        with served.connect() as owner:
            served.wait_for(lambda: [one.state for one in owner.list_operations()] == ["cancelled"])


def test_a_stream_that_is_not_read_to_its_end(served: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = endless(served, monkeypatch)
    with served.connect() as owner:
        changes = owner.status(volume="data")
        next(changes)
        changes.close()  # type: ignore[attr-defined] # it is a generator
        assert ended.wait(SECONDS_MAX)


def test_a_reader_that_takes_nothing(served: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge, "STALL_SECONDS_MAX", 0.3)
    ended = endless(served, monkeypatch)
    stub = volume_pb2_grpc.VolumeServiceStub(served.channel())
    call = stub.Status(volume_pb2.StatusRequest(volume="data"))
    next(call)
    assert ended.wait(SECONDS_MAX)
    assert isinstance(failure(lambda: list(call)), errors.Cancelled)


class Kernel:
    """Of a mount: told what to forget."""

    def __init__(self) -> None:
        self.forgotten: list[str] = []

    async def volume_removed(self, name: str) -> None:
        await trio.lowlevel.checkpoint()
        self.forgotten.append(name)


def test_the_kernel_forgets_a_volume_whose_deletion_was_cancelled(engine: EngineSubject) -> None:
    kernel = Kernel()
    service = Service(engine.lake, kernel)  # type: ignore[arg-type] # all that a deletion needs

    async def delete() -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            await service.delete_volume(name="data", force=True)

    engine.run(delete)
    assert engine.lake.volumes.all() == []
    assert kernel.forgotten == ["data"]


# -- many of them


def test_many_clients_at_once(served: ApiServer) -> None:
    def work(number: int) -> int:
        with served.connect() as owner:
            for turn in range(8):
                name = f"{number}.{turn}"
                owner.create_snapshot(volume="data", name=name, meta={"turn": str(turn)})
                assert owner.get_snapshot(volume="data", snapshot=name).meta == {"turn": str(turn)}
                assert list(owner.diff(volume="data", snapshot=name)) == []
                owner.delete_snapshot(volume="data", snapshot=name)
                assert [volume.name for volume in owner.list_volumes()] == ["data"]
            return turn

    with futures.ThreadPoolExecutor(64) as pool:
        assert sum(pool.map(work, range(64))) == 64 * 7
    assert {code for _, code in served.ended} == {"OK"}


def test_streams_that_wait_leave_room_for_others(served: ApiServer) -> None:
    with served.channel() as channel, served.connect() as owner:
        stub = event_pb2_grpc.EventServiceStub(channel)
        streams = [stub.WatchEvents(event_pb2.WatchEventsRequest(after=0)) for _ in range(calls.WAITING_MAX)]
        for stream in streams:
            next(stream)
        error = failure(lambda: next(stub.WatchEvents(event_pb2.WatchEventsRequest(after=0))))
        assert (type(error), str(calls.WAITING_MAX) in error.message) == (errors.Busy, True)
        with futures.ThreadPoolExecutor(64) as pool:
            list(pool.map(lambda _: owner.get_volume(name="data"), range(64)))
        made = owner.create_snapshot(volume="data", name="told")
        for stream in streams:
            assert next(stream).events[-1].snapshot == made.name
        streams.pop().cancel()
        served.wait_for(lambda: served.count("WatchEvents", "CANCELLED"))
        replaced = stub.WatchEvents(event_pb2.WatchEventsRequest(after=0))
        assert next(replaced).events
        for stream in [*streams, replaced]:
            stream.cancel()


def test_strangers_keep_nobody_from_calling(served: ApiServer) -> None:
    """Neither by watching the health nor by calls whose request does not come."""
    given_up = threading.Event()

    def never() -> Iterator[bytes]:
        given_up.wait(SECONDS_MAX)
        yield from ()

    stub = event_pb2_grpc.EventServiceStub(served.channel())
    with ExitStack() as stack:
        stack.callback(given_up.set)
        channels = [stack.enter_context(served.channel(1)) for _ in range(2)]
        watches = [
            channels[0].unary_stream("/grpc.health.v1.Health/Watch")(b"") for _ in range(calls.STRANGERS_MAX)
        ]
        for watch in watches:
            next(watch)
        silent = [
            channels[1].stream_stream("/grpc.health.v1.Health/Check")(never()) for _ in range(server.THREADS_MAX)
        ]
        for one in silent:
            error = failure(lambda one=one: next(one))  # type: ignore[misc]
            assert (type(error), str(calls.STRANGERS_MAX) in error.message) == (errors.Busy, True)
        events = stub.WatchEvents(event_pb2.WatchEventsRequest(after=0))
        next(events)
        events.cancel()
        for watch in watches:
            watch.cancel()
        served.wait_for(lambda: served.count("Watch", "CANCELLED") == len(watches))
        assert channels[0].unary_unary("/grpc.health.v1.Health/Check")(b"")


def test_a_place_whose_threads_are_taken_leaves_the_others_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "THREADS_MAX", 2)
    given_up = threading.Event()

    def never() -> Iterator[bytes]:
        given_up.wait(SECONDS_MAX)
        yield from ()

    tcp = TcpEndpoint(address="127.0.0.1:0", plaintext=True)
    with serving(tmp_path / "store", tcp) as served, ExitStack() as stack:
        channel = stack.enter_context(served.channel(1))
        stack.callback(given_up.set)
        silent = [channel.stream_stream("/grpc.health.v1.Health/Check")(never()) for _ in range(2)]
        for one in silent:
            one.initial_metadata()  # a thread has it
        with served.connect() as owner:
            assert owner.get_caller().name == "owner"
        for one in silent:
            one.cancel()


def test_connections_leave_descriptors_for_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CONNECTIONS_MAX", 8)
    tcp = TcpEndpoint(address="127.0.0.1:0", plaintext=True)
    with serving(tmp_path / "store", tcp) as served, ExitStack() as stack:
        host, _, port = served.addresses[1].rpartition(":")
        connections = [stack.enter_context(socket.create_connection((host, int(port)))) for _ in range(50)]
        ended: set[socket.socket] = set()

        def refused() -> bool:
            found, _, _ = select.select(connections, [], [], 0)
            ended.update(one for one in found if not read(one))
            return len(ended) >= len(connections) - server.CONNECTIONS_MAX

        served.wait_for(refused)
        with served.connect() as owner:
            assert owner.get_caller().name == "owner"


def read(connection: socket.socket) -> bytes:
    try:
        return connection.recv(4096)
    except ConnectionResetError:
        return b""


@pytest.mark.parametrize(
    ("limit", "places", "connections"),
    [(1024, 1, 512), (1024, 3, 170), (1 << 20, 2, 1000), (resource.RLIM_INFINITY, 1, 1000), (1, 3, 1)],
)
def test_how_many_connections(limit: int, places: int, connections: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    assert server._connections_max(places) == connections


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Of HTTP/2."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def header(name: bytes, value: bytes) -> bytes:
    """As a literal that is not to be indexed."""
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


def test_a_token_that_is_no_text_is_not_logged(served: ApiServer, caplog: pytest.LogCaptureFixture) -> None:
    """No client of gRPC sends it, but anybody can."""
    headers = {
        b":method": b"POST", b":scheme": b"http", b":path": b"/snapfs.v1.AccessService/GetCaller",
        b":authority": b"localhost", b"content-type": b"application/grpc", b"te": b"trailers",
        b"authorization": b"Bearer snapfs_confidential\xff",
    }  # fmt: skip
    host, _, port = served.addresses[1].rpartition(":")
    with socket.create_connection((host, int(port)), timeout=SECONDS_MAX) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b""))
        connection.sendall(frame(1, 4, 1, b"".join(header(*pair) for pair in headers.items())))
        connection.sendall(frame(0, 1, 1, bytes(5)))
        served.wait_for(lambda: served.count("GetCaller", "UNAUTHENTICATED"))
    assert "confidential" not in caplog.text


# -- the end


def test_a_call_that_runs_at_the_end_is_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(tmp_path / "store") as served, futures.ThreadPoolExecutor() as pool, served.connect() as owner:
        owner.create_volume(name="data")
        reached = noticing(served, monkeypatch, "create_snapshot")
        with served.held("data"):
            made = pool.submit(owner.create_snapshot, volume="data", name="last")
            assert reached.wait(SECONDS_MAX)
            served.stop()  # which lets the volume go
        assert made.result(SECONDS_MAX).name == "last"
    with serving(tmp_path / "store") as served, served.connect() as owner:
        assert [snapshot.name for snapshot in owner.list_snapshots()] == ["last"]


def test_what_waits_does_not_delay_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "GRACE_SECONDS", SECONDS_MAX)
    with serving(tmp_path / "store") as served, served.channel() as channel:
        events = event_pb2_grpc.EventServiceStub(channel).WatchEvents(event_pb2.WatchEventsRequest(after=0))
        next(events)
        health = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        next(health)
        began = time.monotonic()
        served.stop()
        assert time.monotonic() - began < SECONDS_MAX / 2
        for stream in (events, health):
            error = failure(lambda waiting=stream: next(waiting))  # type: ignore[misc]
            assert (type(error), error.message) == (errors.Unavailable, "the daemon is ending")


def test_what_takes_too_long_is_cancelled_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "GRACE_SECONDS", 0.2)
    cancelled = threading.Event()

    async def for_ever() -> None:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    with serving(tmp_path / "store") as served, served.connect() as owner, futures.ThreadPoolExecutor() as pool:
        monkeypatch.setattr(served.service, "get_store", for_ever)
        reached = noticing(served, monkeypatch, "get_store")
        answer = pool.submit(owner.get_store)
        assert reached.wait(SECONDS_MAX)
        served.stop()
        assert cancelled.is_set()
        with pytest.raises((errors.Unavailable, errors.Cancelled)):
            answer.result(SECONDS_MAX)


def test_a_client_outlives_the_daemon(tmp_path: Path) -> None:
    with client.connect(tmp_path / "store", timeout_seconds=SECONDS_MAX) as owner:
        for number in range(2):
            with serving(tmp_path / "store"):
                owner.create_volume(name=f"{number}")
            with pytest.raises(errors.Unavailable, match="no daemon listens"):
                owner.list_operations()
