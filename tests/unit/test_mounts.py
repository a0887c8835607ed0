"""The kernel's table of mounts."""

from __future__ import annotations

from pathlib import Path

from snapfs import mounts

TABLE = rb"""22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw
65 22 0:52 / /mnt/a\040b\011c rw,nosuid,nodev - fuse.snapfs /stores/x\134y\012\377 rw,user_id=0
66 22 0:53 / /mnt/lake rw shared:5 master:1 propagate_from:2 - fuse.snapfs /stores/s rw
67 66 0:54 / /mnt/lake/data/tmp rw - tmpfs none rw
68 22 0:55 / /mnt/lake rw - tmpfs none rw
"""


def test_paths_are_unescaped() -> None:
    found = mounts.parse(TABLE)
    assert found[1].mountpoint == Path("/mnt/a b\tc")
    assert found[1].store == Path("/stores/x\\y\n\udcff")
    assert found[1].type == mounts.TYPE
    assert found[1].device == "0:52"


def test_optional_fields_are_skipped() -> None:
    assert [mount.type for mount in mounts.parse(TABLE)] == [
        "ext4", "fuse.snapfs", "fuse.snapfs", "tmpfs", "tmpfs"
    ]  # fmt: skip


def test_the_topmost_mount_counts(monkeypatch) -> None:
    monkeypatch.setattr(mounts, "table", lambda: mounts.parse(TABLE))
    mount = mounts.at(Path("/mnt/lake"))
    assert mount is not None
    assert mount.type == "tmpfs"
    assert mounts.at(Path("/mnt")) is None


def test_the_mount_around_a_path(monkeypatch) -> None:
    monkeypatch.setattr(mounts, "table", lambda: mounts.parse(TABLE)[:4])
    for path, device in (
        ("/mnt/lake/data/file", "0:53"),
        ("/mnt/lake/data/tmp/x", "0:54"),
        ("/mnt/lakeside", "254:0"),
        ("/", "254:0"),
    ):
        mount = mounts.containing(Path(path))
        assert mount is not None
        assert mount.device == device


def test_a_mount_that_has_gone_is_not_aborted_under_another_ones_number(monkeypatch) -> None:
    monkeypatch.setattr(mounts, "table", lambda: mounts.parse(TABLE))
    gone = mounts.Mount(Path("/mnt/gone"), Path("/stores/gone"), mounts.TYPE, "0:53")

    def touched(*_: object, **__: object) -> None:
        raise AssertionError("a mount of somebody else was touched")

    monkeypatch.setattr(Path, "write_text", touched)
    monkeypatch.setattr(mounts, "_umount2", touched)
    mounts.abort(gone)
