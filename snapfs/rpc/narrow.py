"""What a caller that is narrowed to volumes is told of others: nothing.  Pure.

Invariants:

- In whatever response, at any depth: a parent, or the origin of a clone, in a volume that the caller may not see is
  left empty, as if there were none.
- What stands in a field that names a volume itself was left out before, by who may call what (``methods``).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from typing import Any, Final

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from snapfs.v1 import event_pb2, snapshot_pb2, volume_pb2


def hide(response: Message, visible: Collection[str]) -> None:
    """Empty what names other volumes than the visible ones, in place."""
    clean = _CLEAN.get(response.DESCRIPTOR.full_name)
    if clean is not None:
        clean(response, visible)
    for name, repeated in _paths(response.DESCRIPTOR):
        if repeated:
            for one in getattr(response, name):
                hide(one, visible)
        elif response.HasField(name):
            hide(getattr(response, name), visible)


def _hide_parent(message: Any, visible: Collection[str]) -> None:
    if message.parent.partition("@")[0] not in visible:
        message.parent = ""


def _hide_ancestors(volume: volume_pb2.Volume, visible: Collection[str]) -> None:
    _hide_parent(volume, visible)
    if volume.origin.partition("@")[0] not in visible:
        volume.origin = ""


def _hide_origin(event: event_pb2.Event, visible: Collection[str]) -> None:
    """Of a clone; of a volume that came back under another name, the one it had."""
    if event.kind in _TELL_ANOTHER and event.message.partition("@")[0] not in visible:
        event.message = ""


_TELL_ANOTHER: Final = (event_pb2.EVENT_KIND_VOLUME_CREATED, event_pb2.EVENT_KIND_VOLUME_RESTORED)
_CLEAN: Final[dict[str, Callable[[Any, Collection[str]], None]]] = {
    volume_pb2.Volume.DESCRIPTOR.full_name: _hide_ancestors,
    snapshot_pb2.Snapshot.DESCRIPTOR.full_name: _hide_parent,
    event_pb2.Event.DESCRIPTOR.full_name: _hide_origin,
}
"""By the message's name."""


@functools.cache
def _paths(kind: Descriptor) -> list[tuple[str, bool]]:
    """(name, whether it is repeated) of the fields that lead to a message of ``_CLEAN``."""
    return [
        (field.name, field.is_repeated)
        for field in kind.fields
        if field.message_type is not None and (field.message_type.full_name in _CLEAN or _paths(field.message_type))
    ]
