"""The books that the mount keeps: nodes, handles, errnos."""

from __future__ import annotations

import errno
import os
import sys
import tracemalloc

import pyfuse3
import pytest
import trio

from snapfs.errors import Corrupt, Kind, NoSpace, NotFound, Stale
from snapfs.format import keys
from snapfs.format.records import Inode
from snapfs.fuse import session
from snapfs.fuse.errnos import ERRNOS, request, waiting_request
from snapfs.fuse.handles import File, Handles
from snapfs.fuse.kernel import MountKernel
from snapfs.fuse.nodes import ROOT, SNAP_INO, Link, Node, Nodes, Tree, ino_of, tree_number
from snapfs.fuse.operations import Requests
from snapfs.testing.engine import EngineSubject
from snapfs.timings import Timings
from snapfs.types import INO_BITS, VIEW_BITS, Epoch, Ino, VolumeId
from snapfs.versions.epochs import Chain, Path, View
from snapfs.volume.touched import Touched


def tree(number: int = 5, *, writable: bool = True) -> Tree:
    view = View(VolumeId(number), Path(Chain([Epoch(1)]), Epoch(1)), writable=writable)
    return Tree(number=number, view=view, root=Ino(7), above=ROOT, name=b"data")


class TestErrnos:
    def test_every_kind_has_one(self) -> None:
        assert set(ERRNOS) == set(Kind)
        assert all(number in errno.errorcode for number in ERRNOS.values())

    @pytest.mark.parametrize(
        ("error", "number"),
        [
            (NotFound("x"), errno.ENOENT),
            (Stale("x"), errno.ESTALE),
            (Corrupt("x"), errno.EIO),
            (ZeroDivisionError(), errno.EIO),
            (pyfuse3.FUSEError(errno.ENOSYS), errno.ENOSYS),
        ],
    )
    async def test_nothing_else_leaves_a_handler(self, error: Exception, number: int) -> None:
        for name in ("handler", "waiting_handler"):
            handlers = Handlers(error, error)
            with pytest.raises(pyfuse3.FUSEError) as caught:
                await getattr(handlers, name)()
            assert caught.value.errno == number
            assert handlers.timings.outcomes == {(name, errno.errorcode[number]): 1}
            assert sum(handlers.timings.by_name[name].counts) == 1

    async def test_room_is_made_once_before_giving_up(self) -> None:
        for name in ("handler", "waiting_handler"):
            handlers = Handlers(NoSpace("full"), None)
            await getattr(handlers, name)()
            assert handlers.rooms_made == 1
            assert not handlers.timings.outcomes
            assert sum(handlers.timings.by_name[name].counts) == 1
            with pytest.raises(pyfuse3.FUSEError) as caught:
                await getattr(Handlers(NoSpace("full"), NoSpace("full")), name)()
            assert caught.value.errno == errno.ENOSPC


def test_a_handler_that_waits_is_refused_as_one_that_does_not() -> None:
    async def waits(self: Handlers) -> None:
        await self.make_room()

    with pytest.raises(AssertionError):
        request(waits)


class Handlers:
    """Fails as it is told, call after call."""

    def __init__(self, *outcomes: Exception | None) -> None:
        self.outcomes = list(outcomes)
        self.rooms_made = 0
        self.timings = Timings()

    async def make_room(self) -> None:
        self.rooms_made += 1

    def _next(self) -> None:
        error = self.outcomes.pop(0)
        if error is not None:
            raise error

    @request
    def handler(self) -> None:
        self._next()

    @waiting_request
    async def waiting_handler(self) -> None:
        await trio.lowlevel.checkpoint()
        self._next()


class TestNodes:
    def test_numbers_fit(self) -> None:
        largest = tree((1 << VIEW_BITS) - 1).node(Ino((1 << INO_BITS) - 1))
        assert largest == (1 << 64) - 1
        assert tree_number(largest) == (1 << VIEW_BITS) - 1
        assert ino_of(largest) == (1 << INO_BITS) - 1
        assert tree_number(ROOT) == 0
        assert ino_of(tree().node(SNAP_INO)) == 0

    def test_known_until_forgotten(self) -> None:
        nodes, one = Nodes(), tree()
        nodes.remember(one)
        node = one.node(Ino(9))
        for _ in range(3):
            nodes.looked_up(node)
        nodes.forget(node, 2)
        assert nodes.is_known(node)
        assert nodes.tree(node) is one
        nodes.forget(node, 1)
        assert not nodes.is_known(node)
        assert len(nodes) == 0
        with pytest.raises(Stale):
            nodes.tree(node)
        nodes.forget(node, 1)

    def test_what_is_unlinked_is_remembered_until_forgotten(self) -> None:
        nodes, one = Nodes(), tree()
        nodes.remember(one)
        node = one.node(Ino(9))
        gone = Inode(Ino(9), 0o100644, 1, 0, 0, 0, 5, 0, 0, 0, 0, 0)
        nodes.keep_attributes(node, gone)
        assert nodes.unlinked(node) is None  # the kernel does not know it
        nodes.looked_up(node, regular=True)
        nodes.keep_attributes(node, gone)
        found = nodes.unlinked(node)
        assert found is not None
        assert (found.nlink, found.size) == (0, 5)
        again = nodes.node(one, Ino(9))
        assert again != node
        assert nodes.ordinary(again) == node
        assert nodes.is_retired(node)
        nodes.looked_up(again)
        nodes.forget(node, 1)
        assert nodes.unlinked(node) is None
        assert nodes.node(one, Ino(9)) == again
        nodes.forget(again, 1)
        assert nodes.node(one, Ino(9)) == node
        assert len(nodes) == 0

    def test_place_and_whether_it_is_there(self) -> None:
        nodes, one = Nodes(), tree()
        file = one.node(Ino(9))
        assert nodes.place(file) is None  # its tree is not known
        nodes.remember(one)
        assert nodes.place(file) == (one, Ino(9))
        assert nodes.place(ROOT) is None
        assert nodes.place(one.node(SNAP_INO)) is None
        nodes.looked_up(file, regular=True)
        assert nodes.is_there(file)
        nodes.retire(one, [Ino(9)])
        spare = nodes.node(one, Ino(9))
        assert not nodes.is_there(file)
        assert nodes.is_there(spare)
        assert nodes.place(spare) == nodes.place(file) == (one, Ino(9))
        nodes.looked_up(spare, regular=True)
        nodes.keep_attributes(spare, Inode(Ino(9), 0o100644, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0))
        assert not nodes.is_there(spare)
        one.view.gone = True
        assert nodes.place(spare) is None

    def test_a_gone_volume_is_stale(self) -> None:
        nodes, one = Nodes(), tree()
        nodes.remember(one)
        nodes.looked_up(one.node(Ino(9)))
        one.view.gone = True
        with pytest.raises(Stale):
            nodes.tree(one.node(Ino(9)))

    def test_replaced_files_get_another_number(self) -> None:
        nodes, one = Nodes(), tree()
        nodes.remember(one)
        file, directory = one.node(Ino(1)), one.node(Ino(2))
        both = [Ino(1), Ino(2)]
        assert nodes.retire(one, both) == ({}, [])
        nodes.looked_up(file, regular=True)
        nodes.looked_up(directory)
        assert nodes.retire(one, both) == ({file: 1}, [directory])
        assert nodes.node(one, Ino(2)) == directory
        second = nodes.node(one, Ino(1))
        assert second != file
        assert nodes.is_retired(file)
        assert not nodes.is_retired(second)
        assert nodes.ordinary(second) == file
        assert nodes.tree(second) is one
        nodes.looked_up(second, regular=True)
        nodes.forget(file, 1)
        assert nodes.node(one, Ino(1)) == second
        assert nodes.retire(one, both) == ({second: 1}, [directory])
        third = nodes.node(one, Ino(1))
        assert third not in (file, second)
        nodes.forget(second, 1)
        assert nodes.node(one, Ino(1)) == file
        nodes.forget(directory, 1)
        assert len(nodes) == 0
        assert all(not kept for kept in vars(nodes).values() if isinstance(kept, dict | set))

    def test_the_old_number_is_not_used_while_the_kernel_knows_it(self) -> None:
        nodes, one = Nodes(), tree()
        nodes.remember(one)
        file = one.node(Ino(1))
        nodes.looked_up(file, regular=True)
        assert nodes.retire(one, [Ino(1)]) == ({file: 1}, [])
        for _ in range(3):
            spare = nodes.node(one, Ino(1))
            assert spare != file
            nodes.looked_up(spare, regular=True)
            nodes.forget(spare, 1)
        nodes.forget(file, 1)
        assert nodes.node(one, Ino(1)) == file
        assert all(not kept for kept in vars(nodes).values() if isinstance(kept, dict | set))

    def test_a_link_keeps_its_node_while_it_is_known(self) -> None:
        nodes = Nodes()
        link = Link(above=Node(5 << INO_BITS), target=b"x")
        node = nodes.link_node(link)
        nodes.looked_up(node)
        assert nodes.link_node(link) == node
        assert nodes.link(node) == link
        nodes.forget(node, 1)
        assert nodes.link(node) is None
        assert nodes.link_node(link) != node

    def test_a_million_nodes_are_small(self) -> None:
        nodes, one = Nodes(), tree()
        nodes.remember(one)
        count = 100_000
        tracemalloc.start()
        try:
            for number in range(count):
                nodes.looked_up(one.node(Ino(number + 1000)), regular=True)
            used, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert used / count < 200, sys.version


class TestHandles:
    def test_the_last_handle_of_an_unlinked_file_drops_it(self) -> None:
        handles, one = Handles(), tree()
        node = one.node(Ino(9))
        numbers = [handles.open_file(File(node, one.view, Ino(9), writable=True)) for _ in range(2)]
        assert numbers[0] != numbers[1]
        assert handles.keep_unlinked(node)
        assert handles.close_file(numbers[0])[1] is False
        assert handles.close_file(numbers[1])[1] is True
        assert not handles.keep_unlinked(node)
        with pytest.raises(Stale):
            handles.file(numbers[0])

    def test_stale_handles_do_not_count(self) -> None:
        handles, one = Handles(), tree()
        node = one.node(Ino(9))
        old = handles.open_file(File(node, one.view, Ino(9), writable=True))
        assert handles.outdate(node)
        with pytest.raises(Stale):
            handles.file(old).check()
        assert not handles.is_open(node)
        assert handles.written() == []
        new = handles.open_file(File(node, one.view, Ino(9), writable=True))
        handles.file(new).check()
        assert handles.keep_unlinked(node)
        assert handles.close_file(old)[1] is False
        assert handles.close_file(new)[1] is True

    def test_of_replaced_files_only_those_that_are_open_lose_their_pages(self, engine: EngineSubject) -> None:
        """The others go with their names, which the kernel forgets."""
        nodes, handles, one = Nodes(), Handles(), tree()
        nodes.remember(one)
        kernel = MountKernel(engine.lake.files, nodes, handles, engine.path)
        kernel.device = 1
        for ino, regular in ((1, False), (8, True), (9, True)):
            nodes.looked_up(one.node(Ino(ino)), regular=regular)
        handles.open_file(File(one.node(Ino(9)), one.view, Ino(9), writable=False))
        touched = Touched().add([keys.inode(Ino(ino)) for ino in (1, 8, 9, 10)])
        outdated = kernel.outdate(one.number, touched)
        assert outdated is not None
        assert set(outdated.nodes) == {one.node(Ino(1)), one.node(Ino(9))}
        assert outdated.replaced == {one.node(Ino(8)): 8, one.node(Ino(9)): 9}
        assert nodes.is_retired(one.node(Ino(8)))
        assert nodes.is_retired(one.node(Ino(9)))

    def test_one_writable_handle_a_node_is_enough(self) -> None:
        handles, one = Handles(), tree()
        for ino in (1, 1, 2):
            handles.open_file(File(one.node(Ino(ino)), one.view, Ino(ino), writable=True))
        handles.open_file(File(one.node(Ino(3)), one.view, Ino(3), writable=False))
        assert sorted(file.ino for file in handles.written()) == [1, 2]


async def test_a_removal_that_failed_leaves_the_file(engine: EngineSubject, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was open, and so was to be kept without links."""
    lake, nodes, handles = engine.lake, Nodes(), Handles()
    volume = lake.volumes.get("data")
    requests = Requests(lake, nodes, handles, MountKernel(lake.files, nodes, handles, engine.path), xattrs=False)
    head = Tree(volume.id, volume.head, volume.root, ROOT, b"data")
    nodes.remember(head)
    root, context = head.node(volume.root), pyfuse3.RequestContext()
    nodes.looked_up(root)
    opened, entry = await requests.create(root, b"file", 0o644, os.O_RDWR, context)

    def damaged(*_: object, **__: object) -> None:
        raise Corrupt("an older record is damaged")

    with monkeypatch.context() as patched:
        patched.setattr(lake.files, "_take", damaged)
        with pytest.raises(pyfuse3.FUSEError):
            await requests.unlink(root, b"file", context)
    await requests.release(opened.fh)
    assert (await requests.getattr(entry.st_ino, context)).st_nlink == 1
    await requests.open(entry.st_ino, os.O_RDONLY, context)


def test_a_mount_that_ends_while_a_request_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ends(error: OSError) -> None:
        raise ExceptionGroup("the workers", [error])

    monkeypatch.setattr("pyfuse3.main", lambda **_: ends(ConnectionAbortedError()))
    trio.run(session._answer)
    monkeypatch.setattr("pyfuse3.main", lambda **_: ends(OSError(errno.EIO, "fuse_session_receive_buf failed")))
    with pytest.raises(ExceptionGroup):
        trio.run(session._answer)
