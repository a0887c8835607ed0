"""Whether a store can be mounted at a place: every refusal is made before anything is changed.

The one thing that is put right is a mount of ours whose daemon died: it is taken away.
"""

from __future__ import annotations

import os
from pathlib import Path

from snapfs import mounts
from snapfs.errors import Busy, Invalid, IOFailure, NotADirectory, NotEmpty, NotFound, NotPermitted


def checked_mountpoint(store: Path, mountpoint: Path) -> Path:
    """The mount point without symlinks; a dead mount of ours there is unmounted.

    Raises:
        NotFound, NotADirectory, NotEmpty: as a directory.
        Busy: something is mounted there.
        Invalid: it is in the store, or the store in it.
        NotPermitted, IOFailure: it cannot be looked at.
    """
    place = Path(os.path.realpath(mountpoint))
    mount = mounts.at(place)
    if mount is not None and mount.type == mounts.TYPE and mounts.is_dead(place):
        mounts.unmount(place, lazy=True)
        mount = mounts.at(place)
    if mount is not None:
        what = f"store {mount.store}" if mount.type == mounts.TYPE else f"a file system of type {mount.type}"
        hint = f"snap umount {place}" if mount.type == mounts.TYPE else "choose another mount point"
        raise Busy(f"{place} is a mount point already, of {what}", hint=hint)
    _check_directory(place)
    inside = Path(os.path.realpath(store))
    if inside == place or inside.is_relative_to(place):
        raise Invalid(f"the store {inside} lies in the mount point {place}", hint="mount it somewhere else")
    if place.is_relative_to(inside):
        raise Invalid(f"the mount point {place} lies in the store {inside}", hint="mount it somewhere else")
    return place


def _check_directory(place: Path) -> None:
    try:
        with os.scandir(place) as entries:
            empty = next(entries, None) is None
    except FileNotFoundError:
        raise NotFound(f"the mount point {place} does not exist", hint=f"mkdir -p {place}") from None
    except NotADirectoryError:
        raise NotADirectory(f"the mount point {place} is not a directory") from None
    except PermissionError:
        raise NotPermitted(f"the mount point {place} cannot be read") from None
    except OSError as error:
        raise IOFailure(f"the mount point {place} cannot be used: {error.strerror}") from None
    if not empty:
        raise NotEmpty(f"the mount point {place} is not empty", hint="mount on an empty directory")
