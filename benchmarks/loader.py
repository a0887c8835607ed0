"""What training.py runs with the interpreter that has PyTorch: it reads a JSON object a line and answers with one.

    {"kind": "files" or "map", "where": DIRECTORY, "store": "", "names": FILE, "workers": N, "samples": N, "epochs": N}

With ``store``, ``where`` is the address of a snapshot, which is read in the processes of the loader themselves.  The
answer: ``seconds`` of each epoch, the first with the start of the workers.  That all bytes came is checked.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
import warnings
from collections.abc import Sequence
from typing import Any

import numpy
import torch
from torch.utils.data import DataLoader, Dataset

BATCH_SAMPLES = 64
SAMPLE_BYTES = 16 * 1024
"""Of the large file: 4,096 tokens of 32 bits."""
MAP_NAME = "tokens.bin"
KEPT_BYTES = 64
"""Of each sample that goes to the parent: the copy between processes is not what is measured."""


def kept(data: Any) -> torch.Tensor:
    """(beginning of a sample, how long it is), as a tensor of KEPT_BYTES + 8 bytes."""
    found = numpy.zeros(KEPT_BYTES + 8, numpy.uint8)
    begin = numpy.frombuffer(data, numpy.uint8, min(KEPT_BYTES, len(data)))
    found[: len(begin)] = begin
    found[KEPT_BYTES:] = numpy.frombuffer(len(data).to_bytes(8, "little"), numpy.uint8)
    return torch.from_numpy(found)


class Files(Dataset[torch.Tensor]):
    """A sample is a small file, read whole."""

    def __init__(self, where: str, names: Sequence[str]) -> None:
        self.where = where
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    def __getitems__(self, indices: list[int]) -> list[torch.Tensor]:
        return [kept(data) for data in self.read([self.names[index] for index in indices])]

    def read(self, names: list[str]) -> list[bytes]:
        found = []
        for name in names:
            with open(f"{self.where}/{name}", "rb") as file:
                found.append(file.read())
        return found


class SnapshotFiles(Files):
    """As ``Files``, in a snapshot that the worker reads itself."""

    def __init__(self, store: str, address: str, names: Sequence[str]) -> None:
        from snapfs import reader

        super().__init__("", names)
        self.snapshot = reader.open_snapshot(store, address)

    def read(self, names: list[str]) -> list[bytes]:
        return self.snapshot.read_many(names)


class Map(Dataset[torch.Tensor]):
    """A sample is a part of one large file, which is mapped into memory."""

    def __init__(self, where: str, samples: int) -> None:
        self.path = f"{where}/{MAP_NAME}"
        self.samples = samples
        self.mapped: Any = None

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> torch.Tensor:
        return kept(self.read(index * SAMPLE_BYTES))

    def read(self, offset: int) -> Any:
        if self.mapped is None:  # in the worker
            self.mapped = numpy.memmap(self.path, numpy.uint8, "r")
        return self.mapped[offset : offset + SAMPLE_BYTES].tobytes()


class SnapshotMap(Map):
    def __init__(self, store: str, address: str, samples: int) -> None:
        from snapfs import reader

        super().__init__("", samples)
        self.snapshot = reader.open_snapshot(store, address)

    def __getitems__(self, indices: list[int]) -> list[torch.Tensor]:
        parts = [(MAP_NAME, index * SAMPLE_BYTES, SAMPLE_BYTES) for index in indices]
        return [kept(data) for data in self.snapshot.read_ranges(parts)]


def dataset(wanted: dict[str, Any]) -> Dataset[torch.Tensor]:
    store, where = wanted["store"], wanted["where"]
    if wanted["kind"] == "map":
        samples = wanted["samples"]
        return SnapshotMap(store, where, samples) if store else Map(where, samples)
    with open(wanted["names"], encoding="utf-8") as file:
        names = file.read().splitlines()
    return SnapshotFiles(store, where, names) if store else Files(where, names)


def measure(wanted: dict[str, Any]) -> dict[str, Any]:
    found = dataset(wanted)
    order = torch.Generator()
    order.manual_seed(random.randrange(1 << 30))
    loader = DataLoader(
        found, batch_size=BATCH_SAMPLES, shuffle=True, generator=order, num_workers=wanted["workers"],
        persistent_workers=True,
    )  # fmt: skip
    seconds, size = [], 0
    for _ in range(wanted["epochs"]):
        begun, size = time.perf_counter(), 0
        for batch in loader:
            size += int(batch[:, KEPT_BYTES:].numpy().copy().view(numpy.uint64).sum())
        seconds.append(time.perf_counter() - begun)
    if size != wanted["bytes"]:
        raise SystemExit(f"{size} bytes came, not {wanted['bytes']}")
    return {"seconds": seconds}


def main() -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="This DataLoader will create")  # more workers than cores: on purpose
    print(json.dumps({"torch": torch.__version__, "pid": os.getpid()}), flush=True)
    for line in sys.stdin:
        print(json.dumps(measure(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
