"""Long reads beside a busy file system: of one consistent state, and in small steps.

Invariants:
  * A reader's state and the tree of epochs are of one moment: paths fit what is read, whatever is folded meanwhile.
  * A reader keeps space from being reused: whoever has one lets go of it in seconds.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Final

import trio

from snapfs.store.index import Reader
from snapfs.versions.epochs import Moment
from snapfs.volume.core import Core
from snapfs.volume.seals.content import Elements

TURN_SECONDS: Final = 0.001
"""Work between two pauses, and the pause: half of the time is for everybody else."""


class Source:
    """A consistent state to read from."""

    def __init__(self, core: Core) -> None:
        """Of a moment when the open transaction holds nothing that is not published."""
        self.reader: Reader = core.index.reader()
        self.epochs: Moment = core.epochs.moment()
        self.elements = Elements(self.reader)

    @contextlib.contextmanager
    def reading(self) -> Iterator[Source]:
        with self.reader:
            yield self


class Pace:
    """Shares the trio thread: who works calls ``rest`` when it is due."""

    def __init__(self) -> None:
        self._until = time.perf_counter() + TURN_SECONDS

    @property
    def due(self) -> bool:
        return time.perf_counter() > self._until

    async def rest(self) -> None:
        await trio.sleep(TURN_SECONDS)
        self._until = time.perf_counter() + TURN_SECONDS
