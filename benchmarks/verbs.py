"""What a user does with versions, called in this process: each verb prepares, then measures its part in seconds.

Before it measures, a verb waits until the store has nothing left to do of what came before (seals, reclaim): what is
measured is the verb, with its commit, not the work that the last one left.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Awaitable, Callable
from functools import partial

import trio

from benchmarks import harness
from benchmarks.harness import VOLUME
from snapfs.service import Service
from snapfs.types import Ino
from snapfs.versions.epochs import View
from snapfs.volume.lake import Lake

PAYLOAD_BYTES = 64
"""What a changed file gets anew, at its beginning: the data itself is not the question here."""

VERIFIED_POLL_SECONDS = 0.1


class Engine:
    """The verbs on one store that stays open."""

    def __init__(self, lake: Lake, service: Service, files: int) -> None:
        self.lake = lake
        self.service = service
        self.files = files
        self._prefix = f"v{time.time_ns()}"  # another one each time that the store is opened
        self._numbers = itertools.count()

    async def ready(self) -> None:
        """A large index is looked over by a child process after it was opened: until that is done."""
        while not self.lake.index.verified:
            await trio.sleep(VERIFIED_POLL_SECONDS)

    def name(self) -> str:
        return f"{self._prefix}-{next(self._numbers)}"

    def ino(self, number: int) -> Ino:
        volume = self.lake.volumes.get(VOLUME)
        ino = volume.root
        for name in harness.file_path(number).encode().split(b"/"):
            ino = self.lake.files.lookup(volume.head, ino, name).ino
        return ino

    async def change(self, files: int = 1) -> None:
        """Write to so many files, spread over all directories; they wait for the next commit."""
        view = self.lake.volumes.get(VOLUME).head
        for number in range(0, self.files, self.files // files)[:files]:
            await self.lake.files.write(view, self.ino(number), 0, os.urandom(PAYLOAD_BYTES))
        await self.lake.writeback.flush()

    async def create(self) -> str:
        name = self.name()
        await self.service.create_snapshot(volume=VOLUME, name=name)
        return name

    async def two(self, files: int = 1) -> tuple[str, str]:
        """Two snapshots between which so many files changed; the head stands on the second."""
        pair = []
        for _ in range(2):
            await self.change(files)
            pair.append(await self.create())
        await self.lake.settle()
        return pair[0], pair[1]

    # -- what is measured

    async def snapshot(self, files: int = 1) -> float:
        await self.lake.settle()
        await self.change(files)
        return await harness.timed_async(self.create)

    async def clone(self, files: int = 1) -> float:
        before, _ = await self.two(files)
        return await self._clone(before)

    async def _clone(self, snapshot: str) -> float:
        call = partial(self.service.clone, volume=VOLUME, snapshot=snapshot, name=self.name())
        return await harness.timed_async(call)

    async def checkout(self, files: int = 1) -> float:
        before, _ = await self.two(files)
        return await self._checkout(before)

    async def _checkout(self, snapshot: str) -> float:
        return await harness.timed_async(partial(self.service.checkout, volume=VOLUME, snapshot=snapshot))

    async def diff(self, files: int = 1) -> float:
        return await self._diff(*await self.two(files), files)

    async def _diff(self, before: str, after: str, files: int) -> float:
        async def read_all() -> int:
            return sum([1 async for _ in self.service.diff(volume=VOLUME, snapshot=before, other=after)])

        begun = time.perf_counter()
        found = await read_all()
        took = time.perf_counter() - begun
        assert found == files, f"{files} files were changed, diff tells of {found}"
        return took

    async def delete(self, files: int = 1) -> float:
        """Until the answer."""
        before, _ = await self.two(files)
        return await self._delete(before)

    async def _delete(self, snapshot: str) -> float:
        trash = self.lake.trash
        volume = self.lake.volumes.get(VOLUME)
        record = self.lake.snapshots.resolve(volume, snapshot)

        async def remove() -> None:
            trash.delete_snapshot(volume, record, purge=True)
            await self.lake.commit()

        return await harness.timed_async(remove)

    async def give_back(self, files: int = 1) -> float:
        """Of a deleted snapshot, until all that only it showed is given back."""
        await self.delete(files)
        return await harness.timed_async(self.lake.settle)

    async def every(self, files: int) -> dict[str, float]:
        """Of each verb of VERBS, by one pair of snapshots: where many files change that is what takes long."""
        before, after = await self.two(files)
        found = {"diff": await self._diff(before, after, files), "checkout": await self._checkout(before)}
        await self._checkout(after)
        found["clone"] = await self._clone(after)
        await self.lake.settle()
        found["delete"] = await self._delete(before)
        found["give back"] = await harness.timed_async(self.lake.settle)
        return {"snapshot": await self.snapshot(files), **found}


VERBS: dict[str, Callable[[Engine, int], Awaitable[float]]] = {
    "snapshot": Engine.snapshot,
    "clone": Engine.clone,
    "checkout": Engine.checkout,
    "diff": Engine.diff,
    "delete": Engine.delete,
    "give back": Engine.give_back,
}


def walk(lake: Lake, view: View, root: Ino) -> list[tuple[Ino, bytes, Ino]]:
    """(directory, name, inode) of all files in the directories of a root that ``harness.fill`` made."""
    directories = [ino for _, name, ino, _ in lake.files.readdir(view, root, 0) if name.isdigit()]
    return [(d, name, ino) for d in directories for _, name, ino, _ in lake.files.readdir(view, d, 0)]
