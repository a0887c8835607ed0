"""What differs between two views: found in the changes of the epochs between them, never by walking trees."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from snapfs.types import Epoch
from snapfs.versions.epochs import Epochs
from snapfs.versions.keyspace import Snapshotted


def epochs_between(epochs: Epochs, a: Epoch, b: Epoch) -> list[Epoch]:
    """Epochs that are on the path of one of the two but not of the other."""
    common = epochs.common_ancestor(a, b)
    between: list[Epoch] = []
    for end in (a, b):
        for epoch in epochs.ancestors(end):
            if epoch == common:
                break
            between.append(epoch)
    return between


def changed_subjects(tree: Snapshotted, between: list[Epoch]) -> Iterator[bytes]:
    """Subjects with a version in any of the epochs, each once, in order.

    A superset of what differs: a subject may have been changed and changed back.
    """
    last = b""
    for subject in heapq.merge(*(tree.changes(epoch) for epoch in between)):
        if subject != last:
            last = subject
            yield subject


def changed_inodes(tree: Snapshotted, between: list[Epoch]) -> Iterator[bytes]:
    """Of ``changed_subjects`` those of directory entries and, of each inode that has others, one or some of these; in
    no order, and perhaps twice."""
    for epoch in between:
        yield from tree.changed_inodes(epoch)
