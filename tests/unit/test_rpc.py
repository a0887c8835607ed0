"""Pure parts of the API: records and messages, errors and statuses, requests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from snapfs import api, errors
from snapfs.api import Role
from snapfs.errors import Kind
from snapfs.rpc import convert, dispatch, narrow, requests, status
from snapfs.rpc.convert import states, values
from snapfs.rpc.library import grpc
from snapfs.v1 import access_pb2, event_pb2, operation_pb2, snapshot_pb2, store_pb2, volume_pb2

GIT = api.GitCommit(
    commit="ab" * 20, branch="main", subject="über", author="Ada <ada@example.org>", remote="r", dirty=True
)
SNAPSHOT = api.Snapshot(
    volume="data",
    name="one",
    created_ns=1_700_000_000_123_456_789,
    message="first",
    meta={"accuracy": "0.97", "": ""},
    git=GIT,
    parent="data@zero",
    current=True,
    created=False,
    tags=["a", "b"],
    seal="cd" * 32,
    holds=["ci", "paper"],
    locked_until_ns=2**62,
)
PLAIN = api.Snapshot(volume="data", name="one", created_ns=0)
FINDING = api.Finding(code="refs", message="wrong")
REPORT = api.CheckReport(
    findings=[FINDING],
    inodes=1,
    blocks=2,
    snapshots=3,
    data_read_bytes=2**63,
    damage=[
        api.Damage(volume="data", path="a/\udcff", head=True, snapshots=["one"], good=["two"], blocks=[2**63]),
        api.Damage(volume="data", path="b", head=False, snapshots=[], good=[], blocks=[]),
    ],
)
VERIFIED = api.VerifyReport(
    snapshot=SNAPSHOT, digest="cd" * 32, findings=[FINDING], files=3, data_read_bytes=2**63, chained=True
)
SCRUB = api.ScrubStatus(
    state=api.ScrubState.RUNNING, start_ns=1, end_ns=2, index_done=3, done=4, total=5, data_read_bytes=2**63, found=6,
    findings=[FINDING], next_ns=7,
)  # fmt: skip
TOKEN = api.Token(
    name="ci", role=Role.OPERATOR, volumes=["a", "b"], created_ns=1, expires_ns=2, revoked_ns=3, certificate=True
)
CHANGE = api.Change(
    kind=api.ChangeKind.RENAMED,
    path="new \udcff\n",
    old_path="old \udc80",
    type="symlink",
    old_bytes=1,
    new_bytes=2**60,
    changed_bytes=3,
    content=True,
    metadata=True,
)
EVENT = api.Event(
    sequence=2**63, time_ns=5, kind=api.EventKind.TAG_SET, volume="v", snapshot="s", commit="c", message="m"
)
OPERATION = api.Operation(id="1", kind="check", state=api.OperationState.RUNNING, done=1, total=2, start_ns=3)
SETTING = api.Setting(
    name="log.level", value='"info"', default_value='"info"', description="d", configured=True, needs_restart=True
)
STORE = api.StoreInfo(
    path="/s", uuid="u", format=2, volumes=1, snapshots=2, stored_bytes=3, logical_bytes=4, seal_bytes=12,
    index_bytes=5, disk_bytes=6, free_bytes=7, mountpoint="/m", pid=8, version="9", uptime_seconds=10,
    dirty_bytes=11, failure="f",
)  # fmt: skip

POLICY = api.RetentionPolicy(
    last=1, hourly=2, daily=3, weekly=4, monthly=5, yearly=6, within_seconds=2**40, reachable=True,
    repositories=["/r", "/s"], distinct=7,
)  # fmt: skip
USAGE = api.Usage(
    volume="data", snapshot="one", created_ns=1, trashed=True, logical_bytes=2, referenced_bytes=3,
    exclusive_bytes=2**63,
)  # fmt: skip
HEAD = api.Usage(volume="data", logical_bytes=1, referenced_bytes=2, exclusive_bytes=3)
SPACE = api.Space(
    live_bytes=1, snapshots_bytes=2, trash_bytes=3, deleting_bytes=4, waiting_bytes=5, seal_bytes=6, index_bytes=7,
    overhead_bytes=8, disk_bytes=36, free_bytes=9, logical_bytes=10, raw_bytes=11, stored_bytes=12,
    oldest_reader_seconds=1.5,
)  # fmt: skip
OPTIMIZED = api.OptimizeReport(
    files=1, rewritten=2, read_bytes=3, written_bytes=4, extents_before=5, extents_after=6
)
IMPORTED = api.ImportReport(
    files=1, directories=2, unchanged=3, total_bytes=4, failed=["a/\udcff: permission denied"], failures=101
)

RECORDS: dict[str, list[Any]] = {
    "volume": [
        api.Volume(name="data", snapshots=3, created_ns=1, parent="data@one"),
        *(
            api.Volume(
                name="data", snapshots=3, created_ns=1, quota_bytes=4, used_bytes=5, quota_kind=kind,
                compression="none", policy=policy, origin="raw@one",
            )
            for kind in api.QuotaKind
            for policy in (None, POLICY, api.RetentionPolicy())
        ),
    ],
    "policy": [POLICY, api.RetentionPolicy()],
    "usage": [USAGE, HEAD],
    "volume_usage": [
        api.VolumeUsage(
            volume="data", trashed=True, logical_bytes=1, referenced_bytes=2, exclusive_bytes=3, snapshots_bytes=4,
            snapshots=5, head=HEAD,
        )
    ],
    "what_if": [api.WhatIf(targets=["a@b", "c"], freed_bytes=2**63, protected=["c: held by ci"])],
    "space": [SPACE],
    "optimize_report": [OPTIMIZED],
    "import_report": [IMPORTED],
    "decision": [
        api.Decision(volume="data", snapshot="one", created_ns=1, keep=keep, reasons=reasons)
        for keep, reasons in ((True, ["last", "held"]), (False, []))
    ],
    "retention_report": [
        api.RetentionReport(decisions=[], deleted=1, freed_bytes=2, dry_run=dry_run, warnings=["w"])
        for dry_run in (True, False)
    ],
    "trash_entry": [
        api.TrashEntry(volume="data", snapshot=name, deleted_ns=1, expires_ns=2, exclusive_bytes=3)
        for name in ("", "one")
    ],
    "emptied": [api.Emptied(entries=1, kept=2)],
    "checkout": [
        api.Checkout(snapshot=SNAPSHOT, saved=PLAIN, moved=False),
        api.Checkout(snapshot=SNAPSHOT, saved=None),
    ],
    "restored": [api.Restored(paths=["a/\udcff"], files=1, total_bytes=2)],
    "git": [GIT, api.GitCommit(commit="ab" * 32)],
    "snapshot": [SNAPSHOT, PLAIN],
    "filter": [
        api.SnapshotFilter(),
        api.SnapshotFilter(
            name_prefix="n", commit="c", branch="b", tag="t", meta={"k": "v"}, created_from_ns=1, created_before_ns=2
        ),
    ],
    "carried": [api.Carried(carried=[SNAPSHOT, PLAIN], missing=["x"])],
    "change": [CHANGE, *(msgspec.structs.replace(CHANGE, kind=kind) for kind in api.ChangeKind)],
    "event": [EVENT, *(msgspec.structs.replace(EVENT, kind=kind) for kind in api.EventKind)],
    "events": [api.Events(events=[EVENT], sequence=7), api.Events(events=[], sequence=0)],
    "report": [REPORT],
    "verify_report": [VERIFIED],
    "scrub": [SCRUB, *(api.ScrubStatus(state=state) for state in api.ScrubState)],
    "operation": [
        OPERATION,
        *(msgspec.structs.replace(OPERATION, state=state, end_ns=9) for state in api.OperationState),
        msgspec.structs.replace(OPERATION, check=REPORT),
        msgspec.structs.replace(OPERATION, verify=VERIFIED),
        msgspec.structs.replace(OPERATION, optimize=OPTIMIZED),
        msgspec.structs.replace(OPERATION, imported=IMPORTED),
        msgspec.structs.replace(OPERATION, error=api.OperationError(kind="no_space", message="m", hint="h")),
    ],
    "store": [STORE],
    "setting": [SETTING],
    "settings": [api.Settings(settings=[SETTING], path="/c")],
    "reloaded": [api.Reloaded(applied=["a"], waiting=["b"])],
    "caller": [api.Caller(name="ci", role=role, volumes=["v"]) for role in Role],
    "token": [TOKEN, api.Token(name="x", role=Role.ADMIN, created_ns=5)],
    "new_token": [api.NewToken(token=TOKEN, secret="s")],
    "audit_entry": [
        api.AuditEntry(sequence=1, time_ns=2, caller="c", peer="unix", method="m", request="{}", result="OK")
    ],
}

# -- records and messages


@pytest.mark.parametrize("name", RECORDS)
def test_records_come_back(name: str) -> None:
    to, of = getattr(convert, f"{name}_to"), getattr(convert, f"{name}_of")
    for record in RECORDS[name]:
        message = to(record)
        assert of(type(message).FromString(message.SerializeToString())) == record


def test_every_conversion_is_tested() -> None:
    pairs = {name.removesuffix("_to") for name in convert.__all__ if name.endswith("_to")}
    parts = {"time", "optional_time", "path", "role", "unsaved", "event_kind", "rewrite", "snapshots", "quota_kind"}
    assert pairs - parts == set(RECORDS)
    assert convert.rewrite_of(convert.rewrite_to("old", GIT)) == ("old", GIT)


@pytest.mark.parametrize(
    ("table", "kinds", "enum"),
    [
        (values.CHANGE_KINDS, api.ChangeKind, snapshot_pb2.ChangeKind),
        (values.FILE_TYPES, ["file", "directory", "symlink", "fifo", "socket", "device"], snapshot_pb2.FileType),
        (values.UNSAVED, api.Save, volume_pb2.Unsaved),
        (states.EVENT_KINDS, api.EventKind, event_pb2.EventKind),
        (states.OPERATION_STATES, api.OperationState, operation_pb2.OperationState),
        (states.ROLES, Role, access_pb2.Role),
        (values.QUOTA_KINDS, api.QuotaKind, volume_pb2.QuotaKind),
        (states.SCRUB_STATES, api.ScrubState, store_pb2.ScrubState),
    ],
)
def test_enums_are_mapped_totally(table: dict[Any, int], kinds: Any, enum: Any) -> None:
    assert list(table) == list(kinds)
    assert sorted(table.values()) == sorted(set(enum.values()) - {0})


def test_values_of_another_version() -> None:
    with pytest.raises(errors.Unsupported, match="kind of event 99"):
        convert.event_of(event_pb2.Event(sequence=1, kind=99))  # type: ignore[arg-type]
    assert convert.unsaved_of(volume_pb2.UNSAVED_UNSPECIFIED) is api.Save.REFUSE


@given(st.integers(-62_135_596_800 * 10**9, 253_402_300_800 * 10**9 - 1))
def test_times_come_back(time_ns: int) -> None:
    message = convert.time_to(time_ns)
    assert convert.time_of(message) == time_ns == message.ToNanoseconds()


def test_absent_times_are_0() -> None:
    assert convert.optional_time_to(0) is None
    assert convert.time_of(snapshot_pb2.SnapshotFilter().created_from) == 0
    assert convert.filter_to(api.SnapshotFilter()).ListFields() == []


@pytest.mark.parametrize("wrong", [Timestamp(nanos=10**9), Timestamp(nanos=-1), Timestamp(seconds=2**60)])
def test_times_that_are_none(wrong: Timestamp) -> None:
    with pytest.raises(errors.Invalid, match="out of range"):
        convert.time_of(wrong)


def test_times_beyond_a_timestamp() -> None:
    for time_ns in (253_402_300_800 * 10**9, -62_135_596_800 * 10**9 - 1):
        with pytest.raises(errors.Invalid, match="out of range"):
            convert.time_to(time_ns)


@given(st.binary(max_size=50))
def test_file_names_come_back(name: bytes) -> None:
    assert convert.path_to(convert.path_of(name)) == name


def test_text_that_is_no_unicode() -> None:
    with pytest.raises(errors.Invalid, match="no file name"):
        convert.path_to("\ud800")
    store = msgspec.structs.replace(STORE, path="/a\udcffb", failure="\ud800")
    shown = convert.store_of(convert.store_to(store))
    assert shown.path.startswith("/a\ufffd")
    assert shown.path.endswith("b")
    assert "\ufffd" in shown.failure


# -- errors and statuses


class Failed:
    """A call that failed with what is given."""

    def __init__(self, code: grpc.StatusCode, details: str | None, metadata: object) -> None:
        self._code, self._details, self._metadata = code, details, metadata

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str | None:
        return self._details

    def trailing_metadata(self) -> object:
        return self._metadata


def test_every_kind_has_a_code_and_comes_back() -> None:
    assert set(status.CODES) == set(Kind)
    for kind, cls in errors.by_kind().items():
        sent = status.status_of(cls("what is wrong\nü", hint="what to do"))
        error = status.error_of(Failed(*sent))
        assert type(error) is cls
        assert (error.kind, error.message, error.hint) == (kind, "what is wrong\nü", "what to do")


def test_details_are_what_others_read() -> None:
    from google.rpc.error_details_pb2 import ErrorInfo
    from google.rpc.status_pb2 import Status

    code, details, metadata = status.status_of(errors.NoSpace("full", hint="delete something"))
    assert (code, details) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
    packed = Status.FromString(dict(metadata)["grpc-status-details-bin"])
    info = ErrorInfo()
    assert packed.details[0].Unpack(info)
    assert (packed.code, packed.message) == (8, "full")
    assert (info.reason, info.domain, dict(info.metadata)) == ("NO_SPACE", "snapfs", {"hint": "delete something"})


def test_statuses_fit_the_metadata_of_every_client() -> None:
    _, details, metadata = status.status_of(errors.Invalid("ü\udcff" * 100_000, hint="💥" * 100_000))
    percent_encoded = sum(3 if byte > 126 or byte < 32 else 1 for byte in details.encode())
    assert percent_encoded + sum(len(value) * 4 // 3 for _, value in metadata) < 8000
    error = status.error_of(Failed(grpc.StatusCode.INVALID_ARGUMENT, details, metadata))
    assert error.message.endswith("...")


def test_a_kind_of_a_newer_daemon() -> None:
    from google.protobuf.any_pb2 import Any
    from google.rpc.error_details_pb2 import ErrorInfo
    from google.rpc.status_pb2 import Status

    packed = Any()
    packed.Pack(ErrorInfo(reason="MOON_PHASE", domain="snapfs"))
    sent = Status(code=9, message="wait", details=[packed]).SerializeToString()
    error = status.error_of(Failed(grpc.StatusCode.FAILED_PRECONDITION, "wait", (("grpc-status-details-bin", sent),)))
    assert (type(error), error.message) == (errors.IOFailure, "wait")


@pytest.mark.parametrize(
    ("code", "details", "cls"),
    [
        ("UNAVAILABLE", "no route", errors.Unavailable),
        ("DEADLINE_EXCEEDED", "", errors.Unavailable),
        ("UNIMPLEMENTED", "Method not found!", errors.Unsupported),
        ("RESOURCE_EXHAUSTED", "Received message larger than max (9 vs. 4)", errors.TooLarge),
        ("RESOURCE_EXHAUSTED", "Concurrent RPC limit exceeded!", errors.Busy),
        ("UNAUTHENTICATED", None, errors.Unauthenticated),
        ("PERMISSION_DENIED", "no", errors.NotPermitted),
        ("CANCELLED", "", errors.Cancelled),
        ("INTERNAL", "x", errors.IOFailure),
        ("INTERNAL", "Exception deserializing response!", errors.Unsupported),
        ("UNKNOWN", "x", errors.IOFailure),
    ],
)
@pytest.mark.parametrize("metadata", [(), None, (("grpc-status-details-bin", b"\xff"),), (("other", "x"),)])
def test_statuses_of_grpc_itself(code: str, details: str | None, cls: type, metadata: object) -> None:
    error = status.error_of(Failed(grpc.StatusCode[code], details, metadata))
    assert type(error) is cls
    assert error.message


def test_another_version_is_named() -> None:
    failed = Failed(grpc.StatusCode.UNIMPLEMENTED, "no", (("snapfs-version", "9.9"),))
    assert "9.9" in status.error_of(failed).message


# -- requests


def checked(message: Any) -> Any:
    requests.check(message)
    return message


def test_good_requests_pass() -> None:
    checked(convert.snapshot_to(SNAPSHOT))
    checked(snapshot_pb2.ListSnapshotsRequest(filter=convert.filter_to(RECORDS["filter"][1])))
    checked(event_pb2.WatchEventsRequest(after=0, kinds=[1, 2]))  # type: ignore[list-item]
    checked(access_pb2.CreateTokenRequest(name="n", role=access_pb2.ROLE_VIEWER, expire_time=Timestamp(seconds=1)))


UNKNOWN = b"\x98\x06\x01"
"""Field 99, a number."""


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: snapshot_pb2.GetSnapshotRequest.FromString(UNKNOWN), "number 99"),
        (lambda: snapshot_pb2.CreateSnapshotRequest.FromString(b"\x2a\x03" + UNKNOWN), "'git'"),
        (lambda: snapshot_pb2.CarrySnapshotsRequest.FromString(b"\x12\x05\x12\x03" + UNKNOWN), "'rewrites.git'"),
        (lambda: volume_pb2.CheckoutRequest(unsaved=7), "'unsaved'"),  # type: ignore[arg-type]
        (lambda: event_pb2.WatchEventsRequest(kinds=[1, 77]), "77"),  # type: ignore[list-item]
        (
            lambda: snapshot_pb2.ListSnapshotsRequest(
                filter=snapshot_pb2.SnapshotFilter(created_from=Timestamp(nanos=-5))
            ),
            "'filter.created_from'",
        ),
    ],
)
def test_what_a_request_may_not_hold(make: Callable[[], Any], named: str) -> None:
    with pytest.raises(errors.Invalid) as caught:
        requests.check(make())
    assert named in caught.value.message


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: snapshot_pb2.CarrySnapshotsRequest.FromString(b"\x12\x00" * 2_000_000), "'rewrites'"),
        (lambda: event_pb2.WatchEventsRequest.FromString(b"\x1a\x80\x80\x80\x01" + b"\x01" * (1 << 21)), "'kinds'"),
        (lambda: volume_pb2.RestoreRequest(paths=[b""] * 2_000_000), "'paths'"),
        (lambda: volume_pb2.GetVolumeRequest(name="ü" * 200_000), "'name'"),
        (lambda: snapshot_pb2.CreateSnapshotRequest(meta={"x" * 300_000: ""}), "'meta'"),
        (lambda: snapshot_pb2.CreateSnapshotRequest(meta={"": "x" * 300_000}), "'meta'"),
        (lambda: access_pb2.CreateTokenRequest(volumes=["a", "x" * 300_000]), "'volumes'"),
    ],
)
def test_what_is_more_than_anybody_needs(make: Callable[[], Any], named: str) -> None:
    with pytest.raises(errors.TooLarge) as caught:
        requests.check(make())
    assert named in caught.value.message


def test_unknown_fields_without_end() -> None:
    """Each is 3 bytes; listing them all would hold up the mount."""
    message = volume_pb2.GetVolumeRequest.FromString(UNKNOWN * 1_000_000)
    with pytest.raises(errors.Invalid, match="not the fields that were sent"):
        requests.check(message)


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\x05ab", b"\x0a\x01\xff"])
def test_bytes_that_are_no_request(data: bytes) -> None:
    with pytest.raises(errors.Invalid, match="GetSnapshotRequest"):
        requests.parse(data, snapshot_pb2.GetSnapshotRequest)


def test_requests_are_shown_for_people() -> None:
    message = snapshot_pb2.CreateSnapshotRequest(volume="data", meta={"b": "2", "a": "1"}, git=convert.git_to(GIT))
    assert msgspec.json.decode(requests.shown(message)) == {
        "volume": "data",
        "meta": {"a": "1", "b": "2"},
        "git": {
            "commit": GIT.commit,
            "branch": "main",
            "subject": "über",
            "author": GIT.author,
            "remote": "r",
            "dirty": True,
        },
    }
    checkout = volume_pb2.CheckoutRequest(volume="data", unsaved=volume_pb2.UNSAVED_SAVE)
    assert msgspec.json.decode(requests.shown(checkout)) == {"volume": "data", "unsaved": "UNSAVED_SAVE"}
    restore = volume_pb2.RestoreRequest(paths=[b"\xff" * 2000] * 1000)
    shown = msgspec.json.decode(requests.shown(restore))
    assert shown["paths"][0] == "\ufffd" * 1000 + "..."
    assert (len(shown["paths"]), shown["paths_more"]) == (50, 950)


def test_what_is_shown_of_a_huge_request_is_small() -> None:
    huge = snapshot_pb2.CarrySnapshotsRequest(rewrites=[convert.rewrite_to("a" * 40, GIT)] * 20_000)
    assert len(requests.shown(huge)) < 20_000


# -- narrowed callers


def test_other_volumes_names_are_hidden_at_any_depth() -> None:
    mine, others = (snapshot_pb2.Snapshot(volume="mine", parent=f"{volume}@s") for volume in ("mine", "theirs"))
    for response in (
        volume_pb2.CheckoutResponse(snapshot=others, saved=others),
        snapshot_pb2.ListSnapshotsResponse(snapshots=[others, others]),
        snapshot_pb2.CarrySnapshotsResponse(carried=[others]),
        volume_pb2.ListVolumesResponse(
            volumes=[volume_pb2.Volume(name="mine", parent="theirs@s", origin="theirs@s")]
        ),
        event_pb2.WatchEventsResponse(
            events=[event_pb2.Event(kind=event_pb2.EVENT_KIND_VOLUME_CREATED, volume="mine", message="theirs@s")]
        ),
        event_pb2.WatchEventsResponse(
            events=[event_pb2.Event(kind=event_pb2.EVENT_KIND_VOLUME_RESTORED, volume="mine", message="theirs")]
        ),
    ):
        narrow.hide(response, ["mine"])
        assert b"theirs" not in response.SerializeToString()
    for kept in (
        volume_pb2.CheckoutResponse(snapshot=mine),
        event_pb2.WatchEventsResponse(events=[event_pb2.Event(kind=event_pb2.EVENT_KIND_TAG_SET, message="theirs")]),
    ):
        before = kept.SerializeToString()
        narrow.hide(kept, ["mine"])
        assert kept.SerializeToString() == before


def test_every_response_with_a_volumes_name_is_looked_at() -> None:
    """Fields that hold ``volume@snapshot`` are called parent or origin."""
    named = {
        message.full_name
        for service in dispatch.SERVICES.values()
        for message in service.file.message_types_by_name.values()
        if {"parent", "origin"} & set(message.fields_by_name)
    }
    assert named <= set(narrow._CLEAN)
