"""Whether a diff says what two trees of the oracle say."""

from __future__ import annotations

from snapfs import api
from snapfs.testing import trees
from snapfs.testing.trees import FILE, Node, Path


def check_changes(changes: list[api.Change], old: Node | None, new: Node) -> None:
    """What a diff reports is what the trees say.  Below a renamed directory paths change without being reported:
    then only the renamed directories themselves are compared."""
    assert bool(changes) == trees.differ(old, new), changes
    moved = trees.moved_directories(old, new)
    renamed = {(_path(c.old_path), _path(c.path)) for c in changes if c.kind == api.ChangeKind.RENAMED}
    directories = {
        (_path(c.old_path), _path(c.path))
        for c in changes
        if c.kind == api.ChangeKind.RENAMED and c.type == "directory"
    }
    assert directories == moved
    paths = [c.path for c in changes if c.kind != api.ChangeKind.DELETED]
    assert len(paths) == len(set(paths)), changes
    if moved:
        return
    gone, come, differ = trees.changed_paths(old, new)
    deleted = {_path(c.path) for c in changes if c.kind == api.ChangeKind.DELETED}
    added = {_path(c.path) for c in changes if c.kind == api.ChangeKind.ADDED}
    modified = {_path(c.path) for c in changes if c.kind == api.ChangeKind.MODIFIED}
    unlike = (deleted | {a for a, _ in renamed}) ^ gone, (added | {b for _, b in renamed}) ^ come
    assert not any(unlike), (unlike, changes)
    assert modified <= differ, changes
    links = trees.shown(new)
    reported = modified | {b for _, b in renamed}
    for path in differ:
        assert reported & set(links[path].links), (path, changes)
    check_sizes(changes, old, new)


def check_sizes(changes: list[api.Change], old: Node | None, new: Node) -> None:
    was, now = trees.shown(old) if old else {}, trees.shown(new)
    for change in changes:
        path = _path(change.path)
        before = was.get(_path(change.old_path) if change.kind == api.ChangeKind.RENAMED else path)
        if change.type == "file" and change.kind != api.ChangeKind.DELETED:
            assert change.new_bytes == len(now[path].content), change
        if before and before.kind == FILE and change.kind != api.ChangeKind.ADDED:
            assert change.old_bytes == len(before.content), change
        if change.kind == api.ChangeKind.MODIFIED and before:
            differs = (before.kind, before.content) != (now[path].kind, now[path].content)
            assert change.content or not differs, change


def _path(path: str) -> Path:
    return tuple(path.encode(errors="surrogateescape").split(b"/")) if path else ()
