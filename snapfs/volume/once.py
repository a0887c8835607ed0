"""Requests that make something and carry a key, so that sending one again makes nothing twice.

Invariants:
  * What a request made is recorded in the transaction that made it: after a crash both are there or neither.
  * A record is kept for KEPT_SECONDS, and the newest REQUESTS_MAX; ``requests_by_time`` names each of them once.
"""

from __future__ import annotations

import itertools
from typing import Final

import msgspec

from snapfs.errors import Invalid, NotFound
from snapfs.format import keys, records
from snapfs.format.records import RequestRecord, SnapshotRecord
from snapfs.store.index import Index, items
from snapfs.types import Epoch, VolumeId
from snapfs.versions.epochs import ROOT
from snapfs.volume.core import now_ns
from snapfs.volume.snapshots import Snapshots
from snapfs.volume.volumes import Volume, Volumes

KEPT_SECONDS: Final = 24 * 3600
REQUESTS_MAX: Final = 10_000

DIGEST_BYTES: Final = 32
_NO_VOLUME: Final = VolumeId(0)
_AGAIN: Final = "to make it again use a new request_id"
_FORGET_MAX: Final = 100
"""Old records dropped by one new one."""


class Once(msgspec.Struct, frozen=True):
    """Makes a request idempotent."""

    key: bytes
    """BLAKE3 of who asks, for what, and the key that they chose."""
    fingerprint: bytes
    """BLAKE3 of the request without its key."""

    def __post_init__(self) -> None:
        if len(self.key) != DIGEST_BYTES or len(self.fingerprint) != DIGEST_BYTES:
            raise ValueError(f"a key and a fingerprint have {DIGEST_BYTES} bytes each")


class Requests:
    def __init__(self, index: Index, volumes: Volumes, snapshots: Snapshots) -> None:
        self._index = index
        self._volumes = volumes
        self._snapshots = snapshots

    def volume(self, once: Once | None) -> Volume | None:
        """The volume that the request made before, if it did.

        Raises:
            NotFound: it was deleted since.
            Invalid: the key was used for another request.
        """
        request = self._find(once)
        if request is None:
            return None
        volume = self._volumes.by_id(request.volume)
        if volume is None:
            raise NotFound("the volume that this request made was deleted since", hint=_AGAIN)
        return volume

    def snapshot(self, once: Once | None) -> tuple[Volume, SnapshotRecord, bool] | None:
        """As ``volume``: the snapshot's volume, the snapshot, and whether the request made it (else it found it)."""
        request = self._find(once)
        if request is None:
            return None
        record = self._snapshots.alive(request.epoch)
        volume = self._volumes.by_id(record.volume) if record else None
        if record is None or volume is None:
            raise NotFound("the snapshot that this request made was deleted since", hint=_AGAIN)
        return volume, record, request.created

    def _find(self, once: Once | None) -> RequestRecord | None:
        found = self._get(once.key) if once else None
        if once is None or found is None or found.time_ns < now_ns() - KEPT_SECONDS * 10**9:
            return None
        if found.fingerprint != once.fingerprint:
            raise Invalid("this request_id was used for another request", hint="use a new one, e.g. a random UUID")
        return found

    def _get(self, key: bytes) -> RequestRecord | None:
        payload = self._index.get("requests", key)
        return None if payload is None else records.decode_request(payload)

    def record(
        self, once: Once | None, *, epoch: Epoch = ROOT, volume: VolumeId = _NO_VOLUME, created: bool = True
    ) -> None:
        """In the transaction that made it; nothing for a request without a key."""
        if once is None:
            return
        now = now_ns()
        old = self._get(once.key)
        if old is not None:
            self._index.delete("requests_by_time", keys.u64(old.time_ns) + once.key)
        made = RequestRecord(fingerprint=once.fingerprint, time_ns=now, created=created, epoch=epoch, volume=volume)
        self._index.put("requests", once.key, records.encode_json(made))
        self._index.put("requests_by_time", keys.u64(now) + once.key, records.PRESENT)
        self._forget(now - KEPT_SECONDS * 10**9)

    def _forget(self, before_ns: int) -> None:
        """Drop what is too old or too much."""
        excess = self._index.count("requests") - REQUESTS_MAX
        oldest = [key for key, _ in itertools.islice(items(self._index, "requests_by_time"), _FORGET_MAX)]
        for number, key in enumerate(oldest):
            if number >= excess and keys.from_u64(key) >= before_ns:
                return
            self._index.delete("requests_by_time", key)
            self._index.delete("requests", key[8:])
