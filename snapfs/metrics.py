"""Metrics of a store and its daemon, as Prometheus wants them.

Invariants:
  * What must be counted while it happens is counted as plain numbers by who does it (``timings``); all else is looked
    up when somebody asks.  So nothing needs to be turned on, and nobody pays for metrics that nobody reads.
  * Names, units and labels are an interface: they are added to, never renamed.
  * Made on the trio thread, which the store belongs to.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

import snapfs
from snapfs.api import ScrubState
from snapfs.timings import BOUNDS_SECONDS, Timing, Timings
from snapfs.volume.lake import Lake

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""Of ``text``."""


_POLLING: Final = {
    "found": "Requests of the kernel that were awaited past the scheduler",
    "sleeps": "Requests of the kernel that the scheduler awaited",
    "passes": "How often other tasks went before the next request",
    "holds": "How often idle cores were kept awake",
    "held_seconds": "How long idle cores were kept awake",
}


class Metrics:
    """All metrics of one store.

    Args:
        fuse: requests of the kernel by operation; their outcomes are names of errors (errno).
        rpc: calls of the API by method; their outcomes are gRPC codes.
        open_files: how many files programs have open.
        polling: how the kernel's requests were awaited, by the names of ``_POLLING``.
    """

    def __init__(
        self,
        lake: Lake,
        *,
        fuse: Timings | None = None,
        rpc: Timings | None = None,
        open_files: Callable[[], int] = lambda: 0,
        polling: Callable[[], Mapping[str, float]] = dict,
    ) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Polling(polling))
        self._registry.register(_Store(lake, open_files))
        self._registry.register(
            _Requests("snapfs_fuse", fuse or Timings(), "operation", "errno", "Requests of the kernel", "errors")
        )
        self._registry.register(
            _Requests("snapfs_rpc", rpc or Timings(), "method", "code", "Calls of the API", "calls")
        )
        ProcessCollector(registry=self._registry)

    def text(self) -> str:
        """Text exposition format 0.0.4."""
        return generate_latest(self._registry).decode()


class _Polling(Collector):
    """How the kernel's requests were awaited."""

    def __init__(self, counts: Callable[[], Mapping[str, float]]) -> None:
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        counts = self._counts()
        for name, help_text in _POLLING.items():
            yield CounterMetricFamily(f"snapfs_polling_{name}", help_text, value=counts.get(name, 0))


class _Requests(Collector):
    """Durations and outcomes of one kind of requests."""

    def __init__(self, prefix: str, timings: Timings, name: str, outcome: str, what: str, counted: str) -> None:
        self._prefix = prefix
        self._timings = timings
        self._labels = (name, outcome)
        self._what = what
        self._counted = counted

    def collect(self) -> Iterator[Metric]:
        durations = HistogramMetricFamily(
            f"{self._prefix}_duration_seconds", f"{self._what}: how long they took", labels=self._labels[:1]
        )
        for name, timing in list(self._timings.by_name.items()):
            durations.add_metric([name], buckets=_buckets(timing), sum_value=timing.seconds)
        yield durations
        outcomes = CounterMetricFamily(
            f"{self._prefix}_{self._counted}", f"{self._what}: how they ended", labels=self._labels
        )
        for labels, count in list(self._timings.outcomes.items()):
            outcomes.add_metric(labels, count)
        yield outcomes


def _buckets(timing: Timing) -> list[tuple[str, float]]:
    """(upper bound, how many took at most that)."""
    total, found = 0, []
    for bound, count in zip((*BOUNDS_SECONDS, float("inf")), timing.counts, strict=True):
        total += count
        found.append(("+Inf" if bound == float("inf") else repr(bound), float(total)))
    return found


class _Store(Collector):
    """The store, and this process's uptime."""

    def __init__(self, lake: Lake, open_files: Callable[[], int]) -> None:
        self._lake = lake
        self._open_files = open_files
        self._started = time.monotonic()

    def collect(self) -> Iterator[Metric]:
        info = GaugeMetricFamily("snapfs_info", "Version of snapfs", labels=["version", "store"])
        info.add_metric([snapfs.__version__, self._lake.uuid], 1)
        yield info
        for name, help_text, value in self._gauges():
            yield GaugeMetricFamily(f"snapfs_{name}", help_text, value=value)
        blocks = self._lake.core.blocks
        yield CounterMetricFamily("snapfs_cache_hits", "Blocks found in the block cache", value=blocks.cache_hits)
        yield CounterMetricFamily(
            "snapfs_cache_misses", "Blocks not found in the block cache", value=blocks.cache_misses
        )
        yield CounterMetricFamily(
            "snapfs_damage_found", "Things that scrubs found wrong", value=self._lake.scrub.damage_found
        )
        commits = HistogramMetricFamily("snapfs_commit_duration_seconds", "Commits, from asked for to durable")
        commits.add_metric([], buckets=_buckets(self._lake.commit_timing), sum_value=self._lake.commit_timing.seconds)
        yield commits

    def _gauges(self) -> Iterator[tuple[str, str, float]]:
        lake, core = self._lake, self._lake.core
        volumes = lake.volumes.all()
        free_bytes, size_bytes = core.disk.free_bytes(lake.path)
        yield "uptime_seconds", "Since the daemon was started", time.monotonic() - self._started
        yield "failed", "1 when the store takes no more changes", float(lake.index.failure is not None)
        yield "volumes", "Volumes", len(volumes)
        yield "snapshots", "Snapshots of all volumes", sum(lake.snapshots.count(volume) for volume in volumes)
        yield "open_files", "Files that programs have open", self._open_files()
        yield "dirty_bytes", "Accepted from programs, not yet flushed", core.dirty_bytes
        yield "stored_bytes", "Live blocks in the segments, compressed", core.blocks.space.stored_bytes
        yield "logical_bytes", "Live blocks before compression", core.blocks.space.raw_bytes
        yield "seal_bytes", "Seals of snapshots in the segments", core.blocks.space.seal_bytes
        yield "index_bytes", "The index", lake.index.used_bytes()
        yield "disk_bytes", "The store's files", core.blocks.segments.disk_bytes() + lake.index.used_bytes()
        yield "free_bytes", "Free on the store's disk", free_bytes
        yield "size_bytes", "Size of the store's disk", size_bytes
        scrub = lake.scrub.status()
        yield "scrub_running", "1 while the store is scrubbed", float(scrub.state is ScrubState.RUNNING)
        yield "scrub_blocks", "Blocks that the scrub, or the last one, has to read", scrub.total
        yield "scrub_blocks_done", "Blocks of those that it has read", scrub.done
        yield "scrub_findings", "What the scrub, or the last one, found wrong", scrub.found
        yield "scrub_end_timestamp_seconds", "When the last scrub ended; 0 while one runs", scrub.end_ns / 1e9
