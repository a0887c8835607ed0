"""Lists of snapshots, page by page: in the order that they were made in, filtered.

A page begins after the position (time, epoch) of the last snapshot of the one before, so pages do not shift when
snapshots come and go meanwhile.  The work is done in turns: others run between them.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Collection, Iterator
from typing import Final

import trio

from snapfs import api
from snapfs.errors import Invalid, NotFound
from snapfs.format import keys
from snapfs.format.records import SnapshotRecord
from snapfs.types import Epoch, VolumeId
from snapfs.volume.describe import Describe
from snapfs.volume.paging import decode_token, encode_token, page_items
from snapfs.volume.references import COMMIT_PREFIX, COMMIT_PREFIX_MIN, Position
from snapfs.volume.snapshots import Snapshots
from snapfs.volume.volumes import Volume, Volumes

_TURN: Final = 200
"""Snapshots looked at between two awaits (1 to 2 ms)."""

_POSITION_BYTES: Final = 16
_U64_MAX: Final = (1 << 64) - 1


class Listing:
    def __init__(self, volumes: Volumes, snapshots: Snapshots, describe: Describe) -> None:
        self._volumes = volumes
        self._snapshots = snapshots
        self._describe = describe

    async def snapshots(
        self,
        volume: str,
        wanted: api.SnapshotFilter,
        *,
        newest_first: bool,
        page_size: int,
        page_token: str,
        visible: Collection[str] | None,
    ) -> api.SnapshotPage:
        """Raises:
        NotFound: no such volume, or not to be seen.
        Invalid: a token of another list, a bad filter, a negative page size.
        """
        size = page_items(page_size)
        check_filter(wanted)
        scope = repr(("snapshots", volume, wanted, newest_first))
        after = _decode(scope, page_token) if page_token else _start(wanted, newest_first)
        volumes = self._chosen(volume, visible)
        narrowed = self._narrowed(volumes, wanted)
        bases = {chosen.id: self._describe.base_of(chosen) for chosen in volumes}
        found: list[api.Snapshot] = []
        last: Position = (0, Epoch(0))
        while True:
            turn = list(itertools.islice(self._order(volumes, after, newest_first), _TURN))
            for position, owner in turn:
                if _beyond(position[0], wanted, newest_first):
                    return api.SnapshotPage(snapshots=found)
                record = None
                if narrowed is None or position[1] in narrowed:
                    record = self._snapshots.get(position[1])
                if record is not None and matches(record, wanted):
                    if len(found) == size:  # one more than the page has: there is a next one
                        return api.SnapshotPage(snapshots=found, next_page_token=_encode(scope, last))
                    found.append(self._describe.snapshot(owner, record, base=bases[owner.id]))
                    last = position
                after = position
            if len(turn) < _TURN:
                return api.SnapshotPage(snapshots=found)
            await trio.lowlevel.checkpoint()

    def _chosen(self, volume: str, visible: Collection[str] | None) -> list[Volume]:
        if not volume:
            return [chosen for chosen in self._volumes.all() if visible is None or chosen.name in visible]
        if visible is not None and volume not in visible:
            raise NotFound(f"volume {volume!r} does not exist")
        return [self._volumes.get(volume)]

    def _narrowed(self, volumes: list[Volume], wanted: api.SnapshotFilter) -> set[Epoch] | None:
        """Epochs that an index of the filter allows; None: any.  So a look-up by commit or tag decodes no others."""
        found = None
        if wanted.commit:
            found = {
                epoch for volume in volumes for _, epoch in self._snapshots.of_commits(volume, wanted.commit)
            }
        if wanted.tag:
            tagged = [self._snapshots.tagged(volume, wanted.tag) for volume in volumes]
            epochs = {record.epoch for record in tagged if record}
            found = epochs if found is None else found & epochs
        return found

    def _order(
        self, volumes: list[Volume], after: Position | None, backward: bool
    ) -> Iterator[tuple[Position, Volume]]:
        """Snapshots of several volumes in one order.  Not across an await."""
        def one(volume: Volume) -> Iterator[tuple[Position, Volume]]:
            for position in self._snapshots.order(volume, after=after, backward=backward):
                yield position, volume

        return heapq.merge(*map(one, volumes), key=lambda entry: entry[0], reverse=backward)

    async def ancestry(
        self, volume: str, snapshot: str, *, page_size: int, page_token: str, visible: Collection[str] | None
    ) -> api.SnapshotPage:
        """Newest first, from the snapshot or (empty) from the head's base on; may lead into other volumes."""
        size = page_items(page_size)
        target = self._volumes.get(volume)
        start = self._snapshots.resolve(target, snapshot).epoch if snapshot else target.head.epoch
        scope = repr(("ancestry", volume, snapshot))
        below = _decode(scope, page_token)[1] if page_token else None
        found: list[api.Snapshot] = []
        last: Position = (0, Epoch(0))
        bases: dict[VolumeId, Epoch] = {}
        for record in self._snapshots.ancestry(start, below=below):
            owner = self._volumes.by_id(record.volume)
            if owner is None or (visible is not None and owner.name not in visible):
                continue
            if len(found) == size:
                return api.SnapshotPage(snapshots=found, next_page_token=_encode(scope, last))
            if owner.id not in bases:
                bases[owner.id] = self._describe.base_of(owner)
            found.append(self._describe.snapshot(owner, record, base=bases[owner.id]))
            last = 0, record.epoch
        await trio.lowlevel.checkpoint()
        return api.SnapshotPage(snapshots=found)


def check_filter(wanted: api.SnapshotFilter) -> None:
    """Raises:
    Invalid: a commit that is none, a time before 1970.
    """
    if not (0 <= wanted.created_from_ns <= _U64_MAX and 0 <= wanted.created_before_ns <= _U64_MAX):
        raise Invalid("times to filter by are from 1970 on")
    if wanted.commit and not COMMIT_PREFIX.fullmatch(wanted.commit):
        raise Invalid(
            f"{wanted.commit!r} is no commit ID", hint=f"give {COMMIT_PREFIX_MIN} or more lower-case hex digits of it"
        )


def matches(record: SnapshotRecord, wanted: api.SnapshotFilter) -> bool:
    """Whether all that the filter says holds."""
    git = record.git
    return (
        record.name.startswith(wanted.name_prefix)
        and (not wanted.commit or (git is not None and git.commit.startswith(wanted.commit)))
        and (not wanted.branch or (git is not None and git.branch == wanted.branch))
        and (not wanted.tag or wanted.tag in record.tags)
        and all(record.meta.get(key) == value for key, value in wanted.meta.items())
        and record.created_ns >= wanted.created_from_ns
        and (not wanted.created_before_ns or record.created_ns < wanted.created_before_ns)
    )


def _start(wanted: api.SnapshotFilter, newest_first: bool) -> Position | None:
    """A position that all that the filter's times allow come after."""
    if newest_first:
        return (wanted.created_before_ns, Epoch(0)) if wanted.created_before_ns else None
    return (wanted.created_from_ns - 1, Epoch(_U64_MAX)) if wanted.created_from_ns > 0 else None


def _beyond(time_ns: int, wanted: api.SnapshotFilter, newest_first: bool) -> bool:
    """Whether nothing from here on can be allowed by the filter's times."""
    if newest_first:
        return time_ns < wanted.created_from_ns
    return 0 < wanted.created_before_ns <= time_ns


def _encode(scope: str, position: Position) -> str:
    return encode_token(scope, keys.u64(position[0]) + keys.u64(position[1]))


def _decode(scope: str, token: str) -> Position:
    position = decode_token(scope, token)
    if len(position) != _POSITION_BYTES:
        raise Invalid("this page token is not one of this list")
    return keys.from_u64(position), Epoch(keys.from_u64(position, 8))
