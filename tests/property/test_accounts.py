"""``snap du``, what-if and ``snap space`` say what a count of all that the views show says, at every moment; what is
then deleted gives back exactly what was said."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from snapfs.testing.accounts_machine import AccountsMachine
from snapfs.volume import core

_SETTINGS = settings(
    deadline=None, max_examples=40, stateful_step_count=40, print_blob=True, suppress_health_check=list(HealthCheck)
)


class Deferring(AccountsMachine):
    """What is more than a few records is accounted and dropped later; few may wait."""

    def __init__(self) -> None:
        self._limits = core.REAP_NOW_MAX, core.REAP_WAITING_MAX
        core.REAP_NOW_MAX, core.REAP_WAITING_MAX = 3, 2  # type: ignore[misc]
        super().__init__()

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            core.REAP_NOW_MAX, core.REAP_WAITING_MAX = self._limits  # type: ignore[misc]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("machine", [AccountsMachine, Deferring])
def test_accounts(machine: type[AccountsMachine]) -> None:
    run_state_machine_as_test(machine, settings=_SETTINGS)


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("machine", [AccountsMachine, Deferring])
def test_accounts_for_long(machine: type[AccountsMachine]) -> None:
    run_state_machine_as_test(machine, settings=settings(_SETTINGS, max_examples=1500, stateful_step_count=80))
