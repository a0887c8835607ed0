"""The verbs on space on a store without a daemon; spans of time; policies in words; long answers in parts."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
import trio

from snapfs import api, errors
from snapfs.testing.api_server import ApiServer
from snapfs.volume.lake import Lake
from snapfs_cli import exits, main, output
from snapfs_cli.policy_cmd import summary
from snapfs_cli.times import Span, span


class TestSpans:
    @pytest.mark.parametrize(
        ("text", "seconds"), [("45s", 45), ("90m", 5400), ("12h", 43_200), ("30d", 2_592_000), ("2w", 1_209_600)]
    )
    def test_as_typed(self, text: str, seconds: int) -> None:
        assert Span().convert(text, None, None) == seconds

    @pytest.mark.parametrize("text", ["", "30", "d", "0d", "-1h", "1.5h", "1 h", "1y", "2026-01-01", "9999999999d"])
    def test_what_is_none(self, text: str) -> None:
        with pytest.raises(click.BadParameter, match="no span of time"):
            Span().convert(text, None, None)

    @pytest.mark.parametrize(
        ("seconds", "told"),
        [(0, "0s"), (45, "45s"), (60, "1m"), (5400, "90m"), (7200, "2h"), (86_400, "1d"), (90_000, "25h")],
    )
    def test_in_words(self, seconds: int, told: str) -> None:
        assert span(seconds) == told


def test_policies_in_words() -> None:
    assert summary(None) == "none: all snapshots stay"
    assert summary(api.RetentionPolicy(last=3, daily=7)) == "keeps last 3; daily 7"
    policy = api.RetentionPolicy(within_seconds=86_400, reachable=True, repositories=["/a b", "/c\n"], distinct=2)
    assert summary(policy) == 'keeps distinct 2; within 1d; reachable in /a b, "/c\\n"'


class Shell:
    """Runs command lines in this process."""

    def __init__(self, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.store = store
        self._capsys = capsys

    def run(self, *arguments: str, code: int = 0) -> str:
        """stdout; of a failure the one line on stderr."""
        self._capsys.readouterr()
        got = main.run([*arguments, "--store", str(self.store)])
        out, err = self._capsys.readouterr()
        assert got == code, (arguments, got, out, err)
        assert err.count("\n") == (1 if code else 0), err
        return err if code else out


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    """A store with the volume ``data`` and its snapshot ``one``."""
    for name in list(os.environ):
        if name.startswith(("GIT_", "SNAPFS_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    Lake.create(tmp_path / "store")
    made = Shell(tmp_path / "store", capsys)
    made.run("volume", "create", "data")
    made.run("create", "data", "--name", "one")
    return made


class TestWithoutADaemon:
    """Each command opens the store, and what it changed is there for the next."""

    def test_the_trash(self, shell: Shell) -> None:
        assert shell.run("rm", "data@one", "data@one") == "removed data@one\n"
        assert "data@one" in shell.run("trash", "list")
        assert shell.run("undelete", "data@one") == "took back data@one\n"
        shell.run("rm", "data@one")
        assert shell.run("trash", "empty") == "1 gone for good\n"
        assert shell.run("trash", "empty") == "0 gone for good\n"
        shell.run("undelete", "data@one", code=exits.BY_KIND[errors.Kind.NOT_FOUND])

    def test_without_a_trash(self, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
        shell.run("config", "set", "trash.hours", "0")
        monkeypatch.setattr(output, "on_terminal", lambda: True)
        assert shell.run("rm", "data@one") == "removed data@one\n"
        assert "data@one" not in shell.run("trash", "list")

    def test_how_to_take_it_back_is_told_on_a_terminal(self, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(output, "on_terminal", lambda: True)
        assert shell.run("rm", "data@one").endswith("(to take it back: snap undelete data@one)\n")
        assert "snap undelete data)" in shell.run("volume", "rm", "data")

    def test_holds_and_locks(self, shell: Shell) -> None:
        shell.run("hold", "data@one", "--name", "paper")
        assert "paper" in shell.run("rm", "data@one", code=4)
        assert shell.run("hold", "data@one", "--name", "ci") == "data@one is held by ci, paper\n"
        assert shell.run("release", "data@one", "--name", "ci") == "data@one is held by paper\n"
        shell.run("release", "data@one", "--name", "paper")
        shell.run("lock", "data@one", "--for", "1h")
        assert "locked" in shell.run("rm", "--purge", "data@one", code=4)

    def test_space_and_policies(self, shell: Shell) -> None:
        assert re.search(r"^on disk +\S+ \S+  \S+ \S+ free$", shell.run("space"), re.MULTILINE)
        assert "head" in shell.run("du", "data")
        assert "0 B (0 bytes) would be freed" in shell.run("du", "--if-deleted", "data@one")
        assert shell.run("policy", "set", "data", "--last", "1") == "data  keeps last 1\n"
        assert "0 of 1 snapshots would go" in shell.run("policy", "apply", "--dry-run")
        assert "which --repository" in shell.run("policy", "set", "data", "--reachable", code=2)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[ApiServer]:
    one = ApiServer(tmp_path / "store")
    yield one
    one.stop()


class TestLongAnswers:
    """More than fits into one message of the API comes in several, and is one answer."""

    COUNT = 2500

    def test_usages(self, served: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
        def usage(volume: str, snapshot: str = "") -> api.Usage:
            return api.Usage(volume=volume, snapshot=snapshot, logical_bytes=1, referenced_bytes=2, exclusive_bytes=3)

        told = [
            api.VolumeUsage(
                volume=volume, logical_bytes=1, referenced_bytes=2, exclusive_bytes=3, snapshots_bytes=4,
                snapshots=count, head=usage(volume), usages=[usage(volume, str(number)) for number in range(count)],
            )
            for volume, count in (("none", 0), ("many", self.COUNT), ("one", 1))
        ]  # fmt: skip

        async def get_usage(*, volume: str, snapshots: bool) -> list[api.VolumeUsage]:
            return told

        monkeypatch.setattr(served.service, "get_usage", get_usage)
        with served.connect() as owner:
            assert owner.get_usage() == told

    def test_decisions_and_the_trash(self, served: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
        decisions = [
            api.Decision(volume="v", snapshot=str(number), created_ns=number, keep=bool(number % 2), reasons=["last"])
            for number in range(self.COUNT)
        ]
        report = api.RetentionReport(decisions=decisions, deleted=0, freed_bytes=5, dry_run=True, warnings=["w"])
        trash = [
            api.TrashEntry(volume="v", snapshot=str(number), deleted_ns=1, expires_ns=2, exclusive_bytes=3)
            for number in range(self.COUNT)
        ]

        async def apply_policy(**_: object) -> api.RetentionReport:
            return report

        async def list_trash(**_: object) -> list[api.TrashEntry]:
            return trash

        monkeypatch.setattr(served.service, "apply_policy", apply_policy)
        monkeypatch.setattr(served.service, "list_trash", list_trash)
        with served.connect() as owner:
            assert owner.apply_policy() == report
            assert owner.list_trash() == trash

    def test_an_archive_comes_in_parts_and_can_be_left(
        self, served: ApiServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pieces = [b"a" * 512, b"b" * 3_000_000, b"", b"c" * 10]
        ended: list[int] = []

        async def export_snapshot(**_: object):  # type: ignore[no-untyped-def] # an async generator
            try:
                for number, piece in enumerate([*pieces, *[b"d" * 1_000_000] * 200]):
                    yield piece
                    ended[:] = [number]
            finally:
                ended.append(-1)

        monkeypatch.setattr(served.service, "export_snapshot", export_snapshot)
        with served.connect() as owner:
            whole = list(owner.export_snapshot(volume="v", snapshot="s"))
            assert b"".join(whole) == b"".join(pieces) + b"d" * 200_000_000
            assert max(map(len, whole)) == 1 << 20
            assert len(whole) == -(-203_000_522 // (1 << 20))
            ended.clear()
            left = owner.export_snapshot(volume="v", snapshot="s")
            next(left)
            left.close()  # type: ignore[attr-defined] # a generator
            served.wait_for(lambda: ended[-1:] == [-1])
            assert ended[0] < 150


@pytest.mark.parametrize("verb", ["import_tree", "optimize"])
def test_long_work_tells_its_progress_and_can_be_cancelled(
    served: ApiServer, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    ended: list[str] = []

    async def work(*, progress: Callable[[int, int], None], **_: object) -> None:
        try:
            progress(3, 0)
            await trio.sleep_forever()
        finally:
            ended.append(verb)

    monkeypatch.setattr(served.service, verb, work)

    def leave(done: int, total: int) -> None:
        assert (done, total) == (3, 0)
        raise KeyboardInterrupt

    with served.connect() as owner:
        owner.create_volume(name="data")
        given = {"source": "/x"} if verb == "import_tree" else {}
        with pytest.raises(KeyboardInterrupt):  # who stops waiting cancels it
            getattr(owner, verb)(volume="data", progress=leave, **given)
        served.wait_for(lambda: ended == [verb])
        started = getattr(owner, {"import_tree": "start_import"}.get(verb, f"start_{verb}"))(volume="data", **given)
        assert started.kind == verb.partition("_")[0]
        owner.cancel_operation(id=started.id)
        *_, last = owner.watch_operation(id=started.id)
        assert last.state is api.OperationState.CANCELLED
        assert ended == [verb, verb]


def test_a_narrowed_caller_is_told_of_its_volumes_only(served: ApiServer) -> None:
    with served.connect() as owner:
        for volume in ("mine", "theirs"):
            owner.create_volume(name=volume)
            for name in ("one", "two"):
                owner.create_snapshot(volume=volume, name=name)
            owner.delete_snapshot(volume=volume, snapshot="two")
        secret = owner.create_token(name="narrow", role=api.Role.OPERATOR, volumes=["mine"]).secret
        owner.clone(volume="theirs", snapshot="one", name="copy")
        wide = owner.create_token(name="wide", role=api.Role.VIEWER, volumes=["copy"]).secret
    with served.connect(token=secret) as narrow:
        assert [one.volume for one in narrow.get_usage()] == ["mine"]
        assert [one.volume for one in narrow.list_trash()] == ["mine"]
        assert narrow.what_if(targets=["mine@one"]).targets == ["mine@one"]
        refused = [
            lambda: narrow.get_usage(volume="theirs"),
            lambda: narrow.list_trash(volume="theirs"),
            lambda: narrow.what_if(targets=["mine@one", "theirs@one"]),
            lambda: narrow.cheapest(free_bytes=1),
            lambda: narrow.get_space(),
            lambda: narrow.undelete_volume(volume="mine", name="theirs"),
            lambda: narrow.hold_snapshot(volume="theirs", snapshot="one", hold="x"),
            lambda: narrow.apply_policy(),
            lambda: narrow.delete_snapshot(volume="mine", snapshot="one", purge=True),
            lambda: narrow.lock_snapshot(volume="mine", snapshot="one", until_ns=1 << 62),
            lambda: narrow.empty_trash(volume="mine"),
            lambda: narrow.set_policy(volume="mine", policy=api.RetentionPolicy(reachable=True, repositories=["/x"])),
            lambda: narrow.import_tree(source="/", volume="mine"),
            lambda: list(narrow.export_snapshot(volume="theirs", snapshot="one")),
        ]
        for call in refused:
            with pytest.raises(errors.NotPermitted):
                call()
    with served.connect(token=wide) as viewer:
        assert viewer.get_volume(name="copy").origin == ""
