"""Clients that are not ours speak to a real daemon: stubs made afresh from the .proto files, and buf by reflection."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc_tools
import pytest
from google.rpc import error_details_pb2

from snapfs.testing.served import SCRIPTS, ServedStore

pytestmark = pytest.mark.timeout(120)

ROOT = Path(__file__).parents[2]
PROTO = ROOT / "proto"
LIFE = {
    "role": "ROLE_OPERATOR",
    "names": ["s0", "s1", "s2", "s3", "s4"],
    "best": ["s3", ["best"], {"number": "3"}],
    "events": ["EVENT_KIND_VOLUME_CREATED", *["EVENT_KIND_SNAPSHOT_CREATED"] * 5, "EVENT_KIND_TAG_SET"],
    "check": "OPERATION_STATE_SUCCEEDED",
    "findings": 0,
}
NOT_OURS_TO_GIVE = {"UNIMPLEMENTED", "INTERNAL", "UNKNOWN", "UNAVAILABLE", "DEADLINE_EXCEEDED"}


@pytest.fixture(scope="module")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with ``snapfs.v1`` made of the .proto files and nothing else of snapfs."""
    made = tmp_path_factory.mktemp("stubs").resolve()
    sources = sorted(str(path.relative_to(PROTO)) for path in PROTO.rglob("*.proto"))
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    subprocess.run(
        [
            *(sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO}", f"-I{well_known}"),
            *(f"--python_out={made}", f"--grpc_python_out={made}", *sources),
        ],
        check=True,
        cwd=made,
    )
    for package in ("snapfs", "snapfs/v1"):
        (made / package / "__init__.py").touch()
    return made


def foreign(served: ServedStore, stubs: Path, *arguments: str) -> Any:
    program = Path(__file__).with_name("foreign_client.py")
    told = served.run(*(sys.executable, "-P", program, str(stubs), *arguments), extra={"PYTHONPATH": str(stubs)})
    return json.loads(told)


def judge(seen: Any) -> None:
    assert seen["refused"][0] == "NOT_FOUND"
    assert "nowhere" in seen["refused"][1]
    codes = seen["codes"]
    assert len(codes) >= 30
    assert {name: code for name, code in codes.items() if code in NOT_OURS_TO_GIVE} == {}


def test_stubs_made_afresh_over_the_unix_socket(served: ServedStore, stubs: Path) -> None:
    seen = foreign(served, stubs, "near", f"unix:{served.socket}")
    assert seen["life"] == {"caller": "socket", "again": "near", **LIFE}
    judge(seen)


def test_stubs_made_afresh_over_tls(served: ServedStore, stubs: Path) -> None:
    token = served.token("abroad", "operator")
    seen = foreign(served, stubs, "far", served.address, str(served.ca), token)
    assert seen["life"] == {"caller": "abroad", "again": "far", **LIFE}
    judge(seen)
    assert seen["codes"]["ListTokens"] == "PERMISSION_DENIED"


# -- buf curl


def curl(served: ServedStore, way: list[str], base: str, method: str, request: dict[str, object]) -> Any:
    """The response, or what buf tells of an error."""
    command = [SCRIPTS / "buf", "curl", "--protocol", "grpc", *way]
    done = served.done(*command, "--data", json.dumps(request), f"{base}/snapfs.v1.{method}")
    documents = done.stdout if done.returncode == 0 else done.stderr
    return json.loads(documents) if documents.lstrip().startswith("{") else documents


def over_unix(served: ServedStore) -> tuple[list[str], str]:
    return ["--http2-prior-knowledge", "--unix-socket", str(served.socket)], "http://localhost"


def over_tls(served: ServedStore, token: str) -> tuple[list[str], str]:
    headers = ["--header", f"authorization: Bearer {token}", "--reflect-header", "*"]
    return ["--cacert", str(served.ca), *headers], f"https://{served.address}"


def test_buf_curl_by_reflection_over_the_unix_socket(served: ServedStore) -> None:
    way, base = over_unix(served)
    services = served.run(SCRIPTS / "buf", "curl", "--protocol", "grpc", *way, "--list-services", base)
    assert {"snapfs.v1.VolumeService", "snapfs.v1.EventService", "grpc.health.v1.Health"} <= set(services.split())
    made = curl(served, way, base, "VolumeService/CreateVolume", {"name": "curled"})
    assert made["volume"]["name"] == "curled"
    taken = curl(served, way, base, "SnapshotService/CreateSnapshot", {"volume": "curled", "meta": {"by": "buf"}})
    assert taken["snapshot"]["meta"] == {"by": "buf"}
    refused = curl(served, way, base, "VolumeService/GetVolume", {"name": "nowhere"})
    assert refused["code"] == "not_found"
    (detail,) = [entry for entry in refused["details"] if entry["type"] == "google.rpc.ErrorInfo"]
    value = detail["value"]
    info = error_details_pb2.ErrorInfo.FromString(base64.b64decode(value + "=" * (-len(value) % 4)))
    assert (info.reason, info.domain) == ("NOT_FOUND", "snapfs")
    seen = curl(served, way, base, "EventService/WatchEvents", {"untilNow": True, "volume": "curled", "after": 0})
    assert [event["kind"] for event in seen["events"]] == [
        "EVENT_KIND_VOLUME_CREATED",
        "EVENT_KIND_SNAPSHOT_CREATED",
    ]


def test_buf_curl_by_reflection_over_tls(served: ServedStore) -> None:
    way, base = over_tls(served, served.token("curl", "viewer", "digits"))
    caller = curl(served, way, base, "AccessService/GetCaller", {})
    assert caller == {"name": "curl", "role": "ROLE_VIEWER", "volumes": ["digits"]}
    assert curl(served, way, base, "VolumeService/GetVolume", {"name": "digits"})["volume"]["name"] == "digits"
    refused = curl(served, way, base, "VolumeService/CreateVolume", {"name": "curled"})
    assert refused["code"] == "permission_denied"


def test_buf_curl_with_a_wrong_token_learns_nothing(served: ServedStore) -> None:
    way, base = over_tls(served, "snapfs_wrong")
    assert "failed to find service" in curl(served, way, base, "VolumeService/GetVolume", {"name": "digits"})
    by_file = ["--schema", str(PROTO), *way[:4]]
    refused = curl(served, by_file, base, "VolumeService/GetVolume", {"name": "digits"})
    assert refused["code"] == "unauthenticated"
