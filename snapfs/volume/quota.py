"""Quotas: how much the head of each volume holds, or what the volume alone takes, and how much it may.

Invariants:
  * ``used_bytes`` is the sum of ``allocated_bytes`` of the head's files, those unlinked but open among them, at every
    moment: whatever changes an inode's allocated bytes says so here in the same step.  It is recorded with the volume
    in the commit that it belongs to, and ``snap fsck`` counts it again.
  * ``pending_bytes`` is at least what flushing the head's dirty data will add.  It is just that for writes that were
    let in when little was left (see ``Writeback.room``); others are taken to add all their bytes, as counting costs.
  * Of a quota on exclusive bytes all dirty bytes are pending: what they will share is known when they are stored.
  * So used + pending never exceeds a quota by a write.  A checkout may exceed it (the snapshot was there before), and
    so may a quota that is made smaller: then files can only shrink.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from snapfs.api import QuotaKind
from snapfs.errors import Invalid, QuotaExceeded
from snapfs.types import VolumeId
from snapfs.versions.epochs import View

UNLIMITED: Final = 0
COMPRESSION: Final = "zstd:1"
"""Of a volume of which nothing else was said."""
QUOTA_BYTES_MAX: Final = (1 << 63) - 1
"""Largest quota: what statfs(2) and JSON's readers can take."""


class Usage:
    """Of one head."""

    __slots__ = (
        "changed",
        "compression",
        "exclusive_bytes",
        "pending_bytes",
        "quota_bytes",
        "quota_kind",
        "used_bytes",
        "volume",
    )

    def __init__(
        self, volume: str = "", used_bytes: int = 0, quota_bytes: int = UNLIMITED,
        quota_kind: QuotaKind = QuotaKind.LOGICAL, compression: str = COMPRESSION,
    ) -> None:  # fmt: skip
        self.volume = volume
        """Its name, for messages."""
        self.used_bytes = used_bytes
        self.quota_bytes = quota_bytes
        self.quota_kind = quota_kind
        self.compression = compression
        """Of new data: ``none`` or ``zstd:LEVEL``."""
        self.pending_bytes = 0
        self.exclusive_bytes: int | None = None
        """Stored bytes that would be freed if the volume went; None: nobody counted them (see ``exclusive``)."""
        self.changed = False
        """Since the volume's record was written."""

    @property
    def total_bytes(self) -> int:
        """What the quota counts."""
        if self.quota_kind is QuotaKind.LOGICAL:
            return self.used_bytes + self.pending_bytes
        return (self.exclusive_bytes or 0) + _stored_bytes_max(self.pending_bytes)

    @property
    def uncounted(self) -> bool:
        """What the quota counts is not known yet."""
        return self.quota_kind is QuotaKind.EXCLUSIVE and self.quota_bytes != UNLIMITED and self.exclusive_bytes is None

    @property
    def free_bytes(self) -> int:
        """What may still be written; of a limited one only."""
        return max(0, self.quota_bytes - self.total_bytes)

    def fits(self, growth_bytes: int) -> bool:
        """Whether so much may be added; nothing always may."""
        if self.quota_kind is QuotaKind.EXCLUSIVE:
            growth_bytes = _stored_bytes_max(growth_bytes)
        return growth_bytes <= 0 or self.quota_bytes == UNLIMITED or self.total_bytes + growth_bytes <= self.quota_bytes


def _stored_bytes_max(size: int) -> int:
    """What bytes take in the segments that nothing makes smaller, with their headers; more only in tiny files."""
    return size + size // 32


async def _nothing_to_count() -> None:
    """No volume has a quota on exclusive bytes."""


class Usages:
    """Of all heads."""

    def __init__(self) -> None:
        self._of: dict[VolumeId, Usage] = {}
        self.exact: Callable[[], Awaitable[None]] = _nothing_to_count
        """Makes all figures of exclusive bytes exact (see ``exclusive``)."""

    def add(self, volume: VolumeId, usage: Usage) -> Usage:
        self._of[volume] = usage
        return usage

    def remove(self, volume: VolumeId) -> None:
        self._of.pop(volume, None)

    def of(self, head: View) -> Usage:
        """Of a head; one that is gone may be asked for, too: it has no limit, and nobody hears of it."""
        return self._of.get(head.volume_id) or Usage()

    def grow(self, head: View, delta_bytes: int) -> None:
        """The allocated bytes of the head's files changed."""
        if delta_bytes:
            usage = self.of(head)
            usage.used_bytes += delta_bytes
            usage.changed = True

    def changed(self) -> list[VolumeId]:
        """Volumes whose use changed since their records were written."""
        return [volume for volume, usage in self._of.items() if usage.changed]


def check_quota(quota_bytes: int) -> int:
    """Raises:
    Invalid: no size that a quota can have.
    """
    if not 0 <= quota_bytes <= QUOTA_BYTES_MAX:
        raise Invalid(f"a quota is at least 0 and less than 8 EiB, not {quota_bytes} bytes")
    return quota_bytes


def exceeded(usage: Usage, growth_bytes: int = 0) -> QuotaExceeded:
    """The error of a change that does not fit."""
    more = f", {growth_bytes} more are too many" if growth_bytes else ""
    return QuotaExceeded(
        f"volume {usage.volume!r} holds {usage.total_bytes} of the {usage.quota_bytes} bytes that it may{more}",
        hint="remove files, or raise it: snap volume set VOLUME --quota SIZE",
    )


def uncovered_bytes(start: int, end: int, covers: Iterable[tuple[int, int]]) -> int:
    """How many bytes of [start, end) none of the covers (start, end) has; they may overlap, in any order."""
    found, at = 0, start
    for first, last in sorted(covers):
        if first >= end:
            break
        found += max(0, first - at)
        at = max(at, last)
    return found + max(0, end - at)
