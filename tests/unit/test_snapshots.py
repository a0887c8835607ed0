"""Snapshots by name and commit, checkouts, clones, carrying, restoring, removing: what the oracle does not ask."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import TypeVar

import pytest
import trio
import trio.testing

from snapfs import api
from snapfs.api import Change, GitCommit, Save
from snapfs.errors import (
    AlreadyExists,
    Conflict,
    Invalid,
    NameTooLong,
    NotADirectory,
    NotFound,
    ReadOnly,
    SnapfsError,
    Stale,
)
from snapfs.store.index import items
from snapfs.testing.engine import EngineSubject, nothing_open

COMMIT = "ab12" + "0" * 36
OTHER = "ab34" + "0" * 36

T = TypeVar("T")


def resolved(engine: EngineSubject, ref: str) -> str:
    return engine.lake.snapshots.resolve(engine.lake.volumes.get("data"), ref).name


def commit(engine: EngineSubject, number: str):
    return engine.run(
        lambda: engine.service.create_snapshot(volume="data", git=GitCommit(commit=number, subject="work"))
    )


class TestResolve:
    def test_a_commit_by_prefix(self, engine: EngineSubject) -> None:
        commit(engine, COMMIT)
        assert {resolved(engine, COMMIT[:size]) for size in (4, 7, 40)} == {COMMIT}
        for ref in ("ab1", "ab13", COMMIT + "0", ""):
            with pytest.raises(NotFound):
                resolved(engine, ref)

    def test_an_ambiguous_prefix(self, engine: EngineSubject) -> None:
        number = "ab12" + "f" * 36
        commit(engine, COMMIT)
        engine.chmod("data", (b"f",), 0o600)
        commit(engine, number)
        with pytest.raises(Invalid, match="ambiguous"):
            resolved(engine, "ab12")
        assert resolved(engine, "ab12f") == number

    def test_the_newest_of_a_commit_and_each_by_number(self, engine: EngineSubject) -> None:
        names = []
        for number in range(3):
            engine.write("data", (b"f",), 0, b"%d" % number)
            names.append(commit(engine, COMMIT).name)
        assert names == [COMMIT, f"{COMMIT}.2", f"{COMMIT}.3"]
        assert resolved(engine, COMMIT) == resolved(engine, "ab12") == names[2]
        assert [resolved(engine, f"ab12.{number}") for number in (1, 2, 3)] == names
        assert resolved(engine, f"{COMMIT}.2") == names[1]
        with pytest.raises(NotFound):
            resolved(engine, "ab12.4")
        engine.remove_snapshot("data", f"{COMMIT}.3")
        assert resolved(engine, "ab12") == names[1]

    def test_the_same_commit_with_the_same_data(self, engine: EngineSubject) -> None:
        assert commit(engine, COMMIT).created
        again = commit(engine, COMMIT)
        assert (again.name, again.created) == (COMMIT, False)
        engine.write("data", (b"f",), 0, b"x")
        assert commit(engine, COMMIT).name == f"{COMMIT}.2"

    def test_two_at_once_for_one_commit_make_one(self, engine: EngineSubject) -> None:
        made: list[tuple[str, bool]] = []

        async def create() -> None:
            snapshot = await engine.service.create_snapshot(volume="data", git=GitCommit(commit=COMMIT))
            made.append((snapshot.name, snapshot.created))

        async def play() -> None:
            async with trio.open_nursery() as nursery:
                for _ in range(4):
                    nursery.start_soon(create)

        engine.write("data", (b"f",), 0, bytes(100_000))
        engine.run(play)
        assert sorted(made) == [(COMMIT, False)] * 3 + [(COMMIT, True)]

    def test_near_names_are_suggested(self, engine: EngineSubject) -> None:
        engine.snapshot("data", "release-1")
        with pytest.raises(NotFound) as caught:
            resolved(engine, "relese-1")
        assert "release-1" in caught.value.hint

    def test_a_renamed_snapshot_keeps_its_commit(self, engine: EngineSubject) -> None:
        commit(engine, COMMIT)
        engine.rename_snapshot("data", "ab12", "named")
        assert resolved(engine, "ab12") == resolved(engine, "named") == "named"


@pytest.mark.parametrize("name", ["", ".", "..", ".snap", "a/b", "a@b", "-a", "a\nb", "\udc80", COMMIT])
def test_bad_snapshot_names(engine: EngineSubject, name: str) -> None:
    with pytest.raises(Invalid):
        engine.lake.snapshots.rename(*named(engine, "one"), name)
    if name:
        with pytest.raises(Invalid):
            engine.snapshot("data", name)
    if name != COMMIT:
        with pytest.raises(Invalid):
            engine.create_volume(name)


def named(engine: EngineSubject, name: str):
    engine.snapshot("data", name)
    volume = engine.lake.volumes.get("data")
    return volume, engine.lake.snapshots.resolve(volume, name)


def test_names_of_255_bytes(engine: EngineSubject) -> None:
    engine.snapshot("data", "é" * 127 + "x")
    engine.create_volume("x" * 255)
    for make in (lambda: engine.snapshot("data", "é" * 128), lambda: engine.create_volume("x" * 256)):
        with pytest.raises(NameTooLong):
            make()


def test_unsaved_changes(engine: EngineSubject) -> None:
    engine.snapshot("data", "one")
    engine.write("data", (b"f",), 0, b"new")
    with pytest.raises(Conflict):
        engine.checkout("data", "one", Save.REFUSE)
    assert engine.tree("data")[b"f",].content == b"new"

    async def checkout():
        return await engine.service.checkout(volume="data", snapshot="one", unsaved=Save.SAVE, label="main")

    done = engine.run(checkout)
    assert done.saved is not None
    assert done.saved.name.startswith("unsaved-")
    assert done.saved.name.endswith("-main")
    assert engine.tree("data")[b"f",].content == b""
    assert engine.tree("data", done.saved.name)[b"f",].content == b"new"
    assert engine.checkout("data", "one", Save.SAVE) == ""
    engine.write("data", (b"f",), 0, b"lost")
    assert engine.checkout("data", "one", Save.DISCARD) == ""
    assert engine.tree("data")[b"f",].content == b""


def test_what_is_unsaved_but_just_what_is_asked_for(engine: EngineSubject) -> None:
    """Nothing can be lost: no refusal."""
    engine.snapshot("data", "one")
    engine.make("data", (b"g",), "file", 0o644)
    engine.snapshot("data", "two")
    engine.unlink("data", (b"g",))
    engine.checkout("data", "one", Save.REFUSE)
    assert engine.status("data") == []


def test_directories_that_were_exchanged_are_unsaved(engine: EngineSubject) -> None:
    for name in (b"a", b"b"):
        engine.make("data", (name,), "directory", 0o755)
        engine.make("data", (name, b"x"), "file", 0o644)
    engine.snapshot("data", "one")
    engine.rename("data", (b"a",), (b"b",), noreplace=False, exchange=True)
    assert sorted((c.kind, c.old_path, c.path) for c in engine.status("data")) == [
        ("renamed", "a", "b"),
        ("renamed", "b", "a"),
    ]
    with pytest.raises(Conflict):
        engine.checkout("data", "one", Save.REFUSE)


def test_a_directory_renamed_over_another(engine: EngineSubject) -> None:
    """As results are replaced: what was there is deleted, what is there came along."""
    for name in (b"old", b"new"):
        engine.make("data", (name,), "directory", 0o755)
        engine.make("data", (name, b"x"), "file", 0o644)
    engine.snapshot("data", "one")
    engine.unlink("data", (b"old", b"x"))
    engine.rename("data", (b"new",), (b"old",), noreplace=False, exchange=False)
    assert [(c.kind, c.old_path, c.path) for c in engine.status("data")] == [
        ("renamed", "new", "old"),
        ("deleted", "", "old/x"),
    ]


class TestCarry:
    def carry(self, engine: EngineSubject, *pairs: tuple[str, str]):
        rewritten = [(old, GitCommit(commit=new)) for old, new in pairs]
        return engine.run(lambda: engine.service.carry_snapshots(volume="data", rewritten=rewritten))

    def test_a_rewritten_commit(self, engine: EngineSubject) -> None:
        engine.write("data", (b"f",), 0, b"then")
        commit(engine, COMMIT)
        engine.write("data", (b"f",), 0, b"now!")
        done = self.carry(engine, (COMMIT, OTHER), ("cd" * 20, "ef" * 20))
        assert [snapshot.name for snapshot in done.carried] == [OTHER]
        assert done.missing == ["cd" * 20]
        assert engine.tree("data", OTHER) == engine.tree("data", COMMIT)
        engine.remove_snapshot("data", COMMIT)
        engine.reclaim()
        assert engine.tree("data", OTHER)[b"f",].content == b"then"
        assert engine.tree("data")[b"f",].content == b"now!"

    def test_squashed_commits_and_one_that_has_a_snapshot(self, engine: EngineSubject) -> None:
        commit(engine, COMMIT)
        engine.write("data", (b"f",), 0, b"last")
        commit(engine, OTHER)
        new = "99" * 20
        assert len(self.carry(engine, (COMMIT, new), (OTHER, new)).carried) == 1
        assert engine.tree("data", new)[b"f",].content == b"last"
        assert self.carry(engine, (COMMIT, new)).carried == []

    def test_all_or_nothing(self, engine: EngineSubject) -> None:
        commit(engine, COMMIT)
        before = list(engine.listed("data"))
        with pytest.raises(Invalid, match="full commit"):
            self.carry(engine, (COMMIT, "cd" * 20), (COMMIT, "short"))
        assert list(engine.listed("data")) == before


def test_snapshots_are_read_only(engine: EngineSubject) -> None:
    volume, record = named(engine, "one")
    view, files = engine.lake.snapshots.view(record), engine.lake.files
    ino = files.lookup(view, volume.root, b"f").ino
    before = engine.tree("data", "one")
    for change in (
        lambda: files.mkdir(view, volume.root, b"d", mode=0o755, uid=0, gid=0),
        lambda: files.unlink(view, volume.root, b"f", is_open=nothing_open),
        lambda: files.setattr(view, ino, size=0),
        lambda: files.setxattr(view, ino, b"user.x", b""),
        lambda: files.link(view, ino, volume.root, b"g"),
        lambda: engine.run(lambda: files.write(view, ino, 0, b"x")),
    ):
        with pytest.raises(ReadOnly):
            change()
    assert engine.tree("data", "one") == before


def meanwhile(engine: EngineSubject, waiting, removing) -> list[type[Exception]]:
    """Errors of what waits for a volume that is held still, while something is removed."""
    raised: list[type[Exception]] = []

    async def wait() -> None:
        try:
            await waiting()
        except SnapfsError as error:
            raised.append(type(error))

    async def play() -> None:
        head = engine.lake.volumes.get("data").head
        async with trio.open_nursery() as nursery, engine.lake.writeback.hold(head):
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked(0.01)
            await removing()
            await engine.lake.reclaim_all()

    engine.run(play)
    return raised


def test_a_snapshot_that_goes_while_somebody_waits(engine: EngineSubject) -> None:
    """A half reclaimed snapshot must not become the head, nor be restored from."""
    service = engine.service
    engine.make("data", (b"g",), "file", 0o644)
    for waiting in (
        lambda: service.checkout(volume="data", snapshot="one", unsaved=Save.DISCARD),
        lambda: service.restore(volume="data", snapshot="one", paths=["g"]),
    ):
        engine.snapshot("data", "one")
        engine.chmod("data", (b"g",), 0o600)
        before = engine.tree("data")
        assert meanwhile(engine, waiting, lambda: service.delete_snapshot(volume="data", snapshot="one")) == [Stale]
        assert engine.tree("data") == before


def test_a_volume_that_goes_while_a_snapshot_waits(engine: EngineSubject) -> None:
    service = engine.service
    assert meanwhile(
        engine,
        lambda: service.create_snapshot(volume="data", name="one"),
        lambda: service.delete_volume(name="data", force=True),
    ) == [Stale]
    engine.reopen()
    assert engine.lake.volumes.names() == []


def test_what_goes_while_its_maker_waits_for_the_commit(
    engine: EngineSubject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was made: its maker is told so, not that something is wrong."""
    service, real = engine.service, engine.lake.commit
    engine.snapshot("data", "base")

    async def then_remove() -> None:
        """The commit, and what others did before who waited for it goes on."""
        monkeypatch.setattr(engine.lake, "commit", real)
        for name in engine.lake.volumes.names():
            await service.delete_volume(name=name, force=True)
        await engine.lake.reclaim_all()

    def doing(action: Callable[[], Awaitable[T]]) -> T:
        monkeypatch.setattr(engine.lake, "commit", then_remove)
        answer = engine.run(action)
        assert engine.lake.volumes.names() == []
        engine.create_volume("data")
        engine.make("data", (b"f",), "file", 0o644)
        engine.snapshot("data", "base")
        return answer

    assert doing(lambda: service.create_volume(name="new")).name == "new"
    assert doing(lambda: service.clone(volume="data", snapshot="base", name="new")).parent == "data@base"
    one = doing(lambda: service.create_snapshot(volume="data", name="one"))
    assert (one.name, one.parent, one.current) == ("one", "data@base", True)
    assert doing(lambda: service.rename_snapshot(volume="data", snapshot="base", name="one")).name == "one"
    assert doing(lambda: service.tag_snapshot(volume="data", snapshot="base", tag="one")).tags == ["one"]
    engine.chmod("data", (b"f",), 0o600)
    done = doing(lambda: service.checkout(volume="data", snapshot="base", unsaved=Save.SAVE))
    assert done.snapshot.current
    assert done.saved is not None


@pytest.mark.parametrize("kind", ["status", "diff"])
def test_a_volume_that_goes_while_it_is_compared(
    engine: EngineSubject, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Not: all of it was deleted."""
    engine.snapshot("data", "one")
    engine.clone("data", "one", "copy")
    real = engine.lake.commit

    async def then_remove() -> None:
        monkeypatch.setattr(engine.lake, "commit", real)
        await engine.service.delete_volume(name="copy", force=True)
        await engine.lake.reclaim_all()

    monkeypatch.setattr(engine.lake, "commit", then_remove)

    async def collect() -> list[Change]:
        if kind == "status":
            return [change async for change in engine.service.status(volume="copy")]
        return [change async for change in engine.service.diff(volume="data", snapshot="one", other_volume="copy")]

    with pytest.raises(Stale, match="volume was removed"):
        engine.run(collect)
    assert engine.lake.index.oldest_reader() is None


def test_a_status_is_of_the_snapshot_that_the_head_stands_on_then(
    engine: EngineSubject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkout comes between the call and the moment that is looked at."""
    engine.snapshot("data", "one")
    engine.write("data", (b"f",), 0, b"two")
    engine.snapshot("data", "two")
    real = engine.lake.commit

    async def then_checkout() -> None:
        monkeypatch.setattr(engine.lake, "commit", real)
        await engine.service.checkout(volume="data", snapshot="one")

    monkeypatch.setattr(engine.lake, "commit", then_checkout)
    assert engine.status("data") == []


@pytest.mark.parametrize("end", ["closed", "cancelled"])
def test_a_comparison_that_is_not_read_to_its_end_lets_go_of_the_past(engine: EngineSubject, end: str) -> None:
    """What it looks at keeps space from reuse until then."""
    engine.snapshot("data", "one")
    for number in range(100):
        engine.make("data", (b"%d" % number,), "file", 0o644)

    async def play() -> None:
        with trio.CancelScope() as scope:
            async with aclosing(engine.service.diff(volume="data", snapshot="one")) as changes:
                async for _ in changes:
                    assert engine.lake.index.oldest_reader() is not None
                    if end == "closed":
                        break
                    scope.cancel()
                    await trio.lowlevel.checkpoint()
        assert engine.lake.index.oldest_reader() is None

    engine.run(play)


def test_restored_files_share_blocks_and_links(engine: EngineSubject) -> None:
    engine.make("data", (b"d",), "directory", 0o750)
    engine.make("data", (b"d", b"big"), "file", 0o640)
    engine.write("data", (b"d", b"big"), 0, random.randbytes(1 << 20))
    engine.link("data", (b"d", b"big"), (b"d", b"link"))
    engine.snapshot("data", "one")
    stored, before = engine.stored_bytes(), engine.tree("data")
    for path in ((b"d", b"big"), (b"d", b"link")):
        engine.unlink("data", path)
    engine.rmdir("data", (b"d",))
    engine.restore("data", "one", (b"d",))
    assert engine.tree("data") == before
    assert engine.stored_bytes() == stored
    assert engine.status("data") == []
    with pytest.raises(NotFound):
        engine.restore("data", "one", (b"missing",))
    with pytest.raises(Invalid):
        engine.run(lambda: engine.service.restore(volume="data", snapshot="one", paths=["../d"]))


@pytest.mark.parametrize("change", ["content", "attribute", "nothing"])
def test_a_change_in_the_same_tick_of_the_clock_is_restored(engine: EngineSubject, change: str) -> None:
    """Its times are those of before."""
    engine.write("data", (b"f",), 0, b"before")
    engine.setxattr("data", (b"f",), b"user.one", b"before", create=False, replace=False)
    engine.flush()
    engine.snapshot("data", "one")
    view, ino = engine._resolve("data", (b"f",))
    files = engine.lake.files
    old = files.getattr(view, ino)
    if change == "content":
        engine.write("data", (b"f",), 0, b"behind")
        engine.flush()
    elif change == "attribute":
        engine.setxattr("data", (b"f",), b"user.one", b"behind", create=False, replace=False)
    files.setattr(view, ino, mtime_ns=old.mtime_ns, ctime_ns=old.ctime_ns)
    assert files.getattr(view, ino) == old
    restored = engine.run(lambda: engine.service.restore(volume="data", snapshot="one", paths=["f"]))
    assert restored.files == (change != "nothing")
    assert engine.tree("data") == engine.tree("data", "one")


@pytest.mark.parametrize("change", ["first gone", "second gone", "second moved", "third made"])
def test_hard_links_changed_in_the_same_tick_of_the_clock_are_restored(engine: EngineSubject, change: str) -> None:
    """The names of one file in the snapshot are names of one file again, and of no other."""
    first, second, third = (b"1",), (b"2",), (b"3",)
    engine.make("data", first, "file", 0o644)
    engine.write("data", first, 0, b"content")
    engine.link("data", first, second)
    engine.snapshot("data", "one")
    view, ino = engine._resolve("data", first)
    files = engine.lake.files
    old = files.getattr(view, ino)
    if change in ("second moved", "third made"):
        engine.link("data", first, third)
    if change != "third made":
        engine.unlink("data", first if change == "first gone" else second)
    files.setattr(view, ino, mtime_ns=old.mtime_ns, ctime_ns=old.ctime_ns)
    assert files.getattr(view, ino).ctime_ns == old.ctime_ns
    engine.restore("data", "one", ())
    links = {path: node.links for path, node in engine.tree("data").items() if path in (first, second, third)}
    assert links.pop(third, (third,)) == (third,)
    assert links == {first: (first, second), second: (first, second)}


def test_a_restore_that_something_is_in_the_way_of_changes_nothing(engine: EngineSubject) -> None:
    for path in ((b"d",), (b"d", b"e")):
        engine.make("data", path, "directory", 0o755)
    engine.make("data", (b"d", b"e", b"g"), "file", 0o644)
    engine.make("data", (b"h",), "directory", 0o755)
    engine.make("data", (b"h", b"i"), "file", 0o644)
    engine.snapshot("data", "one")

    def restore(*paths: str) -> api.Restored:
        return engine.run(lambda: engine.service.restore(volume="data", snapshot="one", paths=paths))

    engine.write("data", (b"f",), 0, b"new work")
    engine.unlink("data", (b"d", b"e", b"g"))
    engine.make("data", (b"d", b"e", b"g"), "directory", 0o755)
    engine.unlink("data", (b"h", b"i"))
    engine.rmdir("data", (b"h",))
    engine.make("data", (b"h",), "file", 0o644)
    before = engine.tree("data")
    for way, error in (("d/e/g", Invalid), ("d", Invalid), ("/", Invalid), ("h/i", NotADirectory)):
        with pytest.raises(error):
            restore("f", way)
        assert engine.tree("data") == before
    assert restore("f", "h", "h/i").files == 2  # the second clears the way for the third
    engine.rmdir("data", (b"d", b"e", b"g"))
    assert restore("d/e/g").files == 1
    assert engine.status("data") == []


def test_removing_volumes(engine: EngineSubject) -> None:
    engine.snapshot("data", "one")
    with pytest.raises(Conflict):
        engine.remove_volume("data", snapshots=False)
    engine.clone("data", "one", "clone")
    with pytest.raises(AlreadyExists):
        engine.clone("data", "one", "clone")
    engine.remove_volume("data", snapshots=True)
    engine.reclaim()
    assert (b"f",) in engine.tree("clone")


def test_nothing_stays_of_a_file_that_only_a_removed_snapshot_had(engine: EngineSubject) -> None:
    """Also of its records other than extents: they must not move on to the next epoch for ever."""

    def records_in_tree() -> int:
        return sum(1 for _ in items(engine.lake.index, "tree"))

    engine.reclaim()
    before = records_in_tree()
    engine.make("data", (b"g",), "file", 0o644)
    engine.setxattr("data", (b"g",), b"user.x", bytes(10_000), create=False, replace=False)
    engine.make("data", (b"s",), "symlink", 0o777, b"target")
    engine.snapshot("data", "one")
    engine.unlink("data", (b"g",))
    engine.unlink("data", (b"s",))
    engine.remove_snapshot("data", "one")
    engine.reclaim()
    assert records_in_tree() == before


def test_an_unlinked_open_file_stays_out_of_heads_that_start_from_the_snapshot(engine: EngineSubject) -> None:
    """No path leads to it, so it must not keep its blocks there for ever."""
    volume, files = engine.lake.volumes.get("data"), engine.lake.files
    engine.make("data", (b"temp",), "file", 0o600)
    ino = files.lookup(volume.head, volume.root, b"temp").ino
    engine.write("data", (b"temp",), 0, bytes(range(256)) * 1000)
    files.unlink(volume.head, volume.root, b"temp", is_open=lambda _: True)
    engine.run(lambda: engine.service.create_snapshot(volume="data", name="caught"))
    engine.run(lambda: engine.service.clone(volume="data", snapshot="caught", name="copy"))
    engine.write("data", (b"f",), 0, b"unsaved")
    engine.run(lambda: engine.service.checkout(volume="data", snapshot="caught", unsaved=Save.DISCARD))
    for name in ("data", "copy"):
        with pytest.raises(NotFound):
            files.getattr(engine.lake.volumes.get(name).head, ino)
    engine.remove_volume("copy", snapshots=True)  # of an epoch with two children nothing can go yet
    engine.remove_snapshot("data", "caught")
    engine.reclaim()
    assert engine.stored_bytes() == 0
