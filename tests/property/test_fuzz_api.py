"""Whatever request comes, as messages or as bytes: the answer is a response or a typed error, never one of a bug."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import trio
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from snapfs import api
from snapfs.access import OWNER, Access
from snapfs.config import Settings
from snapfs.errors import Kind, SnapfsError
from snapfs.operations import Operations
from snapfs.rpc import requests
from snapfs.rpc.dispatch import Dispatcher
from snapfs.testing.engine import EngineSubject
from snapfs.v1 import transfer_pb2

QUICK = settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
LONG = settings(max_examples=20_000, deadline=None, suppress_health_check=list(HealthCheck))

CALL_SECONDS_MAX = 20.0
"""For one call on a loaded machine."""
STREAM_SECONDS = 0.05
"""A stream that waits for news is left after this."""
NARROW = api.Caller(name="narrow", role=api.Role.OPERATOR, volumes=["data"])
VIEWER = api.Caller(name="viewer", role=api.Role.VIEWER)

TEXTS = st.one_of(
    st.sampled_from(
        [
            "",
            "data",
            "copy",
            "one",
            "two",
            "tag",
            "f",
            "d",
            "none",
            ".",
            "..",
            "/",
            "-",
            "--",
            ".snap",
            "a" * 40,
            "abcd",
            "a" * 300,
            "log.level",
            '"debug"',
            "daemon.stop_seconds",
            "1e999",
            "store.dirty_bytes_max",
            "x" * 5000,
            "\0",
            "\n\x1b[2J",
            "\u202e",
            "@",
            "a@b",
        ]
    ),
    st.text(max_size=20),
)
INTEGERS = st.sampled_from(
    [0, 1, -1, 2, 1000, 1001, (1 << 31) - 1, -(1 << 31), (1 << 63) - 1, -(1 << 63), (1 << 64) - 1]
)
_RANGES = {
    FieldDescriptor.TYPE_INT32: (-(1 << 31), (1 << 31) - 1),
    FieldDescriptor.TYPE_UINT32: (0, (1 << 32) - 1),
    FieldDescriptor.TYPE_INT64: (-(1 << 63), (1 << 63) - 1),
    FieldDescriptor.TYPE_UINT64: (0, (1 << 64) - 1),
}


def _value(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    """Of one item of a field."""
    if field.type == FieldDescriptor.TYPE_STRING:
        return TEXTS
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.binary(max_size=20) | st.sampled_from([b"f", b"d/g", b"d", b"", b"..", b"/", b"\0", b"x/" * 3000])
    if field.type == FieldDescriptor.TYPE_BOOL:
        return st.booleans()
    if field.type in (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT):
        return st.floats()
    if field.type == FieldDescriptor.TYPE_ENUM:
        return st.integers(-2, 20)
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        assert field.message_type
        return messages(field.message_type)
    least, most = _RANGES[field.type]
    return (st.integers(least, most) | INTEGERS).map(lambda number: min(max(number, least), most))


@st.composite
def messages(draw: st.DrawFn, kind: Descriptor) -> Message:
    """Any message of the type: some of its fields, each with anything it can hold."""
    message = GetMessageClass(kind)()
    for field in kind.fields:
        if not draw(st.integers(0, 3)):
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            for key in draw(st.lists(TEXTS, max_size=3)):
                getattr(message, field.name)[key] = draw(TEXTS)
        elif field.is_repeated:
            getattr(message, field.name).extend(draw(st.lists(_value(field), max_size=3)))
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            getattr(message, field.name).CopyFrom(draw(_value(field)))
        else:
            setattr(message, field.name, draw(_value(field)))
    return message


class Served:
    """A store, and its dispatcher made anew for every few calls."""

    def __init__(self, store: Path) -> None:
        self._engine = EngineSubject(store)
        self._source = store.parent / "source"
        self._source.mkdir()
        (self._source / "file").write_bytes(b"imported")
        self._engine.create_volume("data")
        self._engine.make("data", (b"f",), "file", 0o644)
        self._engine.make("data", (b"d",), "directory", 0o755)
        self._engine.make("data", (b"d", b"g"), "file", 0o644)
        self._engine.write("data", (b"f",), 0, b"content")
        self._engine.snapshot("data", "one")
        self.access, self.settings = Access(store), Settings(store)
        self.rpcs = self._dispatcher().rpcs

    def _dispatcher(self, operations: Operations | None = None) -> Dispatcher:
        return Dispatcher(
            self._engine.service,
            operations or Operations(),
            self.access,
            self.settings,
            metrics=str,
            sound=lambda: True,
        )

    def call(self, calls: list[tuple[str, Message | bytes, api.Caller]]) -> None:
        trio.run(self._call, calls)

    async def _call(self, calls: list[tuple[str, Message | bytes, api.Caller]]) -> None:
        operations = Operations()
        dispatcher = self._dispatcher(operations)
        async with trio.open_nursery() as nursery:
            await nursery.start(operations.run)
            for method, request, caller in calls:
                error: SnapfsError | None = None
                try:
                    with trio.fail_after(CALL_SECONDS_MAX):
                        await self._one(dispatcher, method, request, caller)
                except SnapfsError as caught:
                    error = caught
                if error is not None:
                    told = method, request, error.message
                    assert not error.message.startswith("internal error"), told
                    assert error.kind not in (Kind.IO, Kind.CORRUPT), told
                    assert len(error.message.splitlines()) == 1, told
            with trio.fail_after(CALL_SECONDS_MAX):
                await self._ended(operations)
            nursery.cancel_scope.cancel()

    async def _ended(self, operations: Operations) -> None:
        """Work that was started fails in order, too."""
        for started in operations.list():
            if started.kind in ("import", "optimize"):
                async for operation in operations.watch(started.id):
                    error = operation.error
                assert error is None or not error.message.startswith("internal error"), error

    async def _one(self, dispatcher: Dispatcher, method: str, request: Message | bytes, caller: api.Caller) -> None:
        rpc = dispatcher.rpcs[method]
        message = requests.parse(request, rpc.request) if isinstance(request, bytes) else request
        if isinstance(message, transfer_pb2.StartImportRequest) and message.source.startswith((b"/", b".")):
            message.source = os.fsencode(self._source)  # and not all of this machine
        if not rpc.streams:
            answer = await dispatcher.unary(method, message, caller, "test")
            assert isinstance(answer, rpc.response)
            return
        with trio.move_on_after(STREAM_SECONDS):
            async with aclosing(dispatcher.stream(method, message, caller, "test")) as answers:
                async for answer in answers:
                    assert isinstance(answer, rpc.response)

    def close(self) -> None:
        assert self._engine.fsck() == []
        self._engine.close()


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with tempfile.TemporaryDirectory(prefix="snapfs-fuzz-") as directory:
        one = Served(Path(directory) / "store")
        yield one
        one.close()


@st.composite
def _calls(draw: st.DrawFn, served: Served) -> list[tuple[str, Message | bytes, api.Caller]]:
    """A few calls, one after the other: of messages, of the bytes of messages with some changed, of any bytes."""
    found: list[tuple[str, Message | bytes, api.Caller]] = []
    for _ in range(draw(st.integers(1, 6))):
        method = draw(st.sampled_from(sorted(served.rpcs)))
        request: Message | bytes = draw(messages(served.rpcs[method].request.DESCRIPTOR))
        how = draw(st.integers(0, 9))
        if how == 0:
            request = draw(st.binary(max_size=60))
        elif how < 3:
            data = bytearray(request.SerializeToString())  # type: ignore[union-attr] # a message
            for _ in range(draw(st.integers(0, 3))):
                if data:
                    data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
            request = bytes(data)
        found.append((method, request, draw(st.sampled_from([OWNER, OWNER, OWNER, NARROW, VIEWER]))))
    return found


@st.composite
def _just(draw: st.DrawFn, served: Served, method: str) -> list[tuple[str, Message | bytes, api.Caller]]:
    return [(method, draw(messages(served.rpcs[method].request.DESCRIPTOR)), OWNER)]


def test_any_calls(served: Served) -> None:
    QUICK(given(_calls(served))(served.call))()


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_any_calls_for_long(served: Served) -> None:
    LONG(given(_calls(served))(served.call))()


def test_every_method_with_anything(served: Served) -> None:
    few = settings(QUICK, max_examples=8)
    for method in sorted(served.rpcs):
        few(given(_just(served, method))(served.call))()
