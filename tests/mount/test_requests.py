"""How many requests of the kernel an operation takes, and what they find, as the daemon counts them.

The kernel decides what it asks; these tests tell when it, or an answer of ours, makes it ask for more.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from snapfs.testing.mounted import MountedStore

FILES = 20
_BESIDE = 3
"""Requests of a kind that others may cause meanwhile (the kernel's first look at a directory, a flush of times)."""


def requests(mounted: MountedStore) -> Counter[str]:
    """Requests so far, by kind."""
    found: Counter[str] = Counter()
    for family in text_string_to_metric_families(mounted.call("get_metrics")):
        for sample in family.samples:
            if sample.name == "snapfs_fuse_duration_seconds_count":
                found[sample.labels["operation"]] = int(sample.value)
    return found


def asked(mounted: MountedStore, act: Callable[[Path], object], paths: list[Path]) -> dict[str, int]:
    """Requests of each kind for each path, about: the first one may find more, or less, than the others."""
    before = requests(mounted)
    for path in paths:
        act(path)
    spent = requests(mounted) - before
    return {kind: round(count / len(paths)) for kind, count in spent.items() if count > _BESIDE and kind != "forget"}


def create(path: Path) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))


def write(path: Path) -> None:
    file = os.open(path, os.O_WRONLY)
    os.write(file, b"x" * 1000)
    os.close(file)


def read(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    os.read(file, 4096)
    os.close(file)


def look_for(path: Path) -> None:
    assert not path.with_suffix(".absent").exists()


@pytest.fixture
def paths(mounted: MountedStore) -> list[Path]:
    directory = mounted.volume / "directory"
    directory.mkdir()
    return [directory / f"file{number:02d}" for number in range(FILES)]


class TestRequests:
    def test_of_each_operation(self, mounted: MountedStore, paths: list[Path]) -> None:
        # After each change of a directory the kernel asks for the directory's attributes, to check permissions.
        assert asked(mounted, create, paths) == {"getattr": 1, "lookup": 1, "create": 1, "release": 1}
        assert asked(mounted, os.stat, paths) == {"getattr": 1}  # each close makes it doubt the allocated space
        assert asked(mounted, os.stat, paths) == {}
        assert asked(mounted, look_for, paths) == {"lookup": 1}
        assert asked(mounted, look_for, paths) == {}
        written = {"open": 1, "write": 1, "setattr": 1, "release": 1}  # at the close the pages, then the times
        assert asked(mounted, write, paths) == written
        assert asked(mounted, read, paths) == {"open": 1, "release": 1}
        # With its writeback cache the kernel sends a file's times after a rename and an unlink.
        renamed = {"getattr": 1, "lookup": 1, "rename": 1, "setattr": 1}
        assert asked(mounted, lambda path: path.rename(path.with_suffix(".new")), paths) == renamed
        new = [path.with_suffix(".new") for path in paths]
        assert asked(mounted, os.unlink, new) == {"getattr": 1, "unlink": 1, "setattr": 1}

    def test_a_listing_brings_attributes(self, mounted: MountedStore, paths: list[Path]) -> None:
        for path in paths:
            create(path)
        mounted.remount()
        before = requests(mounted)
        sizes = [entry.stat().st_size for entry in os.scandir(paths[0].parent)]
        spent = requests(mounted) - before
        assert sizes == [0] * FILES
        assert spent["readdir"] <= 2
        assert spent["lookup"] + spent["getattr"] <= _BESIDE

    def test_all_that_is_forgotten_is_counted(self, mounted: MountedStore, paths: list[Path]) -> None:
        for path in paths:
            create(path)
            path.unlink()
        before = requests(mounted)["forget"]
        assert 0 < before <= FILES


class TestUnlinked:
    def test_attributes_stay_for_who_holds_a_path(self, mounted: MountedStore, paths: list[Path]) -> None:
        """O_PATH: the file is not open, and gone from the tree."""
        for path, other in zip(paths[::2], paths[1::2], strict=True):
            path.write_bytes(b"12345")
            os.link(path, other)
            held = os.open(path, os.O_PATH)
            try:
                path.unlink()
                assert os.fstat(held).st_nlink == 1
                path.write_bytes(b"new")
                os.rename(path, other)
                status = os.fstat(held)
                assert (status.st_nlink, status.st_size) == (0, 5)
                with pytest.raises(OSError, match=r"(Stale|No such)"):
                    os.open(f"/proc/self/fd/{held}", os.O_RDONLY)
            finally:
                os.close(held)
            assert other.read_bytes() == b"new"

    def test_an_open_one_can_be_opened_again(self, mounted: MountedStore, paths: list[Path]) -> None:
        path = paths[0]
        path.write_bytes(b"12345")
        with path.open("rb") as file:
            path.unlink()
            assert os.fstat(file.fileno()).st_nlink == 0
            with open(f"/proc/self/fd/{file.fileno()}", "rb") as again:
                assert again.read() == b"12345"

    def test_a_replaced_directory_keeps_attributes(self, mounted: MountedStore, paths: list[Path]) -> None:
        old, new = paths[:2]
        old.mkdir(0o750)
        new.mkdir()
        held = os.open(old, os.O_PATH | os.O_DIRECTORY)
        try:
            new.rename(old)
            status = os.fstat(held)
            assert (status.st_nlink, status.st_mode & 0o777) == (0, 0o750)
        finally:
            os.close(held)
