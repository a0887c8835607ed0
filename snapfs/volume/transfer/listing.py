"""What a worker thread finds in directories of a source."""

from __future__ import annotations

import os

import msgspec

from snapfs.volume.transfer import reading
from snapfs.volume.transfer.walk import SLICE_MAX, Changed, Directory, Entry, Listing, Source


class Listed(msgspec.Struct, gc=False):
    """What a thread found of one directory."""

    directory: Directory
    listing: Listing | None = None
    """Where to go on; None: that was all."""
    entries: list[Entry] = []
    failed: list[tuple[bytes, OSError]] = []
    stat: os.stat_result | None = None
    """Of the directory, with its first slice; likewise ``xattrs``."""
    xattrs: reading.Xattrs = []
    problem: str = ""


def list_some(source: Source, chosen: list[Directory | Listing]) -> tuple[list[Listed], list[Directory | Listing]]:
    """(slices, those that were not come to), in order.  Worker thread."""
    found: list[Listed] = []
    count = 0
    for place, one in enumerate(chosen):
        if count >= SLICE_MAX:
            return found, chosen[place:]
        listed = Listed(one.directory if isinstance(one, Listing) else one)
        found.append(listed)
        try:
            if isinstance(one, Listing):
                listing = one
            else:
                listing = source.list(one)
                listed.stat, listed.xattrs = listing.stat, reading.directory_xattrs(listing.handle)
            listed.entries, listed.failed, ended = listing.some()
            listed.listing = None if ended else listing
            count += len(listed.entries)
        except Changed:
            listed.problem = "it was replaced while it was listed"
        except OSError as error:
            listed.problem = error.strerror or str(error)
    return found, []
