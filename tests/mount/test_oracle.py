"""A real mount does what the oracle does: the machine that drives the engine, through system calls and the daemon."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from snapfs.errors import SnapfsError
from snapfs.testing.machine import StoreMachine
from snapfs.testing.mount_subject import MountSubject

_SETTINGS = settings(
    deadline=None, max_examples=25, stateful_step_count=40, print_blob=True, suppress_health_check=list(HealthCheck)
)


def machine(one: Any) -> type[StoreMachine]:
    """One mount serves all examples, each of which leaves it empty."""

    class MountMachine(StoreMachine):
        def make_subject(self) -> MountSubject:
            subject = MountSubject(one.root, one.connect, one.remount, xattrs=True)
            subject.remove_all()
            return subject

        def same_error(self, expected: SnapfsError, found: Exception) -> bool:
            """The kernel refuses much by itself, with errnos of its own choice."""
            return isinstance(found, OSError) or type(found) is type(expected)

    return MountMachine


@pytest.mark.timeout(120)
def test_mount(stores: Callable[[], Any]) -> None:
    run_state_machine_as_test(machine(stores().mount(xattrs=True)), settings=_SETTINGS)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_mount_for_long(stores: Callable[[], Any]) -> None:
    run_state_machine_as_test(
        machine(stores().mount(xattrs=True)), settings=settings(_SETTINGS, max_examples=300, stateful_step_count=60)
    )
