"""Signals of the process, as a channel of the trio loop, and at once.

``trio.open_signal_receiver`` tells a task only: of a loop that hangs nobody would learn that it shall end.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Final

import trio

_WAITING_MAX: Final = 16
"""More than that of signals that nobody has taken yet tell nothing new."""


@contextmanager
def received(
    numbers: Sequence[signal.Signals], at_once: Callable[[signal.Signals], None]
) -> Iterator[trio.MemoryReceiveChannel[signal.Signals]]:
    """The signals that come while inside.  On the main thread, in a trio task.

    Args:
        at_once: called in the handler, between any two steps of the main thread: it may start no thread, take no lock.
    """
    sending, receiving = trio.open_memory_channel[signal.Signals](_WAITING_MAX)
    token = trio.lowlevel.current_trio_token()

    def put(number: signal.Signals) -> None:
        with suppress(trio.WouldBlock, trio.BrokenResourceError):
            sending.send_nowait(number)

    def handle(number: int, _frame: FrameType | None) -> None:
        at_once(signal.Signals(number))
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(put, signal.Signals(number))

    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        with sending, receiving:
            yield receiving
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
