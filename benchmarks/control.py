"""Many clients at once: what do calls cost while programs use the mount, and what do those notice of it?

64 clients, each with a connection of its own, in 8 processes; a tenth of their 10,000 calls makes snapshots, the
others look.  Beside it the same number of clients on a bare gRPC server that answers with an empty message: the floor
of what grpcio and the machine allow.  Meanwhile one program writes, reads and lists files on the mount; its
operations are timed with and without the clients.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import math
import multiprocessing
import os
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks import harness
from benchmarks.harness import VOLUME, Options, Report

PROCESSES = 8
CLIENTS_EACH = 8
CALLS = 10_000
SNAPSHOT_SHARE = 0.1
FILES = 1000
FILE_BYTES = 4096
QUIET_SECONDS = 5.0
"""How long the file system's load is timed without clients."""
BARE = "/bare.Bare/Call"

Timings = dict[str, list[float]]


def _percentile(values: list[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(part * len(values)))]


# -- clients


def snapfs_calls(store: str, name: str, count: int) -> Timings:
    """One client's calls and the seconds that each took; any error ends the measurement."""
    from snapfs import client

    dice, timings = random.Random(name), Timings()
    with client.connect(store) as connection:
        looks: dict[str, Callable[[], object]] = {
            "get": lambda: connection.get_snapshot(volume=VOLUME, snapshot="base"),
            "volumes": lambda: list(connection.list_volumes()),
            "store": connection.get_store,
            "newest ten": lambda: connection.list_snapshots(volume=VOLUME, newest_first=True, page_size=10).__next__(),
        }
        connection.get_caller()
        for number in range(count):
            if dice.random() < SNAPSHOT_SHARE:
                kind = "create"
                begun = time.perf_counter()
                connection.create_snapshot(volume=VOLUME, name=f"{name}-{number}")
            else:
                kind = dice.choice(sorted(looks))
                begun = time.perf_counter()
                looks[kind]()
            timings.setdefault(kind, []).append(time.perf_counter() - begun)
    return timings


def bare_calls(address: str, _name: str, count: int) -> Timings:
    import grpc

    with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        call = channel.unary_unary(BARE)
        call(b"", wait_for_ready=True)
        seconds = []
        for _ in range(count):
            begun = time.perf_counter()
            call(b"")
            seconds.append(time.perf_counter() - begun)
    return {"call": seconds}


def process(calls: Callable[[str, str, int], Timings], where: str, number: int, count: int) -> list[Timings]:
    """The clients of one process."""
    with concurrent.futures.ThreadPoolExecutor(CLIENTS_EACH) as threads:
        futures = [threads.submit(calls, where, f"c{number}x{each}", count) for each in range(CLIENTS_EACH)]
        return [future.result() for future in futures]


def all_clients(calls: Callable[[str, str, int], Timings], where: str, total: int) -> tuple[Timings, float]:
    """Every call of all clients, and the seconds from the first to the last."""
    each = math.ceil(total / (PROCESSES * CLIENTS_EACH))
    merged = Timings()
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(PROCESSES, mp_context=spawn) as processes:
        list(processes.map(time.sleep, [0.2] * PROCESSES))  # all of them are started
        begun = time.perf_counter()
        for found in [processes.submit(process, calls, where, number, each) for number in range(PROCESSES)]:
            for timings in found.result():
                for kind, seconds in timings.items():
                    merged.setdefault(kind, []).extend(seconds)
        return merged, time.perf_counter() - begun


# -- the bare server


def serve_bare(socket: str) -> None:
    import grpc

    def answer(request: bytes, _context: object) -> bytes:
        return request

    handler = grpc.method_handlers_generic_handler("bare.Bare", {"Call": grpc.unary_unary_rpc_method_handler(answer)})
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(PROCESSES * CLIENTS_EACH))
    server.add_generic_rpc_handlers((handler,))
    server.add_insecure_port(f"unix:{socket}")
    server.start()
    print("ready", flush=True)
    server.wait_for_termination()


@contextlib.contextmanager
def bare_server(place: Path) -> Iterator[str]:
    socket = place / "bare"
    words = [sys.executable, "-m", "benchmarks.control", "--serve-bare", str(socket)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            server.stdout.readline()
            yield f"unix:{socket}"
        finally:
            server.terminate()


# -- the load on the mount


class Load:
    """A program that works on files until it is told to stop."""

    def __init__(self, volume: Path) -> None:
        self._directory = volume / "load"
        self._directory.mkdir()
        self._noise = os.urandom(64 * 1024)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.timings = Timings()

    def _run(self) -> None:
        number = 0
        while not self._ending.is_set():
            path = self._directory / f"{number % 100:03d}"
            self._time("write 64 KiB to a new file", partial(path.write_bytes, self._noise))
            self._time("read it", path.read_bytes)
            self._time("list 100 files", lambda: [entry.stat() for entry in os.scandir(self._directory)])
            self._time("unlink it", path.unlink)
            path.write_bytes(self._noise[:4096])
            number += 1

    def _time(self, kind: str, action: Callable[[], object]) -> None:
        self.timings.setdefault(kind, []).append(harness.timed(action))

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    def take(self) -> Timings:
        """What was timed since the last take."""
        taken, self.timings = self.timings, Timings()
        return taken


# -- the report


def body(report: Report, options: Options, place: Path) -> None:
    store = place / "store"
    harness.fill(store, files=options.scaled(FILES), payload_bytes=FILE_BYTES, size_bytes=FILE_BYTES)
    total = options.scaled(CALLS)
    with harness.mounted(store) as (mounted,):
        mounted.snap("create", VOLUME, "--name", "base")
        harness.settle()
        with Load(mounted.volume) as load:
            time.sleep(QUIET_SECONDS)
            alone = load.take()
            found, seconds = all_clients(snapfs_calls, str(store), total)
            beside = load.take()
        with bare_server(place) as address:
            bare, bare_seconds = all_clients(bare_calls, address, total)
    made = sum(map(len, found.values()))
    report.values("calls answered, none with an error", {"calls": [float(made)]}, unit="calls")
    report.values(f"{made} calls, all clients", {"snapfs": [seconds], "bare gRPC server": [bare_seconds]}, unit="s")
    for kind, values in sorted(found.items()):
        shown = {"median": [statistics.median(values)], "p99": [_percentile(values, 0.99)], "most": [max(values)]}
        report.values(f"call: {kind}", shown, unit="ms")
    floor = bare["call"]
    shown = {"median": [statistics.median(floor)], "p99": [_percentile(floor, 0.99)], "most": [max(floor)]}
    report.values("call: bare gRPC server", shown, unit="ms")
    for kind in alone:
        pair = {
            f"{when}, {name}": [_percentile(values, part)]
            for when, values in (("alone", alone[kind]), ("with clients", beside[kind]))
            for name, part in (("median", 0.5), ("p99", 0.99))
        }
        report.values(f"mount: {kind}", pair, unit="ms")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve-bare"]:
        serve_bare(sys.argv[2])
    else:
        question = "what do 64 clients get, and what does the mount notice of them?"
        sys.exit(harness.main(Report("control", question), body, repeats=1, scale=0.2))
