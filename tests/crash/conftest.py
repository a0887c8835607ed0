"""Where stores are crashed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from snapfs.testing.corrupting import Expected, build, copy

MEMORY = Path("/dev/shm")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """An empty directory, in memory if there is such a place: thousands of stores are made and thrown away, and what
    a disk would lose is played, not real."""
    with tempfile.TemporaryDirectory(dir=MEMORY if os.access(MEMORY, os.W_OK) else tmp_path) as name:
        yield Path(name)


@pytest.fixture(scope="module")
def original(request: pytest.FixtureRequest) -> Iterator[tuple[Path, Expected]]:
    """A store that a module's tests take copies of, and what it shows: a module with a ``fill`` makes its own."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "store"
        yield path, getattr(request.module, "fill", build)(path)


@pytest.fixture
def store(tmp_path: Path, original: tuple[Path, Expected]) -> Path:
    copy(original[0], tmp_path / "store")
    return tmp_path / "store"


@pytest.fixture
def expected(original: tuple[Path, Expected]) -> Expected:
    return original[1]
