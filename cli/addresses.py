"""``VOLUME@SNAPSHOT`` and paths inside a volume, from what a user types."""

from __future__ import annotations

import posixpath
from typing import NamedTuple

from snapfs import errors


class Address(NamedTuple):
    volume: str
    """Empty: to be found from the current directory."""
    snapshot: str
    """Empty: the head."""


def parse(text: str) -> Address:
    """``V@S``, ``@S`` or ``S``: a snapshot.

    Raises:
        Invalid: no snapshot in it.
    """
    volume, at, snapshot = text.rpartition("@")
    if not at:
        volume, snapshot = "", text
    if not snapshot or "@" in volume or "/" in text:
        raise errors.Invalid(f"not a snapshot: {text!r}", hint="write VOLUME@SNAPSHOT")
    return Address(volume, snapshot)


def parse_volume_or_snapshot(text: str) -> Address:
    """``V``, ``V@S`` or ``@S``."""
    if "@" in text:
        return parse(text)
    return Address(text, "")


def target(address: Address) -> str:
    """As the API has it: ``volume@snapshot``, or ``volume``."""
    return f"{address.volume}@{address.snapshot}" if address.snapshot else address.volume


def path_in_volume(text: str, *, inside: str, mounted_root: str) -> str:
    """A path relative to the volume's root, without ``.`` and ``..``; empty for the root itself.

    Args:
        text: what the user typed.
        inside: the current directory relative to the volume's root; empty for the root, or outside a mount.
        mounted_root: absolute path of the volume's root in the mount; empty outside a mount.

    Raises:
        Invalid: it leads out of the volume.
    """
    if not text or "\0" in text:
        raise errors.Invalid(f"not a path: {text!r}")
    if text.startswith("/"):
        root = posixpath.normpath(mounted_root) if mounted_root else ""
        full = posixpath.normpath(text)
        if not root or not (full + "/").startswith(root + "/"):
            raise errors.Invalid(f"{text!r} is not inside the volume", hint="give a path relative to its root")
        path = full[len(root) :].lstrip("/")
    else:
        path = posixpath.normpath(posixpath.join(inside, text))
    if path == ".." or path.startswith("../"):
        raise errors.Invalid(f"{text!r} leads out of the volume")
    return "" if path == "." else without_snap_directory(path)


def without_snap_directory(path: str) -> str:
    """The same place in the head, for a path below ``.snap/<name>``."""
    parts = path.split("/")
    return "/".join(parts[2:]) if parts[0] == ".snap" and len(parts) > 1 else path
