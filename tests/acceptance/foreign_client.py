"""A client that knows nothing of ours but the .proto files: run with stubs generated from them first on the path.

usage: foreign_client.py STUBS VOLUME ADDRESS [CA TOKEN]      CA and TOKEN: over TLS; VOLUME: to make
Prints one JSON document of what it saw.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import grpc

import snapfs
from snapfs.v1 import (
    access_pb2,
    access_pb2_grpc,
    event_pb2,
    event_pb2_grpc,
    operation_pb2,
    operation_pb2_grpc,
    snapshot_pb2,
    snapshot_pb2_grpc,
    store_pb2,
    store_pb2_grpc,
    volume_pb2,
    volume_pb2_grpc,
)

SECONDS_MAX = 20


def connect(address: str, ca: str = "", token: str = "") -> grpc.Channel:
    if not ca:
        return grpc.insecure_channel(address)
    ends = grpc.composite_channel_credentials(
        grpc.ssl_channel_credentials(Path(ca).read_bytes()), grpc.access_token_call_credentials(token)
    )
    return grpc.secure_channel(address, ends)


def every_method(channel: grpc.Channel) -> dict[str, str]:
    """The status that each RPC gives to an empty request."""
    codes = {}
    for module in (access_pb2, event_pb2, operation_pb2, snapshot_pb2, store_pb2, volume_pb2):
        for service in module.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                kind = channel.unary_stream if method.server_streaming else channel.unary_unary
                call = kind(
                    f"/{service.full_name}/{method.name}",
                    request_serializer=lambda message: message,
                    response_deserializer=lambda data: data,
                )
                try:
                    answer = call(b"", timeout=SECONDS_MAX)
                    if method.server_streaming:
                        next(iter(answer), None) if method.name != "WatchEvents" else None
                        answer.cancel()
                    codes[method.name] = "OK"
                except grpc.RpcError as error:
                    codes[method.name] = error.code().name
    return codes


def a_life(channel: grpc.Channel, volume: str) -> dict[str, object]:
    """What somebody would do."""
    volumes = volume_pb2_grpc.VolumeServiceStub(channel)
    snapshots = snapshot_pb2_grpc.SnapshotServiceStub(channel)
    events = event_pb2_grpc.EventServiceStub(channel)
    store = store_pb2_grpc.StoreServiceStub(channel)
    operations = operation_pb2_grpc.OperationServiceStub(channel)
    caller = access_pb2_grpc.AccessServiceStub(channel).GetCaller(access_pb2.GetCallerRequest(), timeout=SECONDS_MAX)

    volumes.CreateVolume(volume_pb2.CreateVolumeRequest(name=volume, request_id="1"), timeout=SECONDS_MAX)
    again = volumes.CreateVolume(volume_pb2.CreateVolumeRequest(name=volume, request_id="1"), timeout=SECONDS_MAX)
    for number in range(5):
        snapshots.CreateSnapshot(
            snapshot_pb2.CreateSnapshotRequest(volume=volume, name=f"s{number}", meta={"number": str(number)}),
            timeout=SECONDS_MAX,
        )
    snapshots.TagSnapshot(
        snapshot_pb2.TagSnapshotRequest(volume=volume, snapshot="s3", tag="best"), timeout=SECONDS_MAX
    )
    names, token = [], ""
    while True:
        page = snapshots.ListSnapshots(
            snapshot_pb2.ListSnapshotsRequest(volume=volume, page_size=2, page_token=token), timeout=SECONDS_MAX
        )
        names += [snapshot.name for snapshot in page.snapshots]
        token = page.next_page_token
        if not token:
            break
    best = snapshots.GetSnapshot(
        snapshot_pb2.GetSnapshotRequest(volume=volume, snapshot="best"), timeout=SECONDS_MAX
    ).snapshot
    seen = [
        event_pb2.EventKind.Name(event.kind)
        for batch in events.WatchEvents(
            event_pb2.WatchEventsRequest(after=0, volume=volume, until_now=True), timeout=SECONDS_MAX
        )
        for event in batch.events
    ]
    check = store.CheckStore(store_pb2.CheckStoreRequest(), timeout=SECONDS_MAX).operation
    *_, last = operations.WatchOperation(operation_pb2.WatchOperationRequest(id=check.id), timeout=SECONDS_MAX)
    return {
        "caller": caller.name,
        "role": access_pb2.Role.Name(caller.role),
        "again": again.volume.name,
        "names": names,
        "best": [best.name, list(best.tags), dict(best.meta)],
        "events": seen,
        "check": operation_pb2.OperationState.Name(last.operation.state),
        "findings": len(last.operation.check.findings),
    }


def refused(channel: grpc.Channel) -> list[str]:
    """Status and message of a call that must fail."""
    try:
        volume_pb2_grpc.VolumeServiceStub(channel).GetVolume(
            volume_pb2.GetVolumeRequest(name="nowhere"), timeout=SECONDS_MAX
        )
    except grpc.RpcError as error:
        return [error.code().name, error.details() or ""]
    raise AssertionError("it was answered")


def main() -> None:
    stubs, volume, address, *rest = sys.argv[1:]
    assert Path(snapfs.__file__ or "").is_relative_to(stubs), "these are our own stubs"
    with connect(address, *rest) as channel:
        seen = {"life": a_life(channel, volume), "refused": refused(channel), "codes": every_method(channel)}
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
