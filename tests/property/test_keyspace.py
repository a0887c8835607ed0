"""The versioned keyspace against dictionaries: any tree of epochs, frozen, branched, deleted and folded."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from snapfs.format import keys
from snapfs.store.index import items
from snapfs.types import Epoch, Ino, VolumeId
from snapfs.versions.difference import changed_inodes, changed_subjects, epochs_between
from snapfs.versions.epochs import ROOT, View
from snapfs.volume.lake import Lake

SUBJECTS = [
    *(keys.xattr(Ino(9000 + number % 2), b"%d" % number) for number in range(8)),
    *(keys.dirent(Ino(9000), b"%d" % number, 0) for number in range(2)),
]
VOLUME = VolumeId(999_999)


class KeyspaceMachine(RuleBasedStateMachine):
    """``heads`` take writes, ``frozen`` never change again; each with what it must show."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="snapfs-keyspace-"))
        Lake.create(self.directory / "store")
        self._open()
        self.heads: list[tuple[View, dict[bytes, bytes]]] = []
        self.frozen: list[tuple[View, dict[bytes, bytes]]] = []
        self.head(0)

    def _open(self) -> None:
        self.lake = Lake.open(self.directory / "store")
        self.core = self.lake.core
        self.tree = self.core.tree

    @rule(pick=st.integers(0))
    def head(self, pick: int) -> None:
        """A head of its own, or (a clone) on a frozen epoch."""
        parent, shown = ROOT, {}
        if self.frozen:
            view, shown = self.frozen[pick % len(self.frozen)]
            parent = view.epoch
        epoch = self.core.epochs.create(parent, VOLUME)
        self.heads.append((View(VOLUME, self.core.epochs.path(epoch), writable=True), dict(shown)))

    def _head(self, pick: int) -> tuple[View, dict[bytes, bytes]]:
        return self.heads[pick % len(self.heads)]

    @rule(pick=st.integers(0), subject=st.sampled_from(SUBJECTS), payload=st.binary(min_size=1, max_size=4))
    def put(self, pick: int, subject: bytes, payload: bytes) -> None:
        view, shown = self._head(pick)
        self.tree.put(view, subject, payload)
        shown[subject] = payload

    @rule(pick=st.integers(0), subject=st.sampled_from(SUBJECTS))
    def delete(self, pick: int, subject: bytes) -> None:
        view, shown = self._head(pick)
        self.tree.delete(view, subject)
        shown.pop(subject, None)

    @rule(pick=st.integers(0))
    def freeze(self, pick: int) -> None:
        view, shown = self._head(pick)
        epochs = self.core.epochs
        self.frozen.append((View(VOLUME, epochs.path(view.epoch, view.path), writable=False), dict(shown)))
        view.path = epochs.extend(view.path, epochs.create(view.epoch, VOLUME))

    @precondition(lambda self: self.frozen)
    @rule(pick=st.integers(0))
    def remove_frozen(self, pick: int) -> None:
        view, _ = self.frozen.pop(pick % len(self.frozen))
        self.core.epochs.doom(view.epoch)

    @precondition(lambda self: len(self.heads) > 1)
    @rule(pick=st.integers(0))
    def remove_head(self, pick: int) -> None:
        view, _ = self.heads.pop(pick % len(self.heads))
        self.core.epochs.doom(view.epoch)

    @rule(steps=st.integers(1, 10))
    def reclaim(self, steps: int) -> None:
        for _ in range(steps):
            self.lake.reclaim.step()

    @rule()
    def reopen(self) -> None:
        self.lake.index.commit()
        epochs = [view.epoch for view, _ in self.heads + self.frozen]
        self.lake.close()
        self._open()
        for (view, _), epoch in zip(self.heads + self.frozen, epochs, strict=True):
            view.path = self.core.epochs.path(epoch)

    @rule(one=st.integers(0), other=st.integers(0))
    def difference(self, one: int, other: int) -> None:
        views = self.heads + self.frozen
        (a, was), (b, now) = views[one % len(views)], views[other % len(views)]
        between = epochs_between(self.core.epochs, a.epoch, b.epoch)
        changed = list(changed_subjects(self.tree, between))
        assert changed == sorted(set(changed))
        assert {s for s in SUBJECTS if was.get(s) != now.get(s)} <= set(changed)
        some = set(changed_inodes(self.tree, between))
        assert some <= set(changed)
        assert {keys.split(s)[0] for s in some} == {keys.split(s)[0] for s in changed}
        assert {s for s in some if keys.split(s)[1] == keys.DIRENT} == {
            s for s in changed if keys.split(s)[1] == keys.DIRENT
        }

    @rule()
    def compare(self) -> None:
        for view, shown in self.heads + self.frozen:
            assert {s: self.tree.get(view, s) for s in SUBJECTS if self.tree.get(view, s)} == shown
            for ino in (Ino(9000), Ino(9001)):
                prefix = keys.head(ino, keys.XATTR)
                expected = sorted((s, p) for s, p in shown.items() if s.startswith(prefix))
                assert [(s, p) for s, _, p in self.tree.scan(view, prefix)] == expected
                part = [(s, p) for s, p in expected if b"2" <= keys.split_xattr(s) < b"6"]
                assert [(s, p) for s, _, p in self.tree.scan(view, prefix, b"2", b"6")] == part

    def check_tables(self) -> None:
        """Every version is in changes and the reverse; a tombstone hides something."""
        versions = {}
        for key, payload in items(self.core.index, "tree"):
            subject, epoch = key[: -keys.EPOCH_BYTES], keys.epoch_of(key)
            versions[epoch, subject] = payload
            if not payload:
                view = View(VOLUME, self.core.epochs.path(epoch), writable=False)
                assert self.tree.shows_through(view, subject)
        changes = {(Epoch(keys.from_u64(key)), key[8:]) for key, _ in items(self.core.index, "changes")}
        assert changes == versions.keys()

    def teardown(self) -> None:
        try:
            self.compare()
            self.check_tables()
            while self.lake.reclaim.step():
                pass
            self.compare()
            self.check_tables()
            for view, _ in self.heads + self.frozen:
                self.core.epochs.doom(view.epoch)
            while self.lake.reclaim.step():
                pass
            assert list(items(self.core.index, "tree")) == []
            assert self.core.epochs.all() == []
        finally:
            self.lake.close()
            shutil.rmtree(self.directory)


def test_keyspace() -> None:
    run_state_machine_as_test(
        KeyspaceMachine,
        settings=settings(
            deadline=None, max_examples=150, stateful_step_count=60, print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip
