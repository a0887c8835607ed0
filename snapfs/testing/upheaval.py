"""Turns a store over while others read a snapshot of it: ``python -m snapfs.testing.upheaval STORE ROUNDS``.

In each round files come and go between those of the snapshot ``keep``, another snapshot is made and deleted for good,
segments are copied and dropped, and the index is replaced by a smaller copy.  After a round it prints a JSON line:
``segments`` (those in which the data is), ``index`` (the inode number of the index's file).
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Final

from snapfs.store.layout import INDEX
from snapfs.store.verify import DATA_FILE
from snapfs.testing.engine import EngineSubject
from snapfs.testing.trees import DIRECTORY, FILE, SYMLINK
from snapfs.volume.lake import Lake
from snapfs.volume.limits import Limits

LIMITS: Final = Limits(segment_bytes_max=512 * 1024)
KEPT_FILES: Final = 60
GOING_FILES: Final = 40
SHRINK_TRIES: Final = 10


def build(store: Path) -> dict[str, bytes]:
    """A store with the snapshot ``data@keep``, closed; what its files hold."""
    subject = EngineSubject(store, limits=LIMITS)
    noise = random.Random(5)
    subject.create_volume("data")
    subject.make("data", (b"sub",), DIRECTORY, 0o755)
    contents: dict[str, bytes] = {}
    for number in range(KEPT_FILES):
        name = f"sub/{number}" if number % 2 else f"{number}"
        contents[name] = noise.randbytes(noise.choice((0, 100, 5000, 30_000, 150_000)))
        _put(subject, name, contents[name])
    contents["text"] = b"a line of a text that can be compressed\n" * 2000
    _put(subject, "text", contents["text"])
    contents["hole"] = bytes(100_000) + b"end"
    subject.make("data", (b"hole",), FILE, 0o600)
    subject.write("data", (b"hole",), 100_000, b"end")
    for name, target in (("link", b"sub/1"), ("directory", b"./sub"), ("out", b"/etc/passwd"), ("loop", b"loop")):
        subject.make("data", (name.encode(),), SYMLINK, 0o777, target)
    subject.snapshot("data", "keep")
    subject.close()
    return contents


def _put(subject: EngineSubject, name: str, content: bytes) -> None:
    path = tuple(name.encode().split(b"/"))
    subject.make("data", path, FILE, 0o644)
    if content:
        subject.write("data", path, 0, content)


def turn_over(subject: EngineSubject, number: int) -> None:
    """One round."""
    noise = random.Random(number)
    names = [f"going-{number}-{file}" for file in range(GOING_FILES)]
    for name in names:
        _put(subject, name, noise.randbytes(20_000))
    subject.snapshot("data", f"other-{number}")
    for name in names:
        subject.unlink("data", (name.encode(),))
    subject.remove_snapshot("data", f"other-{number}")
    subject.reclaim()
    subject.run(lambda: _move_all(subject.lake))


async def _move_all(lake: Lake) -> None:
    """Every block gets another place, and every file of the store another name's content."""
    upkeep = lake.upkeep
    for segment in lake.core.blocks.known_segments():
        if segment != lake.core.blocks.segments.current:
            await upkeep.compaction.copy(segment)
    await lake.sync()
    await lake.settle()
    for _ in range(SHRINK_TRIES):
        if await upkeep.shrink(spare_percent=0, spare_bytes_min=0):  # else somebody was reading at that moment
            break


def main() -> int:
    store, rounds = Path(sys.argv[1]), int(sys.argv[2])
    subject = EngineSubject(store, limits=LIMITS)
    for number in range(rounds):
        turn_over(subject, number)
        state = {
            "segments": sorted(subject.lake.core.blocks.known_segments()),
            "index": (store / INDEX / DATA_FILE).stat().st_ino,
        }
        print(json.dumps(state), flush=True)
    subject.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
