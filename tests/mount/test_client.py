"""The Python client with a real daemon: every method, blocking and for asyncio; events over a restart; who it is."""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
import time
from collections.abc import Iterator

import msgspec
import pytest

from snapfs import api, client, errors
from snapfs.client import Client
from snapfs.testing.mounted import MountedStore

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def store(mounted: MountedStore) -> Iterator[Client]:
    with client.connect(mounted.store, deadline=time.monotonic() + 50) as made:
        yield made


def test_volumes_and_snapshots(store: Client, mounted: MountedStore) -> None:
    (mounted.volume / "file").write_text("first")
    git = api.GitCommit(commit=COMMIT, branch="main", subject="s", author="Ada <ada@example.org>", dirty=True)
    one = store.create_snapshot(volume="data", git=git, message="m", meta={"k": "v"})
    assert (one.name, one.git, one.message, one.meta, one.created) == (COMMIT, git, "m", {"k": "v"}, True)
    assert not store.create_snapshot(volume="data", git=git).created
    assert store.get_snapshot(volume="data", snapshot=COMMIT[:6]).name == COMMIT
    (mounted.volume / "file").write_text("second")
    (mounted.volume / "\udcff").write_text("odd")
    assert {change.path for change in store.status(volume="data")} == {"file", "\udcff"}
    store.create_snapshot(volume="data", name="two")
    assert {change.path for change in store.diff(volume="data", snapshot=COMMIT, other="two")} == {"file", "\udcff"}
    assert store.tag_snapshot(volume="data", snapshot="two", tag="best").tags == ["best"]
    assert [found.name for found in store.list_snapshots(volume="data")] == [COMMIT, "two"]
    newest = store.list_snapshots(newest_first=True, page_size=1)
    assert [found.name for found in newest] == ["two", COMMIT]
    wanted = api.SnapshotFilter(branch="main")
    assert [found.name for found in store.list_snapshots(filter=wanted)] == [COMMIT]
    assert [found.name for found in store.list_ancestry(volume="data", snapshot="best", page_size=1)] == ["two", COMMIT]
    assert store.rename_snapshot(volume="data", snapshot="two", name="second").name == "second"
    store.delete_tag(volume="data", tag="best")
    done = store.checkout(volume="data", snapshot=COMMIT)
    assert (done.moved, done.saved, (mounted.volume / "file").read_text()) == (True, None, "first")
    assert store.restore(volume="data", snapshot="second", paths=["\udcff"]).files == 1
    with pytest.raises(errors.Conflict, match="unsaved"):
        store.checkout(volume="data", snapshot="second")
    carried = store.carry_snapshots(volume="data", rewritten=[(COMMIT, api.GitCommit(commit="f" * 40))])
    assert [made.name for made in carried.carried] == ["f" * 40]
    assert store.clone(volume="data", snapshot="second", name="copy").parent == "data@second"
    assert store.create_volume(name="more").snapshots == 0
    assert store.get_volume(name="more").name == "more"
    assert [volume.name for volume in store.list_volumes(page_size=1)] == ["copy", "data", "more"]
    store.delete_snapshot(volume="data", snapshot="f" * 40)
    store.delete_volume(name="copy", force=True)
    with pytest.raises(errors.NotFound) as missing:
        store.get_volume(name="moer")
    assert "more" in missing.value.message + missing.value.hint


def test_the_store(store: Client, mounted: MountedStore) -> None:
    info = store.get_store()
    assert (info.pid, info.mountpoint, info.path) == (mounted.pid, str(mounted.root), str(mounted.store))
    assert store.health()
    assert store.health(service="snapfs.v1.VolumeService")
    with pytest.raises(errors.NotFound):
        store.health(service="nope")
    settings = store.get_settings()
    assert len({setting.name for setting in settings.settings}) == len(settings.settings) > 3
    level = store.update_setting(name="log.level", value='"warning"')
    assert (level.value, level.configured) == ('"warning"', True)
    assert not store.update_setting(name="log.level", value="").configured
    with pytest.raises(errors.Invalid):
        store.update_setting(name="log.levle", value='"info"')
    assert store.reload_settings() == api.Reloaded(applied=[], waiting=[])
    assert store.get_metrics().startswith("# HELP")


def test_long_work(store: Client, mounted: MountedStore) -> None:
    (mounted.volume / "file").write_bytes(os.urandom(1_000_000))
    store.create_snapshot(volume="data", name="one")
    seen: list[tuple[int, int]] = []
    report = store.check_store(progress=lambda done, total: seen.append((done, total)))
    assert report.findings == []
    assert report.data_read_bytes >= 1_000_000
    assert seen[-1][0] == seen[-1][1] > 0
    started = store.start_check(request_id="mine")
    assert store.start_check(request_id="mine").id == started.id
    *_, last = store.watch_operation(id=started.id)
    assert last.state is api.OperationState.SUCCEEDED
    assert store.get_operation(id=started.id) == last
    assert last in store.list_operations()
    assert store.cancel_operation(id=started.id) == last
    with pytest.raises(errors.NotFound):
        store.get_operation(id="nope")


def test_callers(store: Client, mounted: MountedStore) -> None:
    assert store.get_caller() == api.Caller(name="owner", role=api.Role.ADMIN)
    made = store.create_token(name="ci", role=api.Role.OPERATOR, volumes=["data"])
    assert [token.name for token in store.list_tokens()] == ["ci"]
    with client.connect(mounted.store, token=made.secret) as narrow:
        assert narrow.get_caller().volumes == ["data"]
        narrow.create_snapshot(volume="data", name="one")
        with pytest.raises(errors.NotPermitted):
            narrow.create_volume(name="other")
        store.revoke_token(name="ci")
        with pytest.raises(errors.Unauthenticated):
            narrow.get_caller()
    with client.connect(f"unix:{mounted.store}/control/socket") as anybody:
        assert anybody.get_caller() == api.Caller(name="socket", role=api.Role.OPERATOR)
        with pytest.raises(errors.NotPermitted):
            anybody.list_tokens()
    entries = [(entry.caller, entry.result) for entry in store.list_audit_entries(caller="ci", page_size=1)]
    assert entries == [("ci", "OK"), ("ci", "NOT_PERMITTED")]


def test_one_key_makes_one_thing(store: Client) -> None:
    first, again = (store.create_snapshot(volume="data", name="one", request_id="k") for _ in range(2))
    unsealed = [msgspec.structs.replace(one, seal="") for one in (first, again)]  # it is sealed meanwhile
    assert unsealed[0] == unsealed[1]
    with pytest.raises(errors.Invalid, match="request_id"):
        store.create_snapshot(volume="data", name="two", request_id="k")
    with pytest.raises(errors.AlreadyExists):
        store.create_snapshot(volume="data", name="one")
    assert store.create_volume(name="v", request_id="k") == store.create_volume(name="v", request_id="k")


def test_events_over_a_restart(store: Client, mounted: MountedStore) -> None:
    """Each once and in order, whether the daemon ends in order or is killed."""
    seen: list[str] = []
    failures: list[BaseException] = []
    begun, done = threading.Event(), threading.Event()

    def watch() -> None:
        try:
            with client.connect(mounted.store) as watcher:
                for event in watcher.watch_events(kinds=[api.EventKind.SNAPSHOT_CREATED]):
                    seen.append(event.snapshot)
                    begun.set()
                    if event.snapshot == "last":
                        return
        except BaseException as error:
            failures.append(error)
        finally:
            done.set()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        for number in itertools.count():  # until it watches
            store.create_snapshot(volume="data", name=f"before{number}")
            if begun.wait(0.1):
                break
        mounted.remount()
        with client.connect(mounted.store) as other:
            other.create_snapshot(volume="data", name="after-restart")
        mounted.kill()
        mounted.mount()
        with client.connect(mounted.store) as other:
            other.create_snapshot(volume="data", name="after-kill")
            other.create_snapshot(volume="data", name="last")
        assert done.wait(30)
    finally:
        thread.join(30)
    assert failures == []
    made = [*(f"before{n}" for n in range(number + 1)), "after-restart", "after-kill", "last"]
    assert seen == made[made.index(seen[0]) :]


def test_a_daemon_that_ends_is_told(mounted: MountedStore) -> None:
    with client.connect(mounted.store) as one:
        one.create_snapshot(volume="data", name="one")  # which makes the volume durable too, and so told
        watcher = one.watch_events(resume=False, after=0)
        assert [next(watcher).kind for _ in range(2)] == [api.EventKind.VOLUME_CREATED, api.EventKind.SNAPSHOT_CREATED]
        mounted.umount()
        with pytest.raises((errors.Unavailable, errors.Cancelled)):
            next(watcher)
        with pytest.raises(errors.Unavailable, match="no daemon listens"):
            one.get_store()
    mounted.mount()


def test_asyncio(mounted: MountedStore) -> None:
    async def watch(store: client.AsyncClient, count: int) -> list[str]:
        seen: list[str] = []
        async for event in store.watch_events(kinds=[api.EventKind.SNAPSHOT_CREATED], after=0):
            seen.append(event.snapshot)
            if len(seen) == count:
                break
        return seen

    async def work() -> None:
        async with client.aconnect(mounted.store) as store:
            watching = asyncio.create_task(watch(store, 8))
            names = [f"s{number}" for number in range(8)]
            made = await asyncio.gather(*(store.create_snapshot(volume="data", name=name) for name in names))
            assert [one.name for one in made] == names
            assert sorted(await asyncio.wait_for(watching, 20)) == names
            assert {found.name async for found in store.list_snapshots(page_size=3)} == set(names)
            assert (await store.check_store()).findings == []
            (mounted.volume / "file").write_text("x")
            assert [change.path async for change in store.status(volume="data")] == ["file"]
            with pytest.raises(errors.NotFound):
                await store.get_volume(name="nope")
            assert (await store.get_caller()).name == "owner"

    asyncio.run(work())


def test_many_threads_share_a_client(store: Client) -> None:
    def make(number: int) -> None:
        store.create_snapshot(volume="data", name=f"s{number}")
        store.get_snapshot(volume="data", snapshot=f"s{number}")

    threads = [threading.Thread(target=make, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(store.list_snapshots())) == 16
