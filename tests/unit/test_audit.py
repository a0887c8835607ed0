"""The audit log: what it holds, and what happens to it."""

from __future__ import annotations

import errno
import json
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from snapfs import api
from snapfs.access import audit, journal
from snapfs.access.audit import Audit
from snapfs.errors import Invalid, IOFailure, NoSpace
from snapfs.rpc import requests
from snapfs.v1 import snapshot_pb2
from snapfs.volume.stirring import watch

SECOND = 1_000_000_000


class Clock:
    """Nanoseconds that go on when told."""

    def __init__(self) -> None:
        self.now_ns = 1_700_000_000 * SECOND

    def __call__(self) -> int:
        return self.now_ns


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(tmp_path: Path, clock: Clock) -> Iterator[Audit]:
    opened = Audit(tmp_path, now_ns=clock)
    yield opened
    opened.close()


def write(log: Audit, *, caller: str = "ci", request: str = "{}", result: str = "OK") -> None:
    log.write(caller=caller, peer="unix", method="snapfs.v1.S/M", request=request, result=result)


def sequences(log: Audit, **filters: Any) -> list[int]:
    return [entry.sequence for entry in everything(log, **filters)]


def everything(log: Audit, **filters: Any) -> list[api.AuditEntry]:
    found, token = [], ""
    while True:
        entries, token = log.page(page_token=token, **filters)
        found += entries
        if not token:
            return found


def current(store: Path) -> Path:
    return store / "audit" / "audit.jsonl"


class TestAudit:
    def test_entries(self, log: Audit, clock: Clock, tmp_path: Path) -> None:
        assert everything(log) == []
        assert journal.verify(tmp_path) == journal.Verified(entries=0, findings=[], head=journal.Head())
        log.check()
        write(log, request='{"volume":"digits"}')
        clock.now_ns += 1
        write(log, caller="", result="UNAUTHENTICATED")
        assert everything(log) == [
            api.AuditEntry(
                sequence=1,
                time_ns=clock.now_ns - 1,
                caller="ci",
                peer="unix",
                method="snapfs.v1.S/M",
                request='{"volume":"digits"}',
                result="OK",
            ),
            api.AuditEntry(
                sequence=2,
                time_ns=clock.now_ns,
                caller="",
                peer="unix",
                method="snapfs.v1.S/M",
                request="{}",
                result="UNAUTHENTICATED",
            ),
        ]
        assert stat.S_IMODE(current(tmp_path).stat().st_mode) == 0o600
        assert stat.S_IMODE(current(tmp_path).parent.stat().st_mode) == 0o700

    def test_goes_on_after_reopening(self, log: Audit, tmp_path: Path) -> None:
        write(log)
        log.close()
        write(log)
        again = Audit(tmp_path, now_ns=lambda: 1)
        write(again)
        again.close()
        assert sequences(log) == [1, 2, 3]
        assert journal.verify(tmp_path).findings == []

    def test_paging_and_filters(self, log: Audit, clock: Clock) -> None:
        for number in range(25):
            clock.now_ns += SECOND
            write(log, caller="even" if number % 2 else "odd")
        assert sequences(log, page_size=7) == list(range(1, 26))
        assert len(log.page(page_size=7).entries) == 7
        assert sequences(log, page_size=3, caller="odd") == list(range(1, 26, 2))
        assert sequences(log, page_size=3, from_ns=clock.now_ns - 2 * SECOND) == [23, 24, 25]
        assert sequences(log, caller="nobody") == []
        token = log.page(page_size=20).next_page_token
        write(log)
        assert [entry.sequence for entry in log.page(page_token=token).entries] == list(range(21, 27))

    def test_pages_fit_a_message(self, log: Audit) -> None:
        for _ in range(600):
            write(log, request="x" * 5000)
        first = log.page()
        assert 200 < len(first.entries) < 600
        assert sequences(log) == list(range(1, 601))
        assert max(len(entry.request) for entry in first.entries) == audit.REQUEST_BYTES_MAX

    @pytest.mark.parametrize(
        "token",
        ["x", "1-5", "1-ffffffff", "2-0", "0-0", "1", "-", "1-0-0", "é", "1-7fffffffffffffff", "1-ffffffffffffffff"],
    )
    def test_bad_tokens(self, log: Audit, token: str) -> None:
        write(log)
        with pytest.raises(Invalid, match="page token"):
            log.page(page_token=token)
        with pytest.raises(Invalid, match="-1"):
            log.page(page_size=-1)

    def test_texts_that_are_hard_to_write(self, log: Audit, tmp_path: Path) -> None:
        for request in ("\n", "\udcff", '"}\n{"chain":"', "\0" * 4096, "🜁" * 2000, '"' * 9999, "\ud800"):
            write(log, request=request, caller="c" * 9999)
        found = everything(log)
        assert [entry.sequence for entry in found] == list(range(1, 8))
        assert all(len(entry.request.encode()) <= audit.REQUEST_BYTES_MAX for entry in found)
        assert len(current(tmp_path).read_bytes().splitlines()) == 7
        assert max(map(len, current(tmp_path).read_bytes().splitlines())) < journal.LINE_BYTES_MAX
        assert journal.verify(tmp_path).findings == []

    def test_credentials_in_urls_are_left_out(self, log: Audit) -> None:
        write(log, request='{"git":{"remote":"https://me:hunter2@example.org/x.git"},"message":"a@b"}')
        assert everything(log)[0].request == '{"git":{"remote":"https://example.org/x.git"},"message":"a@b"}'

    @pytest.mark.parametrize("secret", ["hunt@er2", 'hunt"er2', "hunt\\er2", "hünter2"])
    def test_no_part_of_a_password_is_left(self, log: Audit, secret: str) -> None:
        for remote in (f"https://me:{secret}@example.org/x.git", f"https://me:{secret * 1000}@example.org/x.git"):
            request = snapshot_pb2.CreateSnapshotRequest(git=snapshot_pb2.GitCommit(remote=remote))
            write(log, request=requests.shown(request))
        assert not any(part in entry.request for entry in everything(log) for part in ("hunt", "ünt", "er2"))

    def test_rotation(self, tmp_path: Path, clock: Clock) -> None:
        log = Audit(tmp_path, now_ns=clock, file_bytes_max=2000)
        token = ""
        for number in range(50):
            write(log)
            if number == 0:
                token = log.page(page_size=1).next_page_token
            if number == 30:
                log.close()
        log.close()
        files = sorted(os.listdir(tmp_path / "audit"))
        assert len(files) > 3
        assert files[0] == "audit-0000000000000001.jsonl"
        assert all((tmp_path / "audit" / name).stat().st_size < 3000 for name in files)
        assert sequences(log, page_size=4) == list(range(1, 51))
        assert [entry.sequence for entry in log.page(page_token=token).entries] == list(range(2, 51))
        found = journal.verify(tmp_path)
        assert (found.entries, found.findings, found.head.sequence) == (50, [], 50)

    def test_files_from_before_are_passed_over(self, tmp_path: Path, clock: Clock) -> None:
        log = Audit(tmp_path, now_ns=clock, file_bytes_max=1)
        for _ in range(3):
            clock.now_ns += SECOND
            write(log)
        log.close()
        names = sorted((tmp_path / "audit").iterdir())
        for number, path in enumerate(names):
            os.utime(path, ns=(0, clock.now_ns - (len(names) - 1 - number) * SECOND))
        names[0].write_bytes(b"would be shown as damaged if it was read\n")
        os.utime(names[0], ns=(0, clock.now_ns - 2 * SECOND))
        assert sequences(log, from_ns=clock.now_ns - SECOND) == [2, 3]

    @pytest.mark.parametrize("torn", [b"x", b'{"sequence":3,"time', b"\0" * 300_000])
    def test_what_a_crash_left_is_cut_off(self, log: Audit, tmp_path: Path, torn: bytes) -> None:
        write(log)
        write(log)
        log.close()
        with current(tmp_path).open("ab") as file:
            file.write(torn)
        assert sequences(log) == [1, 2]
        write(log)
        assert sequences(log) == [1, 2, 3]
        assert journal.verify(tmp_path).findings == []
        assert b"\0" not in current(tmp_path).read_bytes()

    def test_a_crash_in_the_first_entry(self, log: Audit, tmp_path: Path) -> None:
        (tmp_path / "audit").mkdir()
        current(tmp_path).write_bytes(b'{"seq')
        write(log)
        assert sequences(log) == [1]

    def test_a_damaged_last_entry_is_kept(self, log: Audit, tmp_path: Path) -> None:
        for _ in range(3):
            write(log)
        log.close()
        damaged = current(tmp_path).read_bytes()[:-10] + b"damaged!!\n"
        current(tmp_path).write_bytes(damaged)
        write(log)
        write(log)
        assert sequences(log) == [1, 2, 0, 3, 4]
        assert everything(log)[2].result == journal.DAMAGED
        assert (tmp_path / "audit" / "audit-0000000000000001.jsonl").read_bytes() == damaged
        assert journal.verify(tmp_path).findings == ["audit-0000000000000001.jsonl, line 3: cannot be read"]

    def test_nothing_is_written_over(self, log: Audit, tmp_path: Path) -> None:
        for _ in range(2):
            write(log)
            log.close()
            current(tmp_path).write_bytes(b"damaged\n")
        write(log)
        assert len(os.listdir(tmp_path / "audit")) == 3


class TestVerify:
    @pytest.fixture
    def lines(self, log: Audit, tmp_path: Path) -> list[bytes]:
        for number in range(5):
            write(log, request=f'{{"number":{number}}}')
        log.close()
        return current(tmp_path).read_bytes().splitlines(keepends=True)

    @pytest.mark.parametrize(
        ("change", "finding"),
        [
            (lambda lines: lines.pop(2), "entry 4 follows 2"),
            (lambda lines: lines.pop(0), "entry 2 follows 0"),
            (lambda lines: lines.insert(3, lines[2]), "entry 3 follows 3"),
            (lambda lines: lines.reverse(), "entry 5 follows 0"),
            (lambda lines: lines.__setitem__(1, lines[1].replace(b'"ci"', b'"me"')), "entry 2, or the one before"),
            (
                lambda lines: lines.__setitem__(1, lines[1].replace(b'"chain":"', b'"chain":"0')),
                "line 2: cannot be read",
            ),
            (lambda lines: lines.__setitem__(1, b"\n"), "line 2: cannot be read"),
            (lambda lines: lines.__setitem__(1, b"y" * 200_000 + b"\n"), "line 2: cannot be read"),
        ],
    )
    def test_changes_show(
        self, lines: list[bytes], tmp_path: Path, change: Callable[[list[bytes]], object], finding: str
    ) -> None:
        change(lines)
        current(tmp_path).write_bytes(b"".join(lines))
        assert finding in "\n".join(journal.verify(tmp_path).findings)

    def test_an_entry_made_to_fit_breaks_the_next(self, lines: list[bytes], tmp_path: Path) -> None:
        """Who recomputes one line's hash must recompute all that follow."""
        entries = [json.loads(line) for line in lines]
        head = journal.Head(sequence=2, chain=entries[1]["chain"])
        forged = api.AuditEntry(**{key: entries[2][key] for key in entries[2] if key != "chain"} | {"caller": "me"})
        lines[2], _ = journal.encode(forged, head)
        current(tmp_path).write_bytes(b"".join(lines))
        assert journal.verify(tmp_path).findings == ["audit.jsonl, line 4: entry 4, or the one before it, was changed"]

    def test_a_noted_head_shows_a_cut_end(self, lines: list[bytes], tmp_path: Path) -> None:
        noted = journal.verify(tmp_path).head
        current(tmp_path).write_bytes(b"".join(lines[:4]))
        found = journal.verify(tmp_path)
        assert found.findings == []
        assert found.head.sequence == 4 < noted.sequence

    def test_findings_are_bounded(self, tmp_path: Path) -> None:
        (tmp_path / "audit").mkdir()
        current(tmp_path).write_bytes(b"x\n" * 1000)
        assert len(journal.verify(tmp_path).findings) == journal.FINDINGS_MAX + 1


class TestTroubleWithTheDisk:
    def test_calls_are_refused_until_what_waits_is_written(
        self, log: Audit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        write(log)
        real, room = os.write, 10

        def full(fd: int, data: bytes) -> int:
            nonlocal room
            if not room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            written = real(fd, data[:room])
            room -= written
            return written

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            log.check()
            write(log)
            write(log)
            assert "audit log cannot be written" in caplog.text
            for _ in range(2):
                with pytest.raises(NoSpace, match="audit log cannot be written"):
                    log.check()
            assert sequences(log) == [1]
        log.check()
        assert sequences(log) == [1, 2, 3]
        assert journal.verify(tmp_path).findings == []

    def test_what_waits_is_bounded(self, log: Audit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "audit").write_text("in the way")
        monkeypatch.setattr(audit, "WAITING_MAX", 5)
        for _ in range(20):
            write(log)
        with pytest.raises(IOFailure):
            log.check()
        (tmp_path / "audit").unlink()
        log.check()
        assert sequences(log) == [1, 2, 3, 4, 5]

    def test_a_failed_sync_refuses_calls(self, log: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(_: int) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        write(log)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", fail)
            log.sync()
        with pytest.raises(IOFailure, match="audit log"):
            log.check()

    def test_what_cannot_be_written_at_the_end_is_told(
        self, log: Audit, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(*_: object) -> int:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        write(log)
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", fail)
            write(log)
            log.close()
        assert "1 entries of the audit log are lost" in caplog.text
        write(log)
        assert sequences(log) == [1, 2]

    def test_strangers_do_not_fill_the_disk(self, log: Audit, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
        for _ in range(500):
            write(log, caller="")
        assert len(everything(log)) == audit.STRANGERS_MAX
        write(log)  # callers who are known are always entered
        assert "400 calls that were refused are not in the audit log" in caplog.text
        clock.now_ns += 3 * SECOND
        for _ in range(10):
            write(log, caller="")
        assert len(everything(log)) == audit.STRANGERS_MAX + 4

    async def test_synced_in_the_background(self, log: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
        synced = trio.Event()
        token = trio.lowlevel.current_trio_token()
        real = os.fdatasync
        monkeypatch.setattr(audit, "SYNC_SECONDS", 0.01)
        monkeypatch.setattr(os, "fdatasync", lambda fd: (real(fd), token.run_sync_soon(synced.set)))
        with trio.fail_after(10):
            async with log.running():
                write(log)
                await synced.wait()

    async def test_synced_while_the_loop_rests(self, log: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
        """Callers that are not known are refused, and entered, by threads of which the loop knows nothing."""
        synced, start, written = trio.Event(), threading.Event(), threading.Event()
        token = trio.lowlevel.current_trio_token()
        real = os.fdatasync
        monkeypatch.setattr(audit, "SYNC_SECONDS", 0.01)
        monkeypatch.setattr(os, "fdatasync", lambda fd: (real(fd), token.run_sync_soon(synced.set)))

        def refuse() -> None:
            assert start.wait(10)
            write(log, caller="")
            written.set()

        thread = threading.Thread(target=refuse)
        thread.start()
        with trio.fail_after(10):
            async with log.running():
                watch()
                await wait_all_tasks_blocked(0.05)
                await wait_all_tasks_blocked(0.05)
                start.set()
                assert written.wait(10)
                await synced.wait()
        thread.join()

    async def test_synced_at_the_end(self, log: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
        calls: list[int] = []
        monkeypatch.setattr(os, "fdatasync", calls.append)
        with trio.CancelScope() as scope:
            async with log.running():
                write(log)
                scope.cancel()
                await trio.sleep_forever()
        assert len(calls) == 1
