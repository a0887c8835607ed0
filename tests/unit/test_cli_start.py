"""What makes a command light: what it imports, and the few calls that it makes without the client."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from concurrent import futures
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from snapfs import api, v1
from snapfs.client import Client
from snapfs.git.repository import Facts
from snapfs.v1 import snapshot_pb2, volume_pb2
from snapfs_cli import startup, terse


def imported(program: str, *modules: str) -> str:
    """Which of the modules are imported at the end of a program that starts as the command does."""
    start = "import sys; from snapfs_cli import startup; startup.defer()"
    end = f"print(*sorted(set({modules!r}) & set(sys.modules)))"
    command = [sys.executable, "-c", f"{start}\n{program}\n{end}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


CONNECT = "from snapfs import client; client.connect('insecure:127.0.0.1:1').close()"
HEAVY = ("trio", "rich", "lmdb", "pyfuse3", "snapfs.service", "snapfs.volume", "asyncio.base_events", "tomlkit")


def test_a_command_through_a_daemon_imports_little() -> None:
    program = f"import snapfs_cli.main as m, snapfs_cli.create_cmd, snapfs_cli.session; m.build(); {CONNECT}"
    assert imported(program, *HEAVY) == ""


def test_a_hook_does_not_even_import_click() -> None:
    program = f"import snapfs_cli.git_hook; {CONNECT}"
    assert imported(program, "click", *HEAVY) == ""


class TerseDaemon(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Answers the calls of ``create``, ``checkout``, ``status`` and ``list``."""

    def service(self, details: Any) -> Any:
        made = snapshot_pb2.Snapshot(volume="v", name="s", git=snapshot_pb2.GitCommit(branch="main"))
        made.create_time.FromSeconds(1)
        answers = {
            "CreateSnapshot": snapshot_pb2.CreateSnapshotResponse(snapshot=made),
            "Checkout": volume_pb2.CheckoutResponse(snapshot=made, saved=made, moved=True),
            "GetVolume": volume_pb2.GetVolumeResponse(volume=volume_pb2.Volume(name="v", parent="v@s")),
            "ListVolumes": volume_pb2.ListVolumesResponse(volumes=[volume_pb2.Volume(name="v")]),
            "ListSnapshots": snapshot_pb2.ListSnapshotsResponse(snapshots=[made]),
        }
        name = details.method.rpartition("/")[2]
        if name == "Status":
            change = snapshot_pb2.Change(kind=snapshot_pb2.CHANGE_KIND_ADDED, type=snapshot_pb2.FILE_TYPE_FILE)
            answer = volume_pb2.StatusResponse(changes=[change]).SerializeToString()
            return grpc.unary_stream_rpc_method_handler(lambda *_: iter([answer]))
        return grpc.unary_unary_rpc_method_handler(lambda *_: answers[name].SerializeToString())


@pytest.mark.parametrize(
    "arguments",
    [["create"], ["create", "v", "-m", "x", "--git-commit"], ["checkout", "v@s"], ["status"], ["list", "v"]],
)
def test_verbs_that_are_run_most_import_next_to_nothing(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "control").mkdir()
    for command in (
        ["init", "-q"],
        ["-c", "user.name=a", "-c", "user.email=b", "commit", "-q", "--allow-empty", "-mx"],
    ):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    server = grpc.server(futures.ThreadPoolExecutor(2), handlers=[TerseDaemon()])
    server.add_insecure_port(f"unix:{tmp_path}/control/socket")
    server.start()
    try:
        line = [*arguments, "--store", str(tmp_path)]
        program = (
            f"import os; from snapfs_cli import main; out = os.dup(1); os.dup2(2, 1); assert main.run({line!r}) == 0"
        )
        barred = ("grpc", "click", "msgspec", "dataclasses", "inspect", "logging", "ctypes", "json", "snapfs.api")
        end = "sys.stdout.flush(); os.dup2(out, 1)"
        assert imported(f"{program}; {end}", *barred, *HEAVY) == ""
        line.append("--json")
        program = program.replace(repr(line[:-1]), repr(line))
        assert "msgspec" in imported(f"{program}; {end}", *barred).split()
    finally:
        server.stop(0).wait()


def test_no_message_that_others_are_made_of_is_deferred() -> None:
    """The pool of messages wants what a file imports before the file."""
    deferred = {name for name in startup.DEFERRED if name.startswith("snapfs.v1.")}
    needed = {
        f"{needed.name.removesuffix('.proto').replace('/', '.')}_pb2"
        for module in pkgutil.iter_modules(v1.__path__, "snapfs.v1.")
        if module.name.endswith("_pb2")
        for needed in importlib.import_module(module.name).DESCRIPTOR.dependencies
    }
    assert deferred
    assert not deferred & needed


def test_terse_calls_are_those_of_the_client() -> None:
    class Heard(Exception):
        pass

    class Ear:
        """A transport that hears one call."""

        heard: tuple[str, Any] = ("", None)

        def unary(self, method: str, request: Any, *_: Any, **__: Any) -> Any:
            if hasattr(request, "request_id"):
                assert len(request.request_id) == 32
                request.request_id = ""
            self.heard = method, request
            raise Heard

        stream = unary

        def close(self) -> None: ...

    def heard(kind: type[Any], name: str, parameters: dict[str, Any]) -> tuple[str, Any]:
        ear = Ear()
        with suppress(Heard):
            list(getattr(kind(ear), name)(**parameters))
        assert ear.heard[0]
        return ear.heard

    git = Facts("ab" * 20, "main", "subject", "A <a@b>", "remote", True)
    asked = {"branch": "b", "meta": {"a": "b"}, "created_from_ns": 1, "tag": "t"}
    page = {"volume": "v", "newest_first": True, "page_size": 5}
    given: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {
        "create_snapshot": [
            ({"volume": "v", "meta": {}}, {}),
            (
                {"volume": "v", "name": "n", "message": "m", "meta": {"a": "b"}, "git": git},
                {"git": api.GitCommit(**git._asdict())},
            ),
        ],
        "checkout": [
            ({"volume": "v", "snapshot": "s", "unsaved": number}, {"unsaved": api.Save(word)})
            for word, number in terse.UNSAVED.items()
        ],
        "get_volume": [({"name": "v"}, {})],
        "list_volumes": [({}, {})],
        "status": [({"volume": "v"}, {})],
        "diff": [({"volume": "v", "snapshot": "s", "other_volume": "w", "other": "t"}, {})],
        "list_snapshots": [
            ({**page, "filter": {}}, {"filter": None}),
            ({**page, "filter": asked}, {"filter": api.SnapshotFilter(**asked)}),  # type: ignore[arg-type]
        ],
        "list_ancestry": [({"volume": "v", "snapshot": "s"}, {})],
    }
    assert set(given) == {name for name in vars(terse.Terse) if not name.startswith("_")}
    assert set(terse.UNSAVED) == set(api.Save)
    for name, each in given.items():
        for parameters, otherwise in each:
            assert heard(terse.Terse, name, parameters) == heard(Client, name, parameters | otherwise)


def test_what_is_deferred_works_when_it_is_used() -> None:
    program = "import asyncio, grpc; asyncio.run(asyncio.sleep(0)); assert grpc.aio.insecure_channel"
    assert imported(program, "asyncio.base_events") == "asyncio.base_events"
