"""Metrics: what is counted, what is told, and the HTTP endpoint."""

from __future__ import annotations

import math
import socket
import threading
from collections.abc import AsyncIterator

import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

import snapfs
from snapfs.daemon import exporter
from snapfs.daemon.exporter import Exporter
from snapfs.errors import Unavailable
from snapfs.metrics import Metrics
from snapfs.testing.engine import EngineSubject
from snapfs.testing.served import free_port
from snapfs.timings import BOUNDS_SECONDS, Timing, Timings


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Value by name and labels; Prometheus's own parser takes nothing that is not its format."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def plain(text: str) -> dict[str, float]:
    return {name: value for (name, labels), value in samples(text).items() if not labels}


class TestTimings:
    def test_buckets(self) -> None:
        timing = Timing()
        for seconds in (0.0, BOUNDS_SECONDS[0], BOUNDS_SECONDS[0] * 1.01, 1.0, 1000.0):
            timing.add(seconds)
        assert timing.counts[0] == 2  # a bound belongs to its bucket
        assert timing.counts[1] == 1
        assert timing.counts[BOUNDS_SECONDS.index(1.0)] == 1
        assert timing.counts[-1] == 1
        assert sum(timing.counts) == 5
        assert math.isclose(timing.seconds, 1001 + 2.01 * BOUNDS_SECONDS[0])
        assert sorted(BOUNDS_SECONDS) == list(BOUNDS_SECONDS)

    def test_from_many_threads(self) -> None:
        timings = Timings()

        def work() -> None:
            for _ in range(5000):
                timings.observe("call", "OK", 0.001)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert timings.outcomes == {("call", "OK"): 40_000}
        assert sum(timings.by_name["call"].counts) == 40_000


class TestText:
    def test_the_store(self, engine: EngineSubject) -> None:
        metrics = Metrics(engine.lake, open_files=lambda: 7)
        engine.write("data", (b"f",), 0, b"x" * 100_000)
        before = plain(metrics.text())
        assert before["snapfs_dirty_bytes"] == 100_000
        assert before["snapfs_stored_bytes"] == 0
        engine.snapshot("data", "one")
        found = plain(metrics.text())
        assert found["snapfs_dirty_bytes"] == 0
        assert found["snapfs_logical_bytes"] == 100_000
        assert 0 < found["snapfs_stored_bytes"] < 100_000
        assert (found["snapfs_volumes"], found["snapfs_snapshots"], found["snapfs_open_files"]) == (1, 1, 7)
        assert found["snapfs_commit_duration_seconds_count"] > before["snapfs_commit_duration_seconds_count"]
        assert found["snapfs_commit_duration_seconds_sum"] > 0
        assert 0 < found["snapfs_free_bytes"] <= found["snapfs_size_bytes"]
        assert found["snapfs_failed"] == 0
        assert found["process_resident_memory_bytes"] > 1 << 20
        info = frozenset({("version", snapfs.__version__), ("store", engine.lake.uuid)})
        assert samples(metrics.text())["snapfs_info", info] == 1

    def test_the_cache(self, engine: EngineSubject) -> None:
        metrics = Metrics(engine.lake)
        engine.write("data", (b"f",), 0, b"x" * 10_000)
        engine.flush()
        view, ino = engine._resolve("data", (b"f",))
        for _ in range(3):
            engine.run(lambda: engine.lake.files.read(view, ino, 0, 10_000))
        found = plain(metrics.text())
        assert (found["snapfs_cache_misses_total"], found["snapfs_cache_hits_total"]) == (1, 2)

    def test_requests(self, engine: EngineSubject) -> None:
        fuse, rpc = Timings(), Timings()
        for seconds in (0.00002, 0.03, 100.0):
            fuse.add("read", seconds)
        fuse.outcomes["read", "EIO"] += 1
        rpc.observe("snapfs.v1.VolumeService/GetVolume", "NOT_FOUND", 0.2)
        found = samples(Metrics(engine.lake, fuse=fuse, rpc=rpc).text())

        def fuse_bucket(bound: str) -> float:
            labels = frozenset({("operation", "read"), ("le", bound)})
            return found["snapfs_fuse_duration_seconds_bucket", labels]

        assert [fuse_bucket(bound) for bound in ("1e-05", "2.5e-05", "0.025", "0.05", "10.0", "+Inf")] == [
            0, 1, 1, 2, 2, 3,
        ]  # fmt: skip
        read = frozenset({("operation", "read")})
        assert found["snapfs_fuse_duration_seconds_count", read] == 3
        assert found["snapfs_fuse_errors_total", read | {("errno", "EIO")}] == 1
        method = ("method", "snapfs.v1.VolumeService/GetVolume")
        assert found["snapfs_rpc_calls_total", frozenset({method, ("code", "NOT_FOUND")})] == 1
        assert found["snapfs_rpc_duration_seconds_count", frozenset({method})] == 1


class Served:
    """An exporter at a port."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.exporter = Exporter(lambda: "a 1\n", nursery)
        self.exporter.serve(self.address)

    async def ask(self, request: bytes, *, close: bool = False) -> bytes:
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        async with stream:
            await stream.send_all(request)
            if close:
                await stream.send_eof()
            answer = b""
            try:
                while part := await stream.receive_some():
                    answer += part
            except trio.BrokenResourceError:  # closed with bytes of ours unread
                pass
            return answer


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with trio.open_nursery() as nursery:
        yield Served(nursery)
        nursery.cancel_scope.cancel()


class TestExporter:
    async def test_get(self, served: Served) -> None:
        for path in (b"/metrics", b"/metrics?x=1"):
            answer = await served.ask(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n")
            head, _, body = answer.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.0 200 ")
            assert b"Content-Length: 4" in head
            assert b"version=0.0.4" in head
            assert body == b"a 1\n"
        assert (await served.ask(b"HEAD /metrics HTTP/1.1\r\n\r\n")).endswith(b"\r\n\r\n")

    @pytest.mark.parametrize(
        ("request_", "status"),
        [
            (b"GET / HTTP/1.1\r\n\r\n", b"404"),
            (b"POST /metrics HTTP/1.1\r\n\r\n", b"405"),
            (b"GET /metrics\r\n\r\n", b"400"),
            (b"\x16\x03\x01 what is it\r\n\r\n", b"400"),
        ],
    )
    async def test_refused(self, served: Served, request_: bytes, status: bytes) -> None:
        assert (await served.ask(request_)).split()[1] == status

    async def test_too_long(self, served: Served) -> None:
        header = b"x: " + b"y" * exporter.REQUEST_BYTES_MAX
        assert await served.ask(b"GET /metrics HTTP/1.1\r\n" + header + b"\r\n\r\n") == b""

    async def test_a_client_that_breaks_off(self, served: Served) -> None:
        assert await served.ask(b"GET /met", close=True) == b""
        assert await served.ask(b"GET /metrics HTTP/1.1\r\n\r\n")

    async def test_a_client_that_says_nothing(self, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(exporter, "CALL_SECONDS_MAX", 0.05)
        with trio.fail_after(10):
            assert await served.ask(b"GET ") == b""

    async def test_too_many(self, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(exporter, "CLIENTS_MAX", 1)
        silent = await trio.open_tcp_stream("127.0.0.1", served.port)
        async with silent:
            await silent.send_all(b"GET ")
            with trio.fail_after(10):
                while await served.ask(b"GET /metrics HTTP/1.1\r\n\r\n"):
                    await trio.sleep(0.01)
        with trio.fail_after(10):
            while not await served.ask(b"GET /metrics HTTP/1.1\r\n\r\n"):
                await trio.sleep(0.01)

    async def test_another_address(self, served: Served) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            with pytest.raises(Unavailable, match="in use"):
                served.exporter.serve(f"127.0.0.1:{taken.getsockname()[1]}")
            assert await served.ask(b"GET /metrics HTTP/1.1\r\n\r\n")
        other = free_port()
        served.exporter.serve(f"127.0.0.1:{other}")
        with trio.fail_after(10):
            while True:
                try:
                    await served.ask(b"GET /metrics HTTP/1.1\r\n\r\n")
                except OSError:
                    break
                await trio.sleep(0.01)
        served.port = other
        assert await served.ask(b"GET /metrics HTTP/1.1\r\n\r\n")
        served.exporter.serve("")
        with trio.fail_after(10):
            while True:
                try:
                    await served.ask(b"GET /metrics HTTP/1.1\r\n\r\n")
                except OSError:
                    break
                await trio.sleep(0.01)
        served.exporter.serve(f"127.0.0.1:{other}")
        assert await served.ask(b"GET /metrics HTTP/1.1\r\n\r\n")
