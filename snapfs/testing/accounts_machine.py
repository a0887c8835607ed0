"""The state machine that holds the accounts of a store against a count of what its views show (needs hypothesis).

Contents are few, so that blocks are shared by files, volumes and time; files change in every way that ends an extent's
life.  What is deleted may be in the trash, half reclaimed, or not at all: the figures must be right at every moment.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from snapfs import api
from snapfs.errors import AlreadyExists, Conflict, NotFound
from snapfs.store.index import items
from snapfs.testing import accounting
from snapfs.testing.accounting import Count, Seen
from snapfs.testing.engine import EngineSubject
from snapfs.testing.trees import FILE
from snapfs.types import PAGE_BYTES, Epoch, Ino
from snapfs.volume.limits import Limits

NAMES = st.sampled_from([b"a", b"b", b"c", b"d"])
PICKS = st.integers(0, 20)
SEEDS = st.integers(0, 3)
SIZES = st.sampled_from([1, 300, PAGE_BYTES, 10_000, 70_000, 300_000])
PAGES = st.lists(st.integers(0, 40), min_size=1, max_size=12)
"""More than is handled at once, in some of the tests."""

LIMITS = Limits(segment_bytes_max=512 * 1024)
"""Small segments, so that some empty and some are compacted."""

_MEMORY = "/dev/shm"
"""Thousands of stores are made and thrown away; no disk is needed for that."""

_REFUSALS = (AlreadyExists, Conflict, NotFound)


def content(seed: int, size: int) -> bytes:
    """Few of them; one is zeros, one compresses well."""
    if seed == 0:
        return bytes(size)
    data = random.Random(seed).randbytes(size if seed != 2 else min(size, 500))
    return (data * (size // len(data) + 1))[:size]


@dataclass(frozen=True)
class Target:
    """What can be deleted, by an address that nothing else has."""

    volume: str
    snapshot: str
    trashed: bool
    views: tuple[Seen, ...]

    @property
    def address(self) -> str:
        return f"{self.volume}@{self.snapshot}" if self.snapshot else self.volume


class AccountsMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self._directory = tempfile.TemporaryDirectory(
            prefix="snapfs-accounts-", dir=_MEMORY if os.access(_MEMORY, os.W_OK) else None
        )
        self.subject = EngineSubject(Path(self._directory.name) / "store", limits=LIMITS, trash_hours=24.0)

    def _attempt(self, action: Callable[[], object]) -> bool:
        """Whether it was done; what is not there, or there already, is no matter of this test."""
        try:
            action()
        except _REFUSALS:
            return False
        return True

    def _run(self, method: str, **kwargs: Any) -> Any:
        """A method of the service."""
        return self.subject.run(lambda: getattr(self.subject.service, method)(**kwargs))

    def _volume(self, pick: int) -> str:
        names = self.subject.lake.volumes.names()
        return names[pick % len(names)] if names else "none"

    def _snapshot(self, pick: int) -> tuple[str, str]:
        lake = self.subject.lake
        found = [(v.name, record.name) for v in lake.volumes.all() for record in lake.snapshots.all(v)]
        return found[pick % len(found)] if found else ("none", "none")

    # -- files

    @initialize()
    def first(self) -> None:
        self.subject.create_volume("data")
        self.subject.make("data", (b"a",), FILE, 0o644)
        self.subject.write("data", (b"a",), 0, content(1, 300_000))
        self.subject.snapshot("data", "s0")

    @rule(pick=PICKS, name=NAMES, seed=SEEDS, size=SIZES)
    def new_file(self, pick: int, name: bytes, seed: int, size: int) -> None:
        volume = self._volume(pick)
        if self._attempt(lambda: self.subject.make(volume, (name,), FILE, 0o644)):
            self.subject.write(volume, (name,), 0, content(seed, size))

    @rule(pick=PICKS, name=NAMES, seed=SEEDS, size=SIZES, offset=st.sampled_from([0, 100, 8192, 200_000]))
    def write(self, pick: int, name: bytes, seed: int, size: int, offset: int) -> None:
        self._attempt(lambda: self.subject.write(self._volume(pick), (name,), offset, content(seed, size)))

    @rule(pick=PICKS, name=NAMES, seed=SEEDS, pages=PAGES)
    def write_pages(self, pick: int, name: bytes, seed: int, pages: list[int]) -> None:
        """In place; equal pages now and then."""
        for page in pages:
            data = content(seed + page % 2, PAGE_BYTES)
            self._attempt(lambda at=page, data=data: self.subject.write(  # type: ignore[misc]
                self._volume(pick), (name,), at * PAGE_BYTES, data
            ))  # fmt: skip

    @rule(pick=PICKS, name=NAMES, size=st.sampled_from([0, 0, 50, 5000, 100_000]))
    def truncate(self, pick: int, name: bytes, size: int) -> None:
        self._attempt(lambda: self.subject.truncate(self._volume(pick), (name,), size))

    @rule(pick=PICKS, name=NAMES, seed=SEEDS, size=SIZES)
    def rewrite(self, pick: int, name: bytes, seed: int, size: int) -> None:
        """As ``open(name, "w")`` does."""
        if self._attempt(lambda: self.subject.truncate(self._volume(pick), (name,), 0)):
            self.subject.write(self._volume(pick), (name,), 0, content(seed, size))

    @rule(pick=PICKS, name=NAMES)
    def unlink(self, pick: int, name: bytes) -> None:
        self._attempt(lambda: self.subject.unlink(self._volume(pick), (name,)))

    @rule(pick=PICKS, name=NAMES)
    def unlink_open(self, pick: int, name: bytes) -> None:
        """Somebody has it open: it stays, without a path, until ``close_all``."""

        def unlink() -> None:
            volume = self.subject.lake.volumes.get(self._volume(pick))
            self.subject.lake.files.unlink(volume.head, volume.root, name, is_open=lambda _: True)

        self._attempt(unlink)

    @rule()
    def close_all(self) -> None:
        lake = self.subject.lake
        for volume in lake.volumes.all():
            for ino in list(lake.core.orphans(volume.head)):
                lake.files.drop(volume.head, Ino(ino))

    @rule(pick=PICKS, name=NAMES, new=NAMES)
    def link(self, pick: int, name: bytes, new: bytes) -> None:
        self._attempt(lambda: self.subject.link(self._volume(pick), (name,), (new,)))

    @rule(pick=PICKS, name=NAMES, new=NAMES, exchange=st.booleans())
    def rename(self, pick: int, name: bytes, new: bytes, exchange: bool) -> None:
        self._attempt(
            lambda: self.subject.rename(self._volume(pick), (name,), (new,), noreplace=False, exchange=exchange)
        )

    # -- volumes and snapshots

    @rule(name=st.sampled_from(["data", "more"]))
    def create_volume(self, name: str) -> None:
        self._attempt(lambda: self.subject.create_volume(name))

    @rule(pick=PICKS, name=st.sampled_from(["s0", "s1", "s2", "s3", "s4"]))
    def snapshot(self, pick: int, name: str) -> None:
        self._attempt(lambda: self.subject.snapshot(self._volume(pick), name))

    @rule(pick=PICKS, new=st.sampled_from(["clone", "again"]))
    def clone(self, pick: int, new: str) -> None:
        self._attempt(lambda: self.subject.clone(*self._snapshot(pick), new))

    @rule(pick=PICKS)
    def checkout(self, pick: int) -> None:
        self._attempt(lambda: self.subject.checkout(*self._snapshot(pick), api.Save.DISCARD))

    @rule(pick=PICKS, name=NAMES)
    def restore(self, pick: int, name: bytes) -> None:
        self._attempt(lambda: self.subject.restore(*self._snapshot(pick), (name,)))

    @rule(pick=PICKS, purge=st.booleans())
    def delete_snapshot(self, pick: int, purge: bool) -> None:
        volume, name = self._snapshot(pick)
        self._attempt(lambda: self._run("delete_snapshot", volume=volume, snapshot=name, purge=purge))

    @rule(pick=PICKS, purge=st.booleans())
    def delete_volume(self, pick: int, purge: bool) -> None:
        name = self._volume(pick)
        self._attempt(lambda: self._run("delete_volume", name=name, force=True, purge=purge))

    @rule(pick=PICKS, name=st.sampled_from(["", "", "u1", "u2"]))
    def undelete(self, pick: int, name: str) -> None:
        entries = self._run("list_trash")
        if entries:
            entry = entries[pick % len(entries)]
            what = {"snapshot": entry.snapshot} if entry.snapshot else {}
            method = "undelete_snapshot" if what else "undelete_volume"
            self._attempt(lambda: self._run(method, volume=entry.volume, name=name, **what))

    @rule(pick=PICKS, everything=st.booleans())
    def empty_trash(self, pick: int, everything: bool) -> None:
        entries = self._run("list_trash")
        if everything:
            assert self._run("empty_trash").entries == len(entries)
        elif entries:
            entry = entries[pick % len(entries)]
            self._attempt(lambda: self._run("empty_trash", volume=entry.volume, snapshot=entry.snapshot))

    # -- the store's life

    @rule(pick=PICKS, compression=st.sampled_from(["none", "zstd:1"]))
    def compression(self, pick: int, compression: str) -> None:
        self._attempt(lambda: self._run("update_volume", name=self._volume(pick), compression=compression))

    @rule(steps=st.integers(1, 10), commit=st.booleans())
    def reclaim_some(self, steps: int, commit: bool) -> None:
        """Batches of one version each; the work is left where they end."""
        self.subject.flush()
        for _ in range(steps):
            self.subject.lake.reclaim.step(0.0)
        if commit:
            self.subject.flush()

    @rule()
    def settle(self) -> None:
        self.subject.reclaim()

    @rule()
    def compact(self) -> None:
        self.subject.run(self.subject.lake.compact)

    @rule(pick=PICKS)
    def optimize(self, pick: int) -> None:
        self._attempt(lambda: self._run("optimize", volume=self._volume(pick)))

    @rule()
    def reopen(self) -> None:
        self.subject.reopen()

    @rule()
    def crash(self) -> None:
        self.subject.crash()

    @rule()
    def fsck(self) -> None:
        assert self.subject.fsck() == []

    # -- figures

    def _count(self) -> Count:
        self.subject.flush()
        return accounting.count(self.subject.lake)

    @rule()
    def usage(self) -> None:
        counted = self._count()
        wrong = accounting.differences(counted.volume_usages(), self._run("get_usage"))
        assert not wrong, "\n".join(wrong)

    @rule()
    def space(self) -> None:
        counted = self._count()
        space = self._run("get_space")
        expected = counted.space()
        assert {name: getattr(space, name) for name in expected} == expected
        assert space.disk_bytes == sum(
            getattr(space, name)
            for name in (
                "live_bytes", "snapshots_bytes", "trash_bytes", "deleting_bytes", "waiting_bytes", "seal_bytes",
                "index_bytes", "overhead_bytes",
            )
        )  # fmt: skip

    @rule(picks=st.lists(PICKS, min_size=1, max_size=4))
    def what_if(self, picks: list[int]) -> None:
        counted = self._count()
        chosen = self._chosen(counted, picks)
        if chosen:
            told = self._run("what_if", targets=[target.address for target in chosen])
            assert told.freed_bytes == counted.exclusive(_views(chosen))

    @rule(picks=st.lists(PICKS, min_size=1, max_size=4))
    def delete_and_see(self, picks: list[int]) -> None:
        """Stored bytes fall by exactly what was said."""
        self.subject.reclaim()
        chosen = self._chosen(self._count(), picks)
        told = self._run("what_if", targets=[target.address for target in chosen]).freed_bytes if chosen else 0
        self.subject.reclaim()
        before = self.subject.lake.core.blocks.space.stored_bytes
        for target in chosen:
            self._delete(target)
        self.subject.reclaim()
        assert before - self.subject.lake.core.blocks.space.stored_bytes == told

    def _delete(self, target: Target) -> None:
        if target.trashed:
            self._run("empty_trash", volume=target.volume, snapshot=target.snapshot)
        elif target.snapshot:
            self._run("delete_snapshot", volume=target.volume, snapshot=target.snapshot, purge=True)
        else:
            self._run("delete_volume", name=target.volume, force=True, purge=True)

    def _chosen(self, counted: Count, picks: Sequence[int]) -> list[Target]:
        """Targets of which none is in another."""
        targets = _targets(counted)
        chosen = list(dict.fromkeys(targets[pick % len(targets)] for pick in picks)) if targets else []
        whole = {target.volume for target in chosen if not target.snapshot}
        return [target for target in chosen if not target.snapshot or target.volume not in whole]

    @rule(part=st.floats(0, 1), pick=PICKS, everywhere=st.booleans())
    def cheapest(self, part: float, pick: int, everywhere: bool) -> None:
        counted = self._count()
        volume = "" if everywhere else self._volume(pick)
        candidates = [
            view for view in counted.seen
            if view.snapshot and not view.trashed and volume in ("", counted.volumes[view.volume][0])
            and view.epoch not in self._needed()
        ]  # fmt: skip
        most = counted.exclusive(candidates)
        wanted = max(1, round(most * part))
        try:
            told = self._run("cheapest", volume=volume, free_bytes=wanted)
        except NotFound:
            assert volume == "none"
            return
        except Conflict:
            assert not most
            return
        chosen = [view for view in candidates if f"{counted.volumes[view.volume][0]}@{view.snapshot}" in told.targets]
        assert len(chosen) == len(told.targets)
        assert told.freed_bytes == counted.exclusive(chosen)
        if len(candidates) <= 8:
            assert (len(chosen), told.freed_bytes) == counted.fewest(candidates, wanted)
        try:
            self._run("cheapest", volume=volume, free_bytes=most + 1)
        except Conflict:
            return
        raise AssertionError("more is promised than there is")

    def _needed(self) -> set[Epoch]:
        """Snapshots that are never proposed to be deleted: those that heads stand on, or were cloned from."""
        lake = self.subject.lake
        volumes = lake.volumes.everything()
        bases = filter(None, (lake.snapshots.base(volume) for volume in volumes))
        return {volume.origin for volume in volumes} | {base.epoch for base in bases}

    def teardown(self) -> None:
        try:
            self.usage()
            self.space()
            self.fsck()
            self.subject.reclaim()
            self.usage()
            self.space()
            self._empty()
        finally:
            self.subject.close()
            self._directory.cleanup()

    def _empty(self) -> None:
        for name in self.subject.lake.volumes.names():
            self._run("delete_volume", name=name, force=True, purge=True)
        self._run("empty_trash")
        self.subject.reclaim()
        self.subject.reclaim()
        assert self.subject.stored_bytes() == 0
        index = self.subject.lake.index
        left = {table: [key for key, _ in items(index, table)] for table in ("accounts", "account_ids", "unaccounted")}
        assert not any(left.values()), left
        self.fsck()


def _views(targets: Sequence[Target]) -> list[Seen]:
    return [view for target in targets for view in target.views]


def _targets(counted: Count) -> list[Target]:
    """Those whose address means nothing else; what is in the trash has its name only while nobody else has it."""
    by_name: dict[str, list[tuple[bool, list[Seen]]]] = {}
    for volume, (name, trashed) in counted.volumes.items():
        by_name.setdefault(name, []).append((trashed, counted.of_volume(volume)))
    found: list[Target] = []
    for name, owners in by_name.items():
        owner = _only([(trashed, views) for trashed, views in owners])
        if owner is None:
            continue
        trashed, views = owner
        found.append(Target(name, "", trashed, tuple(views)))
        if not trashed:
            by_snapshot: dict[str, list[tuple[bool, list[Seen]]]] = {}
            for view in views[1:]:
                by_snapshot.setdefault(view.snapshot, []).append((view.trashed, [view]))
            for snapshot, ones in by_snapshot.items():
                one = _only(ones)
                if one is not None:
                    found.append(Target(name, snapshot, one[0], tuple(one[1])))
    return found


def _only(owners: list[tuple[bool, list[Seen]]]) -> tuple[bool, list[Seen]] | None:
    live = [owner for owner in owners if not owner[0]]
    if live:
        return live[0]
    return owners[0] if len(owners) == 1 else None
