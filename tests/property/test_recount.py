"""Accounts equal a recount after every step, whatever is asked and in whatever order; also with limits so low that most
of the work is put off."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import invariant, rule, run_state_machine_as_test

from snapfs.testing.engine import EngineSubject
from snapfs.testing.machine import StoreMachine
from snapfs.testing.recounting import check_accounts
from snapfs.volume import core, reclaim
from snapfs.volume.accounts import book

_SETTINGS = settings(
    deadline=None, max_examples=60, stateful_step_count=50, print_blob=True, suppress_health_check=list(HealthCheck)
)


class AccountingMachine(StoreMachine):
    subject: EngineSubject

    def make_subject(self) -> EngineSubject:
        self.directory = tempfile.mkdtemp(prefix="snapfs-accounting-")
        return EngineSubject(Path(self.directory) / "store")

    @invariant()
    def accounted(self) -> None:
        check_accounts(self.subject.lake, exact=False)

    @rule()
    def settle_accounts(self) -> None:
        self.subject.run(self.subject.lake.settle_accounts)
        check_accounts(self.subject.lake, exact=True)

    @rule(batches=st.integers(1, 10))
    def reclaim_a_little(self, batches: int) -> None:
        for _ in range(batches):
            self.subject.lake.reclaim.step()

    def teardown(self) -> None:
        try:
            self.settle_accounts()
            super().teardown()
        finally:
            shutil.rmtree(self.directory)


@pytest.mark.timeout(120)
def test_accounts_equal_a_recount() -> None:
    run_state_machine_as_test(AccountingMachine, settings=settings(_SETTINGS, max_examples=20))


@pytest.fixture
def low_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "REAP_NOW_MAX", 1)
    monkeypatch.setattr(core, "REAP_WAITING_MAX", 2)
    monkeypatch.setattr(reclaim, "BATCH", 2)
    monkeypatch.setattr(book, "ALIASES_MAX", 2)
    monkeypatch.setattr(book, "WEIGHT_MAX", 40)
    monkeypatch.setattr(book, "MEMO_MAX", 5)


@pytest.mark.timeout(120)
@pytest.mark.usefixtures("low_limits")
def test_accounts_with_most_of_the_work_put_off() -> None:
    run_state_machine_as_test(AccountingMachine, settings=settings(_SETTINGS, max_examples=20))


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_accounts_for_long() -> None:
    run_state_machine_as_test(AccountingMachine, settings=settings(_SETTINGS, max_examples=1000))


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("low_limits")
def test_accounts_put_off_for_long() -> None:
    run_state_machine_as_test(AccountingMachine, settings=settings(_SETTINGS, max_examples=1000))
