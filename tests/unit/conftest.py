"""What unit tests of the engine share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from snapfs.testing.engine import EngineSubject


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[EngineSubject]:
    """A store with the volume ``data`` and the empty file ``f`` in it; fsck must find nothing at the end."""
    subject = EngineSubject(tmp_path / "store")
    subject.create_volume("data")
    subject.make("data", (b"f",), "file", 0o644)
    yield subject
    assert subject.fsck() == []
    subject.close()
