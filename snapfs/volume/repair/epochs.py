"""Where an epoch belongs whose record is lost: tried out, as only the right parent makes its tree whole.

A view is an epoch's records over those of its ancestors.  Over the wrong ones, entries lead to nothing, link counts and
sums do not fit.  Of several parents that fit (an epoch that has changed little) the log of events tells which it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from snapfs.api import EventKind
from snapfs.format import records
from snapfs.store.index import items_backward
from snapfs.types import Epoch, Ino, VolumeId
from snapfs.versions.epochs import ROOT
from snapfs.volume.check.base import MALFORMED, Findings, Shown
from snapfs.volume.check.tree import Trees
from snapfs.volume.repair.base import Bench

_TRIED_MAX: Final = 20
"""Parents tried: each reads the volume's tree once."""

_EVENTS_MAX: Final = 200
_TELLING: Final = (EventKind.SNAPSHOT_CREATED, EventKind.CHECKOUT, EventKind.VOLUME_CREATED)


def fitting_parent(bench: Bench, epoch: Epoch, volume: VolumeId, root: Ino) -> Epoch | None:
    """The parent over which the epoch's tree is whole; None if none is, or if nothing tells which of several.

    For a head only: what it shows is checked, and the volume's record counts its bytes.
    """
    shape = bench.shape
    told = list(_told(bench, epoch, volume))
    dying = sorted((other for other in shape.dying if other < epoch and shape.volume_of[other] == volume), reverse=True)
    others = sorted((other for other in shape.parent if other < epoch), reverse=True)
    order = list(dict.fromkeys([*dying, *told, *others, ROOT]))[:_TRIED_MAX]
    fitting = [parent for parent in order if shape.rooted(parent) and _fits(bench, epoch, parent, volume, root)]
    if not fitting:
        return None
    return fitting[0] if len(fitting) == 1 or fitting[0] in (*told, *dying) else None


def _told(bench: Bench, epoch: Epoch, volume: VolumeId) -> Iterator[Epoch]:
    """Snapshots that the head stood on, by what was told last."""
    shape = bench.shape
    names = {number: record.name for number, record in shape.volumes.items()}
    by_name = {(names.get(record.volume), record.name): record.epoch for record in shape.snapshots.values()}
    name = shape.volumes[volume].name
    try:
        for number, (_, payload) in enumerate(items_backward(bench.index, "events")):
            event = records.decode_event(payload)
            if number > _EVENTS_MAX:
                return
            if event.volume != name or event.kind not in _TELLING:
                continue
            origin = (name, event.snapshot)
            if event.kind is EventKind.VOLUME_CREATED:
                source, _, snapshot = event.message.partition("@")
                origin = (source, snapshot)
            found = by_name.get(origin)
            if found is not None and found < epoch:
                yield found
    except MALFORMED:
        return


def _fits(bench: Bench, epoch: Epoch, parent: Epoch, volume: VolumeId, root: Ino) -> bool:
    shape = bench.shape
    parents, volumes = dict(shape.parent), dict(shape.volume_of)
    shape.parent[epoch], shape.volume_of[epoch] = parent, volume
    try:
        findings = Findings()
        shown = Shown("head", "head", bench.view(epoch), root, None)
        for _ in Trees(bench.index, findings, bench.place.seed).run(shown):
            if findings.total:
                return False
        return not findings.total
    finally:
        shape.parent, shape.volume_of = parents, volumes
