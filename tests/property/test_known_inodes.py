"""Remembered attributes of inodes against what the tree says: whatever happens to the epochs and to the transaction."""

from __future__ import annotations

import shutil

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import invariant, precondition, rule, run_state_machine_as_test

from snapfs.errors import IOFailure, NotFound
from snapfs.format import keys, records
from snapfs.format.records import Inode
from snapfs.types import Ino
from snapfs.versions import keyspace
from snapfs.versions.epochs import View
from tests.property.test_keyspace import KeyspaceMachine

INOS = [Ino(9100 + number) for number in range(4)]


class KnownInodesMachine(KeyspaceMachine):
    """As the keyspace's, with inodes whose attributes are read and written through the remembering way."""

    @rule(pick=st.integers(0), ino=st.sampled_from(INOS), size=st.integers(0, 3))
    def put_inode(self, pick: int, ino: Ino, size: int) -> None:
        view, _ = self._head(pick)
        self.core.put_inode(view, Inode(ino, 0o100644, 1, 0, 0, 0, size, 0, 1, 2, 3, 4))

    @rule(pick=st.integers(0), ino=st.sampled_from(INOS), size=st.integers(4, 6))
    def put_past_it(self, pick: int, ino: Ino, size: int) -> None:
        """As imports and repairs do."""
        view, _ = self._head(pick)
        inode = Inode(ino, 0o100600, 2, 0, 0, 0, size, 0, 1, 2, 3, 4)
        self.tree.put(view, keys.inode(ino), records.encode_inode(inode))

    @rule(pick=st.integers(0), ino=st.sampled_from(INOS), bury=st.booleans())
    def delete_inode(self, pick: int, ino: Ino, bury: bool) -> None:
        view, _ = self._head(pick)
        expected = self._plainly(view, ino)
        if bury and expected is not None:
            self.core.bury(view, expected)
        else:
            self.tree.delete(view, keys.inode(ino))
        assert self._plainly(view, ino) is None

    @rule(order=st.permutations(range(8)))
    def look(self, order: list[int]) -> None:
        views = [view for view, _ in self.heads + self.frozen]
        for number in order:
            view = views[number % len(views)]
            for ino in INOS:
                assert self._known(view, ino) == self._plainly(view, ino)

    def _known(self, view: View, ino: Ino) -> Inode | None:
        try:
            return self.core.inode(view, ino)
        except NotFound:
            return None

    def _plainly(self, view: View, ino: Ino) -> Inode | None:
        payload = self.tree.get(view, keys.inode(ino))
        return None if payload is None else records.decode_inode(ino, payload)

    @invariant()
    def what_is_remembered_is_so(self) -> None:
        views = {view.epoch: view for view, _ in self.heads + self.frozen}
        for subject, (epoch, version, inode) in self.tree.seen.items():
            if epoch in views:
                assert self.tree.find(views[epoch], subject) == (version, records.encode_inode(inode))

    @rule()
    def commit(self) -> None:
        self.lake.index.commit()

    @precondition(lambda self: self.frozen)
    @rule(pick=st.integers(0), head=st.integers(0))
    def checkout(self, pick: int, head: int) -> None:
        """The head goes on from a frozen epoch."""
        view, shown = self._head(head)
        base, was = self.frozen[pick % len(self.frozen)]
        left, epochs = view.epoch, self.core.epochs
        view.path = epochs.extend(epochs.path(base.epoch), epochs.create(base.epoch, view.volume_id))
        epochs.doom(left)
        shown.clear()
        shown.update(was)

    def compare(self) -> None:
        super().compare()
        self.look(list(range(8)))


def test_remembered_inodes_are_what_the_tree_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyspace, "SEEN_MAX", 3)  # less than there are: it is emptied now and then
    run_state_machine_as_test(
        KnownInodesMachine,
        settings=settings(
            deadline=None, max_examples=30, stateful_step_count=50, print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip


def test_a_failed_commit_takes_back_what_is_remembered() -> None:
    machine = KnownInodesMachine()
    try:
        machine.put_inode(0, INOS[0], 1)
        machine.commit()
        machine.put_inode(0, INOS[0], 2)
        view, _ = machine.heads[0]
        assert machine.core.inode(view, INOS[0]).size == 2
        machine.lake.index.fail(IOFailure("the disk broke"))
        assert machine.core.inode(view, INOS[0]).size == 1
    finally:
        machine.lake.close()
        shutil.rmtree(machine.directory)
