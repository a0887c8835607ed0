"""An index that is looked over beside the mount: what says something of it, and what does not."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import trio

from snapfs.errors import IOFailure
from snapfs.store import hidden, verify
from snapfs.store.index import Index
from snapfs.store.pages import odd_pages
from snapfs.testing.engine import EngineSubject
from snapfs.volume import doubt
from snapfs.volume.events import EventLog
from snapfs.volume.turns import Turns


@pytest.mark.parametrize(
    ("how", "condemned"),
    [("kill -TERM $$", False), ("kill -INT $$", False), ("kill -KILL $$", False), ("exit 1", False),
     ("kill -SEGV $$", True), ("echo '[\"page 7 is wrong\"]'", True)],
)  # fmt: skip
def test_only_damage_makes_a_store_refuse_changes(
    how: str, condemned: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that is stopped, or ^C, ends the child before the daemon: what was written is not dropped for that."""
    monkeypatch.setattr(hidden, "command", lambda directory: ["sh", "-c", how])
    engine = EngineSubject(tmp_path / "store")
    engine.create_volume("data")
    engine.lake.index.verified = False

    core = engine.lake.core
    engine.run(lambda: doubt.look_over(core.index, core.events, engine.lake.commit))
    assert (engine.lake.index.failure is not None) == condemned
    if not condemned:
        engine.make("data", (b"after",), "file", 0o600)
        engine.flush()
    engine.close()


def test_an_answer_that_was_cut_short_is_none() -> None:
    assert verify.answer(0, b"[]") == []
    assert verify.answer(-signal.SIGBUS, b"") == ["who looked at it crashed (SIGBUS)"]
    for code in (1, -signal.SIGTERM, -signal.SIGKILL, -signal.SIGHUP):
        with pytest.raises(IOFailure, match="could not be looked over"):
            verify.answer(code, b"")


@pytest.mark.parametrize("module", ["hidden", "verify"])
def test_a_child_ends_with_who_started_it(module: str) -> None:
    code = (
        f"import time; from snapfs.store import verify, {module}\n"
        "verify.problems = lambda file: print('looking', flush=True) or time.sleep(3600)\n"
        f"{module}.main()"
    )
    command = f"{shlex.join([sys.executable, '-c', code, 'index'])} & echo $!; wait"
    with subprocess.Popen(["sh", "-c", command], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        number = int(parent.stdout.readline())
        assert parent.stdout.readline() == "looking\n"
        parent.kill()
        parent.wait()
        deadline = time.monotonic() + 30
        while _lives(number) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not _lives(number)


def _lives(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_sound_index_with_many_free_pages_is_not_taken_for_damaged(tmp_path: Path) -> None:
    """LMDB keeps what each transaction freed under its number, as the machine has numbers: 256 sorts before 1."""
    index = Index(tmp_path, create=True)
    index.commit()
    reader = index.reader()  # nothing that is freed from here on is used again
    for number in range(600):
        index.put("orphans", number.to_bytes(8, "big"), bytes(500))
        index.delete("orphans", (number // 2).to_bytes(8, "big"))
        index.commit()
    assert verify.problems(tmp_path / verify.DATA_FILE) == []
    assert odd_pages(tmp_path) == 0
    reader.close()
    index.close()


@pytest.mark.parametrize("busy", [False, True])
def test_who_uses_a_store_that_was_just_mounted_comes_before_the_child(
    busy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began: list[float] = []
    requests = 0

    def command(directory: Path) -> list[str]:
        began.append(trio.current_time())
        return ["echo", "[]"]

    def count() -> int:
        nonlocal requests
        if busy:
            requests += 1
        return requests

    monkeypatch.setattr(hidden, "command", command)
    index = Index(tmp_path, create=True)
    index.verified = False

    async def commit() -> None:
        raise AssertionError("nothing was found")

    async def look() -> float:
        begin = trio.current_time()
        turns = Turns(count)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(doubt.look_over_when_quiet, index, EventLog(index), commit, turns)
        assert index.verified
        return began[0] - begin

    monkeypatch.setattr(doubt, "PUT_OFF_SECONDS", 1.0)
    waited = trio.run(look)
    index.close()
    assert waited >= (1.0 if busy else doubt.QUIET_SECONDS)
    assert len(began) == 1
