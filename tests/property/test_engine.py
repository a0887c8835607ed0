"""The engine does what the oracle does, whatever is asked of it and in whatever order."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import rule, run_state_machine_as_test

from snapfs.testing.engine import EngineSubject
from snapfs.testing.machine import StoreMachine
from snapfs.types import Epoch

_SETTINGS = settings(
    deadline=None, max_examples=100, stateful_step_count=50, print_blob=True, suppress_health_check=list(HealthCheck)
)


class EngineMachine(StoreMachine):
    subject: EngineSubject

    def __init__(self) -> None:
        super().__init__()
        self.sealed: dict[Epoch, tuple[bytes, bytes]] = {}
        """(digest, content) of each snapshot that was ever seen sealed."""

    def make_subject(self) -> EngineSubject:
        self.directory = tempfile.mkdtemp(prefix="snapfs-oracle-")
        return EngineSubject(Path(self.directory) / "store")

    @rule()
    def seal(self) -> None:
        """At any moment; a digest that was given stays."""
        self.subject.seal()
        found = self.subject.seals()
        assert found.keys() == {record.epoch for record in self.subject.records()}
        for epoch, digests in found.items():
            assert self.sealed.setdefault(epoch, digests) == digests

    def teardown(self) -> None:
        try:
            if self.oracle.volumes:
                self.seal()
                self.subject.check_seals()
            super().teardown()
        finally:
            shutil.rmtree(self.directory)


@pytest.mark.timeout(120)
def test_engine() -> None:
    run_state_machine_as_test(EngineMachine, settings=_SETTINGS)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_engine_for_long() -> None:
    run_state_machine_as_test(EngineMachine, settings=settings(_SETTINGS, max_examples=2000, stateful_step_count=80))
