"""Names dropped by their nodes: the notice, and what is left to be dropped one by one."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Sequence

import pyfuse3
import pytest
import trio
import trio.testing

from snapfs.format import keys
from snapfs.fuse import kernel as kernel_module
from snapfs.fuse.handles import File, Handles
from snapfs.fuse.kernel import MountKernel
from snapfs.fuse.nodes import ROOT, Node, Nodes, Tree
from snapfs.fuse.prune import Pruner, message, portions, session_descriptor
from snapfs.testing.engine import EngineSubject
from snapfs.types import Ino
from snapfs.volume.touched import Touched

FILES = 40


def test_the_notice_as_linux_defines_it() -> None:
    nodes = [Node(7), Node(1 << 63)]
    length, code, unique, count, padding, spare, *numbers = struct.unpack("=IiQIIQ2Q", message(nodes))
    assert (length, code, unique) == (len(message(nodes)), 9, 0)
    assert (count, padding, spare) == (2, 0, 0)
    assert numbers == nodes


@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 1000, 5000])
def test_portions_are_all_of_it(count: int) -> None:
    nodes = [Node(number) for number in range(count)]
    found = portions(nodes)
    assert [node for portion in found for node in portion] == nodes
    assert all(1 <= len(portion) <= 64 for portion in found)
    assert len(found) >= min(count, 16)


def test_no_session_no_descriptor() -> None:
    assert session_descriptor() is None
    pruner = Pruner()
    pruner.begin()
    assert not pruner.works
    shared = portions([Node(1), Node(2)])
    pruner.prune(shared)
    assert len(shared) == 2


def test_a_kernel_that_refuses_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY | os.O_CLOEXEC)
    try:
        monkeypatch.setattr("snapfs.fuse.prune.session_descriptor", lambda: descriptor)
        pruner = Pruner()
        pruner.begin()
        assert pruner.works
        pruner.prune(portions([Node(1)]))
        assert not pruner.works
    finally:
        os.close(descriptor)


class Pruning(Pruner):
    """A kernel that knows the notice and forgets what is not pinned."""

    def __init__(self, nodes: Nodes, pinned: set[Node]) -> None:
        super().__init__()
        self.asked: list[Node] = []
        self._nodes = nodes
        self._pinned = pinned
        self.forgot: Callable[[], None] = lambda: None

    @property
    def works(self) -> bool:
        return True

    def prune(self, shared: list[Sequence[Node]]) -> None:
        while shared:
            portion = shared.pop()
            self.asked += portion
            trio.from_thread.run_sync(self._forget, [node for node in portion if node not in self._pinned])

    def _forget(self, nodes: list[Node]) -> None:
        for node in nodes:
            self._nodes.forget(node, 1)
        self.forgot()


class TestRefresh:
    """One file is in a directory of the mount for each inode; ``_names`` is told by the test."""

    @pytest.fixture
    def named(self, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
        """Names that the kernel is told to drop."""
        found: list[bytes] = []
        monkeypatch.setattr(pyfuse3, "invalidate_inode", lambda node: None)
        monkeypatch.setattr(pyfuse3, "invalidate_entry", lambda parent, name: found.append(name))
        return found

    def _replaced(self, engine: EngineSubject, files: int) -> tuple[MountKernel, Nodes, Handles, Tree, list[Ino]]:
        volume, nodes, handles = engine.lake.volumes.get("data"), Nodes(), Handles()
        tree = Tree(volume.id, volume.head, volume.root, ROOT, b"data")
        nodes.remember(tree)
        nodes.looked_up(tree.node(volume.root))
        kernel = MountKernel(engine.lake.files, nodes, handles, engine.path)
        kernel.device = 1
        inos = []
        for number in range(files):
            name = b"%d" % number
            inode = engine.lake.files.mknod(volume.head, volume.root, name, mode=0o100644, uid=0, gid=0)
            nodes.looked_up(tree.node(inode.ino), regular=True)
            inos.append(inode.ino)
        return kernel, nodes, handles, tree, inos

    async def _refresh(self, kernel: MountKernel, tree: Tree, inos: list[Ino]) -> None:
        outdated = kernel.outdate(tree.number, Touched().add(keys.inode(ino) for ino in inos))
        await kernel.refresh(outdated)

    async def test_what_the_kernel_forgot_is_not_named(self, engine: EngineSubject, named: list[bytes]) -> None:
        kernel, nodes, handles, tree, inos = self._replaced(engine, FILES)
        opened = tree.node(inos[5])
        handles.open_file(File(opened, tree.view, inos[5], writable=False))
        pinned = {opened, tree.node(inos[9])}
        kernel.pruner = pruner = Pruning(nodes, pinned)
        pruner.forgot = kernel.forgot
        await self._refresh(kernel, tree, inos)
        assert sorted(pruner.asked) == sorted(tree.node(ino) for ino in inos)
        assert sorted(named) == [b"5", b"9"]
        assert all(nodes.is_known(node) for node in pinned)

    async def test_a_kernel_that_cannot_is_told_every_name(self, engine: EngineSubject, named: list[bytes]) -> None:
        kernel, _, _, tree, inos = self._replaced(engine, FILES)
        assert not kernel.pruner.works
        await self._refresh(kernel, tree, inos)
        assert sorted(named) == sorted(b"%d" % number for number in range(FILES))

    async def test_few_are_named(self, engine: EngineSubject, named: list[bytes]) -> None:
        kernel, nodes, _, tree, inos = self._replaced(engine, 3)
        kernel.pruner = pruner = Pruning(nodes, set())
        await self._refresh(kernel, tree, inos)
        assert pruner.asked == []
        assert sorted(named) == [b"0", b"1", b"2"]

    async def test_a_touched_name_is_dropped_whatever_the_kernel_forgot(
        self, engine: EngineSubject, named: list[bytes]
    ) -> None:
        """It may be known not to exist."""
        kernel, nodes, _, tree, inos = self._replaced(engine, FILES)
        kernel.pruner = pruner = Pruning(nodes, set())
        pruner.forgot = kernel.forgot
        touched = Touched().add(keys.inode(ino) for ino in inos)
        touched.entries.append((tree.root, b"absent"))
        await kernel.refresh(kernel.outdate(tree.number, touched))
        assert named == [b"absent"]

    async def test_one_that_is_held_delays_no_more_than_a_moment(
        self, engine: EngineSubject, named: list[bytes], autojump_clock: trio.testing.MockClock
    ) -> None:
        """However many others were replaced: the kernel has said of those at once that it forgot them."""
        kernel, nodes, _, tree, inos = self._replaced(engine, 1000)
        kernel.pruner = pruner = Pruning(nodes, {tree.node(inos[0]), tree.node(inos[-1])})
        pruner.forgot = kernel.forgot
        began = trio.current_time()
        await self._refresh(kernel, tree, inos)
        assert trio.current_time() - began <= kernel_module._FORGET_SECONDS_MAX * 1.5
        assert sorted(named) == [b"0", b"999"]
